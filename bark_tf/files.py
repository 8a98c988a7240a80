"""Atomic writing, JSON objects, and paths that stay inside a directory."""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from typing import Any

# Characters shown of a path that is refused.
_SHOWN = 80


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path beside `path` and renames it on success.

    Nothing half-written ever appears under the final name.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_json_object(path: str | os.PathLike) -> dict[str, Any]:
    """Reads a file that holds one JSON object.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file holds something else.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(
            f"{path} must hold a JSON object. Received: {type(values).__name__}"
        )
    return values


def check_relative(path: str | os.PathLike, what: str) -> None:
    """Refuses a path that leaves the directory it is joined to, on any system.

    Only the text is checked: files in the hub's cache are links, and stay so.

    Args:
        path: A relative path with `/`.
        what: What the path is, for the error message.

    Raises:
        ValueError: If the path is empty, absolute or contains `..`.
    """
    # The rules of Windows include those of POSIX: '/' starts and separates there too.
    windows = PureWindowsPath(path) if isinstance(path, str | os.PathLike) else None
    leaves = windows is None or windows.anchor or ".." in windows.parts
    if leaves or not windows.parts or "\0" in str(windows):
        raise ValueError(
            f"{what} must be a relative path without '..'. "
            f"Received: {str(path)[:_SHOWN]!r}"
        )
