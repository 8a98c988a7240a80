"""What a type checker says about a user's file."""

import importlib.util
import json
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A comment is what the checker must say about its line; about others it says nothing.
USER = """
import bark_tf
from bark_tf import BarkConfig, BarkModel, BarkProcessor, BarkSemanticModel
from bark_tf.training import TrainingOptions

model = BarkModel.from_pretrained("suno/bark-small", dtype="bfloat16")
reveal_type(model)  # "BarkModel"
reveal_type(bark_tf.BarkModel)  # "type[BarkModel]"
reveal_type(model.semantic)  # "BarkSemanticModel"
reveal_type(BarkSemanticModel.from_pretrained("a/b"))  # "BarkSemanticModel"
model.genrate()  # "genrate" is unknown
bark_tf.BarkModl  # "BarkModl" is not a known attribute

ids = BarkProcessor.from_pretrained("suno/bark-small")("Hello").input_ids
reveal_type(model.generate(ids, seed=7, temperature=0.7))  # "Tensor"
reveal_type(model.generate(ids, return_output_lengths=True))  # "tuple[Tensor,
reveal_type(model.generate(ids, return_dict=True))  # "BarkOutput"
model.generate(ids, temprature=0.7)  # No overloads for "generate"
model.stream(ids, temprature=0.7)  # No parameter named "temprature"
reveal_type(model.generate_long(None, "text", max_attempts=3))  # "LongFormOutput"
model.generate_long(None, "text", max_attemps=3)  # No parameter named "max_attemps"

reveal_type(model.speak("text", "alpha", temperature=0.7))  # "Speech"
reveal_type(bark_tf.speak(["one", "two"], seed=[1, 2]))  # "list[Speech]"
bark_tf.speak("text", temprature=0.7)  # No overloads for "speak"

reveal_type(model.codec_model.encode([[0.5]], bandwidth=6.0))  # "Tensor"
reveal_type(BarkConfig.preset("tiny").replace(codec_config=None))  # "BarkConfig"
reveal_type(model.config.semantic_config.hidden_size)  # "int"
BarkConfig.preset("tiny").dropout = 0.5  # "dropout" is unknown
TrainingOptions(steps="many")  # is not assignable to "int"
"""


@pytest.fixture
def environment(tmp_path):
    """An environment in which the package stands as if it were installed."""
    package = tmp_path / "site" / "bark_tf"
    package.mkdir(parents=True)
    folders = [ROOT / "convert", ROOT / "training"]
    for source in [*(ROOT / "bark_tf").iterdir(), *folders]:
        (package / source.name).symlink_to(source)
    venv.create(tmp_path / "environment")
    (packages,) = tmp_path.glob("environment/lib/*/site-packages")
    tensorflow = Path(importlib.util.find_spec("tensorflow").origin).parents[1]
    (packages / "paths.pth").write_text(f"{package.parent}\n{tensorflow}\n")
    settings = {"venvPath": ".", "venv": "environment", "include": ["user.py"]}
    settings["typeCheckingMode"] = "standard"
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    return tmp_path


@pytest.mark.slow
def test_pyright_sees_types_and_typos(environment):
    (environment / "user.py").write_text(USER)
    command = [sys.executable, "-m", "basedpyright", "--outputjson"]
    done = subprocess.run([*command, "-p", environment], capture_output=True, text=True)
    found = {}
    for one in json.loads(done.stdout)["generalDiagnostics"]:
        found[one["range"]["start"]["line"]] = one["message"]
    expected = {
        number: line.partition("  # ")[2]
        for number, line in enumerate(USER.splitlines())
        if "  # " in line
    }
    assert found.keys() == expected.keys(), found
    assert [m for n, m in found.items() if expected[n] not in m] == []
