import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from toy_cli import TEXT, only_line

from bark_tf.cli.console import DEBUG_VARIABLE
from bark_tf.cli.main import main

# === Messages ===


def test_control_characters_of_an_argument_do_not_reach_the_terminal(capsys):
    assert main(["speak", "hi", "--no\x1b[2Jsuch\nflag\u202e"]) == 2
    line = only_line(capsys)
    assert "\\x1b[2Jsuch" in line and "\\u202e" in line and "\x1b" not in line


def test_quiet_says_nothing(fake, capsys):
    assert main(["speak", TEXT, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert Path("out.wav").exists()


def test_verbose_says_the_seconds_of_each_stage(fake, capsys):
    assert main(["speak", TEXT, "--verbose"]) == 0
    assert re.search(r"bark-tf: load +\d+\.\d\d s\n", capsys.readouterr().err)


def test_warnings_are_one_line_each_unless_quiet(fake, capsys):
    text = "word1 " * 300
    assert main(["speak", text, "--no-long"]) == 0
    warning, done = capsys.readouterr().err.splitlines()
    assert warning.startswith("bark-tf: warning: ") and "256" in warning
    assert done.startswith("bark-tf: 'out.wav'")
    assert main(["speak", text, "--no-long", "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_tensorflow_does_not_talk(tmp_path):
    """Its own switch does not reach all of its lines."""
    code = """
import os, sys
from bark_tf.cli import console
from bark_tf.cli.main import build_parser
arguments = build_parser().parse_args(["voices"])
with console.quiet_libraries(arguments):
    import tensorflow as tf
    tf.function(lambda x: x + 1, jit_compile=True)(tf.ones(2))
    console.say("ours")
os.write(2, b"still open")
"""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("TF_CPP")
    }
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env=environment, check=True
    )
    assert done.stderr == b"bark-tf: ours\nstill open" and done.stdout == b""


# === Errors ===


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("top_k must be\nfine.\x1b[2J"), "top_k must be fine.\\x1b[2J"),
        (MemoryError(), "out of memory; --dtype bfloat16"),
        (type("ResourceExhaustedError", (Exception,), {})("OOM"), "out of memory"),
        (TypeError("oops"), "unexpected TypeError: oops (--verbose shows where"),
        (ImportError("needs soxr"), "bark-tf: needs soxr"),
    ],
)
def test_every_error_is_one_line_and_1(fake, error, message, capsys):
    fake.error = error
    assert main(["speak", TEXT]) == 1
    assert message in only_line(capsys)


@pytest.mark.parametrize("how", ["--verbose", DEBUG_VARIABLE])
def test_a_traceback_is_there_for_the_asking(fake, how, monkeypatch, capsys):
    fake.error = ValueError("oops")
    if how == DEBUG_VARIABLE:
        monkeypatch.setenv(how, "1")
    assert main(["speak", TEXT, *([how] if how.startswith("--") else [])]) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err and err.endswith("\nbark-tf: oops\n")
