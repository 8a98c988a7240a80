import errno
import itertools
import os
import struct
import wave
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from bark_tf.audio import writing
from bark_tf.audio.writing import (
    FORMATS,
    check_destination,
    stream_header,
    to_pcm16,
    write_audio,
)

RATE = 24_000
# Of lossy formats; Opus shifts the phase too. Others lose half a 16-bit step.
TOLERANCES = {".ogg": 0.05, ".mp3": 0.05, ".opus": 0.1}


def tone(num_samples=2400, rate=RATE, hz=440.0):
    time = np.arange(num_samples) / rate
    return (0.5 * np.sin(2 * np.pi * hz * time)).astype(np.float32)


def read(path):
    return soundfile.read(path, dtype="float32")


# === Samples ===


def test_a_written_wav_is_what_the_standard_library_reads(tmp_path):
    path = write_audio(tmp_path / "out.wav", [0.0, 0.5, -1.0, 1.0], RATE)
    with wave.open(str(path)) as file:
        assert file.getparams()[:4] == (1, 2, RATE, 4)
        samples = np.frombuffer(file.readframes(4), "<i2")
    # +1 has no sample of its own.
    assert samples.tolist() == [0, 16384, -32768, 32767]
    assert list(tmp_path.iterdir()) == [path]


def test_a_16_bit_wav_is_a_header_and_its_samples(tmp_path):
    """The bytes of before libsndfile wrote them: hashes of files stay what they are."""
    data = write_audio(tmp_path / "out.wav", tone(), RATE).read_bytes()
    sizes = struct.pack("<I", 4800 + 36), struct.pack("<I", 4800)
    header = stream_header(RATE)
    assert data[:44] == header[:4] + sizes[0] + header[8:40] + sizes[1]
    assert data[44:] == to_pcm16(tone()).tobytes()


@given(st.lists(st.integers(-(2**15), 2**15 - 1)))
def test_16_bit_samples_survive_reading_and_writing(samples):
    samples = np.array(samples, np.int16)
    assert (to_pcm16(samples / np.float32(2**15)) == samples).all()


def test_rounding_is_to_the_nearest_step():
    steps = np.array([0.4, 0.6, -0.4, -0.6, 1.5, 2.5])
    assert to_pcm16(steps / 2**15).tolist() == [0, 1, 0, -1, 2, 2]


def test_float_wav_keeps_every_bit_and_is_not_clipped(tmp_path):
    values = np.array([1e-9, 0.1, -1.7], np.float32)
    path = write_audio(tmp_path / "out.wav", values, RATE, subtype="FLOAT")
    samples, rate = read(path)
    assert (samples == values).all() and rate == RATE


def test_loud_audio_is_clipped_with_a_warning(tmp_path):
    with pytest.warns(UserWarning, match=r"clipped.* a peak of 1\.5"):
        path = write_audio(tmp_path / "out.wav", [0.0, -1.5, 1.5], RATE)
    assert read(path)[0].tolist() == [0.0, -1.0, 1 - 2**-15]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_audio_that_is_not_finite_is_refused(tmp_path, value):
    with pytest.raises(ValueError, match=r"finite.*at sample 1"):
        write_audio(tmp_path / "out.wav", [0.0, value], RATE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shape", [(2, 5), (), (1, 1, 5)])
def test_only_one_row_is_written(tmp_path, shape):
    with pytest.raises(ValueError, match=r"row by row.*Received: shape"):
        write_audio(tmp_path / "out.wav", np.zeros(shape), RATE)


def test_a_batch_of_one_and_any_float_are_taken(tmp_path):
    path = write_audio(tmp_path / "out.wav", tone()[None].astype(np.float16), RATE)
    assert read(path)[0].shape == (2400,)


def test_integers_are_refused_because_their_scale_is_unknown(tmp_path):
    with pytest.raises(ValueError, match=r"floating-point.*int16"):
        write_audio(tmp_path / "out.wav", np.zeros(3, np.int16), RATE)


# === Formats ===


@pytest.mark.parametrize(
    ("suffix", "num_samples"),
    [*itertools.product(FORMATS, (1, 2400)), (".wav", 0), (".ogg", 0)],
)
def test_every_format_reads_back(tmp_path, suffix, num_samples):
    path = write_audio(tmp_path / f"out{suffix}", tone(num_samples), RATE)
    samples, rate = read(path)
    assert rate == RATE and samples.shape == (num_samples,)
    info = soundfile.info(path)
    assert (info.format, info.subtype) == FORMATS[suffix]
    tolerance = TOLERANCES.get(suffix, 0.5 / 2**15)
    middle = slice(200, -200) if suffix in (".mp3", ".opus") else slice(None)
    found, expected = samples[middle], tone(num_samples)[middle]
    np.testing.assert_allclose(found, expected, atol=tolerance)


@pytest.mark.parametrize("suffix", [".flac", ".mp3", ".opus"])
def test_an_empty_file_that_nothing_opens_is_refused(tmp_path, suffix):
    with pytest.raises(ValueError, match=r"must not be empty; use \.wav"):
        write_audio(tmp_path / f"out{suffix}", [], RATE)
    assert list(tmp_path.iterdir()) == []


def test_minutes_of_vorbis_do_not_crash(tmp_path):
    """libsndfile ends the process if it gets them in one write."""
    path = write_audio(tmp_path / "a.ogg", np.zeros(180 * RATE, np.float32), RATE)
    assert soundfile.info(path).frames == 180 * RATE


def test_other_encodings_are_named(tmp_path):
    path = write_audio(tmp_path / "out.wav", tone(), RATE, subtype="PCM_24")
    assert soundfile.info(path).subtype == "PCM_24"
    np.testing.assert_allclose(read(path)[0], tone(), atol=2**-23)
    with pytest.raises(ValueError, match=r"subtype of a FLAC file.*'VORBIS'"):
        write_audio(tmp_path / "out.flac", tone(), RATE, subtype="VORBIS")


@pytest.mark.parametrize("rate", [0, -1, 24_000.0, 2**31])
def test_sample_rates_are_positive_whole_numbers(tmp_path, rate):
    with pytest.raises(ValueError, match="sample_rate="):
        write_audio(tmp_path / "out.wav", tone(), rate)


@pytest.mark.parametrize(("suffix", "rate"), [(".opus", 44_100), (".mp3", 96_000)])
def test_rates_that_a_format_does_not_know_are_refused(tmp_path, suffix, rate):
    with pytest.raises(ValueError, match=rf"one of 8000, .*48000\. .*{rate}$"):
        write_audio(tmp_path / f"out{suffix}", tone(), rate)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".opus", ".mp3"])
def test_all_rates_that_are_listed_work(tmp_path, suffix):
    for rate in writing._RATES[FORMATS[suffix][1]]:
        path = write_audio(tmp_path / f"out{suffix}", tone(), rate)
        assert soundfile.info(path).samplerate == rate


@pytest.mark.parametrize("name", ["out.m4a", "out"])
def test_an_unknown_ending_is_refused_by_name(tmp_path, name):
    with pytest.raises(ValueError, match=rf"\.wav, \.flac, .*\.opus\. .*{name}"):
        write_audio(tmp_path / name, tone(), RATE)


def test_a_wav_file_ends_at_4_gigabytes(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "_MAX_WAV_BYTES", 4799)
    with pytest.raises(ValueError, match="at most 4 GiB"):
        write_audio(tmp_path / "out.wav", tone(), RATE)
    write_audio(tmp_path / "out.wav", tone(2399), RATE)


# === Where to ===


def test_a_missing_directory_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no directory '.*nowhere'"):
        check_destination(tmp_path / "nowhere" / "out.wav")
    with pytest.raises(IsADirectoryError, match="is a directory"):
        (tmp_path / "out.wav").mkdir()
        check_destination(tmp_path / "out.wav")


def test_a_read_only_directory_is_named(tmp_path, monkeypatch):
    # By what the system says: root may write everywhere.
    monkeypatch.setattr(writing.os, "access", lambda path, mode: False)
    with pytest.raises(PermissionError, match="not writable"):
        check_destination(tmp_path / "out.wav")


def test_a_full_disk_leaves_the_old_file_and_names_it(tmp_path, monkeypatch):
    path = tmp_path / "out.wav"
    path.write_bytes(b"old")

    def full(temporary, data):
        temporary.open("wb").close()
        raise OSError(errno.ENOSPC, "No space left on device", str(temporary))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_audio(path, tone(), RATE)
    assert caught.value.filename == str(path)
    assert [p.name for p in tmp_path.iterdir()] == ["out.wav"]
    assert path.read_bytes() == b"old"


def test_libsndfiles_errors_are_os_errors(tmp_path, monkeypatch):
    def fails(*_, **__):
        raise soundfile.LibsndfileError(2)

    monkeypatch.setattr(soundfile, "SoundFile", fails)
    with pytest.raises(OSError, match="Could not encode the FLAC file"):
        write_audio(tmp_path / "out.flac", tone(), RATE)
    assert list(tmp_path.iterdir()) == []


def test_the_interrupted_file_does_not_appear(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_audio(tmp_path / "out.wav", tone(), RATE)
    assert list(tmp_path.iterdir()) == []


# === Streams ===


def test_a_stream_can_be_read_though_its_length_was_unknown(tmp_path):
    path = tmp_path / "stream.wav"
    path.write_bytes(stream_header(RATE) + to_pcm16(tone()).tobytes())
    samples, rate = read(path)
    assert rate == RATE
    np.testing.assert_allclose(samples, tone(), atol=0.5 / 2**15)


def test_the_rate_of_a_stream_is_checked():
    with pytest.raises(ValueError, match="sample_rate=0"):
        stream_header(0)
