"""Subtitles of speech whose pieces are known: SubRip (.srt) and WebVTT (.vtt).

Source: the W3C's WebVTT; Netflix's timed-text guide (two lines of 42 characters).
"""

from __future__ import annotations

import html
import os
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from bark_tf.files import atomic_write, local_path
from bark_tf.text.chunks import ChunkReport
from bark_tf.text.sentences import estimate_seconds, group_sentences, split_sentences

SUFFIXES = (".srt", ".vtt")
_LINE, _LINES = 42, 2
_SHORTEST_S, _LONGEST_S = 1.0, 7.0


class Cue(NamedTuple):
    """Words that are shown at a time.

    Attributes:
        start_s: Seconds.
        end_s: Seconds.
        text: One line or two.
    """

    start_s: float
    end_s: float
    text: str


def cues_of(chunks: Sequence[ChunkReport], sampling_rate: int) -> Iterator[Cue]:
    """Cues for chunks, cut to two short lines.

    The start and end of a chunk are exact; between them, the time of each cue is
    estimated from its length.

    Args:
        chunks: How the chunks were spoken.
        sampling_rate: Samples per second, the unit of `start_sample`.
    """
    for chunk in chunks:
        if not chunk.seconds:
            continue
        texts = group_sentences(
            split_sentences(chunk.text),
            lambda piece: len(_wrapped(piece)),
            max_tokens=_LINES,
            target_s=_SHORTEST_S,
            max_s=_LONGEST_S,
        )
        shares = [estimate_seconds(text) or _SHORTEST_S for text in texts]
        start = chunk.start_sample / sampling_rate
        for text, share in zip(texts, shares, strict=True):
            end = start + chunk.seconds * share / sum(shares)
            yield Cue(start, end, "\n".join(_wrapped(text)))
            start = end


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _LINE)


def check_subtitles(path: str | os.PathLike) -> Path:
    """Raises what `write_subtitles` would raise for this path; returns it.

    Raises:
        ValueError: If the ending is not one of `SUFFIXES`.
        FileNotFoundError: If the directory does not exist.
    """
    path = local_path(path, "A file of subtitles")
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"Subtitles must end in {' or '.join(SUFFIXES)}. Received: {str(path)!r}"
        )
    if not path.parent.is_dir():
        raise FileNotFoundError(f"There is no directory {str(path.parent)!r}")
    return path


def write_subtitles(
    path: str | os.PathLike, chunks: Sequence[ChunkReport], sampling_rate: int
) -> Path:
    """Writes subtitles.

    Args:
        path: .srt or .vtt; a file of that name is replaced, whole or not at all.
        chunks: How the chunks were spoken.
        sampling_rate: Samples per second.

    Returns:
        The path.

    Raises:
        ValueError: If the ending is another one.
        OSError: If the file cannot be written.
    """
    path = check_subtitles(path)
    is_srt = path.suffix.lower() == ".srt"
    blocks = [] if is_srt else ["WEBVTT\n"]
    for number, cue in enumerate(cues_of(chunks, sampling_rate), start=1):
        times = f"{_time(cue.start_s, is_srt)} --> {_time(cue.end_s, is_srt)}"
        text = cue.text if is_srt else html.escape(cue.text, quote=False)
        blocks.append(f"{number}\n{times}\n{text}\n")
    with atomic_write(path) as temporary:
        temporary.write_text("\n".join(blocks), encoding="utf-8", newline="\n")
    return path


def _time(seconds: float, is_srt: bool) -> str:
    minutes, milliseconds = divmod(round(1000 * seconds), 60_000)
    point = "," if is_srt else "."
    return (
        f"{minutes // 60:02}:{minutes % 60:02}:{milliseconds // 1000:02}{point}"
        f"{milliseconds % 1000:03}"
    )
