"""Recipes: short Python files that describe training runs, to read, copy and change.

A recipe file sets `RECIPE` to one `Recipe`, or to several that run in order. Its
docstring says what the recipe is for, what it costs and what to expect;
`bark-tf train RECIPE --show` prints it. `--set key=value` changes a value of all
recipes in the file, `--set stage.key=value` of one.

Example:
    RECIPE = Recipe(
        stage="semantic",
        method="lora",
        lora=LoraOptions(rank=8),
        options=TrainingOptions(steps=2_000, learning_rate=2e-4),
    )
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib.util
import inspect
import itertools
import runpy
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from bark_tf.config import BarkConfig, BarkGenerationConfig
from bark_tf.config.fields import Count, check_field, check_fields
from bark_tf.suggestions import did_you_mean

from ..options import CodecOptions, ExampleOptions, LoraOptions, TrainingOptions

STAGES = ("semantic", "coarse", "fine", "codec")
METHODS = ("full", "lora")
_FOLDER = Path(__file__).parents[1] / "recipes"
_PACKAGE = f"{__package__.rpartition('.')[0]}.recipes"
# The groups of options, and what the `--set` keys of their fields start with.
_PREFIXES = {"options": "", "examples": "", "lora": "lora_", "codec": ""}
# Values that no --set changes.
_FIXED = {"stage", "start", "callbacks", "vary_text"}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The training of one stage.

    A group of options may also be given as a dict of its fields.

    Args:
        stage: `"semantic"`, `"coarse"`, `"fine"` or `"codec"`.
        method: `"full"` trains all weights, `"lora"` adapters beside the kernels (not
            for the codec).
        model: Checkpoint whose network of this stage is trained, a directory or a
            repository id. In a file of several recipes, later ones take over what
            they do not set: this, `data` and `out`.
        data: Directory made by `bark-tf prepare`.
        out: Directory of the new checkpoint. Networks of other stages that it holds
            stay. Logs and training checkpoints go to its folder `training`, adapters
            to `adapters`.
        start: Creates the initial checkpoint if there is no `model`: returns the
            configuration, the generation configuration and the text tokenizer.
        batch_size: Examples per step over all devices; crops for the codec.
        dtype: Keras dtype policy of the model. Under `"mixed_bfloat16"` the weights
            stay float32.
        dropout: Dropout rate during training. None: the configuration's.
        gradient_checkpointing: Whether to recompute activations to save memory.
        sample_every: Steps between two audio samples in TensorBoard: a held-out
            recording through the codec, or a held-out text spoken by the whole model,
            which then has to fit in memory. One device only. None: no samples.
        callbacks: Called with the recipe; returns Keras callbacks for the run, such as
            those of Weights & Biases or MLflow.
        options: Length, optimizer and bookkeeping.
        examples: How recordings become examples for the transformers.
        lora: The adapters of method `"lora"`.
        codec: Options of the codec stage.

    Raises:
        ValueError: If a value is out of range.
    """

    stage: str
    method: str = "full"
    model: str | None = None
    data: str | None = None
    out: str | None = None
    start: Callable[[], tuple[BarkConfig, BarkGenerationConfig, Any]] | None = None
    batch_size: Count = 8
    dtype: str = "float32"
    dropout: Annotated[float, "[0, 1)"] | None = None
    gradient_checkpointing: bool = False
    sample_every: Count | None = None
    callbacks: Callable[[Recipe], Sequence[Any]] | None = None
    options: TrainingOptions = dataclasses.field(default_factory=TrainingOptions)
    examples: ExampleOptions = dataclasses.field(default_factory=ExampleOptions)
    lora: LoraOptions = dataclasses.field(default_factory=LoraOptions)
    codec: CodecOptions = dataclasses.field(default_factory=CodecOptions)

    def __post_init__(self):
        for name, hint in typing.get_type_hints(Recipe).items():
            if name in _PREFIXES and isinstance(getattr(self, name), dict):
                object.__setattr__(self, name, hint(**getattr(self, name)))
        check_fields(self)
        for name, is_right, expected in (
            ("stage", self.stage in STAGES, f"one of {', '.join(STAGES)}"),
            ("method", self.method in METHODS, f"one of {', '.join(METHODS)}"),
            ("method", (self.stage, self.method) != ("codec", "lora"), "full (codec)"),
        ):
            check_field(self, name, is_right, expected)
        for name in ("tempo_noise", "guided_attention"):
            value = getattr(self.examples, name)
            if self.stage != "semantic" and value:
                raise ValueError(
                    f"{name} must be 0 in the {self.stage} stage. "
                    f"Received: {name}={value}"
                )

    def values(self) -> dict[str, Any]:
        """All values, under the keys that `--set` takes."""
        return {
            key: functools.reduce(getattr, path, self)
            for key, (path, _) in _keys().items()
        }

    def replace(self, key: str, value: Any) -> Recipe:
        """Returns a copy with one value changed.

        Args:
            key: A key of `values()`, or the name of a group of options.
            value: The new value, or text that stands for it. For a group, a dict of
                the fields to change.

        Raises:
            ValueError: If the key is unknown, is `stage` or takes a function, or the
                value is wrong.
        """
        if key in _PREFIXES:
            recipe = self
            for name, inner in _parsed((dict,), key, value).items():
                recipe = recipe.replace(_PREFIXES[key] + name, inner)
            return recipe
        known = _keys().keys() - _FIXED
        if key not in known:
            raise ValueError(
                f"A recipe has no {key!r}.{did_you_mean(key, known)} "
                f"It has: {', '.join(sorted(known))}"
            )
        (*groups, name), kinds = _keys()[key]
        value = _parsed(kinds, key, value)
        for group in groups:
            value = dataclasses.replace(getattr(self, group), **{name: value})
            name = group
        return dataclasses.replace(self, **{name: value})


@functools.cache
def _keys() -> dict[str, tuple[tuple[str, ...], tuple[type, ...]]]:
    """Key of a value -> its path from the recipe, and the types it may have."""
    keys = {}
    for name, hint in typing.get_type_hints(Recipe).items():
        if name not in _PREFIXES:
            keys[name] = (name,), _kinds(hint)
            continue
        for inner, inner_hint in typing.get_type_hints(hint).items():
            keys[_PREFIXES[name] + inner] = (name, inner), _kinds(inner_hint)
    return keys


def described_keys() -> dict[str, str]:
    """What the keys of `--set` mean: key -> sentences from the options' docstrings."""
    found = {}
    for group, kind in {"": Recipe, **typing.get_type_hints(Recipe)}.items():
        if group and group not in _PREFIXES:
            continue
        texts = _arguments(kind.__doc__ or "")
        for field in dataclasses.fields(kind):
            key = _PREFIXES.get(group, "") + field.name
            if field.name not in _PREFIXES and key not in _FIXED:
                found[key] = texts.get(field.name, "")
    return found


def _arguments(docstring: str) -> dict[str, str]:
    """The `Args` of a docstring in Google's style: name -> text."""
    _, _, section = inspect.cleandoc(docstring).partition("\nArgs:\n")
    lines = itertools.takewhile(lambda line: line.startswith(" "), section.split("\n"))
    found: dict[str, str] = {}
    name = ""
    for line in lines:
        if line.startswith(" " * 8):
            found[name] += " " + line.strip()
        else:
            name, _, text = line.strip().partition(": ")
            found[name] = text
    return found


def _kinds(hint: Any) -> tuple[type, ...]:
    """The types of an annotation."""
    is_union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    kinds = typing.get_args(hint) if is_union else (hint,)
    origins = (typing.get_origin(kind) or kind for kind in kinds)
    return tuple(origin for origin in origins if origin is not typing.Literal)


# How error messages name the types of values.
_TYPE_NAMES = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    type(None): "None",
}


def _parsed(kinds: tuple[type, ...], key: str, value: Any) -> Any:
    """Converts text from the command line to one of some types."""
    if not isinstance(value, str):
        return value
    if value.lower() == "none" and type(None) in kinds:
        return None
    if str in kinds:
        return value
    try:
        read = ast.literal_eval(value)
    except (ValueError, SyntaxError):
        read = {"true": True, "false": False}.get(value.lower(), value)
    if isinstance(read, list) and tuple in kinds:
        return tuple(read)
    if isinstance(read, float) and int in kinds and read.is_integer():
        return int(read)
    if type(read) in kinds or (type(read) is int and float in kinds):
        return read
    expected = " or ".join(_TYPE_NAMES.get(k, f"a {k.__name__}") for k in kinds)
    raise ValueError(f"{key} must be {expected}. Received: {key}={value}")


# === Recipe files ===


def recipe_names() -> list[str]:
    """The recipes that come with the package, such as `open_voice/codec`."""
    files = _FOLDER.rglob("*.py")
    names = (path.relative_to(_FOLDER).with_suffix("").as_posix() for path in files)
    return sorted(name for name in names if not name.split("/")[-1].startswith("_"))


def load_recipe(name: str) -> tuple[list[Recipe], str]:
    """Reads a recipe file.

    Args:
        name: One of `recipe_names()`, or the path of a Python file, which is executed.

    Returns:
        The recipes in order, and the file's docstring.

    Raises:
        FileNotFoundError: If there is no such recipe.
        ValueError: If the file does not set `RECIPE` to recipes.
    """
    if name in recipe_names():
        values = runpy.run_module(f"{_PACKAGE}.{name.replace('/', '.')}")
    elif name.endswith(".py") and Path(name).is_file():
        spec = importlib.util.spec_from_file_location("recipe", name)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        values = vars(module)
    else:
        raise FileNotFoundError(
            f"There is no recipe {name!r}.{did_you_mean(str(name), recipe_names())} "
            "Give the path of a Python file that sets RECIPE, or one of "
            f"{', '.join(recipe_names())}"
        )
    found = values.get("RECIPE")
    recipes = list(found) if isinstance(found, Iterable) else [found]
    if not recipes or not all(isinstance(recipe, Recipe) for recipe in recipes):
        raise ValueError(
            f"{name} must set RECIPE to a Recipe or a list of them. Received: {found!r}"
        )
    return recipes, (values.get("__doc__") or "").strip()


def only_stages(
    recipes: Sequence[Recipe], stages: Sequence[str] | None
) -> list[Recipe]:
    """Selects the recipes of some stages, in the file's order; all for None.

    Raises:
        ValueError: If there is no recipe for a stage.
    """
    known = [recipe.stage for recipe in recipes]
    for stage in stages or ():
        if stage not in known:
            raise ValueError(
                f"The recipe has the stages {', '.join(known)}. "
                f"Received: --stages {' '.join(stages)}"
            )
    return [recipe for recipe in recipes if stages is None or recipe.stage in stages]


def with_settings(
    recipes: Sequence[Recipe], settings: Sequence[str] | Mapping[str, Any]
) -> list[Recipe]:
    """Applies the `key=value` and `stage.key=value` of `--set`.

    Args:
        recipes: Those of a file.
        settings: Texts as after `--set`, or values by `key` and `stage.key`.

    Returns:
        The changed recipes.

    Raises:
        ValueError: If a setting is malformed, or no recipe has its key or stage.

    Example:
        >>> recipes, _ = load_recipe("lora")
        >>> recipes = with_settings(recipes, {"data": "prepared", "coarse.steps": 50})
        >>> recipes[0].options.steps
        50
    """
    if isinstance(settings, Mapping):
        settings = [f"{key}={value}" for key, value in settings.items()]
    recipes = list(recipes)
    for setting in settings:
        key, sign, value = setting.partition("=")
        if not sign or not key:
            raise ValueError(f"--set takes key=value. Received: {setting!r}")
        stage, dot, name = key.partition(".")
        if not dot:
            stage, name = "", key
        chosen = [i for i, one in enumerate(recipes) if stage in ("", one.stage)]
        if not chosen:
            stages = ", ".join(recipe.stage for recipe in recipes)
            raise ValueError(
                f"The recipe has the stages {stages}. Received: --set {setting}"
            )
        for index in chosen:
            recipes[index] = recipes[index].replace(name, value)
    return recipes
