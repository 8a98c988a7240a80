"""The safetensors format: a JSON header, then the tensors without gaps.

This module replaces the `safetensors` package, which has no bfloat16 for NumPy and
writes only from memory.

Source: https://github.com/huggingface/safetensors, README, section Format.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from bark_tf.files import parse_json_object

from .file_tensors import (
    DTYPES,
    CheckpointError,
    Contents,
    FileTensor,
    LazyTensor,
    checked_layout,
    is_count,
    mapped,
)

METADATA_KEY = "__metadata__"
MAX_HEADER_BYTES = 32 * 2**20  # Bark's has 100 kB; parsed, it is 20 times larger.
_LENGTH_BYTES = 8
# TensorFlow can use mapped pages without a copy if tensors start at multiples of this.
_ALIGNMENT = 64

_DTYPES = {
    "BOOL": DTYPES["bool"],
    "U8": DTYPES["uint8"],
    "I8": DTYPES["int8"],
    "U16": DTYPES["uint16"],
    "I16": DTYPES["int16"],
    "U32": DTYPES["uint32"],
    "I32": DTYPES["int32"],
    "U64": DTYPES["uint64"],
    "I64": DTYPES["int64"],
    "F16": DTYPES["float16"],
    "BF16": DTYPES["bfloat16"],
    "F32": DTYPES["float32"],
    "F64": DTYPES["float64"],
    "C64": DTYPES["complex64"],
    "F8_E4M3": DTYPES["float8_e4m3fn"],
    "F8_E5M2": DTYPES["float8_e5m2"],
}
_DTYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


# === Reading ===


def read_safetensors(handle: BinaryIO) -> Contents:
    """Reads the header of a safetensors file.

    Args:
        handle: A real file that stays open while tensors are read.

    Raises:
        CheckpointError: If the header is damaged, or the tensors overlap, leave gaps
            or do not end with the file.
    """
    handle.seek(0)
    length = int.from_bytes(handle.read(_LENGTH_BYTES), "little")
    first_byte = _LENGTH_BYTES + length
    data_bytes = os.fstat(handle.fileno()).st_size - first_byte
    if not length or data_bytes < 0 or length > MAX_HEADER_BYTES:
        raise CheckpointError(
            f"expected a safetensors file. Received: a header of {length} bytes"
        )
    header = parse_json(handle.read(length))
    metadata = header.pop(METADATA_KEY, {})
    if not _is_text_map(metadata):
        raise CheckpointError(f"expected texts under {METADATA_KEY!r}")
    spans = []
    tensors = {}
    for name, entry in header.items():
        start, stop, layout = _parse_entry(name, entry)
        spans.append((start, stop))
        read = functools.partial(mapped, handle, first_byte + start, layout)
        tensors[name] = FileTensor(layout.shape, layout.dtype, read)
    _check_spans(spans, data_bytes)
    return Contents(tensors, metadata)


def parse_json(text: bytes) -> dict[str, Any]:
    """`parse_json_object` of bytes."""
    try:
        return parse_json_object(text.decode(), "its text")
    except ValueError as error:
        raise CheckpointError(str(error)) from error


def _is_text_map(value: Any) -> bool:
    return type(value) is dict and all(type(text) is str for text in value.values())


def _parse_entry(name: str, entry: Any) -> tuple[int, int, Any]:
    what = f"tensor {name[:200]!r}"
    if type(entry) is not dict or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(f"{what} lacks dtype, shape or data_offsets")
    dtype_name, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    dtype = _DTYPES.get(dtype_name) if type(dtype_name) is str else None
    if dtype is None:
        raise CheckpointError(f"{what} has the unknown dtype {str(dtype_name)[:50]!r}")
    if type(shape) is not list or type(offsets) is not list or len(offsets) != 2:
        raise CheckpointError(f"{what} has no valid shape or data_offsets")
    layout = checked_layout(shape, dtype)
    start, stop = offsets
    if not (is_count(start) and is_count(stop) and stop - start == layout.num_bytes):
        raise CheckpointError(
            f"{what} of shape {layout.shape} needs {layout.num_bytes} bytes, its "
            "offsets give others"
        )
    return start, stop, layout


def _check_spans(spans: list[tuple[int, int]], data_bytes: int) -> None:
    end = 0
    for start, stop in sorted(spans):
        if start != end:
            raise CheckpointError("its tensors overlap or leave gaps")
        end = stop
    if end != data_bytes:
        raise CheckpointError(
            f"it is truncated or too long: {data_bytes} bytes of data, expected {end}"
        )


# === Writing ===


def check_tensor(tensor: LazyTensor) -> LazyTensor:
    """Returns the tensor with its shape as ints and a little-endian dtype.

    Raises:
        ValueError: If the format cannot hold it.
    """
    name, shape, dtype, make = tensor
    dtype = np.dtype(dtype).newbyteorder("<")
    if name == METADATA_KEY or dtype not in _DTYPE_NAMES:
        raise ValueError(
            f"Expected a tensor that safetensors can hold. Received: {name!r} "
            f"of dtype {dtype}"
        )
    return LazyTensor(name, tuple(int(length) for length in shape), dtype, make)


def write_safetensors(
    path: Path, tensors: Iterable[LazyTensor], metadata: Mapping[str, str]
) -> None:
    """Writes a file, one tensor in memory at a time, and waits until it is on disk.

    Args:
        path: Overwritten, not atomically.
        tensors: In any order.
        metadata: Strings for the header.

    Raises:
        ValueError: If the format cannot hold a tensor, or its array has another shape
            or dtype than announced.
    """
    # First those that leave the next one aligned; then, as in the package, the widest.
    ordered = sorted(
        map(check_tensor, tensors),
        key=lambda t: (t.num_bytes % _ALIGNMENT > 0, -t.dtype.itemsize, t.name),
    )
    with open(path, "wb") as handle:
        handle.write(_header(ordered, metadata))
        for tensor in ordered:
            handle.write(_data(tensor))
        handle.flush()
        os.fsync(handle.fileno())


def _header(tensors: Sequence[LazyTensor], metadata: Mapping[str, str]) -> bytes:
    header: dict[str, Any] = {METADATA_KEY: dict(metadata)} if metadata else {}
    position = 0
    for tensor in tensors:
        stop = position + tensor.num_bytes
        header[tensor.name] = {
            "dtype": _DTYPE_NAMES[tensor.dtype],
            "shape": tensor.shape,
            "data_offsets": [position, stop],
        }
        position = stop
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(_LENGTH_BYTES + len(text)) % _ALIGNMENT)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text


def _data(tensor: LazyTensor) -> np.ndarray:
    array = np.asarray(tensor.make())
    if array.shape != tensor.shape or array.dtype.newbyteorder("<") != tensor.dtype:
        raise ValueError(
            f"Expected tensor {tensor.name!r} of shape {tensor.shape} and dtype "
            f"{tensor.dtype}. Received: {array.shape}, {array.dtype}"
        )
    array = np.ascontiguousarray(array, dtype=tensor.dtype)
    return array.reshape(-1).view(np.uint8)
