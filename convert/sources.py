"""Recognises a checkpoint: its networks, their names and sizes.

The result is a `Part` for each network: its configuration, and where each of its
tensors is stored.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bark_tf import hub
from bark_tf.config import CONFIG_NAME, BarkConfig, EncodecConfig
from bark_tf.saving import settle

from .checkpoints import Checkpoint, open_checkpoint
from .configs import PARTS, codec_config, from_model_args, suno_part
from .file_tensors import naming
from .rules import Shapes, Table, canonical_name
from .safetensors_files import parse_json
from .weights import find_network, spelling, table_for

CODEC = "codec_model"
# Part -> first part of the name of its original file.
STEMS = {
    "semantic": "text",
    "coarse_acoustics": "coarse",
    "fine_acoustics": "fine",
    CODEC: "encodec",
}
_ENDINGS = r"(_2)?\.pt|_24khz-\w+\.th|\.safetensors"
_CONFIG_CLASSES = {cls.model_type: cls for cls in (BarkConfig, *PARTS.values())}


class Part(NamedTuple):
    """One network of a source.

    Attributes:
        config: Its configuration.
        spelling: The names of its tensors: `"hf"`, `"suno"` or `"meta"`.
        checkpoint: The open checkpoint.
        table: Its table with these names, without prefixes.
        stored: Name in the table -> name in the checkpoint.
    """

    config: Any
    spelling: str
    checkpoint: Checkpoint
    table: Table
    stored: Mapping[str, str]


class Source(NamedTuple):
    """An opened source.

    Attributes:
        parts: By name, in the order of `PARTS`.
        config: The configuration of the whole Bark, if there is one.
        location: Directory or repository of the other files, or None.
    """

    parts: dict[str, Part]
    config: BarkConfig | None
    location: str | os.PathLike | None


def open_source(
    source: str | os.PathLike | Sequence[str | os.PathLike],
    files: contextlib.ExitStack,
    *,
    codec: str | os.PathLike | None = None,
    config: Any = None,
) -> Source:
    """Opens a checkpoint of any kind; only headers are read.

    Args:
        source: See `convert_checkpoint`.
        files: Closes the checkpoints.
        codec: Source of the codec; replaces one in `source`.
        config: Configuration of the whole or of one part; replaces that of the files.

    Returns:
        The source, in which all tensors have been found with their expected shapes.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged or does not fit its configuration, or two files
            hold the same part.
    """
    if config is not None and type(config) not in _CONFIG_CLASSES.values():
        raise ValueError(
            f"config must be a BarkConfig or a part's. Received: {config!r}"
        )
    whole = config if isinstance(config, BarkConfig) else None
    parts: dict[str, Part] = {}
    location = None
    for path, origin in _weights(source):
        file = _File(path, files)
        if file.spelling == "hf":
            origin = path.parent if origin is None else origin
            own = _hf_config(origin, config)
            whole = own if whole is None and isinstance(own, BarkConfig) else whole
            found = _hf_parts(file, own, config)
        else:
            found = _single_part(file, config)
        location = origin if location is None else location
        for name in found.keys() & parts.keys():
            raise ValueError(f"Expected one {name} model. Received: also {path}")
        parts |= found
    if codec is not None:
        own = _given(config, CODEC)
        parts[CODEC] = _codec_of(open_source(codec, files, config=own), codec)
    if not parts:
        raise ValueError("Expected at least one file. Received: an empty list")
    if config is not None and not any(_given(config, name) for name in parts):
        raise ValueError(
            f"Expected a configuration of {' or '.join(parts)}. Received: {config!r}"
        )
    ordered = {name: parts[name] for name in PARTS if name in parts}
    return Source(ordered, whole, location)


def _codec_of(source: Source, path: Any) -> Part:
    if CODEC not in source.parts:
        raise ValueError(f"Expected a codec. Received: codec={str(path)!r} without one")
    return source.parts[CODEC]


def _given(config: Any, name: str) -> Any:
    """The configuration of a part given by the caller, or None."""
    cls = PARTS[name]
    if isinstance(config, BarkConfig):
        return getattr(config, cls.part)
    return config if isinstance(config, cls) else None


# === Finding files ===


def _weights(source: Any) -> list[tuple[Path, Any]]:
    """The files of weights, each with the directory or repository it came from."""
    if not isinstance(source, str | os.PathLike):
        return [pair for one in source for pair in _weights(one)]
    path = Path(source)
    if path.is_file():
        return [(path, None)]
    settle(path)
    if path.is_dir() and not any((path / n).is_file() for n in hub.WEIGHTS_NAMES):
        files = _suno_files(path)
        if files:
            return [(file, path) for file in files]
    return [(hub.find_weights(source), source)]


def _suno_files(directory: Path) -> list[Path]:
    """Suno's files in a directory, and the codec's."""
    files = []
    for name, stem in STEMS.items():
        pattern = re.compile(f"{stem}({_ENDINGS})")
        found = sorted(p for p in directory.iterdir() if pattern.fullmatch(p.name))
        if len(found) > 1:
            raise ValueError(
                f"Expected one {name} model in {directory}, or a list of files to use. "
                f"Received: {', '.join(path.name for path in found)}"
            )
        files += found
    return files


# === Recognising files ===


class _File:
    """An open file of weights, or an index of them."""

    def __init__(self, path: Path, files: contextlib.ExitStack):
        self.path = path
        self.checkpoint = files.enter_context(open_checkpoint(path))
        self.spelling = spelling(self.checkpoint)

    def shapes(self) -> Shapes:
        """Canonical name -> shape."""
        checkpoint = self.checkpoint
        return {canonical_name(n): checkpoint.shape(n) for n in checkpoint.names()}

    def read_json_file(self) -> dict[str, Any] | None:
        """Reads the JSON file of the same name, which `_write_suno` makes."""
        path = self.path.with_suffix(".json")
        if not path.is_file():
            return None
        with naming(path):
            return parse_json(path.read_bytes())

    def part(self, config: Any, prefix: str = "") -> Part:
        """The network whose tensors have this prefix."""
        table, stored = find_network(config, self.checkpoint, prefix, self.path)
        untied = self.untied(table, stored)
        if untied:
            raise ValueError(
                f"{self.path}: {prefix}{untied[0]} differs from "
                f"{prefix}{table.aliases[untied[0]]}, but the configuration has "
                "tie_word_embeddings=True; pass one without"
            )
        return Part(config, self.spelling, self.checkpoint, table, stored)

    def untied(self, table: Table, stored: Mapping[str, str]) -> list[str]:
        """The second names of tensors that are stored twice with different values."""
        read = self.checkpoint.read
        return [
            second
            for second, first in table.aliases.items()
            if first in stored
            and stored.get(second, stored[first]) != stored[first]
            and not np.array_equal(read(stored[second]), read(stored[first]))
        ]


def _hf_config(location: Any, config: Any) -> Any:
    """Reads `config.json`, or returns `config` if there is none."""
    path = hub.find_optional(location, CONFIG_NAME)
    if path is None:
        if config is None:
            raise FileNotFoundError(
                f"{str(location)!r} has no {CONFIG_NAME}; pass the configuration"
            )
        return config
    with naming(path):
        model_type = str(parse_json(path.read_bytes()).get("model_type"))
    if model_type not in _CONFIG_CLASSES:
        raise ValueError(
            f"{path}: expected model_type to be one of {', '.join(_CONFIG_CLASSES)}. "
            f"Received: {model_type!r}"
        )
    return _CONFIG_CLASSES[model_type].from_json_file(path)


def _hf_parts(file: _File, own: Any, config: Any) -> dict[str, Part]:
    """The parts of a checkpoint in Hugging Face's names with configuration `own`."""
    if not isinstance(own, BarkConfig):
        name = next(name for name, cls in PARTS.items() if isinstance(own, cls))
        return {name: file.part(_given(config, name) or own)}
    beginnings = tuple(f"{name}." for name in PARTS)
    for name in file.shapes():
        if not name.startswith(beginnings):
            raise ValueError(
                f"{file.path} does not fit a whole Bark: it has no place for {name}"
            )
    return {
        name: file.part(_given(config, name) or _given(own, name), f"{name}.")
        for name in PARTS
    }


def _single_part(file: _File, config: Any) -> dict[str, Part]:
    """The network in one of suno's files or Meta's."""
    is_codec = file.spelling == "meta"
    name = CODEC if is_codec else suno_part(file.shapes(), file.path.stem)
    own = _given(config, name)
    if own is None:
        try:
            own = _meta_config(file) if is_codec else _suno_config(file, PARTS[name])
        except ValueError as error:
            raise ValueError(f"{file.path}: {error}") from error
    return {name: file.part(own)}


def _meta_config(file: _File) -> EncodecConfig:
    values = file.read_json_file()
    return (
        codec_config(file.shapes())
        if values is None
        else EncodecConfig.from_dict(values)
    )


def _suno_config(file: _File, cls: type) -> Any:
    model_args = file.checkpoint.metadata.get("model_args")
    if not isinstance(model_args, Mapping):
        model_args = file.read_json_file()
    if model_args is None:
        raise ValueError(
            "Expected model_args in the file or in a JSON file of the same name. "
            "Received: neither; pass the configuration"
        )
    shapes = file.shapes()
    has_bias = "transformer.h.0.attn.c_attn.bias" in shapes
    config = from_model_args(cls, {"bias": has_bias, **model_args})
    stored = {canonical_name(name): name for name in file.checkpoint.names()}
    if file.untied(table_for(config, "suno"), stored):
        config = config.replace(tie_word_embeddings=False)
    return config
