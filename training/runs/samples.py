"""What one hears of a run in TensorBoard: a recording, or a text that is spoken."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from bark_tf.bark import BarkModel
from bark_tf.models.encodec.model import EncodecModel
from bark_tf.processor import BarkProcessor

from ..data.shards import ShardSet

# Seconds of a recording that are heard.
_MAX_S = 8.0
Make = Callable[[int], dict[str, np.ndarray]]


def codec_samples(codec: EncodecModel, shards: ShardSet) -> Make:
    """The first recording, and what the codec makes of it.

    Args:
        codec: The codec in training.
        shards: Recordings with audio, held-out ones if there are any.

    Returns:
        For `AudioSamples`: called with the step, name -> float32 (samples,).
    """
    longest = int(_MAX_S * codec.config.sampling_rate)
    audio = np.asarray(shards.audios[0], np.float32)[:longest]
    bandwidth = codec.config.target_bandwidths[-1]

    def make(step: int) -> dict[str, np.ndarray]:
        codes = codec.encode(audio[None], bandwidth=bandwidth)
        again = np.asarray(codec.decode(codes))[0, : len(audio)]
        return {"recording": audio, "reconstruction": again}

    return make


def speech_samples(part: str, network: Any, base: str, shards: ShardSet) -> Make:
    """The first recording's text, spoken by the model with one network in training.

    Args:
        part: Name of the network among `BarkModel.parts`.
        network: The network in training; it is used as it is, adapters and all.
        base: Checkpoint with the other networks, which are in memory from the first
            sample on.
        shards: Recordings, held-out ones if there are any.

    Returns:
        For `AudioSamples`: called with the step, name -> float32 (samples,). Nothing
        if the model says nothing.
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
            # A model that has learned little says nothing, or does not stop.
            warnings.simplefilter("ignore", UserWarning)
            # Heard a few times in a run: compiling would cost more than it saves.
            audio = bark.generate(**inputs, seed=0, jit_compile=False)
        audio = np.asarray(audio)[0]
        return {"speech": audio} if audio.size else {}

    return make
