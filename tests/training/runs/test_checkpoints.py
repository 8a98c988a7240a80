"""Checkpoints are complete or absent, and belong to one model."""

import errno
from pathlib import Path

import keras
import pytest
from toy_trainer import ToyBatches, ToyTrainer, final_weights, options

from bark_tf.training.runs import checkpoints
from bark_tf.training.runs.fit import optimizer_of, train


def test_old_checkpoints_are_removed_and_a_damaged_one_is_skipped(tmp_path):
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


def test_a_full_disk_keeps_the_previous_checkpoint(tmp_path, monkeypatch):
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
