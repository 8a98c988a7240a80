"""Shapes of variables, computed from the configuration without building the network.

The loops mirror those of `bark_tf/models`; a test compares the shapes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bark_tf.config import (
    BarkCoarseConfig,
    BarkFineConfig,
    BarkSemanticConfig,
    BarkSubModelConfig,
    EncodecConfig,
)

# The parts of a whole Bark by the prefixes of its tensors.
PARTS: dict[str, type] = {
    "semantic": BarkSemanticConfig,
    "coarse_acoustics": BarkCoarseConfig,
    "fine_acoustics": BarkFineConfig,
    "codec_model": EncodecConfig,
}
_MLP_RATIO = 4
_LSTM_GATES = 4

PathsAndShapes = Iterator[tuple[str, tuple[int, ...]]]

# === The transformers ===


def _transformer(config: BarkSubModelConfig) -> PathsAndShapes:
    width = config.hidden_size
    is_fine = isinstance(config, BarkFineConfig)
    norm_bias = is_fine or config.bias
    yield "position_embedding/embeddings", (config.block_size, width)
    for i in range(config.num_layers):
        for part in ("norm_1", "norm_2"):
            yield from _norm(f"block_{i}/{part}", width, norm_bias)
        for part, rows, columns in (
            ("attention/qkv", 3 * width, width),
            ("attention/out", width, width),
            ("mlp/fc", _MLP_RATIO * width, width),
            ("mlp/proj", width, _MLP_RATIO * width),
        ):
            yield f"block_{i}/{part}/kernel", (rows, columns)
            if config.bias:
                yield f"block_{i}/{part}/bias", (rows,)
    yield from _norm("final_norm", width, norm_bias)
    yield from _fine_ends(config) if is_fine else _causal_ends(config)


def _norm(path: str, width: int, has_bias: bool) -> PathsAndShapes:
    yield f"{path}/gamma", (width,)
    if has_bias:
        yield f"{path}/beta", (width,)


def _causal_ends(config: BarkSubModelConfig) -> PathsAndShapes:
    yield "token_embedding/embeddings", (config.input_vocab_size, config.hidden_size)
    yield "lm_head/kernel", (config.output_vocab_size, config.hidden_size)


def _fine_ends(config: BarkFineConfig) -> PathsAndShapes:
    for j in range(config.n_codes_total):
        shape = (config.input_vocab_size, config.hidden_size)
        yield f"token_embedding_{j}/embeddings", shape
    if not config.tie_word_embeddings:
        for i in range(config.n_codes_total - config.n_codes_given):
            yield f"lm_head_{i}/kernel", (config.output_vocab_size, config.hidden_size)


# === The codec ===


def _codec(config: EncodecConfig) -> PathsAndShapes:
    first, ratios = config.num_filters, config.upsampling_ratios
    last = first * 2 ** len(ratios)
    latent, audio = config.hidden_size, config.audio_channels
    yield from _conv(config, "encoder/input_conv", config.kernel_size, audio, first)
    width = first
    for i, ratio in enumerate(reversed(ratios)):
        stage = f"encoder/stage_{i}"
        yield from _residual_units(config, stage, width)
        yield from _conv(config, f"{stage}/downsample", 2 * ratio, width, 2 * width)
        width *= 2
    yield from _lstm(config, "encoder/lstm", last)
    yield from _conv(
        config, "encoder/output_conv", config.last_kernel_size, last, latent
    )
    for q in range(config.num_quantizers):
        yield from _codebook(config, f"quantizer/codebook_{q}")
    yield from _conv(config, "decoder/input_conv", config.kernel_size, latent, last)
    yield from _lstm(config, "decoder/lstm", last)
    for i, ratio in enumerate(ratios):
        stage = f"decoder/stage_{i}"
        kernel = (2 * ratio, width // 2, width)
        width //= 2
        yield from _convolution(config, f"{stage}/upsample", kernel, channels=width)
        yield from _residual_units(config, stage, width)
    yield from _conv(
        config, "decoder/output_conv", config.last_kernel_size, first, audio
    )


def _conv(
    config: EncodecConfig, path: str, taps: int, inputs: int, out: int
) -> PathsAndShapes:
    return _convolution(config, path, (taps, inputs, out), channels=out)


def _convolution(
    config: EncodecConfig, path: str, kernel: tuple[int, int, int], channels: int
) -> PathsAndShapes:
    if config.norm_type == "weight_norm":
        yield f"{path}/direction", kernel
        yield f"{path}/scale", (1, 1, kernel[-1])
    else:
        yield f"{path}/kernel", kernel
        yield from _norm(f"{path}/norm", channels, has_bias=True)
    yield f"{path}/bias", (channels,)


def _residual_units(config: EncodecConfig, stage: str, width: int) -> PathsAndShapes:
    narrow = width // config.compress
    for j in range(config.num_residual_layers):
        unit = f"{stage}/residual_{j}"
        taps = config.residual_kernel_size
        yield from _conv(config, f"{unit}/conv_1", taps, width, narrow)
        yield from _conv(config, f"{unit}/conv_2", 1, narrow, width)
        if config.use_conv_shortcut:
            yield from _conv(config, f"{unit}/shortcut", 1, width, width)


def _lstm(config: EncodecConfig, path: str, width: int) -> PathsAndShapes:
    gates = _LSTM_GATES * width
    for i in range(config.num_lstm_layers):
        for kernel in ("kernel", "recurrent_kernel"):
            yield f"{path}/layer_{i}/{kernel}", (width, gates)
        for bias in ("input_bias", "recurrent_bias"):
            yield f"{path}/layer_{i}/{bias}", (gates,)


def _codebook(config: EncodecConfig, path: str) -> PathsAndShapes:
    for name in ("embed", "embed_avg"):
        yield f"{path}/{name}", (config.codebook_size, config.codebook_dim)
    yield f"{path}/cluster_size", (config.codebook_size,)
    yield f"{path}/inited", (1,)


# === Any network ===


def variable_shapes(config: Any) -> dict[str, tuple[int, ...]]:
    """The shapes of a network's variables.

    Args:
        config: Configuration of one of `PARTS`.

    Returns:
        Path below the network -> shape, with the keys of `rules.variables_of`.

    Example:
        >>> variable_shapes(EncodecConfig())["encoder/input_conv/direction"]
        (7, 1, 32)
    """
    is_codec = isinstance(config, EncodecConfig)
    return dict(_codec(config) if is_codec else _transformer(config))
