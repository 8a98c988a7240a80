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
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, NamedTuple

import keras
import tensorflow as tf

from bark_tf.backend import collection_paused
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
from bark_tf.models.losses import cross_entropy, kept, replica_cross_entropy
from bark_tf.models.pretrained import PretrainedModel, check_shape

PLACES_PER_BLOCK = 3
# What differs between calls of a block for inference.
_BLOCK_INPUTS = ("visible", "cache", "position", "use_xla")
_SEEDS_PER_REPLICA = 1_000_003  # a prime: sums with other seeds rarely coincide


class Block(keras.layers.Layer):
    """A pre-norm transformer block: attention, then MLP, each with a residual.

    Args:
        config: The transformer's configuration.
        norm_bias: Whether the layer norms have a bias.

    Call arguments and returns: See `SelfAttention`; for `use_xla`, `Mlp`. With
    `wanted`, the MLP too computes only these positions.
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
        wanted=None,
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
            wanted=wanted,
        )
        x = (x if wanted is None else wanted(x)) + tf.cast(y, x.dtype)
        y = self.mlp(self.norm_2(x), training=training, use_xla=use_xla)
        y = dropout(y, place + 2)
        x += tf.cast(y, x.dtype)
        return x, cache, weights


class ForwardOutput(NamedTuple):
    """What `TransformerModel.forward` returns.

    Attributes:
        hidden: (B, T, C), after the final norm; (B, W, C) of W wanted positions.
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


def _check_given_once(inputs: Mapping, **beside) -> None:
    for name, value in beside.items():
        if value is not None and inputs.get(name) is not None:
            raise ValueError(
                f"{name} must be given once. Received: {name} both among the inputs "
                "and beside them"
            )


def _weights_among(x, y, sample_weight):
    """Inputs and weights as Keras keeps both: it drops weights that have no `y`."""
    if sample_weight is None or y is not None or not isinstance(x, Mapping):
        return x, sample_weight
    _check_given_once(x, sample_weight=sample_weight)
    return {**x, "sample_weight": sample_weight}, None


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
    # Arguments of a call that returns nothing but what was asked for.
    without_caches: ClassVar[Mapping[str, bool]] = {}

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

    # === What Keras calls ===

    def __call__(self, *args, **kwargs):
        """Calls the network with arguments by position, by name or in one mapping.

        Keras itself refuses ints by position and lets a mapping hide what stands beside
        it. Functional models and exports get caches only with `use_cache=True`.
        """
        if len(args) == 1 and isinstance(args[0], Mapping):
            args, kwargs = (), dict(**args[0], **kwargs)
        given = inspect.signature(self.call).bind_partial(*args, **kwargs).arguments
        if self._is_exporting or any(
            isinstance(x, keras.KerasTensor) for x in keras.tree.flatten(given)
        ):
            given = {**self.without_caches, **given}
        return super().__call__(**given)

    @property
    def output(self):
        """The tensors of the symbolic call that returned most of them.

        Keras takes those of the first call for the number of outputs of every call.
        """
        first = super().output
        others = (node.output_tensors for node in self._inbound_nodes[1:])
        return max((first, *others), key=lambda x: len(keras.tree.flatten(x)))

    def predict_step(self, data):
        """What `predict` returns for a batch.

        No caches unless `use_cache` is among the inputs, and no loss: it has no rows.
        """
        x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        if not isinstance(x, Mapping):
            return self(x, **self.without_caches, training=False)
        rows = {k: v for k, v in x.items() if k not in ("labels", "sample_weight")}
        return self({**self.without_caches, **rows}, training=False)

    def fit(self, x=None, y=None, *args, sample_weight=None, **kwargs):
        """Trains the network; see `keras.Model.fit`.

        Labels are among the inputs or are `y`; `sample_weight` counts beside both.
        """
        validation = kwargs.get("validation_data")
        if isinstance(validation, tuple) and len(validation) == 3:
            inputs, labels, weights = validation
            inputs, weights = _weights_among(inputs, labels, weights)
            kwargs["validation_data"] = inputs, labels, weights
        x, sample_weight = _weights_among(x, y, sample_weight)
        return super().fit(x, y, *args, sample_weight=sample_weight, **kwargs)

    def evaluate(self, x=None, y=None, *args, sample_weight=None, **kwargs):
        """Loss and metrics; see `keras.Model.evaluate` and `fit`."""
        x, sample_weight = _weights_among(x, y, sample_weight)
        return super().evaluate(x, y, *args, sample_weight=sample_weight, **kwargs)

    # === Labels ===

    @abc.abstractmethod
    def aligned(self, logits, labels, sample_weight=None, inputs=None):
        """Places each label beside the logits that predict it.

        Args:
            logits: (batch, time, vocabulary).
            labels: int, as a call takes them.
            sample_weight: (batch,) or (batch, time), or None.
            inputs: The mapping of all inputs, or None.

        Returns:
            Logits (batch, labels, vocabulary), labels (batch, labels), and weights
            (batch,) or (batch, labels) or None.
        """

    def _checked_labels(self, logits, labels, sample_weight):
        """Labels and weights as tensors that fit the logits (B, T, V)."""
        labels = tf.convert_to_tensor(labels)
        batch, time, _ = logits.shape
        rows = {"batch": batch}
        check_shape("labels", labels, {**rows, "time": time})
        if sample_weight is not None:
            sample_weight = tf.convert_to_tensor(sample_weight)
            check_shape("sample_weight", sample_weight, rows, {**rows, "time": time})
        return labels, sample_weight

    def loss_from_labels(self, logits, labels, sample_weight=None):
        """The loss of `logits` (batch, time, vocabulary) for the labels."""
        return cross_entropy(*self.aligned(logits, labels, sample_weight))

    def _truth(self, x, y, y_pred, sample_weight):
        """`aligned` logits, labels and weights from what Keras gives to a step."""
        inputs = x if isinstance(x, Mapping) else {}
        _check_given_once(inputs, labels=y, sample_weight=sample_weight)
        labels = inputs.get("labels") if y is None else y
        if labels is None:
            raise ValueError(
                f"{self.name} needs labels to train: pass `labels` among the "
                "inputs, or a dataset of (inputs, labels) pairs"
            )
        if sample_weight is None:
            sample_weight = inputs.get("sample_weight")
        return self.aligned(y_pred.logits, labels, sample_weight, inputs)

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        """The loss that `fit` minimises, from labels among the inputs or from `y`.

        With the replicas of a strategy it is the mean over the labels of all of them.
        A `loss` given to `compile` sees what metrics see.
        """
        truth = self._truth(x, y, y_pred, sample_weight)
        if self._compile_loss is None:
            return replica_cross_entropy(*truth)
        logits, labels, weights = kept(*truth)
        return super().compute_loss(x, labels, logits, weights, training)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Updates the metrics of `compile`.

        They see one row per label that is not ignored: labels (labels,), the logits
        that predict them (labels, vocabulary), and weights (labels,).
        """
        if self._compile_metrics is None:
            return self.get_metrics_result()
        logits, labels, weights = kept(*self._truth(x, y, y_pred, sample_weight))
        return super().compute_metrics(x, labels, logits, weights)

    # === Serialization ===

    def get_config(self):
        """The constructor's arguments, for Keras."""
        return {
            **super().get_config(),
            "gradient_checkpointing": self.gradient_checkpointing,
            "quantized": self.quantized,
            "adapters": {
                path: [layer.lora_rank, layer.lora_alpha]
                for path, layer in self._linear_layers().items()
                if layer.lora_enabled
            },
        }

    @classmethod
    def from_config(cls, config):
        """Builds the network from `get_config()`, with its kernels as they were."""
        if isinstance(config, BarkSubModelConfig):
            return super().from_config(config)
        config = dict(config)
        mode = config.pop("quantized", None)
        adapters, frozen = config.pop("adapters", {}), config.pop("frozen", ())
        model = super().from_config(config)
        if mode is not None:
            model.quantize(mode)
        layers = model._linear_layers()
        for path, (rank, alpha) in adapters.items():
            layers[path].enable_lora(rank, lora_alpha=alpha)
        return model.freeze(frozen)

    def _linear_layers(self) -> dict[str, Projection]:
        """Path -> linear layer, heads included."""
        layers = self._flatten_layers()
        return {layer.path: layer for layer in layers if isinstance(layer, Projection)}

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

        `"int8"` rounds the kernels only, not what they multiply, whatever a `config`
        says of activations.

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
        with collection_paused():
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

    def _check_inputs(self, x, past, attention_mask, position_ids, head_mask) -> None:
        """Checks embeddings, how many positions there are, and what stands beside them.

        Args:
            x: (B, T, C).
            past: The number of positions before, or None if it is not known.
            attention_mask: See the model.
            position_ids: See the model.
            head_mask: See the model.

        Raises:
            ValueError: If there are too many positions, or a shape is wrong.
        """
        config = self.config
        size = {"hidden_size": config.hidden_size}
        check_shape("input_embeds", x, {"batch": None, "time": None, **size})
        batch, time, _ = x.shape
        total = None if None in (past, time) else past + time
        if total is not None and total > config.block_size:
            raise ValueError(
                f"The sequence must fit into block_size={config.block_size} "
                f"positions. Received: {past} past and {time} new positions"
            )
        times, heads = {"time": time}, {"heads": config.num_heads}
        check_shape("attention_mask", attention_mask, {"batch": batch, "slots": total})
        alternatives = {"batch": batch, **times}, {"batch": 1, **times}, times
        check_shape("position_ids", position_ids, *alternatives)
        alternatives = heads, {"layers": config.num_layers, **heads}
        check_shape("head_mask", head_mask, *alternatives)

    def _blocks(self, one_trace: bool, wanted) -> list[Callable]:
        """The blocks; with `one_trace` most are calls of one traced function.

        It takes their weights. The last block with `wanted` and blocks with LoRA
        matrices may differ from the others.
        """
        if not one_trace or any(p.lora_enabled for _, p in self.projections()):
            return self.blocks
        first = self.blocks[0]

        def run(weights, x, **inputs):
            with keras.StatelessScope(zip(first.weights, weights, strict=True)):
                return *first(x, **inputs)[:2], None  # attention weights are large

        # Inlined, it would be optimised once per layer.
        attributes = {"_noinline": True}
        run = tf.function(run, autograph=False, experimental_attributes=attributes)

        def block(own, x, **inputs):
            inputs = {name: inputs[name] for name in _BLOCK_INPUTS}
            return run([weight.value for weight in own.weights], x, **inputs)

        blocks = [functools.partial(block, own) for own in self.blocks]
        return blocks if wanted is None else [*blocks[:-1], self.blocks[-1]]

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
        one_trace=False,
        wanted=None,
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
            one_trace: Whether one traced block serves all layers, in programs for
                inference that XLA does not compile: they start sooner. There are no
                `attentions` then.
            wanted: Takes the positions whose `hidden` is wanted, (B, W, ...), out of
                (B or 1, T, ...); None for all. The last block computes no others.
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
        for i, block in enumerate(self._blocks(one_trace, wanted)):
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
                wanted=wanted if block is self.blocks[-1] else None,
            )
            if training and self.gradient_checkpointing:
                run = tf.recompute_grad(run)
            x, new, attention = run(x)
            caches.append(new)
            weights.append(attention)
        x = self.final_norm(x)
        return ForwardOutput(x, tuple(caches), (*states, x), tuple(weights))
