"""Checks of recordings: true positives and, above all, no false ones."""

import numpy as np
import pytest
from toy_speech import hum

from bark_tf.voices.sound_checks import (
    PITCH_RATE,
    clipped_share,
    levels,
    pitches,
    two_pitches,
)

RATE = 16_000


# === Levels ===


def test_levels_are_those_of_the_loud_and_of_the_quiet():
    half = np.random.default_rng(0).standard_normal(RATE) * 0.1  # -20 dB
    found = levels(np.concatenate([half, half / 100]).astype("f4"), RATE)
    assert found.speech_db == pytest.approx(-20, abs=1.5)
    assert found.noise_db == pytest.approx(-60, abs=1.5)
    assert found.distance_db == found.speech_db - found.noise_db


def test_an_offset_is_no_noise():
    audio = hum(3, RATE)
    assert levels(audio + 0.2, RATE).distance_db == pytest.approx(
        levels(audio, RATE).distance_db, abs=0.1
    )


@pytest.mark.parametrize("audio", [np.zeros(4_000, "f4"), np.full(3, 0.5, "f4")])
def test_levels_of_silence_and_of_next_to_nothing(audio):
    assert levels(audio, RATE).distance_db == 0


# === Clipping ===


def clipped(gain, peak=1.0):
    audio = hum(3, RATE)
    audio = np.clip(gain * audio / np.abs(audio).max(), -1, 1) * peak
    return np.round(audio * 2**15) / 2**15


@pytest.mark.parametrize("gain", [0.2, 0.9, 1.0])
def test_loud_is_not_clipped(gain):
    assert clipped_share(clipped(gain)[:, None]) == 0


@pytest.mark.parametrize("peak", [1.0, 0.6])
def test_flat_tops_are_counted_wherever_they_are(peak):
    """A clipped recording stays clipped when it is turned down."""
    audio = clipped(2.0, peak)
    share = clipped_share(audio[:, None])
    at_top = np.mean(np.abs(audio) >= np.abs(audio).max() - 1e-6)
    assert 1e-3 < share <= at_top < share + 1e-3


def test_one_clipped_channel_is_enough():
    both = np.stack([clipped(0.5), clipped(2.0)], axis=1)
    assert clipped_share(both) == clipped_share(both[:, 1:]) > 1e-3


def test_slow_waves_are_not_clipped():
    time = np.arange(3 * RATE) / RATE
    sine = np.round(np.sin(2 * np.pi * 150 * time) * 2**15) / 2**15
    assert clipped_share(sine[:, None]) == 0


# === Speakers ===


@pytest.mark.parametrize("pitch", [80, 120, 220, 330])
def test_the_pitch_is_found_and_no_octave_of_it(pitch):
    found = pitches(hum(4, PITCH_RATE, pitch))
    found = found[~np.isnan(found)]
    assert len(found) > 50
    near = np.abs(np.log2(found / pitch)) < np.log2(1.16)  # syllables vary by 1.1
    assert near.mean() > 0.95


def test_noise_has_no_pitch():
    noise = np.random.default_rng(0).standard_normal(3 * PITCH_RATE).astype("f4")
    assert np.isnan(pitches(noise)).mean() > 0.95
    assert pitches(noise[:100]).size == 0


def test_two_people_in_turn_are_two():
    low, high = hum(4, PITCH_RATE, 105), hum(4, PITCH_RATE, 200, seed=1)
    found = two_pitches(np.concatenate([low, high, low[:16_000]]))
    assert found == pytest.approx((105, 200), rel=0.06)


@pytest.mark.parametrize("other", [110, 130, 145])
def test_one_who_speaks_higher_now_and_then_is_one(other):
    both = [hum(4, PITCH_RATE, 110), hum(4, PITCH_RATE, other, seed=1)]
    assert two_pitches(np.concatenate(both)) is None


def test_one_outcry_is_no_second_person():
    parts = [hum(5, PITCH_RATE, 110), hum(1, PITCH_RATE, 230), hum(3, PITCH_RATE, 110)]
    assert two_pitches(np.concatenate(parts)) is None


def test_too_short_to_tell_is_one():
    parts = [hum(1, PITCH_RATE, 110), hum(1, PITCH_RATE, 230)]
    assert two_pitches(np.concatenate(parts)) is None
