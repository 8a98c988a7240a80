"""Runs: exact after whatever stops them, logged, and clear about what is wrong."""

import errno
import importlib.util
import json
import os
import signal
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import toy

from bark_tf.models.causal import BarkSemanticModel
from bark_tf.training.options import LoraOptions, TrainingOptions
from bark_tf.training.runs import checkpoints, run
from bark_tf.training.runs.callbacks import AudioSamples, _picture
from bark_tf.training.runs.fit import optimizer_of, train
from bark_tf.training.runs.recipe import Recipe, with_settings
from bark_tf.training.runs.schedules import WarmUpCosine

STEPS = 12


class ToyTrainer(keras.Model):
    """Dropout, a moving average and a loss: all that a run has to remember."""

    def __init__(self):
        super().__init__(name="toy")
        keras.utils.set_random_seed(5)
        self.dense = keras.layers.Dense(4, name="dense")
        self.dropout = keras.layers.Dropout(0.5, seed=7)
        self.norm = keras.layers.BatchNormalization(name="norm")
        self.dense.build((None, 3))
        self.norm.build((None, 4))
        self._mean = keras.metrics.Mean("loss")
        self.built = True

    @property
    def metrics(self):
        return [self._mean]

    def call(self, batch, training=False):
        x = self.norm(self.dense(batch["x"]), training=training)
        return tf.reduce_mean((self.dropout(x, training=training) - batch["y"]) ** 2)

    def train_step(self, data):
        with tf.GradientTape() as tape:
            loss = self(data, training=True)
        variables = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        self._mean.update_state(loss)
        return {"loss": self._mean.result()}

    def test_step(self, data):
        self._mean.update_state(self(data))
        return {"loss": self._mean.result()}


class ToyBatches:
    steps_per_epoch = 2

    def __init__(self, spoil_at=None):
        self.spoil_at = spoil_at

    def __call__(self, step):
        rng = np.random.default_rng(step)
        x = rng.normal(size=(8, 3)).astype(np.float32)
        if step == self.spoil_at:
            x[0, 0] = np.nan
        return {"x": x, "y": np.float32(x.sum(1, keepdims=True))}

    def dataset(self, start=0, steps=None):
        spec = {
            "x": tf.TensorSpec((8, 3), tf.float32),
            "y": tf.TensorSpec((8, 1), tf.float32),
        }
        numbers = range(start, start + steps)
        return tf.data.Dataset.from_generator(
            lambda: map(self, numbers), output_signature=spec
        ).prefetch(2)


def options(**changes):
    values = {
        "steps": STEPS,
        "learning_rate": 0.05,
        "warmup_steps": 3,
        "accumulate": 2,
        "ema": 0.9,
        "checkpoint_every": 4,
        "log_every": 2,
        "validate_every": 5,
    }
    return TrainingOptions(**{**values, **changes})


class Stop(keras.callbacks.Callback):
    """Ends the process's work at a step, in one way or another."""

    def __init__(self, step, how):
        super().__init__()
        self.step, self.how = step, how

    def on_train_batch_begin(self, batch, logs=None):
        if batch + 1 == self.step:
            self.how()


def fall_over():
    raise RuntimeError("the machine is gone")


def final_weights(directory):
    trainer = ToyTrainer()
    train(trainer, ToyBatches(), options=options(), directory=directory)
    return [variable.numpy() for variable in trainer.weights]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return final_weights(tmp_path_factory.mktemp("whole"))


# === Exactness ===


@pytest.mark.parametrize("step", [1, 5, 6, 9, STEPS])
def test_a_run_that_fell_over_ends_with_the_same_bits(tmp_path, uninterrupted, step):
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


def test_muon_goes_on_exactly_too(tmp_path):
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


# Kills of one and the same run, each of a process that goes on where the one before
# was: before there is any checkpoint, between two batches of one accumulated gradient,
# and while the checkpoint of step 6 is being written.
KILLS = [(1, False), (5, False), (6, True)]


def test_a_run_of_killed_processes_ends_with_the_same_bits(toy_runs, start, tmp_path):
    """A real network: dropout, order of data, accumulation, averages, schedule."""
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


def test_a_run_that_was_killed_early_begins_with_the_same_adapters(tmp_path):
    """Before the first checkpoint nothing but the seed says what they were."""
    BarkSemanticModel(toy.semantic_config()).save_pretrained(tmp_path)
    lora = LoraOptions(rank=2)
    recipe = Recipe("semantic", "lora", str(tmp_path), lora=lora, dropout=0.1)
    one, two = (run._model(recipe, recipe.model) for _ in range(2))
    assert {"seed_generator_state", "lora_kernel_a"} <= {v.name for v in one.variables}
    for a, b in zip(one.variables, two.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_every_recipe_starts_from_what_the_one_before_has_made():
    """--set model=... says it of all; the first stage's training was lost."""
    recipes = [Recipe(stage) for stage in ("semantic", "coarse", "fine")]
    recipes = with_settings(recipes, ["model=base", "data=recordings", "out=mine"])
    filled = run._filled_in(recipes)
    assert [recipe.model for recipe in filled] == ["base", "mine", "mine"]
    recipes = with_settings(recipes, ["fine.model=other"])
    assert run._filled_in(recipes)[2].model == "other"


def test_a_signal_writes_a_checkpoint_and_stops(tmp_path, uninterrupted):
    with pytest.raises(KeyboardInterrupt):
        train(
            ToyTrainer(),
            ToyBatches(),
            options=options(),
            directory=tmp_path,
            callbacks=[Stop(6, lambda: os.kill(os.getpid(), signal.SIGTERM))],
        )
    assert (tmp_path / "step-00000006").is_dir()
    for one, two in zip(final_weights(tmp_path), uninterrupted, strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_finished_run_is_not_repeated(tmp_path, uninterrupted):
    final_weights(tmp_path)
    trainer = ToyTrainer()
    steps = []
    trainer.train_step = steps.append
    train(trainer, ToyBatches(), options=options(), directory=tmp_path)
    assert not steps
    for one, two in zip(trainer.weights, uninterrupted, strict=True):
        np.testing.assert_array_equal(one.numpy(), two)


def test_the_log_has_every_line_once(tmp_path):
    with pytest.raises(RuntimeError):
        train(
            ToyTrainer(),
            ToyBatches(),
            options=options(),
            directory=tmp_path,
            validation=ToyBatches(),
            callbacks=[Stop(8, fall_over)],
        )
    history = train(
        ToyTrainer(),
        ToyBatches(),
        options=options(),
        directory=tmp_path,
        validation=ToyBatches(),
    )
    text = (tmp_path / "log.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [2, 4, 6, 8, 10, 12]
    assert [line["step"] for line in lines if "val_loss" in line] == [5, 10, 12]
    assert len(history["loss"]) == 6 and history["learning_rate"][-1] > 0
    if importlib.util.find_spec("tensorboard"):
        assert list((tmp_path / "tensorboard").glob("events*"))


def test_validation_does_not_change_the_training(tmp_path, uninterrupted):
    trainer = ToyTrainer()
    how = {"options": options(), "directory": tmp_path, "validation": ToyBatches()}
    history = train(trainer, ToyBatches(), **how)
    for one, two in zip(trainer.weights, uninterrupted, strict=True):
        np.testing.assert_array_equal(one.numpy(), two)
    plain = train(
        ToyTrainer(), ToyBatches(), options=options(), directory=tmp_path / "plain"
    )
    assert history["loss"] == plain["loss"]


# === Checkpoints ===


def test_old_checkpoints_go_and_a_damaged_one_is_left_out(tmp_path):
    final_weights(tmp_path)
    names = sorted(path.name for path in tmp_path.glob("step-*"))
    assert names == ["step-00000008", "step-00000012"]
    (tmp_path / names[1] / "state.safetensors").write_bytes(b"half")
    trainer = ToyTrainer()
    trainer.compile(optimizer=optimizer_of(options()))
    trainer.optimizer.build(trainer.trainable_variables)
    with pytest.warns(UserWarning, match="step-00000012.*damaged"):
        assert checkpoints.restore(tmp_path, trainer)["step"] == 8


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    final_weights(tmp_path)
    trainer = ToyTrainer()
    trainer.extra = keras.layers.Dense(2)
    trainer.extra.build((None, 2))
    with pytest.raises(ValueError, match="belongs to another model"):
        train(trainer, ToyBatches(), options=options(), directory=tmp_path)


def test_other_options_are_refused(tmp_path):
    final_weights(tmp_path)
    with pytest.raises(ValueError, match="other options"):
        train(
            ToyTrainer(),
            ToyBatches(),
            options=options(learning_rate=0.1),
            directory=tmp_path,
        )


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    from safetensors import numpy as files

    write, count = files.save_file, []

    def full(*args):
        count.append(1)
        if len(count) == 2:
            Path(args[1]).write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        write(*args)

    monkeypatch.setattr(files, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        final_weights(tmp_path)
    found = [path.name for path in tmp_path.iterdir() if "step" in path.name]
    assert found == ["step-00000004"]


# === What goes wrong ===


def test_a_loss_that_is_no_number_ends_the_run(tmp_path):
    with pytest.raises(FloatingPointError, match=r"loss is nan at step 6.*diverged"):
        train(
            ToyTrainer(),
            ToyBatches(spoil_at=4),
            options=options(accumulate=1),
            directory=tmp_path,
        )
    assert [path.name for path in tmp_path.glob("step-*")] == ["step-00000004"]


def test_no_better_for_a_while_ends_the_run_with_the_best(tmp_path):
    trainer = ToyTrainer()
    chosen = options(
        steps=200,
        learning_rate=5.0,
        validate_every=2,
        patience=2,
        ema=None,
        accumulate=1,
    )
    history = train(
        trainer,
        ToyBatches(),
        options=chosen,
        directory=tmp_path,
        validation=ToyBatches(),
    )
    losses = history["val_loss"]
    assert len(losses) == int(np.argmin(losses)) + 3 < 100
    trainer.reset_metrics()
    result = trainer.evaluate(
        ToyBatches().dataset(0, 2), steps=2, verbose=0, return_dict=True
    )
    assert result["loss"] == pytest.approx(min(losses), rel=1e-6)


# === Parts ===


def test_the_learning_rate_rises_and_falls():
    schedule = WarmUpCosine(2.0, steps=110, warmup_steps=10, final_share=0.1)
    rates = [float(schedule(step)) for step in (0, 9, 10, 60, 110, 500)]
    np.testing.assert_allclose(rates, [0.2, 2.0, 2.0, 1.1, 0.2, 0.2], rtol=1e-5)
    again = WarmUpCosine.from_config(schedule.get_config())
    assert float(again(37)) == float(schedule(37))


def test_biases_and_norms_do_not_decay():
    trainer = ToyTrainer()
    optimizer = optimizer_of(TrainingOptions(weight_decay=0.5, learning_rate=1e-3))
    optimizer.build(trainer.trainable_variables)
    decays = {
        v.path for v in trainer.trainable_variables if optimizer._use_weight_decay(v)
    }
    assert decays == {"dense/kernel"}


def test_progress_reaches_the_end(tmp_path):
    reports = []
    train(
        ToyTrainer(),
        ToyBatches(),
        options=options(),
        directory=tmp_path,
        progress=lambda *report: reports.append(report),
    )
    assert reports[-1] == ("toy", STEPS, STEPS)


def test_one_can_hear_a_run(tmp_path, rng):
    pytest.importorskip("tensorboard")
    samples = AudioSamples(
        tmp_path, 5, lambda step: {"take": rng.normal(0, 0.1, 4_000)}, 16_000
    )
    train(
        ToyTrainer(),
        ToyBatches(),
        options=options(accumulate=1),
        directory=tmp_path,
        callbacks=[samples],
    )
    written = b"".join(p.read_bytes() for p in (tmp_path / "tensorboard").iterdir())
    assert b"take_spectrogram" in written
    tone = np.sin(2 * np.pi * 2_000 * np.arange(8_000) / 16_000)[None].astype("f")
    picture = _picture(tone).numpy()
    assert picture.shape[1] == 513 and picture.max() == 1
    # Low frequencies are at the bottom.
    assert picture[0, :, 5, 0].argmax() == 512 - 128
