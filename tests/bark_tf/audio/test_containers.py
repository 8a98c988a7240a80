"""What phones and browsers record: MP4, AAC and WebM, decoded by PyAV."""

import struct
import sys

import numpy as np
import pytest
from toy_recordings import RATE, chirp, contained, put

from bark_tf.audio.reading import load, load_opening, open_recording

av = pytest.importorskip("av", reason="PyAV is not installed: the extra `dev`")

# Name -> FFmpeg's muxer, encoder, sample rate, and the samples it may add at the ends.
KINDS = {
    "m4a": ("ipod", "aac", 44_100, 2_048),
    "mp4": ("mp4", "aac", RATE, 2_048),
    "lossless m4a": ("ipod", "alac", RATE, 0),
    "aac": ("adts", "aac", RATE, 2_048),
    "webm": ("webm", "libopus", 48_000, 0),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_container_is_decoded_like_other_files(name, tmp_path):
    *how, extra = KINDS[name]
    path = put(tmp_path, contained(*how))
    found, expected = load(path, RATE), chirp(RATE, 5_000, 1.0)
    assert RATE <= len(found) <= RATE + extra
    windows = np.lib.stride_tricks.sliding_window_view(found, 20_000)[: extra + 1]
    delayed = windows @ expected[:20_000] / np.linalg.norm(expected[:20_000])
    assert max(delayed / np.linalg.norm(windows, axis=1)) > 0.98
    opening = load_opening(path, 0.5)
    assert len(opening.samples) == opening.sample_rate / 2
    with open_recording(path) as file:
        assert file.channels == 1 and file.samplerate == how[2]


def test_stereo_is_averaged_and_long_recordings_are_not_decoded_whole(tmp_path):
    data = contained("mp4", "aac", layout="stereo", duration_s=4)
    path = put(tmp_path, data)
    assert load(path, RATE).shape == (len(load_opening(path).samples),)
    with pytest.raises(ValueError, match=r"at most 2 s. Received: .*, 4\.\d s"):
        load(path, RATE, max_s=2)
    assert len(load_opening(path, 1).samples) == RATE


M4A, WEBM = ("ipod", "aac"), ("webm", "libopus", 48_000)
HEAD = struct.pack(">I", 24) + b"ftypM4A "
# Name -> a function that makes the bytes, a part of the message.
REFUSED = {
    "MP4 without its index": (lambda: contained(*M4A)[:3_000], "cannot be decoded"),
    "WebM without its end": (lambda: contained(*WEBM)[:5_000], "damaged"),
    "MP4 of noise": (lambda: HEAD + bytes(range(256)) * 9, "cannot be decoded"),
    "WebM of zeros": (lambda: b"\x1aE\xdf\xa3" + bytes(500), "cannot be decoded"),
    "AAC of zeros": (lambda: b"\xff\xf1" + bytes(500), "cannot be decoded"),
    "another codec": (lambda: contained("matroska", "ac3", 48_000), "a known codec"),
    "six channels": (lambda: contained("mp4", "aac", RATE, "5.1"), "6 channels"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_containers_are_refused_with_a_reason(name, tmp_path):
    make, reason = REFUSED[name]
    path = put(tmp_path, make())
    with pytest.raises(ValueError) as caught:
        load(path, RATE)
    assert type(caught.value) is ValueError
    assert reason in str(caught.value) and str(path) in str(caught.value)


def test_a_playlist_never_reaches_ffmpeg(tmp_path, monkeypatch):
    """FFmpeg would open the files and addresses that a playlist names."""
    monkeypatch.setattr(av, "open", None)
    for text in ("#EXTM3U\n/etc/hostname\n", "ffconcat version 1.0\nfile 'secret'\n"):
        with pytest.raises(ValueError, match="cannot be decoded"):
            load(put(tmp_path, text.encode()), RATE)


def test_without_pyav_the_message_names_the_extra(tmp_path, monkeypatch):
    path = put(tmp_path, contained(*M4A))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ValueError, match=r"Reading MP4 needs .* av, .*`formats`"):
        load(path, RATE)
