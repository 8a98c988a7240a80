"""Texts of many callers to speech, through one queue."""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bark_tf.generation.long_form import LongForm, SpokenRow, rows_of
from bark_tf.progress import Progress, Timings
from bark_tf.serving.batching import Batcher, Gone, Row
from bark_tf.serving.metrics import Metrics
from bark_tf.text.marks import Passage, read_marks, voices_of
from bark_tf.voices.presets import list_voices

# The name of no voice: the model's own speaker, or a random one.
DEFAULT_VOICE = "default"
GATHER_S = 0.02
# Silence that the marks of one text may ask for.
MAX_PAUSES_S = 60.0

# Long enough for several windows, so that every program is traced.
_WARM_UP_TEXT = "one two three"
_WARM_UP_TOKENS = 48


class Busy(Exception):
    """All places are taken.

    Attributes:
        retry_after_s: When a place may be free, in whole seconds.
    """

    def __init__(self, retry_after_s: int):
        super().__init__(
            "The server is busy: all places in its queue are taken. "
            f"Try again in {retry_after_s} s"
        )
        self.retry_after_s = retry_after_s


class Utterance:
    """A text that is being spoken; iterating blocks until its next piece is there.

    Yields (audio, is_last): float32 (samples,) and whether it is the last piece.
    Concatenated, the audio equals `BarkModel.generate_long`'s with the same seed.

    Attributes:
        seed: The given seed, or the one drawn.
        num_samples: Samples so far.
        problems: Number of pieces with one of `long_form.PROBLEMS`.
    """

    def __init__(
        self,
        engine: Engine,
        text: Sequence[Passage],
        options: Mapping[str, Any],
        **how: Any,
    ):
        self._engine, self._options = engine, dict(options)
        self._row: Row | None = None
        self._stage: tuple[str, int, int] = ("waiting", 0, 1)
        self.is_closed, self.num_samples, self.problems = False, 0, 0
        self._num_pieces = 0
        self._run = LongForm(
            engine.model, engine.processor, text, speak=self._speak, **how, **options
        )
        self.seed = self._run.seed

    def __iter__(self) -> Iterator[tuple[np.ndarray, bool]]:
        count = len(self._run.chunks)
        for audio, report in self._run.stream():
            self._num_pieces += 1
            self.num_samples += audio.size
            self.problems += report.problem is not None
            yield audio, self._num_pieces == count

    def _speak(self, **inputs: Any) -> SpokenRow:
        if self.is_closed:
            raise Gone
        self._stage = ("waiting", 0, 1)
        self._row = Row(
            inputs, self._options, lambda: self.is_closed, self._report_stage
        )
        self._engine.queue.add(self._row)
        if self.is_closed:  # since the question above
            self._row.spoken.cancel()
        return self._row.spoken.result()

    def _report_stage(self, *stage: Any) -> None:
        self._stage = stage

    @property
    def progress(self) -> dict[str, Any]:
        """How far it is.

        `stage` is "waiting" or a stage's name, of which `done` of `total` is done, of
        the piece number `piece` of `pieces`; `ahead` rows wait before it in the queue.
        """
        stage, done, total = self._stage
        return {
            "stage": stage,
            "done": done,
            "total": total,
            "piece": min(self._num_pieces + 1, len(self._run.chunks)),
            "pieces": len(self._run.chunks),
            "ahead": 0 if self._row is None else self._engine.queue.ahead(self._row),
        }

    @property
    def unknown_words(self) -> list[str]:
        """The words that the model's vocabulary does not have, each once."""
        find = self._engine.processor.tokenizer.unknown_words
        words = (find(chunk.text) for chunk in self._run.chunks)
        return list(dict.fromkeys(word for found in words for word in found))

    def close(self) -> None:
        """Frees the place in the queue; whoever iterates gets an exception."""
        if self.is_closed:
            return
        self.is_closed = True
        if self._row is not None:
            self._row.spoken.cancel()
        self._engine.leave()


class Engine:
    """A model, its voices, and the queue before it.

    Args:
        model: `BarkModel`.
        processor: `BarkProcessor`.
        max_batch: Most rows that are spoken together, a power of two.
        max_requests: Most open utterances; `start` raises `Busy` beyond.
        num_threads: Most batches at the same time, a power of two. Together they have
            at most `max_batch` rows.
        jit_compile: Whether to compile decoding with XLA.
        aliases: Further names of voices.
        metrics: Where to count.

    Raises:
        ValueError: If an alias is of a voice that does not exist.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        max_batch: int = 16,
        max_requests: int = 64,
        num_threads: int = 1,
        jit_compile: bool = True,
        aliases: Mapping[str, str] | None = None,
        metrics: Metrics | None = None,
    ):
        self.model, self.processor = model, processor
        self.sample_rate = model.sampling_rate
        self.max_batch, self.max_requests = max_batch, max_requests
        self.metrics = metrics or Metrics()
        self._jit_compile = jit_compile
        names = [voice.name for voice in list_voices(processor.speaker_embeddings)]
        self._voices = {name: name for name in names} | {DEFAULT_VOICE: None}
        self._aliases = {
            name: self.voice_of(voice) for name, voice in (aliases or {}).items()
        }
        self._voices |= self._aliases
        self._open, self._lock = 0, threading.Lock()
        self._batch_s = 1.0
        num_threads = min(num_threads, max_batch)
        self._batch_rows = max_batch // num_threads
        self.queue = Batcher(
            self._speak, self._batch_rows, GATHER_S, self._count_batch, num_threads
        )
        self.metrics.watch(lambda: len(self.queue), lambda: self._open)

    @property
    def voices(self) -> list[str]:
        """The names that `start` takes."""
        return list(self._voices)

    def voice_of(self, name: str) -> str | None:
        """The name of a voice in the processor, of its name or alias here.

        Only listed voices: a name never opens another file.

        Raises:
            ValueError: If there is none; the message lists those that exist.
        """
        if name not in self._voices:
            raise ValueError(
                f"voice must be one of {', '.join(self._voices)}. "
                f"Received: voice={name[:80]!r}"
            )
        return self._voices[name]

    def start(
        self,
        text: str,
        voice: str | Mapping[str, Any],
        seed: int | None = None,
        **options: Any,
    ) -> Utterance:
        """Takes a place in the queue and prepares a text.

        Args:
            text: What to say, of any length; marks in it may name the voices of
                `voices`, and pause for `MAX_PAUSES_S` in all.
            voice: One of `voices`, or the arrays of a `VoicePreset`.
            seed: Seed of all random choices; None: a new one.
            **options: Keywords of `generate`.

        Returns:
            `Utterance`; it must be closed.

        Raises:
            Busy: If all places are taken.
            ValueError: If an argument is invalid or the text says nothing.
        """
        if isinstance(voice, str):
            voice = self.voice_of(voice)
        passages = read_marks(text)
        voices = voices_of(passages, self.voice_of)
        pauses_s = sum(passage.pause_s or 0 for passage in passages)
        if pauses_s > MAX_PAUSES_S:
            raise ValueError(
                f"text must have pauses of at most {MAX_PAUSES_S:g} s in all. "
                f"Received: {pauses_s:g} s"
            )
        with self._lock:
            if self._open >= self.max_requests:
                batches = 1 + len(self.queue) / self.max_batch
                raise Busy(max(1, math.ceil(self._batch_s * batches)))
            self._open += 1
        try:
            return Utterance(
                self, passages, options, voice=voice, voices=voices, seed=seed
            )
        except BaseException:
            self.leave()
            raise

    def leave(self) -> None:
        """Gives a place back."""
        with self._lock:
            self._open -= 1

    def close(self) -> None:
        """Ends the threads of the queue."""
        self.queue.close()

    def warm_up(self) -> None:
        """Speaks once at every batch size, which traces and compiles the programs."""
        for voice in {None, next((v for v in self._voices.values() if v), None)}:
            with warnings.catch_warnings():
                # The model may not know these words.
                warnings.simplefilter("ignore", UserWarning)
                inputs = self.processor(
                    _WARM_UP_TEXT, voice_preset=voice, return_tensors="np"
                )
            inputs = {"history_prompt": None, "seed": 0, **inputs}
            options = {"semantic_max_new_tokens": _WARM_UP_TOKENS}
            for exponent in range(self._batch_rows.bit_length()):
                rows = [Row(inputs, options, lambda: False)] * 2**exponent
                self._generate(rows, lambda stage, done, total: None)

    def _speak(self, rows: Sequence[Row], report: Progress) -> list[SpokenRow]:
        timings = Timings(report)
        spoken = self._generate(rows, timings)
        self.metrics.add_stages(timings.seconds)
        return spoken

    def _generate(self, rows: Sequence[Row], report: Progress) -> list[SpokenRow]:
        inputs = [row.inputs for row in rows]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The text-to-semantic stage ended rows")
            out = self.model.generate(
                np.concatenate([row["input_ids"] for row in inputs]),
                [row["history_prompt"] for row in inputs],
                attention_mask=np.concatenate(
                    [row["attention_mask"] for row in inputs]
                ),
                seed=[row["seed"] for row in inputs],
                return_dict=True,
                jit_compile=self._jit_compile,
                progress=report,
                **rows[0].options,
            )
        return rows_of(out)

    def _count_batch(self, rows: int, seconds: float) -> None:
        with self._lock:
            self._batch_s = 0.8 * self._batch_s + 0.2 * seconds
        self.metrics.add_batch(rows, seconds)
