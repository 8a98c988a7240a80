"""What is wrong with a recording, told from its samples alone, in NumPy.

Rough on purpose: each check is to find what a listener would notice at once, and to
stay silent when in doubt. None of them understands speech.

Axes: S samples, F frames.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# === Levels ===
_FRAME_S = 0.02
# Of the frames' levels: the speech is taken for the loudest, noise for the quietest.
_LOUD, _QUIET = 95, 5
# Digital silence.
_FLOOR_DB = -120.0

# === Clipping ===
# Equally high samples in a row: a sine near its top has two, speech hardly ever.
_FLAT_SAMPLES = 3
# A step of 16 bits.
_SAME = 2.0**-15
# Quieter peaks are not the end of any scale.
_CLIPPED_PEAK = 0.5

# === Pitch ===
PITCH_RATE = 8_000
_PITCH_HZ = (60.0, 400.0)
_PITCH_FRAME_S, _PITCH_HOP_S = 0.05, 0.02
# Correlation of a frame with itself one period later, from which it counts as voiced.
_VOICED = 0.6
# The shortest period is taken that is about as good as the best: no octave too low.
_ABOUT_AS_GOOD = 0.85
_VOICED_DB = -25.0  # relative to the speech
# Pitch is compared between stretches of a second, each with at least 0.3 s voiced.
_STRETCH_FRAMES, _MIN_VOICED = 50, 15
# Two people: no stretch in half an octave between them, and each has two.
_GAP_OCTAVES, _MIN_STRETCHES = 0.5, 2


class Levels(NamedTuple):
    """How loud a recording is.

    Attributes:
        speech_db: Level of its loud frames, relative to a full-scale square wave.
        noise_db: Level of its quiet frames.
    """

    speech_db: float
    noise_db: float

    @property
    def distance_db(self) -> float:
        """How far the quiet lies below the loud."""
        return self.speech_db - self.noise_db


def frame_levels(audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """Level of every 20 ms in dB: float64 (F,), whole frames, at least one.

    Args:
        audio: float32 (S,), at least one sample.
        sample_rate: Samples per second.
    """
    frame = max(1, min(round(_FRAME_S * sample_rate), audio.size))
    frames = audio[: audio.size // frame * frame].reshape(-1, frame)
    frames = frames.astype(np.float64) - np.mean(audio, dtype=np.float64)
    power = np.mean(np.square(frames), axis=1)
    return 10 * np.log10(np.maximum(power, 10 ** (_FLOOR_DB / 10)))


def levels(audio: np.ndarray, sample_rate: int) -> Levels:
    """Measures `Levels` of audio, float32 (S,).

    Speech without any pause has no quiet frames but those of its consonants, about
    25 dB down; so the noise is at most what is found, never surely as much.
    """
    found = frame_levels(audio, sample_rate)
    return Levels(*(float(np.percentile(found, share)) for share in (_LOUD, _QUIET)))


def clipped_share(samples: np.ndarray) -> float:
    """Share of the samples that stand in a row at the end of the scale.

    Args:
        samples: float32 (S, channels), as they were recorded: resampling, averaging
            channels and lossy codecs hide what was cut off.

    Returns:
        Of the worst channel, in [0, 1].
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
    """The pitch of every 20 ms in Hz, by autocorrelation; NaN where there is none.

    Args:
        audio: float32 (S,), at `PITCH_RATE`.

    Returns:
        float64 (F,).
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
    """The pitches of two speakers, if two clearly separate ones are heard in turn.

    Seconds are compared, not frames: a voice that jumps within a word stays one.
    Two people of like pitch are not told apart, and one who plays two roles is two.

    Args:
        audio: float32 (S,), at `PITCH_RATE`.

    Returns:
        Medians of the lower and the higher one in Hz, or None.
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
