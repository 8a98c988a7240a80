"""Prepares recordings and their texts for training.

`prepare` writes

    OUT/train/, OUT/validation/     shards, see `shards.py`
    OUT/report.json, OUT/report.md  statistics, and what was skipped and why

The text alone decides whether a recording is held out, so a sentence is never on both
sides, whoever speaks it, and does not change sides, unless one would be empty. Without
`validation` there is only `train`. A run that was killed resumes with the first
unfinished shard.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import itertools
import json
import multiprocessing
import os
import tempfile
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bark_tf.optional import required

from .checks import Checks, Settings
from .datasets import Recording, read_dataset
from .encoding import Job, Maker, make_shard
from .layouts import Skipped
from .shards import DatasetInfo, is_finished, read_index, shard_path
from .storage import RemotePath, atomic_write, explained, locked, storage_path

SHARD_SIZE = 256
SAMPLE_RATE = 24_000
MAX_S = 60.0
# Folder for the audio of datasets that are no files.
COPIES = "recordings"
SPLITS = ("train", "validation")
# Recordings that the summary names per reason, and characters of what was found.
_SHOWN, _SHOWN_DETAIL = 3, 80


def prepare(
    dataset: str | os.PathLike,
    out: str | os.PathLike | None,
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
    dry_run: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Prepares a dataset for training.

    Recordings that cannot be learned are skipped with a reason: those that cannot be
    decoded, are silent or heavily clipped, and with a model those that are longer than
    its semantic stage learns, or whose text is longer than it reads or far too long for
    the recording. A recording that is too long is cut at pauses if its words are timed.

    Args:
        dataset: A dataset in one of the forms of `datasets.read_dataset`.
        out: Directory or URL (`gs://...`) for the shards, created if missing. An
            unfinished run with the same settings is resumed. The audio of a `hf:`
            dataset is copied to its `recordings`. May be None with `dry_run`.
        model: Checkpoint to encode for: text ids, semantic tokens and codes. None
            saves audio only, to train a codec and a tokenizer.
        semantic_tokenizer: Directory of the semantic tokenizer. None: the model's.
        keep_audio: Whether to save audio beside the tokens.
        sample_rate: Sample rate of the audio without a model. None: 24,000.
        validation: Share of the texts to hold out, in [0, 1); if it is not 0, at least
            one text.
        limit: Number of recordings to read from the start of the dataset. None: all.
        shard_size: Recordings per shard.
        num_workers: Number of processes.
        trim: Whether to cut silence at both ends.
        max_s: Seconds; longer recordings are skipped.
        silence_s: Seconds of silence that both ends of every recording get, by cutting
            or adding. None: at most 0.05, or with `trim=False` unchanged.
        runner: Name of an Apache Beam runner to use instead of processes.
        runner_options: Options of the runner, such as `"--direct_num_workers=4"`.
        dry_run: Whether to read and check the dataset and to write nothing.
        progress: Called with (recordings done, recordings).

    Returns:
        `Report`; `str(report)` is a summary to print.

    Raises:
        FileNotFoundError: If the dataset or the model does not exist.
        ValueError: If nothing is usable, on either side of `validation`, or `out` was
            made with other settings.
        ImportError: If the runner or the dataset needs a package that is missing.
        BlockingIOError: If another process prepares in `out`. A URL cannot be locked.
        OSError: If the disk is full; finished shards stay.
    """
    _check_arguments(model, sample_rate, validation, limit, num_workers, runner)
    if runner is not None:  # fail before any work
        required("apache_beam", "Preparing on a runner", "beam")
    if out is None and not dry_run:
        raise ValueError("OUT must be a folder for the shards, except with --dry-run")
    settings = Settings(
        model=None if model is None else os.fspath(model),
        semantic_tokenizer=semantic_tokenizer and os.fspath(semantic_tokenizer),
        keep_audio=keep_audio or model is None,
        sample_rate=sample_rate or SAMPLE_RATE,
        trim=trim,
        max_s=max_s,
        silence_s=silence_s,
    )
    if dry_run:
        with tempfile.TemporaryDirectory() as copies:
            recordings, problems = read_dataset(dataset, copies, limit)
            splits = split_texts(recordings, validation)
            return _rehearse(splits, problems, Checks(settings), progress)
    out = storage_path(out, "OUT")

    def run(pending: Sequence[Job], info: DatasetInfo) -> Iterator[int]:
        if runner is not None:
            from .beam import run_jobs

            run_jobs(pending, settings, info, runner, runner_options)
            yield sum(len(job.recordings) for job in pending)
        elif num_workers > 1:
            yield from _run_in_processes(pending, settings, info, num_workers)
        else:
            yield from _run_here(pending, maker, info)

    with locked(out):
        recordings, problems = read_dataset(dataset, out / COPIES, limit)
        maker = Maker(settings)
        return make_shards(
            recordings,
            out,
            maker,
            validation=validation,
            shard_size=shard_size,
            problems=problems,
            run=run,
            progress=progress,
        )


def _check_arguments(
    model, sample_rate, validation, limit, num_workers, runner
) -> None:
    if not 0 <= validation < 1:
        raise ValueError(f"validation must be in [0, 1). Received: {validation}")
    if model is not None and sample_rate is not None:
        raise ValueError(
            "sample_rate must be None with a model, which has its own. Received: both"
        )
    if runner is not None and num_workers > 1:
        raise ValueError(
            "num_workers must be 1 with a runner, which has its own workers. "
            f"Received: num_workers={num_workers}"
        )
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1. Received: {limit}")


def make_shards(
    recordings: Sequence[Any],
    out: str | os.PathLike,
    maker: Any,
    *,
    validation: float = 0.0,
    shard_size: int = SHARD_SIZE,
    problems: Sequence[Skipped] = (),
    run: Callable[[Sequence[Job], DatasetInfo], Iterator[int]] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Makes the missing shards of a directory.

    Args:
        recordings: `Recording`s, or other objects with `id`, `speaker` and `text`.
        out: See `prepare`.
        maker: A `Maker`, or another object with `info` and `utterances`.
        validation: See `prepare`.
        shard_size: Recordings per shard.
        problems: Lines of the dataset that could not be used, for the report.
        run: Makes shards and yields the numbers of recordings done. None: one shard
            after the other in this process.
        progress: Called with (recordings done, recordings).

    Returns:
        `Report`.

    Raises:
        ValueError: If `out` was made with other settings, or a split is empty.
        BlockingIOError: If another process makes shards in `out`.
        OSError: If the disk is full; finished shards stay.
    """
    info = maker.info(_fingerprint(recordings, validation, shard_size))
    out = storage_path(out, "OUT")
    jobs = list(_jobs(recordings, out, validation, shard_size))
    with locked(out), explained(out), _full_disk_explained(out):
        _claim(out, jobs, info)
        pending = [job for job in jobs if not is_finished(job.path)]
        done = len(recordings) - sum(len(job.recordings) for job in pending)
        counts = run(pending, info) if run else _run_here(pending, maker, info)
        for count in itertools.chain([0], counts):
            done += count
            if progress is not None:
                progress(done, len(recordings))
        report = Report.of_jobs(jobs, problems)
        report.save(out)
    report.check()
    return report


def _run_here(jobs: Sequence[Job], maker: Any, info: DatasetInfo) -> Iterator[int]:
    for job in jobs:
        make_shard(job, maker, info)
        yield len(job.recordings)


def _rehearse(
    splits: dict[str, list[Recording]],
    problems: Sequence[Skipped],
    checks: Checks,
    progress: Callable[[int, int], None] | None,
) -> Report:
    """Reads and checks all recordings; the report is that of `make_shards`."""
    rows: dict[str, list[dict[str, Any]]] = {}
    skipped, done, total = list(problems), 0, sum(map(len, splits.values()))
    for name, chosen in splits.items():
        split = rows.setdefault(name, [])
        for one in checks.read(chosen):
            done += 1
            if isinstance(one, Skipped):
                skipped.append(one)
            else:
                seconds = len(one.audio) / checks.sample_rate
                split.append({"seconds": seconds, "speaker": one.recording.speaker})
            if progress is not None:
                progress(min(done, total), total)  # a recording may have parts
    report = Report.of(rows, skipped)
    report.check()
    return report


# === Splits and shards ===


def is_held_out(text: str, share: float) -> bool:
    """Whether a text is held out for validation; depends on its words alone."""
    return _place(_words(text)) < share


def _words(text: str) -> str:
    return " ".join(text.lower().split())


def _place(words: str) -> float:
    """A pseudo-random number in [0, 1)."""
    number = int(hashlib.sha256(words.encode("utf-8")).hexdigest(), 16)
    rest, twentieth = divmod(number, 20)
    return (twentieth + rest % 2**32 / 2**32) / 20


def split_texts(recordings: Sequence[Any], share: float) -> dict[str, list[Any]]:
    """Splits recordings by their texts, at least one text on either side.

    Args:
        recordings: Objects with `text`.
        share: Share of the texts to hold out; 0: there is no validation.

    Returns:
        Name of the split -> its recordings, in order.

    Raises:
        ValueError: If there are fewer than two different texts to split.
    """
    if not share:
        return {SPLITS[0]: list(recordings)}
    places = {words: _place(words) for words in (_words(r.text) for r in recordings)}
    if len(places) < 2:
        raise ValueError(
            "validation needs at least two different texts, one of them to hold out. "
            f"Received: {len(places)}"
        )
    count = sum(place < share for place in places.values())
    count = min(max(count, 1), len(places) - 1)
    held_out = set(sorted(places, key=places.get)[:count])
    return {
        name: [r for r in recordings if (_words(r.text) in held_out) == is_wanted]
        for name, is_wanted in zip(SPLITS, (False, True), strict=True)
    }


def _jobs(
    recordings: Sequence[Recording],
    out: Path | RemotePath,
    validation: float,
    size: int,
) -> Iterator[Job]:
    for split, chosen in split_texts(recordings, validation).items():
        for number, start in enumerate(range(0, len(chosen), size)):
            part = tuple(chosen[start : start + size])
            yield Job(shard_path(out / split, number), part)


def _fingerprint(
    recordings: Sequence[Recording], validation: float, size: int
) -> dict[str, Any]:
    """What two runs must share besides the settings to make the same shards."""
    lines = "\n".join(f"{r.id}\t{r.speaker}\t{r.text}" for r in recordings)
    digest = hashlib.sha256(lines.encode("utf-8")).hexdigest()
    return {"recordings": digest, "validation": validation, "shard_size": size}


def _claim(out: Path | RemotePath, jobs: Sequence[Job], info: DatasetInfo) -> None:
    """Writes `dataset.json`; ValueError if a run with other settings has written it."""
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
                f"{str(out)!r} holds another prepared dataset ({names} differ). "
                "Choose another directory, or delete this one"
            )
        for unfinished in folder.glob(".shard-*"):  # of a run that was killed
            unfinished.unlink(missing_ok=True)


@contextlib.contextmanager
def _full_disk_explained(out: Path | RemotePath) -> Iterator[None]:
    """Says in the error of a full disk how to go on."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise OSError(
            errno.ENOSPC,
            f"The disk of {str(out)!r} is full. Finished shards stay; repeat the "
            "command to resume",
        ) from error


# === Worker processes ===


_maker = None  # of a worker process


def _start_worker(settings: Settings) -> None:
    global _maker
    _maker = Maker(settings)


def _work(task: tuple[Job, DatasetInfo]) -> int:
    job, info = task
    make_shard(job, _maker, info)
    return len(job.recordings)


def _run_in_processes(jobs, settings, info, num_workers: int) -> Iterator[int]:
    context = multiprocessing.get_context("spawn")  # TensorFlow cannot be forked
    with context.Pool(num_workers, _start_worker, (settings,)) as pool:
        tasks = [(job, info) for job in jobs]
        yield from pool.imap_unordered(_work, tasks)


# === Report ===


@dataclasses.dataclass(frozen=True)
class Report:
    """Statistics of a prepared dataset.

    Args:
        hours: Split -> hours of audio.
        utterances: Split -> number of utterances.
        speakers: Speaker -> number of utterances.
        seconds: Length of the shortest, median and longest utterance: `min`, `median`
            and `max`.
        skipped: Recordings that could not be used, in order.
    """

    hours: dict[str, float]
    utterances: dict[str, int]
    speakers: dict[str, int]
    seconds: dict[str, float]
    skipped: list[Skipped]

    @classmethod
    def of_jobs(cls, jobs: Sequence[Job], problems: Sequence[Skipped]) -> Report:
        """Reads the indices of finished shards and adds the dataset's problems."""
        rows: dict[str, list[dict[str, Any]]] = {}
        skipped = list(problems)
        for job in jobs:
            split = rows.setdefault(job.path.parent.name, [])
            for row in read_index(job.path):
                if "skipped" in row:
                    found = (row["id"], row["where"], row["skipped"])
                    skipped.append(Skipped(*found, row.get("detail", "")))
                else:
                    split.append(row)
        return cls.of(rows, skipped)

    @classmethod
    def of(
        cls, rows: dict[str, list[dict[str, Any]]], skipped: list[Skipped]
    ) -> Report:
        """Summarises rows of indices, of which `seconds` and `speaker` are read."""
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
        lines += [f"- {reason}" for reason in self._reasons()]
        return "\n".join(lines)

    def _reasons(self) -> list[str]:
        """What was skipped, by reason, the most frequent first."""
        by_reason: dict[str, list[str]] = {}
        for one in self.skipped:
            detail = textwrap.shorten(one.detail, _SHOWN_DETAIL)
            name = (one.id or one.where) + (f" ({detail})" if detail else "")
            by_reason.setdefault(one.reason, []).append(name)
        return [
            f"{len(names)} x {reason}: "
            f"{', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''}"
            for reason, names in sorted(by_reason.items(), key=lambda i: -len(i[1]))
        ]

    def check(self) -> None:
        """Raises ValueError if a split has no utterance; the message says why."""
        for name, count in self.utterances.items():
            if not count:
                raise ValueError(
                    f"No recording of the split {name!r} can be used. "
                    f"Received: {'; '.join(self._reasons()[:_SHOWN]) or 'none'}"
                )

    def save(self, directory: Path | RemotePath) -> None:
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
