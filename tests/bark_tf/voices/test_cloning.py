"""Voices from recordings: lengths, odd recordings, warnings, and what is written."""

import functools
import json
import re
import struct
import types
from pathlib import Path

import keras
import numpy as np
import pytest
import soundfile
import toy
import toy_speech
from toy_speech import hum

from bark_tf import BarkModel, BarkProcessor, VoicePreset, hub
from bark_tf.audio.reading import load
from bark_tf.cli import main as cli
from bark_tf.config import HubertQuantizerConfig
from bark_tf.models.encodec.model import EncodecModel
from bark_tf.models.hubert.model import HubertModel
from bark_tf.models.hubert.quantizer import HubertQuantizer
from bark_tf.semantic_tokens.hubert import HubertTokenizer
from bark_tf.semantic_tokens.kmeans import KMeansTokenizer
from bark_tf.voices import cloning as module
from bark_tf.voices.cloning import make_voice, save_voice, voice_paths

# Bark's own rates; the k-means hears another rate than the codec.
CODEC_HZ, TOKENIZER_HZ = 24_000, 8_000
FRAMES_HZ, TOKENS_HZ = 75, 49.9


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    keras.utils.set_random_seed(0)
    folder = tmp_path_factory.mktemp("model")
    config, generation, words = toy_speech.start()
    codec = config.codec_config.replace(
        sampling_rate=CODEC_HZ,
        upsampling_ratios=(8, 5, 4, 2),
        target_bandwidths=(0.6, 1.2),
    )
    semantic = generation.semantic_config.replace(semantic_rate_hz=TOKENS_HZ)
    coarse = generation.coarse_acoustics_config.replace(coarse_rate_hz=FRAMES_HZ)
    generation = generation.replace(
        sample_rate=CODEC_HZ, semantic_config=semantic, coarse_acoustics_config=coarse
    )
    BarkModel(config.replace(codec_config=codec), generation).save_pretrained(folder)
    BarkProcessor(words).save_pretrained(folder)
    KMeansTokenizer.fit(
        [hum(4, TOKENIZER_HZ)],
        sample_rate=TOKENIZER_HZ,
        rate_hz=TOKENS_HZ,
        vocab_size=20,
        seed=0,
    ).save(folder)
    return folder


load_codec = functools.cache(EncodecModel.from_pretrained)


@pytest.fixture(autouse=True)
def one_codec(monkeypatch):
    """Makes all voices with one codec, so that it is traced once."""
    one = types.SimpleNamespace(from_pretrained=load_codec)
    monkeypatch.setattr(module, "EncodecModel", one)


@pytest.fixture
def record(tmp_path):
    """Writes a recording and returns its path."""

    def record(audio, rate=CODEC_HZ, name="me.wav", **how):
        path = tmp_path / name
        soundfile.write(path, audio, rate, **how)
        return path

    return record


def said(report, *parts):
    """Whether the report has exactly these warnings, given as parts, in order."""
    assert len(report.warnings) == len(parts), report.warnings
    for text, part in zip(report.warnings, parts, strict=True):
        assert part in text
    return True


# === The voice ===


def test_a_good_recording_gives_a_voice_without_a_word(model, record):
    audio = np.pad(hum(7, CODEC_HZ), (CODEC_HZ, 2 * CODEC_HZ))
    voice, report = make_voice(record(audio), model, text=25 * "hum ")
    assert said(report)
    assert report.seconds == pytest.approx(6.5, abs=0.5)
    assert report.start_s == pytest.approx(1.05, abs=0.05)
    assert report.recording_s == 10
    assert len(np.unique(voice.semantic_prompt)) > 3
    assert np.array_equal(voice.coarse_prompt, voice.fine_prompt[:2])
    used_s = 16 / TOKENS_HZ  # max_input_semantic_length
    assert report.used_s == pytest.approx(used_s)
    assert "me.wav" in str(report) and "(1.1 to 7.6 s)" in str(report)


@pytest.mark.parametrize("rate", [CODEC_HZ, 44_100])
def test_a_voice_begins_with_a_frame_of_the_codec(model, record, rate):
    """Generated audio is split into the frames that it was decoded from."""
    for silence_s in (0.1, 1.003, 1.0085):
        sound = np.random.default_rng(0).uniform(-0.1, 0.1, 2 * rate)
        audio = np.pad(sound, (round(silence_s * rate), rate))
        _, report = make_voice(record(audio, rate), model)
        frames = report.start_s * FRAMES_HZ
        assert frames == pytest.approx(round(frames), abs=2 * FRAMES_HZ / rate)
        assert 0.04 < silence_s - report.start_s < 0.06 + 1 / FRAMES_HZ


@pytest.mark.parametrize("seconds", [0.7, 1.234, 5.0])
def test_lengths_fit_as_in_all_voices_that_suno_shipped(model, record, seconds):
    rng = np.random.default_rng(0)
    audio = rng.uniform(-0.1, 0.1, round(seconds * CODEC_HZ))
    voice, report = make_voice(record(audio), model)
    count = voice.semantic_prompt.size
    frames = int(count * FRAMES_HZ / TOKENS_HZ)
    assert voice.coarse_prompt.shape == (2, frames)
    assert voice.fine_prompt.shape == (4, frames)
    assert (report.num_tokens, report.num_frames) == (count, frames)
    assert count == pytest.approx(seconds * TOKENS_HZ, abs=1.01)


def test_codes_and_tokens_are_those_of_the_recording(model, record):
    """Compared with the codec and the tokenizer, on audio without silence."""
    audio = np.random.default_rng(0).uniform(-0.1, 0.1, 2 * CODEC_HZ).astype("f4")
    path = record(audio, subtype="FLOAT")
    voice, report = make_voice(path, model)
    codec = EncodecModel.from_pretrained(model)
    codes = codec.encode(audio[None], 1.2).numpy()[0, :, : report.num_frames]
    assert np.array_equal(voice.fine_prompt, codes)
    tokens = KMeansTokenizer.load(model, _settings(model))(load(path, TOKENIZER_HZ))
    assert np.array_equal(voice.semantic_prompt, tokens[: report.num_tokens])
    heard = codec.decode(codes[None]).numpy()[0]
    np.testing.assert_allclose(report.roundtrip, heard, atol=1e-6)


def _settings(folder):

    return json.loads((folder / "semantic_tokenizer.json").read_text(encoding="utf-8"))


def test_the_voice_speaks(model, record, tmp_path, capsys):
    out = tmp_path / "voices" / "me.npz"
    path = record(hum(6, 44_100), 44_100)
    command = ["voice", str(path), "--out", str(out), "--model", str(model)]
    assert cli.main([*command, "--text", 20 * "hum "]) == 0
    printed = capsys.readouterr()
    assert printed.err == f"bark-tf: {module.CONSENT}\n"
    assert "semantic tokens" in printed.out and str(out) in printed.out
    sound = out.with_name("me.roundtrip.wav")
    assert sorted(out.parent.iterdir()) == [out, sound]
    processor = BarkProcessor.from_pretrained(model)
    inputs = processor("one two", voice=str(out), return_tensors="np")
    audio = BarkModel.from_pretrained(model).generate(
        **inputs, semantic_max_new_tokens=5, seed=0, jit_compile=False
    )
    assert np.isfinite(audio).all()
    heard, rate = soundfile.read(sound)
    frames = VoicePreset.from_npz(
        out, semantic_vocab_size=20, codebook_size=16, num_fine=4
    ).fine_prompt.shape[1]
    assert rate == CODEC_HZ and heard.size == frames * 320


def test_hubert_hears_its_own_rate(model, record, tmp_path, monkeypatch):
    """A tokenizer in its own directory, at 16 kHz whatever the recording's rate."""
    config = toy.hubert_config(num_hidden_layers=1)
    quantizer = HubertQuantizerConfig(input_size=16, hidden_size=6, output_size=20)
    tokenizer = HubertTokenizer(
        HubertModel(config), toy.randomize(HubertQuantizer(quantizer)), layer=1
    )
    tokenizer.save(tmp_path / "hubert")
    heard = []
    original = HubertTokenizer.__call__
    monkeypatch.setattr(
        HubertTokenizer,
        "__call__",
        lambda self, audio: heard.append(audio.size) or original(self, audio),
    )
    path = record(hum(6, 44_100), 44_100)
    voice, report = make_voice(path, model, semantic_tokenizer=tmp_path / "hubert")
    assert heard == [pytest.approx(16_000 * report.seconds, abs=16_000 / 40)]
    assert voice.fine_prompt.shape[1] == int(report.num_tokens * 75 / 49.9)


def test_a_model_without_a_tokenizer_says_what_to_do(model, record, tmp_path, capsys):
    bare = tmp_path / "bare"
    bare.mkdir()
    for path in model.iterdir():
        if path.is_file() and not path.name.startswith("semantic_tokenizer"):
            (bare / path.name).write_bytes(path.read_bytes())
    path = record(hum(5, CODEC_HZ))
    command = ["voice", str(path), "--out", str(tmp_path / "a.npz")]
    assert cli.main([*command, "--model", str(bare)]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "--semantic-tokenizer" in error and not (tmp_path / "a.npz").exists()


def test_tokens_that_the_model_does_not_speak_are_refused(model, record):
    other = KMeansTokenizer(
        np.zeros((7, 40)),
        np.zeros(40),
        np.ones(40),
        sample_rate=TOKENIZER_HZ,
        rate_hz=TOKENS_HZ,
    )
    with pytest.raises(ValueError, match=r"20 at 49\.9 Hz\. Received: 7 at 49\.9"):
        make_voice(record(hum(5, CODEC_HZ)), model, semantic_tokenizer=other)


# === Odd recordings ===


def test_a_telephone_sounds_dull(model, record):
    _, report = make_voice(record(hum(6, 8_000), 8_000), model)
    assert said(report, "8000 samples per second and nothing above 4 kHz")


def test_stereo_is_averaged(model, record):
    audio = hum(6, CODEC_HZ)
    mono, _ = make_voice(record(audio, subtype="FLOAT"), model)
    both = np.stack([1.5 * audio, 0.5 * audio], axis=1)
    stereo, report = make_voice(record(both, name="2.wav", subtype="FLOAT"), model)
    assert stereo == mono and said(report)


@pytest.mark.parametrize("seconds", [5, 70])
def test_silence_is_refused(model, record, seconds):
    path = record(np.zeros(seconds * 8_000), 8_000)
    with pytest.raises(ValueError, match="must not be silent") as error:
        make_voice(path, model)
    assert ("in its first 60 s" in str(error.value)) == (seconds == 70)


def test_too_short_is_refused_and_short_is_a_warning(model, record):
    with pytest.raises(ValueError, match=r"at least 0\.3 s"):
        make_voice(record(np.pad(hum(0.6, CODEC_HZ)[2_400:3_600], 9_000)), model)
    _, report = make_voice(record(hum(3, CODEC_HZ)), model)
    assert said(report, "a voice is more stable with 5 to 13 s")


def test_forty_minutes_are_read_for_one(model, tmp_path, monkeypatch):
    """Nothing after the first minute is read: the file has a hole there."""
    rate, seconds = 8_000, 40 * 60
    start = (hum(60, rate) * 2**15).astype("<i2").tobytes()
    path = tmp_path / "long.wav"
    size = 2 * rate * seconds
    head = struct.pack("<4sI4s", b"RIFF", 36 + size, b"WAVE")
    head += struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16)
    with open(path, "wb") as file:
        file.write(head + struct.pack("<4sI", b"data", size) + start)
        file.truncate(len(head) + 8 + size)
    asked = []
    read = soundfile.SoundFile.read
    monkeypatch.setattr(
        soundfile.SoundFile,
        "read",
        lambda file, frames, **how: asked.append(frames) or read(file, frames, **how),
    )
    _, report = make_voice(path, model, text="anything")
    assert sum(asked) == 60 * rate
    assert report.recording_s == seconds and 8 < report.seconds <= 13
    assert said(report, "lasts 40 min 00 s; its first", "nothing above", "first 60 s")


def test_a_long_recording_ends_at_its_last_good_pause(model, record):
    """Speech for 30 s with a single pause, from 10.0 to 10.4 s."""
    audio = np.random.default_rng(0).uniform(-0.1, 0.1, 30 * CODEC_HZ)
    audio[10 * CODEC_HZ : round(10.4 * CODEC_HZ)] *= 1e-3
    _, report = make_voice(record(audio), model)
    assert report.seconds == pytest.approx(10, abs=0.1)
    assert re.search(r"first 10\.[01] s", report.warnings[0])


@pytest.mark.parametrize(
    "content, message",
    [
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(500), "MP4"),
        (b"Dear diary, today I have said nothing.\n" * 20, "WAV, FLAC, Ogg, MP3"),
        (b"", "must not be empty"),
        (b"RIFF\x10\0\0\0WAVEfmt ", "WAV, FLAC, Ogg, MP3"),
    ],
    ids=["video", "text", "empty", "broken"],
)
def test_what_is_no_recording_is_one_line(model, tmp_path, capsys, content, message):
    path = tmp_path / "me.wav"
    path.write_bytes(content)
    out = tmp_path / "out" / "me.npz"
    command = ["voice", str(path), "-o", str(out), "--model", str(model), "--quiet"]
    assert cli.main(command) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not out.parent.exists()


def test_not_finite_is_refused(model, record):
    audio = hum(5, CODEC_HZ)
    audio[70_000] = np.nan
    with pytest.raises(ValueError, match="must be finite"):
        make_voice(record(audio, subtype="FLOAT"), model)


# === Warnings ===


@pytest.mark.parametrize(
    "change, expected",
    [
        (lambda audio: np.clip(8 * audio, -1, 1), ["probably clipped"]),
        (lambda audio: audio / 100, ["very quiet (-5"]),
        (
            lambda a: a + 0.01 * np.random.default_rng(0).standard_normal(a.size),
            ["noise, music or echo"],
        ),
        (lambda audio: audio[: audio.size // 2], ["stop while somebody speaks"]),
    ],
    ids=["clipped", "quiet", "noise", "cut"],
)
def test_what_a_listener_would_notice_is_said(model, record, change, expected):
    # Twice as much as is taken of it when it is cut: in the middle of a syllable.
    audio = hum(12, CODEC_HZ, noise_db=-110)
    if expected == ["stop while somebody speaks"]:
        middle = audio.size // 2
        loud = np.abs(audio[middle : middle + CODEC_HZ // 2]).argmax()
        audio = audio[: 2 * (middle + loud)]
    _, report = make_voice(record(change(audio), subtype="FLOAT"), model)
    assert said(report, *expected)


def test_a_quiet_voice_is_made_louder(model, record):
    audio = hum(6, CODEC_HZ, noise_db=-110)
    level = 0.08 / np.sqrt(np.mean(np.square(audio)))
    quiet, _ = make_voice(record(audio / 100, subtype="FLOAT"), model)
    loud, _ = make_voice(record(audio * level, subtype="FLOAT"), model)
    same = (quiet.fine_prompt == loud.fine_prompt).mean()
    assert same > 0.9  # trimming at other places moves the level a little


def test_two_people_are_doubted(model, record):
    parts = [hum(5, CODEC_HZ, 105), hum(5, CODEC_HZ, 200)]
    _, report = make_voice(record(np.concatenate(parts)), model)
    assert said(report, "perhaps two people")


@pytest.mark.parametrize("text", ["One.", 40 * "far too many words for this "])
def test_a_text_of_another_recording_is_doubted(model, record, text):
    _, report = make_voice(record(hum(6, CODEC_HZ)), model, text=text)
    assert said(report, "is it the text of this recording?")


def test_warnings_are_lines_and_quiet_is_quiet(model, record, tmp_path, capsys):
    path = record(hum(3, CODEC_HZ))
    command = ["voice", str(path), "-o", str(tmp_path / "a"), "--model", str(model)]
    assert cli.main(command) == 0
    consent, warning = capsys.readouterr().err.splitlines()
    assert module.CONSENT in consent and "bark-tf: warning: there are only" in warning
    assert (tmp_path / "a.npz").is_file()
    assert cli.main([*command, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


# === Files ===


def a_report(**changes):
    fields = {
        "recording": "me.wav",
        "recording_s": 1.0,
        "start_s": 0.0,
        "seconds": 1.0,
        "used_s": 1.0,
        "speech_db": -20.0,
        "distance_db": 40.0,
        "num_tokens": 9,
        "num_frames": 13,
        "warnings": (),
        "roundtrip": np.zeros(100, "f4"),
        "sample_rate": CODEC_HZ,
    }
    return module.VoiceReport(**{**fields, **changes})


def test_a_full_disk_leaves_no_half_file(tmp_path, monkeypatch):
    """The previous voice is unchanged."""
    path, sound = voice_paths(tmp_path / "me")
    path.write_bytes(b"before")

    def full(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space"):
        save_voice(toy.voice(), a_report(), path)
    assert path.read_bytes() == b"before"
    assert sorted(tmp_path.iterdir()) == [path, sound]


def test_a_loud_roundtrip_is_turned_down_not_clipped(tmp_path):
    ramp = np.linspace(-2, 1, 500, dtype="f4")
    _, sound = save_voice(toy.voice(), a_report(roundtrip=ramp), tmp_path / "me.npz")
    np.testing.assert_allclose(soundfile.read(sound)[0], ramp / 2, atol=1e-4)


def test_a_recording_is_never_replaced(model, record, tmp_path, capsys):
    path = record(hum(5, CODEC_HZ), name="me.roundtrip.wav")
    before = path.read_bytes()
    command = ["voice", str(path), "-o", str(tmp_path / "me.npz")]
    assert cli.main([*command, "--model", str(model)]) == 1
    assert "must not be replaced" in capsys.readouterr().err
    assert path.read_bytes() == before


# === A codec that has learned ===


def test_what_a_trained_codec_has_said_it_hears_again():
    """Codes -> audio -> codes: measured 44 and 17 % of the first two codebooks.

    By chance, which is codes of other frames, it is 0.2 and 0.3 %. The codec is that of
    the small voice, the audio a second of speech. What later codebooks add is so little
    that their codes come back no better than by chance.
    """
    codec = EncodecModel.from_pretrained(hub.SHIPPED_CHECKPOINT)
    path = Path(__file__).parents[2] / "data" / "one_nine_three.ogg"
    audio = load(path, codec.config.sampling_rate)
    said = codec.encode(audio[None]).numpy()
    heard = codec.encode(codec.decode(said)).numpy()
    said, heard = said[0, :2], heard[0, :2]
    first, second = (said == heard).mean(axis=1)
    assert first > 0.3 and second > 0.08
    others = [(np.roll(said, shift, 1) == heard).mean() for shift in range(5, 50)]
    assert np.mean(others) < 0.02
