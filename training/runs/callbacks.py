"""Callbacks of a run: logs, validation, checkpoints, signals, audio samples."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import safetensors.numpy
import tensorflow as tf

from bark_tf.files import atomic_write
from bark_tf.optional import required

from ..codec.losses import magnitudes
from . import checkpoints
from .checkpoints import assign, plain, read_arrays
from .log_file import LOG_NAME, read_log

BEST_NAME = "best.safetensors"
_TENSORBOARD = "tensorboard"
_SPECTROGRAM_WINDOW = 1024


class Log(keras.callbacks.Callback):
    """Logs metrics as lines of JSON, and for TensorBoard if it is installed.

    Args:
        directory: Directory of the run.
        options: `TrainingOptions`.
        start: Step of the checkpoint that is resumed. Later lines of the log are
            removed: no checkpoint includes their steps.
        progress: Called with (name, steps taken, steps).
        writes: Whether this process writes; False for all workers but the chief.
    """

    def __init__(
        self,
        directory: Path,
        options: Any,
        start: int,
        progress: Callable[[str, int, int], None] | None = None,
        writes: bool = True,
    ):
        super().__init__()
        self.directory, self.options = directory, options
        self.start, self.step = start, start
        self.writes, self._progress = writes, progress
        self._path = directory / LOG_NAME
        self._writer = None
        self._time, self._time_step = time.monotonic(), start
        if not writes:
            return
        directory.mkdir(parents=True, exist_ok=True)
        self._truncate()
        # TensorFlow writes TensorBoard's files through the package of that name.
        if importlib.util.find_spec("tensorboard") is not None:
            folder = str(directory / _TENSORBOARD)
            self._writer = tf.summary.create_file_writer(folder)

    def _truncate(self) -> None:
        lines = [line for line in read_log(self._path) if line["step"] <= self.start]
        with atomic_write(self._path) as temporary:
            text = "".join(json.dumps(line) + "\n" for line in lines)
            temporary.write_text(text, encoding="utf-8")

    def history(self) -> dict[str, list[float]]:
        """All lines: name -> values."""
        history: dict[str, list[float]] = {}
        for line in read_log(self._path):
            for name, value in line.items():
                history.setdefault(name, []).append(value)
        return history

    def on_train_batch_end(self, batch, logs=None):
        """Writes a line every `log_every` steps."""
        self.step = self.start + batch + 1
        if self.step % self.options.log_every and self.step != self.options.steps:
            return
        values = {name: float(value) for name, value in (logs or {}).items()}
        self.check(values)
        now = time.monotonic()
        rate = (self.step - self._time_step) / max(now - self._time, 1e-9)
        self._time, self._time_step = now, self.step
        values["learning_rate"] = float(self.model.optimizer.learning_rate)
        self.write({**values, "steps_per_s": round(rate, 4)})
        self.model.reset_metrics()
        if self._progress is not None and self.writes:
            name = getattr(self.model, "stage", self.model.name)
            self._progress(name, self.step, self.options.steps)

    def check(self, values: dict[str, float]) -> None:
        """Raises FloatingPointError if a value is not finite."""
        wrong = [name for name, value in values.items() if not math.isfinite(value)]
        if wrong:
            raise FloatingPointError(
                f"{wrong[0]} is {values[wrong[0]]} at step {self.step}: the run has "
                "diverged. A lower learning rate, more warm-up steps or a smaller "
                "clip_norm may help; the last checkpoint is from before"
            )

    def write(self, values: dict[str, float]) -> None:
        """Adds a line to the log, and scalars to TensorBoard."""
        if not self.writes:
            return
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": self.step, **values}) + "\n")
        if self._writer is None:
            return
        with self._writer.as_default():
            for name, value in values.items():
                tf.summary.scalar(name, value, self.step)
        self._writer.flush()

    def on_train_end(self, logs=None):
        """Closes the TensorBoard file."""
        if self._writer is not None:
            self._writer.close()


class Validation(keras.callbacks.Callback):
    """Validates on held-out data and stops the run early.

    The best weights are saved in the run's directory if `patience` is set.

    Args:
        validation: `Batches`, or None.
        log: `Log` of the run.
        workers: Result of `strategies.workers_of`.
    """

    def __init__(self, validation: Any, log: Log, workers: Any):
        super().__init__()
        self.validation, self.log, self.workers = validation, log, workers
        self.options = log.options
        losses = log.history().get("val_loss", [])
        self.best = min(losses, default=math.inf)
        self.waited = len(losses) - 1 - int(np.argmin(losses)) if losses else 0

    @property
    def is_over(self) -> bool:
        """Whether the run has to stop early."""
        patience = self.options.patience
        return patience is not None and self.waited >= patience

    def on_train_batch_end(self, batch, logs=None):
        """Validates every `validate_every` steps."""
        step = self.log.start + batch + 1
        due = step % self.options.validate_every == 0 or step == self.options.steps
        if self.validation is None or not due:
            return
        # Training and evaluation share the metrics.
        variables = [v for metric in self.model.metrics for v in metric.variables]
        before = [variable.numpy() for variable in variables]
        values = self.workers.evaluate(self.model, self.validation)
        values = {f"val_{name}": float(value) for name, value in values.items()}
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)
        self.log.check(values)
        self.log.write(values)
        if logs is not None:
            logs.update(values)  # for the callbacks after this one
        self._judge(values["val_loss"])

    def _judge(self, loss: float) -> None:
        if loss < self.best:
            self.best, self.waited = loss, 0
            if self.options.patience is not None and self.workers.is_chief:
                _save_best(self.log.directory, self.model)
        else:
            self.waited += 1
        if self.is_over:
            self.model.stop_training = True


def _saved(model: keras.Model) -> dict[str, keras.Variable]:
    """The weights that `best.safetensors` holds, by name."""
    unsaved = {id(variable) for variable in getattr(model, "unsaved", ())}
    numbered = enumerate(model.weights)
    return {str(i): weight for i, weight in numbered if id(weight) not in unsaved}


def _save_best(directory: Path, model: keras.Model) -> None:
    weights = {i: plain(weight.numpy()) for i, weight in _saved(model).items()}
    with atomic_write(directory / BEST_NAME) as temporary:
        safetensors.numpy.save_file(weights, temporary)


def restore_best(directory: Path, model: keras.Model) -> None:
    """Loads the weights of the best validation into a model, if there was one."""
    path = directory / BEST_NAME
    if path.is_file():
        assign(_saved(model), read_arrays(path), path)


class StopOnSignal:
    """Lets the current step finish on SIGINT or SIGTERM; a second signal kills.

    Attributes:
        asked: Whether this process has received a signal.
        came: Whether the run stops because this or another worker has.
    """

    def __init__(self):
        self.asked = self.came = False
        self._before: dict[int, Any] = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number, frame):
        self.asked = True
        self._restore()

    def _restore(self):
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def __exit__(self, *error):
        self._restore()


class Checkpoints(keras.callbacks.Callback):
    """Writes checkpoints regularly, and when the run stops.

    Args:
        facts: JSON values stored in every checkpoint.
        log: `Log` of the run.
    """

    def __init__(self, facts: dict[str, Any], log: Log):
        super().__init__()
        self.facts, self.log = facts, log

    def on_train_batch_end(self, batch, logs=None):
        """Saves every `checkpoint_every` steps and after the last one."""
        step, options = self.log.start + batch + 1, self.log.options
        is_last = step == options.steps or self.model.stop_training
        if step % options.checkpoint_every and not is_last:
            return
        self.log.check({name: float(value) for name, value in (logs or {}).items()})
        checkpoints.save(
            self.log.directory,
            step,
            self.model,
            self.facts,
            options.keep,
            writes=self.log.writes,
        )


class StepCallback(keras.callbacks.Callback):
    """A callback that counts the steps of the whole run; abstract.

    Attributes:
        start: Steps taken before this process, set by `train`.
    """

    start = 0


class AudioSamples(StepCallback):
    """Writes audio and spectrograms for TensorBoard.

    Args:
        directory: Directory of the run.
        every: Steps between two samples.
        make: Called with the step; returns name -> float32 (samples,).
        sample_rate: Samples per second.

    Raises:
        ImportError: If TensorBoard is not installed.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        every: int,
        make: Callable[[int], dict[str, np.ndarray]],
        sample_rate: int,
    ):
        super().__init__()
        self.every, self.make, self.sample_rate = every, make, sample_rate
        required("tensorboard", "Writing audio samples", "train")
        self._writer = tf.summary.create_file_writer(
            str(Path(directory) / _TENSORBOARD)
        )

    def on_train_batch_end(self, batch, logs=None):
        """Writes samples every `every` steps."""
        step = self.start + batch + 1
        if step % self.every:
            return
        with self._writer.as_default():
            for name, audio in self.make(step).items():
                audio = np.asarray(audio, np.float32)[None]
                tf.summary.audio(name, audio[..., None], self.sample_rate, step)
                tf.summary.image(f"{name}_spectrogram", _picture(audio), step)
        self._writer.flush()


def _picture(audio: np.ndarray) -> tf.Tensor:
    """A spectrogram image, (1, frequencies, time, 1) in [0, 1], 80 dB of range."""
    missing = max(0, _SPECTROGRAM_WINDOW - audio.shape[1])
    levels = magnitudes(np.pad(audio, ((0, 0), (0, missing))), _SPECTROGRAM_WINDOW)
    decibels = 20 * tf.math.log(levels + 1e-7) / math.log(10)
    highest = tf.reduce_max(decibels)
    picture = tf.clip_by_value((decibels - highest) / 80 + 1, 0, 1)
    return tf.transpose(picture, [0, 2, 1])[:, ::-1, :, None]
