"""Sound files to arrays: decoded, resampled, checked.

Audio is float32 (samples,), mono, in [-1, 1].
"""

from __future__ import annotations

import math
import os
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bark_tf.optional import required

MIN_S = 0.3
MAX_S = 60.0
# Half the distance between the largest and the smallest sample: -60 dB.
SILENCE_PEAK = 1e-3
FORMATS = ("WAV", "WAVEX", "FLAC", "OGG", "MP3")  # soundfile's names
_KINDS = "WAV, FLAC, Ogg or MP3"
_SAMPLE_RATES = (4_000, 384_000)
_MAX_CHANNELS = 2

# === WAV's own header ===
# Sizes from here on mean "until the stream ends".
_STREAM_SIZE = 0x7FFF_F000
# Share of the samples promised by the header that a file may lack.
_MAX_MISSING = 0.01
_MAX_CHUNKS = 1_000


# === Reading a file ===


def load(
    path: str | os.PathLike, sample_rate: int, *, max_s: float = MAX_S
) -> np.ndarray:
    """Reads a recording through soundfile and soxr.

    WAV (8, 16, 24, 32-bit integers, 32 and 64-bit floats), FLAC, Ogg and MP3, told
    apart by their content. Stereo is averaged. Audio that exceeds [-1, 1], as floats
    may, is scaled down as a whole, not clipped. A header's promises are never trusted:
    no more memory is taken than `max_s` needs.

    Args:
        path: The file.
        sample_rate: Samples per second of the result.
        max_s: Seconds a recording may last.

    Returns:
        float32 (samples,), mono, [-1, 1]; samples = duration * sample_rate, rounded.

    Raises:
        ValueError: If the file is missing, empty, damaged, cut short, not mono or
            stereo, not finite, silent, shorter than `MIN_S` or longer than `max_s`; the
            message names the file and says which. An MP3 that is cut short is not
            noticed: it does not say how long it is meant to be.
        ImportError: If soundfile or soxr is not installed.
    """
    check_rate(sample_rate)
    check_limit(max_s)
    with opened(path) as file:
        source_hz = file.samplerate
        audio = _read_all(file, path, max_s)
    return finished(resample(audio, source_hz, sample_rate), path, sample_rate, max_s)


class Opening(NamedTuple):
    """How a recording begins.

    Attributes:
        samples: float32 (samples, channels), as the file has them: not resampled, and
            where the file holds floats perhaps beyond [-1, 1].
        sample_rate: Samples per second.
        duration_s: Seconds of the whole recording, as far as the file says.
    """

    samples: np.ndarray
    sample_rate: int
    duration_s: float


def load_opening(path: str | os.PathLike, max_s: float = MAX_S) -> Opening:
    """Reads the first seconds of a recording of any length.

    Args:
        path: The file, of a kind that `load` reads.
        max_s: Seconds that are read; no more memory is taken than they need.

    Returns:
        `Opening`.

    Raises:
        ValueError: If the file is missing, empty, damaged, cut short, not mono or
            stereo, or not finite; the message names it and says which.
        ImportError: If soundfile is not installed.
    """
    check_limit(max_s)
    with opened(path) as file:
        rate = file.samplerate
        samples = _read(file, path, int(max_s * rate))
        claimed_s = file.frames / rate
    if not np.isfinite(samples).all():
        raise ValueError(
            f"A recording must be finite. Received: {path}, with NaN or infinity"
        )
    read_s = len(samples) / rate
    # A stream's header promises more than there is.
    is_whole = len(samples) < int(max_s * rate)
    return Opening(samples, rate, read_s if is_whole else max(claimed_s, read_s))


def check_rate(sample_rate: int) -> None:
    """Raises ValueError for a sample rate that no recording has."""
    if not isinstance(sample_rate, int | np.integer) or sample_rate <= 0:
        raise ValueError(
            "sample_rate must be a positive whole number. "
            f"Received: sample_rate={sample_rate!r}"
        )


def check_limit(max_s: float) -> None:
    """Raises ValueError for a limit that no recording keeps."""
    if not MIN_S <= max_s < math.inf:
        raise ValueError(
            f"max_s must be finite and at least {MIN_S}. Received: max_s={max_s!r}"
        )


def opened(path: str | os.PathLike):
    """A soundfile.SoundFile of a kind that is read here; ValueError otherwise."""
    soundfile = required("soundfile", "Reading recordings")
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"A recording must be a file. Received: {path}")
    if not path.stat().st_size:
        raise ValueError(f"A recording must not be empty. Received: {path}, 0 bytes")
    try:
        file = soundfile.SoundFile(path)
    except (soundfile.SoundFileError, TypeError) as error:
        raise ValueError(
            f"A recording must be {_KINDS}. Received: {path}, which cannot be decoded "
            f"({error})"
        ) from error
    try:
        _check_header(file, path)
    except ValueError:
        file.close()
        raise
    return file


def _check_header(file: Any, path: Path) -> None:
    low, high = _SAMPLE_RATES
    for is_right, expected, received in (
        (file.format in FORMATS, f"be {_KINDS}", file.format),
        (
            file.channels <= _MAX_CHANNELS,
            "be mono or stereo",
            f"{file.channels} channels",
        ),
        (
            low <= file.samplerate <= high,
            f"have {low} to {high} samples per second",
            file.samplerate,
        ),
    ):
        if not is_right:
            raise ValueError(
                f"A recording must {expected}. Received: {path}, {received}"
            )
    header = wav_header(path)
    if header is None or header.promised >= _STREAM_SIZE:
        return
    if header.there < header.promised * (1 - _MAX_MISSING):
        raise ValueError(
            f"A recording must be complete. Received: {path}, cut short: "
            f"{header.there} of {header.promised} bytes of samples"
        )


class _WavHeader(NamedTuple):
    """What a WAV file says about its size."""

    promised: int  # bytes of samples
    there: int  # bytes after the header
    is_even: bool  # whether no chunk before the samples has an odd size


def wav_header(path: Path) -> _WavHeader | None:
    """None if the file is no little-endian WAV with samples."""
    with open(path, "rb") as file:
        head = file.read(12)
        if head[:4] != b"RIFF" or head[8:] != b"WAVE":
            return None
        is_even = True
        for _ in range(_MAX_CHUNKS):
            chunk = file.read(8)
            if len(chunk) < 8:
                return None
            name, size = struct.unpack("<4sI", chunk)
            if name == b"data":
                there = os.fstat(file.fileno()).st_size - file.tell()
                return _WavHeader(size, there, is_even)
            is_even = is_even and size % 2 == 0
            file.seek(size + size % 2, os.SEEK_CUR)
    return None


def _read_all(file: Any, path: str | os.PathLike, max_s: float) -> np.ndarray:
    """Decodes float32 (samples,), mono, at the file's rate."""
    limit = int(max_s * file.samplerate)
    samples = _read(file, path, limit + 1)
    if len(samples) > limit:
        raise ValueError(_too_long(file, path, max_s))
    # Sums of floats may overflow; what is not finite is found at the end.
    with np.errstate(over="ignore", invalid="ignore"):
        return samples.mean(axis=1)


def _read(file: Any, path: str | os.PathLike, limit: int) -> np.ndarray:
    """Decodes at most `limit` samples: float32 (samples, channels)."""
    soundfile = required("soundfile", "Reading recordings")
    try:
        # In one go: after each read soundfile seeks, and in an MP3 not to the place.
        return file.read(limit, dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise ValueError(
            f"A recording must be complete. Received: {path}, damaged ({error})"
        ) from error


def _too_long(file: Any, path: str | os.PathLike, max_s: float) -> str:
    return (
        f"A recording must last at most {max_s:g} s. "
        f"Received: {path}, {file.frames / file.samplerate:.1f} s"
    )


def num_samples(num_samples: Any, source_hz: Any, target_hz: int) -> Any:
    """Length after resampling, rounded; of numbers or int64 tensors."""
    return (2 * num_samples * target_hz + source_hz) // (2 * source_hz)


def resample(audio: np.ndarray, source_hz: int, target_hz: int) -> np.ndarray:
    """Audio at another rate, through soxr.

    Args:
        audio: float32 (samples,).
        source_hz: Samples per second.
        target_hz: Samples per second of the result.

    Returns:
        float32 (samples * target_hz / source_hz,), rounded.

    Raises:
        ImportError: If soxr is needed and not installed.
    """
    if source_hz == target_hz or not audio.size:
        return audio
    soxr = required("soxr", "Resampling")
    resampled = soxr.resample(audio, source_hz, target_hz)
    length = num_samples(audio.size, source_hz, target_hz)
    return np.pad(resampled[:length], (0, max(0, length - resampled.size)))


def finished(
    audio: np.ndarray, path: str | os.PathLike, sample_rate: int, max_s: float
) -> np.ndarray:
    """Checks resampled audio and brings it into [-1, 1]."""
    duration = audio.size / sample_rate
    if not np.isfinite(audio).all():
        raise ValueError(
            f"A recording must be finite. Received: {path}, with NaN, infinite or "
            "overflowing samples"
        )
    # Half a sample of tolerance: the length was rounded.
    if not MIN_S - 0.5 / sample_rate <= duration <= max_s + 0.5 / sample_rate:
        raise ValueError(
            f"A recording must last {MIN_S:g} to {max_s:g} s. "
            f"Received: {path}, {duration:.2f} s"
        )
    swing = (float(audio.max()) - float(audio.min())) / 2
    if swing < SILENCE_PEAK:
        raise ValueError(
            f"A recording must not be silent. Received: {path}, peak {swing:.1g}"
        )
    return (audio / max(1.0, float(np.abs(audio).max()))).astype(np.float32)
