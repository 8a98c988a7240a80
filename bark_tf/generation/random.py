"""Bit-exact random numbers, and the arithmetic they need.

Threefry-2x32 with 20 rounds turns a key and a counter into random bits with integer
operations alone. Noise and probabilities use only operations that round identically
in eager TensorFlow, graphs and XLA, so equal logits give equal tokens. The layout:

=============  =======================  =========================
what           key                      counter
=============  =======================  =========================
key of a row   the row's 64-bit seed    (stream, index of stage)
draw           key of the row           (step, index)
=============  =======================  =========================

`stream` is the row number if rows share one seed, else 0. `step` counts a stage's
choices across windows. The fine stage samples a whole window at once: its `step` is
window * codebooks + codebook and its `index` is frame * V + candidate. No two draws
share key and counter, and no draw depends on other rows or the candidate count.

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

# === Arithmetic that rounds identically everywhere ===

# log(1 + x) = x + x**2 * polynomial(x) on [1 / sqrt(2) - 1, sqrt(2) - 1], with a
# relative error below 2e-7; minimax coefficients, highest order first.
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
# 1 / n! for n = 7 ... 0: exp(x) on [-log(2) / 2, log(2) / 2] to within 1e-8.
_EXP_COEFFICIENTS = tuple(1 / math.factorial(order) for order in range(7, -1, -1))
_LEAST_EXPONENT = -80.0  # of _exp; the result is negligible beside 1
_EXPONENT_BIAS = 127  # of float32
_SUM_UNIT = 2.0**-40


def _rounded(x):
    # XLA fuses multiply-add, which rounds only once, and folds constants; graphs
    # reorder sums of three. A maximum that changes nothing prevents both.
    return tf.maximum(x, _BELOW_ALL)


def _polynomial(coefficients, x):
    """Evaluates a polynomial; highest order first."""
    value = coefficients[0]
    for coefficient in coefficients[1:]:
        value = _rounded(value * x) + coefficient
    return value


def _split(x):
    """Splits x into (1 + rest) * 2**exponent, with `rest` near 0."""
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
    """exp(x) for x <= 0; negligible beside 1 for -inf."""
    power = _rounded(tf.maximum(x, _LEAST_EXPONENT) * (1 / math.log(2)))
    exponent = tf.round(power)
    rest = _rounded((power - exponent) * math.log(2))
    bits = tf.bitwise.left_shift(
        tf.cast(exponent, tf.int32) + _EXPONENT_BIAS, MANTISSA_BITS
    )
    return _polynomial(_EXP_COEFFICIENTS, rest) * tf.bitcast(bits, tf.float32)


def _exp_and_sum(shifted):
    """Exponentials and their sum over the last axis, which is kept."""
    powers = _exp(shifted)
    # An integer sum does not depend on the order.
    units = tf.cast(powers / _SUM_UNIT, tf.int64)
    total = tf.reduce_sum(units, -1, keepdims=True)
    return powers, tf.cast(total, tf.float32) * _SUM_UNIT


def softmax(logits):
    """Bit-exact softmax over the last axis."""
    powers, total = _exp_and_sum(below_maximum(logits))
    return powers / total


def log_softmax(logits):
    """Bit-exact log-softmax over the last axis."""
    shifted = below_maximum(logits)
    return shifted - _log(*_split(_exp_and_sum(shifted)[1]))


def below_maximum(logits):
    """Shifts logits so that their maximum over the last axis is 0."""
    return logits - tf.reduce_max(logits, -1, keepdims=True)


# === Random numbers ===


def threefry(key: tuple, counter: tuple, bits: Any = tf.bitwise) -> tuple:
    """Threefry-2x32 with 20 rounds.

    Args:
        key: Two uint32 arrays.
        counter: Two uint32 arrays that broadcast with the key.
        bits: Bitwise operations: `tf.bitwise` for tensors, `numpy` for arrays.

    Returns:
        Two uint32 arrays of uniform random bits.
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
    """Derives the random keys of a batch for one stage.

    With one seed, row i uses stream i, whatever the batch size. With a list, each row
    uses stream 0 of its own seed.

    Args:
        seed: Integer in [0, 2**64), a sequence of `batch` of them, or None for fresh
            entropy.
        batch: B.
        stage: `"semantic"`, `"coarse"` or `"fine"`.

    Returns:
        uint32 (B, 2).

    Raises:
        ValueError: If a seed is out of range or not an integer, the number of seeds
            is not `batch`, or the stage is unknown.

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
                f"seed must be one integer or one for each of {batch} rows. "
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
    """Random keys per stage, each uint32 (B, 2)."""

    semantic: Any
    coarse: Any
    fine: Any


def keys_of(seed: int | Sequence[int] | None, batch: int) -> Keys:
    """`row_keys` for all stages; None draws one seed for all of them."""
    seed = secrets.randbits(SEED_BITS) if seed is None else seed
    return Keys(*(row_keys(seed, batch, stage) for stage in STAGES))


def keys_of_rows(seeds: tf.Tensor, streams: tf.Tensor) -> Keys:
    """The keys of rows with seeds of their own, as tensors.

    Args:
        seeds: int64 (B,); those of 2**63 and above in two's complement.
        streams: int32 (B,), 0 for a list of seeds and the row's number for one seed of
            all rows; see `row_keys`.
    """
    words = tf.bitcast(seeds, tf.uint32)  # (B, 2), low and high
    key, streams = (words[:, 0], words[:, 1]), tf.cast(streams, tf.uint32)
    stages = (
        tf.fill(tf.shape(streams), np.uint32(index)) for index in range(len(STAGES))
    )
    return Keys(*(tf.stack(threefry(key, (streams, stage)), -1) for stage in stages))


def checked_seed(seed: Any) -> int:
    """Returns a seed as an int; ValueError unless it is an integer in [0, 2**64)."""
    try:
        number = operator.index(seed)
    except TypeError:
        number = -1
    if isinstance(seed, bool) or not 0 <= number < 2**SEED_BITS:
        raise ValueError(
            f"seed must be an integer in [0, 2**{SEED_BITS}). Received: {seed!r}"
        )
    return number


def random_bits(keys: tf.Tensor, step: tf.Tensor, num: Any, first: Any = 0):
    """Draws uniform 32-bit words.

    Args:
        keys: uint32 (B, 2).
        step: int () or (B,), at least 0; the counter's first word.
        num: Words per row; int or int32 ().
        first: Index of the first word, the counter's second word; int or int32 () or
            (B,).

    Returns:
        uint32 (B, num). Word i depends only on the row's key and step and `first + i`.
    """
    keys = tf.convert_to_tensor(keys, tf.uint32)
    index = per_row(first) + tf.range(num)[None]
    return _words(keys, per_row(step), index)


def _words(keys, step, index):
    """`random_bits` for int steps () or (B, 1) and indices (1 or B, num)."""
    counter = tf.cast(step, tf.uint32), tf.cast(index, tf.uint32)
    return threefry((keys[:, :1], keys[:, 1:]), counter)[0]


def per_row(step):
    """Turns (B,) into a column (B, 1); leaves a scalar."""
    step = tf.convert_to_tensor(step)
    return step[:, None] if step.shape.rank else step


def uniform(keys: tf.Tensor, step: tf.Tensor, num: int) -> tf.Tensor:
    """Draws bit-exact uniform numbers strictly between 0 and 1.

    Args:
        keys: uint32 (B, 2).
        step: int () or (B,), at least 0.
        num: Numbers per row.

    Returns:
        float32 (B, num), odd multiples of 2**-24.
    """
    words = random_bits(keys, step, num)
    top = tf.bitwise.right_shift(words, np.uint32(WORD_BITS - MANTISSA_BITS))
    return (tf.cast(top, tf.float32) + 0.5) * 2.0**-MANTISSA_BITS


def gumbel(keys: tf.Tensor, step: tf.Tensor, num: Any, first: Any = 0) -> tf.Tensor:
    """Draws bit-exact standard Gumbel noise.

    Args:
        keys: uint32 (B, 2).
        step: int () or (B,), at least 0.
        num: Numbers per row; int or int32 ().
        first: Index of the first number; int or int32 () or (B,).

    Returns:
        float32 (B, num) in (-3.2, 22.9), each from 32 random bits. The upper tail,
        which decides an argmax, has the full resolution of 2**-32 in probability.
    """
    keys = tf.convert_to_tensor(keys, tf.uint32)
    step = tf.reshape(tf.cast(step, tf.int32), (-1, 1))
    index = per_row(first) + tf.range(num)[None]
    noise = _gumbel(keys, step, index)
    return tf.ensure_shape(noise, (keys.shape[0], index.shape[1]))


# Hundreds of small operations, so one trace serves all programs.
@tf.function(
    autograph=False,
    input_signature=[
        tf.TensorSpec((None, 2), tf.uint32),
        tf.TensorSpec((None, 1), tf.int32),
        tf.TensorSpec((None, None), tf.int32),
    ],
    experimental_attributes={"_noinline": True},
)
def _gumbel(keys, step, index):
    return _gumbel_from_bits(_words(keys, step, index))


def _gumbel_from_bits(words):
    """-log(-log(1 - p)) of the probability p = (word + 1/2) / 2**32."""
    above = _fraction(words)
    below = _fraction(tf.bitwise.invert(words))  # 1 - p
    rest, exponent = _split(below)
    # Near 1, rounding `below` loses the small p, so use p itself.
    rest = tf.where(exponent == 0, -above, rest)
    exponential = -_log(rest, exponent)
    return -_log(*_split(exponential))


def _fraction(words):
    return (tf.cast(words, tf.float32) + 0.5) * 2.0**-WORD_BITS
