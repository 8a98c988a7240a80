"""The conversion table of EnCodec, in Hugging Face's names and in Meta's.

Both number the modules of a network in one sequence, activations included, so the
rules come from walking the same loops as `bark_tf/models/encodec/seanet.py`.

Source: facebookresearch/encodec, `encodec/modules/seanet.py`; Hugging Face
transformers, `models/encodec/modeling_encodec.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

from bark_tf.config import EncodecConfig

from .rules import REVERSE_AXES, Rule, Table


class Names(NamedTuple):
    """How a writer of checkpoints names the parts; what differs between them.

    Attributes:
        layer: A module of a network, from the network and the module's number.
        conv: A convolution's weights, below its module.
        transposed: A transposed convolution's weights, below its module.
        norm: A convolution's group norm, below its module.
        transposed_norm: A transposed convolution's group norm, below its module.
        codebook: A codebook, from its number.
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
    config: EncodecConfig, ours: str, weights: str, norm: str
) -> Iterator[Rule]:
    """A convolution, given the names of its weights and of its norm."""
    if config.norm_type == "weight_norm":
        yield Rule(f"{ours}/direction", f"{weights}.weight_v", REVERSE_AXES)
        yield Rule(f"{ours}/scale", f"{weights}.weight_g", REVERSE_AXES)
    else:
        yield Rule(f"{ours}/kernel", f"{weights}.weight", REVERSE_AXES)
        yield Rule(f"{ours}/norm/gamma", f"{norm}.weight")
        yield Rule(f"{ours}/norm/beta", f"{norm}.bias")
    yield Rule(f"{ours}/bias", f"{weights}.bias")


def _convolution(
    config: EncodecConfig, names: Names, ours: str, theirs: str
) -> Iterator[Rule]:
    weights, norm = f"{theirs}.{names.conv}", f"{theirs}.{names.norm}"
    return _kernel(config, ours, weights, norm)


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


class _Modules:
    """Hands out the names of a network's modules in the order of its sequence."""

    def __init__(self, names: Names, network: str):
        self._names = (names.layer.format(network, n) for n in itertools.count())

    def next(self) -> str:
        return next(self._names)

    def skip_activation(self) -> None:
        next(self._names)


def _encoder(config: EncodecConfig, names: Names) -> Iterator[Rule]:
    modules = _Modules(names, "encoder")
    yield from _convolution(config, names, "encoder/input_conv", modules.next())
    for index in range(len(config.upsampling_ratios)):
        stage = f"encoder/stage_{index}"
        for unit in range(config.num_residual_layers):
            ours = f"{stage}/residual_{unit}"
            yield from _residual_unit(config, names, ours, modules.next())
        modules.skip_activation()
        yield from _convolution(config, names, f"{stage}/downsample", modules.next())
    if config.num_lstm_layers:
        yield from _lstm(config, "encoder/lstm", modules.next())
    modules.skip_activation()
    yield from _convolution(config, names, "encoder/output_conv", modules.next())


def _quantizer(config: EncodecConfig, names: Names) -> Iterator[Rule]:
    for index in range(config.num_quantizers):
        theirs = names.codebook.format(index)
        for variable in CODEBOOK_VARIABLES:
            ours = f"quantizer/codebook_{index}/{variable}"
            yield Rule(ours, f"{theirs}.{variable}")


def _decoder(config: EncodecConfig, names: Names) -> Iterator[Rule]:
    modules = _Modules(names, "decoder")
    yield from _convolution(config, names, "decoder/input_conv", modules.next())
    if config.num_lstm_layers:
        yield from _lstm(config, "decoder/lstm", modules.next())
    for index in range(len(config.upsampling_ratios)):
        stage = f"decoder/stage_{index}"
        modules.skip_activation()
        yield from _transposed(config, names, f"{stage}/upsample", modules.next())
        for unit in range(config.num_residual_layers):
            ours = f"{stage}/residual_{unit}"
            yield from _residual_unit(config, names, ours, modules.next())
    modules.skip_activation()
    yield from _convolution(config, names, "decoder/output_conv", modules.next())


def table(config: EncodecConfig, names: str = "hf") -> Table:
    """The table of one codec.

    Args:
        config: The codec's configuration.
        names: `"hf"`, or `"meta"` for the original `encodec_24khz-d7cc33bc.th`.

    Returns:
        The table, in paths below `EncodecModel`.

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
