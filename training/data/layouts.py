"""The layouts of datasets: lists of recordings, and folders of them, as rows.

A list has a recording per line. Its first line may name the columns (see `_ROLES`), a
JSON object always does; otherwise `_POSITIONS` says what the columns are. In a folder,
`_FOLDERS` says where the text of an audio file is. Nothing here opens an audio file.
"""

from __future__ import annotations

import csv
import difflib
import json
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from bark_tf.audio.reading import SUFFIXES
from bark_tf.files import read_bytes

# Lists that are looked for in a directory, and in each of its sub-directories.
LIST_NAMES = ("metadata.csv", "metadata.jsonl", "validated.tsv")
LIST_SUFFIXES = (".csv", ".jsonl", ".tsv", ".txt", ".list")
# What the values of a row are for -> the names of their columns, best first.
_ROLES = {
    "audio": (
        *("audio", "file_name", "path", "audio_filepath", "audio_file", "audio_path"),
        *("file", "filename", "wav"),
    ),
    "text": (
        *("normalized_text", "text_normalized", "text", "sentence", "transcription"),
        *("transcript", "raw_transcription"),
    ),
    "speaker": ("speaker", "speaker_id", "speaker_name", "client_id"),
    "id": ("id",),
}
_REQUIRED = ("audio", "text")
# Number of columns -> what they are, where no line says it: LJSpeech; other lists.
_LJSPEECH = {2: ("audio", "text"), 3: ("audio", "text", "normalised")}
_POSITIONS = {
    2: ("audio", "text"),
    3: ("audio", "speaker", "text"),
    4: ("audio", "speaker", "language", "text"),
}
# Where audio may be, relative to a list: LJSpeech, Common Voice.
_AUDIO_FOLDERS = ("", "wavs/", "clips/")
# Sub-directories with these names are parts of a dataset, not speakers.
_SPLIT_NAMES = ("train", "validation", "valid", "dev", "test")
_BOM = b"\xef\xbb\xbf"
# Unicode categories: control characters, line and paragraph separators.
CONTROL = ("Cc", "Zl", "Zp")
_TEXT_SUFFIXES = (".txt", ".lab")
_KINDS = ", ".join(suffix[1:] for suffix in SUFFIXES)
# How similar a key must be to a known one to be its misspelling.
_SIMILAR = 0.85


class Word(NamedTuple):
    """A word of a recording, with its time in seconds."""

    text: str
    start_s: float
    end_s: float


class Row(NamedTuple):
    """A recording as a dataset names it, not checked.

    Attributes:
        id: Name of the recording.
        text: Transcript.
        speaker: Name of the speaker.
        candidates: Paths relative to the dataset's directory, or absolute. The first
            that exists is the audio.
        where: A line such as `"metadata.csv:17"`, or a file.
        words: The words and their times, or none.
    """

    id: str
    text: str
    speaker: str
    candidates: tuple[str, ...]
    where: str
    words: tuple[Word, ...] = ()


class Skipped(NamedTuple):
    """A recording that cannot be used.

    Attributes:
        id: Its name in the dataset, or `""`.
        where: File or line.
        reason: What is wrong, in words that equal problems share.
        detail: What was found there, or `""`.
    """

    id: str
    where: str
    reason: str
    detail: str = ""

    @classmethod
    def of(cls, id: str, where: str, error: Exception | str) -> Skipped:
        """Takes reason and detail from a message `"reason. Received: detail"`."""
        reason, _, detail = str(error).partition(". Received: ")
        return cls(id, where, reason, detail)

    @property
    def message(self) -> str:
        """Reason and detail in one line."""
        return f"{self.reason}. Received: {self.detail}" if self.detail else self.reason


def clean(text: str) -> str:
    """One line without control characters or repeated spaces."""
    spaced = (" " if unicodedata.category(c) in CONTROL else c for c in text)
    return " ".join("".join(spaced).split())


def directory_rows(base: Path) -> Iterator[Row | Skipped]:
    """The rows of a directory: of its list, of its sub-directories' lists, or files."""
    speaker = base.name or "dataset"
    for name in LIST_NAMES:
        if (base / name).is_file():
            return list_rows(base / name, speaker)
        lists = sorted(base.glob(f"*/{name}"))
        if lists:
            return (row for path in lists for row in _part_rows(path, speaker))
    return _folder_rows(base, speaker)


def _part_rows(path: Path, speaker: str) -> Iterator[Row | Skipped]:
    """The rows of one of several lists, relative to the dataset's directory."""
    folder = path.parent.name
    for row in list_rows(path, speaker if folder in _SPLIT_NAMES else folder):
        # Two speakers may use the same ids.
        row = row._replace(
            where=f"{folder}/{row.where}", id=row.id and f"{folder}/{row.id}"
        )
        if isinstance(row, Row):
            inside = tuple(os.path.join(folder, file) for file in row.candidates)
            row = row._replace(candidates=inside)
        yield row


# === Lists ===


def list_rows(path: Path, speaker: str) -> Iterator[Row | Skipped]:
    """The rows of a list; a bad line does not affect the others.

    Args:
        path: The list.
        speaker: Name of the speaker where the list gives none.

    Raises:
        ValueError: If its first line names columns, but not those that are needed.
    """
    # str.splitlines would also split at characters inside a text.
    lines = read_bytes(path).removeprefix(_BOM).split(b"\n")
    numbered = [(n, line) for n, line in enumerate(lines, start=1) if line.strip()]
    read, skip = _json_row, 0
    if path.suffix.lower() != ".jsonl":
        try:
            read, skip = _column_reader(path, [line for _, line in numbered])
        except ValueError as error:
            raise ValueError(f"The first line of {str(path)!r}: {error}") from error
    for number, line in numbered[skip:]:
        where = f"{path.name}:{number}"
        try:
            yield read(decode(line).strip("\r"), speaker, where)
        except ValueError as error:
            yield Skipped.of("", where, error)


def decode(data: bytes) -> str:
    """Decodes UTF-8 with or without a byte order mark; else raises ValueError."""
    try:
        return data.removeprefix(_BOM).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8. Received: byte {error.start + 1}") from error


_ReadLine = Callable[[str, str, str], Row | Skipped]


def _column_reader(path: Path, lines: Sequence[bytes]) -> tuple[_ReadLine, int]:
    """The function that reads a line, and the number of lines before the first row."""
    texts = [line.decode("utf-8", "replace").strip("\r") for line in lines]
    first = texts[0] if texts else ""
    delimiter = next((one for one in "|\t" if one in first), ",")
    names = [name.strip().lower() for name in _fields(first, delimiter)]
    found = [one for one in _REQUIRED if not set(_ROLES[one]).isdisjoint(names)]
    # Between bars, a word such as `text` may as well be a text.
    needed = len(_REQUIRED) if delimiter == "|" else 1
    are_names = all(not name or name.isidentifier() for name in names)
    if are_names and len(names) > 1 and len(found) >= needed:
        roles = roles_of(names)
        for role in _REQUIRED:
            if role not in roles:
                raise ValueError(
                    f"it must name a column for the {role}: one of "
                    f"{', '.join(_ROLES[role])}. Received: {', '.join(names)}"
                )
        return partial(_named_row, delimiter, names, roles), 1
    is_ljspeech = path.suffix.lower() == ".csv"
    delimiter = "\t" if delimiter == "\t" else "|"
    positions = _LJSPEECH if is_ljspeech else _positions(texts, delimiter)
    return partial(_positional_row, delimiter, positions), 0


def _fields(line: str, delimiter: str) -> list[str]:
    """Splits a line; only commas may be quoted."""
    if delimiter != ",":
        return line.split(delimiter)
    try:
        return next(csv.reader([line], strict=True), [])
    except csv.Error as error:
        raise ValueError(
            f"its quotes or commas are wrong. Received: {error}"
        ) from error


def roles_of(names: Iterable[str]) -> dict[str, str]:
    """Role -> the name of its column.

    Raises:
        ValueError: If a name is a known one with a typing error.
    """
    known = [alias for aliases in _ROLES.values() for alias in aliases]
    for name in names:
        near = difflib.get_close_matches(name, known, n=1, cutoff=_SIMILAR)
        if near and name not in known and abs(len(near[0]) - len(name)) < 2:
            raise ValueError(f"unknown key {name!r}; did you mean {near[0]!r}?")
    return {
        role: next(alias for alias in aliases if alias in names)
        for role, aliases in _ROLES.items()
        if not set(aliases).isdisjoint(names)
    }


def _named_row(
    delimiter: str, names: Sequence[str], roles: dict[str, str], *line: str
) -> Row | Skipped:
    text, speaker, where = line
    fields = _fields(text, delimiter)
    if len(fields) != len(names):
        reason = f"expected the {len(names)} columns of the first line"
        return Skipped(fields[0].strip(), where, reason, f"{len(fields)} columns")
    values = dict(zip(names, fields, strict=True))
    entry = {role: values[name].strip() for role, name in roles.items()}
    return row_of({**entry, "id": entry.get("id") or None}, speaker, where)


def _positions(lines: Sequence[str], delimiter: str) -> dict[int, tuple[str, ...]]:
    """What the columns of a list are; of three, the second is a text or a speaker."""
    second = [line.split(delimiter)[1] for line in lines if line.count(delimiter) == 2]
    if 2 * sum(" " in value.strip() for value in second) > len(second):
        return {**_POSITIONS, 3: _LJSPEECH[3]}
    return _POSITIONS


def _positional_row(
    delimiter: str, positions: dict[int, tuple[str, ...]], *line: str
) -> Row | Skipped:
    text, speaker, where = line
    fields = [field.strip() for field in text.split(delimiter)]
    if len(fields) not in positions:
        known = " or ".join(delimiter.join(names) for names in positions.values())
        reason = f"expected {known}, or the columns' names in the first line"
        return Skipped(fields[0], where, reason, f"{len(fields)} columns")
    entry = dict(zip(positions[len(fields)], fields, strict=True))
    entry["text"] = clean(entry.get("normalised", "")) or entry["text"]
    return row_of(entry, speaker, where)


def _json_row(line: str, speaker: str, where: str) -> Row:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON. Received: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"not an object with {' and '.join(_REQUIRED)}")
    roles = roles_of(values)
    entry = {role: values.get(roles.get(role)) for role in _ROLES}
    for role, value in entry.items():
        if role in _REQUIRED and not isinstance(value, str):
            raise ValueError(f"{roles.get(role, role)} must be a string")
        # Speakers and ids are often numbers.
        if isinstance(value, bool) or not isinstance(value, str | int | None):
            raise ValueError(f"{roles[role]} must be a string or a whole number")
    if not Path(entry["audio"]).name:
        raise ValueError(f"{roles['audio']} must name a file")
    words = _timed(values.get("words") or ())
    return row_of(entry, speaker, where)._replace(words=words)


def _timed(values: Any) -> tuple[Word, ...]:
    try:
        words = tuple(
            Word(clean(one["word"]), float(one["start"]), float(one["end"]))
            for one in values
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            "words must be a list of objects with word, start and end (in seconds)"
        ) from error
    starts = [0.0, *(word.start_s for word in words)]
    # Not a number is never in order.
    if not all(a <= b for a, b in pairwise(starts)) or not all(
        word.start_s <= word.end_s for word in words
    ):
        raise ValueError("the times of words must not decrease")
    return words


def row_of(entry: dict[str, Any], speaker: str, where: str) -> Row:
    """A row of values by role; `id` may be None, and `speaker` is the default."""
    audio, name = entry["audio"], entry.get("id")
    if entry.get("speaker") not in (None, ""):
        speaker = str(entry["speaker"])
    return Row(
        id=_without_suffix(audio) if name is None else str(name),
        text=clean(entry["text"]),
        speaker=speaker,
        candidates=tuple(_candidates(audio)),
        where=where,
    )


def _candidates(audio: str) -> Iterator[str]:
    """Where the audio may be that a list names, with or without its suffix."""
    if Path(audio).is_absolute():
        yield audio
        return
    names = [audio]
    for suffix in SUFFIXES:
        names += [audio + suffix, audio + suffix.upper()]
    yield from (folder + name for folder in _AUDIO_FOLDERS for name in names)


def _without_suffix(file: str) -> str:
    path = Path(file)
    return path.with_suffix("").as_posix() if path.suffix.lower() in SUFFIXES else file


# === A folder ===


class _Transcript(NamedTuple):
    """Where the text of an audio file may be, and what its name says.

    Attributes:
        file: Path of the text.
        id: Name of the recording.
        speaker: Name of the speaker, or `""`.
    """

    file: str
    id: str
    speaker: str


# A pattern of an audio file's path without suffix -> templates of `_Transcript`s, best
# first.
_FOLDERS = {
    # VCTK; its two microphones recorded the same sentence.
    r"(.*/)?wav48[^/]*/([^/]+)/([^/]+?)(?:_mic\d)?": [
        _Transcript(r"\1txt/\2/\3.txt", r"\2/\3", r"\2")
    ],
    # LibriTTS: SPEAKER/CHAPTER/SPEAKER_CHAPTER_...
    r"(?:.*/)?([^/]+)/([^/]+)/\1_\2_[^/]+": [
        _Transcript(r"\g<0>.normalized.txt", r"\g<0>", r"\1"),
        _Transcript(r"\g<0>.original.txt", r"\g<0>", r"\1"),
    ],
    r"(?:([^/]+)/)?.*": [
        _Transcript(rf"\g<0>{suffix}", r"\g<0>", r"\1")
        for suffix in (".normalized.txt", ".txt", ".original.txt", ".lab")
    ],
}


def _folder_rows(base: Path, speaker: str) -> Iterator[Row | Skipped]:
    unreadable: list[OSError] = []
    files: set[str] = set()
    for folder, folders, names in os.walk(base, onerror=unreadable.append):
        folders[:] = [name for name in folders if not name.startswith(".")]
        parent = Path(folder).relative_to(base)
        files |= {(parent / n).as_posix() for n in names if not n.startswith(".")}
    spoken: set[str] = set()
    for file in sorted(files):
        if _suffix(file) in SUFFIXES:
            choices = _transcripts(Path(file).with_suffix("").as_posix())
            spoken |= {choice.file for choice in choices}
            found = [choice for choice in choices if choice.file in files]
            yield _folder_row(base, file, speaker, *found[:1])
    for file in sorted(files - spoken):
        if _suffix(file) in _TEXT_SUFFIXES:
            name = Path(file).with_suffix("").as_posix()
            yield Skipped(name, file, f"no audio file beside it ({_KINDS})")
    for error in unreadable:
        where = Path(error.filename).relative_to(base).as_posix()
        yield Skipped("", where, f"cannot be read: {error.strerror}")


def _suffix(file: str) -> str:
    return Path(file).suffix.lower()


def _transcripts(stem: str) -> list[_Transcript]:
    return [
        _Transcript(*map(match.expand, template))
        for pattern, templates in _FOLDERS.items()
        if (match := re.fullmatch(pattern, stem))
        for template in templates
    ]


def _folder_row(
    base: Path, file: str, speaker: str, found: _Transcript | None = None
) -> Row | Skipped:
    name = Path(file).with_suffix("").as_posix()
    if found is None:
        return Skipped(name, file, "no .txt or .lab beside it")
    try:
        text = clean(decode(read_bytes(inside(base, found.file))))
    except ValueError as error:
        return Skipped.of(name, file, f"its text: {error}")
    except OSError as error:
        return Skipped(name, file, f"its text cannot be read: {error.strerror}")
    return Row(found.id, text, found.speaker or speaker, (file,), file)


# === Paths ===


def inside(base: Path, relative: str) -> Path:
    """The absolute path of a file; ValueError if it is outside of the dataset."""
    check_name(relative)
    try:
        path = (base / relative).resolve()
    except (OSError, RuntimeError) as error:  # circular links
        raise ValueError(
            f"its path cannot be resolved. Received: {relative}"
        ) from error
    is_plain = not Path(relative).is_absolute() and ".." not in Path(relative).parts
    if not is_plain or not path.is_relative_to(base):
        raise ValueError(
            "the file is not inside the dataset's directory (only a list that is given "
            f"as the dataset may have absolute paths). Received: {relative}"
        )
    return path


def check_name(path: str) -> None:
    """Raises ValueError if a path has characters that no file name should have."""
    if any(unicodedata.category(char) in CONTROL for char in path):
        raise ValueError("the path has control characters")
    if path != printable(path):
        raise ValueError("the path has characters that are not Unicode")


def printable(text: str) -> str:
    """Replaces what UTF-8 cannot encode."""
    return text.encode("utf-8", "replace").decode("utf-8")
