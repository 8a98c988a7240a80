"""HuBERT base, a speech encoder: 50 frames per second.

It is used only for inference, so it has no dropout and no masking of frames.

Axes: B batch, S samples, T frames, C channels of a convolution, D hidden_size, H heads,
K taps of the first convolution.

Source: Hsu et al., "HuBERT: Self-Supervised Speech Representation Learning by Masked
Prediction of Hidden Units", 2021; Baevski et al., "wav2vec 2.0", 2020 (the network).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from bark_tf.config import HubertConfig
from bark_tf.memory import allocate_only, put
from bark_tf.models.encodec.conv import build_all, wide_dtype
from bark_tf.models.layers import Normal, Projection, attention_mask
from bark_tf.models.pretrained import PretrainedModel

SAMPLE_RATE = 16_000
GROUP_NORM_EPSILON = 1e-5
# Queries per block of the attention: 12 heads * 512 * 3,000 keys take 74 MB.
QUERIES_PER_BLOCK = 512

# === Group norm of a whole recording ===


class Moments(NamedTuple):
    """Statistics of a whole recording for the group norm, computed in pieces.

    The norm needs mean and variance of each channel over all frames of the first
    convolution. Both follow from the moments of the samples under the kernel's taps,
    which are few and can be summed piece by piece.

    Attributes:
        count: float64 (B,), frames of the first convolution.
        sums: float64 (B, K), sums of the samples under each tap.
        products: float64 (B, K, K), sums of products of the samples under two taps.
    """

    count: tf.Tensor
    sums: tf.Tensor
    products: tf.Tensor

    def plus(self, other: Moments) -> Moments:
        """The moments of both pieces together."""
        return Moments(*(a + b for a, b in zip(self, other, strict=True)))


def moments(audio, num_samples, kernel_size: int, stride: int) -> Moments:
    """Computes the moments of audio.

    Args:
        audio: Float (B, S).
        num_samples: Integers (B,), the lengths of the rows; None for full rows.
        kernel_size: K.
        stride: Samples from one frame to the next.

    Returns:
        `Moments`. Those of a recording are the sum over its pieces, if each piece after
        the first starts `kernel_size - stride` samples early.
    """
    taps = tf.signal.frame(tf.cast(audio, tf.float64), kernel_size, stride)  # (B, T, K)
    num_frames = tf.shape(taps)[1]
    if num_samples is None:
        count = tf.fill([tf.shape(taps)[0]], tf.cast(num_frames, tf.float64))
    else:
        count = (tf.cast(num_samples, tf.int32) - kernel_size) // stride + 1
        is_real = tf.sequence_mask(count, num_frames, tf.float64)
        taps, count = taps * is_real[..., None], tf.cast(count, tf.float64)
    products = tf.matmul(taps, taps, transpose_a=True)
    return Moments(count, tf.reduce_sum(taps, axis=1), products)


class RecordingNorm(keras.layers.Layer):
    """A group norm with one group per channel, from the moments of the input.

    Args:
        size: Channels C.
        **kwargs: `name`, `dtype`.

    Call arguments:
        x: (B, T, C), output of the convolution.
        kernel: (K, C), kernel of the convolution, whose input has one channel.
        moments: `Moments` of its input.

    Returns:
        (B, T, C).
    """

    def __init__(self, size: int, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.size = size

    def build(self, input_shape=None):
        """Creates the variables."""
        self.gamma = self.add_weight((self.size,), "ones", name="gamma")
        self.beta = self.add_weight((self.size,), "zeros", name="beta")
        self.built = True

    def call(self, x, kernel, moments):
        """Normalises."""
        kernel = tf.cast(kernel, tf.float64)
        count = moments.count[:, None]
        taps = moments.sums / count  # (B, K)
        centred = moments.products / count[..., None] - taps[:, None] * taps[..., None]
        mean = tf.matmul(taps, kernel)  # (B, C)
        variance = tf.einsum("bij,ic,jc->bc", centred, kernel, kernel)
        variance = tf.maximum(variance, 0)  # rounding may give slightly less
        scale = tf.cast(self.gamma, tf.float64) / tf.sqrt(variance + GROUP_NORM_EPSILON)
        shift = tf.cast(self.beta, tf.float64) - mean * scale
        wide = wide_dtype(self.compute_dtype)
        scale, shift = tf.cast(scale, wide)[:, None], tf.cast(shift, wide)[:, None]
        return tf.cast(tf.cast(x, wide) * scale + shift, x.dtype)


# === Layers ===


def _gelu(x):
    return tf.nn.gelu(x, approximate=False)


def _layer_norm(config: HubertConfig, name: str, dtype) -> keras.layers.Layer:
    return keras.layers.LayerNormalization(
        epsilon=config.layer_norm_eps, name=name, dtype=dtype
    )


def _linear(config: HubertConfig, size: int, name: str, dtype) -> Projection:
    initializer = Normal(config.initializer_range)
    return Projection(
        size, True, kernel_initializer=initializer, name=name, dtype=dtype
    )


class FrontConvolution(keras.layers.Layer):
    """A convolution without padding and bias.

    Args:
        in_channels: Channels of the input.
        channels: Channels of the output.
        kernel_size: Taps of the kernel.
        stride: Input steps per output step.
        **kwargs: `name`, `dtype`.

    Call arguments:
        x: (B, T, in_channels).

    Returns:
        (B, (T - kernel_size) // stride + 1, channels).
    """

    def __init__(self, in_channels, channels, kernel_size, stride, **kwargs):
        super().__init__(**kwargs)
        self.kernel_shape = (kernel_size, in_channels, channels)
        self.stride = stride

    def build(self, input_shape=None):
        """Creates the variables."""
        self.kernel = self.add_weight(self.kernel_shape, "he_normal", name="kernel")
        self.built = True

    def call(self, x):
        """Convolves."""
        return tf.nn.conv1d(x, tf.convert_to_tensor(self.kernel), self.stride, "VALID")


class FrontEnd(keras.layers.Layer):
    """Convolutions from audio to features, with a receptive field of 25 ms.

    Args:
        config: `HubertConfig`.
        **kwargs: `name`, `dtype`.

    Call arguments:
        audio: (B, S).
        level: `Moments` of the whole recording.

    Returns:
        (B, T, C).
    """

    def __init__(self, config: HubertConfig, **kwargs):
        super().__init__(autocast=False, **kwargs)
        dtype = self.dtype_policy
        inputs = (1, *config.conv_dim)
        self.convolutions = [
            FrontConvolution(*sizes, name=f"conv_{index}", dtype=dtype)
            for index, sizes in enumerate(
                zip(
                    inputs[:-1],
                    config.conv_dim,
                    config.conv_kernel,
                    config.conv_stride,
                    strict=True,
                )
            )
        ]
        self.norm = RecordingNorm(config.conv_dim[0], name="norm", dtype=dtype)

    def build(self, input_shape=None):
        """Creates the variables."""
        build_all(*self.convolutions, self.norm)
        self.built = True

    def call(self, audio, level):
        """Convolves."""
        first, *others = self.convolutions
        x = first(tf.cast(audio, self.compute_dtype)[..., None])  # (B, T, C)
        x = _gelu(self.norm(x, first.kernel[:, 0], level))
        for convolution in others:
            x = _gelu(convolution(x))
        return x


class FeatureProjection(keras.layers.Layer):
    """Projects features to the width of the transformer.

    Args:
        config: `HubertConfig`.
        **kwargs: `name`, `dtype`.

    Call arguments:
        x: (B, T, C).

    Returns:
        (B, T, D).
    """

    def __init__(self, config: HubertConfig, **kwargs):
        super().__init__(**kwargs)
        self.in_size = config.conv_dim[-1]
        self.norm = _layer_norm(config, "norm", self.dtype_policy)
        self.linear = _linear(config, config.hidden_size, "linear", self.dtype_policy)

    def build(self, input_shape=None):
        """Creates the variables."""
        for layer in (self.norm, self.linear):
            layer.build((None, None, self.in_size))
        self.built = True

    def call(self, x):
        """Projects."""
        return self.linear(self.norm(x))


class Positions(keras.layers.Layer):
    """The positional embedding: a grouped convolution over neighbouring frames.

    Its weight norm has one norm per tap, over both axes of channels.

    Args:
        config: `HubertConfig`.
        **kwargs: `name`, `dtype`.

    Call arguments:
        x: (B, left + T + right, D).

    Returns:
        (B, T, D).
    """

    def __init__(self, config: HubertConfig, **kwargs):
        super().__init__(**kwargs)
        size, taps = config.hidden_size, config.num_conv_pos_embeddings
        self.kernel_shape = (taps, size // config.num_conv_pos_embedding_groups, size)
        # Frames needed on either side.
        self.left = taps // 2
        self.right = taps - 1 - self.left

    def build(self, input_shape=None):
        """Creates the variables."""
        shape = self.kernel_shape
        self.direction = self.add_weight(
            shape, "he_normal", autocast=False, name="direction"
        )
        self.scale = self.add_weight(
            (shape[0], 1, 1), "ones", autocast=False, name="scale"
        )
        self.bias = self.add_weight((shape[-1],), "zeros", name="bias")
        self.built = True

    def call(self, x):
        """Convolves."""
        wide = wide_dtype(self.compute_dtype)
        direction = tf.cast(self.direction, wide)
        length = tf.sqrt(tf.reduce_sum(direction**2, axis=[1, 2], keepdims=True))
        kernel = tf.cast(direction * (tf.cast(self.scale, wide) / length), x.dtype)
        return _gelu(tf.nn.conv1d(x, kernel, 1, "VALID") + self.bias)


def _attend(query, key, value, padding):
    scores = tf.matmul(query, key, transpose_b=True)
    scores = tf.cast(scores, wide_dtype(query.dtype.name))
    if padding is not None:
        scores += padding
    return tf.matmul(tf.cast(tf.nn.softmax(scores), value.dtype), value)


class Attention(keras.layers.Layer):
    """Multi-head self-attention over all frames, with memory linear in T.

    Args:
        config: `HubertConfig`.
        **kwargs: `name`, `dtype`.

    Call arguments:
        x: (B, T, D).
        padding: (B, 1, 1, T), added to the scores, or None.

    Returns:
        (B, T, D).
    """

    def __init__(self, config: HubertConfig, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.num_heads, self.size = config.num_attention_heads, config.hidden_size
        self.head_size = self.size // self.num_heads
        self.query, self.key, self.value, self.out = (
            _linear(config, self.size, name, self.dtype_policy)
            for name in ("query", "key", "value", "out")
        )

    def build(self, input_shape=None):
        """Creates the variables."""
        for layer in (self.query, self.key, self.value, self.out):
            layer.build((None, None, self.size))
        self.built = True

    def call(self, x, padding=None):
        """Attends."""
        batch, time = tf.unstack(tf.shape(x)[:2])
        query = self._heads(self.query(x)) * tf.cast(self.head_size**-0.5, x.dtype)
        key, value = self._heads(self.key(x)), self._heads(self.value(x))
        block = tf.minimum(time, QUERIES_PER_BLOCK)
        count = -(-time // block)
        query = tf.pad(query, [[0, 0], [0, 0], [0, count * block - time], [0, 0]])
        query = tf.reshape(query, [batch, self.num_heads, count, block, self.head_size])
        mixed = tf.map_fn(
            lambda part: _attend(part, key, value, padding),
            tf.transpose(query, [2, 0, 1, 3, 4]),
            parallel_iterations=1,
        )  # (blocks, B, H, block, D / H)
        mixed = tf.transpose(mixed, [1, 0, 3, 2, 4])
        mixed = tf.reshape(mixed, [batch, count * block, self.size])[:, :time]
        return self.out(mixed)

    def _heads(self, x):
        """(B, T, D) to (B, H, T, D / H)."""
        batch, time = tf.unstack(tf.shape(x)[:2])
        x = tf.reshape(x, [batch, time, self.num_heads, self.head_size])
        return tf.transpose(x, [0, 2, 1, 3])


class Block(keras.layers.Layer):
    """A post-norm transformer layer: attention, then MLP, each with a residual.

    Args:
        config: `HubertConfig`.
        **kwargs: `name`, `dtype`.

    Call arguments and returns: See `Attention`.
    """

    def __init__(self, config: HubertConfig, **kwargs):
        super().__init__(autocast=False, **kwargs)
        policy, self.size = self.dtype_policy, config.hidden_size
        self.wide = config.intermediate_size
        self.attention = Attention(config, name="attention", dtype=policy)
        self.norm_1 = _layer_norm(config, "norm_1", policy)
        self.fc = _linear(config, self.wide, "fc", policy)
        self.proj = _linear(config, self.size, "proj", policy)
        self.norm_2 = _layer_norm(config, "norm_2", policy)

    def build(self, input_shape=None):
        """Creates the variables."""
        for layer in (self.attention, self.norm_1, self.fc, self.norm_2):
            layer.build((None, None, self.size))
        self.proj.build((None, None, self.wide))
        self.built = True

    def call(self, x, padding=None):
        """Runs the layer."""
        x = self.norm_1(x + self.attention(x, padding))
        return self.norm_2(x + self.proj(_gelu(self.fc(x))))


# === The network ===


def _checked_audio(audio: Any, config: HubertConfig) -> tf.Tensor:
    audio = tf.convert_to_tensor(audio)
    least = config.receptive_field
    is_short = audio.shape.rank == 2 and (audio.shape[1] or least) < least
    if not audio.dtype.is_floating or audio.shape.rank != 2 or is_short:
        raise ValueError(
            f"audio must be floating point of shape (batch, samples) with at least "
            f"{least} samples. Received: {audio.dtype.name} of shape {audio.shape}"
        )
    return audio


def _check_mask(mask: np.ndarray, least: int) -> None:
    if np.any(np.diff(mask, axis=1) > 0) or not np.all(np.isin(mask, (0, 1))):
        raise ValueError(
            "attention_mask must be ones for samples, then zeros for padding. "
            "Received: another order, or other values"
        )
    lengths = mask.sum(axis=1)
    if np.any(lengths < least):
        raise ValueError(
            f"attention_mask must leave at least {least} samples in each row. "
            f"Received: a row of {lengths.min()}"
        )


def _lengths(mask: Any, audio: tf.Tensor, config: HubertConfig) -> tf.Tensor | None:
    """Samples of each row, int32 (B,); values are checked where they are known."""
    if mask is None:
        return None
    mask = tf.cast(mask, tf.int32)
    if not mask.shape.is_compatible_with(audio.shape):
        raise ValueError(
            f"attention_mask must have the shape of audio, {audio.shape}. "
            f"Received: {mask.shape}"
        )
    if hasattr(mask, "numpy"):
        _check_mask(mask.numpy(), config.receptive_field)
    return tf.reduce_sum(mask, axis=1)


def _zero_padding(x, is_real):
    """Zeros padding frames."""
    return x * tf.cast(is_real, x.dtype)[..., None]


@keras.saving.register_keras_serializable("bark_tf")
class HubertModel(PretrainedModel):
    """HuBERT: audio to the hidden states of any layer.

    Args:
        config: `HubertConfig`.
        name: Name of the model.
        **kwargs: Arguments of `keras.Model`.

    Call arguments:
        audio: Float (B, S), 16 kHz, in [-1, 1]; S at least `config.receptive_field`.
        attention_mask: Integers (B, S), 1 for samples and 0 for padding after them.
            None if there is no padding.
        layer: Layer whose output to return: 0 is the input of the first layer, the
            default is the last. Bark's quantizers take 9.
        output_hidden_states: Whether to return the outputs of all layers up to `layer`.
        compat: `"hf"` includes padding in a row's group norm, as in transformers. By
            default a row's result does not depend on padding.

    Returns:
        Float (B, T, D), or a list of these from layer 0 on; T is `num_frames(S)`. The
        values of padding frames are meaningless.

    Raises:
        ValueError: If `audio` has another shape or too few samples, the mask has
            another shape or zeros before ones, or there is no such layer.

    Example:
        >>> hubert = HubertModel(HubertConfig(num_hidden_layers=1))
        >>> hubert(np.zeros((1, 16_000), "float32")).shape
        TensorShape([1, 49, 768])

    Differs: from transformers in batches with padding, unless `compat="hf"`.
    """

    config_class = HubertConfig
    checkpoint_prefix = "hubert."

    def __init__(self, config: HubertConfig, name: str = "hubert", **kwargs):
        super().__init__(config, name=name, **kwargs)
        policy = self.dtype_policy
        self.front = FrontEnd(config, name="front", dtype=policy)
        self.projection = FeatureProjection(config, name="projection", dtype=policy)
        self.positions = Positions(config, name="positions", dtype=policy)
        self.norm = _layer_norm(config, "norm", policy)
        self.blocks = [
            Block(config, name=f"block_{index}", dtype=policy)
            for index in range(config.num_hidden_layers)
        ]
        # One or two traces of each serve windows of all lengths.
        graph = functools.partial(tf.function, autograph=False, reduce_retracing=True)
        self._moments_graph = graph(self._moments)
        self._start_graph = graph(self._start)
        self._block_graph = graph(self._block)
        self.build()

    def build(self, input_shape=None):
        """Creates the variables; the constructor calls it."""
        if self.built:
            return
        build_all(self.front, self.projection, self.positions, *self.blocks)
        self.norm.build((None, None, self.config.hidden_size))
        if self.config.has_mask_embedding:
            # The embedding of masked frames: unused, but part of the checkpoint.
            self.mask_embedding = self.add_weight(
                (self.config.hidden_size,),
                "zeros",
                trainable=False,
                name="mask_embedding",
            )
        self.built = True

    def num_frames(self, num_samples):
        """Number of frames for an int or array of samples: (S - 400) // 320 + 1."""
        config = self.config
        return (num_samples - config.receptive_field) // config.hop_length + 1

    def moments(self, audio) -> Moments:
        """The `Moments` of a piece of audio (B, S)."""
        return self._moments_graph(audio)

    def _moments(self, audio, num_samples=None) -> Moments:
        config = self.config
        return moments(audio, num_samples, config.conv_kernel[0], config.conv_stride[0])

    def call(
        self,
        audio,
        attention_mask=None,
        layer: int | None = None,
        output_hidden_states: bool = False,
        compat: str | None = None,
        training: bool = False,
    ):
        """See the class."""
        audio = _checked_audio(audio, self.config)
        lengths = _lengths(attention_mask, audio, self.config)
        if compat not in (None, "hf"):
            raise ValueError(f"compat must be None or 'hf'. Received: {compat!r}")
        level = self._moments(audio, None if compat == "hf" else lengths)
        x = self.projection(self.front(audio, level))
        is_real = None
        if lengths is not None:
            is_real = tf.sequence_mask(self.num_frames(lengths), tf.shape(x)[1])
            x = _zero_padding(x, is_real)
        around = [[0, 0], [self.positions.left, self.positions.right], [0, 0]]
        states = self._encode(tf.pad(x, around), is_real, self.checked_layer(layer))
        return states if output_hidden_states else states[-1]

    def window(self, audio, level: Moments, missing, layer: int) -> tf.Tensor:
        """Encodes part of a recording with its surroundings.

        The T frames of the result attend only to each other, but the group norm uses
        the whole recording, and the positional embedding the real neighbours.

        Args:
            audio: Float (B, S), with up to `positions.left` more frames before and
                `positions.right` after.
            level: `Moments` of the recording.
            missing: int32 (2,), how many of these frames before and after the recording
                does not have.
            layer: See `call`.

        Returns:
            (B, T, D).
        """
        x = self._start_graph(audio, level, missing)
        for block in self.blocks[:layer]:
            x = self._block_graph([weight.value for weight in block.weights], x)
        return x

    def _start(self, audio, level, missing):
        x = self.projection(self.front(audio, level))
        return self._placed(tf.pad(x, [[0, 0], missing, [0, 0]]))

    def _block(self, weights, x):
        """Runs the first block with the weights of another, so one trace serves all."""
        block = self.blocks[0]
        with keras.StatelessScope(zip(block.weights, weights, strict=True)):
            return block(x)

    def _placed(self, x):
        """The state of layer 0; `x` includes the frames around it for `positions`."""
        last = tf.shape(x)[1] - self.positions.right
        return self.norm(x[:, self.positions.left : last] + self.positions(x))

    def _encode(self, x, is_real, layer: int) -> Sequence[tf.Tensor]:
        """The states from layer 0 to `layer`; for `x` see `_placed`."""
        x = self._placed(x)
        dtype = wide_dtype(self.compute_dtype)
        padding = attention_mask(0, 0, 0, is_real, dtype, is_causal=False).padding
        states = [x]
        for block in self.blocks[:layer]:
            states.append(block(states[-1], padding))
        return states

    def first_layers(self, layer: int) -> HubertModel:
        """The network without the layers above `layer`.

        Args:
            layer: See `call`.

        Returns:
            A network with the same weights and at least one layer, which a
            configuration needs.
        """
        count = max(1, self.checked_layer(layer))
        if count == len(self.blocks):
            return self
        config = self.config.replace(num_hidden_layers=count)
        with allocate_only():
            first = HubertModel(config, name=self.name, dtype=self.dtype_policy)
        own = {v.path.removeprefix(f"{self.path}/"): v for v in self.weights}
        for variable in first.weights:
            put(variable, own[variable.path.removeprefix(f"{first.path}/")].value)
        return first

    def checked_layer(self, layer: int | None) -> int:
        """Checks the number of a layer; None means the last."""
        last = len(self.blocks)
        if layer is None:
            return last
        if type(layer) is not int or not 0 <= layer <= last:
            raise ValueError(
                f"layer must be a whole number from 0 to {last}. Received: {layer!r}"
            )
        return layer
