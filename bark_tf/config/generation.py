"""How each stage generates: sampling, special tokens, windows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from bark_tf.config.base import GENERATION_CONFIG_NAME, Config, nested

# === Generation ===


@dataclasses.dataclass(frozen=True)
class _GenerationConfig(Config):
    """What the generation configurations share: they live in another file."""

    file_name: ClassVar[str] = GENERATION_CONFIG_NAME
    part: ClassVar[str] = ""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], **overrides: Any):
        """As in the base class; a null in the file leaves the default in place."""
        given = {key: value for key, value in values.items() if value is not None}
        return super().from_dict(given, **overrides)

    @classmethod
    def _select(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        return values.get(cls.part) or values if cls.part in values else values


@dataclasses.dataclass(frozen=True)
class _SamplingConfig(_GenerationConfig):
    """Choosing the next token, the same in the semantic and the coarse stage.

    Args:
        do_sample: Whether to draw; the likeliest token otherwise.
        temperature: Divides the logits before a draw; 0 is greedy.
        top_k: Draw among this many likeliest tokens; 0 or None: among all.
        top_p: Draw among the likeliest tokens that make up this probability.
        repetition_penalty: Above 1, tokens seen before become less likely.
        renormalize_logits: Kept for the file; logits are always renormalised.
    """

    do_sample: bool = False
    temperature: float | None = 1.0
    top_k: int | None = 50
    top_p: float | None = 1.0
    repetition_penalty: float | None = 1.0
    renormalize_logits: bool = True

    # What None means for a field: the value that changes nothing.
    _neutral: ClassVar[Mapping[str, Any]] = {
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "repetition_penalty": 1.0,
    }

    def __post_init__(self):
        for name, value in self._neutral.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        super().__post_init__()

    def _check(self) -> None:
        super()._check()
        self._require(self.temperature >= 0, "temperature", "None or at least 0")
        self._require_whole("top_k", minimum=0)
        self._require(0 < self.top_p <= 1, "top_p", "None or in (0, 1]")
        self._require(
            self.repetition_penalty > 0, "repetition_penalty", "None or positive"
        )


@dataclasses.dataclass(frozen=True)
class BarkSemanticGenerationConfig(_SamplingConfig):
    """Text to semantic tokens.

    Args:
        eos_token_id: Ends a row.
        max_new_tokens: Limit of semantic tokens, end included.
        min_new_tokens: The end is not allowed before this many tokens.
        text_encoding_offset: Added to the tokenizer's ids.
        text_pad_token: Fills the text up to `max_input_semantic_length`.
        semantic_infer_token: Ends the prompt.
        semantic_vocab_size: Number of semantic tokens.
        max_input_semantic_length: Positions of text and of history.
        semantic_rate_hz: Semantic tokens per second.
        min_eos_p: A row ends when the end's probability is above this; None: off.
        num_return_sequences: Takes per text.

    See `_SamplingConfig` for the other fields. `semantic_pad_token` always equals
    `eos_token_id`, as in transformers.
    """

    model_type: ClassVar[str] = "semantic"
    part: ClassVar[str] = "semantic_config"

    eos_token_id: int = 10_000
    max_new_tokens: int = 768
    min_new_tokens: int | None = None
    text_encoding_offset: int = 10_048
    text_pad_token: int = 129_595
    semantic_infer_token: int = 129_599
    semantic_vocab_size: int = 10_000
    max_input_semantic_length: int = 256
    semantic_rate_hz: float = 49.9
    min_eos_p: float | None = None
    num_return_sequences: int = 1

    def _check(self) -> None:
        super()._check()
        self._require_whole(
            "semantic_vocab_size", "max_input_semantic_length", "num_return_sequences"
        )
        self._require_whole("max_new_tokens", "text_encoding_offset", minimum=0)
        self._require(self.semantic_rate_hz > 0, "semantic_rate_hz", "positive")
        self._require(
            self.min_eos_p is None or self.min_eos_p > 0,
            "min_eos_p",
            "None or positive",
        )
        self._require(
            self.min_new_tokens is None or self.min_new_tokens >= 0,
            "min_new_tokens",
            "None or at least 0",
        )

    @property
    def semantic_pad_token(self) -> int:
        """Fills rows after their end."""
        return self.eos_token_id

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], **overrides: Any):
        """As in the base class; a `semantic_pad_token` in the file is ignored."""
        values = {k: v for k, v in values.items() if k != "semantic_pad_token"}
        return super().from_dict(values, **overrides)

    def to_dict(self) -> dict[str, Any]:
        """The fields, with the derived `semantic_pad_token` as in transformers."""
        return {**super().to_dict(), "semantic_pad_token": self.semantic_pad_token}


@dataclasses.dataclass(frozen=True)
class BarkCoarseGenerationConfig(_SamplingConfig):
    """Semantic tokens to the first codebooks.

    Args:
        coarse_semantic_pad_token: Fills the semantic window.
        coarse_rate_hz: Codec frames per second.
        n_coarse_codebooks: Codebooks that this stage writes.
        coarse_infer_token: Ends the semantic window.
        max_coarse_input_length: Semantic tokens in a window.
        max_coarse_history: Coarse tokens of the past in a window.
        sliding_window_len: Coarse tokens written per window.

    See `_SamplingConfig` for the other fields.
    """

    model_type: ClassVar[str] = "coarse_acoustics"
    part: ClassVar[str] = "coarse_acoustics_config"

    coarse_semantic_pad_token: int = 12_048
    coarse_rate_hz: int | float = 75
    n_coarse_codebooks: int = 2
    coarse_infer_token: int = 12_050
    max_coarse_input_length: int = 256
    max_coarse_history: int = 630
    sliding_window_len: int = 60

    def _check(self) -> None:
        super()._check()
        self._require_whole(
            "n_coarse_codebooks",
            "max_coarse_input_length",
            "max_coarse_history",
            "sliding_window_len",
        )
        self._require(self.coarse_rate_hz > 0, "coarse_rate_hz", "positive")


@dataclasses.dataclass(frozen=True)
class BarkFineGenerationConfig(_GenerationConfig):
    """The first codebooks to all of them.

    Args:
        temperature: Divides the logits before a draw. None, 0 and 1 are greedy unless
            `do_sample` is True.
        do_sample: None leaves the choice to `temperature`, as in transformers; False
            is greedy, True draws.
        max_fine_history_length: Frames of the past in a window.
        max_fine_input_length: Frames of a window.
        n_fine_codebooks: Codebooks after this stage.
    """

    model_type: ClassVar[str] = "fine_acoustics"
    part: ClassVar[str] = "fine_acoustics_config"

    temperature: float | None = 1.0
    do_sample: bool | None = None
    max_fine_history_length: int = 512
    max_fine_input_length: int = 1024
    n_fine_codebooks: int = 8

    def _check(self) -> None:
        super()._check()
        self._require(
            self.temperature is None or self.temperature >= 0,
            "temperature",
            "None or at least 0",
        )
        self._require_whole(
            "max_fine_input_length", "max_fine_history_length", "n_fine_codebooks"
        )
        self._require(
            self.max_fine_history_length < self.max_fine_input_length,
            "max_fine_history_length",
            f"less than max_fine_input_length={self.max_fine_input_length}",
        )

    @property
    def samples(self) -> bool:
        """Whether the stage draws, after all defaults."""
        if self.do_sample is None:
            return self.temperature not in (None, 0, 1)
        return self.do_sample and self.temperature != 0


@dataclasses.dataclass(frozen=True)
class BarkGenerationConfig(_GenerationConfig):
    """How a whole Bark generates.

    Args:
        semantic_config: `BarkSemanticGenerationConfig`, a dict, or None.
        coarse_acoustics_config: `BarkCoarseGenerationConfig`, a dict, or None.
        fine_acoustics_config: `BarkFineGenerationConfig`, a dict, or None.
        sample_rate: Samples per second of the audio.
        codebook_size: Entries per codebook.
        compat: None, or `"hf"` to reproduce transformers where ours differs.
        extra: Keys of the file that no field knows.
    """

    model_type: ClassVar[str] = "bark"

    semantic_config: BarkSemanticGenerationConfig | None = None
    coarse_acoustics_config: BarkCoarseGenerationConfig | None = None
    fine_acoustics_config: BarkFineGenerationConfig | None = None
    sample_rate: int = 24_000
    codebook_size: int = 1024
    compat: str | None = None

    def __post_init__(self):
        for cls in (
            BarkSemanticGenerationConfig,
            BarkCoarseGenerationConfig,
            BarkFineGenerationConfig,
        ):
            value = getattr(self, cls.part)
            value = nested(cls, value, "BarkGenerationConfig", cls.part)
            object.__setattr__(self, cls.part, value)
        super().__post_init__()

    def _check(self) -> None:
        self._require_whole("sample_rate", "codebook_size")
        self._require(self.compat in (None, "hf"), "compat", 'None or "hf"')

    def voice_limits(self) -> dict[str, Any]:
        """What the model asks of a voice: arguments of `VoicePreset.validate`."""
        semantic, coarse = self.semantic_config, self.coarse_acoustics_config
        return {
            "semantic_vocab_size": semantic.semantic_vocab_size,
            "codebook_size": self.codebook_size,
            "num_coarse": coarse.n_coarse_codebooks,
            "num_fine": self.fine_acoustics_config.n_fine_codebooks,
            "frames_per_token": coarse.coarse_rate_hz / semantic.semantic_rate_hz,
        }

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON would hold them; `compat` only when it is set."""
        values = super().to_dict()
        if self.compat is None:
            del values["compat"]
        return values

    @classmethod
    def from_sub_model_configs(
        cls,
        semantic_config: BarkSemanticGenerationConfig,
        coarse_acoustics_config: BarkCoarseGenerationConfig,
        fine_acoustics_config: BarkFineGenerationConfig,
        **kwargs: Any,
    ) -> BarkGenerationConfig:
        """Joins three configurations into one; `kwargs` are further fields."""
        return cls(
            semantic_config=semantic_config,
            coarse_acoustics_config=coarse_acoustics_config,
            fine_acoustics_config=fine_acoustics_config,
            **kwargs,
        )
