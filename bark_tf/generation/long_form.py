"""Speech of any length: one chunk of text after the other, each checked.

Source: suno-ai/bark, `notebooks/long_form_generation.ipynb` (sentence by sentence, a
quarter of a second between them, one voice for all).
Differs: a chunk goes on from the last one; chunks are checked and tried again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import secrets
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from bark_tf.config import BarkSemanticGenerationConfig
from bark_tf.generation.options import StageConfigs, stage_configs
from bark_tf.generation.random import SEED_BITS, checked_seed
from bark_tf.text.sentences import (
    MAX_S,
    MIN_S,
    TARGET_S,
    TOKEN_MARGIN,
    estimate_seconds,
    group_sentences,
    has_speech,
    split_paragraphs,
    split_sentences,
)
from bark_tf.tokens import SEMANTIC_RATE_HZ
from bark_tf.voices.presets import FRAMES_PER_TOKEN, VoicePreset

Progress = Callable[[str, int, int], None]

# === Numbers ===

GAP_S = 0.25  # Suno's, between sentences
PARAGRAPH_GAP_S = 0.6
FADE_S = 0.005
MAX_ATTEMPTS = 3

# What a chunk may go on from: as much as the stage with the longest memory reads, the
# fine stage with its 512 frames. (Semantic: 256 tokens; coarse: 209 of them.)
HISTORY_TOKENS = math.ceil(512 / FRAMES_PER_TOKEN)  # 341, or 6.8 s
# Of these, what the last chunk gets beside a voice to hold: half of what the semantic
# stage reads.
LAST_TOKENS = 256 // 2
CONTINUE_FROM = ("both", "last", "voice")

# The limit of semantic tokens that the lengths of chunks in `text` are made for.
_FULL_S = 768 / SEMANTIC_RATE_HZ

# === What is checked ===

# The reasons to try a chunk again, from the least to the most harmful.
PROBLEMS = (
    "too long",
    "too short",
    "no end",
    "stuck",
    "silent",
    "not finite",
    "empty",
)
# After these the voice itself may be sound.
_LENGTH_PROBLEMS = PROBLEMS[:3]

# Seconds that a chunk may take, as multiples of the estimate: speakers and languages
# differ by two, and the estimate is rough. Breaths, pauses and cues come on top.
_SHORTEST, _LONGEST = 0.4, 2.5
_SHORTEST_LEEWAY_S, _LONGEST_LEEWAY_S = 0.2, 3.0
# Nothing in speech repeats itself exactly for so long; silence of that length inside
# a chunk is as bad.
_STUCK_S = 3.0
_LONGEST_CYCLE_S = 1.5
_ONE_VALUE_SHARE = 0.8
_SILENCE_PEAK = 1e-3  # -60 dB


def chunk_seconds(config: BarkSemanticGenerationConfig) -> tuple[float, float]:
    """How long chunks should be, and may be: with a lower limit of tokens shorter ones.

    Args:
        config: Of the semantic stage.

    Returns:
        Seconds that are aimed at, and seconds of the longest text that is said in one
        go: 10 and 13 for Bark itself.
    """
    share = min(1.0, config.max_new_tokens / config.semantic_rate_hz / _FULL_S)
    return max(MIN_S, TARGET_S * share), max(MIN_S, MAX_S * share)


class ChunkReport(NamedTuple):
    """How a chunk was made.

    Attributes:
        text: What was to be said.
        attempts: Takes that were made, at least 1.
        seed: The seed of the take that is used.
        seconds: Its duration, without the pause after it.
        problem: One of `PROBLEMS` that the take still has, or None.
        start_sample: Where it starts in the whole audio.
    """

    text: str
    attempts: int
    seed: int
    seconds: float
    problem: str | None
    start_sample: int


class LongFormOutput(NamedTuple):
    """What `generate_long` returns.

    Attributes:
        audio: float32 (samples,), about [-1, 1].
        chunks: A `ChunkReport` per chunk.
        voice: `VoicePreset` to go on from; None if nothing was said.
        sample_rate: Samples per second.
        seed: What was given, or drawn in its place.
    """

    audio: np.ndarray
    chunks: tuple[ChunkReport, ...]
    voice: VoicePreset | None
    sample_rate: int
    seed: int


class _Take(NamedTuple):
    """One attempt at a chunk."""

    audio: np.ndarray  # float32 (samples,)
    voice: VoicePreset | None
    seed: int
    problem: str | None
    surprise: float  # how far its duration is from the estimate, a log ratio

    @property
    def harm(self) -> tuple[int, float]:
        """The less, the better."""
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
    audio: np.ndarray,
    semantic: np.ndarray,
    coarse: np.ndarray,
    rates: _Rates,
) -> str | None:
    """The worst problem of a take.

    Args:
        text: What was to be said.
        audio: float32 (samples,).
        semantic: int (time,), with its end if there is one.
        coarse: int (codebooks, frames).
        rates: `_Rates`.

    Returns:
        One of `PROBLEMS`, or None.
    """
    if not audio.size:
        return "empty"
    if not np.isfinite(audio).all():
        return "not finite"
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
    """Whether a sequence (time,) repeats a cycle, or hardly changes, for seconds."""
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
    """The most claims in a row that are true: bool (time,)."""
    breaks = np.flatnonzero(~claims)
    return int(np.diff(breaks, prepend=-1, append=claims.size).max()) - 1


# === What a chunk goes on from ===


def _tail(voice: VoicePreset, num_tokens: int) -> VoicePreset:
    """The end of a voice, about `num_tokens` semantic tokens long."""
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
    """`last`, with as much of the end of `before` as a history still has room for."""
    room = HISTORY_TOKENS - last.semantic_prompt.size
    if before is None or room <= 0:
        return last
    before = _tail(before, room)
    return VoicePreset(
        *(np.concatenate([before[key], last[key]], axis=-1) for key in last)
    )


class _History:
    """Holds the voice from chunk to chunk; see `generate_long`.

    Attributes:
        prompt: What the next chunk goes on from, or None.
    """

    def __init__(self, voice: VoicePreset | None, continue_from: str | None):
        self.prompt = self._anchor = voice
        self._mode = continue_from or ("last" if voice is None else "both")

    def add(self, take: _Take) -> None:
        """Goes on from a take, unless that would spread what is wrong with it."""
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


class _Chunk(NamedTuple):
    text: str
    pause_s: float


@dataclasses.dataclass
class _LongForm:
    """A long text on its way to audio."""

    model: Any
    processor: Any
    chunks: list[_Chunk]
    history: _History
    seed: int
    max_attempts: int
    rates: _Rates
    max_length: int  # columns of `input_ids`
    options: dict[str, Any]
    progress: Progress | None
    on_chunk: Callable[[ChunkReport], None] | None

    def stream(self) -> Iterator[tuple[np.ndarray, ChunkReport]]:
        """See `stream_long`."""
        start = 0
        for index, chunk in enumerate(self.chunks):
            self._report(index)
            take, attempts = self._best_take(index)
            self.history.add(take)
            report = ChunkReport(
                text=chunk.text,
                attempts=attempts,
                seed=take.seed,
                seconds=take.audio.size / self.rates.sample_rate,
                problem=take.problem,
                start_sample=start,
            )
            if take.problem is not None:
                self._warn(index, report)
            audio = _framed(take.audio, chunk.pause_s, self.rates.sample_rate)
            start += audio.size
            if self.on_chunk is not None:
                self.on_chunk(report)
            yield audio, report
        self._report(len(self.chunks))

    def _best_take(self, index: int) -> tuple[_Take, int]:
        """The first take without a problem, else the best; and how many there were."""
        text = self.chunks[index].text
        inputs = self.processor(text, return_tensors="np", max_length=self.max_length)
        best = None
        for attempt in range(self.max_attempts):
            take = self._take(text, inputs, _seed_of(self.seed, index, attempt))
            if best is None or take.harm < best.harm:
                best = take
            if take.problem is None:
                break
        return best, attempt + 1

    def _take(self, text: str, inputs: Mapping[str, Any], seed: int) -> _Take:
        with warnings.catch_warnings():
            # A take without audio is reported as "empty" and tried again.
            warnings.filterwarnings("ignore", "The text-to-semantic stage ended rows")
            out = self.model.generate(
                **inputs,
                history_prompt=self.history.prompt,
                seed=seed,
                return_dict=True,
                progress=self.progress,
                **self.options,
            )
        audio = np.asarray(out.audio, np.float32)[0, : out.lengths[0]]
        semantic, coarse = np.asarray(out.semantic)[0], np.asarray(out.coarse)[0]
        seconds = audio.size / self.rates.sample_rate
        return _Take(
            audio=audio,
            voice=out.voice,
            seed=seed,
            problem=_find_problem(text, audio, semantic, coarse, self.rates),
            surprise=abs(math.log((seconds + 1) / (estimate_seconds(text) + 1))),
        )

    def _report(self, done: int) -> None:
        if self.progress is not None:
            self.progress("chunks", done, len(self.chunks))

    def _warn(self, index: int, report: ChunkReport) -> None:
        warnings.warn(
            f"Chunk {index + 1} of {len(self.chunks)} is {report.problem!r} after "
            f"{report.attempts} attempts, of which the best is used: "
            f"{report.seconds:.1f} s, about {estimate_seconds(report.text):.1f} s "
            f"expected, for {report.text!r}",
            UserWarning,
            stacklevel=3,
        )


def _seed_of(seed: int, index: int, attempt: int) -> int:
    """A chunk's seed; the first is `seed`, so that short text is `generate`'s."""
    if index == attempt == 0:
        return seed
    words = f"{seed} {index} {attempt}".encode()
    digest = hashlib.blake2b(words, digest_size=SEED_BITS // 8).digest()
    return int.from_bytes(digest, "big")


def _framed(audio: np.ndarray, pause_s: float, sample_rate: int) -> np.ndarray:
    """Fades both ends, so that joints do not click, and adds the pause.

    Values that are not finite become 0.
    """
    pause = np.zeros(round(pause_s * sample_rate), np.float32)
    audio = np.where(np.isfinite(audio), audio, np.float32(0))
    length = min(round(FADE_S * sample_rate), audio.size // 2)
    if length:
        ramp = np.arange(length, dtype=np.float32) / np.float32(length)
        audio[:length] *= ramp
        audio[-length:] *= ramp[::-1]
    return np.concatenate([audio, pause])


# === Preparing ===


def _chunks(
    text: str, count_tokens: Callable[[str], int], gaps: tuple[float, float], **limits
) -> list[_Chunk]:
    """Cuts a text into what is said in one go, with the pauses between."""
    gap_s, paragraph_gap_s = gaps
    chunks: list[_Chunk] = []
    for paragraph in split_paragraphs(text):
        groups = group_sentences(split_sentences(paragraph), count_tokens, **limits)
        spoken = [g for g in groups if has_speech(g) and count_tokens(g)]
        if spoken:
            chunks += [_Chunk(group, gap_s) for group in spoken[:-1]]
            chunks.append(_Chunk(spoken[-1], paragraph_gap_s))
    if not chunks:
        raise ValueError(
            f"text must hold something to say. Received: text={text[:80]!r}"
        )
    chunks[-1] = chunks[-1]._replace(pause_s=0.0)
    return chunks


def _prepare(
    model: Any,
    processor: Any,
    text: str,
    *,
    voice: Any = None,
    voice_preset: Any = None,
    seed: int | None = None,
    max_attempts: int = MAX_ATTEMPTS,
    gap_s: float = GAP_S,
    paragraph_gap_s: float = PARAGRAPH_GAP_S,
    continue_from: str | None = None,
    progress: Progress | None = None,
    on_chunk: Callable[[ChunkReport], None] | None = None,
    **options: Any,
) -> _LongForm:
    """Checks everything, does nothing yet."""
    config = options.get("generation_config") or model.generation_config
    configs = _configs(config, options)
    _check(max_attempts, gap_s, paragraph_gap_s, continue_from)
    if voice is not None and voice_preset is not None:
        raise ValueError("voice is another name of voice_preset. Received: both")
    voice = voice_preset if voice is None else voice
    max_length = configs.semantic.max_input_semantic_length
    rates = _Rates.of(configs, config.sample_rate)
    target_s, max_s = chunk_seconds(configs.semantic)
    chunks = _chunks(
        text,
        lambda piece: len(processor.tokenizer.encode(piece)),
        (gap_s, paragraph_gap_s),
        max_tokens=max(1, max_length - TOKEN_MARGIN),
        target_s=target_s,
        max_s=max_s,
    )
    return _LongForm(
        model=model,
        processor=processor,
        chunks=chunks,
        history=_History(
            _load(processor, voice, chunks[0].text, max_length), continue_from
        ),
        # Short enough to write down.
        seed=secrets.randbits(32) if seed is None else checked_seed(seed),
        max_attempts=max_attempts if _draws(configs) else 1,
        rates=rates,
        max_length=max_length,
        options=options,
        progress=progress,
        on_chunk=on_chunk,
    )


def _configs(config: Any, options: Mapping[str, Any]) -> StageConfigs:
    own = ("generation_config", "compat", "jit_compile")
    fields = {name: value for name, value in options.items() if name not in own}
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
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} must be at least 0. Received: {name}={value!r}")
    if continue_from is not None and continue_from not in CONTINUE_FROM:
        raise ValueError(
            f"continue_from must be None or one of {CONTINUE_FROM}. "
            f"Received: continue_from={continue_from!r}"
        )


def _load(processor: Any, voice: Any, text: str, max_length: int) -> VoicePreset | None:
    """Finds a voice in any form that the processor takes one in."""
    if voice is None:
        return None
    if isinstance(voice, list | tuple):
        raise ValueError(f"voice must be one voice. Received: {len(voice)} of them")
    # The processor finds voices; the text beside it does not matter.
    inputs = processor(
        text, voice_preset=voice, return_tensors="np", max_length=max_length
    )
    return inputs["history_prompt"]


# === Public ===


def stream_long(
    model: Any, processor: Any, text: str, **options: Any
) -> Iterator[tuple[np.ndarray, ChunkReport]]:
    """Speaks a text of any length and gives each chunk as soon as it is made.

    Args:
        model: `BarkModel`.
        processor: `BarkProcessor`.
        text: What to say.
        **options: The keywords of `generate_long`.

    Returns:
        An iterator of pairs: audio, float32 (samples,), with the pause after it; and
        its `ChunkReport`. The audio of all, put together, is that of `generate_long`
        with the same seed.

    Raises:
        ValueError: For arguments that cannot work, before any work is done.
    """
    return _prepare(model, processor, text, **options).stream()


def generate_long(
    model: Any,
    processor: Any,
    text: str,
    *,
    voice: Any = None,
    voice_preset: Any = None,
    seed: int | None = None,
    max_attempts: int = MAX_ATTEMPTS,
    gap_s: float = GAP_S,
    paragraph_gap_s: float = PARAGRAPH_GAP_S,
    continue_from: str | None = None,
    progress: Progress | None = None,
    on_chunk: Callable[[ChunkReport], None] | None = None,
    **options: Any,
) -> LongFormOutput:
    """Speaks a text of any length.

    The text is cut at sentences into chunks of about 10 s. A chunk that is empty, not
    finite, silent, stuck in a loop, without an end, or too short or too long for its
    text is tried again with another seed; of failures only, the best is used, with a
    warning. Pieces without a letter, digit or note ("* * *") are left out.

    What a chunk goes on from decides how the voice holds. From the last chunk alone,
    speech flows best, but small changes add up and the voice may drift away. From the
    given voice alone, it cannot drift, but every chunk starts its melody anew. With
    both, the end of the last chunk comes after the given voice. A chunk with a problem
    is not gone on from, and a short one is preceded by what came before it.

    Args:
        model: `BarkModel`.
        processor: `BarkProcessor`.
        text: What to say. A blank line ends a paragraph.
        voice: The voice to speak in, in any form that the processor takes one in.
        voice_preset: The same as `voice`; give one of the two.
        seed: Decides every random choice; None: another take each time. A text of one
            chunk sounds as from `generate` with this seed.
        max_attempts: Takes per chunk, at least 1. One is made if nothing is drawn.
        gap_s: Seconds of silence between chunks.
        paragraph_gap_s: Seconds of silence between paragraphs.
        continue_from: `"last"`, the last chunk; `"voice"`, the given voice or else the
            first chunk; `"both"`. None is "both" with a voice, which the user asked to
            hear to the end, and "last" without.
        progress: Called with (stage, done, total): the stages of `generate` for each
            take, and "chunks".
        on_chunk: Called with each `ChunkReport`.
        **options: Keywords of `model.generate`. With a low `semantic_max_new_tokens`
            the chunks are shorter.

    Returns:
        `LongFormOutput`.

    Raises:
        ValueError: For arguments that cannot work, or text with nothing to say, before
            any work is done.

    Example:
        >>> out = generate_long(model, processor, chapter, seed=7)  # doctest: +SKIP
        >>> [chunk.problem for chunk in out.chunks]  # doctest: +SKIP
        [None, None, None]
    """
    run = _prepare(
        model,
        processor,
        text,
        voice=voice,
        voice_preset=voice_preset,
        seed=seed,
        max_attempts=max_attempts,
        gap_s=gap_s,
        paragraph_gap_s=paragraph_gap_s,
        continue_from=continue_from,
        progress=progress,
        on_chunk=on_chunk,
        **options,
    )
    audio, chunks = zip(*run.stream(), strict=True)
    return LongFormOutput(
        audio=np.concatenate(audio),
        chunks=chunks,
        voice=run.history.prompt,
        sample_rate=run.rates.sample_rate,
        seed=run.seed,
    )
