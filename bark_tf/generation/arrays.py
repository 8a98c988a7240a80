"""The operations that windows and prompts need, for NumPy arrays and for tensors.

Traced functions need tensors; elsewhere NumPy arrays are much faster: for the prompts
of `generate` and for training's examples. All call the same functions with one of the
namespaces `NUMPY` and `TENSORS` as `xp`, which have NumPy's functions and

* `range(stop)`: int32 numbers from 0 to below `stop`.
* `floor(x)`, `round(x)`: int32 of float64; halves are rounded to even numbers.
* `take(x, places)`: columns (B, n, ...) of (B, N, ...) at int32 (B, n); a place outside
  of [0, N) gives any value.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import tensorflow as tf

Arrays = SimpleNamespace


def _take_from_array(x: np.ndarray, places: np.ndarray) -> np.ndarray:
    if not x.shape[1]:
        return np.zeros((*places.shape, *x.shape[2:]), x.dtype)
    return x[np.arange(len(x))[:, None], np.clip(places, 0, x.shape[1] - 1)]


def _take_from_tensor(x: Any, places: Any) -> tf.Tensor:
    # One more column, so that there is always one to read.
    x = tf.pad(x, [[0, 0], [0, 1]] + [[0, 0]] * (x.shape.rank - 2))
    places = tf.clip_by_value(places, 0, tf.shape(x)[1] - 1)
    return tf.gather(x, places, batch_dims=1)


NUMPY = Arrays(
    where=np.where,
    minimum=np.minimum,
    maximum=np.maximum,
    max=np.max,
    shape=np.shape,
    reshape=np.reshape,
    transpose=np.transpose,
    pad=np.pad,
    float64=lambda x: np.asarray(x, np.float64),  # NumPy 1 makes scalars of (1,)
    range=lambda stop: np.arange(stop, dtype=np.int32),
    floor=lambda x: np.floor(x).astype(np.int32),
    round=lambda x: np.round(x).astype(np.int32),
    take=_take_from_array,
)
TENSORS = Arrays(
    where=tf.where,
    minimum=tf.minimum,
    maximum=tf.maximum,
    max=tf.reduce_max,
    shape=tf.shape,
    reshape=tf.reshape,
    transpose=tf.transpose,
    pad=tf.pad,
    float64=lambda x: tf.cast(x, tf.float64),
    range=tf.range,
    floor=lambda x: tf.cast(tf.floor(x), tf.int32),
    round=lambda x: tf.cast(tf.round(x), tf.int32),
    take=_take_from_tensor,
)


def native(structure: Any) -> tuple[Arrays, Any]:
    """`NUMPY` and arrays, or in a traced function `TENSORS` and the tensors."""
    if tf.executing_eagerly():
        return NUMPY, tf.nest.map_structure(np.asarray, structure)
    return TENSORS, structure
