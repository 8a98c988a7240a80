"""Recordings in `tf.data`: decoded, resampled, checked.

tensorflow-io's native kernels decode and resample inside the graph. They load with
TensorFlow 2.16 and 2.17 only; with any other version `bark_tf.audio.reading.load`,
which uses soundfile and soxr, does the same work in Python.

Audio is float32 (samples,), mono, in [-1, 1].
"""

from __future__ import annotations

import functools
import math
import os
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import soundfile
import tensorflow as tf

from bark_tf.audio.reading import (
    MAX_S,
    check_reading,
    checked,
    load,
    open_recording,
    resampled_length,
    wav_bytes,
)
from bark_tf.optional import required

# === tensorflow-io ===
# (format, encoding) of the files that its kernels decode; `load` reads the others. The
# kernels refuse 64-bit floats and Opus, read 32-bit integers as floats, and never
# return from a FLAC file that lacks a piece, which only decoding all of it would show.
_KERNELS = (
    ("WAV", "PCM_U8"),
    ("WAV", "PCM_16"),
    ("WAV", "PCM_24"),
    ("WAV", "FLOAT"),
    ("OGG", "VORBIS"),
    ("MP3", "MPEG_LAYER_III"),
)
_NO_KERNEL = -1
# WAV encoding -> the kernel's type, and the values that stand for 0 and for 1.
_WAV_SCALES = {
    "PCM_U8": (tf.uint8, 2.0**7, 2.0**7),
    "PCM_16": (tf.int16, 0.0, 2.0**15),
    "PCM_24": (tf.int32, 0.0, 2.0**31),  # in the highest bytes
    "FLOAT": (tf.float32, 0.0, 1.0),
}
# The resampler's filter: taps at equal rates, and the multiple they are rounded up to.
_FILTER_TAPS, _TAPS_STEP = 64, 8


# === Inside a tf.data graph ===


@functools.cache
def uses_tensorflow_io() -> bool:
    """Whether tensorflow-io's native kernels load with this TensorFlow.

    Returns:
        True with TensorFlow 2.16 or 2.17 and tensorflow-io 0.37.1; False if it is not
        installed or was built for another TensorFlow.
    """
    try:
        tensorflow_io = _tensorflow_io("Decoding with tensorflow-io")
        with tf.init_scope():
            tensorflow_io.audio.resample(tf.zeros([1]), 2, 1)
    except (ImportError, NotImplementedError):
        return False
    return True


def _tensorflow_io(what: str) -> Any:
    with warnings.catch_warnings():
        # Where its kernels do not load, importing it only warns, at length.
        warnings.simplefilter("ignore")
        return required("tensorflow_io", what, "train")


def dataset_audio(
    paths: Iterable[str | os.PathLike], sample_rate: int, *, max_s: float = MAX_S
) -> tf.data.Dataset:
    """Reads recordings as a `tf.data.Dataset`, in the order of their paths.

    If `uses_tensorflow_io()`, tensorflow-io's kernels decode and resample inside the
    graph, except for FLAC and other files that they read wrongly or not at all; those,
    and all files otherwise, go through `load`. Both ways give equally many samples, and
    for frequencies up to 0.4 times the lower sample rate equal values within 1e-3 of a
    peak of 1. Above, tensorflow-io's filter is softer: at 0.45 times the rate it
    removes a fifth of the amplitude, and soxr nothing.

    A recording that `load` refuses raises `tf.errors.InvalidArgumentError` when its
    turn comes; the iterator then continues with the next one. `load_many` handles that.

    Args:
        paths: The files.
        sample_rate: Samples per second of the result.
        max_s: Seconds a recording may last.

    Returns:
        Dataset of float32 (samples,), mono, [-1, 1].

    Raises:
        ValueError: If `sample_rate` or `max_s` is out of range.

    Example:
        >>> dataset_audio(["a.wav", "b.flac"], 24_000).padded_batch(2)
    """
    check_reading(sample_rate, max_s)
    names = tf.constant([os.fsencode(path) for path in paths], tf.string, name="paths")
    names = tf.reshape(names, [-1])
    return tf.data.Dataset.from_tensor_slices(names).map(
        _reader(sample_rate, max_s),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )


@functools.lru_cache(maxsize=8)
def _reader(sample_rate: int, max_s: float) -> Any:
    """Traces the function that reads a file: string () -> float32 (samples,)."""
    read = _read_in_graph if uses_tensorflow_io() else _load_in_graph
    return tf.function(
        lambda name: read(name, sample_rate, max_s),
        input_signature=[tf.TensorSpec([], tf.string)],
    )


def load_many(
    paths: Iterable[str | os.PathLike], sample_rate: int, *, max_s: float = MAX_S
) -> Iterator[np.ndarray | ValueError]:
    """Reads recordings one by one through `dataset_audio`.

    Args:
        paths: The files.
        sample_rate: Samples per second of the result.
        max_s: Seconds a recording may last.

    Yields:
        For each path, float32 (samples,), mono, [-1, 1], or the error that `load`
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
    """Does what `_load_in_graph` does, with tensorflow-io where possible."""

    def choose(name: bytes) -> tuple[np.int32, np.int64, np.int64]:
        return _kernel_for(os.fsdecode(name), max_s)

    def finish(audio: np.ndarray, name: bytes) -> np.ndarray:
        return checked(audio, os.fsdecode(name), sample_rate, max_s)

    kernel, num_samples, source_hz = tf.numpy_function(
        choose, [name], (tf.int32, tf.int64, tf.int64)
    )
    audio = _decode_in_graph(name, kernel)
    # A kernel that fails decodes another number of samples than the header states.
    is_right = (kernel != _NO_KERNEL) & (tf.size(audio, tf.int64) == num_samples)

    def resampled() -> tf.Tensor:
        audio_at_rate = _resample_in_graph(audio, source_hz, sample_rate)
        return tf.numpy_function(finish, [audio_at_rate, name], tf.float32)

    audio = tf.cond(
        is_right, resampled, lambda: _load_in_graph(name, sample_rate, max_s)
    )
    return tf.ensure_shape(audio, [None])


def _kernel_for(path: str, max_s: float) -> tuple[np.int32, np.int64, np.int64]:
    """Chooses the kernel for a file; reads length and sample rate from its header.

    The kernels allocate what the header promises, so they get only files whose last
    sample soundfile can reach.
    """
    with open_recording(path) as file:
        kind = (file.format.removesuffix("EX"), file.subtype)
        promised, present = wav_bytes(path)
        is_safe = (
            kind in _KERNELS
            and file.frames <= max_s * file.samplerate
            and promised <= present
            and _reaches_end(file)
        )
        kernel = _KERNELS.index(kind) if is_safe else _NO_KERNEL
        return np.int32(kernel), np.int64(file.frames), np.int64(file.samplerate)


def _reaches_end(file: soundfile.SoundFile) -> bool:
    try:
        file.seek(file.frames - 1)
        return len(file.read(1)) == 1
    except (soundfile.SoundFileError, ValueError):
        return False


def _decode_in_graph(name: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Decodes float32 (samples,), mono, at the file's rate; empty without a kernel."""
    branches = [functools.partial(_decode_kind, name, *kind) for kind in _KERNELS]
    index = tf.where(kernel == _NO_KERNEL, len(_KERNELS), kernel)
    return tf.switch_case(index, [*branches, lambda: tf.zeros([0])])


def _decode_kind(name: tf.Tensor, kind: str, subtype: str) -> tf.Tensor:
    audio = _tensorflow_io("Decoding with tensorflow-io").audio
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
    """Resamples with tensorflow-io's kernel and removes its delay.

    The kernel delays by half its filter and drops as much at the end. Zeros in front
    make the delay a whole number of resampled samples, which are then cut off.
    """

    def delays(source_hz: np.ndarray) -> tuple[np.int64, np.int64, np.int64]:
        return tuple(map(np.int64, _delays(int(source_hz), target_hz)))

    front, back, delay = tf.numpy_function(delays, [source_hz], (tf.int64,) * 3)
    length = resampled_length(tf.size(audio, tf.int64), source_hz, target_hz)

    def resampled() -> tf.Tensor:
        padded = tf.pad(audio, [[front, back]])
        resample = _tensorflow_io("Resampling with tensorflow-io").audio.resample
        late = resample(tf.ensure_shape(padded, [None]), source_hz, target_hz)
        return tf.ensure_shape(late[delay : delay + length], [None])

    return tf.cond(source_hz == target_hz, lambda: audio, resampled)


def _delays(source_hz: int, target_hz: int) -> tuple[int, int, int]:
    """Zeros before and after the input of the resampler, and samples to cut off.

    Source: the Speex resampler at quality 4, as tensorflow-io 0.37 runs it: 64 taps,
    proportionally more towards a lower rate, rounded up to a multiple of 8.
    """
    divisor = math.gcd(source_hz, target_hz)
    step = source_hz // divisor  # input samples between points that both grids share
    taps = max(_FILTER_TAPS, _FILTER_TAPS * source_hz // target_hz)
    late = math.ceil(taps / _TAPS_STEP) * _TAPS_STEP // 2
    front = -late % step
    return front, late + step, (late + front) * target_hz // source_hz
