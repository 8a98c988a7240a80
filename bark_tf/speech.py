"""One call: a text in, a sound out that can be saved and played."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Unpack, overload

import numpy as np

from bark_tf.audio.player import player_html
from bark_tf.audio.writing import write_audio
from bark_tf.generation.keywords import SpeakKeywords
from bark_tf.generation.long_form import ChunkReport, generate_long
from bark_tf.processor import BarkProcessor
from bark_tf.progress import Progress, progress_bar
from bark_tf.voices.presets import VoicePreset

# A smaller model finishes a text before XLA has compiled.
COMPILED_PARAMS = 50_000_000


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Speech:
    """A text as sound. In a notebook it shows a player.

    Attributes:
        audio: float32 (samples,), about [-1, 1].
        sampling_rate: Samples per second.
        seed: Repeats the take: the given seed, or the one drawn.
        chunks: One `ChunkReport` per piece of the text: its words, its start, its
            duration.
        voice: `VoicePreset` to continue from; None if there was no speech.

    Example:
        >>> speech = bark_tf.speak("four two", seed=7)  # doctest: +SKIP
        >>> speech.save("four_two.mp3")  # doctest: +SKIP
        PosixPath('four_two.mp3')
    """

    audio: np.ndarray
    sampling_rate: int
    seed: int
    chunks: tuple[ChunkReport, ...]
    voice: VoicePreset | None = None

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.audio.size / self.sampling_rate

    def __repr__(self) -> str:
        return (
            f"Speech({self.duration:.2f} s of audio at {self.sampling_rate} Hz, seed "
            f"{self.seed})"
        )

    def _repr_html_(self) -> str:
        """A player, for notebooks."""
        return player_html([self.audio], self.sampling_rate)

    def save(self, path: str | os.PathLike, subtype: str | None = None) -> Path:
        """Writes a .wav, .flac, .ogg, .mp3 or .opus file; see `write_audio`.

        Args:
            path: Where to; the ending decides the format. A file of that name is
                replaced, and appears complete or not at all.
            subtype: Encoding, by soundfile's name, such as `"FLOAT"` for .wav.

        Returns:
            The path.

        Raises:
            ValueError: If the ending is another one, or there is no sound for it.
            OSError: If the file cannot be written.
        """
        return write_audio(path, self.audio, self.sampling_rate, subtype)


@contextlib.contextmanager
def shown(progress: Progress | bool | None) -> Iterator[Progress]:
    """Yields a progress callable: the given one, or one that draws bars.

    Args:
        progress: A callable; or `enabled` of `progress_bar`.
    """
    if callable(progress):
        yield progress
        return
    with progress_bar(progress) as report:
        yield report


def per_text(name: str, value: Any, count: int) -> list:
    """One value for each text: those of a list, or the same for all.

    Raises:
        ValueError: If a list has another length.
    """
    if not isinstance(value, list | tuple):
        return [value] * count
    if len(value) != count:
        raise ValueError(
            f"A list of {name} must have one for each of the {count} texts. "
            f"Received: {len(value)}"
        )
    return list(value)


class Speaker:
    """The method `speak` of `BarkModel`."""

    _processor: BarkProcessor | None = None

    @overload
    def speak(
        self, text: str, voice: Any = None, **keywords: Unpack[SpeakKeywords]
    ) -> Speech: ...

    @overload
    def speak(
        self, text: Sequence[str], voice: Any = None, **keywords: Unpack[SpeakKeywords]
    ) -> list[Speech]: ...

    def speak(self, text, voice=None, *, processor=None, progress=None, **keywords):
        """Speaks a text of any length.

        It is spoken sentence by sentence and checked, as by `generate_long`. A
        progress bar shows where someone watches: in a terminal or a notebook.

        Args:
            text: The text; or a list of texts, which are spoken one by one.
            voice: Speaker: a name such as `"v2/en_speaker_6"`, the path of a .npz
                file, or a `VoicePreset`. None: the model's own, or a random one. A
                list has one per text.
            processor: `BarkProcessor`. None: that of the checkpoint from which the
                model was loaded.
            progress: True or False: a bar, or none. Or a callable (stage, done,
                total).
            **keywords: `seed`, an int or a list with one per text; None draws one,
                which the result names. Also those of `generate_long` and `generate`,
                such as `temperature`.

        Returns:
            `Speech`; a list of them for a list of texts.

        Raises:
            ValueError: For invalid arguments, or a text with nothing to say, before
                any work is done.

        Example:
            >>> model.speak("Hello", seed=7).save("hello.mp3")  # doctest: +SKIP
        """
        texts = [text] if isinstance(text, str) else list(text)
        voices = per_text("voices", voice, len(texts))
        seeds = per_text("seeds", keywords.pop("seed", None), len(texts))
        processor = self._own_processor() if processor is None else processor
        keywords.setdefault("jit_compile", self.count_params() >= COMPILED_PARAMS)
        with shown(progress) as report:
            spoken = [
                _speak(self, processor, *row, progress=report, **keywords)
                for row in zip(texts, voices, seeds, strict=True)
            ]
        return spoken[0] if isinstance(text, str) else spoken

    def _own_processor(self) -> BarkProcessor:
        """The processor of the model's checkpoint, which is read once."""
        if self._processor is None:
            if self._source is None:
                raise ValueError(
                    "A model that was not loaded from a checkpoint has no tokenizer: "
                    "speak(text, processor=BarkProcessor...)"
                )
            path, where = self._source
            self._processor = BarkProcessor.from_pretrained(path, **where)
        return self._processor


def _speak(model, processor, text, voice, seed, **keywords) -> Speech:
    out = generate_long(model, processor, text, voice=voice, seed=seed, **keywords)
    return Speech(out.audio, out.sample_rate, out.seed, out.chunks, out.voice)
