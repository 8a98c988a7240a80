"""The whole evaluation at toy size: measures, comparison, files and errors."""

import json
import sys

import numpy as np
import pytest
import toy

from bark_tf import BarkProcessor
from bark_tf.cli import main as cli
from bark_tf.generation.coarse import CoarseWindow
from bark_tf.text.tokenizer import BarkTokenizer
from bark_tf.training.data.shards import DatasetInfo, ShardSet, Utterance, write_shard
from bark_tf.training.evaluation.evaluate import (
    Judges,
    Recordings,
    _spread,
    evaluate,
    held_out,
)
from bark_tf.training.evaluation.metrics import Edits
from bark_tf.training.evaluation.report import Evaluation
from bark_tf.training.evaluation.scores import Spoken

WORDS = "zero one two three four five six seven".split()
TEXTS = ["one two", "one", "three one four"]
SOURCES = ["ground_truth", "codec", "fine", "coarse", "semantic", "texts"]


class Parrot:
    """Recognises "one", always, and keeps the audio it was given."""

    name = "parrot"

    def __init__(self):
        self.listened = []

    def __call__(self, audio, sample_rate):
        assert audio.ndim == 1 and audio.size and sample_rate == 24_000
        self.listened.append(audio)
        return "one"


class Ear:
    """A voice is its level."""

    name = "ear"

    def __call__(self, audio, sample_rate):
        return np.array([1.0, np.abs(audio).mean()])


class Nose:
    name = "nose"

    def __call__(self, audio, sample_rate):
        return {"seconds": audio.size / sample_rate}


def save_model(folder, seed):
    model = toy.bark(seed)
    model.save_pretrained(folder)
    tokenizer = BarkTokenizer.from_vocabulary(["[PAD]", "[UNK]", *WORDS])
    BarkProcessor(tokenizer).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"), 0)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("other"), 1)


def info(**changes):
    values = {
        "sample_rate": 24_000,
        "has_tokens": True,
        "has_audio": True,
        "num_codebooks": 4,
        "codebook_size": 8,
        "frame_rate": 75.0,
        "semantic_vocab_size": 20,
        "semantic_rate_hz": 49.9,
        "text_vocab_size": 10,
    }
    return DatasetInfo(**{**values, **changes})


def write_data(folder, about):
    rng = np.random.default_rng(0)
    config = toy.generation_config()
    sizes = CoarseWindow(config.semantic_config, config.coarse_acoustics_config, 8)
    rows = []
    for number, text in enumerate(TEXTS):
        length = 8 + 2 * number
        frames = sizes.num_frames(length)
        samples = frames * toy.SAMPLES_PER_FRAME
        rows.append(
            Utterance(
                f"r{number}",
                text,
                "ann",
                np.array([WORDS.index(word) + 2 for word in text.split()]),
                rng.integers(0, about.semantic_vocab_size or 1, length),
                rng.integers(0, about.codebook_size or 1, (4, frames)),
                rng.normal(0, 0.1, samples).astype(np.float32),
            )
        )
    folder.mkdir(parents=True)
    about.save(folder)
    write_shard(folder / "shard-00000.tfrecord", rows, about)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_data(folder / "train", info())
    write_data(folder / "validation", info())
    return str(folder)


# === The whole ===


@pytest.fixture(scope="module")
def result(model, other, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    parrot, reports = Parrot(), []
    found = evaluate(
        model,
        data,
        texts=["two", "one", "six"],
        recogniser=parrot,
        similarity=Ear(),
        quality=Nose(),
        before=other,
        jit_compile=False,
        out=out,
        progress=lambda *report: reports.append(report),
    )
    return found, parrot, reports, out


def test_everything_is_measured_of_both_models(result):
    found, parrot, reports, _ = result
    for one in (found.before, found):
        assert list(one.stages) == ["semantic", "coarse", "fine"]
        assert all(score.loss > 0 and score.targets for score in one.stages.values())
        assert one.codec.recordings == 3 and one.codec.mel_db > 0
        assert list(one.speech) == SOURCES
        for source, score in one.speech.items():
            assert score.utterances == 3 and score.similarity is not None, source
    assert found.stages != found.before.stages
    assert found.speech["codec"] != found.before.speech["codec"]
    # The recordings are the same for both, and judged once: 3 + 2 * 5 * 3, without the
    # empty ones.
    assert found.speech["ground_truth"] == found.before.speech["ground_truth"]
    empty = sum(s.empty for one in (found, found.before) for s in one.speech.values())
    assert len(parrot.listened) == 33 - empty
    assert {what for what, done, total in reports if done == total} >= {
        "semantic loss",
        "encode and decode",
        "speak: all stages",
        "judge: all stages",
    }


def test_word_errors_are_counted(result):
    found = result[0]
    # "one" for "one two", "one" and "three one four".
    assert found.speech["ground_truth"].wer.edits == Edits(3, 0, 3, 0)
    assert found.speech["ground_truth"].wer.rate == 0.5
    transcripts = [one for one in found.transcripts if one.source == "ground_truth"]
    assert [(one.id, one.recognised, one.errors) for one in transcripts] == [
        ("r0", "one", 1),
        ("r1", "one", 0),
        ("r2", "one", 2),
    ]
    # 12, 15 and 18 frames of 4 samples.
    seconds = found.speech["ground_truth"].quality["seconds"]
    assert seconds == pytest.approx(4 * (12 + 15 + 18) / 3 / 24_000)


def test_the_report_is_written_as_a_whole(result):
    found, _, _, out = result
    assert Evaluation.load(out).to_dict() == found.to_dict()
    text = (out / "report.md").read_text(encoding="utf-8")
    assert text.startswith(found.markdown()) and "recogniser: parrot" in text
    assert all(not path.name.startswith(".") for path in out.iterdir())


def test_a_codec_alone_needs_audio_alone(model, tmp_path):
    about = DatasetInfo(sample_rate=24_000, has_tokens=False, has_audio=True)
    folder = write_data(tmp_path / "audio", about)
    found = evaluate(model, folder, limit=2)
    assert found.codec.recordings == 2 and not found.stages and not found.speech


def test_empty_audio_counts_as_errors_and_is_not_judged():
    parrot = Parrot()
    spoken = Spoken([np.zeros(0, np.float32), np.ones(5, np.float32)], 1)
    judges = Judges(parrot, Ear(), Nose())
    about = (24_000, ["a", "b"], ["one two", "one"], lambda done, total: None)
    judged = judges.judge("semantic", spoken, *about)
    assert judged.score.empty == 1 and judged.score.unfinished == 1
    assert judged.score.wer.edits == Edits(1, 0, 2, 0)
    assert judged.vectors[0] is None and len(parrot.listened) == 1
    assert judged.score.quality == {"seconds": 5 / 24_000}


# === Recordings ===


def test_a_limit_is_evenly_spread(data):
    assert _spread(10, 3) == [0, 3, 6] and _spread(3, 5) == [0, 1, 2]
    assert _spread(0, 2) == [] and _spread(4, None) == [0, 1, 2, 3]
    recordings = Recordings(held_out(data), 2)
    assert recordings.ids == ["r0", "r1"] and recordings.lengths.tolist() == [8, 10]
    assert [one.id for one in recordings[:5]] == ["r0", "r1"]
    assert recordings[1].text == "one" and len(recordings) == 2


def test_held_out_recordings_are_found(data, tmp_path):
    assert len(held_out(data)) == 3
    assert isinstance(held_out(f"{data}/train"), ShardSet)
    write_data(tmp_path / "train", info())
    with pytest.raises(ValueError, match="has no held-out recordings"):
        held_out(tmp_path)
    with pytest.raises(FileNotFoundError, match="no prepared recordings"):
        held_out(tmp_path / "absent")


# === What is refused ===


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sample_rate": 16_000}, "sample_rate=24000. Received: sample_rate=16000"),
        ({"codebook_size": 9}, "codebook_size=8. Received: codebook_size=9"),
        ({"semantic_vocab_size": 21}, "Received: semantic_vocab_size=21"),
    ],
)
def test_data_for_another_model_is_refused(model, tmp_path, changes, message):
    folder = write_data(tmp_path / "data", info(**changes))
    with pytest.raises(ValueError, match=message):
        evaluate(model, folder)


def test_wrong_arguments_are_refused_before_any_work(data, tmp_path):
    file = tmp_path / "file"
    file.touch()
    for arguments, message in (
        ({}, "data or texts to measure with"),
        ({"data": data, "limit": 0}, "limit must be at least 1. Received: limit=0"),
        ({"data": data, "out": file}, "out must be a folder"),
        ({"texts": ["one"]}, "give a recogniser, or quality"),
        ({"texts": ["one", "?!"], "quality": Nose()}, "must have words.*'\\?!'"),
        ({"texts": ["one"], "similarity": Ear()}, "data must hold audio"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate("no/such/model", **arguments)


def test_missing_files_are_found_before_anything_is_judged(
    model, data, tmp_path, monkeypatch
):
    absent, parrot = str(tmp_path / "absent"), Parrot()
    with pytest.raises(FileNotFoundError, match="absent"):
        evaluate(absent, data, before=model, recogniser=parrot)
    with pytest.raises(ValueError, match="no voice 'nobody'"):
        evaluate(model, data, recogniser=parrot, voice="nobody")
    monkeypatch.setitem(sys.modules, "jiwer", None)
    with pytest.raises(
        ImportError, match="Counting word errors needs the package jiwer"
    ):
        evaluate(model, data, recogniser=parrot)
    assert parrot.listened == []


# === The command ===


def test_the_command_prints_and_writes_the_report(
    model, data, tmp_path, monkeypatch, capsys
):
    asked = []

    def recogniser_of(name, words, *, language):
        asked.append((name, words, language))
        return Parrot()

    monkeypatch.setattr(
        "bark_tf.training.evaluation.recognisers.recogniser_of", recogniser_of
    )
    (tmp_path / "texts.txt").write_text("two one\n\n three\n", encoding="utf-8")
    out = tmp_path / "report"
    command = ["evaluate", model, "--texts", str(tmp_path / "texts.txt")]
    command += ["--recogniser", "parrot", "--words", "w.txt", "--no-xla"]
    assert cli.main([*command, "--out", str(out)]) == 0, capsys.readouterr().err
    assert asked == [("parrot", "w.txt", None)]
    text = capsys.readouterr().out
    assert "| all stages, other texts | 2 |" in text
    saved = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert [one["text"] for one in saved["transcripts"]] == ["two one", "three"]
    assert cli.main(["evaluate", model, data, "--limit", "1", "-q"]) == 0
    assert capsys.readouterr() == ("", "")
