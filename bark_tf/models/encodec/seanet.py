"""SEANet, the encoder and decoder of EnCodec: audio to latent frames, and back.

Axes: B batch, T time, C channels, H width of an LSTM.

Source: facebookresearch/encodec, `encodec/modules/seanet.py` and `lstm.py`.
"""

from __future__ import annotations

import keras
import tensorflow as tf

from bark_tf.config import EncodecConfig
from bark_tf.memory import drawn
from bark_tf.models.encodec.conv import (
    Convolution,
    TransposedConvolution,
    build_all,
    wide_dtype,
)

NUM_GATES = 4  # input, forget, cell, output
# Steps per iteration of the LSTM's loop, to spread the loop's own cost.
STEPS_PER_LOOP = 8
# A gate with this input is exactly 0 or 1, in half precision too.
_SATURATED = 1e4


class LSTMLayer(keras.layers.Layer):
    """An LSTM with torch's variables: gates in the order i, f, g, o, and two biases.

    Both biases exist because the checkpoint has both; only their sum is used. Unlike
    `keras.layers.LSTM`, it multiplies the inputs of all steps at once, and each loop
    iteration does several steps.

    Args:
        width: Channels H of the output.
        input_width: Channels I of the input; None means H.
        **kwargs: `name`, `dtype`.

    Call arguments:
        x: (B, T, I).

    Returns:
        (B, T, H).
    """

    def __init__(self, width: int, input_width: int | None = None, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.input_width = width if input_width is None else input_width

    def build(self, input_shape=None):
        """Creates the variables."""
        gates = NUM_GATES * self.width
        self.kernel = self.add_weight(
            (self.input_width, gates), drawn("glorot_uniform"), name="kernel"
        )
        self.recurrent_kernel = self.add_weight(
            (self.width, gates), drawn("glorot_uniform"), name="recurrent_kernel"
        )
        self.input_bias = self.add_weight((gates,), "zeros", name="input_bias")
        self.recurrent_bias = self.add_weight((gates,), "zeros", name="recurrent_bias")
        self.built = True

    def step(self, x, hidden, cell, recurrent_kernel):
        """Computes one step.

        Args:
            x: (B, 4 * H), the input's contribution to the gates.
            hidden: (B, H), output of the previous step.
            cell: (B, H), at least float32.
            recurrent_kernel: (H, 4 * H).

        Returns:
            (hidden, cell) after the step.
        """
        gates = tf.cast(x + tf.matmul(hidden, recurrent_kernel), cell.dtype)
        enter, forget, candidate, leave = tf.split(gates, NUM_GATES, axis=-1)
        cell = tf.sigmoid(forget) * cell + tf.sigmoid(enter) * tf.tanh(candidate)
        return tf.cast(tf.sigmoid(leave) * tf.tanh(cell), hidden.dtype), cell

    def call(self, x):
        """Runs over a whole sequence."""
        return self.run(x)[0]

    def run(self, x, state=None):
        """Runs over part of a sequence.

        Args:
            x: (B, T, I), T at least 1.
            state: State after the previous part, or None at the start.

        Returns:
            Output (B, T, H), and the state: hidden (B, H), cell (B, H).
        """
        batch, length = tf.unstack(tf.shape(x)[:2])
        bias = self.input_bias + self.recurrent_bias
        gates = tf.matmul(x, tf.convert_to_tensor(self.kernel)) + bias
        gates = tf.transpose(gates, [1, 0, 2])  # (T, B, 4H)
        iterations = -(-length // STEPS_PER_LOOP)
        gates = self._fill(gates, iterations * STEPS_PER_LOOP - length, batch)
        gates = tf.reshape(
            gates, [iterations, STEPS_PER_LOOP, batch, NUM_GATES * self.width]
        )
        if state is None:
            hidden = tf.zeros([batch, self.width], gates.dtype)
            state = hidden, tf.cast(hidden, wide_dtype(self.compute_dtype))
        outputs, cell = self._loop(gates, iterations, *state)
        outputs = tf.reshape(outputs, [-1, batch, self.width])[:length]  # (T, B, H)
        return tf.transpose(outputs, [1, 0, 2]), (outputs[-1], cell)

    def _fill(self, gates, surplus, batch):
        """Appends steps that leave the cell unchanged, to fill the last iteration."""
        inputs = tf.constant([-1.0, 1.0, 0.0, 0.0], gates.dtype) * _SATURATED
        row = tf.repeat(inputs, self.width)
        fill = tf.broadcast_to(row, [surplus, batch, NUM_GATES * self.width])
        return tf.concat([gates, fill], axis=0)

    def _loop(self, gates, iterations, hidden, cell):
        kernel = tf.convert_to_tensor(self.recurrent_kernel)
        inputs = tf.TensorArray(gates.dtype, iterations).unstack(gates)
        outputs = tf.TensorArray(
            gates.dtype, iterations, element_shape=[STEPS_PER_LOOP, None, self.width]
        )

        def iterate(index, hidden, cell, outputs):
            written = []
            shape = hidden.shape  # if static, it must stay so in the loop
            for x in tf.unstack(inputs.read(index), STEPS_PER_LOOP):
                hidden, cell = self.step(x, hidden, cell, kernel)
                written.append(hidden)
            hidden, cell = (tf.ensure_shape(part, shape) for part in (hidden, cell))
            return index + 1, hidden, cell, outputs.write(index, tf.stack(written))

        _, _, cell, outputs = tf.while_loop(
            lambda index, *_: index < iterations,
            iterate,
            (0, hidden, cell, outputs),
            maximum_iterations=iterations,
        )
        return outputs.stack(), cell


class SkipLSTM(keras.layers.Layer):
    """Stacked LSTMs with one skip connection around them.

    Args:
        num_layers: Number of LSTMs, at least 1.
        width: Channels.
        **kwargs: `name`, `dtype`.

    Call arguments:
        x: (B, T, H).

    Returns:
        (B, T, H).
    """

    def __init__(self, num_layers: int, width: int, **kwargs):
        super().__init__(**kwargs)
        self.layers = [
            LSTMLayer(width, name=f"layer_{index}", dtype=self.dtype_policy)
            for index in range(num_layers)
        ]

    def build(self, input_shape=None):
        """Creates the variables."""
        build_all(*self.layers)
        self.built = True

    def call(self, x):
        """Runs the LSTMs."""
        skipped = x
        for layer in self.layers:
            x = layer(x)
        return x + skipped


def _lstm(config: EncodecConfig, width: int, dtype) -> list[SkipLSTM]:
    """The LSTM between convolutions and latent, if there is one."""
    if config.num_lstm_layers == 0:
        return []
    return [SkipLSTM(config.num_lstm_layers, width, name="lstm", dtype=dtype)]


class ResidualUnit(keras.layers.Layer):
    """Two convolutions with fewer channels between them, and a shortcut.

    Args:
        config: The codec's configuration.
        width: Channels of input and output.
        dilation: Dilation of the first convolution.
        **kwargs: `name`, `dtype`.

    Call arguments:
        x: (B, T, C).

    Returns:
        (B, T, C).
    """

    def __init__(self, config: EncodecConfig, width: int, dilation: int, **kwargs):
        super().__init__(**kwargs)
        dtype = self.dtype_policy
        narrow = width // config.compress
        size = config.residual_kernel_size
        self.conv_1 = Convolution(
            config, width, narrow, size, dilation=dilation, name="conv_1", dtype=dtype
        )
        self.conv_2 = Convolution(config, narrow, width, 1, name="conv_2", dtype=dtype)
        self.shortcut = None
        if config.use_conv_shortcut:
            self.shortcut = Convolution(
                config, width, width, 1, name="shortcut", dtype=dtype
            )

    def build(self, input_shape=None):
        """Creates the variables."""
        build_all(self.conv_1, self.conv_2)
        if self.shortcut is not None:
            build_all(self.shortcut)
        self.built = True

    def call(self, x):
        """Adds the convolutions' output to the shortcut."""
        added = self.conv_2(tf.nn.elu(self.conv_1(tf.nn.elu(x))))
        return (x if self.shortcut is None else self.shortcut(x)) + added


def _residual_units(config: EncodecConfig, width: int, dtype) -> list[ResidualUnit]:
    return [
        ResidualUnit(
            config,
            width,
            config.dilation_growth_rate**index,
            name=f"residual_{index}",
            dtype=dtype,
        )
        for index in range(config.num_residual_layers)
    ]


class EncoderStage(keras.layers.Layer):
    """Residual units, then a convolution that downsamples and doubles the channels.

    Args:
        config: The codec's configuration.
        width: Channels of the input.
        stride: Input steps per output step.
        **kwargs: `name`, `dtype`.

    Call arguments:
        x: (B, T, width).

    Returns:
        (B, ceil(T / stride), 2 * width).
    """

    def __init__(self, config: EncodecConfig, width: int, stride: int, **kwargs):
        super().__init__(**kwargs)
        dtype = self.dtype_policy
        self.residual_units = _residual_units(config, width, dtype)
        self.downsample = Convolution(
            config,
            width,
            2 * width,
            2 * stride,
            stride=stride,
            name="downsample",
            dtype=dtype,
        )

    def build(self, input_shape=None):
        """Creates the variables."""
        build_all(*self.residual_units, self.downsample)
        self.built = True

    def call(self, x):
        """Downsamples."""
        for unit in self.residual_units:
            x = unit(x)
        return self.downsample(tf.nn.elu(x))


class DecoderStage(keras.layers.Layer):
    """A transposed convolution that halves the channels, then residual units.

    Args:
        config: The codec's configuration.
        width: Channels of the output.
        stride: Output steps per input step.
        **kwargs: `name`, `dtype`.

    Call arguments:
        x: (B, T, 2 * width).

    Returns:
        (B, T * stride, width).
    """

    def __init__(self, config: EncodecConfig, width: int, stride: int, **kwargs):
        super().__init__(**kwargs)
        dtype = self.dtype_policy
        self.upsample = TransposedConvolution(
            config, 2 * width, width, stride, name="upsample", dtype=dtype
        )
        self.residual_units = _residual_units(config, width, dtype)

    def build(self, input_shape=None):
        """Creates the variables."""
        build_all(self.upsample, *self.residual_units)
        self.built = True

    def call(self, x):
        """Upsamples."""
        x = self.upsample(tf.nn.elu(x))
        for unit in self.residual_units:
            x = unit(x)
        return x


class Encoder(keras.layers.Layer):
    """Audio to latent frames.

    Args:
        config: The codec's configuration.
        **kwargs: `name`, `dtype`.

    Call arguments:
        x: (B, samples, audio_channels).

    Returns:
        (B, ceil(samples / hop_length), hidden_size).
    """

    def __init__(self, config: EncodecConfig, **kwargs):
        super().__init__(**kwargs)
        dtype = self.dtype_policy
        width = config.num_filters
        self.input_conv = Convolution(
            config,
            config.audio_channels,
            width,
            config.kernel_size,
            name="input_conv",
            dtype=dtype,
        )
        self.stages = []
        for index, stride in enumerate(reversed(config.upsampling_ratios)):
            name = f"stage_{index}"
            self.stages.append(
                EncoderStage(config, width, stride, name=name, dtype=dtype)
            )
            width *= 2
        self.lstm = _lstm(config, width, dtype)
        self.output_conv = Convolution(
            config,
            width,
            config.hidden_size,
            config.last_kernel_size,
            name="output_conv",
            dtype=dtype,
        )

    def build(self, input_shape=None):
        """Creates the variables."""
        build_all(self.input_conv, *self.stages, *self.lstm, self.output_conv)
        self.built = True

    def call(self, x):
        """Encodes."""
        for layer in (self.input_conv, *self.stages, *self.lstm):
            x = layer(x)
        return self.output_conv(tf.nn.elu(x))


class Decoder(keras.layers.Layer):
    """Latent frames to audio; the last convolution has no activation.

    Args:
        config: The codec's configuration.
        **kwargs: `name`, `dtype`.

    Call arguments:
        x: (B, frames, hidden_size).

    Returns:
        (B, frames * hop_length, audio_channels).
    """

    def __init__(self, config: EncodecConfig, **kwargs):
        super().__init__(**kwargs)
        dtype = self.dtype_policy
        width = config.num_filters * 2 ** len(config.upsampling_ratios)
        self.input_conv = Convolution(
            config,
            config.hidden_size,
            width,
            config.kernel_size,
            name="input_conv",
            dtype=dtype,
        )
        self.lstm = _lstm(config, width, dtype)
        self.stages = []
        for index, stride in enumerate(config.upsampling_ratios):
            width //= 2
            name = f"stage_{index}"
            self.stages.append(
                DecoderStage(config, width, stride, name=name, dtype=dtype)
            )
        self.output_conv = Convolution(
            config,
            width,
            config.audio_channels,
            config.last_kernel_size,
            name="output_conv",
            dtype=dtype,
        )

    def build(self, input_shape=None):
        """Creates the variables."""
        build_all(self.input_conv, *self.lstm, *self.stages, self.output_conv)
        self.built = True

    def call(self, x):
        """Decodes."""
        for layer in (self.input_conv, *self.lstm, *self.stages):
            x = layer(x)
        return self.output_conv(tf.nn.elu(x))
