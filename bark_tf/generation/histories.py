"""The inputs of a call as arrays: texts, and the voices before them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bark_tf.generation.random import Keys
from bark_tf.voices.presets import VoicePreset, load_voices

# What `VoicePreset.load` does not check where the other stages are unknown.
_NO_LIMITS = dict.fromkeys(
    (
        "semantic_vocab_size",
        "codebook_size",
        "num_coarse",
        "num_fine",
        "frames_per_token",
    )
)


class Histories(NamedTuple):
    """The voices that a batch continues from; rows are padded with 0 at the end.

    Axes: B batch, K coarse codebooks, N fine codebooks.

    Attributes:
        semantic: int32 (B, tokens), 49.9 Hz.
        num_semantic: int32 (B,), semantic tokens per row; 0 without a voice.
        coarse: int32 (B, K, frames), 75 Hz.
        num_coarse: int32 (B,), frames of `coarse` per row; 0 without a voice.
        fine: int32 (B, N, frames), 75 Hz.
        num_fine: int32 (B,), frames of `fine` per row.
    """

    semantic: Any
    num_semantic: Any
    coarse: Any
    num_coarse: Any
    fine: Any
    num_fine: Any


class RowOptions(NamedTuple):
    """Options of each row, in place of the configurations'; tensors.

    Attributes:
        semantic_temperature: float32 (B,), at least 0; 0 is greedy, others sample.
        coarse_temperature: The same for the coarse stage.
        fine_temperature: The same for the fine stage.
        min_new_tokens: int32 (B,), fewest semantic tokens before the end.
        max_new_tokens: int32 (B,), most semantic tokens, including the end.
    """

    semantic_temperature: Any
    coarse_temperature: Any
    fine_temperature: Any
    min_new_tokens: Any
    max_new_tokens: Any


class Request(NamedTuple):
    """The inputs of a call; tensors.

    Attributes:
        text_ids: int32 (B, time), the tokenizer's ids.
        attention_mask: (B, time), 0 where `text_ids` is padding; None: nowhere.
        histories: `Histories`, the rows' voices.
        keys: `Keys`, the rows' random keys.
    """

    text_ids: Any
    attention_mask: Any
    histories: Histories
    keys: Keys


def voices_per_row(history_prompt: Any, batch: int) -> list[Any]:
    """One voice per row, in any form; a single voice is used for all rows.

    Raises:
        ValueError: If a list has another length than the batch, or this is no voice.
    """
    if history_prompt is None or isinstance(
        history_prompt, str | os.PathLike | Mapping
    ):
        return [history_prompt] * batch
    if not isinstance(history_prompt, list | tuple):
        raise ValueError(
            "history_prompt must be the name of a voice, a path, a mapping of its "
            "arrays, a VoicePreset, or a list with one of these per row. "
            f"Received: {type(history_prompt).__name__}"
        )
    if len(history_prompt) != batch:
        raise ValueError(
            f"history_prompt must hold one voice per row, {batch} of them. "
            f"Received: {len(history_prompt)}"
        )
    return list(history_prompt)


def loaded_voices(voices: Sequence[Any]) -> list[Mapping[str, Any] | None]:
    """Loads the voices that are names of Suno's, or paths.

    A sub-model knows no checkpoint, and only its own sizes.
    """

    def load(voice: Any) -> Mapping[str, Any]:
        if isinstance(voice, Mapping):
            return voice
        return VoicePreset.load(voice, **_NO_LIMITS)

    return load_voices(voices, load)


def histories_of(
    voices: Sequence[Mapping[str, Any] | None], num_coarse: int, num_fine: int
) -> Histories:
    """Pads voices to arrays of one shape.

    Args:
        voices: Per row a mapping with `semantic_prompt` (tokens,), `coarse_prompt`
            (codebooks, frames) and `fine_prompt` (codebooks, frames), or None. A
            missing array counts as empty.
        num_coarse: Coarse codebooks of the model.
        num_fine: Fine codebooks of the model.

    Returns:
        `Histories` of NumPy arrays.
    """
    arrays = []
    for name, leading in (
        ("semantic_prompt", ()),
        ("coarse_prompt", (num_coarse,)),
        ("fine_prompt", (num_fine,)),
    ):
        rows = [_prompt(voice, name) for voice in voices]
        known = [row.shape[:-1] for row in rows if row is not None]
        empty = np.zeros((*(known[0] if known else leading), 0), np.int32)
        rows = [empty if row is None else row for row in rows]
        arrays.append(stack(rows))
        arrays.append(np.array([row.shape[-1] for row in rows], np.int32))
    return Histories(*arrays)


def _prompt(voice: Mapping[str, Any] | None, name: str) -> np.ndarray | None:
    if voice is None or name not in voice:
        return None
    return np.asarray(voice[name], np.int32)


def stack(rows: Sequence[np.ndarray], fill: int = 0) -> np.ndarray:
    """Stacks arrays (..., time) of different lengths, padded at the end."""
    if len(rows) == 1:
        return rows[0][None]
    longest = max((row.shape[-1] for row in rows), default=0)
    return np.stack(
        [
            np.pad(
                row,
                [(0, 0)] * (row.ndim - 1) + [(0, longest - row.shape[-1])],
                constant_values=fill,
            )
            for row in rows
        ]
    )
