"""Shards return what was written, in any order, and detect damage."""

import errno
import json
import os

import numpy as np
import pytest
import tensorflow as tf

from bark_tf.training.data import shards as module
from bark_tf.training.data.shards import (
    DatasetInfo,
    ShardSet,
    Skipped,
    Utterance,
    from_record,
    shard_path,
    to_record,
    write_shard,
)

INFO = DatasetInfo(
    sample_rate=16_000,
    has_tokens=True,
    has_audio=True,
    num_codebooks=4,
    codebook_size=1_024,
    frame_rate=50.0,
    semantic_vocab_size=300,
    semantic_rate_hz=50.0,
    text_vocab_size=100,
)


def utterance(rng, name, count=20):
    return Utterance(
        id=name,
        text=f"the text of {name}, ü",
        speaker="ann" if name < "c" else "bob",
        text_ids=rng.integers(0, 100, 5).astype(np.int32),
        semantic=rng.integers(0, 300, count).astype(np.int32),
        codes=rng.integers(0, 1_024, (4, count)).astype(np.int32),
        audio=rng.uniform(-1, 1, count * 320).astype(np.float32),
    )


@pytest.fixture
def made(rng, tmp_path):
    """Two shards with four utterances and one recording that was skipped."""
    utterances = [utterance(rng, name, 10 + i) for i, name in enumerate("abcd")]
    INFO.save(tmp_path)
    skipped = Skipped("x", "x.wav", "it is silent")
    write_shard(shard_path(tmp_path, 0), [utterances[0], skipped, utterances[1]], INFO)
    write_shard(shard_path(tmp_path, 1), utterances[2:], INFO)
    return utterances, tmp_path


def assert_equal(one, two):
    for name in ("id", "text", "speaker"):
        assert getattr(one, name) == getattr(two, name)
    for name in ("text_ids", "semantic", "codes"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
        assert getattr(one, name).dtype == np.int32
    np.testing.assert_allclose(one.audio, two.audio, atol=1 / 32_767)


def test_utterances_are_read_in_any_order(made):
    utterances, directory = made
    shards = ShardSet(directory)
    assert len(shards) == 4 and shards.info == INFO
    for index in (3, 0, 2, 1, -1):
        assert_equal(shards[index], utterances[index])
    assert shards.lengths.tolist() == [10, 11, 12, 13]
    assert shards.speakers == ["ann", "ann", "bob", "bob"]
    assert shards.ids == list("abcd") and shards.texts[0] == utterances[0].text
    assert shards.seconds[0] == 0.2
    np.testing.assert_array_equal(shards.audios[1], shards[1].audio)
    with pytest.raises(IndexError):
        shards[4]


def test_tensorflow_reads_the_records_too(made):
    utterances, directory = made
    paths = [str(shard_path(directory, number)) for number in (0, 1)]
    records = list(tf.data.TFRecordDataset(paths).as_numpy_iterator())
    assert len(records) == 4
    assert_equal(from_record(records[2], INFO), utterances[2])


def test_a_changed_byte_is_detected(made):
    _, directory = made
    path = shard_path(directory, 1)
    data = bytearray(path.read_bytes())
    data[len(data) // 4] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="record of 'c' is damaged"):
        ShardSet(directory)[2]
    path.write_bytes(data[:40])
    with pytest.raises(ValueError, match="'d' is damaged"):
        ShardSet(directory)[3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"semantic": np.array([300])}, r"semantic must be in \[0, 300\)"),
        ({"text_ids": np.array([-1])}, r"text_ids must be in \[0, 100\)"),
        ({"codes": np.full((4, 3), 1_024)}, r"codes must be in \[0, 1024\)"),
        ({"codes": np.zeros((3, 3), int)}, "codes must have 4 rows"),
        ({"semantic": np.zeros(0, int)}, "semantic is empty"),
    ],
)
def test_values_that_do_not_fit_are_not_written(rng, change, message):
    with pytest.raises(ValueError, match=message):
        to_record(utterance(rng, "a")._replace(**change), INFO)


def test_malformed_records_are_refused(rng):
    with pytest.raises(ValueError, match=r"not a tf\.train\.Example"):
        from_record(b"\xff\xff\xff", INFO)
    with pytest.raises(ValueError, match="'id' must be one string"):
        from_record(b"", INFO)
    audio_only = DatasetInfo(sample_rate=16_000, has_tokens=False, has_audio=True)
    record = to_record(utterance(rng, "a"), audio_only)
    with pytest.raises(ValueError, match="'text_ids' must be integers"):
        from_record(record, INFO)
    assert from_record(record, audio_only).semantic.size == 0


def test_other_versions_and_damaged_files_are_refused(made):
    _, directory = made
    path = directory / module.INFO_NAME
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "schema_version": 2}))
    with pytest.raises(ValueError, match=r"schema_version must be 1. Received: 2"):
        ShardSet(directory)
    path.write_text("{")
    with pytest.raises(ValueError, match=module.INFO_NAME):
        ShardSet(directory)
    path.write_text(json.dumps(values))
    index = shard_path(directory, 0).with_suffix(".jsonl")
    index.write_text('{"id": "a"}\n')
    with pytest.raises(ValueError, match="jsonl:1 is damaged"):
        ShardSet(directory)


def test_an_unprepared_folder_gives_advice(tmp_path):
    with pytest.raises(FileNotFoundError, match="bark-tf prepare"):
        ShardSet(tmp_path)
    INFO.save(tmp_path)
    with pytest.raises(ValueError, match="holds no utterance"):
        ShardSet(tmp_path)


def test_a_full_disk_leaves_no_shard(rng, tmp_path, monkeypatch):
    """TensorFlow raises ResourceExhaustedError, as it does for memory."""
    real = tf.io.TFRecordWriter

    def full(path):
        open(path, "wb").close()
        return real("/dev/full")

    monkeypatch.setattr(tf.io, "TFRecordWriter", full)
    with pytest.raises(OSError, match="No space") as caught:
        write_shard(shard_path(tmp_path, 0), [utterance(rng, "a")], INFO)
    assert caught.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())


def test_exhausted_memory_is_not_reported_as_a_full_disk(tmp_path):
    def entries():
        raise tf.errors.ResourceExhaustedError(None, None, "OOM")
        yield

    with pytest.raises(tf.errors.ResourceExhaustedError):
        write_shard(shard_path(tmp_path, 0), entries(), INFO)
    assert not list(tmp_path.iterdir())


def test_shards_without_audio_give_none(rng, tmp_path):
    info = DatasetInfo(**{**INFO.__dict__, "has_audio": False})
    info.save(tmp_path)
    write_shard(
        shard_path(tmp_path, 0), [utterance(rng, "a")._replace(audio=None)], info
    )
    shards = ShardSet(tmp_path)
    assert shards[0].audio is None and shards.seconds[0] == 0.4
    with pytest.raises(ValueError, match="--keep-audio"):
        _ = shards.audios


def test_records_in_a_pipe_are_refused(made):
    """Bug: reading waited for somebody to write."""
    _, directory = made
    path = shard_path(directory, 0)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ValueError, match="must be a file"):
        ShardSet(directory)[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"offset": -1}, r"jsonl:1 is damaged: offset must be a whole number in"),
        ({"tokens": [3]}, r"tokens must be a whole number in .*Received: tokens=\[3\]"),
        ({"seconds": "1"}, r"seconds must be a number"),
        ({"text": None}, r"text must be text"),
    ],
)
def test_values_of_an_index_are_checked(made, change, message):
    _, directory = made
    path = shard_path(directory, 0).with_suffix(".jsonl")
    first, *others = path.read_text(encoding="utf-8").splitlines()
    lines = [json.dumps({**json.loads(first), **change}), *others]
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        ShardSet(directory)


@pytest.mark.parametrize("change", [{"codebook_size": "9"}, {"num_codebooks": 0}])
def test_values_of_a_description_are_checked(made, change):
    _, directory = made
    path = directory / module.INFO_NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=f"{next(iter(change))} must be"):
        ShardSet(directory)
