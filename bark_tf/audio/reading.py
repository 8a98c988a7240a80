"""Recordings from sound files: decoded, resampled, checked.

Audio is float32 (samples,), mono, in [-1, 1].
"""

from __future__ import annotations

import math
import os
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import soxr

from bark_tf.audio.containers import CONTAINERS, Container, container_of
from bark_tf.files import refuse_lfs_pointer

MIN_S = 0.3
MAX_S = 60.0
# Half the difference between the largest and the smallest sample: -60 dB.
SILENCE_PEAK = 1e-3
FORMATS = ("WAV", "WAVEX", "FLAC", "OGG", "MP3")  # soundfile's names
_KINDS = "WAV, FLAC, Ogg, MP3, or with the extra `formats` MP4, AAC or WebM"
# Names of files that may hold what `load` reads.
SUFFIXES = (
    *(".wav", ".flac", ".ogg", ".mp3", ".opus"),
    *(".m4a", ".mp4", ".aac", ".webm"),  # with the extra `formats`
)
# Samples per second that recordings have and that they are resampled to.
_SAMPLE_RATES = (4_000, 384_000)
_MAX_CHANNELS = 2
# Samples that are read or made at once: 46 minutes at 24 kHz, 256 MB.
_MAX_SAMPLES = 2**26

# A WAV file that promises at least this many bytes is a stream of unknown length.
_STREAM_SIZE = 0x7FFF_F000
# Share of the promised bytes that a WAV file may lack.
_MAX_MISSING = 0.01
_MAX_CHUNKS = 1_000


# === Recordings ===


def load(
    path: str | os.PathLike, sample_rate: int, *, max_s: float = MAX_S
) -> np.ndarray:
    """Reads a recording.

    WAV (8, 16, 24 and 32-bit integers, 32 and 64-bit floats), FLAC, Ogg (Vorbis and
    Opus) and MP3; with the extra `formats` also MP4 (such as m4a), AAC and WebM; all
    recognised by their content. Stereo is averaged. Audio that exceeds
    [-1, 1], as floats may, is scaled down as a whole, not clipped. However long the
    header says the recording is, reading takes no more memory than `max_s` needs.

    Args:
        path: The file.
        sample_rate: Samples per second of the result.
        max_s: Seconds a recording may last; at most 2**26 samples.

    Returns:
        float32 (samples,), mono, [-1, 1]; samples = duration * sample_rate, rounded.

    Raises:
        ValueError: If an argument is out of range, or the file is missing, empty,
            damaged, cut short, not mono or stereo, not finite, silent, shorter than
            `MIN_S` or longer than `max_s`; the message names the file and the reason.
            An MP3 does not say how long it is, so one that was cut short is accepted.
    """
    check_reading(sample_rate, max_s)
    with open_recording(path) as file:
        source_hz = file.samplerate
        audio = _read_all(file, path, max_s)
    return checked(resample(audio, source_hz, sample_rate), path, sample_rate, max_s)


class Opening(NamedTuple):
    """The beginning of a recording.

    Attributes:
        samples: float32 (samples, channels), not resampled; a file of floats may exceed
            [-1, 1].
        sample_rate: Samples per second.
        duration_s: Seconds of the whole recording, according to the file.
    """

    samples: np.ndarray
    sample_rate: int
    duration_s: float


def load_opening(path: str | os.PathLike, max_s: float = MAX_S) -> Opening:
    """Reads the first seconds of a recording of any length.

    Args:
        path: The file, in a format that `load` reads.
        max_s: Seconds to read.

    Returns:
        `Opening`.

    Raises:
        ValueError: If the file is missing, empty, damaged, cut short, not mono or
            stereo, or not finite; the message names the file and the reason.
    """
    check_limit(max_s)
    with open_recording(path) as file:
        rate = file.samplerate
        limit = _limit(file, max_s)
        samples = _read(file, path, limit)
        claimed_s = file.frames / rate
    if not np.isfinite(samples).all():
        raise ValueError(
            f"A recording must be finite. Received: {path}, with NaN or infinity"
        )
    read_s = len(samples) / rate
    # The header of a stream promises more than the file holds.
    is_whole = len(samples) < limit
    return Opening(samples, rate, read_s if is_whole else max(claimed_s, read_s))


def check_rate(sample_rate: int) -> None:
    """Raises ValueError unless the sample rate is a positive whole number."""
    if not isinstance(sample_rate, int | np.integer) or not 0 < sample_rate < 2**31:
        raise ValueError(
            "sample_rate must be a positive whole number. "
            f"Received: sample_rate={sample_rate!r}"
        )


def check_limit(max_s: float) -> None:
    """Raises ValueError unless the limit is finite and at least `MIN_S`."""
    if not MIN_S <= max_s < math.inf:
        raise ValueError(
            f"max_s must be finite and at least {MIN_S}. Received: max_s={max_s!r}"
        )


def check_reading(sample_rate: int, max_s: float) -> None:
    """Raises ValueError unless recordings can be read at this rate and length."""
    check_rate(sample_rate)
    check_limit(max_s)
    check_resampling(sample_rate)
    if max_s * sample_rate > _MAX_SAMPLES:
        raise ValueError(
            f"max_s must be at most {_MAX_SAMPLES // sample_rate} at {sample_rate} "
            f"samples per second. Received: max_s={max_s!r}"
        )


def check_resampling(*rates: int) -> None:
    """Raises ValueError unless audio can be resampled from or to these rates."""
    low, high = _SAMPLE_RATES
    if not all(low <= rate <= high for rate in rates):
        raise ValueError(
            f"Audio can be resampled between {low} and {high} samples per second. "
            f"Received: {' and '.join(map(repr, rates))}"
        )


def _limit(file: soundfile.SoundFile | Container, max_s: float) -> int:
    """The most samples per channel to read."""
    return int(min(max_s * file.samplerate, _MAX_SAMPLES // file.channels))


def open_recording(path: str | os.PathLike) -> soundfile.SoundFile | Container:
    """Opens a file that `load` can read.

    Raises:
        ValueError: If the file is missing, empty, cut short, or not mono or stereo
            audio of a format in `FORMATS` or `CONTAINERS`, or needs a package that is
            missing.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"A recording must be a file. Received: {path}")
    if not path.stat().st_size:
        raise ValueError(f"A recording must not be empty. Received: {path}, 0 bytes")
    container = container_of(path)
    try:
        file = Container(path, container) if container else soundfile.SoundFile(path)
    except ImportError as error:
        raise ValueError(f"{error}. Received: {path}") from error
    except (soundfile.SoundFileError, TypeError, ValueError) as error:
        refuse_lfs_pointer(path)
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


def _check_header(file: soundfile.SoundFile | Container, path: Path) -> None:
    low, high = _SAMPLE_RATES
    for is_right, expected, received in (
        (file.format in (*FORMATS, *CONTAINERS), f"be {_KINDS}", file.format),
        (
            1 <= file.channels <= _MAX_CHANNELS,
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
    promised, present = wav_bytes(path)
    if present < promised * (1 - _MAX_MISSING) and promised < _STREAM_SIZE:
        raise ValueError(
            f"A recording must be complete. Received: {path}, cut short: "
            f"{present} of {promised} bytes of samples"
        )


def wav_bytes(path: str | os.PathLike) -> tuple[int, int]:
    """Measures the samples of a WAV file; soundfile reports only those present.

    Returns:
        Bytes that the header promises, and bytes after it; zeros for other formats.
    """
    with open(path, "rb") as file:
        head = file.read(12)
        if head[:4] != b"RIFF" or head[8:] != b"WAVE":
            return 0, 0
        for _ in range(_MAX_CHUNKS):
            chunk = file.read(8)
            if len(chunk) < 8:
                break
            name, size = struct.unpack("<4sI", chunk)
            if name == b"data":
                return size, os.fstat(file.fileno()).st_size - file.tell()
            file.seek(size + size % 2, os.SEEK_CUR)
    return 0, 0


def _read_all(
    file: soundfile.SoundFile | Container, path: str | os.PathLike, max_s: float
) -> np.ndarray:
    """Decodes float32 (samples,), mono, at the file's rate."""
    limit = _limit(file, max_s)
    samples = _read(file, path, limit + 1)
    if len(samples) > limit:
        raise ValueError(_too_long(file, path, max_s))
    # Sums of floats may overflow; `checked` refuses what is not finite.
    with np.errstate(over="ignore", invalid="ignore"):
        return samples.mean(axis=1)


def _read(
    file: soundfile.SoundFile | Container, path: str | os.PathLike, limit: int
) -> np.ndarray:
    """Decodes at most `limit` samples: float32 (samples, channels)."""
    try:
        # In one go: soundfile seeks after each read, and in an MP3 to a wrong place.
        return file.read(limit, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, ValueError) as error:
        raise ValueError(
            f"A recording must be complete. Received: {path}, damaged ({error})"
        ) from error


def _too_long(
    file: soundfile.SoundFile | Container, path: str | os.PathLike, max_s: float
) -> str:
    most = _limit(file, max_s) / file.samplerate
    seconds = max(most, file.frames / file.samplerate)
    return (
        f"A recording must last at most {most:g} s. Received: {path}, {seconds:.1f} s"
    )


# === Resampling and checking ===


def resampled_length(num_samples: Any, source_hz: Any, target_hz: int) -> Any:
    """Rounded number of samples after resampling, of integers or int64 tensors."""
    return (2 * num_samples * target_hz + source_hz) // (2 * source_hz)


def resample(audio: np.ndarray, source_hz: int, target_hz: int) -> np.ndarray:
    """Converts audio to another sample rate.

    Args:
        audio: float32 (samples,).
        source_hz: Samples per second.
        target_hz: Samples per second of the result.

    Returns:
        float32 (samples * target_hz / source_hz,), rounded.

    Raises:
        ValueError: If a rate is below 4,000 or above 384,000.
    """
    check_resampling(source_hz, target_hz)
    if source_hz == target_hz or not audio.size:
        return audio
    resampled = soxr.resample(audio, source_hz, target_hz)
    length = resampled_length(audio.size, source_hz, target_hz)
    return np.pad(resampled[:length], (0, max(0, length - resampled.size)))


def checked(
    audio: np.ndarray, path: str | os.PathLike, sample_rate: int, max_s: float
) -> np.ndarray:
    """Refuses a recording that `load` refuses; scales the others into [-1, 1].

    Args:
        audio: float32 (samples,), resampled.
        path: The file, for the error message.
        sample_rate: Samples per second of `audio`.
        max_s: Seconds a recording may last.

    Returns:
        float32 (samples,), [-1, 1].

    Raises:
        ValueError: If it is not finite, too short, too long or silent.
    """
    duration = audio.size / sample_rate
    if not np.isfinite(audio).all():
        raise ValueError(
            f"A recording must be finite. Received: {path}, with NaN, infinite or "
            "overflowing samples"
        )
    # Half a sample of tolerance, because the length is rounded.
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
