"""Tensors in files: dtypes, layouts, and reading them only when asked."""

from __future__ import annotations

import contextlib
import math
import mmap
import os
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

# NumPy 1.26 allows at most 32 axes.
_MAX_RANK = 32
_MAX_BYTES = 2**63 - 1

# Little-endian on every machine, like all file formats read here.
DTYPES = {
    name: np.dtype(numpy_name)
    for name, numpy_name in {
        "bool": "?",
        "uint8": "u1",
        "int8": "i1",
        "uint16": "<u2",
        "int16": "<i2",
        "uint32": "<u4",
        "int32": "<i4",
        "uint64": "<u8",
        "int64": "<i8",
        "float16": "<f2",
        "float32": "<f4",
        "float64": "<f8",
        "complex64": "<c8",
        "complex128": "<c16",
        "bfloat16": ml_dtypes.bfloat16,
        "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
        "float8_e5m2": ml_dtypes.float8_e5m2,
    }.items()
}


# Values looked at together: their bits fit into the cache of a core.
_BLOCK_VALUES = 2**16


class CheckpointError(ValueError):
    """A checkpoint that is damaged, hostile or of an unsupported kind."""


class Layout(NamedTuple):
    """How a tensor is laid out in its bytes.

    Attributes:
        shape: Axis lengths.
        dtype: One of `DTYPES`.
        strides: Elements from one index of an axis to the next.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    strides: tuple[int, ...]

    @property
    def num_elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        """Bytes from the first element to the end of the last one."""
        if 0 in self.shape:
            return 0
        steps = zip(self.shape, self.strides, strict=True)
        last = sum((length - 1) * stride for length, stride in steps)
        return (last + 1) * self.dtype.itemsize


class FileTensor(NamedTuple):
    """A tensor of a checkpoint and the function that reads it."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]


class LazyTensor(NamedTuple):
    """A tensor to be written and the function that makes its array."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    make: Callable[[], np.ndarray]

    @property
    def num_bytes(self) -> int:
        """Size in the file."""
        return checked_layout(self.shape, self.dtype).num_bytes

    @classmethod
    def constant(cls, name: str, make: Callable[[], np.ndarray]) -> LazyTensor:
        """A tensor whose shape and dtype are those of what `make` returns."""
        array = make()
        return cls(name, array.shape, array.dtype, make)


class Contents(NamedTuple):
    """The contents of one file."""

    tensors: dict[str, FileTensor]
    metadata: dict[str, Any]


def is_floating(dtype: np.dtype) -> bool:
    """Whether it is a dtype of real floating-point numbers."""
    return dtype.kind not in "?biuc"  # bfloat16 and float8 have kind V


def all_finite(array: np.ndarray, every: int = 1) -> bool:
    """Whether every n-th row of a floating-point array has neither NaN nor infinity.

    Several times as fast as `np.isfinite` with half precision. Pages of a mapped file
    that it touches do not stay in the process.
    """
    bits = array[::every].view(f"u{array.dtype.itemsize}")
    # The bits that are set in infinity and NaN, and in no other number.
    exponent = np.array(np.inf, array.dtype).view(bits.dtype)
    rows = max(1, _BLOCK_VALUES // max(1, bits[:1].size))
    blocks = (bits[start : start + rows] for start in range(0, len(bits), rows))
    found = any(((block & exponent) == exponent).any() for block in blocks)
    if isinstance(array.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        array.base.madvise(mmap.MADV_DONTNEED)
    return not found


@contextlib.contextmanager
def naming(path: str | os.PathLike) -> Iterator[None]:
    """Prefixes every `CheckpointError` raised inside with the file's name."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error.__cause__


def is_count(value: Any) -> bool:
    """Whether a value read from a file is an integer from 0 to 2**63 - 1."""
    return type(value) is int and 0 <= value <= _MAX_BYTES


def checked_layout(shape: Any, dtype: np.dtype, strides: Any = None) -> Layout:
    """A layout from numbers that a file claims.

    Args:
        shape: Tuple or list of at most 32 integers.
        dtype: One of `DTYPES`.
        strides: As many integers, in elements; None means C order without gaps.

    Raises:
        CheckpointError: If shape or strides are something else, or too large.
    """
    if not _are_counts(shape):
        raise CheckpointError("expected a shape of at most 32 whole numbers")
    # Zeros count as 1, because NumPy refuses (0, 2**62, 2**62) too.
    if math.prod(max(length, 1) for length in shape) * dtype.itemsize > _MAX_BYTES:
        raise CheckpointError(f"expected a shape that fits memory. Received: {shape}")
    if strides is None:
        strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    if not _are_counts(strides) or len(strides) != len(shape):
        raise CheckpointError("expected one stride for each axis, none negative")
    return Layout(tuple(shape), dtype, tuple(strides))


def _are_counts(values: Any) -> bool:
    return (
        isinstance(values, tuple | list)
        and len(values) <= _MAX_RANK
        and all(is_count(value) for value in values)
    )


def mapped(handle: BinaryIO, first_byte: int, layout: Layout) -> np.ndarray:
    """A read-only view of a tensor in an open file; pages are read when touched.

    Each array has its own mapping, so that dropping the array frees its pages. The
    mapping is private: writing to an array that was made writable changes neither the
    file nor another array.
    """
    if not layout.num_bytes:
        return np.empty(layout.shape, layout.dtype)
    into_page = first_byte % mmap.ALLOCATIONGRANULARITY
    pages = mmap.mmap(
        handle.fileno(),
        into_page + layout.num_bytes,
        access=mmap.ACCESS_COPY,
        offset=first_byte - into_page,
    )
    return laid_out(pages, into_page, layout)


def laid_out(buffer: Any, first_byte: int, layout: Layout) -> np.ndarray:
    """A read-only array over bytes in memory, copied only if they are not aligned."""
    array = np.ndarray(
        layout.shape,
        layout.dtype,
        buffer=buffer,
        offset=first_byte,
        strides=[stride * layout.dtype.itemsize for stride in layout.strides],
    )
    if not array.flags.aligned:
        array = array.copy()
    array.flags.writeable = False
    return array
