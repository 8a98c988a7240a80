"""Recordings: decoded, resampled and refused; the signals are known in closed form."""

import tracemalloc

import numpy as np
import pytest
from toy_recordings import (
    RATE,
    RECORDINGS,
    REFUSED,
    chirp,
    encode,
    pcm16,
    put,
    tone,
    wav,
)

from bark_tf.audio import reading
from bark_tf.audio.reading import MIN_S, load, load_opening, resample


def refused(path, **options):
    with pytest.raises(ValueError) as caught:
        load(path, RATE, **options)
    assert type(caught.value) is ValueError and str(path) in str(caught.value)
    return str(caught.value)


# === load ===


@pytest.mark.parametrize("name", RECORDINGS)
def test_a_recording_is_the_signal_itself(tmp_path, name):
    recording = RECORDINGS[name]()
    recording.check(load(put(tmp_path, recording.data), RATE))


@pytest.mark.parametrize("extra", [0, 1, 7, 40, 100])
def test_lengths_are_rounded(tmp_path, extra):
    num_samples = 44_100 // 2 + extra
    path = put(tmp_path, encode(tone(44_100, 1)[:num_samples], 44_100))
    assert load(path, RATE).size == np.floor(num_samples * RATE / 44_100 + 0.5)


@pytest.mark.parametrize("kind, subtype", [("OGG", "VORBIS"), ("MP3", None)])
def test_long_lossy_files_are_decoded_in_one_go(tmp_path, kind, subtype):
    """Read in blocks, MP3 was garbage from the second on."""
    data = encode(chirp(44_100, 4_000, duration_s=3), 44_100, kind, subtype)
    found = load(put(tmp_path, data), RATE)
    assert np.corrcoef(found, chirp(RATE, 4_000, duration_s=3))[0, 1] > 0.99


@pytest.mark.parametrize("name", REFUSED)
def test_bad_files_are_refused_with_a_reason(tmp_path, name):
    make, reason = REFUSED[name]
    assert reason in refused(put(tmp_path, make()), max_s=2)


def test_a_missing_file_and_a_directory_are_refused(tmp_path):
    assert "must be a file" in refused(tmp_path / "nowhere.wav")
    assert "must be a file" in refused(tmp_path)


def test_a_git_lfs_pointer_is_called_one(tmp_path):
    path = put(tmp_path, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    assert "git-lfs pointer" in refused(path)


def test_the_limits_themselves_are_allowed(tmp_path):
    for duration_s in (MIN_S, 1):
        path = put(tmp_path, encode(tone(44_100, duration_s), 44_100))
        assert load(path, RATE, max_s=1).size == duration_s * RATE


@pytest.mark.parametrize("sample_rate", [0, -1, 24_000.0, None])
def test_wrong_sample_rates_are_refused(tmp_path, sample_rate):
    with pytest.raises(ValueError, match="sample_rate must be"):
        load(tmp_path, sample_rate)


@pytest.mark.parametrize("max_s", [0, -5, np.inf, np.nan])
def test_wrong_limits_are_refused(tmp_path, max_s):
    with pytest.raises(ValueError, match="max_s must be"):
        load(tmp_path, RATE, max_s=max_s)
    with pytest.raises(ValueError, match="max_s must be"):
        load_opening(tmp_path, max_s)


# === load_opening ===


def test_an_opening_is_read_as_it_is(tmp_path):
    stereo = np.stack([3 * tone(), tone()], axis=1)
    path = put(tmp_path, encode(stereo, 48_000, subtype="FLOAT"))
    samples, sample_rate, duration_s = load_opening(path, 0.3)
    np.testing.assert_allclose(samples, stereo[:14_400], atol=1e-6)
    assert sample_rate == 48_000 and duration_s == len(stereo) / 48_000


def test_a_stream_takes_no_memory_for_what_it_promises(tmp_path):
    path = put(tmp_path, wav(pcm16(tone()), size=2**32 - 1))
    tracemalloc.start()
    try:
        samples, _, duration_s = load_opening(path)
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(samples) == tone().size and duration_s == len(samples) / RATE
    assert most_bytes < 10**6


@pytest.mark.parametrize("name", ["NaN", "cut WAV", "text", "three channels"])
def test_bad_openings_are_refused(tmp_path, name):
    make, reason = REFUSED[name]
    with pytest.raises(ValueError, match=reason):
        load_opening(put(tmp_path, make()))


# === Bounds ===


@pytest.mark.parametrize(
    "read",
    [
        lambda path: load(path, 24_000, max_s=1e6),
        lambda path: load(path, 2**30),
        lambda path: load(path, 1),
        lambda path: resample(np.zeros(24_000, np.float32), 1, 24_000),
        lambda path: resample(np.zeros(24_000, np.float32), 24_000, 2**31 - 1),
    ],
)
def test_no_call_makes_gigabytes_of_little(tmp_path, read):
    """Bug: 24,000 samples, resampled from 1 Hz, took 2.4 GB."""
    path = put(tmp_path, wav(pcm16(tone())))
    with pytest.raises(ValueError, match=r"(at most|between) .*Received: "):
        read(path)


def test_a_small_file_of_much_silence_is_not_decoded_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "_MAX_SAMPLES", 2 * RATE)
    stereo = encode(np.full((5 * RATE, 2), 0.1), kind="FLAC")
    path = put(tmp_path, stereo)
    assert len(load_opening(path, 4.0).samples) == RATE
    with pytest.raises(ValueError, match=r"at most 1 s.*5\.0 s"):
        load(path, 4_000, max_s=4.0)
