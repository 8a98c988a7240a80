"""The package's recipes load and print; `--set` reaches every value."""

import dataclasses
import re
import subprocess
import sys

import pytest

from bark_tf.cli import main as cli
from bark_tf.training.options import CodecOptions, ExampleOptions
from bark_tf.training.runs.recipe import (
    Recipe,
    load_recipe,
    only_stages,
    recipe_names,
    with_settings,
)

BARK_SMALL = ("bark_small_full", "bark_small_lora")


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_loads_and_prints(name, capsys):
    assert cli.main(["train", name, "--show"]) == 0
    shown = capsys.readouterr().out
    recipes, docstring = load_recipe(name)
    assert docstring in shown and docstring.count("\n") > 2
    for recipe in recipes:
        assert f"{recipe.stage}.steps={recipe.options.steps}\n" in shown


def test_the_recipes_for_bark_small_are_listed(capsys):
    assert cli.main(["train", "--list"]) == 0
    assert set(BARK_SMALL) <= set(capsys.readouterr().out.split())


@pytest.mark.parametrize("name", BARK_SMALL)
def test_recipes_for_bark_small_stop_early(name):
    recipes, _ = load_recipe(name)
    assert [recipe.stage for recipe in recipes] == ["semantic", "coarse", "fine"]
    for recipe in recipes:
        options = recipe.options
        assert recipe.model == "suno/bark-small"
        assert recipe.method == name.rpartition("_")[2]
        # Validation is frequent enough to find the best weights.
        assert options.patience and options.validate_every <= options.steps / 8


@pytest.mark.parametrize("name", BARK_SMALL)
def test_the_settings_for_a_gpu_train_as_much(name):
    recipes, text = load_recipe(name)
    settings = re.search(r"`--set (batch_size=4[^`]+)`", text)[1].split()
    for before, after in zip(recipes, with_settings(recipes, settings), strict=True):
        for batch in (
            lambda r: r.batch_size * r.options.accumulate,
            lambda r: r.batch_size * r.options.steps,
            lambda r: r.batch_size * r.options.warmup_steps,
        ):
            assert batch(before) == batch(after)


@pytest.mark.parametrize("name", BARK_SMALL)
def test_the_hours_follow_from_the_measured_steps(name):
    """Seconds per example times examples, up to the rounding of the text."""
    recipes, text = load_recipe(name)
    seconds = re.search(r"\(([\d.]+), ([\d.]+) and ([\d.]+) seconds", text).groups()
    hours = re.search(r"CPU cores +([\d.]+) h \+ ([\d.]+) h \+ ([\d.]+) h", text)
    for recipe, second, hour in zip(recipes, seconds, hours.groups(), strict=True):
        found = recipe.batch_size * recipe.options.steps * float(second) / 3600
        assert float(hour) == pytest.approx(found, rel=0.08)


@pytest.mark.parametrize(
    ("stage", "name", "value"),
    [
        ("singing", "stage", "singing"),
        ("semantic", "method", "half"),
        ("codec", "method", "lora"),
        ("semantic", "batch_size", 0),
        ("semantic", "sample_every", 0),
    ],
)
def test_wrong_values_are_named(stage, name, value):
    with pytest.raises(ValueError, match=f"{name} must be.*Received: {name}="):
        Recipe(**{"stage": stage, name: value})


@pytest.mark.parametrize("name", ["tempo_noise", "guided_attention"])
def test_some_options_are_for_the_semantic_stage(name):
    with pytest.raises(ValueError, match=f"{name} must be 0 in the coarse stage"):
        Recipe("coarse", examples=ExampleOptions(**{name: 0.1}))


# === --set ===


def test_every_value_has_a_flat_key_that_sets_it():
    """--set reads what --show prints, except functions and the stage."""
    recipe = Recipe("semantic")
    for key, value in recipe.values().items():
        if key not in ("stage", "start", "callbacks", "vary_text"):
            assert recipe.replace(key, str(value)) == recipe, key
    groups = (recipe, recipe.options, recipe.examples, recipe.lora, recipe.codec)
    fields = [field for group in groups for field in dataclasses.fields(group)]
    assert len(recipe.values()) == len(fields) - 4  # no key for two values


@pytest.mark.parametrize(
    ("setting", "find", "expected"),
    [
        ("lora_rank=8", lambda recipe: recipe.lora.rank, 8),
        ("lora_targets=['qkv']", lambda recipe: recipe.lora.targets, ("qkv",)),
        ("history_probability=1", lambda r: r.examples.history_probability, 1),
        ("segment_s=0.5", lambda recipe: recipe.codec.segment_s, 0.5),
        ("speakers={}", lambda recipe: recipe.codec.speakers, {}),
        ("steps=2e3", lambda recipe: recipe.options.steps, 2_000),
        ("clip_norm=none", lambda recipe: recipe.options.clip_norm, None),
        ("gradient_checkpointing=true", lambda r: r.gradient_checkpointing, True),
        ("codec.model=none", lambda recipe: recipe.model, None),
    ],
)
def test_settings_find_their_group(setting, find, expected):
    recipe = Recipe("codec", model="base", codec={"speakers": {"ann": 1.0}})
    found = find(with_settings([recipe], [setting])[0])
    assert found == expected and type(found) is type(expected)


def test_a_group_is_set_by_a_dict_of_the_fields_to_change():
    recipe = Recipe("codec", codec=CodecOptions(segment_s=0.5, quantize_from=7))
    setting = "codec={'quantize_from': 2, 'weights': {'mel': 2}}"
    codec = with_settings([recipe], [setting])[0].codec
    assert (codec.segment_s, codec.quantize_from) == (0.5, 2)
    assert codec.weights == CodecOptions(weights={"mel": 2}).weights
    fields = {"quantize_from": 2, "weights": {"mel": 2}}
    assert with_settings([recipe], {"codec.codec": fields})[0].codec == codec
    with pytest.raises(ValueError, match="A recipe has no 'nothing'"):
        with_settings([recipe], ["codec={'nothing': 2}"])


def test_reading_recipes_does_not_start_tensorflow():
    code = (
        "import sys; from bark_tf.cli import main; main.main(sys.argv[1:]);"
        "sys.exit('tensorflow' in sys.modules)"
    )
    for words in (["--list"], ["open_voice/codec", "--show"]):
        command = [sys.executable, "-c", code, "train", *words]
        subprocess.run(command, check=True, capture_output=True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nosuch"], "There is no recipe 'nosuch'"),
        ([], "give a RECIPE"),
        (["lora", "--set", "steps=many"], "steps must be a whole number"),
        (["lora", "--set", "nothing=1"], "A recipe has no 'nothing'"),
        (["lora", "--set", "learing_rate=1"], "Did you mean 'learning_rate'"),
        (["loro"], "Did you mean 'lora'"),
        (["lora", "--set", "steps"], "--set takes key=value"),
        (["lora", "--set", "codec.steps=1"], "has the stages coarse, fine"),
        (
            ["lora", "--set", "steps=0"],
            "steps must be a whole number in [1, 1_000_000_000]",
        ),
        (
            ["lora", "--set", "sample_every=0"],
            "sample_every must be a whole number in [1, ",
        ),
        (
            ["lora", "--set", "sample_every=often"],
            "sample_every must be a whole number or None",
        ),
        (["lora", "--set", "lora_targets=qkv"], "lora_targets must be a tuple"),
        (["lora"], "needs data: give --set data=DIRECTORY"),
        (["lora", "--set", "data=a", "out=b"], "needs a model to start from"),
    ],
)
def test_wrong_usage_of_train_is_one_line(words, message, capsys):
    assert cli.main(["train", *words]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


# === Stages ===


def test_some_stages_of_a_recipe(capsys):
    recipes, _ = load_recipe("full")
    assert only_stages(recipes, None) == list(recipes)
    chosen = only_stages(recipes, ["fine", "coarse"])
    assert [recipe.stage for recipe in chosen] == ["coarse", "fine"]
    assert cli.main("train full --stages codec --show".split()) != 0
    message = capsys.readouterr().err
    assert "stages semantic, coarse, fine. Received: --stages codec" in message
    assert cli.main("train full --show --stages coarse".split()) == 0
    assert "semantic.steps" not in capsys.readouterr().out


def test_help_explains_every_key(capsys):
    assert cli.main(["train", "--help"]) == 0
    _, _, shown = capsys.readouterr().out.partition("keys of --set:")
    keys = set(Recipe("semantic").values()) - {
        "stage",
        "start",
        "callbacks",
        "vary_text",
    }
    found = dict(re.findall(r"^  (\w+): (\S.*)$", shown, re.MULTILINE))
    assert found.keys() == keys and min(map(len, found.values())) > 8
    assert (
        "lora_alpha: The product of the matrices is scaled by `alpha / rank`" in shown
    )
