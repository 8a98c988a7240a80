"""Reads datasets of recordings with transcripts and reports what is unusable.

Three formats: LJSpeech's `metadata.csv`, a folder of audio files with a `.txt` file
beside each, and JSON lines. No audio is decoded here. Audio files must be inside the
dataset's directory, also after following links.
"""

from __future__ import annotations

import itertools
import json
import os
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
METADATA = "metadata.csv"
JSON_KEYS = ("audio", "text", "speaker", "id")
_REQUIRED_KEYS = JSON_KEYS[:2]
_BOM = b"\xef\xbb\xbf"
# Unicode categories: control characters, line and paragraph separators.
_CONTROL = ("Cc", "Zl", "Zp")
_SHOWN_PROBLEMS = 3


class Recording(NamedTuple):
    """A usable recording of a dataset.

    Args:
        id: Unique name.
        text: Transcript: one line, not empty.
        speaker: Name of the speaker; the dataset's name if it gives none.
        path: Absolute path of the audio file.
    """

    id: str
    text: str
    speaker: str
    path: Path


class Problem(NamedTuple):
    """A line or file of a dataset that cannot be used.

    Args:
        id: Name of the recording, or `""`.
        reason: What is wrong.
        where: A line such as `"metadata.csv:17"`, or a file relative to the dataset.
    """

    id: str
    reason: str
    where: str


class _Row(NamedTuple):
    """A line, read but not checked."""

    id: str
    text: str
    speaker: str
    candidates: tuple[str, ...]  # relative paths; the first that exists is the audio
    where: str


def read_dataset(path: str | os.PathLike) -> tuple[list[Recording], list[Problem]]:
    """Lists the recordings of a dataset and its problems.

    Three formats:

    * LJSpeech: a directory with `metadata.csv`, or that file. Lines are `id|text` or
      `id|text|normalised`; the normalised text is preferred. The audio is `id` with one
      of `AUDIO_SUFFIXES`, beside the file or in `wavs/`. Or a directory of such
      directories, one per speaker, whose names are prefixed to the ids.
    * A directory of audio files, sub-directories included, with a `.txt` file of the
      same name beside each. The first sub-directory is the speaker. Hidden files and
      directories are ignored.
    * A `.jsonl` file of objects with `audio` (a path relative to the file), `text` and
      optionally `speaker` and `id`.

    Files are UTF-8, with or without a byte order mark. In texts, control characters and
    runs of white space become one space. If lines share an id, the first usable one is
    taken.

    Args:
        path: Directory, `.csv` or `.jsonl`.

    Returns:
        The recordings in the dataset's order (directories: by name), and the problems.

    Raises:
        FileNotFoundError: If the path does not exist.
        ValueError: If the path is not a dataset, or nothing in it is usable.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no dataset {str(path)!r}")
    base = (path if path.is_dir() else path.parent).resolve()
    recordings, problems = _check(_rows(path, base), base)
    if not recordings:
        raise ValueError(_nothing_usable(path, problems))
    return recordings, problems


def _rows(path: Path, base: Path) -> Iterator[_Row | Problem]:
    speaker = base.name or "dataset"
    if path.is_dir() and (path / METADATA).is_file():
        path = path / METADATA
    if path.is_dir():
        folders = sorted(file.parent for file in path.glob(f"*/{METADATA}"))
        if folders:
            return itertools.chain.from_iterable(map(_speaker_rows, folders))
        return _folder_rows(base, speaker)
    readers = {".csv": _metadata_row, ".jsonl": _json_row}
    if path.suffix.lower() not in readers:
        raise ValueError(
            f"A dataset must be a directory, a .csv or a .jsonl file. "
            f"Received: {str(path)!r}"
        )
    return _line_rows(path, speaker, readers[path.suffix.lower()])


def _speaker_rows(folder: Path) -> Iterator[_Row | Problem]:
    """The rows of one of several speakers' LJSpeech folders."""
    name = folder.name
    for row in _line_rows(folder / METADATA, name, _metadata_row):
        row = row._replace(where=f"{name}/{row.where}")
        if isinstance(row, _Row):
            candidates = tuple(f"{name}/{file}" for file in row.candidates)
            # Two speakers may use the same ids.
            number = row.id and f"{name}/{row.id}"
            row = row._replace(id=number, candidates=candidates)
        yield row


def _nothing_usable(path: Path, problems: list[Problem]) -> str:
    message = f"The dataset {str(path)!r} has no usable recording."
    if not problems:
        return f"{message} Expected {METADATA}, or audio files with a .txt beside each"
    shown = [f"{where}: {reason}" for _, reason, where in problems[:_SHOWN_PROBLEMS]]
    return f"{message} {len(problems)} problems, the first: {'; '.join(shown)}"


# === Lines of a file ===


def _line_rows(
    path: Path, speaker: str, read_row: Callable[[str, str, str], _Row | Problem]
) -> Iterator[_Row | Problem]:
    """Reads a file line by line; a bad line does not affect the others."""
    with open(path, "rb") as file:
        # str.splitlines would also split at characters inside a text.
        for number, line in enumerate(file, start=1):
            if number == 1:
                line = line.removeprefix(_BOM)
            where = f"{path.name}:{number}"
            if not line.strip():
                continue
            try:
                yield read_row(_decode(line).rstrip("\r\n"), speaker, where)
            except ValueError as error:
                yield Problem("", str(error), where)


def _decode(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 (byte {error.start + 1})") from error


def _metadata_row(line: str, speaker: str, where: str) -> _Row | Problem:
    name, *texts = line.split("|")
    name = name.strip()
    if len(texts) not in (1, 2):
        reason = f"{len(texts) + 1} columns; expected id|text or id|text|normalised"
        return Problem(name, reason, where)
    text = _clean(texts[-1]) or _clean(texts[0])
    files = [name + suffix for suffix in _suffixes()]
    candidates = (*files, *(f"wavs/{file}" for file in files))
    return _Row(name, text, speaker, candidates, where)


def _suffixes() -> Iterator[str]:
    for suffix in AUDIO_SUFFIXES:
        yield from (suffix, suffix.upper())


def _json_row(line: str, speaker: str, where: str) -> _Row | Problem:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON ({error})") from error
    if not isinstance(entry, dict):
        raise ValueError(f"not an object with {' and '.join(_REQUIRED_KEYS)}")
    _check_json(entry)
    audio = entry["audio"]
    name = entry.get("id")
    name = Path(audio).with_suffix("").as_posix() if name is None else str(name)
    if entry.get("speaker") not in (None, ""):
        speaker = str(entry["speaker"])
    return _Row(name, _clean(entry["text"]), speaker, (audio,), where)


def _check_json(entry: dict[str, Any]) -> None:
    unknown = [key for key in entry if key not in JSON_KEYS]
    if unknown:
        raise ValueError(f"unknown key {unknown[0]!r}; known: {', '.join(JSON_KEYS)}")
    for key in JSON_KEYS:
        value = entry.get(key)
        if key in _REQUIRED_KEYS and not isinstance(value, str):
            raise ValueError(f"{key} must be a string")
        # Speakers and ids are often numbers.
        if isinstance(value, bool) or not isinstance(value, str | int | None):
            raise ValueError(f"{key} must be a string or a whole number")
    if not Path(entry["audio"]).name:
        raise ValueError("audio must name a file")


# === A folder ===


def _folder_rows(base: Path, speaker: str) -> Iterator[_Row | Problem]:
    unreadable: list[OSError] = []
    files: list[str] = []
    for folder, folders, names in os.walk(base, onerror=unreadable.append):
        folders[:] = [name for name in folders if not name.startswith(".")]
        parent = Path(folder).relative_to(base)
        files += [(parent / n).as_posix() for n in names if not n.startswith(".")]
    audio = sorted(file for file in files if _suffix(file) in AUDIO_SUFFIXES)
    for file in audio:
        yield _folder_row(base, file, speaker)
    spoken = {_stem(file) for file in audio}
    for file in sorted(file for file in files if _suffix(file) == ".txt"):
        if _stem(file) not in spoken:
            yield Problem(_stem(file), "no audio file beside it", file)
    for error in unreadable:
        where = Path(error.filename).relative_to(base).as_posix()
        yield Problem("", f"cannot be read: {error.strerror}", where)


def _suffix(file: str) -> str:
    return Path(file).suffix.lower()


def _stem(file: str) -> str:
    return Path(file).with_suffix("").as_posix()


def _folder_row(base: Path, file: str, speaker: str) -> _Row | Problem:
    name = _stem(file)
    parents = Path(file).parts[:-1]
    try:
        text_file = _inside(base, f"{name}.txt")
        text = _clean(_decode(text_file.read_bytes().removeprefix(_BOM)))
    except FileNotFoundError:
        return Problem(name, "no .txt beside it", file)
    except ValueError as error:
        return Problem(name, f"its .txt: {error}", file)
    except OSError as error:
        return Problem(name, f"its .txt cannot be read: {error.strerror}", file)
    return _Row(name, text, parents[0] if parents else speaker, (file,), file)


# === Checking ===


def _clean(text: str) -> str:
    """One line without control characters or repeated spaces."""
    spaced = (" " if unicodedata.category(c) in _CONTROL else c for c in text)
    return " ".join("".join(spaced).split())


def _check(
    rows: Iterator[_Row | Problem], base: Path
) -> tuple[list[Recording], list[Problem]]:
    recordings: list[Recording] = []
    problems: list[Problem] = []
    seen: dict[str, str] = {}
    for row in rows:
        try:
            if isinstance(row, _Row):
                recordings.append(_checked(row, base, seen))
                seen[row.id] = row.where
            else:
                problems.append(row)
        except ValueError as error:
            problems.append(Problem(row.id, str(error), row.where))
    return recordings, [Problem(*map(_printable, problem)) for problem in problems]


def _checked(row: _Row, base: Path, seen: dict[str, str]) -> Recording:
    for name, value in (("id", row.id), ("speaker", row.speaker), ("text", row.text)):
        if not value:
            raise ValueError(f"{name} is empty")
        if value != _printable(value):
            # A lone surrogate, or a file name in another encoding.
            raise ValueError(f"{name} has characters that are not Unicode")
        if name != "text" and value != _clean(value):
            raise ValueError(f"{name} has control characters or extra spaces")
    if row.id in seen:
        raise ValueError(f"the id is already used in {seen[row.id]}")
    return Recording(row.id, row.text, row.speaker, _find(base, row.candidates))


def _printable(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


def _find(base: Path, candidates: tuple[str, ...]) -> Path:
    for candidate in candidates:
        path = _inside(base, candidate)
        try:
            if path.is_file():
                return path
        except OSError as error:
            raise ValueError(f"the audio file: {error.strerror}") from error
    others = "" if len(candidates) == 1 else ", nor with another suffix"
    raise ValueError(f"no audio file {candidates[0]}{others}")


def _inside(base: Path, relative: str) -> Path:
    """The absolute path of a file; ValueError if it is outside of the dataset."""
    if any(unicodedata.category(char) in _CONTROL for char in relative):
        raise ValueError("the path has control characters")
    if relative != _printable(relative):
        raise ValueError("the path has characters that are not Unicode")
    try:
        path = (base / relative).resolve()
    except (OSError, RuntimeError) as error:  # circular links
        raise ValueError(f"{relative} cannot be resolved") from error
    is_plain = not Path(relative).is_absolute() and ".." not in Path(relative).parts
    if not is_plain or not path.is_relative_to(base):
        raise ValueError(f"{relative} is not inside the dataset's directory")
    return path
