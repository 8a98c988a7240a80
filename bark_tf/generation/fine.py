"""The first codebooks to all of them, in overlapping windows of 1024 frames.

The network sees a whole window, past and future, so a window can only run when all its
frames exist. Every row has windows of its own; rows never see each other's length.

Source: suno-ai/bark, `bark/generation.py::generate_fine`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from bark_tf.config import BarkFineConfig, BarkFineGenerationConfig
from bark_tf.generation.cache import bucket
from bark_tf.generation.loop import kept
from bark_tf.generation.random import row_keys
from bark_tf.generation.sampling import sample_codes
from bark_tf.generation.semantic import pad_rows
from bark_tf.memory import collect

STAGE = "fine"


class Window(NamedTuple):
    """One pass over a part of a row.

    Attributes:
        start: First frame of the window.
        fill: First frame that is written.
    """

    start: int
    fill: int


def windows_of(
    num_frames: int, num_history: int, config: BarkFineGenerationConfig
) -> list[Window]:
    """The windows of one row.

    Args:
        num_frames: Frames to fill.
        num_history: Frames of the voice before them.
        config: Generation configuration.

    Returns:
        Windows over the row's buffer, in order. The last one ends with the buffer.
    """
    size, hop = config.max_fine_input_length, config.max_fine_history_length
    length = max(num_history + num_frames, size)
    count = max(0, -(-(num_frames - (size - num_history)) // hop)) + 1
    return [
        Window(
            start=min(n * hop, length - size),
            fill=min(num_history + n * hop, length - hop),
        )
        for n in range(count)
    ]


def check_window(model: BarkFineConfig, config: BarkFineGenerationConfig) -> None:
    """Raises ValueError if a window does not fit the network."""
    if config.max_fine_input_length > model.block_size:
        raise ValueError(
            f"max_fine_input_length must be at most block_size={model.block_size}. "
            f"Received: max_fine_input_length={config.max_fine_input_length}"
        )
    if config.n_fine_codebooks > model.n_codes_total:
        raise ValueError(
            f"n_fine_codebooks must be at most n_codes_total={model.n_codes_total}. "
            f"Received: n_fine_codebooks={config.n_fine_codebooks}"
        )


class FineProgram:
    """The compiled pass of a fine model over one window and one codebook.

    Args:
        model: Fine model: `embed`, `forward`, `logits`.
        codebook_size: Logits that count.
        samples: Whether codes are drawn.
        jit_compile: Whether the program is compiled with XLA.
    """

    def __init__(
        self, model: Any, codebook_size: int, samples: bool, jit_compile: bool
    ):
        self.model, self.codebook_size, self.samples = model, codebook_size, samples
        self.run = tf.function(self._run, jit_compile=jit_compile, autograph=False)

    def _run(self, codes, codebook, first, keys, step, temperature):
        """Predicts one codebook of a window.

        Args:
            codes: int32 (B, frames, codebooks).
            codebook: int32 (), the one to predict.
            first: int32 (B,), first frame to write.
            keys: uint32 (B, 2), random keys.
            step: int32 (), counts the passes of the stage.
            temperature: float32 ().

        Returns:
            int32 (B, frames), the codebook with its new values.
        """
        x = self.model.embed(codebook, codes)
        x = self.model.forward(x)[0]
        logits = self.model.logits(codebook, x, self.codebook_size)
        logits = tf.cast(logits, tf.float32)
        if self.samples:
            new = sample_codes(logits, keys, step, temperature)
        else:
            new = tf.argmax(logits, -1, output_type=tf.int32)
        written = tf.range(tf.shape(codes)[1])[None] >= first[:, None]
        return tf.where(written, new, tf.gather(codes, codebook, axis=2))


class FineStage:
    """One run of the fine stage over a batch.

    Args:
        model: Fine model.
        jit_compile: Whether the pass is compiled with XLA.
        coarse: Per row its coarse codes, int32 (coarse codebooks, frames).
        config: Generation configuration.
        codebook_size: Entries per codebook; also the code of an unknown entry.
        voices: Per row a mapping with `fine_prompt` (codebooks, frames), or None.
        seeds: As `sampling.row_keys` takes them.
    """

    def __init__(
        self,
        model: Any,
        jit_compile: bool,
        coarse: Sequence[np.ndarray],
        config: BarkFineGenerationConfig,
        codebook_size: int,
        *,
        voices: Sequence[Mapping[str, Any] | None] | None = None,
        seeds: Any = None,
    ):
        check_window(model.config, config)
        self.model, self.config, self.unknown = model, config, codebook_size
        key = (STAGE, codebook_size, config.samples, jit_compile)
        self.program = kept(model, key, lambda: FineProgram(model, *key[1:]))
        self.keys = row_keys(seeds, len(coarse), STAGE)
        self.num_given = max((row.shape[0] for row in coarse), default=0)
        self.histories, self.buffers, self.windows = [], [], []
        for row, voice in zip(coarse, voices or [None] * len(coarse), strict=True):
            history = history_of(voice, config)
            self.histories.append(len(history))
            self.buffers.append(window_buffer(row, history, config, codebook_size))
            windows = windows_of(row.shape[1], len(history), config)
            self.windows.append(windows if row.shape[1] else [])
        self.frames = [row.shape[1] for row in coarse]

    def passes(self) -> Iterator[int]:
        """Runs window by window, all rows that have an n-th window together.

        Yields:
            The number of windows done.
        """
        for n in range(self.num_passes):
            self.run_pass(n)
            yield n + 1

    @property
    def num_passes(self) -> int:
        """Windows of the longest row."""
        return max(map(len, self.windows), default=0)

    def needed_frames(self, row: int, n: int) -> int:
        """Frames of a row that must exist before its pass `n` can run."""
        end = self.windows[row][n].start + self.config.max_fine_input_length
        return min(self.frames[row], end - self.histories[row])

    def boundaries(self, row: int) -> list[int]:
        """Frames of a row that no later pass changes, after each of its passes."""
        starts = [window.fill - self.histories[row] for window in self.windows[row]]
        return [*starts[1:], self.frames[row]] if starts else []

    def put_coarse(self, row: int, codes: np.ndarray) -> None:
        """Puts in the first coarse codes of a row, (coarse codebooks, frames)."""
        start = self.histories[row]
        end = start + codes.shape[1]
        self.buffers[row][start:end, : codes.shape[0]] = codes.T

    def codes(self, row: int) -> np.ndarray:
        """All codebooks of a row so far: int32 (codebooks, frames)."""
        start = self.histories[row]
        return self.buffers[row][start : start + self.frames[row]].T

    def run_pass(self, n: int) -> None:
        """Runs the n-th window of every row that has one."""
        rows = [i for i, windows in enumerate(self.windows) if len(windows) > n]
        size, length = bucket(len(rows)), self.config.max_fine_input_length
        windows = [self.windows[row][n] for row in rows]
        shown = np.stack(
            [
                self.buffers[row][w.start : w.start + length]
                for row, w in zip(rows, windows, strict=True)
            ]
        )
        first = np.array([w.fill - w.start for w in windows], np.int32)
        keys = pad_rows(self.keys[rows], size)
        fill_window(self.program, shown, first, keys, n, self.num_given, self.config)
        for i, (row, w) in enumerate(zip(rows, windows, strict=True)):
            buffer = self.buffers[row]
            buffer[w.fill : w.start + length] = shown[i, first[i] :]


def fill_window(
    program: FineProgram,
    shown: np.ndarray,
    first: np.ndarray,
    keys: tf.Tensor,
    n: int,
    num_given: int,
    config: BarkFineGenerationConfig,
) -> None:
    """Predicts the unknown codebooks of a window, one after the other, in place.

    Args:
        program: `FineProgram`.
        shown: int32 (batch, frames, codebooks), changed in place.
        first: int32 (batch,), first frame to write.
        keys: uint32 (B, 2) with B rows of the bucket.
        n: Number of the window, for the random numbers.
        num_given: Codebooks that are known.
        config: Generation configuration.
    """
    size = keys.shape[0]
    temperature = tf.constant(config.temperature or 1.0, tf.float32)
    for codebook in range(num_given, config.n_fine_codebooks):
        shown[:, :, codebook] = program.run(
            pad_rows(shown, size),
            tf.constant(codebook),
            pad_rows(first, size),
            keys,
            tf.constant(n * config.n_fine_codebooks + codebook),
            temperature,
        )[: len(shown)]
        collect(program.model)


def history_of(voice: Mapping[str, Any] | None, config: BarkFineGenerationConfig):
    """The end of a voice's codes: int32 (frames, codebooks)."""
    if voice is None or config.max_fine_history_length == 0:
        return np.zeros((0, config.n_fine_codebooks), np.int32)
    codes = np.asarray(voice["fine_prompt"], np.int32)
    return codes.T[-config.max_fine_history_length :]


def window_buffer(
    coarse: np.ndarray,
    history: np.ndarray,
    config: BarkFineGenerationConfig,
    unknown: int,
) -> np.ndarray:
    """History and coarse codes of a row, filled up with the unknown code."""
    end = len(history) + coarse.shape[1]
    length = max(end, config.max_fine_input_length)
    buffer = np.full((length, config.n_fine_codebooks), unknown, np.int32)
    buffer[: len(history)] = history
    buffer[len(history) : end, : coarse.shape[0]] = coarse.T
    return buffer
