"""Recordings as training sees them: decoded, resampled, checked; trimmed and varied.

Two worlds: soundfile and soxr work with every TensorFlow; tensorflow-io's native
kernels, which decode and resample inside a `tf.data` graph, load with TensorFlow 2.16
and 2.17 only. `load` uses the former everywhere, `dataset_audio` the latter where it
can.

Audio is float32 (samples,), mono, in [-1, 1]. All of this needs the extra `train`.
"""

from __future__ import annotations

import functools
import math
import os
import struct
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

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

# === tensorflow-io ===
# (format, encoding) of files that its kernels decode. Others go through soundfile: the
# kernels refuse 64-bit floats and Opus, take 32-bit integers for floats, and loop for
# ever in a FLAC file that lacks a piece, which only decoding all of it would show.
_KERNELS = (
    ("WAV", "PCM_U8"),
    ("WAV", "PCM_16"),
    ("WAV", "PCM_24"),
    ("WAV", "FLOAT"),
    ("OGG", "VORBIS"),
    ("MP3", "MPEG_LAYER_III"),
)
_NO_KERNEL = -1
# Encoding of WAV -> the kernel's type, the value of silence, the value of 1.
_WAV_SCALES = {
    "PCM_U8": (tf.uint8, 2.0**7, 2.0**7),
    "PCM_16": (tf.int16, 0.0, 2.0**15),
    "PCM_24": (tf.int32, 0.0, 2.0**31),  # in the highest bytes
    "FLOAT": (tf.float32, 0.0, 1.0),
}
# Taps of the resampler's filter at equal rates, and what their number is a multiple of.
_FILTER_TAPS, _TAPS_STEP = 64, 8

# === Silence at the ends ===
_FRAME_S, _HOP_S = 0.02, 0.005
_FAINT = 3e-4  # -70 dB below full scale


def _required(module: str, what: str) -> Any:
    """Imports an optional package; ImportError names the extra."""
    try:
        return __import__(module)
    except ImportError as error:
        package = module.replace("_", "-")
        raise ImportError(
            f'{what} needs {package}: pip install "bark-tf[train]"'
        ) from error


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
    _check_rate(sample_rate)
    _check_limit(max_s)
    with _opened(path) as file:
        source_hz = file.samplerate
        audio = _read_all(file, path, max_s)
    return _finished(resample(audio, source_hz, sample_rate), path, sample_rate, max_s)


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
    _check_limit(max_s)
    with _opened(path) as file:
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


def _check_rate(sample_rate: int) -> None:
    if not isinstance(sample_rate, int | np.integer) or sample_rate <= 0:
        raise ValueError(
            "sample_rate must be a positive whole number. "
            f"Received: sample_rate={sample_rate!r}"
        )


def _check_limit(max_s: float) -> None:
    if not MIN_S <= max_s < math.inf:
        raise ValueError(
            f"max_s must be finite and at least {MIN_S}. Received: max_s={max_s!r}"
        )


def _opened(path: str | os.PathLike):
    """A soundfile.SoundFile of a kind that is read here; ValueError otherwise."""
    soundfile = _required("soundfile", "Reading recordings")
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
    header = _wav_header(path)
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


def _wav_header(path: Path) -> _WavHeader | None:
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
    soundfile = _required("soundfile", "Reading recordings")
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


def _num_samples(num_samples: Any, source_hz: Any, target_hz: int) -> Any:
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
    soxr = _required("soxr", "Resampling")
    resampled = soxr.resample(audio, source_hz, target_hz)
    length = _num_samples(audio.size, source_hz, target_hz)
    return np.pad(resampled[:length], (0, max(0, length - resampled.size)))


def _finished(
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


# === Inside a tf.data graph ===


@functools.cache
def uses_tensorflow_io() -> bool:
    """Whether tensorflow-io's native kernels load with this TensorFlow.

    Returns:
        True with TensorFlow 2.16 and 2.17 and tensorflow-io 0.37.1; False if it is not
        installed or was built for another TensorFlow.
    """
    try:
        tensorflow_io = _tensorflow_io("Decoding")
        with tf.init_scope():
            tensorflow_io.audio.resample(tf.zeros([1]), 2, 1)
    except (ImportError, NotImplementedError):
        return False
    return True


def _tensorflow_io(what: str) -> Any:
    with warnings.catch_warnings():
        # Without its kernels it still imports, and says so at length.
        warnings.simplefilter("ignore")
        return _required("tensorflow_io", what)


def dataset_audio(
    paths: Iterable[str | os.PathLike], sample_rate: int, *, max_s: float = MAX_S
) -> tf.data.Dataset:
    """Recordings as a `tf.data.Dataset`, in the order of their paths.

    Where `uses_tensorflow_io()`, decoding and resampling run inside the graph in
    tensorflow-io's kernels, except for FLAC and other files that those kernels read
    wrongly or not at all; elsewhere `load` is called. Both worlds give as many samples,
    and up to 0.4 times the lower of both sample rates equal values within 1e-3 (of a
    peak of 1). Above that tensorflow-io's filter is the softer one: at 0.45 times the
    rate it takes a fifth of the amplitude, where soxr takes nothing.

    A recording that `load` would refuse raises `tf.errors.InvalidArgumentError` when
    its turn comes; the iterator then goes on with the next one. `load_many` deals with
    that.

    Args:
        paths: The files.
        sample_rate: Samples per second of the result.
        max_s: Seconds a recording may last.

    Returns:
        Dataset of float32 (samples,), mono, [-1, 1].

    Raises:
        ValueError: If `sample_rate` or `max_s` is out of range.
        ImportError: If soundfile or soxr is not installed.

    Example:
        >>> dataset_audio(["a.wav", "b.flac"], 24_000).padded_batch(2)
    """
    _check_rate(sample_rate)
    _check_limit(max_s)
    for module in ("soundfile", "soxr"):
        _required(module, "Reading recordings")
    names = tf.constant([os.fsencode(path) for path in paths], tf.string, name="paths")
    names = tf.reshape(names, [-1])
    return tf.data.Dataset.from_tensor_slices(names).map(
        _reader(sample_rate, max_s),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )


@functools.lru_cache(maxsize=8)
def _reader(sample_rate: int, max_s: float) -> Any:
    """The `tf.function` that reads one file: string () -> float32 (samples,)."""
    read = _read_in_graph if uses_tensorflow_io() else _load_in_graph
    return tf.function(
        lambda name: read(name, sample_rate, max_s),
        input_signature=[tf.TensorSpec([], tf.string)],
    )


def load_many(
    paths: Iterable[str | os.PathLike], sample_rate: int, *, max_s: float = MAX_S
) -> Iterator[np.ndarray | ValueError]:
    """Reads recordings one after the other through `dataset_audio`.

    Args:
        paths: The files.
        sample_rate: Samples per second of the result.
        max_s: Seconds a recording may last.

    Yields:
        For each path float32 (samples,), mono, [-1, 1], or the error that `load`
        raises.
    """
    paths = list(paths)
    elements = iter(dataset_audio(paths, sample_rate, max_s=max_s))
    for path in paths:
        try:
            yield next(elements).numpy()
        except tf.errors.OpError:
            yield _load_or_error(path, sample_rate, max_s)


def _load_or_error(
    path: str | os.PathLike, sample_rate: int, max_s: float
) -> np.ndarray | ValueError:
    try:
        return load(path, sample_rate, max_s=max_s)
    except ValueError as error:
        return error


def _load_in_graph(name: tf.Tensor, sample_rate: int, max_s: float) -> tf.Tensor:
    def run(name: bytes) -> np.ndarray:
        return load(os.fsdecode(name), sample_rate, max_s=max_s)

    return tf.ensure_shape(tf.numpy_function(run, [name], tf.float32), [None])


def _read_in_graph(name: tf.Tensor, sample_rate: int, max_s: float) -> tf.Tensor:
    """Like `_load_in_graph`, decoded and resampled by tensorflow-io where possible."""

    def choose(name: bytes) -> tuple[np.int32, np.int64, np.int64]:
        return _kernel_for(os.fsdecode(name), max_s)

    def finish(audio: np.ndarray, name: bytes) -> np.ndarray:
        return _finished(audio, os.fsdecode(name), sample_rate, max_s)

    kernel, num_samples, source_hz = tf.numpy_function(
        choose, [name], (tf.int32, tf.int64, tf.int64)
    )
    audio = _decode_in_graph(name, kernel)
    # A kernel that lost its way decodes another number of samples than the header says.
    is_right = (kernel != _NO_KERNEL) & (tf.size(audio, tf.int64) == num_samples)

    def resampled() -> tf.Tensor:
        audio_at_rate = _resample_in_graph(audio, source_hz, sample_rate)
        return tf.numpy_function(finish, [audio_at_rate, name], tf.float32)

    audio = tf.cond(
        is_right, resampled, lambda: _load_in_graph(name, sample_rate, max_s)
    )
    return tf.ensure_shape(audio, [None])


def _kernel_for(path: str, max_s: float) -> tuple[np.int32, np.int64, np.int64]:
    """Which kernel may decode a file; samples and samples per second of its header.

    The kernels trust the header: they allocate what it promises and decode nothing
    after a WAV chunk of odd size. They get only files whose last sample soundfile can
    reach.
    """
    header = _wav_header(Path(path)) if Path(path).is_file() else None
    with _opened(path) as file:
        kind = (file.format.removesuffix("EX"), file.subtype)
        is_safe = (
            kind in _KERNELS
            and file.frames <= max_s * file.samplerate
            and _reaches_end(file)
        )
        if header is not None:
            is_safe = is_safe and header.is_even and header.promised <= header.there
        kernel = _KERNELS.index(kind) if is_safe else _NO_KERNEL
        return np.int32(kernel), np.int64(file.frames), np.int64(file.samplerate)


def _reaches_end(file: Any) -> bool:
    soundfile = _required("soundfile", "Reading recordings")
    try:
        file.seek(file.frames - 1)
        return len(file.read(1)) == 1
    except (soundfile.SoundFileError, ValueError):
        return False


def _decode_in_graph(name: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """float32 (samples,), mono, at the file's rate; empty where there is no kernel."""
    branches = [functools.partial(_decode_kind, name, *kind) for kind in _KERNELS]
    index = tf.where(kernel == _NO_KERNEL, len(_KERNELS), kernel)
    return tf.switch_case(index, [*branches, lambda: tf.zeros([0])])


def _decode_kind(name: tf.Tensor, kind: str, subtype: str) -> tf.Tensor:
    audio = _tensorflow_io("Decoding").audio
    data = tf.io.read_file(name)
    if kind == "OGG":
        samples = audio.decode_vorbis(data)  # (samples, channels)
    elif kind == "MP3":
        samples = audio.decode_mp3(data)
    else:
        dtype, zero, one = _WAV_SCALES[subtype]
        samples = audio.decode_wav(data, dtype=dtype)
        samples = (tf.cast(samples, tf.float32) - zero) / one
    return tf.reduce_mean(samples, axis=1)


def _resample_in_graph(
    audio: tf.Tensor, source_hz: tf.Tensor, target_hz: int
) -> tf.Tensor:
    """Resamples in tensorflow-io's kernel, in time with the original.

    The kernel is late by half its filter and drops as much at the end. Zeros in front
    make the delay a whole number of samples of the result, which are then cut off.
    """

    def delays(source_hz: np.ndarray) -> tuple[np.int64, np.int64, np.int64]:
        return tuple(map(np.int64, _delays(int(source_hz), target_hz)))

    front, back, delay = tf.numpy_function(delays, [source_hz], (tf.int64,) * 3)
    length = _num_samples(tf.size(audio, tf.int64), source_hz, target_hz)

    def resampled() -> tf.Tensor:
        padded = tf.pad(audio, [[front, back]])
        resample = _tensorflow_io("Resampling").audio.resample
        late = resample(tf.ensure_shape(padded, [None]), source_hz, target_hz)
        return tf.ensure_shape(late[delay : delay + length], [None])

    return tf.cond(source_hz == target_hz, lambda: audio, resampled)


def _delays(source_hz: int, target_hz: int) -> tuple[int, int, int]:
    """Zeros in front and behind for tensorflow-io's resampler, and samples to cut off.

    Source: the Speex resampler at quality 4, as tensorflow-io 0.37 runs it: 64 taps,
    for a lower rate proportionally more, rounded up to a multiple of 8.
    """
    divisor = math.gcd(source_hz, target_hz)
    step = source_hz // divisor  # samples after which both grids meet
    taps = max(_FILTER_TAPS, _FILTER_TAPS * source_hz // target_hz)
    late = math.ceil(taps / _TAPS_STEP) * _TAPS_STEP // 2
    front = -late % step
    return front, late + step, (late + front) * target_hz // source_hz


# === Trimming and loudness ===


def trim(
    audio: np.ndarray,
    sample_rate: int,
    threshold_db: float = -40.0,
    keep_s: float = 0.05,
) -> np.ndarray:
    """Cuts silence off both ends; see `sound_bounds`.

    Args:
        audio: float32 (samples,).
        sample_rate: Samples per second.
        threshold_db: Level below which a frame of 20 ms is silent, relative to the
            loudest; negative.
        keep_s: Seconds of silence left at each end.

    Returns:
        float32 (samples,), a copy; all of it if nothing stands out.

    Raises:
        ValueError: If an argument is out of range.

    Differs: tensorflow-io's `trim` compares single samples, and only positive ones.
    """
    start, end = sound_bounds(audio, sample_rate, threshold_db, keep_s)
    return audio[start:end].copy()


def with_silence(audio: np.ndarray, sample_rate: int, silence_s: float) -> np.ndarray:
    """Gives a recording so much silence at both ends: cut off, or added.

    What is added is noise at -70 dB, always the same: no room is as silent as zeros, in
    which a codec that has never met them, and recognisers too, hear things.

    Args:
        audio: float32 (samples,).
        sample_rate: Samples per second.
        silence_s: Seconds of silence at each end.

    Returns:
        float32 (samples,).

    Raises:
        ValueError: If an argument is out of range.
    """
    start, end = sound_bounds(audio, sample_rate, keep_s=0.0)
    silence = round(silence_s * sample_rate)
    first, last = start - silence, end + silence
    missing = max(0, -first), max(0, last - audio.size)
    whole = np.pad(audio[max(0, first) : last], missing)
    noise = np.random.Generator(np.random.Philox(0)).standard_normal(sum(missing))
    noise = noise.astype(whole.dtype) * whole.dtype.type(_FAINT)
    whole[: missing[0]] = noise[: missing[0]]
    whole[whole.size - missing[1] :] = noise[missing[0] :]
    return whole


def sound_bounds(
    audio: np.ndarray,
    sample_rate: int,
    threshold_db: float = -40.0,
    keep_s: float = 0.05,
) -> tuple[int, int]:
    """Where sound begins and ends.

    Silence is what lies below a threshold relative to the loudest 20 ms, so that a
    quiet recording is trimmed like a loud one. A frame's mean is not sound.

    Args:
        audio: As for `trim`.
        sample_rate: As for `trim`.
        threshold_db: As for `trim`.
        keep_s: As for `trim`.

    Returns:
        Its first sample, and the one after its last.

    Raises:
        ValueError: If an argument is out of range.
    """
    _check_rate(sample_rate)
    if not threshold_db < 0:
        raise ValueError(
            f"threshold_db must be negative. Received: threshold_db={threshold_db!r}"
        )
    if not 0 <= keep_s < math.inf:
        raise ValueError(f"keep_s must be at least 0. Received: keep_s={keep_s!r}")
    if not audio.size:
        return 0, 0
    frame = max(1, round(_FRAME_S * sample_rate))
    hop = max(1, round(_HOP_S * sample_rate))
    energies = _frame_energies(audio, frame, hop)
    is_loud = np.flatnonzero(energies > energies.max() * 10 ** (threshold_db / 10))
    if not is_loud.size:
        return 0, audio.size
    keep = round(keep_s * sample_rate)
    # A quiet frame ends where sound begins: only what the loud one adds is sound.
    start = is_loud[0] * hop + (frame - hop if is_loud[0] else 0)
    end = is_loud[-1] * hop + (frame if is_loud[-1] == len(energies) - 1 else hop)
    return max(0, int(start) - keep), min(audio.size, int(end) + keep)


def _frame_energies(audio: np.ndarray, frame: int, hop: int) -> np.ndarray:
    """Variances of frames: float64 (frames,); the last ones may be incomplete.

    Each frame's own mean is left out, not that of all: speech is not symmetric, and
    its mean would be heard in the silence around it.
    """
    centred = audio - np.mean(audio, dtype=np.float64)  # so that no digits are lost
    starts = np.arange(0, max(1, audio.size - frame + hop), hop)
    ends = np.minimum(starts + frame, audio.size)

    def means(values):
        sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
        return (sums[ends] - sums[starts]) / np.maximum(ends - starts, 1)

    return np.maximum(means(np.square(centred)) - np.square(means(centred)), 0.0)


def normalise(
    audio: np.ndarray, rms: float = 0.08, peak_limit: float = 0.95
) -> np.ndarray:
    """Brings audio to a loudness, as far as its peak allows.

    Nothing calls this by default: a model speaks as loudly as what it learned from.

    Args:
        audio: float32 (samples,).
        rms: Root mean square of the result.
        peak_limit: Largest magnitude of the result; peakier audio stays quieter.

    Returns:
        float32 (samples,), a copy; silence stays silence.

    Raises:
        ValueError: If an argument is out of range.
    """
    for name, value in (("rms", rms), ("peak_limit", peak_limit)):
        if not 0 < value <= 1:
            raise ValueError(f"{name} must be in (0, 1]. Received: {name}={value!r}")
    peak = float(np.abs(audio).max(initial=0.0))
    if not peak:
        return audio.copy()
    level = math.sqrt(np.mean(np.square(audio, dtype=np.float64)))
    return audio * np.float32(min(rms / level, peak_limit / peak))


# === Augmentation ===


def augment(
    audio: tf.Tensor,
    seed: tf.Tensor,
    *,
    gain_db: tuple[float, float] | None = None,
    noise_db: tuple[float, float] | None = None,
    fade_samples: int = 0,
) -> tf.Tensor:
    """Varies audio at random, in a `tf.data` graph or eagerly; by default not at all.

    The seed alone decides: no random state is read or changed, so that a run that is
    resumed hears what it would have heard.

    Args:
        audio: float32 (samples,), [-1, 1].
        seed: int32 or int64 (2,).
        gain_db: Lowest and highest gain, drawn evenly; None: no gain.
        noise_db: Lowest and highest level of white noise relative to the audio's root
            mean square, drawn evenly; None: no noise.
        fade_samples: Length of a linear fade at both ends (by tensorflow-io), at most
            half of the audio.

    Returns:
        float32 (samples,); scaled down as a whole where it would exceed [-1, 1].

    Raises:
        ValueError: If an argument is out of range.
        ImportError: If there is a fade and tensorflow-io is not installed.

    Differs: tensorflow-io's time and frequency masks are left out: they are for
        spectrograms, which no stage here learns from, and draw from global random
        state.

    Example:
        >>> dataset.map(lambda audio, seed: augment(audio, seed, gain_db=(-6.0, 0.0)))
    """
    _check_range("gain_db", gain_db)
    _check_range("noise_db", noise_db)
    if fade_samples < 0:
        raise ValueError(
            f"fade_samples must be at least 0. Received: fade_samples={fade_samples!r}"
        )
    audio = tf.convert_to_tensor(audio, tf.float32)
    # The algorithm is named: the automatic choice differs between devices.
    draws = tf.unstack(tf.random.stateless_uniform((2,), seed, alg="philox"))
    if gain_db is not None:
        audio *= _amplitude(gain_db, draws[0])
    if noise_db is not None:
        audio += _noise(audio, seed) * _amplitude(noise_db, draws[1])
    if fade_samples:
        length = tf.minimum(fade_samples, tf.size(audio) // 2)
        fade = _tensorflow_io("Fading").audio.fade
        audio = fade(audio, fade_in=length, fade_out=length, mode="linear")
    return audio / tf.maximum(1.0, tf.reduce_max(tf.abs(audio)))


def _check_range(name: str, limits: tuple[float, float] | None) -> None:
    if limits is None:
        return
    low, high = limits
    if not -math.inf < low <= high < math.inf:
        raise ValueError(
            f"{name} must be (lowest, highest), both finite. Received: {name}={limits}"
        )


def _amplitude(limits: tuple[float, float], draw: tf.Tensor) -> tf.Tensor:
    low, high = limits
    return 10.0 ** ((low + draw * (high - low)) / 20.0)


def _noise(audio: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """White noise as loud as the audio."""
    seed = tf.random.experimental.stateless_fold_in(seed, 1, alg="philox")
    level = tf.sqrt(tf.reduce_mean(tf.square(audio)))
    return level * tf.random.stateless_normal(tf.shape(audio), seed, alg="philox")
