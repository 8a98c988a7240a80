"""Text to semantic tokens.

Source: suno-ai/bark, `bark/generation.py::generate_text_semantic`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from bark_tf.config import BarkSemanticGenerationConfig, BarkSubModelConfig
from bark_tf.config.fields import check_field, check_ids
from bark_tf.generation.arrays import TENSORS, Arrays
from bark_tf.generation.cache import bucket, pad_rows
from bark_tf.generation.histories import Histories, Request, RowOptions
from bark_tf.generation.loop import AllowedIds, DecodeState, Rows, programs_of
from bark_tf.generation.sampling import SamplingRules, SamplingValues
from bark_tf.generation.stage import Call, Stage
from bark_tf.memory import collect

# Tokens between two reports of progress.
REPORT_EVERY = 64


def allowed_ids(config: BarkSemanticGenerationConfig) -> AllowedIds:
    """Semantic tokens and the end; nothing between or after them."""
    return AllowedIds(
        first=0,
        stride=0,
        groups=1,
        size=config.eos_token_id + 1,
        forbidden=(config.semantic_vocab_size, config.eos_token_id),
        end=config.eos_token_id,
        pad=config.semantic_pad_token,
    )


def prompt_ids(
    xp: Arrays,
    text_ids: Any,
    attention_mask: Any,
    histories: Histories,
    config: BarkSemanticGenerationConfig,
) -> tuple:
    """The two id sequences whose embeddings are summed position by position.

    Args:
        xp: `NUMPY` or `TENSORS`.
        text_ids: int32 (B, time), the tokenizer's ids.
        attention_mask: (B, time), 0 where `text_ids` is padding; None: no padding.
        histories: `Histories`; the end of each semantic prompt is used.
        config: Generation configuration.

    Returns:
        Text ids and history ids, both int32 (B, max_input_semantic_length).
    """
    length = config.max_input_semantic_length
    text = text_ids + config.text_encoding_offset
    if attention_mask is not None:
        text = xp.where(attention_mask != 0, text, config.text_pad_token)
    text = text[:, :length]
    room = [[0, 0], [0, length - xp.shape(text)[1]]]
    text = xp.pad(text, room, constant_values=config.text_pad_token)
    places = xp.range(length)[None]
    total = histories.num_semantic[:, None]
    shown = xp.minimum(total, length)
    tail = xp.take(histories.semantic, total - shown + places)
    return text, xp.where(places < shown, tail, config.semantic_pad_token)


def check_vocabulary(
    text_ids: np.ndarray,
    model: BarkSubModelConfig,
    config: BarkSemanticGenerationConfig,
) -> None:
    """Raises ValueError for text ids (n,) that have no embedding.

    A GPU would read zeros for them.
    """
    most = model.input_vocab_size - config.text_encoding_offset
    if text_ids.size and not 0 <= text_ids.min() <= text_ids.max() < most:
        raise ValueError(
            f"input_ids must lie in [0, {most}), the text vocabulary of this model. "
            f"Received: values in [{text_ids.min()}, {text_ids.max()}]"
        )


def prompt_embeddings(model: Any, text, history, infer_token: int, tokens=None):
    """The prompt as the network sees it: summed embeddings and the infer token.

    Args:
        model: Semantic model.
        text: int (B, P), text ids.
        history: int (B, P), history ids.
        infer_token: Ends the prompt.
        tokens: int (B, n), ids that follow the prompt; None: none.

    Returns:
        (B, P + 1 + n, C).
    """
    length = tf.shape(text)[1]
    infer = tf.fill((tf.shape(text)[0], 1), infer_token)
    # Read at once: in training the table of 100 million numbers has one gradient.
    ids = tf.concat([text, history, infer, *([] if tokens is None else [tokens])], 1)
    x = model.token_embedding(ids)
    summed = x[:, :length] + x[:, length : 2 * length]
    return tf.concat([summed, x[:, 2 * length :]], axis=1)


def check_semantic_limit(
    model: BarkSubModelConfig, config: BarkSemanticGenerationConfig
) -> None:
    """Raises ValueError if ids or positions are beyond the network's tables."""
    ids = "eos_token_id", "text_pad_token", "semantic_infer_token"
    check_ids(config, "input_vocab_size", model.input_vocab_size, *ids)
    check_ids(config, "output_vocab_size", model.output_vocab_size, "eos_token_id")
    is_end = config.eos_token_id >= config.semantic_vocab_size
    expected = f"at least semantic_vocab_size={config.semantic_vocab_size}"
    check_field(config, "eos_token_id", is_end, expected)
    offset = "text_encoding_offset"
    check_ids(config, "input_vocab_size", model.input_vocab_size, offset)
    check_ids(config, "block_size", model.block_size, "max_input_semantic_length")
    # The last token is never fed, so it needs no position.
    most = model.block_size - config.max_input_semantic_length
    if config.max_new_tokens > most:
        raise ValueError(
            f"max_new_tokens must be at most {most}: the prompt has "
            f"{config.max_input_semantic_length + 1} of {model.block_size} positions. "
            f"Received: max_new_tokens={config.max_new_tokens}"
        )


class SemanticStage(Stage):
    """Text to semantic tokens, for one batch.

    With `compat="hf"` token 1 counts as seen before the start, as it does in
    transformers by accident (it matters to `repetition_penalty` only).

    Args:
        call: `Call`.
        request: `Request`.
        options: `RowOptions`; None: those of the configuration.

    Raises:
        ValueError: If an id or `max_new_tokens` is beyond the network's tables.
    """

    name = "semantic"

    def __init__(self, call: Call, request: Request, options: RowOptions | None = None):
        model, config = call.networks.semantic, call.configs.semantic
        check_semantic_limit(model.config, config)
        self.call, self.request = call, request
        self.model, self.config = model, config
        self.batch = tf.shape(request.text_ids)[0]
        self.size = bucket(self.batch)
        self.limit = config.max_new_tokens
        limits = tf.fill((self.batch,), self.limit)
        self.values = SamplingValues.of(config)
        if options is not None:
            limits = options.max_new_tokens
            self.limit = tf.reduce_max(limits)
            self.values = self.values.with_rows(
                pad_rows(options.semantic_temperature, self.size, 1.0),
                pad_rows(options.min_new_tokens, self.size),
            )
        self.rows = Rows(
            start=tf.zeros((self.size,), tf.int32),
            keys=pad_rows(request.keys.semantic, self.size),
            limit=pad_rows(limits, self.size),
        )
        self.programs = programs_of(
            model,
            allowed_ids(config),
            SamplingRules.of(config, by_row=options is not None),
            model.config.block_size,
            call.jit_compile,
        )

    def start(self) -> DecodeState:
        """Reads the prompt and chooses the first token."""
        text, history = prompt_ids(TENSORS, *self.request[:3], self.config)
        embeds = prompt_embeddings(
            self.model,
            pad_rows(text, self.size),
            pad_rows(history, self.size),
            self.config.semantic_infer_token,
        )
        state = self.programs.prefill(
            embeds, tf.constant(0), self.rows, self.values, self._seen()
        )
        collect(self.model)
        return state.checked(self.name)

    def _seen(self) -> tf.Tensor:
        ids = tf.range(self.programs.num_seen)
        seen = (ids == 1) & (self.call.compat == "hf")
        return tf.broadcast_to(seen, [self.size, self.programs.num_seen])

    def is_unfinished(self, state: DecodeState) -> tf.Tensor:
        """Bool (): whether a row goes on."""
        return (state.step < self.limit) & ~tf.reduce_all(state.done)

    def step(self, state: DecodeState) -> DecodeState:
        """Chooses the next tokens."""
        count = self.limit if self.call.report is None else REPORT_EVERY
        until = tf.minimum(self.limit, state.step + count)
        state = self.programs.decode(state, until, self.rows, self.values)
        return state.checked(self.name)

    def progress(self, state: DecodeState) -> tuple:
        """Tokens so far and the limit; equal at the end."""
        is_over = not bool(self.is_unfinished(state))
        return state.step, state.step if is_over else self.limit

    def shapes(self, state: DecodeState) -> DecodeState:
        """The state's own."""
        return state.shapes()

    def tokens(self, state: DecodeState) -> tuple:
        """The tokens of all rows so far.

        Returns:
            int32 (B, tokens), 49.9 Hz, up to the end of the longest row, padded with
            `eos_token_id`; and int32 (B,), tokens per row without the end.
        """
        tokens = state.tokens[: self.batch, : state.count]
        lengths = lengths_of(tokens, self.config.eos_token_id)
        # With its end, where there is one.
        longest = tf.minimum(tf.reduce_max(lengths) + 1, self.limit)
        return tokens[:, :longest], lengths


def lengths_of(tokens: Any, end: int) -> tf.Tensor:
    """Tokens per row before its end: int32 (B,) for int32 (B, time)."""
    places = tf.range(tf.shape(tokens)[1])[None]
    ends = tf.where(tokens == end, places, tf.shape(tokens)[1])
    ends = tf.pad(ends, [[0, 0], [0, 1]], constant_values=tf.int32.max)
    return tf.minimum(tf.reduce_min(ends, 1), tf.shape(tokens)[1])
