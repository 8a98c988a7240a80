"""The operations that windows and prompts need, for NumPy arrays and for tensors.

Generation runs on tensors, and makes training's examples from NumPy arrays, which is
much faster for one row. Both go through the same functions, which take one of the two
namespaces, `NUMPY` or `TENSORS`, as their first argument `xp`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf


class Arrays(NamedTuple):
    """Functions that NumPy and TensorFlow both have, under one name.

    Attributes:
        where: As `np.where`.
        minimum: As `np.minimum`.
        maximum: As `np.maximum`.
        shape: As `np.shape`; a tensor for tensors.
        reshape: As `np.reshape`.
        transpose: As `np.transpose`.
        pad: As `np.pad`, with `constant_values`.
        concat: As `np.concatenate`.
        max: As `np.max`.
        range: int32 numbers from 0 to below its argument.
        floor: int32, the largest whole numbers that are not above float64 arguments.
        round: int32, the nearest whole numbers; halves go to even ones.
        float64: float64 of its argument.
        take: Columns (B, n, ...) of (B, N, ...) at int32 (B, n); places outside of
            [0, N) give any value.
    """

    where: Callable
    minimum: Callable
    maximum: Callable
    shape: Callable
    reshape: Callable
    transpose: Callable
    pad: Callable
    concat: Callable
    max: Callable
    range: Callable
    floor: Callable
    round: Callable
    float64: Callable
    take: Callable


def _take_from_array(x: np.ndarray, places: np.ndarray) -> np.ndarray:
    places = np.clip(places, 0, max(0, x.shape[1] - 1))
    if not x.shape[1]:
        return np.zeros((*places.shape, *x.shape[2:]), x.dtype)
    return x[np.arange(len(x))[:, None], places]


def _take_from_tensor(x: Any, places: Any) -> tf.Tensor:
    # One more column, so that there is always one to read.
    x = tf.pad(x, [[0, 0], [0, 1]] + [[0, 0]] * (x.shape.rank - 2))
    places = tf.clip_by_value(places, 0, tf.shape(x)[1] - 1)
    return tf.gather(x, places, batch_dims=1)


NUMPY = Arrays(
    where=np.where,
    minimum=np.minimum,
    maximum=np.maximum,
    shape=np.shape,
    reshape=np.reshape,
    transpose=np.transpose,
    pad=np.pad,
    concat=np.concatenate,
    max=np.max,
    range=lambda stop: np.arange(stop, dtype=np.int32),
    floor=lambda x: np.floor(x).astype(np.int32),
    round=lambda x: np.round(x).astype(np.int32),
    float64=np.float64,
    take=_take_from_array,
)
TENSORS = Arrays(
    where=tf.where,
    minimum=tf.minimum,
    maximum=tf.maximum,
    shape=tf.shape,
    reshape=tf.reshape,
    transpose=tf.transpose,
    pad=tf.pad,
    concat=tf.concat,
    max=tf.reduce_max,
    range=tf.range,
    floor=lambda x: tf.cast(tf.floor(x), tf.int32),
    round=lambda x: tf.cast(tf.round(x), tf.int32),
    float64=lambda x: tf.cast(x, tf.float64),
    take=_take_from_tensor,
)
