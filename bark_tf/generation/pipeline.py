"""The whole of Bark as tensor functions: text ids to audio.

`Pipeline.speak` is the one composition of the four networks. Called from Python it runs
window by window, reports progress, and each network is fetched when its turn comes;
inside a traced function it becomes loops of the graph, with any batch size and length,
of which an export is made. Only the inner decode loops may be compiled with XLA.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import tensorflow as tf

from bark_tf.generation.coarse import CoarseStage
from bark_tf.generation.fine import FineStage
from bark_tf.generation.histories import Histories
from bark_tf.generation.options import StageConfigs
from bark_tf.generation.random import Keys
from bark_tf.generation.semantic import REPORT_EVERY, SemanticStage
from bark_tf.generation.stage import Progress


class Networks(Protocol):
    """Who gives the networks, each when it is asked for: a `BarkModel`."""

    semantic: Any
    coarse_acoustics: Any
    fine_acoustics: Any
    codec_model: Any


class Request(NamedTuple):
    """What is spoken; NumPy arrays or tensors.

    Attributes:
        text_ids: int32 (B, time), the tokenizer's ids.
        attention_mask: (B, time), 0 where `text_ids` is padding; None: nowhere.
        histories: `Histories`, the rows' voices.
        keys: `Keys`, the rows' random keys.
    """

    text_ids: Any
    attention_mask: Any
    histories: Histories
    keys: Keys


class Speech(NamedTuple):
    """What the pipeline makes of a `Request`.

    Attributes:
        audio: float32 (B, samples); rows end in silence after their own length.
        semantic: int32 (B, time), 49.9 Hz, filled up with `eos_token_id`.
        num_semantic: int32 (B,), semantic tokens per row, without the end.
        coarse: int32 (B, n_coarse_codebooks, frames), 75 Hz, filled up with 0.
        fine: int32 (B, n_fine_codebooks, frames), 75 Hz, filled up with 0.
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


class Pipeline:
    """The stages of one call, with their configurations.

    Args:
        networks: `Networks`.
        configs: `StageConfigs`.
        compat: `"hf"` reproduces transformers where this library differs.
        jit_compile: Whether the decode loops are compiled with XLA.
        fine_jit_compile: Whether the passes of the fine network are.
        report: Called with (stage, done, total) as the work goes on, outside of traced
            functions; None: nobody listens, and the semantic stage is one call.
    """

    def __init__(
        self,
        networks: Networks,
        configs: StageConfigs,
        *,
        compat: str | None = None,
        jit_compile: bool = True,
        fine_jit_compile: bool = False,
        report: Progress | None = None,
    ):
        self.networks, self.configs, self.compat = networks, configs, compat
        self.jit_compile, self.fine_jit_compile = jit_compile, fine_jit_compile
        self.report = report

    # === Stages ===

    def semantic_stage(self, request: Request) -> SemanticStage:
        """Text to semantic tokens."""
        return SemanticStage(
            self.networks.semantic,
            self.configs.semantic,
            request.text_ids,
            request.attention_mask,
            request.histories,
            request.keys.semantic,
            compat=self.compat,
            jit_compile=self.jit_compile,
            tokens_per_step=None if self.report is None else REPORT_EVERY,
        )

    def coarse_stage(
        self, semantic: Any, lengths: Any, histories: Histories, keys: Any
    ) -> CoarseStage:
        """Semantic tokens (B, time), of which `lengths` count, to coarse codes."""
        return CoarseStage(
            self.networks.coarse_acoustics,
            self.configs.coarse_window,
            semantic,
            lengths,
            histories,
            keys,
            compat=self.compat,
            jit_compile=self.jit_compile,
        )

    def fine_stage(
        self, coarse: Any, frames: Any, histories: Histories, keys: Any
    ) -> FineStage:
        """Coarse codes (B, K, time), of which `frames` count, to all codes."""
        return FineStage(
            self.networks.fine_acoustics,
            self.configs.fine,
            self.configs.codebook_size,
            coarse,
            frames,
            histories,
            keys,
            jit_compile=self.fine_jit_compile,
            use_xla=self.jit_compile,
        )

    # === Together ===

    def semantic_tokens(self, request: Request) -> tuple[tf.Tensor, tf.Tensor]:
        """Semantic tokens (B, time) with their end, and how many each row has."""
        stage = self.semantic_stage(request)
        return stage.tokens(stage.run(self.report))

    def speak(
        self,
        request: Request,
        on_semantic: Callable[[Any], None] | None = None,
        *,
        pad_codes: bool = False,
    ) -> Speech:
        """Runs all stages.

        Args:
            request: `Request`.
            on_semantic: Called with the number of semantic tokens per row as soon as
                they are known, outside of traced functions.
            pad_codes: Whether the audio of a shorter row goes on as long as its codes
                do, which matters to `compat="hf"` only.
        """
        histories, keys = request.histories, request.keys
        semantic, num_semantic = self.semantic_tokens(request)
        if on_semantic is not None:
            on_semantic(num_semantic)
        coarse_stage = self.coarse_stage(semantic, num_semantic, histories, keys.coarse)
        coarse = coarse_stage.codes(coarse_stage.run(self.report))
        stage = self.fine_stage(coarse, coarse_stage.limit_frames, histories, keys.fine)
        fine = stage.codes(stage.run(self.report))
        frames = stage.frames if pad_codes else coarse_stage.frames
        return Speech(
            audio=self.audio(fine, stage, frames),
            semantic=semantic,
            num_semantic=num_semantic,
            coarse=coarse,
            fine=fine,
            frames=coarse_stage.frames,
            codes_frames=stage.frames,
        )

    # === Audio ===

    def audio(self, codes: tf.Tensor, stage: FineStage, frames: Any) -> tf.Tensor:
        """Decodes codes (B, N, time), of which `frames` count: float32 (B, samples).

        A row is decoded alone, so that no other row can change it, and in the pieces in
        which it can be streamed, so that both are the same bit by bit.
        """
        ends = tf.minimum(self.piece_ends(stage), frames[:, None])
        batch, samples = tf.shape(codes)[0], tf.reduce_max(frames) * self.hop_length
        if not tf.executing_eagerly():
            return tf.map_fn(
                lambda row: self._row(codes[row], ends[row], samples),
                tf.range(batch),
                fn_output_signature=tf.TensorSpec([None], tf.float32),
                parallel_iterations=1,
            )
        rows = []
        for row in range(int(batch)):
            rows.append(self._row(codes[row], ends[row], samples))
            if self.report is not None:
                self.report("codec", row + 1, int(batch))
        return tf.stack(rows)

    def _row(self, codes: tf.Tensor, ends: tf.Tensor, samples: tf.Tensor) -> tf.Tensor:
        """One row's audio, piece by piece, and silence up to a number of samples."""

        def append(n, sent, audio):
            piece = tf.cond(
                ends[n] > sent,
                lambda: self.piece(codes, sent, ends[n]),
                lambda: tf.zeros((0,), tf.float32),
            )
            return n + 1, tf.maximum(sent, ends[n]), tf.concat([audio, piece], 0)

        _, _, audio = tf.while_loop(
            lambda n, *_: n < tf.shape(ends)[0],
            append,
            (tf.constant(0), tf.constant(0), tf.zeros((0,), tf.float32)),
            shape_invariants=(
                tf.TensorShape([]),
                tf.TensorShape([]),
                tf.TensorShape([None]),
            ),
        )
        return tf.pad(audio, [[0, samples - tf.shape(audio)[0]]])

    def piece(self, codes: tf.Tensor, start: Any, end: Any) -> tf.Tensor:
        """The samples of frames `start` to `end`; the codec hears all before them."""
        audio = self.networks.codec_model.decode(codes[None, :, :end])[0]
        return audio[start * self.hop_length :]

    def piece_ends(self, stage: FineStage) -> tf.Tensor:
        """int32 (B, windows): frames that can be decoded after each fine window.

        The codec pads its input by reflection, which takes more frames than the first
        few of a row; these wait for the next window.
        """
        ends, frames = stage.boundaries(), stage.frames[:, None]
        fewest = self.networks.codec_model.config.kernel_size
        return tf.where((ends >= fewest) | (ends == frames), ends, 0)

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return self.networks.codec_model.config.hop_length
