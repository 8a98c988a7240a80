"""Pieces of audio to one continuous file or stream, in OpenAI's formats."""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
import soundfile
import soxr

from bark_tf.audio.writing import (
    FORMATS,
    MP3_RATES,
    OPUS_RATES,
    stream_header,
    to_pcm16,
)

# OpenAI's samples have this rate, and `pcm` does not state it.
PCM_RATE_HZ = 24_000


class Format(NamedTuple):
    """A value of `response_format`.

    Attributes:
        media_type: For the header Content-Type.
        rates: The sample rates that it takes; empty: any.
    """

    media_type: str
    rates: tuple[int, ...] = ()


RESPONSE_FORMATS = {
    "mp3": Format("audio/mpeg", MP3_RATES),
    "opus": Format("audio/ogg", OPUS_RATES),
    "flac": Format("audio/flac"),
    "wav": Format("audio/wav"),
    "pcm": Format("audio/pcm", (PCM_RATE_HZ,)),
}


class Encoder:
    """Encodes one utterance, piece by piece.

    An utterance of one piece becomes a finished file, with its length in the header. Of
    a longer one the header is gone before the length is known: `wav` then states the
    largest length, `flac` an unknown one, and `mp3` has a constant bit rate.

    Args:
        name: One of `RESPONSE_FORMATS`.
        sample_rate: Samples per second of the pieces. What the format does not take is
            resampled to 24 kHz.

    Example:
        >>> encoder = Encoder("pcm", 24_000)
        >>> len(encoder.add(np.zeros(100, np.float32), is_last=True))
        200
    """

    def __init__(self, name: str, sample_rate: int):
        rates = RESPONSE_FORMATS[name].rates
        self._name, self._rate = name, sample_rate
        self._resampler = None
        if rates and sample_rate not in rates:
            self._rate = PCM_RATE_HZ
            self._resampler = soxr.ResampleStream(sample_rate, self._rate, 1)
        self._file: soundfile.SoundFile | None = None
        self._data, self._sent, self._is_first = io.BytesIO(), 0, True

    def add(self, audio: np.ndarray, is_last: bool) -> bytes:
        """Encodes the next piece.

        Args:
            audio: float32 (samples,), finite; clipped to [-1, 1].
            is_last: Whether it is the last one.

        Returns:
            What follows the bytes of the pieces before; may be empty.
        """
        if self._resampler is not None:
            audio = self._resampler.resample_chunk(audio, last=is_last)
        audio = np.clip(audio, -1, 1)
        is_whole, self._is_first = self._is_first and is_last, False
        if self._name == "pcm" or (self._name == "wav" and not is_whole):
            return self._raw(audio)
        return self._through_libsndfile(audio, is_last, is_whole)

    def _raw(self, audio: np.ndarray) -> bytes:
        header = b""
        if self._name == "wav" and not self._sent:
            header = stream_header(self._rate)
        samples = to_pcm16(audio).tobytes()
        self._sent += len(header) + len(samples)
        return header + samples

    def _through_libsndfile(
        self, audio: np.ndarray, is_last: bool, is_whole: bool
    ) -> bytes:
        if self._file is None:
            self._file = self._open(is_whole)
        is_exact = self._file.subtype == "PCM_16"
        self._file.write(to_pcm16(audio) if is_exact else audio)
        self._file.flush()
        if is_last:
            self._file.close()
        # What libsndfile writes over the header after it was sent stays here.
        new = self._data.getvalue()[self._sent :]
        self._sent += len(new)
        return new

    def _open(self, is_whole: bool) -> soundfile.SoundFile:
        kind, subtype = FORMATS[f".{self._name}"]
        how = {}
        if self._name == "mp3" and not is_whole:
            # Players take the length of a variable rate from the header.
            how = {"bitrate_mode": "CONSTANT", "compression_level": 0.5}
        return soundfile.SoundFile(
            self._data, "w", self._rate, 1, subtype, format=kind, **how
        )
