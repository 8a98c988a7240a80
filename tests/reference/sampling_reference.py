"""Slow, obvious versions of `bark_tf.generation.sampling`, in float64."""

import math

import numpy as np

WORD = 2**32


def threefry(key, counter):
    """Threefry-2x32-20 on Python integers, straight from the paper."""
    keys = (key[0], key[1], key[0] ^ key[1] ^ 0x1BD11BDA)
    first, second = (counter[0] + keys[0]) % WORD, (counter[1] + keys[1]) % WORD
    for number in range(20):
        distance = (13, 15, 26, 6, 17, 29, 16, 24)[number % 8]
        first = (first + second) % WORD
        second = (second << distance) % WORD | second >> (32 - distance)
        second ^= first
        if number % 4 == 3:
            group = number // 4 + 1
            first = (first + keys[group % 3]) % WORD
            second = (second + keys[(group + 1) % 3] + group) % WORD
    return first, second


def gumbel(word):
    """The Gumbel quantile of (word + 1/2) / 2**32."""
    return -math.log(-math.log1p(-(word + 0.5) / WORD))


def probabilities(logits):
    """Softmax of one row."""
    powers = np.exp(np.float64(logits) - np.max(logits))
    return powers / powers.sum()


def penalize_repetition(logits, seen, penalty):
    return np.array(
        [
            (x * penalty if x < 0 else x / penalty) if was_seen else x
            for x, was_seen in zip(logits, seen, strict=True)
        ]
    )


def keep(logits, indices):
    """One row in which only `indices` are allowed."""
    kept = np.full(len(logits), -np.inf)
    kept[indices] = logits[indices]
    return kept


def prioritize_end(logits, eos, min_eos_p):
    return keep(logits, [eos]) if probabilities(logits)[eos] > min_eos_p else logits


def keep_top_k(logits, top_k):
    last = np.sort(logits)[::-1][min(top_k, len(logits)) - 1]
    return keep(logits, np.flatnonzero(logits >= last))


def keep_top_p(logits, top_p):
    p = probabilities(logits)
    kept = [i for i, x in enumerate(logits) if p[logits > x].sum() < top_p]
    return keep(logits, kept)


def process(logits, step, settings, eos=None, seen=None):
    """Applies all filters to one row, in order.

    `settings` holds the active filters, under the names of `SamplingRules`.
    """
    logits = np.asarray(logits, np.float64)
    if "repetition_penalty" in settings:
        logits = penalize_repetition(logits, seen, settings["repetition_penalty"])
    if step < settings.get("min_new_tokens", 0):
        logits = keep(logits, np.arange(len(logits)) != eos)
    if "min_eos_p" in settings:
        logits = prioritize_end(logits, eos, settings["min_eos_p"])
    if settings.get("do_sample"):
        logits = logits / settings["temperature"]
        if "top_k" in settings:
            logits = keep_top_k(logits, settings["top_k"])
        if "top_p" in settings:
            logits = keep_top_p(logits, settings["top_p"])
    return logits


def choose(logits, key, step, settings, eos=None, seen=None):
    """One row's token."""
    logits = process(logits, step, settings, eos, seen)
    if not settings.get("do_sample"):
        return int(np.argmax(logits))
    key = [int(word) for word in key]
    noise = [gumbel(threefry(key, (step, i))[0]) for i in range(len(logits))]
    return int(np.argmax(logits + np.array(noise)))
