"""The mel scale, its filters and spectrograms.

Axes: T frames, F frequencies, M mel bands.
"""

from __future__ import annotations

import numpy as np

# Slaney's scale: linear below 1 kHz, logarithmic above.
_LINEAR_HZ_PER_MEL = 200 / 3
_BREAK_HZ = 1000.0
_BREAK_MEL = _BREAK_HZ / _LINEAR_HZ_PER_MEL
_LOG_STEP = np.log(6.4) / 27

# Of a spectrogram.
WINDOW_S, HOP_S = 0.046, 0.0116
_NUM_MELS = 80
# Magnitudes below this (a sine of amplitude 1 reads 1) are silence: -80 dB.
LEAST_MAGNITUDE = 1e-4


def hz_to_mel(hz):
    """Converts a frequency to Slaney's mel scale."""
    hz = np.asarray(hz, np.float64)
    above = _BREAK_MEL + np.log(np.maximum(hz, _BREAK_HZ) / _BREAK_HZ) / _LOG_STEP
    return np.where(hz < _BREAK_HZ, hz / _LINEAR_HZ_PER_MEL, above)


def mel_to_hz(mel):
    """Inverts `hz_to_mel`."""
    mel = np.asarray(mel, np.float64)
    above = _BREAK_HZ * np.exp(_LOG_STEP * (np.maximum(mel, _BREAK_MEL) - _BREAK_MEL))
    return np.where(mel < _BREAK_MEL, mel * _LINEAR_HZ_PER_MEL, above)


def mel_matrix(window: int, num_mels: int, sample_rate: int) -> np.ndarray:
    """Makes triangular filters from 0 to half the sample rate, each an average.

    Args:
        window: Samples per window.
        num_mels: Number of bands.
        sample_rate: Samples per second.

    Returns:
        float32 (window // 2 + 1, num_mels); columns sum to 1.
    """
    edges = mel_to_hz(np.linspace(0, hz_to_mel(sample_rate / 2), num_mels + 2))
    frequencies = np.arange(window // 2 + 1) * sample_rate / window
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    rising = (frequencies[:, None] - low) / (centre - low)
    falling = (high - frequencies[:, None]) / (high - centre)
    bands = np.maximum(0, np.minimum(rising, falling))
    # A band that lies between two frequencies takes the nearest one.
    nearest = np.abs(frequencies[:, None] - centre).argmin(axis=0)
    empty = bands.sum(axis=0) == 0
    bands[nearest[empty], np.flatnonzero(empty)] = 1
    return (bands / bands.sum(axis=0)).astype(np.float32)


def magnitudes(audio: np.ndarray, window: int, hop: int) -> np.ndarray:
    """Magnitudes of a Hann-windowed spectrogram; a sine of amplitude 1 reads 1.

    Args:
        audio: Float (samples,); padded with silence to whole windows.
        window: Samples per window.
        hop: Samples from one window to the next.

    Returns:
        float64 (T, F = window // 2 + 1).
    """
    count = 1 + max(0, -(-(len(audio) - window) // hop))
    padded = np.pad(audio, (0, (count - 1) * hop + window - len(audio)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]
    hann = np.hanning(window + 1)[:-1]
    return np.abs(np.fft.rfft(frames * hann)) * (4 / window)


def mel_decibels(audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """Computes a log-mel spectrogram.

    Args:
        audio: Float (samples,).
        sample_rate: Samples per second.

    Returns:
        float64 (T, M = 80), decibels below the magnitude of a sine of amplitude 1, at
        least -80. A frame starts every `HOP_S` seconds.
    """
    window, hop = 2 * round(WINDOW_S * sample_rate / 2), round(HOP_S * sample_rate)
    bands = mel_matrix(window, _NUM_MELS, sample_rate)  # (F, M)
    levels = magnitudes(audio, window, hop) @ bands
    return 20 * np.log10(np.maximum(levels, LEAST_MAGNITUDE))
