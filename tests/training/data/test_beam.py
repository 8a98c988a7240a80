"""Apache Beam makes the same shards byte for byte; `make beam` runs this."""

import errno

import keras
import pytest
import tensorflow as tf
import toy_speech
from toy_speech import RATE

from bark_tf.cli import main as cli
from bark_tf.training.data.prepare import prepare
from bark_tf.training.data.shards import ShardSet

pytest.importorskip("apache_beam", reason="Apache Beam is not installed: `make beam`")


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Ten recordings, and a file that is not audio."""
    folder = tmp_path_factory.mktemp("recordings")
    toy_speech.record(folder)
    (folder / "broken.wav").write_bytes(b"RIFF, but not really")
    with open(folder / "metadata.csv", "a", encoding="utf-8") as file:
        file.write("broken|one\n")
    return folder


@pytest.fixture(scope="module")
def model(recordings, tmp_path_factory):
    keras.utils.set_random_seed(0)
    folder, audio = tmp_path_factory.mktemp("model"), tmp_path_factory.mktemp("audio")
    toy_speech.write_model(folder)
    prepare(recordings, audio, sample_rate=RATE)
    assert cli.main(["train-tokenizer", str(audio), str(folder), "-q"]) == 0
    return folder


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder): path.read_bytes() for path in files}


def test_the_bytes_equal_those_without_beam(recordings, model, tmp_path, monkeypatch):
    """With two workers and a relative path."""
    how = {"model": str(model), "shard_size": 3, "validation": 0.2, "keep_audio": True}
    report = prepare(recordings, tmp_path / "without", **how)
    monkeypatch.chdir(tmp_path)
    runner = ["--direct_num_workers=2", "--direct_running_mode=multi_threading"]
    told = []
    found = prepare(
        recordings,
        "with",
        **how,
        runner="DirectRunner",
        runner_options=runner,
        progress=lambda done, total: told.append((done, total)),
    )
    assert found == report
    assert [one.id for one in found.skipped] == ["broken"]
    assert told[-1] == (11, 11)
    made = contents(tmp_path / "with")
    assert len([path for path in made if path.suffix == ".tfrecord"]) > 3
    assert made == contents(tmp_path / "without")


def test_the_output_may_be_a_url(recordings, tmp_path):
    """`ram://` stands for `gs://`, as in `test_storage.py`."""
    url, how = "ram://beam/out", {"sample_rate": RATE, "shard_size": 3}
    found = prepare(recordings, url, **how, runner="DirectRunner")
    assert found == prepare(recordings, tmp_path, **how)
    assert ShardSet(f"{url}/train").ids == ShardSet(tmp_path / "train").ids


def test_finished_shards_stay_and_lost_ones_are_made_again(recordings, tmp_path):
    command = ["prepare", str(recordings), str(tmp_path), "--sample-rate", str(RATE)]
    command += ["--validation", "0.2", "-q", "--runner", "DirectRunner"]
    assert cli.main(command) == 0
    before = contents(tmp_path)
    kept = tmp_path / "train/shard-00000.tfrecord"
    lost = tmp_path / "validation/shard-00000.jsonl"
    number = kept.stat().st_ino
    lost.unlink()
    assert cli.main(command) == 0
    assert contents(tmp_path) == before
    assert kept.stat().st_ino == number


def test_a_full_disk_is_one_clear_error(recordings, tmp_path, monkeypatch):
    real = tf.io.TFRecordWriter
    monkeypatch.setattr(tf.io, "TFRecordWriter", lambda path: real("/dev/full"))
    with pytest.raises(OSError, match=r"The disk of .* is full") as caught:
        prepare(recordings, tmp_path, sample_rate=RATE, runner="DirectRunner")
    assert caught.value.errno == errno.ENOSPC


def test_an_error_in_a_worker_is_one_line(recordings, tmp_path, monkeypatch):
    def fails(job, maker, info):
        raise ValueError("such a thing")

    monkeypatch.setattr("bark_tf.training.data.beam.make_shard", fails)
    with pytest.raises(RuntimeError, match=r"pipeline failed: .*such a thing") as error:
        prepare(recordings, tmp_path, sample_rate=RATE, runner="DirectRunner")
    assert "\n" not in str(error.value)


def test_workers_that_write_elsewhere_are_noticed(recordings, tmp_path, monkeypatch):
    monkeypatch.setattr("bark_tf.training.data.beam.make_shard", lambda *job: None)
    with pytest.raises(OSError, match="must see the output under the same path"):
        prepare(recordings, tmp_path, sample_rate=RATE, runner="DirectRunner")


def test_an_unknown_runner_is_one_line(recordings, tmp_path, capsys):
    command = ["prepare", str(recordings), str(tmp_path), "--runner", "NoSuchRunner"]
    assert cli.main(command) == 1
    error = capsys.readouterr().err
    assert "Unexpected pipeline runner: NoSuchRunner" in error
    assert error.count("\n") == 1


def test_nothing_is_downloaded(recordings, tmp_path, monkeypatch):
    """Beam's own DirectRunner downloads a runner named Prism first."""

    def refuse(*_, **__):
        raise AssertionError("the network was used")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr(
        "apache_beam.runners.portability.prism_runner.PrismRunner.run_pipeline", refuse
    )
    prepare(recordings, tmp_path, sample_rate=RATE, runner="DirectRunner")
    assert (tmp_path / "train/shard-00000.jsonl").is_file()
