"""The CTC loss, and the errors counted in validation."""

import itertools

import keras
import numpy as np
import pytest
import toy

from bark_tf.config import CtcConfig
from bark_tf.models.ctc import CtcModel
from bark_tf.models.losses import IGNORED_LABEL
from bark_tf.training.tokenizers.ctc_examples import Alphabet
from bark_tf.training.tokenizers.ctc_score import Reading
from bark_tf.training.tokenizers.ctc_trainer import (
    CtcTrainer,
    QuantizedRecogniser,
    TokenReader,
)

ALPHABET = Alphabet((" ", "a", "b"))


class Fixed(keras.Model):
    """A recogniser whose inputs are its logits."""

    def call(self, inputs, lengths, training=False):
        return inputs


@pytest.fixture
def trainer():
    trainer = CtcTrainer(Fixed(), ALPHABET, "toy")
    trainer.compile(optimizer="sgd")
    return trainer


def batch_of(paths, texts):
    """Logits that say `paths` (the blank is `_`), and targets."""
    symbols = " ab_"
    length, most = max(map(len, paths)), max(1, *map(len, texts))
    logits = np.full((len(paths), length, 4), -9.0, np.float32)
    targets = np.full((len(paths), most), IGNORED_LABEL, np.int32)
    for row, (path, text) in enumerate(zip(paths, texts, strict=True)):
        logits[row, range(len(path)), [symbols.index(c) for c in path]] = 9
        targets[row, : len(text)] = [symbols.index(c) for c in text]
    lengths = np.array(list(map(len, paths)), np.int32)
    return {"inputs": logits, "lengths": lengths, "targets": targets}


def by_enumeration(logits, target):
    """The loss of one row: all paths that collapse to the target, one by one."""
    logits = logits.astype(np.float64)
    logs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    blank, total = logits.shape[-1] - 1, 0.0
    for path in itertools.product(range(blank + 1), repeat=len(logits)):
        said = [symbol for symbol, _ in itertools.groupby(path) if symbol != blank]
        if said == list(target):
            total += np.exp(logs[range(len(path)), path].sum())
    return -np.log(total)


def test_the_loss_is_that_of_all_paths_per_character(trainer, rng):
    """Padding and rows without a text do not count."""
    batch = batch_of(["____", "___", "____"], ["ab", "a", ""])
    batch["inputs"] = rng.normal(0, 2, batch["inputs"].shape).astype(np.float32)
    loss, total, _ = trainer.measure(batch)
    expected = [
        by_enumeration(batch["inputs"][0], [1, 2]),
        by_enumeration(batch["inputs"][1, :3], [1]),
    ]
    assert float(total) == 3
    assert float(loss) == pytest.approx(sum(expected) / 3, rel=1e-4)


def test_errors_of_characters_and_words_are_counted(trainer):
    """One character of seven is wrong, and with it one word of four."""
    paths = ["aa_a b__", "a_ _b", "ab"]
    texts = ["aa b", "a a", ""]
    logs = trainer.test_on_batch(batch_of(paths, texts), return_dict=True)
    assert logs["character_error_rate"] == pytest.approx(1 / 7)
    assert logs["word_error_rate"] == pytest.approx(1 / 4)
    reading = Reading.of(["aa b", "a a"], ["aa b", "a b"])
    assert reading.characters[0] == pytest.approx(1 / 7)
    assert reading.words[0] == pytest.approx(1 / 4)
    assert reading.words[1] == 0 and reading.words[2] == pytest.approx(1 / 2)


def test_nothing_read_is_all_wrong(trainer):
    logs = trainer.test_on_batch(batch_of(["____"], ["a b"]), return_dict=True)
    assert logs["character_error_rate"] == logs["word_error_rate"] == 1
    assert Reading.of(["a b"], [""]).words[0] == 1


# Through tokens -----------------------------------------------------------------------


@pytest.fixture
def recogniser(rng):
    config = CtcConfig(num_mels=4, hidden_size=8, num_layers=2, output_size=3)
    network = toy.randomize(CtcModel(config.replace(dropout=0.0)))
    centres = rng.normal(size=(6, 8)).astype(np.float32)
    return QuantizedRecogniser(network, 1, centres)


def test_a_recogniser_sees_the_nearest_centres_alone(recogniser, rng):
    features = rng.normal(size=(2, 10, 4)).astype(np.float32)
    lengths = np.array([5, 3], np.int32)
    states = recogniser.network.encode(features, lengths, 1).numpy()
    centres = recogniser.centres.numpy()
    distances = ((states[:, :, None] - centres) ** 2).sum(axis=-1)
    tokens = distances.argmin(axis=-1).astype(np.int32)
    logits = recogniser(features, lengths).numpy()
    read = TokenReader(recogniser)(tokens, lengths).numpy()
    np.testing.assert_allclose(logits, read, atol=1e-5)
    np.testing.assert_array_equal(recogniser.centres.numpy(), centres)


def test_both_ends_learn_and_centres_follow_their_states(recogniser, rng):
    features = rng.normal(size=(2, 10, 4)).astype(np.float32)
    lengths = np.array([5, 3], np.int32)
    trainer = CtcTrainer(recogniser, ALPHABET, "toy")
    trainer.compile(optimizer="sgd")
    batch = {"inputs": features, "lengths": lengths}
    batch["targets"] = np.array([[1, 2], [1, IGNORED_LABEL]], np.int32)
    plain = float(trainer.measure(batch)[0])
    before = recogniser.centres.numpy()
    states = recogniser.network.encode(features, lengths, 1).numpy()
    gradients, loss, _ = trainer.gradients(batch)
    assert float(loss) > plain  # and the distance to the centres
    variables = trainer.trainable_variables
    assert recogniser.centres.path not in {variable.path for variable in variables}
    for variable, gradient in zip(variables, gradients, strict=True):
        if "attention" not in variable.path or "bias" not in variable.path:
            assert np.abs(gradient).max() > 0, variable.path
    rows = np.concatenate([states[0], states[1, :3]])
    tokens = ((rows[:, None] - before) ** 2).sum(axis=-1).argmin(axis=1)
    for number, (old, new) in enumerate(
        zip(before, recogniser.centres.numpy(), strict=True)
    ):
        mine = rows[tokens == number]
        count = 0.99 + 0.01 * len(mine)
        wanted = (0.99 * old + 0.01 * mine.sum(axis=0)) / count
        np.testing.assert_allclose(new, wanted, rtol=1e-4, atol=1e-5)
