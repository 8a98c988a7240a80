"""Dataset formats: usable recordings, and every kind of problem."""

import json
import os

import pytest

from bark_tf.training.data.datasets import read_dataset
from bark_tf.training.data.layouts import Skipped


def write(path, content=b""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def ids(recordings):
    return [recording.id for recording in recordings]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "voices"


@pytest.fixture
def ljspeech(folder):
    """A function that writes metadata.csv, with audio for `a`, `b` and `c`."""

    def make(content):
        for name in ("wavs/a.wav", "wavs/b.FLAC", "c.mp3"):
            write(folder / name)
        return write(folder / "metadata.csv", content)

    return make


@pytest.fixture
def jsonl(folder):
    """A function that writes lines (objects or text), with audio for `a` and `x/b`."""

    def make(*lines):
        write(folder / "a.wav")
        write(folder / "x" / "b.ogg")
        lines = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        return write(folder / "train.jsonl", "\n".join(lines))

    return make


GOOD = {"audio": "x/b.ogg", "text": "good"}


# === LJSpeech ===


def test_ljspeech_reads_two_or_three_columns_and_audio_in_both_places(ljspeech, folder):
    path = ljspeech("a|Dr. A|Doctor A\nb|Plain\nc|Kept|\n\n")
    recordings, problems = read_dataset(folder)
    assert problems == []
    assert [(r.id, r.text, r.speaker) for r in recordings] == [
        ("a", "Doctor A", "voices"),
        ("b", "Plain", "voices"),
        ("c", "Kept", "voices"),
    ]
    assert [r.path for r in recordings] == [
        folder / "wavs/a.wav",
        folder / "wavs/b.FLAC",
        folder / "c.mp3",
    ]
    assert all(r.path.is_absolute() for r in recordings)
    assert read_dataset(path) == (recordings, problems)


def test_each_bad_metadata_line_is_one_problem(ljspeech, folder):
    ljspeech(
        b"a|fine\n"
        b"b|one|two|three\n"
        b"alone\n"
        b"c|caf\xe9\n"
        b"c|  \t \n"
        b"missing|text\n"
        b"a|again\n"
        b"|no id\n"
        b"../voices/wavs/a|out\n"
    )
    recordings, problems = read_dataset(folder)
    assert ids(recordings) == ["a"]
    assert recordings[0].text == "fine"
    expected = [
        (2, "b", "4 columns"),
        (3, "alone", "1 columns"),
        (4, "", "not UTF-8. Received: byte 6"),
        (5, "c", "text is empty"),
        (6, "missing", "no audio file. Received: missing"),
        (7, "a", "already used. Received: metadata.csv:1"),
        (8, "", "id is empty"),
        (9, "../voices/wavs/a", "not inside the dataset"),
    ]
    for problem, (line, name, reason) in zip(problems, expected, strict=True):
        assert problem.where == f"metadata.csv:{line}"
        assert problem.id == name
        assert reason in problem.message


def test_the_first_usable_line_of_an_id_counts(ljspeech, folder):
    ljspeech("a|\na|second\na|third\n")
    recordings, problems = read_dataset(folder)
    assert [r.text for r in recordings] == ["second"]
    assert [p.where for p in problems] == ["metadata.csv:1", "metadata.csv:3"]


def test_byte_order_mark_windows_lines_and_control_characters(ljspeech, folder):
    line_separator = "\N{LINE SEPARATOR}"
    text = f"\ufeffa|x\x00y\x1b[1m\tz{line_separator}w\x85v\r\nb|  more   spaces \r\n"
    ljspeech(text)
    recordings, problems = read_dataset(folder)
    assert problems == []
    assert ids(recordings) == ["a", "b"]
    assert [r.text for r in recordings] == ["x y [1m z w v", "more spaces"]


def test_utf16_is_reported(ljspeech, folder):
    ljspeech("a|text\n".encode("utf-16"))
    with pytest.raises(ValueError, match="not UTF-8"):
        read_dataset(folder)


# === Folders ===


def test_two_speakers_may_use_the_same_ids(tmp_path):
    for speaker in ("ann", "bob"):
        (tmp_path / speaker).mkdir()
        (tmp_path / speaker / "001.wav").write_bytes(b"sound")
        lines = f"001|{speaker} speaks\n002|nothing\n"
        (tmp_path / speaker / "metadata.csv").write_text(lines, encoding="utf-8")
    recordings, problems = read_dataset(tmp_path)
    assert [(r.id, r.speaker) for r in recordings] == [
        ("ann/001", "ann"),
        ("bob/001", "bob"),
    ]
    assert [one.path.parent.name for one in recordings] == ["ann", "bob"]
    assert [p.id for p in problems] == ["ann/002", "bob/002"]


def test_a_folder_is_read_recursively_and_sub_folders_are_speakers(folder):
    for name in ("z.wav", "ann/1.mp3", "bob/chapter/2.flac"):
        write(folder / name)
        write((folder / name).with_suffix(".txt"), f"\ufeffsays\n {name}\n")
    write(folder / ".hidden" / "x.wav")
    write(folder / "ann" / "._1.mp3")
    recordings, problems = read_dataset(folder)
    assert problems == []
    assert [(r.id, r.text, r.speaker) for r in recordings] == [
        ("ann/1", "says ann/1.mp3", "ann"),
        ("bob/chapter/2", "says bob/chapter/2.flac", "bob"),
        ("z", "says z.wav", "voices"),
    ]
    assert recordings[1].path == folder / "bob/chapter/2.flac"


def test_problems_of_a_folder_name_the_file(folder):
    texts = {"good": b"ok", "empty": b" \n", "latin": b"caf\xe9", "audioless": b"text"}
    for name, text in texts.items():
        write(folder / "s" / f"{name}.txt", text)
    for name in ("good.wav", "good.flac", "empty.wav", "latin.ogg", "textless.mp3"):
        write(folder / "s" / name)
    recordings, problems = read_dataset(folder)
    assert [r.path.name for r in recordings] == ["good.flac"]
    reasons = {problem.where: problem.message for problem in problems}
    assert len(reasons) == len(problems) == 5
    assert reasons["s/empty.wav"] == "text is empty"
    assert "not UTF-8" in reasons["s/latin.ogg"]
    assert reasons["s/textless.mp3"] == "no .txt or .lab beside it"
    assert reasons["s/audioless.txt"].startswith("no audio file beside it (wav, flac")
    assert "already used. Received: s/good.flac" in reasons["s/good.wav"]


def test_links_out_of_the_folder_are_refused(folder, tmp_path):
    secret = write(tmp_path / "secret.wav")
    secret_text = write(tmp_path / "secret.txt", "secret")
    for name in ("in", "out", "text"):
        write(folder / f"{name}.wav")
        write(folder / f"{name}.txt", "inside")
    (folder / "out.wav").unlink()
    (folder / "out.wav").symlink_to(secret)
    (folder / "text.txt").unlink()
    (folder / "text.txt").symlink_to(secret_text)
    (folder / "loop").symlink_to(folder)
    recordings, problems = read_dataset(folder)
    assert ids(recordings) == ["in"]
    assert sorted(p.id for p in problems) == ["out", "text"]
    assert all("not inside the dataset" in p.message for p in problems)


def test_an_unreadable_sub_folder_is_reported(folder, monkeypatch):
    write(folder / "a.wav")
    write(folder / "a.txt", "text")
    write(folder / "locked" / "b.wav")
    scandir = os.scandir

    def guarded(path):
        if os.fspath(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    recordings, problems = read_dataset(folder)
    assert ids(recordings) == ["a"]
    assert problems == [Skipped("", "locked", "cannot be read: Permission denied")]


def test_a_file_name_in_another_encoding_is_reported_in_printable_form(folder):
    write(folder / "a.wav")
    write(folder / "a.txt", "text")
    try:
        for suffix in (b".wav", b".txt"):
            with open(os.fsencode(folder) + b"/caf\xe9" + suffix, "wb") as file:
                file.write(b"text")
    except OSError:
        pytest.skip("this file system takes only UTF-8")
    recordings, problems = read_dataset(folder)
    assert ids(recordings) == ["a"]
    (problem,) = problems
    assert problem.where == "caf?.wav"
    assert "not Unicode" in problem.message


# === JSON lines ===


def test_jsonl_takes_optional_speaker_and_id(jsonl, folder):
    path = jsonl(
        {"audio": "a.wav", "text": "one", "speaker": "ann", "id": "first"},
        "",
        {"audio": "x/b.ogg", "text": "two\u0007"},
        {"audio": "a.wav", "text": "three", "speaker": 17, "id": 3},
        {"audio": "a.wav", "text": "four", "speaker": None, "id": None},
    )
    recordings, problems = read_dataset(path)
    assert problems == []
    assert [(r.id, r.text, r.speaker) for r in recordings] == [
        ("first", "one", "ann"),
        ("x/b", "two", "voices"),
        ("3", "three", "17"),
        ("a", "four", "voices"),
    ]
    assert recordings[1].path == folder / "x/b.ogg"


@pytest.mark.parametrize(
    "line, reason",
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[1]", "not an object"),
        ({"audio": "a.wav"}, "text must be a string"),
        ({"text": "t"}, "audio must be a string"),
        ({"audio": 5, "text": "t"}, "audio must be a string"),
        ({"audio": "a.wav", "text": "t", "id": 1.5}, "id must be"),
        ({"audio": "a.wav", "text": "t", "speaker": True}, "speaker must be"),
        ({"audio": "a.wav", "text": "t", "speeker": "x"}, "unknown key 'speeker'"),
        ({"audio": "a.wav", "text": "\n"}, "text is empty"),
        ({"audio": "a.wav", "text": "t", "id": ""}, "id is empty"),
        ({"audio": "a.wav", "text": "t", "id": "a\nb"}, "id has control"),
        ({"audio": "a.wav", "text": "\ud800"}, "text has characters"),
        ({"audio": "b.wav", "text": "t"}, "no audio file. Received: b.wav"),
        ({"audio": "x", "text": "t"}, "no audio file. Received: x"),
        ({"audio": ".", "text": "t"}, "audio must name a file"),
        ({"audio": "a\0.wav", "text": "t", "id": "n"}, "the path has control"),
        ({"audio": "\ud800.wav", "text": "t", "id": "n"}, "not Unicode"),
        ({"audio": "y" * 5000 + ".wav", "text": "t"}, "audio file"),
        ({"audio": "../outside.wav", "text": "t"}, "not inside the dataset"),
        ({"audio": "x/../a.wav", "text": "t"}, "not inside"),
    ],
)
def test_each_bad_json_line_is_one_problem(jsonl, folder, line, reason):
    write(folder.parent / "outside.wav")
    recordings, problems = read_dataset(jsonl(line, GOOD))
    assert ids(recordings) == ["x/b"]
    (problem,) = problems
    assert problem.where == "train.jsonl:1"
    assert reason in problem.message
    "".join(problem).encode("utf-8")


def test_only_a_list_that_is_named_itself_may_have_absolute_paths(jsonl, folder):
    """Nothing in a directory that was copied from elsewhere names other files."""
    outside = write(folder.parent / "outside.wav")
    path = jsonl({"audio": str(outside), "text": "t", "id": "o"}, GOOD)
    recordings, problems = read_dataset(path)
    assert ids(recordings) == ["o", "x/b"] and problems == []
    assert recordings[0].path == outside
    path.rename(folder / "metadata.jsonl")
    recordings, problems = read_dataset(folder)
    assert ids(recordings) == ["x/b"]
    assert "not inside the dataset" in problems[0].reason


def test_a_repeated_id_names_the_first(jsonl):
    path = jsonl(GOOD, {**GOOD, "text": "other"})
    recordings, problems = read_dataset(path)
    assert [r.text for r in recordings] == ["good"]
    assert problems == [
        Skipped("x/b", "train.jsonl:2", "the id is already used", "train.jsonl:1")
    ]


# === Nothing to read ===


def test_a_missing_dataset_is_one_clear_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no dataset .*nowhere"):
        read_dataset(tmp_path / "nowhere")


def test_nothing_usable_is_one_clear_error_with_the_first_reasons(ljspeech, folder):
    ljspeech("x|1\n" * 5)
    with pytest.raises(ValueError, match=r"5 problems.*metadata\.csv:1: no audio file"):
        read_dataset(folder)


def test_an_empty_folder_says_what_was_expected(folder):
    folder.mkdir()
    with pytest.raises(ValueError, match=r"Expected metadata\.csv, .* or audio files"):
        read_dataset(folder)


def test_a_file_of_another_kind_is_refused(folder):
    with pytest.raises(ValueError, match=r"a directory, a list \(\.csv, \.jsonl"):
        read_dataset(write(folder / "train.parquet"))
