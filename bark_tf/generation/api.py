"""The `generate` methods of the sub-models, with arguments as in transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from bark_tf.config import (
    BarkCoarseGenerationConfig,
    BarkFineGenerationConfig,
    BarkSemanticGenerationConfig,
)
from bark_tf.generation.coarse import CoarseStage, CoarseWindow
from bark_tf.generation.fine import FineStage
from bark_tf.generation.semantic import generate_semantic, lengths_with_end
from bark_tf.tokens import CODEBOOK_SIZE, deinterleave


def voices_per_row(history_prompt: Any, batch: int) -> list[Mapping[str, Any] | None]:
    """One voice per row: a single one is for all of them.

    Raises:
        ValueError: If a list has another length than the batch.
    """
    if history_prompt is None or isinstance(history_prompt, Mapping):
        return [history_prompt] * batch
    if len(history_prompt) != batch:
        raise ValueError(
            f"history_prompt must hold one voice per row, {batch} of them. "
            f"Received: {len(history_prompt)}"
        )
    return list(history_prompt)


def semantic_rows(tokens: Any, end: int) -> list[np.ndarray]:
    """Every row up to its end, which is left out."""
    tokens = np.asarray(tokens, np.int32)
    if tokens.ndim != 2:
        raise ValueError(
            f"Semantic tokens must be (batch, time). Received: shape {tokens.shape}"
        )
    rows = zip(tokens, lengths_with_end(tokens, end), strict=True)
    return [row[:length][row[:length] != end] for row, length in rows]


def stack(rows: Sequence[np.ndarray], fill: int = 0) -> np.ndarray:
    """Rows (..., time) of different lengths as one array, filled up at the end."""
    longest = max((row.shape[-1] for row in rows), default=0)
    return np.stack(
        [
            np.pad(
                row,
                [(0, 0)] * (row.ndim - 1) + [(0, longest - row.shape[-1])],
                constant_values=fill,
            )
            for row in rows
        ]
    )


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
    config = semantic_generation_config or BarkSemanticGenerationConfig()
    config = config.replace(**options)
    input_ids = np.repeat(np.asarray(input_ids), config.num_return_sequences, axis=0)
    if attention_mask is not None:
        repeats = config.num_return_sequences
        attention_mask = np.repeat(np.asarray(attention_mask), repeats, axis=0)
    voices = voices_per_row(history_prompt, len(input_ids))
    tokens = generate_semantic(
        model,
        jit_compile,
        input_ids,
        config,
        attention_mask=attention_mask,
        histories=[None if v is None else v["semantic_prompt"] for v in voices],
        seeds=seed,
        compat=compat,
    )
    return tf.constant(tokens)


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
    semantic_config = semantic_generation_config or BarkSemanticGenerationConfig()
    config = (coarse_generation_config or BarkCoarseGenerationConfig()).replace(
        **options
    )
    rows = semantic_rows(semantic_output, semantic_config.semantic_pad_token)
    sizes = CoarseWindow(semantic_config, config, codebook_size)
    stage = CoarseStage(
        model,
        jit_compile,
        rows,
        sizes,
        voices=voices_per_row(history_prompt, len(rows)),
        seeds=seed,
        compat=compat,
    )
    for _ in stage.windows():
        pass
    tokens = tf.constant(stage.coarse)
    if not return_output_lengths:
        return tokens
    lengths = [sizes.num_frames(len(row)) * config.n_coarse_codebooks for row in rows]
    return tokens, lengths


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
    jit_compile: bool = False,
    **options: Any,
) -> tf.Tensor:
    """See `BarkFineModel.generate`."""
    semantic_config = semantic_generation_config or BarkSemanticGenerationConfig()
    coarse_config = coarse_generation_config or BarkCoarseGenerationConfig()
    config = (fine_generation_config or BarkFineGenerationConfig()).replace(**options)
    tokens = np.asarray(coarse_output, np.int32)
    lengths = (
        [tokens.shape[1]] * len(tokens) if output_lengths is None else output_lengths
    )
    coarse = [
        deinterleave(
            row[:length],
            coarse_config.n_coarse_codebooks,
            codebook_size,
            semantic_config.semantic_vocab_size,
        )
        for row, length in zip(tokens, lengths, strict=True)
    ]
    stage = FineStage(
        model,
        jit_compile,
        coarse,
        config,
        codebook_size,
        voices=voices_per_row(history_prompt, len(coarse)),
        seeds=seed,
    )
    for _ in stage.passes():
        pass
    return tf.constant(stack([stage.codes(row) for row in range(len(coarse))]))
