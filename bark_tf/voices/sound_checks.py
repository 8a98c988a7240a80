"""Checks of a recording's samples, in NumPy.

They are rough on purpose: each finds what a listener would notice at once, and nothing
when in doubt. None of them understands speech.

Axes: S samples, F frames.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# === Levels ===
_FRAME_S = 0.02
# Percentiles of the frames' levels that stand for speech and for noise.
_LOUD, _QUIET = 95, 5
# Digital silence.
_FLOOR_DB = -120.0

# === Clipping ===
# Equally high samples in a row: a sine has two at its top, speech rarely any.
_FLAT_SAMPLES = 3
# A 16-bit step.
_SAME = 2.0**-15
# Quieter peaks are not clipped.
_CLIPPED_PEAK = 0.5

# === Pitch ===
PITCH_RATE = 8_000
_PITCH_HZ = (60.0, 400.0)
_PITCH_FRAME_S, _PITCH_HOP_S = 0.05, 0.02
# A frame is voiced if it correlates this much with itself one period later.
_VOICED = 0.6
# The shortest period that is about as good as the best, to avoid octave errors.
_ABOUT_AS_GOOD = 0.85
_VOICED_DB = -25.0  # relative to the speech
# Pitch is compared between stretches of one second with at least 0.3 s voiced.
_STRETCH_FRAMES, _MIN_VOICED = 50, 15
# Two people: at least two stretches each, and half an octave between them.
_GAP_OCTAVES, _MIN_STRETCHES = 0.5, 2


class Levels(NamedTuple):
    """Levels of a recording.

    Attributes:
        speech_db: Level of the loud frames, relative to a full-scale square wave.
        noise_db: Level of the quiet frames.
    """

    speech_db: float
    noise_db: float

    @property
    def distance_db(self) -> float:
        """Level difference between loud and quiet frames."""
        return self.speech_db - self.noise_db


def frame_levels(audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """Measures the level of every 20 ms in dB.

    Args:
        audio: float32 (S,), at least one sample.
        sample_rate: Samples per second.

    Returns:
        float64 (F,), of whole frames, at least one.
    """
    frame = max(1, min(round(_FRAME_S * sample_rate), audio.size))
    frames = audio[: audio.size // frame * frame].reshape(-1, frame)
    frames = frames.astype(np.float64) - np.mean(audio, dtype=np.float64)
    power = np.mean(np.square(frames), axis=1)
    return 10 * np.log10(np.maximum(power, 10 ** (_FLOOR_DB / 10)))


def levels(audio: np.ndarray, sample_rate: int) -> Levels:
    """Measures `Levels` of audio, float32 (S,).

    In speech without pauses, only consonants are quiet, about 25 dB below the rest, so
    `noise_db` is an upper bound.
    """
    found = frame_levels(audio, sample_rate)
    return Levels(*(float(np.percentile(found, share)) for share in (_LOUD, _QUIET)))


def clipped_share(samples: np.ndarray) -> float:
    """Measures the share of samples that are clipped.

    Args:
        samples: float32 (S, channels), as recorded: resampling, averaging channels and
            lossy codecs hide clipping.

    Returns:
        Share of the worst channel, in [0, 1].
    """
    return max(_clipped_share(channel) for channel in samples.T)


def _clipped_share(channel: np.ndarray) -> float:
    peak = float(np.abs(channel).max(initial=0.0))
    if peak < _CLIPPED_PEAK:
        return 0.0
    at_end = np.abs(channel) >= min(peak, 1.0) - _SAME
    edges = np.flatnonzero(np.diff(at_end, prepend=False, append=False))
    lengths = edges[1::2] - edges[::2]
    return float(lengths[lengths >= _FLAT_SAMPLES].sum() / channel.size)


# === Speakers ===


def pitches(audio: np.ndarray) -> np.ndarray:
    """Estimates the pitch of every 20 ms by autocorrelation.

    Args:
        audio: float32 (S,), at `PITCH_RATE`.

    Returns:
        float64 (F,) in Hz; NaN where there is no pitch.
    """
    frame = round(_PITCH_FRAME_S * PITCH_RATE)
    hop = round(_PITCH_HOP_S * PITCH_RATE)
    if audio.size < frame:
        return np.zeros(0)
    window = np.hanning(frame)
    frames = np.lib.stride_tricks.sliding_window_view(audio, frame)[::hop]  # (F, S)
    frames = (frames - frames.mean(axis=1, keepdims=True)) * window
    energy = np.sum(np.square(frames), axis=1)
    similar = _correlation(frames) / np.maximum(_correlation(window[None]), 1e-9)
    similar /= np.maximum(similar[:, :1], 1e-12)
    low, high = (round(PITCH_RATE / hz) for hz in _PITCH_HZ[::-1])
    lags = similar[:, low : high + 1]
    best = lags.max(axis=1)
    is_peak = np.zeros(lags.shape, bool)
    is_peak[:, 1:-1] = (lags[:, 1:-1] >= lags[:, :-2]) & (lags[:, 1:-1] > lags[:, 2:])
    good = is_peak & (lags >= _ABOUT_AS_GOOD * best[:, None])
    loud = energy > np.percentile(energy, _LOUD) * 10 ** (_VOICED_DB / 10)
    is_voiced = good.any(axis=1) & (best > _VOICED) & loud
    return np.where(is_voiced, PITCH_RATE / (low + good.argmax(axis=1)), np.nan)


def _correlation(frames: np.ndarray) -> np.ndarray:
    size = 2 * frames.shape[1]
    return np.fft.irfft(np.square(np.abs(np.fft.rfft(frames, size))), size)


def two_pitches(audio: np.ndarray) -> tuple[float, float] | None:
    """Finds the pitches of two speakers who take turns, if they clearly differ.

    Seconds are compared, not frames, so a voice that jumps within a word counts as one.
    Two people of similar pitch count as one, and one person in two roles as two.

    Args:
        audio: float32 (S,), at `PITCH_RATE`.

    Returns:
        Median pitch of the lower and the higher speaker in Hz, or None.
    """
    found = pitches(audio)
    stretches = (
        found[start : start + _STRETCH_FRAMES]
        for start in range(0, len(found), _STRETCH_FRAMES)
    )
    voiced = (stretch[~np.isnan(stretch)] for stretch in stretches)
    medians = np.sort([np.median(v) for v in voiced if v.size >= _MIN_VOICED])
    if len(medians) < 2 * _MIN_STRETCHES:
        return None
    gaps = np.diff(np.log2(medians))
    inner = gaps[_MIN_STRETCHES - 1 : len(gaps) - _MIN_STRETCHES + 1]
    if inner.max() < _GAP_OCTAVES:
        return None
    split = int(inner.argmax()) + _MIN_STRETCHES
    return float(np.median(medians[:split])), float(np.median(medians[split:]))
