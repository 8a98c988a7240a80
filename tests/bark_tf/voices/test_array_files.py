"""Voices in files from anybody, read as presets."""

import io
import os
import pickle
import zipfile

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from toy_files import voice_arrays

from bark_tf.voices.presets import VoicePreset


def npy_bytes(array):
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def write_npz(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def all_members():
    return {f"{key}.npy": npy_bytes(array) for key, array in voice_arrays().items()}


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_further_arrays_are_left_out(npz):
    members = {**all_members(), "other.npy": pickle.dumps("never read")}
    write_npz(npz, members)
    assert VoicePreset.from_npz(npz) == VoicePreset.from_dict(voice_arrays())


@pytest.mark.parametrize("place", ["member", "whole", "object array"])
def test_no_pickle_is_ever_executed(tmp_path, place):
    marker, path = tmp_path / "executed", tmp_path / "voice.npz"
    bomb = pickle.dumps(Bomb(marker))
    members = all_members()
    if place == "member":
        write_npz(path, {**members, "semantic_prompt.npy": bomb})
    elif place == "object array":
        array = np.array([Bomb(marker)], dtype=object)
        write_npz(path, {**members, "semantic_prompt.npy": npy_bytes(array)})
    else:
        path.write_bytes(bomb)
    with pytest.raises(ValueError, match=r"voice\.npz is not a voice file"):
        VoicePreset.from_npz(path)
    assert not marker.exists()
    pickle.loads(bomb)
    assert marker.exists()


def header(text):
    body = text.encode("latin1") + b"\n"
    return b"\x93NUMPY\x01\x00" + len(body).to_bytes(2, "little") + body


def shaped(shape, descr="<i8"):
    return header(f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}}}")


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (b"", "EOF"),
        (b"\x93NUMPY", "EOF"),
        (b"\x93NUMPY\x03\x00", r"version 1 or 2, not \(3, 0\)"),
        (shaped("(1099511627776,)"), r"at most 4194304 values, not \(1099511627776,\)"),
        (shaped("(2048, 2049)"), r"at most 4194304 values, not \(2048, 2049\)"),
        (shaped("(4194304,)"), "read"),
        (shaped("(-1,)"), ""),
        (shaped("(0, 2**70)"), ""),
        (shaped("(2,)", "|S2147483647"), "must hold integers"),
        (shaped("(2,)", "|O"), "must hold integers"),
        (header("__import__('os').mkdir('executed')"), "malformed"),
        (header("(" * 9000), ""),
        (header("{" * 300 + "}" * 300), ""),
    ],
)
def test_a_hostile_array_is_one_clear_error(tmp_path, monkeypatch, member, message):
    """A header of a hundred bytes may claim terabytes."""
    monkeypatch.chdir(tmp_path)
    write_npz(tmp_path / "voice.npz", {**all_members(), "fine_prompt.npy": member})
    with pytest.raises(ValueError, match=r"voice\.npz is not a voice file.*" + message):
        VoicePreset.from_npz(tmp_path / "voice.npz")
    assert not (tmp_path / "executed").exists()


def test_a_git_lfs_pointer_is_called_one(npz):
    npz.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(ValueError, match=r"voice\.npz: .*git-lfs pointer.*git lfs p"):
        VoicePreset.from_npz(npz)


@pytest.mark.parametrize("length", [0, 1, 100, -1, -30])
def test_a_truncated_file_is_one_clear_error(npz, length):
    content = npz.read_bytes()[:length]
    npz.write_bytes(content)
    with pytest.raises(ValueError, match=r"voice\.npz is not a voice file"):
        VoicePreset.from_npz(npz)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzzed") / "voice.npz"


@hypothesis.given(data=st.data())
@hypothesis.settings(max_examples=150)
def test_flipped_bytes_are_harmless_or_one_clear_error(fuzzed, data):
    stream = io.BytesIO()
    save = data.draw(st.sampled_from([np.savez, np.savez_compressed]))
    save(stream, **voice_arrays(4, 6))
    content = bytearray(stream.getvalue())
    places = st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=8)
    for place in data.draw(places):
        content[place] = data.draw(st.integers(0, 255))
    fuzzed.write_bytes(content)
    try:
        voice = VoicePreset.from_npz(fuzzed)
    except ValueError as error:
        assert str(error).startswith(str(fuzzed))
    else:
        assert voice.validate() is voice
