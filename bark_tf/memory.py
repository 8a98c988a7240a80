"""Memory of weights: variables without content, weights of mapped files, freeing."""

from __future__ import annotations

import contextlib
import contextvars
import ctypes
import functools
import gc
import mmap
import os
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

_ALLOCATE_ONLY = contextvars.ContextVar("bark_tf_allocate_only", default=False)


@contextlib.contextmanager
def allocate_only() -> Iterator[None]:
    """Variables made inside are memory without content.

    For weights that are read from a file right after: drawing random numbers for
    them costs more time than reading, and untouched memory costs nothing. Building
    makes many objects and no garbage, so Python does not look for any meanwhile.
    """
    token = _ALLOCATE_ONLY.set(True)
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
        _ALLOCATE_ONLY.reset(token)


def drawn(initializer: str | Callable) -> Callable:
    """An initializer for variables that are only memory inside `allocate_only`.

    Args:
        initializer: A Keras initializer, or its name.
    """

    def make(shape, dtype=None):
        if _ALLOCATE_ONLY.get():
            return tf.raw_ops.Empty(shape=shape, dtype=tf.as_dtype(dtype), init=False)
        return keras.initializers.get(initializer)(shape, dtype=dtype)

    return make


# Arrays of at least this size do not go into TensorFlow's memory.
_LARGE_BYTES = 2**16
# They are copied in blocks of this size.
_BLOCK_BYTES = 16 * 2**20
# TensorFlow reads a tensor with instructions that need it (EIGEN_MAX_ALIGN_BYTES).
_ALIGNMENT = 64


def put(variable: Any, value: Any, *, share: bool = False) -> None:
    """Sets a Keras variable, whatever it held: nothing, or another shape.

    Args:
        variable: Keras variable.
        value: Tensor or array of its shape (or of none, to free its memory); cast to
            its dtype.
        share: Whether the variable may use the pages of a file that `value` lies in,
            where they fit, instead of a copy. TensorFlow never writes into memory that
            is not its own: the first change of the variable makes another copy.
    """
    dtype = tf.as_dtype(variable.dtype)
    if isinstance(value, np.ndarray) and value.nbytes >= _LARGE_BYTES:
        fits = share and _is_mapped(value) and _fits(value, dtype)
        value = _handed_over(value if fits else _own_memory(value, dtype), dtype)
    value = tf.cast(value, dtype)
    # Under a `tf.distribute.Strategy` one variable per device.
    for part in getattr(variable.value, "values", (variable.value,)):
        tf.raw_ops.AssignVariableOp(
            resource=part.handle, value=value, validate_shape=False
        )


def _is_mapped(value: np.ndarray) -> bool:
    """Whether an array's memory are pages of a file, or others of `mmap`."""
    return isinstance(value.base, mmap.mmap)


def _fits(value: np.ndarray, dtype: tf.DType) -> bool:
    """Whether TensorFlow could use an array's memory as it is.

    Elsewhere than on POSIX systems a file that is in use could not be replaced.
    """
    return (
        os.name == "posix"
        and value.dtype == dtype.as_numpy_dtype
        and value.flags.c_contiguous
        and value.ctypes.data % _ALIGNMENT == 0
    )


def _own_memory(value: np.ndarray, dtype: tf.DType) -> np.ndarray:
    """A copy that never exists twice and goes back to the system when it is dropped.

    TensorFlow's allocator keeps what it has; memory that is handed over stays ours.
    Pages of an array that lies in a file are let go as they are copied.
    """
    numpy_dtype = np.dtype(dtype.as_numpy_dtype)
    pages = mmap.mmap(-1, value.size * numpy_dtype.itemsize)
    copy = np.frombuffer(pages, numpy_dtype).reshape(value.shape)
    rows = max(1, _BLOCK_BYTES // value[0].nbytes)
    for start in range(0, len(value), rows):
        copy[start : start + rows] = value[start : start + rows]
        if _is_mapped(value) and hasattr(mmap, "MADV_DONTNEED"):
            value.base.madvise(mmap.MADV_DONTNEED)
    return copy


def _handed_over(value: np.ndarray, dtype: tf.DType) -> tf.Tensor:
    """A tensor over an array's own memory."""
    value = value.view()
    value.flags.writeable = True  # nobody writes, but DLPack knows no read-only memory
    from_dlpack = tf.experimental.dlpack.from_dlpack
    if dtype == tf.bfloat16:  # unknown to numpy's side of the exchange
        return tf.bitcast(from_dlpack(value.view(np.uint16).__dlpack__()), dtype)
    return from_dlpack(value.__dlpack__())


def return_free_memory() -> None:
    """Gives the memory that the C library keeps for later back to the system.

    TensorFlow frees tensors of some MB to it, and it keeps them. Only glibc has the
    function; elsewhere nothing happens.
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None


def collect(model: Any) -> None:
    """Returns free memory between two steps of a model, if it is offloaded.

    After a prompt was read above all: the largest moment is the next one, when XLA
    compiles and its loop begins with a copy of the caches.
    """
    if getattr(model, "is_offloaded", False):
        return_free_memory()
