"""The codec's conversion table."""

import numpy as np
import pytest
import toy
from toy_files import DictCheckpoint

from bark_tf.config import EncodecConfig
from bark_tf.convert import encodec, rules
from bark_tf.models.encodec.model import EncodecModel

TOY = toy.codec_config()

# Name and shape in the published files of the 24 kHz codec.
PUBLISHED = {
    "encoder.layers.0.conv.weight_v": (32, 1, 7),
    "encoder.layers.0.conv.weight_g": (32, 1, 1),
    "encoder.layers.0.conv.bias": (32,),
    "encoder.layers.1.block.1.conv.weight_v": (16, 32, 3),
    "encoder.layers.1.block.3.conv.weight_v": (32, 16, 1),
    "encoder.layers.1.shortcut.conv.weight_v": (32, 32, 1),
    "encoder.layers.9.conv.weight_v": (256, 128, 10),
    "encoder.layers.12.conv.bias": (512,),
    "encoder.layers.13.lstm.weight_ih_l0": (2048, 512),
    "encoder.layers.13.lstm.bias_hh_l1": (2048,),
    "encoder.layers.15.conv.weight_v": (128, 512, 7),
    "quantizer.layers.0.codebook.embed": (1024, 128),
    "quantizer.layers.31.codebook.embed_avg": (1024, 128),
    "quantizer.layers.31.codebook.cluster_size": (1024,),
    "quantizer.layers.7.codebook.inited": (1,),
    "decoder.layers.0.conv.weight_v": (512, 128, 7),
    "decoder.layers.1.lstm.weight_hh_l1": (2048, 512),
    "decoder.layers.3.conv.weight_v": (512, 256, 16),
    "decoder.layers.3.conv.weight_g": (512, 1, 1),
    "decoder.layers.3.conv.bias": (256,),
    "decoder.layers.7.block.1.conv.weight_v": (64, 128, 3),
    "decoder.layers.12.conv.weight_v": (64, 32, 4),
    "decoder.layers.13.shortcut.conv.weight_g": (32, 1, 1),
    "decoder.layers.15.conv.weight_v": (1, 32, 7),
}

ORIGINAL = {
    "encoder.layers.0.conv.weight_v": "encoder.model.0.conv.conv.weight_v",
    "encoder.layers.1.block.3.conv.bias": "encoder.model.1.block.3.conv.conv.bias",
    "encoder.layers.1.shortcut.conv.weight_g": (
        "encoder.model.1.shortcut.conv.conv.weight_g"
    ),
    "encoder.layers.13.lstm.bias_ih_l0": "encoder.model.13.lstm.bias_ih_l0",
    "quantizer.layers.3.codebook.embed": "quantizer.vq.layers.3._codebook.embed",
    "decoder.layers.3.conv.weight_g": "decoder.model.3.convtr.convtr.weight_g",
    "decoder.layers.15.conv.bias": "decoder.model.15.conv.conv.bias",
}

CODECS = {
    "toy": TOY,
    "no lstm": TOY.replace(num_lstm_layers=0),
    "deep": TOY.replace(num_residual_layers=2, num_lstm_layers=3),
    "no shortcut": TOY.replace(use_conv_shortcut=False),
    "stereo": TOY.replace(
        audio_channels=2, norm_type="time_group_norm", use_causal_conv=False
    ),
}


def random_arrays(table, variables):
    """Random arrays under the names and with the shapes of a checkpoint."""
    return {
        name: np.random.normal(size=shape).astype("float32")
        for name, shape, *_ in rules.tensors(table, variables)
    }


@pytest.fixture(scope="module")
def published():
    """Name -> shape of every tensor of the default codec."""
    model = EncodecModel(EncodecConfig())
    table = encodec.table(model.config)
    return {
        name: shape
        for name, shape, *_ in rules.tensors(table, rules.variables_of(model))
    }


def test_inventory_of_the_published_codec(published):
    assert len(published) == 252
    assert sum(int(np.prod(shape)) for shape in published.values()) == 23_273_218
    assert {name: published.get(name) for name in PUBLISHED} == PUBLISHED


def test_original_names_are_in_the_same_order():
    ours = [rule.theirs for rule in encodec.table(EncodecConfig()).rules]
    original = [rule.theirs for rule in encodec.table(EncodecConfig(), "meta").rules]
    names = dict(zip(ours, original, strict=True))
    assert {name: names[name] for name in ORIGINAL} == ORIGINAL
    assert len(set(original)) == 252


def test_original_names_of_a_group_norm():
    names = {rule.theirs for rule in encodec.table(CODECS["stereo"], "meta").rules}
    assert {
        "encoder.model.0.conv.norm.weight",
        "encoder.model.0.conv.conv.weight",
        "decoder.model.3.convtr.norm.bias",
    } <= names


@pytest.mark.parametrize("codec", CODECS)
def test_round_trip_is_bit_equal(codec):
    config = CODECS[codec]
    variables = rules.variables_of(EncodecModel(config))
    for names in ("hf", "meta"):
        table = encodec.table(config, names)
        arrays = random_arrays(table, variables)
        rules.load(table, variables, DictCheckpoint(arrays))
        written = {name: make() for name, *_, make in rules.tensors(table, variables)}
        assert written.keys() == arrays.keys()
        for name, array in written.items():
            np.testing.assert_array_equal(array, arrays[name], strict=True)


def test_newer_spelling_of_the_weight_norm():
    model = EncodecModel(CODECS["no lstm"])
    table, variables = encodec.table(model.config), rules.variables_of(model)
    arrays = random_arrays(table, variables)
    spellings = {
        "weight_g": "parametrizations.weight.original0",
        "weight_v": "parametrizations.weight.original1",
    }
    newer = {}
    for name, array in arrays.items():
        conv, _, end = name.rpartition(".")
        newer[f"{conv}.{spellings.get(end, end)}"] = array
    assert newer.keys() != arrays.keys()
    rules.load(table, variables, DictCheckpoint(newer))
    np.testing.assert_array_equal(
        np.transpose(model.decoder.input_conv.direction),
        arrays["decoder.layers.0.conv.weight_v"],
    )


def test_modules_are_numbered_as_without_an_lstm():
    names = {rule.theirs for rule in encodec.table(CODECS["no lstm"]).rules}
    assert "encoder.layers.8.conv.bias" in names  # 0, two of (1 + 2), activation
    assert not any("lstm" in name for name in names)


def test_unknown_names():
    with pytest.raises(ValueError, match=r"names must be one of .* Received: 'suno'"):
        encodec.table(TOY, "suno")


def test_variables_are_found_below_the_model():
    model = EncodecModel(TOY, name="any_name")
    variables = rules.variables_of(model)
    assert variables["decoder/output_conv/bias"] is model.decoder.output_conv.bias
    assert len(variables) == len(model.weights)
