"""The whole of Bark as tensor functions: text ids to audio.

`speak` composes the four networks. Called from Python it runs window by window, reports
progress, and loads each network when its stage begins. Inside a traced function it
becomes loops of the graph for any batch size and length, from which an export is made.
Only the inner decode loops may be compiled with XLA.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from bark_tf.generation.coarse import CoarseStage
from bark_tf.generation.fine import FineStage
from bark_tf.generation.finite import is_finite, require
from bark_tf.generation.histories import Request, RowOptions
from bark_tf.generation.semantic import SemanticStage
from bark_tf.generation.stage import Call


class Speech(NamedTuple):
    """The outputs of `speak`.

    Attributes:
        audio: float32 (B, samples); shorter rows end in silence.
        semantic: int32 (B, time), 49.9 Hz, padded with `eos_token_id`.
        num_semantic: int32 (B,), semantic tokens per row, without the end.
        coarse: int32 (B, n_coarse_codebooks, frames), 75 Hz, padded with 0.
        fine: int32 (B, n_fine_codebooks, frames), 75 Hz, padded with 0.
        frames: int32 (B,), frames per row.
        codes_frames: int32 (B,), frames of `coarse` and `fine` per row; with
            `compat="hf"` those of the longest.
    """

    audio: tf.Tensor
    semantic: tf.Tensor
    num_semantic: tf.Tensor
    coarse: tf.Tensor
    fine: tf.Tensor
    frames: tf.Tensor
    codes_frames: tf.Tensor


def semantic_tokens(
    call: Call, request: Request, options: RowOptions | None = None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Semantic tokens (B, time) with their end, and how many each row has."""
    stage = SemanticStage(call, request, options)
    return stage.tokens(stage.run())


def speak(
    call: Call,
    request: Request,
    on_semantic: Callable[[Any], None] | None = None,
    *,
    options: RowOptions | None = None,
    pad_codes: bool = False,
) -> Speech:
    """Runs all stages.

    Args:
        call: `Call`.
        request: `Request`.
        on_semantic: Called with the number of semantic tokens per row after the first
            stage; not for traced functions.
        options: `RowOptions`; None: those of the configurations.
        pad_codes: Whether to decode all codes of shorter rows, also those after their
            own end; these exist with `compat="hf"` only.
    """
    histories, keys = request.histories, request.keys
    semantic, num_semantic = semantic_tokens(call, request, options)
    if on_semantic is not None:
        on_semantic(num_semantic)
    coarse_stage = CoarseStage(
        call,
        semantic,
        num_semantic,
        histories,
        keys.coarse,
        options and options.coarse_temperature,
    )
    coarse = coarse_stage.codes(coarse_stage.run())
    stage = FineStage(
        call,
        coarse,
        coarse_stage.limit_frames,
        histories,
        keys.fine,
        options and options.fine_temperature,
    )
    fine = stage.codes(stage.run())
    frames = stage.frames if pad_codes else coarse_stage.frames
    return Speech(
        audio=decode(call, fine, stage, frames),
        semantic=semantic,
        num_semantic=num_semantic,
        coarse=coarse,
        fine=fine,
        frames=coarse_stage.frames,
        codes_frames=stage.frames,
    )


# === Audio ===


def decode(call: Call, codes: tf.Tensor, stage: FineStage, frames: Any) -> tf.Tensor:
    """Decodes the first `frames` (B,) of codes (B, N, time): float32 (B, samples).

    Rows are decoded one by one, so that they do not depend on each other, and in the
    pieces in which they are streamed, so that both give the same bits.
    """
    codec = call.networks.codec_model
    ends = tf.minimum(piece_ends(codec, stage), frames[:, None])
    samples = tf.reduce_max(frames) * codec.config.hop_length
    batch = tf.shape(codes)[0]
    if not tf.executing_eagerly():
        return tf.map_fn(
            lambda row: _row(codec, codes[row], ends[row], samples),
            tf.range(batch),
            fn_output_signature=tf.TensorSpec([None], tf.float32),
            parallel_iterations=1,
        )
    rows = []
    for row in range(int(batch)):
        rows.append(_row(codec, codes[row], ends[row], samples))
        if call.report is not None:
            call.report("codec", row + 1, int(batch))
    return tf.stack(rows)


def _row(codec: Any, codes: tf.Tensor, ends: tf.Tensor, samples: tf.Tensor):
    """One row's audio, piece by piece, padded with silence to `samples`."""

    def append(n, sent, audio):
        new = tf.cond(
            ends[n] > sent,
            lambda: piece(codec, codes, sent, ends[n]),
            lambda: tf.zeros((0,), tf.float32),
        )
        return n + 1, tf.maximum(sent, ends[n]), tf.concat([audio, new], 0)

    number = tf.TensorShape([])
    _, _, audio = tf.while_loop(
        lambda n, *_: n < tf.shape(ends)[0],
        append,
        (tf.constant(0), tf.constant(0), tf.zeros((0,), tf.float32)),
        shape_invariants=(number, number, tf.TensorShape([None])),
    )
    return tf.pad(audio, [[0, samples - tf.shape(audio)[0]]])


def piece(codec: Any, codes: tf.Tensor, start: Any, end: Any) -> tf.Tensor:
    """The samples of frames `start` to `end`, decoded with all frames before them."""
    audio = codec.decode(codes[None, :, :end])[0]
    require(is_finite(audio), "Audio")
    return audio[start * codec.config.hop_length :]


def piece_ends(codec: Any, stage: FineStage) -> tf.Tensor:
    """int32 (B, windows): how many frames can be decoded after each fine window.

    The codec pads its input by reflection, which needs a few frames; if there are
    fewer, they wait for the next window.
    """
    ends, frames = stage.boundaries(), stage.frames[:, None]
    return tf.where((ends >= codec.config.kernel_size) | (ends == frames), ends, 0)
