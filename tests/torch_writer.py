"""Writes the files of torch.save without torch, instruction by instruction."""

import contextlib
import pickle
import struct
import tracemalloc
import zipfile
from typing import Any, NamedTuple

import numpy as np
import pytest

from bark_tf.convert.checkpoints import CheckpointError, open_checkpoint

MAGIC = 0x1950A86A20F9469CFC6C
SYSTEM = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
SIX = np.arange(6, dtype=np.float32)


# A writer of pickles -----------------------------------------------------------------


class Name(NamedTuple):
    """A global."""

    module: str
    name: str


class Call(NamedTuple):
    """REDUCE of a global, then BUILD if there is a `state`."""

    function: Any
    arguments: tuple
    state: Any = None


class Persistent(NamedTuple):
    """A persistent id."""

    identity: tuple


class Raw(NamedTuple):
    """Raw instructions."""

    code: bytes


ORDERED_DICT = Name("collections", "OrderedDict")
REBUILD = Name("torch._utils", "_rebuild_tensor_v2")


def emit(value) -> bytes:
    """The instructions that push a value, in protocol 2."""
    match value:
        case Raw(code):
            return code
        case Name(module, name):
            return f"c{module}\n{name}\n".encode()
        case Call(function, arguments, state):
            build = b"" if state is None else emit(state) + b"b"
            return emit(function) + emit(arguments) + b"R" + build
        case Persistent(identity):
            return emit(identity) + b"Q"
        case tuple():
            return b"(" + b"".join(map(emit, value)) + b"t"
        case list():
            return b"](" + b"".join(map(emit, value)) + b"e"
        case dict():
            items = b"".join(emit(k) + emit(v) for k, v in value.items())
            return b"}(" + items + b"u"
        case _:
            return pickle.dumps(value, protocol=2)[2:-1]


def pickled(value) -> bytes:
    return b"\x80\x02" + emit(value) + b"."


def storage(key, count, kind="Float", *view):
    return Persistent(
        ("storage", Name("torch", f"{kind}Storage"), key, "cpu", count, *view)
    )


def tensor(stored, shape, strides, first=0):
    return Call(REBUILD, (stored, first, shape, strides, False, Call(ORDERED_DICT, ())))


def six(shape=(2, 3), strides=(3, 1), first=0, count=6):
    """A tensor over storage "0", which holds six floats."""
    return tensor(storage("0", count), shape, strides, first)


def write_zip(path, tree, storages=None, *, compression=0, byteorder=b"little", **more):
    """Writes a zip file as torch does; `more` replaces or adds members."""
    data = tree if isinstance(tree, bytes) else pickled(tree)
    storages = {"0": SIX} if storages is None else storages
    members = {"data.pkl": data, "byteorder": byteorder, "version": b"3\n"}
    members |= {f"data/{key}": array.tobytes() for key, array in storages.items()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in (members | more).items():
            archive.writestr(f"archive/{name}", content)
    return path


def write_legacy(path, tree, storages=None, *, system=SYSTEM, keys=None):
    """Writes a file as torch did before 1.6."""
    data = tree if isinstance(tree, bytes) else pickled(tree)
    storages = {"0": SIX} if storages is None else storages
    keys = list(storages) if keys is None else keys
    parts = [pickled(MAGIC), pickled(1001), pickled(system), data, pickled(keys)]
    for array in storages.values():
        parts += [struct.pack("<q", array.size), array.tobytes()]
    path.write_bytes(b"".join(parts))
    return path


# === Reading them ===

WRITERS = pytest.mark.parametrize("write", [write_zip, write_legacy])


def read_all(path) -> dict[str, np.ndarray]:
    with open_checkpoint(path) as checkpoint:
        return {name: checkpoint.read(name) for name in checkpoint.names()}


def refusal(path) -> str:
    """Opens and reads a file that must be refused; returns the message."""
    with pytest.raises(CheckpointError) as caught:
        read_all(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert len(message) < len(str(path)) + 700
    return message


@contextlib.contextmanager
def measured():
    """Gives a function that returns the peak of allocated bytes, without mappings."""
    tracemalloc.start()
    peak = 0
    try:
        yield lambda: peak
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
