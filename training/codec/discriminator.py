"""The codec's discriminator, which tells real audio from decoded audio.

Axes: B batch, S samples, T frames, F frequencies, C channels.

Source: Défossez et al., "High Fidelity Neural Audio Compression", section 3.4,
multi-scale STFT discriminator.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import tensorflow as tf

from .losses import OVERLAP

WINDOWS = (2048, 1024, 512, 256, 128)
_SLOPE = 0.2


class ScaleDiscriminator(keras.layers.Layer):
    """Discriminator of one complex spectrogram.

    Args:
        window: Samples per window.
        width: Channels of all convolutions but the last.
        dilations: Dilations over time of the inner convolutions.
        **kwargs: `name`.

    Call arguments:
        audio: float32 (B, S).

    Returns:
        scores: float32 (B, T, F', 1).
        features: list of float32 (B, T, F', C).
    """

    def __init__(
        self,
        window: int,
        width: int = 16,
        dilations: Sequence[int] = (1, 2, 4),
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.window = window

        def conv(channels, kernel, name, **options):
            return keras.layers.Conv2D(
                channels, kernel, padding="same", name=name, **options
            )

        self.convolutions = [conv(width, (3, 9), "input_conv")]
        for index, dilation in enumerate(dilations):
            # The slice in `call` halves the frequencies: Keras layers cannot have
            # both strides and dilations.
            name = f"conv_{index}"
            layer = conv(width, (3, 9), name, dilation_rate=(dilation, 1))
            self.convolutions.append(layer)
        self.convolutions.append(conv(width, (3, 3), "last_conv"))
        self.output_conv = conv(1, (3, 3), "output_conv")
        self.width = width

    def build(self, input_shape=None):
        """Creates the variables."""
        channels = 2  # real and imaginary
        for layer in self.convolutions:
            layer.build((None, None, None, channels))
            channels = self.width
        self.output_conv.build((None, None, None, channels))
        self.built = True

    def call(self, audio):
        """Computes scores and features."""
        spectrum = tf.signal.stft(
            audio, self.window, self.window // OVERLAP, self.window
        )
        parts = [tf.math.real(spectrum), tf.math.imag(spectrum)]
        x = tf.stack(parts, axis=-1) * (4 / self.window)  # (B, T, F, 2)
        features = []
        for index, layer in enumerate(self.convolutions):
            x = tf.nn.leaky_relu(layer(x), _SLOPE)
            if 0 < index < len(self.convolutions) - 1:
                x = x[:, :, ::2]
            features.append(x)
        return self.output_conv(x), features


class Discriminator(keras.Model):
    """Discriminators at several resolutions.

    Args:
        windows: Samples per window of each discriminator.
        width: Channels. The original has 32, at four times the cost of 16.
        **kwargs: `name`.

    Call arguments:
        audio: float32 (B, S).

    Returns:
        scores: One float32 (B, T, F', 1) per resolution.
        features: One list of float32 (B, T, F', C) per resolution.

    Example:
        >>> scores, features = Discriminator(windows=(256,))(tf.zeros((1, 1024)))
        >>> len(scores), len(features[0])
        (1, 5)
    """

    def __init__(self, windows: Sequence[int] = WINDOWS, width: int = 16, **kwargs):
        super().__init__(**kwargs)
        self.scales = [
            ScaleDiscriminator(window, width, name=f"window_{window}")
            for window in windows
        ]
        for scale in self.scales:
            scale.build()
        self.built = True

    def call(self, audio):
        """Computes scores and features."""
        judged = [scale(audio) for scale in self.scales]
        return [scores for scores, _ in judged], [features for _, features in judged]
