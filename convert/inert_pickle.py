"""Reads a pickle without executing it.

A pickle is a program for a stack machine whose instructions can call anything that can
be imported. This module is another machine for the same instructions. It looks globals
up in the caller's table instead of importing them, calls only the functions in that
table, and refuses instructions that weights do not need. The standard library's
`pickletools` splits the bytes into instructions; it executes nothing.

Memory and time are bounded by the length of the pickle, which has a limit itself: no
instruction copies or walks a value that could be passed to it again and again.
"""

from __future__ import annotations

import dataclasses
import os
import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

from .file_tensors import CheckpointError

# The pickle of a checkpoint has the names of tensors but not their data: Bark's are
# below 200 kB. The limits leave room for models of 50,000 tensors.
MAX_PICKLE_BYTES = 64 * 2**20
MAX_INSTRUCTIONS = 2_000_000
_MAX_PROTOCOL = 5
# torch's magic number has 77 bits; everything else fits into 64.
_MAX_INTEGER_BITS = 128
_DAMAGE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
_MAX_NAME_LENGTH = 200
_MAX_ARGUMENTS = 16
# Hashes of strings are salted; those of large integers could be made to collide.
_KEY_TYPES = (str, bytes, bool, type(None))
_MAX_KEY_BITS = 63


@dataclasses.dataclass(frozen=True, eq=False)
class Global:
    """The stand-in for an importable name.

    Attributes:
        name: Module and name, joined by a dot.
        build: Called with the arguments in the pickle; None if it may not be called.
        dtype: Set for torch's dtypes and storage classes.
    """

    name: str
    build: Callable[..., Any] | None = None
    dtype: np.dtype | None = None


class Inert:
    """The stand-in for an object that is known, harmless and not needed."""

    __slots__ = ()


class BoundedReader:
    """A binary file from which at most `limit` bytes can be read in total."""

    def __init__(self, handle: BinaryIO, limit: int):
        self._handle = handle
        self._left = limit
        self._file_bytes = handle.seek(0, os.SEEK_END)
        handle.seek(0)
        self.seek = handle.seek
        self.tell = handle.tell

    def read(self, size: int = -1) -> bytes:
        """See `io.RawIOBase`."""
        return self._counted(self._handle.read, size)

    def readline(self) -> bytes:
        """See `io.RawIOBase`."""
        return self._counted(self._handle.readline, -1)

    def _counted(self, read: Callable[[int], bytes], size: int) -> bytes:
        # Files allocate a buffer of the requested size before they read.
        most = min(self._left + 1, max(self._file_bytes - self.tell(), 0))
        data = read(most if size < 0 else min(size, most))
        if len(data) > self._left:
            raise CheckpointError("its table of contents is too large for weights")
        self._left -= len(data)
        return data


def load(
    stream: BinaryIO | BoundedReader,
    find_global: Callable[[str], Global],
    load_persistent: Callable[[Any], Any],
) -> Any:
    """Rebuilds the object that a pickle describes.

    Args:
        stream: At the first byte of the pickle; afterwards just after its last.
        find_global: Returns the stand-in for `"module.name"`, or raises
            `CheckpointError`.
        load_persistent: Returns the stand-in for a persistent id.

    Returns:
        Plain values, dicts (also for ordered ones), lists, tuples and what the two
        functions return. Dict keys are plain values.

    Raises:
        CheckpointError: If the pickle is damaged or needs anything else.
    """
    machine = _Machine(find_global, load_persistent)
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if count >= MAX_INSTRUCTIONS:
                raise CheckpointError("its pickle is too long for weights")
            step = _STEPS.get(opcode.name)
            if step is None:
                raise CheckpointError(
                    f"its pickle uses {opcode.name}, which weights do not need"
                )
            step(machine, argument)
        return machine.result()
    except CheckpointError:
        raise
    except _DAMAGE as error:
        raise CheckpointError("its pickle is damaged") from error


def _as_dict(flat: list[Any]) -> dict:
    """Makes a dict of alternating keys and values; refuses keys that are slow to hash.

    Hashing a tuple walks everything in it, which nested references can make endless.
    """
    for key in flat[::2]:
        is_index = type(key) is int and key.bit_length() <= _MAX_KEY_BITS
        if not is_index and type(key) not in _KEY_TYPES:
            raise CheckpointError(
                f"expected plain dict keys. Received: a {type(key).__name__}"
            )
    return dict(zip(flat[::2], flat[1::2], strict=True))


class _Machine:
    """Stack, marks and memo, and a method for each instruction in `_STEPS`."""

    def __init__(
        self,
        find_global: Callable[[str], Global],
        load_persistent: Callable[[Any], Any],
    ):
        self._find_global = find_global
        self._load_persistent = load_persistent
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def result(self) -> Any:
        if len(self._stack) != 1 or self._marks:
            raise CheckpointError("its pickle is damaged: it does not end in one value")
        return self._stack[0]

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def push_integer(self, value: int) -> None:
        # Longer integers cannot be printed, and make arithmetic slow.
        if value.bit_length() > _MAX_INTEGER_BITS:
            raise CheckpointError("its pickle holds a number of more than 128 bits")
        self.push(value)

    def _pop(self, count: int = 1) -> list[Any]:
        floor = self._marks[-1] if self._marks else 0
        if len(self._stack) - count < floor:
            raise CheckpointError("its pickle is damaged: it pops from an empty stack")
        taken = self._stack[len(self._stack) - count :]
        del self._stack[len(self._stack) - count :]
        return taken

    def _pop_to_mark(self) -> list[Any]:
        taken = self._stack[self._marks[-1] :]
        del self._stack[self._marks.pop() :]
        return taken

    def _top(self) -> Any:
        (value,) = self._pop()
        self.push(value)
        return value

    def ignore(self, _: Any) -> None:
        pass

    def protocol(self, version: int) -> None:
        if version > _MAX_PROTOCOL:
            raise CheckpointError(f"its pickle has the unknown protocol {version}")

    def mark(self, _: None) -> None:
        self._marks.append(len(self._stack))

    def pop(self, _: None) -> None:
        # POP also closes an empty group.
        if self._marks and self._marks[-1] == len(self._stack):
            self._marks.pop()
        else:
            self._pop()

    def pop_to_mark(self, _: None) -> None:
        self._pop_to_mark()

    def duplicate(self, _: None) -> None:
        self.push(self._top())

    def put(self, index: int) -> None:
        self._memo[index] = self._top()

    def memoize(self, _: None) -> None:
        self._memo[len(self._memo)] = self._top()

    def get(self, index: int) -> None:
        self.push(self._memo[index])

    def group(self, make: Callable[[list], Any]) -> None:
        self.push(make(self._pop_to_mark()))

    def tuple_of(self, count: int) -> None:
        self.push(tuple(self._pop(count)))

    def extend(self, items: list[Any]) -> None:
        target = self._top()
        if type(target) is list:
            target.extend(items)
        elif not isinstance(target, Inert):
            raise CheckpointError(f"it appends to a {type(target).__name__}")

    def append(self, _: None) -> None:
        self.extend(self._pop())

    def append_all(self, _: None) -> None:
        self.extend(self._pop_to_mark())

    def update(self, flat: list[Any]) -> None:
        target = self._top()
        if type(target) is dict:
            target.update(_as_dict(flat))
        elif not isinstance(target, Inert):
            raise CheckpointError(f"it sets items of a {type(target).__name__}")

    def set_item(self, _: None) -> None:
        self.update(self._pop(2))

    def set_items(self, _: None) -> None:
        self.update(self._pop_to_mark())

    def name_global(self, names: str) -> None:
        self._push_global(names.split(" ", 1))

    def name_global_on_stack(self, _: None) -> None:
        self._push_global(self._pop(2))

    def _push_global(self, names: list[Any]) -> None:
        if any(type(n) is not str or len(n) > _MAX_NAME_LENGTH for n in names):
            raise CheckpointError(
                "its pickle names a global by no string, or a long one"
            )
        self.push(self._find_global(".".join(names)))

    def call(self, _: None) -> None:
        function, arguments = self._pop(2)
        if type(function) is not Global or type(arguments) is not tuple:
            raise CheckpointError(f"it calls a {type(function).__name__}")
        if function.build is None or len(arguments) > _MAX_ARGUMENTS:
            raise CheckpointError(f"it calls {function.name} as weights do not")
        self.push(function.build(*arguments))

    def set_state(self, _: None) -> None:
        # The state of an ordered dict is its attributes: torch's versions of layers.
        target, _ = self._pop(2)
        if type(target) is not dict and not isinstance(target, Inert):
            raise CheckpointError(f"it sets the state of a {type(target).__name__}")
        self.push(target)

    def persistent(self, _: None) -> None:
        (identity,) = self._pop()
        self.push(self._load_persistent(identity))


_Step = Callable[[_Machine, Any], None]
_STEPS: dict[str, _Step] = {
    "PROTO": _Machine.protocol,
    "FRAME": _Machine.ignore,
    "STOP": _Machine.ignore,
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": _Machine.pop_to_mark,
    "DUP": _Machine.duplicate,
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "LIST": lambda machine, _: machine.group(list),
    "TUPLE": lambda machine, _: machine.group(tuple),
    "DICT": lambda machine, _: machine.group(_as_dict),
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "APPEND": _Machine.append,
    "APPENDS": _Machine.append_all,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "GLOBAL": _Machine.name_global,
    "STACK_GLOBAL": _Machine.name_global_on_stack,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
    "BUILD": _Machine.set_state,
    "BINPERSID": _Machine.persistent,
    "MEMOIZE": _Machine.memoize,
    **dict.fromkeys(["LONG1", "LONG4"], _Machine.push_integer),
    **dict.fromkeys(["BINPUT", "LONG_BINPUT"], _Machine.put),
    **dict.fromkeys(["BINGET", "LONG_BINGET"], _Machine.get),
    **dict.fromkeys(["BININT", "BININT1", "BININT2", "BINFLOAT"], _Machine.push),
    **dict.fromkeys(["BINSTRING", "SHORT_BINSTRING"], _Machine.push),
    **dict.fromkeys(["SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"], _Machine.push),
    **dict.fromkeys(["SHORT_BINBYTES", "BINBYTES", "BINBYTES8"], _Machine.push),
}
