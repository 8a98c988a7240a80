"""Logits and audio that are no numbers end in an error, not in noise."""

from __future__ import annotations

import tensorflow as tf


class NotFiniteError(ValueError):
    """Logits or audio are NaN or infinite; another seed may still do."""


def is_finite(values: tf.Tensor) -> tf.Tensor:
    """Bool (): whether a tensor holds neither NaN nor infinity."""
    return tf.reduce_all(tf.math.is_finite(values))


def require(is_finite: tf.Tensor, what: str) -> None:
    """Raises an error unless values were finite.

    Args:
        is_finite: Bool ().
        what: The values, for the error message.

    Raises:
        NotFiniteError: If they were not.
        tf.errors.InvalidArgumentError: The same, where a traced function runs, so an
            export too.
    """
    message = (
        f"{what} must be finite. Received: NaN or infinity. The weights are damaged or "
        "float16 is too small for them: load the model with dtype bfloat16 or float32, "
        "and if that does not help, get the checkpoint again"
    )
    if not tf.executing_eagerly():
        tf.debugging.Assert(is_finite, [message])
    elif not bool(is_finite):
        raise NotFiniteError(message)
