"""Training on several devices and on several machines.

A replica is one device. It holds all weights and works on its share of every batch's
rows; weights move by the gradient of the mean over the targets of *all* replicas. So
the steps are those that one device takes with the whole batch.

A worker is one process of a cluster, on a machine of its own as a rule. All of them see
the same directories; the first one, the chief, writes.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

NAMES = ("mirrored", "multi-worker")
_CONFIG_VARIABLE = "TF_CONFIG"
# How TensorFlow reports that another worker does not answer.
_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
)


def strategy_of(name: str | None) -> tf.distribute.Strategy | None:
    """The strategy of a name.

    Args:
        name: `"mirrored"`: all GPUs of this machine, or all logical CPU devices where
            there is none. `"multi-worker"`: all devices of the machines that the
            environment variable TF_CONFIG names; waits until all have started. Has to
            be made before TensorFlow computes anything. None: no strategy.

    Raises:
        ValueError: If there is no such strategy, or TF_CONFIG names no cluster.
        ConnectionError: If the other workers do not start.

    Example:
        >>> with strategy_of("mirrored").scope():
        ...     trainer = SemanticTrainer(model_of_this_scope(), generation_config)
        >>> train(trainer, batches, options=options, directory="run")
    """
    if name is None:
        return None
    if name not in NAMES:
        raise ValueError(
            f"strategy must be one of {', '.join(NAMES)}. Received: {name!r}"
        )
    if name == "mirrored":
        devices = tf.config.list_logical_devices("GPU")
        devices = devices or tf.config.list_logical_devices("CPU")
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    _check_cluster(os.environ.get(_CONFIG_VARIABLE, ""))
    with _lost_workers_reported():
        return tf.distribute.MultiWorkerMirroredStrategy()


def _check_cluster(text: str) -> None:
    """Raises ValueError unless TF_CONFIG says who all are, and who this one is."""
    try:
        config = json.loads(text)
        kind, index = config["task"]["type"], config["task"]["index"]
        address = config["cluster"][kind][int(index)]
    except (ValueError, LookupError, TypeError):
        address = None
    if not isinstance(address, str) or kind not in ("chief", "worker"):
        raise ValueError(
            f"{_CONFIG_VARIABLE} must name the workers and say which of them this is, "
            'such as {"cluster": {"worker": ["10.0.0.1:4000", "10.0.0.2:4000"]}, '
            f'"task": {{"type": "worker", "index": 0}}}}. Received: {text!r}'
        )


# === Inside a step ===


def together(values: Sequence[Any], weight) -> tuple[list[Any], tf.Tensor]:
    """Weighted means over all replicas; where there is only one, what it was given.

    A mean of the replicas' means would give a target less weight the more of them its
    replica has.

    Args:
        values: Means over this replica's targets: tensors, gradients, or None.
        weight: What this replica's targets weigh in all, float32 ().

    Returns:
        Means over the targets of all replicas, the same everywhere; and what those
        weigh in all.
    """
    replica = tf.distribute.get_replica_context()
    if replica is None or replica.num_replicas_in_sync == 1:
        return list(values), weight
    given = [tf.convert_to_tensor(value) for value in values if value is not None]
    sums = [value * tf.cast(weight, value.dtype) for value in given]
    *sums, total = replica.all_reduce(tf.distribute.ReduceOp.SUM, [*sums, weight])
    means = iter(
        tf.math.divide_no_nan(value, tf.cast(total, value.dtype)) for value in sums
    )
    return [None if value is None else next(means) for value in values], total


def share_of_replica(value) -> tf.Tensor:
    """The part of a sum that one replica adds to a metric; all add up to the sum."""
    return value / tf.distribute.get_strategy().num_replicas_in_sync


# === Around the steps ===


def workers_of(strategy: tf.distribute.Strategy | None) -> Alone | Replicas:
    """Who takes the steps of a run.

    Args:
        strategy: One of Keras and TensorFlow, their default one, or None.
    """
    several = tf.distribute.MirroredStrategy, tf.distribute.MultiWorkerMirroredStrategy
    return Replicas(strategy) if isinstance(strategy, several) else Alone()


class Alone:
    """One device: Keras does everything."""

    is_chief = True

    def lost_workers_reported(self) -> contextlib.AbstractContextManager:
        """There is nobody to lose."""
        return contextlib.nullcontext()

    def wait(self) -> None:
        """Goes on when all workers are here."""

    def check_same(self, value: int, what: str) -> None:
        """Raises ValueError unless all workers have the same value."""

    def fit(self, trainer, batches, start, steps, callbacks, stop) -> None:
        """Takes steps; see `Replicas.fit`."""

        def heed(batch, logs=None):
            if stop.asked:
                stop.came = trainer.stop_training = True

        heed = keras.callbacks.LambdaCallback(on_train_batch_end=heed)
        trainer.fit(
            batches.dataset(start, steps),
            steps_per_epoch=steps,
            epochs=1,
            verbose=0,
            shuffle=False,
            callbacks=[heed, *callbacks],
        )

    def evaluate(self, trainer, batches) -> dict[str, float]:
        """Means over one pass through the batches."""
        steps = batches.steps_per_epoch
        dataset = batches.dataset(0, steps)
        return trainer.evaluate(dataset, steps=steps, verbose=0, return_dict=True)


class Replicas:
    """Several devices, of this process or of several workers, that share every batch.

    Differs: from Keras's `fit`, which fails with several workers (a PerReplica reaches
    NumPy), and whose optimizers under a strategy clip the gradients of each replica
    before they add them, and cannot accumulate them. Here replicas measure, and the
    optimizer moves all of them at once, as it moves one.

    Args:
        strategy: `tf.distribute.MirroredStrategy`, or `MultiWorkerMirroredStrategy`.

    Attributes:
        is_chief: Whether this worker writes files.
    """

    def __init__(self, strategy: tf.distribute.Strategy):
        self.strategy = strategy
        self.num_workers, self._index = 1, 0
        self._tested = self._test = None  # a trainer and its traced step
        resolver = strategy.cluster_resolver
        if resolver is not None and resolver.task_type is not None:
            jobs = resolver.cluster_spec().as_dict()
            places = [
                (job, index)
                for job in ("chief", "worker")
                for index in range(len(jobs.get(job, ())))
            ]
            self.num_workers = len(places)
            self._index = places.index((resolver.task_type, resolver.task_id))
        self.is_chief = self._index == 0

    def lost_workers_reported(self) -> contextlib.AbstractContextManager:
        """Inside, TensorFlow's errors about other workers become a ConnectionError."""
        return (
            contextlib.nullcontext()
            if self.num_workers == 1
            else _lost_workers_reported()
        )

    def wait(self) -> None:
        """Goes on when all workers are here."""
        self._gather(0)

    def check_same(self, value: int, what: str) -> None:
        """Raises ValueError unless all workers have the same value."""
        values = self._gather(value)
        if len(set(values)) > 1:
            raise ValueError(
                f"All workers must have the same {what}: they read and write the same "
                f"directory and are started alike. Received: {values}"
            )

    def _gather(self, value: int) -> list[int]:
        if self.num_workers == 1:
            return [value]
        with self.lost_workers_reported():
            mine = tf.constant([value], tf.int64)
            return self.strategy.gather(mine, axis=0).numpy().tolist()

    def fit(self, trainer, batches, start, steps, callbacks, stop) -> None:
        """Takes steps.

        Args:
            trainer: Compiled `StageTrainer`.
            batches: `Batches`.
            start: Steps taken before.
            steps: Steps to take.
            callbacks: Of Keras.
            stop: `StopOnSignal`; when it has come to one worker, all stop after the
                same step.

        Raises:
            ValueError: If a batch cannot be shared, or inside the strategy's scope.
            ConnectionError: If another worker is gone.
        """
        if tf.distribute.has_strategy():
            raise ValueError(
                "Training must begin outside of the strategy's scope, which is only "
                "for making the trainer. Received: a call inside of it"
            )
        callbacks = keras.callbacks.CallbackList(callbacks, model=trainer)
        step = self._step(trainer)
        trainer.stop_training = False
        trainer.reset_metrics()
        with self.lost_workers_reported():
            callbacks.on_train_begin()
            for number, batch in enumerate(self._shares(batches, start, steps)):
                callbacks.on_train_batch_begin(number)
                logs, num_asked = step(batch, tf.constant(float(stop.asked)))
                if num_asked:
                    stop.came = trainer.stop_training = True
                callbacks.on_train_batch_end(number, logs)
                if trainer.stop_training:
                    break
            trainer.optimizer.finalize_variable_values(trainer.trainable_variables)
            callbacks.on_train_end()

    def evaluate(self, trainer, batches) -> dict[str, float]:
        """Means over one pass through the batches."""
        if trainer is not self._tested:
            self._tested, self._test = trainer, self._test_step(trainer)
        trainer.reset_metrics()
        with self.lost_workers_reported():
            for batch in self._shares(batches, 0, batches.steps_per_epoch):
                logs = self._test(batch)
        return {name: float(value) for name, value in logs.items()}

    def _step(self, trainer) -> Callable:
        """A step of all replicas; it also adds up a number of each worker."""

        def of_replica(batch, number):
            replica = tf.distribute.get_replica_context()
            number = tf.identity(number)  # one for each replica
            total = replica.all_reduce(tf.distribute.ReduceOp.SUM, number)
            return *trainer.gradients(batch), total

        @tf.function(autograph=False, reduce_retracing=True)
        def step(batch, number):
            results = self.strategy.run(of_replica, args=(batch, number))
            gradients, logs, total = tf.nest.map_structure(self._first, results)
            trainer.optimizer.apply(gradients, trainer.trainable_variables)
            return logs, total

        return step

    def _test_step(self, trainer) -> Callable:
        @tf.function(autograph=False, reduce_retracing=True)
        def step(batch):
            logs = self.strategy.run(trainer.test_step, args=(batch,))
            return tf.nest.map_structure(self._first, logs)

        return step

    def _first(self, value):
        """What is the same on all replicas, once."""
        return self.strategy.experimental_local_results(value)[0]

    def _shares(self, batches, start: int, steps: int) -> Iterator[Mapping[str, Any]]:
        """This worker's rows of every batch, one share per device."""
        replicas = self.strategy.num_replicas_in_sync
        if batches.batch_size % replicas:
            raise ValueError(
                f"batch_size must be a multiple of the number of devices, {replicas}. "
                f"Received: batch_size={batches.batch_size}"
            )
        local = replicas // self.num_workers
        mine = batches.with_shard(self._index, self.num_workers)
        for batch in mine.dataset(start, steps):
            shares = {name: tf.split(rows, local) for name, rows in batch.items()}
            yield self.strategy.experimental_distribute_values_from_function(
                lambda place, shares=shares: {
                    name: parts[place.replica_id_in_sync_group % local]
                    for name, parts in shares.items()
                }
            )


@contextlib.contextmanager
def _lost_workers_reported() -> Iterator[None]:
    try:
        yield
    except _LOST as error:
        raise ConnectionError(
            "Another worker is gone or cannot be reached. Start all workers again: the "
            "run goes on from its newest checkpoint. TensorFlow says: "
            + _reason(error.message)
        ) from error


def _reason(message: str) -> str:
    """The first line that is not about where in a graph something happened."""
    about_places = (" ", "Graph execution error", "Detected at", "<stack traces")
    lines = [line for line in message.splitlines() if line.strip()]
    return next((x for x in lines if not x.startswith(about_places)), message)
