"""Semantic tokens by k-means: the nearest of a set of typical sounds.

Simple, quick to fit and good enough for one language and a few voices: the tokens carry
the words and little of the speaker.

Axes: T frames, D features, N clusters.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bark_tf.config.fields import Count, SampleRate, check_values
from bark_tf.semantic_tokens.features import NUM_CEPSTRA, cepstra, with_slopes
from bark_tf.semantic_tokens.tokenizer import (
    FILE_NAME,
    SemanticTokenizer,
    checked_audio,
    read_arrays,
    write_files,
)

# Weight of slopes against values, which carry more of the sound.
SLOPE_WEIGHT = 0.5
# The most frames that centres are fitted to, and the most rounds.
_MAX_FRAMES = 400_000
_ITERATIONS = 30
_SETTLED = 1e-4
_BLOCK = 8_192


class KMeansTokenizer(SemanticTokenizer):
    """Assigns each frame the nearest of N centres of normalised features.

    Make one with `fit` or `load_semantic_tokenizer`.

    Args:
        centres: float32 (N, D), in normalised features.
        mean: float32 (D,), subtracted from the features.
        scale: float32 (D,), by which they are then divided.
        sample_rate: Samples per second.
        rate_hz: Tokens per second.

    Example:
        >>> audio = np.random.default_rng(0).normal(0, 0.1, 16_000).astype("float32")
        >>> tokenizer = KMeansTokenizer.fit(
        ...     [audio], sample_rate=16_000, rate_hz=50.0, vocab_size=4
        ... )
        >>> tokenizer(audio).shape
        (50,)
    """

    kind = "kmeans"

    def __init__(
        self,
        centres: np.ndarray,
        mean: np.ndarray,
        scale: np.ndarray,
        *,
        sample_rate: int,
        rate_hz: float,
    ):
        self.centres, self.mean, self.scale = centres, mean, scale
        self.sample_rate, self.rate_hz = sample_rate, rate_hz
        self.vocab_size = len(centres)

    def __call__(self, audio):
        """Turns audio into tokens; see the base class."""
        features = _features(checked_audio(audio), self)
        return nearest((features - self.mean) / self.scale, self.centres)[0]

    @classmethod
    def fit(
        cls,
        audios: Iterable[np.ndarray],
        *,
        sample_rate: int,
        rate_hz: float,
        vocab_size: int,
        seed: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> KMeansTokenizer:
        """Fits the centres to recordings.

        At most 400,000 frames are used, a fair draw when there are more.

        Args:
            audios: Recordings, each float32 (samples,), at `sample_rate`.
            sample_rate: Samples per second.
            rate_hz: Tokens per second.
            vocab_size: Clusters N.
            seed: Decides which frames are used and where the centres start.
            progress: Called with (rounds done, rounds).

        Returns:
            The tokenizer.

        Raises:
            ValueError: If the recordings have fewer frames than clusters.
        """
        one = cls(
            np.zeros((vocab_size, 1)),
            np.zeros(1),
            np.ones(1),
            sample_rate=sample_rate,
            rate_hz=rate_hz,
        )
        rng = np.random.default_rng(seed)
        frames = drawn_frames(
            (_features(checked_audio(audio), one) for audio in audios), vocab_size, rng
        )
        one.mean, one.scale = frames.mean(axis=0), frames.std(axis=0) + 1e-6
        one.scale[NUM_CEPSTRA:] /= SLOPE_WEIGHT
        frames = (frames - one.mean) / one.scale
        one.centres = fit_centres(frames, vocab_size, rng, progress)
        return one

    def save(self, directory: str | os.PathLike) -> None:
        """Writes the tokenizer; see the base class."""
        settings = {
            "kind": self.kind,
            "sample_rate": self.sample_rate,
            "rate_hz": self.rate_hz,
            "vocab_size": self.vocab_size,
        }
        arrays = {"centres": self.centres, "mean": self.mean, "scale": self.scale}
        arrays = {name: np.asarray(a, np.float32) for name, a in arrays.items()}
        write_files(directory, settings, arrays)

    @classmethod
    def load(
        cls, directory: str | os.PathLike, settings: Mapping[str, Any]
    ) -> KMeansTokenizer:
        """Reads the tokenizer; see the base class."""
        kinds = {"sample_rate": SampleRate, "vocab_size": Count}
        check_values(settings, kinds, Path(directory) / FILE_NAME)
        width = 2 * NUM_CEPSTRA
        shapes = {"centres": (settings["vocab_size"], width)}
        arrays = read_arrays(directory, {**shapes, "mean": (width,), "scale": (width,)})
        return cls(
            **arrays,
            sample_rate=settings["sample_rate"],
            rate_hz=float(settings["rate_hz"]),
        )


def _features(audio: np.ndarray, tokenizer: SemanticTokenizer) -> np.ndarray:
    """Cepstra and slopes: float32 (T, D).

    Loudness is relative to the recording's, so that the distance to the microphone does
    not matter.
    """
    num_frames = tokenizer.num_tokens(len(audio))
    if not num_frames:
        return np.zeros((0, 2 * NUM_CEPSTRA), np.float32)
    rates = {"sample_rate": tokenizer.sample_rate, "rate_hz": tokenizer.rate_hz}
    frames = cepstra(audio, num_frames, **rates)
    frames[:, 0] -= np.percentile(frames[:, 0], 90)
    return with_slopes(frames).astype(np.float32)


def drawn_frames(
    parts: Iterable[np.ndarray], num_clusters: int, rng: np.random.Generator
) -> np.ndarray:
    """Draws at most 400,000 frames to fit centres to, all with the same probability.

    Args:
        parts: Frames of recordings, each float32 (T, D).
        num_clusters: Centres to be fitted.
        rng: Decides the draw.

    Returns:
        float32 (frames, D).

    Raises:
        ValueError: If there are fewer frames than clusters.
    """
    frames = _drawn(parts, _MAX_FRAMES, rng)
    if len(frames) < num_clusters:
        raise ValueError(
            f"There must be at least vocab_size={num_clusters} frames. "
            f"Received: {len(frames)}"
        )
    return frames


def _drawn(
    parts: Iterable[np.ndarray], most: int, rng: np.random.Generator
) -> np.ndarray:
    """Draws at most `most` rows of all parts, each with the same probability.

    Each row gets a random key and those with the smallest keys stay, so that the parts
    need not be in memory together.
    """
    rows, keys = [], []
    count = 0
    for part in parts:
        rows.append(part)
        keys.append(rng.random(len(part)))
        count += len(part)
        if count > 2 * most:
            rows, keys = _smallest(rows, keys, most)
            count = most
    if not rows:
        return np.zeros((0, 2 * NUM_CEPSTRA), np.float32)
    return _smallest(rows, keys, most)[0][0]


def _smallest(rows, keys, most):
    rows, keys = np.concatenate(rows), np.concatenate(keys)
    order = np.sort(np.argsort(keys)[:most])
    return [rows[order]], [keys[order]]


def nearest(rows: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finds the nearest centre of each row.

    Args:
        rows: float32 (T, D).
        centres: float32 (N, D).

    Returns:
        int32 (T,) centres and float32 (T,) squared distances.
    """
    norms = np.sum(centres**2, axis=1)
    numbers = np.empty(len(rows), np.int32)
    distances = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        scores = norms - 2 * (block @ centres.T)  # (T, N)
        best = scores.argmin(axis=1)
        numbers[start : start + _BLOCK] = best
        least = scores[np.arange(len(block)), best] + np.sum(block**2, axis=1)
        distances[start : start + _BLOCK] = np.maximum(least, 0)
    return numbers, distances


def fit_centres(
    frames: np.ndarray,
    num_clusters: int,
    rng: np.random.Generator,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Fits the centres; ends early when the mean distance no longer falls.

    Args:
        frames: float32 (T, D), at least `num_clusters`.
        num_clusters: N.
        rng: Decides where the centres start.
        progress: Called with (rounds done, rounds).

    Returns:
        float32 (N, D).

    Source: Lloyd, "Least squares quantization in PCM", 1982.
    """
    centres = _spread(frames, num_clusters, rng)
    before = np.inf
    for done in range(1, _ITERATIONS + 1):
        numbers, distances = nearest(frames, centres)
        centres = _means(frames, numbers, distances, centres)
        inertia = float(distances.mean())
        if progress is not None:
            progress(done, _ITERATIONS)
        if before - inertia <= _SETTLED * inertia:
            break
        before = inertia
    if progress is not None:
        progress(_ITERATIONS, _ITERATIONS)
    return centres


def _spread(frames, num_clusters, rng):
    """k-means++: draws each start with a probability that grows with its distance."""
    # A part of the frames is enough.
    some = frames[rng.permutation(len(frames))[: max(50 * num_clusters, 1_000)]]
    centres = np.empty((num_clusters, frames.shape[1]), np.float32)
    centres[0] = some[0]
    distances = np.sum((some - centres[0]) ** 2, axis=1)
    for number in range(1, num_clusters):
        ends = np.cumsum(distances, dtype=np.float64)
        place = np.searchsorted(ends, rng.random() * ends[-1])
        centres[number] = some[min(place, len(some) - 1)]
        new = np.sum((some - centres[number]) ** 2, axis=1)
        distances = np.minimum(distances, new)
    return centres


def _means(frames, numbers, distances, centres):
    """The mean of each cluster; an empty one moves to the frame farthest from any."""
    counts = np.bincount(numbers, minlength=len(centres))
    order = np.argsort(numbers, kind="stable")
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    full = counts > 0
    sums = np.add.reduceat(frames[order], starts[full], axis=0, dtype=np.float64)
    moved = centres.copy()
    moved[full] = sums / counts[full, None]
    empty = np.flatnonzero(~full)
    moved[empty] = frames[np.argsort(distances)[::-1][: len(empty)]]
    return moved.astype(np.float32)
