"""One case: a valid file is damaged and read. The name and a seed decide everything."""

import contextlib
import random
import shutil
import time
import traceback
import warnings
from pathlib import Path
from typing import NamedTuple

import mutations
from formats import FORMATS

MAX_S, MAX_BYTES = 5, 10**9
# How often a file is replaced by a folder, a pipe or a device.
_PLACES = 0.04
# What comes over a network.
_SENT = ("request", "answer")
_LONGEST = 1_000


class Outcome(NamedTuple):
    """What came of a case.

    Attributes:
        format: Of `FORMATS`.
        seed: Its number.
        kind: `"answer"`, the name of a permitted error, or `"FAILED"`.
        message: Of the error.
        mutation: The name of the mutation.
        seconds: Processor time.
        num_bytes: Growth of the memory at its peak.
    """

    format: str
    seed: int
    kind: str
    message: str = ""
    mutation: str = ""
    seconds: float = 0.0
    num_bytes: int = 0

    @property
    def failed(self):
        return self.kind == "FAILED"


def make_seeds(name, seeds):
    """Writes the valid files of a format."""
    folder = seeds / name
    folder.mkdir(parents=True)
    FORMATS[name].make(folder)
    return folder


def damage(name, seed, folder):
    """Damages one file of a format; returns what was done to it."""
    rng = random.Random(f"{name} {seed}")
    files = FORMATS[name].damage
    file = rng.choice(list(files))
    path = folder / file
    if rng.random() < _PLACES and name not in _SENT:
        path.unlink()
        change = rng.choice(mutations.PLACES)
        change(path)
    else:
        change = rng.choice(files[file])
        path.write_bytes(change(rng, path.read_bytes()))
    return f"{change.__name__} of {file}"


def run(name, seed, seeds, scratch, *, shows=False):
    """Runs a case.

    Args:
        name: Of the format.
        seed: Number of the case.
        seeds: Folder of the valid files of all formats.
        scratch: An empty folder, which stays empty.
        shows: Whether to print the traceback of an error.
    """
    folder = scratch / "case"
    with contextlib.chdir(scratch):
        shutil.copytree(seeds / name, folder)
        mutation = damage(name, seed, folder)
        before = {path.name for path in scratch.iterdir()}
        with _measured() as measured:
            kind, message = _tried(FORMATS[name].use, folder, shows)
        new = {path.name for path in scratch.iterdir()} - before
        for path in scratch.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if new:
        kind, message = "FAILED", f"It left {', '.join(new)}"
    elif measured.seconds > MAX_S or measured.num_bytes > MAX_BYTES:
        kind, message = "FAILED", f"It took too much, then: {kind} {message}"
    return Outcome(name, seed, kind, message, mutation, *vars(measured).values())


def _tried(use, folder, shows):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            use(folder)
    except BaseException as error:
        if shows:
            traceback.print_exc()
        message = f"{type(error).__name__}: {error}"
        return _kind_of(error), message[:_LONGEST]
    return "answer", ""


def _kind_of(error):
    """The name of a permitted error."""
    words = str(error)
    is_ours = isinstance(error, OSError) or (
        isinstance(error, ValueError)
        and (type(error) is ValueError or "bark_tf" in type(error).__module__)
    )
    is_line = words and not {*"\n\r"} & {*words} and len(words) < _LONGEST
    if not is_ours or not is_line:
        return "FAILED"
    if isinstance(error, FileNotFoundError):
        return "FileNotFoundError"
    return "ValueError" if isinstance(error, ValueError) else "OSError"


# === Measuring ===


class _Measured:
    def __init__(self):
        self.seconds, self.num_bytes = 0.0, 0


@contextlib.contextmanager
def _measured():
    """Measures processor time and the peak of memory above what there was."""
    measured = _Measured()
    start, before = time.process_time(), _reset_peak()
    try:
        yield measured
    finally:
        measured.seconds = time.process_time() - start
        measured.num_bytes = status("VmHWM") - before


def _reset_peak():
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def status(name):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return 1_024 * int(line.split()[1])
    raise LookupError(name)
