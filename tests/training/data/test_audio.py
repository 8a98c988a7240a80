"""Recordings in `tf.data`: read and refused as `bark_tf.audio.reading.load` does.

With TensorFlow 2.17 tensorflow-io's kernels do it, elsewhere soundfile and soxr; the
signals are known in closed form, so equal to the truth in each world means equal.
"""

import sys

import numpy as np
import pytest
import tensorflow as tf
from toy_recordings import (
    RATE,
    RECORDINGS,
    REFUSED,
    TOLERANCE,
    chirp,
    encode,
    put,
    tone,
)

from bark_tf.audio import reading
from bark_tf.training.data import audio


def from_graph(path, **options):
    (element,) = audio.dataset_audio([path], RATE, **options)
    return element.numpy()


# === The kernels ===

# With these versions tensorflow-io has to be installed, or tests fail.
HAS_KERNELS = tf.__version__.startswith(("2.16.", "2.17."))


def test_the_world_is_the_one_that_tensorflow_allows():
    assert audio.uses_tensorflow_io() == HAS_KERNELS


def test_kernels_decode_what_they_can(tmp_path):
    """The choice is by content, and never FLAC or 32-bit integers."""
    for kind, subtype, has_kernel in (
        ("WAV", "PCM_16", True),
        ("WAV", "FLOAT", True),
        ("WAV", "PCM_32", False),
        ("OGG", "OPUS", False),
        ("FLAC", "PCM_16", False),
    ):
        path = put(tmp_path, encode(tone(), kind=kind, subtype=subtype))
        kernel, num_samples, rate = audio._kernel_for(path, reading.MAX_S)
        assert (kernel != audio._NO_KERNEL) == has_kernel
        assert (num_samples, rate) == (tone().size, RATE)


def test_where_kernels_load_they_do_the_reading(tmp_path, monkeypatch):
    """Going back to `load` in silence would pass every other test."""
    read, load = [], reading.load
    monkeypatch.setattr(
        audio, "load", lambda *of, **how: (read.append(of), load(*of, **how))[1]
    )
    kinds = [("WAV", "PCM_16"), ("WAV", "FLOAT"), ("OGG", "VORBIS"), ("MP3", None)]
    for kind in kinds:
        path = put(tmp_path, encode(tone(16_000), 16_000, *kind))
        assert from_graph(path).shape == tone().shape
    assert len(read) == (0 if HAS_KERNELS else len(kinds))


def test_without_tensorflow_io_there_are_no_kernels(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_io", None)
    assert audio.uses_tensorflow_io.__wrapped__() is False
    with pytest.raises(ImportError, match=r"package tensorflow-io.*`train`"):
        audio._tensorflow_io("Decoding")


# === Read and refused as `load` does ===


@pytest.mark.parametrize("name", RECORDINGS)
def test_a_recording_is_the_signal_itself(tmp_path, name):
    recording = RECORDINGS[name]()
    recording.check(from_graph(put(tmp_path, recording.data)))


@pytest.mark.parametrize("kind, subtype", [("OGG", "VORBIS"), ("MP3", None)])
def test_long_lossy_files_are_decoded_as_by_load(tmp_path, kind, subtype):
    data = encode(chirp(44_100, 4_000, duration_s=3), 44_100, kind, subtype)
    path = put(tmp_path, data)
    found, expected = from_graph(path), reading.load(path, RATE)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("extra", [0, 1, 7, 40, 100])
def test_lengths_are_rounded(tmp_path, extra):
    num_samples = 44_100 // 2 + extra
    path = put(tmp_path, encode(tone(44_100, 1)[:num_samples], 44_100))
    assert from_graph(path).size == np.floor(num_samples * RATE / 44_100 + 0.5)


@pytest.mark.parametrize("name", REFUSED)
def test_bad_files_are_refused_with_a_reason(tmp_path, name):
    make, reason = REFUSED[name]
    path = put(tmp_path, make())
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        from_graph(path, max_s=2)
    assert str(path) in str(caught.value) and reason in str(caught.value)


def test_a_missing_file_and_a_directory_are_refused(tmp_path):
    for path in (tmp_path / "nowhere.wav", tmp_path):
        with pytest.raises(tf.errors.InvalidArgumentError, match="must be a file"):
            from_graph(path)


def test_the_limits_themselves_are_allowed(tmp_path):
    for duration_s in (reading.MIN_S, 1):
        path = put(tmp_path, encode(tone(44_100, duration_s), 44_100))
        assert from_graph(path, max_s=1).size == duration_s * RATE


def test_wrong_arguments_are_refused_at_once():
    with pytest.raises(ValueError, match="sample_rate must be"):
        audio.dataset_audio([], 24_000.0)
    with pytest.raises(ValueError, match="max_s must be"):
        audio.dataset_audio([], RATE, max_s=np.nan)


# === Many files ===


def test_a_dataset_keeps_the_order_and_its_type(tmp_path):
    durations = {8_000: 0.9, 48_000: 0.4, 16_000: 1.3, 12_000: 0.5}
    paths = []
    for sample_rate, duration_s in durations.items():
        paths.append(tmp_path / str(sample_rate))
        paths[-1].write_bytes(encode(tone(sample_rate, duration_s), sample_rate))
    dataset = audio.dataset_audio(paths, RATE)
    assert dataset.element_spec == tf.TensorSpec([None], tf.float32)
    sizes = [element.shape[0] for element in dataset]
    assert sizes == [round(duration_s * RATE) for duration_s in durations.values()]
    assert list(audio.dataset_audio([], RATE)) == []


def test_load_many_reports_the_broken_and_reads_on(tmp_path):
    good = put(tmp_path, encode(tone()))
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"nonsense")
    first, *errors, last = audio.load_many([good, broken, tmp_path / "no", good], RATE)
    assert np.array_equal(first, last)
    assert [type(error) for error in errors] == [ValueError, ValueError]
    assert "cannot be decoded" in str(errors[0])
    assert "must be a file" in str(errors[1])
