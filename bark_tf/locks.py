"""Files that show that their owner is at work; the system frees them when it ends.

A claimed file is locked with `flock`, which the kernel undoes however the process ends,
so neither a reboot nor a reused process id can keep it claimed. Where the file system
or the operating system has no such locks, what the file holds or its age decides.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import itertools
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

LOCK_NAME = ".bark-tf.lock"
_POLL_S = 0.02
# Nobody's link must decide which file is written.
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
# Without locks, a temporary file that is so old belongs to nobody.
_ABANDONED_S = 24 * 3600.0


class Claim:
    """A file of this process, until it ends or frees the file.

    Attributes:
        path: The file.
    """

    def __init__(self, path: Path, descriptor: int | None):
        self.path, self._descriptor = path, descriptor
        _claims.add(self)

    def release(self) -> None:
        """Frees the file, which stays where it is."""
        if self in _claims:  # not in a process that was forked from the owner
            _claims.remove(self)
            self.close()

    def remove(self) -> None:
        """Removes the file and frees it, in this order."""
        if self in _claims:
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)
            self.release()

    def close(self) -> None:
        """Closes the file in this process only."""
        if self._descriptor is not None:
            os.close(self._descriptor)


_claims: set[Claim] = set()


def _forget_claims() -> None:
    for claim in _claims:
        claim.close()
    _claims.clear()


if hasattr(os, "register_at_fork"):
    # Else a child that outlives its parent would keep the locks.
    os.register_at_fork(after_in_child=_forget_claims)


def claim(path: Path, is_abandoned: Callable[[Path], bool]) -> Claim | None:
    """Claims a file, a new one or one whose owner has ended.

    Args:
        path: The file, created if missing.
        is_abandoned: Called with the path of a file that exists, where there are no
            locks.

    Returns:
        The claim, or None if it is another's.

    Raises:
        OSError: If the file cannot be created.
    """
    while True:
        is_new = not os.path.lexists(path)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _NO_LINK, 0o666)
        except OSError as error:
            if is_new or error.errno not in (errno.EACCES, errno.EPERM, errno.ELOOP):
                raise
            return None  # of another user, or a link
        is_locked = _lock(descriptor)
        if is_locked and _is_at(descriptor, path):
            return Claim(path, descriptor)
        os.close(descriptor)
        if is_locked is None:  # Windows neither renames nor removes an open file
            return Claim(path, None) if is_new or is_abandoned(path) else None
        if not is_locked:
            return None


def _lock(descriptor: int) -> bool | None:
    """Whether this process has the lock now; None: the system has no locks here."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether a file still has its name: an owner removes it before freeing it."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


# === Temporary files ===


def claim_temporary(path: Path, suffix: str) -> Claim:
    """Claims a numbered file: one that a killed process has left, or a new one.

    Others that were left are removed.

    Args:
        path: What the name starts with.
        suffix: What it ends with, after the number.

    Raises:
        OSError: If the file cannot be created.
    """
    mine = None
    for number in itertools.count():
        other = path.with_name(f"{path.name}{number}{suffix}")
        if mine is not None and not os.path.lexists(other):
            return mine
        found = claim(other, _is_old)
        if found is not None and mine is None:
            mine = found
        elif found is not None:
            found.remove()


def _is_old(path: Path) -> bool:
    return time.time() - path.stat().st_mtime > _ABANDONED_S


# === Directories ===


@contextlib.contextmanager
def owned(directory: Path, wait_s: float, shown: str | os.PathLike) -> Iterator[None]:
    """Keeps other processes and threads from owning a directory at the same time.

    Args:
        directory: An existing directory. The lock is a file in it.
        wait_s: Seconds to wait for another owner.
        shown: The directory's name in errors.

    Raises:
        BlockingIOError: If it has another owner; the message names it.
        OSError: If the directory cannot be written to.
    """
    path = directory / LOCK_NAME
    end = time.monotonic() + wait_s
    while (lock := _claim_lock(path)) is None:
        if time.monotonic() >= end:
            raise BlockingIOError(f"{os.fspath(shown)!r} {_busy(path)}")
        time.sleep(_POLL_S)
    try:
        path.write_text(json.dumps(_this_process()) + "\n", encoding="utf-8")
        yield
    finally:
        lock.remove()


def _claim_lock(path: Path) -> Claim | None:
    try:
        return claim(path, lambda path: _has_ended(_owner(path)))
    except OSError as error:  # of the directory, for the user
        raise type(error)(error.errno, error.strerror, str(path.parent)) from error


def _this_process() -> dict[str, Any]:
    return {
        "process": os.getpid(),
        "host": socket.gethostname(),
        "started": _start_of(os.getpid()),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:2]]),
        "since": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def _owner(path: Path) -> dict[str, Any]:
    """What the owner of a lock has written; empty if that is not readable."""
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
        return {name: owner[name] for name in _this_process()}
    except (OSError, ValueError, LookupError, TypeError):
        return {}


def _busy(path: Path) -> str:
    owner = _owner(path)
    who = "another process"
    if owner:
        who = "process {process} on {host} ({command}, since {since})".format(**owner)
    return (
        f"is in use by {who}: wait until it has ended, or choose "
        f"another directory. Where the file system has no locks, delete {LOCK_NAME!r} "
        "in it if the process is gone"
    )


def _has_ended(owner: dict[str, Any]) -> bool:
    """Whether the owner of a lock has ended, as far as this host can know."""
    if not owner:
        return True
    if owner["host"] != socket.gethostname():
        return False
    process = owner["process"]
    if os.path.isdir("/proc/self"):
        return _start_of(process) != owner["started"]
    if os.name != "posix":
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _start_of(process: int) -> str | None:
    """The boot and the tick at which a process started; None if it is not known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        facts = Path(f"/proc/{process}/stat").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    return f"{boot.strip()} {facts.rpartition(')')[2].split()[19]}"
