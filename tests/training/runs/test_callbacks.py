"""Logs, validation, signals and audio samples of a run."""

import importlib.util
import json
import os
import signal

import numpy as np
import pytest
from toy_trainer import Stop, ToyBatches, ToyTrainer, fall_over, final_weights, options

from bark_tf.training.runs.callbacks import AudioSamples, _picture
from bark_tf.training.runs.fit import train


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


def test_early_stopping_restores_the_best_weights(tmp_path):
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
    # Killed after its last checkpoint, it has nothing left to do.
    trainer = ToyTrainer()
    trainer.train_step = None
    train(
        trainer,
        ToyBatches(),
        options=chosen,
        directory=tmp_path,
        validation=ToyBatches(),
    )
    trainer.reset_metrics()
    result = trainer.evaluate(
        ToyBatches().dataset(0, 2), steps=2, verbose=0, return_dict=True
    )
    assert result["loss"] == pytest.approx(min(losses), rel=1e-6)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    with pytest.raises(FloatingPointError, match=r"loss is nan at step 6.*diverged"):
        train(
            ToyTrainer(),
            ToyBatches(spoil_at=4),
            options=options(accumulate=1),
            directory=tmp_path,
        )
    assert [path.name for path in tmp_path.glob("step-*")] == ["step-00000004"]


def test_a_signal_writes_a_checkpoint_and_stops(tmp_path, uninterrupted):
    message = r"stopped at step 6 of 12, which is saved in .* the same command goes on"
    with pytest.raises(KeyboardInterrupt, match=message):
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


def test_progress_reaches_the_end(tmp_path):
    reports = []
    train(
        ToyTrainer(),
        ToyBatches(),
        options=options(),
        directory=tmp_path,
        progress=lambda *report: reports.append(report),
    )
    assert reports[-1] == ("toy", 12, 12)


def test_audio_samples_are_written(tmp_path, rng):
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
