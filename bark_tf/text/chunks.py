"""Texts of any length as chunks that are spoken one after the other."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from bark_tf.text.marks import Passage
from bark_tf.text.sentences import (
    group_sentences,
    has_speech,
    split_paragraphs,
    split_sentences,
)

_BLANK_END = re.compile(r"\n[^\S\n]*\n[^\S\n]*\Z")


class Chunk(NamedTuple):
    """What is spoken in one go.

    Attributes:
        text: The words.
        pause_s: Seconds of silence after it.
        voice: The name of who speaks, see `Passage`.
        lead_s: Seconds of silence before it.
    """

    text: str
    pause_s: float = 0.0
    voice: str = ""
    lead_s: float = 0.0


class ChunkReport(NamedTuple):
    """How a chunk was generated.

    Attributes:
        text: The chunk's text.
        attempts: Number of takes, at least 1.
        seed: Seed of the chosen take.
        seconds: Its duration, without the pause after it.
        problem: Its remaining problem, one of `long_form.PROBLEMS`, or None.
        start_sample: Its start in the whole audio.
    """

    text: str
    attempts: int
    seed: int
    seconds: float
    problem: str | None
    start_sample: int


def split_chunks(
    passages: Sequence[Passage],
    count_tokens: Callable[[str], int],
    gaps: tuple[float, float | None],
    **limits: Any,
) -> list[Chunk]:
    """Splits passages into chunks and the pauses around them.

    Args:
        passages: From `read_marks`, or one of the whole text.
        count_tokens: Returns the number of tokens of a text.
        gaps: Seconds after a chunk, and after the last one of a paragraph; None: a
            chunk may hold several paragraphs.
        **limits: Of `group_sentences`.

    Returns:
        At least one chunk.

    Raises:
        ValueError: If there is nothing to say.
    """
    chunks: list[Chunk] = []
    silence_s = None  # that marks ask for since the last chunk
    for passage in passages:
        new = list(_chunks(passage, count_tokens, gaps, limits))
        if new and silence_s is not None:
            if chunks:
                chunks[-1] = chunks[-1]._replace(pause_s=silence_s)
            else:
                new[0] = new[0]._replace(lead_s=silence_s)
            silence_s = None
        chunks += new
        if passage.pause_s is not None:
            silence_s = (silence_s or 0.0) + passage.pause_s
    if not chunks:
        text = "".join(passage.text for passage in passages)
        raise ValueError(
            f"text must contain something to say. Received: text={text[:80]!r}"
        )
    chunks[-1] = chunks[-1]._replace(pause_s=silence_s or 0.0)
    return chunks


def _chunks(
    passage: Passage, count_tokens: Callable[[str], int], gaps, limits
) -> Iterator[Chunk]:
    gap_s, paragraph_gap_s = gaps
    text = passage.text
    paragraphs = [text] if paragraph_gap_s is None else split_paragraphs(text)
    for number, paragraph in enumerate(paragraphs, start=1):
        # The next passage may go on in the same paragraph.
        is_end = number < len(paragraphs) or _BLANK_END.search(text)
        last_gap_s = gap_s if paragraph_gap_s is None or not is_end else paragraph_gap_s
        groups = group_sentences(split_sentences(paragraph), count_tokens, **limits)
        spoken = [g for g in groups if has_speech(g) and count_tokens(g)]
        for group in spoken[:-1]:
            yield Chunk(group, gap_s, passage.voice)
        for group in spoken[-1:]:
            yield Chunk(group, last_gap_s, passage.voice)
