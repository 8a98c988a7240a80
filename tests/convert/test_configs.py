"""Configurations from suno's model_args and from the shapes of Meta's codec."""

import pytest
import toy
import toy_files

from bark_tf.config import (
    BarkCoarseConfig,
    BarkConfig,
    BarkFineConfig,
    BarkSemanticConfig,
    EncodecConfig,
)
from bark_tf.convert import configs
from bark_tf.convert.configs import PARTS
from bark_tf.convert.weights import table_for

# What suno's text_2.pt and fine_2.pt hold.
TEXT = {
    "n_layer": 24,
    "n_head": 16,
    "n_embd": 1024,
    "block_size": 1024,
    "bias": False,
    "dropout": 0.0,
    "input_vocab_size": 129_600,
    "output_vocab_size": 10_048,
}
FINE = TEXT | {
    "input_vocab_size": 1056,
    "output_vocab_size": 1056,
    "n_codes_total": 8,
    "n_codes_given": 1,
}


def shapes_of(config, names):
    rules = table_for(config, names).rules
    return {rule.theirs: rule.convert_shape(rule.shape) for rule in rules}


# model_args ---------------------------------------------------------------------------


def test_published_model_args():
    bark = BarkConfig.preset("bark")
    text = configs.from_model_args(BarkSemanticConfig, TEXT)
    assert text == bark.semantic_config
    assert configs.from_model_args(BarkFineConfig, FINE) == bark.fine_acoustics_config
    assert configs.to_model_args(text) == TEXT
    assert configs.to_model_args(bark.fine_acoustics_config) == FINE


def test_one_vocabulary_for_both():
    args = {k: v for k, v in TEXT.items() if "vocab" not in k} | {"vocab_size": 12_096}
    config = configs.from_model_args(BarkCoarseConfig, args)
    assert config == BarkConfig.preset("bark").coarse_acoustics_config


def test_other_keys_are_ignored_and_fields_added():
    config = configs.from_model_args(
        BarkFineConfig, FINE | {"flash": True, 3: None}, tie_word_embeddings=False
    )
    assert config.tie_word_embeddings is False
    assert config.extra == {}


@pytest.mark.parametrize("config", [toy.semantic_config(), toy.fine_config()])
def test_round_trip(config):
    config = config.replace(dropout=0.25, bias=True)
    args = configs.to_model_args(config)
    assert configs.from_model_args(type(config), args) == config


def test_bias_and_dropout_may_be_missing():
    args = {k: v for k, v in TEXT.items() if k not in ("bias", "dropout")}
    config = configs.from_model_args(BarkSemanticConfig, args)
    assert (config.bias, config.dropout) == (True, 0.0)  # suno's own defaults


def test_missing_model_args():
    args = {"n_layer": 2, "n_head": 2}
    with pytest.raises(
        ValueError, match=r"with n_embd, block_size, input_vocab_size, out.*n_head, n_l"
    ):
        configs.from_model_args(BarkSemanticConfig, args)
    with pytest.raises(ValueError, match="n_codes_total, n_codes_given"):
        configs.from_model_args(BarkFineConfig, TEXT)
    with pytest.raises(ValueError, match="Received: nothing"):
        configs.from_model_args(BarkSemanticConfig, {})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_layer": "24"}, "n_layer='24'"),
        ({"dropout": None}, "dropout=None"),
        ({"n_embd": [1024]}, "n_embd="),
        ({"n_head": 5}, "num_heads"),
        ({"n_layer": 0}, "num_layers"),
        ({"block_size": 10.5}, "block_size"),
    ],
)
def test_bad_model_args(change, message):
    with pytest.raises(ValueError, match=message):
        configs.from_model_args(BarkSemanticConfig, TEXT | change)


# === Which transformer ===


@pytest.mark.parametrize("name", [name for name in PARTS if name != "codec_model"])
@pytest.mark.parametrize("preset", ["bark", "bark-small"])
def test_published_vocabularies_tell_the_part(name, preset):
    config = toy_files.part_config(BarkConfig.preset(preset), name)
    assert configs.suno_part(shapes_of(config, "suno"), "checkpoint") == name


def test_the_name_tells_where_vocabularies_do_not():
    shapes = shapes_of(toy.semantic_config(), "suno")
    for stem in ("text", "text_2"):
        assert configs.suno_part(shapes, stem) == "semantic"
    for stem in ("coarse", "coarse_2"):
        assert configs.suno_part(shapes, stem) == "coarse_acoustics"
    with pytest.raises(ValueError, match=r"'last' with vocabularies of .*40.*30"):
        configs.suno_part(shapes, "last")


def test_vocabularies_win_over_the_name():
    config = BarkConfig.preset("tiny").coarse_acoustics_config
    shapes = shapes_of(config, "suno")
    assert configs.suno_part(shapes, "text") == "coarse_acoustics"


def test_the_fine_model_is_known_by_its_embeddings():
    shapes = shapes_of(toy.fine_config(), "suno")
    assert configs.suno_part(shapes, "text") == "fine_acoustics"


# === Meta's codec ===


CODECS = {
    "published": EncodecConfig(),
    "toy": toy_files.CODEC,
    "other sizes": EncodecConfig(
        num_filters=9,
        hidden_size=6,
        codebook_size=512,
        num_residual_layers=2,
        num_lstm_layers=1,
        compress=3,
        kernel_size=5,
        last_kernel_size=9,
        residual_kernel_size=5,
        use_conv_shortcut=False,
    ),
}


@pytest.mark.parametrize("name", CODECS)
def test_codec_from_shapes(name):
    config = CODECS[name]
    assert configs.codec_config(shapes_of(config, "meta")) == config


def test_another_number_of_codebooks():
    shapes = shapes_of(toy_files.CODEC.replace(target_bandwidths=(6.0,)), "meta")
    with pytest.raises(ValueError, match=r"Expected 32 codebooks.* Received: 8;"):
        configs.codec_config(shapes)


@pytest.mark.parametrize("missing", ["_codebook.embed", "block.1.", "conv.conv."])
def test_no_codec(missing):
    shapes = shapes_of(toy_files.CODEC, "meta")
    shapes = {name: shape for name, shape in shapes.items() if missing not in name}
    with pytest.raises(ValueError, match="Expected the weights of EnCodec for 24 kHz"):
        configs.codec_config(shapes)


def test_shapes_that_no_codec_has():
    shapes = shapes_of(toy_files.CODEC, "meta")
    for name in (
        "encoder.model.0.conv.conv.weight_v",
        "encoder.model.1.block.1.conv.conv.weight_v",
        "quantizer.vq.layers.0._codebook.embed",
    ):
        for shape in ((), (2,), (0, 0, 0)):
            with pytest.raises(ValueError):
                configs.codec_config(shapes | {name: shape})


def test_the_48_khz_codec_is_refused():
    shapes = shapes_of(
        EncodecConfig(audio_channels=2, norm_type="time_group_norm"), "meta"
    )
    with pytest.raises(ValueError, match="Expected the weights of EnCodec for 24 kHz"):
        configs.codec_config(shapes)


# === Generation ===


def test_published_generation():
    config = configs.published_generation_config()
    for stage in (config.semantic_config, config.coarse_acoustics_config):
        assert (stage.do_sample, stage.temperature, stage.top_k) == (True, 0.7, 50)
        assert stage.top_p == 1.0
    assert config.fine_acoustics_config.temperature == 0.5
    assert config.semantic_config.min_eos_p is None
