r"""Marks in a text: pauses, and changes of the voice.

    [voice: anna]  at the start of a line: anna speaks from here on
    [voice:]       there too: the first voice speaks again
    [pause 0.5]    anywhere: half a second of silence
    \[pause 0.5]   no mark but text

All other brackets are text, among them Bark's own cues such as `[laughs]` or `[pause]`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

MAX_PAUSE_S = 60.0

_MARK = re.compile(
    r"(?P<escape>\\)?\[[ \t]*(?:"
    # What does not begin like a number is a cue: [pause for effect].
    r"pause(?:[ \t]*:[ \t]*|[ \t]+)(?P<pause>[-+.,]?\d[^\[\]\n]*)"
    r"|voice[ \t]*:(?P<voice>[^\[\]\n]*)"
    r")\]",
    re.IGNORECASE,
)
_DURATION = re.compile(
    r"(\d+(?:\.\d+)?|\.\d+)\s*(?:(ms)|s|sec|seconds?)?", re.IGNORECASE
)


class Passage(NamedTuple):
    """A part of a text between two marks.

    Attributes:
        text: The words; may be empty.
        voice: Name in the last mark of a voice; empty: the first voice.
        pause_s: Seconds of silence after it; None: as usual.
        line: Where that mark is, from 1.
    """

    text: str
    voice: str = ""
    pause_s: float | None = None
    line: int = 1


def read_marks(text: str, first_line: int = 1) -> list[Passage]:
    r"""Splits a text at its marks.

    Args:
        text: Any text.
        first_line: The number of its first line, for errors.

    Returns:
        At least one passage, in order, without marks and backslashes before marks.

    Raises:
        ValueError: If `text` is not a string or a mark is wrong; the message names the
            line.

    Example:
        >>> [passage[:3] for passage in read_marks("Hi.[pause 1]\n[voice: anna] Ho.")]
        [('Hi.', '', 1.0), ('\n', '', None), (' Ho.', 'anna', None)]
    """
    if not isinstance(text, str):
        raise ValueError(f"text must be a string. Received: {type(text).__name__}")
    passages, voice, voice_line, start = [], "", first_line, 0
    for mark in _MARK.finditer(text):
        if mark["escape"]:
            continue
        line = first_line + text.count("\n", 0, mark.start())
        pause_s = None if mark["pause"] is None else _seconds(mark, line)
        words = _unescaped(text[start : mark.start()])
        passages.append(Passage(words, voice, pause_s, voice_line))
        if pause_s is None:
            _check_place(text, mark, line)
            voice, voice_line = mark["voice"].strip(), line
        start = mark.end()
    return [*passages, Passage(_unescaped(text[start:]), voice, None, voice_line)]


def voices_of(
    passages: Sequence[Passage], find: Callable[[str], Any]
) -> dict[str, Any]:
    """Finds the voices that marks name.

    Args:
        passages: From `read_marks`.
        find: Takes a name, returns the voice, or raises ValueError.

    Returns:
        Name -> voice.

    Raises:
        ValueError: From `find`, with the line of the mark.
    """
    voices = {}
    for passage in passages:
        if passage.voice and passage.voice not in voices:
            try:
                voices[passage.voice] = find(passage.voice)
            except ValueError as error:
                raise ValueError(f"line {passage.line}: {error}") from error
    return voices


def _unescaped(text: str) -> str:
    return _MARK.sub(lambda mark: mark.group().removeprefix("\\"), text)


def _seconds(mark: re.Match, line: int) -> float:
    duration = _DURATION.fullmatch(mark["pause"].strip())
    seconds = float(duration[1]) / (1000 if duration[2] else 1) if duration else -1
    if not 0 <= seconds <= MAX_PAUSE_S:
        raise ValueError(
            f"line {line}: a pause is written [pause SECONDS], with at most "
            f"{MAX_PAUSE_S:g}. Received: {mark.group()[:80]!r}"
        )
    return seconds


def _check_place(text: str, mark: re.Match, line: int) -> None:
    before = text[text.rfind("\n", 0, mark.start()) + 1 : mark.start()]
    if _MARK.sub("", before).strip():
        raise ValueError(
            f"line {line}: [voice: NAME] stands at the start of a line; with a "
            rf"backslash before it, \[voice: ...], it is text. Received: {before[-40:]}"
            f"{mark.group()[:80]}"
        )
