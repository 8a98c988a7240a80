"""The losses of the codec: waveform, mel, recogniser, latents, adversarial.

Axes: B batch, S samples, T frames of a spectrogram, F frequencies, M mel bands, C width
of a recogniser.

Source: Défossez et al., "High Fidelity Neural Audio Compression", section 3.4; the mel
loss at several scales: Kumar et al., "High-Fidelity Audio Compression with Improved
RVQGAN", section 3.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from bark_tf.audio.mel import mel_matrix
from bark_tf.semantic_tokens.ctc import CtcTokenizer, log_mel_of_batch

# Windows per window length: the hop is a quarter of a window.
OVERLAP = 4
# Lower bound of the power that a squared error is divided by.
_LEAST_POWER = 1e-6
_PRE_EMPHASIS = 0.95
# Root mean square that latents may have.
_LARGE_LATENT = 10.0


class MelScale(NamedTuple):
    """One spectrogram of the loss.

    Attributes:
        window: Samples per window.
        num_mels: Number of mel bands.
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
    """Mean L1 distance of log-mel spectrograms at several window lengths.

    Args:
        sample_rate: Samples per second.
        scales: The spectrograms; windows longer than the audio are skipped.
        floor: Added to magnitudes before the logarithm; 5e-5 is -86 dB.

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
        """The distance of two float32 (B, S), as a scalar in units of 20 dB."""
        samples = audio.shape[1]
        distances = []
        for scale, matrix in zip(self.scales, self._matrices, strict=True):
            if samples is None or scale.window <= samples:
                real = tf.stop_gradient(self._log_mel(audio, scale.window, matrix))
                fake = self._log_mel(estimate, scale.window, matrix)
                distances.append(tf.reduce_mean(tf.abs(real - fake)))
        if not distances:
            raise ValueError(
                f"audio must be at least as long as the shortest window, "
                f"{min(scale.window for scale in self.scales)} samples. "
                f"Received: {samples} samples"
            )
        return tf.add_n(distances) / len(distances)

    def _log_mel(self, audio, window: int, matrix) -> tf.Tensor:
        mel = tf.matmul(magnitudes(audio, window), matrix)  # (2B, T, M)
        return tf.math.log(mel + self.floor) / np.log(10.0)


class RecogniserDistance:
    """Mean distance of what a recogniser makes of two recordings.

    A recogniser's hidden states keep what tells words apart, so a codec that keeps the
    states is understood. They are compared after every block.

    Args:
        tokenizer: `CtcTokenizer`, whose network is the recogniser.

    Example:
        >>> distance = RecogniserDistance(load_semantic_tokenizer("my-bark"))
        >>> audio = tf.random.normal((1, 16_000))
        >>> float(distance(audio, audio))
        0.0
    """

    def __init__(self, tokenizer: CtcTokenizer):
        self.network, self.rate_hz = tokenizer.network, tokenizer.rate_hz

    def __call__(self, audio, estimate) -> tf.Tensor:
        """The L1 distance of two float32 (B, S) relative to the states' own spread."""
        distances = []
        for wanted, found in zip(
            self._states(audio, audio), self._states(estimate, audio), strict=True
        ):
            wanted = tf.stop_gradient(wanted)
            spread = tf.abs(wanted - tf.reduce_mean(wanted, axis=[0, 1]))
            distance = tf.reduce_mean(tf.abs(wanted - found))
            distances.append(distance / (tf.reduce_mean(spread) + 1e-6))
        return tf.add_n(distances) / len(distances)

    def _states(self, audio, reference) -> list[tf.Tensor]:
        """The states after each block, (B, T, C) each."""
        network = self.network
        # Relative to the reference: another loudness is an error, too.
        features = log_mel_of_batch(
            audio, reference, rate_hz=self.rate_hz, config=network.config
        )
        x = network.encode(features, layer=0)
        states = []
        for block in range(network.config.num_layers):
            x = network.continue_from(x, None, block, block + 1)
            states.append(tf.cast(x, tf.float32))
        return states


def magnitudes(audio, window: int) -> tf.Tensor:
    """Magnitudes of a Hann-windowed spectrogram; a sine of amplitude 1 gives 1.

    Args:
        audio: float32 (B, S).
        window: Samples per window; the hop is a quarter of it.

    Returns:
        float32 (B, T, window // 2 + 1).
    """
    spectrum = tf.signal.stft(audio, window, window // OVERLAP, window)
    parts = tf.math.real(spectrum) ** 2 + tf.math.imag(spectrum) ** 2
    # The gradient of the root is infinite at 0.
    return tf.sqrt(parts + 1e-14) * (4 / window)


def waveform_error(audio, estimate) -> tf.Tensor:
    """Squared error relative to the power of `audio`; an estimate of zeros gives 1."""
    power = tf.reduce_mean(audio**2, axis=-1)
    error = tf.reduce_mean((audio - estimate) ** 2, axis=-1)
    return tf.reduce_mean(error / tf.maximum(power, _LEAST_POWER))


def pre_emphasised(audio) -> tf.Tensor:
    """Boosts high frequencies, which speech has little of: (B, S) to (B, S - 1)."""
    return audio[:, 1:] - _PRE_EMPHASIS * audio[:, :-1]


def commitment(latent, quantized) -> tf.Tensor:
    """Squared distance of latents to their codes, relative to the variance."""
    target = tf.stop_gradient(quantized)
    variance = tf.stop_gradient(tf.math.reduce_variance(latent, axis=[0, 1]))
    distance = tf.reduce_mean((latent - target) ** 2, axis=[0, 1])
    return tf.reduce_sum(distance) / (tf.reduce_sum(variance) + 1e-8)


def level(latent) -> tf.Tensor:
    """How far the root mean square of latents is above 10, as a squared logarithm.

    Nothing else holds their scale: with ELU, larger values lose nothing, the decoder
    undoes any factor, and `commitment` is relative. Without this, latents reach 1e6 in
    30,000 steps, which float16 cannot hold. Below 10 it is 0, so that a trained codec
    keeps its scale.
    """
    power = tf.reduce_mean(latent**2)
    return tf.nn.relu(tf.math.log(power / _LARGE_LATENT**2 + 1e-9) / 2) ** 2


def discriminator_loss(real_scores, fake_scores) -> tf.Tensor:
    """Hinge loss of the discriminators: real above 1, fake below -1.

    Args:
        real_scores: Scores of real audio, one tensor per discriminator.
        fake_scores: Scores of decoded audio, one tensor per discriminator.
    """
    losses = [
        tf.reduce_mean(tf.nn.relu(1 - real)) + tf.reduce_mean(tf.nn.relu(1 + fake))
        for real, fake in zip(real_scores, fake_scores, strict=True)
    ]
    return tf.add_n(losses) / len(losses)


def adversarial_loss(fake_scores) -> tf.Tensor:
    """Hinge loss of the codec, from one tensor of scores per discriminator."""
    losses = [tf.reduce_mean(tf.nn.relu(1 - fake)) for fake in fake_scores]
    return tf.add_n(losses) / len(losses)


def feature_distance(real_features, fake_features) -> tf.Tensor:
    """Feature matching: L1 distance relative to the mean of the real features.

    Args:
        real_features: Features of real audio, one list of tensors per discriminator.
        fake_features: Features of decoded audio, one list per discriminator.
    """
    losses = []
    for real, fake in zip(real_features, fake_features, strict=True):
        for wanted, found in zip(real, fake, strict=True):
            wanted = tf.stop_gradient(wanted)
            size = tf.reduce_mean(tf.abs(wanted)) + 1e-6
            losses.append(tf.reduce_mean(tf.abs(wanted - found)) / size)
    return tf.add_n(losses) / len(losses)
