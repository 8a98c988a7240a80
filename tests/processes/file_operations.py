"""What a process does to files, one operation at a time, so that a test can kill it.

Code below Python, such as TensorFlow's, is not seen; what it wrote is there by the next
operation.
"""

import builtins
import contextlib
import io
import os
import signal
from unittest import mock

_CALLS = (
    "replace rename unlink remove mkdir rmdir truncate ftruncate fsync link symlink"
).split()


@contextlib.contextmanager
def watched(look):
    """Calls a function before and after every operation that changes files."""
    looking = False

    def seen(function, *arguments, **options):
        nonlocal looking
        if looking:
            return function(*arguments, **options)

        def look_once():
            nonlocal looking
            looking = True
            look()
            looking = False

        look_once()
        result = function(*arguments, **options)
        look_once()
        return result

    def wrap(function):
        return lambda *arguments, **options: seen(function, *arguments, **options)

    def opening(function):
        def open_file(file, mode="r", *arguments, **options):
            if set(mode) & set("wax+"):
                return seen(function, file, mode, *arguments, **options)
            return function(file, mode, *arguments, **options)

        return open_file

    def opening_descriptor(path, flags, *arguments, **options):
        if flags & (os.O_CREAT | os.O_TRUNC):
            return seen(os_open, path, flags, *arguments, **options)
        return os_open(path, flags, *arguments, **options)

    os_open, open_file = os.open, opening(builtins.open)
    with contextlib.ExitStack() as patches:
        for name in _CALLS:
            wrapped = wrap(getattr(os, name))
            patches.enter_context(mock.patch.object(os, name, wrapped))
        patches.enter_context(mock.patch.object(os, "open", opening_descriptor))
        patches.enter_context(mock.patch.object(builtins, "open", open_file))
        patches.enter_context(mock.patch.object(io, "open", open_file))
        yield


@contextlib.contextmanager
def killed_at(number):
    """Sends SIGKILL to this process before or after an operation."""
    count = 0

    def look():
        nonlocal count
        count += 1
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    with watched(look):
        yield
