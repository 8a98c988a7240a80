"""Writes a Bark as a SavedModel for TensorFlow Serving.

The files need nothing but TensorFlow: no Python, no operations of other libraries and,
unless it is asked for, no XLA.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from bark_tf.files import local_path
from bark_tf.generation.options import StageConfigs
from bark_tf.generation.stage import Call
from bark_tf.saving import saving
from bark_tf.serving.saved_model.checks import Limits
from bark_tf.serving.saved_model.signatures import Signatures
from bark_tf.serving.saved_model.text_graph import TextGraph
from bark_tf.serving.saved_model.voice_table import VoiceTable
from bark_tf.serving.saved_model.warm_up import write_warm_up

# Batch sizes for which compiled loops are warmed up; others are padded to one of them.
XLA_BATCHES = (1, 2, 4, 8)


def export(
    model: Any,
    processor: Any,
    configs: StageConfigs,
    directory: str | os.PathLike,
    *,
    version: int | None = None,
    jit_compile: bool = False,
    compat: str | None = None,
) -> Path:
    """See `BarkModel.export`."""
    directory = local_path(directory)
    # A server ignores directories whose names are not numbers.
    with saving(directory, wait_s=0) as change:
        version = _new_version(directory, version)
        _check_window(configs)
        limits = Limits.of(model, configs)
        voices = {
            name: processor.load_voice(name)
            for name in processor.available_voice_presets
        }
        text = TextGraph(
            processor.tokenizer.backend,
            limits.text_length,
            processor.tokenizer.pad_token_id,
        )
        table = VoiceTable(voices, limits)
        call = Call(model, configs, compat, jit_compile)
        functions = Signatures(call, text, table).functions
        path = change.path / str(version)
        tf.saved_model.save(_root(functions, text, table), str(path), functions)
        hop = model.config.codec_config.hop_length
        batches = XLA_BATCHES if jit_compile else XLA_BATCHES[:1]
        write_warm_up(path, directory.name, functions, hop, batches)
    return directory / str(version)


def _new_version(directory: Path, version: int | None) -> int:
    """The given version, or the one after the newest."""
    found = [int(path.name) for path in directory.glob("*") if path.name.isdecimal()]
    if version is None:
        return max(found, default=0) + 1
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise ValueError(
            f"version must be a whole number above 0. Received: version={version!r}"
        )
    if version in found:
        raise ValueError(
            f"{directory} must not have this version yet; None takes the next one. "
            f"Received: version={version}"
        )
    return version


def _check_window(configs: StageConfigs) -> None:
    coarse = configs.coarse
    if coarse.sliding_window_len % coarse.n_coarse_codebooks:
        raise ValueError(
            "An export needs coarse windows of whole frames: sliding_window_len must "
            f"be a multiple of {coarse.n_coarse_codebooks}. "
            f"Received: sliding_window_len={coarse.sliding_window_len}"
        )


def _root(functions: Mapping[str, Any], *tables: tf.Module) -> tf.Module:
    """What a SavedModel must hold: each variable once, and the tables."""
    variables = {
        variable.ref(): variable
        for function in functions.values()
        for variable in function.variables
    }
    root = tf.Module(name="bark")
    root.variables_of_all, root.tables = list(variables.values()), tables
    return root
