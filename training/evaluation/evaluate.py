"""Measures a model: each stage alone, the codec, and the WER of its speech.

The held-out recordings are spoken again several times, each time with one more stage
of the model in between, which shows each stage's share of the errors. `report.py` holds
the tables, `scores.py` the single measures.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bark_tf.bark import BarkModel
from bark_tf.config import BarkConfig
from bark_tf.processor import BarkProcessor
from bark_tf.progress import Progress

from ..data.batches import Batches
from ..data.examples import StageExamples
from ..data.shards import Audios, DatasetInfo, ShardSet, Utterance
from ..data.storage import storage_path
from ..options import ExampleOptions
from ..runs.trainers import TRAINERS
from .metrics import error_rate, normalised, word_edits
from .recognisers import QualityJudge, Recogniser, VoiceJudge
from .report import SOURCES, Evaluation, SpeechScore, Transcript
from .scores import (
    BATCH_SIZE,
    CodecScore,
    Speaker,
    Spoken,
    StageScore,
    Voices,
    codec_score,
    mean_scores,
    reconstructions,
    stage_score,
)

# Stage -> the part of `BarkModel` that it is.
_PARTS = {
    "semantic": "semantic",
    "coarse": "coarse_acoustics",
    "fine": "fine_acoustics",
}


def evaluate(
    model: str | os.PathLike,
    data: str | os.PathLike | None = None,
    *,
    texts: Sequence[str] | None = None,
    recogniser: Recogniser | None = None,
    similarity: VoiceJudge | None = None,
    quality: QualityJudge | None = None,
    voice: Any = None,
    before: str | os.PathLike | None = None,
    limit: int | None = None,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    jit_compile: bool = True,
    out: str | os.PathLike | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Measures a model, and compares it with another if asked.

    Args:
        model: Directory or id of a checkpoint.
        data: What `bark-tf prepare` made of held-out recordings: a folder of shards, or
            one with `validation` in it. Tokens in it measure the stages, audio measures
            the codec, and both with a judge measure each stage's share of the errors.
        texts: Other sentences to speak.
        recogniser: From `recogniser_of`. None: no WER.
        similarity: From `voice_judge_of`, to compare with the speaker of the
            recordings; needs audio in `data`.
        quality: From `quality_judge_of`.
        voice: The voice to speak with, as `BarkProcessor` takes it.
        before: Another checkpoint to compare with.
        limit: The most recordings and the most texts to use, evenly spread.
        seed: Decides examples, takes and confidence intervals.
        batch_size: Recordings or texts at a time.
        jit_compile: Whether decoding is compiled with XLA.
        out: Folder for `report.md`, `report.json` and plots; None writes nothing.
        progress: Called with (what, done, total).

    Returns:
        `Evaluation`; its `markdown()` is a report to print.

    Raises:
        FileNotFoundError: If a model or the data is missing.
        ValueError: If there is nothing to measure, or arguments do not fit together.
        ImportError: If jiwer, which counts word errors, is not installed.

    Example:
        >>> evaluation = evaluate("my-voice", "prepared", before="my-bark", limit=50)
        >>> evaluation.stages["semantic"].loss
        0.61
    """
    judges = Judges(recogniser, similarity, quality, seed)
    texts = _checked(data, texts, judges, limit, out)
    recordings = None if data is None else Recordings(held_out(data), limit)
    if similarity is not None and (recordings is None or not recordings.info.has_audio):
        raise ValueError(
            "similarity compares with recordings: data must hold audio. Prepare it "
            "with --keep-audio"
        )
    paths = [path for path in (before, model) if path is not None]
    for path in paths:
        _check_model(path, judges, voice)
    report = progress or _silent
    evaluator = _Evaluator(
        recordings, texts, judges, voice, seed, batch_size, jit_compile, report
    )
    settings, truth = evaluator.settings(data), evaluator.ground_truth()
    results = [evaluator.evaluation(path, settings, truth) for path in paths]
    result = results[-1]
    if before is not None:
        result = dataclasses.replace(result, before=results[0])
    if out is not None:
        result.save(out)
    return result


def _checked(data, texts, judges: Judges, limit, out) -> list[str]:
    """Checks what can be checked before anything is read; returns the texts to use."""
    if data is None and not texts:
        raise ValueError("There must be data or texts to measure with. Received: none")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1. Received: limit={limit}")
    if out is not None and Path(out).exists() and not Path(out).is_dir():
        raise ValueError(f"out must be a folder. Received: the file {str(out)!r}")
    texts = list(texts or ())
    if texts and not judges:
        raise ValueError(
            "texts need a judge: give a recogniser, or quality. Received: none"
        )
    if judges.recogniser is not None:
        word_edits("", "")  # a missing jiwer is an error now, not after hours
    for text in texts:
        if not normalised(text):
            raise ValueError(f"Each text must have words. Received: {text!r}")
    return [texts[i] for i in _spread(len(texts), limit)]


def _check_model(path: Any, judges: Judges, voice: Any) -> None:
    """Finds missing files now, not after other models have been measured."""
    BarkConfig.from_pretrained(path)
    if judges:
        processor = BarkProcessor.from_pretrained(path)
        if voice is not None:
            processor([0], voice=voice)


def _spread(count: int, limit: int | None) -> list[int]:
    """At most `limit` of the numbers below `count`, evenly spread."""
    chosen = count if limit is None else min(limit, count)
    return [number * count // chosen for number in range(chosen)]


def _silent(what: str, done: int, total: int) -> None:
    """The default progress: reports nothing."""


# === Recordings ===


def held_out(data: str | os.PathLike) -> ShardSet:
    """Opens the held-out recordings.

    Args:
        data: A folder of shards, or what `bark-tf prepare --validation` made.

    Raises:
        FileNotFoundError: If there are no shards.
        ValueError: If all of them are training data, or one is damaged.
    """
    data = storage_path(data)
    if (data / "validation").is_dir():
        return ShardSet(data / "validation")
    if (data / "train").is_dir():
        raise ValueError(
            f"{str(data)!r} has no held-out recordings: prepare with --validation, or "
            f"measure on the training data with {str(data / 'train')!r}"
        )
    return ShardSet(data)


class Recordings(Sequence):
    """Utterances of a `ShardSet`, read on access.

    Args:
        shards: The set.
        limit: The most utterances, evenly spread; None: all.

    Attributes:
        info: `DatasetInfo`.
        ids: Names.
        texts: Their texts.
        speakers: Their speakers.
        lengths: int64 (utterances,), semantic tokens.
    """

    def __init__(self, shards: ShardSet, limit: int | None = None):
        self._shards, self._numbers = shards, _spread(len(shards), limit)
        self.info: DatasetInfo = shards.info
        self.ids = [shards.ids[i] for i in self._numbers]
        self.texts = [shards.texts[i] for i in self._numbers]
        self.speakers = [shards.speakers[i] for i in self._numbers]
        self.lengths = shards.lengths[self._numbers]

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index):
        """One utterance, or a list of them for a slice."""
        if isinstance(index, slice):
            return [self._shards[i] for i in self._numbers[index]]
        return self._shards[self._numbers[index]]


def _check_fit(info: DatasetInfo, bark: BarkModel, path: Any) -> None:
    """Raises ValueError if recordings were prepared for another kind of model."""
    config = bark.generation_config
    found = {"sample_rate": info.sample_rate}
    wanted = {"sample_rate": bark.config.codec_config.sampling_rate}
    if info.has_tokens:
        names = ("num_codebooks", "codebook_size", "semantic_vocab_size")
        found |= {name: getattr(info, name) for name in names}
        wanted |= {
            "num_codebooks": config.fine_acoustics_config.n_fine_codebooks,
            "codebook_size": config.codebook_size,
            "semantic_vocab_size": config.semantic_config.semantic_vocab_size,
        }
    for name, value in wanted.items():
        if found[name] != value:
            raise ValueError(
                f"The data must be prepared for {str(path)!r}: {name}={value}. "
                f"Received: {name}={found[name]}"
            )


# === Judging ===


class Judged(NamedTuple):
    """What the judges found in the utterances of one source.

    Attributes:
        score: `SpeechScore`.
        transcripts: Empty without a recogniser.
        vectors: Voice vectors; empty without a voice judge.
    """

    score: SpeechScore
    transcripts: list[Transcript]
    vectors: list[np.ndarray | None]


class Judges(NamedTuple):
    """The judges of speech; each may be None.

    Attributes:
        recogniser: Transcribes.
        similarity: Gives voice vectors.
        quality: Scores the sound.
        seed: Decides confidence intervals.
    """

    recogniser: Recogniser | None
    similarity: VoiceJudge | None
    quality: QualityJudge | None
    seed: int = 0

    def __bool__(self) -> bool:
        """Whether there is any judge."""
        return any(judge is not None for judge in self[:3])

    def judge(
        self,
        source: str,
        spoken: Spoken,
        sample_rate: int,
        ids: Sequence[str],
        texts: Sequence[str],
        progress: Callable[[int, int], None],
    ) -> Judged:
        """Judges utterances.

        Args:
            source: Of `SOURCES`.
            spoken: The utterances.
            sample_rate: Samples per second.
            ids: Their names.
            texts: Their texts.
            progress: Called with (utterances done, utterances).

        Returns:
            `Judged`; without the similarity, which needs the other recordings.
        """
        transcripts, edits, vectors, scores = [], [], [], []
        for number, audio in enumerate(spoken.audios):
            is_empty = not audio.size
            if self.recogniser is not None:
                found = "" if is_empty else self.recogniser(audio, sample_rate)
                edits.append(word_edits(texts[number], found))
                names = (source, ids[number], texts[number])
                transcripts.append(Transcript(*names, found, edits[-1].errors))
            if self.similarity is not None:
                vector = None if is_empty else self.similarity(audio, sample_rate)
                vectors.append(vector)
            if self.quality is not None and not is_empty:
                scores.append(self.quality(audio, sample_rate))
            progress(number + 1, len(spoken.audios))
        score = SpeechScore(
            utterances=len(spoken.audios),
            wer=error_rate(edits, seed=self.seed) if edits else None,
            empty=sum(not audio.size for audio in spoken.audios),
            unfinished=spoken.unfinished,
            quality=mean_scores(scores),
        )
        return Judged(score, transcripts, vectors)


# === One model ===


class _GroundTruth(NamedTuple):
    """What the judges found in the recordings themselves, for every model."""

    judged: Judged
    voices: Voices | None


class _Evaluator(NamedTuple):
    """Everything but the model, the same for both models."""

    recordings: Recordings | None
    texts: list[str]
    judges: Judges
    voice: Any
    seed: int
    batch_size: int
    jit_compile: bool
    report: Progress

    def settings(self, data: Any) -> dict[str, Any]:
        """The settings as the report lists them."""
        voice = self.voice
        if voice is not None and not isinstance(voice, str | os.PathLike):
            voice = "as given"
        judges = zip(("recogniser", "similarity", "quality"), self.judges, strict=False)
        return {
            "data": None if data is None else str(data),
            "recordings": None if self.recordings is None else len(self.recordings),
            "texts": len(self.texts) or None,
            "voice": None if voice is None else str(voice),
            **{name: getattr(judge, "name", None) for name, judge in judges},
            "seed": self.seed,
        }

    def progress(self, what: str) -> Callable[[int, int], None]:
        return lambda done, total: self.report(what, done, total)

    @property
    def has_audio(self) -> bool:
        return self.recordings is not None and self.recordings.info.has_audio

    def ground_truth(self) -> _GroundTruth | None:
        """Judges the recordings themselves."""
        if not self.has_audio or not self.judges:
            return None
        recordings = self.recordings
        judged = self.judges.judge(
            "ground_truth",
            Spoken(list(Audios(recordings))),
            recordings.info.sample_rate,
            recordings.ids,
            recordings.texts,
            self.progress("judge: ground truth"),
        )
        if self.judges.similarity is None:
            return _GroundTruth(judged, None)
        voices = Voices(judged.vectors, recordings.speakers)
        score = judged.score._replace(similarity=voices.similarity(judged.vectors))
        return _GroundTruth(judged._replace(score=score), voices)

    def evaluation(
        self, path: Any, settings: dict[str, Any], truth: _GroundTruth | None
    ) -> Evaluation:
        """Measures one model."""
        bark = BarkModel.from_pretrained(path, dtype="float32")
        if self.recordings is not None:
            _check_fit(self.recordings.info, bark, path)
        estimates = list(self.estimates(bark))
        codec = self.codec(bark, estimates) if estimates else None
        speech, transcripts = {}, []
        if self.judges:
            for source, judged in self.speech(bark, path, estimates, truth):
                speech[source] = judged.score
                transcripts += judged.transcripts
        return Evaluation(
            model=str(path),
            settings=settings,
            stages=dict(self.stages(bark)),
            codec=codec,
            speech=speech,
            transcripts=tuple(transcripts),
        )

    def stages(self, bark: BarkModel) -> Iterator[tuple[str, StageScore]]:
        """The training losses, on the held-out recordings."""
        if self.recordings is None or not self.recordings.info.has_tokens:
            return
        for stage, trainer in TRAINERS.items():
            network = getattr(bark, _PARTS[stage])
            config = bark.generation_config
            examples = StageExamples(
                self.recordings,
                stage,
                config,
                network.config,
                ExampleOptions(history_probability=0.0),
                seed=self.seed,
            )
            size = min(self.batch_size, len(self.recordings))
            batches = Batches(examples, size, shuffle=False)
            report = self.progress(f"{stage} loss")
            yield stage, stage_score(trainer(network, config), batches, report)

    def estimates(self, bark: BarkModel) -> Iterator[np.ndarray]:
        """The recordings, encoded and decoded."""
        if not self.has_audio:
            return
        num_codebooks = bark.generation_config.fine_acoustics_config.n_fine_codebooks
        audios = Audios(self.recordings)
        made = reconstructions(bark.codec_model, audios, num_codebooks)
        for number, estimate in enumerate(made):
            self.report("encode and decode", number + 1, len(audios))
            yield estimate

    def codec(self, bark: BarkModel, estimates: list[np.ndarray]) -> CodecScore:
        """Compares the recordings with their reconstructions."""
        rate = bark.config.codec_config.sampling_rate
        audios = Audios(self.recordings)
        return codec_score(audios, estimates, rate, self.progress("compare"))

    def speech(
        self,
        bark: BarkModel,
        path: Any,
        estimates: list[np.ndarray],
        truth: _GroundTruth | None,
    ) -> Iterator[tuple[str, Judged]]:
        """Judges each source, with one more stage of the model each time."""
        if truth is not None:
            yield "ground_truth", truth.judged
        rate = bark.config.codec_config.sampling_rate
        for source, speak in self.sources(bark, path, estimates).items():
            texts, ids = self.texts, [str(i + 1) for i in range(len(self.texts))]
            if source != "texts":
                texts, ids = self.recordings.texts, self.recordings.ids
            spoken = speak(self.progress(f"speak: {SOURCES[source]}"))
            report = self.progress(f"judge: {SOURCES[source]}")
            judged = self.judges.judge(source, spoken, rate, ids, texts, report)
            if judged.vectors:
                voices = truth.voices
                is_other = source == "texts"
                measure = voices.similarity_of_others if is_other else voices.similarity
                score = judged.score._replace(similarity=measure(judged.vectors))
                judged = judged._replace(score=score)
            yield source, judged

    def sources(
        self, bark: BarkModel, path: Any, estimates: list[np.ndarray]
    ) -> dict[str, Callable[[Callable[[int, int], None]], Spoken]]:
        """Source -> function that makes its audio, in order."""
        speaker = Speaker(
            bark,
            BarkProcessor.from_pretrained(path),
            voice=self.voice,
            seed=self.seed,
            jit_compile=self.jit_compile,
            batch_size=self.batch_size,
        )
        recordings: Sequence[Utterance] | None = self.recordings
        found = {}
        if estimates:
            found["codec"] = lambda report: Spoken(estimates)
        if recordings is not None and recordings.info.has_tokens:
            found["fine"] = lambda report: speaker.from_coarse(recordings, report)
            found["coarse"] = lambda report: speaker.from_semantic(recordings, report)
        if recordings is not None:
            found["semantic"] = lambda report: speaker.from_texts(
                recordings.texts, report
            )
        if self.texts:
            found["texts"] = lambda report: speaker.from_texts(self.texts, report)
        return found
