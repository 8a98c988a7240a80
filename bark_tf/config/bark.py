"""Configurations of Bark's three transformers and of the whole model: `config.json`.

Source: Hugging Face transformers, model `bark`, 4.31 to 5.x.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from bark_tf.config.base import Config, frozen_config
from bark_tf.config.encodec import EncodecConfig
from bark_tf.config.fields import Positive, check_field


@frozen_config
class BarkSubModelConfig(Config):
    """The fields that the three transformers share.

    Args:
        block_size: Number of positions.
        input_vocab_size: Rows of each token embedding.
        output_vocab_size: Rows of each output head.
        num_layers: Transformer blocks.
        num_heads: Attention heads; must divide `hidden_size`.
        hidden_size: Width of the residual stream; the MLP is four times as wide.
        dropout: Rate of all dropout layers, in [0, 1).
        bias: Whether linear layers (and the causal models' norms) have biases.
        initializer_range: Standard deviation of initial kernels and embeddings.
        use_cache: Whether the causal models return their keys and values.
        extra: Keys of the file that are not fields.

    Raises:
        ValueError: If a value is out of range; the message names the field.
    """

    aliases: ClassVar[Mapping[str, str]] = {
        "window_size": "block_size",
        "vocab_size": "input_vocab_size",
        "num_hidden_layers": "num_layers",
        "num_attention_heads": "num_heads",
    }

    # A checkpoint of transformers holds a mask of its square for each layer.
    block_size: Annotated[int, "[1, 20_000]"] = 1024
    input_vocab_size: Annotated[int, "[1, 10_000_000]"] = 10_048
    output_vocab_size: Annotated[int, "[1, 10_000_000]"] = 10_048
    num_layers: Annotated[int, "[1, 200]"] = 12
    num_heads: Annotated[int, "[1, 1_000]"] = 12
    hidden_size: Annotated[int, "[1, 100_000]"] = 768
    dropout: Annotated[float, "[0, 1)"] = 0.0
    bias: bool = True
    initializer_range: Positive = 0.02
    use_cache: bool = True

    def _check(self) -> None:
        check_field(
            self,
            "num_heads",
            self.hidden_size % self.num_heads == 0,
            f"a divisor of hidden_size={self.hidden_size}",
        )

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_heads


@frozen_config
class BarkSemanticConfig(BarkSubModelConfig):
    """The text-to-semantic transformer; see `BarkSubModelConfig`."""

    model_type: ClassVar[str] = "semantic"
    part: ClassVar[str] = "semantic_config"


@frozen_config
class BarkCoarseConfig(BarkSubModelConfig):
    """The semantic-to-coarse transformer; see `BarkSubModelConfig`."""

    model_type: ClassVar[str] = "coarse_acoustics"
    part: ClassVar[str] = "coarse_acoustics_config"


@frozen_config
class BarkFineConfig(BarkSubModelConfig):
    """The coarse-to-fine transformer.

    Args:
        tie_word_embeddings: Whether head i is the embedding of codebook i + 1.
        n_codes_total: Codebooks that Bark writes.
        n_codes_given: Leading codebooks that have no head.

    See `BarkSubModelConfig` for the other fields.
    """

    model_type: ClassVar[str] = "fine_acoustics"
    part: ClassVar[str] = "fine_acoustics_config"

    tie_word_embeddings: bool = True
    n_codes_total: Annotated[int, "[2, 128]"] = 8
    n_codes_given: Annotated[int, "[1, 128]"] = 1

    def _check(self) -> None:
        super()._check()
        check_field(
            self,
            "n_codes_given",
            self.n_codes_given < self.n_codes_total,
            f"less than n_codes_total={self.n_codes_total}",
        )
        check_field(
            self,
            "output_vocab_size",
            not self.tie_word_embeddings
            or self.input_vocab_size == self.output_vocab_size,
            f"input_vocab_size={self.input_vocab_size} with tie_word_embeddings",
        )


@frozen_config
class BarkConfig(Config):
    """A whole Bark: three transformers and the codec.

    Args:
        semantic_config: `BarkSemanticConfig`, a dict of its fields, or None.
        coarse_acoustics_config: `BarkCoarseConfig`, a dict, or None.
        fine_acoustics_config: `BarkFineConfig`, a dict, or None.
        codec_config: `EncodecConfig`, a dict, or None.
        initializer_range: Unused, kept for the file; each part has its own.
        extra: Keys of the file that are not fields.

    Example:
        >>> BarkConfig.preset("bark-small").semantic_config.hidden_size
        768
    """

    model_type: ClassVar[str] = "bark"
    parts: ClassVar = (
        BarkSemanticConfig,
        BarkCoarseConfig,
        BarkFineConfig,
        EncodecConfig,
    )

    # None only on the way in: a part is never None afterwards.
    semantic_config: BarkSemanticConfig = None
    coarse_acoustics_config: BarkCoarseConfig = None
    fine_acoustics_config: BarkFineConfig = None
    codec_config: EncodecConfig = None
    initializer_range: Positive = 0.02

    @classmethod
    def from_sub_model_configs(cls, *configs: Config, **fields: Any) -> BarkConfig:
        """The constructor, under its name in transformers."""
        return cls(*configs, **fields)

    @classmethod
    def preset(cls, name: str) -> BarkConfig:
        """Returns a named architecture: `"bark"`, `"bark-small"` or `"tiny"`.

        Raises:
            ValueError: If there is no preset of that name.
        """
        if name not in PRESETS:
            raise ValueError(
                f"There is no preset {name!r}. Known: {', '.join(PRESETS)}"
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
    # The real vocabularies at toy width, for tests and first steps.
    "tiny": _bark(2, 2, 16, EncodecConfig(num_filters=4, hidden_size=16)),
}
