"""Text to semantic tokens.

Source: suno-ai/bark, `bark/generation.py::generate_text_semantic`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from bark_tf.config import BarkSemanticGenerationConfig, BarkSubModelConfig
from bark_tf.generation.cache import bucket
from bark_tf.generation.loop import Alphabet, Rows, programs_of
from bark_tf.generation.random import row_keys
from bark_tf.generation.sampling import SamplingRules, SamplingValues
from bark_tf.memory import collect

STAGE = "semantic"
# Tokens between two reports of progress.
REPORT_EVERY = 64


def alphabet(config: BarkSemanticGenerationConfig) -> Alphabet:
    """Semantic tokens and the end; nothing between or after them."""
    return Alphabet(
        first=0,
        stride=0,
        groups=1,
        size=config.eos_token_id + 1,
        forbidden=(config.semantic_vocab_size, config.eos_token_id),
        end=config.eos_token_id,
        pad=config.semantic_pad_token,
    )


def prompt_ids(
    input_ids: np.ndarray,
    attention_mask: np.ndarray | None,
    histories: Sequence[np.ndarray | None],
    config: BarkSemanticGenerationConfig,
) -> tuple[np.ndarray, np.ndarray]:
    """The two id sequences whose embeddings are summed, position by position.

    Args:
        input_ids: int (batch, time), the tokenizer's ids.
        attention_mask: (batch, time), 0 where `input_ids` is padding; None: nowhere.
        histories: Per row the semantic prompt of its voice, int (n,), or None.
        config: Generation configuration.

    Returns:
        Text ids and history ids, both int32 (batch, max_input_semantic_length).
    """
    length = config.max_input_semantic_length
    text = np.full((len(input_ids), length), config.text_pad_token, np.int32)
    shifted = np.asarray(input_ids, np.int64) + config.text_encoding_offset
    if attention_mask is not None:
        if np.shape(attention_mask) != shifted.shape:
            raise ValueError(
                f"attention_mask must have the shape of input_ids, {shifted.shape}. "
                f"Received: {np.shape(attention_mask)}"
            )
        padding = np.asarray(attention_mask) == 0
        shifted = np.where(padding, config.text_pad_token, shifted)
    text[:, : shifted.shape[1]] = shifted[:, :length]
    history = np.full_like(text, config.semantic_pad_token)
    for row, prompt in enumerate(histories):
        if prompt is not None:
            tail = np.asarray(prompt)[-length:]
            history[row, : len(tail)] = tail
    return text, history


def _check_vocabulary(
    text: np.ndarray, size: int, config: BarkSemanticGenerationConfig
) -> None:
    """Refuses text ids that have no embedding; a GPU would read zeros for them."""
    read = text[text != config.text_pad_token] - config.text_encoding_offset
    most = size - config.text_encoding_offset
    if read.size and not 0 <= read.min() <= read.max() < most:
        raise ValueError(
            f"input_ids must lie in [0, {most}), the text vocabulary of this model. "
            f"Received: values in [{read.min()}, {read.max()}]"
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
    """Raises ValueError if prompt and new tokens do not fit the position table."""
    # The last token is never fed, so it needs no position.
    most = model.block_size - config.max_input_semantic_length
    if config.max_new_tokens > most:
        raise ValueError(
            f"max_new_tokens must be at most {most}: the prompt has "
            f"{config.max_input_semantic_length + 1} of {model.block_size} positions. "
            f"Received: max_new_tokens={config.max_new_tokens}"
        )


def generate_semantic(
    model: Any,
    jit_compile: bool,
    input_ids: np.ndarray,
    config: BarkSemanticGenerationConfig,
    *,
    attention_mask: np.ndarray | None = None,
    histories: Sequence[Mapping[str, Any] | None] | None = None,
    seeds: Any = None,
    compat: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Generates semantic tokens for a batch of texts.

    Args:
        model: Semantic model.
        jit_compile: Whether the programs are compiled with XLA.
        input_ids: int (batch, time), the tokenizer's ids.
        config: Generation configuration.
        attention_mask: (batch, time), 0 where `input_ids` is padding.
        histories: Per row the semantic prompt of its voice, int (n,), or None.
        seeds: As `sampling.row_keys` takes them.
        compat: `"hf"` counts token 1 as seen before the start, as transformers does
            by accident (it matters to `repetition_penalty` only).
        progress: Called with (tokens so far, limit).

    Returns:
        int32 (batch, tokens), 49.9 Hz; rows end with `eos_token_id` and are filled up
        with it. As long as the longest row, its end included.

    Raises:
        ValueError: If `max_new_tokens` does not fit into the position table.
    """
    batch, limit = len(input_ids), config.max_new_tokens
    check_semantic_limit(model.config, config)
    if limit == 0:
        return np.zeros((batch, 0), np.int32)
    histories = [None] * batch if histories is None else histories
    text, history = prompt_ids(input_ids, attention_mask, histories, config)
    _check_vocabulary(text, model.config.input_vocab_size, config)
    size = bucket(batch)
    rules, values = SamplingRules.of(config), SamplingValues.of(config)
    compiled = programs_of(model, jit_compile)(
        alphabet(config), rules, model.config.block_size
    )
    rows = Rows(
        start=tf.zeros((size,), tf.int32),
        keys=pad_rows(row_keys(seeds, batch, STAGE), size),
        limit=pad_rows(np.full((batch,), limit, np.int32), size),
    )
    seen = np.zeros(
        (size, compiled.alphabet.size if rules.repetition_penalty else 0), bool
    )
    if compat == "hf":
        seen[:, 1:2] = True
    embeds = prompt_embeddings(
        model,
        pad_rows(text, size),
        pad_rows(history, size),
        config.semantic_infer_token,
    )
    state = compiled.prefill(embeds, tf.constant(0), rows, values, tf.constant(seen))
    collect(model)
    step = 1
    while step < limit and not np.all(state.done):
        if progress is not None:
            progress(step, limit)
        step = min(limit, step + REPORT_EVERY) if progress is not None else limit
        state = compiled.decode(state, tf.constant(step), rows, values)
    tokens = state.tokens.numpy()[:batch, : int(state.count)]
    if progress is not None:
        progress(tokens.shape[1], tokens.shape[1])
    return trim(tokens, config.eos_token_id)


def trim(tokens: np.ndarray, end: int) -> np.ndarray:
    """Cuts the columns after the end of the longest row."""
    return tokens[:, : int(max(lengths_with_end(tokens, end), default=0))]


def lengths_with_end(tokens: np.ndarray, end: int) -> np.ndarray:
    """Tokens per row, the end included where there is one: int (batch,)."""
    ended = tokens == end
    first = (
        np.argmax(ended, axis=1) + 1 if tokens.shape[1] else np.zeros(len(tokens), int)
    )
    return np.where(ended.any(axis=1), first, tokens.shape[1])


def pad_rows(array: np.ndarray, size: int) -> tf.Tensor:
    """Adds rows of zeros up to the bucket's size."""
    array = np.asarray(array)
    room = [(0, size - len(array))] + [(0, 0)] * (array.ndim - 1)
    return tf.constant(np.pad(array, room))
