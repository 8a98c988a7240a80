"""What a run shows while it trains: its plan, a bar or lines, and what it measured."""

from __future__ import annotations

import collections
import contextlib
import shutil
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from . import checkpoints
from .callbacks import StepCallback
from .recipe import Recipe

# Seconds between two lines without a terminal, and steps that the first estimate needs.
LINE_S, MEASURED_STEPS = 30.0, 5
_WINDOW = 100  # steps that rate and remaining time follow


class Display(StepCallback):
    """Shows a run on a stream: a bar on a terminal, otherwise lines every so often.

    Args:
        recipe: The recipe that runs.
        stream: Text stream. None: standard error.
        clock: Returns the time in seconds.
    """

    def __init__(
        self,
        recipe: Recipe,
        stream: Any = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        super().__init__()
        self.recipe, self._clock = recipe, clock
        self.stream = sys.stderr if stream is None else stream
        self._bar, self._taken, self._shown = None, 0, -LINE_S
        self._losses: dict[str, str] = {}
        self._times: collections.deque[float] = collections.deque(maxlen=_WINDOW)

    def on_train_begin(self, logs=None):
        """Shows the plan."""
        needed = self._needed_disk()
        free = shutil.disk_usage(self.recipe.out).free
        self._say(self._plan(needed, free))
        if needed > free:
            warnings.warn(
                f"The run needs about {_bytes(needed)} in {self.recipe.out!r}, where "
                f"{_bytes(free)} are free",
                stacklevel=2,
            )
        if self.stream.isatty():
            self._bar = tqdm(
                total=self.recipe.options.steps,
                initial=self.start,
                desc=self.recipe.stage,
                unit="step",
                file=self.stream,
                dynamic_ncols=True,
                mininterval=0.2,
            )

    def on_train_batch_end(self, batch, logs=None):
        """Shows the step, its losses, the rate and the time that is left."""
        now = self._clock()
        self._times.append(now)
        self._losses |= {
            name: f"{value:.4g}"
            for name, value in (logs or {}).items()
            if name in ("loss", "val_loss")
        }
        self._taken, step = batch + 1, self.start + batch + 1
        if self._taken == min(MEASURED_STEPS, self.recipe.options.steps - self.start):
            self._say(self._measured())
        if self._bar is not None:
            self._bar.set_postfix(self._losses, refresh=False)
            self._bar.update()
            return
        is_due = now - self._shown >= LINE_S
        if is_due or step == self.recipe.options.steps or "val_loss" in (logs or {}):
            self._shown = now
            self._say(self._line(step))

    def on_train_end(self, logs=None):
        """Leaves the bar as it is."""
        if self._bar is not None:
            self._bar.close()

    def _say(self, text: str) -> None:
        if self._bar is not None:
            self._bar.write(text, file=self.stream)
        else:
            print(text, file=self.stream, flush=True)

    # === Texts ===

    def _plan(self, needed: float, free: float) -> str:
        recipe, model = self.recipe, self.model
        start = f"from step {self.start:,} " if self.start else ""
        trained = _count(model.trainable_variables)
        return (
            f"{recipe.stage}: {start}to step {recipe.options.steps:,} of batch size "
            f"{recipe.batch_size}; {recipe.method} trains {trained:,} of "
            f"{_count(model.weights):,} weights; needs {_bytes(needed)} of disk, "
            f"{_bytes(free)} are free"
        )

    def _needed_disk(self) -> float:
        """Bytes of checkpoints, one of which is being written, and of the network."""
        state = checkpoints.state_of(self.model).values()
        count = self.recipe.options.keep + 1
        return count * _size(state) + _size(self.model.weights)

    def _measured(self) -> str:
        return (
            f"{self.recipe.stage}: {len(self._times)} steps measured: {self._pace()}; "
            f"{_bytes(_memory())} of memory at most so far"
        )

    def _pace(self) -> str:
        """The rate, and the time that is left, which include validations."""
        if len(self._times) < 2:  # the first step includes tracing
            return "rate not known yet"
        seconds = (self._times[-1] - self._times[0]) / (len(self._times) - 1)
        left = self.recipe.options.steps - self.start - self._taken
        pace = f"{1 / seconds:.2g} steps/s" if seconds < 1 else f"{seconds:.2g} s/step"
        return f"{pace}, {tqdm.format_interval(left * seconds)} left"

    def _line(self, step: int) -> str:
        losses = "".join(f", {name} {value}" for name, value in self._losses.items())
        return (
            f"{self.recipe.stage} {step:,}/{self.recipe.options.steps:,}{losses}, "
            f"{self._pace()}"
        )


def _bytes(count: float) -> str:
    return tqdm.format_sizeof(count, "B", 1000)


def _count(variables) -> int:
    return sum(int(np.prod(variable.shape)) for variable in variables)


def _size(variables) -> int:
    sizes = ((np.prod(v.shape), tf.as_dtype(v.dtype).size) for v in variables)
    return sum(int(count) * size for count, size in sizes)


def _memory() -> int:
    """The most bytes that a GPU, or this process, has used."""
    gpus = tf.config.list_logical_devices("GPU")
    if gpus:
        return tf.config.experimental.get_memory_info(gpus[0].name)["peak"]
    with contextlib.suppress(ImportError):  # Windows does not have it
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return 0
