import itertools
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from toy_cli import TEXT, only_line

from bark_tf import __version__
from bark_tf.cli.main import build_parser, main

COMMANDS = ("speak", "voices", "voice", "convert", "demo", "serve", "export")
COMMANDS += ("prepare", "train-tokenizer", "train", "evaluate", "completion")


# === Help ===


@pytest.mark.parametrize("arguments", [[], *([command] for command in COMMANDS)])
def test_every_help_fits_and_ends_with_examples(arguments, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main([*arguments, "--help"]) == 0
    out, err = capsys.readouterr()
    assert err == "" and "examples:\n" in out
    examples = out.split("examples:\n")[1]
    prog = " ".join(["bark-tf", *arguments])
    assert prog in examples and max(map(len, out.splitlines())) <= 80


def test_the_examples_of_the_help_are_valid(capsys):
    """Each is parsed as the shell would split it."""
    for command in COMMANDS:
        main([command, "--help"])
        examples = capsys.readouterr().out.split("examples:\n")[1]
        examples = examples.replace("\\\n", "")
        for line in re.findall(r"^  (?:.*\| )?bark-tf (.*)", examples, re.MULTILINE):
            words = shlex.split(line, comments=True)
            words = list(itertools.takewhile(lambda word: word not in "|>", words))
            assert build_parser().parse_args(words).command is not None


def test_only_commands_that_exist_are_listed(capsys):
    main(["--help"])
    out = capsys.readouterr().out
    listed = re.findall(r"^    ([\w-]+)(?:  |$)", out, flags=re.MULTILINE)
    assert listed == list(COMMANDS)


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"bark-tf {__version__}\n"


def test_help_and_voices_do_not_import_tensorflow(checkpoint):
    code = f"""
import sys
from bark_tf.cli.main import main
for words in (["--help"], ["speak", "--help"], ["--version"],
              ["voices", "--model", {checkpoint!r}]):
    assert main(words) == 0
    heavy = {{"tensorflow", "keras", "tqdm", "soundfile"}} & set(sys.modules)
    assert not heavy, (words, heavy)
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


# === Running ===


def test_python_m_runs_the_same_program():
    done = subprocess.run(
        [sys.executable, "-m", "bark_tf", "--version"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, f"bark-tf {__version__}\n")


def test_an_interrupt_is_130_and_leaves_the_old_file(fake, capsys):
    Path("out.wav").write_bytes(b"old")
    fake.error = KeyboardInterrupt()
    assert main(["speak", TEXT, "--save-voice", "me"]) == 130
    assert only_line(capsys) == "bark-tf: interrupted"
    assert [path.name for path in Path().iterdir()] == ["out.wav"]
    assert Path("out.wav").read_bytes() == b"old"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a full device")
def test_full_standard_output_is_one_line(checkpoint):
    code = """
import sys
from bark_tf.cli import main as cli
from bark_tf.voices import presets as voices
voices.suno_voices = dict  # what is listed then fits into Python's buffer
sys.exit(cli.main())
"""
    command = [sys.executable, "-c", code, "voices", "--model", checkpoint]
    # The buffer fails when it is flushed, and again when Python ends.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, env=environment
        )
    assert done.returncode == 1
    assert done.stderr == b"bark-tf: No space left on device\n"
