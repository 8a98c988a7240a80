"""What a run was started with: its whole recipe, its model and its data.

`OUT/training/STAGE/recipe.json` is written when a stage starts, for people to read, and
compared when it is started again: a run goes on only with what it began with.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np

from bark_tf._version import __version__
from bark_tf.config import BarkGenerationConfig
from bark_tf.config.fields import Count, brief, check_values, shown
from bark_tf.files import read_json_object, write_json
from bark_tf.saving import Saving, saving

from ..data.shards import ShardSet
from . import checkpoints
from .recipe import Recipe

RECORD_NAME, DONE_NAME = "recipe.json", "done.json"
# Values that a run may change, because they do not change its result. A model and data
# may move: their fingerprints count.
FREE = frozenset(
    "out model data callbacks checkpoint_every keep log_every sample_every".split()
)
# What is read of the record of a run, and in its groups.
_RECORD = {
    **dict.fromkeys(("recipe", "data"), dict),
    **dict.fromkeys(("model_fingerprint", "data_fingerprint", "bark_tf"), str),
    "others": Literal["model", "out"],
}
_RECIPE = {"steps": Count, "model": str | None, "data": str | None, "method": str}
_DATA = {"recordings": int, "held_out": int, "hours": float, "speakers": list}
_SHOWN = 12  # characters of a fingerprint in messages


def record_of(
    recipe: Recipe,
    network: keras.Model,
    config: BarkGenerationConfig,
    data: Sequence[ShardSet | None],
) -> dict[str, Any]:
    """Describes the run of a stage.

    Args:
        recipe: The recipe with all values.
        network: The network before training, without adapters.
        config: Generation configuration of its checkpoint.
        data: The sets of recordings.

    Returns:
        JSON values: `recipe`, `model_fingerprint`, `data_fingerprint`, `data` (what it
        is, for people), `bark_tf`.
    """
    weights = () if trains_in_place(recipe) else network.weights
    return {
        "recipe": {key: _as_json(value) for key, value in recipe.values().items()},
        "model_fingerprint": _model_fingerprint(network.config, config, weights),
        "data_fingerprint": digest_of(part.fingerprint for part in data if part),
        "data": _about(*data),
        "bark_tf": __version__,
    }


def _about(recordings: ShardSet, held_out: ShardSet | None = None) -> dict[str, Any]:
    return {
        "recordings": len(recordings),
        "hours": float(recordings.seconds.sum() / 3600),
        "held_out": len(held_out or ()),
        "speakers": sorted(set(recordings.speakers)),
    }


def trains_in_place(recipe: Recipe) -> bool:
    """Whether the result replaces the checkpoint that the run starts from."""
    model = recipe.model or recipe.out
    return Path(model).resolve() == Path(recipe.out).resolve()


def _as_json(value: Any) -> Any:
    if callable(value):
        return f"{value.__module__}.{value.__qualname__}"
    return list(value) if isinstance(value, tuple) else value


def _model_fingerprint(config, generation_config, weights) -> str:
    """Hash of sizes, generation configuration and weights.

    A run that replaces its model has no weights to compare once it has finished.
    """
    sizes = {**config.to_dict(), "dropout": None}  # the recipe has its own
    about = [sizes, generation_config.to_dict()]
    texts = [json.dumps(one, sort_keys=True) for one in about]
    return digest_of([*texts, *map(content_of, weights)])


def content_of(weight: keras.Variable) -> memoryview:
    """The bytes of a weight."""
    array = np.ascontiguousarray(weight.numpy())
    return memoryview(array.reshape(-1).view(np.uint8))


def digest_of(parts: Iterable[str | memoryview]) -> str:
    """A hash of texts and bytes, one after the other."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode("utf-8") if isinstance(part, str) else part)
    return digest.hexdigest()


# === Comparison ===


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Values that are not what they were, such as `batch_size was 8 and is 4`.

    Values that only one of the two has are of another version, and do not count.
    """
    common = [key for key in before if key in now and key not in FREE]
    return [
        f"{key} was {_said(before[key])} and is {_said(now[key])}"
        for key in common
        if before[key] != now[key]
    ]


def _said(value: Any) -> str:
    return brief(value) if isinstance(value, str) else shown(value)


def is_finished(folder: Path, record: Mapping[str, Any]) -> bool:
    """Whether a stage has nothing left to do.

    Args:
        folder: Its `OUT/training/STAGE`.
        record: What is to be run now. More `steps` than a finished run continue it.

    Raises:
        ValueError: If the folder holds another run.
    """
    done = folder / DONE_NAME
    if not (folder / RECORD_NAME).is_file():
        return done.is_file()
    if not checkpoints.newest(folder):
        return False  # nothing is lost by other values
    before, now = read_record(folder / RECORD_NAME), dict(record)
    facts = read_done(done) if done.is_file() else {}
    was, steps = before["recipe"]["steps"], record["recipe"]["steps"]
    finished = facts.get("steps") == was
    stopped_at = facts.get("last", {}).get("step")
    continues = finished and steps > was and stopped_at == was
    if continues:
        before["recipe"]["steps"] = steps
    found = differences(before["recipe"], now["recipe"])
    for name in ("model", "data"):
        key = f"{name}_fingerprint"
        if before[key] != now[key]:
            found.append(
                f"{name} was {before['recipe'][name]!r} ({before[key][:_SHOWN]}) and "
                f"is {now['recipe'][name]!r} ({now[key][:_SHOWN]})"
            )
    if found:
        early = ""
        if finished and steps > was and not continues:
            early = f"; it stopped early, at step {stopped_at:.0f}, because of patience"
        raise ValueError(
            f"{now['recipe']['out']!r} holds another run of the {folder.name} stage: "
            f"{'; '.join(found)}{early}. Repeat its values (they are in its file "
            f"training/{folder.name}/{RECORD_NAME}), or choose another out, or discard "
            "the run with --restart"
        )
    return finished and not continues


def read_record(path: Path) -> dict[str, Any]:
    """Reads what `write_record` wrote.

    Raises:
        ValueError: If the file holds something else.
    """
    record = read_json_object(path)
    check_values(record, _RECORD, path)
    check_values(record["recipe"], _RECIPE, path)
    check_values(record["data"], _DATA, path)
    return record


def read_done(path: Path) -> dict[str, Any]:
    """Reads what `write_done` wrote.

    Raises:
        ValueError: If the file holds something else.
    """
    facts = read_json_object(path)
    check_values(facts, {"stage": str, "steps": Count, "last": dict}, path)
    last = facts["last"]
    check_values(last, dict.fromkeys([*last, "step"], float), path)
    return facts


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Writes the record of a run that starts or continues."""
    # With its folders, whose presence says that there is a run.
    with saving(folder.parents[1]) as change:
        write_json(change.path / "training" / folder.name / RECORD_NAME, record)


def write_done(change: Saving, recipe: Recipe, history: Mapping[str, Sequence[float]]):
    """Notes that a stage has finished, with the last values of its log."""
    last = {name: float(values[-1]) for name, values in history.items()}
    facts = {"stage": recipe.stage, "last": last, "steps": recipe.options.steps}
    write_json(change.path / "training" / recipe.stage / DONE_NAME, facts)


# === What OUT holds ===


def finished_stages(out: str | os.PathLike) -> list[str]:
    """The stages that runs in a directory have finished."""
    found = Path(out).glob(f"training/*/{DONE_NAME}")
    return sorted(path.parent.name for path in found)
