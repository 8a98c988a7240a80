from pathlib import Path

import pytest
from toy_cli import TEXT, only_line

from bark_tf import hub
from bark_tf.cli.arguments import MODEL_VARIABLE
from bark_tf.cli.main import main

# === Usage ===


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: COMMAND"),
        (["sing"], "invalid choice: 'sing'"),
        (["speek", "hi"], "Did you mean 'speak'?"),
        (["speak", "hi", "--shout"], "unrecognized arguments: --shout"),
        (["speak", "hi", "--voise=me"], "--voise=me. Did you mean '--voice'"),
        (["speak", "hi", "you"], "unrecognized arguments: you. Text with spaces needs"),
        (["speak", "hi", "--dtype", "bfloat"], "Did you mean 'bfloat16'"),
        (["speak", "hi", "--temp", "1"], "unrecognized arguments: --temp"),
        (["speak"], "give TEXT, --file FILE, --texts FILE or"),
        (
            ["speak", "hi", "--file", "text.txt"],
            "give TEXT, --file FILE, --texts FILE or",
        ),
        (["speak", "hi", "--temperature", "-1"], "invalid non-negative number value"),
        (["speak", "hi", "--temperature", "nan"], "invalid non-negative number value"),
        (["speak", "hi", "--top-p", "1.5"], "invalid probability value: '1.5'"),
        (["speak", "hi", "--top-k", "0.5"], "invalid whole number value"),
        (["speak", "hi", "--seed", "-1"], "invalid whole number value"),
        (["speak", "hi", "--max-seconds", "0"], "invalid positive number value"),
        (["speak", "hi", "--dtype", "float8"], "invalid choice: 'float8'"),
        (["speak", "hi", "--quantize", "int4"], "invalid choice: 'int4'"),
        (["speak", "hi", "--greedy", "--temperature", "1"], "not allowed with"),
        (["speak", "hi", "--quiet", "--verbose"], "not allowed with"),
        (["speak", "hi", "--stream", "--out", "a.wav"], "not allowed with"),
        (["speak", "hi", "--stream", "--save-voice", "a"], "does not go with --stream"),
        (["speak", "hi", "--low-latency"], "goes with --stream"),
        (["convert", "source"], "required: DESTINATION"),
    ],
)
def test_wrong_usage_is_one_line_and_2(arguments, message, capsys):
    assert main(arguments) == 2
    line = only_line(capsys)
    assert message in line and line.startswith("bark-tf") and "--help)" in line


# === The model ===


def test_without_a_name_the_voice_of_the_package_speaks(
    fake, checkpoint, monkeypatch, capsys
):
    monkeypatch.delenv(MODEL_VARIABLE)
    monkeypatch.setattr(hub, "SHIPPED_CHECKPOINT", Path(checkpoint))
    assert main(["speak", TEXT]) == 0
    assert fake.loaded[0] == checkpoint
    said = capsys.readouterr().err
    assert said.count("comes with bark-tf") == 1 and "suno/bark-small" in said
    assert main(["speak", TEXT, "--quiet"]) == 0
    assert not capsys.readouterr().err


def test_an_argument_wins_over_the_environment(fake, checkpoint, monkeypatch):
    assert main(["speak", TEXT]) == 0
    assert fake.loaded[0] == checkpoint
    monkeypatch.setenv(MODEL_VARIABLE, "no/such")
    assert main(["speak", TEXT, "--model", checkpoint]) == 0


def test_a_missing_directory_is_one_line(tmp_path, capsys):
    assert (
        main(["speak", "hi", "--out", str(tmp_path / "a.wav"), "--model", "./no"]) == 1
    )
    assert only_line(capsys) == "bark-tf: There is no directory './no'"


@pytest.mark.parametrize(
    "words",
    [
        "speak hello -o gs://bucket/a.wav",
        "speak hello --model gs://bucket/model",
        "voice me.wav -o gs://bucket/me.npz",
        "convert model gs://bucket/model",
        "evaluate model --out gs://bucket/report",
        "train-tokenizer audio gs://bucket/model",
        "prepare recordings s4://bucket/data --model model",
        "train lora --set model=a data=s4://bucket/data out=b",
        "train lora --set model=a data=b out=s4://bucket/out",
    ],
)
def test_urls_are_refused_at_once(words, tmp_path, monkeypatch, capsys):
    """Bug: they became folders named `gs:`, some after minutes of work."""
    monkeypatch.chdir(tmp_path)
    assert main(words.split()) != 0
    error = capsys.readouterr().err
    assert "4://bucket" in error or "must be on this machine" in error
    assert not list(tmp_path.iterdir())
