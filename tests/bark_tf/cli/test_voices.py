import shutil
from pathlib import Path

from toy_cli import VOICES, only_line

from bark_tf.cli.main import main
from bark_tf.processor import VOICE_INDEX_NAME


def test_voices_are_listed_with_their_source(checkpoint, monkeypatch, capsys):
    monkeypatch.setattr("bark_tf.voices.presets.suno_voices", dict)
    assert main(["voices", "--model", checkpoint]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [[n, checkpoint] for n in sorted(VOICES)]
    assert len({line.index(checkpoint) for line in lines}) == 1


def test_no_voices_says_where_they_are(checkpoint, tmp_path, monkeypatch, capsys):
    mute = tmp_path / "mute"
    shutil.copytree(checkpoint, mute)
    (mute / VOICE_INDEX_NAME).unlink()
    monkeypatch.setattr("bark_tf.voices.presets.suno_voices", dict)
    assert main(["voices", "--model", str(mute)]) == 0
    assert "the extra `voices` of bark-tf" in only_line(capsys)


def test_names_of_voices_do_not_steer_the_terminal(checkpoint, monkeypatch, capsys):
    monkeypatch.setattr(
        "bark_tf.voices.presets.suno_voices", lambda: {"evil\x1b[2J": Path("a.npz")}
    )
    monkeypatch.setattr(
        "bark_tf.voices.presets.importlib.metadata.version", lambda name: "1"
    )
    assert main(["voices", "--model", checkpoint]) == 0
    listed = capsys.readouterr().out
    assert "evil\\x1b[2J" in listed and "\x1b" not in listed
