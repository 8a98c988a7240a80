"""The training run: Keras `fit` with a schedule, exact checkpoints and logs.

A run is a directory. A run that was stopped, however, resumes from the newest
checkpoint and ends with the same weights, bit for bit, as one that was not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras

from bark_tf.config.fields import check_values
from bark_tf.models.pretrained import half_precision
from bark_tf.saving import locked

from ..options import TrainingOptions
from . import checkpoints, strategies
from .callbacks import (
    Checkpoints,
    Log,
    StepCallback,
    StopOnSignal,
    Validation,
    restore_best,
)
from .optimizers import AdamW, muon
from .records import FREE, differences
from .schedules import WarmUpCosine

# Names of the variables without weight decay: biases, and the scales of norms.
_NOT_DECAYED = ("bias", "gamma", "beta", "scale")


def optimizer_of(
    options: TrainingOptions, dtype: str = "float32"
) -> keras.optimizers.Optimizer:
    """The optimizer that the options describe.

    Args:
        options: The options.
        dtype: The compute dtype of the network, see `optimizers.muon`.

    Raises:
        ImportError: If Muon needs a newer Keras.
    """
    settings = {
        "learning_rate": WarmUpCosine(
            options.learning_rate,
            options.steps,
            options.warmup_steps,
            options.final_share,
        ),
        "weight_decay": options.weight_decay,
        "global_clipnorm": options.clip_norm,
        "use_ema": options.ema is not None,
        "ema_momentum": options.ema or 0.99,
        "gradient_accumulation_steps": options.accumulate
        if options.accumulate > 1
        else None,
    }
    if options.optimizer == "muon":
        optimizer = muon(options.beta_1, options.beta_2, dtype, **settings)
    else:
        optimizer = AdamW(beta_1=options.beta_1, beta_2=options.beta_2, **settings)
    optimizer.exclude_from_weight_decay(var_names=list(_NOT_DECAYED))
    return optimizer


def train(
    trainer: keras.Model,
    batches: Any,
    *,
    options: TrainingOptions,
    directory: str | os.PathLike,
    validation: Any = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, list[float]]:
    """Trains until the run has taken `options.steps` steps, earlier starts included.

    Args:
        trainer: A `StageTrainer`, a `CodecTrainer`, or any Keras model whose
            `train_step` takes the batches. It is compiled here if it is not yet. A
            `StageTrainer` created in the scope of a strategy trains on all its
            devices; every worker of a cluster calls this function.
        batches: `Batches`, or anything with `dataset(start, steps)`.
        options: `TrainingOptions`.
        directory: Directory of the run, for checkpoints, `log.jsonl` and TensorBoard.
        validation: Held-out data of the same kind, or None.
        callbacks: Additional Keras callbacks.
        progress: Called with (name, steps taken, steps).

    Returns:
        The log: name -> one value per line.

    Raises:
        ValueError: If `directory` holds a run with other options, the workers do not
            agree on it, or the weights to train are pure half precision. More `steps`
            than those of a finished run continue it.
        BlockingIOError: If another process trains in `directory`.
        ConnectionError: If another worker is lost.
        FloatingPointError: If the loss is not finite; the last checkpoint is from
            before.
        KeyboardInterrupt: After Ctrl-C or a signal to terminate; a checkpoint has been
            written.
    """
    problem = half_precision(trainer.trainable_variables)
    if problem:
        raise ValueError(problem)
    directory = Path(directory)
    workers = strategies.workers_of(trainer.distribute_strategy)
    with trainer.distribute_strategy.scope():
        _compile(trainer, options)
    values = dataclasses.asdict(options)
    check = functools.partial(_check_options, values, directory)
    with locked(directory) if workers.is_chief else contextlib.nullcontext():
        facts = checkpoints.restore(directory, trainer, check) or {"step": 0}
        start = facts["step"]
        workers.check_same(start, "newest checkpoint (step)")
        workers.check_same(_fingerprint(values), "options (fingerprint)")
        log = Log(directory, options, start, progress, writes=workers.is_chief)
        workers.wait()  # until the log is truncated
        validate = Validation(validation, log, workers)
        if start < options.steps and not validate.is_over:
            save = Checkpoints({"options": values}, log)
            for callback in callbacks:
                if isinstance(callback, StepCallback):
                    callback.start = start
            callbacks = [log, validate, save, *callbacks]
            with StopOnSignal() as stop:
                steps = options.steps - start
                workers.fit(trainer, batches, start, steps, callbacks, stop)
            if stop.came:
                raise KeyboardInterrupt(
                    f"stopped at step {log.step} of {options.steps}, which is saved in "
                    f"{str(directory)!r}; the same command goes on from there"
                )
        elif options.ema is not None:
            trainer.optimizer.finalize_variable_values(trainer.trainable_variables)
        workers.wait()  # until everything is written
        if options.patience is not None:
            restore_best(directory, trainer)
        return log.history()


def _compile(trainer: keras.Model, options: TrainingOptions) -> None:
    if not trainer.compiled:
        dtype = getattr(trainer, "model", trainer).compute_dtype
        trainer.compile(
            optimizer=optimizer_of(options, dtype), jit_compile=options.jit_compile
        )
    if not trainer.optimizer.built:
        trainer.optimizer.build(trainer.trainable_variables)


def _check_options(now: dict[str, Any], directory: Path, facts: dict[str, Any]) -> None:
    """Refuses other options; more `steps` than a finished run continue it."""
    before = facts.get("options", {})
    check_values({"options": before}, {"options": dict}, directory)
    if before.get("steps") == facts["step"] < now["steps"]:
        before = {**before, "steps": now["steps"]}
    found = differences(before, now)
    if found:
        raise ValueError(
            f"{str(directory)!r} holds a run with other options: {'; '.join(found)}. "
            "Choose another directory, or start again with --restart"
        )


def _fingerprint(values: dict[str, Any]) -> int:
    """A number for the options that all workers and a resumed run must share."""
    values = {name: value for name, value in values.items() if name not in FREE}
    digest = hashlib.sha256(json.dumps(values).encode("utf-8")).hexdigest()
    return int(digest[:15], 16)
