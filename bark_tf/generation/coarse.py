"""Semantic tokens to the first codebooks, in sliding windows.

A window holds up to 256 semantic tokens around the current one and up to 630 coarse
tokens of the past, and yields 60 new tokens. While the semantic window starts at the
same token and no past has been dropped, the next window's prompt is the last one plus
the tokens just generated: the caches go on and nothing is read again.

Source: suno-ai/bark, `bark/generation.py::generate_coarse`.
Differs: Every row has its own voice and its own end.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from bark_tf.config import (
    BarkCoarseGenerationConfig,
    BarkGenerationConfig,
    BarkSemanticGenerationConfig,
    BarkSubModelConfig,
)
from bark_tf.generation.cache import bucket
from bark_tf.generation.loop import Alphabet, Rows, programs_of
from bark_tf.generation.random import row_keys
from bark_tf.generation.sampling import SamplingRules, SamplingValues
from bark_tf.generation.semantic import pad_rows
from bark_tf.memory import collect
from bark_tf.tokens import interleave

STAGE = "coarse"
# Frames dropped from the end of a voice's coarse history (Suno's time alignment).
HISTORY_FRAMES_DROPPED = 1


class CoarseWindow(NamedTuple):
    """The numbers that both configurations and the codebook size decide.

    Attributes:
        semantic: Generation configuration of the semantic stage.
        coarse: Generation configuration of this stage.
        codebook_size: Entries per codebook.
    """

    semantic: BarkSemanticGenerationConfig
    coarse: BarkCoarseGenerationConfig
    codebook_size: int

    @classmethod
    def of(cls, config: BarkGenerationConfig) -> CoarseWindow:
        """The window of a whole Bark's generation configuration."""
        return cls(
            config.semantic_config, config.coarse_acoustics_config, config.codebook_size
        )

    @property
    def ratio(self) -> float:
        """Coarse tokens per semantic token: 75 / 49.9 * 2 = 3.006 by default."""
        rates = self.coarse.coarse_rate_hz / self.semantic.semantic_rate_hz
        return rates * self.coarse.n_coarse_codebooks

    @property
    def max_semantic_history(self) -> int:
        """Semantic tokens before the current one in a window: 209 by default."""
        return math.floor(self.coarse.max_coarse_history / self.ratio)

    @property
    def offset(self) -> int:
        """Id of entry 0 of codebook 0."""
        return self.semantic.semantic_vocab_size

    @property
    def longest_prompt(self) -> int:
        """Positions before the new tokens of a window, 256 + 1 + 630 by default."""
        return self.coarse.max_coarse_input_length + 1 + self.coarse.max_coarse_history

    @property
    def slots(self) -> int:
        """Positions of a whole window."""
        return self.longest_prompt + self.coarse.sliding_window_len

    def check(self, model: BarkSubModelConfig) -> None:
        """Raises ValueError if a window does not fit the position table."""
        if self.slots > model.block_size:
            raise ValueError(
                "A coarse window must fit into the position table: "
                "max_coarse_input_length + 1 + max_coarse_history + sliding_window_len "
                f"<= {model.block_size}. Received: {self.slots}"
            )

    def num_frames(self, num_semantic: int) -> int:
        """Frames that belong to a number of semantic tokens."""
        codebooks = self.coarse.n_coarse_codebooks
        return math.floor(num_semantic * self.ratio / codebooks)


def align(
    semantic: np.ndarray, codes: np.ndarray, sizes: CoarseWindow
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts semantic tokens and codes of one recording to the same duration.

    Generation makes `num_frames(n)` frames for n semantic tokens. A codec rounds the
    number of frames up and a tokenizer rounds down, so one of them is a little longer.

    Args:
        semantic: int32 (N,).
        codes: int32 (codebooks, T).
        sizes: `CoarseWindow` of the model.

    Returns:
        The same, with T == sizes.num_frames(N).

    Raises:
        ValueError: If not even one frame is left.
    """
    count = len(semantic)
    while count and sizes.num_frames(count) > codes.shape[1]:
        count -= 1
    frames = sizes.num_frames(count)
    if not frames:
        raise ValueError("it is too short for a single frame")
    return semantic[:count], codes[:, :frames]


class History(NamedTuple):
    """What opens a row: int32 (n,) semantic and coarse tokens, both maybe empty."""

    semantic: np.ndarray
    coarse: np.ndarray


def alphabet(sizes: CoarseWindow, vocabulary: int, compat: str | None) -> Alphabet:
    """The codebooks in turn.

    With `compat="hf"` the last codebook's turn is open up to the end of the
    vocabulary, as in transformers.
    """
    groups, stride = sizes.coarse.n_coarse_codebooks, sizes.codebook_size
    is_open = compat == "hf"
    last = sizes.offset + (groups - 1) * stride
    return Alphabet(
        first=sizes.offset,
        stride=stride,
        groups=groups,
        size=vocabulary - last if is_open else stride,
        pad=sizes.coarse.coarse_semantic_pad_token,
        open_end=is_open,
    )


def history_of(voice: Mapping[str, Any] | None, sizes: CoarseWindow) -> History:
    """Cuts a voice to what fits before the first window.

    Args:
        voice: Mapping with `semantic_prompt` (n,) and `coarse_prompt` (codebooks,
            frames), or None.
        sizes: `CoarseWindow`.

    Returns:
        `History`.
    """
    if voice is None:
        return History(np.zeros(0, np.int32), np.zeros(0, np.int32))
    semantic = np.asarray(voice["semantic_prompt"], np.int32)
    codes = np.asarray(voice["coarse_prompt"], np.int32)
    coarse = interleave(codes, sizes.codebook_size, sizes.offset)
    num_semantic = min(
        sizes.max_semantic_history,
        len(semantic) - len(semantic) % 2,
        math.floor(len(coarse) / sizes.ratio),
    )
    num_coarse = round(num_semantic * sizes.ratio)
    dropped = HISTORY_FRAMES_DROPPED * sizes.coarse.n_coarse_codebooks
    coarse = coarse[len(coarse) - num_coarse :]
    return History(
        semantic[len(semantic) - num_semantic :],
        coarse[: max(0, len(coarse) - dropped)],
    )


def window_start(step: int, history: History, sizes: CoarseWindow) -> int:
    """First semantic token of the window in which coarse token `step` is chosen."""
    current = len(history.semantic) + round(step / sizes.ratio)
    return max(0, current - sizes.max_semantic_history)


def window_prompt(
    step: int,
    history: History,
    semantic: np.ndarray,
    coarse: np.ndarray,
    sizes: CoarseWindow,
) -> np.ndarray:
    """The ids that the network reads before coarse token `step`.

    Args:
        step: Coarse tokens generated so far.
        history: `History` of the row.
        semantic: int32 (n,), the row's own semantic tokens.
        coarse: int32 (step,), the row's own coarse tokens.
        sizes: `CoarseWindow`.

    Returns:
        int32 (257 + past,): semantic window, infer token, past.
    """
    config = sizes.coarse
    length = config.max_coarse_input_length
    window = np.full(length + 1, config.coarse_semantic_pad_token, np.int32)
    start = window_start(step, history, sizes)
    shown = np.concatenate([history.semantic, semantic])[start:][:length]
    window[: len(shown)] = shown
    window[length] = config.coarse_infer_token
    past = np.concatenate([history.coarse, coarse])[-config.max_coarse_history :]
    return np.concatenate([window, past])


class CoarseStage:
    """One run of the coarse stage over a batch.

    Args:
        model: Coarse model.
        jit_compile: Whether the programs are compiled with XLA.
        semantic: Per row its semantic tokens, int32 (n,).
        sizes: `CoarseWindow`.
        voices: Per row a mapping with `semantic_prompt` and `coarse_prompt`, or None.
        seeds: As `sampling.row_keys` takes them.
        compat: `"hf"` reproduces transformers; see `alphabet`. Rows then go on to the
            end of the longest one.

    Raises:
        ValueError: If a window does not fit into the position table.
    """

    def __init__(
        self,
        model: Any,
        jit_compile: bool,
        semantic: Sequence[np.ndarray],
        sizes: CoarseWindow,
        *,
        voices: Sequence[Mapping[str, Any] | None] | None = None,
        seeds: Any = None,
        compat: str | None = None,
    ):
        config, batch = sizes.coarse, len(semantic)
        self.model, self.sizes = model, sizes
        self.semantic = semantic
        self.histories = [
            history_of(voice, sizes) for voice in voices or [None] * batch
        ]
        frames = [sizes.num_frames(len(row)) for row in semantic]
        self.lengths = np.array(frames, np.int32) * config.n_coarse_codebooks
        self.total = int(self.lengths.max(initial=0))
        if compat == "hf":
            self.lengths[:] = self.total
        sizes.check(model.config)
        self.rules = SamplingRules.of(config)
        self.values = SamplingValues.of(config)
        letters = alphabet(sizes, model.config.output_vocab_size, compat)
        self.compiled = programs_of(model, jit_compile)(
            letters, self.rules, sizes.slots
        )
        self.size = bucket(max(1, batch))
        self.keys = pad_rows(row_keys(seeds, batch, STAGE), self.size)
        self.coarse = np.zeros((batch, 0), np.int32)
        self._state = self._rows = None
        self._prefilled_at = 0

    def windows(self) -> Iterator[int]:
        """Runs window by window.

        Yields:
            The number of coarse tokens per row that exist so far in `coarse`.
        """
        step = 0
        while step < self.total:
            until = min(step + self.sizes.coarse.sliding_window_len, self.total)
            if not self._goes_on(step, until):
                self._prefill(step)
            state = self._state
            if int(state.step) < until:
                state = self.compiled.decode(
                    state, tf.constant(until), self._rows, self.values
                )
            self._state = state
            batch = len(self.semantic)
            new = state.tokens.numpy()[:batch, : until - self._prefilled_at]
            self.coarse = np.concatenate(
                [self.coarse[:, : self._prefilled_at], new], axis=1
            )
            step = until
            yield step

    def _goes_on(self, step: int, until: int) -> bool:
        """Whether this window's prompt is what the caches already hold."""
        if self._state is None:
            return False
        used = self._width + until - self._prefilled_at
        return used <= self.compiled.slots and all(
            window_start(step, history, self.sizes)
            == window_start(self._prefilled_at, history, self.sizes)
            and len(history.coarse) + step <= self.sizes.coarse.max_coarse_history
            for history, length in zip(self.histories, self.lengths, strict=True)
            if length > step
        )

    def _prefill(self, step: int) -> None:
        batch = len(self.semantic)
        prompts = [
            window_prompt(step, history, semantic, coarse, self.sizes)
            for history, semantic, coarse in zip(
                self.histories, self.semantic, self.coarse, strict=True
            )
        ]
        bare = self.sizes.coarse.max_coarse_input_length + 1
        width = bare if max(map(len, prompts)) == bare else self.sizes.longest_prompt
        pad = self.sizes.coarse.coarse_semantic_pad_token
        ids = np.full((self.size, width), pad, np.int32)
        start = np.zeros(self.size, np.int32)
        for row, prompt in enumerate(prompts):
            start[row] = width - len(prompt)
            ids[row, start[row] :] = prompt
        limit = pad_rows(self.lengths, self.size)
        self._rows = Rows(tf.constant(start), self.keys, limit)
        self._width, self._prefilled_at = width, step
        self._state = self.compiled.prefill(
            self.model.token_embedding(ids),
            tf.constant(step),
            self._rows,
            self.values,
            tf.constant(self._seen(prompts, batch)),
        )
        collect(self.model)

    def _seen(self, prompts, batch: int) -> np.ndarray:
        letters = self.compiled.alphabet
        count = (letters.groups - 1) * letters.stride + letters.size
        if not self.rules.repetition_penalty:
            return np.zeros((self.size, 0), bool)
        seen = np.zeros((self.size, count), bool)
        for row in range(batch):
            ids = prompts[row] - letters.first
            seen[row, ids[(ids >= 0) & (ids < count)]] = True
        return seen
