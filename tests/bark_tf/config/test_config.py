"""Configurations: files in both directions, other keys, wrong values."""

import copy
import dataclasses
import json
import math
import pickle

import numpy as np
import pytest

from bark_tf.config import (
    BarkCoarseConfig,
    BarkConfig,
    BarkFineConfig,
    BarkGenerationConfig,
    BarkSemanticConfig,
    BarkSemanticGenerationConfig,
    CtcConfig,
    EncodecConfig,
    HubertConfig,
    HubertQuantizerConfig,
)
from bark_tf.feature_extractor import EncodecFeatureExtractor

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


# === Habits of transformers ===

ALIASES = {
    "window_size": ("block_size", 8),
    "vocab_size": ("input_vocab_size", 9),
    "num_attention_heads": ("num_heads", 4),
    "num_hidden_layers": ("num_layers", 3),
}


def test_transformers_names_are_keywords_and_attributes():
    config = BarkSemanticConfig(**{name: value for name, (_, value) in ALIASES.items()})
    for alias, (field, value) in ALIASES.items():
        assert getattr(config, alias) == getattr(config, field) == value
        assert getattr(config.replace(**{alias: 16}), field) == 16
    assert not config.extra


@pytest.mark.parametrize("cls", ALL)
def test_other_keywords_are_kept(cls):
    config = cls(made_by="me", architectures=["Bark"])
    assert (config.made_by, config.architectures) == ("me", ["Bark"])
    assert config.extra == {"made_by": "me", "architectures": ["Bark"]}
    again = cls(**config.to_dict())
    assert again == config
    assert again.to_dict() == config.to_dict()
    for twin in (copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        assert (twin, twin.made_by) == (config, "me")
    with pytest.raises(AttributeError, match=f"{cls.__name__} has no attribute 'x'"):
        config.x  # noqa: B018


def test_a_keyword_that_looks_like_a_typo_is_refused():
    with pytest.raises(ValueError, match=r"no field 'hiden_size'. Did you mean 'hidd"):
        BarkSemanticConfig(hiden_size=3)
    file = {"hiden_size": 3, "extra": 7}
    assert BarkSemanticConfig.from_dict(file).extra == {"hiden_size": 3}


def test_changing_a_configuration_says_how():
    config = BarkSemanticConfig()
    message = r"BarkSemanticConfig does not change: .*`config.replace\(dropout=...\)`"
    with pytest.raises(dataclasses.FrozenInstanceError, match=message):
        config.dropout = 0.5
    with pytest.raises(dataclasses.FrozenInstanceError, match=message):
        config.update({"dropout": 0.5})
    with pytest.raises(dataclasses.FrozenInstanceError, match="does not change"):
        del config.dropout


@pytest.mark.parametrize("cls", ALL)
def test_text_and_difference_are_the_whole_configuration(cls):
    config = cls(made_by="me")
    assert json.loads(config.to_json_string()) == config.to_diff_dict()
    assert config.to_json_string(use_diff=False) == config.to_json_string()


@pytest.mark.reference
@pytest.mark.parametrize("cls", ALL[:5])
def test_dictionaries_and_names_are_those_of_transformers(cls):
    import transformers

    keywords = {"made_by": "me", "initializer_range": 0.5}
    if cls in ALL[:3]:
        keywords |= {name: 12 for name in ALIASES} | {"vocab_size": 10_048}
    if cls is BarkConfig:
        keywords["semantic_config"] = {"num_hidden_layers": 2}
    if cls is EncodecConfig:
        del keywords["initializer_range"]
    ours, theirs = cls(**keywords), getattr(transformers, cls.__name__)(**keywords)
    for name, value in keywords.items():
        if name != "semantic_config":
            assert getattr(ours, name) == getattr(theirs, name) == value
    expected = json.loads(theirs.to_json_string())
    del expected["transformers_version"]
    assert json.loads(ours.to_json_string()) == expected


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


LARGE = 10**12
TOO_LARGE = [
    (BarkSemanticConfig, {"num_layers": 10**6}, "num_layers"),
    (BarkCoarseConfig, {"hidden_size": 10**9, "num_heads": 1}, "hidden_size"),
    (BarkCoarseConfig, {"block_size": LARGE}, "block_size"),
    (BarkSemanticConfig, {"input_vocab_size": LARGE}, "input_vocab_size"),
    (BarkSemanticConfig, {"output_vocab_size": LARGE}, "output_vocab_size"),
    (BarkFineConfig, {"n_codes_total": 10**7}, "n_codes_total"),
    (EncodecConfig, {"num_residual_layers": 10**7}, "num_residual_layers"),
    (EncodecConfig, {"upsampling_ratios": [2] * 5000}, "upsampling_ratios"),
    (EncodecConfig, {"upsampling_ratios": [1] * 21}, "upsampling_ratios"),
    (EncodecConfig, {"upsampling_ratios": [LARGE]}, "upsampling_ratios"),
    (EncodecConfig, {"target_bandwidths": [1e9]}, "target_bandwidths"),
    (EncodecConfig, {"target_bandwidths": [1e5]}, "target_bandwidths"),
    (EncodecConfig, {"target_bandwidths": [float("nan")]}, "target_bandwidths"),
    (EncodecConfig, {"codebook_size": LARGE}, "codebook_size"),
    (EncodecConfig, {"codebook_size": 1}, "codebook_size"),
    (EncodecConfig, {"hidden_size": LARGE}, "hidden_size"),
    (EncodecConfig, {"num_filters": 2**15}, "num_filters"),
    (EncodecConfig, {"kernel_size": LARGE}, "kernel_size"),
    (EncodecConfig, {"dilation_growth_rate": LARGE}, "dilation_growth_rate"),
    (EncodecConfig, {"num_residual_layers": 99}, "num_residual_layers"),
    (EncodecConfig, {"num_lstm_layers": LARGE}, "num_lstm_layers"),
    (EncodecConfig, {"sampling_rate": 10**400}, "sampling_rate"),
    (HubertConfig, {"num_hidden_layers": LARGE}, "num_hidden_layers"),
    (HubertConfig, {"conv_dim": [LARGE] * 7}, "conv_dim"),
    (HubertConfig, {"conv_dim": [1] * 10**5}, "conv_dim"),
    (HubertConfig, {"conv_kernel": [LARGE] * 7}, "conv_kernel"),
    (HubertConfig, {"conv_stride": [999] * 7}, "conv_stride"),
    (HubertConfig, {"num_conv_pos_embeddings": LARGE}, "num_conv_pos_embeddings"),
    (HubertQuantizerConfig, {"num_layers": LARGE}, "num_layers"),
    (HubertQuantizerConfig, {"output_size": LARGE}, "output_size"),
    (CtcConfig, {"num_layers": LARGE}, "num_layers"),
    (BarkSemanticConfig, {"block_size": 10**5}, "block_size"),
    (CtcConfig, {"kernel_size": LARGE + 1}, "kernel_size"),
]


@pytest.mark.parametrize(("cls", "values", "field"), TOO_LARGE)
def test_a_size_without_sense_is_named_at_once(cls, values, field):
    """Networks of such sizes once ran without end, or out of memory."""
    message = rf"^{cls.__name__}\.{field} must be .*\. Received: {field}=.{{0,160}}$"
    with pytest.raises(ValueError, match=message):
        cls(**values)


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


# === Types ===


@pytest.mark.parametrize(
    ("make", "changes", "expected"),
    [
        (
            BarkSemanticConfig,
            {"dropout": None},
            r"a number in \[0, 1\). Received: dropout=N",
        ),
        (
            BarkSemanticConfig,
            {"num_layers": "2"},
            r"a whole number in \[1, .*\]. Received",
        ),
        (BarkSemanticConfig, {"num_layers": True}, "a whole number in .*=True"),
        (BarkSemanticConfig, {"bias": "no"}, "True or False. Received: bias='no'"),
        (EncodecConfig, {"target_bandwidths": ["6"]}, "a sequence, each a number"),
        (EncodecConfig, {"upsampling_ratios": 8}, "a sequence, each a whole number"),
        (EncodecConfig, {"pad_mode": 1}, "'reflect' or .* Received: pad_mode=1"),
        (BarkGenerationConfig, {"sample_rate": "24000"}, "a whole number"),
        (
            BarkSemanticGenerationConfig,
            {"temperature": "0.7"},
            "a number in .* or None",
        ),
        (BarkSemanticGenerationConfig, {"min_eos_p": "low"}, "a number in .* or None"),
    ],
)
def test_a_value_of_another_type_is_one_clear_error(make, changes, expected):
    """`"dropout": null` in a file once was a TypeError about `<=`."""
    with pytest.raises(ValueError, match=expected):
        make(**changes)


def test_an_error_in_a_file_names_the_file(tmp_path):
    values = {"model_type": "semantic", "dropout": None}
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"config\.json: .*dropout must be a number"):
        BarkSemanticConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize("cls", [*ALL, CtcConfig, EncodecFeatureExtractor])
def test_every_field_of_a_file_is_checked(cls, tmp_path):
    path = tmp_path / cls.file_name
    parts = {part.part for part in cls.parts}
    for name in {*cls.field_names()} - parts:
        for value in ({"a": 1}, [[]], math.nan, 10**30):
            path.write_text(json.dumps({"model_type": cls.model_type, name: value}))
            message = (
                rf"{path.name}: {cls.__name__}\.{name} must be .* Received: {name}="
            )
            with pytest.raises(ValueError, match=message):
                cls.from_json_file(path)
    for name in parts:
        path.write_text(json.dumps({"model_type": cls.model_type, name: [1]}))
        with pytest.raises(ValueError, match=rf"{path.name}: .*{name} must be"):
            cls.from_json_file(path)


def test_numbers_of_numpy_are_numbers(tmp_path):
    """They once could not be saved."""
    config = BarkSemanticConfig(dropout=np.float32(0.5), num_layers=np.array(2))
    assert config == BarkSemanticConfig(dropout=0.5, num_layers=2)
    config.save_pretrained(tmp_path)
    assert BarkSemanticConfig.from_pretrained(tmp_path) == config


def test_the_repr_is_the_short_call_that_makes_it():
    config = BarkConfig(semantic_config={"num_layers": 2}, initializer_range=0.1)
    expected = (
        "BarkConfig(semantic_config=BarkSemanticConfig(num_layers=2), "
        "initializer_range=0.1)"
    )
    assert repr(config) == expected and eval(expected) == config
    assert repr(BarkGenerationConfig()) == "BarkGenerationConfig()"


def test_a_field_that_does_not_exist_is_suggested():
    with pytest.raises(ValueError, match="Did you mean 'hidden_size'"):
        BarkSemanticConfig().replace(hiden_size=8)
