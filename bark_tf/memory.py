"""Memory: what there is; uninitialised variables, mapped files, freeing."""

from __future__ import annotations

import contextlib
import contextvars
import ctypes
import functools
import mmap
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from bark_tf.backend import collection_paused

# === What there is ===

# No GPU has more, and TensorFlow does not say how much it has.
_MOST_OF_A_GPU = 400 * 10**9
_CGROUP_LIMITS = (
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
)


def available_memory() -> int | None:
    """Bytes that this process may use, with those that it uses already.

    Rather too many than too few: it may use again what it has freed.

    Returns:
        None where the system does not say.
    """
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        text = Path("/proc/meminfo").read_text()
    except OSError:
        return None
    free = re.findall(r"^(?:MemAvailable|SwapFree):\s*(\d+) kB", text, re.MULTILINE)
    limits = [1024 * sum(map(int, free)) + pages * mmap.PAGESIZE]
    for path in map(Path, _CGROUP_LIMITS):
        with contextlib.suppress(OSError, ValueError):  # or "max", for none
            limits.append(int(path.read_text()))
    return min(limits) + _MOST_OF_A_GPU * len(tf.config.list_physical_devices("GPU"))


def check_memory(count: int, each: int, what: str) -> None:
    """Raises ValueError if there is not even the least memory that a call needs.

    Args:
        count: How many of something are asked for.
        each: Bytes that one of them needs at least.
        what: What they are, such as `"rows"`, which begins the message.
    """
    memory = available_memory()
    if memory is not None and count * each > memory:
        raise ValueError(
            f"{count} {what} need at least {count * each / 1e9:.1f} GB of memory, and "
            f"there are {memory / 1e9:.1f} GB: at most {memory // each} fit"
        )


# === Uninitialised variables ===


_ALLOCATE_ONLY = contextvars.ContextVar("bark_tf_allocate_only", default=False)


@contextlib.contextmanager
def allocate_only() -> Iterator[None]:
    """Leaves variables created inside uninitialised.

    For weights that are read from a file next: random numbers would cost more time than
    reading, and untouched memory costs nothing. Building creates many objects and no
    garbage, so garbage collection is off meanwhile.
    """
    token = _ALLOCATE_ONLY.set(True)
    try:
        with collection_paused():
            yield
    finally:
        _ALLOCATE_ONLY.reset(token)


def drawn(initializer: str | Callable) -> Callable:
    """Wraps a Keras initializer, or its name, to do nothing inside `allocate_only`."""

    def make(shape, dtype=None):
        if _ALLOCATE_ONLY.get():
            return tf.raw_ops.Empty(shape=shape, dtype=tf.as_dtype(dtype), init=False)
        return keras.initializers.get(initializer)(shape, dtype=dtype)

    return make


def check_room(count: int, dtype: str, config: Any) -> None:
    """Raises ValueError if a new network's weights cannot fit into memory.

    Inside `allocate_only` nothing is checked: the weights are pages of a file.

    Args:
        count: Number of values in the weights.
        dtype: Their dtype.
        config: Configuration of the network, for the error message.
    """
    if not _ALLOCATE_ONLY.get():
        check_memory(count, tf.as_dtype(dtype).size, f"weights of {config!r}")


# === Setting variables ===


# Larger arrays stay out of the memory of TensorFlow's allocator...
_LARGE_BYTES = 2**16
# ... and are copied in blocks of this size.
_BLOCK_BYTES = 16 * 2**20
# Required by TensorFlow's instructions (EIGEN_MAX_ALIGN_BYTES).
_ALIGNMENT = 64


def _is_mapped(value: np.ndarray) -> bool:
    """Whether an array is a view of a mapped file or of other `mmap` pages."""
    return isinstance(value.base, mmap.mmap)


def _fits(value: np.ndarray, dtype: tf.DType) -> bool:
    """Whether TensorFlow can use an array's memory without a copy.

    Outside of POSIX systems the file could not be replaced while in use.
    """
    return (
        os.name == "posix"
        and value.dtype == dtype.as_numpy_dtype
        and value.flags.c_contiguous
        and value.ctypes.data % _ALIGNMENT == 0
    )


def _copied(value: np.ndarray, dtype: tf.DType) -> np.ndarray:
    """A cast copy in pages that return to the system when it is dropped.

    TensorFlow's allocator would keep the memory, and casting would make a second copy.
    The pages of a mapped file are released as they are copied.
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


def _tensor_over(value: np.ndarray, dtype: tf.DType) -> tf.Tensor:
    """A tensor that uses an array's memory."""
    value = value.view()
    value.flags.writeable = True  # nobody writes, but DLPack has no read-only memory
    from_dlpack = tf.experimental.dlpack.from_dlpack
    if dtype == tf.bfloat16:  # which NumPy's DLPack does not know
        return tf.bitcast(from_dlpack(value.view(np.uint16).__dlpack__()), dtype)
    return from_dlpack(value.__dlpack__())


def put(variable: Any, value: Any, *, share: bool = False) -> None:
    """Sets a Keras variable, even if it is empty or has another shape.

    Args:
        variable: Keras variable.
        value: Tensor or array of its shape, or an empty one to free its memory; cast to
            its dtype.
        share: Whether the variable may use the mapped file that `value` is a view of,
            where dtype and layout fit, instead of a copy. TensorFlow never writes into
            memory that it does not own: the first change of the variable copies it.
    """
    dtype = tf.as_dtype(variable.dtype)
    if isinstance(value, np.ndarray) and value.nbytes >= _LARGE_BYTES:
        is_usable = share and _is_mapped(value) and _fits(value, dtype)
        value = _tensor_over(value if is_usable else _copied(value, dtype), dtype)
    value = tf.cast(value, dtype)
    # A `tf.distribute.Strategy` has one variable per device.
    for part in getattr(variable.value, "values", (variable.value,)):
        tf.raw_ops.AssignVariableOp(
            resource=part.handle, value=value, validate_shape=False
        )


# === Freeing ===


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None


def return_free_memory() -> None:
    """Returns memory that the C library has kept after `free` to the system.

    It keeps the tensors of some MB that TensorFlow frees. Does nothing without glibc.
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


def collect(model: Any) -> None:
    """Returns free memory to the system between two steps of an offloaded model.

    It matters most after the prompt: memory peaks next, when XLA compiles and its loop
    starts with a copy of the caches.
    """
    if getattr(model, "is_offloaded", False):
        return_free_memory()
