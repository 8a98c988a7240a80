"""Rows of many callers, spoken together.

The rows of a batch are independent: a row's audio is that of its solo run, whoever is
in the batch with it.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from time import monotonic
from typing import Any

from bark_tf.generation.long_form import SpokenRow
from bark_tf.progress import Progress

_LOG = logging.getLogger(__name__)


class Gone(Exception):
    """Nobody waits for this speech any more."""


class Row:
    """One row that waits to be spoken.

    Args:
        inputs: `input_ids`, `attention_mask`, `history_prompt` and `seed` of one row.
        options: Keywords of `generate`; rows with equal ones may share a batch.
        is_gone: Returns whether nobody waits for the row any more.
        report: Receives the progress of the row's batch.

    Attributes:
        spoken: Future of the `SpokenRow`.
    """

    def __init__(
        self,
        inputs: Mapping[str, Any],
        options: Mapping[str, Any],
        is_gone: Callable[[], bool],
        report: Progress = lambda stage, done, total: None,
    ):
        self.inputs, self.options = inputs, options
        self.is_gone, self.report = is_gone, report
        self.spoken: Future[SpokenRow] = Future()


class Batcher:
    """Threads that speak rows in batches, in the order in which they came.

    Args:
        speak: Speaks rows with equal options: called with them and a progress callable,
            returns one `SpokenRow` each. It runs in the threads.
        max_batch: Most rows in a batch.
        gather_s: How long a row waits for others, while a thread is idle.
        on_batch: Called with the number of rows and the seconds of every batch.
        num_threads: Most batches at the same time. Idle threads share what waits.
    """

    def __init__(
        self,
        speak: Callable[[Sequence[Row], Progress], Sequence[SpokenRow]],
        max_batch: int,
        gather_s: float,
        on_batch: Callable[[int, float], None],
        num_threads: int = 1,
    ):
        self._speak, self._on_batch = speak, on_batch
        self._max_batch, self._gather_s = max_batch, gather_s
        self._rows: deque[Row] = deque()
        self._changed = threading.Condition()
        self._is_closed, self._num_idle = False, num_threads
        self._threads = [
            threading.Thread(target=self._run, name=f"speech-{number}", daemon=True)
            for number in range(num_threads)
        ]
        for thread in self._threads:
            thread.start()

    def __len__(self) -> int:
        """Number of rows that wait."""
        return len(self._rows)

    def ahead(self, row: Row) -> int:
        """Number of rows that wait before a row; 0 once it is being spoken."""
        with self._changed:
            return self._rows.index(row) if row in self._rows else 0

    def add(self, row: Row) -> None:
        """Appends a row to the queue."""
        with self._changed:
            if self._is_closed:
                raise RuntimeError("The queue is closed")
            self._rows.append(row)
            self._changed.notify_all()  # idle threads share what waits

    def close(self) -> None:
        """Cancels what waits, and ends the threads after their batches."""
        with self._changed:
            self._is_closed = True
            for row in self._rows:
                row.spoken.cancel()
            self._rows.clear()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while (rows := self._next()) is not None:
            rows = [row for row in rows if row.spoken.set_running_or_notify_cancel()]
            if rows:
                self._answer(rows)
            with self._changed:
                self._num_idle += 1

    def _next(self) -> list[Row] | None:
        """Takes the oldest row and those like it; None when the queue is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._rows or self._is_closed)
            self._changed.wait_for(
                lambda: (
                    len(self._rows) >= self._max_batch * self._num_idle
                    or self._is_closed
                ),
                self._gather_s,
            )
            if self._is_closed:
                return None
            # A row that was cancelled while it waited is not spoken.
            waiting = [row for row in self._rows if not row.spoken.cancelled()]
            alike = [row for row in waiting if row.options == waiting[0].options]
            share = math.ceil(len(alike) / self._num_idle)
            taken = alike[: min(share, self._max_batch)]
            self._rows = deque(row for row in waiting if row not in taken)
            self._num_idle -= 1
            return taken

    def _answer(self, rows: list[Row]) -> None:
        def report(stage: str, done: int, total: int) -> None:
            if all(row.is_gone() for row in rows):
                raise Gone
            for row in rows:
                row.report(stage, done, total)

        start = monotonic()
        try:
            spoken = self._speak(rows, report)
        except Exception as error:
            if len(rows) > 1 and not isinstance(error, Gone):
                # One row must not spoil those of others.
                _LOG.warning("A batch of %d rows failed: %s", len(rows), type(error))
                for row in rows:
                    self._answer([row])
                return
            rows[0].spoken.set_exception(error)
            for row in rows[1:]:
                row.spoken.set_exception(error)
            return
        self._on_batch(len(rows), monotonic() - start)
        for row, result in zip(rows, spoken, strict=True):
            row.spoken.set_result(result)
