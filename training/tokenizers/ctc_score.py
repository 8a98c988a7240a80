"""What words semantic tokens hold: the errors of reading held-out speech from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from ..data.batches import Batches
from ..evaluation.metrics import edit_distance, rate_interval
from .ctc_examples import Alphabet
from .ctc_trainer import CtcTrainer, greedy


class Reading(NamedTuple):
    """How well texts were read.

    Attributes:
        characters: Character error rate, and the ends of its 95 % interval.
        words: Word error rate, and the ends of its interval.
    """

    characters: tuple[float, float, float]
    words: tuple[float, float, float]

    @classmethod
    def of(cls, texts: Sequence[str], found: Sequence[str]) -> Reading:
        """Compares texts, as words are compared, with what was read."""
        return cls(
            _rate([list(text) for text in texts], [list(text) for text in found]),
            _rate([text.split() for text in texts], [text.split() for text in found]),
        )


def _rate(truth: Sequence[list], found: Sequence[list]) -> tuple[float, float, float]:
    errors = [
        edit_distance(one, np.array(other, object))
        for one, other in zip(truth, found, strict=True)
    ]
    return rate_interval(np.array(errors), np.array(list(map(len, truth))))


class CtcScore(NamedTuple):
    """What held-out recordings say, read without a language model.

    Attributes:
        recordings: Number of recordings.
        audio: Read by the recogniser from the audio, before it knew tokens.
        centres: Read by its upper blocks from the first tokens, those of k-means.
        tokens: Read from the tokens of the saved tokenizer, after it learned through
            tokens. What a model that is trained on them can know of the words.
    """

    recordings: int
    audio: Reading
    centres: Reading
    tokens: Reading

    def __str__(self) -> str:
        rows = [
            f"| read from ({self.recordings} held-out recordings) | wrong characters "
            "| wrong words |",
            "|---|---|---|",
        ]
        for name, reading in (
            ("audio", self.audio),
            ("tokens of k-means", self.centres),
            ("tokens, learned", self.tokens),
        ):
            cells = [
                f"{100 * rate:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
                for rate, low, high in reading
            ]
            rows.append(f"| {name} | {cells[0]} | {cells[1]} |")
        return "\n".join(rows)


def transcripts(
    trainer: CtcTrainer,
    batches: Batches,
    alphabet: Alphabet,
    progress: Callable[[int, int], None],
) -> list[str]:
    """Reads all examples of batches that are not shuffled, greedily.

    Args:
        trainer: Holds what reads.
        batches: The batches.
        alphabet: The characters.
        progress: Called with (batches done, batches).

    Returns:
        A text for each example, in order.
    """

    @tf.function(autograph=False, reduce_retracing=True)
    def read(batch):
        return tf.sparse.to_dense(
            greedy(trainer(batch), batch["lengths"]), default_value=-1
        )

    texts, count = [], batches.steps_per_epoch
    for done, batch in enumerate(batches.dataset(steps=count), start=1):
        rows = read(batch).numpy()
        texts += [alphabet.decode(row[row >= 0]) for row in rows]
        progress(done, count)
    return texts[: len(batches.examples)]
