"""Examples for training a recogniser by CTC: inputs, and the characters they say.

Axes: B batch, F feature frames, T tokens, M mel bands, L characters.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bark_tf.audio.reading import resample
from bark_tf.config import CtcConfig
from bark_tf.models.losses import IGNORED_LABEL
from bark_tf.semantic_tokens.ctc import SAMPLE_RATE, log_mel

from ..data.shards import ShardSet
from ..evaluation.metrics import normalised

# Longer recordings are left out: texts cannot be cropped, and attention is quadratic.
MAX_S = 20.0
# SpecAugment: two masks of each kind, at most so wide.
_MASKS = 2
_MASK_S, _MASK_SHARE = 0.4, 0.1
_MASK_BANDS = 0.15

# === Characters ===


class Alphabet(NamedTuple):
    """The characters of texts, numbered.

    Texts are read as words are compared: lower case, no punctuation. Any script works;
    digits are characters.

    Attributes:
        characters: Sorted; a character's place is its number.
    """

    characters: tuple[str, ...]

    @classmethod
    def of(cls, texts: Iterable[str]) -> Alphabet:
        """The alphabet of some texts."""
        return cls(tuple(sorted(set().union(*map(normalised, texts)))))

    def encode(self, text: str) -> np.ndarray:
        """The numbers of a text's characters, int32 (L,), without unknown ones."""
        numbers = {character: n for n, character in enumerate(self.characters)}
        found = [numbers[c] for c in normalised(text) if c in numbers]
        return np.array(found, np.int32)

    def decode(self, numbers: Iterable[int]) -> str:
        """The text of some numbers."""
        return "".join(self.characters[number] for number in numbers)


def tokens_needed(targets: np.ndarray) -> int:
    """Tokens that CTC needs: one per character, and a blank between equal ones."""
    return len(targets) + int(np.sum(targets[1:] == targets[:-1]))


# === Recordings ===


@dataclasses.dataclass(frozen=True)
class Recordings:
    """Recordings with texts that a recogniser can learn from.

    Attributes:
        shards: The set that they are in.
        numbers: Their places in it.
        targets: The characters of each, int32 (L,).
        rate_hz: Tokens per second.
    """

    shards: ShardSet
    numbers: list[int]
    targets: list[np.ndarray]
    rate_hz: float

    @classmethod
    def of(cls, shards: ShardSet, alphabet: Alphabet, rate_hz: float) -> Recordings:
        """Chooses the recordings of a set that are neither too long nor too fast."""
        numbers, targets = [], []
        for number, text in enumerate(shards.texts):
            wanted, seconds = alphabet.encode(text), shards.seconds[number]
            # The recording may be a token shorter, by rounding.
            fits = tokens_needed(wanted) <= int(seconds * rate_hz) - 1
            if len(wanted) and fits and seconds <= MAX_S:
                numbers.append(number)
                targets.append(wanted)
        return cls(shards, numbers, targets, rate_hz)

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def seconds(self) -> np.ndarray:
        """Their lengths, float64 (recordings,)."""
        return self.shards.seconds[self.numbers]

    @property
    def texts(self) -> list[str]:
        """Their texts, as words are compared."""
        return [normalised(self.shards.texts[number]) for number in self.numbers]

    def audio(self, index: int) -> np.ndarray:
        """A recording at the recogniser's rate, float32 (samples,)."""
        audio = self.shards[self.numbers[index]].audio
        return resample(audio, self.shards.info.sample_rate, SAMPLE_RATE)


# === Inputs ===


class Features:
    """Log-mel frames of recordings, with masks in training.

    Args:
        recordings: The recordings.
        config: The recogniser's configuration.
        is_masked: Whether to mask bands and spans of time, which keeps the recogniser
            from learning the recordings by heart.

    Differs: tensorflow-io's masks draw from TensorFlow's global state; these depend on
    the seed alone, so that a resumed run draws the same ones.
    """

    def __init__(self, recordings: Recordings, config: CtcConfig, is_masked: bool):
        self._recordings, self._config = recordings, config
        self._is_masked = is_masked
        self.steps_per_token = config.stride

    def __call__(self, index: int, rng: np.random.Generator) -> np.ndarray:
        """The frames of a recording, float32 (F, M)."""
        audio, rate_hz = self._recordings.audio(index), self._recordings.rate_hz
        num_tokens = int(len(audio) * rate_hz / SAMPLE_RATE + 1e-6)
        frames = log_mel(audio, num_tokens, rate_hz=rate_hz, config=self._config)
        if self._is_masked:
            mask(frames, rate_hz * self._config.stride, rng)
        return frames


def mask(frames: np.ndarray, rate_hz: float, rng: np.random.Generator) -> None:
    """Sets random spans of time and of bands to 0, the mean.

    Args:
        frames: Float (F, M), changed in place.
        rate_hz: Frames per second.
        rng: Decides the spans.

    Source: Park et al., "SpecAugment", 2019.
    """
    count, bands = frames.shape
    widest = min(round(_MASK_S * rate_hz), round(_MASK_SHARE * count))
    for rows, most in ((frames, widest), (frames.T, round(_MASK_BANDS * bands))):
        for _ in range(_MASKS):
            width = int(rng.integers(most + 1))
            start = int(rng.integers(len(rows) - width + 1))
            rows[start : start + width] = 0


class Tokens:
    """Semantic tokens of recordings.

    Args:
        tokens: Of each recording, int32 (T,).
    """

    steps_per_token = 1

    def __init__(self, tokens: Sequence[np.ndarray]):
        self._tokens = tokens

    def __call__(self, index: int, rng: np.random.Generator) -> np.ndarray:
        """The tokens of a recording."""
        return self._tokens[index]


# === Examples ===


class CtcExamples:
    """Examples for `Batches`: inputs, and the characters they say.

    Args:
        recordings: The recordings.
        inputs: `Features` or `Tokens`.
        seed: Decides the masks.

    Attributes:
        lengths: int64 (recordings,), tokens.
        longest: At least the tokens of the longest example.
    """

    def __init__(
        self,
        recordings: Recordings,
        inputs: Callable[[int, np.random.Generator], np.ndarray],
        *,
        seed: int = 0,
    ):
        self._inputs, self._targets, self._seed = inputs, recordings.targets, seed
        self.lengths = np.ceil(recordings.seconds * recordings.rate_hz).astype(int)
        self.longest = int(self.lengths.max()) + 1

    def __len__(self) -> int:
        return len(self.lengths)

    def example(self, index: int, epoch: int = 0) -> dict[str, np.ndarray]:
        """One recording.

        Returns:
            `inputs`: float32 (F, M) or int32 (T,); `targets`: int32 (L,).
        """
        rng = np.random.default_rng([self._seed, epoch, index])
        return {"inputs": self._inputs(index, rng), "targets": self._targets[index]}

    def length_of(self, example: Mapping[str, np.ndarray]) -> int:
        """Tokens of an example."""
        return len(example["inputs"]) // self._inputs.steps_per_token

    def pad(
        self, examples: Sequence[Mapping[str, np.ndarray]], length: int
    ) -> dict[str, np.ndarray]:
        """A batch of T = `length` tokens.

        Returns:
            `inputs`: (B, F, M) or (B, T); `lengths`: int32 (B,), the tokens of each;
            `targets`: int32 (B, L), padded with `IGNORED_LABEL`.
        """
        most = max(1, *(len(example["targets"]) for example in examples))
        steps = length * self._inputs.steps_per_token
        return {
            "inputs": _stacked(examples, "inputs", steps, 0),
            "lengths": np.array(list(map(self.length_of, examples)), np.int32),
            "targets": _stacked(examples, "targets", most, IGNORED_LABEL),
        }

    def without_targets(
        self, example: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """The same example with no characters."""
        return {**example, "targets": np.zeros(0, np.int32)}


def _stacked(examples: Sequence[Mapping], name: str, length: int, fill: Any):
    rows = []
    for example in examples:
        row = example[name]
        widths = [(0, length - len(row)), *[(0, 0)] * (row.ndim - 1)]
        rows.append(np.pad(row, widths, constant_values=fill))
    return np.stack(rows)
