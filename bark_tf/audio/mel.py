"""The mel scale and its filters."""

from __future__ import annotations

import numpy as np

# Slaney's scale: linear below 1 kHz, logarithmic above.
_LINEAR_HZ_PER_MEL = 200 / 3
_BREAK_HZ = 1000.0
_BREAK_MEL = _BREAK_HZ / _LINEAR_HZ_PER_MEL
_LOG_STEP = np.log(6.4) / 27


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
