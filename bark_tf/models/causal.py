"""The causal transformers: text to semantic tokens, semantic to coarse tokens.

Both have one architecture and different sizes. Axes as in `transformer.py`.

Source: suno-ai/bark, `bark/model.py`.
"""

from __future__ import annotations

from typing import ClassVar

import keras
import tensorflow as tf

from bark_tf.config import BarkCoarseConfig, BarkSemanticConfig, BarkSubModelConfig
from bark_tf.generation.api import (
    generate_coarse_tokens,
    generate_semantic_tokens,
    generate_tokens,
)
from bark_tf.generation.cache import LayerCache
from bark_tf.generation.products import matmul_rows
from bark_tf.models.layers import resize_rows
from bark_tf.models.outputs import ModelOutput
from bark_tf.models.pretrained import check_exclusive, check_shape
from bark_tf.models.transformer import TransformerModel


def _cache_of(past, time):
    """Turns keys and values (B, H, P, D) per layer into caches with room for `time`."""

    def layer_cache(keys, values):
        keys, values = tf.convert_to_tensor(keys), tf.convert_to_tensor(values)
        room = [[0, 0], [0, 0], [0, time], [0, 0]]
        keys, values = tf.pad(keys, room), tf.pad(values, room)
        slots, size = tf.shape(keys)[2], tf.shape(keys)[3]
        values = tf.transpose(values, (0, 1, 3, 2))
        return LayerCache(
            tf.reshape(keys, (-1, slots, size)), tf.reshape(values, (-1, size, slots))
        )

    return tuple(layer_cache(*pair) for pair in past)


def _past_of(cache, num_heads: int):
    """The inverse of `_cache_of`: a (keys, values) pair of (B, H, S, D) per layer."""

    def pair(layer):
        slots, size = tf.shape(layer.keys)[1], tf.shape(layer.keys)[2]
        values = tf.reshape(layer.values, (-1, num_heads, size, slots))
        return (
            tf.reshape(layer.keys, (-1, num_heads, slots, size)),
            tf.transpose(values, (0, 1, 3, 2)),
        )

    return tuple(pair(layer) for layer in cache)


class BarkCausalModel(TransformerModel):
    """A GPT-2-like language model over token ids.

    Args:
        config: `BarkSubModelConfig`.
        **kwargs: `gradient_checkpointing`, `name` and `dtype`.

    Call arguments:
        input_ids: int (batch, time), values in [0, input_vocab_size).
        past_key_values: From an earlier call: keys and values (batch, heads, past,
            head_size) per layer.
        attention_mask: (batch, past + time), 0 where a position is padding.
        position_ids: int (batch, time), values in [0, block_size).
        head_mask: (heads,) or (layers, heads), multiplies the attention weights.
        labels: int (batch, time); position t is predicted from the positions before
            it, -100 is ignored.
        input_embeds: float (batch, time, hidden_size), instead of `input_ids`; also
            spelled `inputs_embeds`.
        use_cache: Whether to return `past_key_values`; by default as the configuration
            says, except while training.
        output_attentions: Whether to return the attention weights.
        output_hidden_states: Whether to return all hidden states.
        return_dict: Whether to return a `ModelOutput` (the default) or a tuple.
        sample_weight: (batch,) or (batch, time), weights of the labels in the loss.

    Returns:
        `ModelOutput` with `logits` (batch, time, output_vocab_size) and, if requested,
        `loss` (scalar float32), `past_key_values`, `hidden_states` (layers + 1 of
        (batch, time, hidden_size)) and `attentions` (layers of (batch, heads, time,
        past + time)).

    Raises:
        ValueError: If both or neither of ids and embeddings are given, or the sequence
            is longer than `block_size`.

    Example:
        >>> model = BarkSemanticModel(BarkConfig.preset("tiny").semantic_config)
        >>> ids = np.array([[1, 2, 3]])
        >>> model(ids, labels=ids).logits.shape
        TensorShape([1, 3, 10048])

    Source: suno-ai/bark, `bark/model.py::GPT`.
    """

    config_class = BarkSubModelConfig
    is_causal = True
    without_caches: ClassVar = {"use_cache": False}

    def __init__(self, config, **kwargs):
        super().__init__(config, norm_bias=config.bias, **kwargs)
        self.token_embedding = self._embedding(
            config.input_vocab_size, "token_embedding"
        )
        self.lm_head = self._head("lm_head")
        self.built = True

    def get_input_embeddings(self):
        """The token embedding."""
        return self.token_embedding

    def _resize(self, rows, stddev):
        resize_rows(self.token_embedding, "_embeddings", rows, stddev)
        self.token_embedding.input_dim = rows
        self.config = self.config.replace(input_vocab_size=rows)

    def call(
        self,
        input_ids=None,
        past_key_values=None,
        attention_mask=None,
        position_ids=None,
        head_mask=None,
        labels=None,
        input_embeds=None,
        use_cache=None,
        output_attentions=None,
        output_hidden_states=None,
        return_dict=None,
        inputs_embeds=None,
        sample_weight=None,
        training=False,
    ):
        """See the class."""
        embeds = input_embeds if inputs_embeds is None else inputs_embeds
        check_exclusive(input_ids=input_ids, input_embeds=embeds)
        check_shape("input_ids", input_ids, {"batch": None, "time": None})
        x = self.token_embedding(input_ids) if embeds is None else embeds
        x = tf.convert_to_tensor(x)
        cache, past = None, 0
        if past_key_values is not None:
            self._check_past(past_key_values)
            cache = _cache_of(past_key_values, tf.shape(x)[1])
            past = tf.shape(past_key_values[0][0])[2]
        known_past = 0 if cache is None else past_key_values[0][0].shape[2]
        self._check_inputs(x, known_past, attention_mask, position_ids, head_mask)
        out = self.forward(
            x,
            cache,
            past,
            position_ids=position_ids,
            padding=attention_mask,
            head_mask=head_mask,
            training=training,
            use_xla=not self._is_exporting,
        )
        logits = self.lm_head(out.hidden)
        loss = None
        if labels is not None:
            loss = self.loss_from_labels(logits, labels, sample_weight)
        if use_cache is None:
            use_cache = self.config.use_cache and not training
        output = ModelOutput(
            loss=loss,
            logits=logits,
            past_key_values=_past_of(out.cache, self.config.num_heads)
            if use_cache
            else None,
            hidden_states=out.hidden_states if output_hidden_states else None,
            attentions=out.attentions if output_attentions else None,
        )
        return output if return_dict in (None, True) else output.to_tuple()

    def aligned(self, logits, labels, sample_weight=None, inputs=None):
        """Logits beside the next labels; see `TransformerModel`."""
        labels, sample_weight = self._checked_labels(logits, labels, sample_weight)
        if sample_weight is not None and sample_weight.shape.rank == 2:
            sample_weight = sample_weight[:, 1:]
        return logits[:, :-1], labels[:, 1:], sample_weight

    def _check_past(self, past_key_values) -> None:
        config = self.config
        if len(past_key_values) != config.num_layers:
            raise ValueError(
                f"past_key_values must have keys and values of {config.num_layers} "
                f"layers. Received: {len(past_key_values)}"
            )
        axes = {"batch": None, "heads": config.num_heads, "past": None}
        for array in (array for layer in past_key_values for array in layer):
            check_shape("past_key_values", array, {**axes, "size": config.head_size})

    def input_signature(self):
        """See `PretrainedModel`."""
        return [tf.TensorSpec((None, None), tf.int32, name="input_ids")]

    def logits(self, x, start=0, size=None):
        """Logits of a range of ids, for decoding.

        Args:
            x: (B, T, C), `hidden` of `forward`.
            start: First id; int or scalar tensor.
            size: Number of ids; int, or None for all.

        Returns:
            (B, T, size).
        """
        if size is None:
            return self.lm_head(x)
        rows = tf.slice(
            self.lm_head.kernel, [start, 0], [size, self.config.hidden_size]
        )
        return matmul_rows(tf.cast(x, self.compute_dtype), rows)

    def generate(self, input_ids, **kwargs):
        """Continues sequences of ids, as any language model does.

        The semantic and the coarse model have methods of their own.

        Args:
            input_ids: int (batch, time), values in [0, input_vocab_size); all rows of
                one length.
            **kwargs: `max_new_tokens` (20 by default), `eos_token_id` (ends a row; by
                default rows have no end), `pad_token_id` (stands after the end;
                `eos_token_id` by default), `seed`, `jit_compile`, `do_sample`,
                `temperature`, `top_k`, `top_p` and `repetition_penalty`.

        Returns:
            int32 (batch, time + new), the given ids and the new ones.

        Raises:
            ValueError: For an unknown option, or more tokens than positions.
        """
        return generate_tokens(self, input_ids, **kwargs)


@keras.saving.register_keras_serializable("bark_tf")
class BarkSemanticModel(BarkCausalModel):
    """Text ids to semantic tokens; see `BarkCausalModel`."""

    config_class = BarkSemanticConfig
    checkpoint_prefix = "semantic."

    def __init__(self, config, *, name="semantic", **kwargs):
        super().__init__(config, name=name, **kwargs)

    def generate(self, input_ids, *args, **kwargs):
        """Generates semantic tokens.

        Args:
            input_ids: int (batch, time), the tokenizer's ids.
            *args: `semantic_generation_config`, `history_prompt` and
                `attention_mask`, in this order; by keyword too.
            **kwargs: `seed` (an int, one per row, or None for another take each
                time), `compat`, `jit_compile`, and fields of
                `BarkSemanticGenerationConfig` to change.

        Returns:
            int32 (batch, tokens), 49.9 Hz; a row that ended holds `eos_token_id` from
            its end on.

        Raises:
            ValueError: For an unknown option, or a limit that does not fit.
        """
        return generate_semantic_tokens(self, input_ids, *args, **kwargs)


@keras.saving.register_keras_serializable("bark_tf")
class BarkCoarseModel(BarkCausalModel):
    """Semantic tokens to the first codebooks; see `BarkCausalModel`."""

    config_class = BarkCoarseConfig
    checkpoint_prefix = "coarse_acoustics."

    def __init__(self, config, *, name="coarse_acoustics", **kwargs):
        super().__init__(config, name=name, **kwargs)

    def generate(self, semantic_output, *args, **kwargs):
        """Generates coarse tokens, the first codebooks interleaved.

        Args:
            semantic_output: int (batch, time), semantic tokens; rows that ended are
                filled up with `eos_token_id`.
            *args: `semantic_generation_config`, `coarse_generation_config`,
                `codebook_size`, `history_prompt` and `return_output_lengths`, in this
                order; by keyword too.
            **kwargs: `seed`, `compat`, `jit_compile`, and fields of
                `BarkCoarseGenerationConfig` to change.

        Returns:
            int32 (batch, codebooks * frames), ids with offsets; shorter rows are
            filled up with `coarse_semantic_pad_token`. With `return_output_lengths`
            also a list of the rows' lengths.

        Raises:
            ValueError: For an unknown option, or windows that do not fit.
        """
        return generate_coarse_tokens(self, semantic_output, *args, **kwargs)
