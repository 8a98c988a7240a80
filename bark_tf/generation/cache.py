"""Static caches: one pair of buffers per layer, as long as a sequence can get."""

from __future__ import annotations

import tensorflow as tf

from bark_tf.config import BarkSubModelConfig
from bark_tf.models.transformer import LayerCache


def allocate(config: BarkSubModelConfig, batch, slots: int, dtype):
    """Empty caches for all layers of a causal model.

    Args:
        config: Of the model.
        batch: Rows; int or scalar tensor.
        slots: Positions that fit.
        dtype: Of keys and values.

    Returns:
        Tuple of a `LayerCache` per layer: keys (batch * heads, slots, head_size),
        values (batch * heads, head_size, slots).
    """
    rows, size = batch * config.num_heads, config.head_size

    def layer() -> LayerCache:
        return LayerCache(
            tf.zeros((rows, slots, size), dtype), tf.zeros((rows, size, slots), dtype)
        )

    return tuple(layer() for _ in range(config.num_layers))


def bucket(batch: int) -> int:
    """The batch size that a batch is padded to: the next power of two.

    So that 1, 3, 4 and 7 rows need three compiled programs, not four, and any number
    of rows at most a few.
    """
    return 1 << (batch - 1).bit_length()
