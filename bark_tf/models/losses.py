"""The loss of all networks, on one device and on several."""

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
    return tf.math.divide_no_nan(*_sums(logits, labels, sample_weight))


def replica_cross_entropy(logits, labels, sample_weight=None):
    """`cross_entropy` of a batch that is split between the replicas of a strategy.

    Its gradients, summed over the replicas, are those of the mean over the labels of
    *all* replicas, however unevenly they are spread. So the update equals that of one
    device with the whole batch.

    Args:
        logits: See `cross_entropy`; of this replica.
        labels: See `cross_entropy`; of this replica.
        sample_weight: See `cross_entropy`; of this replica.

    Returns:
        The mean over the labels of all replicas, divided by their number: Keras adds up
        what the replicas return. On one device, `cross_entropy`.
    """
    loss, weight = _sums(logits, labels, sample_weight)
    replica = tf.distribute.get_replica_context()
    if replica is None or replica.num_replicas_in_sync == 1:
        return tf.math.divide_no_nan(loss, weight)
    sums = replica.all_reduce(
        tf.distribute.ReduceOp.SUM, [tf.stop_gradient(loss), weight]
    )
    share = tf.math.divide_no_nan(loss, sums[1])
    mean = tf.math.divide_no_nan(*sums)
    even_share = mean / tf.cast(replica.num_replicas_in_sync, mean.dtype)
    return share + tf.stop_gradient(even_share - share)


def kept(logits, labels, sample_weight=None):
    """The labels that are not ignored, for losses and metrics that ignore none.

    Args:
        logits: (batch, time, vocabulary).
        labels: int (batch, time); -100 is ignored.
        sample_weight: (batch,) or (batch, time), or None.

    Returns:
        Logits (labels, vocabulary), labels (labels,) and weights (labels,) or None.
    """
    labels = tf.convert_to_tensor(labels)
    keep = labels != IGNORED_LABEL
    weights = None
    if sample_weight is not None:
        weights = tf.broadcast_to(_per_label(sample_weight), tf.shape(labels))
        weights = tf.boolean_mask(weights, keep)
    return tf.boolean_mask(logits, keep), tf.boolean_mask(labels, keep), weights


def _sums(logits, labels, sample_weight):
    """The sum of weighted cross-entropies, and the sum of weights."""
    dtype = tf.float64 if logits.dtype == tf.float64 else tf.float32
    labels = tf.cast(labels, tf.int32)
    counts = labels != IGNORED_LABEL
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
        labels=tf.where(counts, labels, 0), logits=tf.cast(logits, dtype)
    )
    weights = tf.cast(counts, dtype)
    if sample_weight is not None:
        weights *= tf.cast(_per_label(sample_weight), dtype)
    # An ignored position adds exactly 0, even where its logits have overflowed.
    losses = tf.where(weights > 0, losses * weights, 0)
    return tf.reduce_sum(losses), tf.reduce_sum(weights)


def _per_label(sample_weight):
    """Weights with a time axis."""
    sample_weight = tf.convert_to_tensor(sample_weight)
    return sample_weight[:, None] if sample_weight.shape.rank == 1 else sample_weight
