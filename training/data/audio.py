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
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from bark_tf.audio.reading import (
    MAX_S,
    check_limit,
    check_rate,
    finished,
    load,
    num_samples,
    opened,
    wav_header,
)
from bark_tf.optional import required

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
        return required("tensorflow_io", what)


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
    check_rate(sample_rate)
    check_limit(max_s)
    for module in ("soundfile", "soxr"):
        required(module, "Reading recordings")
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
        return finished(audio, os.fsdecode(name), sample_rate, max_s)

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
    header = wav_header(Path(path)) if Path(path).is_file() else None
    with opened(path) as file:
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
    soundfile = required("soundfile", "Reading recordings")
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
    length = num_samples(tf.size(audio, tf.int64), source_hz, target_hz)

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
