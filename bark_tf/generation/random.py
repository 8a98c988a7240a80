"""Random numbers that are the same bits everywhere, and the arithmetic they need.

Random numbers come from Threefry-2x32 with 20 rounds, a function of a key and a
counter made of integer operations. Noise and probabilities are made from operations
that round alike everywhere. So from equal logits eager TensorFlow, graphs and XLA
choose equal tokens. The layout:

=============  =======================  =========================
what           key                      counter
=============  =======================  =========================
key of a row   the row's 64-bit seed    (stream, index of stage)
draw           key of the row           (step, index)
=============  =======================  =========================

`stream` is the row number for rows that share one seed, else 0. `step` counts the
choices of a stage over all its windows; in the fine stage, which chooses a whole
window at once, it is window * codebooks + codebook, and `index` is
frame * V + candidate. So no two draws of a generation share key and counter, and a
draw depends neither on the rows around it nor on the number of candidates.

Source: Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3" (2011).
"""

from __future__ import annotations

import math
import operator
import secrets
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

STAGES = ("semantic", "coarse", "fine")

SEED_BITS = 64
WORD_BITS = 32
MANTISSA_BITS = 23  # of float32, without the leading one

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_KEY_PARITY = 0x1BD11BDA
_NUM_ROUND_GROUPS = 5  # of four rounds each

# === Arithmetic that rounds alike in eager TensorFlow, graphs and XLA ===

# log(1 + x) = x + x**2 * polynomial(x) on [1 / sqrt(2) - 1, sqrt(2) - 1] up to a
# relative error of 2e-7; minimax coefficients, highest order first.
_LOG_COEFFICIENTS = (
    -0.10347718745470047,
    0.16278930008411407,
    -0.17201612889766693,
    0.19894002377986908,
    -0.2497338205575943,
    0.33335089683532715,
    -0.5000028610229492,
)
_HALF_SQRT_BITS = int(np.float32(math.sqrt(0.5)).view(np.int32))
_BELOW_ALL = -1e30
# 1 / n! for n = 7 ... 0: exp(x) on [-log(2) / 2, log(2) / 2] up to 1e-8.
_EXP_COEFFICIENTS = tuple(1 / math.factorial(order) for order in range(7, -1, -1))
_LEAST_EXPONENT = -80.0  # of _exp; the result vanishes beside 1
_EXPONENT_BIAS = 127  # of float32
_SUM_UNIT = 2.0**-40


def _rounded(x):
    # XLA would contract a product and the sum after it into one instruction that
    # rounds once, and multiply two constants of a product first; graphs add three
    # numbers in another order than is written. A maximum that changes nothing keeps
    # them from looking further.
    return tf.maximum(x, _BELOW_ALL)


def _polynomial(coefficients, x):
    """Highest order first."""
    value = coefficients[0]
    for coefficient in coefficients[1:]:
        value = _rounded(value * x) + coefficient
    return value


def _split(x):
    """Finds rest and exponent with x = (1 + rest) * 2**exponent, rest around 0."""
    bits = tf.bitcast(x, tf.int32)
    exponent = tf.bitwise.right_shift(bits - _HALF_SQRT_BITS, MANTISSA_BITS)
    scaled = bits - tf.bitwise.left_shift(exponent, MANTISSA_BITS)
    return tf.bitcast(scaled, tf.float32) - 1.0, tf.cast(exponent, tf.float32)


def _log(rest, exponent):
    """log((1 + rest) * 2**exponent)."""
    square = rest * rest
    log_rest = rest + _rounded(_polynomial(_LOG_COEFFICIENTS, rest) * square)
    return _rounded(exponent * math.log(2)) + _rounded(log_rest)


def _exp(x):
    """exp(x) for x up to 0, and a number that vanishes beside 1 for -inf."""
    power = _rounded(tf.maximum(x, _LEAST_EXPONENT) * (1 / math.log(2)))
    exponent = tf.round(power)
    rest = _rounded((power - exponent) * math.log(2))
    bits = tf.bitwise.left_shift(
        tf.cast(exponent, tf.int32) + _EXPONENT_BIAS, MANTISSA_BITS
    )
    return _polynomial(_EXP_COEFFICIENTS, rest) * tf.bitcast(bits, tf.float32)


def _exp_and_sum(shifted):
    """Powers of the last axis and their sum, with the axis kept."""
    powers = _exp(shifted)
    # Whole numbers have the same sum in any order.
    units = tf.cast(powers / _SUM_UNIT, tf.int64)
    total = tf.reduce_sum(units, -1, keepdims=True)
    return powers, tf.cast(total, tf.float32) * _SUM_UNIT


def softmax(logits):
    """Probabilities over the last axis, the same bits everywhere."""
    powers, total = _exp_and_sum(below_maximum(logits))
    return powers / total


def log_softmax(logits):
    """Logarithms of `softmax`."""
    shifted = below_maximum(logits)
    return shifted - _log(*_split(_exp_and_sum(shifted)[1]))


def below_maximum(logits):
    """Logits whose maximum over the last axis is 0."""
    return logits - tf.reduce_max(logits, -1, keepdims=True)


# === Random numbers ===


def threefry(key: tuple, counter: tuple, bits: Any = tf.bitwise) -> tuple:
    """Threefry-2x32 with 20 rounds.

    Args:
        key: Two uint32 arrays.
        counter: Two uint32 arrays that broadcast with the key's.
        bits: Where the bitwise operations come from: `tf.bitwise` for tensors, `numpy`
            for arrays.

    Returns:
        Two uint32 arrays, uniform over all their values.
    """
    subkeys = (*key, bits.bitwise_xor(bits.bitwise_xor(*key), np.uint32(_KEY_PARITY)))
    first, second = counter[0] + subkeys[0], counter[1] + subkeys[1]
    for group in range(_NUM_ROUND_GROUPS):
        for distance in _ROTATIONS[group % 2]:
            first = first + second
            second = bits.bitwise_xor(_rotate(second, distance, bits), first)
        first = first + subkeys[(group + 1) % 3]
        second = second + subkeys[(group + 2) % 3] + np.uint32(group + 1)
    return first, second


def _rotate(word, distance: int, bits):
    left = bits.left_shift(word, np.uint32(distance))
    right = bits.right_shift(word, np.uint32(WORD_BITS - distance))
    return bits.bitwise_or(left, right)


def row_keys(seed: int | Sequence[int] | None, batch: int, stage: str) -> np.ndarray:
    """The random keys of a batch's rows in one stage.

    Row i of an int seed is the seed's i-th stream, whatever the batch size. A list
    gives each row a seed of its own: an entry does what the same int does to row 0.

    Args:
        seed: Whole number in [0, 2**64), a sequence of `batch` of them, or None for
            fresh entropy.
        batch: B.
        stage: `"semantic"`, `"coarse"` or `"fine"`.

    Returns:
        uint32 (B, 2).

    Raises:
        ValueError: If a seed is not a whole number in range, their count is not
            `batch`, or there is no such stage.

    Example:
        >>> row_keys([5, 7], 2, "semantic")[1] == row_keys(7, 1, "semantic")[0]
        array([ True,  True])
    """
    if stage not in STAGES:
        raise ValueError(f"stage must be one of {STAGES}. Received: stage={stage!r}")
    if seed is None:
        seed = secrets.randbits(SEED_BITS)
    if np.ndim(seed):
        seeds, streams = [checked_seed(item) for item in seed], np.zeros(batch)
        if len(seeds) != batch:
            raise ValueError(
                f"seed must be one number or one per row, {batch} here. "
                f"Received: {len(seeds)} seeds"
            )
    else:
        seeds, streams = [checked_seed(seed)] * batch, np.arange(batch)
    words = np.array(seeds, np.uint64)
    low, high = words.astype(np.uint32), (words >> WORD_BITS).astype(np.uint32)
    index = np.full(batch, STAGES.index(stage), np.uint32)
    key = threefry((low, high), (streams.astype(np.uint32), index), bits=np)
    return np.stack(key, axis=-1)


class Keys(NamedTuple):
    """The random keys of a batch's rows, uint32 (B, 2) for each stage that draws."""

    semantic: Any
    coarse: Any
    fine: Any


def keys_of(seed: int | Sequence[int] | None, batch: int) -> Keys:
    """The `row_keys` of all stages; without a seed, all of one that is drawn."""
    seed = secrets.randbits(SEED_BITS) if seed is None else seed
    return Keys(*(row_keys(seed, batch, stage) for stage in STAGES))


def checked_seed(seed: Any) -> int:
    """A seed as an int; ValueError unless it is a whole number in [0, 2**64)."""
    try:
        number = operator.index(seed)
    except TypeError:
        number = -1
    if isinstance(seed, bool) or not 0 <= number < 2**SEED_BITS:
        raise ValueError(
            f"seed must be whole numbers in [0, 2**{SEED_BITS}). Received: {seed!r}"
        )
    return number


def random_bits(keys: tf.Tensor, step: tf.Tensor, num: int, first: int = 0):
    """Uniform 32-bit words.

    Args:
        keys: uint32 (B, 2).
        step: int () or (B,), at least 0; the counter's first word.
        num: How many words per row.
        first: Index of the first of them; the counter's second word.

    Returns:
        uint32 (B, num). Word i of a row is a function of its key, its step and
        `first + i` alone.
    """
    keys = tf.convert_to_tensor(keys, tf.uint32)
    index = tf.cast(tf.range(first, first + num), tf.uint32)[None]
    return threefry(
        (keys[:, :1], keys[:, 1:]), (tf.cast(per_row(step), tf.uint32), index)
    )[0]


def per_row(step):
    """A scalar, or one number per row as a column."""
    step = tf.convert_to_tensor(step)
    return step[:, None] if step.shape.rank else step


def uniform(keys: tf.Tensor, step: tf.Tensor, num: int) -> tf.Tensor:
    """Uniform numbers strictly between 0 and 1, the same bits everywhere.

    Args:
        keys: uint32 (B, 2).
        step: int () or (B,), at least 0.
        num: How many per row.

    Returns:
        float32 (B, num), odd multiples of 2**-24.
    """
    words = random_bits(keys, step, num)
    top = tf.bitwise.right_shift(words, np.uint32(WORD_BITS - MANTISSA_BITS))
    return (tf.cast(top, tf.float32) + 0.5) * 2.0**-MANTISSA_BITS


def gumbel(keys: tf.Tensor, step: tf.Tensor, num: int, first: int = 0) -> tf.Tensor:
    """Standard Gumbel noise, the same bits everywhere.

    Args:
        keys: uint32 (B, 2).
        step: int () or (B,), at least 0.
        num: How many numbers per row.
        first: Index of the first of them.

    Returns:
        float32 (B, num) in (-3.2, 22.9), made from 32 random bits each. The upper tail,
        which decides an argmax, is the finer one: its probabilities are multiples of
        2**-32.
    """
    keys, step = tf.convert_to_tensor(keys, tf.uint32), tf.convert_to_tensor(step)
    return _gumbel(keys, step, num, first)


# Of its own, so that a prompt's program and the loop's share one trace.
@tf.function(autograph=False)
def _gumbel(keys, step, num: int, first: int):
    return _gumbel_from_bits(random_bits(keys, step, num, first))


def _gumbel_from_bits(words):
    """-log(-log(1 - p)) of the probability p = (word + 1/2) / 2**32."""
    above = _fraction(words)
    below = _fraction(tf.bitwise.invert(words))  # 1 - p
    rest, exponent = _split(below)
    # Near 1 the float `below` has lost the small p, so that p itself is used.
    rest = tf.where(exponent == 0, -above, rest)
    exponential = -_log(rest, exponent)
    return -_log(*_split(exponential))


def _fraction(words):
    return (tf.cast(words, tf.float32) + 0.5) * 2.0**-WORD_BITS
