"""Trimming, silence and loudness."""

import numpy as np
import pytest
from toy_recordings import DURATION_S, PEAK, RATE, tone

from bark_tf.audio import editing


def surrounded(before_s, after_s, noise=0.0, peak=PEAK):
    """A tone with silence, or a hiss, around it."""
    parts = [np.zeros(round(before_s * RATE)), tone(peak=peak)]
    whole = np.concatenate([*parts, np.zeros(round(after_s * RATE))])
    hiss = noise * np.random.default_rng(0).standard_normal(whole.size)
    return (whole + hiss).astype(np.float32)


@pytest.mark.parametrize("peak", [0.9, 0.01])
@pytest.mark.parametrize("offset", [0.0, 0.05])
def test_trim_leaves_the_sound_and_a_little_silence(peak, offset):
    samples = surrounded(0.5, 0.3, noise=peak * 1e-3, peak=peak) + np.float32(offset)
    trimmed = editing.trim(samples, RATE, keep_s=0.05)
    assert trimmed.dtype == np.float32
    places = np.lib.stride_tricks.sliding_window_view(samples, trimmed.size)
    (start,) = np.flatnonzero((places == trimmed).all(axis=1))
    step = 0.006  # one step between frames
    assert start / RATE == pytest.approx(0.5 - 0.05, abs=step)
    assert trimmed.size / RATE == pytest.approx(0.05 + DURATION_S + 0.05, abs=2 * step)


def test_trim_finds_silence_beside_sound_that_is_not_symmetric():
    """The mean of all is that of the sound, which silence does not have."""
    samples = surrounded(0.5, 0.3)
    samples[samples < 0] *= 0.5
    assert editing.trim(samples, RATE).size < samples.size - 0.6 * RATE


@pytest.mark.parametrize("keep_s", [0.0, 0.05])
def test_trim_never_cuts_sound(keep_s):
    sound = tone().astype(np.float32)
    assert editing.trim(sound, RATE, keep_s=keep_s).size == sound.size
    for before_s in np.arange(0.1, 0.11, 0.001):
        samples = surrounded(before_s, before_s)
        trimmed = editing.trim(samples, RATE, keep_s=keep_s)
        assert np.square(trimmed).sum() > 0.9999 * np.square(samples).sum()


def test_trim_keeps_pauses_and_obeys_the_threshold():
    quiet_end = surrounded(0.2, 0.5)
    quiet_end[-RATE // 4 :] = 0.01 * PEAK * tone(duration_s=0.25)
    assert editing.trim(quiet_end, RATE, -30).size < quiet_end.size - RATE // 3
    assert editing.trim(quiet_end, RATE, -60).size == quiet_end.size - 0.15 * RATE
    pause = np.concatenate([surrounded(0, 1), surrounded(0, 0)])
    assert editing.trim(pause, RATE).size == pause.size


@pytest.mark.parametrize("num_samples", [0, 1, 100, RATE])
def test_trim_leaves_silence_alone(num_samples):
    silence = np.zeros(num_samples, np.float32)
    assert editing.trim(silence, RATE).size == num_samples


@pytest.mark.parametrize(
    "before_s, after_s", [(0.0, 0.0), (0.05, 0.3), (0.5, 0.02), (0.1, 0.1)]
)
def test_with_silence_gives_both_ends_the_same(before_s, after_s):
    samples = surrounded(before_s, after_s)
    made = editing.with_silence(samples, RATE, 0.1)
    assert made.dtype == np.float32
    step = 0.015  # frames of which the sound fills a part count
    assert made.size / RATE == pytest.approx(0.2 + DURATION_S, abs=2 * step)
    loud = np.flatnonzero(np.abs(made) > 0.01)
    assert loud[0] / RATE == pytest.approx(0.1, abs=step)
    assert (made.size - loud[-1]) / RATE == pytest.approx(0.1, abs=step)
    # What was there stays as it is, sample for sample.
    first = np.flatnonzero(np.abs(samples) > 0.01)[0]
    sound = samples[first : first + int(DURATION_S * RATE) - 10]
    assert np.array_equal(made[loud[0] : loud[0] + sound.size], sound)


def test_added_silence_is_faint_and_the_same_each_time():
    sound = tone().astype(np.float32)
    made = editing.with_silence(sound, RATE, 0.2)
    assert np.array_equal(made, editing.with_silence(sound, RATE, 0.2))
    added = made[: round(0.15 * RATE)]
    assert 1e-4 < np.sqrt(np.mean(added**2)) < 1e-3
    assert editing.with_silence(sound, RATE, 0.0).size == sound.size
    assert np.array_equal(editing.with_silence(sound, RATE, 0.0), sound)


def test_trim_refuses_what_makes_no_sense():
    with pytest.raises(ValueError, match="threshold_db must be negative"):
        editing.trim(np.ones(5), RATE, threshold_db=3)
    with pytest.raises(ValueError, match="keep_s must be at least 0"):
        editing.trim(np.ones(5), RATE, keep_s=-1)


def test_normalise_reaches_the_level_unless_the_peak_forbids():
    quiet = tone(peak=0.01).astype(np.float32)
    loud = editing.normalise(quiet, rms=0.08)
    assert loud.dtype == np.float32
    assert np.sqrt(np.mean(loud**2)) == pytest.approx(0.08, rel=1e-4)
    spiky = quiet.copy()
    spiky[100] = 0.5
    assert np.abs(editing.normalise(spiky, rms=0.5)).max() == pytest.approx(0.95)
    assert not editing.normalise(np.zeros(9, np.float32)).any()
    with pytest.raises(ValueError, match=r"rms must be in \(0, 1\]"):
        editing.normalise(quiet, rms=0.0)
