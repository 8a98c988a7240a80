"""The loss of all networks."""

from __future__ import annotations

import tensorflow as tf

IGNORED_LABEL = -100


def cross_entropy(logits, labels, sample_weight=None):
    """Mean cross-entropy over the labels that are not ignored.

    Args:
        logits: (batch, time, vocabulary), any float dtype; computed in at least
            float32.
        labels: int (batch, time), values in [0, vocabulary); -100 is ignored.
        sample_weight: (batch,) or (batch, time), the weights of the labels in the
            mean; equal by default.

    Returns:
        Scalar, float32 or float64: the sum of weighted cross-entropies divided by the
        sum of weights; 0 if all labels are ignored.

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
    # An ignored position adds exactly 0, even where its logits have overflowed.
    losses = tf.where(weights > 0, losses * weights, 0)
    return tf.math.divide_no_nan(tf.reduce_sum(losses), tf.reduce_sum(weights))
