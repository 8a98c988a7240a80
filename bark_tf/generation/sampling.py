"""Choosing the next token: random numbers, filters of the logits, the choice.

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

Axes: B batch, V candidates, T frames.

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

_NEVER = -float("inf")

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


def _softmax(logits):
    powers, total = _exp_and_sum(_below_maximum(logits))
    return powers / total


def _log_softmax(logits):
    shifted = _below_maximum(logits)
    return shifted - _log(*_split(_exp_and_sum(shifted)[1]))


def _below_maximum(logits):
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
        seeds, streams = [_checked_seed(item) for item in seed], np.zeros(batch)
        if len(seeds) != batch:
            raise ValueError(
                f"seed must be one number or one per row, {batch} here. "
                f"Received: {len(seeds)} seeds"
            )
    else:
        seeds, streams = [_checked_seed(seed)] * batch, np.arange(batch)
    words = np.array(seeds, np.uint64)
    low, high = words.astype(np.uint32), (words >> WORD_BITS).astype(np.uint32)
    index = np.full(batch, STAGES.index(stage), np.uint32)
    key = threefry((low, high), (streams.astype(np.uint32), index), bits=np)
    return np.stack(key, axis=-1)


def _checked_seed(seed: Any) -> int:
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
        (keys[:, :1], keys[:, 1:]), (tf.cast(_per_row(step), tf.uint32), index)
    )[0]


def _per_row(step):
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


# === Which filters, and their values ===

_SMALLEST = float(np.finfo(np.float32).tiny)  # a temperature below is 0


class SamplingRules(NamedTuple):
    """Which filters are part of a program; another set is another program.

    Attributes:
        do_sample: Whether to draw; the likeliest token otherwise.
        top_k: Whether `keep_top_k` is applied before a draw.
        top_p: Whether `keep_top_p` is applied before a draw.
        repetition_penalty: Whether `penalize_repetition` is applied.
        min_eos_p: Whether `prioritize_end` is applied.
        min_new_tokens: Whether `forbid_early_end` is applied.
    """

    do_sample: bool = False
    top_k: bool = False
    top_p: bool = False
    repetition_penalty: bool = False
    min_eos_p: bool = False
    min_new_tokens: bool = False

    @classmethod
    def of(cls, config: Any, num_candidates: int | None = None) -> SamplingRules:
        """The filters that a generation configuration asks for.

        Args:
            config: `BarkSemanticGenerationConfig` or `BarkCoarseGenerationConfig`.
            num_candidates: V, if known; a `top_k` of at least this is left out.

        Returns:
            The rules. Temperature 0 is greedy; top_k 0, top_p 1 and penalty 1 are left
            out, and a greedy choice needs neither top_k nor top_p.
        """
        do_sample = bool(config.do_sample and config.temperature >= _SMALLEST)
        limit = math.inf if num_candidates is None else num_candidates
        return cls(
            do_sample=do_sample,
            top_k=do_sample and 0 < config.top_k < limit,
            top_p=do_sample and config.top_p < 1,
            repetition_penalty=config.repetition_penalty != 1,
            min_eos_p=getattr(config, "min_eos_p", None) is not None,
            min_new_tokens=bool(getattr(config, "min_new_tokens", None)),
        )


class SamplingValues(NamedTuple):
    """The filters' values: tensors, so that a new value needs no new program.

    Each is a scalar or a column (B, 1). A value whose rule is off is not used.

    Attributes:
        temperature: float32, positive.
        top_k: int32, at least 1.
        top_p: float32 in (0, 1].
        repetition_penalty: float32, positive.
        min_eos_p: float32.
        min_new_tokens: int32.
    """

    temperature: tf.Tensor
    top_k: tf.Tensor
    top_p: tf.Tensor
    repetition_penalty: tf.Tensor
    min_eos_p: tf.Tensor
    min_new_tokens: tf.Tensor

    @classmethod
    def of(cls, config: Any) -> SamplingValues:
        """The values of a generation configuration, as scalars.

        Args:
            config: `BarkSemanticGenerationConfig` or `BarkCoarseGenerationConfig`.
        """
        min_eos_p = getattr(config, "min_eos_p", None)
        return cls(
            temperature=tf.constant(config.temperature, tf.float32),
            top_k=tf.constant(config.top_k, tf.int32),
            top_p=tf.constant(config.top_p, tf.float32),
            repetition_penalty=tf.constant(config.repetition_penalty, tf.float32),
            min_eos_p=tf.constant(1.0 if min_eos_p is None else min_eos_p, tf.float32),
            min_new_tokens=tf.constant(
                getattr(config, "min_new_tokens", None) or 0, tf.int32
            ),
        )


# === Filters, in the order in which they are applied ===


def penalize_repetition(
    logits: tf.Tensor, seen: tf.Tensor, penalty: tf.Tensor
) -> tf.Tensor:
    """Makes tokens seen before less likely.

    Args:
        logits: float32 (B, V).
        seen: bool (B, V).
        penalty: float32 () or (B, 1); positive logits are divided by it, negative ones
            multiplied.

    Returns:
        float32 (B, V).
    """
    penalized = tf.where(logits < 0, logits * penalty, logits / penalty)
    return tf.where(seen, penalized, logits)


def mark_seen(seen: tf.Tensor, tokens: tf.Tensor) -> tf.Tensor:
    """Adds one token per row to a mask of seen tokens.

    Args:
        seen: bool (B, V).
        tokens: int32 (B,); one outside [0, V), such as a pad, marks nothing.

    Returns:
        bool (B, V).
    """
    return seen | (tf.range(tf.shape(seen)[1]) == tokens[:, None])


def forbid_early_end(
    logits: tf.Tensor, step: tf.Tensor, eos: int, min_new_tokens: tf.Tensor
) -> tf.Tensor:
    """Forbids the end before a number of tokens.

    Args:
        logits: float32 (B, V).
        step: int32 () or (B,), tokens chosen so far.
        eos: Index of the end.
        min_new_tokens: int32 () or (B, 1).

    Returns:
        float32 (B, V).
    """
    is_early = _per_row(step) < min_new_tokens
    return tf.where(is_early & _is_index(eos, logits), _NEVER, logits)


def prioritize_end(logits: tf.Tensor, eos: int, min_eos_p: tf.Tensor) -> tf.Tensor:
    """Forbids everything but the end where the end is likely enough.

    Args:
        logits: float32 (B, V).
        eos: Index of the end.
        min_eos_p: float32 () or (B, 1); the end's probability must be above it.

    Returns:
        float32 (B, V).
    """
    is_likely = _softmax(logits)[:, eos : eos + 1] > min_eos_p
    return tf.where(is_likely & ~_is_index(eos, logits), _NEVER, logits)


def _is_index(index: int, logits):
    return tf.range(logits.shape[-1])[None] == index


def apply_temperature(logits: tf.Tensor, temperature: tf.Tensor) -> tf.Tensor:
    """Divides the logits by the temperature and moves their maximum to 0.

    The shift changes no probability. It comes first because small differences of large
    numbers would be lost in the division.

    Args:
        logits: float32 (..., V), one of them finite.
        temperature: float32, positive, broadcasts with `logits`.

    Returns:
        float32 (..., V), at most 0.
    """
    return _below_maximum(logits) / temperature


def keep_top_k(logits: tf.Tensor, top_k: tf.Tensor) -> tf.Tensor:
    """Forbids all but the likeliest tokens; ties with the last of them stay.

    Args:
        logits: float32 (B, V).
        top_k: int32 () or (B, 1), at least 1; V and above keep everything.

    Returns:
        float32 (B, V).
    """
    threshold = _threshold(logits, tf.ones_like(logits, tf.int32), top_k)
    return tf.where(logits >= threshold, logits, _NEVER)


# Probabilities are added up as whole multiples of this: in any order the sum is the
# same, and it fits into int32.
_PROBABILITY_UNIT = 2.0**-30


def keep_top_p(logits: tf.Tensor, top_p: tf.Tensor) -> tf.Tensor:
    """Forbids tokens when likelier ones make up a probability already.

    Args:
        logits: float32 (B, V).
        top_p: float32 () or (B, 1) in (0, 1]. A token stays if those that are
            strictly likelier have less than this in sum; so the likeliest one always
            stays, ties stay together, and 1 keeps everything.

    Returns:
        float32 (B, V).
    """
    units = tf.cast(tf.round(_softmax(logits) / _PROBABILITY_UNIT), tf.int32)
    total = tf.reduce_sum(units, -1, keepdims=True)
    target = tf.math.ceil(tf.cast(top_p, tf.float64) * tf.cast(total, tf.float64))
    threshold = _threshold(logits, units, tf.cast(target, tf.int32))
    return tf.where((logits >= threshold) | (top_p >= 1), logits, _NEVER)


_INT32_MAX = 2**31 - 1
_INT32_MIN = -(2**31)


def _threshold(logits, weights, target):
    """The largest number such that the logits from it on weigh at least `target`.

    One bit of the answer per pass over the logits: under XLA a small fraction of the
    time that sorting takes.

    Args:
        logits: float32 (B, V).
        weights: int32 (B, V), their sum at most 2**31 - 1.
        target: int32 () or (B, 1), at least 1.

    Returns:
        float32 (B, 1), one of the row's logits; -inf if all weigh too little.
    """
    ranks = _flip_negative(tf.bitcast(logits, tf.int32))
    lowest = tf.fill([tf.shape(logits)[0], 1], _INT32_MIN)

    def body(passes, threshold):
        bit = tf.bitwise.left_shift(1, WORD_BITS - 1 - passes)
        raised = tf.bitwise.bitwise_xor(threshold, bit)
        weight = tf.reduce_sum(tf.where(ranks >= raised, weights, 0), -1, keepdims=True)
        return passes + 1, tf.where(weight >= target, raised, threshold)

    _, threshold = tf.while_loop(
        lambda passes, _: passes < WORD_BITS, body, (tf.constant(0), lowest)
    )
    threshold = tf.bitcast(_flip_negative(threshold), tf.float32)
    return tf.where(tf.math.is_nan(threshold), _NEVER, threshold)


def _flip_negative(bits):
    """Turns float32 bits into integers of the same order; its own inverse."""
    sign = tf.bitwise.right_shift(bits, WORD_BITS - 1)  # 0 or -1
    return tf.bitwise.bitwise_xor(bits, tf.bitwise.bitwise_and(sign, _INT32_MAX))


# === The choice ===


def choose(
    logits: tf.Tensor,
    rules: SamplingRules,
    values: SamplingValues,
    keys: tf.Tensor | None = None,
    step: tf.Tensor | int = 0,
    *,
    eos: int | None = None,
    seen: tf.Tensor | None = None,
) -> tf.Tensor:
    """Chooses one token per row.

    From equal logits, eager TensorFlow, graphs and XLA choose equal tokens.

    Args:
        logits: float (B, V), V known; forbidden tokens are -inf.
        rules: `SamplingRules`.
        values: `SamplingValues`.
        keys: uint32 (B, 2) from `row_keys`; not used by a greedy choice.
        step: int32 () or (B,), number of this choice in the stage.
        eos: Index of the end, for `min_eos_p` and `min_new_tokens`.
        seen: bool (B, V), for `repetition_penalty`.

    Returns:
        int32 (B,), values in [0, V).

    Raises:
        ValueError: If a rule lacks its argument.

    Source: Hugging Face transformers, the order of `GenerationMixin`'s processors.
    """
    _check_arguments(rules, keys, eos, seen)
    logits = tf.cast(logits, tf.float32)
    if rules.repetition_penalty:
        logits = penalize_repetition(logits, seen, values.repetition_penalty)
    if rules.min_new_tokens:
        logits = forbid_early_end(logits, step, eos, values.min_new_tokens)
    if rules.min_eos_p:
        logits = prioritize_end(logits, eos, values.min_eos_p)
    if not rules.do_sample:
        # The normalisation can round two logits to one number, as it does elsewhere.
        return _highest(_log_softmax(logits))[1]
    logits = apply_temperature(logits, values.temperature)
    if rules.top_k:
        logits = keep_top_k(logits, values.top_k)
    if rules.top_p:
        logits = keep_top_p(logits, values.top_p)
    return _draw(logits, keys, step)


def _check_arguments(rules: SamplingRules, keys, eos, seen) -> None:
    needs = (
        (rules.do_sample, "keys", keys),
        (rules.min_eos_p or rules.min_new_tokens, "eos", eos),
        (rules.repetition_penalty, "seen", seen),
    )
    for is_needed, name, value in needs:
        if is_needed and value is None:
            raise ValueError(f"{rules} need {name}. Received: {name}=None")


# XLA vectorises a loop over a multiple of this many numbers.
_BLOCK = 128


def _draw(logits, keys, step):
    """Draws from softmax(logits), logits (B, V): the argmax of logits plus noise.

    The last V % _BLOCK candidates are scored apart: one odd number of candidates takes
    XLA several times as long as two loops, of which the long one is vectorised.
    """
    size = logits.shape[-1]
    split = size - size % _BLOCK
    best = token = None
    for start, stop in ((0, split), (split, size)):
        if start == stop:
            continue
        scores = logits[:, start:stop] + gumbel(keys, step, stop - start, start)
        score, index = _highest(scores)
        if best is None:
            best, token = score, start + index
        else:
            token = tf.where(score > best, start + index, token)
    return token


def _highest(scores):
    """The maximum of the last axis and its first index; XLA's argmax is slower."""
    best = tf.reduce_max(scores, -1, keepdims=True)
    size = scores.shape[-1]
    index = tf.reduce_min(tf.where(scores == best, tf.range(size), size - 1), -1)
    return tf.squeeze(best, -1), index


def sample_codes(
    logits: tf.Tensor, keys: tf.Tensor, step: tf.Tensor, temperature: tf.Tensor
) -> tf.Tensor:
    """Draws a code for every frame of a window, as the fine stage does.

    Args:
        logits: float (B, T, V), T and V known.
        keys: uint32 (B, 2) from `row_keys`.
        step: int32 () or (B,), window * codebooks + codebook.
        temperature: float32 (), positive.

    Returns:
        int32 (B, T), values in [0, V); independent draws. A frame's draw depends on
        its place in the window, not on T.
    """
    num_frames, size = logits.shape[1:]
    scores = apply_temperature(tf.cast(logits, tf.float32), temperature)
    noise = gumbel(keys, step, num_frames * size)
    return _highest(scores + tf.reshape(noise, (-1, num_frames, size)))[1]
