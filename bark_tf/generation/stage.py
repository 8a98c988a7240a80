"""What the three stages of generation have in common: a state, a step, an end.

A stage is one run over a batch. Its functions work on tensors of any batch size and
length, so the same ones run in two ways: from Python, step by step, with progress and
with networks that come and go (`steps`); and as a loop inside a traced function
(`run`), of which an export is made.
"""

from __future__ import annotations

import abc
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

Progress = Callable[[str, int, int], None]


class Stage(abc.ABC):
    """One run of a stage over a batch; abstract.

    Attributes:
        name: `"semantic"`, `"coarse"` or `"fine"`.
    """

    name: str

    @abc.abstractmethod
    def start(self) -> Any:
        """The state before the first step."""

    @abc.abstractmethod
    def is_unfinished(self, state: Any) -> tf.Tensor:
        """Bool (): whether another step is needed."""

    @abc.abstractmethod
    def step(self, state: Any) -> Any:
        """The state after one more window."""

    @abc.abstractmethod
    def progress(self, state: Any) -> tuple[Any, Any]:
        """How much is done, and of how much: int32 () each."""

    @abc.abstractmethod
    def shapes(self, state: Any) -> Any:
        """The shapes that all states have in common, in the structure of `state`."""

    def steps(self, state: Any = None) -> Iterator[Any]:
        """Runs from Python and yields every state after the first."""
        state = self.start() if state is None else state
        while bool(self.is_unfinished(state)):
            state = self.step(state)
            yield state

    def run(self, report: Progress | None = None) -> Any:
        """Runs to the end.

        Args:
            report: Called with (name, done, total) at the start and after every step,
                outside of traced functions.

        Returns:
            The last state.
        """
        state = self.start()
        if not tf.executing_eagerly():
            return tf.while_loop(
                self.is_unfinished,
                lambda state: (self.step(state),),
                (state,),
                shape_invariants=(self.shapes(state),),
            )[0]
        for now in itertools.chain([state], self.steps(state)):
            state = now
            if report is not None:
                report(self.name, *map(int, self.progress(state)))
        return state
