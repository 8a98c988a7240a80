"""The first codebooks to all of them, in overlapping windows of 1024 frames.

The network sees a whole window, past and future, so a window runs only when all its
frames exist. Each row has its own windows, which do not depend on other rows.

Source: suno-ai/bark, `bark/generation.py::generate_fine`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from bark_tf.config import BarkFineConfig, BarkFineGenerationConfig
from bark_tf.generation.arrays import TENSORS, Arrays
from bark_tf.generation.cache import bucket, pad_rows
from bark_tf.generation.finite import is_finite, require
from bark_tf.generation.histories import Histories
from bark_tf.generation.loop import cached
from bark_tf.generation.sampling import by_temperature, sample_codes
from bark_tf.generation.stage import Call, Stage
from bark_tf.memory import collect


class Window(NamedTuple):
    """One pass over a part of a row; int32, numbers or arrays.

    Attributes:
        start: First frame of the window.
        fill: First frame that is written.
    """

    start: Any
    fill: Any


def history_length(xp: Arrays, num_fine: Any, config: BarkFineGenerationConfig) -> Any:
    """How many frames at the end of a voice are read."""
    return xp.minimum(num_fine, config.max_fine_history_length)


def num_windows(
    xp: Arrays, num_frames: Any, num_history: Any, config: BarkFineGenerationConfig
) -> Any:
    """How many windows a row of int32 `num_frames` has; 0 without frames."""
    size, hop = config.max_fine_input_length, config.max_fine_history_length
    more = num_frames + num_history - size  # than the first window holds
    return xp.where(num_frames > 0, xp.maximum(0, -(-more // hop)) + 1, 0)


def window_at(
    xp: Arrays,
    n: Any,
    num_frames: Any,
    num_history: Any,
    config: BarkFineGenerationConfig,
) -> Window:
    """The n-th window over a row's buffer; the last window ends with the buffer.

    Args:
        xp: `NUMPY` or `TENSORS`.
        n: int32, number of the window.
        num_frames: int32, frames to fill.
        num_history: int32, frames of the voice before them.
        config: Generation configuration.
    """
    size, hop = config.max_fine_input_length, config.max_fine_history_length
    length = xp.maximum(num_history + num_frames, size)
    return Window(
        start=xp.minimum(n * hop, length - size),
        fill=xp.minimum(num_history + n * hop, length - hop),
    )


def window_buffer(
    xp: Arrays,
    codes: Any,
    num_frames: Any,
    histories: Histories,
    config: BarkFineGenerationConfig,
    unknown: int,
) -> Any:
    """The rows' histories and known codes, padded with the unknown code.

    Args:
        xp: `NUMPY` or `TENSORS`.
        codes: int32 (B, known codebooks, frames).
        num_frames: int32 (B,), frames per row.
        histories: `Histories`; the end of each fine prompt is used.
        config: Generation configuration.
        unknown: Code that stands for an unknown entry.

    Returns:
        int32 (B, at least max_fine_input_length, n_fine_codebooks).
    """
    num_history = history_length(xp, histories.num_fine, config)
    length = xp.maximum(xp.max(num_history + num_frames), config.max_fine_input_length)
    places = xp.range(length)[None]
    before = (histories.num_fine - num_history)[:, None] + places
    history = xp.take(xp.transpose(histories.fine, (0, 2, 1)), before)
    known = xp.take(xp.transpose(codes, (0, 2, 1)), places - num_history[:, None])
    room = [[0, 0], [0, 0], [0, config.n_fine_codebooks - codes.shape[1]]]
    known = xp.pad(known, room, constant_values=unknown)
    is_history = (places < num_history[:, None])[..., None]
    is_known = (places < (num_history + num_frames)[:, None])[..., None]
    return xp.where(is_history, history, xp.where(is_known, known, unknown))


def check_window(model: BarkFineConfig, configs: Any) -> None:
    """Raises ValueError if `StageConfigs` do not fit the network."""
    config, known = configs.fine, configs.coarse.n_coarse_codebooks
    if not model.n_codes_given <= known <= config.n_fine_codebooks:
        raise ValueError(
            f"n_coarse_codebooks must be at least n_codes_given={model.n_codes_given} "
            f"and at most n_fine_codebooks={config.n_fine_codebooks}. "
            f"Received: n_coarse_codebooks={known}"
        )
    # One more stands for an unknown code.
    most = min(model.input_vocab_size - 1, model.output_vocab_size)
    if configs.codebook_size > most:
        raise ValueError(
            f"codebook_size must be at most {most}, as the fine vocabulary. "
            f"Received: codebook_size={configs.codebook_size}"
        )
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
    """The traced pass of a fine model over one window and one codebook.

    Args:
        model: Fine model: `embed`, `forward`, `logits`.
        codebook_size: Logits that count.
        samples: Whether codes are drawn; None: in rows whose temperature is not 0.
        jit_compile: Whether the program is compiled with XLA.
        use_xla: Whether XLA may compile small pieces of it.
    """

    def __init__(
        self,
        model: Any,
        codebook_size: int,
        samples: bool | None,
        jit_compile: bool,
        use_xla: bool,
    ):
        self.model, self.codebook_size, self.samples = model, codebook_size, samples
        self.jit_compile, self.use_xla = jit_compile, use_xla
        self.run = tf.function(self._run, jit_compile=jit_compile, autograph=False)

    def _run(self, codes, codebook, first, count, keys, step, temperature):
        """Predicts one codebook of a window.

        Args:
            codes: int32 (B, frames, codebooks).
            codebook: int32 (), the one to predict.
            first: int32 (B,), first frame to write.
            count: int32 (), how many frames to write, at most. XLA needs a fixed
                number, so its program writes all from the first one on.
            keys: uint32 (B, 2), random keys.
            step: int32 (), counts the passes of the stage.
            temperature: float32 (B,).

        Returns:
            int32 (B, frames), the codebook with its new values; and bool (), whether
            all logits are finite.
        """
        frames = codes.shape[1]
        count = frames if self.jit_compile else count
        places = tf.minimum(first[:, None] + tf.range(count), frames - 1)
        x = self.model.forward(
            self.model.embed(codebook, codes),
            use_xla=self.use_xla,
            one_trace=not self.jit_compile,
            wanted=lambda states: tf.gather(states, places, batch_dims=1),
        ).hidden
        logits = self.model.logits(codebook, x, self.codebook_size)
        logits = tf.cast(logits, tf.float32)

        def greedy():
            return tf.argmax(logits, -1, output_type=tf.int32)

        def sampled(temperature):
            return sample_codes(logits, keys, step, temperature, first)

        if self.samples is None:
            new = by_temperature(logits, temperature, greedy, sampled)
        else:
            new = sampled(temperature) if self.samples else greedy()
        offset = tf.range(frames) - first[:, None]
        is_new = (offset >= 0) & (offset < count)
        old = tf.gather(codes, codebook, axis=2)
        return tf.where(is_new, TENSORS.take(new, offset), old), is_finite(logits)


class FineState(NamedTuple):
    """All that changes from window to window.

    Attributes:
        count: int32 (), windows done.
        codes: int32 (B, frames, n_fine_codebooks), histories and codes.
    """

    count: tf.Tensor
    codes: tf.Tensor


class FineStage(Stage):
    """The first codebooks to all of them, for one batch.

    Args:
        call: `Call`.
        coarse: int32 (B, coarse codebooks, frames).
        frames: int32 (B,), frames per row.
        histories: `Histories`.
        keys: uint32 (B, 2), the rows' random keys.
        temperature: float32 (B,), the rows' own; 0 is greedy. None: the configuration's
            options.

    Attributes:
        num_history: int32 (B,), frames of history in the rows' buffers.
        counts: int32 (B,), windows per row.
        total: int32 (), windows of the longest row.

    Raises:
        ValueError: If a window does not fit the network.
    """

    name = "fine"

    def __init__(
        self,
        call: Call,
        coarse: Any,
        frames: Any,
        histories: Histories,
        keys: Any,
        temperature: Any = None,
    ):
        model, config = call.networks.fine_acoustics, call.configs.fine
        check_window(model.config, call.configs)
        self.call, self.model, self.config = call, model, config
        self.unknown = call.configs.codebook_size
        self.coarse, self.frames, self.histories = coarse, frames, histories
        self.keys, self.num_given = keys, coarse.shape[1]
        samples = config.samples if temperature is None else None
        how = (samples, call.fine_jit_compile, call.jit_compile)
        self.program = cached(
            model,
            (self.name, self.unknown, *how),
            lambda: FineProgram(model, self.unknown, *how),
        )
        if temperature is None:
            temperature = tf.fill(tf.shape(frames), config.temperature or 1.0)
        self.temperature = temperature
        self.num_history = history_length(TENSORS, histories.num_fine, config)
        self.counts = num_windows(TENSORS, frames, self.num_history, config)
        self.total = tf.reduce_max(self.counts)

    def start(self) -> FineState:
        """Histories and coarse codes, before the first window."""
        codes = window_buffer(
            TENSORS, self.coarse, self.frames, self.histories, self.config, self.unknown
        )
        return FineState(tf.constant(0), codes)

    def is_unfinished(self, state: FineState) -> tf.Tensor:
        """Bool (): whether the longest row has windows left."""
        return state.count < self.total

    def step(self, state: FineState) -> FineState:
        """Runs the next window of each row that has one."""
        rows = tf.cast(tf.where(self.counts > state.count)[:, 0], tf.int32)
        frames, history = (tf.gather(x, rows) for x in (self.frames, self.num_history))
        window = window_at(TENSORS, state.count, frames, history, self.config)
        places = window.start[:, None] + tf.range(self.config.max_fine_input_length)
        shown = tf.gather(tf.gather(state.codes, rows), places, batch_dims=1)
        first, end = window.fill - window.start, history + frames - window.start
        keys, heat = tf.gather(self.keys, rows), tf.gather(self.temperature, rows)
        filled = self.fill(shown, first, end, keys, heat, state.count)
        row = tf.broadcast_to(rows[:, None], tf.shape(places))
        codes = tf.tensor_scatter_nd_update(
            state.codes, tf.stack([row, places], -1), filled
        )
        return FineState(state.count + 1, codes)

    def fill(self, shown, first, end, keys, temperature, n) -> tf.Tensor:
        """Predicts the unknown codebooks of windows one after the other.

        The network reads the padding after the last frame too, so only the last
        codebook can be left out there.

        Args:
            shown: int32 (b, max_fine_input_length, n_fine_codebooks).
            first: int32 (b,), first frame to write.
            end: int32 (b,), the end of the frames that are no padding.
            keys: uint32 (b, 2), the rows' random keys.
            temperature: float32 (b,).
            n: int or int32 (), number of the window, for the random numbers.

        Returns:
            As `shown`.
        """
        config, batch = self.config, tf.shape(shown)[0]
        n = tf.convert_to_tensor(n)  # an int would be traced anew each time
        length, size = config.max_fine_input_length, bucket(batch)
        count = length - tf.reduce_min(first)
        last_count = tf.minimum(count, tf.reduce_max(end - first))
        first, keys = pad_rows(first, size), pad_rows(keys, size)
        temperature = pad_rows(temperature, size, 1.0)
        is_codebook = tf.range(config.n_fine_codebooks)
        are_finite = tf.constant(True)
        for codebook in range(self.num_given, config.n_fine_codebooks):
            new, is_right = self.program.run(
                pad_rows(shown, size),
                tf.constant(codebook),
                first,
                last_count if codebook == config.n_fine_codebooks - 1 else count,
                keys,
                n * config.n_fine_codebooks + codebook,
                temperature,
            )
            shown = tf.where(is_codebook == codebook, new[:batch, :, None], shown)
            are_finite &= is_right
            collect(self.model)
        require(are_finite, "Logits of the fine stage")
        return shown

    def progress(self, state: FineState) -> tuple:
        """Windows done, and those of the longest row."""
        return state.count, self.total

    def shapes(self, state: FineState) -> FineState:
        """Batch and length may be any."""
        codes = tf.TensorShape([None, None, self.config.n_fine_codebooks])
        return FineState(tf.TensorShape([]), codes)

    def codes(self, state: FineState) -> tf.Tensor:
        """int32 (B, n_fine_codebooks, frames), 75 Hz; 0 where a row has ended."""
        places = tf.range(tf.reduce_max(self.frames))[None]
        codes = TENSORS.take(state.codes, self.num_history[:, None] + places)
        exists = places < self.frames[:, None]
        return tf.transpose(tf.where(exists[..., None], codes, 0), (0, 2, 1))

    # === Streaming ===

    def with_coarse(self, state: FineState, coarse: tf.Tensor) -> FineState:
        """Sets the coarse codes (B, coarse codebooks, frames) of the first frames."""
        count = tf.shape(coarse)[2]
        places = tf.range(tf.shape(state.codes)[1])[None] - self.num_history[:, None]
        known = TENSORS.take(tf.transpose(coarse, (0, 2, 1)), places)
        room = [[0, 0], [0, 0], [0, self.config.n_fine_codebooks - self.num_given]]
        is_new = (places >= 0) & (places < count)
        is_given = tf.range(self.config.n_fine_codebooks) < self.num_given
        codes = tf.where(is_new[..., None] & is_given, tf.pad(known, room), state.codes)
        return state._replace(codes=codes)

    def needed_frames(self, n: Any) -> tf.Tensor:
        """int32 (B,): how many frames must exist before window `n` can run."""
        start = window_at(TENSORS, n, self.frames, self.num_history, self.config).start
        end = start + self.config.max_fine_input_length
        return tf.minimum(self.frames, end - self.num_history)

    def boundaries(self) -> tf.Tensor:
        """How many frames are final after each window.

        Returns:
            int32 (B, windows); all frames of a row after its last window.
        """
        n = tf.range(self.total)[None] + 1
        frames, history = self.frames[:, None], self.num_history[:, None]
        after = window_at(TENSORS, n, frames, history, self.config).fill - history
        return tf.where(n < self.counts[:, None], after, frames)
