"""How each stage generates, `generation_config.json`: sampling, tokens, windows.

Source: Hugging Face transformers, model `bark`, 4.31 to 5.x.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from bark_tf import tokens
from bark_tf.config.base import GENERATION_CONFIG_NAME, Config, frozen_config
from bark_tf.config.fields import Count, Positive, check_field

_TokenId = Annotated[int, "[0, 10_000_000]"]
_Length = Annotated[int, "[0, 1_000_000_000]"]
_Rate = Annotated[float, "[1, 100_000]"]
_Temperature = Annotated[float, "[0, 1_000_000]"]


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
    temperature: _Temperature | None = 1.0
    top_k: _Length | None = 50
    top_p: Annotated[float, "(0, 1]"] | None = 1.0
    repetition_penalty: Positive | None = 1.0
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

    eos_token_id: _TokenId = tokens.SEMANTIC_PAD_TOKEN
    max_new_tokens: _Length = 768
    min_new_tokens: _Length | None = None
    text_encoding_offset: _TokenId = tokens.TEXT_ENCODING_OFFSET
    text_pad_token: _TokenId = tokens.TEXT_PAD_TOKEN
    semantic_infer_token: _TokenId = tokens.SEMANTIC_INFER_TOKEN
    semantic_vocab_size: Annotated[int, "[1, 10_000_000]"] = tokens.SEMANTIC_VOCAB_SIZE
    max_input_semantic_length: Annotated[int, "[1, 1_000_000]"] = 256
    semantic_rate_hz: _Rate = tokens.SEMANTIC_RATE_HZ
    min_eos_p: Positive | None = None
    num_return_sequences: Count = 1

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

    coarse_semantic_pad_token: _TokenId = tokens.COARSE_SEMANTIC_PAD_TOKEN
    coarse_rate_hz: _Rate = tokens.COARSE_RATE_HZ
    n_coarse_codebooks: Annotated[int, "[1, 128]"] = tokens.N_COARSE_CODEBOOKS
    coarse_infer_token: _TokenId = tokens.COARSE_INFER_TOKEN
    max_coarse_input_length: Annotated[int, "[1, 1_000_000]"] = 256
    max_coarse_history: Annotated[int, "[1, 1_000_000]"] = 630
    sliding_window_len: Annotated[int, "[1, 1_000_000]"] = 60


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

    temperature: _Temperature | None = 1.0
    do_sample: bool | None = None
    max_fine_history_length: Annotated[int, "[1, 1_000_000]"] = 512
    max_fine_input_length: Annotated[int, "[1, 1_000_000]"] = 1024
    n_fine_codebooks: Annotated[int, "[1, 128]"] = tokens.N_FINE_CODEBOOKS

    def _check(self) -> None:
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
    sample_rate: Annotated[int, "[1, 1_000_000]"] = tokens.SAMPLE_RATE
    codebook_size: Annotated[int, "[1, 1_000_000]"] = tokens.CODEBOOK_SIZE
    compat: Literal["hf"] | None = None

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
