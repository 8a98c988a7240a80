"""The conversion table of EnCodec, in Hugging Face's and Meta's names.

Both number the modules of a network in sequence, activations included, so the rules
come from the same loops as `bark_tf/models/encodec/seanet.py`.

Source: facebookresearch/encodec, `encodec/modules/seanet.py`; Hugging Face
transformers, `models/encodec/modeling_encodec.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

from bark_tf.config import EncodecConfig

from .rules import REVERSE_AXES, Rule, Table, norm


class Names(NamedTuple):
    """The names that differ between the two kinds of checkpoint.

    Attributes:
        layer: Module, formatted with network and number.
        conv: Weights of a convolution below its module.
        transposed: Weights of a transposed convolution below its module.
        norm: Group norm of a convolution below its module.
        transposed_norm: Group norm of a transposed convolution below its module.
        codebook: Codebook, formatted with its number.
    """

    layer: str
    conv: str
    transposed: str
    norm: str
    transposed_norm: str
    codebook: str


NAMES = {
    "hf": Names(
        "{}.layers.{}", "conv", "conv", "norm", "norm", "quantizer.layers.{}.codebook"
    ),
    "meta": Names(
        "{}.model.{}",
        "conv.conv",
        "convtr.convtr",
        "conv.norm",
        "convtr.norm",
        "quantizer.vq.layers.{}._codebook",
    ),
}

LSTM_VARIABLES = {
    "kernel": "weight_ih",
    "recurrent_kernel": "weight_hh",
    "input_bias": "bias_ih",
    "recurrent_bias": "bias_hh",
}
CODEBOOK_VARIABLES = ("inited", "cluster_size", "embed", "embed_avg")


def _kernel(
    config: EncodecConfig, ours: str, weights: str, group_norm: str
) -> Iterator[Rule]:
    """The rules of a convolution with these names of weights and norm."""
    if config.norm_type == "weight_norm":
        yield Rule(f"{ours}/direction", f"{weights}.weight_v", REVERSE_AXES)
        yield Rule(f"{ours}/scale", f"{weights}.weight_g", REVERSE_AXES)
    else:
        yield Rule(f"{ours}/kernel", f"{weights}.weight", REVERSE_AXES)
        yield from norm(f"{ours}/norm", group_norm)
    yield Rule(f"{ours}/bias", f"{weights}.bias")


def _convolution(
    config: EncodecConfig, names: Names, ours: str, theirs: str
) -> Iterator[Rule]:
    weights = f"{theirs}.{names.conv}"
    return _kernel(config, ours, weights, f"{theirs}.{names.norm}")


def _transposed(
    config: EncodecConfig, names: Names, ours: str, theirs: str
) -> Iterator[Rule]:
    weights = f"{theirs}.{names.transposed}"
    return _kernel(config, ours, weights, f"{theirs}.{names.transposed_norm}")


def _lstm(config: EncodecConfig, ours: str, theirs: str) -> Iterator[Rule]:
    for index in range(config.num_lstm_layers):
        for variable, tensor in LSTM_VARIABLES.items():
            yield Rule(
                f"{ours}/layer_{index}/{variable}",
                f"{theirs}.lstm.{tensor}_l{index}",
                REVERSE_AXES,
            )


def _residual_unit(
    config: EncodecConfig, names: Names, ours: str, theirs: str
) -> Iterator[Rule]:
    # Modules 0 and 2 of the block are activations.
    yield from _convolution(config, names, f"{ours}/conv_1", f"{theirs}.block.1")
    yield from _convolution(config, names, f"{ours}/conv_2", f"{theirs}.block.3")
    if config.use_conv_shortcut:
        yield from _convolution(config, names, f"{ours}/shortcut", f"{theirs}.shortcut")


def _modules(names: Names, network: str) -> Iterator[str]:
    """The names of a network's modules in sequence."""
    return (names.layer.format(network, number) for number in itertools.count())


def _encoder(config: EncodecConfig, names: Names) -> Iterator[Rule]:
    modules = _modules(names, "encoder")
    yield from _convolution(config, names, "encoder/input_conv", next(modules))
    for index in range(len(config.upsampling_ratios)):
        stage = f"encoder/stage_{index}"
        for unit in range(config.num_residual_layers):
            ours = f"{stage}/residual_{unit}"
            yield from _residual_unit(config, names, ours, next(modules))
        next(modules)  # an activation
        yield from _convolution(config, names, f"{stage}/downsample", next(modules))
    if config.num_lstm_layers:
        yield from _lstm(config, "encoder/lstm", next(modules))
    next(modules)  # an activation
    yield from _convolution(config, names, "encoder/output_conv", next(modules))


def _quantizer(config: EncodecConfig, names: Names) -> Iterator[Rule]:
    for index in range(config.num_quantizers):
        theirs = names.codebook.format(index)
        for variable in CODEBOOK_VARIABLES:
            ours = f"quantizer/codebook_{index}/{variable}"
            yield Rule(ours, f"{theirs}.{variable}")


def _decoder(config: EncodecConfig, names: Names) -> Iterator[Rule]:
    modules = _modules(names, "decoder")
    yield from _convolution(config, names, "decoder/input_conv", next(modules))
    if config.num_lstm_layers:
        yield from _lstm(config, "decoder/lstm", next(modules))
    for index in range(len(config.upsampling_ratios)):
        stage = f"decoder/stage_{index}"
        next(modules)  # an activation
        yield from _transposed(config, names, f"{stage}/upsample", next(modules))
        for unit in range(config.num_residual_layers):
            ours = f"{stage}/residual_{unit}"
            yield from _residual_unit(config, names, ours, next(modules))
    next(modules)  # an activation
    yield from _convolution(config, names, "decoder/output_conv", next(modules))


def table(config: EncodecConfig, names: str = "hf") -> Table:
    """The table of one codec.

    Args:
        config: The codec's configuration.
        names: `"hf"`, or `"meta"` for the original `encodec_24khz-d7cc33bc.th`.

    Returns:
        The table, with paths below `EncodecModel`.

    Raises:
        ValueError: For other `names`.

    Example:
        >>> table(EncodecConfig()).rules[0][:2]
        ('encoder/input_conv/direction', 'encoder.layers.0.conv.weight_v')
    """
    if names not in NAMES:
        raise ValueError(f"names must be one of {tuple(NAMES)}. Received: {names!r}")
    spelling = NAMES[names]
    return Table(
        (
            *_encoder(config, spelling),
            *_quantizer(config, spelling),
            *_decoder(config, spelling),
        )
    )
