"""Requests that TensorFlow Serving runs before it reports a version as available.

The first run of a signature prepares its graph, which takes seconds; so does the first
run of a compiled one for every batch size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from bark_tf.serving import messages

WARM_UP_FILE = "assets.extra/tf_serving_warmup_requests"
_TIME = 8  # length of all arrays


def write_warm_up(
    path: Path,
    model: str,
    signatures: Mapping[str, Any],
    hop: int,
    batches: Sequence[int],
) -> None:
    """Writes requests of all signatures as PredictionLog records.

    Args:
        path: Directory of the version.
        model: Name of the model on the server.
        signatures: Name -> concrete function.
        hop: Audio samples per frame.
        batches: The batch sizes.
    """
    path = path / WARM_UP_FILE
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as file:
        for name, function in signatures.items():
            for batch in batches:
                inputs = dict(_examples(function, hop, batch))
                request = messages.request(model, name, inputs)
                file.write(messages.prediction_log(request))


def _examples(function: Any, hop: int, batch: int) -> Iterator[tuple[str, np.ndarray]]:
    """Inputs that the signature takes, by name."""
    values = {"text": b"a", "voice": b"", "attention_mask": 1}
    for spec in function.structured_input_signature[0]:
        time = _TIME * hop if spec.name in ("audio", "num_samples") else _TIME
        shape = [time if size is None else size for size in (batch, *spec.shape[1:])]
        is_length = spec.name.startswith("num_") or spec.name.endswith("_new_tokens")
        value = time if is_length else values.get(spec.name, 0)
        dtype = object if spec.dtype == tf.string else spec.dtype.as_numpy_dtype
        yield spec.name, np.full(shape, value, dtype)
