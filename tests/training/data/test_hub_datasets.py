"""Datasets that the package `datasets` reads; the hub itself is not asked."""

import json
import sys

import pytest
from toy_recordings import RATE, encode, tone

from bark_tf.training.data.datasets import read_dataset
from bark_tf.training.data.prepare import prepare
from bark_tf.training.data.shards import ShardSet


def write(folder, sounds, split="train", **columns):
    """A dataset in a Parquet file, as the hub stores it; sounds are (bytes, path)."""
    pyarrow = pytest.importorskip("pyarrow", reason="extra `dev`")
    parquet = pytest.importorskip("pyarrow.parquet", reason="extra `dev`")
    pytest.importorskip("datasets", reason="extra `dev`")
    kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    sounds = [dict(zip(("bytes", "path"), sound, strict=True)) for sound in sounds]
    table = pyarrow.table({"sound": pyarrow.array(sounds, kind), **columns})
    features = {"sound": {"_type": "Audio"}}
    for name, values in columns.items():
        dtype = "int64" if isinstance(values[0], int) else "string"
        features[name] = {"_type": "Value", "dtype": dtype}
    info = json.dumps({"info": {"features": features}})
    (folder / "data").mkdir(parents=True)
    parquet.write_table(
        table.replace_schema_metadata({"huggingface": info}),
        folder / f"data/{split}-00000-of-00001.parquet",
    )


@pytest.fixture
def cache(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets", reason="extra `dev`")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


WAV, FLAC = encode(tone(), RATE), encode(tone(peak=0.2), RATE, "FLAC")


def test_a_dataset_is_prepared_and_names_no_file_of_this_machine(cache, tmp_path):
    secret = tmp_path / "secret.wav"
    secret.write_bytes(WAV)
    sounds = [(WAV, "a.wav"), (FLAC, None), (None, str(secret)), (WAV, "d.wav")]
    texts = ["one", "two", "three", ""]
    write(tmp_path / "toy", sounds, sentence=texts, speaker_id=[7, 8, 8, 8])
    name, out = f"hf:{tmp_path / 'toy'}", tmp_path / "out"
    report = prepare(name, out, sample_rate=RATE)
    shards = ShardSet(out / "train")
    assert shards.ids == ["000000", "000001"] and shards.texts == ["one", "two"]
    assert shards.speakers == ["7", "8"]
    reasons = {one.where: one.reason for one in report.skipped}
    assert reasons == {
        "train:2": "its audio is not in the dataset",
        "train:3": "text is empty",
    }
    files = {path: path.stat().st_ino for path in (out / "recordings").iterdir()}
    assert len(files) == 2
    assert prepare(name, out, sample_rate=RATE) == report  # resumes
    assert files == {
        path: path.stat().st_ino for path in (out / "recordings").iterdir()
    }


def test_only_as_many_recordings_as_asked_for_are_copied(cache, tmp_path):
    write(tmp_path / "toy", [(WAV, "a.wav"), (FLAC, "b.flac")], text=["one", "two"])
    name = f"hf:{tmp_path / 'toy'}"
    recordings, problems = read_dataset(name, tmp_path / "copies", limit=1)
    assert [one.text for one in recordings] == ["one"] and not problems
    assert len(list((tmp_path / "copies").iterdir())) == 1


def test_a_dry_run_keeps_no_copies(cache, tmp_path, monkeypatch):
    write(tmp_path / "toy", [(WAV, "a.wav")], text=["one"])
    monkeypatch.chdir(tmp_path)
    report = prepare(f"hf:{tmp_path / 'toy'}", None, sample_rate=RATE, dry_run=True)
    assert report.utterances == {"train": 1}
    assert {path.name for path in tmp_path.iterdir()} == {"toy", "cache"}


@pytest.mark.parametrize(
    ("columns", "split", "message"),
    [
        ({"words": ["one"]}, "train", r"a column of text. Received: sound, words"),
        ({"text": ["one"]}, "test", r'Unknown split "train"'),
    ],
)
def test_what_is_missing_is_named(cache, tmp_path, columns, split, message):
    write(tmp_path / "toy", [(WAV, "a.wav")], split, **columns)
    with pytest.raises(ValueError, match=message):
        read_dataset(f"hf:{tmp_path / 'toy'}", tmp_path / "copies")


@pytest.mark.parametrize("name", ["hf:", "hf:name", "hf:a/b/c/d", "hf:../a/b/c"])
def test_wrong_names_are_refused_before_anything_is_downloaded(name, tmp_path):
    pytest.importorskip("datasets", reason="extra `dev`")
    with pytest.raises(ValueError, match="must be hf:OWNER/NAME"):
        read_dataset(name, tmp_path)


def test_without_the_package_the_message_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"needs the package datasets.*`datasets`"):
        read_dataset("hf:toy/speech", tmp_path)
