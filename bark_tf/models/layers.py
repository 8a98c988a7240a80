"""Layers of Bark's transformers: attention with a static cache, MLP, norms, dropout.

Kernels are stored (out, in), the checkpoint's own layout and the one that XLA
multiplies fastest.

Axes: B batch, T time (queries), S slots of keys and values, C hidden_size, H heads,
D = C / H.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from bark_tf.config import BarkSubModelConfig
from bark_tf.generation.cache import LayerCache
from bark_tf.generation.products import matmul_rows
from bark_tf.memory import drawn

LAYER_NORM_EPSILON = 1e-5
MLP_RATIO = 4
# MLPs at least this wide compile their GELU for inference in half precision. Elsewhere
# it saves less time and memory than XLA itself needs.
_FUSED_WIDTH = 2_048

# === Tensors ===


def sizes_of(x) -> list:
    """The sizes of a tensor's axes: ints where known, scalar tensors elsewhere.

    An int adds no operation to the graph, and each operation adds half a millisecond
    to the first call.
    """
    dynamic = None if x.shape.is_fully_defined() else tf.shape(x)
    return [
        dynamic[axis] if size is None else size for axis, size in enumerate(x.shape)
    ]


def reshape(x, sizes):
    """`tf.reshape` whose sizes may be ints, scalar tensors, and one -1."""
    known = [size if isinstance(size, int) else None for size in sizes]
    if known.count(None) == 1 and -1 not in known:
        sizes = [-1 if size is None else size for size in known]
    return tf.reshape(x, sizes)


def _is_half(x) -> bool:
    return x.dtype in (tf.float16, tf.bfloat16)


def _at_least_float32(x):
    return x if x.dtype == tf.float64 else tf.cast(x, tf.float32)


# === Masks and dropout ===


class AttentionMask(NamedTuple):
    """Which slots the queries attend to.

    Attributes:
        causal: bool (T, S) or (B, 1, T, S), True where a query sees a slot, or None for
            all.
        padding: (B, 1, 1, S), added to the scores: 0 or the lowest finite number. None
            if nothing is padding.
    """

    causal: tf.Tensor | None
    padding: tf.Tensor | None

    def of_queries(self, wanted: Callable) -> AttentionMask:
        """The mask of some of the queries; see `wanted` of `SelfAttention`."""
        if self.causal is None:
            return self
        return self._replace(causal=wanted(self.causal[None])[:, None])


def attention_mask(num_queries, num_slots, position, padding, dtype, is_causal):
    """Builds the `AttentionMask` that all layers of one pass share.

    Args:
        num_queries: T, static or scalar tensor.
        num_slots: S, static or scalar tensor.
        position: Slot of the first query.
        padding: (B, S), 0 where a slot is padding, or None.
        dtype: Dtype of the attention scores.
        is_causal: Whether later slots are hidden from a query.

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


def _random_bytes(shape, seed):
    """Uniform uint8 of a shape."""
    count = tf.reduce_prod(shape)
    words = tf.random.stateless_uniform(
        [(count + 3) // 4], seed, minval=None, maxval=None, dtype=tf.uint32
    )
    return tf.reshape(tf.reshape(tf.bitcast(words, tf.uint8), [-1])[:count], shape)


@tf.function(jit_compile=True, autograph=False)
def _compiled_drop(x, random, least):
    # Compiled to one pass over memory: attention weights are the largest tensors.
    scaled = x * tf.cast(256 / (256 - least), x.dtype)
    return tf.where(random >= least, scaled, tf.zeros((), x.dtype))


def _drop(x, random, least):
    """Zeros `x` where a random byte is below `least`, and scales the rest up."""

    @tf.custom_gradient
    def drop(x):
        gradient = functools.partial(_compiled_drop, random=random, least=least)
        return gradient(x), gradient

    return drop(x)


@dataclasses.dataclass(frozen=True)
class Dropout:
    """Dropout whose random numbers depend only on a seed and a place in the network.

    So gradient checkpointing and resumed runs draw the same numbers again; a layer with
    hidden state could not guarantee that.

    Attributes:
        rate: Fraction of values set to zero, rounded to 256ths.
        seed: int32 (2,), new in every training step. None outside training.
    """

    rate: float
    seed: tf.Tensor | None

    def __call__(self, x: tf.Tensor, place: int) -> tf.Tensor:
        """Drops values of `x`; each `place` in the network draws its own numbers."""
        if self.seed is None or self.rate == 0:
            return x
        seed = self.seed + tf.constant([0, place], self.seed.dtype)
        # One random byte per value: a float for each attention weight would cost three
        # times as much as their softmax.
        least = min(max(round(self.rate * 256), 1), 255)
        return _drop(x, _random_bytes(tf.shape(x), seed), least)


NO_DROPOUT = Dropout(0.0, None)

# === Weights ===


@keras.saving.register_keras_serializable("bark_tf")
class Normal(keras.initializers.Initializer):
    """Normal random numbers, or uninitialised memory inside `allocate_only`.

    Args:
        stddev: Standard deviation.
    """

    def __init__(self, stddev: float):
        self.stddev = stddev

    def __call__(self, shape, dtype=None):
        """Returns the initial value."""
        return drawn(keras.initializers.RandomNormal(stddev=self.stddev))(shape, dtype)

    def get_config(self):
        """The constructor's arguments, for Keras."""
        return {"stddev": self.stddev}


@keras.saving.register_keras_serializable("bark_tf")
class Projection(keras.layers.EinsumDense):
    """A linear layer over the last axis whose kernel is stored (out, in).

    Keras's own einsum transposes the kernel before it multiplies; this product over the
    last axes of both does not. LoRA and quantization are those of `EinsumDense`, except
    that the input is multiplied by the LoRA matrices one after the other: their product
    would be as large as the kernel, and so would its gradient. Files keep them apart.

    Args:
        size: Width of the output.
        bias: Whether to add a bias.
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
        x = matmul_rows(rows, self._kernel)
        if self.quantization_mode == "int8":
            x /= tf.cast(tf.reshape(self.kernel_scale, (1, self.size)), x.dtype)
        if self.lora_enabled:
            low_rank = matmul_rows(rows, self.lora_kernel_b)
            low_rank = matmul_rows(low_rank, self.lora_kernel_a)
            x += tf.cast(self.lora_alpha / self.lora_rank, x.dtype) * low_rank
        x = x if self.bias is None else x + self.bias
        return reshape(x, (batch, time, self.size))

    def _int8_call(self, inputs, training=None):
        # Keras rounds the inputs to 8 bits too: less exact, and slower on a CPU.
        return self.call(inputs, training)

    def has_columns(self, x, training) -> bool:
        """Whether `columns` is faster for inputs (B, T, in): for many in inference."""
        is_plain = not self.lora_enabled and self.quantization_mode is None
        return is_plain and not training and x.shape[1] != 1

    def columns(self, x, transpose: bool = False):
        """The outputs of N inputs as columns.

        Between two layers, or an attention's heads, nothing is then transposed, and the
        second product is faster: oneDNN is slow where both its factors are transposed
        and the sum is long.

        Args:
            x: (in, N), or with `transpose` (N, in).
            transpose: Whether inputs are rows.

        Returns:
            (size, N), in the compute dtype.
        """
        dtype = self.compute_dtype
        with tf.name_scope(self.name):  # as profiles name `call`
            x = tf.cast(x, dtype)
            y = tf.matmul(tf.cast(self.kernel, dtype), x, False, transpose)
            if self.bias is not None:
                y += tf.expand_dims(tf.cast(self.bias, dtype), 1)
        return y

    def save_own_variables(self, store):
        """Writes LoRA matrices beside the kernel.

        Keras would write their sum, from which no training can go on.
        """
        if not self.lora_enabled or self.quantization_mode is not None:
            super().save_own_variables(store)
            return
        for index, variable in enumerate(self._base_variables()):
            store[str(index)] = variable
        store["lora_kernel_a"] = self.lora_kernel_a
        store["lora_kernel_b"] = self.lora_kernel_b
        store["lora_scale"] = np.float64(self.lora_alpha / self.lora_rank)

    def load_own_variables(self, store):
        """Reads what `save_own_variables` wrote.

        A layer without LoRA matrices adds theirs to its kernel; matrices that the file
        lacks start anew.
        """
        if "lora_scale" not in store.keys():
            start = tf.identity(self.lora_kernel_a) if self.lora_enabled else None
            super().load_own_variables(store)
            if start is not None:  # Keras sets both to 0, and then neither learns
                self.lora_kernel_a.assign(start)
            return
        for index, variable in enumerate(self._base_variables()):
            variable.assign(store[str(index)])
        a, b = (np.array(store[f"lora_kernel_{half}"]) for half in "ab")
        if self.lora_enabled:
            self.lora_kernel_a.assign(a)
            self.lora_kernel_b.assign(b)
        else:
            product = np.float64(store["lora_scale"]) * (a @ b)
            kernel = tf.cast(self._kernel.value, product.dtype) + product
            self._kernel.assign(tf.cast(kernel, self._kernel.dtype))

    def _base_variables(self):
        return [self._kernel] if self.bias is None else [self._kernel, self.bias]

    def quantize(self, mode=None, type_check=True, **kwargs):
        """See `EinsumDense`, whose own check refuses subclasses."""
        super().quantize(mode, type_check=False, **kwargs)


def _linear(config: BarkSubModelConfig, size: int, **kwargs) -> Projection:
    """A linear layer of a block."""
    initializer = Normal(config.initializer_range)
    return Projection(size, config.bias, kernel_initializer=initializer, **kwargs)


@tf.custom_gradient
def _gather(table, ids):
    ids = tf.cast(ids, tf.int32)

    def gradient(upstream):
        upstream = tf.reshape(upstream, (-1, table.shape[1]))
        flat = tf.reshape(ids, [-1])
        return tf.math.unsorted_segment_sum(upstream, flat, table.shape[0]), None

    return tf.gather(table, ids), gradient


@keras.saving.register_keras_serializable("bark_tf")
class Embedding(keras.layers.Embedding):
    """An embedding with a dense gradient.

    The gradient of Keras's own layer is a list of rows in which an id occurs as often
    as it was read. Optimizers square these rows one by one, so gradient clipping and
    Adam's second moments are wrong for repeated tokens such as padding.

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


def resize_rows(layer: Any, name: str, rows: int, stddev: float | None) -> None:
    """Gives a table of a layer another number of rows; the first ones stay.

    Args:
        layer: A built layer.
        name: Attribute of the table, a variable (rows, size).
        rows: The new number.
        stddev: Standard deviation of new rows around 0; None: they are the mean of the
            old ones.
    """
    old = getattr(layer, name)
    values = tf.convert_to_tensor(old)
    shape = (max(0, rows - old.shape[0]), old.shape[1])
    if stddev is None:
        mean = tf.reduce_mean(tf.cast(values, tf.float32), axis=0)
        new = tf.cast(tf.broadcast_to(mean, shape), values.dtype)
    else:
        new = Normal(stddev)(shape, values.dtype)
    delattr(layer, name)
    layer._tracker.unlock()
    table = layer.add_weight(
        (rows, old.shape[1]), "zeros", name=old.name, trainable=old.trainable
    )
    setattr(layer, name, table)
    layer._tracker.lock()
    table.assign(tf.concat([values[:rows], new], axis=0))


@keras.saving.register_keras_serializable("bark_tf")
class LayerNorm(keras.layers.LayerNormalization):
    """A layer norm over the last axis, in fewer operations than Keras's own.

    Args:
        **kwargs: Of `keras.layers.LayerNormalization`.

    Call arguments:
        inputs: (..., C).

    Returns:
        The same shape, in the compute dtype; computed in at least float32.
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


def layer_norm(has_bias: bool, name: str, dtype) -> LayerNorm:
    """A layer norm with Bark's settings."""
    return LayerNorm(
        epsilon=LAYER_NORM_EPSILON,
        center=has_bias,
        name=name,
        dtype=dtype,
        autocast=False,
    )


# === Attention ===


def masked_softmax(scores, visible: AttentionMask):
    """Attention weights (B, H, T, S) from scores, computed in at least float32."""
    if visible.causal is not None:
        lowest = tf.constant(scores.dtype.min, scores.dtype)
        scores = tf.where(visible.causal, scores, lowest)
    if visible.padding is not None:
        scores += visible.padding
    return tf.cast(tf.nn.softmax(_at_least_float32(scores)), scores.dtype)


@tf.function(jit_compile=True, autograph=False)
def _compiled_softmax(scores, visible):
    return masked_softmax(scores, visible)


@tf.function(jit_compile=True, autograph=False)
def _compiled_softmax_gradient(weights, upstream):
    # The weight of a masked score is 0, and so is its gradient.
    wide = _at_least_float32(weights)
    gradient = tf.cast(upstream, wide.dtype)
    gradient -= tf.reduce_sum(wide * gradient, -1, keepdims=True)
    return tf.cast(wide * gradient, weights.dtype)


def fused_softmax(scores, visible: AttentionMask):
    """`masked_softmax` for training: fewer passes over the largest tensors.

    XLA compiles the gradient, and in half precision the forward pass. TensorFlow's own
    float32 softmax is faster than a compiled one.
    """

    @tf.custom_gradient
    def softmax(scores):
        forward = _compiled_softmax if _is_half(scores) else masked_softmax
        weights = forward(scores, visible)
        return weights, functools.partial(_compiled_softmax_gradient, weights)

    return softmax(scores)


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
        place: First dropout place of this block.
        training: Whether to use `fused_softmax`, whose gradient is faster.
        wanted: Takes the queries to compute, (B, W, ...), out of (B or 1, T, ...); None
            for all. Keys and values are those of all positions.

    Returns:
        Output (B, T, C), the `LayerCache` (without `cache`: of the T new slots) and the
        attention weights (B, H, T, S) as they were used, after dropout and `head_mask`.
        With `wanted`, W stands for T in the output and the weights.
    """

    def __init__(self, config: BarkSubModelConfig, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.num_heads, self.head_size = config.num_heads, config.head_size
        self.hidden_size = config.hidden_size
        policy, size = self.dtype_policy, config.hidden_size
        self.qkv = _linear(config, 3 * size, name="qkv", dtype=policy)
        self.out = _linear(config, size, name="out", dtype=policy)

    def build(self, shape):
        """Creates the variables."""
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
        wanted=None,
    ):
        """See the class."""
        batch, time, _ = sizes_of(x)
        heads, size = self.num_heads, self.head_size
        q, k, v = self._heads(x, training)
        if wanted is not None:
            q = tf.transpose(wanted(tf.transpose(q, (0, 2, 1, 3))), (0, 2, 1, 3))
            visible = visible.of_queries(wanted)
        queries = sizes_of(q)[2]
        q = reshape(q, (-1, queries, size))
        new = LayerCache(reshape(k, (-1, time, size)), reshape(v, (-1, size, time)))
        if cache is not None:
            q = tf.cast(q, cache.keys.dtype)  # attention runs in the cache's dtype
            new = cache.write(new.keys, new.values, position)
        softmax = fused_softmax if training else masked_softmax
        weights = softmax(self._scores(q, new.keys), visible)  # (B, H, T, S)
        weights = dropout(weights, place)
        if head_mask is not None:
            mask = tf.cast(tf.reshape(head_mask, (1, -1, 1, 1)), weights.dtype)
            weights *= mask
        *_, slots = sizes_of(weights)
        flat = reshape(weights, (-1, queries, slots))
        y = tf.matmul(flat, new.values, transpose_b=True)  # (B * H, T, D)
        y = tf.transpose(reshape(y, (batch, heads, queries, size)), (0, 2, 1, 3))
        y = self.out(reshape(y, (batch, queries, self.hidden_size)))
        return dropout(y, place + 1), new, weights

    def _heads(self, x, training):
        """Queries and keys, each (B, H, T, D), and values (B, H, D, T)."""
        batch, time, width = sizes_of(x)
        heads, size = self.num_heads, self.head_size
        if self.qkv.has_columns(x, training):
            qkv = self.qkv.columns(tf.reshape(x, (-1, width)), transpose=True)
            qkv = reshape(qkv, (3, heads, size, batch, time))
            q, k, v = tf.unstack(tf.transpose(qkv, (0, 3, 1, 2, 4)))
            return tf.transpose(q, (0, 1, 3, 2)), tf.transpose(k, (0, 1, 3, 2)), v
        qkv = reshape(self.qkv(x), (batch, time, 3, heads, size))
        q, k, v = tf.unstack(qkv, axis=2)
        q, k = tf.transpose(q, (0, 2, 1, 3)), tf.transpose(k, (0, 2, 1, 3))
        return q, k, tf.transpose(v, (0, 2, 3, 1))

    def _scores(self, q, keys):
        scores = tf.matmul(
            q * tf.cast(self.head_size**-0.5, q.dtype), keys, transpose_b=True
        )
        _, time, slots = sizes_of(scores)
        return reshape(scores, (-1, self.num_heads, time, slots))  # (B, H, T, S)


# === MLP ===


def exact_gelu(x):
    """GELU with the error function; `tf.nn.gelu` rounds its constants to float32."""
    return 0.5 * x * tf.math.erfc(-x / 2**0.5)


@tf.function(jit_compile=True, autograph=False)
def _compiled_gelu(x):
    return tf.cast(exact_gelu(_at_least_float32(x)), x.dtype)


@tf.function(jit_compile=True, autograph=False)
def _compiled_gelu_gradient(x, upstream):
    wide = _at_least_float32(x)
    cumulative = 0.5 * tf.math.erfc(-wide / 2**0.5)
    density = tf.exp(-0.5 * tf.square(wide)) * (2 * math.pi) ** -0.5
    gradient = (cumulative + wide * density) * tf.cast(upstream, wide.dtype)
    return tf.cast(gradient, upstream.dtype)


@tf.custom_gradient
def fused_gelu(x):
    """`exact_gelu` compiled by XLA: one pass over memory forward, one backward.

    As separate operations, GELU and its gradient cost as much as the matrix products
    around them, and more in bfloat16, which XLA computes in float32.
    """
    return _compiled_gelu(x), lambda upstream: _compiled_gelu_gradient(x, upstream)


class Mlp(keras.layers.Layer):
    """The second half of a block: widen four times, exact GELU, narrow.

    Args:
        config: The transformer's configuration.

    Call arguments:
        x: (B, T, C).
        training: Whether to use `fused_gelu`, whose gradient is faster.
        use_xla: Whether XLA may compile the GELU of wide half-precision networks.
    """

    def __init__(self, config: BarkSubModelConfig, **kwargs):
        super().__init__(**kwargs)
        self.wide = MLP_RATIO * config.hidden_size
        policy = self.dtype_policy
        self.fc = _linear(config, self.wide, name="fc", dtype=policy)
        self.proj = _linear(config, config.hidden_size, name="proj", dtype=policy)

    def build(self, shape):
        """Creates the variables."""
        self.fc.build(shape)
        self.proj.build((*shape[:-1], self.wide))
        self.built = True

    def call(self, x, training=False, use_xla=True):
        """See the class."""
        is_half = tf.as_dtype(self.compute_dtype).size == 2
        is_fused = training or (use_xla and is_half and self.wide >= _FUSED_WIDTH)
        gelu = fused_gelu if is_fused else exact_gelu
        layers = self.fc, self.proj
        if not all(layer.has_columns(x, training) for layer in layers):
            return self.proj(gelu(self.fc(x)))
        batch, time, width = sizes_of(x)
        hidden = self.fc.columns(tf.reshape(x, (-1, width)), transpose=True)
        y = tf.transpose(self.proj.columns(gelu(hidden)))
        return reshape(y, (batch, time, width))
