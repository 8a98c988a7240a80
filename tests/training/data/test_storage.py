"""Shards behind URLs; `ram://`, TensorFlow's file system in memory, stands for any."""

from pathlib import Path

import pytest
import tensorflow as tf
from toy_recordings import RATE, encode, tone

from bark_tf.cli import main as cli
from bark_tf.training.data.prepare import prepare
from bark_tf.training.data.shards import ShardSet, shard_path
from bark_tf.training.data.storage import RemotePath, atomic_write, storage_path
from bark_tf.training.evaluation.evaluate import held_out


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings")
    for number in range(5):
        (folder / f"{number}.wav").write_bytes(encode(tone(), RATE))
        (folder / f"{number}.txt").write_text(f"text {number}")
    (folder / "broken.wav").write_bytes(b"RIFF")
    (folder / "broken.txt").write_text("broken")
    return folder


def contents(url):
    found = {}
    for folder, _, names in tf.io.gfile.walk(url):
        for name in names:
            path = f"{folder.rstrip('/')}/{name}"
            with tf.io.gfile.GFile(path, "rb") as file:
                found[path.removeprefix(url)] = file.read()
    return found


def test_shards_behind_a_url_equal_those_of_this_machine(recordings, tmp_path):
    """Bug: `gs://bucket` became a folder named `gs:`."""
    how = {"sample_rate": RATE, "validation": 0.2, "shard_size": 2}
    here, url = tmp_path / "out", "ram://bucket/deep/out"
    report = prepare(recordings, here, **how)
    assert prepare(recordings, url, **how) == report
    assert contents(url) == contents(str(here)) and len(contents(url)) > 6
    lost = f"{url}/train/shard-00000.jsonl"
    tf.io.gfile.remove(lost)
    with tf.io.gfile.GFile(f"{url}/train/.shard-half", "w") as file:
        file.write("what a killed run was writing")
    assert prepare(recordings, url, **how) == report
    assert contents(url) == contents(str(here))
    with pytest.raises(ValueError, match="another prepared dataset"):
        prepare(recordings, url, sample_rate=RATE)
    shards, expected = ShardSet(f"{url}/train"), ShardSet(here / "train")
    assert shards.ids == expected.ids
    assert (shards[1].audio == expected[1].audio).all()
    # As every caller writes it that joins with `/`.
    assert held_out(Path(url)).ids == held_out(here).ids
    assert not Path("ram:").exists()


def test_a_file_url_is_a_folder(recordings, tmp_path):
    prepare(recordings, f"file://{tmp_path}/out", sample_rate=RATE)
    assert len(ShardSet(f"file://{tmp_path}/out/train")) == 5


@pytest.mark.parametrize(
    ("dataset", "out", "message"),
    [
        # tensorflow-io, where it loads, brings s3:// and others.
        ("{}", "cloud://bucket/out", "OUT must be a path, or a URL that TensorFlow"),
        ("{}", "ftp://host/out", r"open: .*ram://.*Received: 'ftp://host/out'"),
        ("gs://bucket/in", "out", "only OUT may be a URL. Received: 'gs://bucket/in'"),
        ("hf:a/b", "ram://bucket/other", "OUT of hf:a/b must be on this machine"),
    ],
)
def test_other_urls_are_refused_at_once(
    dataset, out, message, recordings, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["prepare", dataset.format(recordings), out]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match=message):
        prepare(dataset.format(recordings), out)


def test_nothing_half_written_stays_behind_a_url():
    path = storage_path("ram://half/a.txt")
    path.parent.mkdir()
    with pytest.raises(KeyError), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert contents("ram://half") == {}
    with atomic_write(path) as temporary:
        temporary.write_text("whole, ü")
    assert path.read_text() == "whole, ü" and list(contents("ram://half")) == ["/a.txt"]
    with pytest.raises(tf.errors.NotFoundError):
        storage_path("ram://half/b").unlink()
    storage_path("ram://half/b").unlink(missing_ok=True)


def test_paths_are_joined_like_others():
    path = shard_path("ram://bucket/out/", 3)
    assert path == RemotePath("ram://bucket/out/shard-00003.tfrecord")
    assert str(path.with_suffix(".jsonl")) == "ram://bucket/out/shard-00003.jsonl"
    assert path.parent.name == "out"
    assert storage_path(Path("a")) == Path("a")


def test_an_error_of_the_storage_is_one_line(monkeypatch):
    def refuse(url):
        raise tf.errors.PermissionDeniedError(None, None, "no\ntoken")

    monkeypatch.setattr(tf.io.gfile, "exists", refuse)
    with pytest.raises(OSError, match=r"^ram://b/c cannot be read .*: no token$"):
        ShardSet("ram://b/c")
