"""The conversion table of EnCodec, in Hugging Face's and Meta's names.

Both number the modules of a network in sequence, activations included, so the rules
come from the same loops as `bark_tf/models/encodec/seanet.py`.

Source: facebookresearch/encodec, `encodec/modules/seanet.py`; Hugging Face
transformers, `models/encodec/modeling_encodec.py`.
"""

from __future__ import annotations

import functools
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


def _kernel(
    config: EncodecConfig,
    ours: str,
    weights: str,
    group_norm: str,
    shape: tuple[int, ...],
    channels: int,
) -> Iterator[Rule]:
    """The rules of a convolution with these names of weights and norm."""
    if config.norm_type == "weight_norm":
        scale = 1, 1, shape[-1]
        yield Rule(f"{ours}/direction", f"{weights}.weight_v", shape, REVERSE_AXES)
        yield Rule(f"{ours}/scale", f"{weights}.weight_g", scale, REVERSE_AXES)
    else:
        yield Rule(f"{ours}/kernel", f"{weights}.weight", shape, REVERSE_AXES)
        yield from norm(f"{ours}/norm", group_norm, channels)
    yield Rule(f"{ours}/bias", f"{weights}.bias", (channels,))


def _convolution(
    config: EncodecConfig, names: Names, ours: str, theirs: str, *shape: int
) -> Iterator[Rule]:
    """The rules of a convolution of shape (taps, input channels, output channels)."""
    weights, group_norm = f"{theirs}.{names.conv}", f"{theirs}.{names.norm}"
    return _kernel(config, ours, weights, group_norm, shape, channels=shape[2])


def _transposed(
    config: EncodecConfig, names: Names, ours: str, theirs: str, *shape: int
) -> Iterator[Rule]:
    """The rules of one of shape (taps, output channels, input channels)."""
    weights = f"{theirs}.{names.transposed}"
    group_norm = f"{theirs}.{names.transposed_norm}"
    return _kernel(config, ours, weights, group_norm, shape, channels=shape[1])


def lstm_rules(
    ours: str, theirs: str, index: int, size: int, width: int
) -> Iterator[Rule]:
    """The rules of one of a stack of LSTMs, from `size` channels to `width`."""
    for variable, tensor, *inputs in (
        ("kernel", "weight_ih", size),
        ("recurrent_kernel", "weight_hh", width),
        ("input_bias", "bias_ih"),
        ("recurrent_bias", "bias_hh"),
    ):
        name = f"{theirs}.{tensor}_l{index}"
        yield Rule(f"{ours}/{variable}", name, (*inputs, 4 * width), REVERSE_AXES)


def _lstm(config: EncodecConfig, ours: str, theirs: str, width: int) -> Iterator[Rule]:
    for index in range(config.num_lstm_layers):
        layer = f"{ours}/layer_{index}"
        yield from lstm_rules(layer, f"{theirs}.lstm", index, width, width)


def _residual_unit(
    config: EncodecConfig, names: Names, ours: str, theirs: str, width: int
) -> Iterator[Rule]:
    convolution = functools.partial(_convolution, config, names)
    taps, narrow = config.residual_kernel_size, width // config.compress
    # Modules 0 and 2 of the block are activations.
    yield from convolution(f"{ours}/conv_1", f"{theirs}.block.1", taps, width, narrow)
    yield from convolution(f"{ours}/conv_2", f"{theirs}.block.3", 1, narrow, width)
    if config.use_conv_shortcut:
        shortcut = f"{theirs}.shortcut"
        yield from convolution(f"{ours}/shortcut", shortcut, 1, width, width)


def _modules(names: Names, network: str) -> Iterator[str]:
    """The names of a network's modules in sequence."""
    return (names.layer.format(network, number) for number in itertools.count())


def _encoder(config: EncodecConfig, names: Names) -> Iterator[Rule]:
    modules = _modules(names, "encoder")
    convolution = functools.partial(_convolution, config, names)
    channels, width = config.audio_channels, config.num_filters
    first = "encoder/input_conv", next(modules)
    yield from convolution(*first, config.kernel_size, channels, width)
    for index, stride in enumerate(reversed(config.upsampling_ratios)):
        stage = f"encoder/stage_{index}"
        for unit in range(config.num_residual_layers):
            ours = f"{stage}/residual_{unit}"
            yield from _residual_unit(config, names, ours, next(modules), width)
        next(modules)  # an activation
        downsample = f"{stage}/downsample", next(modules)
        yield from convolution(*downsample, 2 * stride, width, 2 * width)
        width *= 2
    if config.num_lstm_layers:
        yield from _lstm(config, "encoder/lstm", next(modules), width)
    next(modules)  # an activation
    last = "encoder/output_conv", next(modules)
    yield from convolution(*last, config.last_kernel_size, width, config.hidden_size)


def _quantizer(config: EncodecConfig, names: Names) -> Iterator[Rule]:
    entries = config.codebook_size, config.codebook_dim
    for index in range(config.num_quantizers):
        theirs = names.codebook.format(index)
        for variable, shape in (
            ("inited", (1,)),
            ("cluster_size", entries[:1]),
            ("embed", entries),
            ("embed_avg", entries),
        ):
            ours = f"quantizer/codebook_{index}/{variable}"
            yield Rule(ours, f"{theirs}.{variable}", shape)


def _decoder(config: EncodecConfig, names: Names) -> Iterator[Rule]:
    modules = _modules(names, "decoder")
    convolution = functools.partial(_convolution, config, names)
    width = config.num_filters * 2 ** len(config.upsampling_ratios)
    first = "decoder/input_conv", next(modules)
    yield from convolution(*first, config.kernel_size, config.hidden_size, width)
    if config.num_lstm_layers:
        yield from _lstm(config, "decoder/lstm", next(modules), width)
    for index, stride in enumerate(config.upsampling_ratios):
        stage = f"decoder/stage_{index}"
        next(modules)  # an activation
        upsample = f"{stage}/upsample", next(modules)
        shape = 2 * stride, width // 2, width
        yield from _transposed(config, names, *upsample, *shape)
        width //= 2
        for unit in range(config.num_residual_layers):
            ours = f"{stage}/residual_{unit}"
            yield from _residual_unit(config, names, ours, next(modules), width)
    next(modules)  # an activation
    last = "decoder/output_conv", next(modules)
    yield from convolution(*last, config.last_kernel_size, width, config.audio_channels)


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
