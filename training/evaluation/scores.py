"""The measures of an evaluation, each from the object that it measures.

They need no checkpoint. For example, a codec in training is measured by

    codec = trainer.codec
    estimates = list(reconstructions(codec, shards.audios))
    codec_score(shards.audios, estimates, codec.config.sampling_rate)
    recognised = [recognise(one, codec.config.sampling_rate) for one in estimates]
    corpus_word_error_rate(shards.texts, recognised)

Audio is float32 (samples,) in [-1, 1].
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from bark_tf.bark import BarkModel
from bark_tf.generation.coarse import CoarseWindow
from bark_tf.tokens import interleave

from ..data.shards import Utterance
from .metrics import cosine_similarity, mel_distance, perplexity, si_sdr, stft_distance

BATCH_SIZE = 8
# SI-SDR may be infinite, which would decide a mean alone: it is clipped.
_SI_SDR_RANGE = (-60.0, 60.0)
# How the warning about empty rows begins; they are counted here instead.
EMPTY_ROWS = "The text-to-semantic stage ended rows"

Progress = Callable[[int, int], None]


def _silent(done: int, total: int) -> None:
    """The default progress: reports nothing."""


# === Stages, teacher-forced ===


class StageScore(NamedTuple):
    """How well a stage predicts the tokens of recordings, teacher-forced.

    Attributes:
        loss: Mean cross-entropy in nats.
        accuracy: Share of tokens that the model ranks first, in [0, 1].
        targets: Number of predicted tokens.
    """

    loss: float
    accuracy: float
    targets: int

    @property
    def perplexity(self) -> float:
        """The exponential of the loss."""
        return perplexity(self.loss)


def stage_score(trainer: Any, batches: Any, progress: Progress = _silent) -> StageScore:
    """Measures a network by its training loss.

    Args:
        trainer: A `StageTrainer`.
        batches: `Batches` of its stage; one epoch is measured.
        progress: Called with (batches done, batches).

    Returns:
        `StageScore`.
    """
    steps = batches.steps_per_epoch
    if not trainer.compiled:
        trainer.compile(jit_compile=False)
    trainer.reset_metrics()
    count = keras.callbacks.LambdaCallback(
        on_test_batch_end=lambda batch, logs: progress(batch + 1, steps)
    )
    found = trainer.evaluate(
        batches.dataset(0, steps),
        steps=steps,
        verbose=0,
        return_dict=True,
        callbacks=[count],
    )
    targets = int(trainer.metrics[0].count)
    return StageScore(float(found["loss"]), float(found["accuracy"]), targets)


# === The codec ===


class CodecScore(NamedTuple):
    """How far a codec's reconstructions are from recordings; means over them.

    Attributes:
        mel_db: `mel_distance`, decibels; 0 is best.
        stft: `stft_distance`; 0 is best.
        si_sdr_db: `si_sdr`, decibels, each clipped to [-60, 60].
        recordings: Number.
    """

    mel_db: float
    stft: float
    si_sdr_db: float
    recordings: int


def reconstructions(
    codec: Any, audios: Sequence[np.ndarray], num_codebooks: int | None = None
) -> Iterator[np.ndarray]:
    """Encodes and decodes recordings.

    Args:
        codec: `EncodecModel`.
        audios: Sequence of float32 (samples,) at the codec's rate.
        num_codebooks: Codebooks to decode; None: all.

    Yields:
        float32 (samples,), of the recording's length.
    """
    for audio in audios:
        codes = codec.encode(audio[None], codec.config.target_bandwidths[-1])
        estimate = codec.decode(codes[:, :num_codebooks])
        yield estimate[0, : len(audio)].numpy()


def codec_score(
    audios: Sequence[np.ndarray],
    estimates: Sequence[np.ndarray],
    sample_rate: int,
    progress: Progress = _silent,
) -> CodecScore:
    """Compares reconstructions with their recordings.

    Args:
        audios: Sequence of float32 (samples,).
        estimates: As many, of the same lengths.
        sample_rate: Samples per second.
        progress: Called with (recordings done, recordings).

    Returns:
        `CodecScore`.

    Raises:
        ValueError: If there are none, or one cannot be compared.
    """
    if not len(audios) or len(audios) != len(estimates):
        raise ValueError(
            "There must be recordings, and as many reconstructions. "
            f"Received: {len(audios)} and {len(estimates)}"
        )
    rows = []
    for audio, estimate in zip(audios, estimates, strict=True):
        ratio = np.clip(si_sdr(audio, estimate), *_SI_SDR_RANGE)
        mel = mel_distance(audio, estimate, sample_rate)
        rows.append((mel, stft_distance(audio, estimate), ratio))
        progress(len(rows), len(audios))
    return CodecScore(*np.mean(rows, axis=0).tolist(), len(rows))


# === Speech ===


class Spoken(NamedTuple):
    """Audio of utterances.

    Attributes:
        audios: Per utterance float32 (samples,); empty where the model ended at once.
        unfinished: Utterances that reached the limit of the semantic stage.
    """

    audios: list[np.ndarray]
    unfinished: int = 0


class Speaker:
    """Speaks recordings again, from their texts or from the tokens of some stage.

    Each utterance has its own seed, so its take does not depend on the others.

    Args:
        bark: The model.
        processor: Its `BarkProcessor`.
        voice: The voice, as the processor takes it; None: any.
        seed: Decides all takes.
        jit_compile: Whether decoding is compiled with XLA.
        batch_size: Utterances at a time.
    """

    def __init__(
        self,
        bark: BarkModel,
        processor: Any,
        *,
        voice: Any = None,
        seed: int = 0,
        jit_compile: bool = True,
        batch_size: int = BATCH_SIZE,
    ):
        self.bark, self.processor, self.seed = bark, processor, seed
        self.jit_compile, self.batch_size = jit_compile, batch_size
        self._config = bark.generation_config
        self._stages = {
            "semantic_generation_config": self._config.semantic_config,
            "coarse_generation_config": self._config.coarse_acoustics_config,
            "codebook_size": self._config.codebook_size,
            "history_prompt": None,
        }
        if voice is not None:
            inputs = processor([0], voice=voice, return_tensors="np")
            self._stages["history_prompt"] = inputs["history_prompt"]

    def from_texts(self, texts: Sequence[str], progress: Progress = _silent) -> Spoken:
        """All stages, from texts."""
        unfinished = []

        def speak(rows, seeds):
            inputs = self.processor(rows, return_tensors="np")
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", EMPTY_ROWS)
                out = self.bark.generate(
                    **inputs,
                    history_prompt=self._stages["history_prompt"],
                    seed=seeds,
                    return_dict=True,
                    jit_compile=self.jit_compile,
                )
            end = self._config.semantic_config.eos_token_id
            unfinished.append((out.semantic.numpy() != end).all(axis=1))
            return _rows(out.audio, out.lengths)

        audios = self._in_batches(texts, speak, progress)
        # A padded last batch has more rows.
        count = int(np.concatenate(unfinished)[: len(texts)].sum())
        return Spoken(audios, count)

    def from_semantic(
        self, utterances: Sequence[Utterance], progress: Progress = _silent
    ) -> Spoken:
        """Coarse, fine and codec, from the recordings' semantic tokens."""
        pad = self._config.semantic_config.semantic_pad_token

        def speak(rows, seeds):
            coarse, lengths = self.bark.coarse_acoustics.generate(
                _stacked([row.semantic for row in rows], pad),
                **self._stages,
                return_output_lengths=True,
                seed=seeds,
                jit_compile=self.jit_compile,
            )
            return self._from_coarse_tokens(coarse.numpy(), lengths, seeds)

        return Spoken(self._in_batches(utterances, speak, progress))

    def from_coarse(
        self, utterances: Sequence[Utterance], progress: Progress = _silent
    ) -> Spoken:
        """Fine and codec, from the first codebooks of the recordings' codes."""
        coarse_config = self._config.coarse_acoustics_config
        sizes = CoarseWindow(
            self._config.semantic_config, coarse_config, self._config.codebook_size
        )

        def speak(rows, seeds):
            tokens = [
                interleave(
                    row.codes[: coarse_config.n_coarse_codebooks],
                    sizes.codebook_size,
                    sizes.offset,
                )
                for row in rows
            ]
            lengths = [len(row) for row in tokens]
            pad = coarse_config.coarse_semantic_pad_token
            return self._from_coarse_tokens(_stacked(tokens, pad), lengths, seeds)

        return Spoken(self._in_batches(utterances, speak, progress))

    def _from_coarse_tokens(self, tokens, lengths, seeds) -> list[np.ndarray]:
        codes = self.bark.fine_acoustics.generate(
            tokens,
            **self._stages,
            fine_generation_config=self._config.fine_acoustics_config,
            output_lengths=lengths,
            seed=seeds,
        )
        codebooks = self._config.coarse_acoustics_config.n_coarse_codebooks
        frames = [length // codebooks for length in lengths]
        audio = self.bark.codec_decode(codes, frames)
        hop = self.bark.config.codec_config.hop_length
        return _rows(audio, [count * hop for count in frames])

    def _in_batches(self, items, speak, progress) -> list[np.ndarray]:
        audios: list[np.ndarray] = []
        for start in range(0, len(items), self.batch_size):
            rows = list(items[start : start + self.batch_size])
            missing = self.batch_size - len(rows) if start else 0
            # Another batch size would compile another program.
            rows += rows[-1:] * missing
            seeds = [self.seed + start + number for number in range(len(rows))]
            audios += speak(rows, seeds)[: len(rows) - missing]
            progress(len(audios), len(items))
        return audios


def _rows(audio: Any, lengths: Sequence[int]) -> list[np.ndarray]:
    audio = np.asarray(audio)
    return [row[:length] for row, length in zip(audio, lengths, strict=True)]


def _stacked(rows: Sequence[np.ndarray], pad: int) -> np.ndarray:
    """Rows of tokens padded on the right: int32 (batch, longest)."""
    stacked = np.full((len(rows), max(map(len, rows))), pad, np.int32)
    for target, row in zip(stacked, rows, strict=True):
        target[: len(row)] = row
    return stacked


# === Voices ===


class Voices:
    """Voice vectors of recordings, to compare other speech with.

    Args:
        vectors: Float (recordings, size), from a `VoiceJudge`.
        speakers: The speaker of each recording.
    """

    def __init__(self, vectors: Sequence[np.ndarray], speakers: Sequence[str]):
        lengths = [np.linalg.norm(vector) for vector in vectors]
        self._vectors = [
            np.asarray(vector, np.float64) / (length or 1.0)
            for vector, length in zip(vectors, lengths, strict=True)
        ]
        self._speakers = list(speakers)
        self._sums: dict[str, np.ndarray] = {}
        for vector, speaker in zip(self._vectors, self._speakers, strict=True):
            self._sums[speaker] = self._sums.get(speaker, 0.0) + vector

    def similarity(self, vectors: Sequence[np.ndarray | None]) -> float | None:
        """Mean similarity of takes of the recordings to their speakers.

        Take n is compared with the mean of all *other* recordings by the speaker of
        recording n. The recordings' own vectors give the upper bound.

        Args:
            vectors: Float (recordings, size); None where nothing was said, which
                counts as 0.

        Returns:
            In [-1, 1]; None if no speaker has two recordings.
        """
        found = [
            _similarity(vector, self._sums[speaker] - own)
            for vector, own, speaker in zip(
                vectors, self._vectors, self._speakers, strict=True
            )
            if self._speakers.count(speaker) > 1
        ]
        return float(np.mean(found)) if found else None

    def similarity_of_others(
        self, vectors: Sequence[np.ndarray | None]
    ) -> float | None:
        """Mean similarity of other sentences to the only speaker.

        Args:
            vectors: Float (sentences, size), or None where nothing was said.

        Returns:
            In [-1, 1]; None if the recordings have several speakers.
        """
        if len(self._sums) != 1:
            return None
        (mean,) = self._sums.values()
        return float(np.mean([_similarity(vector, mean) for vector in vectors]))


def _similarity(vector: np.ndarray | None, mean: np.ndarray) -> float:
    return 0.0 if vector is None else cosine_similarity(vector, mean)


def mean_scores(several: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means by name, each over the mappings that have it."""
    names = dict.fromkeys(name for one in several for name in one)
    return {
        name: float(np.mean([one[name] for one in several if name in one]))
        for name in names
    }
