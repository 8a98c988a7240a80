"""Options and inputs of a tokenizer's run, which never resumes with other inputs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from bark_tf.files import atomic_write, read_json_object

from ..options import TrainingOptions
from ..runs.records import content_of, digest_of

INPUTS_NAME = "inputs.json"


def claim(run: Path, inputs: Mapping[str, Any]) -> None:
    """Records the inputs of a run; refuses to resume it with other inputs.

    Args:
        run: Directory of the run, created if missing.
        inputs: JSON values that must not change when the run resumes, besides its
            options.

    Raises:
        ValueError: If the run has other inputs; the message names those that differ.
    """
    path = run / INPUTS_NAME
    if not path.is_file():
        run.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(inputs, indent=2) + "\n", encoding="utf-8")
        return
    before = read_json_object(path)
    names = ", ".join(name for name in inputs if before.get(name) != inputs[name])
    if names:
        raise ValueError(
            f"{str(run)!r} holds a run with other inputs ({names} differ). Choose "
            "another directory, or start again with --restart"
        )


def run_options(steps: int, warmup_steps: int, **options: Any) -> TrainingOptions:
    """Options of a tokenizer's network: the best of twenty validations is kept.

    Args:
        steps: Number of batches.
        warmup_steps: At most this many, and at most a tenth of all.
        **options: Further fields of `TrainingOptions`.
    """
    return TrainingOptions(
        steps=steps,
        warmup_steps=min(warmup_steps, steps // 10),
        checkpoint_every=500,
        keep=1,
        validate_every=max(1, steps // 20),
        patience=20,
        log_every=10,
        **options,
    )


def digest_of_weights(network: keras.Model) -> str:
    """A hash of a network's weights."""
    return digest_of(map(content_of, network.weights))
