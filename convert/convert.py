"""Converts a checkpoint of any kind into a checkpoint directory, tensor by tensor.

    source's names -> paths of our variables -> destination's names

Both steps are conversion tables. No network is built, and one tensor at a time is in
memory.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np

from bark_tf import hub
from bark_tf.config import GENERATION_CONFIG_NAME, BarkConfig, BarkGenerationConfig
from bark_tf.files import local_path
from bark_tf.progress import Progress
from bark_tf.saving import OWN_NAMES, saving
from bark_tf.voices.presets import check_speaker_embeddings, voice_names

from .checkpoints import write_checkpoint
from .configs import PARTS, published_generation_config, to_model_args, with_dtype
from .file_tensors import DTYPES, LazyTensor, all_finite, naming
from .rules import Rule
from .safetensors_files import parse_json, write_safetensors
from .sources import CODEC, STEMS, Part, Source, open_source
from .weights import table_for

FLOATS = ("float32", "float16", "bfloat16")
VOICE_INDEX_NAME = "speaker_embeddings_path.json"
# Files that are copied unchanged.
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
# Files that may be overwritten; a directory with others is not a checkpoint.
_CHECKPOINT_FILES = re.compile(
    r"(pytorch_)?model.*\.(safetensors|bin|index\.json)|[a-z]*_?config\.json"
    r"|(text|coarse|fine|encodec)\.(safetensors|json)|special_tokens_map\.json"
    r"|tokenizer\.json|vocab\.txt|speaker_embeddings(_path\.json)?"
    r"|semantic_tokenizer\.(safetensors|json)|README\.md|\.gitattributes"
    r"|\..*\.saving-\d+(\.\w+)?"  # left by a process that was killed
)


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

    The destination appears complete or not at all.

    With `names="hf"` it is what `from_pretrained` opens, here and in transformers:
    `model.safetensors` and `config.json`. The source has all four parts of a Bark, or
    one of them.

    With `names="suno"` it has one file per part in the original names:
    `text.safetensors`, `coarse.safetensors`, `fine.safetensors` (suno's, with tied
    heads) and `encodec.safetensors` (Meta's), each with a JSON file of the same name
    that holds suno's `model_args` or the codec's `config.json`. Converting back gives
    bit-equal tensors.

    Generation configuration, tokenizer and voices come along if the source has them.

    Args:
        source: A directory or repository in Hugging Face's format (a whole Bark, one of
            its parts, or EnCodec); a directory with suno's `text.pt`, `coarse.pt`,
            `fine.pt` (or `text_2.pt`, ...) and optionally Meta's `encodec_24khz-*.th`;
            one such file; or a list of these.
        destination: A directory that does not exist or is empty.
        names: `"hf"` or `"suno"`.
        dtype: `"float32"`, `"float16"` or `"bfloat16"` for all floating-point tensors.
            None keeps their dtypes.
        max_shard_size: Bytes, or a string such as `"200MB"`; larger checkpoints in
            Hugging Face's names are split.
        codec: Source of the codec: Meta's file, or a directory or repository in Hugging
            Face's format with a Bark or an EnCodec. Replaces a codec in `source`.
        config: `BarkConfig` or a part's configuration, if the source has none; replaces
            one in `source`.
        overwrite: Whether to replace a checkpoint at `destination`, with all its files.
        progress: Called with (tensor, bytes done, total bytes) as tensors are read.

    Returns:
        The destination.

    Raises:
        FileNotFoundError: If a file is missing.
        FileExistsError: If `destination` is a file, or a directory that is not empty
            (with `overwrite`: that holds more than a checkpoint).
        ValueError: If the source is damaged, a part or tensor is missing, superfluous
            or of another shape, or a value does not fit `dtype`.

    Example:
        >>> convert_checkpoint("bark_v0", "bark", codec="encodec_24khz-d7cc33bc.th")
        PosixPath('bark')
    """
    _check_choice("names", names, ("hf", "suno"))
    _check_choice("dtype", dtype, (None, *FLOATS))
    final = local_path(destination, "The destination").resolve()
    _check_place(final, _local_paths(source, codec))
    with contextlib.ExitStack() as files, saving(final, wait_s=0) as change:
        _check_contents(final, overwrite)
        found = open_source(source, files, codec=codec, config=config)
        if found.location is not None:
            _copy_files(found.location, change.path)
        write = _write_suno if names == "suno" else _write_hf
        write(found, change.path, dtype, max_shard_size, progress)
        change.remove_others()
    return local_path(destination)


def _check_choice(name: str, value: Any, choices: tuple) -> None:
    if value not in choices:
        raise ValueError(
            f"{name} must be one of {', '.join(map(repr, choices))}. "
            f"Received: {name}={value!r}"
        )


# === The destination ===


def _local_paths(*sources: Any) -> list[Path]:
    """The sources that are files or directories here."""
    paths: list[Path] = []
    for source in sources:
        is_one = source is None or isinstance(source, str | os.PathLike)
        paths += [Path(path) for path in ([source] if is_one else source) if path]
    return [path.resolve() for path in paths if path.exists()]


def _check_place(destination: Path, sources: Iterable[Path]) -> None:
    if destination.exists() and not destination.is_dir():
        raise FileExistsError(f"{str(destination)!r} is a file")
    for path in sources:
        if destination in (path, *path.parents):
            raise ValueError(
                "Expected a destination outside of the source. "
                f"Received: {str(destination)!r}, which holds {str(path)!r}"
            )


def _check_contents(destination: Path, overwrite: bool) -> None:
    paths = destination.iterdir() if destination.exists() else ()
    there = sorted({path.name for path in paths} - {*OWN_NAMES})
    if there and not overwrite:
        raise FileExistsError(
            f"{str(destination)!r} is not empty: choose another directory, or ask to "
            "overwrite it"
        )
    others = [name for name in there if not _CHECKPOINT_FILES.fullmatch(name)]
    if others:
        raise FileExistsError(
            f"{str(destination)!r} holds {others[0]!r}, which is not part of a "
            "checkpoint, so it is not overwritten"
        )


# === Writing ===


def _write_hf(found: Source, directory: Path, dtype, max_shard_size, progress) -> None:
    is_whole = len(found.parts) > 1
    missing = [name for name in PARTS if name not in found.parts]
    if is_whole and missing:
        raise ValueError(
            f"Expected all of {', '.join(PARTS)}, or one of them alone. "
            f"Received: a source without {', '.join(missing)}"
            + ("; pass the codec as `codec`" if CODEC in missing else "")
        )
    tensors = [
        tensor
        for name, part in found.parts.items()
        for tensor in _tensors(part, "hf", f"{name}." if is_whole else "", dtype)
    ]
    reported = _reported([tensors], progress)[0]
    write_checkpoint(directory, reported, max_shard_size=max_shard_size)
    _whole_or_part_config(found, is_whole, dtype).save_pretrained(directory)
    if is_whole and not (directory / GENERATION_CONFIG_NAME).exists():
        from_suno = any(part.spelling == "suno" for part in found.parts.values())
        generation = published_generation_config() if from_suno else None
        (generation or BarkGenerationConfig()).save_pretrained(directory)


def _write_suno(
    found: Source, directory: Path, dtype, max_shard_size, progress
) -> None:
    listed = [
        _tensors(part, _originals(name), "", dtype)
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
    """The original names of a part."""
    return "meta" if name == CODEC else "suno"


def _tensors(
    part: Part, names: str, prefix: str, dtype: str | None
) -> list[LazyTensor]:
    """The tensors of one network in the names of the destination."""
    table = table_for(part.config, names)
    origins = {rule.ours: rule for rule in part.table.rules}
    tensors = {}
    for rule in table.rules:
        origin = origins[rule.ours]
        stored = part.stored[origin.theirs]
        target = _target_dtype(part.checkpoint.dtype(stored), dtype)
        make = functools.partial(_make, part, stored, origin, rule, target)
        shape = rule.convert_shape(rule.shape)
        tensors[rule.theirs] = LazyTensor(prefix + rule.theirs, shape, target, make)
    if names == "suno":  # suno's loader needs tied heads too, and makes masks itself
        for second, first in table.aliases.items():
            tensors[second] = tensors[first]._replace(name=prefix + second)
    else:
        for name, make in table.constants.items():
            tensors[name] = LazyTensor.constant(prefix + name, make)
    return list(tensors.values())


def _target_dtype(own: np.dtype, dtype: str | None) -> np.dtype:
    is_float = own.kind not in "?biuc"  # bfloat16 and float8 have kind V
    return DTYPES[dtype] if dtype is not None and is_float else own


def _make(
    part: Part, stored: str, origin: Rule, rule: Rule, dtype: np.dtype
) -> np.ndarray:
    array = part.checkpoint.read(stored)
    if not all_finite(array):
        raise ValueError(
            f"Expected undamaged weights. Received: {stored!r} with NaN or infinity"
        )
    array = rule.operation.to_theirs(origin.operation.to_ours(array))
    if array.dtype == dtype:
        return array
    with np.errstate(over="ignore"):
        cast = array.astype(dtype)
    if not all_finite(cast):
        raise ValueError(
            f"Expected values that fit {dtype}; bfloat16 has the range of float32. "
            f"Received: {stored!r} with up to {np.abs(array).max():g}"
        )
    return cast


def _reported(
    listed: list[list[LazyTensor]], progress: Progress | None
) -> list[list[LazyTensor]]:
    """The same tensors, reporting progress as they are made."""
    if progress is None:
        return listed
    sizes = [tensor.num_bytes for tensors in listed for tensor in tensors]
    total, done = sum(sizes), 0

    def make(tensor: LazyTensor) -> np.ndarray:
        nonlocal done
        array = tensor.make()
        done += tensor.num_bytes
        progress(tensor.name, done, total)
        return array

    return [
        [t._replace(make=functools.partial(make, t)) for t in tensors]
        for tensors in listed
    ]


# === Other files ===


def _whole_or_part_config(found: Source, is_whole: bool, dtype: str | None) -> Any:
    configs = {PARTS[name].part: part.config for name, part in found.parts.items()}
    if is_whole:
        config = (found.config or BarkConfig()).replace(**configs)
    else:
        (config,) = configs.values()
    return config if dtype is None else with_dtype(config, dtype)


def _copy_files(location: Any, directory: Path) -> None:
    """Copies tokenizer and voices, if there are any."""
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
                    f"{index}: expected .npy files. Received: {str(path)[:80]!r}"
                )
            # An index saved on Windows has backslashes.
            _copy(location, PureWindowsPath(path).as_posix(), directory)


def _copy(location: Any, name: str, directory: Path) -> Path | None:
    path = hub.find_optional(location, name)
    if path is not None:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, directory / name)
    return path
