"""Which stage a keyword of `generate` is for."""

import itertools

import pytest
import toy

from bark_tf.config import BarkGenerationConfig
from bark_tf.generation.options import call_config, stage_config, stage_configs

CONFIG = toy.generation_config()


def configs_of(compat=None, config=CONFIG, **options):
    return stage_configs(config, options, compat)


def values(name, **options):
    """The value of a field in the stages that have it."""
    stages = configs_of(**options)[:3]
    return [getattr(stage, name) for stage in stages if hasattr(stage, name)]


def test_without_keywords_the_configuration_holds():
    configs = configs_of()
    assert configs.semantic == CONFIG.semantic_config
    assert configs.coarse == CONFIG.coarse_acoustics_config
    assert configs.fine == CONFIG.fine_acoustics_config
    assert configs.codebook_size == 8
    assert configs.coarse_window.max_semantic_history == 3  # 12 / 3.006


def test_the_temperature_of_a_greedy_stage_is_0():
    names = ("semantic", "coarse", "fine")
    for options, expected in (
        ({"temperature": 0.7, "do_sample": True}, [0.7, 0.7, 0.7]),
        ({"temperature": 0.7, "do_sample": False}, [0, 0, 0]),
        ({"temperature": 0.7, "coarse_do_sample": False}, [None, 0, 0.7]),
        ({"fine_temperature": 1.0, "compat": "hf"}, [None, None, 0]),
    ):
        found = configs_of(**options).temperatures()
        assert list(found) == [f"{name}_temperature" for name in names]
        for value, wanted in zip(found.values(), expected, strict=True):
            assert wanted is None or value == wanted


def test_a_keyword_without_prefix_is_for_every_stage_that_knows_it():
    assert values("temperature", temperature=0.7) == [0.7] * 3
    assert values("do_sample", do_sample=True) == [True] * 3
    assert values("top_k", top_k=5) == [5, 5]
    assert values("sliding_window_len", sliding_window_len=4) == [4]
    assert values("max_new_tokens", max_new_tokens=3) == [3]
    assert values("num_return_sequences", num_return_sequences=2) == [2]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("semantic_temperature", [0.2, 1.0, 1.0]),
        ("coarse_temperature", [1.0, 0.2, 1.0]),
        ("fine_temperature", [1.0, 1.0, 0.2]),
    ],
)
def test_a_prefix_is_for_one_stage(name, expected):
    assert values("temperature", **{name: 0.2}) == expected


def test_a_prefixed_keyword_wins_in_any_order():
    options = {"temperature": 0.7, "semantic_temperature": 0.1, "fine_temperature": 0.3}
    for order in itertools.permutations(options):
        given = {name: options[name] for name in order}
        assert values("temperature", **given) == [0.1, 0.7, 0.3]


def test_fields_whose_own_name_begins_like_a_prefix_keep_it():
    configs = configs_of(
        semantic_vocab_size=19,
        semantic_infer_token=37,
        coarse_rate_hz=50,
        coarse_semantic_pad_token=35,
        semantic_semantic_rate_hz=25.0,
    )
    assert configs.semantic.semantic_vocab_size == 19
    assert configs.semantic.semantic_infer_token == 37
    assert configs.semantic.semantic_rate_hz == 25.0
    assert configs.coarse.coarse_rate_hz == 50
    assert configs.coarse.coarse_semantic_pad_token == 35


def test_min_eos_p_is_for_the_semantic_stage():
    assert configs_of(min_eos_p=0.2).semantic.min_eos_p == 0.2
    assert configs_of(semantic_min_eos_p=0.2).semantic.min_eos_p == 0.2
    with pytest.raises(ValueError, match="no option 'coarse_min_eos_p'"):
        configs_of(coarse_min_eos_p=0.2)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_beams", 4),
        ("num_beam_groups", 2),
        ("penalty_alpha", 0.6),
        ("assistant_model", object()),
        ("logits_processor", []),
        ("streamer", object()),
    ],
)
@pytest.mark.parametrize("prefix", ["", "semantic_", "coarse_"])
def test_what_is_not_supported_is_refused_by_name(name, value, prefix):
    message = f"does not support {prefix}{name} "
    with pytest.raises(ValueError, match=message):
        configs_of(**{prefix + name: value})


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 1},
        {"semantic_use_cache": True},
        {"num_beams": None},
        {"use_cache": False, "pad_token_id": 0},
    ],
    ids=str,
)
def test_options_that_change_nothing_are_taken(options):
    assert configs_of(**options) == configs_of()


@pytest.mark.parametrize(
    "name",
    ["temprature", "semantic_temprature", "fine_top_k", "coarse_max_new_tokens", "_"],
)
def test_an_unknown_option_is_named_with_what_there_is(name):
    with pytest.raises(ValueError, match=f"no option '{name}'.*, temperature, "):
        configs_of(**{name: 1})


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -1},
        {"coarse_top_p": 0},
        {"semantic_min_eos_p": 0},
        {"top_k": -1},
    ],
    ids=str,
)
def test_values_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=r"must be .* Received"):
        configs_of(**options)


def test_a_wrong_option_is_suggested():
    for name, suggestion in [
        ("temprature", "'temperature'"),
        ("semantic_temprature", "'semantic_temperature'"),
    ]:
        with pytest.raises(ValueError, match=f"Did you mean {suggestion}"):
            configs_of(**{name: 1})


def test_a_mapping_stands_for_a_configuration():
    """It changes the model's own, and its keywords come after the call's."""
    given = {
        "_from_model_config": True,
        "fine_acoustics_config": {"temperature": 0.3},
        "top_k": 7,
        "semantic_top_k": None,
    }
    config, options = call_config(given, CONFIG, {"top_k": 9})
    fine = CONFIG.fine_acoustics_config.replace(temperature=0.3)
    assert config == CONFIG.replace(fine_acoustics_config=fine)
    assert options == {"top_k": 9}
    assert call_config(None, CONFIG, {}) == (CONFIG, {})
    own = CONFIG.semantic_config
    assert stage_config(type(own), own) is own
    assert stage_config(type(own), {"top_k": 3}).top_k == 3
    assert stage_config(type(own), None) == type(own)()
    for wrong in ("warm", 3, own):
        with pytest.raises(ValueError, match="a BarkGenerationConfig or a mapping"):
            call_config(wrong, CONFIG, {})
    with pytest.raises(ValueError, match="BarkSemanticGenerationConfig, a mapping"):
        stage_config(type(own), CONFIG)


# === Greedy or not ===


def samples(**options):
    semantic, coarse, fine, _ = configs_of(**options)
    draws = [s.do_sample and s.temperature > 0 for s in (semantic, coarse)]
    return [*draws, fine.samples]


def test_greedy_and_sampled_in_every_stage():
    assert samples() == [False] * 3
    assert samples(do_sample=True) == [True] * 3
    assert samples(do_sample=True, temperature=0) == [False] * 3
    assert samples(do_sample=True, temperature=0.6) == [True] * 3
    assert samples(do_sample=False, temperature=0.6) == [False] * 3
    assert samples(do_sample=True, fine_do_sample=False) == [True, True, False]
    assert samples(do_sample=True, coarse_temperature=0) == [True, False, True]


def test_a_published_configuration_is_greedy_when_told():
    """Theirs samples in all three stages, and in the fine one by temperature alone."""
    published = BarkGenerationConfig(
        semantic_config={"do_sample": True, "temperature": 0.7},
        coarse_acoustics_config={"do_sample": True, "temperature": 0.7},
        fine_acoustics_config={"temperature": 0.5},
    )
    assert samples(config=published) == [True] * 3
    assert samples(config=published, do_sample=False) == [False] * 3
    assert samples(config=published, temperature=0) == [False] * 3


def test_in_transformers_the_fine_stage_follows_its_temperature_alone():
    assert samples(compat="hf", do_sample=True) == [True, True, False]
    assert samples(compat="hf", do_sample=False, temperature=0.5) == [
        False,
        False,
        True,
    ]
    assert samples(compat="hf", temperature=0.5, fine_do_sample=False)[2] is False


def test_another_compat_is_refused():
    with pytest.raises(ValueError, match="compat must be 'hf' or None"):
        configs_of(compat="suno")
