"""Reads datasets of recordings with transcripts and reports what is unusable.

`layouts.py` knows the layouts. No audio is decoded here. Audio files must be inside the
dataset's directory, also after following links; only a list that the user names may
name files elsewhere, by absolute paths.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bark_tf.files import local_path, remote_scheme

from .hub_datasets import PREFIX, hub_rows
from .layouts import (
    LIST_NAMES,
    LIST_SUFFIXES,
    Row,
    Skipped,
    Word,
    check_name,
    clean,
    directory_rows,
    inside,
    list_rows,
    printable,
)

_SHOWN_PROBLEMS = 3


class Recording(NamedTuple):
    """A usable recording of a dataset.

    Args:
        id: Unique name.
        text: Transcript: one line, not empty.
        speaker: Name of the speaker; the dataset's name if it gives none.
        path: Absolute path of the audio file.
        words: The words of the text and their times, or none.
    """

    id: str
    text: str
    speaker: str
    path: Path
    words: tuple[Word, ...] = ()


def read_dataset(
    path: str | os.PathLike,
    copies: str | os.PathLike | None = None,
    limit: int | None = None,
) -> tuple[list[Recording], list[Skipped]]:
    """Lists the recordings of a dataset and its problems.

    A dataset is one of

    * a list, see below, or a directory with one: `metadata.csv`, `metadata.jsonl` or
      Common Voice's `validated.tsv`; or a directory of such directories, one per
      speaker (or `train`, `test` and so on), whose names are prefixed to the ids;
    * a directory of audio files, sub-directories included, with a `.txt` or `.lab` file
      of the same name beside each. The first sub-directory is the speaker. LibriTTS
      and VCTK are recognised. Hidden files and directories are ignored;
    * `hf:OWNER/NAME`, a dataset of the Hugging Face hub, or `hf:` and a directory that
      the package `datasets` reads; see `hub_datasets.hub_rows`.

    A list has a line per recording. Its columns are named by the first line (separated
    by commas, tabs or bars) or by the keys of JSON objects (`.jsonl`): for the audio
    `file_name`, `audio`, `path` and others, for the text `text`, `sentence`,
    `transcription` and others, and optionally `speaker`, `client_id` or `id`. A JSON
    object may have `words`, objects with `word`, `start` and `end` in seconds. Without
    names, the columns of a `.csv` are LJSpeech's, `id|text` or `id|text|normalised`;
    those of `.txt`, `.tsv` and `.list` files `path|text`, `path|speaker|text` or
    GPT-SoVITS's `path|speaker|language|text`. The audio is beside the list, or in
    `wavs/` or `clips/`, and may be named without its suffix.

    Files are UTF-8, with or without a byte order mark. In texts, control characters and
    runs of white space become one space. If lines share an id, the first usable one is
    taken.

    Args:
        path: Directory, list or `hf:` name.
        copies: Directory that receives the audio of a `hf:` dataset.
        limit: Number of usable recordings after which reading stops. None: all.

    Returns:
        The recordings in the dataset's order (directories: by name), and the problems.

    Raises:
        FileNotFoundError: If the path does not exist.
        ValueError: If the path is not a dataset, or nothing in it is usable.
        ImportError: If a `hf:` dataset needs the package `datasets`.
    """
    if os.fspath(path).startswith(PREFIX):
        base = local_path(copies or "recordings", f"OUT of {path}").resolve()
        rows, is_own_list = hub_rows(os.fspath(path), base), False
    else:
        if remote_scheme(path):
            raise ValueError(
                "A dataset must be on this machine or mounted, because recordings are "
                f"decoded from files; only OUT may be a URL. Received: {str(path)!r}"
            )
        path = local_path(path, "A dataset")
        if not path.exists():
            raise FileNotFoundError(f"There is no dataset {str(path)!r}")
        is_own_list = not path.is_dir()
        base = (path.parent if is_own_list else path).resolve()
        rows = _own_list_rows(path, base) if is_own_list else directory_rows(base)
    recordings, problems = _check(rows, base, is_own_list, limit)
    if not recordings:
        raise ValueError(_nothing_usable(path, problems))
    return recordings, problems


def _own_list_rows(path: Path, base: Path) -> Iterator[Row | Skipped]:
    if path.suffix.lower() not in LIST_SUFFIXES:
        raise ValueError(
            f"A dataset must be a directory, a list ({', '.join(LIST_SUFFIXES)}) or "
            f"{PREFIX}OWNER/NAME. Received: {str(path)!r}"
        )
    return list_rows(path, base.name or "dataset")


def _nothing_usable(path: str | os.PathLike, problems: list[Skipped]) -> str:
    message = f"The dataset {os.fspath(path)!r} has no usable recording."
    if problems:
        shown = [f"{one.where}: {one.message}" for one in problems[:_SHOWN_PROBLEMS]]
        message += f" {len(problems)} problems, the first: {'; '.join(shown)}."
    lists = [
        file.name
        for file in sorted(Path(path).glob("*"))
        if file.suffix.lower() in LIST_SUFFIXES
    ]
    if lists:
        return (
            f"{message} To read a list, name it: {', '.join(lists[:_SHOWN_PROBLEMS])}"
        )
    if problems:
        return message
    return (
        f"{message} Expected {', '.join(LIST_NAMES)}, or audio files with a .txt "
        "beside each"
    )


def _check(
    rows: Iterator[Row | Skipped], base: Path, may_be_absolute: bool, limit: int | None
) -> tuple[list[Recording], list[Skipped]]:
    recordings: list[Recording] = []
    problems: list[Skipped] = []
    seen: dict[str, str] = {}
    for row in rows:
        try:
            if isinstance(row, Row):
                recordings.append(_checked(row, base, seen, may_be_absolute))
                seen[row.id] = row.where
            else:
                problems.append(row)
        except ValueError as error:
            problems.append(Skipped.of(row.id, row.where, error))
        if len(recordings) == limit:
            break
    return recordings, [Skipped(*map(printable, problem)) for problem in problems]


def _checked(
    row: Row, base: Path, seen: dict[str, str], may_be_absolute: bool
) -> Recording:
    for name, value in (("id", row.id), ("speaker", row.speaker), ("text", row.text)):
        if not value:
            raise ValueError(f"{name} is empty")
        if value != printable(value):
            # A lone surrogate, or a file name in another encoding.
            raise ValueError(f"{name} has characters that are not Unicode")
        if name != "text" and value != clean(value):
            raise ValueError(f"{name} has control characters or extra spaces")
    if row.id in seen:
        raise ValueError(f"the id is already used. Received: {seen[row.id]}")
    path = _find(base, row.candidates, may_be_absolute)
    return Recording(row.id, row.text, row.speaker, path, row.words)


def _find(base: Path, candidates: tuple[str, ...], may_be_absolute: bool) -> Path:
    first = candidates[0]
    check_name(first)
    is_absolute = Path(first).is_absolute()
    if not (is_absolute and may_be_absolute):
        inside(base, first)
    for candidate in candidates:
        try:
            if (base / candidate).is_file():
                return Path(candidate) if is_absolute else inside(base, candidate)
        except OSError as error:
            raise ValueError(f"the audio file: {error.strerror}") from error
    others = "" if len(candidates) == 1 else ", nor with another suffix or in wavs/"
    raise ValueError(f"no audio file. Received: {first}{others}")
