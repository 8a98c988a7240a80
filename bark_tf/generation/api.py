"""Checked inputs, and `generate` of the sub-models with transformers' arguments."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import tensorflow as tf

from bark_tf.backend import check_process
from bark_tf.config import (
    BarkCoarseGenerationConfig,
    BarkFineGenerationConfig,
    BarkSemanticGenerationConfig,
    BarkSubModelConfig,
)
from bark_tf.config.generation import SamplingConfig
from bark_tf.generation.cache import bucket, pad_rows
from bark_tf.generation.coarse import CoarseStage
from bark_tf.generation.fine import FineStage
from bark_tf.generation.histories import (
    Histories,
    Request,
    histories_of,
    loaded_voices,
    stack,
    voices_per_row,
)
from bark_tf.generation.limits import cache_bytes, check_rows, window_bytes
from bark_tf.generation.loop import AllowedIds, Rows, programs_of
from bark_tf.generation.options import StageConfigs, effective, stage_config
from bark_tf.generation.pipeline import semantic_tokens
from bark_tf.generation.random import Keys, keys_of
from bark_tf.generation.sampling import SamplingRules, SamplingValues
from bark_tf.generation.semantic import check_vocabulary, lengths_of
from bark_tf.generation.stage import Call
from bark_tf.tokens import CODEBOOK_SIZE, deinterleave

# BERT's padding.
_PADDING_ID = 0


def check_eager() -> None:
    """Raises ValueError in a traced function or a forked process: neither can wait."""
    check_process()
    if not tf.executing_eagerly():
        raise ValueError(
            "generate needs eager execution, and compiles its loops itself: call it "
            "outside of tf.function and Dataset.map"
        )


def checked_ids(name: str, values: Any) -> np.ndarray:
    """Ids as an integer array of two axes.

    Args:
        name: The argument, for the error message.
        values: Integers (batch, time).

    Raises:
        ValueError: If they are anything else; rows of several lengths are no array.
    """
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(
            f"{name} must have rows of equal length: pad the shorter ones, as "
            f"BarkProcessor does with texts. Received: {error}"
        ) from error
    is_whole = np.issubdtype(array.dtype, np.integer)
    if array.ndim != 2 or not is_whole or not len(array):
        raise ValueError(
            f"{name} must be integers of shape (batch, time), rows of equal length. "
            f"Received: {array.dtype} of shape {array.shape}"
        )
    return array


def checked_request(
    model: BarkSubModelConfig,
    configs: StageConfigs,
    input_ids: Any,
    attention_mask: Any,
    voices: Any,
    seed: Any,
    row_bytes: int,
) -> Request:
    """Checks the inputs of a call.

    Args:
        model: Configuration of the semantic network.
        configs: `StageConfigs`; every row is repeated `num_return_sequences` times.
        input_ids: int (B, time), the tokenizer's ids.
        attention_mask: (B, time), 0 where `input_ids` is padding; None: no padding.
        voices: See `voices_per_row`.
        seed: See `keys_of`.
        row_bytes: What a row needs at least, of `generation.limits`.

    Returns:
        `Request`.

    Raises:
        ValueError: If shapes, dtypes, ids, the number of voices or seeds are wrong, or
            the rows cannot fit into memory.
    """
    if input_ids is None:
        raise ValueError(
            "generate needs input_ids, which BarkProcessor makes from a text"
        )
    input_ids = checked_ids("input_ids", input_ids)
    mask = _checked_mask(attention_mask, input_ids)
    voices = voices_per_row(voices, len(input_ids))
    length = configs.semantic.max_input_semantic_length
    is_text = np.ones_like(input_ids, bool) if mask is None else mask != 0
    read = input_ids[:, :length][is_text[:, :length]]
    check_vocabulary(read, model, configs.semantic)
    takes = configs.semantic.num_return_sequences
    check_rows(takes * len(input_ids), row_bytes)
    return Request(
        text_ids=tf.repeat(tf.constant(input_ids, tf.int32), takes, axis=0),
        attention_mask=None if mask is None else tf.repeat(mask, takes, axis=0),
        histories=_histories([one for one in voices for _ in range(takes)], configs),
        keys=Keys(*map(tf.constant, keys_of(seed, takes * len(input_ids)))),
    )


def _checked_mask(mask: Any, input_ids: np.ndarray) -> np.ndarray | None:
    """The mask as an array; warns where there should be one."""
    if mask is None:
        is_text = input_ids != _PADDING_ID
        if (is_text.any(1) & ~is_text[:, -1]).any():
            warnings.warn(
                f"input_ids end in padding ({_PADDING_ID}), which is read as text "
                "without an attention_mask. Pass the one of BarkProcessor: "
                "generate(**processor(text))",
                UserWarning,
                stacklevel=5,
            )
        return None
    try:
        mask = np.asarray(mask)
    except ValueError as error:
        raise ValueError(
            f"attention_mask must be an array. Received: {error}"
        ) from error
    if mask.shape != input_ids.shape:
        raise ValueError(
            f"attention_mask must have the shape of input_ids, {input_ids.shape}. "
            f"Received: {mask.shape}"
        )
    return mask


def _histories(voices: Sequence[Any], configs: StageConfigs) -> Histories:
    histories = histories_of(
        loaded_voices(voices),
        configs.coarse.n_coarse_codebooks,
        configs.fine.n_fine_codebooks,
    )
    return Histories(*map(tf.constant, histories))


def generate_tokens(
    model: Any,
    input_ids: Any,
    *,
    max_new_tokens: int = 20,
    eos_token_id: int | None = None,
    pad_token_id: int | None = None,
    seed: Any = None,
    jit_compile: bool = True,
    **options: Any,
) -> tf.Tensor:
    """See `BarkCausalModel.generate`."""
    check_eager()
    config = SamplingConfig().replace(**effective(options))
    input_ids = checked_ids("input_ids", input_ids)
    batch, length = input_ids.shape
    check_rows(batch, cache_bytes(model))
    sizes = model.config
    if not 0 <= input_ids.min() <= input_ids.max() < sizes.input_vocab_size:
        raise ValueError(
            f"input_ids must lie in [0, {sizes.input_vocab_size}). Received: values in "
            f"[{input_ids.min()}, {input_ids.max()}]"
        )
    most = sizes.block_size + 1 - length  # the last token needs no position
    if max_new_tokens not in range(1, most + 1):
        raise ValueError(
            f"max_new_tokens must lie in [1, {most}] after {length} of "
            f"{sizes.block_size} positions. Received: max_new_tokens={max_new_tokens!r}"
        )
    allowed = AllowedIds(
        first=0,
        stride=0,
        groups=1,
        size=min(sizes.input_vocab_size, sizes.output_vocab_size),
        end=eos_token_id,
        pad=next(id for id in (pad_token_id, eos_token_id, 0) if id is not None),
    )
    rules = SamplingRules.of(config, allowed.size)
    programs = programs_of(model, allowed, rules, sizes.block_size, jit_compile)
    size, values = bucket(batch), SamplingValues.of(config)
    ids = pad_rows(tf.constant(input_ids, tf.int32), size)
    rows = Rows(
        start=tf.zeros((size,), tf.int32),
        keys=pad_rows(keys_of(seed, batch).semantic, size),
        limit=pad_rows(tf.fill((batch,), max_new_tokens), size),
    )
    seen = tf.one_hot(ids, programs.num_seen, True, False, dtype=tf.bool)
    state = programs.prefill(
        model.token_embedding(ids),
        tf.constant(0),
        rows,
        values,
        tf.reduce_any(seen, axis=1),
    )
    state = programs.decode(state, tf.constant(max_new_tokens), rows, values)
    state = state.checked(model.name)
    return tf.concat([ids, state.tokens[:, : state.count]], axis=1)[:batch]


def generate_semantic_tokens(
    model: Any,
    input_ids: Any,
    semantic_generation_config: BarkSemanticGenerationConfig | None = None,
    history_prompt: Any = None,
    attention_mask: Any = None,
    *,
    seed: Any = None,
    compat: str | None = None,
    jit_compile: bool = True,
    **options: Any,
) -> tf.Tensor:
    """See `BarkSemanticModel.generate`."""
    check_eager()
    config = stage_config(BarkSemanticGenerationConfig, semantic_generation_config)
    configs = StageConfigs(semantic=config.replace(**effective(options)))
    inputs = input_ids, attention_mask, history_prompt, seed
    request = checked_request(model.config, configs, *inputs, cache_bytes(model))
    call = Call(SimpleNamespace(semantic=model), configs, compat, jit_compile)
    return semantic_tokens(call, request)[0]


def generate_coarse_tokens(
    model: Any,
    semantic_output: Any,
    semantic_generation_config: BarkSemanticGenerationConfig | None = None,
    coarse_generation_config: BarkCoarseGenerationConfig | None = None,
    codebook_size: int = CODEBOOK_SIZE,
    history_prompt: Any = None,
    return_output_lengths: bool | None = None,
    *,
    seed: Any = None,
    compat: str | None = None,
    jit_compile: bool = True,
    **options: Any,
):
    """See `BarkCoarseModel.generate`."""
    check_eager()
    config = stage_config(BarkCoarseGenerationConfig, coarse_generation_config)
    configs = StageConfigs(
        semantic=stage_config(BarkSemanticGenerationConfig, semantic_generation_config),
        coarse=config.replace(**effective(options)),
        codebook_size=codebook_size,
    )
    semantic = checked_ids("semantic_output", semantic_output).astype(np.int32)
    check_rows(len(semantic), cache_bytes(model))
    voices = voices_per_row(history_prompt, len(semantic))
    stage = CoarseStage(
        Call(SimpleNamespace(coarse_acoustics=model), configs, compat, jit_compile),
        tf.constant(semantic),
        lengths_of(semantic, configs.semantic.semantic_pad_token),
        _histories(voices, configs),
        tf.constant(keys_of(seed, len(semantic)).coarse),
    )
    tokens = stage.tokens(stage.run())
    if not return_output_lengths:
        return tokens
    lengths = stage.frames * configs.coarse.n_coarse_codebooks
    return tokens, lengths.numpy().tolist()


def generate_fine_codes(
    model: Any,
    coarse_output: Any,
    semantic_generation_config: BarkSemanticGenerationConfig | None = None,
    coarse_generation_config: BarkCoarseGenerationConfig | None = None,
    fine_generation_config: BarkFineGenerationConfig | None = None,
    codebook_size: int = CODEBOOK_SIZE,
    history_prompt: Any = None,
    *,
    output_lengths: Sequence[int] | None = None,
    seed: Any = None,
    jit_compile: bool | None = None,
    **options: Any,
) -> tf.Tensor:
    """See `BarkFineModel.generate`."""
    check_eager()
    config = stage_config(BarkFineGenerationConfig, fine_generation_config)
    configs = StageConfigs(
        semantic=stage_config(BarkSemanticGenerationConfig, semantic_generation_config),
        coarse=stage_config(BarkCoarseGenerationConfig, coarse_generation_config),
        fine=config.replace(**effective(options)),
        codebook_size=codebook_size,
    )
    tokens = checked_ids("coarse_output", coarse_output).astype(np.int32)
    check_rows(len(tokens), window_bytes(model, configs.fine.max_fine_input_length))
    lengths = (
        [tokens.shape[1]] * len(tokens) if output_lengths is None else output_lengths
    )
    rows = [
        deinterleave(
            row[:length],
            configs.coarse.n_coarse_codebooks,
            codebook_size,
            configs.semantic.semantic_vocab_size,
        )
        for row, length in zip(tokens, lengths, strict=True)
    ]
    voices = voices_per_row(history_prompt, len(rows))
    networks = SimpleNamespace(fine_acoustics=model)
    stage = FineStage(
        Call(networks, configs, None, jit_compile is not False, bool(jit_compile)),
        tf.constant(stack(rows)),
        tf.constant([row.shape[1] for row in rows]),
        _histories(voices, configs),
        tf.constant(keys_of(seed, len(rows)).fine),
    )
    return stage.codes(stage.run())
