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

from bark_tf.audio.editing import trim, with_silence
from bark_tf.config import BarkGenerationConfig
from bark_tf.config.base import check_field
from bark_tf.generation.coarse import CoarseWindow, align
from bark_tf.models.encodec.model import EncodecModel
from bark_tf.processor import BarkProcessor
from bark_tf.semantic_tokens.tokenizer import check_tokenizer, load_semantic_tokenizer

from .audio import load_many
from .datasets import Recording
from .shards import DatasetInfo, Skipped, Utterance, write_shard


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that decides the content of a shard; sent to workers.

    See `prepare.prepare` for the meaning of the fields.

    Raises:
        ValueError: If `silence_s` is out of range or set without `trim`.
    """

    model: str | None
    semantic_tokenizer: str | None
    keep_audio: bool
    sample_rate: int
    trim: bool
    max_s: float
    silence_s: float | None

    def __post_init__(self):
        if self.silence_s is not None:
            fits = 0 <= self.silence_s < self.max_s
            expected = f"at least 0 and below max_s={self.max_s}"
            check_field(self, "silence_s", fits, expected)
            check_field(self, "silence_s", self.trim, "None with trim=False")


class Job(NamedTuple):
    """A shard to write.

    Attributes:
        path: Path of the records.
        recordings: Content of the shard, in order.
    """

    path: Path
    recordings: tuple[Recording, ...]


class Maker:
    """Encodes recordings with the model of some settings."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self._processor = None
        if settings.model is None:
            self.sample_rate = settings.sample_rate
            return
        model = settings.model
        self._processor = BarkProcessor.from_pretrained(model)
        self._codec = EncodecModel.from_pretrained(model)
        self._config = BarkGenerationConfig.from_pretrained(model)
        self._tokenizer = load_semantic_tokenizer(settings.semantic_tokenizer or model)
        self.sample_rate = self._codec.config.sampling_rate
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
        if self._processor is None:
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
            text_vocab_size=self._processor.tokenizer.vocab_size,
            settings=settings,
        )

    def utterances(
        self, recordings: Sequence[Recording]
    ) -> Iterator[Utterance | Skipped]:
        """Reads and encodes recordings; those that cannot be used give a `Skipped`."""
        paths = [recording.path for recording in recordings]
        audios = load_many(paths, self.sample_rate, max_s=self.settings.max_s)
        for recording, audio in zip(recordings, audios, strict=True):
            try:
                if isinstance(audio, Exception):
                    raise audio
                yield self.utterance(recording, audio)
            except ValueError as error:
                reason = _without_path(str(error), recording.path)
                yield Skipped(recording.id, recording.path.name, reason)

    def utterance(self, recording: Recording, audio: np.ndarray) -> Utterance:
        """Encodes one recording.

        Raises:
            ValueError: If it cannot be used.
        """
        if self.settings.silence_s is not None:
            audio = with_silence(audio, self.sample_rate, self.settings.silence_s)
        elif self.settings.trim:
            audio = trim(audio, self.sample_rate)
        saved = audio if self.settings.keep_audio else None
        names = (recording.id, recording.text, recording.speaker)
        if self._processor is None:
            nothing = np.zeros(0, np.int32)
            return Utterance(*names, nothing, nothing, np.zeros((0, 0), int), saved)
        text_ids = self._processor.tokenizer.encode(recording.text)
        if not text_ids:
            raise ValueError("nothing in its text has a token")
        semantic = self._semantic(audio)
        codes = self._codes(audio)
        semantic, codes = align(semantic, codes, self._sizes)
        return Utterance(*names, np.array(text_ids, np.int32), semantic, codes, saved)

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


def _without_path(reason: str, path: Path) -> str:
    """Removes the path from a reason, so that equal problems have equal reasons."""
    return reason.replace(str(path), "the recording").replace(repr(str(path)), "it")
