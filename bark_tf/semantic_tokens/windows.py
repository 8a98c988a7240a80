"""Windows over long recordings, so that a network takes bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class Window(NamedTuple):
    """Frames that a network sees together, and those whose results are used.

    Attributes:
        first: First frame that the network sees.
        last: One after the last of them.
        start: First frame whose result is used.
        end: One after the last of them.
    """

    first: int
    last: int
    start: int
    end: int


def windows_of(num_frames: int, window: int, margin: int) -> Iterator[Window]:
    """Plans windows in which each frame sees at least `margin` frames on either side.

    The last window ends with the recording and is as wide as the others, so that its
    frames see as much context.

    Args:
        num_frames: Frames of the recording.
        window: Frames per window; more than two margins.
        margin: Frames that each frame sees at least, where the recording has them.

    Yields:
        `Window`; the used parts follow each other without gaps.

    Raises:
        ValueError: If windows would not advance.
    """
    if not 0 <= 2 * margin < window:
        raise ValueError(
            "window must be more than two margins. "
            f"Received: window={window}, margin={margin}"
        )
    start, last = 0, window
    while last < num_frames:
        yield Window(last - window, last, start, last - margin)
        start, last = last - margin, last + window - 2 * margin
    yield Window(max(0, num_frames - window), num_frames, start, num_frames)
