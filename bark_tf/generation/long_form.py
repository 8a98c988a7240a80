"""Speech of any length, generated and checked chunk by chunk.

Source: suno-ai/bark, `notebooks/long_form_generation.ipynb` (one sentence at a time,
0.25 s of silence between them, one voice).
Differs: a chunk continues from the last one; bad chunks are retried.
"""

from __future__ import annotations

import functools
import hashlib
import math
import secrets
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Unpack

import numpy as np

from bark_tf.audio.player import player_html
from bark_tf.config import BarkSemanticGenerationConfig
from bark_tf.generation.finite import NotFiniteError
from bark_tf.generation.keywords import LongFormKeywords
from bark_tf.generation.options import StageConfigs, call_config, stage_configs
from bark_tf.generation.random import SEED_BITS, checked_seed
from bark_tf.progress import Progress
from bark_tf.text.chunks import Chunk, ChunkReport, split_chunks
from bark_tf.text.marks import MAX_PAUSE_S, Passage
from bark_tf.text.sentences import (
    MAX_S,
    MIN_S,
    TARGET_S,
    TOKEN_MARGIN,
    estimate_seconds,
)
from bark_tf.tokens import SEMANTIC_RATE_HZ
from bark_tf.voices.presets import FRAMES_PER_TOKEN, VoicePreset

# === Numbers ===

GAP_S = 0.25  # Suno's, between sentences
PARAGRAPH_GAP_S = 0.6
FADE_S = 0.005
MAX_ATTEMPTS = 3

# History of a chunk: what the stage with the longest context reads, the fine stage
# with 512 frames. (Semantic reads 256 tokens, coarse 209.)
HISTORY_TOKENS = math.ceil(512 / FRAMES_PER_TOKEN)  # 341, or 6.8 s
# The last chunk's part of it, after a voice: half of what the semantic stage reads.
LAST_TOKENS = 256 // 2
CONTINUE_FROM = ("both", "last", "voice")

# Duration of the semantic tokens that the chunk lengths in `bark_tf.text` assume.
_FULL_S = 768 / SEMANTIC_RATE_HZ

# === Checks ===

# Reasons to retry a chunk, least harmful first. A take of the wrong length may still
# have a good voice.
_LENGTH_PROBLEMS = ("too long", "too short", "no end")
PROBLEMS = (*_LENGTH_PROBLEMS, "stuck", "silent", "empty")

# Limits on a chunk's duration, as multiples of the rough estimate: speakers and
# languages differ by a factor of two. The leeway covers breaths, pauses and cues.
_SHORTEST, _LONGEST = 0.4, 2.5
_SHORTEST_LEEWAY_S, _LONGEST_LEEWAY_S = 0.2, 3.0
# Speech never repeats exactly for this long; silence of this length is as bad.
_STUCK_S = 3.0
_LONGEST_CYCLE_S = 1.5
_ONE_VALUE_SHARE = 0.8
_SILENCE_PEAK = 1e-3  # -60 dB


def chunk_seconds(config: BarkSemanticGenerationConfig) -> tuple[float, float]:
    """Target and maximum chunk duration; a lower token limit shortens both.

    Args:
        config: Configuration of the semantic stage.

    Returns:
        Target and maximum in seconds: 10 and 13 for Bark itself.
    """
    share = min(1.0, config.max_new_tokens / config.semantic_rate_hz / _FULL_S)
    return max(MIN_S, TARGET_S * share), max(MIN_S, MAX_S * share)


class LongFormOutput(NamedTuple):
    """What `generate_long` returns.

    Attributes:
        audio: float32 (samples,), about [-1, 1].
        chunks: One `ChunkReport` per chunk.
        voice: `VoicePreset` to continue from; None if there was no speech.
        sample_rate: Hz.
        seed: The given seed, or the one drawn.
    """

    audio: np.ndarray
    chunks: tuple[ChunkReport, ...]
    voice: VoicePreset | None
    sample_rate: int
    seed: int

    @property
    def sampling_rate(self) -> int:
        """Hz; `sample_rate` under the name that `BarkOutput` has."""
        return self.sample_rate

    def __repr__(self) -> str:
        seconds = self.audio.size / self.sample_rate
        return (
            f"LongFormOutput({seconds:.2f} s of audio at {self.sample_rate} Hz, "
            f"{len(self.chunks)} chunks, seed {self.seed})"
        )

    def _repr_html_(self) -> str:
        """A player, for notebooks."""
        return player_html([self.audio], self.sample_rate)


class SpokenRow(NamedTuple):
    """One row of what `BarkModel.generate` returns, without padding.

    Attributes:
        audio: float32 (samples,).
        semantic: int32 (time,), with the end token if there is one.
        coarse: int32 (codebooks, frames).
        voice: `VoicePreset` to continue from; None for an empty row.
    """

    audio: np.ndarray
    semantic: np.ndarray
    coarse: np.ndarray
    voice: VoicePreset | None


def rows_of(out: Any) -> list[SpokenRow]:
    """The rows of a `BarkOutput`."""
    voices = out.voice if isinstance(out.voice, list) else [out.voice]
    arrays = (
        np.asarray(out.audio, np.float32),
        *map(np.asarray, (out.semantic, out.coarse)),
    )
    return [
        SpokenRow(
            audio[:length],
            semantic,
            coarse[:, : 0 if voice is None else voice.coarse_prompt.shape[1]],
            voice,
        )
        for audio, semantic, coarse, length, voice in zip(
            *arrays, out.lengths, voices, strict=True
        )
    ]


class _Take(NamedTuple):
    """One attempt at a chunk."""

    audio: np.ndarray  # float32 (samples,)
    voice: VoicePreset | None
    seed: int
    problem: str | None
    surprise: float  # absolute log ratio of its duration to the estimate

    @property
    def harm(self) -> tuple[int, float]:
        """Sort key; lower is better."""
        rank = -1 if self.problem is None else PROBLEMS.index(self.problem)
        return rank, self.surprise


class _Rates(NamedTuple):
    sample_rate: int
    semantic_hz: float
    frames_hz: float
    end: int  # the semantic token

    @classmethod
    def of(cls, configs: StageConfigs, sample_rate: int) -> _Rates:
        semantic = configs.semantic
        return cls(
            sample_rate,
            semantic.semantic_rate_hz,
            configs.coarse.coarse_rate_hz,
            semantic.eos_token_id,
        )


def _find_problem(
    text: str,
    audio: np.ndarray,  # float32 (samples,)
    semantic: np.ndarray,  # int (time,), with the end token if there is one
    coarse: np.ndarray,  # int (codebooks, frames)
    rates: _Rates,
) -> str | None:
    """The worst of `PROBLEMS` that a take has, or None."""
    if not audio.size:
        return "empty"
    if np.abs(audio).max() < _SILENCE_PEAK:
        return "silent"
    is_end = semantic == rates.end
    spoken = semantic[~is_end]
    frames = np.unique(coarse, axis=1, return_inverse=True)[1].reshape(-1)
    if _is_stuck(spoken, rates.semantic_hz) or _is_stuck(frames, rates.frames_hz):
        return "stuck"
    if not is_end.any():
        return "no end"
    seconds, expected = audio.size / rates.sample_rate, estimate_seconds(text)
    if seconds < _SHORTEST * expected - _SHORTEST_LEEWAY_S:
        return "too short"
    if seconds > _LONGEST * expected + _LONGEST_LEEWAY_S:
        return "too long"
    return None


def _is_stuck(values: np.ndarray, rate_hz: float) -> bool:
    """Whether a sequence (time,) loops, or hardly changes, for `_STUCK_S`."""
    shortest = math.ceil(_STUCK_S * rate_hz)
    if values.size < shortest:
        return False
    if np.unique(values, return_counts=True)[1].max() > _ONE_VALUE_SHARE * values.size:
        return True
    longest_cycle = min(values.size - 1, math.ceil(_LONGEST_CYCLE_S * rate_hz))
    return any(
        _longest_run(values[cycle:] == values[:-cycle]) >= shortest
        for cycle in range(1, longest_cycle + 1)
    )


def _longest_run(claims: np.ndarray) -> int:
    """Length of the longest run of True in a bool (time,) array."""
    breaks = np.flatnonzero(~claims)
    return int(np.diff(breaks, prepend=-1, append=claims.size).max()) - 1


# === History ===


def _tail(voice: VoicePreset, num_tokens: int) -> VoicePreset:
    """The last `num_tokens` semantic tokens of a voice, with their frames."""
    total, frames = voice.semantic_prompt.size, voice.fine_prompt.shape[1]
    if num_tokens >= total:
        return voice
    num_frames = max(1, round(num_tokens * frames / total))
    return VoicePreset(
        voice.semantic_prompt[-num_tokens:],
        voice.coarse_prompt[:, -num_frames:],
        voice.fine_prompt[:, -num_frames:],
    )


def _joined(before: VoicePreset | None, last: VoicePreset) -> VoicePreset:
    """`last`, preceded by as much of the end of `before` as a history can hold."""
    room = HISTORY_TOKENS - last.semantic_prompt.size
    if before is None or room <= 0:
        return last
    before = _tail(before, room)
    return VoicePreset(
        *(np.concatenate([before[key], last[key]], axis=-1) for key in last)
    )


class _History:
    """Carries the voice from chunk to chunk; see `generate_long`."""

    def __init__(self, voice: VoicePreset | None, continue_from: str | None):
        self.prompt = self._anchor = voice  # `prompt` opens the next chunk
        self._mode = continue_from or ("last" if voice is None else "both")

    def add(self, take: _Take) -> None:
        """Continues from a take, unless that would spread its problem."""
        is_only = self.prompt is None and take.problem in _LENGTH_PROBLEMS
        if take.problem is not None and not is_only:
            return
        if self._anchor is None:
            self.prompt = self._anchor = take.voice
        elif self._mode == "last":
            self.prompt = _joined(self.prompt, take.voice)
        elif self._mode == "both":
            self.prompt = _joined(self._anchor, _tail(take.voice, LAST_TOKENS))


# === The run ===


class LongForm:
    """A long text that is spoken chunk by chunk; see `generate_long`.

    Checks everything when it is made; `stream` or `output` does the work.

    Args:
        speak: Speaks one row: called with the inputs of the processor, `history_prompt`
            and `seed`, returns a `SpokenRow`. None: `model.generate`.

    Attributes:
        chunks: The pieces of the text, in order.
        history: What the next chunk continues from.
        seed: The given seed, or the one drawn.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        text: str | Sequence[Passage],
        *,
        voice: Any = None,
        voice_preset: Any = None,
        history_prompt: Any = None,
        voices: Mapping[str, Any] | None = None,
        seed: int | None = None,
        max_attempts: int = MAX_ATTEMPTS,
        gap_s: float = GAP_S,
        paragraph_gap_s: float = PARAGRAPH_GAP_S,
        continue_from: str | None = None,
        progress: Progress | None = None,
        on_chunk: Callable[[ChunkReport], None] | None = None,
        speak: Callable[..., SpokenRow] | None = None,
        **options: Any,
    ):
        configs = _configs(model.generation_config, options)
        _check(max_attempts, gap_s, paragraph_gap_s, continue_from)
        voice = _only(
            voice=voice, voice_preset=voice_preset, history_prompt=history_prompt
        )
        self.processor, self.progress, self.on_chunk = processor, progress, on_chunk
        self.speak = speak or functools.partial(
            _speak_alone, model, progress=progress, **options
        )
        self.rates = _Rates.of(configs, model.sampling_rate)
        self.max_length = configs.semantic.max_input_semantic_length
        target_s, max_s = chunk_seconds(configs.semantic)
        self.chunks = split_chunks(
            text if _is_marked(text) else [Passage(text)],
            lambda piece: len(processor.tokenizer.encode(piece)),
            (gap_s, paragraph_gap_s),
            max_tokens=max(1, self.max_length - TOKEN_MARGIN),
            target_s=target_s,
            max_s=max_s,
        )
        self._histories = self._new_histories(voice, voices or {}, continue_from)
        self.history = self._histories[self.chunks[0].voice]
        # Short enough to write down.
        self.seed = secrets.randbits(32) if seed is None else checked_seed(seed)
        self.max_attempts = max_attempts if _draws(configs) else 1

    def _new_histories(
        self, first: Any, voices: Mapping[str, Any], continue_from: str | None
    ) -> dict[str, _History]:
        """The history of each voice by its name in the passages."""
        if unknown := {chunk.voice for chunk in self.chunks} - {"", *voices}:
            raise ValueError(
                f"voices must hold every voice of the passages. Received: {[*voices]}, "
                f"without {sorted(unknown)}"
            )
        text = self.chunks[0].text

        def history(voice: Any) -> _History:
            loaded = _load(self.processor, voice, text, self.max_length)
            return _History(loaded, continue_from)

        own = history(first)
        others = {
            name: own if _is_same(voice, first) else history(voice)
            for name, voice in voices.items()
        }
        return {"": own, **others}

    def stream(self) -> Iterator[tuple[np.ndarray, ChunkReport]]:
        """As `stream_long`, without warnings."""
        start = 0
        for index, chunk in enumerate(self.chunks):
            self._report(index)
            self.history = self._histories[chunk.voice]
            take, attempts = self._best_take(index)
            self.history.add(take)
            report = ChunkReport(
                text=chunk.text,
                attempts=attempts,
                seed=take.seed,
                seconds=take.audio.size / self.rates.sample_rate,
                problem=take.problem,
                start_sample=start + round(chunk.lead_s * self.rates.sample_rate),
            )
            audio = _framed(take.audio, chunk, self.rates.sample_rate)
            start += audio.size
            if self.on_chunk is not None:
                self.on_chunk(report)
            yield audio, report
        self._report(len(self.chunks))

    def output(self) -> LongFormOutput:
        """As `generate_long`."""
        audio, chunks = zip(*_with_warnings(self), strict=True)
        return LongFormOutput(
            audio=np.concatenate(audio),
            chunks=chunks,
            voice=self.history.prompt,
            sample_rate=self.rates.sample_rate,
            seed=self.seed,
        )

    def _best_take(self, index: int) -> tuple[_Take, int]:
        """The first take without a problem, else the best; and the number of takes."""
        text = self.chunks[index].text
        inputs = self.processor(text, return_tensors="np", max_length=self.max_length)
        best = failure = None
        for attempt in range(self.max_attempts):
            try:
                take = self._take(text, inputs, _seed_of(self.seed, index, attempt))
            except NotFiniteError as error:
                failure = error
                continue
            if best is None or take.harm < best.harm:
                best = take
            if take.problem is None:
                break
        if best is None:
            raise failure
        return best, attempt + 1

    def _take(self, text: str, inputs: Mapping[str, Any], seed: int) -> _Take:
        row = self.speak(**inputs, history_prompt=self.history.prompt, seed=seed)
        audio = row.audio
        seconds = audio.size / self.rates.sample_rate
        return _Take(
            audio=audio,
            voice=row.voice,
            seed=seed,
            problem=_find_problem(text, audio, row.semantic, row.coarse, self.rates),
            surprise=abs(math.log((seconds + 1) / (estimate_seconds(text) + 1))),
        )

    def _report(self, done: int) -> None:
        if self.progress is not None:
            self.progress("chunks", done, len(self.chunks))


def _speak_alone(model: Any, **options: Any) -> SpokenRow:
    with warnings.catch_warnings():
        # A take without audio counts as "empty" and is retried.
        warnings.filterwarnings("ignore", "The text-to-semantic stage ended rows")
        return rows_of(model.generate(return_dict=True, **options))[0]


def _with_warnings(run: LongForm) -> Iterator[tuple[np.ndarray, ChunkReport]]:
    """Warns about each chunk that keeps a problem."""
    for index, (audio, report) in enumerate(run.stream()):
        if report.problem is not None:
            warnings.warn(
                f"Chunk {index + 1} of {len(run.chunks)} is {report.problem!r} after "
                f"{report.attempts} attempts; using the best: "
                f"{report.seconds:.1f} s, about {estimate_seconds(report.text):.1f} s "
                f"expected, for {report.text!r}",
                UserWarning,
                stacklevel=2,
            )
        yield audio, report


def _seed_of(seed: int, index: int, attempt: int) -> int:
    """Seed of a take; the first is `seed`, so that short text matches `generate`."""
    if index == attempt == 0:
        return seed
    words = f"{seed} {index} {attempt}".encode()
    digest = hashlib.blake2b(words, digest_size=SEED_BITS // 8).digest()
    return int.from_bytes(digest, "big")


def _framed(audio: np.ndarray, chunk: Chunk, sample_rate: int) -> np.ndarray:
    """Fades both ends to avoid clicks, adds the pauses."""
    lead, pause = (
        np.zeros(round(seconds * sample_rate), np.float32)
        for seconds in (chunk.lead_s, chunk.pause_s)
    )
    audio = np.array(audio, np.float32)
    length = min(round(FADE_S * sample_rate), audio.size // 2)
    if length:
        ramp = np.arange(length, dtype=np.float32) / np.float32(length)
        audio[:length] *= ramp
        audio[-length:] *= ramp[::-1]
    return np.concatenate([lead, audio, pause])


# === Preparation ===


def _is_marked(text: Any) -> bool:
    is_list = isinstance(text, list | tuple)
    return is_list and all(isinstance(part, Passage) for part in text)


def _only(**given: Any) -> Any:
    """The one value that is not None, or None."""
    present = {name: value for name, value in given.items() if value is not None}
    if len(present) > 1:
        raise ValueError(
            f"{', '.join(given)} are names for one argument. "
            f"Received: {' and '.join(present)}"
        )
    return next(iter(present.values()), None)


def _configs(own: Any, options: Mapping[str, Any]) -> StageConfigs:
    others = ("generation_config", "compat", "jit_compile")
    fields = {name: value for name, value in options.items() if name not in others}
    config, fields = call_config(options.get("generation_config"), own, fields)
    configs = stage_configs(config, fields, options.get("compat") or config.compat)
    if configs.semantic.num_return_sequences != 1:
        raise ValueError(
            "num_return_sequences must be 1 for long text. "
            f"Received: {configs.semantic.num_return_sequences}"
        )
    return configs


def _draws(configs: StageConfigs) -> bool:
    """Whether another seed gives other tokens."""
    return any(
        stage.do_sample and stage.temperature > 0
        for stage in (configs.semantic, configs.coarse)
    )


def _check(max_attempts, gap_s, paragraph_gap_s, continue_from) -> None:
    if isinstance(max_attempts, bool) or not (
        isinstance(max_attempts, int) and max_attempts > 0
    ):
        raise ValueError(
            "max_attempts must be a whole number of at least 1. "
            f"Received: max_attempts={max_attempts!r}"
        )
    for name, value in (("gap_s", gap_s), ("paragraph_gap_s", paragraph_gap_s)):
        if not 0 <= value <= MAX_PAUSE_S:
            raise ValueError(
                f"{name} must be in [0, {MAX_PAUSE_S:g}]. Received: {name}={value!r}"
            )
    if continue_from is not None and continue_from not in CONTINUE_FROM:
        raise ValueError(
            f"continue_from must be None or one of {CONTINUE_FROM}. "
            f"Received: continue_from={continue_from!r}"
        )


def _is_same(voice: Any, other: Any) -> bool:
    return voice is other or (isinstance(voice, str) and voice == other)


def _load(processor: Any, voice: Any, text: str, max_length: int) -> VoicePreset | None:
    """Loads a voice in any form that the processor accepts."""
    if voice is None:
        return None
    if isinstance(voice, list | tuple):
        raise ValueError(f"voice must be one voice. Received: {len(voice)} of them")
    # The processor loads voices; the text does not matter.
    options = {"return_tensors": "np", "max_length": max_length}
    return processor(text, voice_preset=voice, **options)["history_prompt"]


# === Public ===


def stream_long(
    model: Any,
    processor: Any,
    text: str | Sequence[Passage],
    **options: Unpack[LongFormKeywords],
) -> Iterator[tuple[np.ndarray, ChunkReport]]:
    """Speaks a text of any length, yielding each chunk as soon as it is ready.

    Args:
        model: `BarkModel`.
        processor: `BarkProcessor`.
        text: Text to speak; see `generate_long`.
        **options: Keywords of `generate_long`.

    Returns:
        An iterator of (audio, report): float32 (samples,), with the pause after it,
        and `ChunkReport`. Concatenated, the audio equals `generate_long`'s with the
        same seed.

    Raises:
        ValueError: For invalid arguments, before any work is done.
    """
    return _with_warnings(LongForm(model, processor, text, **options))


def generate_long(
    model: Any,
    processor: Any,
    text: str | Sequence[Passage],
    **options: Unpack[LongFormKeywords],
) -> LongFormOutput:
    """Speaks a text of any length.

    The text is split at sentences into chunks of about 10 s. A chunk that is empty,
    silent, stuck in a loop, without an end, or too short or too long for its text is
    retried with another seed. If all takes fail, the best is used, with a warning; if
    all are NaN or infinite, there is an error. Pieces without a letter, digit or note
    ("* * *") are skipped.

    Continuing from the last chunk alone flows best, but the voice may drift as small
    changes add up. Continuing from the given voice alone prevents drift, but the
    intonation starts afresh with every chunk. `"both"` puts the end of the last chunk
    after the given voice. Chunks with a problem are never continued from; a short
    chunk is preceded by what came before it.

    Args:
        model: `BarkModel`.
        processor: `BarkProcessor`.
        text: Text to speak. A blank line ends a paragraph. Or the passages of a text
            with marks, from `bark_tf.text.marks.read_marks`.
        voice: Speaker, in any form that the processor accepts.
        voice_preset: Another name for `voice`; give only one.
        history_prompt: Another name for `voice`; give only one.
        voices: The voices of the passages by name. Each continues from itself.
        seed: Seed of all random choices; None: a new one each time. A text of one
            chunk sounds as from `generate` with this seed.
        max_attempts: Takes per chunk, at least 1; greedy decoding makes one.
        gap_s: Seconds of silence between chunks, at most 60.
        paragraph_gap_s: Seconds of silence between paragraphs, at most 60.
        continue_from: `"last"`: the last chunk; `"voice"`: the given voice, or else
            the first chunk; or `"both"`. None: "both" with a voice, else "last".
        progress: Called with (stage, done, total) for the stages of each take and for
            "chunks".
        on_chunk: Called with each `ChunkReport`.
        **options: Keywords: those above, and those of `model.generate`. A low
            `semantic_max_new_tokens` shortens the chunks.

    Returns:
        `LongFormOutput`.

    Raises:
        ValueError: For invalid arguments, or text with nothing to say, before any
            work is done.

    Example:
        >>> out = generate_long(model, processor, chapter, seed=7)  # doctest: +SKIP
        >>> [chunk.problem for chunk in out.chunks]  # doctest: +SKIP
        [None, None, None]
    """
    return LongForm(model, processor, text, **options).output()
