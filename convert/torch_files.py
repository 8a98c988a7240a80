"""Files of `torch.save`, read without torch and without executing their pickle.

There are two containers: a zip archive (since torch 1.6: `pytorch_model.bin`, suno's
`.pt`), and five pickles followed by the raw storages (earlier, and still on request:
`.th`). Both describe a tree of dicts whose tensors point into storages.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from . import inert_pickle
from .file_tensors import (
    DTYPES,
    CheckpointError,
    Contents,
    FileTensor,
    Layout,
    checked_layout,
    is_count,
    laid_out,
    mapped,
    naming,
)
from .inert_pickle import BoundedReader, Global, Inert

# Keys under which writers store the state dict, the most common first.
_STATE_DICT_KEYS = ("model", "state_dict", "best_state", "model_state")
_MAX_NESTING = 4
_MAX_PLAIN_VALUES = 10_000
# Expanded tensors repeat stored elements; no weight repeats more than this.
_MAX_REPEATED_ELEMENTS = 2**20

_MAX_DIRECTORY_BYTES = 32 * 2**20
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_LOCAL_SIGNATURE = b"PK\x03\x04"
_ENCRYPTED = 0x1
_UTF8_NAME = 0x800
# torch does not compress; zip tools do. Weights hardly shrink, masks and zeros do.
_MAX_COMPRESSION = 100
_ALWAYS_UNPACKED_BYTES = 64 * 2**20
_RAW_DEFLATE = -zlib.MAX_WBITS
_ZIP_DAMAGE = (
    zipfile.BadZipFile,
    NotImplementedError,
    OSError,
    OverflowError,
    ValueError,
    struct.error,
)

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_COUNT = struct.Struct("<q")


@dataclasses.dataclass(frozen=True, eq=False)
class _Storage:
    """A run of elements of one dtype, or a view of part of it."""

    key: str
    dtype: np.dtype
    whole_bytes: int
    first_byte: int
    num_bytes: int


@dataclasses.dataclass(frozen=True, eq=False)
class _Tensor:
    """A tensor in the pickle: a layout over a storage."""

    storage: _Storage
    first_byte: int
    layout: Layout


class _Place(NamedTuple):
    """The place of a storage's bytes; `packed_bytes` is set if they are compressed."""

    first_byte: int
    num_bytes: int
    packed_bytes: int | None = None
    checksum: int = 0


# === Names allowed in the pickle ===


def _tensor(storage: Any, first: Any, shape: Any, strides: Any, dtype: Any) -> _Tensor:
    if type(storage) is not _Storage or not is_count(first):
        raise CheckpointError("expected a tensor's storage and its first element")
    layout = checked_layout(shape, dtype, strides)
    first_byte = first * dtype.itemsize
    if first_byte + layout.num_bytes > storage.num_bytes:
        raise CheckpointError(
            f"a tensor of shape {layout.shape} with strides {layout.strides} from "
            f"element {first} exceeds its storage of {storage.num_bytes} bytes"
        )
    stored = storage.num_bytes // dtype.itemsize
    if layout.num_elements > max(stored, _MAX_REPEATED_ELEMENTS):
        raise CheckpointError(
            f"a tensor of shape {layout.shape} repeats a storage of {stored} elements"
        )
    return _Tensor(storage, storage.first_byte + first_byte, layout)


def _rebuild_tensor(
    storage: Any,
    first: Any,
    shape: Any,
    strides: Any,
    _requires_grad: Any = False,
    _hooks: Any = None,
    flags: Any = None,
) -> _Tensor:
    """Stands for torch's `_rebuild_tensor` and `_rebuild_tensor_v2`."""
    if flags:
        raise CheckpointError("a tensor is stored conjugated or negated")
    return _tensor(storage, first, shape, strides, getattr(storage, "dtype", None))


def _rebuild_typed_tensor(
    storage: Any,
    first: Any,
    shape: Any,
    strides: Any,
    _requires_grad: Any,
    _hooks: Any,
    dtype: Any,
    flags: Any = None,
) -> _Tensor:
    """Stands for `_rebuild_tensor_v3`, whose storages have no dtype."""
    if flags or type(dtype) is not Global or dtype.dtype is None:
        raise CheckpointError("a tensor has no dtype, or is conjugated or negated")
    return _tensor(storage, first, shape, strides, dtype.dtype)


def _same_tensor(tensor: Any, *_: Any) -> _Tensor:
    """Stands for `_rebuild_parameter`; parameters are tensors here."""
    if type(tensor) is not _Tensor:
        raise CheckpointError("a parameter is not made of a tensor")
    return tensor


def _rebuild_from_type(function: Any, _type: Any, arguments: Any, _state: Any) -> Any:
    """Stands for `_rebuild_from_type_v2`: a tensor with attributes."""
    if function not in (_GLOBALS["torch._utils._rebuild_tensor_v2"], *_PARAMETERS):
        raise CheckpointError("a tensor is rebuilt by something unknown")
    return function.build(*arguments)


def _inert(*_: Any) -> Inert:
    return Inert()


def _ordered_dict(*pairs: Any) -> dict:
    if pairs:
        raise CheckpointError("an ordered dict is not written as Python 3 does")
    return {}


def _size(lengths: Any) -> tuple:
    return checked_layout(lengths, DTYPES["uint8"]).shape


_STORAGE_DTYPES = {
    "Double": "float64",
    "Float": "float32",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Long": "int64",
    "Int": "int32",
    "Short": "int16",
    "Char": "int8",
    "Byte": "uint8",
    "Bool": "bool",
    "ComplexFloat": "complex64",
    "ComplexDouble": "complex128",
}
_TORCH_DTYPE_ALIASES = {"half": "float16", "float": "float32", "double": "float64"}
_BUILDERS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered_dict,
    "torch.Size": _size,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": _rebuild_typed_tensor,
    "torch._utils._rebuild_parameter": _same_tensor,
    "torch._utils._rebuild_parameter_with_state": _same_tensor,
    "torch._tensor._rebuild_from_type_v2": _rebuild_from_type,
}
_GLOBALS = {
    **{name: Global(name, build) for name, build in _BUILDERS.items()},
    **{
        f"{module}.{name}Storage": Global(
            f"{module}.{name}Storage", None, DTYPES[dtype]
        )
        for module in ("torch", "torch.cuda")
        for name, dtype in _STORAGE_DTYPES.items()
    },
    "torch.storage.UntypedStorage": Global(
        "torch.storage.UntypedStorage", None, DTYPES["uint8"]
    ),
    **{
        f"torch.{name}": Global(f"torch.{name}", None, DTYPES[dtype])
        for name, dtype in {**{d: d for d in DTYPES}, **_TORCH_DTYPE_ALIASES}.items()
    },
}
_PARAMETERS = (
    _GLOBALS["torch._utils._rebuild_parameter"],
    _GLOBALS["torch._utils._rebuild_parameter_with_state"],
)

# Settings that trainers store with the weights. They become `Inert`: nothing of them is
# imported, called or kept. torch's pickle protocol writes Python 2 names.
_INERT_GLOBAL = re.compile(
    r"(?:torch\.(?:device|Tensor|nn\.parameter\.Parameter)"
    r"|argparse\.Namespace"
    r"|collections\.(?:defaultdict|Counter)"
    r"|typing\.Any"
    r"|pathlib\.(?:Pure)?(?:Posix|Windows)?Path"
    r"|(?:__builtin__|builtins)\.(?:dict|list|tuple|set|int|float|bool|str|unicode)"
    r"|numpy\.dtype|numpy\._?core\.multiarray\.scalar|_codecs\.encode"
    r"|(?:omegaconf|fairseq)(?:\.\w+)+)",
    re.ASCII,
)


def _find_global(name: str) -> Global:
    if name in _GLOBALS:
        return _GLOBALS[name]
    if _INERT_GLOBAL.fullmatch(name):
        return Global(name, _inert)
    raise CheckpointError(
        "expected a pickle of weights, which names only what tensors are made of; "
        f"nothing was executed. Received: {name!r}"
    )


class _Storages:
    """The storages named in a pickle, by key."""

    def __init__(self) -> None:
        self.by_key: dict[str, _Storage] = {}

    def load_persistent(self, identity: Any) -> _Storage:
        """Turns `("storage", class, key, device, elements[, view])` into a storage."""
        if type(identity) is not tuple or len(identity) not in (5, 6):
            raise CheckpointError("expected the persistent ids of torch.save")
        kind, storage_class, key, _, count, *views = identity
        dtype = storage_class.dtype if type(storage_class) is Global else None
        if kind != "storage" or dtype is None or type(key) is not str:
            raise CheckpointError("expected the persistent id of a storage")
        if not is_count(count):
            raise CheckpointError(f"storage {key[:100]!r} has no valid size")
        whole = _Storage(key, dtype, count * dtype.itemsize, 0, count * dtype.itemsize)
        known = self.by_key.setdefault(key, whole)
        if (known.dtype, known.whole_bytes) != (whole.dtype, whole.whole_bytes):
            raise CheckpointError(f"storage {key[:100]!r} is described in two ways")
        return _view(known, *views)


def _view(storage: _Storage, view: Any = None) -> _Storage:
    """Part of a storage, `(key, first element, elements)`: torch before 0.4."""
    if view is None:
        return storage
    if type(view) is not tuple or len(view) != 3 or not all(map(is_count, view[1:])):
        raise CheckpointError("expected a view's key, first element and size")
    _, first, count = view
    first_byte, num_bytes = (n * storage.dtype.itemsize for n in (first, count))
    if first_byte + num_bytes > storage.whole_bytes:
        raise CheckpointError(f"a view exceeds its storage {storage.key[:100]!r}")
    return dataclasses.replace(storage, first_byte=first_byte, num_bytes=num_bytes)


# === The state dict ===


def _state_dict(tree: Any) -> tuple[dict[str, _Tensor], dict[str, Any]]:
    """Finds the tensors of a tree, and the plain values next to them.

    Raises:
        CheckpointError: If there is no state dict.
    """
    room = iter(range(_MAX_PLAIN_VALUES))
    tensors, metadata = _search(tree, room, _MAX_NESTING)
    if not tensors:
        raise CheckpointError(
            "expected a dict of tensors, at the top or under "
            f"{', '.join(map(repr, _STATE_DICT_KEYS))}"
        )
    return tensors, metadata


def _search(
    tree: Any, room: Iterator[int], levels: int
) -> tuple[dict[str, _Tensor], dict[str, Any]]:
    if type(tree) is not dict or not levels:
        return {}, {}
    for key in _STATE_DICT_KEYS:
        tensors, metadata = _search(tree.get(key), room, levels - 1)
        if tensors:
            rest = {name: value for name, value in tree.items() if name != key}
            return tensors, _plain_items(rest, room) | metadata
    tensors = {
        name: value
        for name, value in tree.items()
        if type(name) is str and type(value) is _Tensor
    }
    return tensors, _plain_items(tree, room) if tensors else {}


class _NotPlainError(Exception):
    """A value that does not consist of plain values only."""


def _plain_items(tree: dict, room: Iterator[int]) -> dict[str, Any]:
    items = {}
    for name, value in tree.items():
        if type(name) is str and type(value) is not _Tensor:
            try:
                items[name] = _plain(value, room, _MAX_NESTING)
            except _NotPlainError:
                continue
    return items


def _plain(value: Any, room: Iterator[int], levels: int) -> Any:
    """Copies a value that consists of plain values.

    `room` limits the total, because many references to one list could make the copy
    endless.
    """
    if next(room, None) is None or not levels:
        raise _NotPlainError
    if type(value) in (str, int, float, bool, type(None)):
        return value
    if type(value) is dict:
        return {key: _plain(item, room, levels - 1) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_plain(item, room, levels - 1) for item in value)
    raise _NotPlainError


def _contents(
    handle: BinaryIO, tree: Any, locate: Callable[[_Storage], _Place]
) -> Contents:
    """Looks up the storages of the state dict, and only these."""
    tensors, metadata = _state_dict(tree)
    found = {}
    for name, tensor in tensors.items():
        place = locate(tensor.storage)
        if place.num_bytes != tensor.storage.whole_bytes:
            raise CheckpointError(
                f"storage {tensor.storage.key[:100]!r} has {place.num_bytes} bytes, "
                f"expected {tensor.storage.whole_bytes}"
            )
        read = functools.partial(_read, handle, place, tensor)
        found[name] = FileTensor(tensor.layout.shape, tensor.layout.dtype, read)
    return Contents(found, metadata)


def _read(handle: BinaryIO, place: _Place, tensor: _Tensor) -> np.ndarray:
    if place.packed_bytes is None:
        return mapped(handle, place.first_byte + tensor.first_byte, tensor.layout)
    with naming(handle.name):
        return laid_out(_unpack(handle, place), tensor.first_byte, tensor.layout)


# === The zip container ===


def read_zip(handle: BinaryIO) -> Contents:
    """Reads a zip file of `torch.save`.

    Args:
        handle: A real file that stays open while tensors are read.

    Raises:
        CheckpointError: If the file is damaged or holds more than weights.
    """
    members = _members(handle)
    pickles = [name for name in members if re.fullmatch(r"[^/]+/data\.pkl", name)]
    if len(pickles) != 1:
        raise CheckpointError("expected a zip file of torch.save, with one data.pkl")
    prefix = pickles[0].removesuffix("data.pkl")
    if f"{prefix}constants.pkl" in members:
        raise CheckpointError("expected weights. Received: a TorchScript program")
    locate = functools.partial(_locate, handle, members)
    if f"{prefix}byteorder" in members:
        order = _member_bytes(handle, locate(f"{prefix}byteorder"), len("little"))
        if order != b"little":
            raise CheckpointError(f"expected little-endian data. Received: {order!r}")
    pickled = _member_bytes(handle, locate(pickles[0]), inert_pickle.MAX_PICKLE_BYTES)
    tree = inert_pickle.load(
        io.BytesIO(pickled), _find_global, _Storages().load_persistent
    )
    return _contents(handle, tree, lambda s: locate(f"{prefix}data/{s.key}"))


def _members(handle: BinaryIO) -> dict[str, zipfile.ZipInfo]:
    """The zip file's directory; refuses names that lead out of a directory."""
    try:
        # Only the directory is read; no member is opened or extracted.
        infos = zipfile.ZipFile(BoundedReader(handle, _MAX_DIRECTORY_BYTES)).infolist()
    except CheckpointError:
        raise
    except _ZIP_DAMAGE as error:
        raise CheckpointError("it is a truncated or damaged zip file") from error
    members = {info.orig_filename: info for info in infos}
    if len(members) != len(infos):
        raise CheckpointError("its zip directory names a member twice")
    for name in members:
        if re.search(r"^/|^\w:|\\|\0|(^|/)\.\.(/|$)", name):
            raise CheckpointError(f"its zip directory has the path {name[:200]!r}")
    return members


def _locate(handle: BinaryIO, members: dict[str, zipfile.ZipInfo], name: str) -> _Place:
    """The place of a member's bytes: after its own header, whose size varies."""
    info = members.get(name)
    if info is None:
        raise CheckpointError(f"it lacks the zip member {name[:200]!r}")
    if info.flag_bits & _ENCRYPTED:
        raise CheckpointError(f"zip member {name!r} is encrypted")
    header_end = info.header_offset + _LOCAL_HEADER.size
    file_bytes = os.fstat(handle.fileno()).st_size
    if info.header_offset < 0 or header_end > file_bytes:
        raise CheckpointError(f"zip member {name!r} is outside the file")
    handle.seek(info.header_offset)
    header = handle.read(_LOCAL_HEADER.size)
    signature, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(header)
    encoding = "utf-8" if info.flag_bits & _UTF8_NAME else "cp437"
    own_name = handle.read(name_bytes).decode(encoding, errors="replace")
    if signature != _LOCAL_SIGNATURE or own_name != name:
        raise CheckpointError(f"zip member {name!r} is not where the directory says")
    first_byte = header_end + name_bytes + extra_bytes
    if first_byte + info.compress_size > file_bytes:
        raise CheckpointError(f"zip member {name!r} ends outside the file")
    return _checked_place(name, info, first_byte)


def _checked_place(name: str, info: zipfile.ZipInfo, first_byte: int) -> _Place:
    if info.compress_type == zipfile.ZIP_STORED:
        if info.compress_size != info.file_size:
            raise CheckpointError(f"zip member {name!r} has two sizes")
        return _Place(first_byte, info.file_size)
    if info.compress_type != zipfile.ZIP_DEFLATED:
        raise CheckpointError(f"zip member {name!r} is compressed in an unknown way")
    most = max(_ALWAYS_UNPACKED_BYTES, _MAX_COMPRESSION * info.compress_size)
    if info.file_size > most:
        raise CheckpointError(
            f"zip member {name!r} claims to unpack from {info.compress_size} to "
            f"{info.file_size} bytes"
        )
    return _Place(first_byte, info.file_size, info.compress_size, info.CRC)


def _member_bytes(handle: BinaryIO, place: _Place, limit: int) -> bytes:
    if place.num_bytes > limit:
        raise CheckpointError(f"a zip member has more than {limit} bytes")
    if place.packed_bytes is not None:
        return _unpack(handle, place)
    handle.seek(place.first_byte)
    return handle.read(place.num_bytes)


def _unpack(handle: BinaryIO, place: _Place) -> bytes:
    """Inflates a member, at most to the size in its directory entry."""
    packed = mapped(
        handle, place.first_byte, checked_layout([place.packed_bytes], DTYPES["uint8"])
    )
    try:
        inflater = zlib.decompressobj(_RAW_DEFLATE)
        data = inflater.decompress(packed, place.num_bytes + 1)
    except zlib.error as error:
        raise CheckpointError("a compressed zip member is damaged") from error
    if len(data) != place.num_bytes or zlib.crc32(data) != place.checksum:
        raise CheckpointError("a compressed zip member is damaged")
    return data


# === The container before torch 1.6 ===


def read_legacy(handle: BinaryIO) -> Contents:
    """Reads a file of `torch.save` before torch 1.6: pickles, then storages.

    Args:
        handle: A real file that stays open while tensors are read.

    Raises:
        CheckpointError: If the file is damaged or holds more than weights.
    """
    storages = _Storages()
    load = functools.partial(
        inert_pickle.load,
        BoundedReader(handle, inert_pickle.MAX_PICKLE_BYTES),
        _find_global,
        storages.load_persistent,
    )
    if load() != _LEGACY_MAGIC or load() != _LEGACY_PROTOCOL:
        raise CheckpointError("expected a file of torch.save. Received: another pickle")
    system = load()
    if type(system) is not dict or system.get("little_endian") is not True:
        raise CheckpointError("expected little-endian data")
    tree = load()
    places = _legacy_places(handle, load(), storages.by_key)
    return _contents(handle, tree, lambda storage: places[storage.key])


def _legacy_places(
    handle: BinaryIO, keys: Any, storages: dict[str, _Storage]
) -> dict[str, _Place]:
    """The places of the storages: consecutive, each after its element count."""
    if type(keys) is not list or not all(type(key) is str for key in keys):
        raise CheckpointError("expected a list of storage keys after the tensors")
    if sorted(keys) != sorted(storages):
        raise CheckpointError("its storages are not those of its tensors")
    file_bytes = os.fstat(handle.fileno()).st_size
    places = {}
    position = handle.tell()
    for key in keys:
        handle.seek(position)
        count_bytes = handle.read(_COUNT.size)
        position += _COUNT.size
        if len(count_bytes) < _COUNT.size:
            raise CheckpointError("it is truncated")
        (count,) = _COUNT.unpack(count_bytes)
        num_bytes = count * storages[key].dtype.itemsize
        if not 0 <= num_bytes <= file_bytes - position:
            raise CheckpointError("it is truncated, or a storage has a wrong size")
        places[key] = _Place(position, num_bytes)
        position += num_bytes
    return places
