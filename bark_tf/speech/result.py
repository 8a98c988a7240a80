"""What speaking returns: sound that saves and plays itself."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np

from bark_tf.audio.loudness import with_loudness
from bark_tf.audio.player import player_html
from bark_tf.audio.playing import play
from bark_tf.audio.writing import write_audio
from bark_tf.text.chunks import ChunkReport
from bark_tf.text.subtitles import write_subtitles
from bark_tf.voices.presets import VoicePreset


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

    def save_subtitles(self, path: str | os.PathLike) -> Path:
        """Writes what is said when, as .srt or .vtt; see `write_subtitles`.

        Args:
            path: Where to; the ending decides the format.

        Returns:
            The path.

        Raises:
            ValueError: If the ending is another one.
            OSError: If the file cannot be written.
        """
        return write_subtitles(path, self.chunks, self.sampling_rate)

    def with_loudness(self, lufs: float) -> Speech:
        """The same speech at a loudness, such as -16; see `with_loudness` of audio.

        Raises:
            ImportError: If the extra `loudness` is not installed.
        """
        audio = with_loudness(self.audio, self.sampling_rate, lufs)
        return dataclasses.replace(self, audio=audio)

    def play(self) -> None:
        """Plays it on this machine, outside of notebooks.

        Raises:
            ImportError: If there is neither the extra `play` nor a player.
            OSError: If there is no sound device.
        """
        play(self.audio, self.sampling_rate)
