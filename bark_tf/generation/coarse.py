"""Semantic tokens to the first codebooks, in sliding windows.

A window holds up to 256 semantic tokens around the current one and up to 630 coarse
past coarse tokens, and yields 60 new ones. As long as the semantic window starts at the
same token and no past tokens have been dropped, the next prompt is the last one plus
the tokens just generated, so the caches are used again.

Source: suno-ai/bark, `bark/generation.py::generate_coarse`.
Differs: Every row has its own voice and its own end.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from bark_tf.config import (
    BarkCoarseGenerationConfig,
    BarkGenerationConfig,
    BarkSemanticGenerationConfig,
    BarkSubModelConfig,
)
from bark_tf.config.fields import check_ids
from bark_tf.generation.arrays import TENSORS, Arrays, native
from bark_tf.generation.cache import bucket, pad_rows
from bark_tf.generation.histories import Histories
from bark_tf.generation.loop import AllowedIds, DecodeState, Rows, programs_of
from bark_tf.generation.sampling import SamplingRules, SamplingValues
from bark_tf.generation.stage import Call, Stage
from bark_tf.memory import collect

# Frames dropped from the end of a voice's coarse history (Suno's time alignment).
HISTORY_FRAMES_DROPPED = 1
# Frames per semantic token, or tokens per frame: 1.5 in Bark.
_MOST_FRAMES = 50


class CoarseWindow(NamedTuple):
    """Sizes that follow from two configurations and the codebook size.

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
        """Raises ValueError if ids or windows are beyond the network's tables."""
        ids = "coarse_semantic_pad_token", "coarse_infer_token"
        check_ids(self.coarse, "input_vocab_size", model.input_vocab_size, *ids)
        rates = self.coarse.coarse_rate_hz / self.semantic.semantic_rate_hz
        if not 1 / _MOST_FRAMES <= rates <= _MOST_FRAMES:
            raise ValueError(
                f"coarse_rate_hz / semantic_rate_hz must be in [1/{_MOST_FRAMES}, "
                f"{_MOST_FRAMES}]. Received: {self.coarse.coarse_rate_hz} / "
                f"{self.semantic.semantic_rate_hz}"
            )
        needed = self.offset + self.coarse.n_coarse_codebooks * self.codebook_size
        if needed > min(model.input_vocab_size, model.output_vocab_size):
            raise ValueError(
                "The coarse vocabulary must hold semantic_vocab_size + "
                f"n_coarse_codebooks * codebook_size = {needed} ids. Received: "
                f"input_vocab_size={model.input_vocab_size}, "
                f"output_vocab_size={model.output_vocab_size}"
            )
        if self.slots > model.block_size:
            raise ValueError(
                "A coarse window must fit into the position table: "
                "max_coarse_input_length + 1 + max_coarse_history + sliding_window_len "
                f"<= {model.block_size}. Received: {self.slots}"
            )

    def num_frames(self, num_semantic: int) -> int:
        """Frames that belong to a number of semantic tokens."""
        return math.floor(num_semantic * self.ratio / self.coarse.n_coarse_codebooks)

    def num_frames_of(self, xp: Arrays, num_semantic: Any) -> Any:
        """`num_frames` of int32 arrays or tensors."""
        tokens = xp.float64(num_semantic) * self.ratio
        return xp.floor(tokens / self.coarse.n_coarse_codebooks)


def align(
    semantic: np.ndarray, codes: np.ndarray, window: CoarseWindow
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts semantic tokens and codes of one recording to the same duration.

    Generation makes `num_frames(n)` frames for n semantic tokens. A codec rounds the
    number of frames up and a tokenizer rounds down, so one of them is a little longer.

    Args:
        semantic: int32 (N,).
        codes: int32 (codebooks, T).
        window: `CoarseWindow` of the model.

    Returns:
        The same, with T == window.num_frames(N).

    Raises:
        ValueError: If not even one frame is left.
    """
    count = len(semantic)
    while count and window.num_frames(count) > codes.shape[1]:
        count -= 1
    frames = window.num_frames(count)
    if not frames:
        raise ValueError("it is too short for a single frame")
    return semantic[:count], codes[:, :frames]


def allowed_ids(
    window: CoarseWindow, vocabulary: int, compat: str | None
) -> AllowedIds:
    """The ids of each codebook in turn.

    With `compat="hf"` the last codebook may use all ids up to the end of the
    vocabulary, as in transformers.
    """
    groups, stride = window.coarse.n_coarse_codebooks, window.codebook_size
    is_open = compat == "hf"
    last = window.offset + (groups - 1) * stride
    return AllowedIds(
        first=window.offset,
        stride=stride,
        groups=groups,
        size=vocabulary - last if is_open else stride,
        pad=window.coarse.coarse_semantic_pad_token,
        open_end=is_open,
    )


class CoarseRows(NamedTuple):
    """The inputs of a batch: semantic tokens and histories.

    Attributes:
        semantic: int32 (B, time), the history's semantic tokens, then the row's own.
        num_semantic: int32 (B,), length of each row of `semantic`.
        num_history: int32 (B,), how many of its tokens are history.
        past: int32 (B, max_coarse_history), the history's coarse tokens, padded on the
            left.
        num_past: int32 (B,), length of each row of `past`.
    """

    semantic: Any
    num_semantic: Any
    num_history: Any
    past: Any
    num_past: Any


def coarse_rows(
    xp: Arrays, semantic: Any, lengths: Any, histories: Histories, window: CoarseWindow
) -> CoarseRows:
    """Puts the end of each voice before the row's own tokens, as far as it fits.

    Args:
        xp: `NUMPY` or `TENSORS`.
        semantic: int32 (B, time), semantic tokens.
        lengths: int32 (B,), semantic tokens per row.
        histories: `Histories`.
        window: `CoarseWindow`.

    Returns:
        `CoarseRows`.
    """
    codebooks = window.coarse.n_coarse_codebooks
    num_tokens = histories.num_coarse * codebooks
    num_history = xp.minimum(
        xp.minimum(
            window.max_semantic_history,
            histories.num_semantic - histories.num_semantic % 2,
        ),
        xp.floor(xp.float64(num_tokens) / window.ratio),
    )
    num_cut = xp.round(xp.float64(num_history) * window.ratio)
    num_past = xp.maximum(0, num_cut - HISTORY_FRAMES_DROPPED * codebooks)
    first = num_tokens - num_cut
    room = window.coarse.max_coarse_history
    places = (first + num_past - room)[:, None] + xp.range(room)[None]
    past = xp.take(interleaved(xp, histories.coarse, window), places)
    total = num_history + lengths
    places = xp.range(xp.max(total))[None]
    before = (histories.num_semantic - num_history)[:, None] + places
    after = places - num_history[:, None]
    joined = xp.where(
        places < num_history[:, None],
        xp.take(histories.semantic, before),
        xp.take(semantic, after),
    )
    return CoarseRows(joined, total, num_history, past, num_past)


def interleaved(xp: Arrays, codes: Any, window: CoarseWindow) -> Any:
    """Ids of codes (B, K, frames) in the order of frames: (B, K * frames)."""
    batch, codebooks, frames = (xp.shape(codes)[axis] for axis in range(3))
    shifts = window.offset + window.codebook_size * xp.range(codebooks)
    ids = xp.transpose(codes + shifts[None, :, None], (0, 2, 1))
    return xp.reshape(ids, (batch, codebooks * frames))


def window_start(xp: Arrays, step: Any, num_history: Any, window: CoarseWindow) -> Any:
    """First semantic token of the window in which coarse token `step` is chosen."""
    current = num_history + xp.round(xp.float64(step) / window.ratio)
    return xp.maximum(0, current - window.max_semantic_history)


def goes_on(
    start: Any, last_start: Any, step: Any, num_past: Any, window: CoarseWindow
):
    """Whether a window continues the last prompt, so that the caches hold its own.

    That is the case while the semantic part starts at the same token (`last_start`: in
    the window with the last prompt) and no past tokens have been dropped.
    """
    return (start == last_start) & (num_past + step <= window.coarse.max_coarse_history)


def window_prompt(
    xp: Arrays,
    rows: CoarseRows,
    tokens: Any,
    step: Any,
    width: Any,
    window: CoarseWindow,
) -> tuple:
    """The ids that the network reads before coarse token `step`.

    Args:
        xp: `NUMPY` or `TENSORS`.
        rows: `CoarseRows`.
        tokens: int32 (B, max_coarse_history + step or more), `rows.past`, then the
            rows' own coarse tokens.
        step: Coarse tokens generated so far.
        width: Length of the longest prompt; shorter ones are padded on the left.
        window: `CoarseWindow`.

    Returns:
        int32 (B, width): padding, semantic window, infer token, past; and int32 (B,),
        the length of the padding.
    """
    config = window.coarse
    infer, most = config.max_coarse_input_length, config.max_coarse_history
    num_past = xp.minimum(most, rows.num_past + step)
    padding = width - (infer + 1) - num_past
    places = xp.range(width)[None] - padding[:, None]
    at = window_start(xp, step, rows.num_history, window)[:, None] + places
    shown = xp.where(
        at < rows.num_semantic[:, None],
        xp.take(rows.semantic, at),
        config.coarse_semantic_pad_token,
    )
    past = xp.take(tokens, (most + step - num_past - infer - 1)[:, None] + places)
    ids = xp.where(places == infer, config.coarse_infer_token, past)
    ids = xp.where(places < infer, shown, ids)
    return xp.where(places < 0, config.coarse_semantic_pad_token, ids), padding


class CoarseState(NamedTuple):
    """All that changes from window to window.

    Attributes:
        step: int32 (), coarse tokens so far.
        prompt_step: int32 (), `step` at the last prompt; -1 before the first.
        width: int32 (), length of the last prompt.
        padding: int32 (B,), padding of the last prompt.
        tokens: int32 (B, max_coarse_history + tokens), past and own coarse tokens.
        decode: `DecodeState`. None before the first prompt, except in traced loops.
    """

    step: tf.Tensor
    prompt_step: tf.Tensor
    width: tf.Tensor
    padding: tf.Tensor
    tokens: tf.Tensor
    decode: DecodeState | None


class CoarseStage(Stage):
    """Semantic tokens to the first codebooks, for one batch.

    With `compat="hf"` shorter rows go on to the length of the longest, and the last
    codebook's ids have an open end.

    Args:
        call: `Call`.
        semantic: int32 (B, time), the rows' semantic tokens.
        lengths: int32 (B,), semantic tokens per row.
        histories: `Histories`.
        keys: uint32 (B, 2), the rows' random keys.
        temperature: float32 (B,), the rows' own; 0 is greedy. None: the configuration's
            options.

    Attributes:
        frames: int32 (B,), frames per row.
        limits: int32 (B,), coarse tokens per row.
        total: int32 (), coarse tokens of the longest row.

    Raises:
        ValueError: If a window does not fit into the position table.
    """

    name = "coarse"

    def __init__(
        self,
        call: Call,
        semantic: Any,
        lengths: Any,
        histories: Histories,
        keys: Any,
        temperature: Any = None,
    ):
        model, window = call.networks.coarse_acoustics, call.configs.coarse_window
        window.check(model.config)
        self.call, self.model, self.window = call, model, window
        self.batch = tf.shape(semantic)[0]
        self.size = bucket(self.batch)
        codebooks = window.coarse.n_coarse_codebooks
        self.frames = window.num_frames_of(TENSORS, lengths)
        self.total = tf.reduce_max(self.frames) * codebooks
        self.limits = self.frames * codebooks
        if call.compat == "hf":
            self.limits = tf.fill((self.batch,), self.total)
        xp, inputs = native((semantic, lengths, histories))
        rows = coarse_rows(xp, *inputs, window)
        self.rows = CoarseRows(*(pad_rows(one, self.size) for one in rows))
        self.keys = pad_rows(keys, self.size)
        self.padded_limits = pad_rows(self.limits, self.size)
        self.values, by_row = SamplingValues.of(window.coarse), temperature is not None
        if by_row:
            self.values = self.values.with_rows(pad_rows(temperature, self.size, 1.0))
        self.programs = programs_of(
            model,
            allowed_ids(window, model.config.output_vocab_size, call.compat),
            SamplingRules.of(window.coarse, by_row=by_row),
            window.slots,
            call.jit_compile,
        )

    @property
    def limit_frames(self) -> tf.Tensor:
        """int32 (B,): `limits` in frames."""
        return self.limits // self.window.coarse.n_coarse_codebooks

    def start(self) -> CoarseState:
        """The state before the first window."""
        pad = self.window.coarse.coarse_semantic_pad_token
        own = tf.fill((self.size, self.total), pad)
        eager = tf.executing_eagerly()
        return CoarseState(
            step=tf.constant(0),
            prompt_step=tf.constant(-1),
            width=tf.constant(0),
            padding=tf.zeros((self.size,), tf.int32),
            tokens=tf.concat([self.rows.past, own], 1),
            decode=None if eager else self.programs.before_prefill(self.size),
        )

    def after(self, codes: tf.Tensor) -> CoarseState:
        """The state after the first codes (B, K, frames), of which no cache is left."""
        tokens = pad_rows(interleaved(TENSORS, codes, self.window), self.size)
        start, step = self.start(), tf.shape(tokens)[1]
        first = self.window.coarse.max_coarse_history
        rest = start.tokens[:, first + step :]
        tokens = tf.concat([self.rows.past, tokens, rest], 1)
        return start._replace(step=step, tokens=tokens)

    def is_unfinished(self, state: CoarseState) -> tf.Tensor:
        """Bool (): whether the longest row has tokens left."""
        return state.step < self.total

    def step(self, state: CoarseState) -> CoarseState:
        """Generates one window."""
        until = tf.minimum(
            state.step + self.window.coarse.sliding_window_len, self.total
        )
        state = tf.cond(
            self._goes_on(state, until), lambda: state, lambda: self._prefilled(state)
        )
        rows = Rows(state.padding, self.keys, self.padded_limits)
        decode = self.programs.decode(state.decode, until, rows, self.values)
        decode = decode.checked(self.name)
        new = decode.tokens[
            :, state.step - state.prompt_step : until - state.prompt_step
        ]
        first = self.window.coarse.max_coarse_history
        tokens = state.tokens
        tokens = tf.concat(
            [tokens[:, : first + state.step], new, tokens[:, first + until :]], 1
        )
        return state._replace(step=until, tokens=tokens, decode=decode)

    def _goes_on(self, state: CoarseState, until) -> tf.Tensor:
        """Whether the caches hold the window's prompt and have room for its tokens."""
        start, last = (
            window_start(TENSORS, step, self.rows.num_history, self.window)
            for step in (state.step, state.prompt_step)
        )
        rows = goes_on(start, last, state.step, self.rows.num_past, self.window)
        is_over = self.padded_limits <= state.step
        used = state.width + until - state.prompt_step
        return (
            (state.prompt_step >= 0)
            & (used <= self.window.slots)
            & tf.reduce_all(rows | is_over)
        )

    def _prefilled(self, state: CoarseState) -> CoarseState:
        """Reads the window's prompt."""
        window = self.window
        has_past = tf.reduce_max(self.rows.num_past) + state.step > 0
        bare = window.coarse.max_coarse_input_length + 1
        width = tf.where(has_past, window.longest_prompt, bare)
        xp, inputs = native((self.rows, state.tokens, state.step, width))
        prompt = window_prompt(xp, *inputs, window)
        ids, padding = (tf.cast(part, tf.int32) for part in prompt)
        decode = self.programs.prefill(
            self.model.token_embedding(ids),
            state.step,
            Rows(padding, self.keys, self.padded_limits),
            self.values,
            self._seen(ids),
        )
        collect(self.model)
        return state._replace(
            prompt_step=state.step, width=width, padding=padding, decode=decode
        )

    def _seen(self, ids) -> tf.Tensor:
        """Bool (B, V): which of the ids that may be chosen a prompt shows."""
        count = self.programs.num_seen
        if not count:
            return tf.zeros((self.size, 0), tf.bool)
        ids = ids - self.programs.allowed.first
        ids = tf.where((ids >= 0) & (ids < count), ids, count)
        row = tf.broadcast_to(tf.range(self.size)[:, None], tf.shape(ids))
        shown = tf.scatter_nd(
            tf.stack([row, ids], -1), tf.ones_like(ids), [self.size, count + 1]
        )
        return tf.ensure_shape(shown[:, :count] > 0, (None, count))

    def progress(self, state: CoarseState) -> tuple:
        """Coarse tokens so far, and of the longest row."""
        return state.step, self.total

    def shapes(self, state: CoarseState) -> CoarseState:
        """The length of `tokens` may differ between steps."""
        fixed = tf.nest.map_structure(lambda tensor: tensor.shape, state)
        return fixed._replace(
            padding=tf.TensorShape([None]),
            tokens=tf.TensorShape([None, None]),
            decode=state.decode.shapes(),
        )

    def tokens(self, state: CoarseState) -> tf.Tensor:
        """int32 (B, tokens): ids with offsets, padded with the pad token."""
        first = self.window.coarse.max_coarse_history
        return state.tokens[: self.batch, first:]

    def codes(self, state: CoarseState) -> tf.Tensor:
        """int32 (B, K, frames), 75 Hz: the codes so far; 0 where a row has ended."""
        codebooks = self.window.coarse.n_coarse_codebooks
        frames = state.step // codebooks
        tokens = self.tokens(state)[:, : frames * codebooks]
        codes = (tokens - self.window.offset) % self.window.codebook_size
        codes = tf.reshape(codes, (self.batch, frames, codebooks))
        exists = tf.range(frames)[None] < self.limit_frames[:, None]
        return tf.transpose(tf.where(exists[..., None], codes, 0), (0, 2, 1))
