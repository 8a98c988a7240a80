"""Showing and timing the stages of `BarkModel.generate`.

`generate(progress=...)` takes any callable `(stage, done, total)`; the ones here draw
bars and measure seconds. Bars go to standard error only.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import warnings
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any, Protocol

Progress = Callable[[str, int, int], None]


class Timings:
    """Measures the seconds of each stage, as a progress callable.

    The time between two reports belongs to the stage of the later one, so a stage
    includes what it needs to start, such as compilation.

    Args:
        report: Another progress callable, which is passed every report.
        clock: Gives the time in seconds.

    Attributes:
        seconds: Stage -> seconds, in the order of the first reports.

    Example:
        >>> timings = Timings()
        >>> timings("semantic", 64, 64)
        >>> list(timings.seconds)
        ['semantic']
    """

    def __init__(
        self,
        report: Progress | None = None,
        clock: Callable[[], float] = monotonic,
    ):
        self.seconds: dict[str, float] = {}
        self._report, self._clock = report, clock
        self._last_time = clock()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Notes the time, then passes the report on."""
        now = self._clock()
        elapsed, self._last_time = now - self._last_time, now
        self.seconds[stage] = self.seconds.get(stage, 0.0) + elapsed
        if self._report is not None:
            self._report(stage, done, total)


@contextlib.contextmanager
def progress_bar(enabled: bool | None = None) -> Iterator[Progress]:
    """Shows one bar per stage for as long as the block runs.

    rich draws in a terminal, tqdm (if installed) in a notebook. The terminal is as it
    was afterwards, whatever is raised in the block.

    Args:
        enabled: None: only in a notebook, or if standard error is a terminal. False:
            never. True: also into a file, where the bars appear once, at the end.

    Yields:
        A callable (stage, done, total) for `BarkModel.generate(progress=...)`.

    Example:
        >>> with progress_bar() as report:
        ...     report("semantic", 64, 768)
    """
    in_notebook = _is_notebook() and importlib.util.find_spec("tqdm") is not None
    if enabled is None:
        enabled = in_notebook or sys.stderr.isatty()
    if not enabled:
        yield lambda stage, done, total: None
        return
    with _notebook_bars() if in_notebook else _terminal_bars() as bars:
        yield bars


def _is_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return type(shell).__name__ == "ZMQInteractiveShell"


class _Bar(Protocol):
    """One line on the screen."""

    def start(self, total: int, seconds_ago: float) -> None: ...

    def show(self, done: int, total: int) -> None: ...


class _Bars:
    """Finds the bar of each report.

    Args:
        new_bar: Makes the bar of a stage.
    """

    def __init__(self, new_bar: Callable[[str], _Bar]):
        self._new_bar = new_bar
        self._bars: dict[str, _Bar] = {}
        self._done: dict[str, int] = {}
        self._last_time = monotonic()

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = monotonic()
        if stage not in self._bars:
            self._bars[stage] = self._new_bar(stage)
        if done < self._done.get(stage, done + 1):
            # It began with the last report of any stage, as in `Timings`.
            self._bars[stage].start(total, now - self._last_time)
        self._bars[stage].show(done, total)
        self._done[stage], self._last_time = done, now


class _RichBar:
    def __init__(self, bars: Any, stage: str):
        self._bars, self._task = bars, bars.add_task(stage, total=None)

    def start(self, total: int, seconds_ago: float) -> None:
        self._bars.reset(self._task, total=total)
        self._bars.tasks[self._task].start_time -= seconds_ago

    def show(self, done: int, total: int) -> None:
        self._bars.update(self._task, completed=done, total=total)


class _TqdmBar:
    def __init__(self, bar: Any):
        self._bar = bar

    def start(self, total: int, seconds_ago: float) -> None:
        self._bar.reset(total)
        self._bar.start_t -= seconds_ago

    def show(self, done: int, total: int) -> None:
        self._bar.n, self._bar.total = done, total
        self._bar.refresh()


@contextlib.contextmanager
def _terminal_bars() -> Iterator[_Bars]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    # Standard output may be the audio itself.
    with Progress(
        *columns,
        console=Console(stderr=True),
        redirect_stdout=False,
        get_time=lambda: monotonic(),
    ) as bars:
        yield _Bars(lambda stage: _RichBar(bars, stage))


@contextlib.contextmanager
def _notebook_bars() -> Iterator[_Bars]:
    with warnings.catch_warnings():
        # Without ipywidgets tqdm warns and draws text instead, which will do.
        warnings.simplefilter("ignore")
        from tqdm.auto import tqdm
    with contextlib.ExitStack() as stack:

        def new_bar(stage: str) -> _TqdmBar:
            return _TqdmBar(stack.enter_context(tqdm(desc=stage)))

        yield _Bars(new_bar)
