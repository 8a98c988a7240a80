"""The formats of phones and browsers: MP4 (m4a), AAC and WebM, decoded by PyAV.

PyAV is the extra `formats`. The first bytes of a file choose the demuxer and a list
the codecs, so FFmpeg's others, among them playlists that name other files, are never
reached.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from bark_tf.optional import required

# Name -> FFmpeg's demuxer.
CONTAINERS = {"MP4": "mov", "WEBM": "matroska", "AAC": "aac"}
_CODECS = ("aac", "alac", "opus", "vorbis", "mp3", "flac", "amrnb", "amrwb", "pcm_")
# Share of the samples that the header promises and that may be missing: lossy codecs
# round to blocks.
_MAX_MISSING = 0.02
_SLACK_S = 0.1


def container_of(path: str | os.PathLike) -> str | None:
    """The name of a file's container in `CONTAINERS`, by its first bytes."""
    with open(path, "rb") as file:
        head = file.read(8)
    if head[4:8] == b"ftyp":
        return "MP4"
    if head[:4] == b"\x1aE\xdf\xa3":  # EBML
        return "WEBM"
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:  # ADTS
        return "AAC"
    return None


class Container:
    """The audio of a container, with the part of soundfile's interface that we use.

    Args:
        path: The file.
        name: From `container_of`.

    Attributes:
        format: Its name in `CONTAINERS`.
        subtype: FFmpeg's name of the codec.
        samplerate: Samples per second.
        channels: Number of channels.
        frames: Number of samples according to the header; 0 if it does not say.

    Raises:
        ImportError: If PyAV is missing.
        ValueError: If the file cannot be decoded or has no audio.
    """

    def __init__(self, path: str | os.PathLike, name: str):
        self._av = required("av", f"Reading {name}", "formats")
        self._file = open(path, "rb")
        try:
            self._container = self._opened(CONTAINERS[name])
        except BaseException:
            self._file.close()
            raise
        self._stream = self._container.streams.audio[0]
        context = self._stream.codec_context
        self.format, self.subtype = name, context.codec.canonical_name
        self.samplerate, self.channels = context.sample_rate, context.channels
        self.frames = self._promised()

    def _opened(self, demuxer: str) -> Any:
        try:
            container = self._av.open(self._file, format=demuxer)
        except (self._av.FFmpegError, OSError) as error:
            raise ValueError(error.strerror or str(error)) from error
        codecs = [one.codec_context for one in container.streams.audio]
        if codecs and codecs[0] is not None and codecs[0].sample_rate:
            if codecs[0].codec.canonical_name.startswith(_CODECS):
                return container
        container.close()
        kinds = ", ".join(_CODECS).rstrip("_")
        raise ValueError(f"no audio of a known codec: {kinds}")

    def _promised(self) -> int:
        stream, whole = self._stream, self._container.duration
        if self.format == "AAC":  # FFmpeg guesses
            return 0
        if stream.duration is not None:
            return int(stream.duration * stream.time_base * self.samplerate)
        return int((whole or 0) / self._av.time_base * self.samplerate)

    def read(self, limit: int, dtype: str, always_2d: bool) -> np.ndarray:
        """Decodes from the start.

        Args:
            limit: Number of samples after which decoding stops.
            dtype: `"float32"`.
            always_2d: True.

        Returns:
            float32 (samples, channels), at most `limit` samples.

        Raises:
            ValueError: If the file is damaged or cut short.
        """
        parts, count = [], 0
        layout = self._stream.codec_context.layout
        resampler = self._av.AudioResampler("fltp", layout, self.samplerate)
        try:
            for frame in self._container.decode(self._stream):
                for same in resampler.resample(frame):
                    parts.append(same.to_ndarray().T)
                    count += same.samples
                if count >= limit:
                    break
        except (self._av.FFmpegError, OSError) as error:
            raise ValueError(error.strerror or str(error)) from error
        least = self.frames * (1 - _MAX_MISSING) - _SLACK_S * self.samplerate
        if count < min(least, limit):
            raise ValueError(f"{count} of {self.frames} samples")
        empty = np.zeros((0, self.channels), np.float32)
        return np.concatenate([empty, *parts])[:limit]

    def close(self) -> None:
        """Closes the file."""
        self._container.close()
        self._file.close()

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
