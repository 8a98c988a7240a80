"""Files that change together; `tests/hostile/test_kills.py` kills real commands."""

import os
import threading
from pathlib import Path

import pytest

from bark_tf import saving as module
from bark_tf.files import atomic_write
from bark_tf.saving import locked, saving, settle


def write(folder, **texts):
    for name, text in texts.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def texts(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_new_directory_appears_with_all_its_files(tmp_path):
    folder = tmp_path / "a" / "made"
    with saving(folder) as change:
        write(change.path, one="1", inner__two="2")
        assert not folder.exists()
    assert texts(tmp_path) == {"a/made/one": "1", "a/made/inner/two": "2"}
    assert folder.stat().st_mode == (tmp_path / "a").stat().st_mode


def test_files_change_together_and_others_stay(tmp_path):
    write(tmp_path, one="old", gone="old", inner__two="old", inner__mine="m", mine="m")
    with saving(tmp_path) as change:
        write(change.path, one="new", inner__two="new", fresh__three="new")
        change.remove("gone", "never")
        assert texts(tmp_path)["one"] == "old" and (tmp_path / "gone").exists()
        assert change.find("one").read_text() == "new"
        assert change.find("mine").read_text() == "m"
    assert texts(tmp_path) == {
        **{"one": "new", "inner/two": "new", "fresh/three": "new"},
        **{"mine": "m", "inner/mine": "m"},
    }


def test_what_is_removed_and_new_is_new(tmp_path):
    """As a checkpoint of a step that is written again."""
    write(tmp_path, step__state="old", step__facts="old")
    with saving(tmp_path) as change:
        write(change.path, step__state="new")
        change.remove("step")
    assert texts(tmp_path) == {"step/state": "new"}


def test_inner_changes_take_part_in_the_outer_one(tmp_path):
    write(tmp_path, one="old", two="old")
    with pytest.raises(KeyError), saving(tmp_path) as outer:
        with saving(tmp_path / "." / "") as inner:
            assert inner is outer
            write(inner.path, one="new")
        raise KeyError
    assert texts(tmp_path) == {"one": "old", "two": "old"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_nothing(error, tmp_path):
    for folder in (tmp_path / "there", tmp_path / "new"):
        write(tmp_path, there__one="old")
        with pytest.raises(error), saving(folder) as change:
            write(change.path, one="new")
            raise error
        assert texts(tmp_path) == {"there/one": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_files_and_folders_do_not_replace_each_other(tmp_path):
    write(tmp_path, one="old", two__mine="m")
    for name in ("one__new", "two"):
        with pytest.raises(FileExistsError, match="is in the way"):
            with saving(tmp_path) as change:
                write(change.path, **{name: "new"})
    assert texts(tmp_path) == {"one": "old", "two/mine": "m"}


def test_a_file_in_place_of_the_directory_is_refused(tmp_path):
    write(tmp_path, one="mine")
    with pytest.raises(FileExistsError), saving(tmp_path / "one"):
        pass
    assert texts(tmp_path) == {"one": "mine"}


@pytest.fixture
def interrupted(tmp_path, monkeypatch):
    """A directory whose writer was killed in the middle of renaming."""
    write(tmp_path, made__one="old", made__two="old", made__gone="old", made__mine="m")
    rename = os.replace

    def die(source, target):
        if Path(target) == tmp_path / "made" / "two" and "/new/" in str(source):
            raise KeyboardInterrupt
        rename(source, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", die)
        patch.setattr(module, "_take_back", lambda *_: None)
        with saving(tmp_path / "made") as change:
            write(change.path, one="new", two="new")
            change.remove("gone")
    return tmp_path / "made"


def test_a_reader_finishes_what_was_interrupted(interrupted):
    assert texts(interrupted).keys() >= {"one", ".saved/new/two", ".saved/old/gone"}
    with pytest.warns(UserWarning, match="was interrupted .* finished now"):
        settle(interrupted)
    assert texts(interrupted) == {"one": "new", "two": "new", "mine": "m"}
    settle(interrupted)  # says nothing


def test_a_writer_finishes_what_was_interrupted(interrupted):
    with pytest.warns(UserWarning, match="finished now"), saving(interrupted) as change:
        write(change.path, two="newest")
    assert texts(interrupted) == {"one": "new", "two": "newest", "mine": "m"}


def test_a_reader_who_may_not_write_is_told_why(interrupted, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied", "made")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(PermissionError, match="open it once as a user who may write"):
        settle(interrupted)


@pytest.mark.parametrize(
    "make",
    [
        lambda saved, _: write(saved, **{"removed.json": '["../precious/one"]'}),
        lambda saved, _: write(saved, **{"removed.json": '["inner/one"]'}),
        lambda saved, _: write(saved, **{"removed.json": "[[1]]"}),
        lambda saved, _: write(saved, **{"removed.json": "{"}),
        lambda saved, _: write(saved, new__inner__one="theirs"),
        lambda saved, precious: (saved / "new").symlink_to(precious),
        lambda saved, precious: (
            write(saved, new__a="a") or (saved / "old").symlink_to(precious)
        ),
        lambda saved, precious: saved.rmdir() or saved.symlink_to(precious),
    ],
)
def test_a_strangers_directory_decides_nothing_outside_of_it(make, tmp_path):
    """Opening a checkpoint must not move, overwrite or remove a user's files."""
    write(tmp_path, precious__one="mine", stranger__config="{}", stranger__a="a")
    precious, stranger = tmp_path / "precious", tmp_path / "stranger"
    write(precious, **{"removed.json": '["one"]', "new__two": "mine"})
    before = texts(precious)
    (stranger / "inner").symlink_to(precious)
    (stranger / ".saved").mkdir()
    make(stranger / ".saved", precious)
    with pytest.raises(ValueError, match=r"removed\.json|must stay in"):
        settle(stranger)
    assert texts(precious) == before


def test_links_are_not_written_through(tmp_path):
    write(tmp_path, precious__one="mine")
    (tmp_path / "a").mkdir()
    for name in (".saving", ".bark-tf.lock", ".one.saving-0"):
        (tmp_path / "a" / name).symlink_to(tmp_path / "precious" / "one")
    with pytest.raises(BlockingIOError, match=r"delete '\.bark-tf\.lock'"):
        with saving(tmp_path / "a", wait_s=0):
            pass
    (tmp_path / "a" / ".bark-tf.lock").unlink()
    with saving(tmp_path / "a") as change:
        write(change.path, two="2")
    with atomic_write(tmp_path / "a" / "one") as temporary:
        temporary.write_text("1")
    assert texts(tmp_path / "precious") == {"one": "mine"}


def test_leftovers_of_a_kill_are_removed(tmp_path):
    write(tmp_path, made__one="old")
    write(tmp_path / "made", **{".saving__new__one": "half", ".bark-tf.lock": ""})
    write(tmp_path, **{".made.saving__.saving__new__one": "half of before"})
    with saving(tmp_path / "made") as change:
        write(change.path, one="new")
    assert texts(tmp_path) == {"made/one": "new"}
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_what_a_neighbour_is_writing_stays(tmp_path):
    """Of another directory of the same folder, and before this one was there."""
    checked = []

    def save_too():
        with saving(tmp_path / "b") as change:
            write(change.path, two="2")
        try:
            with saving(tmp_path / "a", wait_s=0):
                pass
        except BlockingIOError as error:
            checked.append(str(error))

    with saving(tmp_path / "a") as change:
        write(change.path, one="1")
        thread = threading.Thread(target=save_too)
        thread.start()
        thread.join()
    assert len(checked) == 1 and checked[0].startswith(repr(str(tmp_path / "a")))
    assert texts(tmp_path) == {"a/one": "1", "b/two": "2"}


def test_a_locked_directory_can_be_saved_to(tmp_path):
    with locked(tmp_path / "out"):
        with saving(tmp_path / "out") as change:
            write(change.path, one="1")
        assert texts(tmp_path / "out").keys() == {"one", ".bark-tf.lock"}
    assert texts(tmp_path) == {"out/one": "1"}
