"""Preparing recordings at toy size: shards, skipped recordings and reasons."""

import json
import signal
import subprocess
import sys
from collections import namedtuple

import keras
import numpy as np
import pytest
import soundfile
import tensorflow as tf
import toy_speech
from toy_speech import RATE, WORDS

from bark_tf import BarkModel
from bark_tf.cli import main as cli
from bark_tf.config import BarkGenerationConfig
from bark_tf.generation.coarse import CoarseWindow, align
from bark_tf.training.data.prepare import is_held_out, prepare, split_texts
from bark_tf.training.data.shards import ShardSet


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Ten recordings in LJSpeech format, and four unusable lines."""
    folder = tmp_path_factory.mktemp("ann")
    toy_speech.record(folder)
    (folder / "broken.wav").write_bytes(b"RIFF, but not really")
    with open(folder / "metadata.csv", "a", encoding="utf-8") as file:
        file.write("broken|one|one\nabsent|two|two\nr1|again|again\na|b|c|d|e\n")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    keras.utils.set_random_seed(0)
    folder = tmp_path_factory.mktemp("model")
    toy_speech.write_model(folder)
    return folder


@pytest.fixture(scope="module")
def audio(recordings, tmp_path_factory):
    out = tmp_path_factory.mktemp("audio")
    return prepare(recordings, out, sample_rate=RATE), out


@pytest.fixture(scope="module")
def with_tokenizer(model, audio):
    command = ["train-tokenizer", str(audio[1]), str(model), "-q"]
    assert cli.main(command) == 0
    return model


@pytest.fixture(scope="module")
def tokens(with_tokenizer, recordings, tmp_path_factory):
    out = tmp_path_factory.mktemp("tokens")
    prepare(recordings, out, model=with_tokenizer, keep_audio=True)
    return out


# === Preparing ===


def test_unusable_lines_are_in_the_report(audio):
    report, out = audio
    assert report.utterances == {"train": 10}
    reasons = {one.id: one.message for one in report.skipped}
    assert set(reasons) == {"broken", "absent", "r1", "a"}
    assert "5 columns" in reasons["a"] and "no audio file" in reasons["absent"]
    saved = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert len(saved["skipped"]) == 4 and saved["seconds"] == report.seconds
    text = str(report)
    assert "Skipped: 4" in text and (out / "report.md").read_text().endswith(
        f"{text}\n"
    )


def test_tokens_and_codes_have_matching_lengths(with_tokenizer, tokens):
    shards = ShardSet(tokens / "train")
    config = BarkGenerationConfig.from_pretrained(with_tokenizer)
    sizes = CoarseWindow(config.semantic_config, config.coarse_acoustics_config, 16)
    codec = BarkModel.from_pretrained(with_tokenizer).codec_model
    for index in range(len(shards)):
        one = shards[index]
        assert one.codes.shape == (4, sizes.num_frames(len(one.semantic)))
        seconds = len(one.audio) / RATE
        assert len(one.semantic) == pytest.approx(50 * seconds, abs=1.01)
        # Shards store int16, so codes near a boundary may change.
        codes = codec.encode(one.audio[None]).numpy()[0, :, : one.codes.shape[1]]
        assert (codes == one.codes).mean() > 0.98
        ids = toy_speech.tokenizer().encode(one.text)
        assert one.text_ids.tolist() == ids


def test_every_recording_can_get_the_same_silence(recordings, audio, tmp_path):
    words = f"prepare {recordings} {tmp_path} --sample-rate {RATE} --silence 0.3 -q"
    assert cli.main(words.split()) == 0
    shards, trimmed = ShardSet(tmp_path / "train"), ShardSet(audio[1] / "train")
    for number in range(len(shards)):
        row = shards[number]
        for end in (row.audio, row.audio[::-1]):
            assert np.abs(end[: round(0.25 * RATE)]).max() < 0.02
        assert len(row.audio) > len(trimmed[number].audio) + 0.3 * RATE


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"silence_s": -1}, "silence_s must be at least 0"),
        ({"silence_s": 50, "max_s": 40}, "below max_s=40"),
        ({"silence_s": 0.1, "trim": False}, "silence_s must be None with trim=False"),
    ],
)
def test_impossible_silence_is_refused(recordings, tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        prepare(recordings, tmp_path, **wrong)


# Kills itself in the middle of the third shard.
KILLED = """
import os, signal, sys
from bark_tf.training.data import encoding as module
from bark_tf.training.data.prepare import prepare

write_shard = module.write_shard

def dies(path, entries, info):
    def until_killed():
        for number, entry in enumerate(entries):
            if path.name == "shard-00002.tfrecord" and number == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            yield entry
    write_shard(path, until_killed(), info)

module.write_shard = dies
prepare(sys.argv[1], sys.argv[2], sample_rate=8_000, shard_size=3)
"""


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder): path.read_bytes() for path in files}


@pytest.mark.slow
def test_a_killed_run_resumes_in_processes_with_the_same_bytes(recordings, tmp_path):
    whole, part = tmp_path / "whole", tmp_path / "part"
    prepare(recordings, whole, sample_rate=RATE, shard_size=3)
    command = [sys.executable, "-c", KILLED, recordings, part]
    killed = subprocess.run(command, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    finished = {path: path.stat() for path in part.glob("train/shard-*")}
    assert len(finished) == 2 * 2
    assert list(part.glob("train/.shard-*"))  # what it was writing
    prepare(recordings, part, sample_rate=RATE, shard_size=3, num_workers=2)
    for path, before in finished.items():
        assert path.stat().st_ino == before.st_ino  # not written again
    assert contents(part) == contents(whole)


def test_a_full_disk_is_one_line_and_the_same_command_resumes(
    recordings, tmp_path, monkeypatch, capsys
):
    real = tf.io.TFRecordWriter
    monkeypatch.setattr(tf.io, "TFRecordWriter", lambda path: real("/dev/full"))
    command = ["prepare", str(recordings), str(tmp_path), "--sample-rate", str(RATE)]
    assert cli.main(command) == 1
    error = capsys.readouterr().err
    assert f"The disk of {str(tmp_path)!r} is full" in error and error.count("\n") == 1
    assert not list(tmp_path.rglob("*shard*"))
    monkeypatch.undo()
    assert cli.main([*command, "-q"]) == 0
    assert len(ShardSet(tmp_path / "train")) == 10


# === Unusable recordings ===


def sound(seconds, peak=0.5, sample_rate=RATE):
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    return peak * np.sin(2 * np.pi * 300 * time)


SOUNDS = {
    "bits8": (sound(1), RATE, "PCM_U8"),
    "float32": (sound(1), RATE, "FLOAT"),
    "loud": (sound(1, peak=7.0), RATE, "FLOAT"),
    "silence": (np.zeros(RATE), RATE, "PCM_16"),
    "moment": (sound(0.2), RATE, "PCM_16"),
    "minutes": (np.zeros(600 * 4_000), 4_000, "PCM_U8"),
    "nan": (np.full(RATE, np.nan), RATE, "FLOAT"),
    "empty": (sound(1), RATE, "PCM_16"),
    "latin": (sound(1), RATE, "PCM_16"),
    "bars": (sound(1), RATE, "PCM_16"),
}
LINES = b"""bits8|one
float32|two
loud|three
silence|four
moment|five
minutes|six
nan|seven
text|eight
nothing|nine
missing|one
empty|
latin|caf\xe9
bars|one|two|three|four
bits8|two
"""
REASONS = {
    "silence": "must not be silent",
    "moment": "must last 0.3 to 60 s. Received: 0.20 s",
    "minutes": "at most 60 s. Received: 600.0 s",
    "nan": "must be finite",
    "text": "cannot be decoded",
    "nothing": "0 bytes",
    "missing": "no audio file. Received: missing",
    "empty": "text is empty",
    "": "not UTF-8. Received: byte 10",  # of such a line not even the id is known
    "bars": "names in the first line. Received: 5 columns",
    "bits8": "already used. Received: metadata.csv:1",
}


def test_every_unusable_recording_has_a_reason(tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for name, (samples, sample_rate, subtype) in SOUNDS.items():
        soundfile.write(folder / f"{name}.wav", samples, sample_rate, subtype)
    (folder / "text.wav").write_text("a text, not a recording\n" * 100)
    (folder / "nothing.wav").touch()
    (folder / "metadata.csv").write_bytes(LINES)
    report = prepare(folder, out, sample_rate=RATE)
    assert ShardSet(out / "train").ids == ["bits8", "float32", "loud"]
    found = {one.id: one.message for one in report.skipped}
    assert found.keys() == REASONS.keys() and len(report.skipped) == len(REASONS)
    for name, reason in REASONS.items():
        assert reason in found[name], name
    rows = (out / "report.md").read_text(encoding="utf-8")
    assert "Skipped: 11" in rows
    for one in report.skipped:
        assert f"- 1 x {one.reason}: {one.id or one.where}" in rows


# === What cannot be learned ===


# Name -> seconds, gain before clipping, text. The toy model reads 16 tokens and learns
# 199 semantic tokens, 4 s, at once.
UNLEARNABLE = {
    "long1": (4.5, 1, "one two three"),
    "long2": (6.0, 1, "one two four"),
    "wordy": (3.0, 1, "nine " * 17),
    "fast1": (1.0, 1, "three " * 16),
    "fast2": (0.5, 1, "seven " * 16),
    "clipped": (1.0, 3, "one two five"),
    "loud": (1.0, 1.9, "one two six"),  # as loud as can be
    "fits": (3.9, 1, "one two seven"),
}
REASON_PARTS = {
    "2 x it is longer than the 4.0 s (199 semantic": ["long1 (4.5 s)", "long2 (6.0 s)"],
    "1 x its text is longer than the 16 tokens": ["wordy (17)"],
    "2 x its text is far too long": ["fast1 (text for about 6 s on 1.0 s)", "fast2 ("],
    "1 x it is heavily clipped": ["clipped ("],
}


@pytest.fixture(scope="module")
def unlearnable(with_tokenizer, tmp_path_factory):
    """Recordings, the shards of those that can be learned, and the report."""
    folder, out = (tmp_path_factory.mktemp(name) for name in ("in", "out"))
    for name, (seconds, gain, text) in UNLEARNABLE.items():
        samples = np.clip(gain * sound(seconds), -0.96, 0.96)
        soundfile.write(folder / f"{name}.wav", samples, RATE)
        (folder / f"{name}.txt").write_text(text)
    return folder, out, prepare(folder, out, model=with_tokenizer, validation=0.3)


def test_what_cannot_be_learned_is_skipped(unlearnable):
    """Bug: speech cut off under its full text, which teaches never to stop."""
    _, out, report = unlearnable
    assert ShardSet(out / "train").ids == ["loud"]
    assert ShardSet(out / "validation").ids == ["fits"]
    lines = str(report).splitlines()
    for reason, names in REASON_PARTS.items():
        (line,) = (line for line in lines if line.startswith(f"- {reason}"))
        assert all(name in line for name in names)
    assert "Skipped: 6" in lines


def test_a_dry_run_reports_the_same_without_encoding(
    with_tokenizer, unlearnable, monkeypatch
):
    folder, _, report = unlearnable
    monkeypatch.setattr("bark_tf.training.data.prepare.Maker", None)
    told = []
    how = {"model": with_tokenizer, "validation": 0.3, "dry_run": True}
    dry = prepare(folder, None, **how, progress=lambda *counts: told.append(counts))
    assert dry.utterances == report.utterances and dry.speakers == report.speakers
    assert sorted(dry.skipped) == sorted(report.skipped) and told[-1] == (8, 8)


def test_a_dry_run_on_the_command_line_writes_nothing(
    unlearnable, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    command = ["prepare", str(unlearnable[0])]
    assert cli.main([*command, "--dry-run"]) == 0
    assert "1 x it is heavily clipped" in capsys.readouterr().out
    assert cli.main(command) == 1
    assert "OUT must be a folder for the shards" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_long_recording_with_timed_words_is_cut(with_tokenizer, tmp_path):
    soundfile.write(tmp_path / "a.wav", sound(6), RATE)
    words = [{"word": w, "start": i, "end": i + 1} for i, w in enumerate(WORDS[:6])]
    line = {"audio": "a.wav", "text": " ".join(WORDS[:6]), "words": words}
    (tmp_path / "a.jsonl").write_text(json.dumps(line))
    told, how = [], {"model": with_tokenizer, "dry_run": True}
    report = prepare(
        tmp_path / "a.jsonl", None, **how, progress=lambda *counts: told.append(counts)
    )
    assert report.utterances == {"train": 2} and told[-1] == (1, 1)
    assert report.seconds["min"] + report.seconds["max"] == pytest.approx(6, abs=0.3)


def test_nothing_usable_is_an_error_with_the_reasons(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"no sound")
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(
        ValueError, match=r"'train' can be used. .*1 x A recording must"
    ):
        prepare(tmp_path, tmp_path / "out", sample_rate=RATE)
    assert "Skipped: 1" in (tmp_path / "out/report.md").read_text()


# === Splits ===


@pytest.mark.parametrize(("share", "held_out"), [(0.05, 1), (0.99, 6)])
def test_each_side_of_validation_has_a_text(share, held_out):
    """Bug: 0.05 of 7 texts held out none."""
    Line = namedtuple("Line", "text")
    lines = [Line(f"number {number // 2}") for number in range(14)]
    splits = split_texts(lines, share)
    texts = [{line.text for line in splits[name]} for name in ("train", "validation")]
    assert len(texts[1]) == held_out and texts[0].isdisjoint(texts[1])
    assert len(splits["validation"]) == 2 * held_out
    with pytest.raises(ValueError, match="at least two different texts"):
        split_texts(lines[:2], share)


# === Refused ===


def test_another_dataset_or_setting_is_refused(recordings, audio):
    with pytest.raises(ValueError, match="another prepared dataset"):
        prepare(recordings, audio[1], sample_rate=RATE, trim=False)


def test_a_text_is_held_out_whoever_speaks_it():
    texts = [f"sentence number {number}" for number in range(4_000)]
    held = {text for text in texts if is_held_out(text, 0.05)}
    assert 0.035 < len(held) / len(texts) < 0.065
    assert held <= {text for text in texts if is_held_out(text, 0.1)}
    assert all(is_held_out(f" {text.upper()} ", 0.05) for text in held)
    assert not any(is_held_out(text, 0.0) for text in texts)


def test_a_tokenizer_for_another_model_is_refused(model, recordings, audio, tmp_path):
    command = ["train-tokenizer", str(audio[1]), str(tmp_path), "-q"]
    assert cli.main([*command, "--clusters", "9", "--rate", "50"]) == 0
    with pytest.raises(ValueError, match=r"20 at 50 Hz. Received: 9 at 50.0 Hz"):
        prepare(recordings, tmp_path / "o", model=model, semantic_tokenizer=tmp_path)


@pytest.mark.parametrize(("tokens", "frames"), [(10, 10), (10, 9), (9, 12), (1, 1)])
def test_aligned_lengths_fit(tokens, frames):
    config = toy_speech.start()[1]
    sizes = CoarseWindow(config.semantic_config, config.coarse_acoustics_config, 16)
    semantic, codes = align(np.arange(tokens), np.zeros((4, frames)), sizes)
    assert codes.shape[1] == sizes.num_frames(len(semantic)) == min(tokens, frames)


def test_wrong_arguments_are_refused(recordings, tmp_path):
    with pytest.raises(ValueError, match="validation must be"):
        prepare(recordings, tmp_path, validation=1.0)
    with pytest.raises(ValueError, match="limit must be at least 1"):
        prepare(recordings, tmp_path, limit=0)
    with pytest.raises(ValueError, match="sample_rate must be None with a model"):
        prepare(recordings, tmp_path, model="x", sample_rate=RATE)
    with pytest.raises(ValueError, match="num_workers must be 1 with a runner"):
        prepare(recordings, tmp_path, runner="DirectRunner", num_workers=2)
    with pytest.raises(FileNotFoundError):
        prepare(tmp_path / "absent", tmp_path / "out")


def test_missing_beam_is_named_before_any_work(recordings, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(ImportError, match=r"needs the package apache-beam.*`beam`"):
        prepare(recordings, tmp_path / "out", runner="DirectRunner")
    assert not (tmp_path / "out").exists()
