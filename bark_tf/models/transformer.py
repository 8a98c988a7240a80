"""The transformer that Bark's three language models share.

A pre-norm GPT-2 block with one fused query-key-value projection. Kernels are stored
(out, in), the checkpoint's own layout and the one that XLA multiplies fastest.

Axes: B batch, T time (queries), S slots of keys and values, C hidden_size, H heads,
D = C / H, V vocabulary.

Source: suno-ai/bark, `bark/model.py`, `bark/model_fine.py`; GPT-2.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import keras
import tensorflow as tf

from bark_tf.config import BarkSubModelConfig
from bark_tf.models.pretrained import Normal, PretrainedModel

LAYER_NORM_EPSILON = 1e-5
MLP_RATIO = 4
# Networks in half precision speak sooner with a compiled GELU if they are this wide; in
# float32 it would save less than XLA needs, in time and memory.
_FUSED_WIDTH = 2_048


class LayerCache(NamedTuple):
    """Keys and values of one layer, in buffers of a fixed number of slots.

    Batch and heads share one axis, and both products of the attention run over the
    last axes of these layouts: decoding at batch 1 is limited by memory, and this
    order is read once, front to back.

    Attributes:
        keys: (B * H, S, D).
        values: (B * H, D, S).
    """

    keys: tf.Tensor
    values: tf.Tensor


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
PLACES_PER_BLOCK = 3
_SEEDS_PER_REPLICA = 1_000_003  # a prime: sums with other seeds rarely meet


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


def _layer_norm(has_bias: bool, name: str, dtype) -> LayerNorm:
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
            new = LayerCache(
                _write(cache.keys, new.keys, (0, position, 0)),
                _write(cache.values, new.values, (0, 0, position)),
            )
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


def _write(buffer, values, start):
    """Writes `values` into `buffer` at `start`, in place where the compiler can."""
    start = [tf.cast(index, tf.int32) for index in start]
    return keras.ops.slice_update(buffer, start, tf.cast(values, buffer.dtype))


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


class Block(keras.layers.Layer):
    """One transformer block: attention and MLP, each behind a norm and beside a skip.

    Args:
        config: The transformer's configuration.
        norm_bias: Whether the norms have a bias.

    Call arguments and returns: as in `SelfAttention`.
    """

    def __init__(
        self,
        config: BarkSubModelConfig,
        norm_bias: bool,
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)
        policy = self.dtype_policy
        self.norm_1 = _layer_norm(norm_bias, "norm_1", policy)
        self.attention = SelfAttention(config, name="attention", dtype=policy)
        self.norm_2 = _layer_norm(norm_bias, "norm_2", policy)
        self.mlp = Mlp(config, name="mlp", dtype=policy)

    def build(self, shape):
        """Makes the variables."""
        for layer in (self.norm_1, self.attention, self.norm_2, self.mlp):
            layer.build(shape)
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
        y, cache, weights = self.attention(
            self.norm_1(x),
            visible=visible,
            cache=cache,
            position=position,
            head_mask=head_mask,
            dropout=dropout,
            place=place,
            training=training,
        )
        x += tf.cast(y, x.dtype)
        y = dropout(self.mlp(self.norm_2(x), training=training), place + 2)
        x += tf.cast(y, x.dtype)
        return x, cache, weights


class TransformerModel(PretrainedModel):
    """What the causal models and the fine model share; abstract.

    Args:
        config: `BarkSubModelConfig`.
        norm_bias: Whether the norms have a bias.
        is_causal: Whether a position sees no later one.
        gradient_checkpointing: Whether training recomputes the blocks instead of
            keeping their activations: less memory, about a third more time.
        **kwargs: Of `keras.Model`.
    """

    norm_bias: bool
    is_causal: ClassVar[bool]

    def __init__(self, config, *, norm_bias, gradient_checkpointing=False, **kwargs):
        super().__init__(config, **kwargs)
        policy, size = self.dtype_policy, config.hidden_size
        self.gradient_checkpointing = gradient_checkpointing
        self.quantized = None
        self.position_embedding = self._embedding(
            config.block_size, "position_embedding"
        )
        self.blocks = [
            Block(config, norm_bias, name=f"block_{i}", dtype=policy)
            for i in range(config.num_layers)
        ]
        self.final_norm = _layer_norm(norm_bias, "final_norm", policy)
        for layer in (*self.blocks, self.final_norm):
            layer.build((None, None, size))
        self.seeds = keras.random.SeedGenerator() if config.dropout else None

    def _embedding(self, rows: int, name: str):
        table = Embedding(
            rows,
            self.config.hidden_size,
            embeddings_initializer=Normal(self.config.initializer_range),
            name=name,
            dtype=self.dtype_policy,
        )
        table.build()
        return table

    @abc.abstractmethod
    def loss_from_labels(self, logits, labels, sample_weight=None):
        """The loss of `logits` (batch, time, vocabulary) given labels."""

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        """The loss that `fit` minimises: from labels among the inputs, or from `y`."""
        if y is None:
            if y_pred.loss is None:
                raise ValueError(
                    f"{self.name} needs labels to train: give `labels` among the "
                    "inputs, or a dataset of (inputs, labels) pairs"
                )
            return y_pred.loss
        if self._compile_loss is not None:
            return super().compute_loss(x, y, y_pred.logits, sample_weight, training)
        return self.loss_from_labels(y_pred.logits, y, sample_weight)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Metrics of `compile` see the logits."""
        return super().compute_metrics(x, y, y_pred.logits, sample_weight)

    def get_config(self):
        """The constructor's arguments, for Keras."""
        return {
            **super().get_config(),
            "gradient_checkpointing": self.gradient_checkpointing,
            "quantized": self.quantized,
        }

    @classmethod
    def from_config(cls, config):
        """Builds the network from `get_config()`, quantized if it was."""
        config = dict(config)
        mode = config.pop("quantized", None)
        model = super().from_config(config)
        if mode is not None:
            model.quantize(mode)
        return model

    def projections(self):
        """The linear layers of the blocks by path, such as `block_0/mlp/fc`."""
        for block in self.blocks:
            for part, names in (("attention", ("qkv", "out")), ("mlp", ("fc", "proj"))):
                for name in names:
                    layer = getattr(getattr(block, part), name)
                    yield f"{block.name}/{part}/{name}", layer

    def enable_lora(
        self,
        rank: int,
        lora_alpha: float | None = None,
        targets: Sequence[str] = ("qkv", "out", "fc", "proj"),
    ) -> None:
        """Freezes the network and adds trainable low-rank matrices to its kernels.

        Args:
            rank: Rank of the added matrices.
            lora_alpha: Their product is scaled by `lora_alpha / rank`; `rank` by
                default.
            targets: Ends of paths of linear layers, such as `"qkv"` or
                `"block_11/mlp/fc"`.

        Raises:
            ValueError: If `rank` is not positive, a target names no layer, or the
                network has LoRA matrices already or is quantized; nothing has been
                changed then.
        """
        if self.quantized:
            raise ValueError(
                "LoRA matrices go beside kernels of floating-point numbers: add them, "
                "merge them, then quantize. Received: a network quantized to "
                f"{self.quantized}"
            )
        if not isinstance(rank, int) or rank < 1:
            raise ValueError(f"rank must be a whole number above 0. Received: {rank!r}")
        projections = dict(self.projections())
        if any(layer.lora_enabled for layer in projections.values()):
            raise ValueError(
                f"{self.name} has LoRA matrices already: add them to the kernels with "
                "bark_tf.training.lora.merge_lora, or load the base again"
            )
        for target in targets:
            if not any(f"/{path}".endswith(f"/{target}") for path in projections):
                raise ValueError(
                    f"targets must end the path of a linear layer, such as 'qkv' or "
                    f"'block_0/mlp/fc'. Received: {target!r}"
                )
        for variable in self.weights:
            variable.trainable = False
        for path, layer in projections.items():
            if any(f"/{path}".endswith(f"/{target}") for target in targets):
                layer.enable_lora(rank, lora_alpha=lora_alpha)
        self.forget_programs()

    def quantize(self, mode: str, **kwargs) -> None:
        """Quantizes the kernels of the blocks; embeddings, norms and heads stay.

        Args:
            mode: A mode of Keras, such as `"int8"`.
            **kwargs: Of `keras.layers.EinsumDense.quantize`.

        Raises:
            ValueError: If the network has LoRA matrices.
        """
        if any(layer.lora_enabled for _, layer in self.projections()):
            raise ValueError(
                "quantize takes kernels without LoRA matrices: add them to the kernels "
                "with bark_tf.training.lora.merge_lora first"
            )
        for _, layer in self.projections():
            layer.quantize(mode, **kwargs)
        self.quantized = mode
        self.forget_programs()

    def forget_programs(self) -> None:
        """Drops what was traced of the network; its layers compute otherwise now."""
        vars(self).pop("_generation_programs", None)
        self.train_function = self.test_function = self.predict_function = None

    def _dropout(self, training: bool) -> Dropout:
        if not (training and self.config.dropout):
            return NO_DROPOUT
        seed = tf.cast(self.seeds.next(), tf.int32)
        replica = tf.distribute.get_replica_context()
        if replica is not None and replica.num_replicas_in_sync > 1:
            # Devices have the same seeds and different rows of a batch.
            number = tf.cast(replica.replica_id_in_sync_group, tf.int32)
            seed += tf.stack([number * _SEEDS_PER_REPLICA, 0])
        return Dropout(self.config.dropout, seed)

    def forward(
        self,
        x,
        cache=None,
        position=0,
        *,
        position_ids=None,
        padding=None,
        head_mask=None,
        stream_dtype=None,
        training=False,
    ):
        """Runs embeddings through all blocks: the one forward pass of this network.

        Training, prefill, decoding and export all come through here.

        Args:
            x: (B, T, C), token embeddings without positions.
            cache: Tuple of a `LayerCache` per layer to write to and attend over, or
                None: attend over `x` alone.
            position: Slot of the first of the T positions; scalar.
            position_ids: int (1 or B, T), rows of the position table; by default
                `position`, `position + 1`, ...
            padding: (B, S), nonzero where a slot may be seen, or None.
            head_mask: (H,) or (L, H), multiplies attention weights, or None.
            stream_dtype: Dtype of what flows from block to block; the compute dtype
                by default. float32 beside half-precision kernels is more exact, and
                faster where the machine has no half-precision arithmetic besides
                products.
            training: Whether dropout is on and gradients are wanted.

        Returns:
            hidden (B, T, C) after the final norm, the caches, the list of all hidden
            states as transformers counts them, and the list of attention weights.
        """
        time = tf.shape(x)[1]
        slots = time if cache is None else tf.shape(cache[0].keys)[1]
        if position_ids is None:
            position_ids = position + tf.range(time)[None]  # (1, T)
        dropout = self._dropout(training)
        stream_dtype = stream_dtype or self.compute_dtype
        x = tf.cast(x, stream_dtype)
        x += tf.cast(self.position_embedding(position_ids), stream_dtype)
        x = dropout(x, PLACES_PER_BLOCK * len(self.blocks))
        dtype = self.compute_dtype if cache is None else cache[0].keys.dtype
        visible = attention_mask(time, slots, position, padding, dtype, self.is_causal)
        states, weights, caches = [], [], []
        for i, block in enumerate(self.blocks):
            states.append(x)
            run = functools.partial(
                block,
                visible=visible,
                cache=None if cache is None else cache[i],
                position=position,
                head_mask=_layer_head_mask(head_mask, i),
                dropout=dropout,
                place=PLACES_PER_BLOCK * i,
                training=training,
            )
            if training and self.gradient_checkpointing:
                run = tf.recompute_grad(run)
            x, new, attention = run(x)
            caches.append(new)
            weights.append(attention)
        x = self.final_norm(x)
        return x, tuple(caches), [*states, x], weights

    def _head(self, name: str) -> Projection:
        """An output head: never a bias; not part of any block."""
        head = Projection(
            self.config.output_vocab_size,
            bias=False,
            kernel_initializer=Normal(self.config.initializer_range),
            name=name,
            dtype=self.dtype_policy,
        )
        head.build((None, None, self.config.hidden_size))
        return head


def _layer_head_mask(head_mask, layer: int):
    if head_mask is None:
        return None
    head_mask = tf.convert_to_tensor(head_mask)
    return head_mask if head_mask.shape.rank == 1 else head_mask[layer]
