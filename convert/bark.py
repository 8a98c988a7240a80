"""Conversion tables of the three transformers, in Hugging Face's and suno's names.

Source of the names: Hugging Face transformers (model `bark`), suno-ai/bark.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from bark_tf.config import BarkFineConfig, BarkSubModelConfig

from .rules import Rule, Table, linear, norm


class Names(NamedTuple):
    """The names of a transformer's parts in one kind of checkpoint."""

    tokens: str
    positions: str
    block: str
    norms: tuple[str, str]
    attention: tuple[str, str]
    mlp: tuple[str, str]
    final_norm: str


HF = Names(
    tokens="input_embeds_layer",
    positions="position_embeds_layer",
    block="layers",
    norms=("layernorm_1", "layernorm_2"),
    attention=("attn.att_proj", "attn.out_proj"),
    mlp=("mlp.in_proj", "mlp.out_proj"),
    final_norm="layernorm_final",
)
SUNO = Names(
    tokens="transformer.wte",
    positions="transformer.wpe",
    block="transformer.h",
    norms=("ln_1", "ln_2"),
    attention=("attn.c_attn", "attn.c_proj"),
    mlp=("mlp.c_fc", "mlp.c_proj"),
    final_norm="transformer.ln_f",
)
NAMES = {"hf": HF, "suno": SUNO}
MLP_RATIO = 4


def _embedding(ours: str, theirs: str, rows: int, size: int) -> Rule:
    return Rule(f"{ours}/embeddings", theirs, (rows, size))


def _body(config: BarkSubModelConfig, names: Names, norm_bias: bool) -> Iterator[Rule]:
    """The rules that all three share: positions, blocks and the final norm."""
    size, bias = config.hidden_size, config.bias
    wide = MLP_RATIO * size
    positions = f"{names.positions}.weight"
    yield _embedding("position_embedding", positions, config.block_size, size)
    for i in range(config.num_layers):
        ours, theirs = f"block_{i}/", f"{names.block}.{i}."
        for part, name in zip(("norm_1", "norm_2"), names.norms, strict=True):
            yield from norm(ours + part, theirs + name, size, norm_bias)
        qkv, out = (theirs + name for name in names.attention)
        yield from linear(f"{ours}attention/qkv", qkv, (3 * size, size), bias)
        yield from linear(f"{ours}attention/out", out, (size, size), bias)
        fc, proj = (theirs + name for name in names.mlp)
        yield from linear(f"{ours}mlp/fc", fc, (wide, size), bias)
        yield from linear(f"{ours}mlp/proj", proj, (size, wide), bias)
    yield from norm("final_norm", names.final_norm, size, norm_bias)


def _causal_masks(config: BarkSubModelConfig, names: Names):
    """The mask buffers of causal checkpoints, for which we have no variables."""

    def make() -> np.ndarray:
        return np.tri(config.block_size, dtype=bool)[None, None]

    return {f"{names.block}.{i}.attn.bias": make for i in range(config.num_layers)}


def _causal_table(config: BarkSubModelConfig, names: Names) -> Table:
    size, tokens = config.hidden_size, f"{names.tokens}.weight"
    head_shape = config.output_vocab_size, size
    rules = (
        _embedding("token_embedding", tokens, config.input_vocab_size, size),
        *_body(config, names, norm_bias=config.bias),
        Rule("lm_head/kernel", "lm_head.weight", head_shape),
    )
    return Table(rules, constants=_causal_masks(config, names))


def _fine_table(config: BarkFineConfig, names: Names) -> Table:
    num_heads = config.n_codes_total - config.n_codes_given
    embeddings = [f"{names.tokens}s.{j}.weight" for j in range(config.n_codes_total)]
    heads = [f"lm_heads.{i}.weight" for i in range(num_heads)]
    size = config.hidden_size
    rules = [
        _embedding(f"token_embedding_{j}", name, config.input_vocab_size, size)
        for j, name in enumerate(embeddings)
    ]
    rules += _body(config, names, norm_bias=True)
    if config.tie_word_embeddings:
        return Table(
            tuple(rules), aliases=dict(zip(heads, embeddings[1:], strict=False))
        )
    rules += [
        Rule(f"lm_head_{i}/kernel", name, (config.output_vocab_size, size))
        for i, name in enumerate(heads)
    ]
    return Table(tuple(rules))


def table(config: BarkSubModelConfig, names: str = "hf") -> Table:
    """The table of one transformer.

    Args:
        config: Configuration of the semantic, coarse or fine model.
        names: `"hf"` or `"suno"`.

    Returns:
        The table, with names as in a checkpoint of this network alone.

    Raises:
        ValueError: For other `names`.

    Example:
        >>> table(BarkCoarseConfig()).rules[0][:2]
        ('token_embedding/embeddings', 'input_embeds_layer.weight')
    """
    if names not in NAMES:
        raise ValueError(f"names must be one of {tuple(NAMES)}. Received: {names!r}")
    if isinstance(config, BarkFineConfig):
        return _fine_table(config, NAMES[names])
    return _causal_table(config, NAMES[names])
