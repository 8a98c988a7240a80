"""Batches are functions of seed and step, complete, and shared by all workers."""

import numpy as np
import pytest

from bark_tf.training.data.batches import Batches


class Numbers:
    """Examples of different lengths that hold their own index."""

    longest = 40

    def __init__(self, count):
        self.lengths = np.random.default_rng(0).integers(1, 41, count)

    def __len__(self):
        return len(self.lengths)

    def example(self, index, epoch):
        return {
            "targets": np.full(self.lengths[index], index),
            "epoch": np.int32(epoch),
        }

    def length_of(self, example):
        return len(example["targets"])

    def without_targets(self, example):
        return {**example, "targets": np.full_like(example["targets"], -100)}

    def pad(self, examples, length):
        rows = [
            np.pad(e["targets"], (0, length - len(e["targets"])), constant_values=-1)
            for e in examples
        ]
        return {
            "targets": np.stack(rows),
            "epoch": np.stack([e["epoch"] for e in examples]),
        }


def first_column(batches, steps):
    return np.concatenate([batches(step)["targets"][:, 0] for step in steps])


def test_an_epoch_holds_every_example_once():
    batches = Batches(Numbers(96), 8, seed=3)
    assert batches.steps_per_epoch == 12
    for epoch in range(2):
        seen = first_column(batches, range(12 * epoch, 12 * epoch + 12))
        assert sorted(seen) == list(range(96))
        assert (batches(12 * epoch)["epoch"] == epoch).all()
    one, two = first_column(batches, range(12)), first_column(batches, range(12, 24))
    assert np.any(one != two)


def test_a_batch_is_a_function_of_seed_and_step():
    one, two = Batches(Numbers(96), 8, seed=3), Batches(Numbers(96), 8, seed=3)
    two(29)
    np.testing.assert_array_equal(one(17)["targets"], two(17)["targets"])
    other = Batches(Numbers(96), 8, seed=4)
    assert np.any(first_column(one, range(12)) != first_column(other, range(12)))


def test_the_rest_of_a_run_is_the_same_when_it_is_resumed():
    batches = Batches(Numbers(96), 8)
    whole = list(batches.dataset(0, 20).as_numpy_iterator())
    rest = list(Batches(Numbers(96), 8).dataset(13, 7).as_numpy_iterator())
    assert len(whole) == 20 and len(rest) == 7
    for one, two in zip(whole[13:], rest, strict=True):
        np.testing.assert_array_equal(one["targets"], two["targets"])


def test_workers_share_a_batch():
    whole = Batches(Numbers(96), 8)
    parts = [whole.with_shard(index, 4) for index in range(4)]
    for step in (0, 5, 13):
        rows = np.concatenate([part(step)["targets"] for part in parts])
        np.testing.assert_array_equal(rows, whole(step)["targets"])


def test_batches_have_few_lengths_and_little_padding():
    batches = Batches(Numbers(4_000), 8, num_buckets=4)
    made = [batches(step)["targets"] for step in range(batches.steps_per_epoch)]
    assert {batch.shape[1] for batch in made} <= {10, 20, 30, 40}
    padding = sum((batch == -1).sum() for batch in made)
    assert padding < 0.3 * sum(batch.size for batch in made)


def test_without_shuffling_every_example_comes_once_in_order():
    batches = Batches(Numbers(21), 8, shuffle=False)
    assert batches.steps_per_epoch == 3
    seen = first_column(batches, range(3))
    assert seen[:21].tolist() == list(range(21)) and (seen[21:] == -100).all()


def test_too_few_examples_for_a_batch_repeat():
    batch = Batches(Numbers(3), 8)(0)["targets"][:, 0]
    assert sorted(set(batch)) == [0, 1, 2] and len(batch) == 8


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"num_buckets": 0}])
def test_wrong_numbers_are_refused(wrong):
    with pytest.raises(ValueError, match="Received"):
        Batches(Numbers(8), **{"batch_size": 8, **wrong})
