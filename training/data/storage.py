"""Folders of shards on this machine or behind a URL, such as `gs://bucket/name`.

A `RemotePath` stands where a `pathlib.Path` would and goes through `tf.io.gfile`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import tensorflow as tf

from bark_tf import files, saving


def storage_path(path: str | os.PathLike, what: str = "The path") -> Path | RemotePath:
    """The path of a file or folder, here or behind a URL.

    Args:
        path: A path or URL, also one of whose slashes `Path` has removed one.
        what: What the path is, for the error message.

    Raises:
        ValueError: If TensorFlow cannot open URLs of this kind.

    Example:
        >>> storage_path("gs://bucket/prepared") / "train"
        RemotePath(url='gs://bucket/prepared/train')
    """
    scheme = files.remote_scheme(path)
    if scheme is None:
        return files.local_path(path, what)
    known = tf.io.gfile.get_registered_schemes()
    if scheme not in known:
        urls = ", ".join(f"{one}://" for one in sorted(filter(None, known)))
        raise ValueError(
            f"{what} must be a path, or a URL that TensorFlow can open: {urls}. Give a "
            f"folder of this machine, or mount it. Received: {os.fspath(path)!r}"
        )
    rest = re.sub(r"^[^/]*:/+", "", os.fspath(path)).rstrip("/")
    return RemotePath(f"{scheme}://{rest}")


@dataclasses.dataclass(frozen=True, order=True)
class RemotePath:
    """A file or folder behind a URL, with the methods of `Path` that shards need.

    Args:
        url: Such as `gs://bucket/name`, without a slash at its end.
    """

    url: str

    def __fspath__(self) -> str:
        return self.url

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(f"{self.url}/{name}")

    @property
    def name(self) -> str:
        """The last part."""
        return self.url.rpartition("/")[2]

    @property
    def parent(self) -> RemotePath:
        """The folder."""
        return RemotePath(self.url.rpartition("/")[0])

    def with_name(self, name: str) -> RemotePath:
        """Another file of the same folder."""
        return self.parent / name

    def with_suffix(self, suffix: str) -> RemotePath:
        """The same name with another suffix."""
        return self.with_name(PurePosixPath(self.name).with_suffix(suffix).name)

    def is_dir(self) -> bool:
        """Whether it is a folder that exists."""
        return tf.io.gfile.isdir(self.url)

    def is_file(self) -> bool:
        """Whether it is a file that exists."""
        return tf.io.gfile.exists(self.url) and not self.is_dir()

    def open(self, mode: str = "r") -> Any:
        """Opens the file; text is UTF-8."""
        return tf.io.gfile.GFile(self.url, mode)

    def read_text(self, encoding: str = "utf-8") -> str:
        """Reads a text."""
        with self.open("rb") as file:
            return file.read().decode(encoding)

    def write_text(self, text: str, encoding: str = "utf-8") -> None:
        """Writes a text."""
        with self.open("wb") as file:
            file.write(text.encode(encoding))

    def glob(self, pattern: str) -> Iterator[RemotePath]:
        """The files of this folder whose names match."""
        return map(RemotePath, tf.io.gfile.glob(f"{self.url}/{pattern}"))

    def mkdir(self, parents: bool = True, exist_ok: bool = True) -> None:
        """Makes the folder and those above it."""
        tf.io.gfile.makedirs(self.url)

    def replace(self, target: RemotePath) -> None:
        """Renames the file over another."""
        tf.io.gfile.rename(self.url, target.url, overwrite=True)

    def unlink(self, missing_ok: bool = False) -> None:
        """Deletes the file."""
        with contextlib.suppress(*[tf.errors.NotFoundError] * missing_ok):
            tf.io.gfile.remove(self.url)


def open_bytes(path: Path | RemotePath) -> Any:
    """Opens a file to read it; refuses a pipe or a device."""
    if isinstance(path, Path):
        files.check_file(path)
    return path.open("rb")


def read_text(path: Path | RemotePath) -> str:
    """`bark_tf.files.read_text`, also for a `RemotePath`."""
    return files.read_text(path) if isinstance(path, Path) else path.read_text()


@contextlib.contextmanager
def atomic_write(path: Path | RemotePath) -> Iterator[Path | RemotePath]:
    """`bark_tf.files.atomic_write`, also for a `RemotePath`."""
    if isinstance(path, Path):
        with files.atomic_write(path) as temporary:
            yield temporary
        return
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def locked(path: Path | RemotePath) -> contextlib.AbstractContextManager[None]:
    """`bark_tf.saving.locked`; a folder behind a URL cannot be locked."""
    return saving.locked(path) if isinstance(path, Path) else contextlib.nullcontext()


@contextlib.contextmanager
def explained(path: Path | RemotePath) -> Iterator[None]:
    """Turns TensorFlow's error about a URL into an OSError of one line."""
    try:
        yield
    except tf.errors.OpError as error:
        if isinstance(path, Path):
            raise
        reason = " ".join(error.message.split())
        raise OSError(f"{path} cannot be read or written: {reason}") from error
