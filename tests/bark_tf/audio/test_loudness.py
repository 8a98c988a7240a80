import sys

import numpy as np
import pyloudnorm
import pytest

from bark_tf.audio.loudness import check_loudness, with_loudness

RATE = 24_000


def tone(seconds=2.0, peak=0.05):
    return np.sin(np.arange(round(seconds * RATE)) / 5).astype(np.float32) * peak


def loudness(audio):
    return pyloudnorm.Meter(RATE).integrated_loudness(audio)


@pytest.mark.parametrize("lufs", [-16, -23.5])
def test_speech_becomes_as_loud_as_asked(lufs):
    audio = with_loudness(tone(), RATE, lufs)
    assert audio.dtype == np.float32 and audio.shape == tone().shape
    assert loudness(audio) == pytest.approx(lufs, abs=0.05)


def test_nothing_is_clipped():
    audio = tone()
    audio[1000] = 0.9
    with pytest.warns(UserWarning, match=r"-16 LUFS would clip.*becomes -2\d\.\d"):
        louder = with_loudness(audio, RATE, -16)
    assert 0.88 < np.abs(louder).max() < 0.9
    assert loudness(louder) < -20


def test_short_and_silent_sounds():
    peaks = [np.abs(with_loudness(tone(s), RATE, -20)).max() for s in (0.1, 2.0)]
    assert peaks[0] == pytest.approx(peaks[1], rel=0.1)
    for silence in (0 * tone(), tone(0), 1e-6 * tone()):
        np.testing.assert_array_equal(with_loudness(silence, RATE, -16), silence)


def test_what_is_wrong_is_told_before_the_work(monkeypatch):
    for lufs in (0, 16, -100, float("nan")):
        with pytest.raises(ValueError, match=r"in LUFS.*Received: loudness="):
            check_loudness(lufs)
    monkeypatch.setitem(sys.modules, "pyloudnorm", None)
    with pytest.raises(ImportError, match=r"pip install \"\.\[loudness\]\""):
        check_loudness(-16)
