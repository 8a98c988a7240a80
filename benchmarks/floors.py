"""The least time of each stage: what it must read and multiply, and a machine's limits.

No script; others print shares of these floors. Counted are the kernels of all blocks,
the logits that can be chosen, the attention to positions that exist (half of it where
it is causal), and the codec's convolutions. A decode step takes at least as long as
reading kernels and caches once, or as multiplying for all rows; prefill and fine passes
take as long as multiplying. Work that a program saves counts as reached.
"""

from typing import NamedTuple

SEMANTIC_PROMPT, COARSE_PROMPT = 257, 257
COARSE_WINDOW, COARSE_HISTORY = 60, 630
SEMANTIC_IDS, CODES = 10_001, 1_024
FINE_FRAMES, FINE_HOP, FINE_PASSES = 1_024, 512, 6
FRAMES_PER_TOKEN = 75 / 49.9


class Limits(NamedTuple):
    """What the machine can do, in one dtype.

    Attributes:
        bytes_per_s: Read by all threads together.
        flops_per_s: Of products of large matrices.
        size: Bytes of a value.
    """

    bytes_per_s: float
    flops_per_s: float
    size: int


def blocks(part):
    """Values in the kernels of all blocks."""
    return 12 * part.num_layers * part.hidden_size**2


def step_work(part, ids, position, batch):
    """Values read, and operations, of a decode step that sees `position` positions."""
    kernels = blocks(part) + ids * part.hidden_size
    caches = 2 * part.num_layers * part.hidden_size * position
    return kernels + batch * caches, 2 * batch * (kernels + caches)


def step_s(part, ids, position, batch, limits):
    values, operations = step_work(part, ids, position, batch)
    reading = limits.size * values / limits.bytes_per_s
    return max(reading, operations / limits.flops_per_s)


def prefill_s(part, positions, batch, limits):
    attention = 2 * part.num_layers * part.hidden_size * positions**2
    return batch * (2 * blocks(part) * positions + attention) / limits.flops_per_s


def fine_pass_s(part, batch, limits):
    attention = 4 * part.num_layers * part.hidden_size * FINE_FRAMES**2
    products = 2 * (blocks(part) + CODES * part.hidden_size) * FINE_FRAMES
    return batch * (products + attention) / limits.flops_per_s


def semantic_s(part, tokens, batch, limits):
    steps = range(SEMANTIC_PROMPT, SEMANTIC_PROMPT + tokens - 1)
    decode = sum(step_s(part, SEMANTIC_IDS, n + 1, batch, limits) for n in steps)
    return prefill_s(part, SEMANTIC_PROMPT, batch, limits) + decode


def coarse_s(part, tokens, batch, limits):
    """Without a voice: caches go on until the history is longer than a window's."""
    total = 0.0
    for step in range(tokens):
        position = COARSE_PROMPT + min(step, COARSE_HISTORY + step % COARSE_WINDOW)
        is_new = step % COARSE_WINDOW == 0 and step > COARSE_HISTORY
        if step == 0 or is_new:
            total += prefill_s(part, position, batch, limits)
        else:
            total += step_s(part, CODES, position, batch, limits)
    return total


def fine_s(part, frames, batch, limits):
    windows = 1 + max(0, -(-(frames - FINE_FRAMES) // FINE_HOP))
    return FINE_PASSES * windows * fine_pass_s(part, batch, limits)


def codec_s(config, frames, batch, limits):
    """Of the decoder, whose layers double their steps and halve their width."""
    ratios, filters = config.upsampling_ratios, config.num_filters
    width = filters * 2 ** len(ratios)
    products = config.kernel_size * config.hidden_size * width * frames
    products += config.num_lstm_layers * 8 * width**2 * frames
    for ratio in ratios:
        frames, narrow = frames * ratio, width // 2
        residual = config.residual_kernel_size * narrow**2 // 2 + narrow**2 // 2
        products += frames * (2 * width * narrow + residual + narrow**2)
        width = narrow
    products += config.last_kernel_size * filters * config.audio_channels * frames
    return 2 * batch * products / limits.flops_per_s


def stages_s(config, tokens, batch, limits):
    """Stage -> least seconds, for `tokens` semantic tokens of random weights.

    Args:
        config: `BarkConfig`.
        tokens: Semantic tokens per row.
        batch: Rows.
        limits: `Limits`.
    """
    frames = int(tokens * FRAMES_PER_TOKEN)
    sizes = batch, limits
    floors = {
        "semantic": semantic_s(config.semantic_config, tokens, *sizes),
        "coarse": coarse_s(config.coarse_acoustics_config, 2 * frames, *sizes),
        "fine": fine_s(config.fine_acoustics_config, frames, *sizes),
        "codec": codec_s(config.codec_config, frames, *sizes),
    }
    floors["total"] = sum(floors.values())
    floors["prefill"] = prefill_s(config.semantic_config, SEMANTIC_PROMPT, *sizes)
    steps = max(1, tokens - 1)
    floors["step"] = (floors["semantic"] - floors["prefill"]) / steps
    return floors
