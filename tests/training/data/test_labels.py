"""Batches with `labels` give the networks the losses that recipes train with."""

import numpy as np
import pytest
import toy
from toy_trainer import utterances

from bark_tf.training.data.batches import Batches
from bark_tf.training.data.examples import StageExamples
from bark_tf.training.data.labels import labelled
from bark_tf.training.options import ExampleOptions
from bark_tf.training.runs.trainers import TRAINERS

PARTS = {"semantic": "semantic", "coarse": "coarse_acoustics", "fine": "fine_acoustics"}
QUIET = {"shuffle": False, "verbose": 0}


@pytest.fixture(scope="module")
def bark():
    return toy.bark()


def batches_of(bark, stage):
    rows = utterances([8, 30, 4, 20])
    config, own = bark.generation_config, bark.parts[PARTS[stage]].config
    options = ExampleOptions(history_probability=0.5, past_weight=0.3)
    return Batches(StageExamples(rows, stage, config, own, options), 4)


@pytest.mark.parametrize("stage", PARTS)
def test_the_loss_is_that_of_the_recipes(bark, stage):
    network, batches = bark.parts[PARTS[stage]], batches_of(bark, stage)
    trainer = TRAINERS[stage](network, bark.generation_config)
    data = labelled(network, batches, steps=3)
    for step, inputs in enumerate(data):
        expected, _, _ = trainer.measure(batches(step))
        loss = network(**inputs).loss
        np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_a_network_learns_from_them_by_its_own_fit(bark):
    network = toy.bark().semantic
    network.enable_lora(4)  # which freezes the embeddings
    network.compile(optimizer="adam", jit_compile=False)
    data = labelled(network, batches_of(bark, "semantic"))
    history = network.fit(data, steps_per_epoch=4, epochs=3, **QUIET).history
    assert history["loss"][-1] < history["loss"][0]


def test_batches_of_another_stage_are_refused(bark):
    batches = batches_of(bark, "coarse")
    with pytest.raises(ValueError, match=r"of the fine stage.*Received: coarse"):
        labelled(bark.fine_acoustics, batches)
