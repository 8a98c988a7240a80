"""The inputs of a training run, recorded so that it is never resumed with others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from bark_tf.files import atomic_write

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
    before = json.loads(path.read_text(encoding="utf-8"))
    names = ", ".join(name for name in inputs if before.get(name) != inputs[name])
    if names:
        raise ValueError(
            f"{str(run)!r} holds a run with other inputs ({names} differ). Choose "
            "another directory, or start again with --restart"
        )


def digest_of_weights(network: keras.Model) -> str:
    """A hash of a network's weights."""
    digest = hashlib.sha256()
    for variable in network.weights:
        digest.update(np.ascontiguousarray(variable.numpy()).data)
    return digest.hexdigest()
