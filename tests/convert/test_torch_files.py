"""Files of torch.save: read without torch, and never executed.

The files are written here instruction by instruction, as torch writes them; the
reference tests at the end read torch's own.
"""

import contextlib
import json
import pickle
import random
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest
from torch_writer import (
    ORDERED_DICT,
    REBUILD,
    SIX,
    SYSTEM,
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

from bark_tf.convert import torch_files
from bark_tf.convert.checkpoints import CheckpointError, open_checkpoint

DTYPES = {
    "Float": np.float32,
    "Double": np.float64,
    "Half": np.float16,
    "BFloat16": ml_dtypes.bfloat16,
    "Long": np.int64,
    "Int": np.int32,
    "Short": np.int16,
    "Char": np.int8,
    "Byte": np.uint8,
    "Bool": np.bool_,
    "ComplexFloat": np.complex64,
}


# === What is read ===


@WRITERS
def test_dtypes(write, tmp_path):
    storages = {
        kind: np.array([0, 1, 2, 3]).astype(dtype) for kind, dtype in DTYPES.items()
    }
    tree = {kind: tensor(storage(kind, 4, kind), (4,), (1,)) for kind in DTYPES}
    with open_checkpoint(write(tmp_path / "model.bin", tree, storages)) as checkpoint:
        assert checkpoint.names() == list(DTYPES)
        for kind, expected in storages.items():
            array = checkpoint.read(kind)
            assert checkpoint.dtype(kind) == array.dtype == expected.dtype
            assert checkpoint.shape(kind) == (4,)
            np.testing.assert_array_equal(array, expected)
            # TensorFlow and others may assume what numpy only usually gives.
            assert array.flags.aligned


@WRITERS
def test_layouts_over_one_storage(write, tmp_path):
    tree = {
        "plain": six(),
        "transposed": six((3, 2), (1, 3)),
        "slice": six((2,), (1,), first=3),
        "column": six((2,), (3,), first=1),
        "scalar": six((), (), first=5),
        "empty": six((0, 4), (4, 1)),
        "expanded": six((2, 4), (1, 0), first=2),
    }
    arrays = read_all(write(tmp_path / "model.bin", tree))
    expected = {
        "plain": [[0, 1, 2], [3, 4, 5]],
        "transposed": [[0, 3], [1, 4], [2, 5]],
        "slice": [3, 4],
        "column": [1, 4],
        "scalar": 5,
        "empty": np.empty((0, 4)),
        "expanded": [[2] * 4, [3] * 4],
    }
    assert arrays.keys() == expected.keys()
    for name, values in expected.items():
        assert arrays[name].shape == np.shape(values)
        np.testing.assert_array_equal(arrays[name], values, err_msg=name)


def test_parameters_and_tensors_of_newer_torch(tmp_path):
    untyped = Persistent(
        ("storage", Name("torch.storage", "UntypedStorage"), "1", "cpu", 4)
    )
    typed = (untyped, 1, (1,), (1,), False, Call(ORDERED_DICT, ()))
    rebuild = six().arguments
    tree = {
        "parameter": Call(
            Name("torch._utils", "_rebuild_parameter"),
            (six(), True, Call(ORDERED_DICT, ())),
        ),
        "uint16": Call(
            Name("torch._utils", "_rebuild_tensor_v3"),
            (*typed, Name("torch", "uint16")),
        ),
        "with attributes": Call(
            Name("torch._tensor", "_rebuild_from_type_v2"),
            (REBUILD, Name("torch", "Tensor"), rebuild, {"note": 1}),
        ),
    }
    storages = {"0": SIX, "1": np.array([7, 65535], np.uint16)}
    arrays = read_all(write_zip(tmp_path / "model.bin", tree, storages))
    np.testing.assert_array_equal(arrays["parameter"], SIX.reshape(2, 3))
    np.testing.assert_array_equal(arrays["with attributes"], SIX.reshape(2, 3))
    assert arrays["uint16"].dtype == np.uint16 and arrays["uint16"].tolist() == [65535]


@pytest.mark.parametrize(
    "nest",
    [
        lambda state: state,
        lambda state: {"model": state},
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"best_state": {"model": state}, "history": []},
        lambda state: {"model": {"name": "x"}, "state_dict": state},
    ],
)
def test_finds_the_state_dict(nest, tmp_path):
    # An ordered dict with attributes, as Module.state_dict() makes it.
    state = Call(ORDERED_DICT, (), {"_metadata": Call(ORDERED_DICT, ())})
    items = emit("b.weight") + emit(six()) + emit("a") + emit(six((1,), (1,)))
    state = Raw(emit(state._replace(state=None)) + b"(" + items + b"u" + b"}b")
    arrays = read_all(write_zip(tmp_path / "x.pth", nest(state)))
    assert list(arrays) == ["b.weight", "a"]


def test_suno_file(tmp_path):
    """The optimizer's storages are not looked up: here they do not exist."""
    arguments = {"n_layer": 24, "bias": False, "dropout": 0.0, "block_size": 1024}
    moment = tensor(storage("moment", 10**9), (10**9,), (1,))
    tree = {
        "model_args": arguments,
        "optimizer": {"state": {0: {"step": 5, "exp_avg": moment}}, "param_groups": []},
        "model": {"_orig_mod.lm_head.weight": six()},
        "best_val_loss": six((), ()),
        "iter_num": 1000,
    }
    with open_checkpoint(write_zip(tmp_path / "text.pt", tree)) as checkpoint:
        assert checkpoint.names() == ["_orig_mod.lm_head.weight"]
        assert checkpoint.metadata == {"model_args": arguments, "iter_num": 1000}


@WRITERS
def test_settings_of_trainers_are_inert(write, tmp_path):
    tree = {
        "args": Call(Name("argparse", "Namespace"), (), {"lr": 1.0}),
        "cfg": Call(Name("omegaconf.dictconfig", "DictConfig"), ({"a": 1},)),
        "task": Call(Name("fairseq.data.dictionary", "Dictionary"), ()),
        "kept": {"list": [1, 2.5, None, "x", (True,)]},
        "model": {"weight": six()},
    }
    with open_checkpoint(write(tmp_path / "hubert.pt", tree)) as checkpoint:
        assert checkpoint.metadata == {"kept": {"list": [1, 2.5, None, "x", (True,)]}}


def test_members_that_others_add_are_ignored(tmp_path):
    path = write_zip(tmp_path / "quantifier.pth", {"w": six()}, **{".info": b"{}"})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("elsewhere/.info", "{}")
    np.testing.assert_array_equal(read_all(path)["w"], SIX.reshape(2, 3))


def test_compressed_members(tmp_path):
    path = write_zip(
        tmp_path / "x.bin", {"w": six((3, 2), (1, 3))}, compression=zipfile.ZIP_DEFLATED
    )
    np.testing.assert_array_equal(read_all(path)["w"], SIX.reshape(2, 3).T)


def test_newer_pickle_protocols(tmp_path):
    """MEMOIZE, frames, STACK_GLOBAL and short strings, as in `pickle_protocol=4`."""
    name = b"\x8c\x05torch\x8c\x0cFloatStorage\x93\x94"
    identity = b"(\x8c\x07storage\x94" + name + b"\x8c\x010\x8c\x03cpuK\x06tQ"
    rebuild = b"\x8c\x0ctorch._utils\x8c\x12_rebuild_tensor_v2\x93"
    arguments = b"(" + identity + b"K\x00K\x06\x85K\x01\x85\x89Nt"
    body = b"}\x8c\x01w" + rebuild + arguments + b"Rs."
    code = b"\x80\x04\x95" + struct.pack("<Q", len(body)) + body
    np.testing.assert_array_equal(read_all(write_zip(tmp_path / "x", code))["w"], SIX)


def test_zip64_structures(tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 1)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
    path = write_zip(tmp_path / "x.bin", {"w": six()})
    monkeypatch.undo()
    content = path.read_bytes()
    assert b"PK\x06\x06" in content and b"PK\x06\x07" in content
    np.testing.assert_array_equal(read_all(path)["w"], SIX.reshape(2, 3))


def test_zip_files_over_4_gigabytes(tmp_path):
    """A sparse file: large, but a few kilobytes on disk."""
    path = tmp_path / "text_2.pt"
    with open(path, "w+b") as handle, zipfile.ZipFile(handle, "w") as archive:
        archive.writestr("archive/version", b"3\n")
        archive.start_dir = 5 * 2**30 + 3
        archive.writestr("archive/data.pkl", pickled({"w": six()}))
        archive.writestr("archive/data/0", SIX.tobytes())
    if path.stat().st_blocks * 512 > 2**20:
        pytest.skip("the file system has no holes")
    assert path.stat().st_size > 5 * 2**30
    np.testing.assert_array_equal(read_all(path)["w"], SIX.reshape(2, 3))


@WRITERS
def test_tensors_are_mapped_not_loaded(write, tmp_path):
    large = np.ones(2**22, np.uint8)
    tree = {"w": tensor(storage("0", large.size, "Byte"), (large.size,), (1,))}
    path = write(tmp_path / "x.bin", tree, {"0": large})
    with measured() as peak, open_checkpoint(path) as checkpoint:
        array = checkpoint.read("w")
    assert peak() < large.nbytes / 8
    # After the file was closed:
    assert array.sum() == large.size
    assert not array.flags.writeable


def test_index_of_shards(tmp_path):
    write_zip(tmp_path / "pytorch_model-00001-of-00002.bin", {"a": six()})
    write_legacy(tmp_path / "pytorch_model-00002-of-00002.bin", {"b": six((), ())})
    weight_map = {
        "a": "pytorch_model-00001-of-00002.bin",
        "b": "pytorch_model-00002-of-00002.bin",
    }
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    shapes = {name: array.shape for name, array in read_all(tmp_path).items()}
    assert shapes == {"a": (2, 3), "b": ()}


def test_storage_views_of_old_torch(tmp_path):
    view = storage("0", 6, "Float", ("view", 2, 3))
    path = write_legacy(tmp_path / "x.th", {"w": tensor(view, (2,), (1,), first=1)})
    assert read_all(path)["w"].tolist() == [3, 4]
    path = write_legacy(tmp_path / "x.th", {"w": tensor(view, (3,), (1,), first=1)})
    assert "exceeds its storage" in refusal(path)
    view = storage("0", 6, "Float", ("view", 4, 3))
    path = write_legacy(tmp_path / "x.th", {"w": tensor(view, (3,), (1,))})
    assert "view exceeds" in refusal(path)


# === Tensors that do not fit ===

BAD_TENSORS = {
    "too long": six((7,), (1,)),
    "too late": six((1,), (1,), first=6),
    "too wide": six((2, 3), (4, 1)),
    "empty far away": six((0,), (1,), first=7),
    "negative first": six((2,), (1,), first=-1),
    "negative length": six((-1,), (1,)),
    "negative lengths with a positive product": six((-2, -3), (3, 1)),
    "negative stride": six((2,), (-1,)),
    "overflow to zero": six((2**32, 2**32), (0, 0)),
    "overflow with zero": six((0, 2**62, 2**62), (0, 0, 0)),
    "length over 64 bits": six((2**64 + 1,), (0,)),
    "stride over 64 bits": six((2,), (2**64,)),
    "first over 64 bits": six((1,), (1,), first=2**64),
    "repeated a billion times": six((2**30,), (0,)),
    "fraction": six((1.0,), (1,)),
    "truth": six((True,), (1,)),
    "list of lengths": six([7], [1]),
    "text": six("6", (1,)),
    "fewer strides": six((2, 3), (1,)),
    "33 axes": six((1,) * 33, (1,) * 33),
    "storage is a number": tensor(3, (1,), (1,)),
    "storage is too large": six(count=2**62),
    "storage is larger than its data": six(count=7),
    "storage is smaller than its data": six(count=5, shape=(5,), strides=(1,)),
    "conjugated": Call(REBUILD, (*six().arguments, {"conj": True}), None),
}


@WRITERS
@pytest.mark.parametrize("bad", BAD_TENSORS.values(), ids=BAD_TENSORS)
def test_bad_tensors(bad, write, tmp_path):
    refusal(write(tmp_path / "x.bin", {"good": six((), ()), "bad": bad}))


@WRITERS
def test_storage_with_two_descriptions(write, tmp_path):
    other = tensor(storage("0", 3, "Double"), (3,), (1,))
    refusal(write(tmp_path / "x.bin", {"a": six(), "b": other}))


@WRITERS
@pytest.mark.parametrize("tree", [None, 5, [six()], {}, {"a": 1}, {1: six()}, six()])
def test_no_state_dict(tree, write, tmp_path):
    refusal(write(tmp_path / "x.bin", tree, {}))


# === Damaged and hostile containers ===


@WRITERS
def test_truncated_everywhere(write, tmp_path):
    path = write(tmp_path / "x.bin", {"w": six()})
    content = path.read_bytes()
    for length in [*range(0, len(content), 3), len(content) - 1]:
        path.write_bytes(content[:length])
        refusal(path)


@WRITERS
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_random_damage_is_read_or_refused(write, compression, tmp_path):
    more = {"compression": compression} if write is write_zip else {}
    path = write(tmp_path / "x.bin", {"w": six(), "n": {"a": [1, 2]}}, **more)
    content = path.read_bytes()
    rng = random.Random(0)
    for _ in range(150):
        damaged = bytearray(content)
        for _ in range(rng.randint(1, 3)):
            damaged[rng.randrange(len(damaged))] = rng.choice(b"\x00\xff.(RQbthu0")
        path.write_bytes(damaged)
        with contextlib.suppress(CheckpointError):
            for array in read_all(path).values():
                array.copy()


@pytest.mark.parametrize("kind", ["zip", "legacy"])
def test_big_endian_is_refused(kind, tmp_path):
    path = tmp_path / "x.bin"
    if kind == "zip":
        write_zip(path, {"w": six()}, byteorder=b"big")
    else:
        write_legacy(path, {"w": six()}, system={**SYSTEM, "little_endian": False})
    assert "little-endian" in refusal(path)


@pytest.mark.parametrize(
    "name", ["../evil", "/evil", "archive/../../evil", "c:/evil", "..", "a\\b"]
)
def test_zip_paths_that_leave_are_refused(name, tmp_path):
    path = write_zip(tmp_path / "x.bin", {"w": six()})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, "x")
    assert "path" in refusal(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_zip_members_with_the_same_name(tmp_path):
    path = write_zip(tmp_path / "x.bin", {"w": six()})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/data/0", b"x" * 24)
    assert "twice" in refusal(path)


def test_zip_without_the_storage(tmp_path):
    assert "data/0" in refusal(write_zip(tmp_path / "x.bin", {"w": six()}, {}))


def test_storage_keys_are_no_paths(tmp_path):
    evil = tensor(storage("../data.pkl", 6), (1,), (1,))
    assert "lacks" in refusal(write_zip(tmp_path / "x.bin", {"w": evil}))


def test_other_zip_files(tmp_path):
    path = write_zip(tmp_path / "x.bin", {"w": six()}, **{"constants.pkl": b""})
    assert "TorchScript" in refusal(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", b"")
    assert "torch.save" in refusal(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"")
        archive.writestr("b/data.pkl", b"")
    assert "one data.pkl" in refusal(path)


def edit_directory(path, name, field, value):
    """Overwrites a field of a member's entry in the zip directory."""
    offset, form = {
        "flags": (8, "<H"),
        "method": (10, "<H"),
        "checksum": (16, "<I"),
        "packed": (20, "<I"),
        "size": (24, "<I"),
        "header": (42, "<I"),
    }[field]
    content = bytearray(path.read_bytes())
    entry = content.rindex(name.encode()) - 46
    assert content[entry : entry + 4] == b"PK\x01\x02"
    struct.pack_into(form, content, entry + offset, value)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", ["archive/data/0", "archive/data.pkl"])
@pytest.mark.parametrize(
    ("compression", "field", "value"),
    [
        (zipfile.ZIP_STORED, "size", 48),
        (zipfile.ZIP_STORED, "packed", 2**31),
        (zipfile.ZIP_STORED, "packed", 4),
        (zipfile.ZIP_STORED, "header", 1),
        (zipfile.ZIP_STORED, "header", 2**32 - 2),
        (zipfile.ZIP_STORED, "flags", 1),
        (zipfile.ZIP_STORED, "method", 99),
        (zipfile.ZIP_DEFLATED, "size", 4),
        (zipfile.ZIP_DEFLATED, "size", 48),
        (zipfile.ZIP_DEFLATED, "size", 2**32 - 2),
        (zipfile.ZIP_DEFLATED, "packed", 3),
        (zipfile.ZIP_DEFLATED, "packed", 2**31),
        (zipfile.ZIP_DEFLATED, "checksum", 0),
        (zipfile.ZIP_DEFLATED, "method", 12),
    ],
)
def test_zip_directories_that_lie(name, compression, field, value, tmp_path):
    path = write_zip(tmp_path / "x.bin", {"w": six()}, compression=compression)
    with measured() as peak:
        refusal(edit_directory(path, name, field, value))
    assert peak() < 2**24


def test_zip_members_under_the_name_of_another(tmp_path):
    storages = {"0": SIX, "1": SIX + 1}
    path = write_zip(tmp_path / "x.bin", {"w": six()}, storages)
    with zipfile.ZipFile(path) as archive:
        other = archive.getinfo("archive/data/1").header_offset
    edit_directory(path, "archive/data/0", "header", other)
    assert "not where the directory says" in refusal(path)


def test_zip_bombs_are_refused(tmp_path):
    """70 MB of zeros in 70 kB; the same claim without the zeros is refused as well."""
    count = 70 * 2**18
    tree = {"w": tensor(storage("0", count), (count,), (1,))}
    zeros = {"0": np.zeros(count, np.float32)}
    path = write_zip(tmp_path / "x", tree, zeros, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2**17
    with measured() as peak:
        assert "claims to unpack" in refusal(path)
    assert peak() < 2**22


def test_inflating_stops_at_the_claimed_size(tmp_path):
    zeros = {"0": np.zeros(2**22, np.float32)}
    path = write_zip(
        tmp_path / "x.bin", {"w": six()}, zeros, compression=zipfile.ZIP_DEFLATED
    )
    edit_directory(path, "archive/data/0", "size", 24)
    with measured() as peak:
        assert "damaged" in refusal(path)
    assert peak() < 2**22


def test_large_zip_directories_are_refused(tmp_path, monkeypatch):
    path = write_zip(tmp_path / "x.bin", {"w": six()})
    monkeypatch.setattr(torch_files, "_MAX_DIRECTORY_BYTES", 200)
    assert "too large" in refusal(path)


@pytest.mark.parametrize(
    "keys", [[], ["0", "1"], ["0", "0"], ["1"], [0], "0", {"0": 1}, None]
)
def test_legacy_keys_that_lie(keys, tmp_path):
    if keys is None:
        keys = Call(Name("fairseq", "x"), ())
    refusal(write_legacy(tmp_path / "x.th", {"w": six()}, keys=keys))


@pytest.mark.parametrize("count", [-1, -(2**63), 5, 7, 2**62, 2**63 - 1])
def test_legacy_storage_counts_that_lie(count, tmp_path):
    path = write_legacy(tmp_path / "x.th", {"w": six()})
    content = path.read_bytes()
    start = len(content) - SIX.nbytes - 8
    path.write_bytes(content[:start] + struct.pack("<q", count) + content[start + 8 :])
    refusal(path)


def test_pickles_that_are_no_checkpoint(tmp_path):
    path = tmp_path / "x.pt"
    path.write_bytes(pickle.dumps({"a": 1}, protocol=2))
    assert "another pickle" in refusal(path)
    path.write_bytes(pickle.dumps(np.zeros(3), protocol=2))
    assert "multiarray" in refusal(path)


# === Against torch ===


@pytest.fixture(params=["zip", "legacy", "zip, protocol 4"])
def save(request, tmp_path):
    """Saves with torch and opens with us."""
    torch = pytest.importorskip("torch")
    options = {
        "zip": {},
        "legacy": {"_use_new_zipfile_serialization": False},
        "zip, protocol 4": {"pickle_protocol": 4},
    }[request.param]

    def save_and_open(tree):
        torch.save(tree, tmp_path / "x.pt", **options)
        return open_checkpoint(tmp_path / "x.pt")

    return save_and_open


def assert_same(checkpoint, expected):
    """Equal names, shapes, dtypes and bits."""
    import torch

    with checkpoint:
        assert checkpoint.names() == list(expected)
        for name, value in expected.items():
            array = checkpoint.read(name)
            value = value.detach()
            assert array.shape == checkpoint.shape(name) == tuple(value.shape)
            assert f"torch.{checkpoint.dtype(name).name}" == str(value.dtype)
            ours = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            theirs = value.contiguous().reshape(-1).view(torch.uint8).numpy()
            np.testing.assert_array_equal(ours, theirs, err_msg=name)


@pytest.mark.reference
def test_against_torch_dtypes(save):
    import torch

    names = "float16 bfloat16 float32 float64 int8 uint8 int16 int32 int64 bool"
    names += " complex64 complex128 uint16 uint32 uint64 float8_e4m3fn float8_e5m2"
    state = {
        name: (torch.rand(3, 5) * 2).to(getattr(torch, name)) for name in names.split()
    }
    assert_same(save(state), state)


@pytest.mark.reference
def test_against_torch_views(save):
    import torch

    base = torch.randn(4, 6)
    state = {
        "base": base,
        "tied": base,
        "transposed": base.T,
        "rows": base[1:3],
        "columns": base[:, 1::2],
        "permuted": torch.randn(2, 3, 4).permute(2, 0, 1),
        "expanded": torch.randn(3, 1).expand(3, 5),
        "scalar": torch.tensor(3.5),
        "element": base[2, 3],
        "empty": torch.zeros(0, 3),
        "empty slice": base[4:],
        "parameter": torch.nn.Parameter(torch.randn(2)),
        "buffer": torch.nn.Parameter(torch.ones(2), requires_grad=False),
        "half": torch.randn(5).to(torch.bfloat16)[1:4],
    }
    state["with attributes"] = torch.randn(3)
    state["with attributes"].note = "kept by torch"
    assert_same(save(state), state)


@pytest.mark.reference
def test_against_torch_modules(save):
    import torch

    module = torch.nn.Sequential(
        torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 3)
    )
    module[2].weight = torch.nn.Parameter(module[0].weight.detach().T)
    state = module.state_dict()
    assert state._metadata
    assert_same(save(state), state)
    assert_same(save({"best_state": dict(state)}), state)
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    arguments = {"n_layer": 12, "bias": False, "dropout": 0.0}
    tree = {
        "model": module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "model_args": arguments,
        "best_val_loss": torch.tensor(2.5),
        "device": torch.device("cpu"),
        "dtype": torch.float16,
        "size": torch.Size([1, 2]),
    }
    checkpoint = save(tree)
    assert checkpoint.metadata == {"model_args": arguments, "size": (1, 2)}
    assert_same(checkpoint, module.state_dict())


@pytest.mark.reference
def test_against_torch_whole_modules_are_refused(save):
    import torch

    with pytest.raises(CheckpointError, match=r"torch\.nn\.modules\.linear\.Linear"):
        save(torch.nn.Linear(2, 2))
