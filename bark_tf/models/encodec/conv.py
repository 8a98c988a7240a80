"""The convolutions of EnCodec: weight norm, causal or centred padding, trimming.

Axes: B batch, T time, C channels.

Source: facebookresearch/encodec, `encodec/modules/conv.py` and `norm.py`.
"""

from __future__ import annotations

import abc
import math

import keras
import tensorflow as tf

from bark_tf.config import EncodecConfig
from bark_tf.memory import drawn
from bark_tf.models.pretrained import check_shape

GROUP_NORM_EPSILON = 1e-5


def wide_dtype(dtype: str) -> str:
    """The dtype for sums that need more than half precision: at least float32."""
    return "float64" if dtype == "float64" else "float32"


def build_all(*layers: keras.layers.Layer) -> None:
    """Builds layers that know their sizes without an input."""
    for layer in layers:
        layer.build(None)


def pad_time(x: tf.Tensor, left, right, mode: str) -> tf.Tensor:
    """Pads the time axis of an input of at least one step.

    Reflection needs more steps than it adds. A shorter input is extended by zeros, and
    the result is cut accordingly.

    Args:
        x: (B, T, C).
        left: Steps to add before; an int or a scalar tensor.
        right: Steps to add after; an int or a scalar tensor.
        mode: `"reflect"` (the edge is not repeated), `"constant"` (zeros), `"edge"` or
            `"replicate"` (the edge is repeated).

    Returns:
        (B, left + T + right, C).
    """
    amounts = [[0, 0], [left, right], [0, 0]]
    if mode == "constant":
        return tf.pad(x, amounts)
    if mode != "reflect":
        first = tf.repeat(x[:, :1], left, axis=1)
        last = tf.repeat(x[:, -1:], right, axis=1)
        return tf.concat([first, x, last], axis=1)
    if (
        x.shape[1] is not None
        and not tf.is_tensor(right)
        and x.shape[1] > max(left, right)
    ):
        return tf.pad(x, amounts, "REFLECT")
    length = tf.shape(x)[1]
    missing = tf.maximum(tf.maximum(left, right) + 1 - length, 0)
    x = tf.pad(x, [[0, 0], [0, missing], [0, 0]])
    return cut_time(tf.pad(x, amounts, "REFLECT"), 0, left + length + right)


def cut_time(x: tf.Tensor, start, length) -> tf.Tensor:
    """Cuts `length` steps out of (B, T, C).

    Unlike that of `x[:, start : start + length]`, the gradient is as fast as padding.
    """
    return tf.slice(x, [0, start, 0], [-1, length, -1])


def num_steps(x: tf.Tensor):
    """Steps of (B, T, C): an int where the shape is static, else a scalar tensor."""
    return tf.shape(x)[1] if x.shape[1] is None else x.shape[1]


class BaseConvolution(keras.layers.Layer):
    """What both convolutions share: variables, kernel, output norm; abstract.

    With weight norm the kernel is `direction * scale / ||direction||`, with one norm
    per index of the last axis, the first in the checkpoint. `direction` and `scale` are
    the variables, so that a checkpoint round-trips bit by bit.

    Args:
        config: The codec's configuration.
        kernel_shape: Shape of the kernel.
        channels: Channels of the output.
        stride: Step between two applications of the kernel.
        **kwargs: `name`, `dtype`.
    """

    def __init__(
        self,
        config: EncodecConfig,
        kernel_shape: tuple[int, int, int],
        channels: int,
        stride: int,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.config = config
        self.kernel_shape = kernel_shape
        self.channels = channels
        self.stride = stride
        self.norm = None
        if config.norm_type == "time_group_norm":
            self.norm = keras.layers.GroupNormalization(
                groups=1,
                epsilon=GROUP_NORM_EPSILON,
                name="norm",
                dtype=self.dtype_policy,
            )

    def build(self, input_shape=None):
        """Creates the variables."""
        if self.norm is None:
            self.direction = self.add_weight(
                self.kernel_shape, drawn("he_uniform"), autocast=False, name="direction"
            )
            self.scale = self.add_weight(
                (1, 1, self.kernel_shape[-1]), "ones", autocast=False, name="scale"
            )
        else:
            self.kernel = self.add_weight(
                self.kernel_shape, drawn("he_uniform"), name="kernel"
            )
            self.norm.build((None, None, self.channels))
        self.bias = self.add_weight((self.channels,), "zeros", name="bias")
        self.built = True

    def effective_kernel(self) -> tf.Tensor:
        """The kernel after weight norm, in the compute dtype."""
        if self.norm is not None:
            return tf.cast(self.kernel, self.compute_dtype)
        wide = wide_dtype(self.compute_dtype)
        direction = tf.cast(self.direction, wide)
        scale = tf.cast(self.scale, wide)
        length = tf.sqrt(tf.reduce_sum(direction**2, axis=[0, 1], keepdims=True))
        return tf.cast(direction * (scale / length), self.compute_dtype)

    def finish(self, x: tf.Tensor) -> tf.Tensor:
        """Adds the bias and applies the output norm, if there is one."""
        x = tf.nn.bias_add(x, tf.cast(self.bias, x.dtype))
        return x if self.norm is None else self.norm(x)

    @abc.abstractmethod
    def call(self, x):
        """Convolves."""


class Convolution(BaseConvolution):
    """A convolution whose output has ceil(T / stride) steps.

    Args:
        config: The codec's configuration.
        in_channels: Channels of the input.
        channels: Channels of the output.
        kernel_size: Taps of the kernel.
        stride: Input steps per output step.
        dilation: Steps between two taps.
        **kwargs: `name`, `dtype`.

    Call arguments:
        x: (B, T, in_channels), T at least 1.

    Returns:
        (B, ceil(T / stride), channels).
    """

    def __init__(
        self,
        config: EncodecConfig,
        in_channels: int,
        channels: int,
        kernel_size: int,
        stride: int = 1,
        dilation: int = 1,
        **kwargs,
    ):
        shape = (kernel_size, in_channels, channels)
        super().__init__(config, shape, channels, stride, **kwargs)
        self.dilation = dilation

    def pad(self, x: tf.Tensor) -> tf.Tensor:
        """Pads for the kernel's reach and to a whole number of strides."""
        total = (self.kernel_shape[0] - 1) * self.dilation + 1 - self.stride
        right = 0 if self.config.use_causal_conv else total // 2
        left = total - right
        if self.stride > 1:
            right += -num_steps(x) % self.stride
        elif total == 0:
            return x
        return pad_time(x, left, right, self.config.pad_mode)

    def call(self, x):
        """Convolves."""
        axes = {"batch": None, "time": None, "channels": self.kernel_shape[1]}
        check_shape(f"The input of {self.path}", x, axes)
        kernel = self.effective_kernel()
        x = tf.nn.conv1d(
            self.pad(x), kernel, self.stride, "VALID", dilations=self.dilation
        )
        return self.finish(x)


class TransposedConvolution(BaseConvolution):
    """A convolution of 2 * stride taps whose output has T * stride steps.

    Args:
        config: The codec's configuration.
        in_channels: Channels of the input.
        channels: Channels of the output.
        stride: Output steps per input step.
        **kwargs: `name`, `dtype`.

    Call arguments:
        x: (B, T, in_channels).

    Returns:
        (B, T * stride, channels).
    """

    def __init__(
        self,
        config: EncodecConfig,
        in_channels: int,
        channels: int,
        stride: int,
        **kwargs,
    ):
        shape = (2 * stride, channels, in_channels)
        super().__init__(config, shape, channels, stride, **kwargs)

    def trim(self, x: tf.Tensor) -> tf.Tensor:
        """Cuts the `stride` surplus steps of the plain transposed convolution."""
        if self.config.use_causal_conv:
            right = math.ceil(self.stride * self.config.trim_right_ratio)
        else:
            right = self.stride // 2
        return cut_time(x, self.stride - right, num_steps(x) - self.stride)

    def call(self, x):
        """Convolves."""
        length = num_steps(x)
        shape = [tf.shape(x)[0], (length + 1) * self.stride, self.channels]
        kernel = self.effective_kernel()
        x = tf.nn.conv1d_transpose(x, kernel, shape, self.stride, "VALID")
        return self.trim(self.finish(x))
