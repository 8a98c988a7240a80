"""What a training run is: a short Python file that anyone can read, copy and change.

A recipe file sets `RECIPE` to one `Recipe`, or to several that run in order. Its
docstring is shown by `bark-tf train RECIPE --show`: command, cost, what to expect.
Values are changed from outside by `--set key=value`; in a file of several recipes also
by `--set stage.key=value`.

Example:
    RECIPE = Recipe(
        stage="semantic",
        method="lora",
        options=TrainingOptions(steps=2_000, learning_rate=2e-4),
    )
"""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import runpy
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from bark_tf.config import BarkConfig, BarkGenerationConfig

from .fit import TrainingOptions

STAGES = ("semantic", "coarse", "fine", "codec")
METHODS = ("full", "lora")
# Fields that no --set changes.
_FIXED = {"options", "start", "stage", "vary_text"}
_FOLDER = Path(__file__).parents[1] / "recipes"
_PACKAGE = f"{__package__.rpartition('.')[0]}.recipes"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One stage's training.

    Args:
        stage: `"semantic"`, `"coarse"`, `"fine"` or `"codec"`.
        method: `"full"` trains all weights, `"lora"` small matrices beside the kernels
            (not for the codec).
        model: Checkpoint to start from, a directory or an id on the hub; of several
            recipes, the later ones start from what the earlier ones made.
        data: Directory that `bark-tf prepare` made.
        out: Directory for the new checkpoint. The run's own files lie in its folder
            `training`, adapters in `adapters`.
        start: Makes the checkpoint to start from when there is no `model`: gives
            configuration, generation configuration and text tokenizer.
        batch_size: Examples per step, over all devices; crops for the codec.
        dtype: Keras dtype policy of the model. Weights stay float32 under
            `"mixed_bfloat16"`.
        dropout: In place of the configuration's, while training.
        gradient_checkpointing: Whether activations are computed twice to save memory.
        history_probability: How often an example opens with another recording of its
            speaker, so that voices keep working.
        default_speaker: Who speaks where no voice is named: examples of the other
            speakers always open with a recording. None: anybody.
        vary_text: Gives other ids for the same speech, see `StageExamples`.
        token_noise: How often a token that the semantic network reads is another one
            than it has to say, see `StageExamples`.
        past_weight: Weight of the past coarse tokens of a window as targets; 0 trains
            exactly what generation asks for.
        lora_rank: Rank of the added matrices.
        lora_alpha: Their product counts `lora_alpha / lora_rank` times.
        lora_targets: Layers that get them.
        segment_s: Seconds per crop for the codec.
        codec: Fields of `CodecOptions`.
        speakers: Speaker -> how often its recordings are picked for the codec.
        discriminator: Whether the codec trains against a discriminator.
        sample_every: Steps between two samples that one hears in TensorBoard: a
            held-out recording through the codec, or a held-out text, for which all the
            model is in memory. Not on several devices. None: none.
        options: `TrainingOptions`, or a dict of its fields.

    Raises:
        ValueError: If a value is out of range; the message names the field.
    """

    stage: str
    method: str = "full"
    model: str | None = None
    data: str | None = None
    out: str | None = None
    start: Callable[[], tuple[BarkConfig, BarkGenerationConfig, Any]] | None = None
    batch_size: int = 8
    dtype: str = "float32"
    dropout: float | None = None
    gradient_checkpointing: bool = False
    history_probability: float = 0.5
    default_speaker: str | None = None
    vary_text: Callable | None = None
    token_noise: float = 0.0
    past_weight: float = 0.0
    lora_rank: int = 16
    lora_alpha: float | None = None
    lora_targets: tuple[str, ...] = ("qkv", "out", "fc", "proj")
    segment_s: float = 1.0
    codec: dict[str, Any] = dataclasses.field(default_factory=dict)
    speakers: dict[str, float] = dataclasses.field(default_factory=dict)
    discriminator: bool = False
    sample_every: int | None = None
    options: TrainingOptions = dataclasses.field(default_factory=TrainingOptions)

    def __post_init__(self):
        if isinstance(self.options, dict):
            object.__setattr__(self, "options", TrainingOptions(**self.options))
        for name, is_right, expected in (
            ("stage", self.stage in STAGES, f"one of {', '.join(STAGES)}"),
            ("method", self.method in METHODS, f"one of {', '.join(METHODS)}"),
            ("batch_size", self.batch_size >= 1, "at least 1"),
            ("lora_rank", self.lora_rank >= 1, "at least 1"),
            (
                "sample_every",
                self.sample_every is None or self.sample_every >= 1,
                "None or at least 1",
            ),
            ("segment_s", self.segment_s > 0, "positive"),
            ("history_probability", 0 <= self.history_probability <= 1, "in [0, 1]"),
            ("token_noise", 0 <= self.token_noise < 1, "in [0, 1)"),
            (
                "token_noise",
                self.token_noise == 0 or self.stage == "semantic",
                "0 (but for the semantic stage)",
            ),
            ("past_weight", 0 <= self.past_weight <= 1, "in [0, 1]"),
            ("method", (self.stage, self.method) != ("codec", "lora"), "full (codec)"),
        ):
            if not is_right:
                raise ValueError(
                    f"{name} must be {expected}. "
                    f"Received: {name}={getattr(self, name)!r}"
                )

    def replace(self, name: str, value: Any) -> Recipe:
        """A copy with one field, of the recipe or of its options, changed."""
        fields = _hints(type(self))
        if name in fields.keys() - _FIXED:
            value = _as(fields[name], name, value)
            return dataclasses.replace(self, **{name: value})
        options = _hints(TrainingOptions)
        if name in options:
            value = _as(options[name], name, value)
            changed = dataclasses.replace(self.options, **{name: value})
            return dataclasses.replace(self, options=changed)
        known = ", ".join(sorted(fields.keys() - _FIXED | options.keys()))
        raise ValueError(f"A recipe has no {name!r}. It has: {known}")


def _hints(cls: type) -> dict[str, tuple[type, ...]]:
    """The fields of a dataclass and the types that each may have."""
    hints = typing.get_type_hints(cls)
    several = {field.name: hints[field.name] for field in dataclasses.fields(cls)}
    return {
        name: tuple(
            typing.get_origin(kind) or kind
            for kind in (typing.get_args(hint) if _is_union(hint) else (hint,))
        )
        for name, hint in several.items()
    }


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (types.UnionType, typing.Union)


def _as(kinds: tuple[type, ...], name: str, value: Any) -> Any:
    """A value from the command line, as a field of some types takes it."""
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
    if bool in kinds and not isinstance(read, bool):
        raise ValueError(f"{name} must be True or False. Received: {name}={value}")
    is_number = isinstance(read, int | float) and not isinstance(read, bool)
    if {int, float} & {*kinds} and not is_number:
        raise ValueError(f"{name} must be a number. Received: {name}={value}")
    if int in kinds and isinstance(read, float):
        if not read.is_integer():
            raise ValueError(f"{name} must be a whole number. Received: {name}={value}")
        return int(read)
    if tuple in kinds and isinstance(read, list):
        return tuple(read)
    if {tuple, dict} & {*kinds} and not isinstance(read, kinds):
        names = " or ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"{name} must be a {names}. Received: {name}={value}")
    return read


def recipe_names() -> list[str]:
    """The recipes that come with the package, such as `small_voice/codec`."""
    files = _FOLDER.rglob("*.py")
    names = (path.relative_to(_FOLDER).with_suffix("").as_posix() for path in files)
    return sorted(name for name in names if not name.split("/")[-1].startswith("_"))


def load_recipe(name: str) -> tuple[list[Recipe], str]:
    """Reads a recipe file.

    Args:
        name: One of `recipe_names()`, or the path of a Python file, which is run.

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
            f"There is no recipe {name!r}. There are: {', '.join(recipe_names())}, "
            "and every path of a Python file that sets RECIPE"
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
    """The recipes of some stages, in their own order; of all for None.

    Raises:
        ValueError: If a stage is not among them.
    """
    known = [recipe.stage for recipe in recipes]
    for stage in stages or ():
        if stage not in known:
            raise ValueError(
                f"The recipe has the stages {', '.join(known)}. "
                f"Received: --stages {' '.join(stages)}"
            )
    return [recipe for recipe in recipes if stages is None or recipe.stage in stages]


def with_settings(recipes: Sequence[Recipe], settings: Sequence[str]) -> list[Recipe]:
    """Applies `key=value` and `stage.key=value`, as `--set` gives them.

    Raises:
        ValueError: If a setting has another form, or no recipe has the key or stage.
    """
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
