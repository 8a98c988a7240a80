"""The safetensors format: agrees with its package, and refuses damaged files."""

import contextlib
import json
import random
import struct

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from bark_tf.convert import safetensors_files
from bark_tf.convert.checkpoints import CheckpointError, open_checkpoint
from bark_tf.convert.file_tensors import LazyTensor
from bark_tf.convert.safetensors_files import check_tensor, write_safetensors

NUMPY_DTYPES = "bool uint8 int8 uint16 int16 uint32 int32 uint64 int64"
NUMPY_DTYPES = (NUMPY_DTYPES + " float16 float32 float64").split()


def source(name, array):
    return LazyTensor(name, array.shape, array.dtype, lambda: array)


def write(path, arrays, metadata=None):
    sources = [source(name, array) for name, array in arrays.items()]
    write_safetensors(path, sources, metadata or {})
    return path


def arrays_of_all_dtypes():
    values = np.array([[0, 1, 2], [3, 4, 5]])
    arrays = {f"t.{name}": values.astype(name) for name in NUMPY_DTYPES}
    return arrays | {
        "scalar": np.float32(3.5).reshape(()),
        "empty": np.zeros((0, 4), np.int16),
        "strided": values.T.astype(np.float32)[::2],
        "big endian": values.astype(">f4"),
        "ünïcode": values.astype(np.int8)[:, :1],
    }


def test_reads_what_the_package_writes(tmp_path):
    arrays = arrays_of_all_dtypes()
    expected = {
        name: np.ascontiguousarray(array, array.dtype.newbyteorder("="))
        for name, array in arrays.items()
    }
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(expected, path, metadata={"format": "pt"})
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.metadata == {"format": "pt"}
        assert sorted(checkpoint.names()) == sorted(expected)
        for name, array in expected.items():
            assert checkpoint.shape(name) == array.shape
            assert checkpoint.dtype(name) == array.dtype
            read = checkpoint.read(name)
            assert read.shape == array.shape and read.dtype == array.dtype
            np.testing.assert_array_equal(read, array)


def test_the_package_reads_what_is_written(tmp_path):
    arrays = arrays_of_all_dtypes()
    path = write(tmp_path / "model.safetensors", arrays, {"format": "pt"})
    with safetensors.safe_open(path, framework="numpy") as opened:
        assert opened.metadata() == {"format": "pt"}
    loaded = safetensors.numpy.load_file(path)
    assert loaded.keys() == arrays.keys()
    for name, array in arrays.items():
        assert loaded[name].dtype == array.dtype.newbyteorder("=")
        np.testing.assert_array_equal(loaded[name], array, err_msg=name)
        np.testing.assert_array_equal(loaded[name].shape, array.shape, err_msg=name)


def test_bfloat16(tmp_path):
    array = np.array([1.5, -2.25, 3e38], ml_dtypes.bfloat16)
    path = write(tmp_path / "model.safetensors", {"w": array})
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.dtype("w") == checkpoint.read("w").dtype == array.dtype
        np.testing.assert_array_equal(checkpoint.read("w"), array)
    assert b'"BF16"' in path.read_bytes()


def test_written_tensors_are_aligned(tmp_path):
    """Multiples of 64 bytes first; then the widest, so that odd sizes come last."""
    arrays = {
        "a": np.ones(3, np.int8),
        "b": np.ones(3),
        "c": np.ones(3, np.float16),
        "d": np.ones(64, np.int8),
        "e": np.ones((4, 16), np.float32),
    }
    path = write(tmp_path / "x.safetensors", arrays)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.names() == ["e", "d", "b", "c", "a"]
        pointers = {
            name: checkpoint.read(name).__array_interface__["data"][0]
            for name in arrays
        }
    assert pointers["d"] % 64 == pointers["e"] % 64 == 0
    assert pointers["b"] % 8 == 0 and pointers["c"] % 2 == 0


@pytest.mark.parametrize(
    ("shape", "dtype"), [((2, 2), "float32"), ((3,), "float32"), ((2,), "float64")]
)
def test_arrays_that_are_not_what_was_said(shape, dtype, tmp_path):
    said = LazyTensor("w", (2,), np.dtype("f4"), lambda: np.zeros(shape, dtype))
    with pytest.raises(ValueError, match="'w' of shape"):
        write_safetensors(tmp_path / "x.safetensors", [said], {})


@pytest.mark.parametrize(
    ("name", "dtype"), [("w", "complex128"), ("w", "U3"), ("__metadata__", "float32")]
)
def test_sources_that_the_format_cannot_hold(name, dtype):
    with pytest.raises(ValueError, match="safetensors can hold"):
        check_tensor(LazyTensor(name, (2,), dtype, lambda: None))


# === Damaged and hostile files ===


def entry(start=0, stop=8, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


def raw(path, header, data=b"\0" * 8, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    length = len(text) if length is None else length
    path.write_bytes(struct.pack("<Q", length) + text + data)
    return path


def refusal(path):
    with pytest.raises(CheckpointError) as caught, open_checkpoint(path):
        pass
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


def test_the_format_by_hand(tmp_path):
    path = raw(tmp_path / "x.safetensors", {"w": entry()}, struct.pack("<2f", 1, 2))
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.read("w").tolist() == [1, 2]


@pytest.mark.parametrize("length", [0, 1, 10**4, 2**25 + 1, 2**40, 2**63, 2**64 - 1])
def test_header_lengths_that_lie(length, tmp_path):
    refusal(raw(tmp_path / "x.safetensors", {"w": entry()}, length=length))


def test_long_headers_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(safetensors_files, "MAX_HEADER_BYTES", 20)
    assert "header of" in refusal(raw(tmp_path / "x.safetensors", {"w": entry()}))


HEADERS = {
    "overlap": {"a": entry(), "b": entry(4, 12)},
    "same place twice": {"a": entry(), "b": entry()},
    "gap": {"a": entry(0, 4, (1,)), "b": entry(6, 8, (1,), "F16")},
    "starts late": {"a": entry(4, 8, (1,))},
    "ends early": {"a": entry(0, 4, (1,))},
    "leaves the file": {"a": entry(0, 16, (4,))},
    "negative": {"a": entry(-8, 0)},
    "backwards": {"a": entry(8, 0)},
    "shape too small": {"a": entry(0, 8, (1,))},
    "shape too large": {"a": entry(0, 8, (3,))},
    "negative shape": {"a": entry(0, 8, (-1, -2))},
    "overflow": {"a": entry(0, 8, (2**62, 2**62))},
    "overflow with zero": {"a": entry(0, 0, (0, 2**62, 2**62)), "b": entry()},
    "fraction": {"a": entry(0, 8, (2.0,))},
    "truth": {"a": entry(0, 4, (True,)), "b": entry(4, 8, (1,))},
    "text": {"a": entry(0, 8, ("2",))},
    "33 axes": {"a": entry(0, 8, (2, *[1] * 32))},
    "dtype": {"a": entry(dtype="F4")},
    "dtype is a list": {"a": entry(dtype=["F32"])},
    "no offsets": {"a": {"dtype": "F32", "shape": [2]}},
    "three offsets": {"a": {**entry(), "data_offsets": [0, 8, 8]}},
    "more keys": {"a": {**entry(), "pickle": 1}},
    "not a dict": {"a": [1]},
    "shape is a number": {"a": {**entry(), "shape": 2}},
    "metadata is not texts": {"a": entry(), "__metadata__": {"a": 1}},
    "metadata is a list": {"a": entry(), "__metadata__": []},
    "list": [],
    "number": 1,
    "not JSON": b"{'a': 1}",
    "not UTF-8": b'{"\xff": 1}',
    "deep": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "long number": b'{"a":' + b"9" * 10_000 + b"}",
    "twice": b'{"a":%s,"a":%s}' % ((json.dumps(entry()).encode(),) * 2),
    "infinity": b'{"a":{"dtype":"F32","shape":[Infinity],"data_offsets":[0,8]}}',
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_headers_that_lie(header, tmp_path):
    refusal(raw(tmp_path / "x.safetensors", header))


def test_truncated_everywhere(tmp_path):
    path = write(tmp_path / "x.safetensors", {"a": np.ones(3), "b": np.ones(2, "i1")})
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        refusal(path)
    path.write_bytes(content + b"\0")
    assert "truncated or too long" in refusal(path)


def test_random_damage_is_read_or_refused(tmp_path):
    path = write(tmp_path / "x.bin", {"a": np.ones(3), "b": np.ones(2, "i1")})
    content = path.read_bytes()
    rng = random.Random(0)
    for _ in range(200):
        damaged = bytearray(content)
        damaged[rng.randrange(len(damaged))] = rng.choice(b'\x00\xff"{}[],:019-eI')
        path.write_bytes(damaged)
        with contextlib.suppress(CheckpointError), open_checkpoint(path) as checkpoint:
            for name in checkpoint.names():
                checkpoint.read(name).copy()


# === Against torch ===


@pytest.mark.reference
def test_against_torch(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file, save_file

    names = "float16 bfloat16 float32 float64 int8 uint8 int64 bool complex64"
    names += " float8_e4m3fn float8_e5m2"
    state = {
        name: (torch.rand(3, 5) * 2).to(getattr(torch, name)) for name in names.split()
    }
    save_file(state, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    with open_checkpoint(tmp_path / "theirs.safetensors") as checkpoint:
        arrays = {name: checkpoint.read(name) for name in checkpoint.names()}
        write(tmp_path / "ours.safetensors", arrays, {"format": "pt"})
    loaded = load_file(tmp_path / "ours.safetensors")
    assert loaded.keys() == arrays.keys() == state.keys()
    for name, value in state.items():
        assert arrays[name].dtype.name == name
        assert loaded[name].dtype == value.dtype
        bits = [tensor.view(torch.uint8) for tensor in (loaded[name], value)]
        assert torch.equal(*bits)
