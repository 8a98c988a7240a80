"""Suno's three stages, token by token: slow, greedy, one row, NumPy.

Written from a description of suno-ai/bark's `generation.py`, independently of
`bark_tf`. There is no cache: each token reads its whole prompt again. The networks are
plain functions:

* `embed(ids)` -> (time, hidden), the token embeddings of the semantic network;
* `semantic_logits(embeddings)` and `coarse_logits(ids)` -> (vocabulary,), the logits
  of the last position;
* `fine_logits(codebook, codes)` -> (time, vocabulary), for codes (time, codebooks).

Differs: a history too short for one semantic token counts as no history (in Suno's
code, the slice of its last 0 items is the whole).
"""

import math
from typing import NamedTuple

import numpy as np


class Numbers(NamedTuple):
    """The constants of Suno's code; the defaults are Bark's."""

    text_encoding_offset: int = 10_048
    semantic_pad_token: int = 10_000
    text_pad_token: int = 129_595
    semantic_infer_token: int = 129_599
    semantic_vocab_size: int = 10_000
    semantic_rate_hz: float = 49.9
    max_text: int = 256
    codebook_size: int = 1024
    num_coarse: int = 2
    num_fine: int = 8
    coarse_rate_hz: float = 75
    coarse_semantic_pad_token: int = 12_048
    coarse_infer_token: int = 12_050
    max_coarse_input: int = 256
    max_coarse_history: int = 630
    sliding_window_len: int = 60
    fine_window: int = 1024
    fine_hop: int = 512

    @property
    def ratio(self):
        """Coarse tokens per semantic token."""
        return self.coarse_rate_hz / self.semantic_rate_hz * self.num_coarse


def padded(ids, length, value):
    return [*ids[:length], *[value] * (length - len(ids))]


# === Semantic ===


def semantic(text_ids, embed, semantic_logits, n, max_new_tokens, history=None):
    """Semantic tokens of one text, without the end; `text_ids` has no padding."""
    text = [int(i) + n.text_encoding_offset for i in text_ids]
    text = padded(text, n.max_text, n.text_pad_token)
    past = [] if history is None else [int(i) for i in history][-n.max_text :]
    past = padded(past, n.max_text, n.semantic_pad_token)
    sequence = [*(embed(text) + embed(past)), embed([n.semantic_infer_token])[0]]
    allowed = [*range(n.semantic_vocab_size), n.semantic_pad_token]
    tokens = []
    while len(tokens) < max_new_tokens:
        logits = semantic_logits(np.stack(sequence))
        token = allowed[int(np.argmax(logits[allowed]))]
        if token == n.semantic_pad_token:
            break
        tokens.append(token)
        sequence.append(embed([token])[0])
    return tokens


# === Coarse ===


def coarse_history(history, n):
    """The semantic and coarse tokens that precede the row's own."""
    if history is None:
        return [], []
    semantic_past = [int(i) for i in history["semantic_prompt"]]
    codes = np.array(history["coarse_prompt"])
    flat = []
    for frame in codes.T:
        for book, code in enumerate(frame):
            flat.append(n.semantic_vocab_size + book * n.codebook_size + int(code))
    count = min(
        math.floor(n.max_coarse_history / n.ratio),
        len(semantic_past) - len(semantic_past) % 2,
        math.floor(len(flat) / n.ratio),
    )
    if count == 0:
        return [], []
    flat = flat[-round(count * n.ratio) :]
    return semantic_past[-count:], flat[: -n.num_coarse]


def coarse(semantic_tokens, coarse_logits, n, history=None):
    """Codes (num_coarse, frames) of one row."""
    semantic_past, flat = coarse_history(history, n)
    whole = [*semantic_past, *map(int, semantic_tokens)]
    max_past = math.floor(n.max_coarse_history / n.ratio)
    frames = math.floor(len(semantic_tokens) * n.ratio / n.num_coarse)
    new = []
    while len(new) < frames * n.num_coarse:
        if len(new) % n.sliding_window_len == 0:
            now = len(semantic_past) + round(len(new) / n.ratio)
            shown = whole[max(0, now - max_past) :]
            window = padded(shown, n.max_coarse_input, n.coarse_semantic_pad_token)
            window.append(n.coarse_infer_token)
            window += [*flat, *new][-n.max_coarse_history :]
        book = len(new) % n.num_coarse
        first = n.semantic_vocab_size + book * n.codebook_size
        logits = coarse_logits(np.array(window))[first : first + n.codebook_size]
        new.append(first + int(np.argmax(logits)))
        window.append(new[-1])
    codes = np.array(new, int).reshape(frames, n.num_coarse).T - n.semantic_vocab_size
    return codes - n.codebook_size * np.arange(n.num_coarse)[:, None]


# === Fine ===


def fine(coarse_codes, fine_logits, n, history=None):
    """Codes (num_fine, frames) of one row."""
    frames = coarse_codes.shape[1]
    past = np.zeros((0, n.num_fine), int)
    if history is not None:
        past = np.array(history["fine_prompt"]).T[-n.fine_hop :]
    buffer = np.full((frames, n.num_fine), n.codebook_size)
    buffer[:, : n.num_coarse] = coarse_codes.T
    buffer = np.concatenate([past, buffer])
    missing = max(0, n.fine_window - len(buffer))
    empty = np.full((missing, n.num_fine), n.codebook_size)
    buffer = np.concatenate([buffer, empty])
    beyond_first = frames - (n.fine_window - len(past))
    for loop in range(max(0, math.ceil(beyond_first / n.fine_hop)) + 1):
        start = min(loop * n.fine_hop, len(buffer) - n.fine_window)
        fill = min(len(past) + loop * n.fine_hop, len(buffer) - n.fine_hop)
        window = buffer[start : start + n.fine_window].copy()
        for book in range(n.num_coarse, n.num_fine):
            logits = fine_logits(book, window)[:, : n.codebook_size]
            window[fill - start :, book] = np.argmax(logits, axis=1)[fill - start :]
        buffer[fill : start + n.fine_window] = window[fill - start :]
    return buffer[len(past) : len(past) + frames].T
