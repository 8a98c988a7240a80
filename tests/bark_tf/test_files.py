import contextlib
import os
import resource
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import toy
import toy_cli

from bark_tf import BarkConfig, BarkProcessor, BarkTokenizer, write_audio
from bark_tf.files import (
    atomic_write,
    check_relative,
    local_path,
    read_json_object,
    remote_scheme,
)
from bark_tf.voices.array_files import read_npy

# === Writing ===


def test_atomic_write_replaces_at_once(tmp_path):
    target = tmp_path / "config.json"
    target.write_text("old")
    with atomic_write(target) as temporary:
        temporary.write_text("new")
        assert temporary.parent == tmp_path and temporary.suffix == ".json"
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_atomic_write_that_fails_leaves_the_old_file(error, tmp_path):
    target = tmp_path / "config.json"
    target.write_text("old")
    with pytest.raises(error), atomic_write(target) as temporary:
        temporary.write_text("half")
        raise error
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_atomic_write_gives_the_usual_permissions(tmp_path):
    """Bug: a temporary file is only its owner's, and so was every saved file."""
    (tmp_path / "plain").touch()
    with atomic_write(tmp_path / "saved") as temporary:
        temporary.touch()
    modes = [(tmp_path / name).stat().st_mode for name in ("plain", "saved")]
    assert modes[0] == modes[1]


@contextlib.contextmanager
def full_disk():
    """No file may have more than a few bytes, as if the disk were full.

    Not a fixture: pytest writes to files too, its own report among them.
    """
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(bytes(99)),
        lambda path: safetensors.numpy.save_file({"a": np.zeros(9)}, path),
        lambda path: (path / "missing").write_bytes(b""),
    ],
)
def test_what_cannot_be_written_is_named_as_the_user_did(write, tmp_path):
    """A full disk once was an error without a name, or about a hidden file."""
    path = tmp_path / "a.wav"
    with pytest.raises(OSError) as found, full_disk(), atomic_write(path) as temporary:
        write(temporary)
    assert found.value.filename == str(tmp_path / "a.wav") and found.value.strerror
    assert not list(tmp_path.iterdir())


WRITERS = {
    "config.json": lambda path: BarkConfig().save_pretrained(path.parent),
    "tokenizer.json": lambda path: TOKENIZER.save_pretrained(path.parent),
    "processor_config.json": lambda path: BarkProcessor(TOKENIZER).save_pretrained(
        path.parent
    ),
    "v.npz": lambda path: toy.voice().save(path),
    "a.flac": lambda path: write_audio(path, np.zeros(99, np.float32), 24_000),
    "model.safetensors": lambda path: toy.shared_bark().save_pretrained(path.parent),
    "semantic": lambda path: toy.shared_bark().semantic.save_pretrained(path.parent),
}
TOKENIZER = BarkTokenizer.from_vocabulary(["[PAD]", "[UNK]"])


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_named_by_every_writer(name, tmp_path):
    """The errors once had no name, or one of a file that nobody has asked for."""
    path = tmp_path / "voice" / name
    path.parent.mkdir()
    toy.shared_bark()
    with pytest.raises(OSError) as found, full_disk():
        WRITERS[name](path)
    assert found.value.filename in (str(path), str(path.parent))
    assert not list(path.parent.iterdir())


def test_another_error_is_not_about_what_is_written(tmp_path):
    with pytest.raises(FileNotFoundError) as found, atomic_write(tmp_path / "a"):
        (tmp_path / "source").read_text()
    assert found.value.filename == str(tmp_path / "source")
    with pytest.raises(ValueError, match="no reason"), atomic_write(tmp_path / "a"):
        raise ValueError("no reason")


def test_the_longest_name_can_be_written(tmp_path):
    """Bug: the temporary file's name is longer."""
    for name in ("é" * 127, "a." + "b" * 250):
        with atomic_write(tmp_path / name) as temporary:
            temporary.touch()
    assert len(list(tmp_path.iterdir())) == 2


# === JSON ===


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "not valid JSON"),
        (b"[1]", "JSON object.*list"),
        (b'{"a": 1, "b": 2, "a": 3}', "'a' twice"),
        (b'{"a": %s}' % (b"9" * 5000), "not valid JSON"),
        (b'{"a": %s1%s}' % (b"[" * 200, b"]" * 200), "more than 100 levels"),
        (b'{"a": %s' % (b"[" * 10**5), "not valid JSON"),
        (b'{"a": "\xff"}', "UTF-8"),
    ],
)
def test_what_is_no_json_object_is_refused(tmp_path, data, message):
    path = tmp_path / "x.json"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"x\.json.*{message}") as found:
        read_json_object(path)
    assert "\n" not in str(found.value) and len(str(found.value)) < 400


def test_a_byte_order_mark_and_deep_values_are_read(tmp_path):
    text = '{"a": ' + "[" * 90 + "]" * 90 + ', "b": {"a": 2}}'
    (tmp_path / "x.json").write_text(text, encoding="utf-8-sig")
    assert read_json_object(tmp_path / "x.json")["b"] == {"a": 2}


# === Paths ===


@pytest.mark.parametrize(
    "path",
    [
        "a",
        "b" * 255,
        "a.npy",
        "v2/a.npy",
        "v2/en/deep/a.npy",
        "v2\\a.npy",
        "a..b",
        "...",
        "é/中",
    ],
)
def test_paths_that_stay(path):
    check_relative(path, "A path")
    check_relative(Path(path), "A path")


@pytest.mark.parametrize(
    "path",
    [
        "",
        ".",
        "..",
        "../a",
        "a/../../b",
        "a/..",
        "/a",
        "//host/share/a",
        "\\a",
        "..\\a",
        "a\\..\\..\\b",
        "C:a",
        "C:\\a",
        "c:/a",
        "a\0b",
        "a/" + "b" * 256,
        "é" * 128,
        "a\ud800",
        3,
        None,
        b"a",
    ],
)
def test_paths_that_leave(path):
    with pytest.raises(ValueError, match=r"A path must be a relative path"):
        check_relative(path, "A path")


def test_a_git_lfs_pointer_is_called_one(tmp_path):
    path = tmp_path / "config.json"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(ValueError, match=r"config\.json: .*git-lfs pointer"):
        read_json_object(path)


@pytest.mark.parametrize("path", ["a", "/a/b", "C:/a", "a:b", "a/gs://b", "", "gs:"])
def test_paths_of_this_machine_stay_as_they_are(path):
    assert local_path(path) == Path(path) and remote_scheme(path) is None


@pytest.mark.parametrize(
    "url", ["file:///a/b%20c", "file://localhost/a/b c", "FILE:/a/b c"]
)
def test_a_file_url_is_a_path(url):
    assert local_path(url) == Path("/a/b c") and remote_scheme(url) is None


@pytest.mark.parametrize(
    ("url", "scheme"),
    [
        ("gs://bucket/a", "gs"),
        (Path("gs://bucket/a"), "gs"),
        ("S3:/bucket", "s3"),
        ("https://host/a", "https"),
        ("file://host/a", None),
    ],
)
def test_other_urls_are_no_local_folders(url, scheme):
    """Bug: `--out gs://bucket` wrote into a folder named `gs:`."""
    assert remote_scheme(url) == scheme
    with pytest.raises(ValueError, match=r"-o must be on this machine.*Received: '"):
        local_path(url, "-o")


@pytest.mark.parametrize(
    "save",
    [
        BarkConfig.preset("tiny").save_pretrained,
        BarkTokenizer.from_vocabulary(["[PAD]", "[UNK]"]).save_pretrained,
        toy_cli.voice().save,
        lambda path: write_audio(path, np.zeros(9), 24_000),
    ],
)
def test_nothing_is_saved_behind_a_url(tmp_path, monkeypatch, save):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"must be on this machine.*'gs:/+b/a\.wav'"):
        save("gs://b/a.wav")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "make", [os.mkfifo, os.mkdir, lambda p: p.symlink_to("/dev/zero")]
)
def test_what_has_no_end_is_not_read(tmp_path, make):
    """Bug: a pipe was waited for, and a device was read until memory was full."""
    path = tmp_path / "config.json"
    make(path)
    for read in (read_json_object, read_npy):
        with pytest.raises(ValueError, match="must be a file"):
            read(path)


def test_a_file_that_fits_no_memory_is_not_read(tmp_path):
    path = tmp_path / "config.json"
    with open(path, "wb") as file:
        file.truncate(2**36)
    with pytest.raises(ValueError, match=r"at most \d+ bytes. Received: 68719476736"):
        read_json_object(path)
