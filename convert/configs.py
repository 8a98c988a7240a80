"""Configurations of checkpoints that bring none, or one in other words.

Suno's files hold a dict `model_args`; Meta's codec only tensors, whose shapes tell its
sizes.

Source: suno-ai/bark, `bark/generation.py::_load_model` (what `model_args` holds);
facebookresearch/encodec, `encodec/model.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from bark_tf.config import (
    BarkCoarseGenerationConfig,
    BarkConfig,
    BarkFineConfig,
    BarkFineGenerationConfig,
    BarkGenerationConfig,
    BarkSemanticGenerationConfig,
    BarkSubModelConfig,
    EncodecConfig,
)

Shapes = Mapping[str, tuple[int, ...]]

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
_SUNO_FINE_FIELDS = {
    "n_codes_total": "n_codes_total",
    "n_codes_given": "n_codes_given",
}
_OPTIONAL = ("bias", "dropout")


def published_generation_config() -> BarkGenerationConfig:
    """How the published checkpoints generate: they sample, unlike the defaults.

    Source: `generation_config.json` of `suno/bark` and `suno/bark-small`.
    """
    sampling = {"do_sample": True, "temperature": 0.7, "top_k": 50}
    return BarkGenerationConfig(
        semantic_config=BarkSemanticGenerationConfig(**sampling),
        coarse_acoustics_config=BarkCoarseGenerationConfig(**sampling),
        fine_acoustics_config=BarkFineGenerationConfig(temperature=0.5),
    )


# Suno's transformers ------------------------------------------------------------------


def suno_part(shapes: Shapes, stem: str) -> str:
    """Tells which of the three transformers one of suno's files holds.

    Args:
        shapes: Name -> shape of its tensors, without `_orig_mod.`.
        stem: The file's name without its ending, such as `"text_2"`.

    Returns:
        `"semantic"`, `"coarse_acoustics"` or `"fine_acoustics"`. Published
        vocabularies decide; for others the file's name does.

    Raises:
        ValueError: If neither tells.
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
        "Expected a file named text* or coarse*, as vocabularies other than the "
        f"published ones do not tell the stage. Received: {stem!r} with vocabularies "
        f"of {rows}"
    )


def from_model_args(
    cls: type[BarkSubModelConfig], model_args: Mapping[str, Any], **more: Any
) -> BarkSubModelConfig:
    """A transformer's configuration from suno's.

    Args:
        cls: `BarkSemanticConfig`, `BarkCoarseConfig` or `BarkFineConfig`.
        model_args: Suno's, with one `vocab_size` or two. Other keys are ignored.
        **more: Fields that suno does not have.

    Returns:
        The configuration. Whether it fits the tensors is `rules.fit`'s to say.

    Raises:
        ValueError: If a value is missing, no number, or out of range.

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
            f"Received: {', '.join(sorted(map(str, model_args))) or 'nothing'}"
        )
    values = {}
    for theirs, ours in fields.items():
        if theirs in given:
            values[ours] = given[theirs]
            if not isinstance(given[theirs], int | float):
                raise ValueError(
                    "Expected model_args of numbers. "
                    f"Received: {theirs}={given[theirs]!r}"
                )
    return cls(**values | more)


def to_model_args(config: BarkSubModelConfig) -> dict[str, Any]:
    """A transformer's configuration in suno's words: the inverse of `from_model_args`.

    Args:
        config: Of one of the three transformers.

    Returns:
        What suno's `GPTConfig` or `FineGPTConfig` takes.
    """
    fields = _fields_of(type(config))
    return {theirs: getattr(config, ours) for theirs, ours in fields.items()}


def _fields_of(cls: type[BarkSubModelConfig]) -> dict[str, str]:
    return _SUNO_FIELDS | (_SUNO_FINE_FIELDS if cls is BarkFineConfig else {})


# Meta's codec -------------------------------------------------------------------------


def codec_config(shapes: Shapes) -> EncodecConfig:
    """The configuration of one of Meta's 24 kHz codecs, from the shapes of its tensors.

    Args:
        shapes: Name -> shape, in Meta's names with the older spelling of weight norm.

    Returns:
        `EncodecConfig()` for the published file. What leaves no trace in shapes
        (bandwidths, padding, dilation, ...) is that of the 24 kHz model.

    Raises:
        ValueError: If they are not those of such a codec.
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
            f"Expected {config.num_quantizers} codebooks, as EnCodec for 24 kHz with "
            f"ratios {config.upsampling_ratios} has. Received: {codebooks}; give the "
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
        # A stage shortens time by half its kernel, and the encoder begins with the
        # last ratio of the decoder.
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
    """The numbers in the names that match, in their order."""
    found = (re.fullmatch(pattern, name) for name in shapes)
    return sorted(int(match[1]) for match in found if match)
