"""Static caches: one pair of buffers per layer, as long as a sequence can get."""

from __future__ import annotations

import tensorflow as tf

from bark_tf.models.transformer import LayerCache


def extend(cache, slots: int, dtype):
    """Gives the caches of a prompt room for the tokens that follow.

    Args:
        cache: Tuple of a `LayerCache` per layer, as `forward` returns it.
        slots: Positions that fit.
        dtype: Of the new keys and values.

    Returns:
        Tuple of a `LayerCache` per layer: keys (batch * heads, slots, head_size),
        values (batch * heads, head_size, slots).
    """

    def layer(keys, values) -> LayerCache:
        room = [[0, slots - tf.shape(keys)[1]]]
        keep = [[0, 0]]
        return LayerCache(
            tf.pad(tf.cast(keys, dtype), keep + room + keep),
            tf.pad(tf.cast(values, dtype), keep + keep + room),
        )

    return tuple(layer(*pair) for pair in cache)


def bucket(batch: int) -> int:
    """The batch size that a batch is padded to: the next power of two.

    So that 1, 3, 4 and 7 rows need three compiled programs, not four, and any number
    of rows at most a few.
    """
    return 1 << (batch - 1).bit_length()
