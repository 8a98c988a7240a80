"""The learning rate: linear warm-up, then cosine decay."""

from __future__ import annotations

import math

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("bark_tf")
class WarmUpCosine(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up, half a cosine of decay, then constant.

    Args:
        peak: Learning rate after the warm-up.
        steps: Total number of steps.
        warmup_steps: Steps of the warm-up; the first has a rate above 0 already.
        final_share: Share of the peak at the end.

    Example:
        >>> [round(float(WarmUpCosine(1.0, 4, 2, 0.0)(step)), 2) for step in range(5)]
        [0.5, 1.0, 1.0, 0.5, 0.0]
    """

    def __init__(
        self, peak: float, steps: int, warmup_steps: int = 0, final_share: float = 0.1
    ):
        self.peak, self.steps = peak, steps
        self.warmup_steps, self.final_share = warmup_steps, final_share

    def __call__(self, step):
        """The learning rate of a step, float32 ()."""
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
