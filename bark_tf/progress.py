"""Progress bars and timings for work that is done in stages.

`BarkModel.generate(progress=...)` takes any callable `(stage, done, total)`; those here
draw bars, on standard error only, and measure seconds.
"""

from __future__ import annotations

import contextlib
import functools
import math
import re
import sys
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

Progress = Callable[[str, int, int], None]

# In a notebook.
_REDRAWN_S = 0.1
_NAMED = 0.02  # share of the time of a stage that is named at the end


class Timings:
    """Measures the seconds of each stage, as a progress callable.

    The time between two reports belongs to the stage of the later one, so a stage
    includes what it needs to start, such as compilation.

    Args:
        report: Another progress callable, which receives every report too.
        clock: Returns the time in seconds.

    Attributes:
        seconds: Stage -> seconds, in the order of the first reports.

    Example:
        >>> timings = Timings()
        >>> timings("semantic", 64, 64)
        >>> list(timings.seconds)
        ['semantic']
    """

    def __init__(
        self, report: Progress | None = None, clock: Callable[[], float] = monotonic
    ):
        self.seconds: dict[str, float] = {}
        self._report, self._clock = report, clock
        self._last_time = clock()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Adds the time since the last report, then passes the report on."""
        now = self._clock()
        elapsed, self._last_time = now - self._last_time, now
        self.seconds[stage] = self.seconds.get(stage, 0.0) + elapsed
        if self._report is not None:
            self._report(stage, done, total)


@contextlib.contextmanager
def progress_bar(enabled: bool | None = None) -> Iterator[Progress]:
    """Shows one bar per stage while the block runs, in a terminal or a notebook.

    What the block writes to `sys.stderr`, such as warnings, appears above the bars.

    Args:
        enabled: None: only in a notebook, or if standard error is a terminal. False:
            never. True: always.

    Yields:
        A callable (stage, done, total) for `BarkModel.generate(progress=...)`.

    Example:
        >>> with progress_bar() as report:
        ...     report("semantic", 64, 768)
    """
    if enabled is None:
        enabled = is_notebook() or sys.stderr.isatty()
    if not enabled:
        yield lambda stage, done, total: None
        return
    bars = contextlib.closing(_Table()) if is_notebook() else _terminal_bars()
    with bars as report:
        yield report


def is_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return type(shell).__name__ == "ZMQInteractiveShell"


# === Terminals ===


@contextlib.contextmanager
def _terminal_bars() -> Iterator[Progress]:
    from tqdm.contrib import DummyTqdmFile

    bars = _Bars(sys.stderr)
    with contextlib.redirect_stderr(DummyTqdmFile(sys.stderr)):
        try:
            yield bars
        finally:
            bars.close()


def _bar_class() -> type:
    """A tqdm bar of which `seconds` is the elapsed time, so that it can stand still."""
    from tqdm import tqdm

    class Bar(tqdm):
        began = seconds = 0.0

        @property
        def format_dict(self) -> dict[str, Any]:
            return {**super().format_dict, "elapsed": self.seconds}

    return Bar


class _Bars:
    """Draws the bar of each stage on a stream."""

    def __init__(self, stream: Any):
        self._new_bar = functools.partial(
            _bar_class(), file=stream, miniters=0, dynamic_ncols=True
        )
        self._bars: dict[str, Any] = {}
        self._last_time = monotonic()

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = monotonic()
        is_start = stage not in self._bars or done < self._bars[stage].n
        if stage not in self._bars:
            self._bars[stage] = self._new_bar(desc=stage)
        bar = self._bars[stage]
        if is_start:
            # It began with the last report of any stage, as in `Timings`.
            bar.began = self._last_time
        bar.seconds = now - bar.began
        if is_start or total != bar.total:
            bar.reset(total)
        bar.update(done - bar.n)
        if done >= total:
            bar.refresh()
        self._last_time = now

    def close(self) -> None:
        """Leaves the bars as they are, one below the other."""
        for bar in self._bars.values():
            bar.close()


# === Notebooks ===


class _Table:
    """Bars in the output of a cell, which become one line of seconds at the end.

    The bars are plain HTML: those of tqdm need widgets that not every notebook has.
    """

    def __init__(self):
        self._timings, self._counts = Timings(clock=monotonic), {}
        self._handle, self._drawn_at = None, -math.inf

    def __call__(self, stage: str, done: int, total: int) -> None:
        self._timings(stage, done, total)
        self._counts[stage] = done, total
        if monotonic() - self._drawn_at >= _REDRAWN_S:
            bars = (
                f"<progress value={at} max={end}></progress> {name} {at}/{end}"
                for name, (at, end) in self._counts.items()
            )
            self._draw("<br>\n".join(bars))

    def close(self) -> None:
        seconds = self._timings.seconds
        total = sum(seconds.values())
        if seconds:
            parts = [
                f"{stage} {spent:.1f}"
                for stage, spent in seconds.items()
                if spent >= _NAMED * total
            ]
            self._draw(f"<small>{total:.1f} s: {', '.join(parts)}</small>")

    def _draw(self, html: str) -> None:
        from IPython.display import display

        shown = {"text/html": html, "text/plain": re.sub("<[^>]*>", "", html)}
        if self._handle is None:
            self._handle = display(shown, raw=True, display_id=True)
        else:
            self._handle.update(shown, raw=True)
        self._drawn_at = monotonic()
