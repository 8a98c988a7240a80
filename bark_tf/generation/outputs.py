"""What `BarkModel.generate` returns."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from bark_tf.audio.player import player_html
from bark_tf.generation.pipeline import Speech
from bark_tf.voices.presets import VoicePreset

# Rows in the repr of an output.
_SHOWN_ROWS = 4


class BarkOutput(NamedTuple):
    """What `BarkModel.generate(return_dict=True)` returns.

    Attributes:
        audio: float32 (batch, samples), `sampling_rate` per second, about [-1, 1];
            rows end in silence after their own length.
        lengths: Samples per row.
        semantic: int32 (batch, time), padded with `eos_token_id`; 49.9 Hz for Bark.
        coarse: int32 (batch, n_coarse_codebooks, frames), padded with 0; 75 Hz for
            Bark.
        fine: int32 (batch, n_fine_codebooks, frames), padded with 0, as `coarse`.
        voice: `VoicePreset` to continue from; a list for several rows. None for an
            empty row.
        sampling_rate: Samples per second.
    """

    audio: tf.Tensor
    lengths: list[int]
    semantic: tf.Tensor
    coarse: tf.Tensor
    fine: tf.Tensor
    voice: VoicePreset | list[VoicePreset | None] | None
    sampling_rate: int

    def __repr__(self) -> str:
        seconds = [f"{length / self.sampling_rate:.2f} s" for length in self.lengths]
        more = ", ..." if len(seconds) > _SHOWN_ROWS else ""
        return (
            f"BarkOutput({', '.join(seconds[:_SHOWN_ROWS])}{more} of audio at "
            f"{self.sampling_rate} Hz)"
        )

    def _repr_html_(self) -> str:
        """Players of the rows, for notebooks."""
        rows = zip(np.asarray(self.audio), self.lengths, strict=True)
        return player_html([row[:length] for row, length in rows], self.sampling_rate)


def voices_to_continue(out: Speech) -> VoicePreset | list[VoicePreset | None] | None:
    """The speech as voices: one for a single row, a list for several."""
    voices = []
    counts = zip(out.num_semantic.numpy(), out.codes_frames.numpy(), strict=True)
    for row, (tokens, frames) in enumerate(counts):
        arrays = (
            out.semantic[row, :tokens],
            out.coarse[row, :, :frames],
            out.fine[row, :, :frames],
        )
        voice = VoicePreset(*(array.numpy() for array in arrays)) if frames else None
        voices.append(voice)
    return voices[0] if len(voices) == 1 else voices


def warn_of_empty_rows(num_semantic: Any) -> None:
    """Warns about rows without any semantic token."""
    empty = np.flatnonzero(np.asarray(num_semantic) == 0).tolist()
    if empty:
        warnings.warn(
            f"The text-to-semantic stage ended rows {empty} at once: their audio "
            "is empty. Try another seed, or set semantic_min_new_tokens",
            UserWarning,
            stacklevel=4,
        )
