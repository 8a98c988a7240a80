"""Atomic writing, JSON objects, URLs, and paths that stay inside a directory."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path, PureWindowsPath
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from bark_tf.locks import claim_temporary

_LFS_HEAD = b"version https://git-lfs"
LFS_POINTER = (
    "this is a git-lfs pointer, not the file itself. Get the file with `git lfs pull`"
)
# What stops a file from being written, also where the error names no file.
_DISK_ERRORS = (errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EFBIG)
# Bytes that systems allow in the name of a file.
_LONGEST_NAME = 255
# Characters of a name that its temporary file shows.
_KEPT = 40
# Characters shown of a path that is refused.
_SHOWN = 80
# Parsed, a JSON file may be thirty times larger.
_MAX_JSON_BYTES = 32 * 2**20
_MAX_BYTES = 2**30
_MAX_DEPTH = 100
# Two characters at least: one is a drive of Windows. `Path` makes `gs:/` of `gs://`.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path beside `path` and renames it on success.

    Nothing half-written ever appears under the final name. What a killed process has
    left beside `path` is used again or removed.

    Raises:
        OSError: If it cannot be written, with `path` as its file name.
    """
    path = Path(path)
    stem, suffix = path.stem[:_KEPT], path.suffix[:_KEPT]  # no file name is too long
    hidden = path.with_name(f".{stem}.saving-")
    with errors_name(path, hidden):
        temporary = claim_temporary(hidden, suffix)
        try:
            yield temporary.path
            os.replace(temporary.path, path)
        except BaseException:
            temporary.remove()
            raise
        temporary.release()


@contextlib.contextmanager
def errors_name(path: str | os.PathLike, temporary: str | os.PathLike) -> Iterator:
    """Puts the user's path into errors about writing what is to become it.

    Args:
        path: The file or folder that the user asked for.
        temporary: The hidden one that is written first.

    Raises:
        OSError: With `path` as its file name; also in place of the errors of other
            libraries that say the disk is full or read-only.
    """
    try:
        yield
    except Exception as error:
        if (number := _write_error(error, os.fspath(temporary))) is None:
            raise
        raise OSError(number, os.strerror(number), os.fspath(path)) from error


def _write_error(error: Exception, temporary: str) -> int | None:
    """The number of an error about what is being written; None for other errors."""
    if isinstance(error, OSError) and error.errno is not None:
        is_ours = error.filename is None and error.errno in _DISK_ERRORS
        return error.errno if is_ours or temporary in str(error.filename) else None
    return next((n for n in _DISK_ERRORS if os.strerror(n) in str(error)), None)


@contextlib.contextmanager
def blame(path: str | os.PathLike) -> Iterator[None]:
    """Puts the name of a file before the errors about what it holds."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def is_lfs_pointer(head: bytes) -> bool:
    """Whether a file that begins like this stands for one that git-lfs has not got."""
    return head.startswith(_LFS_HEAD)


def refuse_lfs_pointer(path: str | os.PathLike) -> None:
    """Raises ValueError if git-lfs has not got the contents of a file yet."""
    with open(path, "rb") as file:
        if is_lfs_pointer(file.read(len(_LFS_HEAD))):
            raise ValueError(f"{path}: {LFS_POINTER}")


def check_file(path: str | os.PathLike, most: float = math.inf) -> None:
    """Refuses what is no file, before a reader would wait for its end.

    Args:
        path: The file.
        most: Bytes that it may have.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is larger, or a folder, pipe or device.
    """
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(
            f"{path} must be a file. Received: a folder, a pipe or a device"
        )
    if found.st_size > most:
        raise ValueError(
            f"{path} must have at most {most} bytes. Received: {found.st_size}"
        )


def read_bytes(path: str | os.PathLike, most: int = _MAX_BYTES) -> bytes:
    """Reads a file whole, after `check_file`."""
    check_file(path, most)
    return Path(path).read_bytes()


def read_text(path: str | os.PathLike, most: int = _MAX_BYTES) -> str:
    """Reads a file of UTF-8 text, with or without a byte order mark.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is something else.
    """
    try:
        return read_bytes(path, most).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} must be UTF-8 text. Received: another byte at {error.start}"
        ) from error


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Writes a JSON object, in a folder that is created if missing.

    It may be found half-written: for files of a `saving` block.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def read_json_object(path: str | os.PathLike) -> dict[str, Any]:
    """Reads a file that holds one JSON object.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file holds something else.
    """
    text = read_text(path, _MAX_JSON_BYTES)
    if is_lfs_pointer(text.encode()):
        raise ValueError(f"{path}: {LFS_POINTER}")
    return parse_json_object(text, path)


def parse_json_object(text: str, where: str | os.PathLike) -> dict[str, Any]:
    """Parses a text that holds one JSON object.

    Args:
        text: The text.
        where: The file, for the error message.

    Raises:
        ValueError: If the text holds something else.
    """
    try:
        values = json.loads(text, object_pairs_hook=_unique)
        _check_depth(values)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(
            f"{where} must hold a JSON object. Received: {type(values).__name__}"
        )
    return values


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; readers disagree on keys that occur twice."""
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it has the key {twice[:_SHOWN]!r} twice")
    return values


def _check_depth(values: Any) -> None:
    """Raises ValueError for what recursive functions cannot walk."""
    level = [values]
    for _ in range(_MAX_DEPTH):
        level = [
            inner
            for value in level
            if isinstance(value, dict | list)
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
    if level:
        raise ValueError(f"it is nested more than {_MAX_DEPTH} levels deep")


def check_relative(path: str | os.PathLike, what: str) -> None:
    """Refuses a path that leaves the directory it is joined to, on any system.

    Only the text is checked: files in the hub's cache are links, and stay so.

    Args:
        path: A relative path with `/`.
        what: What the path is, for the error message.

    Raises:
        ValueError: If the path is empty, absolute or contains `..`, or no file can have
            its names.
    """
    # The rules of Windows include those of POSIX: '/' starts and separates there too.
    windows = PureWindowsPath(path) if isinstance(path, str | os.PathLike) else None
    leaves = windows is None or windows.anchor or ".." in windows.parts
    if leaves or not windows.parts or not all(map(_is_name, windows.parts)):
        raise ValueError(
            f"{what} must be a relative path without '..', of valid names. "
            f"Received: {str(path)[:_SHOWN]!r}"
        )


def _is_name(part: str) -> bool:
    """Whether a file may have this name."""
    try:
        return len(os.fsencode(part)) <= _LONGEST_NAME and "\0" not in part
    except UnicodeEncodeError:  # half of a character
        return False


def remote_scheme(path: str | os.PathLike) -> str | None:
    """The scheme of a URL that is not on this machine, in lower case.

    Returns:
        Such as `"gs"` for `gs://bucket/name`; None for a path and for `file://`.

    Example:
        >>> remote_scheme("gs://bucket/name"), remote_scheme("file:///tmp/name")
        ('gs', None)
    """
    match = _URL.match(os.fspath(path))
    scheme = match[1].lower() if match else "file"
    return None if scheme == "file" else scheme


def local_path(path: str | os.PathLike, what: str = "The path") -> Path:
    """The path of a file or folder of this machine; call it before any work is done.

    Args:
        path: A path, or a `file://` URL.
        what: What the path is, for the error message.

    Raises:
        ValueError: If it is another URL, or a `file://` URL of another machine.

    Example:
        >>> local_path("file:///tmp/name")
        PosixPath('/tmp/name')
    """
    text = os.fspath(path)
    if not _URL.match(text):
        return Path(path)
    parts = urlsplit(text)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
        raise ValueError(
            f"{what} must be on this machine: only `bark-tf prepare` and `bark-tf "
            f"train` read and write URLs. Received: {text[:_SHOWN]!r}"
        )
    return Path(url2pathname(parts.path))
