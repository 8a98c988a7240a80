"""The recogniser: what a row's result depends on, and its weights."""

import keras
import numpy as np
import pytest
import toy
from toy import largest_difference

from bark_tf.config import CtcConfig
from bark_tf.models.ctc import CtcModel

CONFIG = CtcConfig(
    num_mels=6,
    stride=2,
    hidden_size=8,
    num_layers=2,
    num_heads=2,
    kernel_size=3,
    output_size=5,
    dropout=0.5,
)


@pytest.fixture(scope="module")
def model():
    return toy.randomize(CtcModel(CONFIG))


@pytest.fixture
def features(rng):
    return rng.normal(size=(2, 20, 6)).astype(np.float32)


def test_padding_changes_nothing(model, features):
    """Neither attention nor convolutions see what is after the end of a row."""
    features[1, 12:] = 100
    logits = model(features, np.array([10, 6], np.int32))
    assert logits.shape == (2, 10, 6)
    alone = model(features[1:, :12])
    assert largest_difference(alone[0], logits[1, :6]) < 1e-4
    assert largest_difference(model(features[:1])[0], logits[0]) < 1e-4


def test_every_token_sees_the_whole_recording(model, features):
    changed = features.copy()
    changed[0, -1] += 1
    states = model.encode(features[:1]), model.encode(changed[:1])
    differences = np.abs(states[0] - states[1]).max(axis=-1)[0]
    assert differences.min() > 1e-4


def test_the_blocks_can_run_in_two_parts(model, features):
    hidden = model.encode(features, layer=1)
    logits = model.classify(model.continue_from(hidden, None, 1))
    assert largest_difference(logits, model(features)) < 1e-6


def test_dropout_is_new_in_every_step_and_only_in_training(model, features):
    first, second = (model(features, training=True) for _ in range(2))
    assert largest_difference(first, second) > 0.01
    np.testing.assert_array_equal(model(features), model(features))


def test_a_smaller_network_takes_its_part_of_the_weights(model, features):
    config = CONFIG.replace(num_layers=1, output_size=0)
    part = CtcModel(config)
    part.put_arrays(model.arrays())
    expected = model.encode(features, layer=1)
    assert largest_difference(part.encode(features), expected) < 1e-6
    assert all(not name.startswith(("block_1", "head")) for name in part.arrays())


def test_half_precision_computes_nearly_the_same(model, features):
    half = CtcModel(CONFIG, dtype="mixed_bfloat16")
    half.put_arrays(model.arrays())
    lengths = np.array([10, 7], np.int32)
    logits = half(features, lengths)
    assert logits.dtype == "bfloat16"
    assert largest_difference(logits, model(features, lengths)) < 2.0
    right = np.argmax(logits, -1) == np.argmax(model(features, lengths), -1)
    assert right[0].mean() >= 0.7


def test_keras_saves_and_loads_it(model, features, tmp_path):
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.config == CONFIG
    np.testing.assert_array_equal(loaded(features), model(features))


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("num_heads", 3, "a divisor of hidden_size=8"),
        ("kernel_size", 4, "odd"),
        ("dropout", 1.0, r"in \[0, 1\)"),
        ("stride", 0, r"in \[1, 1_000\]"),
        ("output_size", -1, r"in \[0, "),
        ("initializer_range", 0.0, r"in \(0, "),
    ],
)
def test_wrong_sizes_are_refused(field, value, expected):
    with pytest.raises(ValueError, match=f"CtcConfig.{field} must be .*{expected}"):
        CONFIG.replace(**{field: value})
