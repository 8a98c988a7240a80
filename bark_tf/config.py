"""Configurations: what `config.json` and `generation_config.json` of a Bark hold.

Every class is a frozen dataclass with the field names and defaults of Hugging Face's
classes, so that a file written by either side reads on the other. Keys of a file that
no field knows are kept in `extra` and written back.

Source: Hugging Face transformers, models `bark` and `encodec`, 4.31 to 5.x.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from bark_tf import hub

CONFIG_NAME = "config.json"
GENERATION_CONFIG_NAME = "generation_config.json"


def _plain(value: Any) -> Any:
    """Turns nested configs and tuples into what JSON holds."""
    if isinstance(value, _Config):
        return value.to_dict()
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value


@dataclasses.dataclass(frozen=True)
class _Config:
    """What every configuration can do: dictionaries, files, checks, copies."""

    model_type: ClassVar[str] = ""
    aliases: ClassVar[Mapping[str, str]] = {}
    file_name: ClassVar[str] = CONFIG_NAME

    extra: Mapping[str, Any] = dataclasses.field(
        default_factory=dict, kw_only=True, repr=False, compare=False
    )

    def __post_init__(self):
        self._check()

    def _check(self) -> None:
        """Raises ValueError for values that no model can have."""

    def _require(self, claim: bool, name: str, expected: str) -> None:
        if not claim:
            raise ValueError(
                f"{type(self).__name__}.{name} must be {expected}. "
                f"Received: {name}={getattr(self, name)!r}"
            )

    def _require_whole(self, *names: str, minimum: int = 1) -> None:
        for name in names:
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            self._require(
                whole and value >= minimum,
                name,
                f"a whole number of at least {minimum}",
            )

    @classmethod
    def field_names(cls) -> tuple[str, ...]:
        """The names of the fields, without `extra`."""
        return tuple(f.name for f in dataclasses.fields(cls) if f.name != "extra")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], **overrides: Any):
        """Builds the configuration from a dictionary such as a parsed JSON file.

        Args:
            values: Field values; other keys are kept in `extra`.
            **overrides: Fields that win over `values`. A name that is not a field is
                refused.

        Returns:
            The configuration.

        Raises:
            ValueError: For a value out of range or an unknown name in `overrides`.
        """
        names = cls.field_names()
        overrides = {
            cls.aliases.get(key, key): value for key, value in overrides.items()
        }
        unknown = [key for key in overrides if key not in names]
        if unknown:
            raise ValueError(
                f"{cls.__name__} has no field {unknown[0]!r}. "
                f"It has: {', '.join(names)}"
            )
        known, extra = {}, {}
        for key, value in values.items():
            name = cls.aliases.get(key, key)
            if name in names:
                known[name] = tuple(value) if isinstance(value, list) else value
            elif key not in ("model_type", "extra"):
                extra[key] = value
        return cls(**{**known, **overrides}, extra=extra)

    def to_dict(self) -> dict[str, Any]:
        """The fields, the kept extra keys and `model_type`, as JSON would hold them."""
        values = {name: _plain(getattr(self, name)) for name in self.field_names()}
        return {**_plain(self.extra), **values, "model_type": self.model_type}

    def replace(self, **changes: Any):
        """A copy with some fields changed; unknown names are a ValueError."""
        unknown = [name for name in changes if name not in self.field_names()]
        if unknown:
            raise ValueError(
                f"{type(self).__name__} has no field {unknown[0]!r}. "
                f"It has: {', '.join(self.field_names())}"
            )
        return dataclasses.replace(self, **changes)

    @classmethod
    def _select(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Picks this configuration's own block out of a file's content."""
        return values

    @classmethod
    def from_json_file(cls, path: str | os.PathLike, **overrides: Any):
        """Reads the configuration from a JSON file.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is not a JSON object or that of another kind of
                model, or a value is out of range.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not valid JSON: {error}") from error
        if not isinstance(values, dict):
            raise ValueError(
                f"{path} must hold a JSON object. Received: {type(values).__name__}"
            )
        values = cls._select(values)
        kind = values.get("model_type") or cls.model_type
        if cls.file_name == CONFIG_NAME and kind != cls.model_type:
            raise ValueError(
                f"{path} must have the model_type {cls.model_type!r}. "
                f"Received: {kind!r}"
            )
        return cls.from_dict(values, **overrides)

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | os.PathLike,
        *,
        revision: str | None = None,
        cache_dir: str | os.PathLike | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        **overrides: Any,
    ):
        """Reads the configuration of a checkpoint directory or hub repository.

        Args:
            path_or_id: A directory, or a repository id such as `"suno/bark-small"`.
            revision: Branch, tag or commit of the repository.
            cache_dir: Where downloads are kept; the hub's own cache by default.
            token: Access token for private repositories.
            local_files_only: Never ask the network.
            **overrides: Fields to change.

        Returns:
            The configuration. A sub-model's class finds its own block in the file of
            a whole Bark.

        Raises:
            FileNotFoundError: If the file is missing.
            ValueError: If the file holds something else.
        """
        path = hub.find_file(
            path_or_id,
            cls.file_name,
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
        )
        return cls.from_json_file(path, **overrides)

    def save_pretrained(self, directory: str | os.PathLike) -> None:
        """Writes the JSON file into `directory`, which is made if missing."""
        Path(directory).mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"
        with hub.atomic_write(Path(directory) / self.file_name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _nested(cls: type[_Config], value: Any, owner: str, name: str) -> _Config:
    """Accepts None, a dictionary or a configuration for a nested block."""
    if value is None:
        return cls()
    if isinstance(value, cls):
        return value
    if isinstance(value, Mapping):
        return cls.from_dict(value)
    raise ValueError(
        f"{owner}.{name} must be None, a dict or a {cls.__name__}. "
        f"Received: {type(value).__name__}"
    )


# === Architecture ===


@dataclasses.dataclass(frozen=True)
class BarkSubModelConfig(_Config):
    """What the three transformers share.

    Args:
        block_size: Number of positions.
        input_vocab_size: Rows of the embedding(s).
        output_vocab_size: Rows of the output head(s).
        num_layers: Transformer blocks.
        num_heads: Attention heads; divides `hidden_size`.
        hidden_size: Width of the residual stream; the MLP is four times as wide.
        dropout: Rate of every dropout, in [0, 1).
        bias: Whether linear layers (and the causal models' norms) have biases.
        initializer_range: Standard deviation of initial kernels and embeddings.
        use_cache: Whether the causal models return their keys and values.
        extra: Keys of the file that no field knows.

    Raises:
        ValueError: If a value is out of range; the message names the field.
    """

    # The key of the nested block in a whole Bark's config.json.
    part: ClassVar[str] = ""
    aliases: ClassVar[Mapping[str, str]] = {
        "window_size": "block_size",
        "vocab_size": "input_vocab_size",
        "num_hidden_layers": "num_layers",
        "num_attention_heads": "num_heads",
    }

    block_size: int = 1024
    input_vocab_size: int = 10_048
    output_vocab_size: int = 10_048
    num_layers: int = 12
    num_heads: int = 12
    hidden_size: int = 768
    dropout: float = 0.0
    bias: bool = True
    initializer_range: float = 0.02
    use_cache: bool = True

    def _check(self) -> None:
        self._require_whole(
            "block_size",
            "input_vocab_size",
            "output_vocab_size",
            "num_layers",
            "num_heads",
            "hidden_size",
        )
        self._require(
            self.hidden_size % self.num_heads == 0,
            "num_heads",
            f"a divisor of hidden_size={self.hidden_size}",
        )
        self._require(0 <= self.dropout < 1, "dropout", "in [0, 1)")
        self._require(self.initializer_range > 0, "initializer_range", "positive")

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_heads

    @classmethod
    def _select(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        return values.get(cls.part) or values if cls.part in values else values


@dataclasses.dataclass(frozen=True)
class BarkSemanticConfig(BarkSubModelConfig):
    """The text-to-semantic transformer; see `BarkSubModelConfig`."""

    model_type: ClassVar[str] = "semantic"
    part: ClassVar[str] = "semantic_config"


@dataclasses.dataclass(frozen=True)
class BarkCoarseConfig(BarkSubModelConfig):
    """The semantic-to-coarse transformer; see `BarkSubModelConfig`."""

    model_type: ClassVar[str] = "coarse_acoustics"
    part: ClassVar[str] = "coarse_acoustics_config"


@dataclasses.dataclass(frozen=True)
class BarkFineConfig(BarkSubModelConfig):
    """The coarse-to-fine transformer.

    Args:
        tie_word_embeddings: Whether head i is the embedding of codebook i + 1.
        n_codes_total: Codebooks of the codec that Bark speaks.
        n_codes_given: Leading codebooks without a head.

    See `BarkSubModelConfig` for the other fields.
    """

    model_type: ClassVar[str] = "fine_acoustics"
    part: ClassVar[str] = "fine_acoustics_config"

    tie_word_embeddings: bool = True
    n_codes_total: int = 8
    n_codes_given: int = 1

    def _check(self) -> None:
        super()._check()
        self._require_whole("n_codes_total", "n_codes_given")
        self._require(
            self.n_codes_given < self.n_codes_total,
            "n_codes_given",
            f"less than n_codes_total={self.n_codes_total}",
        )
        self._require(
            not self.tie_word_embeddings
            or self.input_vocab_size == self.output_vocab_size,
            "output_vocab_size",
            f"input_vocab_size={self.input_vocab_size} with tie_word_embeddings",
        )


@dataclasses.dataclass(frozen=True)
class EncodecConfig(_Config):
    """The EnCodec codec; the defaults are the 24 kHz model that Bark uses.

    Args:
        target_bandwidths: Bit rates in kbit/s that the codec was trained for.
        sampling_rate: Samples per second.
        audio_channels: 1 or 2.
        normalize: Whether audio is scaled to unit level before encoding.
        chunk_length_s: Seconds per chunk, or None for the whole audio at once.
        overlap: Share of a chunk that the next one repeats.
        hidden_size: Channels between encoder, quantizer and decoder.
        num_filters: Channels of the outermost convolution.
        num_residual_layers: Residual units per scale.
        upsampling_ratios: Strides of the decoder; reversed in the encoder.
        norm_type: `"weight_norm"` or `"time_group_norm"`.
        kernel_size: Kernel of the first convolution.
        last_kernel_size: Kernel of the last convolution.
        residual_kernel_size: Kernel of the residual units.
        dilation_growth_rate: Dilation of residual unit j is this to the power j.
        use_causal_conv: Whether padding is only to the left.
        pad_mode: Padding of the convolutions.
        compress: Narrowing inside residual units.
        num_lstm_layers: Stacked LSTMs between convolutions and latent.
        trim_right_ratio: Share of a transposed convolution's trim on the right.
        codebook_size: Entries per codebook.
        codebook_dim: Width of an entry; None means `hidden_size`.
        use_conv_shortcut: Whether residual units have a convolution as shortcut.
        extra: Keys of the file that no field knows.

    Raises:
        ValueError: If a value is out of range; the message names the field.
    """

    model_type: ClassVar[str] = "encodec"
    part: ClassVar[str] = "codec_config"

    target_bandwidths: tuple[float, ...] = (1.5, 3.0, 6.0, 12.0, 24.0)
    sampling_rate: int = 24_000
    audio_channels: int = 1
    normalize: bool = False
    chunk_length_s: float | None = None
    overlap: float | None = None
    hidden_size: int = 128
    num_filters: int = 32
    num_residual_layers: int = 1
    upsampling_ratios: tuple[int, ...] = (8, 5, 4, 2)
    norm_type: str = "weight_norm"
    kernel_size: int = 7
    last_kernel_size: int = 7
    residual_kernel_size: int = 3
    dilation_growth_rate: int = 2
    use_causal_conv: bool = True
    pad_mode: str = "reflect"
    compress: int = 2
    num_lstm_layers: int = 2
    trim_right_ratio: float = 1.0
    codebook_size: int = 1024
    codebook_dim: int | None = None
    use_conv_shortcut: bool = True

    def __post_init__(self):
        for name in ("target_bandwidths", "upsampling_ratios"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.codebook_dim is None:
            object.__setattr__(self, "codebook_dim", self.hidden_size)
        super().__post_init__()

    def _check(self) -> None:
        self._require_whole(
            "sampling_rate",
            "hidden_size",
            "num_filters",
            "num_residual_layers",
            "kernel_size",
            "last_kernel_size",
            "residual_kernel_size",
            "dilation_growth_rate",
            "compress",
            "codebook_size",
            "codebook_dim",
        )
        self._require_whole("num_lstm_layers", minimum=0)
        self._require(self.audio_channels in (1, 2), "audio_channels", "1 or 2")
        self._require(
            self.norm_type in ("weight_norm", "time_group_norm"),
            "norm_type",
            '"weight_norm" or "time_group_norm"',
        )
        self._require(
            len(self.upsampling_ratios) > 0 and min(self.upsampling_ratios) >= 1,
            "upsampling_ratios",
            "whole numbers of at least 1",
        )
        self._require(
            len(self.target_bandwidths) > 0 and min(self.target_bandwidths) > 0,
            "target_bandwidths",
            "positive bit rates in kbit/s",
        )
        self._require(
            self.pad_mode in ("reflect", "constant", "edge", "replicate"),
            "pad_mode",
            '"reflect", "constant", "edge" or "replicate"',
        )
        self._require(0 <= self.trim_right_ratio <= 1, "trim_right_ratio", "in [0, 1]")
        self._require(
            self.codebook_dim == self.hidden_size,
            "codebook_dim",
            f"hidden_size={self.hidden_size}",
        )
        self._require(
            self.num_filters >= self.compress,
            "num_filters",
            f"at least compress={self.compress}",
        )
        self._require(
            self.use_causal_conv or self.trim_right_ratio == 1,
            "trim_right_ratio",
            "1.0 when use_causal_conv is False",
        )

    @property
    def hop_length(self) -> int:
        """Samples per frame: 8 * 5 * 4 * 2 = 320 by default."""
        return math.prod(self.upsampling_ratios)

    @property
    def frame_rate(self) -> int:
        """Frames per second: 75 by default."""
        return math.ceil(self.sampling_rate / self.hop_length)

    @property
    def codebook_nbits(self) -> int:
        """Bits per code: 10 by default."""
        return math.ceil(math.log2(self.codebook_size))

    @property
    def num_quantizers(self) -> int:
        """Codebooks at the highest bandwidth: 32 by default."""
        bits_per_second = 1000 * self.target_bandwidths[-1]
        return max(1, int(bits_per_second // (self.frame_rate * self.codebook_nbits)))

    def num_codebooks(self, bandwidth: float | None = None) -> int:
        """Codebooks that fit a bandwidth in kbit/s: 8 at 6.0, the one Bark uses.

        Raises:
            ValueError: If the codec was not trained for `bandwidth`.
        """
        bandwidth = self.target_bandwidths[0] if bandwidth is None else bandwidth
        if bandwidth not in self.target_bandwidths:
            raise ValueError(
                f"bandwidth must be one of {self.target_bandwidths} kbit/s. "
                f"Received: bandwidth={bandwidth}"
            )
        bits_per_frame = math.log2(self.codebook_size) * self.frame_rate
        fitting = max(1, int(bandwidth * 1000 // bits_per_frame))
        return min(fitting, self.num_quantizers)

    @classmethod
    def _select(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        return values.get(cls.part) or values if cls.part in values else values


@dataclasses.dataclass(frozen=True)
class BarkConfig(_Config):
    """A whole Bark: three transformers and the codec.

    Args:
        semantic_config: `BarkSemanticConfig`, a dict of its fields, or None.
        coarse_acoustics_config: `BarkCoarseConfig`, a dict, or None.
        fine_acoustics_config: `BarkFineConfig`, a dict, or None.
        codec_config: `EncodecConfig`, a dict, or None.
        initializer_range: Kept for the file; every part has its own.
        extra: Keys of the file that no field knows.

    Example:
        >>> BarkConfig.preset("bark-small").semantic_config.hidden_size
        768
    """

    model_type: ClassVar[str] = "bark"

    semantic_config: BarkSemanticConfig | None = None
    coarse_acoustics_config: BarkCoarseConfig | None = None
    fine_acoustics_config: BarkFineConfig | None = None
    codec_config: EncodecConfig | None = None
    initializer_range: float = 0.02

    def __post_init__(self):
        for cls in (
            BarkSemanticConfig,
            BarkCoarseConfig,
            BarkFineConfig,
            EncodecConfig,
        ):
            value = _nested(cls, getattr(self, cls.part), "BarkConfig", cls.part)
            object.__setattr__(self, cls.part, value)
        super().__post_init__()

    def _check(self) -> None:
        self._require(self.initializer_range > 0, "initializer_range", "positive")

    @classmethod
    def from_sub_model_configs(
        cls,
        semantic_config: BarkSemanticConfig,
        coarse_acoustics_config: BarkCoarseConfig,
        fine_acoustics_config: BarkFineConfig,
        codec_config: EncodecConfig,
        **kwargs: Any,
    ) -> BarkConfig:
        """Joins four configurations into one; `kwargs` are further fields."""
        return cls(
            semantic_config=semantic_config,
            coarse_acoustics_config=coarse_acoustics_config,
            fine_acoustics_config=fine_acoustics_config,
            codec_config=codec_config,
            **kwargs,
        )

    @classmethod
    def preset(cls, name: str) -> BarkConfig:
        """A named architecture: `"bark"`, `"bark-small"` or `"tiny"`.

        Raises:
            ValueError: For another name.
        """
        if name not in PRESETS:
            raise ValueError(
                f"There is no preset {name!r}. There are: {', '.join(PRESETS)}"
            )
        return PRESETS[name]


def _bark(num_layers: int, num_heads: int, hidden_size: int, codec: EncodecConfig):
    shared = {
        "num_layers": num_layers,
        "num_heads": num_heads,
        "hidden_size": hidden_size,
        "bias": False,
    }
    return BarkConfig(
        semantic_config=BarkSemanticConfig(input_vocab_size=129_600, **shared),
        coarse_acoustics_config=BarkCoarseConfig(
            input_vocab_size=12_096, output_vocab_size=12_096, **shared
        ),
        fine_acoustics_config=BarkFineConfig(
            input_vocab_size=1_056, output_vocab_size=1_056, **shared
        ),
        codec_config=codec,
    )


PRESETS: Mapping[str, BarkConfig] = {
    "bark": _bark(24, 16, 1024, EncodecConfig()),
    "bark-small": _bark(12, 12, 768, EncodecConfig()),
    # The real vocabularies at toy width: what tests and first steps need.
    "tiny": _bark(2, 2, 16, EncodecConfig(num_filters=4, hidden_size=16)),
}


@dataclasses.dataclass(frozen=True)
class HubertConfig(_Config):
    """HuBERT, which hears what is spoken; the defaults are HuBERT base.

    Only base's kind exists: one group norm in front, norms behind each half of a
    layer.

    Args:
        hidden_size: Width of the residual stream.
        num_hidden_layers: Transformer layers.
        num_attention_heads: Attention heads; divides `hidden_size`.
        intermediate_size: Width inside the MLPs.
        hidden_act: `"gelu"`.
        layer_norm_eps: Added to the variances of the layer norms.
        initializer_range: Standard deviation of initial kernels.
        conv_dim: Channels of each convolution of the front end.
        conv_stride: Their strides, 320 samples in all.
        conv_kernel: Their taps.
        conv_bias: False.
        feat_extract_norm: `"group"`, after the first convolution.
        feat_extract_activation: `"gelu"`.
        feat_proj_layer_norm: True.
        num_conv_pos_embeddings: Taps of the convolution that tells positions.
        num_conv_pos_embedding_groups: Its groups; divides `hidden_size`.
        conv_pos_batch_norm: False; that convolution has weight norm.
        do_stable_layer_norm: False.
        mask_time_prob: Share of frames that its training hid. Nothing is hidden here,
            but with 0 in both the checkpoint has no mask embedding.
        mask_feature_prob: The same for channels.
        extra: Keys of the file that no field knows.

    Raises:
        ValueError: If a value is out of range or of HuBERT large's kind; the message
            names the field.
    """

    model_type: ClassVar[str] = "hubert"

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    conv_dim: tuple[int, ...] = (512,) * 7
    conv_stride: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    conv_kernel: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_bias: bool = False
    feat_extract_norm: str = "group"
    feat_extract_activation: str = "gelu"
    feat_proj_layer_norm: bool = True
    num_conv_pos_embeddings: int = 128
    num_conv_pos_embedding_groups: int = 16
    conv_pos_batch_norm: bool = False
    do_stable_layer_norm: bool = False
    mask_time_prob: float = 0.05
    mask_feature_prob: float = 0.0

    def __post_init__(self):
        for name in ("conv_dim", "conv_stride", "conv_kernel"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        super().__post_init__()

    def _check(self) -> None:
        self._require_whole(
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
            "num_conv_pos_embeddings",
            "num_conv_pos_embedding_groups",
        )
        for name in ("num_attention_heads", "num_conv_pos_embedding_groups"):
            is_divisor = self.hidden_size % getattr(self, name) == 0
            self._require(
                is_divisor, name, f"a divisor of hidden_size={self.hidden_size}"
            )
        for name in ("conv_dim", "conv_stride", "conv_kernel"):
            values = getattr(self, name)
            self._require(
                len(values) == len(self.conv_dim) > 0
                and all(type(value) is int and value >= 1 for value in values),
                name,
                "as many whole numbers of at least 1 as there are convolutions",
            )
        for name in ("layer_norm_eps", "initializer_range"):
            self._require(getattr(self, name) > 0, name, "positive")
        for name in ("mask_time_prob", "mask_feature_prob"):
            value = getattr(self, name)
            is_share = isinstance(value, int | float) and 0 <= value <= 1
            self._require(is_share, name, "in [0, 1]")
        for field in dataclasses.fields(self):
            is_fixed = field.type in ("bool", "str")
            value = getattr(self, field.name)
            self._require(
                not is_fixed or value == field.default,
                field.name,
                f"{field.default!r} as in HuBERT base",
            )

    @property
    def hop_length(self) -> int:
        """Samples from one frame to the next: 320 by default."""
        return math.prod(self.conv_stride)

    @property
    def receptive_field(self) -> int:
        """Samples that a frame is made of: 400 by default."""
        field = 1
        for kernel, stride in zip(
            reversed(self.conv_kernel), reversed(self.conv_stride), strict=True
        ):
            field = (field - 1) * stride + kernel
        return field

    @property
    def has_mask_embedding(self) -> bool:
        """Whether a checkpoint holds what stood for hidden frames in training."""
        return self.mask_time_prob > 0 or self.mask_feature_prob > 0


@dataclasses.dataclass(frozen=True)
class HubertQuantizerConfig(_Config):
    """The network that turns HuBERT's frames into Bark's semantic tokens.

    Args:
        input_size: Width of a frame.
        hidden_size: Width of the LSTMs.
        num_layers: Stacked LSTMs.
        intermediate_size: Width of a further linear layer before the last one:
            version 1 of the community's quantizers has it, version 0 has 0.
        output_size: Semantic tokens that it knows.
        extra: Keys of the file that no field knows.

    Raises:
        ValueError: If a value is out of range; the message names the field.
    """

    model_type: ClassVar[str] = "hubert_quantizer"

    input_size: int = 768
    hidden_size: int = 1024
    num_layers: int = 2
    intermediate_size: int = 0
    output_size: int = 10_000

    def _check(self) -> None:
        self._require_whole("input_size", "hidden_size", "num_layers", "output_size")
        self._require_whole("intermediate_size", minimum=0)


# === Generation ===


@dataclasses.dataclass(frozen=True)
class _GenerationConfig(_Config):
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
            value = _nested(cls, value, "BarkGenerationConfig", cls.part)
            object.__setattr__(self, cls.part, value)
        super().__post_init__()

    def _check(self) -> None:
        self._require_whole("sample_rate", "codebook_size")
        self._require(self.compat in (None, "hf"), "compat", 'None or "hf"')

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
