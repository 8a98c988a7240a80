"""What the three stages of generation have in common: a state, a step, an end.

A stage is one run over a batch. Its functions take tensors of any batch size and
length, and run in two ways: from Python, step by step, with progress reports and with
networks that are loaded and released; or as a loop inside a traced function, from which
an export is made.
"""

from __future__ import annotations

import abc
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import tensorflow as tf

from bark_tf.progress import Progress


class Call(NamedTuple):
    """One call of generation.

    Attributes:
        networks: An object with the attributes `semantic`, `coarse_acoustics`,
            `fine_acoustics` and `codec_model`, such as a `BarkModel`. Each is read only
            when its stage begins.
        configs: `StageConfigs`.
        compat: `"hf"` reproduces transformers where this library differs.
        jit_compile: Whether XLA compiles the decode loops; if not, nothing needs it.
        fine_jit_compile: Whether XLA compiles the passes of the fine network too. They
            are large matrix products, as fast in the plain graph.
        report: Called with (stage, done, total) during the run, except in traced
            functions. None runs the semantic stage in one step.
    """

    networks: Any
    configs: Any
    compat: str | None = None
    jit_compile: bool = True
    fine_jit_compile: bool = False
    report: Progress | None = None


class Stage(abc.ABC):
    """One run of a stage over a batch; abstract.

    Attributes:
        name: `"semantic"`, `"coarse"` or `"fine"`.
        call: `Call`.
    """

    name: str
    call: Call

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
        """How much is done, and the total: int32 () each."""

    @abc.abstractmethod
    def shapes(self, state: Any) -> Any:
        """Shapes that all states of a run have, in the structure of `state`."""

    def steps(self, state: Any = None) -> Iterator[Any]:
        """Runs from Python; yields the state after each step."""
        state = self.start() if state is None else state
        while bool(self.is_unfinished(state)):
            state = self.step(state)
            yield state

    def run(self) -> Any:
        """Runs to the end with progress reports; returns the last state."""
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
            self.report(state)
        return state

    def report(self, state: Any) -> None:
        """Calls `Call.report`, if there is one."""
        if self.call.report is not None:
            self.call.report(self.name, *map(int, self.progress(state)))
