"""Semantic tokens that know words: states of a speech recogniser, through k-means.

The recogniser learned by CTC which characters are said, so its hidden states keep what
tells words apart and drop what does not. Only its first blocks are needed here; the
rest, which reads the characters, stays with the training run.

Features are relative to the recording's own loudness, so the distance to the microphone
does not matter. Recordings of more than 20 seconds run in windows.

Axes: F feature frames, T tokens, M mel bands, C width of a state, N clusters.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from bark_tf.audio.mel import mel_matrix
from bark_tf.config import CtcConfig
from bark_tf.config.fields import Count, check_values
from bark_tf.convert.weights import table_for
from bark_tf.generation.finite import require
from bark_tf.memory import allocate_only
from bark_tf.models.ctc import CtcModel
from bark_tf.semantic_tokens.features import (
    FRAME_S,
    PRE_EMPHASIS,
    fft_size,
    frame_centres,
    spectra,
)
from bark_tf.semantic_tokens.kmeans import nearest
from bark_tf.semantic_tokens.tokenizer import (
    FILE_NAME,
    SemanticTokenizer,
    checked_audio,
    read_arrays,
    write_files,
)
from bark_tf.semantic_tokens.windows import windows_of

SAMPLE_RATE = 16_000
# Seconds that the network sees together, and at least on either side of each token.
WINDOW_S, MARGIN_S = 20.0, 2.5
# The loudest frames but one in twenty set the level.
_LEVEL_PERCENTILE = 95
_LEAST_LEVEL = 1e-9
# Power relative to the level that counts as silence: -50 dB.
_FLOOR = 1e-5
# About the mean and the standard deviation of speech.
_MEAN, _SCALE = -5.0, 3.0
_CENTRES = "centres"


def log_mel(
    audio: np.ndarray, num_tokens: int, *, rate_hz: float, config: CtcConfig
) -> np.ndarray:
    """Computes the network's input: log-mel frames relative to the level.

    Args:
        audio: float32 (samples,), 16 kHz.
        num_tokens: T.
        rate_hz: Tokens per second.
        config: The network's configuration.

    Returns:
        float32 (T * stride, M), about zero mean and unit variance; the same for audio
        that is louder or quieter, up to rounding.
    """
    rates = {"sample_rate": SAMPLE_RATE, "rate_hz": rate_hz * config.stride}
    bands = _bands(fft_size(SAMPLE_RATE), config.num_mels, SAMPLE_RATE)
    # TensorFlow's product: beside a training run, NumPy's takes ten times as long.
    parts = [
        tf.matmul(part.astype(np.float32), bands).numpy()
        for part in spectra(audio, num_tokens * config.stride, **rates)
    ]
    if not parts:
        return np.zeros((0, config.num_mels), np.float32)
    power = np.concatenate(parts)
    level = np.percentile(power.mean(axis=1), _LEVEL_PERCENTILE)
    relative = power / max(level, _LEAST_LEVEL) + _FLOOR
    return ((np.log(relative) - _MEAN) / _SCALE).astype(np.float32)


def log_mel_of_batch(audio, reference, *, rate_hz: float, config: CtcConfig):
    """Computes `log_mel` in a graph, with a gradient, of whole tokens.

    Args:
        audio: float32 (B, samples), 16 kHz, of known length.
        reference: The same shape; its level is what frames are relative to.
        rate_hz: Tokens per second.
        config: The network's configuration.

    Returns:
        float32 (B, T * stride, M), T the tokens that fit into the samples.

    Raises:
        ValueError: If none fits.
    """
    num_frames = int(audio.shape[1] * rate_hz / SAMPLE_RATE + 1e-6) * config.stride
    if not num_frames:
        raise ValueError(
            f"audio must be at least as long as a token, {1 / rate_hz:.3g} s. "
            f"Received: {audio.shape[1]} samples"
        )
    bands = _bands(fft_size(SAMPLE_RATE), config.num_mels, SAMPLE_RATE)

    def power_of(audio):
        found = _batch_spectra(audio, num_frames, rate_hz * config.stride)
        return tf.matmul(found, bands)

    powers = tf.sort(tf.reduce_mean(power_of(reference), axis=-1), axis=1)
    place, share = divmod(_LEVEL_PERCENTILE / 100 * (num_frames - 1), 1)
    below = powers[:, int(place)]
    above = powers[:, min(int(place) + 1, num_frames - 1)]
    level = tf.stop_gradient(tf.maximum(below + share * (above - below), _LEAST_LEVEL))
    relative = power_of(audio) / level[:, None, None] + _FLOOR
    return (tf.math.log(relative) - _MEAN) / _SCALE


def _batch_spectra(audio, num_frames: int, rate_hz: float):
    """`spectra` of audio (B, samples) in a graph, with a gradient: (B, T, F)."""
    width, size = round(FRAME_S * SAMPLE_RATE), fft_size(SAMPLE_RATE)
    emphasised = audio[:, 1:] - PRE_EMPHASIS * audio[:, :-1]
    padded = tf.pad(
        tf.concat([audio[:, :1], emphasised], axis=1), [[0, 0], [width // 2, width]]
    )
    starts = frame_centres(num_frames, SAMPLE_RATE, rate_hz)
    frames = tf.gather(padded, starts[:, None] + np.arange(width), axis=1)
    spectrum = tf.signal.rfft(frames * np.hanning(width).astype(np.float32), [size])
    return (tf.math.real(spectrum) ** 2 + tf.math.imag(spectrum) ** 2) / width


_bands = functools.cache(mel_matrix)


class CtcTokenizer(SemanticTokenizer):
    """Assigns each hidden state of a recogniser the nearest of N centres.

    Train one with `bark-tf train-tokenizer --kind ctc`, open it with
    `load_semantic_tokenizer`.

    Args:
        network: `CtcModel`; all its blocks are run.
        centres: float32 (N, C).
        rate_hz: Tokens per second.

    Raises:
        ValueError: If the centres have another width than the network.

    Example:
        >>> tokenizer = load_semantic_tokenizer("my-bark")
        >>> tokenizer(np.zeros(16_000, "float32")).shape
        (50,)
    """

    kind = "ctc"

    def __init__(self, network: CtcModel, centres: np.ndarray, *, rate_hz: float):
        width = network.config.hidden_size
        if centres.ndim != 2 or centres.shape[1] != width:
            raise ValueError(
                f"centres must be of the network's width {width}. "
                f"Received: shape {centres.shape}"
            )
        self.network, self.centres = network, centres
        self.sample_rate, self.rate_hz = SAMPLE_RATE, rate_hz
        self.vocab_size = len(centres)

    def __call__(self, audio):
        """Turns audio into tokens; see the base class."""
        return nearest(self.states(audio), self.centres)[0]

    def states(self, audio: np.ndarray) -> np.ndarray:
        """The hidden states that are assigned to centres.

        Args:
            audio: See the base class.

        Returns:
            float32 (T, C).
        """
        audio = checked_audio(audio)
        config, num_tokens = self.network.config, self.num_tokens(len(audio))
        if not num_tokens:
            return np.zeros((0, config.hidden_size), np.float32)
        frames = log_mel(audio, num_tokens, rate_hz=self.rate_hz, config=config)
        margin = round(MARGIN_S * self.rate_hz)
        window = max(round(WINDOW_S * self.rate_hz), 2 * margin + 1)
        parts = []
        for first, last, start, end in windows_of(num_tokens, window, margin):
            seen = frames[first * config.stride : last * config.stride]
            found = self._encode(tf.constant(seen[None]))[0].numpy()
            require(np.isfinite(found).all(), "States of the recogniser")
            parts.append(found[start - first : end - first])
        return np.concatenate(parts)

    @functools.cached_property
    def _encode(self):
        """Compiled function: (1, F, M) to (1, T, C), traced once."""
        spec = tf.TensorSpec([1, None, self.network.config.num_mels], tf.float32)

        def encode(frames):
            return tf.cast(self.network.encode(frames), tf.float32)

        return tf.function(encode, input_signature=[spec], autograph=False)

    def save(self, directory: str | os.PathLike) -> None:
        """Writes the tokenizer, the weights in half precision; see the base class."""
        settings = {
            "kind": self.kind,
            "rate_hz": self.rate_hz,
            "vocab_size": self.vocab_size,
            "network": self.network.config.to_dict(),
        }
        arrays = {_CENTRES: self.centres, **self.network.arrays()}
        arrays = {name: a.astype(np.float16) for name, a in arrays.items()}
        write_files(directory, settings, arrays)

    @classmethod
    def load(
        cls, directory: str | os.PathLike, settings: Mapping[str, Any]
    ) -> CtcTokenizer:
        """Reads the tokenizer; see the base class."""
        kinds = {"vocab_size": Count, "network": dict}
        check_values(settings, kinds, Path(directory) / FILE_NAME)
        config = CtcConfig.from_dict(settings["network"])
        centres = {_CENTRES: (settings["vocab_size"], config.hidden_size)}
        arrays = read_arrays(directory, table_for(config).shapes | centres)
        with allocate_only():
            network = CtcModel(config, dtype="float32")
        network.put_arrays(arrays)
        centres = arrays[_CENTRES].astype(np.float32)
        return cls(network, centres, rate_hz=float(settings["rate_hz"]))
