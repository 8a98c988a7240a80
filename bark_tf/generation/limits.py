"""Calls that fit neither the networks nor the memory are refused before any work.

Of memory, only what is certain to be there at one time counts, so that no call that
works is refused: the caches of a decode loop, the largest tensor of a pass, the audio.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from bark_tf.config import (
    BarkConfig,
    BarkFineConfig,
    BarkGenerationConfig,
    BarkSubModelConfig,
)
from bark_tf.files import blame
from bark_tf.generation.fine import check_window
from bark_tf.generation.options import StageConfigs, stage_configs
from bark_tf.generation.semantic import check_semantic_limit
from bark_tf.memory import check_memory


def check_fit(config: BarkConfig, configs: StageConfigs) -> None:
    """Raises ValueError if generation asks for what the networks do not have."""
    check_semantic_limit(config.semantic_config, configs.semantic)
    configs.coarse_window.check(config.coarse_acoustics_config)
    check_window(config.fine_acoustics_config, configs)
    codec = config.codec_config
    for name, value, most in (
        ("codebook_size", configs.codebook_size, codec.codebook_size),
        ("n_fine_codebooks", configs.fine.n_fine_codebooks, codec.num_quantizers),
    ):
        if value > most:
            raise ValueError(
                f"{name} must be at most {most}, as in the codec. "
                f"Received: {name}={value}"
            )


def fitting_config(path: Path, config: BarkConfig) -> BarkGenerationConfig:
    """Reads a `generation_config.json`; raises ValueError unless it fits `config`."""
    generation = BarkGenerationConfig.from_json_file(path)
    # A model without one is saved with the defaults, whatever its sizes.
    if generation != BarkGenerationConfig(sample_rate=generation.sample_rate):
        with blame(path):
            check_fit(config, stage_configs(generation, {}))
    return generation


def check_rows(rows: int, row_bytes: int) -> None:
    """Raises ValueError if a batch, with its `num_return_sequences`, cannot fit."""
    check_memory(rows, row_bytes, "rows (texts times num_return_sequences)")


def cache_bytes(model: Any) -> int:
    """Bytes of a row's keys and values in the decode loop of a causal model."""
    config: BarkSubModelConfig = model.config
    positions = config.num_layers * config.block_size
    return 2 * positions * config.hidden_size * _size(model)


def window_bytes(model: Any, window: int) -> int:
    """Bytes of a row's attention scores in one pass of the fine model."""
    config: BarkFineConfig = model.config
    return config.num_heads * window**2 * _size(model)


def speech_bytes(parts: Mapping[str, Any], configs: StageConfigs) -> int:
    """Bytes of a row on its way through a whole Bark.

    Raises:
        ValueError: If the longest audio that the configurations allow cannot fit.
    """
    frames = configs.coarse_window.num_frames(configs.semantic.max_new_tokens)
    codec = parts["codec_model"]
    codec.check_frames(frames)
    return max(
        cache_bytes(parts["semantic"]),
        cache_bytes(parts["coarse_acoustics"]),
        window_bytes(parts["fine_acoustics"], configs.fine.max_fine_input_length),
        frames * codec.config.hop_length * tf.float32.size,
    )


def _size(model: Any) -> int:
    """Bytes of one number of a model's activations."""
    return tf.as_dtype(getattr(model, "compute_dtype", "float32")).size
