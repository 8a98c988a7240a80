"""Choosing the next token: logit filters, then greedy choice or sampling.

Axes: B batch, V candidates, T frames.
"""

from __future__ import annotations

import math
from collections.abc import Callable
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


# === Settings ===

_SMALLEST = float(np.finfo(np.float32).tiny)  # lower temperatures count as 0


class SamplingRules(NamedTuple):
    """Which filters a compiled program contains; each set needs its own program."""

    do_sample: bool = False  # sample, rather than choose the likeliest token
    top_k: bool = False  # `keep_top_k`
    top_p: bool = False  # `keep_top_p`
    repetition_penalty: bool = False  # `penalize_repetition`
    min_eos_p: bool = False  # `prioritize_end`
    min_new_tokens: bool = False  # `forbid_early_end`
    by_row: bool = False  # rows of temperature 0 choose the likeliest token

    @classmethod
    def of(
        cls, config: Any, num_candidates: int | None = None, *, by_row: bool = False
    ) -> SamplingRules:
        """Selects the filters that a generation configuration needs.

        Temperature 0 is greedy, which needs neither top_k nor top_p. Values that have
        no effect (top_k 0, top_p 1, penalty 1) are left out.

        Args:
            config: `BarkSemanticGenerationConfig` or `BarkCoarseGenerationConfig`.
            num_candidates: V, if known; a `top_k` of at least V is left out.
            by_row: Whether rows have their own temperature, which alone decides whether
                they are sampled, and their own `min_new_tokens`.
        """
        do_sample = bool(config.do_sample and config.temperature >= _SMALLEST) or by_row
        limit = math.inf if num_candidates is None else num_candidates
        return cls(
            do_sample=do_sample,
            top_k=do_sample and 0 < config.top_k < limit,
            top_p=do_sample and config.top_p < 1,
            repetition_penalty=config.repetition_penalty != 1,
            min_eos_p=getattr(config, "min_eos_p", None) is not None,
            min_new_tokens=hasattr(config, "min_new_tokens")
            and bool(config.min_new_tokens or by_row),
            by_row=by_row,
        )


class SamplingValues(NamedTuple):
    """Filter parameters as tensors, so that new values need no new program.

    Each is a scalar or a column (B, 1), and is ignored if its rule is off.
    """

    temperature: tf.Tensor  # float32, positive; at least 0 with `by_row`
    top_k: tf.Tensor  # int32, at least 1
    top_p: tf.Tensor  # float32 in (0, 1]
    repetition_penalty: tf.Tensor  # float32, positive
    min_eos_p: tf.Tensor  # float32
    min_new_tokens: tf.Tensor  # int32

    @classmethod
    def of(cls, config: Any) -> SamplingValues:
        """Reads the values of a generation configuration, as scalars."""
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

    def with_rows(self, temperature, min_new_tokens=None) -> SamplingValues:
        """The values with (B,) temperatures and `min_new_tokens` of the rows."""
        values = self._replace(temperature=temperature[:, None])
        if min_new_tokens is None:
            return values
        return values._replace(min_new_tokens=min_new_tokens[:, None])


# === Filters, in order of application ===


def penalize_repetition(
    logits: tf.Tensor, seen: tf.Tensor, penalty: tf.Tensor
) -> tf.Tensor:
    """Makes tokens less likely that were chosen before.

    Args:
        logits: float32 (B, V).
        seen: bool (B, V).
        penalty: float32 () or (B, 1); divides positive logits, multiplies negative.

    Returns:
        float32 (B, V).
    """
    penalized = tf.where(logits < 0, logits * penalty, logits / penalty)
    return tf.where(seen, penalized, logits)


def mark_seen(seen: tf.Tensor, tokens: tf.Tensor) -> tf.Tensor:
    """Adds one token per row to a mask of seen tokens.

    Args:
        seen: bool (B, V).
        tokens: int32 (B,); tokens outside [0, V), such as padding, are ignored.

    Returns:
        bool (B, V).
    """
    return seen | (tf.range(tf.shape(seen)[1]) == tokens[:, None])


def forbid_early_end(
    logits: tf.Tensor, step: tf.Tensor, eos: int, min_new_tokens: tf.Tensor
) -> tf.Tensor:
    """Forbids the end token until `min_new_tokens` tokens are chosen.

    Args:
        logits: float32 (B, V).
        step: int32 () or (B,), tokens chosen so far.
        eos: Index of the end token.
        min_new_tokens: int32 () or (B, 1).

    Returns:
        float32 (B, V).
    """
    is_early = per_row(step) < min_new_tokens
    return tf.where(is_early & _is_index(eos, logits), _NEVER, logits)


def prioritize_end(logits: tf.Tensor, eos: int, min_eos_p: tf.Tensor) -> tf.Tensor:
    """Forces the end token where its probability exceeds `min_eos_p`.

    Args:
        logits: float32 (B, V).
        eos: Index of the end token.
        min_eos_p: float32 () or (B, 1).

    Returns:
        float32 (B, V).
    """
    is_likely = softmax(logits)[:, eos : eos + 1] > min_eos_p
    return tf.where(is_likely & ~_is_index(eos, logits), _NEVER, logits)


def _is_index(index: int, logits):
    return tf.range(logits.shape[-1])[None] == index


def apply_temperature(logits: tf.Tensor, temperature: tf.Tensor) -> tf.Tensor:
    """Divides the logits by the temperature, after shifting their maximum to 0.

    The shift changes no probability, and keeps small differences between large logits
    through the division.

    Args:
        logits: float32 (..., V), at least one finite.
        temperature: float32, positive, broadcasts with `logits`.

    Returns:
        float32 (..., V), at most 0.
    """
    return below_maximum(logits) / temperature


def keep_top_k(logits: tf.Tensor, top_k: tf.Tensor) -> tf.Tensor:
    """Keeps the `top_k` likeliest tokens, and any tied with the last of them.

    Args:
        logits: float32 (B, V).
        top_k: int32 () or (B, 1), at least 1; V or more keeps everything.

    Returns:
        float32 (B, V).
    """
    threshold = _threshold(logits, tf.ones_like(logits, tf.int32), top_k)
    return tf.where(logits >= threshold, logits, _NEVER)


# Probabilities are summed as integer multiples of this, which fits int32 and does not
# depend on the order.
_PROBABILITY_UNIT = 2.0**-30


def keep_top_p(logits: tf.Tensor, top_p: tf.Tensor) -> tf.Tensor:
    """Keeps the likeliest tokens whose probabilities sum to `top_p`.

    Args:
        logits: float32 (B, V).
        top_p: float32 () or (B, 1) in (0, 1]. A token stays if all strictly likelier
            ones sum to less than this: the likeliest token always stays, ties stay
            together, and 1 keeps everything.

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
    """Finds the largest threshold at or above which logits weigh at least `target`.

    Each pass over the logits finds one bit of it, far faster than sorting under XLA.

    Args:
        logits: float32 (B, V).
        weights: int32 (B, V), their sum at most 2**31 - 1.
        target: int32 () or (B, 1), at least 1.

    Returns:
        float32 (B, 1), one of the row's logits; -inf if the total is below `target`.
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
    """Maps float32 bits to integers in the same order; its own inverse."""
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

    Equal logits give equal tokens in eager TensorFlow, graphs and XLA.

    Args:
        logits: float (B, V), V known; forbidden tokens are -inf.
        rules: `SamplingRules`.
        values: `SamplingValues`.
        keys: uint32 (B, 2) from `row_keys`; unused by greedy choice.
        step: int32 () or (B,), index of this choice in the stage.
        eos: Index of the end token, for `min_eos_p` and `min_new_tokens`.
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
        return _likeliest(logits)
    if rules.by_row:
        return by_temperature(
            logits,
            values.temperature[:, 0],
            lambda: _likeliest(logits),
            lambda heat: _sampled(
                logits, rules, values._replace(temperature=heat[:, None]), keys, step
            ),
        )
    return _sampled(logits, rules, values, keys, step)


def _likeliest(logits):
    # Normalising can round two logits to a tie, as it does elsewhere.
    return _highest(log_softmax(logits))[1]


def _sampled(logits, rules, values, keys, step):
    logits = apply_temperature(logits, values.temperature)
    if rules.top_k:
        logits = keep_top_k(logits, values.top_k)
    if rules.top_p:
        logits = keep_top_p(logits, values.top_p)
    return _draw(logits, keys, step)


def by_temperature(
    logits: tf.Tensor, temperature: tf.Tensor, greedy: Callable, sampled: Callable
) -> tf.Tensor:
    """Chooses greedily in rows of temperature 0, and samples in the others.

    Args:
        logits: (B, ..., V).
        temperature: float32 (B,), at least 0.
        greedy: Returns the greedy choices, int32 (B, ...).
        sampled: Returns the samples at positive temperatures (B,), int32 (B, ...).

    Returns:
        int32 (B, ...). What no row needs is not computed.
    """
    is_greedy = temperature < _SMALLEST
    heat = tf.where(is_greedy, 1.0, temperature)

    def unused():
        return tf.zeros(tf.shape(logits)[:-1], tf.int32)

    likeliest = tf.cond(tf.reduce_any(is_greedy), greedy, unused)
    drawn = tf.cond(tf.reduce_all(is_greedy), unused, lambda: sampled(heat))
    rows = tf.reshape(is_greedy, [-1] + [1] * (logits.shape.rank - 2))
    return tf.where(rows, likeliest, drawn)


def _check_arguments(rules: SamplingRules, keys, eos, seen) -> None:
    needs = (
        (rules.do_sample, "keys", keys),
        (rules.min_eos_p or rules.min_new_tokens, "eos", eos),
        (rules.repetition_penalty, "seen", seen),
    )
    for is_needed, name, value in needs:
        if is_needed and value is None:
            raise ValueError(f"{rules} need {name}. Received: {name}=None")


# XLA vectorises loops over multiples of this length.
_BLOCK = 128


def _draw(logits, keys, step):
    """Samples from softmax(logits), logits (B, V), with the Gumbel-max trick.

    The last V % _BLOCK candidates are scored separately, so that XLA vectorises the
    long loop; a single loop over all of them takes several times as long.
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
    """Maximum over the last axis and its first index; faster than XLA's argmax."""
    best = tf.reduce_max(scores, -1, keepdims=True)
    size = scores.shape[-1]
    index = tf.reduce_min(tf.where(scores == best, tf.range(size), size - 1), -1)
    return tf.squeeze(best, -1), index


def sample_codes(
    logits: tf.Tensor,
    keys: tf.Tensor,
    step: tf.Tensor,
    temperature: tf.Tensor,
    first: tf.Tensor | int = 0,
) -> tf.Tensor:
    """Samples a code for T frames of a window, for the fine stage.

    Args:
        logits: float (B, T, V), V known.
        keys: uint32 (B, 2) from `row_keys`.
        step: int32 () or (B,), window * codebooks + codebook.
        temperature: float32 () or (B,), positive.
        first: Position in the window of the first frame; int or int32 () or (B,).

    Returns:
        int32 (B, T), values in [0, V), drawn independently. A frame's draw depends on
        its position in the window, not on T.
    """
    num_frames, size = logits.shape[1] or tf.shape(logits)[1], logits.shape[2]
    heat = temperature if temperature.shape.rank == 0 else temperature[:, None, None]
    scores = apply_temperature(tf.cast(logits, tf.float32), heat)
    noise = gumbel(keys, step, num_frames * size, first * size)
    return _highest(scores + tf.reshape(noise, (-1, num_frames, size)))[1]
