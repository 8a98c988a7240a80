"""Audio to sound files and streams.

Audio is float32 in [-1, 1]. A 16-bit sample is the audio times 32768, so reading a
16-bit file and writing it again changes nothing.
"""

from __future__ import annotations

import io
import os
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from bark_tf.audio.reading import check_rate
from bark_tf.files import atomic_write, local_path

# File extension -> soundfile's name of the format, the default encoding.
FORMATS = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
    ".opus": ("OGG", "OPUS"),
}
# Encodings that hold values outside [-1, 1].
_UNBOUNDED = ("FLOAT", "DOUBLE")
# Formats and encodings whose empty files libsndfile cannot open.
_NEVER_EMPTY = ("FLAC", "MPEG_LAYER_III", "OPUS")
OPUS_RATES = (8_000, 12_000, 16_000, 24_000, 48_000)
MP3_RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
# Encoding -> the sample rates it supports; others take any.
_RATES = {"OPUS": OPUS_RATES, "MPEG_LAYER_III": MP3_RATES}

_PCM16_SCALE = 2**15
_PCM16_CODE, _PCM16_BYTES = 1, 2
# A WAV file states its size in 32 bits; the largest value stands for a stream.
_UNKNOWN_SIZE = 2**32 - 1
_MAX_WAV_BYTES = _UNKNOWN_SIZE - 1024  # of samples; the rest is for the header
_BLOCK = 2**16  # samples


# === Checking ===


def check_destination(path: str | os.PathLike) -> None:
    """Raises what `write_audio` would raise for this path, before any work is done.

    Args:
        path: The file to write.

    Raises:
        ValueError: If the extension is not one of `FORMATS`.
        OSError: If the directory does not exist or is not writable.
    """
    path = local_path(path, "A sound file")
    _format_of(path)
    if path.is_dir():
        raise IsADirectoryError(f"{str(path)!r} is a directory, not a file")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"There is no directory {str(path.parent)!r}")
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(f"The directory {str(path.parent)!r} is not writable")


def _format_of(path: Path) -> tuple[str, str]:
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise ValueError(
            f"An audio file must end in {', '.join(FORMATS)}. Received: {str(path)!r}"
        )
    return FORMATS[suffix]


def _checked(audio: Any) -> np.ndarray:
    """Copies one row of audio to float32 (samples,)."""
    array = np.asarray(audio)
    if array.ndim == 2 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 1:
        raise ValueError(
            "audio must be (samples,) or (1, samples); write a batch row by row. "
            f"Received: shape {array.shape}"
        )
    # NumPy does not count bfloat16 among its own floating-point types.
    if not (np.issubdtype(array.dtype, np.floating) or array.dtype.name == "bfloat16"):
        raise ValueError(
            f"audio must be floating-point in [-1, 1]. Received: dtype {array.dtype}"
        )
    array = array.astype(np.float32)
    finite = np.isfinite(array)
    if not finite.all():
        place = int(np.argmin(finite))
        raise ValueError(
            f"audio must be finite. Received: {array[place]} at sample {place}"
        )
    return array


def _check_encoding(
    samples: np.ndarray, sample_rate: int, name: str, subtype: str
) -> None:
    rates = _RATES.get(subtype, (sample_rate,))
    if sample_rate not in rates:
        raise ValueError(
            f"sample_rate of {subtype} must be one of {', '.join(map(str, rates))}. "
            f"Received: sample_rate={sample_rate}"
        )
    if not soundfile.check_format(name, subtype):
        known = ", ".join(soundfile.available_subtypes(name))
        raise ValueError(
            f"subtype of a {name} file must be one of {known}. "
            f"Received: subtype={subtype!r}"
        )
    if not samples.size and not {name, subtype}.isdisjoint(_NEVER_EMPTY):
        raise ValueError(
            f"A {name} file with {subtype} must not be empty; use .wav. "
            "Received: no samples"
        )
    if name == "WAV" and samples.nbytes > _MAX_WAV_BYTES:
        raise ValueError(
            f"A WAV file holds at most 4 GiB. Received: {samples.size} samples"
        )


def clipped(audio: np.ndarray) -> np.ndarray:
    """Audio within [-1, 1]; a warning says if it was not."""
    peak = np.abs(audio).max(initial=0.0)
    if peak <= 1:
        return audio
    warnings.warn(
        f"The audio exceeds [-1, 1] and is clipped. Received: a peak of {peak:.3g}",
        UserWarning,
        stacklevel=3,
    )
    return np.clip(audio, -1, 1)


# === Streams ===


def to_pcm16(audio: Any) -> np.ndarray:
    """Rounds audio to 16-bit samples, without dither.

    Args:
        audio: Floating-point (samples,) or (1, samples); clipped to [-1, 1] with a
            warning.

    Returns:
        int16 (samples,), little-endian.
    """
    scaled = np.rint(clipped(_checked(audio)) * _PCM16_SCALE)
    # +1 itself is one step above the largest sample.
    return np.minimum(scaled, _PCM16_SCALE - 1).astype("<i2")


def stream_header(sample_rate: int) -> bytes:
    """The 44 bytes before the samples of a 16-bit mono WAV stream of unknown length.

    Args:
        sample_rate: Samples per second.

    Returns:
        The header; players read until the stream ends.

    Raises:
        ValueError: If `sample_rate` is out of range.

    Example:
        >>> len(stream_header(24_000))
        44
    """
    check_rate(sample_rate)
    bytes_per_second, bits = sample_rate * _PCM16_BYTES, 8 * _PCM16_BYTES
    layout = (_PCM16_CODE, 1, sample_rate, bytes_per_second, _PCM16_BYTES, bits)
    body = struct.pack("<HHIIHH", *layout)
    riff = struct.pack("<4sI4s", b"RIFF", _UNKNOWN_SIZE, b"WAVE")
    form = struct.pack("<4sI", b"fmt ", len(body)) + body
    return riff + form + struct.pack("<4sI", b"data", _UNKNOWN_SIZE)


# === Files ===


def write_audio(
    path: str | os.PathLike, audio: Any, sample_rate: int, subtype: str | None = None
) -> Path:
    """Writes mono audio to a `.wav`, `.flac`, `.ogg`, `.mp3` or `.opus` file.

    Args:
        path: Where to; a file of that name is replaced. It appears complete or not at
            all.
        audio: Floating-point (samples,) or (1, samples), [-1, 1]; a tensor too. Louder
            audio is clipped with a warning. Only `.wav` and `.ogg` files may be empty.
        sample_rate: Samples per second. Opus takes 8, 12, 16, 24 and 48 kHz only, MP3
            8 to 48 kHz in the usual steps.
        subtype: The encoding, by soundfile's name. By default 16 bit for `.wav` and
            `.flac`, Vorbis for `.ogg`. `"FLOAT"` WAV is never clipped.

    Returns:
        The path.

    Raises:
        ValueError: If the audio is not one row of finite numbers, or the format or
            encoding does not exist or does not take the sample rate.
        OSError: If the file cannot be written; the error names it.

    Example:
        >>> write_audio("beep.wav", np.sin(np.arange(2400) / 8), 24_000).name
        'beep.wav'
    """
    path = Path(path)
    check_destination(path)
    name, default = _format_of(path)
    subtype = default if subtype is None else subtype
    check_rate(sample_rate)
    samples = _checked(audio)
    if subtype == "PCM_16":
        samples = to_pcm16(samples)
    elif subtype not in _UNBOUNDED:
        samples = clipped(samples)
    _check_encoding(samples, sample_rate, name, subtype)
    data = _encode(samples, sample_rate, name, subtype)
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)
    return path


def _encode(samples: np.ndarray, sample_rate: int, name: str, subtype: str) -> bytes:
    """Makes the bytes of a file, because libsndfile does not say why a disk fails."""
    data = io.BytesIO()
    try:
        with soundfile.SoundFile(
            data, "w", sample_rate, channels=1, subtype=subtype, format=name
        ) as file:
            # In blocks: libsndfile's Vorbis encoder overflows its stack on long writes.
            for start in range(0, samples.size, _BLOCK):
                file.write(samples[start : start + _BLOCK])
    except soundfile.LibsndfileError as error:
        raise OSError(f"Could not encode the {name} file: {error}") from error
    return data.getvalue()
