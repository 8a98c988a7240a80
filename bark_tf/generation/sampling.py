"""Choosing the next token: filters of the logits, the choice.

Axes: B batch, V candidates, T frames.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from bark_tf.generation.random import (
    WORD_BITS,
    below_maximum,
    gumbel,
    log_softmax,
    per_row,
    softmax,
)

_NEVER = -float("inf")


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
    is_early = per_row(step) < min_new_tokens
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
    is_likely = softmax(logits)[:, eos : eos + 1] > min_eos_p
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
    return below_maximum(logits) / temperature


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
    units = tf.cast(tf.round(softmax(logits) / _PROBABILITY_UNIT), tf.int32)
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
        return _highest(log_softmax(logits))[1]
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
