"""Recordings: decoded, resampled and refused alike in both worlds.

Every test runs with tensorflow-io's kernels where they load and with soundfile and soxr
where they do not; the signals are known in closed form, so that equal to the truth in
each world means equal between them.
"""

import struct
import sys

import numpy as np
import pytest
import tensorflow as tf

from bark_tf.audio import editing, reading
from bark_tf.training.data import audio

soundfile = pytest.importorskip("soundfile")
pytest.importorskip("soxr")

RATE = 24_000
PEAK = 0.5
DURATION_S = 0.8
# The tolerance that `dataset_audio` states, of a peak of 1, up to this share of a rate.
TOLERANCE = 1e-3 * PEAK
BAND = 0.4


def chirp(sample_rate, highest_hz, duration_s=DURATION_S):
    """From 100 Hz up to a frequency, with soft ends; exact at any rate."""
    time = np.arange(round(duration_s * sample_rate)) / sample_rate
    phase = 2 * np.pi * (100 * time + (highest_hz - 100) * time**2 / (2 * duration_s))
    return PEAK * np.sin(np.pi * time / duration_s) ** 2 * np.sin(phase)


def tone(sample_rate=RATE, duration_s=DURATION_S, peak=PEAK):
    time = np.arange(round(duration_s * sample_rate)) / sample_rate
    return peak * np.sin(2 * np.pi * 440 * time)


def from_graph(path, **options):
    (element,) = audio.dataset_audio([path], RATE, **options)
    return element.numpy()


def from_load(path, **options):
    return reading.load(path, RATE, **options)


both_ways = pytest.mark.parametrize("read", [from_load, from_graph])


@pytest.fixture
def recording(tmp_path):
    """A function that writes samples to a file of a format and encoding."""

    def write(samples, sample_rate=RATE, kind="WAV", subtype="PCM_16"):
        path = tmp_path / f"{kind}_{subtype}_{sample_rate}"
        soundfile.write(path, samples, sample_rate, format=kind, subtype=subtype)
        return path

    return write


def wav(data, size=None, between=b"", num_channels=1, sample_rate=RATE):
    """The bytes of a 16-bit WAV file that claims a size."""
    form = (1, num_channels, sample_rate, sample_rate * 2, 2 * num_channels, 16)
    chunks = b"fmt " + struct.pack("<IHHIIHH", 16, *form) + between
    size = len(data) if size is None else size
    body = b"WAVE" + chunks + b"data" + struct.pack("<I", size) + data
    return b"RIFF" + struct.pack("<I", min(len(body), 2**32 - 1)) + body


def pcm16(samples):
    return np.round(samples * 2**15).astype("<i2").tobytes()


# === Equal to the truth, in each world ===


@both_ways
@pytest.mark.parametrize("sample_rate", [8_000, 16_000, 22_050, 24_000, 48_000, 88_200])
def test_resampled_equals_the_signal_itself(recording, read, sample_rate):
    highest_hz = BAND * min(sample_rate, RATE)
    path = recording(chirp(sample_rate, highest_hz), sample_rate, subtype="FLOAT")
    found = read(path)
    assert found.dtype == np.float32
    expected = chirp(RATE, highest_hz)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


@both_ways
def test_rates_without_a_common_divisor(recording, read):
    path = recording(chirp(24_001, 5_000), 24_001, subtype="FLOAT")
    expected = chirp(RATE, 5_000)
    np.testing.assert_allclose(read(path), expected, rtol=0, atol=TOLERANCE)


@both_ways
@pytest.mark.parametrize("extra", [0, 1, 7, 40, 100])
def test_lengths_are_rounded(recording, read, extra):
    num_samples = 44_100 // 2 + extra
    path = recording(tone(44_100, 1)[:num_samples], 44_100)
    assert read(path).size == np.floor(num_samples * RATE / 44_100 + 0.5)


@both_ways
def test_what_lies_above_the_band_does_not_fold_back(recording, read):
    """14 kHz would be heard at 10 kHz."""
    time = np.arange(48_000) / 48_000
    hum = PEAK * np.sin(2 * np.pi * 14_000 * time) * np.hanning(time.size)
    low = chirp(48_000, 3_000, duration_s=1)
    found = read(recording(low + hum, 48_000, subtype="FLOAT"))
    expected = chirp(RATE, 3_000, duration_s=1)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


@both_ways
@pytest.mark.parametrize(
    "kind, subtype, tolerance",
    [
        ("WAV", "PCM_U8", 1 / 2**7),
        ("WAV", "PCM_16", 1 / 2**15),
        ("WAV", "PCM_24", 1 / 2**20),
        ("WAV", "PCM_32", 1 / 2**20),
        ("WAV", "FLOAT", 1 / 2**20),
        ("WAV", "DOUBLE", 1 / 2**20),
        ("WAVEX", "PCM_16", 1 / 2**15),
        ("FLAC", "PCM_S8", 1 / 2**7),
        ("FLAC", "PCM_16", 1 / 2**15),
        ("FLAC", "PCM_24", 1 / 2**20),
        ("OGG", "VORBIS", 0.03),
        ("MP3", "MPEG_LAYER_III", 0.03),
    ],
)
def test_every_encoding_is_decoded_to_scale(recording, read, kind, subtype, tolerance):
    stereo = np.stack([tone(), 0.5 * tone()], axis=1)
    found = read(recording(stereo, kind=kind, subtype=subtype))
    expected = 0.75 * tone()
    assert found.shape == expected.shape
    inner = slice(2_000, -2_000)  # lossy codecs smear the hard edges
    np.testing.assert_allclose(found[inner], expected[inner], rtol=0, atol=tolerance)


@pytest.mark.parametrize("kind, subtype", [("OGG", "VORBIS"), ("MP3", None)])
def test_both_ways_decode_lossy_files_alike(recording, kind, subtype):
    """Longer than a block: read in blocks, MP3 is garbage from the second on."""
    samples = chirp(44_100, 4_000, duration_s=3)
    path = recording(samples, 44_100, kind=kind, subtype=subtype)
    first, second = from_load(path), from_graph(path)
    np.testing.assert_allclose(first, second, rtol=0, atol=TOLERANCE)
    expected = chirp(RATE, 4_000, duration_s=3)
    assert np.corrcoef(first, expected)[0, 1] > 0.99


def test_kernels_decode_what_they_can(recording, tmp_path):
    """The choice is by content, and never FLAC or 32-bit integers."""
    for subtype, has_kernel in (("PCM_16", True), ("FLOAT", True), ("PCM_32", False)):
        kernel, num_samples, rate = audio._kernel_for(
            recording(tone(), subtype=subtype), reading.MAX_S
        )
        assert (kernel != audio._NO_KERNEL) == has_kernel
        assert (num_samples, rate) == (tone().size, RATE)
    flac = recording(tone(), kind="FLAC")
    assert audio._kernel_for(flac, reading.MAX_S)[0] == audio._NO_KERNEL


# With these versions tensorflow-io has to be installed, or tests fail.
HAS_KERNELS = tf.__version__.startswith(("2.16.", "2.17."))


def test_the_world_is_the_one_that_tensorflow_allows():
    assert audio.uses_tensorflow_io() == HAS_KERNELS


def test_where_kernels_load_they_do_the_reading(recording, monkeypatch):
    """Going back to `load` in silence would pass every other test."""
    read, load = [], reading.load
    monkeypatch.setattr(
        audio, "load", lambda *of, **how: (read.append(of), load(*of, **how))[1]
    )
    kinds = [("WAV", "PCM_16"), ("WAV", "FLOAT"), ("OGG", "VORBIS"), ("MP3", None)]
    paths = [recording(tone(16_000), 16_000, *kind) for kind in kinds]
    for audio_from_graph in audio.dataset_audio(paths, RATE):
        assert audio_from_graph.shape == tone().shape
    assert len(read) == (0 if HAS_KERNELS else len(paths))


@both_ways
def test_louder_than_full_scale_is_scaled_not_clipped(recording, read):
    found = read(recording(4 * tone(), subtype="FLOAT"))
    np.testing.assert_allclose(found, 2 * tone(), rtol=0, atol=1e-3)


@both_ways
@pytest.mark.parametrize(
    "between", [b"LIST" + struct.pack("<I", 5) + b"INFOx\0", b"JUNK" + b"\0" * 4]
)
def test_chunks_before_the_samples_are_skipped(tmp_path, read, between):
    """tensorflow-io decodes nothing after a chunk of odd size."""
    path = tmp_path / "x.wav"
    path.write_bytes(wav(pcm16(tone()), between=between))
    np.testing.assert_allclose(read(path), tone(), rtol=0, atol=1 / 2**15)


@both_ways
@pytest.mark.parametrize("size", [0xFFFF_FFFF, 0xFFFF_FFF0, 0x7FFF_F000])
def test_a_stream_without_a_length_is_read_to_its_end(tmp_path, read, size):
    """tensorflow-io aborts the process over such a header."""
    path = tmp_path / "x.wav"
    path.write_bytes(wav(pcm16(tone()), size=size))
    np.testing.assert_allclose(read(path), tone(), rtol=0, atol=1 / 2**15)


# === Refused, with a reason, in each world ===


def refused(read, path, **options):
    """The message that names the file; from a graph it comes with more around it."""
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError)) as caught:
        read(path, **options)
    if read is from_load:
        assert type(caught.value) is ValueError
    assert str(path) in str(caught.value)
    return str(caught.value)


BAD_SAMPLES = {
    "NaN": (np.where(np.arange(RATE) == 9_000, np.nan, tone(duration_s=1)), "finite"),
    "infinity": (np.where(np.arange(RATE) == 0, np.inf, tone(duration_s=1)), "finite"),
    "zeros": (np.zeros(RATE), "silent"),
    "whisper of 0.0002": (tone(peak=0.0002), "silent"),
    "offset": (np.full(RATE, 0.7), "silent"),
    "0.2 s": (tone(duration_s=0.2), "0.20 s"),
    "nothing": (np.zeros(0), "0.00 s"),
    "2.5 s": (tone(duration_s=2.5), "2.5 s"),
    "three channels": (np.stack([tone()] * 3, axis=1), "3 channels"),
}


@both_ways
@pytest.mark.parametrize("name", BAD_SAMPLES)
def test_bad_samples_are_refused(recording, read, name):
    samples, reason = BAD_SAMPLES[name]
    assert reason in refused(read, recording(samples, subtype="FLOAT"), max_s=2)


@both_ways
def test_overflow_is_found(recording, read):
    loud = np.full((RATE, 2), 3e38)
    loud[::2] *= -1
    assert "finite" in refused(read, recording(loud, subtype="FLOAT"))


@both_ways
def test_ten_minutes_are_refused_by_their_length(recording, read):
    path = recording(np.zeros(600 * 8_000), 8_000, subtype="PCM_U8")
    message = refused(read, path)
    assert "at most 60 s" in message
    assert "600.0 s" in message


@both_ways
def test_the_limits_themselves_are_allowed(recording, read):
    for duration_s in (reading.MIN_S, 1):
        path = recording(tone(44_100, duration_s), 44_100)
        assert read(path, max_s=1).size == duration_s * RATE


BAD_FILES = {
    "empty": (b"", "0 bytes"),
    "text": (b"hello world" * 100, "cannot be decoded"),
    "head of a WAV": (wav(b"")[:30], "cannot be decoded"),
    "cut WAV": (wav(pcm16(tone()), size=10**6), "cut short"),
    "slow": (wav(pcm16(tone()), sample_rate=100), "have 4000 to 384000 samples"),
    "empty Ogg page": (b"OggS" + bytes(100), "cannot be decoded"),
    "AIFF": (
        b"FORM\0\0\0\x32AIFFCOMM\0\0\0\x12\0\x01\0\0\0\2\0\x10\x40\x0d\xbb\x80"
        + bytes(6)
        + b"SSND\0\0\0\x0c"
        + bytes(12),
        "AIFF",
    ),
}


@both_ways
@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_are_refused(tmp_path, read, name):
    content, reason = BAD_FILES[name]
    path = tmp_path / "bad.wav"
    path.write_bytes(content)
    assert reason in refused(read, path)


@both_ways
@pytest.mark.parametrize("kind", ["FLAC", "OGG"])
def test_files_that_lack_their_end_are_refused(recording, read, kind):
    subtype = "VORBIS" if kind == "OGG" else "PCM_16"
    path = recording(chirp(RATE, 5_000), kind=kind, subtype=subtype)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refused(read, path)


@both_ways
def test_flac_that_lacks_its_middle_is_refused(recording, read, rng):
    """tensorflow-io's kernel waits for the missing samples for ever."""
    path = recording(0.1 * rng.standard_normal(RATE), kind="FLAC")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 3] + data[2 * len(data) // 3 :])
    refused(read, path)


@both_ways
@pytest.mark.parametrize("size", [0, 2**36 - 1])
def test_flac_that_promises_the_wrong_length_is_refused(recording, read, size):
    """The largest promise is 128 GiB."""
    path = recording(tone(), kind="FLAC")
    data = bytearray(path.read_bytes())
    data[21] = data[21] & 0xF0 | size >> 32
    data[22:26] = struct.pack(">I", size & 0xFFFF_FFFF)
    path.write_bytes(data)
    refused(read, path)


@both_ways
def test_a_missing_file_and_a_directory_are_refused(tmp_path, read):
    assert "must be a file" in refused(read, tmp_path / "nowhere.wav")
    assert "must be a file" in refused(read, tmp_path)


def test_a_missing_package_is_one_error_that_names_the_extra(recording, monkeypatch):
    path = recording(tone())
    monkeypatch.setitem(sys.modules, "soundfile", None)
    for read in (from_load, from_graph):
        with pytest.raises(ImportError, match=r"bark-tf\[train\]"):
            read(path)


@pytest.mark.parametrize("sample_rate", [0, -1, 24_000.0, None])
def test_wrong_sample_rates_are_refused(tmp_path, sample_rate):
    with pytest.raises(ValueError, match="sample_rate must be"):
        reading.load(tmp_path, sample_rate)
    with pytest.raises(ValueError, match="sample_rate must be"):
        audio.dataset_audio([], sample_rate)


@both_ways
@pytest.mark.parametrize("max_s", [0, -5, np.inf, np.nan])
def test_wrong_limits_are_refused(recording, read, max_s):
    with pytest.raises(ValueError, match="max_s must be"):
        read(recording(tone()), max_s=max_s)


# === Many files ===


def test_a_dataset_keeps_the_order_and_its_type(recording):
    durations = {8_000: 0.9, 48_000: 0.4, 16_000: 1.3, 12_000: 0.5}
    paths = [
        recording(tone(sample_rate, duration_s), sample_rate)
        for sample_rate, duration_s in durations.items()
    ]
    dataset = audio.dataset_audio(paths, RATE)
    assert dataset.element_spec == tf.TensorSpec([None], tf.float32)
    sizes = [element.shape[0] for element in dataset]
    assert sizes == [round(duration_s * RATE) for duration_s in durations.values()]
    assert list(audio.dataset_audio([], RATE)) == []


def test_load_many_reports_the_broken_and_reads_on(recording, tmp_path):
    good = recording(tone())
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"nonsense")
    first, *errors, last = audio.load_many([good, broken, tmp_path / "no", good], RATE)
    assert np.array_equal(first, last)
    assert [type(error) for error in errors] == [ValueError, ValueError]
    assert "cannot be decoded" in str(errors[0])
    assert "must be a file" in str(errors[1])


# === Trimming and loudness ===


def surrounded(before_s, after_s, noise=0.0, peak=PEAK):
    """A tone with silence, or a hiss, around it."""
    parts = [np.zeros(round(before_s * RATE)), tone(peak=peak)]
    whole = np.concatenate([*parts, np.zeros(round(after_s * RATE))])
    hiss = noise * np.random.default_rng(0).standard_normal(whole.size)
    return (whole + hiss).astype(np.float32)


@pytest.mark.parametrize("peak", [0.9, 0.01])
@pytest.mark.parametrize("offset", [0.0, 0.05])
def test_trim_leaves_the_sound_and_a_little_silence(peak, offset):
    samples = surrounded(0.5, 0.3, noise=peak * 1e-3, peak=peak) + np.float32(offset)
    trimmed = editing.trim(samples, RATE, keep_s=0.05)
    assert trimmed.dtype == np.float32
    places = np.lib.stride_tricks.sliding_window_view(samples, trimmed.size)
    (start,) = np.flatnonzero((places == trimmed).all(axis=1))
    step = 0.006  # one step between frames
    assert start / RATE == pytest.approx(0.5 - 0.05, abs=step)
    assert trimmed.size / RATE == pytest.approx(0.05 + DURATION_S + 0.05, abs=2 * step)


def test_trim_finds_silence_beside_sound_that_is_not_symmetric():
    """The mean of all is that of the sound, which silence does not have."""
    samples = surrounded(0.5, 0.3)
    samples[samples < 0] *= 0.5
    assert editing.trim(samples, RATE).size < samples.size - 0.6 * RATE


@pytest.mark.parametrize("keep_s", [0.0, 0.05])
def test_trim_never_cuts_sound(keep_s):
    sound = tone().astype(np.float32)
    assert editing.trim(sound, RATE, keep_s=keep_s).size == sound.size
    for before_s in np.arange(0.1, 0.11, 0.001):
        samples = surrounded(before_s, before_s)
        trimmed = editing.trim(samples, RATE, keep_s=keep_s)
        assert np.square(trimmed).sum() > 0.9999 * np.square(samples).sum()


def test_trim_keeps_pauses_and_obeys_the_threshold():
    quiet_end = surrounded(0.2, 0.5)
    quiet_end[-RATE // 4 :] = 0.01 * PEAK * tone(duration_s=0.25)
    assert editing.trim(quiet_end, RATE, -30).size < quiet_end.size - RATE // 3
    assert editing.trim(quiet_end, RATE, -60).size == quiet_end.size - 0.15 * RATE
    pause = np.concatenate([surrounded(0, 1), surrounded(0, 0)])
    assert editing.trim(pause, RATE).size == pause.size


@pytest.mark.parametrize("num_samples", [0, 1, 100, RATE])
def test_trim_leaves_silence_alone(num_samples):
    silence = np.zeros(num_samples, np.float32)
    assert editing.trim(silence, RATE).size == num_samples


@pytest.mark.parametrize(
    "before_s, after_s", [(0.0, 0.0), (0.05, 0.3), (0.5, 0.02), (0.1, 0.1)]
)
def test_with_silence_gives_both_ends_the_same(before_s, after_s):
    samples = surrounded(before_s, after_s)
    made = editing.with_silence(samples, RATE, 0.1)
    assert made.dtype == np.float32
    step = 0.015  # frames of which the sound fills a part count
    assert made.size / RATE == pytest.approx(0.2 + DURATION_S, abs=2 * step)
    loud = np.flatnonzero(np.abs(made) > 0.01)
    assert loud[0] / RATE == pytest.approx(0.1, abs=step)
    assert (made.size - loud[-1]) / RATE == pytest.approx(0.1, abs=step)
    # What was there stays as it is, sample for sample.
    first = np.flatnonzero(np.abs(samples) > 0.01)[0]
    sound = samples[first : first + int(DURATION_S * RATE) - 10]
    assert np.array_equal(made[loud[0] : loud[0] + sound.size], sound)


def test_added_silence_is_faint_and_the_same_each_time():
    sound = tone().astype(np.float32)
    made = editing.with_silence(sound, RATE, 0.2)
    assert np.array_equal(made, editing.with_silence(sound, RATE, 0.2))
    added = made[: round(0.15 * RATE)]
    assert 1e-4 < np.sqrt(np.mean(added**2)) < 1e-3
    assert editing.with_silence(sound, RATE, 0.0).size == sound.size
    assert np.array_equal(editing.with_silence(sound, RATE, 0.0), sound)


def test_trim_refuses_what_makes_no_sense():
    with pytest.raises(ValueError, match="threshold_db must be negative"):
        editing.trim(np.ones(5), RATE, threshold_db=3)
    with pytest.raises(ValueError, match="keep_s must be at least 0"):
        editing.trim(np.ones(5), RATE, keep_s=-1)


def test_normalise_reaches_the_level_unless_the_peak_forbids():
    quiet = tone(peak=0.01).astype(np.float32)
    loud = editing.normalise(quiet, rms=0.08)
    assert loud.dtype == np.float32
    assert np.sqrt(np.mean(loud**2)) == pytest.approx(0.08, rel=1e-4)
    spiky = quiet.copy()
    spiky[100] = 0.5
    assert np.abs(editing.normalise(spiky, rms=0.5)).max() == pytest.approx(0.95)
    assert not editing.normalise(np.zeros(9, np.float32)).any()
    with pytest.raises(ValueError, match=r"rms must be in \(0, 1\]"):
        editing.normalise(quiet, rms=0.0)


# === Augmentation ===

SOUND = tone().astype(np.float32)


def level_db(samples):
    return 10 * np.log10(np.mean(np.square(samples, dtype=np.float64)))


def test_augment_does_nothing_by_default():
    np.testing.assert_array_equal(audio.augment(SOUND, [1, 2]), SOUND)


def test_augment_draws_gains_over_the_whole_range():
    gains = [
        level_db(audio.augment(SOUND, [3, step], gain_db=(-12.0, -3.0)))
        - level_db(SOUND)
        for step in range(40)
    ]
    assert -12.001 <= min(gains) < -11
    assert -4 < max(gains) <= -2.999


def test_augment_adds_noise_relative_to_the_audio():
    for peak in (0.5, 0.005):
        samples = tone(peak=peak).astype(np.float32)
        noise = audio.augment(samples, [1, 2], noise_db=(-20.0, -20.0)) - samples
        assert level_db(noise) - level_db(samples) == pytest.approx(-20, abs=0.3)
        assert abs(np.corrcoef(noise[1:], noise[:-1])[0, 1]) < 0.05


def test_augment_never_exceeds_full_scale():
    found = audio.augment(SOUND, [1, 2], gain_db=(20.0, 20.0)).numpy()
    np.testing.assert_allclose(found, SOUND / np.abs(SOUND).max(), atol=1e-6)


def test_augment_fades_both_ends():
    pytest.importorskip("tensorflow_io")
    ones = np.ones(1_000, np.float32)
    found = audio.augment(ones, [1, 2], fade_samples=100).numpy()
    ramp = np.linspace(0, 1, 100)
    np.testing.assert_allclose(found[:100], ramp, atol=1e-6)
    np.testing.assert_allclose(found[-100:], ramp[::-1], atol=1e-6)
    assert (found[100:-100] == 1).all()
    short = audio.augment(ones[:10], [1, 2], fade_samples=100)
    np.testing.assert_allclose(short[:5], np.linspace(0, 1, 5), atol=1e-6)


def test_augment_is_a_function_of_its_seed_in_a_graph_too():
    def vary(seed):
        return audio.augment(SOUND, seed, gain_db=(-6.0, 0.0), noise_db=(-40.0, -20.0))

    seeds = tf.data.Dataset.from_tensor_slices([[1, 2], [1, 3], [1, 2]])
    first, other, again = seeds.map(vary)
    tf.random.set_seed(99)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_allclose(first, vary([1, 2]), rtol=0, atol=1e-6)
    assert np.abs(first - other).max() > 1e-3


@pytest.mark.parametrize(
    "options, message",
    [
        ({"gain_db": (3.0, -3.0)}, "gain_db must be"),
        ({"noise_db": (-np.inf, 0.0)}, "noise_db must be"),
        ({"fade_samples": -1}, "fade_samples must be"),
    ],
)
def test_augment_refuses_what_makes_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        audio.augment(SOUND, [1, 2], **options)


def test_a_fade_without_tensorflow_io_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_io", None)
    with pytest.raises(ImportError, match=r"tensorflow-io.*bark-tf\[train\]"):
        audio.augment(SOUND, [1, 2], fade_samples=10)
