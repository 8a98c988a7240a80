"""Audio while later audio is still being made.

Exact: a fine window of 1024 frames can run when its coarse frames exist, and what no
later window changes is decoded at once. The pieces put together are the audio that
`BarkModel.generate` returns, bit by bit. An utterance of up to 13.6 s is one window,
so its audio comes in one piece; long texts are streamed sentence by sentence
(`long_form.stream_long`).

Low latency: the fine network and the codec run on the coarse frames that exist so
far, with some frames of look-ahead, and what has been sent is never changed. The first
audio comes after about a second's worth of coarse frames, at the price of codes that
differ from the exact ones (`docs/decisions`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from bark_tf.generation.coarse import CoarseStage
from bark_tf.generation.fine import FineStage, FineState
from bark_tf.generation.pipeline import Pipeline, Request

LATENCIES = ("exact", "low")
# Low latency: the first piece lasts this long, every next one twice as long, so that
# few passes of the fine network are spent while audio is being played.
FIRST_PIECE_S = 1.0
MAX_PIECE_S = 8.0
# What the fine network sees after the last frame that is sent.
LOOK_AHEAD_S = 0.2


def stream(
    pipeline: Pipeline,
    request: Request,
    latency: str,
    on_semantic: Callable[[Any], None],
) -> Iterator[np.ndarray]:
    """Speaks one row, piece by piece.

    Args:
        pipeline: `Pipeline`, whose networks come when `load_part` asks for them.
        request: `Request` of one row.
        latency: One of `LATENCIES`.
        on_semantic: Called with the number of semantic tokens, int32 (1,).

    Yields:
        float32 (samples,), 24 kHz.
    """
    semantic, lengths = pipeline.semantic_tokens(request)
    on_semantic(lengths)
    histories, keys = request.histories, request.keys
    coarse = pipeline.coarse_stage(semantic, lengths, histories, keys.coarse)
    codebooks, frames = coarse.window.coarse.n_coarse_codebooks, int(coarse.frames[0])
    if not frames:
        return
    unknown = tf.fill((1, codebooks, frames), pipeline.configs.codebook_size)
    fine = pipeline.fine_stage(unknown, coarse.frames, histories, keys.fine)
    pieces = exact_pieces if latency == "exact" else low_latency_pieces
    yield from pieces(pipeline, coarse, fine)


def exact_pieces(
    pipeline: Pipeline, coarse: CoarseStage, stage: FineStage
) -> Iterator[np.ndarray]:
    """The audio of one row as `generate` makes it, as early as it is certain."""
    known = _windows(pipeline, coarse)
    state, available, sent = stage.start(), 0, 0
    for n, end in enumerate(pipeline.piece_ends(stage)[0].numpy()):
        while available < stage.needed_frames(n)[0]:
            codes = next(known)
            available = codes.shape[2]
            state = stage.with_coarse(state, codes)
        pipeline.networks.load_part("fine_acoustics")
        state = stage.step(state)
        _report(pipeline, stage, state)
        if end > sent:
            audio = pipeline.piece(stage.codes(state)[0], sent, end)
            sent = end
            yield audio.numpy()


def low_latency_pieces(
    pipeline: Pipeline, coarse: CoarseStage, stage: FineStage
) -> Iterator[np.ndarray]:
    """The audio of one row, early, from the coarse frames that exist so far."""
    frames, rate = int(coarse.frames[0]), coarse.window.coarse.coarse_rate_hz
    look_ahead, most = round(LOOK_AHEAD_S * rate), round(MAX_PIECE_S * rate)
    sent, size, n = 0, round(FIRST_PIECE_S * rate), 0
    state = stage.start()
    for codes in _windows(pipeline, coarse):
        available = codes.shape[2]
        state = stage.with_coarse(state, codes)
        is_last = available == frames
        while sent < frames and (is_last or sent + size + look_ahead <= available):
            until = frames if is_last else sent + size
            pipeline.networks.load_part("fine_acoustics")
            state = _filled(stage, state, sent, available, n)
            audio = pipeline.piece(stage.codes(state)[0], sent, until)
            sent, size, n = until, min(2 * size, most), n + 1
            yield audio.numpy()


def _windows(pipeline: Pipeline, stage: CoarseStage) -> Iterator[tf.Tensor]:
    """The coarse codes of all whole frames so far, after every window."""
    pipeline.networks.load_part("coarse_acoustics")
    for state in stage.steps():
        _report(pipeline, stage, state)
        yield stage.codes(state)
        pipeline.networks.load_part("coarse_acoustics")


def _report(pipeline: Pipeline, stage: CoarseStage | FineStage, state: Any) -> None:
    if pipeline.report is not None:
        pipeline.report(stage.name, *map(int, stage.progress(state)))


def _filled(
    stage: FineStage, state: FineState, sent: int, available: int, n: int
) -> FineState:
    """Predicts the frames from `sent` to `available` in windows that end with them.

    One window is enough unless more frames wait than a window may write.
    """
    length, history = stage.config.max_fine_input_length, int(stage.num_history[0])
    while sent < available:
        end = available
        if available - sent > length:
            end = min(available, sent + length // 2)
        start, stop = max(0, history + end - length), history + end
        room = [[0, 0], [0, length - (stop - start)], [0, 0]]
        shown = tf.pad(state.codes[:, start:stop], room, constant_values=stage.unknown)
        first = tf.constant([history + sent - start])
        filled = stage.fill(shown, first, stage.keys, n)[:, : stop - start]
        before, after = state.codes[:, :start], state.codes[:, stop:]
        state = state._replace(codes=tf.concat([before, filled, after], 1))
        sent = end
    return state
