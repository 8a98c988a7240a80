"""The loss that labels give, the same for every network."""

from __future__ import annotations

import tensorflow as tf

IGNORED_LABEL = -100


def cross_entropy(logits, labels, sample_weight=None):
    """Mean cross-entropy over the labels that count.

    Args:
        logits: (batch, time, vocabulary), any float dtype; computed in float32 (in
            float64 when they are).
        labels: int (batch, time), values in [0, vocabulary); -100 is ignored.
        sample_weight: (batch,) or (batch, time), the weight of every label in the
            mean; None: equal weights.

    Returns:
        Scalar, float32 or float64: sum of weighted cross-entropies over the sum of
        weights; 0 when no label counts.

    Example:
        >>> float(cross_entropy(tf.zeros((1, 2, 4)), tf.constant([[3, -100]])))
        1.3862943649291992
    """
    dtype = tf.float64 if logits.dtype == tf.float64 else tf.float32
    labels = tf.cast(labels, tf.int32)
    counts = labels != IGNORED_LABEL
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
        labels=tf.where(counts, labels, 0), logits=tf.cast(logits, dtype)
    )
    weights = tf.cast(counts, dtype)
    if sample_weight is not None:
        sample_weight = tf.cast(sample_weight, dtype)
        if sample_weight.shape.rank == 1:
            sample_weight = sample_weight[:, None]
        weights *= sample_weight
    # An ignored position adds exactly nothing, even where its logits overflowed.
    losses = tf.where(weights > 0, losses * weights, 0)
    return tf.math.divide_no_nan(tf.reduce_sum(losses), tf.reduce_sum(weights))
