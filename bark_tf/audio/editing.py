"""Trimming, silence and loudness."""

from __future__ import annotations

import math

import numpy as np

from bark_tf.audio.reading import check_rate

_FRAME_S, _HOP_S = 0.02, 0.005
_FAINT = 3e-4  # -70 dB


# === Silence ===


def trim(
    audio: np.ndarray,
    sample_rate: int,
    threshold_db: float = -40.0,
    keep_s: float = 0.05,
) -> np.ndarray:
    """Cuts silence off both ends; see `sound_bounds`.

    Args:
        audio: float32 (samples,).
        sample_rate: Samples per second.
        threshold_db: Level below which a frame of 20 ms is silent, relative to the
            loudest frame; negative.
        keep_s: Seconds of silence to keep at each end.

    Returns:
        float32 (samples,), a copy; all of it if no frame is louder than others.

    Raises:
        ValueError: If an argument is out of range.

    Differs: tensorflow-io's `trim` compares single samples, and only positive ones.
    """
    start, end = sound_bounds(audio, sample_rate, threshold_db, keep_s)
    return audio[start:end].copy()


def with_silence(audio: np.ndarray, sample_rate: int, silence_s: float) -> np.ndarray:
    """Cuts or pads the silence at both ends of a recording to a length.

    The padding is noise at -70 dB, always the same. No room is as silent as zeros, for
    which codecs and recognisers that were not trained on them give random output.

    Args:
        audio: float32 (samples,).
        sample_rate: Samples per second.
        silence_s: Seconds of silence at each end.

    Returns:
        float32 (samples,).

    Raises:
        ValueError: If an argument is out of range.
    """
    start, end = sound_bounds(audio, sample_rate, keep_s=0.0)
    silence = round(silence_s * sample_rate)
    first, last = start - silence, end + silence
    missing = max(0, -first), max(0, last - audio.size)
    whole = np.pad(audio[max(0, first) : last], missing)
    noise = np.random.Generator(np.random.Philox(0)).standard_normal(sum(missing))
    noise = noise.astype(whole.dtype) * whole.dtype.type(_FAINT)
    whole[: missing[0]] = noise[: missing[0]]
    whole[whole.size - missing[1] :] = noise[missing[0] :]
    return whole


def sound_bounds(
    audio: np.ndarray,
    sample_rate: int,
    threshold_db: float = -40.0,
    keep_s: float = 0.05,
) -> tuple[int, int]:
    """Finds where sound begins and ends.

    Silence is below a threshold relative to the loudest 20 ms, so a quiet recording is
    trimmed like a loud one. A constant offset is not sound.

    Args:
        audio: As for `trim`.
        sample_rate: As for `trim`.
        threshold_db: As for `trim`.
        keep_s: As for `trim`.

    Returns:
        The first sample of sound, and the one after the last.

    Raises:
        ValueError: If an argument is out of range.
    """
    check_rate(sample_rate)
    if not threshold_db < 0:
        raise ValueError(
            f"threshold_db must be negative. Received: threshold_db={threshold_db!r}"
        )
    if not 0 <= keep_s < math.inf:
        raise ValueError(f"keep_s must be at least 0. Received: keep_s={keep_s!r}")
    if not audio.size:
        return 0, 0
    frame = max(1, round(_FRAME_S * sample_rate))
    hop = max(1, round(_HOP_S * sample_rate))
    energies = _frame_energies(audio, frame, hop)
    is_loud = np.flatnonzero(energies > energies.max() * 10 ** (threshold_db / 10))
    if not is_loud.size:
        return 0, audio.size
    keep = round(keep_s * sample_rate)
    # The frame before the first loud one is quiet, so sound begins after its end.
    start = is_loud[0] * hop + (frame - hop if is_loud[0] else 0)
    end = is_loud[-1] * hop + (frame if is_loud[-1] == len(energies) - 1 else hop)
    return max(0, int(start) - keep), min(audio.size, int(end) + keep)


def _frame_energies(audio: np.ndarray, frame: int, hop: int) -> np.ndarray:
    """Computes the variance of each frame: float64 (frames,), the last ones shorter.

    Each frame's own mean is subtracted, not that of the recording: speech is not
    symmetric, and its mean would count as sound in the silence around it.
    """
    centred = audio - np.mean(audio, dtype=np.float64)  # to keep precision
    starts = np.arange(0, max(1, audio.size - frame + hop), hop)
    ends = np.minimum(starts + frame, audio.size)

    def means(values):
        sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
        return (sums[ends] - sums[starts]) / np.maximum(ends - starts, 1)

    return np.maximum(means(np.square(centred)) - np.square(means(centred)), 0.0)


# === Loudness ===


def normalise(
    audio: np.ndarray, rms: float = 0.08, peak_limit: float = 0.95
) -> np.ndarray:
    """Scales audio to a loudness, as far as its peak allows.

    Nothing calls this by default: a model speaks as loudly as its training data.

    Args:
        audio: float32 (samples,).
        rms: Root mean square of the result.
        peak_limit: Largest magnitude of the result, which may keep it quieter.

    Returns:
        float32 (samples,), a copy; silence is unchanged.

    Raises:
        ValueError: If an argument is out of range.
    """
    for name, value in (("rms", rms), ("peak_limit", peak_limit)):
        if not 0 < value <= 1:
            raise ValueError(f"{name} must be in (0, 1]. Received: {name}={value!r}")
    peak = float(np.abs(audio).max(initial=0.0))
    if not peak:
        return audio.copy()
    level = math.sqrt(np.mean(np.square(audio, dtype=np.float64)))
    return audio * np.float32(min(rms / level, peak_limit / peak))
