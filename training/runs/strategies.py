"""Training on several devices and on several machines.

A replica is one device. It holds all weights and processes its share of the rows of
every batch. The gradient is that of the mean over the targets of *all* replicas, so the
updates equal those of one device with the whole batch.

A worker is one process of a cluster, usually on its own machine. All workers share
their directories; the first one, the chief, writes.
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
# The errors by which TensorFlow reports that another worker does not answer.
_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
)


def strategy_of(
    name: str | None, num_cpus: int | None = None
) -> tf.distribute.Strategy | None:
    """Creates a strategy by name.

    Args:
        name: `"mirrored"`: all GPUs of this machine, or all logical CPU devices if
            there are none. `"multi-worker"`: all devices of the machines in the
            environment variable TF_CONFIG; waits until all have started, and must be
            created before TensorFlow computes anything. None: no strategy.
        num_cpus: Rehearses `"mirrored"` on so many logical devices that share the CPU.
            They are created before TensorFlow computes anything.

    Raises:
        ValueError: If the name is unknown, TF_CONFIG describes no cluster, or
            `num_cpus` comes too late or with another strategy.
        ConnectionError: If the other workers do not start.

    Example:
        >>> with strategy_of("mirrored").scope():
        ...     trainer = SemanticTrainer(model_of_this_scope(), generation_config)
        >>> train(trainer, batches, options=options, directory="run")
    """
    if num_cpus is not None and name != "mirrored":
        raise ValueError(
            "num_cpus is for the strategy mirrored. "
            f"Received: strategy={name!r}, num_cpus={num_cpus}"
        )
    if name is None:
        return None
    if name not in NAMES:
        raise ValueError(
            f"strategy must be one of {', '.join(NAMES)}. Received: {name!r}"
        )
    if num_cpus is not None:
        return tf.distribute.MirroredStrategy(_split_cpu(num_cpus))
    if name == "mirrored":
        devices = tf.config.list_logical_devices("GPU")
        devices = devices or tf.config.list_logical_devices("CPU")
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    _check_cluster(os.environ.get(_CONFIG_VARIABLE, ""))
    with _lost_workers_reported():
        return tf.distribute.MultiWorkerMirroredStrategy()


def _split_cpu(count: int) -> list[str]:
    """Creates logical devices; returns their names."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    parts = [tf.config.LogicalDeviceConfiguration()] * count
    try:
        tf.config.set_logical_device_configuration(cpu, parts)
    except RuntimeError as error:
        raise ValueError(
            "The CPU must be split before TensorFlow computes anything. "
            f"Received: num_cpus={count} afterwards"
        ) from error
    return [device.name for device in tf.config.list_logical_devices("CPU")]


def _check_cluster(text: str) -> None:
    """Raises ValueError unless TF_CONFIG lists all workers and identifies this one."""
    try:
        config = json.loads(text)
        kind, index = config["task"]["type"], config["task"]["index"]
        address = config["cluster"][kind][int(index)]
    except (ValueError, LookupError, TypeError):
        address = None
    if not isinstance(address, str) or kind not in ("chief", "worker"):
        raise ValueError(
            f"{_CONFIG_VARIABLE} must list all workers and identify this one, "
            'such as {"cluster": {"worker": ["10.0.0.1:4000", "10.0.0.2:4000"]}, '
            f'"task": {{"type": "worker", "index": 0}}}}. Received: {text!r}'
        )


# === Inside a step ===


def mean_over_replicas(values: Sequence[Any], weight) -> tuple[list[Any], tf.Tensor]:
    """Weighted means over all replicas.

    A plain mean of the replicas' means would give less weight to the targets of a
    replica that has many.

    Args:
        values: Means over this replica's targets: tensors, gradients, or None.
        weight: Total weight of this replica's targets, float32 ().

    Returns:
        Means over the targets of all replicas, equal on all of them; and the total
        weight of those targets.
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
    """One replica's equal share of a value, for metrics that sum over replicas."""
    return value / tf.distribute.get_strategy().num_replicas_in_sync


# === Around the steps ===


def workers_of(strategy: tf.distribute.Strategy | None) -> Alone | Replicas:
    """Chooses what takes the steps of a run.

    Args:
        strategy: A strategy of TensorFlow, its default one, or None.
    """
    several = tf.distribute.MirroredStrategy, tf.distribute.MultiWorkerMirroredStrategy
    return Replicas(strategy) if isinstance(strategy, several) else Alone()


class Alone:
    """One device, trained by Keras."""

    is_chief = True

    def lost_workers_reported(self) -> contextlib.AbstractContextManager:
        """See `Replicas`."""
        return contextlib.nullcontext()

    def wait(self) -> None:
        """See `Replicas`."""

    def check_same(self, value: int, what: str) -> None:
        """See `Replicas`."""

    def fit(self, trainer, batches, start, steps, callbacks, stop) -> None:
        """See `Replicas`."""

        def stop_if_asked(batch, logs=None):
            if stop.asked:
                stop.came = trainer.stop_training = True

        stopper = keras.callbacks.LambdaCallback(on_train_batch_end=stop_if_asked)
        trainer.fit(
            batches.dataset(start, steps),
            steps_per_epoch=steps,
            epochs=1,
            verbose=0,
            shuffle=False,
            callbacks=[stopper, *callbacks],
        )

    def evaluate(self, trainer, batches) -> dict[str, float]:
        """Means over one pass through the batches."""
        steps = batches.steps_per_epoch
        dataset = batches.dataset(0, steps)
        return trainer.evaluate(dataset, steps=steps, verbose=0, return_dict=True)


class Replicas:
    """Several devices, in this process or in several workers, that share every batch.

    Differs: Keras's `fit` fails with several workers (a PerReplica reaches NumPy), and
    under a strategy its optimizers clip each replica's gradients before summing and
    cannot accumulate. Here the replicas compute gradients, and the optimizer applies
    the mean once, as on one device.

    Args:
        strategy: `tf.distribute.MirroredStrategy`, or `MultiWorkerMirroredStrategy`.

    Attributes:
        is_chief: Whether this worker writes files.
    """

    def __init__(self, strategy: tf.distribute.Strategy):
        self.strategy = strategy
        self.num_workers, self._index = 1, 0
        self._tested = self._test = None  # a trainer and its traced test step
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
        """A context that raises ConnectionError if a worker is lost."""
        return (
            contextlib.nullcontext()
            if self.num_workers == 1
            else _lost_workers_reported()
        )

    def wait(self) -> None:
        """Waits until all workers have arrived here."""
        self._gather(0)

    def check_same(self, value: int, what: str) -> None:
        """Raises ValueError unless all workers have the same value."""
        values = self._gather(value)
        if len(set(values)) > 1:
            raise ValueError(
                f"All workers must have the same {what}: start them with the same "
                f"command and a shared directory. Received: {values}"
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
            stop: `StopOnSignal`; if one worker is asked to stop, all stop after the
                same step.

        Raises:
            ValueError: If a batch cannot be shared, or inside the strategy's scope.
            ConnectionError: If another worker is lost.
        """
        if tf.distribute.has_strategy():
            raise ValueError(
                "Training must start outside of the strategy's scope, which is only "
                "for creating the trainer. Received: a call inside of it"
            )
        callbacks = keras.callbacks.CallbackList(
            callbacks, model=trainer, steps=steps, epochs=1
        )
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
        """A training step of all replicas, which also sums a number over them."""

        def of_replica(batch, number):
            replica = tf.distribute.get_replica_context()
            number = tf.identity(number)  # one per replica
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
        """The first replica's value of what is equal on all."""
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
            "Another worker is gone or cannot be reached. Start all workers again to "
            "resume from the newest checkpoint. TensorFlow says: "
            + _reason(error.message)
        ) from error


def _reason(message: str) -> str:
    """The first line that is not about a place in the graph."""
    about_places = (" ", "Graph execution error", "Detected at", "<stack traces")
    lines = [line for line in message.splitlines() if line.strip()]
    return next((x for x in lines if not x.startswith(about_places)), message)
