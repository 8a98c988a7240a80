"""How each stage generates, `generation_config.json`: sampling, tokens, windows.

Source: Hugging Face transformers, model `bark`, 4.31 to 5.x.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from bark_tf import tokens
from bark_tf.config.base import (
    GENERATION_CONFIG_NAME,
    Config,
    check_field,
    check_whole,
    frozen_config,
)


@frozen_config
class _GenerationConfig(Config):
    """A configuration in `generation_config.json`."""

    file_name: ClassVar[str] = GENERATION_CONFIG_NAME

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], **overrides: Any) -> Self:
        """See the base class; a null in the file means the default."""
        given = {key: value for key, value in values.items() if value is not None}
        return super().from_dict(given, **overrides)


@frozen_config
class SamplingConfig(_GenerationConfig):
    """How the semantic and the coarse stage choose the next token.

    Args:
        do_sample: Whether to sample; otherwise the likeliest token is taken.
        temperature: Divides the logits before sampling; 0 is greedy.
        top_k: Sample among this many likeliest tokens; 0 or None: among all.
        top_p: Sample among the likeliest tokens whose probabilities add up to this.
        repetition_penalty: Above 1, earlier tokens become less likely.
        renormalize_logits: Unused, kept for the file; logits are always
            renormalised.
    """

    do_sample: bool = False
    temperature: float | None = 1.0
    top_k: int | None = 50
    top_p: float | None = 1.0
    repetition_penalty: float | None = 1.0
    renormalize_logits: bool = True

    # None means the value that changes nothing.
    _neutral: ClassVar[Mapping[str, Any]] = {
        "do_sample": False,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "repetition_penalty": 1.0,
        "renormalize_logits": True,
    }

    def __post_init__(self):
        for name, value in self._neutral.items():
            if getattr(self, name) is None:
                self._set(name, value)
        super().__post_init__()

    def _check(self) -> None:
        super()._check()
        check_field(self, "temperature", self.temperature >= 0, "None or at least 0")
        check_whole(self, "top_k", minimum=0)
        check_field(self, "top_p", 0 < self.top_p <= 1, "None or in (0, 1]")
        check_field(
            self, "repetition_penalty", self.repetition_penalty > 0, "None or positive"
        )


@frozen_config
class BarkSemanticGenerationConfig(SamplingConfig):
    """The semantic stage: from text to semantic tokens.

    Args:
        eos_token_id: The token that ends a row.
        max_new_tokens: Most semantic tokens, including the end.
        min_new_tokens: Fewest semantic tokens before the end.
        text_encoding_offset: Added to the ids of the text tokenizer.
        text_pad_token: Pads the text to `max_input_semantic_length`.
        semantic_infer_token: The last token of the prompt.
        semantic_vocab_size: Number of semantic tokens.
        max_input_semantic_length: Positions of the text, and of the history.
        semantic_rate_hz: Semantic tokens per second.
        min_eos_p: A row ends when the probability of the end exceeds this. None: never
            for this reason.
        num_return_sequences: Outputs per text.

    See `SamplingConfig` for the other fields. `semantic_pad_token` always equals
    `eos_token_id`, as in transformers.
    """

    model_type: ClassVar[str] = "semantic"
    part: ClassVar[str] = "semantic_config"

    eos_token_id: int = tokens.SEMANTIC_PAD_TOKEN
    max_new_tokens: int = 768
    min_new_tokens: int | None = None
    text_encoding_offset: int = tokens.TEXT_ENCODING_OFFSET
    text_pad_token: int = tokens.TEXT_PAD_TOKEN
    semantic_infer_token: int = tokens.SEMANTIC_INFER_TOKEN
    semantic_vocab_size: int = tokens.SEMANTIC_VOCAB_SIZE
    max_input_semantic_length: int = 256
    semantic_rate_hz: float = tokens.SEMANTIC_RATE_HZ
    min_eos_p: float | None = None
    num_return_sequences: int = 1

    def _check(self) -> None:
        super()._check()
        check_whole(
            self,
            "semantic_vocab_size",
            "max_input_semantic_length",
            "num_return_sequences",
        )
        check_whole(self, "max_new_tokens", "text_encoding_offset", minimum=0)
        check_field(self, "semantic_rate_hz", self.semantic_rate_hz > 0, "positive")
        check_field(
            self,
            "min_eos_p",
            self.min_eos_p is None or self.min_eos_p > 0,
            "None or positive",
        )
        check_field(
            self,
            "min_new_tokens",
            self.min_new_tokens is None or self.min_new_tokens >= 0,
            "None or at least 0",
        )

    @property
    def semantic_pad_token(self) -> int:
        """The token that pads rows after their end."""
        return self.eos_token_id

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], **overrides: Any) -> Self:
        """See the base class; a `semantic_pad_token` in the file is ignored."""
        values = {k: v for k, v in values.items() if k != "semantic_pad_token"}
        return super().from_dict(values, **overrides)

    def to_dict(self) -> dict[str, Any]:
        """The fields and `semantic_pad_token`, as transformers writes them."""
        return {**super().to_dict(), "semantic_pad_token": self.semantic_pad_token}


@frozen_config
class BarkCoarseGenerationConfig(SamplingConfig):
    """The coarse stage: from semantic tokens to the first codebooks.

    Args:
        coarse_semantic_pad_token: Pads the semantic tokens of a window.
        coarse_rate_hz: Codec frames per second.
        n_coarse_codebooks: Codebooks that this stage generates.
        coarse_infer_token: Separates semantic from coarse tokens in a window.
        max_coarse_input_length: Semantic tokens in a window.
        max_coarse_history: Most earlier coarse tokens in a window.
        sliding_window_len: Coarse tokens generated per window.

    See `SamplingConfig` for the other fields.
    """

    model_type: ClassVar[str] = "coarse_acoustics"
    part: ClassVar[str] = "coarse_acoustics_config"

    coarse_semantic_pad_token: int = tokens.COARSE_SEMANTIC_PAD_TOKEN
    coarse_rate_hz: int | float = tokens.COARSE_RATE_HZ
    n_coarse_codebooks: int = tokens.N_COARSE_CODEBOOKS
    coarse_infer_token: int = tokens.COARSE_INFER_TOKEN
    max_coarse_input_length: int = 256
    max_coarse_history: int = 630
    sliding_window_len: int = 60

    def _check(self) -> None:
        super()._check()
        check_whole(
            self,
            "n_coarse_codebooks",
            "max_coarse_input_length",
            "max_coarse_history",
            "sliding_window_len",
        )
        check_field(self, "coarse_rate_hz", self.coarse_rate_hz > 0, "positive")


@frozen_config
class BarkFineGenerationConfig(_GenerationConfig):
    """The fine stage: from the first codebooks to all of them.

    Args:
        temperature: Divides the logits before sampling. None, 0 and 1 are greedy
            unless `do_sample` is True.
        do_sample: False is greedy, True samples, None leaves it to `temperature` as in
            transformers.
        max_fine_history_length: Earlier frames in a window.
        max_fine_input_length: Frames in a window.
        n_fine_codebooks: Codebooks after this stage.
    """

    model_type: ClassVar[str] = "fine_acoustics"
    part: ClassVar[str] = "fine_acoustics_config"

    temperature: float | None = 1.0
    do_sample: bool | None = None
    max_fine_history_length: int = 512
    max_fine_input_length: int = 1024
    n_fine_codebooks: int = tokens.N_FINE_CODEBOOKS

    def _check(self) -> None:
        super()._check()
        check_field(
            self,
            "temperature",
            self.temperature is None or self.temperature >= 0,
            "None or at least 0",
        )
        check_whole(
            self, "max_fine_input_length", "max_fine_history_length", "n_fine_codebooks"
        )
        check_field(
            self,
            "max_fine_history_length",
            self.max_fine_history_length < self.max_fine_input_length,
            f"less than max_fine_input_length={self.max_fine_input_length}",
        )

    @property
    def samples(self) -> bool:
        """Whether the stage samples."""
        if self.do_sample is None:
            return self.temperature not in (None, 0, 1)
        return self.do_sample and self.temperature != 0


@frozen_config
class BarkGenerationConfig(_GenerationConfig):
    """How a whole Bark generates.

    Args:
        semantic_config: `BarkSemanticGenerationConfig`, a dict, or None.
        coarse_acoustics_config: `BarkCoarseGenerationConfig`, a dict, or None.
        fine_acoustics_config: `BarkFineGenerationConfig`, a dict, or None.
        sample_rate: Samples per second of the audio.
        codebook_size: Entries per codebook.
        compat: `"hf"` reproduces transformers where this library differs, None does
            not.
        extra: Keys of the file that are not fields.
    """

    model_type: ClassVar[str] = "bark"
    parts: ClassVar = (
        BarkSemanticGenerationConfig,
        BarkCoarseGenerationConfig,
        BarkFineGenerationConfig,
    )

    # None only on the way in: a part is never None afterwards.
    semantic_config: BarkSemanticGenerationConfig = None
    coarse_acoustics_config: BarkCoarseGenerationConfig = None
    fine_acoustics_config: BarkFineGenerationConfig = None
    sample_rate: int = tokens.SAMPLE_RATE
    codebook_size: int = tokens.CODEBOOK_SIZE
    compat: str | None = None

    def _check(self) -> None:
        check_whole(self, "sample_rate", "codebook_size")
        check_field(self, "compat", self.compat in (None, "hf"), 'None or "hf"')

    def voice_limits(self) -> dict[str, Any]:
        """The model's limits on a voice, as arguments of `VoicePreset.validate`."""
        semantic, coarse = self.semantic_config, self.coarse_acoustics_config
        return {
            "semantic_vocab_size": semantic.semantic_vocab_size,
            "codebook_size": self.codebook_size,
            "num_coarse": coarse.n_coarse_codebooks,
            "num_fine": self.fine_acoustics_config.n_fine_codebooks,
            "frames_per_token": coarse.coarse_rate_hz / semantic.semantic_rate_hz,
        }

    def to_dict(self) -> dict[str, Any]:
        """See the base class; `compat` is left out when it is None."""
        values = super().to_dict()
        if self.compat is None:
            del values["compat"]
        return values

    @classmethod
    def from_sub_model_configs(
        cls, *configs: Config, **fields: Any
    ) -> BarkGenerationConfig:
        """The constructor, under its name in transformers."""
        return cls(*configs, **fields)
