"""Learning rates: a warm-up, then a cosine."""

from __future__ import annotations

import math

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("bark_tf")
class WarmUpCosine(keras.optimizers.schedules.LearningRateSchedule):
    """Rises in a line, then falls along half a cosine, then stays.

    Args:
        peak: Learning rate after the warm-up.
        steps: Steps in all.
        warmup_steps: Steps of the rise; the first step already has a rate above 0.
        final_share: Share of the peak at which it ends.

    Example:
        >>> [round(float(WarmUpCosine(1.0, 4, 2, 0.0)(step)), 2) for step in range(5)]
        [0.5, 1.0, 1.0, 0.5, 0.0]
    """

    def __init__(
        self,
        peak: float,
        steps: int,
        warmup_steps: int = 0,
        final_share: float = 0.1,
    ):
        self.peak, self.steps = peak, steps
        self.warmup_steps, self.final_share = warmup_steps, final_share

    def __call__(self, step):
        """The rate of a step, float32 ()."""
        step = tf.cast(step, tf.float32)
        rise = (step + 1) / max(1, self.warmup_steps)
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        fall = (1 + tf.cos(math.pi * tf.clip_by_value(done, 0.0, 1.0))) / 2
        fall = self.final_share + (1 - self.final_share) * fall
        return self.peak * tf.where(step < self.warmup_steps, rise, fall)

    def get_config(self):
        """The arguments, for serialization."""
        return {
            "peak": self.peak,
            "steps": self.steps,
            "warmup_steps": self.warmup_steps,
            "final_share": self.final_share,
        }
