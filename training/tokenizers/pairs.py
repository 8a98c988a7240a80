"""Pairs of semantic tokens and audio that a model generates from texts.

They show which sound belongs to which token. Pairs are shards like those of
`bark-tf prepare`, with text ids, semantic tokens, codes and audio.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from bark_tf.bark import BarkModel
from bark_tf.processor import BarkProcessor

from ..data.checks import readable_ids
from ..data.encoding import tokens_info
from ..data.layouts import Skipped
from ..data.prepare import Report, make_shards
from ..data.shards import DatasetInfo, Utterance
from ..evaluation.scores import BATCH_SIZE, EMPTY_ROWS

# Small, since generation is slow and a killed run loses its last shard.
SHARD_SIZE = 2 * BATCH_SIZE
VALIDATION = 0.1
ANYBODY = "anybody"


class Line(NamedTuple):
    """A text to speak.

    Attributes:
        id: Its number, as a string.
        text: The text.
        speaker: Name of the voice.
        voice: The voice, as `BarkProcessor` takes it; None: any.
        seed: Decides the take.
    """

    id: str
    text: str
    speaker: str
    voice: str | None
    seed: int


def make_pairs(
    texts: Sequence[str],
    out: str | os.PathLike,
    *,
    model: str | os.PathLike,
    voices: Sequence[str | os.PathLike] = (),
    validation: float = VALIDATION,
    seed: int = 0,
    jit_compile: bool = True,
    shard_size: int = SHARD_SIZE,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Generates speech from texts with a model, and stores tokens and audio.

    Each text has its own seed, so a pair does not depend on the others.

    Args:
        texts: Texts of 5 to 13 seconds each, for the published Bark.
        out: Directory for the shards, `train` and `validation`. An interrupted call
            resumes when it is repeated with the same arguments.
        model: Directory or id of the checkpoint.
        voices: Voices to use in turn, as `BarkProcessor` takes them; none: any voice,
            which teaches a quantizer many.
        validation: Share of the texts that is held out, in [0, 1).
        seed: Seed of the first text; the others count up from it.
        jit_compile: Whether decoding is compiled with XLA.
        shard_size: Texts per shard.
        progress: Called with (texts done, texts).

    Returns:
        `Report`. Texts for which the model generated nothing are skipped.

    Raises:
        FileNotFoundError: If there is no such model or voice.
        ValueError: If there are no texts, a number is out of range, or `out` was made
            with other arguments.
        OSError: If the disk is full; finished shards stay.

    Example:
        >>> make_pairs(texts, "pairs", model="suno/bark-small").utterances
        {'train': 2721, 'validation': 279}
    """
    if not 0 <= validation < 1:
        raise ValueError(f"validation must be in [0, 1). Received: {validation}")
    if not texts:
        raise ValueError("texts must not be empty. Received: no texts")
    names = [os.fspath(voice) for voice in voices] or [None]
    lines = [
        Line(
            f"{number:06d}",
            text,
            names[number % len(names)] or ANYBODY,
            names[number % len(names)],
            seed + number,
        )
        for number, text in enumerate(texts)
    ]
    maker = _PairMaker(os.fspath(model), names, seed, jit_compile)
    return make_shards(
        lines,
        out,
        maker,
        validation=validation,
        shard_size=shard_size,
        progress=progress,
    )


class _PairMaker:
    """Makes pairs for `make_shards`, as `encoding.Maker` makes utterances."""

    def __init__(
        self, model: str, voices: Sequence[str | None], seed: int, jit_compile: bool
    ):
        self._model, self._seed, self._jit_compile = model, seed, jit_compile
        self._processor = BarkProcessor.from_pretrained(model)
        self._bark = BarkModel.from_pretrained(model)
        self._limit = (
            self._bark.generation_config.semantic_config.max_input_semantic_length
        )
        self._voices: dict[str | None, Any] = {None: None}
        for voice in voices:
            if voice is not None:
                found = self._processor([0], voice=voice, return_tensors="np")
                self._voices[voice] = found["history_prompt"]

    def info(self, fingerprint: dict[str, Any]) -> DatasetInfo:
        """The description of the shards."""
        voices = [voice for voice in self._voices if voice is not None]
        return tokens_info(
            self._model,
            self._bark.generation_config,
            sample_rate=self._bark.config.codec_config.sampling_rate,
            has_audio=True,
            text_vocab_size=self._processor.tokenizer.vocab_size,
            settings={"voices": voices, "seed": self._seed, **fingerprint},
        )

    def utterances(self, lines: Sequence[Line]) -> Iterator[Utterance | Skipped]:
        """Speaks texts; yields a pair, or the reason why there is none, in order."""
        made: dict[str, Utterance | Skipped] = {}
        readable = []
        for line in lines:
            try:
                readable_ids(line.text, self._processor.tokenizer, self._limit)
                readable.append(line)
            except ValueError as error:
                made[line.id] = Skipped.of(line.id, "", error)
        for start in range(0, len(readable), BATCH_SIZE):
            made |= self._spoken(readable[start : start + BATCH_SIZE])
        for line in lines:
            yield made.get(line.id) or Skipped(line.id, "", "the model said nothing")

    def _spoken(self, lines: Sequence[Line]) -> dict[str, Utterance]:
        """Pairs by id, without the texts for which the model generated nothing."""
        # Another batch size would compile another program.
        rows = [*lines, *lines[-1:] * (BATCH_SIZE - len(lines))]
        inputs = self._processor([row.text for row in rows], return_tensors="np")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", EMPTY_ROWS)  # they are counted
            out = self._bark.generate(
                **inputs,
                history_prompt=[self._voices[row.voice] for row in rows],
                seed=[row.seed for row in rows],
                return_dict=True,
                jit_compile=self._jit_compile,
            )
        audio = out.audio.numpy()
        return {
            line.id: Utterance(
                line.id,
                line.text,
                line.speaker,
                np.array(self._processor.tokenizer.encode(line.text), np.int32),
                voice.semantic_prompt,
                voice.fine_prompt,
                audio[row, : out.lengths[row]],
            )
            for row, (line, voice) in enumerate(zip(lines, out.voice, strict=False))
            if voice is not None
        }
