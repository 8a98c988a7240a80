"""Loudness of speech, in LUFS.

Source: ITU-R BS.1770 and EBU R 128, by the package pyloudnorm.
"""

from __future__ import annotations

import math
import warnings

import numpy as np

from bark_tf.optional import required

# Of the standard; shorter sounds are measured as one block.
_BLOCK_S = 0.4
# Players clip above 1, and lossy formats overshoot a little.
_PEAK = 10 ** (-1 / 20)


def check_loudness(lufs: float) -> None:
    """Raises what `with_loudness` would raise, before any work is done.

    Args:
        lufs: The loudness that is wanted, in [-70, 0).

    Raises:
        ValueError: If it is out of range.
        ImportError: If pyloudnorm is not installed.
    """
    if not -70 <= lufs < 0:
        raise ValueError(
            "loudness is in LUFS, from -70 to below 0; speech has about -16. "
            f"Received: loudness={lufs:g}"
        )
    required("pyloudnorm", "Loudness", "loudness")


def with_loudness(audio: np.ndarray, sampling_rate: int, lufs: float) -> np.ndarray:
    """Makes audio louder or quieter as a whole.

    Args:
        audio: float32 (samples,).
        sampling_rate: Samples per second.
        lufs: The loudness that is wanted: -16 is usual for podcasts, -23 for
            television. Audio with high peaks stays below it, with a warning, so that
            nothing is clipped.

    Returns:
        float32 (samples,); silence is unchanged.

    Raises:
        ValueError: See `check_loudness`.
        ImportError: See `check_loudness`.
    """
    check_loudness(lufs)
    found = _loudness(audio, sampling_rate) if audio.any() else -math.inf
    if found == -math.inf:
        return audio
    gain = 10 ** ((lufs - found) / 20)
    most = _PEAK / float(np.abs(audio).max())
    if gain > most:
        warnings.warn(
            f"A loudness of {lufs:g} LUFS would clip the peaks; it becomes "
            f"{found + 20 * math.log10(most):.1f}",
            UserWarning,
            stacklevel=2,
        )
    return audio * np.float32(min(gain, most))


def _loudness(audio: np.ndarray, sampling_rate: int) -> float:
    """LUFS; -inf if hardly anything is there."""
    from pyloudnorm import Meter

    block_s = min(_BLOCK_S, audio.size / sampling_rate)
    with np.errstate(divide="ignore"):
        return Meter(sampling_rate, block_size=block_s).integrated_loudness(audio)
