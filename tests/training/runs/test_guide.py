"""Guided attention: the band around the even pace, and what it does to a network."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import toy
from toy_trainer import utterances

from bark_tf.training import ExampleOptions
from bark_tf.training.data.examples import NO_PLACE, StageExamples
from bark_tf.training.runs.guide import guided_attention_loss, in_band
from bark_tf.training.runs.trainers import SemanticTrainer


def even(count, padded=None):
    """The places of a recording's tokens, padded."""
    places = (np.arange(count, dtype=np.float32) + 0.5) / count
    return np.pad(places, (0, (padded or count) - count), constant_values=NO_PLACE)


def test_the_band_follows_the_places():
    band = in_band([10, 0], np.stack([even(20, 24), even(5, 24)]), 12).numpy()
    assert band.shape == (2, 24, 12)
    ids = [np.flatnonzero(row).tolist() for row in band[0]]
    assert ids[0] == [0, 1] and ids[9] == [3, 4, 5] and ids[19] == [8, 9]
    assert all(ids[:20]) and not any(ids[20:])
    assert not band[1].any()


def test_the_band_of_a_long_text_grows_with_it():
    band = in_band([60], even(300)[None], 64).numpy()[0]
    assert band[150].sum() == 12 and band[0].sum() == 6


def attentions(weights):
    """Three layers of two heads: the weights in the middle, zeros elsewhere."""
    return [np.zeros_like(weights), weights, np.zeros_like(weights)]


def test_a_head_inside_the_band_costs_nothing():
    text, speech, positions = 4, 8, 12
    weights = np.full((1, 2, positions, positions), 1 / positions, np.float32)
    spread = guided_attention_loss(attentions(weights), [4], even(8)[None])
    for token in range(speech):
        weights[0, 1, text + token] = 0
        weights[0, 1, text + token, token // 2] = 1
    exact = guided_attention_loss(attentions(weights), [4], even(8)[None])
    assert spread > 1 and abs(float(exact)) < 1e-3
    # The other head is free, and so is padding.
    weights[0, 0], weights[0, 1, text + 6 :] = 0, 0
    short = guided_attention_loss(attentions(weights), [3], even(6, 8)[None])
    assert abs(float(short)) < 1e-3


def test_the_head_follows_speech_whose_tempo_changes():
    """Half of the text in the first two of eight tokens."""
    places = np.array([[0.1, 0.4, 0.55, 0.6, 0.7, 0.8, 0.9, 0.95]], np.float32)
    weights = np.zeros((1, 1, 28, 28), np.float32)
    for token, place in enumerate(places[0]):
        weights[0, 0, 20 + token, int(place * 20)] = 1
    right = guided_attention_loss([weights], [20], places)
    wrong = guided_attention_loss([weights], [20], even(8)[None])
    assert abs(float(right)) < 1e-3 and wrong > 1


def test_no_speech_costs_nothing():
    weights = np.full((2, 1, 6, 6), 1 / 6, np.float32)
    places = np.full((2, 3), NO_PLACE)
    assert float(guided_attention_loss([weights], [0, 2], places)) == 0


@pytest.fixture
def trainer():
    bark = toy.bark()
    return SemanticTrainer(bark.parts["semantic"], bark.generation_config)


def batch_of(trainer, weight):
    options = ExampleOptions(history_probability=0.0, guided_attention=weight)
    model = trainer.model.config
    stages = StageExamples(
        utterances([12, 9, 5, 12]),
        "semantic",
        trainer.generation_config,
        model,
        options,
    )
    batch = stages.pad([stages.example(i) for i in range(4)], stages.longest)
    return tf.nest.map_structure(tf.constant, batch)


def test_the_guide_changes_gradients_and_not_the_reported_loss(trainer):
    batch = batch_of(trainer, 0.5)
    np.testing.assert_array_equal(batch["guide"], np.full(4, 0.5, np.float32))
    plain = batch_of(trainer, 0.0)
    assert not {"guide", "places"} & set(plain)
    trainer.compile(optimizer=keras.optimizers.SGD(), jit_compile=False)
    guided, logs = trainer.gradients(batch)
    trainer.reset_metrics()
    others, other_logs = trainer.gradients(plain)
    assert float(logs["loss"]) == pytest.approx(float(other_logs["loss"]), rel=1e-5)
    changes = {
        variable.path: np.abs(np.subtract(*map(tf.convert_to_tensor, pair))).max()
        for variable, *pair in zip(
            trainer.trainable_variables, guided, others, strict=True
        )
    }
    assert any(v > 1e-4 for path, v in changes.items() if "attention/qkv" in path)
    assert all(v < 1e-6 for path, v in changes.items() if "lm_head" in path)


def test_a_head_learns_to_follow_the_text(trainer):
    batch = batch_of(trainer, 1.0)
    trainer.compile(optimizer=keras.optimizers.Adam(1e-2), jit_compile=False)

    def cost():
        trainer(batch, training=True)
        return float(sum(trainer.losses))

    before = cost()
    for _ in range(30):
        trainer.train_step(batch)
    assert cost() < 0.5 * before


def test_validation_has_no_guide(trainer):
    trainer(batch_of(trainer, 1.0), training=False)
    assert not trainer.losses
