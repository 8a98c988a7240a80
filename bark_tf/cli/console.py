"""Messages, exit statuses, progress, and silence of the libraries underneath."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

from bark_tf.progress import Progress, progress_bar

DEBUG_VARIABLE = "BARK_TF_DEBUG"

DONE, FAILED, WRONG_USAGE = 0, 1, 2
# As shells report a program that a signal has ended: 128 + its number.
INTERRUPTED, PIPE_CLOSED = 128 + 2, 128 + 13
_STANDARD_ERROR = 2  # file descriptor


class UsageError(Exception):
    """Arguments are valid on their own, but not together."""


# === Messages ===


def one_line(text: object) -> str:
    """Makes one line of a text, with control characters escaped."""
    line = " ".join(str(text).split("\n"))
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode()
        for char in line
    )


def say(text: object) -> None:
    """Prints a line to standard error."""
    print(f"bark-tf: {one_line(text)}", file=sys.stderr)


def note(arguments: argparse.Namespace, text: str) -> None:
    """Prints a line that is not an error, unless --quiet is given."""
    if not arguments.quiet:
        say(text)


def progress_of(arguments: argparse.Namespace) -> AbstractContextManager[Progress]:
    """Shows progress bars while a block runs, unless --quiet is given."""
    return progress_bar(False if arguments.quiet else None)


# === Errors ===


def is_debugging(arguments: argparse.Namespace) -> bool:
    """Whether to print tracebacks."""
    return arguments.verbose or os.environ.get(DEBUG_VARIABLE, "0") not in ("", "0")


def explain(error: Exception) -> str:
    """Describes an error for someone who does not know the code."""
    if (
        isinstance(error, MemoryError)
        or type(error).__name__ == "ResourceExhaustedError"
    ):
        return "out of memory; --dtype bfloat16 and --quantize int8 need less"
    if isinstance(error, OSError) and error.strerror:
        name = "" if error.filename is None else f": {str(error.filename)!r}"
        return error.strerror + name
    if isinstance(error, ValueError | OSError | ImportError) and str(error):
        return str(error)
    return (
        f"unexpected {type(error).__name__}: {error} (--verbose shows where; please "
        "report it)"
    )


def give_up_output() -> None:
    """Lets Python exit quietly when standard output is closed or full."""
    try:
        sys.stdout.flush()
    except OSError:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


# === Quiet libraries ===


@contextlib.contextmanager
def quiet_libraries(arguments: argparse.Namespace) -> Iterator[None]:
    """Keeps the messages of libraries off the terminal, except for warnings.

    Must be entered before TensorFlow is imported.
    """
    os.environ["KERAS_BACKEND"] = "tensorflow"
    if arguments.quiet or not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    with contextlib.ExitStack() as stack:
        stack.enter_context(_warnings_as_lines(arguments.quiet))
        if not is_debugging(arguments):
            os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
            stack.callback(logging.disable, logging.root.manager.disable)
            logging.disable(logging.WARNING)
            stack.enter_context(_silent_native_code())
        yield


@contextlib.contextmanager
def _warnings_as_lines(quiet: bool) -> Iterator[None]:
    """Shows each `UserWarning` once, as one line; none if `quiet`."""
    said = set()

    def show(message, category, filename, lineno, file=None, line=None):
        # "Received" differs from one piece of a long text to the next.
        text, _, _ = str(message).partition("Received:")
        if text not in said:
            said.add(text)
            say(f"warning: {message}")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not quiet:
            warnings.simplefilter("always", UserWarning)
            # `speak` raises an error that says the same.
            warnings.filterwarnings("ignore", "The text-to-semantic stage ended rows")
        warnings.showwarning = show
        yield


@contextlib.contextmanager
def _silent_native_code() -> Iterator[None]:
    """Discards what C++ code writes to standard error, not what Python does.

    TF_CPP_MIN_LOG_LEVEL does not silence oneDNN in TensorFlow 2.21 and XLA in 2.17.
    """
    stream = sys.stderr
    if not _is_native(stream):
        yield
        return
    copy = os.dup(_STANDARD_ERROR)
    sys.stderr = open(
        copy, "w", buffering=1, encoding=stream.encoding, errors=stream.errors
    )
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), _STANDARD_ERROR)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(copy, _STANDARD_ERROR)
        # The copy stays open, because libraries may have kept it.
        sys.stderr = stream


def _is_native(stream: Any) -> bool:
    """Whether a stream writes to the standard error of the process."""
    try:
        return stream.fileno() == _STANDARD_ERROR
    except (AttributeError, OSError, ValueError):  # a test's or a notebook's
        return False
