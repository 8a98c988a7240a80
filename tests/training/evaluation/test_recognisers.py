"""Judges of speech: their calls, and their results for real speech."""

import sys
import types
from pathlib import Path

import numpy as np
import pytest
import soundfile

from bark_tf.training.evaluation.recognisers import (
    FasterWhisper,
    at_rate,
    quality_judge_of,
    read_words,
    recogniser_of,
    voice_judge_of,
)

DIGITS = "zero one two three four five six seven eight nine".split()
# A line of the small voice's data: "one nine three", 24 kHz.
RECORDING = Path(__file__).parents[2] / "data" / "one_nine_three.ogg"
RATE = 16_000


@pytest.fixture(scope="module")
def recording():
    return soundfile.read(RECORDING, dtype="float32")


# === pocketsphinx ===


def test_pocketsphinx_recognises_each_recording_independently(recording, rng):
    pytest.importorskip("pocketsphinx")
    recognise = recogniser_of("pocketsphinx", [*DIGITS, "One"])
    assert recognise.name == "pocketsphinx, any sequence of 10 words"
    assert recognise(*recording) == "one nine three"
    noise = rng.normal(0, 0.1, RATE).astype(np.float32)
    first = recognise(noise, RATE)
    recognise(*recording)
    assert recognise(noise, RATE) == first
    assert recognise(np.zeros(RATE, np.float32), RATE) == ""
    assert recognise(np.zeros(0, np.float32), RATE) == ""
    assert recognise(noise[:20], RATE) == ""


def test_words_without_a_pronunciation_are_named():
    pytest.importorskip("pocketsphinx")
    with pytest.raises(ValueError, match=r"Received: qzxw, 7$"):
        recogniser_of("pocketsphinx", ["one", "qzxw", "7"])
    with pytest.raises(ValueError, match="Received: none"):
        recogniser_of("pocketsphinx", [])


def test_words_come_from_a_file(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("One two\n\nthree  one\n", encoding="utf-8")
    assert read_words(path) == ["one", "two", "three"]
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="not UTF-8"):
        read_words(path)
    path.write_text(" \n", encoding="utf-8")
    with pytest.raises(ValueError, match="no words"):
        recogniser_of("pocketsphinx", path)
    with pytest.raises(FileNotFoundError):
        recogniser_of("pocketsphinx", tmp_path / "absent")


# === faster-whisper ===


class FakeWhisper:
    """Answers like `faster_whisper.WhisperModel`, and keeps its arguments."""

    def __init__(self, *args, **options):
        self.opened, self.asked = (args, options), None
        vocabulary = {"a": 0, "7": 1, "Ġ42": 2, "<|0.00|>": 3, "seven": 4}
        self.hf_tokenizer = types.SimpleNamespace(get_vocab=lambda: vocabulary)

    def transcribe(self, audio, **options):
        self.asked = (audio, options)
        segments = (types.SimpleNamespace(text=text) for text in (" One nine", " 3. "))
        return segments, None


def test_whisper_gets_audio_at_its_rate(rng):
    model = FakeWhisper()
    recognise = FasterWhisper(model, "en")
    audio = rng.uniform(-2, 2, 24_000).astype(np.float32)
    assert recognise(audio, 24_000) == "One nine 3."
    heard, options = model.asked
    assert heard.dtype == np.float32 and heard.shape == (RATE,)
    assert np.abs(heard).max() <= 1
    assert options["suppress_tokens"] == [-1, 1, 2] and options["language"] == "en"
    assert options["temperature"] == 0.0
    model.asked = None
    assert recognise(audio[:0], 24_000) == "" and model.asked is None


def test_whisper_is_opened_from_its_directory_alone(tmp_path, monkeypatch):
    package = types.SimpleNamespace(WhisperModel=FakeWhisper)
    monkeypatch.setitem(sys.modules, "faster_whisper", package)
    name = f"faster-whisper:{tmp_path}"
    for file in ("model.bin", "config.json"):
        (tmp_path / file).touch()
    with pytest.raises(FileNotFoundError, match=r"no tokenizer\.json\. Nothing"):
        recogniser_of(name)
    (tmp_path / "tokenizer.json").touch()
    recognise = recogniser_of(name, language="en")
    assert recognise.name == f"faster-whisper, {tmp_path.name}"
    assert recognise._model.opened == ((str(tmp_path),), {"local_files_only": True})


# === moonshine ===


def test_moonshine_loads_the_model_in_its_package(tmp_path, monkeypatch):
    opened, heard = [], []

    class Transcriber:
        def __init__(self, *arguments):
            opened.append(arguments)

        def transcribe_without_streaming(self, audio, sample_rate):
            heard.append((audio, sample_rate))
            lines = [types.SimpleNamespace(text=text) for text in ("10 4-02", "cats.")]
            return types.SimpleNamespace(lines=lines)

    package = types.SimpleNamespace(
        get_assets_path=lambda: tmp_path, ModelArch=types.SimpleNamespace(TINY="tiny")
    )
    inside = types.SimpleNamespace(Transcriber=Transcriber)
    monkeypatch.setitem(sys.modules, "moonshine_voice", package)
    monkeypatch.setitem(sys.modules, "moonshine_voice.transcriber", inside)
    with pytest.raises(FileNotFoundError, match="nothing is downloaded"):
        recogniser_of("moonshine")
    (tmp_path / "tiny-en").mkdir()
    (tmp_path / "tiny-en" / "encoder_model.ort").touch()
    recognise = recogniser_of("moonshine")
    assert opened == [(str(tmp_path / "tiny-en"), "tiny")]
    assert recognise(np.full(8_000, 0.1), 8_000) == "ten four - zero two cats."
    (audio, rate), silence = heard[0], int(0.3 * RATE)
    assert rate == RATE and len(audio) == RATE + 2 * silence
    assert not np.any(audio[:silence]) and audio[silence + 10] != 0
    assert recognise(np.zeros(0), RATE) == "" and len(heard) == 1


# === Others ===


class FakeEncoder:
    def __init__(self, device, verbose):
        self.device = device

    def embed_utterance(self, speech):
        return np.full(256, speech.mean(), np.float32)


def test_voices_are_judged_at_their_rate(monkeypatch):
    heard = []
    package = types.SimpleNamespace(
        VoiceEncoder=FakeEncoder,
        preprocess_wav=lambda audio: (heard.append(audio), audio[: len(audio) // 2])[1],
    )
    monkeypatch.setitem(sys.modules, "resemblyzer", package)
    judge = voice_judge_of("resemblyzer")
    vector = judge(np.full(8_000, 0.25, np.float32), 8_000)
    assert vector == pytest.approx(0.25, abs=0.01) and heard[0].shape == (RATE,)
    # If everything is cut as silence there is no voice.
    for silent in (np.zeros(100), np.zeros(0), np.full(1, 0.1)):
        assert not judge(silent, RATE).any()


def test_quality_has_scores_by_name(monkeypatch):
    def run(audio, sample_rate):
        assert audio.dtype == np.float32 and sample_rate == RATE
        return dict(ovrl_mos=1.0, sig_mos=np.float64(2), bak_mos=3.0, p808_mos=4.0)

    package = types.SimpleNamespace(run=run)
    monkeypatch.setitem(sys.modules, "speechmos", types.SimpleNamespace())
    monkeypatch.setitem(sys.modules, "speechmos.dnsmos", package)
    judge = quality_judge_of("dnsmos")
    scores = {"overall": 1.0, "signal": 2.0, "background": 3.0, "p808": 4.0}
    assert judge(np.zeros(RATE), RATE) == scores
    assert judge(np.zeros(0), RATE) == {}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: recogniser_of("ears"), "must be one of pocketsphinx.*'ears'"),
        (lambda: recogniser_of("faster-whisper"), "faster-whisper:DIRECTORY"),
        (lambda: recogniser_of("faster-whisper:x", ["a"]), "words are for pocket"),
        (lambda: recogniser_of("moonshine", ["a"]), "words are for pocket"),
        (lambda: recogniser_of("pocketsphinx", language="de"), "pocketsphinx recog"),
        (lambda: recogniser_of("moonshine", language="de"), "moonshine recog"),
        (lambda: voice_judge_of("x"), "voice judge must be resemblyzer"),
        (lambda: quality_judge_of("x"), "quality judge must be dnsmos"),
        (lambda: at_rate(np.zeros((1, 5)), RATE), r"shape \(1, 5\)"),
        (lambda: at_rate([np.nan], RATE), "finite"),
    ],
)
def test_wrong_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
