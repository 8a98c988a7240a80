"""What makes a recording one that can be learned; reads and refuses, encodes nothing.

A stage that sees speech cut off under its full text learns never to stop, so what does
not fit is skipped, or cut where the words are timed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bark_tf.audio.editing import trim, with_silence
from bark_tf.audio.reading import load_opening
from bark_tf.config import BarkConfig, BarkGenerationConfig
from bark_tf.config.fields import check_field
from bark_tf.processor import BarkProcessor
from bark_tf.text.sentences import estimate_seconds
from bark_tf.text.tokenizer import BarkTokenizer
from bark_tf.voices.sound_checks import clipped_share

from .audio import load_many
from .datasets import Recording
from .examples import semantic_room
from .layouts import Skipped
from .parts import parts_of

# A calm voice's time for a text, relative to the recording's length, and seconds that
# are allowed besides. The fastest speakers need a half of a calm voice's time.
_MOST_PACE, _SLACK_S = 3.0, 1.0
# Silence at each end of a part, at most, and room for rounding.
_MARGIN_S = 0.1
# Share of clipped samples. A warning is given for a voice from 0.0001 on.
_MOST_CLIPPED = 0.01


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that decides the content of a shard; sent to workers.

    See `prepare.prepare` for the meaning of the fields.

    Raises:
        ValueError: If `silence_s` is out of range or set without `trim`.
    """

    model: str | None
    semantic_tokenizer: str | None
    keep_audio: bool
    sample_rate: int
    trim: bool
    max_s: float
    silence_s: float | None

    def __post_init__(self):
        if self.silence_s is not None:
            fits = 0 <= self.silence_s < self.max_s
            expected = f"at least 0 and below max_s={self.max_s}"
            check_field(self, "silence_s", fits, expected)
            check_field(self, "silence_s", self.trim, "None with trim=False")


class Ready(NamedTuple):
    """A recording that has passed all checks.

    Attributes:
        recording: The recording.
        audio: float32 (samples,), trimmed, at the codec's rate.
        text_ids: int32 (n,), the tokenizer's ids; empty without a model.
    """

    recording: Recording
    audio: np.ndarray
    text_ids: np.ndarray


class Checks:
    """Reads and checks recordings for some settings; loads no network.

    Args:
        settings: `Settings`.

    Attributes:
        sample_rate: Sample rate of the audio.
        config: The model's generation configuration, or None.
        tokenizer: The model's text tokenizer, or None.
    """

    def __init__(self, settings: Settings):
        self.settings, self.sample_rate = settings, settings.sample_rate
        self.config = self.tokenizer = None
        if settings.model is not None:
            model = BarkConfig.from_pretrained(settings.model)
            self.sample_rate = model.codec_config.sampling_rate
            self.config = BarkGenerationConfig.from_pretrained(settings.model)
            self.tokenizer = BarkProcessor.from_pretrained(settings.model).tokenizer
            semantic, size = self.config.semantic_config, model.semantic_config
            self._most_tokens = semantic_room(semantic, size.block_size) - 1  # the end

    def read(self, recordings: Sequence[Recording]) -> Iterator[Ready | Skipped]:
        """Reads recordings, in order; each is ready or has a reason why not.

        One that is too long and whose words are timed is cut at pauses.
        """
        paths = [recording.path for recording in recordings]
        audios = load_many(paths, self.sample_rate, max_s=self.settings.max_s)
        for recording, audio in zip(recordings, audios, strict=True):
            try:
                parts = self._parts(recording, audio)
            except ValueError as error:
                yield skipped(recording, error)
                continue
            for part, sound in parts:
                try:
                    yield self._ready(part, sound)
                except ValueError as error:
                    yield skipped(part, error)

    def _parts(
        self, recording: Recording, audio: np.ndarray | ValueError
    ) -> list[tuple[Recording, np.ndarray]]:
        if isinstance(audio, ValueError):
            raise audio
        _check_clipping(recording.path, self.settings.max_s)
        if self.config is None:
            return [(recording, audio)]
        silence_s = max(_MARGIN_S, self.settings.silence_s or 0.0)
        most_s = self._most_tokens / self.config.semantic_config.semantic_rate_hz
        most_s -= 2 * silence_s
        return list(parts_of(recording, audio, self.sample_rate, most_s))

    def _ready(self, recording: Recording, audio: np.ndarray) -> Ready:
        if self.settings.silence_s is not None:
            audio = with_silence(audio, self.sample_rate, self.settings.silence_s)
        elif self.settings.trim:
            audio = trim(audio, self.sample_rate)
        if self.config is None:
            return Ready(recording, audio, np.zeros(0, np.int32))
        semantic, seconds = self.config.semantic_config, len(audio) / self.sample_rate
        limit = semantic.max_input_semantic_length
        text_ids = readable_ids(recording.text, self.tokenizer, limit)
        _check_pace(recording.text, seconds)
        self.check_length(int(seconds * semantic.semantic_rate_hz))
        return Ready(recording, audio, text_ids)

    def check_length(self, num_tokens: int) -> None:
        """Raises ValueError if a recording has too many semantic tokens."""
        if num_tokens > self._most_tokens:
            rate_hz = self.config.semantic_config.semantic_rate_hz
            raise ValueError(
                f"it is longer than the {self._most_tokens / rate_hz:.1f} s "
                f"({self._most_tokens} semantic tokens) that the model learns at once: "
                "cut it at pauses, with its text, or give the times of its words. "
                f"Received: {num_tokens / rate_hz:.1f} s"
            )


def readable_ids(text: str, tokenizer: BarkTokenizer, limit: int) -> np.ndarray:
    """Tokenizes a text that a model can read.

    Args:
        text: The text.
        tokenizer: The model's tokenizer.
        limit: Number of tokens that the model reads.

    Returns:
        int32 (n,), n in [1, limit].

    Raises:
        ValueError: If nothing in it has a token, or it has too many.
    """
    ids = tokenizer.encode(text)
    if not ids:
        raise ValueError("nothing in its text has a token")
    if len(ids) > limit:
        raise ValueError(
            f"its text is longer than the {limit} tokens that the model reads. "
            f"Received: {len(ids)}"
        )
    return np.array(ids, np.int32)


def _check_pace(text: str, seconds: float) -> None:
    expected = estimate_seconds(text)
    if expected > _MOST_PACE * seconds + _SLACK_S:
        raise ValueError(
            "its text is far too long for its time, so it is hardly the text of this "
            f"recording. Received: text for about {expected:.0f} s on {seconds:.1f} s"
        )


def _check_clipping(path: Path, max_s: float) -> None:
    # As recorded: resampling hides clipping.
    samples = load_opening(path, max_s).samples
    share = clipped_share(samples / max(1.0, float(np.abs(samples).max())))
    if share > _MOST_CLIPPED:
        raise ValueError(
            "it is heavily clipped: its loud parts are cut off. "
            f"Received: {share:.0%} of the samples"
        )


def skipped(recording: Recording, error: Exception) -> Skipped:
    """The entry of a recording that cannot be used, without the path of its file."""
    found = Skipped.of(recording.id, recording.path.name, error)
    parts = (part.replace(str(recording.path), "") for part in found[2:])
    reason, detail = (part.strip(" ,") for part in parts)
    return found._replace(reason=reason, detail=detail)
