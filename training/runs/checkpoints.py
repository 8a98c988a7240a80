"""Checkpoints of a run, written completely or not at all.

A checkpoint is a folder such as `step-00000500`. `state.safetensors` holds all
variables of the trainer and its optimizers, `state.json` the step and other facts. The
folder gets its name when it is complete.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import ml_dtypes
import numpy as np
import safetensors.numpy

from bark_tf.config.fields import Count, brief, check_values
from bark_tf.files import check_file, read_json_object
from bark_tf.saving import saving, settle

_PREFIX = "step-"
# Keras numbers objects in the order in which the process creates them.
_NUMBER = re.compile(r"_\d+(?=/|$)")
_ARRAYS, _FACTS = "state.safetensors", "state.json"


def state_of(trainer: keras.Model) -> dict[str, Any]:
    """All variables of a run, by unique names.

    Args:
        trainer: Compiled model. It may have an attribute `optimizers` with several
            optimizers.

    Returns:
        Name -> Keras variable: weights, seeds, metrics and optimizer state. A name
        consists of the place in the order of creation and the path. Without the
        variables of an attribute `unsaved`, if the trainer has one.
    """
    groups = {"model": trainer.variables}
    optimizers = getattr(trainer, "optimizers", None) or [trainer.optimizer]
    for number, optimizer in enumerate(optimizers):
        groups[f"optimizer_{number}"] = optimizer.variables
    unsaved = {id(variable) for variable in getattr(trainer, "unsaved", ())}
    return {
        f"{group}/{place}:{_NUMBER.sub('', variable.path)}": variable
        for group, variables in groups.items()
        for place, variable in enumerate(_once(variables))
        if id(variable) not in unsaved
    }


def _once(variables):
    """Variables in order, without duplicates."""
    return list({id(variable): variable for variable in variables}.values())


def save(
    directory: str | os.PathLike,
    step: int,
    trainer: keras.Model,
    facts: Mapping[str, Any],
    keep: int = 2,
    *,
    writes: bool = True,
) -> Path:
    """Writes a checkpoint and removes old ones.

    Args:
        directory: Directory of the run, created if missing.
        step: Steps taken.
        trainer: See `state_of`.
        facts: Other JSON values to store.
        keep: Number of checkpoints to keep.
        writes: False for all workers but the chief. They must still call this
            function: reading a metric sums it over all workers.

    Returns:
        The checkpoint's folder.

    Raises:
        OSError: If it cannot be written; older checkpoints stay as they are.
    """
    directory = Path(directory)
    final = directory / f"{_PREFIX}{step:08d}"
    arrays = {name: plain(v.numpy()) for name, v in state_of(trainer).items()}
    if not writes:
        return final
    with saving(directory) as change:
        new = change.path / final.name
        new.mkdir()
        safetensors.numpy.save_file(arrays, new / _ARRAYS)
        text = json.dumps({**facts, "step": step}, indent=2) + "\n"
        (new / _FACTS).write_text(text, encoding="utf-8")
        for name in (_ARRAYS, _FACTS):
            with open(new / name, "rb") as file:
                os.fsync(file.fileno())
        others = [old.name for old in _folders(directory) if old != final]
        change.remove(final.name, *others[max(0, keep - 1) :])
    return final


def plain(array: np.ndarray) -> np.ndarray:
    """A contiguous array that safetensors can store: bfloat16 as its bits."""
    array = np.ascontiguousarray(array).reshape(np.shape(array))
    return array.view(np.uint16) if array.dtype.name == "bfloat16" else array


def _folders(directory: Path) -> list[Path]:
    """Complete checkpoints, newest first."""
    settle(directory)
    found = directory.glob(f"{_PREFIX}*") if directory.is_dir() else []
    return sorted((p for p in found if (p / _FACTS).is_file()), reverse=True)


def newest(directory: str | os.PathLike) -> Path | None:
    """The newest complete checkpoint of a run, if there is one."""
    return next(iter(_folders(Path(directory))), None)


def restore(
    directory: str | os.PathLike,
    trainer: keras.Model,
    check: Callable[[dict[str, Any]], None] = lambda facts: None,
) -> dict[str, Any] | None:
    """Loads the newest readable checkpoint into a trainer.

    Args:
        directory: Directory of the run.
        trainer: Compiled and built as when the checkpoint was written.
        check: Called with the facts before anything changes; raises to refuse them.

    Returns:
        The facts with `step`, or None if there is no checkpoint.

    Raises:
        ValueError: If the checkpoint belongs to another model or optimizer.

    Warns:
        UserWarning: If a checkpoint is damaged; the one before is used.
    """
    for folder in _folders(Path(directory)):
        try:
            facts = read_json_object(folder / _FACTS)
            check_values(facts, {"step": Count}, folder / _FACTS)
            arrays = read_arrays(folder / _ARRAYS)
        except (OSError, ValueError) as error:
            warnings.warn(
                f"The checkpoint {str(folder)!r} is damaged and skipped: {error}",
                stacklevel=2,
            )
            continue
        check(facts)
        assign(state_of(trainer), arrays, folder)
        return facts
    return None


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Reads a safetensors file.

    Raises:
        OSError: If there is no such file.
        ValueError: If it is damaged.
    """
    check_file(path)
    try:
        return safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, KeyError) as error:  # an unknown dtype
        raise ValueError(f"{path} is damaged: {brief(error)}") from error


def assign(state: Mapping[str, Any], arrays: Mapping[str, np.ndarray], where: Path):
    """Gives variables the values of a file.

    Raises:
        ValueError: If they are not those of the file; none has changed.
    """
    different = sorted(set(state) ^ set(arrays)) or [
        name for name, v in state.items() if not _fits(arrays[name], v)
    ]
    if different:
        raise ValueError(
            f"{str(where)!r} belongs to another model or optimizer: "
            f"{len(different)} variables differ, the first is {different[0]!r}. "
            "Choose another directory, or start again with --restart"
        )
    for name, variable in state.items():
        value = arrays[name]
        if variable.dtype == "bfloat16":
            value = value.view(ml_dtypes.bfloat16)
        variable.assign(value)


def _fits(array: np.ndarray, variable: keras.Variable) -> bool:
    dtype = "uint16" if variable.dtype == "bfloat16" else variable.dtype
    return (array.shape, array.dtype.name) == (tuple(variable.shape), dtype)
