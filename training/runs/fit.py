"""The training run: Keras `fit` with a schedule, exact checkpoints and logs.

A run is a directory. Started again after whatever stopped it, it goes on from the
newest checkpoint, and every weight is, bit for bit, what it would have been without the
stop.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras

from ..options import TrainingOptions
from . import checkpoints, strategies
from .callbacks import (
    AudioSamples,
    Checkpoints,
    Log,
    StopOnSignal,
    Validation,
    restore_best,
)
from .optimizers import AdamW, muon
from .schedules import WarmUpCosine

# Names of the variables without weight decay: biases, and the scales of norms.
_NOT_DECAYED = ("bias", "gamma", "beta", "scale")


def optimizer_of(options: TrainingOptions) -> keras.optimizers.Optimizer:
    """The optimizer with everything that the options ask for.

    Raises:
        ImportError: If this Keras has no such Muon.
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
        optimizer = muon(options.beta_1, options.beta_2, **settings)
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
    """Trains until `options.steps` steps have been taken, in this run or before.

    Args:
        trainer: A `StageTrainer`, a `CodecTrainer`, or any Keras model whose
            `train_step` takes what the batches give. It is compiled here unless it is.
            A `StageTrainer` that was made in the scope of a strategy trains on all
            devices of that; every worker of a cluster calls this function.
        batches: `Batches`, or anything with `dataset(start, steps)`.
        options: `TrainingOptions`.
        directory: Of the run: checkpoints, `log.jsonl`, TensorBoard's files.
        validation: Held-out data of the same kind, or None.
        callbacks: Further callbacks of Keras.
        progress: Called with (name, steps taken, steps).

    Returns:
        What the log holds: name -> one value per line.

    Raises:
        ValueError: If `directory` holds a run with other options, or workers disagree
            about it.
        ConnectionError: If another worker is gone.
        FloatingPointError: If the loss is no longer a number; the last checkpoint is
            from before.
        KeyboardInterrupt: If Ctrl-C or a signal to terminate came; a checkpoint has
            been written.
    """
    directory = Path(directory)
    workers = strategies.workers_of(trainer.distribute_strategy)
    with trainer.distribute_strategy.scope():
        _compile(trainer, options)
    fingerprint = _fingerprint(options)
    facts = checkpoints.restore(directory, trainer) or {"step": 0}
    if facts.get("options", fingerprint) != fingerprint:
        raise ValueError(
            f"{str(directory)!r} holds a run with other options. Choose another "
            "directory, or start again with --restart"
        )
    start = facts["step"]
    workers.check_same(start, "newest checkpoint (step)")
    workers.check_same(int(fingerprint[:15], 16), "options (fingerprint)")
    log = Log(directory, options, start, progress, writes=workers.is_chief)
    workers.wait()  # until the log is cut
    if start < options.steps:
        validate = Validation(directory, validation, options, start, log, workers)
        facts = {"options": fingerprint}
        keep = Checkpoints(directory, options, start, facts, log)
        for callback in callbacks:
            if isinstance(callback, AudioSamples):
                callback.start = start
        rest, callbacks = options.steps - start, [log, validate, keep, *callbacks]
        with StopOnSignal() as stop:
            workers.fit(trainer, batches, start, rest, callbacks, stop)
        if stop.came:
            raise KeyboardInterrupt
    elif options.ema is not None:
        trainer.optimizer.finalize_variable_values(trainer.trainable_variables)
    workers.wait()  # until everything is written
    if options.patience is not None:
        restore_best(directory, trainer)
    return log.history()


def _compile(trainer: keras.Model, options: TrainingOptions) -> None:
    if not trainer.compiled:
        trainer.compile(
            optimizer=optimizer_of(options), jit_compile=options.jit_compile
        )
    if not trainer.optimizer.built:
        trainer.optimizer.build(trainer.trainable_variables)


def _fingerprint(options: TrainingOptions) -> str:
    """What must not change between two parts of a run."""
    free = ("checkpoint_every", "keep", "log_every")
    values = dataclasses.asdict(options)
    values = {name: value for name, value in values.items() if name not in free}
    return hashlib.sha256(json.dumps(values).encode("utf-8")).hexdigest()
