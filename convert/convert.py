"""A checkpoint of any kind into a checkpoint directory, tensor by tensor.

    source's names -> paths of our variables -> destination's names

Both steps are conversion tables; no network is built and no more than one tensor is in
memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np

from bark_tf import hub
from bark_tf.config import GENERATION_CONFIG_NAME, BarkConfig, BarkGenerationConfig
from bark_tf.voices.presets import check_speaker_embeddings, voice_names

from .checkpoints import write_checkpoint
from .configs import published_generation_config, to_model_args
from .file_tensors import DTYPES, naming
from .inventory import PARTS, variable_shapes
from .rules import Rule
from .safetensors_files import Source as Tensor
from .safetensors_files import check_source, parse_json, write_safetensors
from .sources import CODEC, STEMS, Part, Source, open_source
from .weights import table_for

FLOATS = ("float32", "float16", "bfloat16")
VOICE_INDEX_NAME = "speaker_embeddings_path.json"
# Files of a checkpoint that are copied as they are.
COPIED_NAMES = (
    GENERATION_CONFIG_NAME,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "preprocessor_config.json",
    "semantic_tokenizer.safetensors",
    "semantic_tokenizer.json",
)
# What may be replaced: a directory with anything else is no checkpoint.
_CHECKPOINT_FILES = re.compile(
    r"(pytorch_)?model.*\.(safetensors|bin|index\.json)|[a-z]*_?config\.json"
    r"|(text|coarse|fine|encodec)\.(safetensors|json)|special_tokens_map\.json"
    r"|tokenizer\.json|vocab\.txt|speaker_embeddings(_path\.json)?"
    r"|semantic_tokenizer\.(safetensors|json)|README\.md|\.gitattributes"
)

Progress = Callable[[str, int, int], None]


def convert_checkpoint(
    source: str | os.PathLike | Sequence[str | os.PathLike],
    destination: str | os.PathLike,
    *,
    names: str = "hf",
    dtype: str | None = None,
    max_shard_size: int | str = "5GB",
    codec: str | os.PathLike | None = None,
    config: Any = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Converts a checkpoint of any kind into a checkpoint directory.

    The destination appears complete or not at all: it is written beside and renamed.

    With `names="hf"` it is what `from_pretrained` opens, here and in transformers:
    `model.safetensors`, `config.json` and, where there are some, the tokenizer and the
    voices. All four parts make a whole Bark, one alone its own checkpoint.

    With `names="suno"` it holds a file for each part in the names of its original:
    `text.safetensors`, `coarse.safetensors`, `fine.safetensors` (suno's, tied heads
    included) and `encodec.safetensors` (Meta's), and beside each a JSON file of its
    name, with suno's `model_args` or the codec's `config.json`. Converted back, every
    tensor is the same bit by bit.

    Args:
        source: A directory of Hugging Face's (a whole Bark, one of its parts, or
            EnCodec) or its repository id; a directory with suno's `text.pt`,
            `coarse.pt`, `fine.pt` (or `text_2.pt`, ...) and perhaps Meta's
            `encodec_24khz-*.th`; one such file; or a list of all these.
        destination: A directory that does not exist or is empty.
        names: `"hf"` or `"suno"`.
        dtype: `"float32"`, `"float16"` or `"bfloat16"` for all floating-point tensors;
            None keeps every tensor as it is.
        max_shard_size: Bytes, or a text such as `"200MB"`; larger checkpoints in
            Hugging Face's names are split.
        codec: Where the codec is, as `source`: Meta's file, or a directory or
            repository of Hugging Face's with a Bark or an EnCodec. Wins over a codec
            in `source`.
        config: `BarkConfig` or a part's configuration, for weights without; wins over
            one in `source`.
        overwrite: Whether a checkpoint at `destination` is replaced, with all files.
        progress: Called with (tensor, bytes done, bytes in all) as tensors are read.

    Returns:
        The destination.

    Raises:
        FileNotFoundError: If a file is missing.
        FileExistsError: If `destination` is a file, or a directory that is not empty
            (with `overwrite`: that holds more than a checkpoint).
        ValueError: If the source is damaged, lacks a part or a tensor, has one too
            many or of another shape, or a value does not fit `dtype`.

    Example:
        >>> convert_checkpoint("bark_v0", "bark", codec="encodec_24khz-d7cc33bc.th")
        PosixPath('bark')
    """
    _check_choice("names", names, ("hf", "suno"))
    _check_choice("dtype", dtype, (None, *FLOATS))
    final = Path(destination).resolve()
    _check_destination(final, overwrite, _local_paths(source, codec))
    with contextlib.ExitStack() as files:
        found = open_source(source, files, codec=codec, config=config)
        write = _write_suno if names == "suno" else _write_hf
        with _renamed_to(final) as directory:
            write(found, directory, dtype, max_shard_size, progress)
    return Path(destination)


def _check_choice(name: str, value: Any, choices: tuple) -> None:
    if value not in choices:
        raise ValueError(
            f"{name} must be one of {', '.join(map(repr, choices))}. "
            f"Received: {name}={value!r}"
        )


# The destination ----------------------------------------------------------------------


def _local_paths(*sources: Any) -> list[Path]:
    """The files and directories among the sources."""
    paths: list[Path] = []
    for source in sources:
        is_one = source is None or isinstance(source, str | os.PathLike)
        paths += [Path(path) for path in ([source] if is_one else source) if path]
    return [path.resolve() for path in paths if path.exists()]


def _check_destination(
    destination: Path, overwrite: bool, sources: Iterable[Path]
) -> None:
    for path in sources:
        if destination in (path, *path.parents):
            raise ValueError(
                "Expected a destination apart from the source. "
                f"Received: {str(destination)!r}, which holds {str(path)!r}"
            )
    if not destination.exists():
        return
    if not destination.is_dir():
        raise FileExistsError(f"{str(destination)!r} is a file")
    there = sorted(path.name for path in destination.iterdir())
    if there and not overwrite:
        raise FileExistsError(
            f"{str(destination)!r} is not empty: name another directory, or ask to "
            "overwrite it"
        )
    others = [name for name in there if not _CHECKPOINT_FILES.fullmatch(name)]
    if others:
        raise FileExistsError(
            f"{str(destination)!r} is not only a checkpoint and will not be "
            f"overwritten: it holds {others[0]!r}"
        )


@contextlib.contextmanager
def _renamed_to(destination: Path) -> Iterator[Path]:
    """Gives a new directory beside `destination`, which it becomes on success."""
    beside = destination.with_name(f".{destination.name}.{uuid.uuid4().hex}")
    replaced = beside.with_name(f"{beside.name}.old")
    beside.mkdir(parents=True)
    try:
        yield beside
        if destination.exists():
            os.replace(destination, replaced)
        try:
            os.replace(beside, destination)
        except BaseException:
            if replaced.exists():
                os.replace(replaced, destination)
            raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        if destination.exists():
            shutil.rmtree(replaced, ignore_errors=True)


# Writing ------------------------------------------------------------------------------


def _write_hf(found: Source, directory: Path, dtype, max_shard_size, progress) -> None:
    is_whole = len(found.parts) > 1
    missing = [name for name in PARTS if name not in found.parts]
    if is_whole and missing:
        raise ValueError(
            f"Expected all of {', '.join(PARTS)}, or one of them alone. "
            f"Received: a source without {', '.join(missing)}"
            + ("; say with `codec` where the codec is" if CODEC in missing else "")
        )
    tensors = [
        tensor
        for name, part in found.parts.items()
        for tensor in _tensors(part, "hf", f"{name}." if is_whole else "", dtype)
    ]
    reported = _reported([tensors], progress)[0]
    write_checkpoint(directory, reported, max_shard_size=max_shard_size)
    _whole_or_part_config(found, is_whole, dtype).save_pretrained(directory)
    if found.location is not None:
        _copy_files(found.location, directory)
    if is_whole and not (directory / GENERATION_CONFIG_NAME).exists():
        from_suno = any(part.spelling == "suno" for part in found.parts.values())
        generation = published_generation_config() if from_suno else None
        (generation or BarkGenerationConfig()).save_pretrained(directory)


def _write_suno(
    found: Source, directory: Path, dtype, max_shard_size, progress
) -> None:
    listed = [
        [check_source(t) for t in _tensors(part, _originals(name), "", dtype)]
        for name, part in found.parts.items()
    ]
    reported = _reported(listed, progress)
    for (name, part), tensors in zip(found.parts.items(), reported, strict=True):
        path = directory / f"{STEMS[name]}.safetensors"
        write_safetensors(path, tensors, {"format": "pt"})
        config = part.config
        values = config.to_dict() if name == CODEC else to_model_args(config)
        text = json.dumps(values, indent=2) + "\n"
        path.with_suffix(".json").write_text(text, encoding="utf-8")


def _originals(name: str) -> str:
    """Whose names a part has that is not in Hugging Face's."""
    return "meta" if name == CODEC else "suno"


def _tensors(part: Part, names: str, prefix: str, dtype: str | None) -> list[Tensor]:
    """The tensors of one network in a destination's names."""
    shapes = variable_shapes(part.config)
    table = table_for(part.config, names)
    origins = {rule.ours: rule for rule in part.table.rules}
    tensors = {}
    for rule in table.rules:
        origin = origins[rule.ours]
        stored = part.stored[origin.theirs]
        target = _target_dtype(part.checkpoint.dtype(stored), dtype)
        make = functools.partial(_make, part, stored, origin, rule, target)
        shape = rule.shape(shapes[rule.ours])
        tensors[rule.theirs] = Tensor(prefix + rule.theirs, shape, target, make)
    if names == "suno":  # whose loader asks for tied heads too, and makes masks itself
        for second, first in table.aliases.items():
            tensors[second] = tensors[first]._replace(name=prefix + second)
    else:
        for name, make in table.constants.items():
            array = make()
            tensors[name] = Tensor(prefix + name, array.shape, array.dtype, make)
    return list(tensors.values())


def _target_dtype(own: np.dtype, dtype: str | None) -> np.dtype:
    is_float = own.kind not in "?biuc"  # bfloat16 and others are of kind V
    return DTYPES[dtype] if dtype is not None and is_float else own


def _make(
    part: Part, stored: str, origin: Rule, rule: Rule, dtype: np.dtype
) -> np.ndarray:
    array = part.checkpoint.read(stored)
    array = rule.operation.to_theirs(origin.operation.to_ours(array))
    if array.dtype == dtype:
        return array
    with np.errstate(over="ignore"):
        cast = array.astype(dtype)
    if not np.isfinite(cast).all() and np.isfinite(array).all():
        raise ValueError(
            f"Expected values that fit {dtype}; bfloat16 reaches as far as float32. "
            f"Received: {stored!r} with up to {np.abs(array).max():g}"
        )
    return cast


def _reported(
    listed: list[list[Tensor]], progress: Progress | None
) -> list[list[Tensor]]:
    """The same tensors, which report their bytes when they are made."""
    if progress is None:
        return listed
    sizes = [tensor.num_bytes for tensors in listed for tensor in tensors]
    total, done = sum(sizes), 0

    def make(tensor: Tensor) -> np.ndarray:
        nonlocal done
        array = tensor.make()
        done += tensor.num_bytes
        progress(tensor.name, done, total)
        return array

    return [
        [t._replace(make=functools.partial(make, t)) for t in tensors]
        for tensors in listed
    ]


# Beside the weights -------------------------------------------------------------------


def _whole_or_part_config(found: Source, is_whole: bool, dtype: str | None) -> Any:
    configs = {PARTS[name].part: part.config for name, part in found.parts.items()}
    if is_whole:
        config = (found.config or BarkConfig()).replace(**configs)
    else:
        (config,) = configs.values()
    return config if dtype is None else _with_dtype(config, dtype)


def _with_dtype(config: Any, dtype: str) -> Any:
    """The configuration with what transformers reads as the dtype to load with."""
    nested = {}
    if isinstance(config, BarkConfig):
        for cls in PARTS.values():
            nested[cls.part] = _with_dtype(getattr(config, cls.part), dtype)
    extra = {key: value for key, value in config.extra.items() if key != "dtype"}
    extra["torch_dtype"] = dtype
    return dataclasses.replace(config, extra=extra, **nested)


def _copy_files(location: Any, directory: Path) -> None:
    """Copies the tokenizer and the voices, as far as they are there."""
    for name in COPIED_NAMES:
        _copy(location, name, directory)
    index = _copy(location, VOICE_INDEX_NAME, directory)
    if index is None:
        return
    with naming(index):
        voices = parse_json(index.read_bytes())
    try:
        check_speaker_embeddings(voices)
    except ValueError as error:
        raise ValueError(f"{index}: {error}") from error
    for voice in voice_names(voices):
        for path in voices[voice].values():
            if not str(path).endswith(".npy"):
                raise ValueError(
                    f"{index}: expected files of arrays, .npy. "
                    f"Received: {str(path)[:80]!r}"
                )
            # An index that was saved on Windows holds backslashes.
            _copy(location, PureWindowsPath(path).as_posix(), directory)


def _copy(location: Any, name: str, directory: Path) -> Path | None:
    path = hub.find_optional(location, name)
    if path is not None:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, directory / name)
    return path
