"""What must be so before Keras and TensorFlow are imported, or used."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import platform
import sys
from collections.abc import Iterator

BACKEND_VARIABLE = "KERAS_BACKEND"
_BACKEND = "tensorflow"
_LOG_VARIABLE = "TF_CPP_MIN_LOG_LEVEL"
# Without information about the CPU and XLA. Warnings stay: one says that libraries of
# the GPU are missing.
_LOG_LEVEL = "1"
# By itself TensorFlow uses oneDNN only on processors with AVX-512 or newer.
_ONEDNN_VARIABLE = "TF_ENABLE_ONEDNN_OPTS"
# What Keras imports if it is installed, for plots and tables.
_EXTRAS = ("matplotlib", "pandas")
# The process that built the first network.
_owner: int | None = None


def prepare() -> None:
    """Called before the first public name loads; imports nothing.

    Lowers what TensorFlow logs and has it multiply with oneDNN on every x86 processor,
    unless the environment says otherwise or TensorFlow is loaded already.

    Raises:
        ImportError: If the environment names another backend.
    """
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    if is_x86 and _BACKEND not in sys.modules:
        os.environ.setdefault(_ONEDNN_VARIABLE, "1")
    if _LOG_VARIABLE not in os.environ:
        os.environ[_LOG_VARIABLE] = _LOG_LEVEL
        logging.getLogger(_BACKEND).addFilter(_is_worth_reading)
    _check(os.environ.get(BACKEND_VARIABLE) or _BACKEND)


def _is_worth_reading(record: logging.LogRecord) -> bool:
    """Whether a line of TensorFlow's own log says something that a user can change.

    In notebooks it says more than elsewhere. The programs of this package are traced
    once per shape by design.
    """
    text = record.getMessage()
    is_ours = "tf.function retracing" in text and "bark_tf." in text
    return record.levelno >= logging.WARNING and not is_ours


@contextlib.contextmanager
def collection_paused() -> Iterator[None]:
    """Pauses garbage collection while a block makes many objects and no garbage.

    Such as the import of TensorFlow, a quarter of which is the search for garbage. What
    is there before the block is no garbage either for a `gc.collect` inside, which
    Keras calls for every attribute that is deleted.
    """
    was_enabled, freezes = gc.isenabled(), not gc.get_freeze_count()
    gc.disable()
    if freezes:
        gc.freeze()
    try:
        yield
    finally:
        if freezes:
            gc.unfreeze()
        if was_enabled:
            gc.enable()


@contextlib.contextmanager
def quick_imports() -> Iterator[None]:
    """For commands: imports in a block leave out what Keras does not need to speak.

    If Keras is imported here, its own plots say that matplotlib is not installed. What
    imports matplotlib or pandas itself, after the block, finds them.
    """
    hidden = [name for name in _EXTRAS if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        with collection_paused():
            yield
    finally:
        for name in hidden:
            del sys.modules[name]


def import_keras() -> None:
    """Imports Keras, on TensorFlow.

    Raises:
        ImportError: If the environment or `keras.json` names another backend.
    """
    prepare()
    try:
        import keras
    except ModuleNotFoundError as error:
        if error.name not in ("keras", _BACKEND):
            _check(error.name)  # keras.json names it, and it is not installed
        raise
    _check(keras.config.backend())


def check_process() -> None:
    """Called before a network is built or used.

    Raises:
        ValueError: In a process that was forked from one with networks, where
            TensorFlow would wait for ever: its threads stay behind.
    """
    global _owner
    _owner = _owner or os.getpid()
    if _owner != os.getpid():
        raise ValueError(
            "TensorFlow does not survive a fork: this process was forked from one that "
            "had loaded a network. Start it with multiprocessing.get_context('spawn'), "
            "or load networks in the new process only"
        )


def _check(backend: str) -> None:
    if backend != _BACKEND:
        raise ImportError(
            f"bark-tf needs Keras on TensorFlow, not on {backend!r}: set "
            f"{BACKEND_VARIABLE}={_BACKEND} before Python starts, or in os.environ "
            "before Keras is imported"
        ) from None
