"""Cuts recordings with timed words at pauses, each part with its text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from .datasets import Recording
from .layouts import Word


def parts_of(
    recording: Recording, audio: np.ndarray, sample_rate: int, most_s: float
) -> Iterator[tuple[Recording, np.ndarray]]:
    """Cuts a recording that is too long, if its words are timed.

    Every part but the last is at least half as long as it may be, in words, and ends at
    the longest pause from there on, the last of equal ones.

    Args:
        recording: The recording.
        audio: float32 (samples,), all of it.
        sample_rate: Samples per second.
        most_s: Seconds that the words of a part may last.

    Yields:
        The recording itself, or its parts, whose ids end in `#1`, `#2` and so on, and
        their audio, float32 (samples,).

    Raises:
        ValueError: If its words are not those of its text, or end after it.
    """
    words = recording.words
    if not words or len(audio) <= most_s * sample_rate:
        yield recording, audio
        return
    seconds = len(audio) / sample_rate
    if words[-1].start_s >= seconds:
        raise ValueError(
            "its timed words end after the recording. "
            f"Received: {words[-1].end_s:.1f} of {seconds:.1f} s"
        )
    places = [0, *_places(recording.text, words)[1:], len(recording.text)]
    pauses = [(a.end_s + b.start_s) / 2 for a, b in pairwise(words)]
    times = [0.0, *pauses, seconds]
    for number, (first, last) in enumerate(_ranges(words, most_s), start=1):
        part = recording._replace(
            id=f"{recording.id}#{number}",
            text=recording.text[places[first] : places[last]].strip(),
            words=words[first:last],
        )
        begin, end = (round(times[place] * sample_rate) for place in (first, last))
        yield part, audio[begin:end]


def _places(text: str, words: Sequence[Word]) -> list[int]:
    """Where each word starts in the text."""
    places, end = [], 0
    for word in words:
        places.append(text.find(word.text, end))
        if places[-1] < 0:
            raise ValueError(
                "its timed words are not those of its text, so it cannot be cut. "
                f"Received: {word.text!r}"
            )
        end = places[-1] + len(word.text)
    return places


def _ranges(words: Sequence[Word], most_s: float) -> Iterator[tuple[int, int]]:
    """First word of each part, and the word after its last."""
    first = 0
    while first < len(words):
        last = first + 1
        while last < len(words) and words[last].end_s - words[first].start_s <= most_s:
            last += 1
        if last < len(words):
            ends = range(first + (last - first + 1) // 2, last + 1)
            last = max(ends, key=lambda end: (_pause(words, end), end))
        yield first, last
        first = last


def _pause(words: Sequence[Word], number: int) -> float:
    """Seconds before a word, to 10 ms: as exact as such times are."""
    return round(words[number].start_s - words[number - 1].end_s, 2)
