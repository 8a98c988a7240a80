"""Several devices and several processes take the same steps as one device."""

import contextlib
import json
import re
import signal
import socket
import time
import types

import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf
import toy

from bark_tf.bark import BarkModel
from bark_tf.models.encodec.model import EncodecModel
from bark_tf.training.codec.trainer import CodecTrainer
from bark_tf.training.runs import checkpoints
from bark_tf.training.runs.strategies import Replicas, strategy_of


def log_of(directory, name):
    lines = (directory / "log.jsonl").read_text(encoding="utf-8").splitlines()
    values = {line["step"]: line for line in map(json.loads, lines) if name in line}
    return {step: line[name] for step, line in values.items()}


def result_of(path):
    with np.load(path) as arrays:
        return [arrays[name] for name in arrays.files if name.startswith("arr")]


def momentum_of(directory):
    """Adam's mean gradient at the end of a run."""
    arrays = safetensors.numpy.load_file(
        checkpoints.newest(directory) / "state.safetensors"
    )
    found = [arrays[name].ravel() for name in sorted(arrays) if "momentum" in name]
    return np.concatenate(found)


def assert_same_curves(one, two):
    for name in ("loss", "val_loss", "accuracy", "learning_rate"):
        a, b = log_of(one, name), log_of(two, name)
        assert a.keys() == b.keys() and a
        np.testing.assert_allclose(list(a.values()), list(b.values()), atol=1e-4)


@pytest.fixture(scope="module")
def alone(toy_runs, tmp_path_factory):
    """The run of one device, with accumulation, clipping, averages and validation."""
    directory = tmp_path_factory.mktemp("alone")
    before = [weight.numpy() for weight in toy_runs.trainer().model.weights]
    _, weights = toy_runs.run(directory, has_validation=True)
    return directory, before, weights


# === One machine ===


def test_two_devices_take_the_steps_of_one(start, alone, tmp_path):
    directory, before, weights = alone
    child = start("run_on_two_devices", tmp_path, before, has_validation=True)
    assert child.exit_code() == 0
    assert_same_curves(directory, tmp_path)
    with np.load(tmp_path / "result.npz") as arrays:
        # Dropout differs between rows.
        one, two = arrays["seeds"]
        assert one[0] != two[0] and one[1] == two[1]
    for one, two in zip(result_of(tmp_path / "result.npz"), weights, strict=True):
        # Adam amplifies rounding errors of tiny gradients.
        np.testing.assert_allclose(one, two, atol=1e-3)


# === Several workers ===


def addresses(count):
    """Unused addresses of this machine."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]


@pytest.mark.slow
def test_two_workers_take_the_steps_of_one_even_if_one_dies(start, alone, tmp_path):
    """The second one is killed after a checkpoint; then both are started again."""
    directory, _, weights = alone
    where = addresses(2)
    args = [(tmp_path, where, 0), (tmp_path, where, 1, 7)]
    first, second = [start("run_as_worker", *a, has_validation=True) for a in args]
    assert second.exit_code() == -signal.SIGKILL
    assert first.exit_code() == 1
    error = (tmp_path / "error-0.txt").read_text(encoding="utf-8")
    assert re.match("Another worker is gone.*newest checkpoint", error)
    assert (tmp_path / "step-00000004").is_dir()
    where = addresses(2)
    args = [(tmp_path, where, index) for index in range(2)]
    children = [start("run_as_worker", *a, has_validation=True) for a in args]
    assert [child.exit_code() for child in children] == [0, 0]
    assert_same_curves(directory, tmp_path)
    one, two = (result_of(tmp_path / f"result-{index}.npz") for index in range(2))
    for a, b, c in zip(one, two, weights, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(a, c, atol=1e-3)


# === The command line ===

RECIPE = """
from bark_tf.training import Recipe

OPTIONS = {"steps": 4, "learning_rate": 0.01, "warmup_steps": 0, "log_every": 1}
OPTIONS |= {"checkpoint_every": 2, "validate_every": 4, "patience": 3}
RECIPE = [
    Recipe(
        stage="semantic", method="lora", lora={"rank": 4}, batch_size=4, options=OPTIONS
    ),
    Recipe(stage="fine", batch_size=4, options=OPTIONS),
]
"""


@pytest.fixture(scope="module")
def recipe_file(prepared):
    path = prepared / "recipe.py"
    path.write_text(RECIPE, encoding="utf-8")
    return path


def command(recipe_file, out, *more):
    folder = recipe_file.parent
    values = [f"model={folder / 'model'}", f"data={folder / 'data'}", f"out={out}"]
    return ["train", str(recipe_file), "--set", *values, *more]


@pytest.mark.slow
def test_train_gives_the_same_model_with_every_strategy(start, recipe_file, tmp_path):
    outs = [tmp_path / name for name in ("alone", "mirrored", "workers")]
    errors = [tmp_path / f"{number}.txt" for number in range(4)]
    children = [start("call", command(recipe_file, outs[0]), errors[0])]
    where = [*command(recipe_file, outs[1]), "--strategy", "mirrored", "--cpus", "2"]
    children.append(start("call", where, errors[1]))
    where = [*command(recipe_file, outs[2]), "--strategy", "multi-worker"]
    cluster = addresses(2)
    for index in range(2):
        children.append(start("call", where, errors[2 + index], cluster, index))
    codes = [child.exit_code() for child in children]
    assert codes == [0, 0, 0, 0], [path.read_text()[-2000:] for path in errors]
    models = [BarkModel.from_pretrained(out) for out in outs]
    before = BarkModel.from_pretrained(recipe_file.parent / "model")
    for stage in ("semantic", "fine_acoustics"):
        own, first, *others = [
            [weight.numpy() for weight in getattr(model, stage).weights]
            for model in (before, *models)
        ]
        assert max(map(toy.largest_difference, own, first)) > 0.005
        for other in others:
            assert max(map(toy.largest_difference, first, other)) < 1e-3
    # Adam's updates do not show the size of gradients; their mean does.
    one, two, _ = [momentum_of(out / "training/semantic") for out in outs]
    assert np.sum(np.abs(two)) / np.sum(np.abs(one)) == pytest.approx(1, abs=1e-3)
    for out in outs:
        assert_same_curves(outs[0] / "training/semantic", out / "training/semantic")
        assert (out / "adapters/semantic.safetensors").is_file()


@pytest.mark.slow
def test_bark_tf_train_reports_a_dead_worker(start, recipe_file, tmp_path):
    """The chief dies; that another worker dies is tested without the command line."""
    where = command(recipe_file, tmp_path / "out", "steps=100000")
    where += ["--strategy", "multi-worker"]
    cluster = addresses(2)
    errors = [tmp_path / f"{index}.txt" for index in range(2)]
    children = [start("call", where, errors[i], cluster, i) for i in range(2)]
    log = tmp_path / "out/training/semantic/log.jsonl"
    while not (log.is_file() and len(log.read_text().splitlines()) > 5):
        assert all(child.process.is_alive() for child in children)
        time.sleep(0.1)
    chief, worker = children
    chief.process.kill()
    assert chief.exit_code() == -signal.SIGKILL
    assert worker.exit_code() == 1
    lines = errors[1].read_text().splitlines()
    assert [
        line for line in lines if line.startswith("bark-tf: Another worker is gone")
    ]
    assert not [line for line in lines if "Traceback" in line]


# === Errors ===


def test_a_codec_is_refused():
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        codec = EncodecModel(toy.bark_config().codec_config)
        with pytest.raises(ValueError, match=r"one device.*MirroredStrategy of 1"):
            CodecTrainer(codec)


def test_a_codec_that_is_fitted_inside_a_scope_is_refused():
    trainer = CodecTrainer(EncodecModel(toy.bark_config().codec_config))
    trainer.compile("sgd")
    audio = {"audio": np.zeros((2, 1600), "float32")}
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        with pytest.raises(ValueError, match="one device"):
            trainer.train_on_batch(audio)


def test_a_run_inside_the_scope_is_refused(toy_runs, tmp_path):
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        with pytest.raises(ValueError, match="outside of the strategy's scope"):
            toy_runs.run(tmp_path)


def test_a_batch_that_cannot_be_shared_is_refused(toy_runs):
    class ThreeDevices(Replicas):
        def __init__(self):
            self.strategy = types.SimpleNamespace(num_replicas_in_sync=3)

    batches = toy_runs.batches(toy_runs.trainer().model.config, batch_size=4)
    with pytest.raises(ValueError, match=r"multiple of the number of devices, 3.*=4"):
        next(ThreeDevices()._shares(batches, 0, 1))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[1]",
        '{"cluster": {"worker": ["a:1"]}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}',
        '{"cluster": {"ps": ["a:1"]}, "task": {"type": "ps", "index": 0}}',
    ],
)
def test_an_incomplete_cluster_is_refused(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match=r"TF_CONFIG must list all workers.*Received"):
        strategy_of("multi-worker")


def test_an_unknown_strategy_is_refused():
    with pytest.raises(ValueError, match=r"mirrored, multi-worker.*'two'"):
        strategy_of("two")
    assert strategy_of(None) is None
    with pytest.raises(ValueError, match=r"num_cpus is for the strategy mirrored"):
        strategy_of(None, 2)
    with pytest.raises(ValueError, match="before TensorFlow computes anything"):
        strategy_of("mirrored", 7)
