"""Recipes that come with the package: each loads, shows itself, and means it."""

import re

import pytest

from bark_tf.cli import main as cli
from bark_tf.training.runs.recipe import (
    Recipe,
    load_recipe,
    only_stages,
    recipe_names,
    with_settings,
)

BARK_SMALL = ("bark_small_full", "bark_small_lora")


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_loads_and_shows_itself(name, capsys):
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
def test_recipes_for_bark_small_stop_in_time(name):
    recipes, _ = load_recipe(name)
    assert [recipe.stage for recipe in recipes] == ["semantic", "coarse", "fine"]
    for recipe in recipes:
        options = recipe.options
        assert recipe.model == "suno/bark-small"
        assert recipe.method == name.rpartition("_")[2]
        # The best weights are kept, and looked for often enough to be found.
        assert options.patience and options.validate_every <= options.steps / 8


@pytest.mark.parametrize("name", BARK_SMALL)
def test_what_the_text_says_of_a_gpu_is_as_much_learning(name):
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
def test_the_hours_are_those_of_the_measured_steps(name):
    """Seconds per example times examples, as the text rounds them."""
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
        ("semantic", "history_probability", 1.5),
        ("semantic", "token_noise", 1.0),
        ("semantic", "token_noise", -0.1),
        ("coarse", "token_noise", 0.1),
        ("coarse", "past_weight", 2.0),
        ("codec", "segment_s", 0.0),
    ],
)
def test_wrong_values_are_named(stage, name, value):
    with pytest.raises(ValueError, match=f"{name} must be.*Received: {name}="):
        Recipe(**{"stage": stage, name: value})


def test_some_stages_of_a_recipe(capsys):
    recipes, _ = load_recipe("lora")
    assert only_stages(recipes, None) == list(recipes)
    chosen = only_stages(recipes, ["fine", "coarse"])
    assert [recipe.stage for recipe in chosen] == ["coarse", "fine"]
    assert cli.main("train lora --stages codec --show".split()) != 0
    message = capsys.readouterr().err
    assert "stages semantic, coarse, fine. Received: --stages codec" in message
    assert cli.main("train lora --show --stages coarse".split()) == 0
    assert "semantic.steps" not in capsys.readouterr().out
