"""Audio files and pieces of audio: write, read, stream, join.

WAV needs nothing but NumPy. FLAC, Ogg and the rarer kinds of WAV go through soundfile
(`pip install "bark-tf[audio]"`), resampling through soxr.

Audio is float32 in [-1, 1]. A 16-bit sample is the audio times 32768, so reading a
16-bit file and writing it again changes nothing.
"""

from __future__ import annotations

import os
import struct
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from bark_tf.files import atomic_write

# Ending of a file -> soundfile's name of the format, the encoding by default.
FORMATS = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
}
# Encodings of WAV written here -> the header's code, bytes per sample.
_WAV_SUBTYPES = {"PCM_16": (1, 2), "FLOAT": (3, 4)}
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
# Encodings that hold values outside [-1, 1].
_UNBOUNDED = ("FLOAT", "DOUBLE")
_PCM16_SCALE = 2**15
# A RIFF size: the largest, and what stands for "until the stream ends".
_MAX_SIZE = _UNKNOWN_SIZE = 2**32 - 1
_SOUNDFILE_BLOCK = 2**16  # samples


# === Checking ===


def _checked(audio: Any) -> np.ndarray:
    """A copy of one row of audio as float32 (samples,)."""
    array = np.asarray(audio)
    if array.ndim == 2 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 1:
        raise ValueError(
            "audio must be (samples,) or (1, samples); of a batch, one row at a time. "
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


def _check_rate(sample_rate: int) -> None:
    if not isinstance(sample_rate, int | np.integer) or not 0 < sample_rate < 2**31:
        raise ValueError(
            "sample_rate must be a positive whole number. "
            f"Received: sample_rate={sample_rate!r}"
        )


def _clipped(audio: np.ndarray) -> np.ndarray:
    peak = np.abs(audio).max(initial=0.0)
    if peak <= 1:
        return audio
    warnings.warn(
        f"The audio exceeds [-1, 1] and is clipped. Received: a peak of {peak:.3g}",
        UserWarning,
        stacklevel=3,
    )
    return np.clip(audio, -1, 1)


def check_destination(path: str | os.PathLike) -> None:
    """Raises what `write_audio` would raise for this path, before any work is done.

    Args:
        path: The file to be written.

    Raises:
        ValueError: If the ending is not one of `FORMATS`.
        ImportError: If the format needs soundfile, which is not installed.
        OSError: If the directory does not exist or cannot be written to.
    """
    path = Path(path)
    if _suffix(path) != ".wav":
        _soundfile(f"{path.suffix} files")
    if path.is_dir():
        raise IsADirectoryError(f"{str(path)!r} is a directory, not a file")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"There is no directory {str(path.parent)!r}")
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(f"The directory {str(path.parent)!r} is not writable")


def _suffix(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise ValueError(
            f"An audio file must end in {', '.join(FORMATS)}. Received: {str(path)!r}"
        )
    return suffix


def _soundfile(what: str):
    try:
        import soundfile
    except ImportError as error:
        raise ImportError(
            f'{what} need soundfile: pip install "bark-tf[audio]"'
        ) from error
    return soundfile


# === Writing ===


def to_pcm16(audio: Any) -> np.ndarray:
    """Rounds audio to 16-bit samples, without dither.

    Args:
        audio: Floating-point (samples,) or (1, samples); clipped to [-1, 1] with a
            warning.

    Returns:
        int16 (samples,), little-endian.
    """
    scaled = np.rint(_clipped(_checked(audio)) * _PCM16_SCALE)
    # +1 itself is one step above the largest sample.
    return np.minimum(scaled, _PCM16_SCALE - 1).astype("<i2")


def wav_header(
    sample_rate: int, num_samples: int | None = None, subtype: str = "PCM_16"
) -> bytes:
    """The bytes of a mono WAV file up to its first sample.

    Args:
        sample_rate: Samples per second.
        num_samples: None for a stream: players then read until it ends.
        subtype: `"PCM_16"`, or `"FLOAT"` (32 bit).

    Returns:
        The header.

    Raises:
        ValueError: If an argument is out of range; a WAV file ends at 4 GiB.

    Example:
        >>> len(wav_header(24_000))
        44
    """
    _check_rate(sample_rate)
    if subtype not in _WAV_SUBTYPES:
        raise ValueError(
            f"subtype must be one of {', '.join(_WAV_SUBTYPES)}. "
            f"Received: subtype={subtype!r}"
        )
    code, width = _WAV_SUBTYPES[subtype]
    body = struct.pack(
        "<HHIIHH", code, 1, sample_rate, sample_rate * width, width, 8 * width
    )
    if code != _PCM:
        body += struct.pack("<H", 0)
    chunks = b"WAVE" + _chunk(b"fmt ", body)
    if code != _PCM and num_samples is not None:
        chunks += _chunk(b"fact", struct.pack("<I", num_samples))
    riff_size = data_size = _UNKNOWN_SIZE
    if num_samples is not None:
        data_size = num_samples * width
        riff_size = len(chunks) + struct.calcsize("<4sI") + data_size
    if riff_size > _MAX_SIZE:
        raise ValueError(
            f"A WAV file holds at most 4 GiB. Received: {num_samples} samples"
        )
    riff = struct.pack("<4sI", b"RIFF", riff_size)
    return riff + chunks + struct.pack("<4sI", b"data", data_size)


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack("<4sI", name, len(body)) + body


def write_audio(
    path: str | os.PathLike,
    audio: Any,
    sample_rate: int,
    subtype: str | None = None,
) -> Path:
    """Writes mono audio to a `.wav`, `.flac` or `.ogg` file.

    Args:
        path: Where to; a file of that name is replaced. It appears complete or not at
            all.
        audio: Floating-point (samples,) or (1, samples), [-1, 1]; a tensor too. Louder
            audio is clipped with a warning. It may be empty, but not as FLAC.
        sample_rate: Samples per second.
        subtype: How samples are encoded, by soundfile's names. By default 16 bit for
            `.wav` and `.flac`, Vorbis for `.ogg`. `"FLOAT"` WAV is never clipped.

    Returns:
        The path.

    Raises:
        ValueError: If the audio is not one row of finite numbers, or the format or
            encoding does not exist.
        ImportError: If soundfile is needed and not installed.
        OSError: If the file cannot be written; the error names it.

    Example:
        >>> write_audio("beep.wav", np.sin(np.arange(2400) / 8), 24_000).name
        'beep.wav'
    """
    path = Path(path)
    check_destination(path)
    _check_rate(sample_rate)
    audio = _checked(audio)
    name, default = FORMATS[_suffix(path)]
    subtype = default if subtype is None else subtype
    samples: np.ndarray = audio
    if subtype == "PCM_16":
        samples = to_pcm16(audio)
    elif subtype not in _UNBOUNDED:
        samples = _clipped(audio)
    try:
        with atomic_write(path) as temporary:
            if name == "WAV" and subtype in _WAV_SUBTYPES:
                _write_wav(temporary, samples, sample_rate, subtype)
            else:
                _write_with_soundfile(temporary, samples, sample_rate, subtype, name)
    except OSError as error:
        if error.errno is None:
            raise
        # By the name that was asked for, not that of the temporary file.
        raise OSError(error.errno, error.strerror, str(path)) from error
    return path


def _write_wav(path: Path, samples: np.ndarray, sample_rate: int, subtype: str) -> None:
    header = wav_header(sample_rate, samples.size, subtype)
    kind = "<i2" if subtype == "PCM_16" else "<f4"
    with open(path, "wb") as file:
        file.write(header)
        file.write(samples.astype(kind).tobytes())


def _write_with_soundfile(
    path: Path, samples: np.ndarray, sample_rate: int, subtype: str, name: str
) -> None:
    soundfile = _soundfile(f"{name} files with {subtype}")
    if not soundfile.check_format(name, subtype):
        known = ", ".join(soundfile.available_subtypes(name))
        raise ValueError(
            f"subtype of a {name} file must be one of {known}. "
            f"Received: subtype={subtype!r}"
        )
    if name == "FLAC" and not samples.size:
        raise ValueError("A .flac file must have samples; use .wav. Received: none")
    try:
        with soundfile.SoundFile(
            path, "w", sample_rate, channels=1, subtype=subtype, format=name
        ) as file:
            # In blocks: libsndfile's Vorbis encoder overflows its stack on long writes.
            for start in range(0, samples.size, _SOUNDFILE_BLOCK):
                file.write(samples[start : start + _SOUNDFILE_BLOCK])
    except soundfile.LibsndfileError as error:
        raise OSError(f"Could not write the {name} file: {error}") from error


# === Reading ===


class _WavFormat(NamedTuple):
    """What a WAV file's `fmt ` chunk says."""

    code: int
    channels: int
    sample_rate: int
    width: int  # bytes per sample


def read_audio(
    path: str | os.PathLike, sample_rate: int | None = None, mono: bool = True
) -> tuple[np.ndarray, int]:
    """Reads an audio file.

    WAV with 8, 16, 24 or 32-bit integers or floats is read here; everything else goes
    through soundfile.

    Args:
        path: The file.
        sample_rate: What to resample to (needs soxr); None: leave it.
        mono: Whether channels are averaged into one.

    Returns:
        float32 (samples,), or (channels, samples) if not `mono`, [-1, 1]; and the
        samples per second.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, is no audio, or holds NaN or infinity.
        ImportError: If soundfile or soxr is needed and not installed.
    """
    if sample_rate is not None:
        _check_rate(sample_rate)
    with open(path, "rb") as file:
        decoded = _read_wav(file, path)
    audio, rate = _read_with_soundfile(path) if decoded is None else decoded
    if not np.isfinite(audio).all():
        raise ValueError(f"{path} holds samples that are NaN or infinite")
    if mono:
        audio = audio[0] if len(audio) == 1 else audio.mean(axis=0)
    if sample_rate is not None and sample_rate != rate:
        audio, rate = _resample(audio, rate, sample_rate), sample_rate
    return np.ascontiguousarray(audio, np.float32), rate


def _read_wav(
    file: IO[bytes], path: str | os.PathLike
) -> tuple[np.ndarray, int] | None:
    """Reads a WAV file; None if it is not one, or of a kind for soundfile."""
    head = file.read(12)
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        return None
    form = None
    while True:
        chunk = file.read(8)
        if len(chunk) < 8:
            raise ValueError(f"{path} is not a complete WAV file: it has no samples")
        name, size = struct.unpack("<4sI", chunk)
        if name == b"data":
            break
        start = file.tell()
        if name == b"fmt ":
            form = _parse_format(file.read(min(size, 40)), path)
        file.seek(start + size + size % 2)
    if form is None:
        raise ValueError(f"{path} is not a WAV file: its samples have no format")
    if (form.code, form.width) not in _DECODERS:
        return None
    # A stream's header promises more than there is.
    there = os.fstat(file.fileno()).st_size - file.tell()
    return _decode(file.read(min(size, there)), form), form.sample_rate


def _parse_format(body: bytes, path: str | os.PathLike) -> _WavFormat:
    if len(body) < 16:
        raise ValueError(f"{path} is not a WAV file: its format chunk is too short")
    code, channels, sample_rate, _, block, bits = struct.unpack("<HHIIHH", body[:16])
    if code == _EXTENSIBLE and len(body) == 40:
        (code,) = struct.unpack("<H", body[24:26])
    width = bits // 8
    is_whole = bits % 8 == 0 and block == channels * width
    if code in (_PCM, _FLOAT) and not (channels and sample_rate and width and is_whole):
        raise ValueError(
            f"{path} is not a WAV file: it claims {channels} channels of {bits} bits "
            f"in {block} bytes at {sample_rate} Hz"
        )
    return _WavFormat(code, channels, sample_rate, width)


def _from_int24(data: bytes) -> np.ndarray:
    samples = np.zeros((len(data) // 3, 4), np.uint8)
    # The highest bytes of 32-bit integers.
    samples[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
    return _from_integers(samples.tobytes(), "<i4")


def _from_integers(data: bytes, kind: str) -> np.ndarray:
    samples = np.frombuffer(data, kind)
    return (samples / 2.0 ** (8 * samples.itemsize - 1)).astype(np.float32)


# (code, bytes per sample) -> what makes float32 of them.
_DECODERS = {
    (_PCM, 1): lambda data: (np.frombuffer(data, np.uint8) / np.float32(128)) - 1,
    (_PCM, 2): lambda data: _from_integers(data, "<i2"),
    (_PCM, 3): _from_int24,
    (_PCM, 4): lambda data: _from_integers(data, "<i4"),
    (_FLOAT, 4): lambda data: np.frombuffer(data, "<f4"),
    (_FLOAT, 8): lambda data: np.frombuffer(data, "<f8").astype(np.float32),
}


def _decode(data: bytes, form: _WavFormat) -> np.ndarray:
    """float32 (channels, samples); an incomplete last sample is left out."""
    frame = form.channels * form.width
    data = data[: len(data) // frame * frame]
    samples = _DECODERS[form.code, form.width](data)
    return samples.reshape(-1, form.channels).T


def _read_with_soundfile(path: str | os.PathLike) -> tuple[np.ndarray, int]:
    soundfile = _soundfile("Audio files other than plain WAV")
    try:
        audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise ValueError(f"{path} is not an audio file: {error}") from error
    return audio.T, rate


def _resample(audio: np.ndarray, source_hz: int, target_hz: int) -> np.ndarray:
    try:
        import soxr
    except ImportError as error:
        raise ImportError(
            f"Resampling from {source_hz} to {target_hz} Hz needs soxr: "
            "pip install soxr"
        ) from error
    # soxr wants time first.
    return soxr.resample(audio.T, source_hz, target_hz).T


# === Pieces ===


def silence(duration_s: float, sample_rate: int) -> np.ndarray:
    """Silence: float32 (samples,)."""
    _check_rate(sample_rate)
    return np.zeros(_num_samples(duration_s, sample_rate, "duration_s"), np.float32)


def _num_samples(duration_s: float, sample_rate: int, name: str) -> int:
    if not 0 <= duration_s < np.inf:
        raise ValueError(f"{name} must be at least 0. Received: {name}={duration_s!r}")
    return round(duration_s * sample_rate)


def join(
    chunks: Iterable[Any],
    sample_rate: int,
    *,
    gap_s: float = 0.0,
    fade_s: float = 0.01,
) -> np.ndarray:
    """Joins pieces of audio without clicks at the joints.

    At a joint the piece before fades out and the piece after fades in; nothing
    overlaps, so durations add up. The very start and end are left as they are.

    Args:
        chunks: Pieces, each floating-point (samples,) or (1, samples); empty ones are
            left out.
        sample_rate: Samples per second.
        gap_s: Seconds of silence at a joint.
        fade_s: Seconds of a fade, at most half a piece; 0 for pieces that continue
            each other.

    Returns:
        float32 (samples,).

    Example:
        >>> join([np.ones(3), np.ones(2)], 10, gap_s=0.1, fade_s=0).tolist()
        [1.0, 1.0, 1.0, 0.0, 1.0, 1.0]
    """
    gap = silence(gap_s, sample_rate)
    fade = _num_samples(fade_s, sample_rate, "fade_s")
    pieces = [piece for piece in map(_checked, chunks) if piece.size]
    joined: list[np.ndarray] = []
    for index, piece in enumerate(pieces):
        if index > 0:
            joined.append(gap)
        is_last = index == len(pieces) - 1
        joined.append(_faded(piece, fade, at_start=index > 0, at_end=not is_last))
    return np.concatenate(joined) if joined else np.zeros(0, np.float32)


def _faded(
    piece: np.ndarray, length: int, *, at_start: bool, at_end: bool
) -> np.ndarray:
    """Fades a piece in place."""
    length = min(length, piece.size // 2)
    if not length:
        return piece
    ramp = (np.arange(length, dtype=np.float32) + 0.5) / length
    if at_start:
        piece[:length] *= ramp
    if at_end:
        piece[-length:] *= ramp[::-1]
    return piece
