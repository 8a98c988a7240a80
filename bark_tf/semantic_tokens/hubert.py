"""Semantic tokens of the published Bark: HuBERT's frames, through a quantizer.

HuBERT has 50 frames per second, one per 320 samples of 16 kHz; Bark was trained with
49.9 tokens per second. `nearest_frames` maps one rate to the other.

HuBERT runs in windows, so recordings of any length take bounded memory. The level of
the recording, the convolutions and the positions are exact across windows, to 1e-4.
Attention sees only the frames of its window, at least `MARGIN` on both sides: up to a
minute, one window, the result is HuBERT's own; in longer recordings it lacks attention
beyond five seconds. HuBERT itself was trained on pieces of 15.6 seconds.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from bark_tf import tokens
from bark_tf.config import HubertConfig, HubertQuantizerConfig
from bark_tf.config.fields import check_values
from bark_tf.convert.weights import save_file
from bark_tf.files import local_path
from bark_tf.generation.finite import require
from bark_tf.models.hubert.model import SAMPLE_RATE, HubertModel, Moments
from bark_tf.models.hubert.quantizer import HubertQuantizer
from bark_tf.models.pretrained import PretrainedModel
from bark_tf.saving import saving
from bark_tf.semantic_tokens.tokenizer import (
    ARRAYS_NAME,
    FILE_NAME,
    SemanticTokenizer,
    checked_audio,
    write_settings,
)
from bark_tf.semantic_tokens.windows import windows_of

# The layer that the community's quantizers were trained on.
LAYER = 9
# In frames: windows of 60 s, in which each frame kept sees at least 5 s on both sides.
WINDOW = 3_000
MARGIN = 250
# Samples per piece when the level is measured.
_LEVEL_PIECE = 30 * SAMPLE_RATE


# === Rates ===


def nearest_frames(
    num_tokens: int,
    num_frames: int,
    *,
    rate_hz: float = tokens.SEMANTIC_RATE_HZ,
    config: HubertConfig | None = None,
) -> np.ndarray:
    """Finds the frame of each token: the one whose centre is nearest in time.

    Token j covers j / 49.9 to (j + 1) / 49.9 seconds; frame i covers the samples from
    320 i to 320 i + 400. Ten seconds have 500 frames and 499 tokens, so one frame in
    500 is skipped. Otherwise tokens and codes would drift apart by 2 ms per second.

    Args:
        num_tokens: Tokens of the recording.
        num_frames: Frames of the recording, at least 1.
        rate_hz: Tokens per second.
        config: HuBERT's configuration; None: base.

    Returns:
        int64 (num_tokens,), ascending, in [0, num_frames).
    """
    config = config or HubertConfig()
    centres = (np.arange(num_tokens) + 0.5) * SAMPLE_RATE / rate_hz
    frames = (centres - config.receptive_field / 2) / config.hop_length
    return np.clip(np.rint(frames), 0, num_frames - 1).astype(np.int64)


# === Windows ===


def hubert_windows(
    hubert: HubertModel,
    audio: np.ndarray,
    layer: int = LAYER,
    *,
    window: int = WINDOW,
    margin: int = MARGIN,
) -> Iterator[np.ndarray]:
    """Computes HuBERT's hidden states of a recording, in bounded memory.

    Args:
        hubert: The network.
        audio: float32 (samples,), 16 kHz; padded with silence to at least one frame.
        layer: The layer to read.
        window: Frames per window; more than two margins.
        margin: Frames that each frame sees at least on either side.

    Yields:
        float32 (frames, hidden_size); joined, they have `hubert.num_frames(samples)`
        frames.

    Raises:
        ValueError: If there is no such layer, or windows would not advance.
    """
    layer = hubert.checked_layer(layer)
    missing = max(0, hubert.config.receptive_field - len(audio))
    audio = np.pad(audio, (0, missing))
    level = _level(hubert, audio)
    for first, last, start, end in windows_of(
        hubert.num_frames(len(audio)), window, margin
    ):
        states = _states(hubert, audio, level, first, last, layer)
        require(np.isfinite(states).all(), "States of HuBERT")
        yield states[start - first : end - first]


def _level(hubert: HubertModel, audio: np.ndarray) -> Moments:
    """The moments of a recording, piece by piece."""
    kernel, stride = hubert.config.conv_kernel[0], hubert.config.conv_stride[0]
    piece = _LEVEL_PIECE // stride * stride
    total = None
    for start in range(0, len(audio) - kernel + 1, piece):
        samples = audio[None, start : start + piece + kernel - stride]
        part = hubert.moments(tf.constant(samples))
        total = part if total is None else total.plus(part)
    return total


def _states(hubert, audio, level, first: int, last: int, layer: int) -> np.ndarray:
    """The states of frames `first` to `last`: float32 (last - first, D)."""
    config = hubert.config
    first, last = first - hubert.positions.left, last + hubert.positions.right
    start, end = max(first, 0), min(last, hubert.num_frames(len(audio)))
    hop, field = config.hop_length, config.receptive_field
    samples = audio[start * hop : (end - 1) * hop + field]
    missing = tf.constant([start - first, last - end])
    states = hubert.window(tf.constant(samples[None]), level, missing, layer)
    return np.asarray(tf.cast(states[0], tf.float32))


# === The tokenizer ===


class HubertTokenizer(SemanticTokenizer):
    """HuBERT and a quantizer.

    Make one with `from_pretrained` or `load_semantic_tokenizer`.

    Args:
        hubert: `HubertModel`.
        quantizer: `HubertQuantizer` with HuBERT's width as its input size.
        layer: The layer that the quantizer was trained on.
        rate_hz: Tokens per second.

    Raises:
        ValueError: If the widths differ or there is no such layer.

    Example:
        >>> tokenizer = HubertTokenizer.from_pretrained(
        ...     "facebook/hubert-base-ls960", "quantifier_hubert_base_ls960_14.pth"
        ... )
        >>> tokenizer(np.zeros(160_000, "float32")).shape
        (499,)
    """

    kind = "hubert"

    def __init__(
        self,
        hubert: HubertModel,
        quantizer: HubertQuantizer,
        *,
        layer: int = LAYER,
        rate_hz: float = tokens.SEMANTIC_RATE_HZ,
    ):
        sizes = hubert.config.hidden_size, quantizer.config.input_size
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"quantizer must take frames of HuBERT's width {sizes[0]}. "
                f"Received: one for {sizes[1]}"
            )
        self.hubert, self.quantizer = hubert, quantizer
        self.layer = hubert.checked_layer(layer)
        self.sample_rate, self.rate_hz = SAMPLE_RATE, rate_hz
        self.vocab_size = quantizer.config.output_size

    @classmethod
    def from_pretrained(
        cls,
        hubert: str | os.PathLike,
        quantizer: str | os.PathLike,
        *,
        layer: int = LAYER,
        dtype: Any = None,
        **where: Any,
    ) -> HubertTokenizer:
        """Makes a tokenizer from published weights.

        Args:
            hubert: Checkpoint directory or repository id in transformers' layout, such
                as `"facebook/hubert-base-ls960"`; or one file of weights: fairseq's
                `.pt`, `.bin`, `.safetensors`.
            quantizer: The community's `.pth`, or a directory of `save_pretrained`.
            layer: The layer that the quantizer was trained on.
            dtype: A Keras dtype policy for HuBERT; Keras's global policy by default.
            **where: `subfolder`, `revision`, `cache_dir`, `token` and
                `local_files_only` for HuBERT's repository.

        Returns:
            The tokenizer.

        Raises:
            FileNotFoundError: If there is no such file or checkpoint.
            ValueError: If weights are damaged, of another network, or their sizes do
                not match.
        """
        return cls(
            open_network(HubertModel, hubert, dtype=dtype, **where),
            open_network(HubertQuantizer, quantizer),
            layer=layer,
        )

    def __call__(self, audio):
        """Turns audio into tokens; see the base class."""
        audio = checked_audio(audio)
        num_tokens = self.num_tokens(len(audio))
        if not num_tokens:
            return np.zeros(0, np.int32)
        all_tokens = self._all_frames(audio)
        frames = nearest_frames(
            num_tokens, len(all_tokens), rate_hz=self.rate_hz, config=self.hubert.config
        )
        return all_tokens[frames]

    def _all_frames(self, audio: np.ndarray) -> np.ndarray:
        """The token of every frame, 50 Hz: int32 (frames,)."""
        parts, state = [], None
        for frames in hubert_windows(self.hubert, audio, self.layer):
            found, state = self._tokens_of(tf.constant(frames[None]), state)
            parts.append(found.numpy()[0])
        return np.concatenate(parts)

    @functools.cached_property
    def _tokens_of(self):
        """Compiled function: frames and LSTM state to tokens and the next state."""
        quantizer = self.quantizer.merged()

        def tokens_of(frames, state):
            logits, state = quantizer.run(frames, state)
            return tf.argmax(logits, axis=-1, output_type=tf.int32), state

        return tf.function(tokens_of, autograph=False, reduce_retracing=True)

    def save(self, directory: str | os.PathLike) -> None:
        """Writes the tokenizer with the weights that it uses; see the base class."""
        hubert = self.hubert.first_layers(self.layer)
        settings = {
            "kind": self.kind,
            "rate_hz": self.rate_hz,
            "layer": self.layer,
            "hubert": hubert.config.to_dict(),
            "quantizer": self.quantizer.config.to_dict(),
        }
        with saving(local_path(directory, "The directory")) as change:
            save_file([hubert, self.quantizer], change.path / ARRAYS_NAME)
            write_settings(change.path, settings)

    @classmethod
    def load(
        cls, directory: str | os.PathLike, settings: Mapping[str, Any]
    ) -> HubertTokenizer:
        """Reads the tokenizer; see the base class."""
        path = Path(directory) / ARRAYS_NAME
        kinds = {"layer": int, "hubert": dict, "quantizer": dict}
        check_values(settings, kinds, Path(directory) / FILE_NAME)
        configs = [
            HubertConfig.from_dict(settings["hubert"]),
            HubertQuantizerConfig.from_dict(settings["quantizer"]),
        ]
        if not path.is_file():
            raise ValueError(f"{path} is missing beside {FILE_NAME}")
        return cls(
            HubertModel.from_file(path, config=configs[0]),
            HubertQuantizer.from_file(path, config=configs[1]),
            layer=settings["layer"],
            rate_hz=float(settings["rate_hz"]),
        )


def open_network(cls: type[PretrainedModel], source: str | os.PathLike, **options: Any):
    """Opens a network from one file of weights, or from a checkpoint.

    Args:
        cls: `HubertModel` or `HubertQuantizer`.
        source: A file, directory or id, as in `HubertTokenizer.from_pretrained`.
        **options: Of `from_pretrained`; for one file only `dtype`.
    """
    if Path(source).is_file():
        return cls.from_file(source, dtype=options.get("dtype"))
    return cls.from_pretrained(source, **options)
