"""Makes shards on Apache Beam, in one process, in several or on a cluster.

Every worker needs this package with its extra `train`, and must see the dataset, the
model and the output under the same paths; the output may be a URL, such as `gs://...`.
Needs the extra `beam`.
"""

from __future__ import annotations

import dataclasses
import errno
import os
from collections.abc import Sequence
from pathlib import Path

import apache_beam
from apache_beam.options.pipeline_options import PipelineOptions

from .checks import Settings
from .datasets import Recording
from .encoding import Job, Maker, make_shard
from .layouts import Word
from .shards import DatasetInfo, is_finished
from .storage import RemotePath, storage_path

# Beam's DirectRunner first downloads a program and uses this runner only if that fails.
_DIRECT = "FnApiRunner"
_DIRECT_NAMES = ("direct", "directrunner")


def run_jobs(
    jobs: Sequence[Job],
    settings: Settings,
    info: DatasetInfo,
    runner: str,
    options: Sequence[str] = (),
) -> None:
    """Makes shards on a runner of Apache Beam.

    Args:
        jobs: The shards to make.
        settings: Settings of all shards.
        info: Description of the dataset.
        runner: Name of the runner, such as `"DirectRunner"` or `"FlinkRunner"`.
        options: Options of the pipeline, such as `"--direct_num_workers=4"`.

    Raises:
        ValueError: If the runner is unknown.
        OSError: If a worker's disk is full, or its files are not visible here.
        RuntimeError: If the pipeline fails for another reason.
    """
    if not jobs:
        return
    name = _DIRECT if runner.lower() in _DIRECT_NAMES else runner
    pipeline = apache_beam.Pipeline(
        options=PipelineOptions([f"--runner={name}", *options])
    )
    _ = (
        pipeline
        | apache_beam.Create([_packed(job) for job in jobs])
        | apache_beam.ParDo(_MakeShards(_absolute(settings), info))
    )
    try:
        pipeline.run().wait_until_finish()
    except Exception as error:
        raise _in_one_line(error) from error
    missing = [job.path for job in jobs if not is_finished(job.path)]
    if missing:
        raise OSError(
            f"All workers must see the output under the same path. Received: {runner}, "
            f"whose workers left no {missing[0]}"
        )


class _MakeShards(apache_beam.DoFn):
    """Makes one shard per element; each worker loads the model once."""

    def __init__(self, settings: Settings, info: DatasetInfo):
        self._settings, self._info = settings, info

    def setup(self) -> None:
        self._maker = Maker(self._settings)

    def process(self, packed: tuple) -> None:
        job = _unpacked(packed)
        # A runner may repeat work that it believes lost.
        if not is_finished(job.path):
            make_shard(job, self._maker, self._info)


def _packed(job: Job) -> tuple:
    """A job in built-in types, which all of Beam's coders support."""
    rows = [
        (*one[:3], os.fspath(one.path), [tuple(word) for word in one.words])
        for one in job.recordings
    ]
    path = job.path if isinstance(job.path, RemotePath) else job.path.absolute()
    return (os.fspath(path), rows)


def _unpacked(packed: tuple) -> Job:
    path, rows = packed
    recordings = (
        Recording(*row[:3], Path(row[3]), tuple(Word(*word) for word in row[4]))
        for row in rows
    )
    return Job(storage_path(path), tuple(recordings))


def _absolute(settings: Settings) -> Settings:
    """Makes paths absolute, for workers with another working directory."""
    found = {"model": settings.model, "semantic_tokenizer": settings.semantic_tokenizer}
    paths = {
        name: os.path.abspath(path)
        for name, path in found.items()
        if path and os.path.isdir(path)
    }
    return dataclasses.replace(settings, **paths)


def _in_one_line(error: Exception) -> Exception:
    """The last line of the traceback that a runner reports as text."""
    last = str(error).strip().splitlines()[-1:] or [type(error).__name__]
    if f"[Errno {errno.ENOSPC}]" in last[0]:
        return OSError(errno.ENOSPC, last[0])
    return RuntimeError(f"The pipeline failed: {last[0]}")
