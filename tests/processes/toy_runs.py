"""Toy training runs in processes that tests start and kill.

This file has its own folder because multiprocessing's children import it by name, and
`tests` must not be on their path: its folder `bark_tf` would hide the package.
"""

import contextlib
import json
import os
import signal
import sys

import keras
import numpy as np
import tensorflow as tf
from file_operations import killed_at
from safetensors import numpy as files

from bark_tf.cli import main as cli
from bark_tf.config import (
    BarkCoarseConfig,
    BarkFineConfig,
    BarkGenerationConfig,
    BarkSemanticConfig,
    BarkSemanticGenerationConfig,
    EncodecConfig,
)
from bark_tf.convert.convert import convert_checkpoint
from bark_tf.models.causal import BarkCoarseModel, BarkSemanticModel
from bark_tf.models.encodec.model import EncodecModel
from bark_tf.models.fine import BarkFineModel
from bark_tf.training.data.batches import Batches
from bark_tf.training.data.examples import StageExamples
from bark_tf.training.data.shards import Utterance
from bark_tf.training.runs.fit import TrainingOptions, train
from bark_tf.training.runs.strategies import strategy_of
from bark_tf.training.runs.trainers import SemanticTrainer

VOCABULARY, TEXTS = 20, 16
CONFIG = BarkGenerationConfig(
    semantic_config=BarkSemanticGenerationConfig(
        eos_token_id=VOCABULARY,
        max_new_tokens=30,
        text_encoding_offset=VOCABULARY + 1,
        text_pad_token=38,
        semantic_infer_token=39,
        semantic_vocab_size=VOCABULARY,
        max_input_semantic_length=8,
        semantic_rate_hz=50.0,
    )
)
STEPS = 10


def trainer(dropout=0.0, seed=5):
    """A trainer of a network with one block."""
    keras.utils.set_random_seed(seed)
    config = BarkSemanticConfig(
        input_vocab_size=40,
        output_vocab_size=VOCABULARY + 1,
        block_size=38,
        num_layers=1,
        num_heads=2,
        hidden_size=16,
        initializer_range=0.3,
        dropout=dropout,
    )
    return SemanticTrainer(BarkSemanticModel(config), CONFIG)


def batches(model_config, batch_size=4):
    """Batches that mix rows of few and of many targets."""
    rng = np.random.default_rng(0)
    rows = [
        Utterance(
            id=str(i),
            text="",
            speaker="ab"[i % 2],
            text_ids=rng.integers(0, TEXTS, 4),
            semantic=rng.integers(0, VOCABULARY, count),
            codes=np.zeros((8, 2 * count), np.int32),
            audio=None,
        )
        for i, count in enumerate([1, 28, 3, 14, 2, 25, 9, 21, 5, 17])
    ]
    examples = StageExamples(rows, "semantic", CONFIG, model_config)
    return Batches(examples, batch_size, num_buckets=1)


def options(**changes):
    values = {
        "steps": STEPS,
        "learning_rate": 0.02,
        "warmup_steps": 3,
        "clip_norm": 0.5,
        "checkpoint_every": 4,
        "log_every": 1,
        "validate_every": 5,
        "accumulate": 2,
        "ema": 0.9,
    }
    return TrainingOptions(**{**values, **changes})


def run(
    directory,
    *,
    strategy=None,
    weights=None,
    callbacks=(),
    dropout=0.0,
    has_validation=False,
    **changes,
):
    """Trains; returns the history and all weights."""
    with strategy.scope() if strategy else contextlib.nullcontext():
        model = trainer(dropout, seed=5 if weights is None else 6)
        if weights is not None:
            model.model.put_weights(weights)
    data = batches(model.model.config)
    history = train(
        model,
        data,
        options=options(**changes),
        directory=directory,
        validation=data if has_validation else None,
        callbacks=callbacks,
    )
    return history, [weight.numpy() for weight in model.weights]


class Kill(keras.callbacks.Callback):
    """Sends SIGKILL to this process when a step begins."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def on_train_batch_begin(self, batch, logs=None):
        # `iterations` counts accumulated steps as one.
        if self.model.optimizer._iterations.numpy() + 1 == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def kill_while_writing(step):
    """Makes SIGKILL arrive when a step's checkpoint is half written."""
    write = files.save_file

    def save_file(arrays, path):
        write(arrays, path)
        if f"{step:08d}" in str(path):
            os.kill(os.getpid(), signal.SIGKILL)

    files.save_file = save_file


def split_cpu(count):
    """Splits the CPU into several devices."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    devices = [tf.config.LogicalDeviceConfiguration()] * count
    tf.config.set_logical_device_configuration(cpu, devices)


def join_cluster(addresses, index):
    task = {"type": "worker", "index": index}
    config = {"cluster": {"worker": addresses}, "task": task}
    os.environ["TF_CONFIG"] = json.dumps(config)


# === Run by children ===


def run_and_die(directory, step, is_writing=False, **changes):
    if is_writing:
        kill_while_writing(step)
    run(directory, callbacks=[] if is_writing else [Kill(step)], **changes)


def run_on_two_devices(directory, weights, **changes):
    split_cpu(2)
    strategy = strategy_of("mirrored")
    _, weights = run(directory, strategy=strategy, weights=weights, **changes)
    with strategy.scope():
        network = trainer(dropout=0.5).model
    seeds = strategy.run(lambda: network._dropout(True).seed)
    seeds = strategy.experimental_local_results(seeds)
    _keep(directory / "result.npz", weights, seeds=np.stack(seeds))


def _toy_batch(name):
    """A new network and rows for it, of which the first have few labels."""
    rng = np.random.default_rng(0)
    sizes = {"num_layers": 1, "num_heads": 2, "hidden_size": 8, "block_size": 16}
    sizes |= {"input_vocab_size": 20, "output_vocab_size": 20}
    ids = rng.integers(0, 20, (7, 6, 4), dtype=np.int32)
    labels = ids.copy()
    labels[0], labels[1, 2:] = -100, -100
    weights = rng.uniform(0.1, 1, (7, 6)).astype("float32")
    if name == "fine":
        inputs = {"codebook_idx": np.int32([1, 2, 3, 1, 2, 3, 1]), "input_ids": ids}
        model = BarkFineModel(BarkFineConfig(**sizes, n_codes_total=4))
        return model, {**inputs, "labels": labels, "sample_weight": weights}
    if name == "codec":
        sizes = {"num_filters": 2, "hidden_size": 4, "upsampling_ratios": (4,)}
        # Full batches: Keras' losses are the mean of the devices' means.
        audio = rng.normal(0, 0.3, (4, 40)).astype("float32")
        return EncodecModel(EncodecConfig(**sizes, num_lstm_layers=1)), (audio, audio)
    stages = {"semantic": (BarkSemanticModel, BarkSemanticConfig)}
    stages["coarse"] = BarkCoarseModel, BarkCoarseConfig
    model_class, config_class = stages[name]
    data = {"input_ids": ids[..., 0], "labels": labels[..., 0]}
    return model_class(config_class(**sizes)), {**data, "sample_weight": weights}


def fit_on_devices(path, name):
    """Keras' `fit` on one and on two devices; writes losses and updates of both."""
    split_cpu(2)
    results = []
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    for scope in (contextlib.nullcontext(), strategy.scope()):
        keras.utils.set_random_seed(3)
        with scope:
            model, data = _toy_batch(name)
            loss = "mse" if name == "codec" else None
            model.compile(keras.optimizers.SGD(0.1), loss=loss, jit_compile=False)
        before = [weight.numpy() for weight in model.trainable_weights]
        dataset = tf.data.Dataset.from_tensor_slices(data).batch(4)
        history = model.fit(dataset, verbose=0, shuffle=False).history
        weights = zip(model.trainable_weights, before, strict=True)
        updates = [(weight.numpy() - old).ravel() for weight, old in weights]
        results.append(np.concatenate([history["loss"], *updates]))
    np.savez(path, *results)


def run_as_worker(directory, addresses, index, dies_at=None, **changes):
    join_cluster(addresses, index)
    callbacks = [Kill(dies_at)] if dies_at else []
    try:
        strategy = strategy_of("multi-worker")
        _, weights = run(directory, strategy=strategy, callbacks=callbacks, **changes)
    except ConnectionError as error:
        (directory / f"error-{index}.txt").write_text(str(error), encoding="utf-8")
        raise
    _keep(directory / f"result-{index}.npz", weights)


def _keep(path, weights, **others):
    np.savez(path, *weights, **others)


def convert_and_die(number, source, destination, **options):
    """Sends SIGKILL at a file operation; exits normally if there are fewer."""
    with killed_at(number):
        convert_checkpoint(source, destination, **options)


def call(arguments, errors, addresses=(), index=0):
    """Runs `bark-tf ARGUMENTS`, with standard error in a file."""
    if addresses:
        join_cluster(addresses, index)
    with open(errors, "w", encoding="utf-8") as file:
        os.dup2(file.fileno(), sys.stderr.fileno())
    sys.exit(cli.main([*arguments, "--quiet"]))
