"""Static caches: one pair of buffers per layer for the longest possible sequence.

Batch and heads share one axis, and both products of the attention run over the last
axes of these layouts: decoding at batch 1 is limited by memory, and this order is read
once, front to back.

Axes: B batch, H heads, S slots, D size of a head, T new positions.
"""

from __future__ import annotations

from typing import NamedTuple

import keras
import tensorflow as tf


class LayerCache(NamedTuple):
    """Keys and values of one layer, written without XLA.

    Attributes:
        keys: (B * H, S, D).
        values: (B * H, D, S).
    """

    keys: tf.Tensor
    values: tf.Tensor

    def write(self, keys, values, position) -> LayerCache:
        """The cache with T new keys (B * H, T, D) and values (B * H, D, T)."""
        return LayerCache(
            scatter(self.keys, keys, 1, position),
            scatter(self.values, values, 2, position),
        )


class XlaLayerCache(NamedTuple):
    """As `LayerCache`, inside a program that XLA compiles.

    XLA updates a slice in place. Outside of such a program the same operation is
    compiled on demand, which is slow, and refused where XLA is switched off.
    """

    keys: tf.Tensor
    values: tf.Tensor

    def write(self, keys, values, position) -> XlaLayerCache:
        """As in `LayerCache`."""
        return XlaLayerCache(
            update_slice(self.keys, keys, 1, position),
            update_slice(self.values, values, 2, position),
        )


class InPlaceLayerCache(NamedTuple):
    """As `LayerCache`, but `write` changes the buffers themselves.

    A decode loop owns its buffers and reads none of them after it is overwritten; by
    themselves TensorFlow's operations would copy the whole cache for every token.
    """

    keys: tf.Tensor
    values: tf.Tensor

    @classmethod
    def copy_of(cls, keys, values) -> InPlaceLayerCache:
        """A cache with buffers of its own."""
        return cls(tf.raw_ops.DeepCopy(x=keys), tf.raw_ops.DeepCopy(x=values))

    def write(self, keys, values, position) -> InPlaceLayerCache:
        """As in `LayerCache`."""
        return InPlaceLayerCache(
            overwrite(self.keys, keys, 1, position),
            overwrite(self.values, values, 2, position),
        )


def scatter(buffer, new, axis: int, position):
    """Writes `new` into `buffer` from a position of one axis on, without XLA.

    Args:
        buffer: Any shape.
        new: The same shape but for `axis`; cast to the buffer's dtype.
        axis: Counted from the front.
        position: int32 ().

    Returns:
        As `buffer`; TensorFlow reuses its memory where nobody else needs it.
    """
    new = tf.cast(new, buffer.dtype)
    sizes = tf.unstack(tf.shape(new)[: axis + 1])
    places = [tf.range(size) for size in sizes]
    places[axis] += tf.cast(position, tf.int32)
    indices = tf.stack(tf.meshgrid(*places, indexing="ij"), -1)
    written = tf.tensor_scatter_nd_update(buffer, indices, new)
    return tf.ensure_shape(written, buffer.shape)


def overwrite(buffer, new, axis: int, position):
    """As `scatter`, but changes the memory of `buffer`, whoever else reads it."""
    shape, new_shape = tf.shape(buffer), tf.shape(new)
    slots, count = shape[axis], new_shape[axis]
    outer = tf.range(tf.reduce_prod(shape[:axis]))[:, None]
    rows = outer * slots + tf.cast(position, tf.int32) + tf.range(count)
    width = tf.reduce_prod(shape[axis + 1 :])
    flat = tf.raw_ops.InplaceUpdate(
        x=tf.reshape(buffer, (-1, width)),
        i=tf.reshape(rows, [-1]),
        v=tf.reshape(tf.cast(new, buffer.dtype), (-1, width)),
    )
    return tf.ensure_shape(tf.reshape(flat, shape), buffer.shape)


def update_slice(buffer, new, axis: int, position):
    """As `scatter`, for a program that XLA compiles."""
    start = [0] * buffer.shape.rank
    start[axis] = position
    start = [tf.cast(index, tf.int32) for index in start]
    return keras.ops.slice_update(buffer, start, tf.cast(new, buffer.dtype))


def extend(cache, slots: int, dtype):
    """Pads the caches of a prompt with room for the tokens that follow.

    Args:
        cache: Tuple of a `LayerCache` per layer, as `forward` returns it.
        slots: Number of positions.
        dtype: Dtype of the new keys and values.

    Returns:
        Tuple of a `LayerCache` per layer: keys (batch * heads, slots, head_size),
        values (batch * heads, head_size, slots).
    """

    def layer(keys, values) -> LayerCache:
        size, room, keep = keys.shape[2], [[0, slots - tf.shape(keys)[1]]], [[0, 0]]
        keys = tf.pad(tf.cast(keys, dtype), keep + room + keep)
        values = tf.pad(tf.cast(values, dtype), keep + keep + room)
        return LayerCache(
            tf.ensure_shape(keys, (None, slots, size)),
            tf.ensure_shape(values, (None, size, slots)),
        )

    return tuple(layer(*pair) for pair in cache)


def bucket(batch) -> tf.Tensor:
    """The size that a batch is padded to: the next power of two.

    Then 1, 3, 4 and 7 rows need three compiled programs instead of four.

    Args:
        batch: int32 (), at least 1.
    """
    bits = tf.convert_to_tensor(batch, tf.int32) - 1
    for distance in (1, 2, 4, 8, 16):
        bits = tf.bitwise.bitwise_or(bits, tf.bitwise.right_shift(bits, distance))
    return bits + 1


def pad_rows(tensor, size, value=0) -> tf.Tensor:
    """Pads a tensor with rows of one value to `size` rows."""
    tensor = tf.convert_to_tensor(tensor)
    room = [[0, size - tf.shape(tensor)[0]]] + [[0, 0]] * (tensor.shape.rank - 1)
    return tf.pad(tensor, room, constant_values=value)
