"""A small speech recogniser: log-mel frames to characters, trained by CTC.

Its hidden states, not its characters, are what a tokenizer uses. Each block lets a
token's frame look at all others (attention), at its neighbours (convolution) and at
itself (MLP), each with a residual.

Axes: B batch, F feature frames, T = F / stride tokens, M mel bands, C hidden_size.

Source: Gulati et al., "Conformer", 2020 (the convolution); Graves et al.,
"Connectionist Temporal Classification", 2006 (the loss it is made for).
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from bark_tf.config import CtcConfig
from bark_tf.convert.weights import table_for
from bark_tf.memory import check_room, drawn
from bark_tf.models.encodec.conv import build_all
from bark_tf.models.layers import (
    NO_DROPOUT,
    AttentionMask,
    Dropout,
    Mlp,
    Normal,
    Projection,
    SelfAttention,
    attention_mask,
    layer_norm,
)

# Places where a block drops values.
_PLACES_PER_BLOCK = 4


def _linear(config: CtcConfig, size: int, name: str, dtype) -> Projection:
    initializer = Normal(config.initializer_range)
    return Projection(
        size, config.bias, kernel_initializer=initializer, name=name, dtype=dtype
    )


class GatedConvolution(keras.layers.Layer):
    """A convolution over time, one kernel per channel, with a gate before it.

    Args:
        config: `CtcConfig`.
        **kwargs: `name`, `dtype`.

    Call arguments:
        x: (B, T, C).
        is_real: (B, T, 1), 0 for padding and 1 elsewhere.

    Returns:
        (B, T, C).
    """

    def __init__(self, config: CtcConfig, **kwargs):
        super().__init__(**kwargs)
        self.config = config
        policy, size = self.dtype_policy, config.hidden_size
        self.fc = _linear(config, 2 * size, "fc", policy)
        self.proj = _linear(config, size, "proj", policy)

    def build(self, input_shape=None):
        """Creates the variables."""
        taps, size = self.config.kernel_size, self.config.hidden_size
        for layer in (self.fc, self.proj):
            layer.build((None, None, size))
        initial = drawn(keras.initializers.RandomNormal(stddev=taps**-0.5))
        self.kernel = self.add_weight((1, taps, size, 1), initial, name="kernel")
        self.bias = self.add_weight((size,), "zeros", name="bias")
        self.built = True

    def call(self, x, is_real):
        """Convolves."""
        x, gate = tf.split(self.fc(x), 2, axis=-1)
        x *= tf.sigmoid(gate) * is_real
        # TensorFlow's bfloat16 kernel never returns with 8 channels on a CPU.
        wide = tf.cast(x, tf.float32)[:, None]
        kernel = tf.cast(self.kernel, tf.float32)
        wide = tf.nn.depthwise_conv2d(wide, kernel, [1, 1, 1, 1], "SAME")
        x = tf.cast(wide[:, 0], x.dtype)
        return self.proj(tf.nn.silu(x + tf.cast(self.bias, x.dtype)))


class Block(keras.layers.Layer):
    """Attention, convolution and MLP, each after a norm and with a residual.

    Args:
        config: `CtcConfig`.
        place: First dropout place of this block.
        **kwargs: `name`, `dtype`.

    Call arguments:
        x: (B, T, C).
        visible: `AttentionMask`.
        is_real: (B, T, 1), 0 for padding and 1 elsewhere.
        dropout: `Dropout`.
        training: Whether to use operations whose gradients are faster.

    Returns:
        (B, T, C).
    """

    def __init__(self, config: CtcConfig, place: int, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.config, self.place = config, place
        policy = self.dtype_policy
        self.norms = [layer_norm(True, f"norm_{i}", policy) for i in range(3)]
        self.attention = SelfAttention(config, name="attention", dtype=policy)
        self.convolution = GatedConvolution(config, name="convolution", dtype=policy)
        self.mlp = Mlp(config, name="mlp", dtype=policy)

    def build(self, input_shape=None):
        """Creates the variables."""
        for layer in (*self.norms, self.attention, self.convolution, self.mlp):
            layer.build((None, None, self.config.hidden_size))
        self.built = True

    def call(self, x, visible, is_real, dropout=NO_DROPOUT, training=False):
        """Runs the block."""
        first, second, third = self.norms
        x += self.attention(
            first(x), visible, dropout=dropout, place=self.place, training=training
        )[0]
        x += dropout(self.convolution(second(x), is_real), self.place + 2)
        return x + dropout(self.mlp(third(x), training=training), self.place + 3)


@keras.saving.register_keras_serializable("bark_tf")
class CtcModel(keras.Model):
    """Log-mel frames to the logits of characters, or to hidden states.

    Args:
        config: `CtcConfig`.
        name: Name of the model.
        **kwargs: Arguments of `keras.Model`.

    Call arguments:
        features: Float (B, F, M); F a multiple of `config.stride`.
        lengths: int32 (B,), tokens of each row before padding. None: no padding.
        training: Whether to apply dropout.

    Returns:
        Logits (B, T, output_size + 1); the last is CTC's blank.

    Example:
        >>> model = CtcModel(CtcConfig(output_size=28))
        >>> model(np.zeros((1, 100, 80), "float32")).shape
        TensorShape([1, 50, 29])
    """

    def __init__(self, config: CtcConfig, name: str = "ctc", **kwargs):
        super().__init__(name=name, **kwargs)
        check_room(table_for(config).num_values, self.variable_dtype, config)
        self.config = config
        policy = self.dtype_policy
        self.front = _linear(config, config.hidden_size, "front", policy)
        self.blocks = [
            Block(
                config, index * _PLACES_PER_BLOCK, name=f"block_{index}", dtype=policy
            )
            for index in range(config.num_layers)
        ]
        self.norm = self.head = None
        if config.output_size:
            self.norm = layer_norm(True, "norm", policy)
            self.head = _linear(config, config.output_size + 1, "head", policy)
        self.seeds = keras.random.SeedGenerator() if config.dropout else None
        self.build()

    def build(self, input_shape=None):
        """Creates the variables; the constructor calls it."""
        if self.built:
            return
        config = self.config
        self.front.build((None, None, config.stride * config.num_mels))
        build_all(*self.blocks)
        if self.head is not None:
            self.norm.build((None, None, config.hidden_size))
            self.head.build((None, None, config.hidden_size))
        self.built = True

    def call(self, features, lengths=None, training=False):
        """See the class."""
        hidden = self.encode(features, lengths, training=training)
        return self.classify(hidden)

    def encode(self, features, lengths=None, layer=None, training=False):
        """The hidden states after a block.

        Args:
            features: See the class.
            lengths: See the class.
            layer: Number of blocks to run; None: all.
            training: Whether to apply dropout.

        Returns:
            (B, T, C).
        """
        config = self.config
        batch, frames = tf.unstack(tf.shape(features)[:2])
        width = config.stride * config.num_mels
        x = tf.cast(features, self.compute_dtype)
        x = tf.reshape(x, [batch, frames // config.stride, width])
        return self.continue_from(self.front(x), lengths, 0, layer, training=training)

    def continue_from(self, x, lengths, first, last=None, training=False):
        """Runs the blocks from `first` to before `last` on hidden states (B, T, C)."""
        visible = AttentionMask(None, None)
        is_real = tf.ones([1, 1, 1], x.dtype)
        if lengths is not None:
            is_real = tf.sequence_mask(lengths, tf.shape(x)[1])
            visible = attention_mask(0, 0, 0, is_real, x.dtype, is_causal=False)
            is_real = tf.cast(is_real, x.dtype)[..., None]
        dropout = self._dropout(training)
        for block in self.blocks[first:last]:
            x = block(x, visible, is_real, dropout=dropout, training=training)
        return x

    def classify(self, x):
        """Logits (B, T, output_size + 1) of the last block's states (B, T, C)."""
        return self.head(self.norm(x))

    def _dropout(self, training: bool) -> Dropout:
        if not training or self.seeds is None:
            return NO_DROPOUT
        return Dropout(self.config.dropout, tf.cast(self.seeds.next(), tf.int32))

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, for Keras."""
        return {
            "config": self.config.to_dict(),
            "name": self.name,
            "trainable": self.trainable,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
        }

    @classmethod
    def from_config(cls, config):
        """Builds the network from `get_config()`."""
        values = dict(config)
        return cls(**{**values, "config": CtcConfig.from_dict(values["config"])})

    def arrays(self) -> dict[str, np.ndarray]:
        """The weights by the variables' paths inside this network."""
        start = f"{self.path}/"
        return {
            weight.path.removeprefix(start): np.asarray(weight.numpy())
            for weight in self.weights
        }

    def put_arrays(self, arrays) -> None:
        """Sets weights from `arrays()` of this or of a larger network."""
        start = f"{self.path}/"
        for weight in self.weights:
            weight.assign(arrays[weight.path.removeprefix(start)])
