"""Features of speech: mel bands, cepstral coefficients and their slopes.

Axes: T frames, F frequencies, M mel bands, C cepstral coefficients.

Source: Davis and Mermelstein, "Comparison of parametric representations for
monosyllabic word recognition", 1980.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bark_tf.audio.mel import mel_matrix

NUM_MELS = 40
NUM_CEPSTRA = 13
FRAME_S = 0.025
PRE_EMPHASIS = 0.97
_LEAST_POWER = 1e-8
# Frames whose spectra are in memory together: 100 MB.
_BLOCK = 16_384
# Frames on either side that a slope is estimated from.
_SLOPE_REACH = 2


def frame_centres(num_frames: int, sample_rate: int, rate_hz: float) -> np.ndarray:
    """The sample in the middle of each token's period: int64 (T,)."""
    period = sample_rate / rate_hz
    return np.round((np.arange(num_frames) + 0.5) * period).astype(np.int64)


def spectra(
    audio: np.ndarray, num_frames: int, *, sample_rate: int, rate_hz: float
) -> Iterator[np.ndarray]:
    """Computes power spectra in windows of 25 ms around the centres of frames.

    Args:
        audio: float32 (samples,).
        num_frames: T.
        sample_rate: Samples per second.
        rate_hz: Frames per second.

    Yields:
        float64 (frames, F), at least 0, of some frames after the other; joined, they
        are T. F is `fft_size(sample_rate) // 2 + 1`.
    """
    width, size = round(FRAME_S * sample_rate), fft_size(sample_rate)
    emphasised = np.append(audio[:1], audio[1:] - PRE_EMPHASIS * audio[:-1])
    padded = np.pad(emphasised, (width // 2, width))
    starts = frame_centres(num_frames, sample_rate, rate_hz)
    windows = np.lib.stride_tricks.sliding_window_view(padded, width)
    for first in range(0, num_frames, _BLOCK):
        frames = windows[starts[first : first + _BLOCK]]
        yield np.abs(np.fft.rfft(frames * np.hanning(width), size)) ** 2 / width


def fft_size(sample_rate: int) -> int:
    """Samples of a window with its padding, a power of two."""
    return 1 << (round(FRAME_S * sample_rate) - 1).bit_length()


def cepstra(
    audio: np.ndarray, num_frames: int, *, sample_rate: int, rate_hz: float
) -> np.ndarray:
    """Computes mel-frequency cepstral coefficients around the centres of frames.

    Args:
        audio: float32 (samples,).
        num_frames: T.
        sample_rate: Samples per second.
        rate_hz: Frames per second.

    Returns:
        float32 (T, C); the first coefficient is the loudness.
    """
    bands = mel_matrix(fft_size(sample_rate), NUM_MELS, sample_rate)
    parts = spectra(audio, num_frames, sample_rate=sample_rate, rate_hz=rate_hz)
    power = np.concatenate([np.zeros((0, NUM_MELS)), *(part @ bands for part in parts)])
    log_mel = np.log(power + _LEAST_POWER)  # (T, M)
    return (log_mel @ _cosines(NUM_MELS, NUM_CEPSTRA)).astype(np.float32)


def _cosines(num_mels: int, num_cepstra: int) -> np.ndarray:
    """The orthonormal discrete cosine transform of type 2: (M, C)."""
    place = (np.arange(num_mels) + 0.5)[:, None]
    cosines = np.cos(np.pi * place * np.arange(num_cepstra) / num_mels)
    cosines *= np.sqrt(2 / num_mels)
    cosines[:, 0] /= np.sqrt(2)
    return cosines


def with_slopes(frames: np.ndarray) -> np.ndarray:
    """Appends the regression slope of each coefficient: (T, C) to (T, 2 C)."""
    reach = np.arange(1, _SLOPE_REACH + 1)
    padded = np.pad(frames, ((_SLOPE_REACH, _SLOPE_REACH), (0, 0)), mode="edge")
    count = len(frames)
    slopes = sum(
        step
        * (
            padded[_SLOPE_REACH + step : _SLOPE_REACH + step + count]
            - padded[_SLOPE_REACH - step : _SLOPE_REACH - step + count]
        )
        for step in reach
    )
    return np.concatenate([frames, slopes / (2 * np.sum(reach**2))], axis=1)
