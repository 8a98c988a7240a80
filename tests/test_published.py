"""The published checkpoints, compared with numbers that others published.

Needs internet, about 15 GB of disk and 8 GB of memory: `pytest -m hub`. Each network is
loaded for its own tests and freed after them.

Source: Hugging Face transformers, `tests/models/bark/test_modeling_bark.py` (tokens of
`suno/bark`); the log in the README of PABannier/bark.cpp (text ids).
"""

import numpy as np
import pytest

from bark_tf import (
    BarkCoarseModel,
    BarkConfig,
    BarkFineModel,
    BarkGenerationConfig,
    BarkProcessor,
    BarkSemanticModel,
)

pytestmark = pytest.mark.hub

CHECKPOINT = "suno/bark"
TEXT = "In the light of the moon, a little egg lay on a leaf"
VOICE = "en_speaker_6"  # of the first set of voices, not v2

SEMANTIC = [7363, 321, 41, 1461, 6915, 952, 326, 41, 41, 927]
COARSE = [
    *[11018, 11391, 10651, 11418, 10857, 11620, 10642, 11366],
    *[10312, 11528, 10531, 11516, 10474, 11051, 10524, 11051],
]
FINE = [
    [1018, 651, 857, 642, 312, 531, 474, 524, 524, 776],
    [367, 394, 596, 342, 504, 492, 27, 27, 822, 822],
    [961, 955, 221, 955, 955, 686, 939, 939, 479, 176],
    [638, 365, 218, 944, 853, 363, 639, 22, 884, 456],
    [302, 912, 524, 38, 174, 209, 879, 23, 910, 227],
    [440, 673, 861, 666, 372, 558, 49, 172, 232, 342],
    [244, 358, 123, 356, 586, 520, 499, 877, 542, 637],
    [806, 685, 905, 848, 803, 810, 921, 208, 625, 203],
]
EARLY_END = 0.01


@pytest.fixture(scope="module")
def processor():
    return BarkProcessor.from_pretrained(CHECKPOINT)


@pytest.fixture(scope="module")
def inputs(processor):
    return processor(TEXT, voice_preset=VOICE)


@pytest.fixture(scope="module")
def config():
    return BarkGenerationConfig.from_pretrained(CHECKPOINT)


@pytest.fixture(scope="module")
def semantic(inputs, config):
    """Greedy semantic tokens: plain, and with an early end set in two ways."""
    model, stage = BarkSemanticModel.from_pretrained(CHECKPOINT), config.semantic_config
    options = {**inputs, "do_sample": False, "temperature": 0.9, "seed": 0}
    early = stage.replace(min_eos_p=EARLY_END)
    return {
        "plain": model.generate(**options, semantic_generation_config=stage),
        "keyword": model.generate(
            **options, semantic_generation_config=stage, min_eos_p=EARLY_END
        ),
        "config": model.generate(**options, semantic_generation_config=early),
    }


@pytest.fixture(scope="module")
def coarse(semantic, inputs, config):
    return BarkCoarseModel.from_pretrained(CHECKPOINT).generate(
        semantic["plain"],
        config.semantic_config,
        config.coarse_acoustics_config,
        config.codebook_size,
        inputs["history_prompt"],
        do_sample=False,
        temperature=1.0,
    )


@pytest.fixture(scope="module")
def fine(coarse, inputs, config):
    return BarkFineModel.from_pretrained(CHECKPOINT).generate(
        coarse,
        config.semantic_config,
        config.coarse_acoustics_config,
        config.fine_acoustics_config,
        config.codebook_size,
        inputs["history_prompt"],
        temperature=None,
    )


def test_text_ids(processor):
    ids = processor("this is an audio").input_ids
    assert ids.shape == (1, 256)
    assert ids[0, :4].numpy().tolist() == [10531, 10124, 10151, 23685]
    assert not np.any(ids[0, 4:])


def test_semantic_tokens(semantic):
    assert semantic["plain"][0, :10].numpy().tolist() == SEMANTIC


def test_early_end(semantic):
    assert semantic["config"][0, :10].numpy().tolist() == SEMANTIC
    assert semantic["keyword"].shape == semantic["config"].shape
    assert semantic["keyword"].shape[1] < semantic["plain"].shape[1]


def test_coarse_tokens(coarse):
    assert coarse[0, :16].numpy().tolist() == COARSE


def test_fine_codes(fine):
    assert fine[0, :, :10].numpy().tolist() == FINE


# === Configurations ===


@pytest.mark.parametrize("name", ["bark", "bark-small"])
def test_the_published_sizes_are_the_presets(name):
    published, ours = (
        BarkConfig.from_pretrained(f"suno/{name}"),
        BarkConfig.preset(name),
    )
    for part in ("semantic_config", "coarse_acoustics_config", "fine_acoustics_config"):
        assert getattr(published, part) == getattr(ours, part)
    assert published.codec_config == ours.codec_config


@pytest.mark.parametrize("name", ["bark", "bark-small"])
def test_the_published_generation_samples(name):
    """The values in third-party ports and in the converter of that time."""
    config = BarkGenerationConfig.from_pretrained(f"suno/{name}")
    for stage in (config.semantic_config, config.coarse_acoustics_config):
        assert stage.do_sample and stage.temperature == 0.7
    assert config.fine_acoustics_config.temperature == 0.5
    assert config.semantic_config.min_eos_p is None
    assert config.semantic_config.semantic_pad_token == 10_000
