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

from collections.abc import Iterator
from typing import Any

import numpy as np

from bark_tf.generation.cache import bucket
from bark_tf.generation.fine import FineStage, fill_window
from bark_tf.generation.semantic import pad_rows

LATENCIES = ("exact", "low")
# Low latency: the first piece lasts this long, every next one twice as long, so that
# few passes of the fine network are spent while audio is being played.
FIRST_PIECE_S = 1.0
MAX_PIECE_S = 8.0
# What the fine network sees after the last frame that is sent.
LOOK_AHEAD_S = 0.2


def exact_pieces(run: Any, semantic: np.ndarray) -> Iterator[np.ndarray]:
    """The audio of one row as `generate` makes it, as early as it is certain.

    Args:
        run: The call's `_Run` of `bark.py`.
        semantic: int32 (time,), the row's semantic tokens.

    Yields:
        float32 (samples,).
    """
    frames = run.configs.coarse_window.num_frames(len(semantic))
    if frames == 0:
        return
    stage = run.fine_stage([_unknown(run, frames)])
    known = run.coarse_frames(semantic)
    available = sent = 0
    for n, boundary in enumerate(run.boundaries(stage, 0)):
        while available < stage.needed_frames(0, n):
            codes = next(known)
            available = codes.shape[1]
            stage.put_coarse(0, codes)
        run.bark.load_part("fine_acoustics")
        stage.run_pass(n)
        run.report("fine", n + 1, stage.num_passes)
        if boundary > sent:
            audio = run.piece(stage.codes(0), sent, boundary)
            sent = boundary
            yield audio


def low_latency_pieces(run: Any, semantic: np.ndarray) -> Iterator[np.ndarray]:
    """The audio of one row, early, from coarse frames that exist so far.

    Args:
        run: The call's `_Run` of `bark.py`.
        semantic: int32 (time,), the row's semantic tokens.

    Yields:
        float32 (samples,).
    """
    frames = run.configs.coarse_window.num_frames(len(semantic))
    if frames == 0:
        return
    stage = run.fine_stage([_unknown(run, frames)])
    rate = run.configs.coarse.coarse_rate_hz
    look_ahead, most = round(LOOK_AHEAD_S * rate), round(MAX_PIECE_S * rate)
    sent, size, n = 0, round(FIRST_PIECE_S * rate), 0
    for codes in run.coarse_frames(semantic):
        available = codes.shape[1]
        stage.put_coarse(0, codes)
        is_last = available == frames
        while sent < frames and (is_last or sent + size + look_ahead <= available):
            until = frames if is_last else sent + size
            run.bark.load_part("fine_acoustics")
            _fill(stage, sent, available, n)
            audio = run.piece(stage.codes(0), sent, until)
            sent, size, n = until, min(2 * size, most), n + 1
            yield audio


def _unknown(run: Any, frames: int) -> np.ndarray:
    """A place for coarse codes that do not exist yet."""
    codebooks = run.configs.coarse.n_coarse_codebooks
    return np.full((codebooks, frames), run.configs.codebook_size, np.int32)


def _fill(stage: FineStage, sent: int, available: int, n: int) -> None:
    """Predicts the frames from `sent` to `available` in windows that end with them.

    One window is enough unless more frames wait than a window may write.
    """
    length = stage.config.max_fine_input_length
    buffer, start = stage.buffers[0], stage.histories[0]
    while sent < available:
        end = (
            min(available, sent + length // 2)
            if available - sent > length
            else available
        )
        shown_from = max(0, start + end - length)
        shown = np.full((1, length, buffer.shape[1]), stage.unknown, np.int32)
        visible = buffer[shown_from : start + end]
        shown[0, : len(visible)] = visible
        first = np.array([start + sent - shown_from], np.int32)
        keys = pad_rows(stage.keys, bucket(1))
        fill_window(stage.program, shown, first, keys, n, stage.num_given, stage.config)
        buffer[start + sent : start + end] = shown[0, first[0] : len(visible)]
        sent = end
