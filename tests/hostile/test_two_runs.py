"""Two runs in one folder: the second one ends at once, and says who has it."""

import contextlib
import os
import subprocess
import sys
import threading
import time

import pytest
import toy
import toy_cli
import toy_export
import toy_files
import toy_trainer

from bark_tf.cli import main as cli
from bark_tf.convert.convert import convert_checkpoint
from bark_tf.saving import locked
from bark_tf.training.data.prepare import prepare
from bark_tf.training.runs.fit import train
from bark_tf.training.runs.recipe import Recipe
from bark_tf.training.runs.run import run
from bark_tf.training.tokenizers.ctc import train_ctc
from bark_tf.training.tokenizers.train import train_tokenizer


@contextlib.contextmanager
def in_use(folder):
    """Another thread, which is like another process here, writes to a folder."""
    has_it, may_go = threading.Event(), threading.Event()

    def hold():
        with locked(folder):
            has_it.set()
            may_go.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert has_it.wait(60)
    try:
        yield
    finally:
        may_go.set()
        thread.join()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    toy_trainer.write_prepared(folder)
    toy_files.save_hf(folder / "bark", toy_files.bark_config())
    return folder


def train_recipe(prepared, out):
    model, data = str(prepared / "model"), str(prepared / "data")
    run([Recipe("semantic", "full", model, data=data, out=str(out))])


def train_network(prepared, out):
    trainer, batches = toy_trainer.ToyTrainer(), toy_trainer.ToyBatches()
    train(trainer, batches, options=toy_trainer.options(), directory=out)


RUNS = {
    "convert": lambda prepared, out: convert_checkpoint(prepared / "bark", out),
    "convert --overwrite": lambda prepared, out: convert_checkpoint(
        prepared / "bark", out, overwrite=True
    ),
    "prepare": lambda prepared, out: prepare(prepared, out),
    "train": train_recipe,
    "a network": train_network,
    "train-tokenizer": lambda prepared, out: train_tokenizer(prepared / "data", out),
    "train-tokenizer --kind ctc": lambda prepared, out: train_ctc(
        prepared / "data", out, vocab_size=4, rate_hz=50.0
    ),
    "export": lambda prepared, out: toy.shared_bark().export(
        out, toy_export.processor()
    ),
}


@pytest.mark.parametrize("name", RUNS)
def test_the_second_run_ends_at_once(name, prepared, tmp_path):
    """Both once wrote, and the results were mixed."""
    toy.shared_bark()
    words = f"is in use by process {os.getpid()} on .* choose another directory"
    with in_use(tmp_path / "out"):
        began = time.monotonic()
        with pytest.raises(BlockingIOError, match=words) as found:
            RUNS[name](prepared, tmp_path / "out")
        assert time.monotonic() - began < 5
        assert str(found.value).startswith(repr(str(tmp_path / "out")))
        names = [path.name for path in (tmp_path / "out").iterdir()]
        assert names == [".bark-tf.lock"]


def test_the_command_line_says_so_in_one_line(prepared, tmp_path, capsys):
    out = tmp_path / "out"
    with in_use(out):
        assert cli.main(["convert", str(prepared / "bark"), str(out), "--quiet"]) == 1
    assert toy_cli.only_line(capsys).startswith(f"bark-tf: {str(out)!r} is in use by ")


# === Two runs in two folders ===

_WRITE_ALL = """
from pathlib import Path
import keras
from bark_tf import BarkProcessor, BarkSemanticConfig, BarkSemanticModel
from bark_tf.training.runs import checkpoints
from bark_tf.training.runs.lora import save_lora, save_peft

out = Path("out")
keras.utils.set_random_seed(0)
sizes = {"hidden_size": 8, "num_heads": 2, "num_layers": 2, "block_size": 16}
model = BarkSemanticModel(BarkSemanticConfig(**sizes, input_vocab_size=20))
model.save_pretrained(out, max_shard_size="2KB")
BarkProcessor.from_pretrained().save_pretrained(out)
model.enable_lora(2)
save_lora(model, out / "adapters" / "semantic.safetensors")
save_peft(out / "adapters", "base")
model.compile("adam")
checkpoints.save(out, 1, model, {"b": 1, "a": [2]})
"""


@pytest.mark.slow
def test_two_processes_write_the_same_bytes(tmp_path):
    """Bug: the metadata of adapters had another order in every run."""
    written = []
    for seed in "12":
        (folder := tmp_path / seed).mkdir()
        variables = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", _WRITE_ALL]
        subprocess.run(command, check=True, cwd=folder, env=variables)
        files = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        written.append({str(p.relative_to(folder)): files[p] for p in files})
    assert written[0] == written[1] and len(written[0]) > 12
