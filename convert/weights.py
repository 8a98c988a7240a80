"""Weights of whole networks: from a checkpoint of any kind, and into one of ours."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bark_tf.config import EncodecConfig

from . import bark, encodec
from .checkpoints import Checkpoint, open_checkpoint, write_checkpoint
from .rules import Table, canonical_name, join, load, tensors, variables_of

# A tensor that only this kind of checkpoint holds.
_SIGNS = {
    "suno": "transformer.wpe.weight",
    "meta": "quantizer.vq.layers.0._codebook.embed",
}


def table_for(config: Any, names: str = "hf") -> Table:
    """The conversion table of one network.

    Args:
        config: Its configuration.
        names: `"hf"`, `"suno"` (transformers) or `"meta"` (codec).
    """
    module = encodec if isinstance(config, EncodecConfig) else bark
    return module.table(config, names)


def spelling(checkpoint: Checkpoint) -> str:
    """Whose names a checkpoint uses: `"hf"`, `"suno"` or `"meta"`."""
    names = {canonical_name(name) for name in checkpoint.names()}
    return next((kind for kind, sign in _SIGNS.items() if sign in names), "hf")


def load_weights(model: Any, path: str | os.PathLike) -> None:
    """Reads one network's weights, from its own checkpoint or out of a whole Bark.

    Args:
        model: One of the four networks.
        path: A weights file, an index of shards, or a directory that holds one.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged or of another network. The model is
            unchanged then, unless it was a compressed tensor that is damaged.
    """
    with open_checkpoint(path) as checkpoint:
        prefix = model.checkpoint_prefix
        if not any(canonical_name(n).startswith(prefix) for n in checkpoint.names()):
            prefix = ""
        table = table_for(model.config, spelling(checkpoint))
        variables = variables_of(model)
        load(table, variables, checkpoint, prefix=prefix, source=str(path))
    model.is_released = False


def save_weights(
    models: Sequence[Any],
    directory: str | os.PathLike,
    *,
    max_shard_size: int | str = "5GB",
) -> list[Path]:
    """Writes networks as safetensors: one under its own names, several as a Bark.

    Args:
        models: The networks; several are told apart by their checkpoint prefixes.
        directory: Exists.
        max_shard_size: Bytes, or a text such as `"200MB"`.

    Returns:
        The files written.
    """
    tables: list[Table] = []
    variables: dict[str, Any] = {}
    for model in models:
        prefix = model.checkpoint_prefix if len(models) > 1 else ""
        tables.append(table_for(model.config).below(prefix, prefix))
        own: Mapping[str, Any] = variables_of(model)
        variables |= {prefix + path: variable for path, variable in own.items()}
    return write_checkpoint(
        directory, tensors(join(*tables), variables), max_shard_size=max_shard_size
    )
