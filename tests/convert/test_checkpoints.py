"""Opening checkpoints of any kind, and writing them completely or not at all."""

import errno
import json
import os
import tracemalloc
import warnings
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from bark_tf import saving
from bark_tf.convert import checkpoints
from bark_tf.convert.checkpoints import (
    CheckpointError,
    open_checkpoint,
    write_checkpoint,
)

INDEX = "model.safetensors.index.json"
SHARD = "model-{:05d}-of-{:05d}.safetensors"


@pytest.fixture(autouse=True)
def no_waiting_for_disks(monkeypatch):
    """Skips syncing to disk, which only one test checks."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def items(arrays):
    """Arrays as `write_checkpoint` takes them."""
    return [
        (name, array.shape, array.dtype, lambda array=array: array)
        for name, array in arrays.items()
    ]


def numbered(value, count=4):
    """Tensors of 40 bytes that hold `value`."""
    return {f"layer_{i}": np.full(10, value, np.float32) for i in range(count)}


def read_all(path):
    with open_checkpoint(path) as checkpoint:
        return {name: checkpoint.read(name) for name in checkpoint.names()}


def values(path):
    """The one number that fills a checkpoint of `numbered`."""
    (value,) = {float(v) for array in read_all(path).values() for v in array}
    return value


def files(directory):
    return sorted(path.name for path in directory.iterdir())


# === Opening ===


def test_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"pytorch_model\.bin"):
        open_checkpoint(tmp_path)
    with pytest.raises(FileNotFoundError):
        open_checkpoint(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected a safetensors file"),
        (b"\x89HDF\r\n\x1a\n", "expected a safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer"),
    ],
)
@pytest.mark.parametrize("name", ["model.bin", "model.safetensors"])
def test_other_files(name, content, message, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(path)
    assert str(path) in str(caught.value)


def test_safetensors_come_first_in_a_directory(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"broken")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin: "):
        open_checkpoint(tmp_path)
    write_checkpoint(tmp_path, items(numbered(1)), max_shard_size=100)
    assert values(tmp_path) == 1
    assert values(tmp_path / INDEX) == 1
    safetensors.numpy.save_file(numbered(2), tmp_path / "model.safetensors")
    assert values(str(tmp_path)) == 2


def test_the_content_decides_not_the_name(tmp_path):
    safetensors.numpy.save_file(numbered(2), tmp_path / "text.pt")
    assert values(tmp_path / "text.pt") == 2


def test_headers_that_look_like_other_formats(tmp_path):
    """A safetensors file starts with the length of its header, whatever its bytes."""
    for magic in (b"PK", b"\x80\x02"):
        arrays = {"w": np.ones(3, np.float32)}
        length = int.from_bytes(magic, "little")
        text = '{"w":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}}'
        header = length.to_bytes(8, "little") + text.ljust(length).encode()
        (tmp_path / "x.bin").write_bytes(header + arrays["w"].tobytes())
        np.testing.assert_array_equal(read_all(tmp_path / "x.bin")["w"], arrays["w"])


def test_closed_checkpoints(tmp_path):
    write_checkpoint(tmp_path, items(numbered(1)))
    with open_checkpoint(tmp_path) as checkpoint:
        array = checkpoint.read("layer_0")
        with pytest.raises(KeyError):
            checkpoint.read("layer_9")
        with pytest.raises(ValueError):
            array[0] = 2
    with pytest.raises(ValueError, match="closed"):
        checkpoint.read("layer_0")
    checkpoint.close()
    assert array.sum() == 10


def test_nothing_stays_open_after_an_error(tmp_path):
    write_checkpoint(tmp_path, items(numbered(1)), max_shard_size=100)
    (tmp_path / SHARD.format(2, 2)).write_bytes(b"")
    for _ in range(3):
        with pytest.raises(CheckpointError):
            open_checkpoint(tmp_path)
    if os.path.isdir("/proc/self/fd"):
        opened = [os.readlink(p) for p in Path("/proc/self/fd").iterdir() if p.exists()]
        assert not [path for path in opened if str(tmp_path) in path]


def shards(tmp_path):
    """A checkpoint of two shards, and its weight map."""
    write_checkpoint(tmp_path, items(numbered(1)), max_shard_size=100)
    return json.loads((tmp_path / INDEX).read_text())["weight_map"]


def refuse_index(tmp_path, index):
    text = index if isinstance(index, str) else json.dumps(index)
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(tmp_path)
    assert str(tmp_path / INDEX) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "../model-00001-of-00002.safetensors",
        "/etc/passwd",
        "sub/x.safetensors",
        "..",
        ".",
        "",
        "..\\x.safetensors",
        "c:x.safetensors",
        "x\0y",
        5,
        None,
        ["x"],
    ],
)
def test_indexes_that_leave_the_directory(name, tmp_path):
    inside = tmp_path / "inside"
    weight_map = shards(inside)
    (tmp_path / "x.safetensors").write_bytes(b"")
    refuse_index(inside, {"weight_map": {**weight_map, "layer_0": name}})


def test_missing_shard(tmp_path):
    weight_map = shards(tmp_path)
    (tmp_path / SHARD.format(2, 2)).unlink()
    assert SHARD.format(2, 2) in refuse_index(tmp_path, {"weight_map": weight_map})


def test_indexes_that_disagree_with_the_shards(tmp_path):
    weight_map = shards(tmp_path)
    wrong_place = {**weight_map, "layer_0": SHARD.format(2, 2)}
    assert "disagree" in refuse_index(tmp_path, {"weight_map": wrong_place})
    too_much = {**weight_map, "layer_9": SHARD.format(2, 2)}
    assert "'layer_9'" in refuse_index(tmp_path, {"weight_map": too_much})
    del weight_map["layer_0"]
    assert "'layer_0'" in refuse_index(tmp_path, {"weight_map": weight_map})


def test_tensors_in_two_shards(tmp_path):
    weight_map = shards(tmp_path)
    both = numbered(2)
    safetensors.numpy.save_file(both, tmp_path / SHARD.format(2, 2))
    assert "disagree" in refuse_index(tmp_path, {"weight_map": weight_map})


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', "[" * 100_000, "\x00"],
)
def test_damaged_indexes(text, tmp_path):
    refuse_index(tmp_path, text)


def test_names_twice_in_an_index(tmp_path):
    shards(tmp_path)
    first, second = SHARD.format(1, 2), SHARD.format(2, 2)
    text = f'{{"weight_map": {{"layer_0": "{first}", "layer_0": "{second}"}}}}'
    assert "twice" in refuse_index(tmp_path, text)


def test_large_indexes(tmp_path, monkeypatch):
    weight_map = shards(tmp_path)
    monkeypatch.setattr(checkpoints, "_MAX_INDEX_BYTES", 100)
    assert "too large" in refuse_index(tmp_path, {"weight_map": weight_map})


# === Writing ===


def test_one_file(tmp_path):
    arrays = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.ones((), np.int64),
        "c": np.ones(3, ml_dtypes.bfloat16),
    }
    written = write_checkpoint(tmp_path / "new" / "place", items(arrays))
    assert written == [tmp_path / "new" / "place" / "model.safetensors"]
    assert files(tmp_path / "new" / "place") == ["model.safetensors"]
    read = read_all(tmp_path / "new" / "place")
    assert read.keys() == arrays.keys()
    for name, array in arrays.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array)
    with open_checkpoint(written[0]) as checkpoint:
        assert checkpoint.metadata == {"format": "pt"}


def test_dtypes_by_name_and_other_metadata(tmp_path):
    array = np.ones(3, ml_dtypes.bfloat16)
    tensors = iter([("w", [3], "bfloat16", lambda: array)])
    write_checkpoint(tmp_path, tensors, metadata={"made by": "me"})
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.dtype("w") == array.dtype
        assert checkpoint.metadata == {"made by": "me"}


@pytest.mark.parametrize("size", [100, "0.1KB"])
def test_shards(size, tmp_path):
    arrays = {
        "small_1": np.zeros(10, np.float32),
        "small_2": np.zeros(10, np.float32),
        "large": np.zeros(50, np.float32),
        "small_3": np.zeros(10, np.float32),
    }
    written = write_checkpoint(tmp_path, items(arrays), max_shard_size=size)
    names = [SHARD.format(i, 3) for i in (1, 2, 3)]
    assert files(tmp_path) == sorted([*names, INDEX])
    assert written == [tmp_path / name for name in [*names, INDEX]]
    text = (tmp_path / INDEX).read_text()
    index = json.loads(text)
    assert text == json.dumps(index, indent=2, sort_keys=True) + "\n"
    assert index["metadata"] == {"total_size": 320}
    grouped = {}
    for name, file_name in index["weight_map"].items():
        grouped.setdefault(file_name, set()).add(name)
        assert name in safetensors.numpy.load_file(tmp_path / file_name)
    assert {frozenset(group) for group in grouped.values()} == {
        frozenset({"small_1", "small_2"}),
        frozenset({"large"}),
        frozenset({"small_3"}),
    }
    assert read_all(tmp_path).keys() == arrays.keys()


def test_one_tensor_in_memory(tmp_path):
    """Each array is freed before the next one is made."""
    one = 2**20

    def tensors():
        for i in range(8):
            yield f"w{i}", (one,), "uint8", lambda: np.ones(one, np.uint8)

    tracemalloc.start()
    write_checkpoint(tmp_path, tensors())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.5 * one
    assert (tmp_path / "model.safetensors").stat().st_size > 8 * one


SIZES = {"one file": "5GB", "two shards": 100, "four shards": 50}


@pytest.mark.parametrize("after", SIZES)
@pytest.mark.parametrize("before", SIZES)
def test_older_files_are_replaced(before, after, tmp_path):
    """Exactly the new files and unrelated ones remain."""
    for stranger in ("config.json", "model.fp16.safetensors", "my-model.safetensors"):
        (tmp_path / stranger).write_text("kept")
    write_checkpoint(tmp_path, items(numbered(1)), max_shard_size=SIZES[before])
    written = write_checkpoint(
        tmp_path, items(numbered(2)), max_shard_size=SIZES[after]
    )
    strangers = ["config.json", "model.fp16.safetensors", "my-model.safetensors"]
    assert files(tmp_path) == sorted([*strangers, *(path.name for path in written)])
    assert values(tmp_path) == 2


@pytest.mark.parametrize("size", SIZES.values())
def test_files_are_on_disk_before_they_get_their_names(size, tmp_path, monkeypatch):
    calls = []
    rename = os.replace

    def record_sync(descriptor):
        calls.append(os.fstat(descriptor).st_ino)

    def record_rename(before, after):
        calls.append("rename")
        rename(before, after)

    monkeypatch.setattr(os, "fsync", record_sync)
    monkeypatch.setattr(os, "replace", record_rename)
    written = write_checkpoint(tmp_path, items(numbered(1)), max_shard_size=size)
    first = calls.index("rename")
    assert set(calls[:first]) == {path.stat().st_ino for path in written}
    assert calls[first:-1] == ["rename"] * (1 + len(written))
    assert calls[-1] == tmp_path.stat().st_ino


class FullDiskError(OSError):
    """Raised in the middle of writing; what is seen then names the directory."""

    seen = OSError

    def __init__(self):
        super().__init__(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("error", [FullDiskError, KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("after", SIZES)
@pytest.mark.parametrize("before", [*SIZES, None])
def test_failing_tensors_leave_the_older_checkpoint(before, after, error, tmp_path):
    if before:
        write_checkpoint(tmp_path, items(numbered(1)), max_shard_size=SIZES[before])
    there = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}

    def fail():
        raise error

    tensors = [*items(numbered(2)), ("last", (2,), "float32", fail)]
    with pytest.raises(getattr(error, "seen", error)) as raised:
        write_checkpoint(tmp_path, tensors, max_shard_size=SIZES[after])
    if error is FullDiskError:
        assert raised.value.errno == errno.ENOSPC
        assert raised.value.filename == str(tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in files(tmp_path)} == there


@pytest.mark.parametrize("error", [FullDiskError, KeyboardInterrupt])
@pytest.mark.parametrize("after", SIZES)
@pytest.mark.parametrize("before", SIZES)
def test_failing_system_calls_leave_the_older_checkpoint(
    before, after, error, tmp_path, monkeypatch
):
    """Every rename and every sync fails once, before or after it took effect."""

    def failing(function, number, after_it):
        def call(*arguments):
            calls.append(arguments)
            if len(calls) != number:
                return function(*arguments)
            if after_it:
                function(*arguments)
            raise error

        return call

    def attempt(target, name, number, after_it):
        with monkeypatch.context() as patch:
            patch.setattr(
                target, name, failing(getattr(target, name), number, after_it)
            )
            write_checkpoint(tmp_path, items(numbered(2)), max_shard_size=SIZES[after])

    for name in ("replace", "fsync"):
        for after_it in (False, True):
            number, failed = 0, True
            while failed:
                number += 1
                calls = []
                write_checkpoint(
                    tmp_path, items(numbered(1)), max_shard_size=SIZES[before]
                )
                older = files(tmp_path)
                try:
                    attempt(os, name, number, after_it)
                    failed = False
                except getattr(error, "seen", error):
                    # The new one is valid once all files have their names.
                    assert not [n for n in files(tmp_path) if n.startswith(".")]
                    if values(tmp_path) == 1:
                        assert files(tmp_path) == older
                    else:
                        assert len(calls) >= expected_calls(name, after)
            assert values(tmp_path) == 2
            assert number > 1


def expected_calls(name, after):
    """The calls up to the one that makes the new checkpoint valid."""
    return {"one file": 1, "two shards": 3, "four shards": 5}[after] + 1


def test_older_file_that_cannot_be_removed(tmp_path, monkeypatch):
    """Readers prefer it to the new shards, so it stays valid, alone."""
    write_checkpoint(tmp_path, items(numbered(1)))
    rename = os.replace

    def refuse(before, after):
        if Path(before) == tmp_path / "model.safetensors":
            raise PermissionError(errno.EACCES, "Permission denied")
        rename(before, after)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        with pytest.raises(PermissionError):
            write_checkpoint(tmp_path, items(numbered(2)), max_shard_size=100)
    assert files(tmp_path) == ["model.safetensors"]
    assert values(tmp_path) == 1


@pytest.mark.parametrize("after", SIZES)
@pytest.mark.parametrize("before", SIZES)
def test_power_failures_never_mix_two_checkpoints(before, after, tmp_path, monkeypatch):
    """Nothing is cleaned up after a rename; what is left is one of the two."""

    def fail(*arguments):
        renames.append(arguments)
        if len(renames) == number:
            raise KeyboardInterrupt
        rename(*arguments)

    rename = os.replace
    for number in range(1, 20):
        renames = []
        directory = tmp_path / str(number)
        write_checkpoint(directory, items(numbered(1)), max_shard_size=SIZES[before])
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", fail)
            patch.setattr(saving, "_take_back", lambda *_: None)
            patch.setattr(saving.shutil, "rmtree", lambda *_, **__: None)
            try:
                write_checkpoint(
                    directory, items(numbered(2)), max_shard_size=SIZES[after]
                )
                break
            except KeyboardInterrupt:
                pass
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            arrays = read_all(directory)
        # The first rename is the one that counts.
        assert {float(v) for a in arrays.values() for v in a} == {1 + (number > 1)}
        assert ["is finished now" in str(w.message) for w in caught] == [True] * (
            number > 1
        )
        assert arrays.keys() == numbered(1).keys()
        write_checkpoint(directory, items(numbered(2)), max_shard_size=SIZES[after])
        assert not [name for name in files(directory) if name.startswith(".")]
    assert 1 < number < 19


def test_mistakes_of_the_caller(tmp_path):
    twice = [*items(numbered(1)), *items(numbered(1, count=1))]
    with pytest.raises(ValueError, match="'layer_0' twice"):
        write_checkpoint(tmp_path / "x", twice)
    with pytest.raises(ValueError, match="at least one tensor"):
        write_checkpoint(tmp_path / "x", [])
    for size in (0, -1, "many", "5XB"):
        with pytest.raises(ValueError):
            write_checkpoint(tmp_path / "x", items(numbered(1)), max_shard_size=size)
    assert not (tmp_path / "x").exists()
    wrong = [("w", (3,), "float32", lambda: np.zeros(2, np.float32))]
    with pytest.raises(ValueError, match="'w' of shape"):
        write_checkpoint(tmp_path / "x", wrong)
    assert not (tmp_path / "x").exists()


def test_overwriting_the_checkpoint_that_is_being_read(tmp_path):
    """As in fine-tuning in place: every tensor comes from the files being replaced."""
    write_checkpoint(tmp_path, items(numbered(1)), max_shard_size=100)
    with open_checkpoint(tmp_path) as checkpoint:
        tensors = [
            (
                name,
                checkpoint.shape(name),
                checkpoint.dtype(name),
                lambda name=name: checkpoint.read(name) + np.float32(1),
            )
            for name in checkpoint.names()
        ]
        write_checkpoint(tmp_path, tensors, max_shard_size=100)
        assert checkpoint.read("layer_0").tolist() == [1] * 10
    assert values(tmp_path) == 2


# === Against transformers ===


@pytest.mark.reference
@pytest.mark.parametrize("size", ["5GB", "20KB"])
def test_against_transformers(size, tmp_path):
    """What it saves is read; written again it has the same layout, and it loads it."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.BarkSemanticConfig(
        input_vocab_size=40,
        output_vocab_size=30,
        num_layers=2,
        num_heads=2,
        hidden_size=16,
        block_size=16,
    )
    model = transformers.BarkSemanticModel(config)
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    model.save_pretrained(theirs, max_shard_size=size)
    with open_checkpoint(theirs) as checkpoint:
        names = checkpoint.names()
        tensors = [
            (
                name,
                checkpoint.shape(name),
                checkpoint.dtype(name),
                lambda name=name: checkpoint.read(name),
            )
            for name in model.state_dict()
            if name in names
        ]
        write_checkpoint(ours, tensors, max_shard_size=size)
    model.config.save_pretrained(ours)
    assert files(ours) == [n for n in files(theirs) if n != "generation_config.json"]
    if size != "5GB":
        indexes = [json.loads((d / INDEX).read_text()) for d in (theirs, ours)]
        assert indexes[0]["weight_map"] == indexes[1]["weight_map"]
        total = [index["metadata"]["total_size"] for index in indexes]
        assert total[0] == total[1]
    loaded = transformers.BarkSemanticModel.from_pretrained(ours)
    state = model.state_dict()
    assert loaded.state_dict().keys() == state.keys()
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, state[name])
