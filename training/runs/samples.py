"""Audio samples of a run for TensorBoard: a recording, or a spoken text."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from bark_tf.bark import BarkModel
from bark_tf.models.encodec.model import EncodecModel
from bark_tf.processor import BarkProcessor

from ..data.shards import ShardSet

# Seconds of a recording that go into a sample.
_MAX_S = 8.0
Make = Callable[[int], dict[str, np.ndarray]]


def codec_samples(codec: EncodecModel, shards: ShardSet) -> Make:
    """Samples of the codec: the first recording and its reconstruction.

    Args:
        codec: The codec in training.
        shards: Recordings with audio.

    Returns:
        A function for `AudioSamples`: step -> {name: float32 (samples,)}.
    """
    longest = int(_MAX_S * codec.config.sampling_rate)
    audio = np.asarray(shards.audios[0], np.float32)[:longest]
    bandwidth = codec.config.target_bandwidths[-1]

    def make(step: int) -> dict[str, np.ndarray]:
        codes = codec.encode(audio[None], bandwidth=bandwidth)
        decoded = np.asarray(codec.decode(codes))[0, : len(audio)]
        return {"recording": audio, "reconstruction": decoded}

    return make


def speech_samples(part: str, network: Any, base: str, shards: ShardSet) -> Make:
    """Samples of a transformer: the first recording's text, spoken by the whole model.

    Args:
        part: Name of the network in `BarkModel.parts`.
        network: The network in training, with its adapters if it has any.
        base: Checkpoint with the other networks, loaded for the first sample.
        shards: Recordings.

    Returns:
        A function for `AudioSamples`: step -> {name: float32 (samples,)}; an empty
        dict if the model generates no audio.
    """
    text = shards[0].text
    ready: list[Any] = []

    def make(step: int) -> dict[str, np.ndarray]:
        if not ready:
            inputs = BarkProcessor.from_pretrained(base)(text, return_tensors="np")
            bark = BarkModel.from_pretrained(base).with_part(part, network)
            ready.extend((inputs, bark))
        inputs, bark = ready
        with warnings.catch_warnings():
            # At first the model may generate nothing, or not stop.
            warnings.simplefilter("ignore", UserWarning)
            # Few samples per run: compiling would cost more than it saves.
            audio = bark.generate(**inputs, seed=0, jit_compile=False)
        audio = np.asarray(audio)[0]
        return {"speech": audio} if audio.size else {}

    return make
