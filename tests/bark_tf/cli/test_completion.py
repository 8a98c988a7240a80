import subprocess
import sys

import pytest

from bark_tf.cli.completion import all_parsers
from bark_tf.cli.main import build_parser, main

COMPLETE = r"""
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_shtab_bark_tf
printf '%s\n' "${COMPREPLY[@]}"
"""


def test_all_parsers_are_found():
    names = [parser.prog for parser in all_parsers(build_parser())]
    assert names[0] == "bark-tf" and "bark-tf train" in names


@pytest.mark.parametrize(
    "words, expected",
    (
        (["tr"], ["train-tokenizer", "train"]),
        (["speak", "--voi"], ["--voice"]),
        (["speak", "--dtype", "bf"], ["bfloat16"]),
        (["voice", "record"], ["recording.wav"]),
        (["speak", "--out", "record"], ["recording.wav"]),
    ),
)
def test_bash_completes(words, expected, tmp_path, capsys):
    pytest.importorskip("shtab")
    assert main(["completion", "bash"]) == 0
    script, err = capsys.readouterr()
    assert err == ""
    (tmp_path / "bark-tf.sh").write_text(script)
    (tmp_path / "recording.wav").touch()
    command = ["bash", "-c", COMPLETE, "bash", "bark-tf.sh", "bark-tf", *words]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == expected


@pytest.mark.parametrize("shell", ("zsh", "tcsh"))
def test_other_shells_have_a_script(shell, capsys):
    pytest.importorskip("shtab")
    assert main(["completion", shell]) == 0
    assert "train-tokenizer" in capsys.readouterr().out


def test_the_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 1
    assert "extra `completion`" in capsys.readouterr().err
