"""Folders of runs behind URLs; `ram://` is TensorFlow's file system in memory."""

import pytest
import tensorflow as tf

from bark_tf.training.data.storage import storage_path
from bark_tf.training.runs import mirrors
from bark_tf.training.runs.mirrors import Mirror

RUN = (
    "model.safetensors",
    "config.json",
    "training/fine/done.json",
    "training/fine/step-00000002/state.safetensors",
    "training/fine/step-00000002/state.json",
)


def write(folder, text, names=RUN):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def contents(url):
    return {name: (url / name).read_text() for name in mirrors._names(str(url))}


def test_new_files_are_uploaded_and_old_ones_removed(tmp_path):
    mirror = Mirror(storage_path("ram://runs/one"), tmp_path / "a")
    mirror.pull()
    write(mirror.folder, "first")
    write(mirror.folder, "half", [".step-00000004.tmp/state.safetensors", ".a.json"])
    write(mirror.folder, "", ["log.jsonl"])
    mirror.push()
    assert contents(mirror.url) == {**dict.fromkeys(RUN, "first"), "log.jsonl": ""}
    other = Mirror(mirror.url, tmp_path / "b")
    other.pull()
    (other.folder / RUN[0]).write_text("second")
    (other.folder / RUN[2]).unlink()
    other.push()
    mirror.pull()
    for found in (contents(mirror.url), contents(storage_path(mirror.folder))):
        assert found[RUN[0]] == "second" and RUN[2] not in found and len(found) == 5


@pytest.mark.parametrize("count", range(len(RUN)))
def test_an_upload_that_ends_early_leaves_nothing_incomplete(
    tmp_path, monkeypatch, count
):
    mirror = Mirror(storage_path(f"ram://runs/early{count}"), tmp_path / "a")
    mirror.pull()
    write(mirror.folder, "text")
    copy, copied = mirrors._copy, []

    def fail(source, target):
        copied.append(source)
        if len(copied) > count:
            tf.io.gfile.GFile(target, "w").write("half")
            raise KeyboardInterrupt
        copy(source, target)

    monkeypatch.setattr(mirrors, "_copy", fail)
    with pytest.raises(KeyboardInterrupt):
        mirror.push()
    found = contents(mirror.url)
    assert len(found) == count and set(found.values()) <= {"text"}
    assert RUN[3] in found or RUN[4] not in found
    assert RUN[2] not in found
