"""Weights of built networks: read from any kind of checkpoint, written to ours."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bark_tf.config import EncodecConfig, HubertConfig, HubertQuantizerConfig
from bark_tf.files import atomic_write

from . import bark, encodec, hubert
from .checkpoints import Checkpoint, open_checkpoint, write_checkpoint
from .rules import Table, canonical_name, join, load, tensors, variables_of
from .safetensors_files import write_safetensors

# A tensor that only this kind of checkpoint has.
_SIGNS = {
    "suno": "transformer.wpe.weight",
    "meta": "quantizer.vq.layers.0._codebook.embed",
    "fairseq": hubert.FAIRSEQ_SIGN,
}
# Networks whose tensors reveal all sizes.
_CONFIG_READERS = {
    HubertConfig: hubert.hubert_config,
    HubertQuantizerConfig: hubert.quantizer_config,
}


def table_for(config: Any, names: str = "hf") -> Table:
    """The conversion table of one network.

    Args:
        config: Configuration of the network.
        names: `"hf"`, or for a Bark transformer `"suno"`, for the codec `"meta"`, for
            HuBERT `"fairseq"`.
    """
    if isinstance(config, HubertQuantizerConfig):
        return hubert.quantizer_table(config)
    if isinstance(config, HubertConfig):
        return hubert.table(config, names)
    module = encodec if isinstance(config, EncodecConfig) else bark
    return module.table(config, names)


def spelling(checkpoint: Checkpoint) -> str:
    """The names that a checkpoint uses: `"hf"`, `"suno"`, `"meta"` or `"fairseq"`."""
    names = {canonical_name(name) for name in checkpoint.names()}
    return next((kind for kind, sign in _SIGNS.items() if sign in names), "hf")


def read_config(cls: type, path: str | os.PathLike, prefix: str = "") -> Any:
    """The configuration of a network, from the shapes of its tensors.

    Args:
        cls: `HubertConfig` or `HubertQuantizerConfig`.
        path: See `load_weights`.
        prefix: Prefix of the network's tensors in a larger one; optional in the file.

    Returns:
        The configuration.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged or holds another network, or if the shapes do
            not determine a `cls`.
    """
    if cls not in _CONFIG_READERS:
        raise ValueError(
            f"config must be given: tensors do not determine a {cls.__name__}. "
            "Received: None"
        )
    with open_checkpoint(path) as checkpoint:
        shapes = {
            canonical_name(name).removeprefix(prefix): checkpoint.shape(name)
            for name in checkpoint.names()
        }
    try:
        return _CONFIG_READERS[cls](shapes)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def stored_dtype(path: str | os.PathLike) -> str:
    """The dtype of most floating-point values of a checkpoint, such as `"float16"`.

    Some tensors, such as the codebooks of the codec, are float32 in every checkpoint.

    Args:
        path: See `load_weights`.

    Raises:
        ValueError: If the file is damaged.
    """
    sizes: Counter[str] = Counter()
    with open_checkpoint(path) as checkpoint:
        for name in checkpoint.names():
            sizes[checkpoint.dtype(name).name] += math.prod(checkpoint.shape(name))
    floating = [name for name in sizes if "float" in name]
    return max(floating, key=sizes.__getitem__, default="float32")


def load_weights(model: Any, path: str | os.PathLike) -> None:
    """Reads a network's weights from its own checkpoint or from a whole Bark's.

    Args:
        model: The network.
        path: A weights file, an index of shards, or a directory that holds one.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged or holds another network. The model is then
            unchanged, unless a compressed tensor was damaged.
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
    """Writes one network under its own names, or several as a whole Bark.

    Args:
        models: The networks; several get their checkpoint prefixes.
        directory: Existing directory.
        max_shard_size: Bytes, or a string such as `"200MB"`.

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


def save_file(models: Sequence[Any], path: str | os.PathLike) -> None:
    """Writes networks into one safetensors file, each below its checkpoint prefix.

    Args:
        models: The networks.
        path: The file; it appears complete or not at all.
    """
    listed = [
        tensor
        for model in models
        for tensor in tensors(
            table_for(model.config).below("", model.checkpoint_prefix),
            variables_of(model),
        )
    ]
    with atomic_write(path) as temporary:
        write_safetensors(temporary, listed, {"format": "pt"})
