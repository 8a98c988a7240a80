"""The losses of the codec: waveform, multi-scale log-mel, commitment, adversarial.

Axes: B batch, S samples, T frames of a spectrogram, F frequencies, M mel bands.

Source: Défossez et al., "High Fidelity Neural Audio Compression", section 3.4; the mel
loss on many scales: Kumar et al., "High-Fidelity Audio Compression with Improved
RVQGAN", section 3.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from bark_tf.audio.mel import mel_matrix

# Frames per window: a window moves on by a quarter of its length.
OVERLAP = 4
# Relative squared errors of a silent stretch are not taken below this power.
_LEAST_POWER = 1e-6


class MelScale(NamedTuple):
    """One spectrogram of the loss.

    Attributes:
        window: Samples per window.
        num_mels: Bands.
    """

    window: int
    num_mels: int


MEL_SCALES = (
    MelScale(64, 8),
    MelScale(128, 16),
    MelScale(256, 32),
    MelScale(512, 64),
    MelScale(1024, 80),
    MelScale(2048, 80),
)


class MultiScaleMel:
    """Mean distance of log-mel spectrograms over windows of several lengths.

    Args:
        sample_rate: Samples per second.
        scales: The spectrograms; windows longer than the audio are left out.
        floor: Magnitude of a sine that counts as silence; 5e-5 is -86 dB.

    Example:
        >>> audio = tf.random.normal((1, 4096))
        >>> float(MultiScaleMel(16_000)(audio, audio))
        0.0
    """

    def __init__(
        self,
        sample_rate: int,
        scales: Sequence[MelScale] = MEL_SCALES,
        floor: float = 5e-5,
    ):
        self.scales = tuple(scales)
        self.floor = floor
        self._matrices = [
            mel_matrix(window, num_mels, sample_rate) for window, num_mels in scales
        ]

    def __call__(self, audio, estimate) -> tf.Tensor:
        """Compares; both float32 (B, S), a scalar comes back, in units of 20 dB."""
        both = tf.concat([audio, estimate], axis=0)
        distances = []
        for scale, matrix in zip(self.scales, self._matrices, strict=True):
            if both.shape[1] is None or scale.window <= both.shape[1]:
                wanted, got = tf.split(self._log_mel(both, scale.window, matrix), 2)
                distances.append(tf.reduce_mean(tf.abs(wanted - got)))
        if not distances:
            raise ValueError(
                f"audio must be at least as long as the shortest window, "
                f"{min(scale.window for scale in self.scales)} samples. "
                f"Received: {both.shape[1]} samples"
            )
        return tf.add_n(distances) / len(distances)

    def _log_mel(self, audio, window: int, matrix) -> tf.Tensor:
        mel = tf.matmul(magnitudes(audio, window), matrix)  # (2B, T, M)
        return tf.math.log(mel + self.floor) / np.log(10.0)


def magnitudes(audio, window: int, hop: int | None = None) -> tf.Tensor:
    """Magnitudes of a Hann-windowed spectrogram; a sine of amplitude 1 reads 1.

    Args:
        audio: float32 (B, S).
        window: Samples per window.
        hop: Samples between two windows; a quarter of a window by default.

    Returns:
        float32 (B, T, window // 2 + 1).
    """
    spectrum = tf.signal.stft(audio, window, hop or window // OVERLAP, window)
    parts = tf.math.real(spectrum) ** 2 + tf.math.imag(spectrum) ** 2
    # The root has no slope at 0.
    return tf.sqrt(parts + 1e-14) * (4 / window)


def waveform_error(audio, estimate) -> tf.Tensor:
    """Squared error relative to the power of the audio; 1 for silence."""
    power = tf.reduce_mean(audio**2, axis=-1)
    error = tf.reduce_mean((audio - estimate) ** 2, axis=-1)
    return tf.reduce_mean(error / tf.maximum(power, _LEAST_POWER))


def pre_emphasised(audio, amount: float = 0.95) -> tf.Tensor:
    """Lifts the high frequencies, which speech has little of: (B, S) to (B, S - 1)."""
    return audio[:, 1:] - amount * audio[:, :-1]


def commitment(latent, quantized) -> tf.Tensor:
    """Squared distance of latents to their entries, relative to their variance."""
    target = tf.stop_gradient(quantized)
    variance = tf.stop_gradient(tf.math.reduce_variance(latent, axis=[0, 1]))
    distance = tf.reduce_mean((latent - target) ** 2, axis=[0, 1])
    return tf.reduce_sum(distance) / (tf.reduce_sum(variance) + 1e-8)


def discriminator_loss(real_scores, fake_scores) -> tf.Tensor:
    """Hinge loss of discriminators: real above 1, fake below -1.

    Args:
        real_scores: One tensor per discriminator.
        fake_scores: The same.
    """
    losses = [
        tf.reduce_mean(tf.nn.relu(1 - real)) + tf.reduce_mean(tf.nn.relu(1 + fake))
        for real, fake in zip(real_scores, fake_scores, strict=True)
    ]
    return tf.add_n(losses) / len(losses)


def adversarial_loss(fake_scores) -> tf.Tensor:
    """What the decoder pays for being recognised, one tensor per discriminator."""
    losses = [tf.reduce_mean(tf.nn.relu(1 - fake)) for fake in fake_scores]
    return tf.add_n(losses) / len(losses)


def feature_distance(real_features, fake_features) -> tf.Tensor:
    """Distance of the discriminators' features, relative to their size.

    Args:
        real_features: Per discriminator a list of tensors.
        fake_features: The same.
    """
    losses = []
    for real, fake in zip(real_features, fake_features, strict=True):
        for wanted, got in zip(real, fake, strict=True):
            wanted = tf.stop_gradient(wanted)
            size = tf.reduce_mean(tf.abs(wanted)) + 1e-6
            losses.append(tf.reduce_mean(tf.abs(wanted - got)) / size)
    return tf.add_n(losses) / len(losses)
