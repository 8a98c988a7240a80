"""`bark_tf.speak`: a text to sound, with a model that stays loaded."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Unpack, overload

from bark_tf.bark import BarkModel
from bark_tf.generation.keywords import SpeakKeywords
from bark_tf.hub import MODEL_VARIABLE, shipped_checkpoint
from bark_tf.memory import return_free_memory
from bark_tf.progress import Progress
from bark_tf.speech.result import Speech
from bark_tf.speech.speaker import shown


class _Kept(NamedTuple):
    model: BarkModel
    changed: int | None  # when the newest file of its directory was written


# (name, dtype, quantize) -> the model.
_KEPT: dict[tuple, _Kept] = {}
_LOCK = threading.Lock()


@overload
def speak(
    text: str,
    voice: Any = None,
    *,
    model: BarkModel | str | os.PathLike | None = None,
    dtype: Any = None,
    quantize: str | None = None,
    **keywords: Unpack[SpeakKeywords],
) -> Speech: ...


@overload
def speak(
    text: Sequence[str],
    voice: Any = None,
    *,
    model: BarkModel | str | os.PathLike | None = None,
    dtype: Any = None,
    quantize: str | None = None,
    **keywords: Unpack[SpeakKeywords],
) -> list[Speech]: ...


def speak(text, voice=None, *, model=None, dtype=None, quantize=None, **keywords):
    """Speaks a text of any length, or several texts.

    The model is loaded by the first call and **stays in memory** for later ones, one
    for each combination of `model`, `dtype` and `quantize`; it is loaded again when a
    file in its directory has changed. `bark_tf.unload()` frees all of them.

    Args:
        text: The text, or a list of texts.
        voice: Speaker; see `BarkModel.speak`.
        model: A directory, an id of the hub such as `"suno/bark-small"`, or a
            `BarkModel`. None: the environment variable `BARK_TF_MODEL`, or else the
            small voice that comes with the package.
        dtype: See `BarkModel.from_pretrained`.
        quantize: See `BarkModel.from_pretrained`.
        **keywords: Those of `BarkModel.speak`: `seed`, `progress`, `temperature` and
            others.

    Returns:
        `Speech`; a list of them for a list of texts.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: For invalid arguments, or a text with nothing to say.

    Example:
        >>> bark_tf.speak("four two", seed=7).save("four_two.mp3")  # doctest: +SKIP
    """
    with shown(keywords.pop("progress", None)) as report:
        if not isinstance(model, BarkModel):
            model = _loaded(model, dtype, quantize, report)
        elif dtype is not None or quantize is not None:
            raise ValueError(
                "dtype and quantize are for a model that speak loads. "
                f"Received: a BarkModel, dtype={dtype!r}, quantize={quantize!r}"
            )
        return model.speak(text, voice, progress=report, **keywords)


def unload() -> None:
    """Frees the models that `speak` keeps."""
    with _LOCK:
        _KEPT.clear()
    return_free_memory()


def _loaded(name: Any, dtype: Any, quantize: str | None, report: Progress) -> BarkModel:
    name = os.fspath(name or os.environ.get(MODEL_VARIABLE) or shipped_checkpoint())
    key, changed = (name, str(dtype), quantize), _last_change(Path(name))
    with _LOCK:
        kept = _KEPT.get(key)
        if kept is None or kept.changed != changed:
            _KEPT.pop(key, None)  # before the new one needs memory
            report("load", 0, 1)
            model = BarkModel.from_pretrained(name, dtype=dtype, quantize=quantize)
            kept = _KEPT[key] = _Kept(model, changed)
            report("load", 1, 1)
        return kept.model


def _last_change(directory: Path) -> int | None:
    """When the newest file of a directory was written; None for an id of the hub."""
    if not directory.is_dir():
        return None
    return max((path.stat().st_mtime_ns for path in directory.iterdir()), default=0)
