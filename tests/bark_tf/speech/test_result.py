import sys
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

import bark_tf
from bark_tf.text.chunks import ChunkReport

RATE = 24_000


@pytest.fixture
def speech():
    audio = np.sin(np.arange(RATE) / 8).astype(np.float32) / 20
    return bark_tf.Speech(audio, RATE, 7, (ChunkReport("Hi.", 1, 7, 1.0, None, 0),))


def test_it_says_what_it_is(speech):
    assert repr(speech) == "Speech(1.00 s of audio at 24000 Hz, seed 7)"
    assert speech.duration == 1.0 and speech.voice is None
    assert speech._repr_html_().count("<audio controls") == 1


@pytest.mark.parametrize(
    ("suffix", "kind"), [("mp3", "MP3"), ("opus", "OGG"), ("flac", "FLAC")]
)
def test_it_saves_itself_by_the_ending(speech, suffix, kind, tmp_path):
    path = speech.save(tmp_path / f"x.{suffix}")
    info = soundfile.info(path)
    assert (info.format, info.frames) == (kind, RATE)
    assert [one.name for one in tmp_path.iterdir()] == [f"x.{suffix}"]


def test_an_unknown_ending_lists_the_known(speech):
    with pytest.raises(ValueError, match=r"must end in \.wav.*\.opus.*'x\.txt'"):
        speech.save("x.txt")
    with pytest.raises(ValueError, match=r"must end in \.srt or \.vtt"):
        speech.save_subtitles("x.txt")


def test_subtitles_loudness_and_loudspeakers(speech, tmp_path, monkeypatch):
    text = speech.save_subtitles(tmp_path / "x.srt").read_text()
    assert text == "1\n00:00:00,000 --> 00:00:01,000\nHi.\n"
    louder = speech.with_loudness(-16)
    assert np.abs(louder.audio).max() > 2 * np.abs(speech.audio).max()
    assert (louder.seed, louder.chunks) == (7, speech.chunks)
    played = []
    device = SimpleNamespace(
        play=lambda audio, rate, blocking: played.append((audio.size, rate)),
        PortAudioError=OSError,
    )
    monkeypatch.setitem(sys.modules, "sounddevice", device)
    speech.play()
    assert played == [(RATE, RATE)]
