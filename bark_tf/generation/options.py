"""Routes the keywords of `generate` to the stages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from bark_tf.config import (
    BarkCoarseGenerationConfig,
    BarkFineGenerationConfig,
    BarkGenerationConfig,
    BarkSemanticGenerationConfig,
)
from bark_tf.generation.coarse import CoarseWindow
from bark_tf.suggestions import did_you_mean
from bark_tf.tokens import CODEBOOK_SIZE

PREFIXES = ("semantic_", "coarse_", "fine_")
# Options of transformers, with the values that have no effect; None: all values. Tokens
# are the same without a cache, and rows end by their own lengths, not by padding.
_NEUTRAL = {
    "num_beams": (None, 1),
    "num_beam_groups": (None, 1),
    "use_cache": None,
    "pad_token_id": None,
}
_NOT_SUPPORTED = {
    "num_beams": "beam search",
    "num_beam_groups": "beam search",
    "penalty_alpha": "contrastive search",
    "assistant_model": "assisted decoding",
    "logits_processor": "a logits processor; see bark_tf.generation.sampling",
    "streamer": "a streamer; see BarkModel.stream",
    "voice": "this name; pass history_prompt",
    "voice_preset": "this name; pass history_prompt",
}
# Keys of `generation_config.json` that say nothing about generation.
_DESCRIPTIONS = ("model_type", "transformers_version")


class StageConfigs(NamedTuple):
    """Generation configurations for one call."""

    semantic: BarkSemanticGenerationConfig
    coarse: BarkCoarseGenerationConfig = BarkCoarseGenerationConfig()
    fine: BarkFineGenerationConfig = BarkFineGenerationConfig()
    codebook_size: int = CODEBOOK_SIZE

    @property
    def coarse_window(self) -> CoarseWindow:
        """The window that relates semantic and coarse tokens."""
        return CoarseWindow(self.semantic, self.coarse, self.codebook_size)

    def temperatures(self) -> dict[str, float]:
        """The temperature of each stage, under its keyword; 0: the stage is greedy."""
        return {
            "semantic_temperature": self.semantic.temperature * self.semantic.do_sample,
            "coarse_temperature": self.coarse.temperature * self.coarse.do_sample,
            "fine_temperature": self.fine.temperature if self.fine.samples else 0.0,
        }

    def voice_limits(self) -> dict[str, Any]:
        """Arguments of `VoicePreset.validate` for this model."""
        return BarkGenerationConfig(
            self.semantic, self.coarse, self.fine, codebook_size=self.codebook_size
        ).voice_limits()


def stage_config(cls: type, config: Any) -> Any:
    """A configuration of class `cls`, of itself, a mapping of its fields, or None."""
    if config is None:
        return cls()
    if isinstance(config, Mapping):
        return cls(**config)
    if not isinstance(config, cls):
        raise ValueError(
            f"The configuration must be a {cls.__name__}, a mapping of its fields, or "
            f"None. Received: {type(config).__name__}"
        )
    return config


def call_config(
    given: Any, own: BarkGenerationConfig, options: Mapping[str, Any]
) -> tuple[BarkGenerationConfig, dict[str, Any]]:
    """The configuration and the keywords of a call.

    Args:
        given: A `BarkGenerationConfig`; a mapping of its fields, which change `own`,
            and of keywords; or None for `own`.
        own: The model's configuration.
        options: The keywords, preferred to those in `given`.

    Raises:
        ValueError: If `given` is anything else, or a value in it is out of range.
    """
    if given is None or isinstance(given, BarkGenerationConfig):
        return given or own, dict(options)
    if not isinstance(given, Mapping):
        raise ValueError(
            "generation_config must be a BarkGenerationConfig or a mapping. "
            f"Received: {type(given).__name__}"
        )
    values, keywords = own.to_dict(), {}
    for name, value in given.items():
        if name in own.field_names():
            is_changed = isinstance(value, Mapping) and name in values
            values[name] = {**values[name], **value} if is_changed else value
        elif not (value is None or name.startswith("_") or name in _DESCRIPTIONS):
            keywords[name] = value
    return BarkGenerationConfig.from_dict(values), {**keywords, **options}


def stage_configs(
    config: BarkGenerationConfig, options: Mapping[str, Any], compat: str | None = None
) -> StageConfigs:
    """Applies keywords to the configurations of the stages.

    A keyword with a prefix (`semantic_`, `coarse_`, `fine_`) sets that stage's field
    and takes precedence; one without a prefix sets every stage that has the field.

    Args:
        config: The defaults.
        options: The keywords.
        compat: `"hf"` makes the fine stage ignore `do_sample` and follow its
            temperature alone, as in transformers.

    Raises:
        ValueError: If a keyword is unknown or unsupported, or a value is out of range.
    """
    config = config.replace(compat=compat)  # refuses an unknown value
    stages = (
        config.semantic_config,
        config.coarse_acoustics_config,
        config.fine_acoustics_config,
    )
    shared: list[dict[str, Any]] = [{}, {}, {}]
    own: list[dict[str, Any]] = [{}, {}, {}]
    for name, value in effective(options).items():
        targets = [i for i, stage in enumerate(stages) if name in stage.field_names()]
        prefixed = _prefixed(name, stages)
        if prefixed is not None:
            own[prefixed[0]][prefixed[1]] = value
        elif targets:
            for i in targets:
                shared[i][name] = value
        else:
            raise ValueError(_unknown(name, stages))
    if compat == "hf":
        shared[2]["do_sample"] = None
    changed = (
        stage.replace(**{**general, **special})
        for stage, general, special in zip(stages, shared, own, strict=True)
    )
    return StageConfigs(*changed, config.codebook_size)


def effective(options: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords of `generate` without those of transformers that change nothing.

    Raises:
        ValueError: If a keyword asks for something that there is not.
    """
    kept = {}
    for name, value in options.items():
        plain = _without_prefix(name)
        harmless = _NEUTRAL.get(plain, ())
        if harmless is None or value in harmless:
            continue
        if plain in _NOT_SUPPORTED:
            raise ValueError(
                f"generate does not support {name} ({_NOT_SUPPORTED[plain]})"
            )
        kept[name] = value
    return kept


def _without_prefix(name: str) -> str:
    return next((name.removeprefix(p) for p in PREFIXES if name.startswith(p)), name)


def _prefixed(name: str, stages) -> tuple[int, str] | None:
    for i, (prefix, stage) in enumerate(zip(PREFIXES, stages, strict=True)):
        field = name.removeprefix(prefix)
        if name.startswith(prefix) and field in stage.field_names():
            return i, field
    return None


def _unknown(name: str, stages) -> str:
    known = sorted({field for stage in stages for field in stage.field_names()})
    prefixed = [
        prefix + field
        for prefix, stage in zip(PREFIXES, stages, strict=True)
        for field in stage.field_names()
    ]
    hint = did_you_mean(name, [*known, *prefixed])
    return (
        f"generate has no option {name!r}.{hint} Options, each also with the prefix "
        f"of a stage ({', '.join(PREFIXES)}): {', '.join(known)}"
    )
