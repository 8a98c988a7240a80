"""Batches, as a function of seed and step alone.

So a run resumes without any saved state of its data: the batches to come are the same
whether or not this process has made the ones before.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

# Examples are sorted by length within so many batches: enough for little padding, few
# enough to stay random.
_SORTED_BATCHES = 32
_PREFETCHED = 8  # batches


class Batches:
    """A stream of batches of one stage.

    Args:
        examples: `StageExamples`, or any object with its `__len__`, `lengths`,
            `example`, `longest`, `length_of`, `pad` and `without_targets`.
        batch_size: Rows per batch, over all workers.
        seed: Seed of the order.
        num_buckets: Number of lengths that batches are padded to; each is traced once.
        shuffle: Whether to shuffle. False gives every example once per epoch, in order;
            rows without targets fill up the last batch.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> batches = Batches(examples, batch_size=8)
        >>> model.fit(batches.dataset(), steps_per_epoch=batches.steps_per_epoch)
    """

    def __init__(
        self,
        examples: Any,
        batch_size: int,
        *,
        seed: int = 0,
        num_buckets: int = 8,
        shuffle: bool = True,
    ):
        if batch_size < 1 or num_buckets < 1:
            raise ValueError(
                "batch_size and num_buckets must be at least 1. "
                f"Received: batch_size={batch_size}, num_buckets={num_buckets}"
            )
        self.examples, self.batch_size, self.seed = examples, batch_size, seed
        self.num_buckets, self.shuffle, self.shard = num_buckets, shuffle, (0, 1)
        self._epoch, self._order = -1, np.zeros((0, 0), np.int64)

    @property
    def steps_per_epoch(self) -> int:
        """Batches per epoch."""
        count = len(self.examples) / self.batch_size
        return max(1, int(count) if self.shuffle else int(np.ceil(count)))

    def with_shard(self, index: int, count: int) -> Batches:
        """The same stream, restricted to one worker's rows.

        Args:
            index: The worker, in [0, count).
            count: Number of workers, a divisor of `batch_size`.
        """
        share = copy.copy(self)
        share.shard = (index, count)
        return share

    def __call__(self, step: int) -> dict[str, np.ndarray]:
        """The batch of a step, this worker's rows."""
        epoch, place = divmod(step, self.steps_per_epoch)
        rows = self._rows(epoch)[place]
        made = [self.examples.example(max(0, row), epoch) for row in rows]
        made = [
            example if row >= 0 else self.examples.without_targets(example)
            for row, example in zip(rows, made, strict=True)
        ]
        # The bucket depends on the whole batch, so all workers pad alike.
        length = self._bucket(max(map(self.examples.length_of, made)))
        index, count = self.shard
        share = self.batch_size // count
        return self.examples.pad(made[index * share : (index + 1) * share], length)

    def _bucket(self, length: int) -> int:
        step = -(-self.examples.longest // self.num_buckets)
        return min(-(-length // step) * step, self.examples.longest)

    def _rows(self, epoch: int) -> np.ndarray:
        """Indices of examples, (steps, batch_size); -1 fills up the last batch."""
        if epoch == self._epoch:
            return self._order
        count, size = len(self.examples), self.batch_size
        if not self.shuffle:
            order = np.full(self.steps_per_epoch * size, -1, np.int64)
            order[:count] = np.arange(count)
        else:
            rng = np.random.Generator(np.random.Philox(key=[self.seed, epoch]))
            # If there are fewer examples than rows in a batch, they repeat.
            order = np.resize(rng.permutation(count), self.steps_per_epoch * size)
            order = self._by_length(order, rng)
        self._epoch, self._order = epoch, order.reshape(-1, size)
        return self._order

    def _by_length(self, order, rng) -> np.ndarray:
        chunk = _SORTED_BATCHES * self.batch_size
        lengths = self.examples.lengths
        parts = [order[i : i + chunk] for i in range(0, len(order), chunk)]
        parts = [part[np.argsort(lengths[part], kind="stable")] for part in parts]
        batches = np.concatenate(parts).reshape(-1, self.batch_size)
        return batches[rng.permutation(len(batches))]

    def dataset(self, start: int = 0, steps: int | None = None) -> tf.data.Dataset:
        """The batches from a step on, prefetched.

        Args:
            start: First step.
            steps: Number of batches. None: endless.

        Returns:
            A dataset of dictionaries of tensors.
        """

        def batches() -> Iterator[dict[str, np.ndarray]]:
            numbers = itertools.count(start)
            return map(self, itertools.islice(numbers, steps))

        first = self(start)
        spec = {
            name: tf.TensorSpec([len(array), *self._axes(name, array)], array.dtype)
            for name, array in first.items()
        }
        dataset = tf.data.Dataset.from_generator(batches, output_signature=spec)
        return dataset.prefetch(_PREFETCHED)

    @staticmethod
    def _axes(name: str, array: np.ndarray) -> list[int | None]:
        """The axes after the first: lengths vary between batches, others do not."""
        return [None, *array.shape[2:]] if array.ndim > 1 else []
