"""Configurations: files in both directions, other keys, wrong values."""

import json

import pytest

from bark_tf.config import (
    BarkCoarseConfig,
    BarkConfig,
    BarkFineConfig,
    BarkGenerationConfig,
    BarkSemanticConfig,
    BarkSemanticGenerationConfig,
    EncodecConfig,
    HubertConfig,
    HubertQuantizerConfig,
)

ALL = (
    BarkSemanticConfig,
    BarkCoarseConfig,
    BarkFineConfig,
    EncodecConfig,
    BarkConfig,
    HubertConfig,
    HubertQuantizerConfig,
    BarkSemanticGenerationConfig,
    BarkGenerationConfig,
)


@pytest.mark.parametrize("cls", ALL)
def test_saved_and_read_again_it_is_the_same(cls, tmp_path):
    config = cls.from_dict({"made_by": "transformers 4.31", "torchscript": False})
    config.save_pretrained(tmp_path)
    again = cls.from_pretrained(tmp_path)
    assert again == config
    assert again.extra == {"made_by": "transformers 4.31", "torchscript": False}
    assert again.to_dict() == config.to_dict()
    assert not list(tmp_path.glob(".*"))


def test_a_part_is_found_in_the_file_of_a_whole_bark(tmp_path):
    whole = BarkConfig.preset("bark-small")
    whole.save_pretrained(tmp_path)
    parts = whole.semantic_config, whole.fine_acoustics_config, whole.codec_config
    for part in parts:
        assert type(part).from_pretrained(tmp_path) == part
    found = BarkSemanticConfig.from_pretrained(tmp_path, dropout=0.5)
    assert found == whole.semantic_config.replace(dropout=0.5)


def test_names_of_other_versions_are_read():
    """`window_size` and `vocab_size` in old files; transformers' generic names."""
    given = {"window_size": 8, "vocab_size": 9, "num_attention_heads": 4}
    config = BarkSemanticConfig.from_dict({**given, "num_hidden_layers": 3})
    assert (config.block_size, config.input_vocab_size) == (8, 9)
    assert (config.num_heads, config.num_layers) == (4, 3)
    assert not config.extra


def test_parts_may_be_absent_or_dictionaries():
    config = BarkConfig(semantic_config={"num_layers": 2}, codec_config=None)
    assert config.semantic_config == BarkSemanticConfig(num_layers=2)
    assert config.codec_config == EncodecConfig()
    joined = BarkConfig.from_sub_model_configs(
        config.semantic_config,
        config.coarse_acoustics_config,
        config.fine_acoustics_config,
        config.codec_config,
    )
    assert joined == config


WRONG = {
    "heads that do not divide": (BarkSemanticConfig, {"num_heads": 5}, "num_heads"),
    "negative": (BarkCoarseConfig, {"hidden_size": -768}, "hidden_size"),
    "zero": (BarkSemanticConfig, {"block_size": 0}, "block_size"),
    "a fraction": (BarkSemanticConfig, {"num_layers": 1.5}, "num_layers"),
    "a text": (BarkFineConfig, {"num_layers": "12"}, "num_layers"),
    "all drops": (BarkSemanticConfig, {"dropout": 1.0}, "dropout"),
    "all given": (BarkFineConfig, {"n_codes_given": 8}, "n_codes_given"),
    "untied": (BarkFineConfig, {"output_vocab_size": 7}, "output_vocab_size"),
    "a part": (BarkConfig, {"semantic_config": 3}, "semantic_config"),
    "of a part": (BarkConfig, {"codec_config": {"sampling_rate": 0}}, "sampling_rate"),
    "compat": (BarkGenerationConfig, {"compat": "suno"}, "compat"),
}


@pytest.mark.parametrize(("cls", "values", "field"), WRONG.values(), ids=WRONG)
def test_a_wrong_value_is_named(cls, values, field):
    with pytest.raises(ValueError, match=rf"{field}.* must be .*Received: "):
        cls.from_dict(values)


@pytest.mark.parametrize("cls", ALL)
def test_a_field_that_there_is_not(cls):
    with pytest.raises(ValueError, match=rf"{cls.__name__} has no field 'hiden_size'"):
        cls.from_dict({}, hiden_size=3)
    with pytest.raises(ValueError, match="no field 'hiden_size'"):
        cls().replace(hiden_size=3)


def test_an_unknown_preset():
    with pytest.raises(ValueError, match=r"no preset 'bark-big'.*bark-small"):
        BarkConfig.preset("bark-big")


BAD_FILES = {
    "no JSON": ("{", "is not valid JSON"),
    "a list": ("[]", "must hold a JSON object. Received: list"),
    "of another model": (
        json.dumps(HubertQuantizerConfig().to_dict()),
        "must have the model_type 'hubert'. Received: 'hubert_quantizer'",
    ),
}


@pytest.mark.parametrize(("content", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_file_of_something_else(content, message, tmp_path):
    (tmp_path / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=rf"config\.json {message}"):
        HubertConfig.from_pretrained(tmp_path)


def test_a_file_need_not_say_whose_it_is(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": null}', encoding="utf-8")
    assert BarkSemanticConfig.from_pretrained(tmp_path) == BarkSemanticConfig()
