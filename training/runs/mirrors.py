"""OUT and models behind a URL, such as `gs://bucket/my-voice`.

A run works in a folder of this machine, which is downloaded when it starts and uploaded
with every checkpoint. What marks something as complete is uploaded last, so the URL
holds what a run can go on from at any time.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import tensorflow as tf

from ..data.storage import RemotePath, atomic_write, explained, storage_path
from . import checkpoints
from .records import DONE_NAME

_CHUNK = 2**24  # bytes


class Mirror:
    """A folder of this machine and its copy behind a URL.

    Args:
        url: The copy.
        folder: The folder, empty until `pull`.
    """

    def __init__(self, url: RemotePath, folder: Path):
        self.url, self.folder = url, folder
        self._states: dict[str, tuple[int, int]] = {}  # of what both have

    def pull(self) -> None:
        """Downloads everything; files that the URL does not have are removed."""
        with explained(self.url):
            names = list(_names(self.url.url))
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            for name in names:
                target = self.folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                _copy((self.url / name).url, target)
        self._states = {name: self._state(name) for name in names}

    def push(self) -> None:
        """Uploads what is new, then removes what is gone."""
        found = {name: self._state(name) for name in _names(os.fspath(self.folder))}
        with explained(self.url):
            for name in sorted(found, key=_order):
                if found[name] != self._states.get(name):
                    target = self.url / name
                    target.parent.mkdir()
                    with atomic_write(target) as temporary:
                        _copy(self.folder / name, temporary.url)
            for name in self._states.keys() - found.keys():
                (self.url / name).unlink(missing_ok=True)
        self._states = found

    def _state(self, name: str) -> tuple[int, int]:
        about = (self.folder / name).stat()
        return about.st_mtime_ns, about.st_size


def _order(name: str) -> tuple[bool, bool, str]:
    """What marks a checkpoint, a model and a run as complete comes last."""
    path = Path(name)
    return path.name == DONE_NAME, path.suffix == ".json", name


def _names(folder: str) -> Iterator[str]:
    """The files of a folder and of those in it; hidden ones are unfinished."""
    for place, _, names in tf.io.gfile.walk(folder):
        inner = place.removeprefix(folder).strip("/")
        for name in names:
            if not f"/{inner}/{name}".count("/."):
                yield f"{inner}/{name}".lstrip("/")


def _copy(source: str | os.PathLike, target: str | os.PathLike) -> None:
    with (
        tf.io.gfile.GFile(os.fspath(source), "rb") as reader,
        tf.io.gfile.GFile(os.fspath(target), "wb") as writer,
    ):
        writer.write(b"")  # creates an empty file, too
        while chunk := reader.read(_CHUNK):
            writer.write(chunk)


class Uploads(keras.callbacks.Callback):
    """Uploads every new checkpoint of a run.

    Args:
        push: Uploads what is new.
        folder: Directory of the run.
    """

    def __init__(self, push: Callable[[], None], folder: Path):
        super().__init__()
        self._push, self._folder = push, folder
        self._newest = checkpoints.newest(folder)

    def on_train_batch_end(self, batch, logs=None):
        """Looks for a new checkpoint."""
        newest = checkpoints.newest(self._folder)
        if newest != self._newest:
            self._push()
            self._newest = newest


class Mirrors:
    """The mirrors of a run, by URL; none for paths of this machine."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._mirrors: dict[str, Mirror] = {}

    def local(self, path: str, what: str) -> str:
        """The folder for a path or URL, downloaded if need be.

        Raises:
            ValueError: If TensorFlow cannot open such a URL.
            OSError: If the URL cannot be read.
        """
        place = storage_path(path, what)
        if not isinstance(place, RemotePath):
            return os.fspath(place)
        if place.url not in self._mirrors:
            folder = self._folder / str(len(self._mirrors))
            self._mirrors[place.url] = Mirror(place, folder)
            self._mirrors[place.url].pull()
        return os.fspath(self._mirrors[place.url].folder)

    def pull(self, folder: str) -> None:
        """Downloads a folder from `local` again, if it has a URL."""
        for mirror in self._of(folder):
            mirror.pull()

    def push(self, folder: str) -> None:
        """Uploads what is new in a folder from `local`, if it has a URL."""
        for mirror in self._of(folder):
            mirror.push()

    def callbacks(self, folder: str, run: Path) -> list[Uploads]:
        """Uploads every checkpoint of a run in a folder from `local`."""
        return [Uploads(mirror.push, run) for mirror in self._of(folder)]

    def _of(self, folder: str) -> list[Mirror]:
        """Its mirror, or none."""
        return [one for one in self._mirrors.values() if one.folder == Path(folder)]


@contextlib.contextmanager
def mirrors() -> Iterator[Mirrors]:
    """Yields `Mirrors` whose folders exist as long as the block runs."""
    with tempfile.TemporaryDirectory(prefix="bark-tf-") as folder:
        yield Mirrors(Path(folder))
