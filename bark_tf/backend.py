"""What must be so before Keras and TensorFlow are imported."""

from __future__ import annotations

import os

BACKEND_VARIABLE = "KERAS_BACKEND"
_BACKEND = "tensorflow"
_LOG_VARIABLE = "TF_CPP_MIN_LOG_LEVEL"
# Without information about the CPU and XLA. Warnings stay: one says that libraries of
# the GPU are missing.
_LOG_LEVEL = "1"


def prepare() -> None:
    """Called before the first public name loads; imports nothing.

    Lowers what TensorFlow logs, unless the environment has a level.

    Raises:
        ImportError: If the environment names another backend.
    """
    os.environ.setdefault(_LOG_VARIABLE, _LOG_LEVEL)
    _check(os.environ.get(BACKEND_VARIABLE) or _BACKEND)


def import_keras() -> None:
    """Imports Keras, on TensorFlow.

    Raises:
        ImportError: If the environment or `keras.json` names another backend.
    """
    _check(os.environ.get(BACKEND_VARIABLE) or _BACKEND)
    try:
        import keras
    except ModuleNotFoundError as error:
        if error.name not in ("keras", _BACKEND):
            _check(error.name)  # keras.json names it, and it is not installed
        raise
    _check(keras.config.backend())


def _check(backend: str) -> None:
    if backend != _BACKEND:
        raise ImportError(
            f"bark-tf needs Keras on TensorFlow, not on {backend!r}: set "
            f"{BACKEND_VARIABLE}={_BACKEND} before Python starts, or in os.environ "
            "before Keras is imported"
        ) from None
