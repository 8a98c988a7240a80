"""Saving several files of a directory together, and one writer at a time.

    DIRECTORY/.saving/new     what is being written
    DIRECTORY/.saved/new      complete files that are getting their names
    DIRECTORY/.saved/old      the files that they replace
    DIRECTORY/.bark-tf.lock   who is writing

Renaming `.saving` to `.saved` is the moment at which a save counts. Whoever reads or
writes the directory next finishes one that was killed after that moment. A directory
that does not exist yet is written beside its place, and renamed.
"""

from __future__ import annotations

import contextlib
import contextvars
import errno
import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from bark_tf.files import check_relative, errors_name
from bark_tf.locks import LOCK_NAME, owned

_SAVING, _SAVED = ".saving", ".saved"
_NEW, _OLD, _REMOVED = "new", "old", "removed.json"
# Names in a directory that are none of the user's.
OWN_NAMES = (_SAVING, _SAVED, LOCK_NAME)
# Saving is short: who finds a directory in use waits this long.
_WAIT_S = 10.0
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
# Bytes of a name that the folder beside it shows; no file name is too long.
_KEPT = 200

_owned: contextvars.ContextVar[frozenset[Path]] = contextvars.ContextVar(
    "owned", default=frozenset()
)


class Saving:
    """A change of a directory that has not happened yet.

    Attributes:
        path: Folder for the new files, under their names in the directory.
    """

    def __init__(self, directory: Path, path: Path):
        self.directory, self.path = directory, path
        self.removed: list[str] = []

    def remove(self, *names: str) -> None:
        """Removes files or folders of the directory, as far as there are any then."""
        self.removed += names

    def remove_others(self) -> None:
        """Removes everything in the directory that is not new."""
        for path in self.directory.rglob("*") if self.directory.exists() else ():
            name = path.relative_to(self.directory)
            is_kept = (self.path / name).exists() or (path.is_dir() and name.parts[1:])
            if not is_kept and name.parts[0] not in OWN_NAMES:
                self.remove(name.as_posix())

    def find(self, name: str) -> Path:
        """The path of the new file of this name, or else of the one before."""
        new = self.path / name
        return new if new.exists() else self.directory / name


_open: contextvars.ContextVar[Mapping[Path, Saving]] = contextvars.ContextVar(
    "open", default=MappingProxyType({})
)


@contextlib.contextmanager
def locked(
    directory: str | os.PathLike,
    wait_s: float = 0.0,
    shown: str | os.PathLike | None = None,
) -> Iterator[None]:
    """Keeps others from writing to a directory; removes what a killed writer left.

    Blocks may be nested: what the block calls may lock the directory again.

    Args:
        directory: Created if missing, and removed if it is empty afterwards.
        wait_s: Seconds to wait for another owner.
        shown: The directory's name in errors.

    Raises:
        BlockingIOError: If another process or thread has locked it.
        OSError: If the directory cannot be written to.

    Example:
        >>> with locked("my-voice"):
        ...     train()
    """
    folder, before = Path(os.path.realpath(directory)), _owned.get()
    if folder in before:
        yield
        return
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with owned(folder, wait_s, directory if shown is None else shown):
            _owned.set(before | {folder})
            try:
                _clean(folder)
                yield
            finally:
                _owned.set(before)
    finally:
        if is_new:
            with contextlib.suppress(OSError):
                folder.rmdir()


@contextlib.contextmanager
def saving(directory: str | os.PathLike, wait_s: float = _WAIT_S) -> Iterator[Saving]:
    """Changes files of a directory: all of them, or none if the block fails.

    Blocks may be nested: an inner one of the same directory takes part in the outer.

    Args:
        directory: Created if missing; it appears with all its files.
        wait_s: Seconds to wait for another writer.

    Yields:
        The change.

    Raises:
        BlockingIOError: If another process is writing to the directory.
        OSError: If something cannot be written, with the directory as its file name.

    Example:
        >>> with saving("my-voice") as change:
        ...     (change.path / "config.json").write_text("{}")
        ...     change.remove("old.json")
    """
    folder, before = Path(os.path.realpath(directory)), _open.get()
    if folder in before:
        yield before[folder]
        return
    name = os.fsdecode(os.fsencode(folder.name)[:_KEPT])
    beside = folder.with_name(f".{name}{_SAVING}")
    home = folder if os.path.lexists(folder) else beside
    try:
        with (
            errors_name(folder, beside),
            locked(home, wait_s, shown=folder),
            _change(folder, home) as change,
        ):
            _open.set({**before, folder: change})
            try:
                yield change
            finally:
                _open.set(before)
    finally:
        _discard(beside)


@contextlib.contextmanager
def _change(folder: Path, home: Path) -> Iterator[Saving]:
    change = Saving(folder, home / _SAVING / _NEW)
    change.path.mkdir(parents=True)
    try:
        with errors_name(folder, home / _SAVING):
            yield change
            if home == folder:
                _commit(change)
            else:
                os.replace(change.path, folder)
    finally:
        shutil.rmtree(home / _SAVING, ignore_errors=True)


def _discard(beside: Path) -> None:
    """Removes what this or a killed process has left beside a directory."""
    if beside.is_dir():
        with contextlib.suppress(OSError):
            with locked(beside):
                pass
            beside.rmdir()


def settle(directory: str | os.PathLike) -> None:
    """Finishes a save that was killed while its files got their names.

    Raises:
        OSError: If the directory cannot be written to.
    """
    if (Path(directory) / _SAVED).is_dir():
        try:
            with locked(directory, _WAIT_S):
                pass
        except OSError as error:
            if error.errno not in _READ_ONLY:
                raise
            raise PermissionError(
                f"{str(directory)!r} holds a save that was interrupted: open it once "
                "as a user who may write to it, which finishes the save"
            ) from error


def _clean(folder: Path) -> None:
    """Finishes or removes what a killed process left in a directory."""
    if (folder / _SAVING).is_symlink():
        (folder / _SAVING).unlink()
    if (folder / _SAVED).is_dir():
        _check(folder)
        _publish(folder, [])
        warnings.warn(
            f"A save of {str(folder)!r} was interrupted after everything was written; "
            "it is finished now",
            UserWarning,
            stacklevel=2,
        )
    shutil.rmtree(folder / _SAVING, ignore_errors=True)


def _check(folder: Path) -> None:
    """Refuses to finish a save, which may be anybody's, that leads out of a directory.

    Raises:
        ValueError: If it does, or if the list of removed files is damaged.
    """
    saved = folder / _SAVED
    # "any": also without a file, its folders must be where they seem to be.
    for name in ["any", *_removed(saved), *_units(saved / _NEW, folder)]:
        check_relative(name, f"A file in {saved / _REMOVED}")
        for place in (folder, saved / _NEW, saved / _OLD):
            parent = os.path.realpath((place / name).parent)
            if not Path(parent).is_relative_to(folder):
                raise ValueError(
                    f"An interrupted save must stay in {str(folder)!r}: delete "
                    f"{_SAVED!r} in it. Received: a link to {parent!r}"
                )


# === Renaming ===


def _commit(change: Saving) -> None:
    """Makes a change count, and carries it out or takes it back."""
    folder, saving = change.directory, change.path.parent
    for name in _units(change.path, folder):
        old, new = folder / name, change.path / name
        if (
            name not in change.removed
            and old.exists()
            and (old.is_dir() or new.is_dir())
        ):
            raise FileExistsError(f"{str(old)!r} is in the way")
    text = json.dumps(change.removed)
    (saving / _REMOVED).write_text(text, encoding="utf-8")
    placed: list[str] = []
    try:
        os.replace(saving, folder / _SAVED)
        _publish(folder, placed)
    except BaseException:
        _take_back(folder, placed)
        raise


def _publish(folder: Path, placed: list[str]) -> None:
    """Gives new files their names; may be repeated whenever it was interrupted.

    Args:
        folder: The directory.
        placed: Gets the names.
    """
    saved = folder / _SAVED
    for name in _removed(saved):
        _set_aside(folder, name)
    for name in (names := _units(saved / _NEW, folder)):
        _set_aside(folder, name)
    for name in names:
        placed.append(name)
        os.replace(saved / _NEW / name, folder / name)
    _sync_directory(folder)
    # First, since what it names may be new by now.
    (saved / _REMOVED).unlink(missing_ok=True)
    shutil.rmtree(saved, ignore_errors=True)


def _take_back(folder: Path, placed: list[str]) -> None:
    """Undoes `_publish`, unless all new files have their names."""
    saved = folder / _SAVED
    if not (saved / _REMOVED).exists():
        shutil.rmtree(saved, ignore_errors=True)
        return
    for name in placed:
        if not os.path.lexists(saved / _NEW / name):
            os.replace(folder / name, saved / _NEW / name)
    for name in _units(saved / _OLD, folder):
        os.replace(saved / _OLD / name, folder / name)
    os.replace(saved, folder / _SAVING)


def _removed(saved: Path) -> list[str]:
    path = saved / _REMOVED
    if not path.exists():
        return []
    try:
        return list(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} must hold a list of names: {error}") from error


def _units(new: Path, folder: Path, inner: str = "") -> list[str]:
    """Files, and folders that are new as a whole, relative to `new`."""
    names = []
    for path in sorted((new / inner).iterdir()) if (new / inner).is_dir() else ():
        name = f"{inner}{path.name}"
        if path.is_dir() and (folder / name).is_dir():
            names += _units(new, folder, f"{name}/")
        else:
            names.append(name)
    return names


def _set_aside(folder: Path, name: str) -> None:
    old = folder / _SAVED / _OLD / name
    if os.path.lexists(folder / name) and not os.path.lexists(old):
        old.parent.mkdir(parents=True, exist_ok=True)
        os.replace(folder / name, old)


def _sync_directory(directory: Path) -> None:
    """Makes renames survive a power failure, where the system can."""
    if os.name != "posix":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
