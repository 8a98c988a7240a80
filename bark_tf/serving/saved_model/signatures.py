"""The signatures of an export, as functions of tensors."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import tensorflow as tf

from bark_tf.generation.coarse import CoarseStage
from bark_tf.generation.fine import FineStage
from bark_tf.generation.histories import Histories, Request, RowOptions
from bark_tf.generation.options import StageConfigs
from bark_tf.generation.pipeline import piece, piece_ends, semantic_tokens, speak
from bark_tf.generation.random import keys_of_rows
from bark_tf.generation.stage import Call
from bark_tf.serving.saved_model.checks import Limits, checked, specs
from bark_tf.serving.saved_model.voice_table import VoiceTable

DEFAULT = "serving_default"  # another name of `speak`

_TEXT = ("input_ids", "attention_mask")
_SEMANTIC_VOICE = ("semantic_prompt", "num_prompt_tokens")
_COARSE_VOICE = (*_SEMANTIC_VOICE, "coarse_prompt", "num_prompt_frames")
_SEED = ("seed", "stream")
_LIMITS = ("min_new_tokens", "max_new_tokens")
_OPTIONS = (
    *_SEED,
    "semantic_temperature",
    "coarse_temperature",
    "fine_temperature",
    *_LIMITS,
)
# The inputs of every signature; later ones may call earlier ones.
INPUTS = {
    "tokenize": ("text",),
    "voices": ("voice",),
    "speak_tokens": (*_TEXT, *_COARSE_VOICE, "fine_prompt", *_OPTIONS),
    "speak": ("text", "voice", *_OPTIONS),
    "semantic": (*_TEXT, *_SEMANTIC_VOICE, *_SEED, "temperature", *_LIMITS),
    "coarse_window": (
        "semantic",
        "num_semantic",
        "coarse",
        *_COARSE_VOICE,
        *_SEED,
        "temperature",
    ),
    "fine": (
        "coarse",
        "num_frames",
        "fine_prompt",
        "num_prompt_frames",
        *_SEED,
        "temperature",
    ),
    "decode": ("fine", "start", "num_frames"),
    "encode": ("audio", "num_samples"),
}
_AUDIO = ("audio", "lengths", "sampling_rate")


def _histories(given: Any) -> Histories:
    """The voices among the inputs; None for arrays that a stage does not read."""
    prompts = ("semantic_prompt", "coarse_prompt", "fine_prompt")
    counts = ("num_prompt_tokens", "num_prompt_frames", "num_prompt_frames")
    arrays = (
        (getattr(given, name, None) for name in names) for names in (prompts, counts)
    )
    return Histories(*(part for pair in zip(*arrays, strict=True) for part in pair))


class Signatures:
    """The functions of an export, each named in `INPUTS`.

    Args:
        call: `Call`; its networks are a `BarkModel`.
        text: `TextGraph`.
        voices: `VoiceTable`.

    Attributes:
        functions: Name -> concrete function.
    """

    def __init__(self, call: Call, text: Any, voices: VoiceTable):
        self._call, self._text, self._voices = call, text, voices
        self._codec = call.networks.config.codec_config
        self._limits = Limits.of(call.networks, call.configs)
        self.functions: dict[str, Any] = {}
        for name in INPUTS:
            self.functions[name] = self._trace(name)
        self.functions[DEFAULT] = self.functions["speak"]

    def _trace(self, name: str) -> Any:
        known, names = specs(self._limits), INPUTS[name]

        def run(*inputs):
            given = checked(dict(zip(names, inputs, strict=True)), self._limits)
            return getattr(self, name)(SimpleNamespace(**given))

        signature = [known[name] for name in names]
        traced = tf.function(run, input_signature=signature, autograph=False)
        return traced.get_concrete_function()

    # === The whole of Bark ===

    def speak_tokens(self, given: Any) -> dict[str, tf.Tensor]:
        """Text ids to audio, tokens and codes, with voices as arrays."""
        out = speak(
            self._call,
            Request(
                given.input_ids,
                given.attention_mask,
                _histories(given),
                keys_of_rows(given.seed, given.stream),
            ),
            options=RowOptions(*(getattr(given, name) for name in RowOptions._fields)),
        )
        lengths = out.frames * self._codec.hop_length
        return {
            "audio": out.audio,
            "lengths": lengths,
            "sampling_rate": tf.fill(tf.shape(lengths), self._codec.sampling_rate),
            "semantic": out.semantic,
            "num_semantic": out.num_semantic,
            "coarse": out.coarse,
            "fine": out.fine,
            "num_frames": out.codes_frames,
        }

    def speak(self, given: Any) -> dict[str, tf.Tensor]:
        """Texts to audio, with voices by name."""
        ids = self.functions["tokenize"](given.text)
        inputs = {**self.functions["voices"](given.voice), **ids, **vars(given)}
        tokens = [inputs[name] for name in INPUTS["speak_tokens"]]
        out = self.functions["speak_tokens"](*tokens)
        return {name: out[name] for name in _AUDIO}

    # === Stage by stage ===

    def tokenize(self, given: Any) -> dict[str, tf.Tensor]:
        """Texts to text ids."""
        return dict(zip(_TEXT, self._text(given.text), strict=True))

    def semantic(self, given: Any) -> dict[str, tf.Tensor]:
        """Text ids to semantic tokens."""
        heat, limits = given.temperature, [getattr(given, name) for name in _LIMITS]
        tokens, lengths = semantic_tokens(
            self._call,
            Request(
                given.input_ids,
                given.attention_mask,
                _histories(given),
                keys_of_rows(given.seed, given.stream),
            ),
            RowOptions(heat, heat, heat, *limits),
        )
        return {"semantic": tokens, "num_semantic": lengths}

    def coarse_window(self, given: Any) -> dict[str, tf.Tensor]:
        """The codes of the window after `coarse`."""
        stage = CoarseStage(
            self._call,
            given.semantic,
            given.num_semantic,
            _histories(given),
            keys_of_rows(given.seed, given.stream).coarse,
            given.temperature,
        )
        state = stage.after(given.coarse)
        state = tf.cond(
            stage.is_unfinished(state), lambda: stage.step(state), lambda: state
        )
        new = stage.codes(state)[:, :, tf.shape(given.coarse)[2] :]
        return {"coarse": new, "num_frames": stage.limit_frames}

    def fine(self, given: Any) -> dict[str, tf.Tensor]:
        """The first codebooks to all of them."""
        stage = FineStage(
            self._call,
            given.coarse,
            given.num_frames,
            _histories(given),
            keys_of_rows(given.seed, given.stream).fine,
            given.temperature,
        )
        codes = stage.codes(stage.run())
        ends = piece_ends(self._call.networks.codec_model, stage)
        return {"fine": codes, "boundaries": ends}

    # === Codec ===

    def decode(self, given: Any) -> dict[str, tf.Tensor]:
        """The audio of the frames from `start` on, given all frames before them."""
        codec = self._call.networks.codec_model

        def row(codes, start, end):
            return tf.cond(
                end > start,
                lambda: piece(codec, codes, start, end),
                lambda: tf.zeros((0,), tf.float32),
            )

        lengths = tf.maximum(0, given.num_frames - given.start) * self._codec.hop_length
        inputs = (given.fine, given.start, given.num_frames)
        spec = tf.TensorSpec([None], tf.float32)
        audio = _by_row(row, inputs, tf.reduce_max(lengths), spec)
        return {"audio": audio, "lengths": lengths}

    def encode(self, given: Any) -> dict[str, tf.Tensor]:
        """Audio to the codes of a voice."""
        codec, books = self._call.networks.codec_model, self._limits.num_fine

        def row(audio, length):
            return tf.cond(
                length > 0,
                lambda: codec.encode(audio[None, :length], num_codebooks=books)[0],
                lambda: tf.zeros((books, 0), tf.int32),
            )

        frames = -(-given.num_samples // self._codec.hop_length)
        inputs = (given.audio, given.num_samples)
        spec = tf.TensorSpec([books, None], tf.int32)
        codes = _by_row(row, inputs, tf.reduce_max(frames), spec)
        return {"fine": codes, "num_frames": frames}

    # === Voices ===

    def voices(self, given: Any) -> dict[str, tf.Tensor]:
        """The arrays of voices, the names of all, and what the model does by itself."""
        found, rows = self._voices(given.voice), tf.shape(given.voice)[0]
        names = tf.constant(self._voices.names, tf.string)[None]
        settings = _settings(self._call.configs, self._codec.sampling_rate)
        return {
            "semantic_prompt": found.semantic,
            "num_prompt_tokens": found.num_semantic,
            "coarse_prompt": found.coarse,
            "fine_prompt": found.fine,
            "num_prompt_frames": found.num_fine,
            "names": tf.repeat(names, rows, axis=0),
            **{name: tf.repeat(value[None], rows) for name, value in settings.items()},
        }


def _settings(configs: StageConfigs, sampling_rate: int) -> dict[str, tf.Tensor]:
    """Rates, and the options of the configurations as inputs of a request."""
    semantic = configs.semantic
    rates = {**configs.temperatures(), "semantic_rate_hz": semantic.semantic_rate_hz}
    counts = {
        "min_new_tokens": semantic.min_new_tokens or 0,
        "max_new_tokens": semantic.max_new_tokens,
        "sampling_rate": sampling_rate,
    }
    return {
        **{name: tf.constant(value, tf.float32) for name, value in rates.items()},
        **{name: tf.constant(value, tf.int32) for name, value in counts.items()},
    }


def _by_row(function: Callable, inputs: tuple, longest, spec: tf.TensorSpec):
    """Applies a function to every row alone.

    Args:
        function: Rows of `inputs` to (..., time), of any time.
        inputs: Tensors (B, ...).
        longest: The longest time; shorter results are padded with 0.
        spec: Of a result.

    Returns:
        (B, ..., longest).
    """

    def padded(row):
        result = function(*row)
        room = [[0, 0]] * (result.shape.rank - 1)
        return tf.pad(result, [*room, [0, longest - tf.shape(result)[-1]]])

    return tf.map_fn(padded, inputs, fn_output_signature=spec, parallel_iterations=1)
