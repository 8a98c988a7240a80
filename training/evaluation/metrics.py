"""Measures of recognised words and of audio.

Axes: T frames, F frequencies, M mel bands.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from bark_tf.audio.mel import LEAST_MAGNITUDE, magnitudes, mel_decibels
from bark_tf.optional import required

CONFIDENCE = 0.95
RESAMPLES = 1_000
# An apostrophe that is not between two letters or digits.
_OUTER_APOSTROPHE = re.compile(r"(?<![^\W_])'|'(?![^\W_])")

# Windows of `stft_distance`; the hop is a quarter of each.
_STFT_WINDOWS = (512, 1024, 2048)
_OVERLAP = 4
_TINY = 1e-12
# exp of more than this overflows.
_MOST_NATS = 700.0


# === Words ===


class Edits(NamedTuple):
    """How a hypothesis differs from its reference, by the fewest changes.

    Attributes:
        hits: Words that are the same.
        substitutions: Words replaced by others.
        deletions: Words missing from the hypothesis.
        insertions: Words only in the hypothesis.
    """

    hits: int
    substitutions: int
    deletions: int
    insertions: int

    @property
    def errors(self) -> int:
        """All changes."""
        return self.substitutions + self.deletions + self.insertions


def normalised(text: str) -> str:
    """A text as its words are compared: lower case, no punctuation, single spaces.

    Apostrophes inside words stay, hyphens separate. Digits stay digits.

    Example:
        >>> normalised("Don’t stop — it's well-known, No. 7!")
        "don't stop it's well known no 7"
    """
    text = unicodedata.normalize("NFKC", text).replace("’", "'").casefold()
    text = _OUTER_APOSTROPHE.sub(" ", text)
    # Letters, marks, numbers and the apostrophes that are left.
    is_kept = lambda c: c == "'" or unicodedata.category(c)[0] in "LMN"  # noqa: E731
    return " ".join("".join(c if is_kept(c) else " " for c in text).split())


def word_edits(reference: str, hypothesis: str) -> Edits:
    """Counts the word errors of a text, after `normalised`.

    Raises:
        ImportError: If jiwer is not installed.

    Example:
        >>> word_edits("One, two, three.", "one too three")
        Edits(hits=2, substitutions=1, deletions=0, insertions=0)
    """
    jiwer = required("jiwer", "Counting word errors", "evaluate")
    found = jiwer.process_words(normalised(reference), normalised(hypothesis))
    return Edits(found.hits, found.substitutions, found.deletions, found.insertions)


class ErrorRate(NamedTuple):
    """The word error rate (WER) of many texts.

    Attributes:
        rate: All errors per word of all references; above 1 with many insertions.
        low: Lower end of the confidence interval.
        high: Upper end.
        edits: All edits together.
    """

    rate: float
    low: float
    high: float
    edits: Edits


def error_rate(
    several: Iterable[Edits],
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> ErrorRate:
    """Joins the edits of many texts; the interval is a bootstrap over texts.

    Args:
        several: The edits of each text.
        confidence: Of the interval, in (0, 1).
        resamples: Draws of the bootstrap.
        seed: Decides the draws.

    Returns:
        `ErrorRate`.

    Raises:
        ValueError: If the references have no words, or `confidence` is out of range.

    Source: Bisani and Ney, "Bootstrap estimates for confidence intervals in ASR
    performance evaluation", 2004.
    """
    counts = np.array(list(several), np.int64).reshape(-1, len(Edits._fields))
    errors, lengths = counts[:, 1:].sum(axis=1), counts[:, :3].sum(axis=1)
    rate, low, high = rate_interval(
        errors, lengths, confidence=confidence, resamples=resamples, seed=seed
    )
    return ErrorRate(rate, low, high, Edits(*counts.sum(axis=0).tolist()))


def rate_interval(
    errors: np.ndarray,
    lengths: np.ndarray,
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float, float]:
    """An error rate of many texts, and its interval by a bootstrap over texts.

    Args:
        errors: int (texts,), the errors in each text.
        lengths: int (texts,), what there was to get right in each.
        confidence: See `error_rate`.
        resamples: See `error_rate`.
        seed: See `error_rate`.

    Returns:
        All errors per all there was to get right, and the ends of the interval.

    Raises:
        ValueError: See `error_rate`.
    """
    if not 0 < confidence < 1:
        raise ValueError(
            f"confidence must be in (0, 1). Received: confidence={confidence!r}"
        )
    if not lengths.any():
        raise ValueError("The error rate of an empty reference is not defined")
    rate = float(errors.sum() / lengths.sum())
    rng = np.random.default_rng(seed)
    rates = []
    for _ in range(resamples):
        drawn = rng.integers(len(lengths), size=len(lengths))
        if lengths[drawn].any():
            rates.append(errors[drawn].sum() / lengths[drawn].sum())
    tail = (1 - confidence) / 2
    low, high = np.quantile(rates or [rate], [tail, 1 - tail])
    return rate, float(low), float(high)


def corpus_word_error_rate(
    references: Sequence[str], hypotheses: Sequence[str], *, seed: int = 0
) -> ErrorRate:
    """The WER of many texts, with its confidence interval.

    Args:
        references: The texts that were to be said.
        hypotheses: What was recognised, as many.
        seed: As in `error_rate`.

    Returns:
        `ErrorRate`.

    Raises:
        ValueError: If the numbers of texts differ, or the references have no words.
        ImportError: If jiwer is not installed.

    Example:
        >>> corpus_word_error_rate(["one two", "three"], ["one", "three"]).rate
        0.3333333333333333
    """
    if len(references) != len(hypotheses):
        raise ValueError(
            "There must be as many hypotheses as references. "
            f"Received: {len(references)} references, {len(hypotheses)} hypotheses"
        )
    several = map(word_edits, references, hypotheses)
    return error_rate(several, seed=seed)


# === Token sequences ===


def edit_distance(reference: Sequence[int], hypothesis: Sequence[int]) -> int:
    """The fewest changes that turn one sequence of tokens into another.

    Example:
        >>> edit_distance([1, 2, 3, 4], [1, 9, 3])
        2
    """
    hypothesis = np.asarray(hypothesis)
    places = np.arange(len(hypothesis) + 1)
    row = places  # per prefix of the hypothesis
    for count, wanted in enumerate(reference, start=1):
        changed = np.minimum(row[1:] + 1, row[:-1] + (hypothesis != wanted))
        row = np.concatenate([[count], changed])
        # Insertions: one more than the fewest at any earlier place, per place.
        row = np.minimum.accumulate(row - places) + places
    return int(row[-1])


# === Audio ===


def mel_distance(audio: Any, estimate: Any, sample_rate: int) -> float:
    """Mean distance of two log-mel spectrograms.

    Args:
        audio: Float (samples,).
        estimate: The same; the longer one is cut to the length of the other.
        sample_rate: Samples per second.

    Returns:
        Decibels; 0 for equal audio.

    Raises:
        ValueError: If either is empty, not finite or not of shape (samples,).
    """
    audio, estimate = _pair(audio, estimate)
    first, second = (mel_decibels(one, sample_rate) for one in (audio, estimate))
    return float(np.mean(np.abs(first - second)))


def stft_distance(audio: Any, estimate: Any) -> float:
    """Spectral convergence plus log-magnitude distance, at three resolutions.

    Args:
        audio: Float (samples,).
        estimate: The same; the longer one is cut to the length of the other.

    Returns:
        At least 0; the mean of three sums of a share and a distance in nepers.

    Raises:
        ValueError: As in `mel_distance`.

    Source: Yamamoto et al., "Parallel WaveGAN", section 2.2, 2020.
    """
    audio, estimate = _pair(audio, estimate)
    distances = []
    for window in _STFT_WINDOWS:
        first, second = (
            np.maximum(magnitudes(one, window, window // _OVERLAP), LEAST_MAGNITUDE)
            for one in (audio, estimate)
        )
        convergence = np.linalg.norm(first - second) / np.linalg.norm(first)
        distances.append(convergence + np.mean(np.abs(np.log(first / second))))
    return float(np.mean(distances))


def si_sdr(audio: Any, estimate: Any) -> float:
    """Scale-invariant signal-to-distortion ratio.

    Args:
        audio: Float (samples,).
        estimate: The same; the longer one is cut to the length of the other.

    Returns:
        Decibels; infinite for an exact copy at any volume.

    Raises:
        ValueError: As in `mel_distance`, or if `audio` is silent.

    Source: Le Roux et al., "SDR - half-baked or well done?", 2019.
    """
    audio, estimate = _pair(audio, estimate)
    power = float(audio @ audio)
    if not power:
        raise ValueError("The SI-SDR against silence is not defined")
    target = (float(estimate @ audio) / power) * audio
    error = estimate - target
    signal, distortion = float(target @ target), float(error @ error)
    if not signal:
        return -math.inf
    # Rounding errors of a copy are no distortion.
    if distortion <= _TINY * signal:
        return math.inf
    return 10 * math.log10(signal / distortion)


def _pair(audio: Any, estimate: Any) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64 of one length."""
    both = []
    for name, one in (("audio", audio), ("estimate", estimate)):
        one = np.asarray(one, np.float64)
        if one.ndim != 1 or not one.size or not np.all(np.isfinite(one)):
            raise ValueError(
                f"{name} must be finite numbers of shape (samples,), at least one. "
                f"Received: shape {one.shape}"
            )
        both.append(one)
    length = min(len(one) for one in both)
    return both[0][:length], both[1][:length]


# === Others ===


def perplexity(loss: float) -> float:
    """The exponential of a cross-entropy in nats."""
    return math.exp(loss) if loss < _MOST_NATS else math.inf


def cosine_similarity(a: Any, b: Any) -> float:
    """Cosine of the angle between two vectors, in [-1, 1]; 0 if either is zero.

    Args:
        a: Float (size,).
        b: The same.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.clip(a @ b / lengths, -1, 1)) if lengths else 0.0
