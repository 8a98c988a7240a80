import errno
import itertools
import struct
import subprocess
import sys
import tracemalloc
import wave
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bark_tf import hub
from bark_tf.audio import writing as audio
from bark_tf.audio.writing import (
    check_destination,
    join,
    read_audio,
    silence,
    to_pcm16,
    wav_header,
    write_audio,
)

RATE = 24_000
PCM, FLOAT, EXTENSIBLE, MU_LAW = 1, 3, 0xFFFE, 7


def tone(num_samples=2400, rate=RATE, hz=440.0):
    time = np.arange(num_samples) / rate
    return (0.5 * np.sin(2 * np.pi * hz * time)).astype(np.float32)


def chunk(name, body):
    return struct.pack("<4sI", name, len(body)) + body + b"\0" * (len(body) % 2)


def wav_bytes(data, bits, code=PCM, channels=1, rate=RATE, before=b"", size=None):
    """A WAV file as other programs write them."""
    width = bits // 8
    inner = code
    body = struct.pack(
        "<HHIIHH",
        code,
        channels,
        rate,
        rate * channels * width,
        channels * width,
        bits,
    )
    if code == EXTENSIBLE:
        inner = FLOAT if bits == 32 else PCM
        guid = struct.pack("<H", inner) + bytes.fromhex("000000001000800000aa00389b71")
        body += struct.pack("<HHI", 22, bits, 0) + guid
    tail = struct.pack("<4sI", b"data", len(data) if size is None else size) + data
    content = b"WAVE" + before + chunk(b"fmt ", body) + tail
    return struct.pack("<4sI", b"RIFF", len(content)) + content


@pytest.fixture
def without(monkeypatch):
    """Makes a package look as if it were not installed."""
    return lambda name: monkeypatch.setitem(sys.modules, name, None)


# === Writing ===


def test_a_written_wav_is_what_the_standard_library_reads(tmp_path):
    path = write_audio(tmp_path / "out.wav", [0.0, 0.5, -1.0, 1.0], RATE)
    with wave.open(str(path)) as file:
        assert file.getparams()[:4] == (1, 2, RATE, 4)
        samples = np.frombuffer(file.readframes(4), "<i2")
    # +1 has no sample of its own.
    assert samples.tolist() == [0, 16384, -32768, 32767]
    assert list(tmp_path.iterdir()) == [path]


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
    samples, rate = read_audio(path)
    assert (samples == values).all() and rate == RATE


def test_loud_audio_is_clipped_with_a_warning(tmp_path):
    with pytest.warns(UserWarning, match=r"clipped.* a peak of 1\.5"):
        path = write_audio(tmp_path / "out.wav", [0.0, -1.5, 1.5], RATE)
    assert read_audio(path)[0].tolist() == [0.0, -1.0, 1 - 2**-15]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_audio_that_is_not_finite_is_refused(tmp_path, value):
    with pytest.raises(ValueError, match=r"finite.*at sample 1"):
        write_audio(tmp_path / "out.wav", [0.0, value], RATE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shape", [(2, 5), (), (1, 1, 5)])
def test_only_one_row_is_written(tmp_path, shape):
    with pytest.raises(ValueError, match=r"one row at a time.*Received: shape"):
        write_audio(tmp_path / "out.wav", np.zeros(shape), RATE)


def test_a_batch_of_one_and_any_float_are_taken(tmp_path):
    path = write_audio(tmp_path / "out.wav", tone()[None].astype(np.float16), RATE)
    assert read_audio(path)[0].shape == (2400,)


def test_integers_are_refused_because_their_scale_is_unknown(tmp_path):
    with pytest.raises(ValueError, match=r"floating-point.*int16"):
        write_audio(tmp_path / "out.wav", np.zeros(3, np.int16), RATE)


@pytest.mark.parametrize("rate", [0, -1, 24_000.0, 2**31])
def test_sample_rates_are_positive_whole_numbers(tmp_path, rate):
    with pytest.raises(ValueError, match="sample_rate="):
        write_audio(tmp_path / "out.wav", tone(), rate)


@pytest.mark.parametrize(
    ("suffix", "num_samples"),
    [*itertools.product((".wav", ".ogg"), (0, 1, 2400)), (".flac", 1), (".flac", 2400)],
)
def test_every_format_reads_back(tmp_path, suffix, num_samples):
    if suffix != ".wav":
        pytest.importorskip("soundfile")
    path = write_audio(tmp_path / f"out{suffix}", tone(num_samples), RATE)
    samples, rate = read_audio(path)
    assert rate == RATE and samples.dtype == np.float32
    assert samples.shape == (num_samples,)
    tolerance = 0.05 if suffix == ".ogg" else 0.5 / 2**15
    np.testing.assert_allclose(samples, tone(num_samples), atol=tolerance)


def test_an_empty_flac_is_refused(tmp_path):
    """libsndfile would write a file of no bytes, which nothing opens."""
    pytest.importorskip("soundfile")
    with pytest.raises(ValueError, match=r"must have samples; use \.wav"):
        write_audio(tmp_path / "out.flac", [], RATE)
    assert list(tmp_path.iterdir()) == []


def test_minutes_of_vorbis_do_not_crash(tmp_path):
    """libsndfile ends the process if it gets them in one write."""
    pytest.importorskip("soundfile")
    audio = np.zeros(180 * RATE, np.float32)
    assert read_audio(write_audio(tmp_path / "a.ogg", audio, RATE))[0].size == 4_320_000


def test_the_rarer_encodings_go_through_soundfile(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    path = write_audio(tmp_path / "out.wav", tone(), RATE, subtype="PCM_24")
    assert soundfile.info(path).subtype == "PCM_24"
    np.testing.assert_allclose(read_audio(path)[0], tone(), atol=2**-23)
    with pytest.raises(ValueError, match=r"subtype of a FLAC file.*'VORBIS'"):
        write_audio(tmp_path / "out.flac", tone(), RATE, subtype="VORBIS")


def test_an_unknown_ending_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"\.wav, \.flac, \.ogg.*out\.mp3"):
        write_audio(tmp_path / "out.mp3", tone(), RATE)


def test_without_soundfile_flac_says_what_to_install(tmp_path, without):
    without("soundfile")
    with pytest.raises(ImportError, match=r'pip install "bark-tf\[audio\]"'):
        write_audio(tmp_path / "out.flac", tone(), RATE)
    write_audio(tmp_path / "out.wav", tone(), RATE)


def test_a_missing_directory_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no directory '.*nowhere'"):
        check_destination(tmp_path / "nowhere" / "out.wav")
    with pytest.raises(IsADirectoryError, match="is a directory"):
        (tmp_path / "out.wav").mkdir()
        check_destination(tmp_path / "out.wav")


def test_a_read_only_directory_is_named(tmp_path, monkeypatch):
    # By what the system says: root may write everywhere.
    monkeypatch.setattr(audio.os, "access", lambda path, mode: False)
    with pytest.raises(PermissionError, match="not writable"):
        check_destination(tmp_path / "out.wav")


def test_a_full_disk_leaves_the_old_file_and_names_it(tmp_path, monkeypatch):
    path = tmp_path / "out.wav"
    path.write_bytes(b"old")

    def full(temporary, *_):
        Path(temporary).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device", str(temporary))

    monkeypatch.setattr(audio, "_write_wav", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_audio(path, tone(), RATE)
    assert caught.value.filename == str(path)
    assert [p.name for p in tmp_path.iterdir()] == ["out.wav"]
    assert path.read_bytes() == b"old"


def test_libsndfiles_errors_are_os_errors(tmp_path, monkeypatch):
    pytest.importorskip("soundfile")
    monkeypatch.setattr(audio, "check_destination", lambda path: None)
    with pytest.raises(OSError, match="Could not write the FLAC file"):
        write_audio(tmp_path / "nowhere" / "out.flac", tone(), RATE)


def test_the_interrupted_file_does_not_appear(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(hub.os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_audio(tmp_path / "out.wav", tone(), RATE)
    assert list(tmp_path.iterdir()) == []


# === Headers ===


def test_a_stream_can_be_read_though_its_length_was_unknown(tmp_path):
    path = tmp_path / "stream.wav"
    path.write_bytes(wav_header(RATE) + to_pcm16(tone()).tobytes() + b"\0")
    tracemalloc.start()
    try:
        samples, rate = read_audio(path)
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert rate == RATE
    np.testing.assert_allclose(samples, tone(), atol=0.5 / 2**15)
    # Not the 4 GiB that its header claims.
    assert most_bytes < 10**6


def test_soundfile_reads_our_headers(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    for subtype in ("PCM_16", "FLOAT"):
        path = write_audio(tmp_path / "out.wav", tone(), RATE, subtype=subtype)
        info = soundfile.info(path)
        assert (info.subtype, info.frames, info.samplerate) == (subtype, 2400, RATE)


def test_a_wav_file_ends_at_4_gigabytes():
    most = (2**32 - 1 - 36) // 2
    assert len(wav_header(RATE, most)) == 44
    with pytest.raises(ValueError, match="4 GiB"):
        wav_header(RATE, most + 1)
    with pytest.raises(ValueError, match="subtype='PCM_8'"):
        wav_header(RATE, 0, "PCM_8")


# === Reading ===

VALUES = np.array([0.0, 0.5, -0.5, -1.0, 0.25, -0.25], np.float64)


def encode(values, bits, code):
    if code == FLOAT:
        return values.astype(f"<f{bits // 8}").tobytes()
    scaled = (values * 2 ** (bits - 1)).astype(np.int64)
    if bits == 8:
        return (scaled + 128).astype(np.uint8).tobytes()
    width = bits // 8
    return b"".join(int(v).to_bytes(width, "little", signed=True) for v in scaled)


@pytest.mark.parametrize(
    ("bits", "code"),
    [(8, PCM), (16, PCM), (24, PCM), (32, PCM), (32, FLOAT), (64, FLOAT)],
)
def test_every_plain_wav_reads_without_soundfile(tmp_path, bits, code, without):
    without("soundfile")
    path = tmp_path / "in.wav"
    path.write_bytes(wav_bytes(encode(VALUES, bits, code), bits, code))
    samples, rate = read_audio(path)
    assert samples.dtype == np.float32 and rate == RATE
    assert samples.tolist() == VALUES.tolist()


@pytest.mark.parametrize(("bits", "inner"), [(24, PCM), (32, FLOAT)])
def test_extensible_headers_are_understood(tmp_path, bits, inner, without):
    without("soundfile")
    path = tmp_path / "in.wav"
    path.write_bytes(wav_bytes(encode(VALUES, bits, inner), bits, EXTENSIBLE))
    assert read_audio(path)[0].tolist() == VALUES.tolist()


def test_other_chunks_are_passed_over(tmp_path):
    path = tmp_path / "in.wav"
    data = encode(VALUES, 16, PCM)
    path.write_bytes(wav_bytes(data, 16, before=chunk(b"LIST", b"odd")))
    assert read_audio(path)[0].tolist() == VALUES.tolist()


def test_channels_are_averaged_or_kept(tmp_path):
    path = tmp_path / "in.wav"
    path.write_bytes(wav_bytes(encode(VALUES, 16, PCM), 16, channels=2))
    assert read_audio(path)[0].tolist() == [0.25, -0.75, 0.0]
    assert read_audio(path, mono=False)[0].tolist() == [
        [0, -0.5, 0.25],
        [0.5, -1, -0.25],
    ]


def test_half_a_sample_at_the_end_is_left_out(tmp_path):
    path = tmp_path / "in.wav"
    path.write_bytes(wav_bytes(encode(VALUES, 16, PCM)[:-1], 16, size=10**9))
    assert read_audio(path)[0].tolist() == VALUES[:-1].tolist()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"RIFF\0\0\0\0WAVE", "no samples"),
        (b"RIFF\0\0\0\0WAVEdata\0\0\0\0", "no format"),
        (b"RIFF\0\0\0\0WAVE" + chunk(b"fmt ", b"\1\0"), "too short"),
        (wav_bytes(b"", 16, channels=0), "0 channels"),
        (wav_bytes(b"", 16, rate=0), "0 Hz"),
        (wav_bytes(b"", 0), "0 bits"),
        (wav_bytes(struct.pack("<2f", 0, np.nan), 32, FLOAT), "NaN"),
    ],
)
def test_damaged_wav_files_are_refused(tmp_path, content, message):
    path = tmp_path / "in.wav"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_audio(path)


def test_what_is_no_audio_is_refused(tmp_path):
    pytest.importorskip("soundfile")
    path = tmp_path / "in.wav"
    path.write_text("hello")
    with pytest.raises(ValueError, match=r"in\.wav is not an audio file"):
        read_audio(path)
    with pytest.raises(FileNotFoundError):
        read_audio(tmp_path / "missing.wav")


def test_rarer_wav_files_are_read_by_soundfile(tmp_path, without):
    soundfile = pytest.importorskip("soundfile")
    path = tmp_path / "in.wav"
    soundfile.write(path, tone(), RATE, subtype="ULAW")
    np.testing.assert_allclose(read_audio(path)[0], tone(), atol=0.02)
    without("soundfile")
    with pytest.raises(ImportError, match=r'"bark-tf\[audio\]"'):
        read_audio(path)


@pytest.mark.parametrize("mono", [True, False])
def test_resampling_keeps_the_tone(tmp_path, mono):
    pytest.importorskip("soxr")
    path = write_audio(tmp_path / "in.wav", tone(48_000, 48_000), 48_000)
    samples, rate = read_audio(path, sample_rate=16_000, mono=mono)
    assert rate == 16_000 and samples.dtype == np.float32
    assert samples.shape == ((16_000,) if mono else (1, 16_000))
    middle = slice(1000, 15_000)
    expected = tone(16_000, 16_000)[middle]
    np.testing.assert_allclose(samples[..., middle].squeeze(), expected, atol=1e-3)


def test_resampling_without_soxr_says_what_to_install(tmp_path, without):
    without("soxr")
    path = write_audio(tmp_path / "in.wav", tone(), RATE)
    with pytest.raises(ImportError, match="24000 to 16000 Hz needs soxr: pip install"):
        read_audio(path, sample_rate=16_000)
    assert read_audio(path, sample_rate=RATE)[1] == RATE


def test_an_empty_file_can_be_resampled(tmp_path):
    pytest.importorskip("soxr")
    path = write_audio(tmp_path / "in.wav", [], RATE)
    assert read_audio(path, sample_rate=16_000)[0].shape == (0,)


# === Pieces ===


def test_joining_adds_up_durations_and_gaps():
    joined = join([np.ones(100), [], np.ones(50)[None], np.ones(1)], 100, gap_s=0.25)
    assert joined.shape == (100 + 25 + 50 + 25 + 1,) and joined.dtype == np.float32
    assert not joined[100:125].any()


def test_a_joint_has_no_jump():
    """Two pieces that end and start at full scale would click."""
    joined = join([np.ones(1000), -np.ones(1000)], 1000, fade_s=0.05)
    assert np.abs(np.diff(joined)).max() < 0.03
    assert joined[0] == 1 and joined[-1] == -1
    assert (joined[:950] == 1).all() and (joined[1050:] == -1).all()


def test_pieces_that_continue_each_other_stay_as_they_are():
    joined = join(np.split(tone(), 4), RATE, fade_s=0)
    assert (joined == tone()).all()


def test_a_fade_is_at_most_half_a_piece():
    joined = join([np.ones(4), np.ones(4), np.ones(4)], 1000, fade_s=1)
    assert joined[:2].tolist() == [1, 1] and joined[-2:].tolist() == [1, 1]
    assert joined[4:8].tolist() == [0.25, 0.75, 0.75, 0.25]


def test_joining_leaves_its_arguments_alone():
    pieces = [np.ones(10, np.float32), np.ones(10, np.float32)]
    join(pieces, 10, fade_s=1)
    assert all((piece == 1).all() for piece in pieces)


def test_joining_nothing_is_nothing():
    assert join([], RATE).shape == (0,)
    assert join([[], []], RATE, gap_s=1).shape == (0,)


def test_silence_has_its_length():
    assert silence(0.5, RATE).shape == (12_000,) and not silence(0.5, RATE).any()
    with pytest.raises(ValueError, match="duration_s=-1"):
        silence(-1, RATE)
    with pytest.raises(ValueError, match="fade_s=nan"):
        join([], RATE, fade_s=float("nan"))


def test_importing_costs_nothing():
    code = "import sys, bark_tf.audio, bark_tf.progress; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    heavy = {"tensorflow", "keras", "soundfile", "soxr", "rich", "tqdm"}
    assert not heavy & set(done.stdout.split())
