"""The keywords of generation, for type checkers and editors.

At run time they are plain keywords, which `options.stage_configs` checks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

from bark_tf.config import BarkGenerationConfig
from bark_tf.progress import Progress


class GenerationOptions(TypedDict, total=False):
    """Fields of the stages' configurations, with a prefix for one stage alone.

    See `BarkSemanticGenerationConfig`, `BarkCoarseGenerationConfig` and
    `BarkFineGenerationConfig`; `use_cache` and `pad_token_id` have no effect.
    """

    do_sample: bool
    semantic_do_sample: bool
    coarse_do_sample: bool
    fine_do_sample: bool | None
    temperature: float | None
    semantic_temperature: float | None
    coarse_temperature: float | None
    fine_temperature: float | None
    top_k: int | None
    semantic_top_k: int | None
    coarse_top_k: int | None
    top_p: float | None
    semantic_top_p: float | None
    coarse_top_p: float | None
    repetition_penalty: float | None
    semantic_repetition_penalty: float | None
    coarse_repetition_penalty: float | None
    renormalize_logits: bool
    max_new_tokens: int
    semantic_max_new_tokens: int
    min_new_tokens: int | None
    semantic_min_new_tokens: int | None
    min_eos_p: float | None
    semantic_min_eos_p: float | None
    num_return_sequences: int
    eos_token_id: int
    text_encoding_offset: int
    text_pad_token: int
    semantic_infer_token: int
    semantic_vocab_size: int
    max_input_semantic_length: int
    semantic_rate_hz: float
    coarse_semantic_pad_token: int
    coarse_rate_hz: float
    n_coarse_codebooks: int
    coarse_infer_token: int
    max_coarse_input_length: int
    max_coarse_history: int
    sliding_window_len: int
    max_fine_history_length: int
    max_fine_input_length: int
    n_fine_codebooks: int
    use_cache: bool | None
    pad_token_id: int | None


class GenerateKeywords(GenerationOptions, total=False):
    """Keywords of `BarkModel.generate` that do not decide what it returns."""

    attention_mask: Any
    seed: int | Sequence[int] | None
    generation_config: BarkGenerationConfig | Mapping[str, Any] | None
    compat: str | None
    jit_compile: bool
    progress: Progress | None


class LongFormKeywords(GenerationOptions, total=False):
    """Keywords of `generate_long` and `stream_long`."""

    voice: Any
    voice_preset: Any
    history_prompt: Any
    voices: Mapping[str, Any] | None
    seed: int | None
    max_attempts: int
    gap_s: float
    paragraph_gap_s: float
    continue_from: str | None
    progress: Progress | None
    on_chunk: Callable[[Any], None] | None
    speak: Callable[..., Any] | None
    compat: str | None
    jit_compile: bool
    generation_config: BarkGenerationConfig | Mapping[str, Any] | None


class SpeakKeywords(GenerationOptions, total=False):
    """Keywords of `bark_tf.speak` and `BarkModel.speak`."""

    seed: int | Sequence[int] | None
    processor: Any
    progress: Progress | bool | None
    marks: bool
    aliases: Mapping[str, Any] | None
    loudness: float | None
    max_attempts: int
    gap_s: float
    paragraph_gap_s: float
    continue_from: str | None
    on_chunk: Callable[[Any], None] | None
    compat: str | None
    jit_compile: bool
    generation_config: BarkGenerationConfig | Mapping[str, Any] | None
