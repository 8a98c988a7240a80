"""One owner at a time, which a kill, a reboot or a reused process id sets free."""

import errno
import json
import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from bark_tf import locks
from bark_tf.files import atomic_write
from bark_tf.saving import locked

LOCK = ".bark-tf.lock"


_HOLD = """
import os, sys, time
from pathlib import Path
from bark_tf.saving import locked

folder, ready, has_child = sys.argv[1:]
with locked(folder):
    is_parent = has_child != "True" or os.fork() > 0
    if has_child != "True" or not is_parent:  # a new child has not let go at once
        Path(ready).touch()
    time.sleep(600 if is_parent else 20)
    os._exit(0)
"""


def wait_for(path):
    end = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("has_child", [False, True])
def test_the_second_process_is_told_who_the_first_one_is(has_child, tmp_path):
    """A child that the first one has forked does not keep the lock."""
    folder = tmp_path / "made"
    arguments = [str(folder), str(tmp_path / "ready"), str(has_child)]
    owner = subprocess.Popen([sys.executable, "-c", _HOLD, *arguments])
    wait_for(tmp_path / "ready")
    began = time.monotonic()
    with pytest.raises(BlockingIOError) as found, locked(folder):
        pass
    assert time.monotonic() - began < 1
    message = str(found.value)
    assert message.startswith(f"{str(folder)!r} is in use by process")
    assert f"process {owner.pid} on {socket.gethostname()} (" in message
    assert "\n" not in message
    owner.kill()
    owner.wait()
    with locked(folder):
        assert json.loads((folder / LOCK).read_text())["process"] == os.getpid()
    assert not list(folder.iterdir())


def refused(folder):
    """Whether another thread may not lock a folder."""
    found = []

    def lock():
        try:
            with locked(folder):
                found.append(False)
        except BlockingIOError:
            found.append(True)

    thread = threading.Thread(target=lock)
    thread.start()
    thread.join()
    return found[0]


def test_a_thread_may_lock_again_what_it_has_locked(tmp_path):
    with locked(tmp_path / "a"):
        with locked(tmp_path / "a"):
            assert refused(tmp_path / "a")
        assert refused(tmp_path / "a") and not refused(tmp_path / "b")
    assert not list(tmp_path.iterdir())


def test_waiting_for_the_owner(tmp_path):
    done = []

    def lock():
        with locked(tmp_path, wait_s=60):
            done.append(True)

    thread = threading.Thread(target=lock)
    with locked(tmp_path):
        thread.start()
        thread.join(0.1)
        assert not done
    thread.join(60)
    assert done


def test_a_directory_that_cannot_be_written_to_is_named(tmp_path, monkeypatch):
    def refuse(path, *_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(OSError, match="Read-only") as found, locked(tmp_path):
        pass
    assert found.value.filename == str(tmp_path)


# === Where the file system has no locks ===


@pytest.fixture
def without_locks(monkeypatch):
    monkeypatch.setattr(locks, "_lock", lambda descriptor: None)


@pytest.mark.parametrize(
    ("changes", "is_taken_over"),
    [
        ({}, False),
        ({"started": "another boot 17"}, True),  # the process id is used again
        ({"process": 2**22 + 1, "started": "this boot 17"}, True),
        ({"host": "another"}, False),
        ({"process": None}, True),
    ],
)
def test_the_owner_decides(changes, is_taken_over, tmp_path, without_locks):
    owner = {**locks._this_process(), **changes}
    (tmp_path / LOCK).write_text(json.dumps(owner))
    if is_taken_over:
        with locked(tmp_path):
            assert refused(tmp_path)
        assert not list(tmp_path.iterdir())
    else:
        with pytest.raises(BlockingIOError, match=f"delete '{LOCK}'"), locked(tmp_path):
            pass
        assert (tmp_path / LOCK).read_text() == json.dumps(owner)


@pytest.mark.parametrize("text", ["", "half a {", "[]", '{"process": 1}'])
def test_a_lock_without_an_owner_is_taken_over(text, tmp_path, without_locks):
    (tmp_path / LOCK).write_text(text)
    with locked(tmp_path):
        assert refused(tmp_path)


def test_old_temporary_files_are_nobodys(tmp_path, without_locks):
    for number in range(3):
        (tmp_path / f".a.saving-{number}.wav").write_bytes(b"half")
    os.utime(tmp_path / ".a.saving-2.wav", (0, 0))
    with atomic_write(tmp_path / "a.wav") as temporary:
        assert temporary.name == ".a.saving-2.wav"
    names = [".a.saving-0.wav", ".a.saving-1.wav", "a.wav"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


# === Temporary files ===


def test_what_was_left_is_used_again_or_removed_but_not_a_neighbours(tmp_path):
    for number in (0, 2, 3):
        (tmp_path / f".a.saving-{number}.wav").write_bytes(b"left by a kill")
    with atomic_write(tmp_path / "a.wav") as one:
        with atomic_write(tmp_path / "a.wav") as two:
            one.write_bytes(b"one")
            two.write_bytes(b"two")
        assert (tmp_path / "a.wav").read_bytes() == b"two"
    assert (tmp_path / "a.wav").read_bytes() == b"one"
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


def test_anothers_file_stays(tmp_path, monkeypatch):
    """In a folder like `/tmp`, where it may not even be opened."""
    (tmp_path / ".a.saving-0.wav").touch()
    open_it = os.open

    def refuse(path, *arguments):
        if str(path).endswith("saving-0.wav"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return open_it(path, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with atomic_write(tmp_path / "a.wav") as temporary:
            temporary.write_bytes(b"mine")
    names = [".a.saving-0.wav", "a.wav"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
