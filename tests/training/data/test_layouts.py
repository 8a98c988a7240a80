"""One tiny dataset of each layout, prepared to the end, and broken in each way."""

import sys
from typing import NamedTuple

import pytest
from toy_recordings import RATE, contained, encode, tone

from bark_tf.training.data.datasets import read_dataset
from bark_tf.training.data.prepare import prepare
from bark_tf.training.data.shards import ShardSet

SOUNDS = {".wav": ("WAV", "PCM_16"), ".flac": ("FLAC", "PCM_16"), ".mp3": ("MP3", None)}
SOUNDS[".opus"] = ("OGG", "OPUS")


class Layout(NamedTuple):
    """Files of a dataset; it says "one" and "two".

    Attributes:
        files: Path -> content; None is a recording.
        speakers: Of the two recordings.
        given: What is given to `prepare`, in the folder.
        spoken: The id and the audio file of "two".
    """

    files: dict[str, str | None]
    speakers: tuple[str, str] = ("toy", "toy")
    given: str = ""
    spoken: tuple[str, str] = ("b", "b.wav")

    def write(self, folder):
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if content is not None:
                path.write_text(content, encoding="utf-8")
            else:
                kind, subtype = SOUNDS[path.suffix]
                path.write_bytes(encode(tone(), RATE, kind, subtype))
        return folder / self.given


def listed(name, text, **options):
    files = {name: text, "wavs/a.wav": None, "wavs/b.wav": None}
    return Layout(files, spoken=("wavs/b", "wavs/b.wav"), given=name, **options)


LIBRITTS = "train-clean/84/121/84_121_000"
VCTK = "wav48_silence_trimmed/{0}/{0}_001"
LAYOUTS = {
    "text beside": Layout(
        {"a.wav": None, "a.txt": "one", "b.wav": None, "b.txt": "two\n"}
    ),
    "opus, and lab of a speaker": Layout(
        {"x/a.opus": None, "x/a.lab": "one", "y/b.opus": None, "y/b.lab": "two"},
        ("x", "y"),
        spoken=("y/b", "y/b.opus"),
    ),
    "LJSpeech": Layout(
        {
            "metadata.csv": "a|one|one\nb|two|two\n",
            "README.txt": "a corpus",
            "wavs/a.wav": None,
            "wavs/b.wav": None,
        },
        spoken=("b", "wavs/b.wav"),
    ),
    "LJSpeech, with suffix": listed(
        "metadata.csv", "wavs/a.wav|one\nwavs/b.wav|two|two"
    )._replace(given=""),
    "audiofolder, csv": Layout(
        {
            "metadata.csv": 'file_name,transcription\na.wav,one\nb.wav,"two"\n',
            "a.wav": None,
            "b.wav": None,
        }
    ),
    "audiofolder, jsonl in parts": Layout(
        {
            "train/metadata.jsonl": '{"file_name": "a.wav", "text": "one", "n": 5}\n',
            "train/a.wav": None,
            "test/metadata.jsonl": '{"file_name": "b.wav", "text": "two"}\n',
            "test/b.wav": None,
        },
        spoken=("test/b", "test/b.wav"),
    ),
    "LibriTTS": Layout(
        {
            f"{LIBRITTS}_0.wav": None,
            f"{LIBRITTS}_0.normalized.txt": "one",
            f"{LIBRITTS}_0.original.txt": "1",
            f"{LIBRITTS}_1.wav": None,
            f"{LIBRITTS}_1.normalized.txt": "two",
        },
        ("84", "84"),
        spoken=(f"{LIBRITTS}_1", f"{LIBRITTS}_1.wav"),
    ),
    "VCTK": Layout(
        {
            f"{VCTK.format('p225')}_mic1.flac": None,
            "txt/p225/p225_001.txt": "one\n",
            f"{VCTK.format('s5')}_mic1.flac": None,
            "txt/s5/s5_001.txt": "two\n",
        },
        ("p225", "s5"),
        spoken=("s5/s5_001", f"{VCTK.format('s5')}_mic1.flac"),
    ),
    "Common Voice": Layout(
        {
            "validated.tsv": 'client_id\tpath\tsentence\tage\nx\ta.mp3\tone\t"\n'
            "y\tb.mp3\ttwo\t\n",
            "clips/a.mp3": None,
            "clips/b.mp3": None,
        },
        ("x", "y"),
        spoken=("b", "clips/b.mp3"),
    ),
    "path|text": listed("train.txt", "wavs/a.wav|one\nwavs/b.wav|two\n"),
    "path and text in a tsv": listed("train.tsv", "wavs/a.wav\tone\nwavs/b.wav\ttwo\n"),
    "path|speaker|text": listed(
        "train.list", "wavs/a.wav|x|one\nwavs/b.wav|y|two\n", speakers=("x", "y")
    ),
    "path|text|normalised": listed(
        "train.txt", "wavs/a.wav|one one|one\nwavs/b.wav|two two|two\n"
    ),
    "GPT-SoVITS": listed(
        "my.list", "wavs/a.wav|x|EN|one\nwavs/b.wav|y|EN|two\n", speakers=("x", "y")
    ),
    "names of columns between bars": listed(
        "train.csv",
        "audio_file|text|speaker_name\nwavs/a.wav|one|x\nwavs/b.wav|two|y\n",
        speakers=("x", "y"),
    ),
    "NeMo": listed(
        "manifest.jsonl",
        '{"audio_filepath": "wavs/a.wav", "duration": 1.5, "text": "one"}\n'
        '{"audio_filepath": "wavs/b.wav", "duration": 1.5, "text": "two"}\n',
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_layout_is_prepared(name, tmp_path):
    layout = LAYOUTS[name]
    path = layout.write(tmp_path / "toy")
    recordings, problems = read_dataset(path)
    assert not problems
    found = {one.text: one for one in recordings}
    assert tuple(found[text].speaker for text in ("one", "two")) == layout.speakers
    assert found["two"].id == layout.spoken[0]
    assert found["two"].path == tmp_path / "toy" / layout.spoken[1]
    report = prepare(path, tmp_path / "out", sample_rate=RATE)
    assert report.utterances == {"train": 2} and not report.skipped
    assert sorted(ShardSet(tmp_path / "out/train").texts) == ["one", "two"]


def test_what_phones_record_is_prepared_or_the_extra_is_named(tmp_path, monkeypatch):
    """Bug: `no audio file beside it: memo`, though memo.m4a was there."""
    Layout({"memo.txt": "one", "note.txt": "two"}).write(tmp_path / "toy")
    (tmp_path / "toy/memo.m4a").write_bytes(contained("ipod", "aac"))
    (tmp_path / "toy/note.webm").write_bytes(contained("webm", "libopus", 48_000))
    report = prepare(tmp_path / "toy", tmp_path / "out", sample_rate=RATE)
    assert report.utterances == {"train": 2}
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ValueError, match=r"1 x Reading MP4 needs .* `formats` of bark"):
        prepare(tmp_path / "toy", None, sample_rate=RATE, dry_run=True)


@pytest.mark.parametrize("name", LAYOUTS)
def test_missing_audio_and_empty_texts_name_the_file(name, tmp_path):
    layout = LAYOUTS[name]
    path = layout.write(tmp_path / "toy")
    (tmp_path / "toy" / layout.spoken[1]).unlink()
    recordings, (problem,) = read_dataset(path)
    assert [one.text for one in recordings] == ["one"]
    assert "no audio file" in problem.reason
    (file,) = (n for n, text in layout.files.items() if text and "two" in text)
    assert problem.where.partition(":")[0] == file
    silent = {n: text and text.replace("two", "") for n, text in layout.files.items()}
    path = layout._replace(files=silent).write(tmp_path / "toy")
    recordings, (problem,) = read_dataset(path)
    assert [one.text for one in recordings] == ["one"]
    assert problem.reason == "text is empty"
    assert problem.where.partition(":")[0] in (file, layout.spoken[1])


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("metadata.csv", "file_name,words\na.wav,x", "text: one of normalized_text"),
        ("metadata.csv", "text,speaker\nx,ann", "audio: one of audio, file_name"),
        ("validated.tsv", "client_id\tsentence\nx\ty", "validated.tsv': it must name"),
        ("metadata.csv", "clip,words\na.wav,x", "metadata.csv:1: expected audio|text"),
        ("metadata.csv", "file_name,txt\na.wav,x", "did you mean 'text'"),
        ("metadata.jsonl", '{"file_name": "a.wav"}', "jsonl:1: text must be a string"),
        ("metadata.jsonl", '{"text": "x"}', "jsonl:1: audio must be a string"),
        ("metadata.csv", "file_name,text\na.wav", "csv:2: expected the 2 columns"),
        ("metadata.csv", 'file_name,text\na.wav,"x', "csv:2: its quotes or commas"),
    ],
)
def test_a_missing_column_names_the_file_and_what_was_expected(
    file, text, message, tmp_path
):
    Layout({file: text, "a.wav": None}).write(tmp_path)
    with pytest.raises(ValueError) as caught:
        read_dataset(tmp_path)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "line", ["a|text|text", "a|I said, path", 'a|"so', "a|file|texts", "a|text"]
)
def test_a_text_is_not_taken_for_the_names_of_columns(line, tmp_path):
    Layout({"metadata.csv": line, "a.wav": None}).write(tmp_path)
    (recording,), problems = read_dataset(tmp_path)
    assert recording.text == line.rpartition("|")[2] and not problems


def test_a_list_with_wrong_columns_says_what_a_list_may_have(tmp_path):
    path = Layout({"x.list": "a.wav|x|EN|one|two", "a.wav": None}, given="x.list")
    with pytest.raises(
        ValueError, match=r"x.list:1: expected audio\|text or .*language"
    ):
        read_dataset(path.write(tmp_path))


def test_the_second_microphone_is_one_reason_for_all(tmp_path):
    files = {f"{VCTK.format('p1')}_mic{n}.flac": None for n in (1, 2)}
    Layout({**files, "txt/p1/p1_001.txt": "one"}).write(tmp_path)
    recordings, (problem,) = read_dataset(tmp_path)
    assert recordings[0].path.name == "p1_001_mic1.flac"
    assert problem.reason == "the id is already used"


def test_a_folder_whose_list_has_another_name_says_to_name_it(tmp_path):
    Layout({"filelist.txt": "a.wav|one", "a.wav": None}).write(tmp_path)
    with pytest.raises(ValueError, match=r"To read a list, name it: filelist\.txt"):
        read_dataset(tmp_path)
