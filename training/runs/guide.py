"""Guided attention: a head in each middle layer learns where in the text speech is.

Speech passes through its text at an almost even pace. A network from scratch has to
find that out; until it does, it loses its place, repeats and skips. So one head in each
of the two middle layers is asked to attend to a band of text ids around the even pace,
and is free within it.

Source: Tachibana et al., "Efficiently Trainable Text-to-Speech System Based on Deep
Convolutional Networks with Guided Attention", 2017.

Differs: a band of weights that cost nothing, instead of costs that grow from the
diagonal; and which head it is, is up to the network.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

# Half the width of the band, in shares of the text, and at least in ids.
_SHARE, _IDS = 0.1, 1.5
_SMALLEST = 1e-4


def in_band(text_lengths, places, num_ids: int):
    """Which text ids are near what a token of speech says.

    Args:
        text_lengths: int (B,), ids of each text.
        places: float32 (B, T), where in its recording each token stands, in [0, 1].
        num_ids: P, ids after padding.

    Returns:
        bool (B, T, P); False past the end of a text.
    """
    ids = tf.cast(text_lengths, tf.float32)[:, None, None]
    distance = tf.abs(
        tf.range(num_ids, dtype=tf.float32) + 0.5 - places[..., None] * ids
    )
    near = distance <= tf.maximum(_SHARE * ids, _IDS)
    return near & tf.sequence_mask(text_lengths, num_ids)[:, None]


def guided_attention_loss(attentions: Sequence, text_lengths, places):
    """How little the best heads of the middle layers attend to what is being spoken.

    Args:
        attentions: Of each layer, (B, H, P + T, P + T): P positions of the text, then
            one before each token.
        text_lengths: int (B,), ids of each text, at most P.
        places: float32 (B, T), where in its recording each token stands, in [0, 1];
            negative for padding.

    Returns:
        float32 (): minus the logarithm of the attention to the band of `in_band`, the
        mean over tokens; of the head with the smallest, the mean over two layers.
    """
    places = tf.convert_to_tensor(places)
    num_ids = tf.shape(attentions[0])[-1] - tf.shape(places)[1]
    band = in_band(text_lengths, places, num_ids)
    is_token = tf.cast(places >= 0, tf.float32)
    losses = []
    for layer in {(len(attentions) - 1) // 2, len(attentions) // 2}:
        weights = attentions[layer][:, :, num_ids:, :num_ids]
        kept = tf.where(band[:, None], tf.cast(weights, tf.float32), 0)
        costs = -tf.math.log(tf.reduce_sum(kept, -1) + _SMALLEST)  # (B, H, T)
        of_heads = tf.reduce_sum(costs * is_token[:, None], (0, 2))
        losses.append(tf.reduce_min(of_heads) / tf.maximum(tf.reduce_sum(is_token), 1))
    return tf.add_n(losses) / len(losses)
