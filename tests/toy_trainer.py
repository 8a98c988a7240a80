"""A toy Keras model and its batches, for tests of training runs."""

import keras
import numpy as np
import tensorflow as tf
import toy

from bark_tf.processor import BarkProcessor
from bark_tf.text.tokenizer import BarkTokenizer
from bark_tf.training.data.shards import DatasetInfo, Utterance, shard_path, write_shard
from bark_tf.training.options import TrainingOptions
from bark_tf.training.runs.fit import train

STEPS = 12


class ToyTrainer(keras.Model):
    """Dropout, a moving average and a loss: every kind of state that a run saves."""

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
    """Calls a function before a step, to stop the run."""

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


def utterances(counts, seed=0):
    """Recordings of random tokens, for a toy Bark; `counts` are of semantic tokens."""
    rng = np.random.default_rng(seed)
    return [
        Utterance(
            id=str(i),
            text="a b",
            speaker="a",
            text_ids=rng.integers(0, 8, 5),
            semantic=rng.integers(0, 20, count),
            codes=rng.integers(0, 8, (4, 3 * count // 2)),
            audio=None,
        )
        for i, count in enumerate(counts)
    ]


def write_prepared(directory):
    """Writes a toy Bark to `model`, and recordings of random tokens to `data`."""
    toy.bark().save_pretrained(directory / "model")
    words = ["[PAD]", "[UNK]", "a", "b"]
    BarkProcessor(BarkTokenizer.from_vocabulary(words)).save_pretrained(
        directory / "model"
    )
    info = DatasetInfo(
        sample_rate=24_000,
        has_tokens=True,
        has_audio=False,
        num_codebooks=4,
        codebook_size=8,
        frame_rate=75.0,
        semantic_vocab_size=20,
        semantic_rate_hz=49.9,
        text_vocab_size=8,
    )
    for number, part in enumerate(("train", "validation")):
        (directory / "data" / part).mkdir(parents=True)
        info.save(directory / "data" / part)
        rows = utterances([2, 30, 4, 8, 20, 6, 12, 3], seed=number)
        write_shard(shard_path(directory / "data" / part, 0), rows, info)
