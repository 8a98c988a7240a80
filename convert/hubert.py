"""Conversion tables and configurations of HuBERT and of its quantizer.

HuBERT comes in transformers' names and in fairseq's, which numbers the modules of a
sequence. The quantizers are the community's and have one set of names.

Source of the names: Hugging Face transformers (model `hubert`); facebookresearch/
fairseq, `models/wav2vec/wav2vec2.py` and `models/hubert/hubert.py`; gitmylo/
bark-voice-cloning-HuBERT-quantizer, `customtokenizer.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from bark_tf.config import HubertConfig, HubertQuantizerConfig

from .encodec import lstm_rules
from .rules import REVERSE_AXES, Rule, Shapes, Table, linear, norm

# Not visible in shapes, but the same in all published checkpoints.
HEAD_SIZE = 64
CONV_STRIDE = HubertConfig.conv_stride
# Twice as many as the largest HuBERT has.
MAX_LAYERS = 96


class Names(NamedTuple):
    """The names that differ between the two kinds of checkpoint.

    Attributes:
        conv: Convolution of the front end, formatted with its number.
        conv_norm: The norm after it, formatted likewise; base has only the first.
        projection: Norm and linear layer after the front end.
        positions: Positional convolution.
        attention: Prefix of the four linear layers.
        norms: Norms after attention and MLP.
        mlp: The two linear layers.
        mask: Embedding of masked frames.
        heads: Tensors used only in pretraining, which are not read.
    """

    conv: str
    conv_norm: str
    projection: tuple[str, str]
    positions: str
    attention: str
    norms: tuple[str, str]
    mlp: tuple[str, str]
    mask: str
    heads: tuple[str, ...]


NAMES = {
    "hf": Names(
        conv="feature_extractor.conv_layers.{}.conv",
        conv_norm="feature_extractor.conv_layers.{}.layer_norm",
        projection=("feature_projection.layer_norm", "feature_projection.projection"),
        positions="encoder.pos_conv_embed.conv",
        attention="attention",
        norms=("layer_norm", "final_layer_norm"),
        mlp=("feed_forward.intermediate_dense", "feed_forward.output_dense"),
        mask="masked_spec_embed",
        heads=(),
    ),
    "fairseq": Names(
        conv="feature_extractor.conv_layers.{}.0",
        conv_norm="feature_extractor.conv_layers.{}.2",
        projection=("layer_norm", "post_extract_proj"),
        positions="encoder.pos_conv.0",
        attention="self_attn",
        norms=("self_attn_layer_norm", "final_layer_norm"),
        mlp=("fc1", "fc2"),
        mask="mask_emb",
        heads=("final_proj.weight", "final_proj.bias", "label_embs_concat"),
    ),
}
# A tensor that only fairseq's checkpoints have.
FAIRSEQ_SIGN = "post_extract_proj.weight"


def table(config: HubertConfig, names: str = "hf") -> Table:
    """The table of HuBERT.

    Args:
        config: Configuration of HuBERT.
        names: `"hf"` or `"fairseq"`.

    Returns:
        The table, with paths below `HubertModel`.

    Raises:
        ValueError: For other `names`.

    Example:
        >>> table(HubertConfig()).rules[0][:2]
        ('front/conv_0/kernel', 'feature_extractor.conv_layers.0.conv.weight')
    """
    if names not in NAMES:
        raise ValueError(f"names must be one of {tuple(NAMES)}. Received: {names!r}")
    spelling = NAMES[names]
    rules = [*_front(config, spelling), *_encoder(config, spelling)]
    dropped = spelling.heads
    if config.has_mask_embedding:
        rules.append(Rule("mask_embedding", spelling.mask, (config.hidden_size,)))
    else:
        dropped = (*dropped, spelling.mask)
    return Table(tuple(rules), dropped=frozenset(dropped))


def _front(config: HubertConfig, names: Names) -> Iterator[Rule]:
    channels = (1, *config.conv_dim)
    for index, taps in enumerate(config.conv_kernel):
        theirs = f"{names.conv.format(index)}.weight"
        shape = taps, *channels[index : index + 2]
        yield Rule(f"front/conv_{index}/kernel", theirs, shape, REVERSE_AXES)
    yield from norm("front/norm", names.conv_norm.format(0), channels[1])
    projection_norm, projection = names.projection
    yield from norm("projection/norm", projection_norm, channels[-1])
    shape = config.hidden_size, channels[-1]
    yield from linear("projection/linear", projection, shape)


def _encoder(config: HubertConfig, names: Names) -> Iterator[Rule]:
    size, taps = config.hidden_size, config.num_conv_pos_embeddings
    shape = taps, size // config.num_conv_pos_embedding_groups, size
    direction, scale = (f"{names.positions}.weight_{half}" for half in "vg")
    yield Rule("positions/direction", direction, shape, REVERSE_AXES)
    yield Rule("positions/scale", scale, (taps, 1, 1), REVERSE_AXES)
    yield Rule("positions/bias", f"{names.positions}.bias", (size,))
    yield from norm("norm", "encoder.layer_norm", size)
    for index in range(config.num_hidden_layers):
        ours, theirs = f"block_{index}", f"encoder.layers.{index}"
        for part in ("query", "key", "value", "out"):
            # Theirs are q_proj, k_proj, v_proj and out_proj.
            short = part if part == "out" else part[0]
            name = f"{theirs}.{names.attention}.{short}_proj"
            yield from linear(f"{ours}/attention/{part}", name, (size, size))
        for part, name in zip(("norm_1", "norm_2"), names.norms, strict=True):
            yield from norm(f"{ours}/{part}", f"{theirs}.{name}", size)
        fc, proj = (f"{theirs}.{name}" for name in names.mlp)
        yield from linear(f"{ours}/fc", fc, (config.intermediate_size, size))
        yield from linear(f"{ours}/proj", proj, (size, config.intermediate_size))


def quantizer_table(config: HubertQuantizerConfig) -> Table:
    """The table of a quantizer.

    Args:
        config: Configuration of the quantizer.

    Returns:
        The table, with paths below `HubertQuantizer`.
    """
    rules: list[Rule] = []
    width, size = config.hidden_size, config.input_size
    for index in range(config.num_layers):
        rules += lstm_rules(f"lstm_{index}", "lstm", index, size, width)
        size = width
    if config.intermediate_size:
        shape = config.intermediate_size, size
        rules += linear("intermediate", "intermediate", shape)
        size = config.intermediate_size
    rules += linear("head", "fc", (config.output_size, size))
    return Table(tuple(rules))


# === Sizes from shapes ===


def hubert_config(shapes: Shapes) -> HubertConfig:
    """Infers the configuration of a HuBERT from the shapes of its tensors.

    Heads of 64 channels and the strides of base are assumed: they are not visible in
    the shapes, and every published HuBERT has them.

    Args:
        shapes: Canonical name -> shape, in either kind of names.

    Returns:
        The configuration. `rules.fit` checks it against all tensors.

    Raises:
        ValueError: If tensors that determine sizes are missing, or are HuBERT large's.
    """
    names = NAMES["fairseq" if FAIRSEQ_SIGN in shapes else "hf"]
    convs = [
        _shape(shapes, f"{names.conv.format(index)}.weight", 3)
        for index in range(len(CONV_STRIDE))
    ]
    hidden_size, group, taps = _shape(shapes, f"{names.positions}.weight_v", 3)
    wide, _ = _shape(shapes, f"encoder.layers.0.{names.mlp[0]}.weight", 2)
    query = f"encoder.layers.0.{names.attention}.q_proj.weight"
    _check_shape(shapes, query, (hidden_size, hidden_size))
    _check_shape(shapes, f"{names.projection[1]}.weight", (hidden_size, convs[-1][0]))
    second_norm = f"{names.conv_norm.format(1)}."
    has_norms = any(name.startswith(second_norm) for name in shapes)
    return HubertConfig(
        hidden_size=hidden_size,
        num_hidden_layers=_count(shapes, r"encoder\.layers\.(\d{1,9})\."),
        num_attention_heads=hidden_size // HEAD_SIZE,
        intermediate_size=wide,
        conv_dim=tuple(out for out, _, _ in convs),
        conv_kernel=tuple(kernel for _, _, kernel in convs),
        conv_bias=f"{names.conv.format(0)}.bias" in shapes,
        feat_extract_norm="layer" if has_norms else "group",
        num_conv_pos_embeddings=taps,
        num_conv_pos_embedding_groups=hidden_size // max(group, 1),
        mask_time_prob=0.05 if names.mask in shapes else 0.0,
    )


def quantizer_config(shapes: Shapes) -> HubertQuantizerConfig:
    """Infers the configuration of a quantizer from the shapes of its tensors.

    The `.info` inside the files is ignored: it repeats what the shapes say, and is
    wrong once a file has been renamed.

    Args:
        shapes: Name -> shape.

    Returns:
        The configuration. `rules.fit` checks it against all tensors.

    Raises:
        ValueError: If tensors that determine sizes are missing.
    """
    _, input_size = _shape(shapes, "lstm.weight_ih_l0", 2)
    _, hidden_size = _shape(shapes, "lstm.weight_hh_l0", 2)
    output_size, _ = _shape(shapes, "fc.weight", 2)
    intermediate_size = 0
    if "intermediate.weight" in shapes:
        intermediate_size, _ = _shape(shapes, "intermediate.weight", 2)
    _check_shape(shapes, "lstm.weight_hh_l0", (4 * hidden_size, hidden_size))
    _check_shape(shapes, "lstm.weight_ih_l0", (4 * hidden_size, input_size))
    _check_shape(shapes, "fc.weight", (output_size, intermediate_size or hidden_size))
    return HubertQuantizerConfig(
        input_size=input_size,
        hidden_size=hidden_size,
        num_layers=_count(shapes, r"lstm\.weight_ih_l(\d{1,9})$"),
        intermediate_size=intermediate_size,
        output_size=output_size,
    )


def _shape(shapes: Shapes, name: str, rank: int) -> tuple[int, ...]:
    shape = tuple(shapes.get(name, ()))
    if len(shape) != rank:
        found = f"shape {shape}" if name in shapes else "no such tensor"
        raise ValueError(f"Expected {name!r} of {rank} axes. Received: {found}")
    return shape


def _check_shape(shapes: Shapes, name: str, expected: tuple[int, ...]) -> None:
    """Checks a large tensor, so that no absurdly large network is built."""
    if tuple(shapes.get(name, ())) != expected:
        raise ValueError(
            f"Expected {name!r} of shape {expected}. Received: {shapes.get(name)}"
        )


def _count(shapes: Shapes, pattern: str) -> int:
    """Counts the layers, which must be numbered from 0 without gaps."""
    found = {int(match[1]) for name in shapes if (match := re.match(pattern, name))}
    if found != set(range(len(found))) or not 0 < len(found) <= MAX_LAYERS:
        raise ValueError(
            f"Expected 1 to {MAX_LAYERS} layers, numbered from 0. "
            f"Received: {len(found)}, the last with number {max(found, default=0)}"
        )
    return len(found)
