"""Runs end with the same weights after whatever stops them."""

import signal

import keras
import numpy as np
import pytest
from toy_trainer import (
    STEPS,
    Stop,
    ToyBatches,
    ToyTrainer,
    fall_over,
    final_weights,
    options,
)

from bark_tf.training.options import TrainingOptions
from bark_tf.training.runs import checkpoints
from bark_tf.training.runs.fit import optimizer_of, train


@pytest.mark.parametrize("step", [1, 5, 6, 9, STEPS])
def test_a_crashed_run_ends_with_the_same_weights(tmp_path, uninterrupted, step):
    with pytest.raises(RuntimeError, match="gone"):
        train(
            ToyTrainer(),
            ToyBatches(),
            options=options(),
            directory=tmp_path,
            callbacks=[Stop(step, fall_over)],
        )
    for one, two in zip(final_weights(tmp_path), uninterrupted, strict=True):
        np.testing.assert_array_equal(one, two)


def test_muon_resumes_exactly(tmp_path):
    chosen = options(optimizer="muon")

    def run(directory, *callbacks):
        trainer = ToyTrainer()
        train(
            trainer,
            ToyBatches(),
            options=chosen,
            directory=directory,
            callbacks=callbacks,
        )
        return [variable.numpy() for variable in trainer.weights]

    with pytest.raises(RuntimeError, match="gone"):
        run(tmp_path / "fell", Stop(6, fall_over))
    again, whole = run(tmp_path / "fell"), run(tmp_path / "whole")
    for one, two in zip(again, whole, strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_muon_multiplies_in_the_dtype_of_the_network(tmp_path, monkeypatch, dtype):
    kind, used = keras.optimizers.Muon, set()
    iterate = kind.zeropower_via_newtonschulz5

    def recorded(self, x, steps):
        used.add(keras.backend.standardize_dtype(x.dtype))
        return iterate(self, x, steps)

    monkeypatch.setattr(kind, "zeropower_via_newtonschulz5", recorded)
    keras.config.set_dtype_policy(dtype)
    try:
        trainer = ToyTrainer()
    finally:
        keras.config.set_dtype_policy("float32")
    chosen = options(optimizer="muon", steps=1, warmup_steps=0, accumulate=1)
    train(trainer, ToyBatches(), options=chosen, directory=tmp_path)
    assert used == {dtype.removeprefix("mixed_")}


# Kills of one run, each in a process that resumes after the kill before: before the
# first checkpoint, between two batches of one accumulated gradient, and while the
# checkpoint of step 6 is being written.
KILLS = [(1, False), (5, False), (6, True)]


@pytest.mark.slow
def test_a_run_killed_three_times_ends_with_the_same_weights(toy_runs, start, tmp_path):
    """With dropout, data order, accumulation, weight averages and a schedule."""
    how = {"dropout": 0.2, "checkpoint_every": 3, "accumulate": 2, "ema": 0.9}
    newest = []
    for step, is_writing in KILLS:
        child = start("run_and_die", tmp_path / "run", step, is_writing, **how)
        assert child.exit_code() == -signal.SIGKILL
        newest.append(
            max((p.name for p in (tmp_path / "run").glob("step-*")), default="")
        )
    assert newest == ["", "step-00000003", "step-00000003"]
    history, weights = toy_runs.run(tmp_path / "run", **how)
    whole, expected = toy_runs.run(tmp_path / "whole", **how)
    for one, two in zip(weights, expected, strict=True):
        np.testing.assert_array_equal(one, two)
    assert history["loss"] == whole["loss"]


def test_a_finished_run_is_not_repeated(tmp_path, uninterrupted):
    final_weights(tmp_path)
    trainer = ToyTrainer()
    steps = []
    trainer.train_step = steps.append
    train(trainer, ToyBatches(), options=options(), directory=tmp_path)
    assert not steps
    for one, two in zip(trainer.weights, uninterrupted, strict=True):
        np.testing.assert_array_equal(one.numpy(), two)


def test_other_options_are_refused_and_more_steps_continue(tmp_path):
    final_weights(tmp_path)

    def again(**changes):
        train(
            ToyTrainer(), ToyBatches(), options=options(**changes), directory=tmp_path
        )

    message = (
        r"options: learning_rate was 0\.05 and is 0\.1; accumulate was 2 and is 1\."
    )
    with pytest.raises(ValueError, match=message):
        again(learning_rate=0.1, accumulate=1, log_every=3)
    again(steps=STEPS + 4)
    assert checkpoints.newest(tmp_path).name == "step-00000016"
    with pytest.raises(ValueError, match="steps was 16 and is 12"):
        again()


def test_biases_and_norms_do_not_decay():
    trainer = ToyTrainer()
    optimizer = optimizer_of(TrainingOptions(weight_decay=0.5, learning_rate=1e-3))
    optimizer.build(trainer.trainable_variables)
    decays = {
        v.path for v in trainer.trainable_variables if optimizer._use_weight_decay(v)
    }
    assert decays == {"dense/kernel"}


def test_pure_half_precision_is_refused(tmp_path):
    layer = keras.layers.Dense(1, dtype="bfloat16")
    trainer = keras.Sequential([keras.Input((3,)), layer])
    with pytest.raises(ValueError, match="mixed_bfloat16"):
        train(trainer, ToyBatches(), options=options(), directory=tmp_path)
    assert not list(tmp_path.iterdir())
