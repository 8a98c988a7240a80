"""Pickles of torch files: nothing is executed, memory and time are bounded."""

import os
import pickle
import struct
import time

import pytest
from torch_writer import (
    ORDERED_DICT,
    REBUILD,
    WRITERS,
    Call,
    Name,
    Persistent,
    Raw,
    emit,
    measured,
    pickled,
    read_all,
    refusal,
    six,
    storage,
    tensor,
    write_legacy,
    write_zip,
)

from bark_tf.convert import inert_pickle
from bark_tf.convert.checkpoints import open_checkpoint

# === Nothing is executed ===

CALLABLES = [
    ("os", "system"),
    ("posix", "system"),
    ("__builtin__", "eval"),
    ("builtins", "exec"),
    ("__builtin__", "getattr"),
    ("__builtin__", "__import__"),
    ("builtins", "type"),
    ("subprocess", "Popen"),
    ("pathlib", "Path.touch"),
    ("operator", "attrgetter"),
    ("functools", "partial"),
    ("copy_reg", "_reconstructor"),
    ("collections", "OrderedDict.fromkeys"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("torch", "load"),
    ("torch.storage", "_load_from_bytes"),
    ("torch._utils", "x.y"),
    ("torch._utils", "_rebuild_tensor_v2.__globals__"),
    ("torch.nn.modules.linear", "Linear"),
    ("bark_tf.convert.torch_files", "os.system"),
]


@WRITERS
@pytest.mark.parametrize("spelling", ["GLOBAL", "STACK_GLOBAL"])
@pytest.mark.parametrize(("module", "name"), CALLABLES)
def test_globals_are_refused_by_name(module, name, spelling, write, tmp_path):
    marker = tmp_path / "executed"
    named = Name(module, name)
    if spelling == "STACK_GLOBAL":
        named = Raw(emit(module) + emit(name) + b"\x93")
    attack = Call(named, (f"touch {marker}",))
    message = refusal(write(tmp_path / "x.bin", {"weight": six(), "extra": attack}))
    assert f"'{module}.{name}'" in message
    assert "nothing was executed" in message
    assert not marker.exists()


class Attack:
    """An attacker's object."""

    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


@WRITERS
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("function", [os.system, eval, exec])
def test_real_attacks(function, protocol, write, tmp_path):
    """The same bytes run in `pickle.load`, so the attack is real."""
    marker = tmp_path / "executed"
    code = f"touch {marker}" if function is os.system else f"open({str(marker)!r}, 'w')"
    data = pickle.dumps({"weight": Attack(function, code)}, protocol)
    message = refusal(write(tmp_path / "x.bin", data))
    assert f"{function.__name__}'" in message
    assert not marker.exists()
    if protocol == 2 and function is os.system:
        pickle.loads(data)
        assert marker.exists()


def test_attack_in_the_headers_of_a_legacy_file(tmp_path):
    attack = Call(Name("posix", "system"), ("exit 1",))
    path = write_legacy(tmp_path / "x.th", {"w": six()}, system=attack)
    assert "posix.system" in refusal(path)
    path.write_bytes(pickled(attack))
    assert "posix.system" in refusal(path)


def test_inert_names_do_nothing(tmp_path):
    marker = tmp_path / "executed"
    tree = {
        "one": Call(Name("fairseq.x", "os.system"), (f"touch {marker}",)),
        "two": Call(Name("argparse", "Namespace"), (), {"__class__": 1}),
        "model": {"w": six()},
    }
    assert list(read_all(write_zip(tmp_path / "x.pt", tree))) == ["w"]
    assert not marker.exists()


MACHINE_ABUSES = {
    "call of a text": b"X\x02\x00\x00\x00os)R",
    "call of a tuple": b"))R",
    "call of a tensor": emit(six()) + b")R",
    "call of a storage class": emit(Name("torch", "FloatStorage")) + b")R",
    "arguments not a tuple": emit(ORDERED_DICT) + b"]R",
    "new object with keywords": emit(ORDERED_DICT) + b")}\x92",
    "pairs for an ordered dict": emit(Call(ORDERED_DICT, ([(1, 2)],))),
    "wrong number of arguments": emit(Call(REBUILD, (1,))),
    "parameter of a text": emit(
        Call(Name("torch._utils", "_rebuild_parameter"), ("",))
    ),
    "rebuild by an inert name": emit(
        Call(
            Name("torch._tensor", "_rebuild_from_type_v2"),
            (Name("fairseq", "x"), None, (), None),
        )
    ),
    "state of a tensor": emit(six()) + b"}b",
    "state of a global": emit(ORDERED_DICT) + b"}b",
    "item of a global": emit(ORDERED_DICT) + b"NNs",
    "item of a list": b"]NNs",
    "append to a dict": b"}Na",
    "append to a tuple": b")Na",
    "odd items": b"}(Nu",
    "instance": b"(ios\nsystem\n",
    "object": b"(" + emit(ORDERED_DICT) + b"o",
    "extension": b"\x82\x01",
    "text persistent id": b"Pstorage\n",
    "persistent id of another kind": emit(Persistent(("module", 1, 2, 3, 4))),
    "persistent id with a number as key": emit(storage(0, 6)),
    "storage of a negative size": emit(storage("0", -6)),
    "storage of a dtype": emit(
        Persistent(("storage", Name("fairseq", "x"), "0", "cpu", 6))
    ),
    "tuple as key": b"}()Ns",
    "list as key": b"}]Ns",
    "number of 65 bits as key": b"}" + emit(2**65) + b"Ns",
    "number of 2000 bits": emit(2**2000),
    "number as global": b"K\x01K\x02\x93",
    "stack taken empty": b"00",
    "mark missing": b"t",
    "stack taken through a mark": b"N(\x85t0",
    "memo missing": b"h\x07",
    "nothing": b"",
    "two values": b"NN",
    "mark left": b"N(",
    "not an instruction": b"\xff",
    "protocol 9": b"\x80\x09N",
    "damaged text": b"X\x01\x00\x00\x00\xff",
}


@pytest.mark.parametrize("code", MACHINE_ABUSES.values(), ids=MACHINE_ABUSES)
def test_abuses_of_the_machine(code, tmp_path):
    """As the whole pickle, and next to a good tensor."""
    path = tmp_path / "x.bin"
    refusal(write_zip(path, b"\x80\x02" + code + b"."))
    refusal(write_zip(path, {"weight": six(), "extra": Raw(code)}))


@WRITERS
@pytest.mark.parametrize("rest", [b"N", b"(", b"(N"])
def test_more_than_one_value(rest, write, tmp_path):
    code = pickled({"weight": six()})[:-1] + rest + b"."
    assert "one value" in refusal(write(tmp_path / "x.bin", code))


# === Memory and time are bounded ===


@WRITERS
@pytest.mark.parametrize(
    "code",
    [
        b"\x8d" + struct.pack("<Q", 2**40),
        b"\x8d" + struct.pack("<Q", 2**62),
        b"\x8e" + struct.pack("<Q", 2**62),
        b"\x8e" + struct.pack("<Q", 2**64 - 1),
        b"B" + struct.pack("<I", 2**32 - 1),
        b"X" + struct.pack("<I", 2**32 - 1),
        b"T" + struct.pack("<i", 2**31 - 1),
        b"T" + struct.pack("<i", -1),
        b"\x8b" + struct.pack("<i", 2**31 - 1),
        b"\x8b" + struct.pack("<i", -1),
        b"I" + b"9" * 100_000 + b"\n",
        b"L" + b"9" * 100_000 + b"L\n",
        b"p" + b"9" * 100_000 + b"\n",
    ],
)
def test_sizes_beyond_the_pickle(code, write, tmp_path):
    path = write(tmp_path / "x.bin", b"\x80\x02" + code + b".")
    with measured() as peak:
        refusal(path)
    assert peak() < 2**22


def test_high_memo_numbers_cost_nothing(tmp_path):
    memo = Raw(b"Nr" + struct.pack("<I", 2**32 - 1))
    path = write_zip(tmp_path / "x.bin", {"weight": six(), "extra": memo})
    with measured() as peak:
        assert list(read_all(path)) == ["weight"]
    assert peak() < 2**22


LAUGH = Raw(b")" + b"2\x86" * 200)
DEEP = Raw(b"(" * 20_000 + b"l" * 20_000)
CYCLE = Raw(b"]q\x00h\x00a")


@pytest.mark.parametrize("value", [LAUGH, DEEP, CYCLE], ids=["laugh", "deep", "cycle"])
def test_endless_values_are_not_followed(value, tmp_path):
    tree = {"weight": six(), "extra": value, "more": {"x": value}, "good": 1}
    with open_checkpoint(write_zip(tmp_path / "x.bin", tree)) as checkpoint:
        assert checkpoint.names() == ["weight"]
        assert checkpoint.metadata == {"good": 1}
    for place in (
        tensor(storage("0", 6), value, (1,)),
        tensor(storage("0", 6), (1,), value),
        tensor(value, (1,), (1,)),
        tensor(storage("0", value), (1,), (1,)),
        tensor(storage(value, 6), (1,), (1,)),
        Raw(b"}" + emit(value) + b"Ns"),
        Persistent(value),
    ):
        refusal(write_zip(tmp_path / "x.bin", {"weight": place}))


def test_state_dict_inside_itself(tmp_path):
    cycle = Raw(b"}q\x00X\x05\x00\x00\x00modelh\x00s")
    assert "expected a dict of tensors" in refusal(write_zip(tmp_path / "x.bin", cycle))


def test_wide_metadata_is_left_out(tmp_path):
    row = b"](" + b"N" * 2000 + b"eq\x05"
    table = Raw(b"](" + row + b"h\x05" * 2000 + b"e")
    tree = {"weight": six(), "extra": table}
    with open_checkpoint(write_zip(tmp_path / "x.bin", tree)) as checkpoint:
        assert checkpoint.metadata == {}


REPEATED = {
    "arguments": (b"(" + b"N" * 1000 + b"t", emit(Name("fairseq", "x")), b"R0"),
    "names": (emit("x" * 1000), emit("fairseq"), b"\x930"),
    "sizes": (b"(" + b"N" * 1000 + b"t", emit(Name("torch", "Size")), b"\x85R0"),
}


@pytest.mark.parametrize("kind", REPEATED)
def test_one_large_value_cannot_be_used_again_and_again(kind, tmp_path):
    """Each use would cost its whole length: quadratic memory or time."""
    value, other, use = REPEATED[kind]
    code = value + b"q\x010" + (other + b"h\x01" + use)
    refusal(write_zip(tmp_path / "x.bin", {"weight": six(), "extra": Raw(code + b"N")}))


def test_long_pickles_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(inert_pickle, "MAX_INSTRUCTIONS", 1000)
    path = write_zip(tmp_path / "x.bin", {"weight": six(), "extra": [None] * 900})
    assert list(read_all(path)) == ["weight"]
    path = write_zip(tmp_path / "x.bin", {"weight": six(), "extra": [None] * 1000})
    assert "too long" in refusal(path)


@WRITERS
def test_large_pickles_are_refused(write, tmp_path, monkeypatch):
    monkeypatch.setattr(inert_pickle, "MAX_PICKLE_BYTES", 10_000)
    path = write(tmp_path / "x.bin", {"weight": six(), "extra": "x" * 9000})
    assert list(read_all(path)) == ["weight"]
    refusal(write(tmp_path / "x.bin", {"weight": six(), "extra": "x" * 10_000}))


def test_long_pickles_take_linear_time(tmp_path):
    path = write_zip(tmp_path / "x.bin", {"weight": six(), "extra": [None] * 200_000})
    start = time.perf_counter()
    read_all(path)
    assert time.perf_counter() - start < 5
