"""Recipes run one after the other, each from the same start."""

import numpy as np
import toy

from bark_tf import BarkSemanticModel
from bark_tf.training.options import LoraOptions
from bark_tf.training.runs import run
from bark_tf.training.runs.recipe import Recipe, with_settings


def test_a_restarted_run_creates_the_same_adapters(tmp_path):
    """Before the first checkpoint only the seed determines them."""
    BarkSemanticModel(toy.semantic_config()).save_pretrained(tmp_path)
    lora = LoraOptions(rank=2)
    recipe = Recipe("semantic", "lora", str(tmp_path), lora=lora, dropout=0.1)
    one, two = (run._model(recipe, recipe.model) for _ in range(2))
    assert {"seed_generator_state", "lora_kernel_a"} <= {v.name for v in one.variables}
    for a, b in zip(one.variables, two.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_every_recipe_starts_from_the_result_of_the_one_before():
    """`--set model=...` sets it in all; the first stage's training was lost."""
    recipes = [Recipe(stage) for stage in ("semantic", "coarse", "fine")]
    recipes = with_settings(recipes, ["model=base", "data=recordings", "out=mine"])
    filled = run._filled_in(recipes)
    assert [recipe.model for recipe in filled] == ["base", "mine", "mine"]
    recipes = with_settings(recipes, ["fine.model=other"])
    assert run._filled_in(recipes)[2].model == "other"
