"""The layers of Bark's transformers: attention with a static cache, MLP, norms.

Kernels are stored (out, in), the checkpoint's own layout and the one that XLA
multiplies fastest.

Axes: B batch, T time (queries), S slots of keys and values, C hidden_size, H heads,
D = C / H.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import NamedTuple

import keras
import tensorflow as tf

from bark_tf.config import BarkSubModelConfig
from bark_tf.generation.cache import LayerCache
from bark_tf.memory import drawn


@keras.saving.register_keras_serializable("bark_tf")
class Normal(keras.initializers.Initializer):
    """Normal random numbers, or only memory inside `allocate_only`.

    Args:
        stddev: Standard deviation.
    """

    def __init__(self, stddev: float):
        self.stddev = stddev

    def __call__(self, shape, dtype=None):
        """Makes the initial value."""
        return drawn(keras.initializers.RandomNormal(stddev=self.stddev))(shape, dtype)

    def get_config(self):
        """The arguments, for serialization."""
        return {"stddev": self.stddev}


LAYER_NORM_EPSILON = 1e-5
MLP_RATIO = 4
# Networks in half precision speak sooner with a compiled GELU if they are this wide; in
# float32 it would save less than XLA needs, in time and memory.
_FUSED_WIDTH = 2_048


class AttentionMask(NamedTuple):
    """What queries may see.

    Attributes:
        causal: bool (T, S), True where a query sees a slot; None: everything.
        padding: (B, 1, 1, S), added to the scores, 0 or the lowest finite number;
            None: nothing is padding.
    """

    causal: tf.Tensor | None
    padding: tf.Tensor | None


def attention_mask(num_queries, num_slots, position, padding, dtype, is_causal):
    """Makes the `AttentionMask` that all layers of one pass share.

    Args:
        num_queries: T, static or scalar tensor.
        num_slots: S, static or scalar tensor.
        position: Slot of the first query.
        padding: (B, S), nonzero where a slot may be seen, or None.
        dtype: Dtype of the attention scores.
        is_causal: Whether a query sees no later slot.

    Returns:
        `AttentionMask`.
    """
    causal = None
    if is_causal:
        last_seen = position + tf.range(num_queries)[:, None]  # (T, 1)
        causal = tf.range(num_slots)[None, :] <= last_seen  # (T, S)
    if padding is not None:
        lowest = tf.constant(tf.as_dtype(dtype).min, dtype)
        seen = tf.cast(padding, tf.bool)[:, None, None, :]  # (B, 1, 1, S)
        padding = tf.where(seen, tf.zeros((), dtype), lowest)
    return AttentionMask(causal, padding)


@dataclasses.dataclass(frozen=True)
class Dropout:
    """Dropout whose random numbers are decided by a seed and a place.

    Recomputing a block (gradient checkpointing) or resuming a run draws the same
    numbers again, which a layer with hidden state could not promise.

    Attributes:
        rate: Share of values that become zero; counted in 256ths.
        seed: int32 (2,), new for every training step; None when not training.
    """

    rate: float
    seed: tf.Tensor | None

    def __call__(self, x: tf.Tensor, place: int) -> tf.Tensor:
        """Drops values of `x`; every `place` of the network draws its own numbers."""
        if self.seed is None or self.rate == 0:
            return x
        seed = self.seed + tf.constant([0, place], self.seed.dtype)
        # A byte decides about a value: drawing a float for each of the attention's
        # weights would cost as much as their softmax, three times over.
        least = min(max(round(self.rate * 256), 1), 255)
        return _drop(x, _random_bytes(tf.shape(x), seed), least)


def _random_bytes(shape, seed):
    """Uniform uint8 of a shape."""
    count = tf.reduce_prod(shape)
    words = tf.random.stateless_uniform(
        [(count + 3) // 4], seed, minval=None, maxval=None, dtype=tf.uint32
    )
    return tf.reshape(tf.reshape(tf.bitcast(words, tf.uint8), [-1])[:count], shape)


def _drop(x, random, least):
    """Zero where a byte is below `least`; the others grow by what is lost."""

    @tf.custom_gradient
    def drop(x):
        gradient = functools.partial(_compiled_drop, random=random, least=least)
        return gradient(x), gradient

    return drop(x)


@tf.function(jit_compile=True, autograph=False)
def _compiled_drop(x, random, least):
    # One pass over memory; the attention's weights are the largest of all tensors.
    grown = x * tf.cast(256 / (256 - least), x.dtype)
    return tf.where(random >= least, grown, tf.zeros((), x.dtype))


NO_DROPOUT = Dropout(0.0, None)


@keras.saving.register_keras_serializable("bark_tf")
class Projection(keras.layers.EinsumDense):
    """A linear layer over the last axis whose kernel is stored (out, in).

    Keras's own einsum would transpose the kernel before multiplying; a product over
    the last axes of both needs no other order of the weights in memory. Low-rank
    adapters and quantization are those of `EinsumDense`, but the adapters' matrices
    are multiplied with the input one after the other: their product would be as large
    as the kernel, and so would its gradient.

    Args:
        size: Width of the output.
        bias: Whether a bias is added.
        **kwargs: Of `keras.layers.EinsumDense`.

    Call arguments:
        inputs: (B, T, in).

    Returns:
        (B, T, size).
    """

    def __init__(self, size: int, bias: bool, **kwargs):
        super().__init__(
            "btd,od->bto",
            output_shape=(None, size),
            bias_axes="o" if bias else None,
            **kwargs,
        )
        self.size = size

    def get_config(self):
        """The constructor's arguments, for Keras."""
        config = super().get_config()
        for name in ("equation", "output_shape", "bias_axes"):
            del config[name]
        return {**config, "size": self.size, "bias": self.bias_axes is not None}

    def call(self, inputs, training=None):
        """See the class."""
        batch, time, width = sizes_of(inputs)
        rows = tf.reshape(inputs, (-1, width))
        if self.lora_enabled:
            low = matmul_rows(rows, self.lora_kernel_b)
            low = matmul_rows(low, self.lora_kernel_a)
            x = matmul_rows(rows, self._kernel)
            x += tf.cast(self.lora_alpha / self.lora_rank, x.dtype) * low
        else:
            x = matmul_rows(rows, self.kernel)
        x = x if self.bias is None else x + self.bias
        return reshape(x, (batch, time, self.size))

    def quantize(self, mode=None, type_check=True, **kwargs):
        """As in `EinsumDense`, which by itself refuses its subclasses."""
        super().quantize(mode, type_check=False, **kwargs)


def sizes_of(x) -> list:
    """The sizes of a tensor's axes: numbers where they are known, scalars elsewhere.

    Numbers make no operations of the graph, of which each costs half a millisecond
    when the first text is spoken.
    """
    dynamic = None if x.shape.is_fully_defined() else tf.shape(x)
    return [
        dynamic[axis] if size is None else size for axis, size in enumerate(x.shape)
    ]


def reshape(x, sizes):
    """`tf.reshape` to sizes of which some may be scalar tensors, and one -1."""
    known = [size if isinstance(size, int) else None for size in sizes]
    if known.count(None) == 1 and -1 not in known:
        sizes = [-1 if size is None else size for size in known]
    return tf.reshape(x, sizes)


def matmul_rows(x, kernel):
    """Multiplies x (..., in) with the rows of `kernel` (out, in)."""
    return tf.matmul(x, tf.cast(kernel, x.dtype), transpose_b=True)


@keras.saving.register_keras_serializable("bark_tf")
class Embedding(keras.layers.Embedding):
    """A table of vectors whose gradient is one number per weight.

    Keras' own is a list of rows in which an id stands as often as it was read. Its
    optimizers square these rows one by one: the norm that clips and Adam's second
    moments are then wrong wherever a token repeats, as padding does.

    Args:
        **kwargs: Of `keras.layers.Embedding`.

    Call arguments:
        inputs: int, any shape, values in [0, input_dim).

    Returns:
        (..., output_dim).
    """

    def call(self, inputs):
        """See the class."""
        rows = _gather(tf.convert_to_tensor(self.embeddings), inputs)
        return tf.cast(rows, self.compute_dtype)


@tf.custom_gradient
def _gather(table, ids):
    ids = tf.cast(ids, tf.int32)

    def gradient(upstream):
        upstream = tf.reshape(upstream, (-1, table.shape[1]))
        flat = tf.reshape(ids, [-1])
        return tf.math.unsorted_segment_sum(upstream, flat, table.shape[0]), None

    return tf.gather(table, ids), gradient


def _linear(config: BarkSubModelConfig, size: int, **kwargs) -> Projection:
    """A linear layer of Bark's blocks."""
    initializer = Normal(config.initializer_range)
    return Projection(size, config.bias, kernel_initializer=initializer, **kwargs)


def layer_norm(has_bias: bool, name: str, dtype) -> LayerNorm:
    """A layer norm as Bark's networks have it."""
    return LayerNorm(
        epsilon=LAYER_NORM_EPSILON,
        center=has_bias,
        name=name,
        dtype=dtype,
        autocast=False,
    )


@keras.saving.register_keras_serializable("bark_tf")
class LayerNorm(keras.layers.LayerNormalization):
    """A layer norm over the last axis in fewer operations than Keras' own.

    Args:
        **kwargs: Of `keras.layers.LayerNormalization`.

    Call arguments:
        inputs: (..., C).

    Returns:
        The same shape, in the compute dtype; computed in float32 at least.
    """

    def call(self, inputs):
        """See the class."""
        dtype = tf.float64 if inputs.dtype == tf.float64 else tf.float32
        x = tf.cast(inputs, dtype)
        x -= tf.reduce_mean(x, -1, keepdims=True)
        variance = tf.reduce_mean(tf.square(x), -1, keepdims=True)
        x *= tf.math.rsqrt(variance + self.epsilon)
        x *= tf.cast(self.gamma, dtype)
        if self.beta is not None:
            x += tf.cast(self.beta, dtype)
        return tf.cast(x, self.compute_dtype)


class SelfAttention(keras.layers.Layer):
    """Multi-head self-attention with an optional static cache.

    Args:
        config: The transformer's configuration.

    Call arguments:
        x: (B, T, C).
        visible: `AttentionMask`.
        cache: `LayerCache` to write to and attend over, or None.
        position: Slot of the first query; scalar.
        head_mask: (H,), multiplies the attention weights, or None.
        dropout: `Dropout`.
        place: First place of this block, for the dropout.
        training: Whether gradients are wanted, which `fused_softmax` has sooner.

    Returns:
        Output (B, T, C), the `LayerCache` (of the T new slots when there was none) and
        the attention weights (B, H, T, S).
    """

    def __init__(self, config: BarkSubModelConfig, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.num_heads, self.head_size = config.num_heads, config.head_size
        self.hidden_size = config.hidden_size
        policy, size = self.dtype_policy, config.hidden_size
        self.qkv = _linear(config, 3 * size, name="qkv", dtype=policy)
        self.out = _linear(config, size, name="out", dtype=policy)

    def build(self, shape):
        """Makes the variables."""
        self.qkv.build(shape)
        self.out.build(shape)
        self.built = True

    def call(
        self,
        x,
        visible,
        cache=None,
        position=0,
        head_mask=None,
        dropout=NO_DROPOUT,
        place=0,
        training=False,
    ):
        """See the class."""
        batch, time, _ = sizes_of(x)
        heads, size = self.num_heads, self.head_size
        qkv = reshape(self.qkv(x), (batch, time, 3, heads, size))
        q, k, v = tf.unstack(qkv, axis=2)
        q, k = (
            reshape(tf.transpose(one, (0, 2, 1, 3)), (-1, time, size)) for one in (q, k)
        )  # (B * H, T, D)
        v = tf.transpose(v, (0, 2, 3, 1))
        new = LayerCache(k, reshape(v, (-1, size, time)))
        if cache is not None:
            q = tf.cast(q, cache.keys.dtype)  # attention computes in the cache's dtype
            new = cache.write(new.keys, new.values, position)
        softmax = fused_softmax if training else masked_softmax
        weights = softmax(self._scores(q, new.keys), visible)  # (B, H, T, S)
        seen = dropout(weights, place)
        if head_mask is not None:
            seen = seen * tf.cast(tf.reshape(head_mask, (1, -1, 1, 1)), seen.dtype)
        *_, slots = sizes_of(seen)
        seen = reshape(seen, (-1, time, slots))
        y = tf.matmul(seen, new.values, transpose_b=True)  # (B * H, T, D)
        y = tf.transpose(reshape(y, (batch, heads, time, size)), (0, 2, 1, 3))
        y = self.out(reshape(y, (batch, time, self.hidden_size)))
        return dropout(y, place + 1), new, weights

    def _scores(self, q, keys):
        scores = tf.matmul(
            q * tf.cast(self.head_size**-0.5, q.dtype), keys, transpose_b=True
        )
        _, time, slots = sizes_of(scores)
        return reshape(scores, (-1, self.num_heads, time, slots))  # (B, H, T, S)


def masked_softmax(scores, visible: AttentionMask):
    """Attention weights (B, H, T, S) of scores, computed in float32 at least."""
    if visible.causal is not None:
        lowest = tf.constant(scores.dtype.min, scores.dtype)
        scores = tf.where(visible.causal, scores, lowest)
    if visible.padding is not None:
        scores += visible.padding
    return tf.cast(tf.nn.softmax(_at_least_float32(scores)), scores.dtype)


def fused_softmax(scores, visible: AttentionMask):
    """`masked_softmax` for training: fewer passes over the largest of tensors.

    XLA compiles the gradient, and what surrounds half precision; by itself TensorFlow's
    own softmax of float32 is faster.
    """

    @tf.custom_gradient
    def softmax(scores):
        forward = _compiled_softmax if _is_half(scores) else masked_softmax
        weights = forward(scores, visible)
        return weights, functools.partial(_compiled_softmax_gradient, weights)

    return softmax(scores)


@tf.function(jit_compile=True, autograph=False)
def _compiled_softmax(scores, visible):
    return masked_softmax(scores, visible)


@tf.function(jit_compile=True, autograph=False)
def _compiled_softmax_gradient(weights, upstream):
    # Where a score is masked its weight is 0, and so is its gradient.
    wide = _at_least_float32(weights)
    gradient = tf.cast(upstream, wide.dtype)
    gradient -= tf.reduce_sum(wide * gradient, -1, keepdims=True)
    return tf.cast(wide * gradient, weights.dtype)


class Mlp(keras.layers.Layer):
    """The block's second half: widen four times, exact GELU, narrow.

    Args:
        config: The transformer's configuration.

    Call arguments:
        x: (B, T, C).
        training: Whether gradients are wanted, which `fused_gelu` has sooner.
    """

    def __init__(self, config: BarkSubModelConfig, **kwargs):
        super().__init__(**kwargs)
        self.wide = MLP_RATIO * config.hidden_size
        policy = self.dtype_policy
        self.fc = _linear(config, self.wide, name="fc", dtype=policy)
        self.proj = _linear(config, config.hidden_size, name="proj", dtype=policy)

    def build(self, shape):
        """Makes the variables."""
        self.fc.build(shape)
        self.proj.build((*shape[:-1], self.wide))
        self.built = True

    def call(self, x, training=False):
        """See the class."""
        x = self.fc(x)
        is_worth_it = training or (_is_half(x) and self.wide >= _FUSED_WIDTH)
        return self.proj(fused_gelu(x) if is_worth_it else exact_gelu(x))


def exact_gelu(x):
    """GELU by the error function; `tf.nn.gelu` rounds its constants to float32."""
    return 0.5 * x * tf.math.erfc(-x / 2**0.5)


@tf.custom_gradient
def fused_gelu(x):
    """`exact_gelu`, compiled by XLA: one pass over memory each way.

    As single operations, GELU and its gradient cost as much as the products around
    them, and more in bfloat16, which XLA computes in float32.
    """
    return _compiled_gelu(x), lambda upstream: _compiled_gelu_gradient(x, upstream)


@tf.function(jit_compile=True, autograph=False)
def _compiled_gelu(x):
    return tf.cast(exact_gelu(_at_least_float32(x)), x.dtype)


@tf.function(jit_compile=True, autograph=False)
def _compiled_gelu_gradient(x, upstream):
    wide = _at_least_float32(x)
    share = 0.5 * tf.math.erfc(-wide / 2**0.5)
    density = tf.exp(-0.5 * tf.square(wide)) * (2 * math.pi) ** -0.5
    gradient = (share + wide * density) * tf.cast(upstream, wide.dtype)
    return tf.cast(gradient, upstream.dtype)


def _is_half(x) -> bool:
    return x.dtype in (tf.float16, tf.bfloat16)


def _at_least_float32(x):
    return x if x.dtype == tf.float64 else tf.cast(x, tf.float32)
