"""Recordings and their texts become what training reads.

`prepare` writes

    OUT/train/, OUT/validation/     shards, see `shards.py`
    OUT/report.json, OUT/report.md  what there is, and what was skipped and why

Which recordings are held out is decided by their texts alone, so that no sentence is on
both sides, whoever speaks it, and so that it never moves. Without `validation` there is
only `train`.

The same functions make a shard here, in worker processes and on Apache Beam
(`beam.py`); a shard depends on its own recordings only. Killed and started again, the
finished shards stay as they are.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from bark_tf.audio.editing import trim, with_silence
from bark_tf.config import BarkGenerationConfig
from bark_tf.files import atomic_write
from bark_tf.generation.coarse import CoarseWindow, align
from bark_tf.optional import required
from bark_tf.semantic_tokens import (
    check_tokenizer,
    load_semantic_tokenizer,
)

from .audio import load_many
from .datasets import Problem, Recording, read_dataset
from .shards import (
    DatasetInfo,
    Skipped,
    Utterance,
    is_finished,
    read_index,
    shard_path,
    write_shard,
)

SHARD_SIZE = 256
SAMPLE_RATE = 24_000
MAX_S = 60.0
SPLITS = ("train", "validation")
# Examples of each reason that the summary shows.
_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class Settings:
    """What decides the content of shards; travels to workers.

    Args:
        model: Directory or id of the checkpoint, or None: audio only.
        semantic_tokenizer: Directory of the semantic tokenizer, or None.
        keep_audio: Whether audio is kept.
        sample_rate: Of the audio when there is no model.
        trim: Whether silence at both ends is cut.
        max_s: Longer recordings are skipped.
        silence_s: Seconds of silence that both ends get, or None: as they are.
    """

    model: str | None
    semantic_tokenizer: str | None
    keep_audio: bool
    sample_rate: int
    trim: bool
    max_s: float
    silence_s: float | None = None


class Job(NamedTuple):
    """One shard to make.

    Attributes:
        path: Of its records.
        recordings: In order.
    """

    path: Path
    recordings: tuple[Recording, ...]


def prepare(
    dataset: str | os.PathLike,
    out: str | os.PathLike,
    *,
    model: str | os.PathLike | None = None,
    semantic_tokenizer: str | os.PathLike | None = None,
    keep_audio: bool = False,
    sample_rate: int | None = None,
    validation: float = 0.0,
    limit: int | None = None,
    shard_size: int = SHARD_SIZE,
    num_workers: int = 1,
    trim: bool = True,
    max_s: float = MAX_S,
    silence_s: float | None = None,
    runner: str | None = None,
    runner_options: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Prepares a dataset for training.

    Args:
        dataset: As `datasets.read_dataset` takes it.
        out: Directory for the shards; made if missing. One that an earlier run with
            the same settings left is completed.
        model: Checkpoint whose text ids, codes and semantic tokens are made; None
            keeps the audio alone, for training a codec and a tokenizer.
        semantic_tokenizer: Directory of the semantic tokenizer; the model's by default.
        keep_audio: Whether audio is kept beside the tokens.
        sample_rate: Without a model: of the audio, 24,000 by default.
        validation: Share of the texts that is held out, in [0, 1).
        limit: Only the first recordings.
        shard_size: Recordings per shard.
        num_workers: Processes.
        trim: Whether silence at both ends is cut.
        max_s: Longer recordings are skipped.
        silence_s: Seconds of silence that each recording gets at both ends, where there
            is more or less, so that all begin and end alike. None: at most 0.05, or
            with `trim=False` as they are.
        runner: Name of an Apache Beam runner, in place of our own processes.
        runner_options: Its options, such as `"--direct_num_workers=4"`.
        progress: Called with (recordings done, recordings).

    Returns:
        `Report`; `str(report)` is a summary to print.

    Raises:
        FileNotFoundError: If there is no such dataset or model.
        ValueError: If nothing is usable, or `out` was made with other settings.
        ImportError: If a package is missing that reading or the runner needs.
        OSError: If the disk is full; what is finished stays.
    """
    if not 0 <= validation < 1:
        raise ValueError(f"validation must be in [0, 1). Received: {validation}")
    if model is not None and sample_rate is not None:
        raise ValueError("sample_rate is the model's own. Received: both")
    if silence_s is not None and not 0 <= silence_s < max_s:
        raise ValueError(
            f"silence_s must be at least 0 and below max_s={max_s}. "
            f"Received: silence_s={silence_s}"
        )
    if silence_s is not None and not trim:
        raise ValueError("silence_s is for trim=True. Received: trim=False too")
    if runner is not None and num_workers > 1:
        raise ValueError("A runner has workers of its own. Received: num_workers too")
    _check_tools(runner)
    settings = Settings(
        model=None if model is None else os.fspath(model),
        semantic_tokenizer=semantic_tokenizer and os.fspath(semantic_tokenizer),
        keep_audio=keep_audio or model is None,
        sample_rate=sample_rate or SAMPLE_RATE,
        trim=trim,
        max_s=max_s,
        silence_s=silence_s,
    )
    recordings, problems = read_dataset(dataset)
    maker = Maker(settings)

    def run(pending: Sequence[Job], info: DatasetInfo, done: _Done) -> None:
        if runner is not None:
            from .beam import run_jobs

            run_jobs(pending, settings, info, runner, runner_options, done.add)
        elif num_workers > 1:
            _run_in_processes(pending, settings, info, num_workers, done)
        else:
            _run_here(pending, maker, info, done)

    return make_shards(
        recordings[:limit],
        out,
        maker,
        validation=validation,
        shard_size=shard_size,
        problems=problems,
        run=run,
        progress=progress,
    )


def make_shards(
    recordings: Sequence[Any],
    out: str | os.PathLike,
    maker: Any,
    *,
    validation: float = 0.0,
    shard_size: int = SHARD_SIZE,
    problems: Sequence[Problem] = (),
    run: Callable[[Sequence[Job], DatasetInfo, _Done], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Makes the shards that are missing, of recordings or of what is spoken.

    Args:
        recordings: `Recording`s, or others with `id`, `speaker` and `text`.
        out: As in `prepare`.
        maker: A `Maker`, or another with `info` and `utterances`.
        validation: As in `prepare`.
        shard_size: Recordings per shard.
        problems: What has been left out already, for the report.
        run: Makes shards; by default one after the other.
        progress: Called with (recordings done, recordings).

    Returns:
        `Report`.

    Raises:
        ValueError: If `out` was made with other settings.
        OSError: If the disk is full; what is finished stays.
    """
    info = maker.info(_fingerprint(recordings, validation, shard_size))
    out = Path(out)
    jobs = list(_jobs(recordings, out, validation, shard_size))
    _claim(out, jobs, info)
    pending = [job for job in jobs if not is_finished(job.path)]
    done = _Done(len(recordings), progress)
    done.add(len(recordings) - sum(len(job.recordings) for job in pending))
    with _full_disk_explained(out):
        if run is None:
            _run_here(pending, maker, info, done)
        else:
            run(pending, info, done)
        report = Report.of(jobs, problems)
        report.save(out)
    return report


def _run_here(jobs: Sequence[Job], maker: Any, info: DatasetInfo, done: _Done) -> None:
    for job in jobs:
        make_shard(job, maker, info)
        done.add(len(job.recordings))


class _Done:
    def __init__(self, total: int, progress):
        self._count, self._total, self._progress = 0, total, progress

    def add(self, count: int) -> None:
        self._count += count
        if self._progress is not None:
            self._progress(self._count, self._total)


# === What goes where ===


def is_held_out(text: str, share: float) -> bool:
    """Whether a text belongs to the validation; a function of its words alone."""
    words = " ".join(text.lower().split())
    rest, twentieth = divmod(
        int(hashlib.sha256(words.encode("utf-8")).hexdigest(), 16), 20
    )
    return (twentieth + rest % 2**32 / 2**32) / 20 < share


def _jobs(
    recordings: Sequence[Recording], out: Path, validation: float, size: int
) -> Iterator[Job]:
    for split in SPLITS if validation else SPLITS[:1]:
        wanted = split == "validation"
        chosen = [r for r in recordings if is_held_out(r.text, validation) == wanted]
        for number, start in enumerate(range(0, len(chosen), size)):
            part = tuple(chosen[start : start + size])
            yield Job(shard_path(out / split, number), part)


def _fingerprint(
    recordings: Sequence[Recording], validation: float, size: int
) -> dict[str, Any]:
    """What makes two runs the same, besides the settings."""
    lines = "\n".join(f"{r.id}\t{r.speaker}\t{r.text}" for r in recordings)
    digest = hashlib.sha256(lines.encode("utf-8")).hexdigest()
    return {"recordings": digest, "validation": validation, "shard_size": size}


def _claim(out: Path, jobs: Sequence[Job], info: DatasetInfo) -> None:
    """Writes what the records are, unless an earlier run has; refuses another's."""
    for folder in sorted({job.path.parent for job in jobs}):
        try:
            before = DatasetInfo.load(folder)
        except FileNotFoundError:
            folder.mkdir(parents=True, exist_ok=True)
            info.save(folder)
            continue
        if before != info:
            old, new = dataclasses.asdict(before), dataclasses.asdict(info)
            names = ", ".join(name for name in new if old[name] != new[name])
            raise ValueError(
                f"{str(out)!r} was prepared from something else ({names} differ). "
                "Choose another directory, or delete this one"
            )
        for unfinished in folder.glob(".shard-*"):  # of a run that was killed
            unfinished.unlink(missing_ok=True)


def _check_tools(runner: str | None) -> None:
    """Fails before any work if a package is missing."""
    if runner is not None:
        required("apache_beam", "Preparing on a runner", "beam")


class _full_disk_explained:
    """Turns a full disk into a sentence."""

    def __init__(self, out: Path):
        self._out = out

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise OSError(
                errno.ENOSPC,
                f"The disk of {str(self._out)!r} is full. Finished shards stay; the "
                "same command goes on",
            ) from error


# === Making ===


class Maker:
    """Turns recordings into utterances; holds the model.

    Args:
        settings: `Settings`.
    """

    def __init__(self, settings: Settings):
        self.settings = settings
        self._processor = None
        if settings.model is None:
            self.sample_rate = settings.sample_rate
            return
        from bark_tf.models.encodec.model import EncodecModel
        from bark_tf.processor import BarkProcessor

        model = settings.model
        self._processor = BarkProcessor.from_pretrained(model)
        self._codec = EncodecModel.from_pretrained(model)
        self._config = BarkGenerationConfig.from_pretrained(model)
        self._tokenizer = load_semantic_tokenizer(settings.semantic_tokenizer or model)
        self.sample_rate = self._codec.config.sampling_rate
        self._num_codebooks = self._config.fine_acoustics_config.n_fine_codebooks
        self._sizes = CoarseWindow.of(self._config)
        check_tokenizer(self._tokenizer, self._config.semantic_config)
        # One trace for every length.
        spec = tf.TensorSpec((1, 1, None), tf.float32)
        self._encode = tf.function(
            lambda audio: self._codec.encode(audio, num_codebooks=self._num_codebooks),
            input_signature=[spec],
            autograph=False,
        )

    def info(self, fingerprint: dict[str, Any]) -> DatasetInfo:
        """What the records are."""
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
        """Reads and encodes; each recording gives an utterance or why it cannot."""
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
            ValueError: If it is of no use; the message says why.
        """
        if self.settings.silence_s is not None:
            audio = with_silence(audio, self.sample_rate, self.settings.silence_s)
        elif self.settings.trim:
            audio = trim(audio, self.sample_rate)
        kept = audio if self.settings.keep_audio else None
        names = (recording.id, recording.text, recording.speaker)
        if self._processor is None:
            nothing = np.zeros(0, np.int32)
            return Utterance(*names, nothing, nothing, np.zeros((0, 0), int), kept)
        text_ids = self._processor.tokenizer.encode(recording.text)
        if not text_ids:
            raise ValueError("nothing in its text has a token")
        semantic = self._semantic(audio)
        codes = self._codes(audio)
        semantic, codes = align(semantic, codes, self._sizes)
        return Utterance(*names, np.array(text_ids, np.int32), semantic, codes, kept)

    def _codes(self, audio: np.ndarray) -> np.ndarray:
        """int32 (codebooks, frames)."""
        return self._encode(audio[None, None])[0].numpy()

    def _semantic(self, audio: np.ndarray) -> np.ndarray:
        if self._tokenizer.sample_rate != self.sample_rate:
            import soxr

            rates = (self.sample_rate, self._tokenizer.sample_rate)
            audio = soxr.resample(audio, *rates).astype(np.float32)
        return self._tokenizer(audio)


def tokens_info(model: str, config: BarkGenerationConfig, **facts: Any) -> DatasetInfo:
    """What records with a model's tokens are.

    Args:
        model: Directory or id of the checkpoint.
        config: Its generation configuration.
        **facts: Of `DatasetInfo`: what the configuration does not tell.
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
    """Makes one shard."""
    write_shard(job.path, maker.utterances(job.recordings), info)


def _without_path(reason: str, path: Path) -> str:
    """A reason that is the same for all recordings with the same problem."""
    return reason.replace(str(path), "the recording").replace(repr(str(path)), "it")


_maker = None  # of a worker process


def _start_worker(settings: Settings) -> None:
    global _maker
    _maker = Maker(settings)


def _work(task: tuple[Job, DatasetInfo]) -> int:
    job, info = task
    make_shard(job, _maker, info)
    return len(job.recordings)


def _run_in_processes(jobs, settings, info, num_workers: int, done: _Done) -> None:
    context = multiprocessing.get_context("spawn")  # TensorFlow cannot be forked
    with context.Pool(num_workers, _start_worker, (settings,)) as pool:
        tasks = [(job, info) for job in jobs]
        for count in pool.imap_unordered(_work, tasks):
            done.add(count)


# === Report ===


@dataclasses.dataclass(frozen=True)
class Report:
    """What was prepared, and what was not.

    Args:
        hours: Of audio, per split.
        utterances: Number, per split.
        speakers: Number of utterances of each.
        seconds: Shortest, median and longest utterance.
        skipped: What could not be used, in order.
    """

    hours: dict[str, float]
    utterances: dict[str, int]
    speakers: dict[str, int]
    seconds: dict[str, float]
    skipped: list[Skipped]

    @classmethod
    def of(cls, jobs: Sequence[Job], problems: Sequence[Problem]) -> Report:
        """Reads the indices of finished shards."""
        rows: dict[str, list[dict[str, Any]]] = {}
        skipped = [Skipped(p.id, p.where, p.reason) for p in problems]
        for job in jobs:
            split = rows.setdefault(job.path.parent.name, [])
            for row in read_index(job.path):
                if "skipped" in row:
                    skipped.append(Skipped(row["id"], row["where"], row["skipped"]))
                else:
                    split.append(row)
        every = [row for split in rows.values() for row in split]
        seconds = [row["seconds"] for row in every] or [0.0]
        return cls(
            hours={
                name: round(sum(row["seconds"] for row in split) / 3600, 4)
                for name, split in rows.items()
            },
            utterances={name: len(split) for name, split in rows.items()},
            speakers=dict(sorted(Counter(row["speaker"] for row in every).items())),
            seconds={
                "min": float(np.min(seconds)),
                "median": float(np.median(seconds)),
                "max": float(np.max(seconds)),
            },
            skipped=skipped,
        )

    def __str__(self) -> str:
        lines = ["| split | utterances | hours |", "|---|---|---|"]
        lines += [
            f"| {name} | {count} | {self.hours[name]:.3f} |"
            for name, count in self.utterances.items()
        ]
        shown = ", ".join(f"{name}: {n}" for name, n in self.speakers.items())
        lines += ["", f"Speakers: {shown or 'none'}"]
        lines += ["Seconds: {min:.2f} to {max:.2f}, median {median:.2f}"]
        lines[-1] = lines[-1].format(**self.seconds)
        lines += ["", f"Skipped: {len(self.skipped)}"]
        by_reason: dict[str, list[str]] = {}
        for one in self.skipped:
            by_reason.setdefault(one.reason, []).append(one.id or one.where)
        for reason, names in sorted(by_reason.items(), key=lambda item: -len(item[1])):
            more = ", ..." if len(names) > _SHOWN else ""
            lines.append(
                f"- {len(names)} x {reason}: {', '.join(names[:_SHOWN])}{more}"
            )
        return "\n".join(lines)

    def save(self, directory: Path) -> None:
        """Writes `report.json` and `report.md`."""
        values = dataclasses.asdict(self)
        values["skipped"] = [one._asdict() for one in self.skipped]
        texts = {
            "report.json": json.dumps(values, indent=2, ensure_ascii=False),
            "report.md": f"# Prepared recordings\n\n{self}",
        }
        for name, text in texts.items():
            with atomic_write(directory / name) as temporary:
                temporary.write_text(text + "\n", encoding="utf-8")
