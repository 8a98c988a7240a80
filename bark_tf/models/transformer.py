"""The transformer that Bark's three language models share.

A pre-norm GPT-2 block with one fused query-key-value projection. Kernels are stored
(out, in), the checkpoint's own layout and the one that XLA multiplies fastest.

Axes: B batch, T time (queries), S slots of keys and values, C hidden_size, H heads,
D = C / H, V vocabulary.

Source: suno-ai/bark, `bark/model.py`, `bark/model_fine.py`; GPT-2.
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import keras
import tensorflow as tf

from bark_tf.config import BarkSubModelConfig
from bark_tf.generation.cache import LayerCache
from bark_tf.models.layers import (
    NO_DROPOUT,
    Dropout,
    Embedding,
    Mlp,
    Normal,
    Projection,
    SelfAttention,
    attention_mask,
    layer_norm,
)
from bark_tf.models.pretrained import PretrainedModel

PLACES_PER_BLOCK = 3
# A prime, so that sums with other seeds rarely coincide.
_SEEDS_PER_REPLICA = 1_000_003


class Block(keras.layers.Layer):
    """A pre-norm transformer block: attention, then MLP, each with a residual.

    Args:
        config: The transformer's configuration.
        norm_bias: Whether the layer norms have a bias.

    Call arguments and returns: See `SelfAttention`; for `use_xla`, `Mlp`.
    """

    def __init__(self, config: BarkSubModelConfig, norm_bias: bool, **kwargs):
        super().__init__(autocast=False, **kwargs)
        policy = self.dtype_policy
        self.norm_1 = layer_norm(norm_bias, "norm_1", policy)
        self.attention = SelfAttention(config, name="attention", dtype=policy)
        self.norm_2 = layer_norm(norm_bias, "norm_2", policy)
        self.mlp = Mlp(config, name="mlp", dtype=policy)

    def build(self, shape):
        """Creates the variables."""
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
        use_xla=True,
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
        y = self.mlp(self.norm_2(x), training=training, use_xla=use_xla)
        y = dropout(y, place + 2)
        x += tf.cast(y, x.dtype)
        return x, cache, weights


class ForwardOutput(NamedTuple):
    """What `TransformerModel.forward` returns.

    Attributes:
        hidden: (B, T, C), after the final norm.
        cache: A `LayerCache` per layer; without a given cache, of the T new slots.
        hidden_states: L + 1 of (B, T, C): the input of each block, then `hidden`.
        attentions: L of (B, H, T, S), attention weights.
    """

    hidden: tf.Tensor
    cache: tuple[LayerCache, ...]
    hidden_states: tuple[tf.Tensor, ...]
    attentions: tuple[tf.Tensor, ...]


def _layer_head_mask(head_mask, layer: int):
    if head_mask is None:
        return None
    head_mask = tf.convert_to_tensor(head_mask)
    return head_mask if head_mask.shape.rank == 1 else head_mask[layer]


class TransformerModel(PretrainedModel):
    """What the causal models and the fine model share; abstract.

    Args:
        config: `BarkSubModelConfig`.
        norm_bias: Whether the layer norms have a bias.
        gradient_checkpointing: Whether training recomputes the blocks instead of
            keeping their activations: less memory, about a third more time.
        **kwargs: Arguments of `keras.Model`.
    """

    # Whether later positions are hidden from a position.
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
        self.final_norm = layer_norm(norm_bias, "final_norm", policy)
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

    def _head(self, name: str) -> Projection:
        """Builds an output head, which has no bias."""
        head = Projection(
            self.config.output_vocab_size,
            bias=False,
            kernel_initializer=Normal(self.config.initializer_range),
            name=name,
            dtype=self.dtype_policy,
        )
        head.build((None, None, self.config.hidden_size))
        return head

    # === Habits of transformers ===

    @abc.abstractmethod
    def get_input_embeddings(self):
        """The token embedding, or the list of them in the fine model."""

    def resize_token_embeddings(
        self,
        new_num_tokens: int | None = None,
        pad_to_multiple_of: int | None = None,
        mean_resizing: bool = True,
    ):
        """Changes the number of tokens that the network reads, as in transformers.

        The fine model's heads, which belong to the same ids, change with it; those of
        the causal models stay. Do it before `compile`.

        Args:
            new_num_tokens: Rows of each token embedding; None for as many as now.
            pad_to_multiple_of: Rounds the number up to a multiple of this.
            mean_resizing: Whether new rows are the mean of the old ones, or random.

        Returns:
            What `get_input_embeddings` returns.

        Raises:
            ValueError: If a number is not positive, or the network has been trained
                already: its optimizer has states of the old size.
        """
        rows = new_num_tokens or self.config.input_vocab_size
        multiple = pad_to_multiple_of or 1
        if min(rows, multiple) < 1:
            raise ValueError(
                "new_num_tokens and pad_to_multiple_of must be positive. Received: "
                f"{new_num_tokens}, {pad_to_multiple_of}"
            )
        if getattr(getattr(self, "optimizer", None), "built", False):
            raise ValueError(
                "resize_token_embeddings comes before training: the optimizer has "
                "states of the old size"
            )
        rows = -(-rows // multiple) * multiple
        if rows != self.config.input_vocab_size:
            self._resize(rows, None if mean_resizing else self.config.initializer_range)
            self.forget_programs()
        return self.get_input_embeddings()

    @abc.abstractmethod
    def _resize(self, rows: int, stddev: float | None) -> None:
        """Resizes all tables of the ids that are read, and the configuration."""

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs=None) -> None:
        """Recomputes the blocks in training instead of keeping their activations.

        Args:
            gradient_checkpointing_kwargs: Without effect; PyTorch's.
        """
        self.gradient_checkpointing = True
        self.forget_programs()

    def gradient_checkpointing_disable(self) -> None:
        """Keeps the activations of the blocks in training."""
        self.gradient_checkpointing = False
        self.forget_programs()

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether training recomputes the blocks."""
        return self.gradient_checkpointing

    # === Training ===

    @abc.abstractmethod
    def loss_from_labels(self, logits, labels, sample_weight=None):
        """The loss of `logits` (batch, time, vocabulary) for the labels."""

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        """The loss that `fit` minimises, from labels among the inputs or from `y`."""
        if y is None:
            if y_pred.loss is None:
                raise ValueError(
                    f"{self.name} needs labels to train: pass `labels` among the "
                    "inputs, or a dataset of (inputs, labels) pairs"
                )
            return y_pred.loss
        if self._compile_loss is not None:
            return super().compute_loss(x, y, y_pred.logits, sample_weight, training)
        return self.loss_from_labels(y_pred.logits, y, sample_weight)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Gives the logits to the metrics of `compile`."""
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
        if isinstance(config, BarkSubModelConfig):
            return super().from_config(config)
        config = dict(config)
        mode = config.pop("quantized", None)
        model = super().from_config(config)
        if mode is not None:
            model.quantize(mode)
        return model

    def projections(self):
        """Yields path and layer of the blocks' linear layers: `block_0/mlp/fc`, ..."""
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
            targets: Last parts of the paths of linear layers, such as `"qkv"` or
                `"block_11/mlp/fc"`.

        Raises:
            ValueError: If `rank` is not positive, a target matches no layer, or the
                network already has LoRA adapters or is quantized. The network is then
                unchanged.
        """
        if self.quantized:
            raise ValueError(
                "LoRA needs floating-point kernels: add the matrices, merge them, then "
                f"quantize. Received: a network quantized to {self.quantized}"
            )
        if not isinstance(rank, int) or rank < 1:
            raise ValueError(f"rank must be a whole number above 0. Received: {rank!r}")
        projections = dict(self.projections())
        if any(layer.lora_enabled for layer in projections.values()):
            raise ValueError(
                f"{self.name} already has LoRA adapters: merge them with "
                "bark_tf.training.merge_lora, or load the base again"
            )
        for target in targets:
            if not any(f"/{path}".endswith(f"/{target}") for path in projections):
                raise ValueError(
                    "targets must be last parts of the paths of linear layers, such as "
                    f"'qkv' or 'block_0/mlp/fc'. Received: {target!r}"
                )
        for variable in self.weights:
            variable.trainable = False
        for path, layer in projections.items():
            if any(f"/{path}".endswith(f"/{target}") for target in targets):
                layer.enable_lora(rank, lora_alpha=lora_alpha)
        self.forget_programs()

    def quantize(self, mode: str, **kwargs) -> None:
        """Quantizes the kernels of the blocks, but not embeddings, norms and heads.

        Args:
            mode: A Keras quantization mode, such as `"int8"`.
            **kwargs: Arguments of `keras.layers.EinsumDense.quantize`.

        Raises:
            ValueError: If the network has LoRA adapters.
        """
        if any(layer.lora_enabled for _, layer in self.projections()):
            raise ValueError(
                "quantize takes kernels without LoRA matrices: merge them with "
                "bark_tf.training.merge_lora first"
            )
        for _, layer in self.projections():
            layer.quantize(mode, **kwargs)
        self.quantized = mode
        self.forget_programs()

    def forget_programs(self) -> None:
        """Drops traced programs, because the layers now compute something else."""
        vars(self).pop("_generation_programs", None)
        self.train_function = self.test_function = self.predict_function = None

    def _dropout(self, training: bool) -> Dropout:
        if not (training and self.config.dropout):
            return NO_DROPOUT
        seed = tf.cast(self.seeds.next(), tf.int32)
        replica = tf.distribute.get_replica_context()
        if replica is not None and replica.num_replicas_in_sync > 1:
            # All devices have the same seeds but different rows of the batch.
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
        use_xla=True,
    ) -> ForwardOutput:
        """Runs embeddings through all blocks, in training, prefill and decoding.

        Args:
            x: (B, T, C), token embeddings without position embeddings.
            cache: Tuple of a `LayerCache` per layer to write to and attend over. None
                attends over `x` alone.
            position: Slot of the first of the T positions; scalar.
            position_ids: int (1 or B, T), indices of position embeddings; by default
                `position`, `position + 1`, ...
            padding: (B, S), 0 where a slot is padding, or None.
            head_mask: (H,) or (L, H), multiplies attention weights, or None.
            stream_dtype: Dtype of the residual stream; the compute dtype by default.
                float32 with half-precision kernels is more exact, and faster on
                machines whose only half-precision arithmetic is matrix products.
            training: Whether to apply dropout and use the faster gradients.
            use_xla: Whether XLA may compile parts of the pass.
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
                use_xla=use_xla,
            )
            if training and self.gradient_checkpointing:
                run = tf.recompute_grad(run)
            x, new, attention = run(x)
            caches.append(new)
            weights.append(attention)
        x = self.final_norm(x)
        return ForwardOutput(x, tuple(caches), (*states, x), tuple(weights))
