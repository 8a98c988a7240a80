"""Recordings to utterances: text ids, semantic tokens and codes, shard by shard.

The same functions run here, in worker processes and on Apache Beam. A shard depends on
its own recordings only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soxr
import tensorflow as tf

from bark_tf.config import BarkGenerationConfig
from bark_tf.generation.coarse import CoarseWindow, align
from bark_tf.models.encodec.model import EncodecModel
from bark_tf.semantic_tokens.tokenizer import check_tokenizer, load_semantic_tokenizer

from .checks import Checks, Ready, Settings, skipped
from .datasets import Recording
from .layouts import Skipped
from .shards import DatasetInfo, Utterance, write_shard
from .storage import RemotePath


class Job(NamedTuple):
    """A shard to write.

    Attributes:
        path: Path of the records.
        recordings: Content of the shard, in order.
    """

    path: Path | RemotePath
    recordings: tuple[Recording, ...]


class Maker:
    """Encodes recordings with the model of some settings."""

    def __init__(self, settings: Settings):
        self.settings, self.checks = settings, Checks(settings)
        self.sample_rate = self.checks.sample_rate
        self._config = self.checks.config
        if self._config is None:
            return
        self._codec = EncodecModel.from_pretrained(settings.model)
        directory = settings.semantic_tokenizer or settings.model
        self._tokenizer = load_semantic_tokenizer(directory)
        self._num_codebooks = self._config.fine_acoustics_config.n_fine_codebooks
        self._sizes = CoarseWindow.of(self._config)
        check_tokenizer(self._tokenizer, self._config.semantic_config)
        # One trace for all lengths.
        spec = tf.TensorSpec((1, 1, None), tf.float32)
        self._encode = tf.function(
            lambda audio: self._codec.encode(audio, num_codebooks=self._num_codebooks),
            input_signature=[spec],
            autograph=False,
        )

    def info(self, fingerprint: dict[str, Any]) -> DatasetInfo:
        """The description of the dataset, `dataset.json`."""
        settings = dataclasses.asdict(self.settings)
        settings = {**settings, **fingerprint}
        if self._config is None:
            return DatasetInfo(
                sample_rate=self.sample_rate,
                has_tokens=False,
                has_audio=True,
                settings=settings,
            )
        return tokens_info(
            self.settings.model,
            self._config,
            sample_rate=self.sample_rate,
            has_audio=self.settings.keep_audio,
            text_vocab_size=self.checks.tokenizer.vocab_size,
            settings=settings,
        )

    def utterances(
        self, recordings: Sequence[Recording]
    ) -> Iterator[Utterance | Skipped]:
        """Reads and encodes recordings; those that cannot be used give a `Skipped`."""
        for one in self.checks.read(recordings):
            try:
                yield one if isinstance(one, Skipped) else self._utterance(one)
            except ValueError as error:
                yield skipped(one.recording, error)

    def _utterance(self, one: Ready) -> Utterance:
        recording, audio, text_ids = one
        saved = audio if self.settings.keep_audio else None
        names = (recording.id, recording.text, recording.speaker)
        if self._config is None:
            no_codes = np.zeros((0, 0), np.int32)
            return Utterance(*names, text_ids, text_ids, no_codes, saved)
        semantic, codes = align(self._semantic(audio), self._codes(audio), self._sizes)
        self.checks.check_length(len(semantic))
        return Utterance(*names, text_ids, semantic, codes, saved)

    def _codes(self, audio: np.ndarray) -> np.ndarray:
        """int32 (codebooks, frames)."""
        return self._encode(audio[None, None])[0].numpy()

    def _semantic(self, audio: np.ndarray) -> np.ndarray:
        if self._tokenizer.sample_rate != self.sample_rate:
            rates = (self.sample_rate, self._tokenizer.sample_rate)
            audio = soxr.resample(audio, *rates).astype(np.float32)
        return self._tokenizer(audio)


def tokens_info(model: str, config: BarkGenerationConfig, **facts: Any) -> DatasetInfo:
    """The `DatasetInfo` of records with a model's tokens.

    Args:
        model: Directory or id of the checkpoint.
        config: The model's generation configuration.
        **facts: Fields of `DatasetInfo` that the configuration does not determine.
    """
    return DatasetInfo(
        has_tokens=True,
        num_codebooks=config.fine_acoustics_config.n_fine_codebooks,
        codebook_size=config.codebook_size,
        frame_rate=float(config.coarse_acoustics_config.coarse_rate_hz),
        semantic_vocab_size=config.semantic_config.semantic_vocab_size,
        semantic_rate_hz=float(config.semantic_config.semantic_rate_hz),
        model=model,
        **facts,
    )


def make_shard(job: Job, maker: Maker, info: DatasetInfo) -> None:
    """Encodes and writes one shard."""
    write_shard(job.path, maker.utterances(job.recordings), info)
