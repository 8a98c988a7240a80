"""Measures of speech and of what recognisers understand, in NumPy alone.

Axes: T frames, F frequencies, M mel bands.
"""

from __future__ import annotations

import functools
import math
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from bark_tf.audio.mel import mel_matrix

CONFIDENCE = 0.95
RESAMPLES = 1_000

_MEL_WINDOW_S, _MEL_HOP_S = 0.046, 0.0116
_NUM_MELS = 80
# Magnitudes below this (a sine of amplitude 1 reads 1) are silence: -80 dB.
_FLOOR = 1e-4
# Windows of the distance on several resolutions; each moves on by a quarter.
STFT_WINDOWS = (512, 1024, 2048)
_OVERLAP = 4
_TINY = 1e-12
# exp of more than this overflows.
_MOST_NATS = 700.0


# === What was understood ===


class Edits(NamedTuple):
    """How a hypothesis differs from its reference, by the fewest changes.

    Attributes:
        hits: Words that are the same.
        substitutions: Words in the place of others.
        deletions: Words that are missing.
        insertions: Words too many.
    """

    hits: int
    substitutions: int
    deletions: int
    insertions: int

    @property
    def errors(self) -> int:
        """All changes."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def length(self) -> int:
        """Words of the reference."""
        return self.hits + self.substitutions + self.deletions

    @property
    def rate(self) -> float:
        """Errors per word of the reference; above 1 if there are many insertions."""
        if not self.length:
            raise ValueError("The error rate of an empty reference is not defined")
        return self.errors / self.length

    def plus(self, other: Edits) -> Edits:
        """The edits of both together."""
        return Edits(*(a + b for a, b in zip(self, other, strict=True)))


def normalised(text: str) -> str:
    """A text as its words are compared: lower case, no punctuation, single spaces.

    Apostrophes inside words stay, hyphens separate. Digits stay digits.

    Example:
        >>> normalised("Don’t stop — it's well-known, No. 7!")
        "don't stop it's well known no 7"
    """
    text = unicodedata.normalize("NFKC", text).replace("’", "'").casefold()
    kept = []
    for index, character in enumerate(text):
        inside = 0 < index < len(text) - 1
        if character == "'" and inside:
            is_inside_word = text[index - 1].isalnum() and text[index + 1].isalnum()
            kept.append("'" if is_inside_word else " ")
        else:
            # Letters, marks and numbers.
            is_kept = unicodedata.category(character)[0] in "LMN"
            kept.append(character if is_kept else " ")
    return " ".join("".join(kept).split())


def edits(reference: Sequence, hypothesis: Sequence) -> Edits:
    """The fewest changes that turn a reference into a hypothesis.

    Args:
        reference: Words, or anything else that can be compared.
        hypothesis: The same.

    Returns:
        `Edits`; of several ways the one with the most substitutions.

    Example:
        >>> edits("a b c d".split(), "a x c".split())
        Edits(hits=2, substitutions=1, deletions=1, insertions=0)
    """
    # Per prefix of the hypothesis: (errors, deletions, insertions, substitutions).
    row = [(count, 0, count, 0) for count in range(len(hypothesis) + 1)]
    for wanted in reference:
        diagonal = row[0]
        row[0] = _changed(diagonal, 1)
        for place, got in enumerate(hypothesis, start=1):
            above = row[place]
            best = diagonal if wanted == got else _changed(diagonal, 3)
            row[place] = min(best, _changed(above, 1), _changed(row[place - 1], 2))
            diagonal = above
    _, deletions, insertions, substitutions = row[-1]
    hits = len(reference) - substitutions - deletions
    return Edits(hits, substitutions, deletions, insertions)


def _changed(counts: tuple[int, ...], kind: int) -> tuple[int, ...]:
    """One error more, of the kind at that place."""
    changed = list(counts)
    changed[0] += 1
    changed[kind] += 1
    return tuple(changed)


def edit_distance(reference: Sequence, hypothesis: Sequence) -> int:
    """The fewest changes that turn a reference into a hypothesis, for long sequences.

    `edits` tells their kinds too, a hundred times as slow.

    Args:
        reference: Integers.
        hypothesis: The same.

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
        # Insertions: one more than anywhere before, per place.
        row = np.minimum.accumulate(row - places) + places
    return int(row[-1])


def word_edits(
    reference: str, hypothesis: str, normalise: Callable[[str], str] = normalised
) -> Edits:
    """`edits` of the words of two texts."""
    return edits(normalise(reference).split(), normalise(hypothesis).split())


def word_error_rate(
    reference: str, hypothesis: str, normalise: Callable[[str], str] = normalised
) -> float:
    """Errors per word of the reference.

    Args:
        reference: What was to be said.
        hypothesis: What was understood.
        normalise: Applied to both first. Whether "7" is "seven" is decided here.

    Returns:
        0 or more; above 1 if there are many insertions.

    Raises:
        ValueError: If the reference has no words.

    Example:
        >>> word_error_rate("One, two, three.", "one too three")
        0.3333333333333333
    """
    return word_edits(reference, hypothesis, normalise).rate


def character_edits(
    reference: str, hypothesis: str, normalise: Callable[[str], str] = normalised
) -> Edits:
    """`edits` of the characters of two texts, single spaces included."""
    return edits(normalise(reference), normalise(hypothesis))


def character_error_rate(
    reference: str, hypothesis: str, normalise: Callable[[str], str] = normalised
) -> float:
    """Errors per character of the reference; as `word_error_rate`."""
    return character_edits(reference, hypothesis, normalise).rate


class ErrorRate(NamedTuple):
    """The error rate of many texts.

    Attributes:
        rate: All errors per word of all references.
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
        several: Of each text.
        confidence: Of the interval, in (0, 1).
        resamples: Draws of the bootstrap.
        seed: Decides them.

    Returns:
        `ErrorRate`.

    Raises:
        ValueError: If the references have no words, or `confidence` is out of range.

    Source: Bisani and Ney, "Bootstrap estimates for confidence intervals in ASR
    performance evaluation", 2004.
    """
    if not 0 < confidence < 1:
        raise ValueError(
            f"confidence must be in (0, 1). Received: confidence={confidence!r}"
        )
    several = list(several)
    total = functools.reduce(Edits.plus, several, Edits(0, 0, 0, 0))
    errors = np.array([one.errors for one in several], np.int64)
    lengths = np.array([one.length for one in several], np.int64)
    rate = total.rate
    rng = np.random.default_rng(seed)
    rates = []
    for _ in range(resamples):
        drawn = rng.integers(len(several), size=len(several))
        if lengths[drawn].any():
            rates.append(errors[drawn].sum() / lengths[drawn].sum())
    tail = (1 - confidence) / 2
    low, high = np.quantile(rates or [rate], [tail, 1 - tail])
    return ErrorRate(rate, float(low), float(high), total)


def corpus_word_error_rate(
    references: Sequence[str],
    hypotheses: Sequence[str],
    *,
    normalise: Callable[[str], str] = normalised,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> ErrorRate:
    """The word error rate of many texts, with its confidence interval.

    Args:
        references: What was to be said.
        hypotheses: What was understood, as many.
        normalise: As in `word_error_rate`.
        confidence: As in `error_rate`.
        resamples: As in `error_rate`.
        seed: As in `error_rate`.

    Returns:
        `ErrorRate`.

    Raises:
        ValueError: If the numbers of texts differ, or the references have no words.
    """
    if len(references) != len(hypotheses):
        raise ValueError(
            "There must be as many hypotheses as references. "
            f"Received: {len(references)} references, {len(hypotheses)} hypotheses"
        )
    several = [
        word_edits(reference, hypothesis, normalise)
        for reference, hypothesis in zip(references, hypotheses, strict=True)
    ]
    return error_rate(several, confidence=confidence, resamples=resamples, seed=seed)


# === Audio against audio ===


def mel_distance(audio: Any, estimate: Any, sample_rate: int) -> float:
    """Mean distance of two log-mel spectrograms.

    Args:
        audio: Float (samples,).
        estimate: The same; what one has more is left out.
        sample_rate: Samples per second.

    Returns:
        Decibels; 0 for equal audio.

    Raises:
        ValueError: If one is empty, not finite or not of shape (samples,).
    """
    audio, estimate = _pair(audio, estimate)
    window = 2 * round(_MEL_WINDOW_S * sample_rate / 2)
    hop = round(_MEL_HOP_S * sample_rate)
    bands = mel_matrix(window, _NUM_MELS, sample_rate)  # (F, M)
    first, second = (
        20 * np.log10(np.maximum(magnitudes(one, window, hop) @ bands, _FLOOR))
        for one in (audio, estimate)
    )
    return float(np.mean(np.abs(first - second)))


def stft_distance(
    audio: Any, estimate: Any, windows: Sequence[int] = STFT_WINDOWS
) -> float:
    """Spectral convergence plus log-magnitude distance, on several resolutions.

    Args:
        audio: Float (samples,).
        estimate: The same; what one has more is left out.
        windows: Samples per window of each resolution.

    Returns:
        0 or more; nepers and shares, as the loss of the same name has them.

    Raises:
        ValueError: As in `mel_distance`.

    Source: Yamamoto et al., "Parallel WaveGAN", section 2.2, 2020.
    """
    audio, estimate = _pair(audio, estimate)
    distances = []
    for window in windows:
        first, second = (
            np.maximum(magnitudes(one, window, window // _OVERLAP), _FLOOR)
            for one in (audio, estimate)
        )
        convergence = np.linalg.norm(first - second) / np.linalg.norm(first)
        distances.append(convergence + np.mean(np.abs(np.log(first / second))))
    return float(np.mean(distances))


def si_sdr(audio: Any, estimate: Any) -> float:
    """Scale-invariant signal-to-distortion ratio.

    Args:
        audio: Float (samples,).
        estimate: The same; what one has more is left out.

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
    # What rounding leaves of a copy is no distortion.
    if distortion <= _TINY * signal:
        return math.inf
    return 10 * math.log10(signal / distortion)


def magnitudes(audio: np.ndarray, window: int, hop: int) -> np.ndarray:
    """Magnitudes of a Hann-windowed spectrogram; a sine of amplitude 1 reads 1.

    Args:
        audio: Float (samples,); silence follows where the last windows go on.
        window: Samples per window.
        hop: Samples between two windows.

    Returns:
        float64 (T, F = window // 2 + 1).
    """
    count = 1 + max(0, -(-(len(audio) - window) // hop))
    padded = np.pad(audio, (0, (count - 1) * hop + window - len(audio)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]
    hann = np.hanning(window + 1)[:-1]
    return np.abs(np.fft.rfft(frames * hann)) * (4 / window)


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
    """The number of equally likely tokens that a cross-entropy in nats stands for."""
    return math.exp(loss) if loss < _MOST_NATS else math.inf


def cosine_similarity(a: Any, b: Any) -> float:
    """Cosine of the angle between two vectors, in [-1, 1]; 0 if one has no length.

    Args:
        a: Float (size,).
        b: The same.

    Raises:
        ValueError: If the shapes differ.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(
            "Both must be vectors of one size. "
            f"Received: shapes {a.shape} and {b.shape}"
        )
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.clip(a @ b / lengths, -1, 1)) if lengths else 0.0
