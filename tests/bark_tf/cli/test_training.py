"""Arguments of the commands that train; `tests/training` runs what they do."""

import pytest

from bark_tf.cli.main import main


def test_a_runner_without_a_name_is_one_line(tmp_path, capsys):
    assert main(["prepare", str(tmp_path), str(tmp_path), "--runner"]) == 1
    assert "--runner needs the NAME" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "data or texts to measure with"),
        (["--words", "w.txt"], "--words is for a --recogniser"),
        (["--language", "en"], "--language is for a --recogniser"),
        (["--texts", "absent.txt"], "No such file or directory: 'absent.txt'"),
        (["--texts", "empty.txt"], "'empty.txt' holds no texts"),
        (["--texts", "latin.txt"], "'latin.txt' is not UTF-8 text"),
        (["--recogniser", "ears"], "must be one of pocketsphinx"),
        (["--similarity", "ears"], "must be resemblyzer"),
        (["--quality", "ears"], "must be dnsmos"),
    ],
)
def test_wrong_usage_of_evaluate_is_one_line(
    words, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("\n \n", encoding="utf-8")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    assert main(["evaluate", "my-bark", *words]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
