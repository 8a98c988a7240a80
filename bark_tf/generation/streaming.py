"""Audio in pieces, while later audio is still being generated.

Exact: a fine window of 1024 frames runs as soon as its coarse frames exist, and frames
that no later window changes are decoded at once. Concatenated, the pieces are the audio
that `BarkModel.generate` returns, bit by bit. An utterance of up to 13.6 s is one
window, so its audio comes in one piece; long texts are streamed sentence by sentence
(`long_form.stream_long`).

Low latency: the fine network and the codec run on the coarse frames that exist so far,
with some frames of look-ahead, and audio that has been sent is final. The first piece
comes after about one second of coarse frames, at the price of codes that differ from
the exact ones (decision 0005).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from bark_tf.generation.coarse import CoarseStage
from bark_tf.generation.fine import FineStage, FineState
from bark_tf.generation.histories import Request
from bark_tf.generation.pipeline import piece, piece_ends, semantic_tokens
from bark_tf.generation.stage import Call

LATENCIES = ("exact", "low")
# Low latency: the length of the first piece. Each next piece is twice as long, so that
# the fine network runs only a few times while audio is playing.
FIRST_PIECE_S = 1.0
MAX_PIECE_S = 8.0
# How much the fine network sees after the last frame that is sent.
LOOK_AHEAD_S = 0.2


def stream(
    call: Call, request: Request, latency: str, on_semantic: Callable[[Any], None]
) -> Iterator[np.ndarray]:
    """Speaks one row, piece by piece.

    Args:
        call: `Call`; `load_part` of its networks loads one of them.
        request: `Request` of one row.
        latency: One of `LATENCIES`.
        on_semantic: Called with the number of semantic tokens, int32 (1,).

    Yields:
        float32 (samples,), at the rate of the codec.
    """
    semantic, lengths = semantic_tokens(call, request)
    on_semantic(lengths)
    histories, keys = request.histories, request.keys
    coarse = CoarseStage(call, semantic, lengths, histories, keys.coarse)
    codebooks, frames = coarse.window.coarse.n_coarse_codebooks, int(coarse.frames[0])
    if not frames:
        return
    unknown = tf.fill((1, codebooks, frames), call.configs.codebook_size)
    fine = FineStage(call, unknown, coarse.frames, histories, keys.fine)
    pieces = exact_pieces if latency == "exact" else low_latency_pieces
    yield from pieces(coarse, fine)


def exact_pieces(coarse: CoarseStage, stage: FineStage) -> Iterator[np.ndarray]:
    """The audio that `generate` would return for one row, as early as it is final."""
    networks, known = stage.call.networks, _windows(coarse)
    state, available, sent = stage.start(), 0, 0
    for n, end in enumerate(piece_ends(networks.codec_model, stage)[0].numpy()):
        while available < stage.needed_frames(n)[0]:
            codes = next(known)
            available = codes.shape[2]
            state = stage.with_coarse(state, codes)
        networks.load_part("fine_acoustics")
        state = stage.step(state)
        stage.report(state)
        if end > sent:
            audio = piece(networks.codec_model, stage.codes(state)[0], sent, end)
            sent = end
            yield audio.numpy()


def low_latency_pieces(coarse: CoarseStage, stage: FineStage) -> Iterator[np.ndarray]:
    """The audio of one row, early, from the coarse frames generated so far."""
    networks, frames = stage.call.networks, int(coarse.frames[0])
    rate = coarse.window.coarse.coarse_rate_hz
    look_ahead, most = round(LOOK_AHEAD_S * rate), round(MAX_PIECE_S * rate)
    sent, size, n = 0, round(FIRST_PIECE_S * rate), 0
    state = stage.start()
    for codes in _windows(coarse):
        available = codes.shape[2]
        state = stage.with_coarse(state, codes)
        is_last = available == frames
        while sent < frames and (is_last or sent + size + look_ahead <= available):
            until = frames if is_last else sent + size
            networks.load_part("fine_acoustics")
            state = _filled(stage, state, sent, available, n)
            audio = piece(networks.codec_model, stage.codes(state)[0], sent, until)
            sent, size, n = until, min(2 * size, most), n + 1
            yield audio.numpy()


def _windows(stage: CoarseStage) -> Iterator[tf.Tensor]:
    """The coarse codes of all complete frames so far, after each window."""
    stage.call.networks.load_part("coarse_acoustics")
    for state in stage.steps():
        stage.report(state)
        yield stage.codes(state)
        stage.call.networks.load_part("coarse_acoustics")


def _filled(
    stage: FineStage, state: FineState, sent: int, available: int, n: int
) -> FineState:
    """Predicts the frames from `sent` to `available`.

    One window that ends with them is enough, unless it is shorter than they are.
    """
    length, history = stage.config.max_fine_input_length, int(stage.num_history[0])
    while sent < available:
        end = available
        if available - sent > length:
            end = min(available, sent + length // 2)
        start, stop = max(0, history + end - length), history + end
        room = [[0, 0], [0, length - (stop - start)], [0, 0]]
        shown = tf.pad(state.codes[:, start:stop], room, constant_values=stage.unknown)
        first, last = tf.constant([history + sent - start]), tf.constant([stop - start])
        filled = stage.fill(shown, first, last, stage.keys, stage.temperature, n)
        filled = filled[:, : stop - start]
        before, after = state.codes[:, :start], state.codes[:, stop:]
        state = state._replace(codes=tf.concat([before, filled, after], 1))
        sent = end
    return state
