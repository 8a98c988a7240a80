"""The table of the recogniser behind CTC tokens, whose files have our own names."""

from __future__ import annotations

from collections.abc import Iterator

from bark_tf.config import CtcConfig

from .bark import MLP_RATIO
from .rules import Rule, Table, linear, norm


def table(config: CtcConfig) -> Table:
    """The table of one recogniser.

    Args:
        config: The recogniser's configuration.

    Returns:
        The table, with paths below `CtcModel`.
    """
    size, bias = config.hidden_size, config.bias
    rules = [*linear("front", "", (size, config.stride * config.num_mels), bias)]
    for index in range(config.num_layers):
        rules += _block(config, f"block_{index}")
    if config.output_size:
        rules += norm("norm", "", size)
        rules += linear("head", "", (config.output_size + 1, size), bias)
    return Table(tuple(rule._replace(theirs=rule.ours) for rule in rules))


def _block(config: CtcConfig, block: str) -> Iterator[Rule]:
    size, wide = config.hidden_size, MLP_RATIO * config.hidden_size
    for index in range(3):
        yield from norm(f"{block}/norm_{index}", "", size)
    for name, shape in (
        ("attention/qkv", (3 * size, size)),
        ("attention/out", (size, size)),
        ("convolution/fc", (2 * size, size)),
        ("convolution/proj", (size, size)),
        ("mlp/fc", (wide, size)),
        ("mlp/proj", (size, wide)),
    ):
        yield from linear(f"{block}/{name}", "", shape, config.bias)
    convolution = f"{block}/convolution"
    yield Rule(f"{convolution}/kernel", "", (1, config.kernel_size, size, 1))
    yield Rule(f"{convolution}/bias", "", (size,))
