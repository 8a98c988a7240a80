"""Silence at the ends, and the level of a recording."""

from __future__ import annotations

import math

import numpy as np

from bark_tf.audio.reading import check_rate

# === Silence at the ends ===
_FRAME_S, _HOP_S = 0.02, 0.005
_FAINT = 3e-4  # -70 dB below full scale


# === Trimming and loudness ===


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
            loudest; negative.
        keep_s: Seconds of silence left at each end.

    Returns:
        float32 (samples,), a copy; all of it if nothing stands out.

    Raises:
        ValueError: If an argument is out of range.

    Differs: tensorflow-io's `trim` compares single samples, and only positive ones.
    """
    start, end = sound_bounds(audio, sample_rate, threshold_db, keep_s)
    return audio[start:end].copy()


def with_silence(audio: np.ndarray, sample_rate: int, silence_s: float) -> np.ndarray:
    """Gives a recording so much silence at both ends: cut off, or added.

    What is added is noise at -70 dB, always the same: no room is as silent as zeros, in
    which a codec that has never met them, and recognisers too, hear things.

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
    """Where sound begins and ends.

    Silence is what lies below a threshold relative to the loudest 20 ms, so that a
    quiet recording is trimmed like a loud one. A frame's mean is not sound.

    Args:
        audio: As for `trim`.
        sample_rate: As for `trim`.
        threshold_db: As for `trim`.
        keep_s: As for `trim`.

    Returns:
        Its first sample, and the one after its last.

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
    # A quiet frame ends where sound begins: only what the loud one adds is sound.
    start = is_loud[0] * hop + (frame - hop if is_loud[0] else 0)
    end = is_loud[-1] * hop + (frame if is_loud[-1] == len(energies) - 1 else hop)
    return max(0, int(start) - keep), min(audio.size, int(end) + keep)


def _frame_energies(audio: np.ndarray, frame: int, hop: int) -> np.ndarray:
    """Variances of frames: float64 (frames,); the last ones may be incomplete.

    Each frame's own mean is left out, not that of all: speech is not symmetric, and
    its mean would be heard in the silence around it.
    """
    centred = audio - np.mean(audio, dtype=np.float64)  # so that no digits are lost
    starts = np.arange(0, max(1, audio.size - frame + hop), hop)
    ends = np.minimum(starts + frame, audio.size)

    def means(values):
        sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
        return (sums[ends] - sums[starts]) / np.maximum(ends - starts, 1)

    return np.maximum(means(np.square(centred)) - np.square(means(centred)), 0.0)


def normalise(
    audio: np.ndarray, rms: float = 0.08, peak_limit: float = 0.95
) -> np.ndarray:
    """Brings audio to a loudness, as far as its peak allows.

    Nothing calls this by default: a model speaks as loudly as what it learned from.

    Args:
        audio: float32 (samples,).
        rms: Root mean square of the result.
        peak_limit: Largest magnitude of the result; peakier audio stays quieter.

    Returns:
        float32 (samples,), a copy; silence stays silence.

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
