"""Weights of built networks: read from any kind of checkpoint, written to ours."""

from __future__ import annotations

import contextlib
import copy
import math
import os
import typing
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bark_tf.config import CtcConfig, EncodecConfig, HubertConfig, HubertQuantizerConfig
from bark_tf.config.fields import shown
from bark_tf.files import atomic_write

from . import bark, ctc, encodec, hubert
from .checkpoints import Checkpoint, open_checkpoint, write_checkpoint
from .rules import (
    MisfitError,
    Table,
    canonical_name,
    fit,
    join,
    load,
    tensors,
    variables_of,
)
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

    Example:
        >>> table_for(BarkConfig.preset("bark").semantic_config).num_values
        446094336
    """
    if isinstance(config, HubertQuantizerConfig):
        return hubert.quantizer_table(config)
    if isinstance(config, HubertConfig):
        return hubert.table(config, names)
    if isinstance(config, CtcConfig):
        return ctc.table(config)
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


# === Comparing a file with a configuration ===


def find_network(
    config: Any, checkpoint: Checkpoint, prefix: str, source: str | os.PathLike
) -> tuple[Table, dict[str, str]]:
    """Finds a network in a checkpoint, without building it or reading a tensor.

    Args:
        config: Configuration of the network.
        checkpoint: The checkpoint.
        prefix: See `rules.fit`.
        source: Named in errors.

    Returns:
        The network's table in the checkpoint's names; and name in the table -> name in
        the checkpoint.

    Raises:
        ValueError: If the checkpoint does not hold exactly this network. The message
            names the tensor, and the fields of the configuration that decide about it.
    """
    names = spelling(checkpoint)
    table = table_for(config, names)
    try:
        return table, fit(table, checkpoint, prefix=prefix, source=str(source))
    except MisfitError as error:
        fields = [
            f"{name}={shown(getattr(config, name))}"
            for name in config.field_names()
            if _decides(config, name, names, error)
        ]
        why = f". {type(config).__name__} has {', '.join(fields)}" if fields else ""
        raise ValueError(f"{error}{why}") from None


def _decides(config: Any, field: str, names: str, misfit: MisfitError) -> bool:
    """Whether it depends on a field that tensors exist, or have some shape."""

    def facts(config: Any) -> list[Any]:
        found = {rule.theirs: rule.shape for rule in table_for(config, names).rules}
        return [found.get(n) if misfit.shape else n in found for n in misfit.tensors]

    expected = facts(config)
    for value in _other_values(type(config), field, getattr(config, field)):
        changed = copy.copy(config)
        object.__setattr__(changed, field, value)  # what does not fit other fields, too
        with contextlib.suppress(ArithmeticError, LookupError):
            if facts(changed) != expected:
                return True
    return False


def _other_values(cls: type, field: str, value: Any) -> tuple:
    """Some other values of a field, large and small, right or wrong."""
    hint = typing.get_type_hints(cls)[field]
    if typing.get_origin(hint) is typing.Literal:
        return typing.get_args(hint)
    if isinstance(value, bool):
        return (not value,)
    if isinstance(value, int | float):
        return value // 2, 2 * value
    if isinstance(value, tuple):
        halves, doubles = zip(*((one // 2, 2 * one) for one in value), strict=True)
        return value[1:], (*value, value[-1]), halves, doubles
    return ()


def check_weights(path: str | os.PathLike, configs: Mapping[str, Any]) -> None:
    """Compares a file of weights with configurations, before networks are built.

    Args:
        path: See `load_weights`.
        configs: Prefix in the checkpoint of a whole Bark -> configuration.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged or holds other networks; see `find_network`.
    """
    with open_checkpoint(path) as checkpoint:
        for prefix, config in configs.items():
            find_network(config, checkpoint, _prefix(checkpoint, prefix), path)


def _prefix(checkpoint: Checkpoint, prefix: str) -> str:
    """The prefix if there are such tensors, else none: the network is there alone."""
    names = map(canonical_name, checkpoint.names())
    return prefix if any(name.startswith(prefix) for name in names) else ""


# === Loading and saving ===


def load_weights(model: Any, path: str | os.PathLike) -> None:
    """Reads a network's weights from its own checkpoint or from a whole Bark's.

    Args:
        model: The network.
        path: A weights file, an index of shards, or a directory that holds one.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged or holds another network. The model is then
            unchanged, unless a tensor has damaged values.
    """
    with open_checkpoint(path) as checkpoint:
        prefix = _prefix(checkpoint, model.checkpoint_prefix)
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
