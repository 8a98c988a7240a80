"""Configurations of checkpoints that have none in Hugging Face's format.

Suno's files have a dict `model_args`; for Meta's codec, sizes come from the shapes of
the tensors.

Source: suno-ai/bark, `bark/generation.py::_load_model` (what `model_args` holds);
facebookresearch/encodec, `encodec/model.py`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from bark_tf.config import (
    BarkCoarseConfig,
    BarkCoarseGenerationConfig,
    BarkConfig,
    BarkFineConfig,
    BarkFineGenerationConfig,
    BarkGenerationConfig,
    BarkSemanticConfig,
    BarkSemanticGenerationConfig,
    BarkSubModelConfig,
    EncodecConfig,
)
from bark_tf.config.fields import brief, shown

from .rules import Shapes

# The parts of a whole Bark by the prefixes of its tensors.
PARTS: dict[str, type] = {
    "semantic": BarkSemanticConfig,
    "coarse_acoustics": BarkCoarseConfig,
    "fine_acoustics": BarkFineConfig,
    "codec_model": EncodecConfig,
}
# Suno's name -> ours.
_SUNO_FIELDS = {
    "n_layer": "num_layers",
    "n_head": "num_heads",
    "n_embd": "hidden_size",
    "block_size": "block_size",
    "bias": "bias",
    "dropout": "dropout",
    "input_vocab_size": "input_vocab_size",
    "output_vocab_size": "output_vocab_size",
}
_SUNO_FINE_FIELDS = {name: name for name in ("n_codes_total", "n_codes_given")}
_OPTIONAL = ("bias", "dropout")


def with_dtype(config: Any, dtype: str) -> Any:
    """The configuration with the dtype in which transformers loads the weights."""
    nested = {}
    if isinstance(config, BarkConfig):
        for cls in PARTS.values():
            nested[cls.part] = with_dtype(getattr(config, cls.part), dtype)
    extra = {key: value for key, value in config.extra.items() if key != "dtype"}
    extra["torch_dtype"] = dtype
    return dataclasses.replace(config, extra=extra, **nested)


def as_stored(config: Any, dtype: str) -> Any:
    """The configuration of weights that are stored in a dtype.

    One that names no dtype stays as it is: transformers then follows the weights.
    """
    named = {"dtype", "torch_dtype"} & config.extra.keys()
    return with_dtype(config, dtype) if named else config


def published_generation_config() -> BarkGenerationConfig:
    """The generation configuration of the published checkpoints, which sample.

    Source: `generation_config.json` of `suno/bark` and `suno/bark-small`.
    """
    sampling = {"do_sample": True, "temperature": 0.7, "top_k": 50}
    return BarkGenerationConfig(
        semantic_config=BarkSemanticGenerationConfig(**sampling),
        coarse_acoustics_config=BarkCoarseGenerationConfig(**sampling),
        fine_acoustics_config=BarkFineGenerationConfig(temperature=0.5),
    )


# === Suno's transformers ===


def suno_part(shapes: Shapes, stem: str) -> str:
    """Determines which of the three transformers one of suno's files holds.

    Args:
        shapes: Name -> shape of its tensors, without `_orig_mod.`.
        stem: The file's name without its suffix, such as `"text_2"`.

    Returns:
        `"semantic"`, `"coarse_acoustics"` or `"fine_acoustics"`, decided by the
        vocabulary sizes if they are the published ones, else by the file's name.

    Raises:
        ValueError: If neither decides.
    """
    if "transformer.wtes.0.weight" in shapes:
        return "fine_acoustics"
    rows = [
        shapes.get(name, ())[:1]
        for name in ("transformer.wte.weight", "lm_head.weight")
    ]
    published = BarkConfig.preset("bark")
    for config in (published.semantic_config, published.coarse_acoustics_config):
        if rows == [(config.input_vocab_size,), (config.output_vocab_size,)]:
            return config.model_type
    for beginning, part in (("text", "semantic"), ("coarse", "coarse_acoustics")):
        if stem.startswith(beginning):
            return part
    raise ValueError(
        "Expected a file named text* or coarse*, because only the published "
        f"vocabularies show the stage. Received: {stem!r} with vocabularies of {rows}"
    )


def from_model_args(
    cls: type[BarkSubModelConfig], model_args: Mapping[str, Any], **more: Any
) -> BarkSubModelConfig:
    """Turns suno's configuration of a transformer into ours.

    Args:
        cls: `BarkSemanticConfig`, `BarkCoarseConfig` or `BarkFineConfig`.
        model_args: Suno's, with one or two vocabulary sizes; other keys are ignored.
        **more: Further fields, which suno does not have.

    Returns:
        The configuration. `rules.fit` checks it against the tensors.

    Raises:
        ValueError: If a value is missing, not a number, or out of range.

    Example:
        >>> config = BarkConfig.preset("bark").semantic_config
        >>> from_model_args(type(config), to_model_args(config)) == config
        True
    """
    fields = _fields_of(cls)
    given = dict(model_args)
    for name in ("input_vocab_size", "output_vocab_size"):
        if name not in given and "vocab_size" in given:
            given[name] = given["vocab_size"]
    missing = [name for name in fields if name not in given and name not in _OPTIONAL]
    if missing:
        raise ValueError(
            f"Expected model_args with {', '.join(missing)}. "
            f"Received: {brief(', '.join(sorted(map(str, model_args))) or 'nothing')}"
        )
    values = {}
    for theirs, ours in fields.items():
        if theirs in given:
            values[ours] = given[theirs]
            if not isinstance(given[theirs], int | float):
                raise ValueError(
                    "Expected model_args of numbers. "
                    f"Received: {theirs}={shown(given[theirs])}"
                )
    return cls(**values | more)


def to_model_args(config: BarkSubModelConfig) -> dict[str, Any]:
    """Turns our configuration of a transformer into suno's.

    Args:
        config: Configuration of one of the three transformers.

    Returns:
        The arguments of suno's `GPTConfig` or `FineGPTConfig`.
    """
    fields = _fields_of(type(config))
    return {theirs: getattr(config, ours) for theirs, ours in fields.items()}


def _fields_of(cls: type[BarkSubModelConfig]) -> dict[str, str]:
    return _SUNO_FIELDS | (_SUNO_FINE_FIELDS if cls is BarkFineConfig else {})


# === Meta's codec ===


def codec_config(shapes: Shapes) -> EncodecConfig:
    """Infers the configuration of one of Meta's 24 kHz codecs from shapes.

    Args:
        shapes: Canonical name -> shape, in Meta's names.

    Returns:
        `EncodecConfig()` for the published file. What shapes do not show (bandwidths,
        padding, dilation, ...) is taken from the 24 kHz model.

    Raises:
        ValueError: If the shapes are not those of such a codec.
    """
    try:
        config = _codec_config(shapes)
    except (KeyError, IndexError, ZeroDivisionError) as error:
        raise ValueError(
            "Expected the weights of EnCodec for 24 kHz: convolutions with weight norm "
            f"and codebooks. Received: {len(shapes)} other tensors"
        ) from error
    codebooks = len(_numbers(shapes, r"quantizer\.vq\.layers\.(\d+)\._codebook\.embed"))
    if config.num_quantizers != codebooks:
        raise ValueError(
            f"Expected {config.num_quantizers} codebooks, as in EnCodec for 24 kHz "
            f"with ratios {config.upsampling_ratios}. Received: {codebooks}; pass the "
            "configuration"
        )
    return config


def _codec_config(shapes: Shapes) -> EncodecConfig:
    convs = _numbers(shapes, r"encoder\.model\.(\d+)\.conv\.conv\.weight_v")
    units = _numbers(shapes, r"encoder\.model\.(\d+)\.block\.1\.conv\.conv\.weight_v")
    kernels = [shapes[f"encoder.model.{n}.conv.conv.weight_v"] for n in convs]
    first, downsampling, last = kernels[0], kernels[1:-1], kernels[-1]
    narrow = shapes[f"encoder.model.{units[0]}.block.1.conv.conv.weight_v"]
    entries = shapes["quantizer.vq.layers.0._codebook.embed"]
    shortcut = f"encoder.model.{units[0]}.shortcut.conv.conv.weight_v"
    return EncodecConfig(
        audio_channels=first[1],
        num_filters=first[0],
        kernel_size=first[2],
        # Strides are half the kernels; the encoder has the decoder's in reverse.
        upsampling_ratios=tuple(shape[2] // 2 for shape in reversed(downsampling)),
        num_residual_layers=len(units) // len(downsampling),
        compress=first[0] // narrow[0],
        residual_kernel_size=narrow[2],
        use_conv_shortcut=shortcut in shapes,
        num_lstm_layers=len(_numbers(shapes, r"encoder.*\.lstm\.weight_ih_l(\d+)")),
        hidden_size=last[0],
        last_kernel_size=last[2],
        codebook_size=entries[0],
        codebook_dim=entries[1],
    )


def _numbers(shapes: Shapes, pattern: str) -> list[int]:
    """The numbers in the names that match, sorted."""
    found = (re.fullmatch(pattern, name) for name in shapes)
    return sorted(int(match[1]) for match in found if match)
