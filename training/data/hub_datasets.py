"""Datasets that the package `datasets` reads, from the Hugging Face hub or a directory.

The package is the extra `datasets`. Since version 4 it runs no code of a dataset.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bark_tf.audio.reading import SUFFIXES
from bark_tf.files import atomic_write
from bark_tf.optional import required

from .layouts import Row, Skipped, roles_of, row_of

PREFIX = "hf:"
_NAME = re.compile(
    r"(?P<source>[\w.-]+/[\w.-]+)(/(?P<config>[^/:]+))?(:(?P<split>.+))?"
)
_SPLIT = "train"


def hub_rows(name: str, copies: Path) -> Iterator[Row | Skipped]:
    """Downloads a dataset, if it is not cached, and copies its audio into files.

    Args:
        name: `hf:OWNER/NAME`, `hf:OWNER/NAME/CONFIG` or `hf:DIRECTORY`; `:SPLIT` may
            follow, of which `train` is the default.
        copies: Directory for the audio files; existing ones are not written again.

    Yields:
        A row for each example, with paths relative to `copies`.

    Raises:
        FileNotFoundError: If there is no such dataset.
        ValueError: If it has no such split, or no columns of audio and text.
        ImportError: If the package `datasets` is missing.
    """
    datasets = required("datasets", "Reading a dataset of the hub", "datasets")
    source, config, split = _parsed(name)
    dataset = datasets.load_dataset(source, config, split=split)
    roles = roles_of(dataset.column_names)
    for column, feature in dataset.features.items():
        if isinstance(feature, datasets.Audio):
            roles["audio"] = column
            dataset = dataset.cast_column(column, datasets.Audio(decode=False))
            break
    else:
        roles.pop("audio", None)
    for role in ("audio", "text"):
        if role not in roles:
            names = ", ".join(dataset.column_names)
            raise ValueError(f"{name} must have a column of {role}. Received: {names}")
    roots = [Path(datasets.config.HF_DATASETS_CACHE), Path(source)]
    copies.mkdir(parents=True, exist_ok=True)
    for number, example in enumerate(dataset.select_columns([*roles.values()])):
        where = f"{split}:{number}"
        values = {role: example[column] for role, column in roles.items()}
        try:
            file = _copy(values["audio"], copies, roots)
            values |= {"audio": file, "text": values["text"] or ""}
            entry = {"id": f"{number:06d}", **values}
            yield row_of(entry, Path(source).name, where)
        except ValueError as error:
            yield Skipped.of(str(values.get("id") or number), where, error)


def _parsed(name: str) -> tuple[str, str | None, str]:
    """Source, configuration and split."""
    rest = name.removeprefix(PREFIX)
    directory, _, split = rest.partition(":")
    if directory and Path(directory).is_dir():
        return directory, None, split or _SPLIT
    match = _NAME.fullmatch(rest)
    if match is None:
        raise ValueError(
            f"A dataset of the hub must be {PREFIX}OWNER/NAME, with /CONFIG and :SPLIT "
            f"if needed, or {PREFIX} and a directory. Received: {name!r}"
        )
    return match["source"], match["config"], match["split"] or _SPLIT


def _copy(sound: Mapping[str, Any] | None, copies: Path, roots: list[Path]) -> str:
    """Writes the audio of an example to a file that is named after its content."""
    sound = sound or {}
    data, source = sound.get("bytes"), sound.get("path") or ""
    if data is None:
        file = Path(source).resolve()
        # A dataset must not name any other file of this machine.
        if not any(file.is_relative_to(root.resolve()) for root in roots):
            raise ValueError(f"its audio is not in the dataset. Received: {source!r}")
        data = file.read_bytes()
    suffix = Path(source).suffix.lower()
    suffix = suffix if suffix in SUFFIXES else SUFFIXES[0]
    path = copies / f"{hashlib.sha256(data).hexdigest()[:24]}{suffix}"
    if not path.is_file():
        with atomic_write(path) as temporary:
            temporary.write_bytes(data)
    return path.name
