"""Keras on another backend, and what TensorFlow logs; each in its own process."""

import gc
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

import bark_tf


def run(code, **environment):
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("KERAS", "TF_"))}
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**clean, **environment},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    "code",
    [
        "from bark_tf import BarkConfig",
        "from bark_tf.training import train",
        "import bark_tf.models.causal",
    ],
)
def test_another_backend_is_refused_in_one_sentence(code):
    done = run(code, KERAS_BACKEND="jax")
    last = done.stderr.splitlines()[-1]
    assert last.startswith(
        "ImportError: bark-tf needs Keras on TensorFlow, not on 'jax"
    )
    assert "KERAS_BACKEND=tensorflow" in last and "During handling" not in done.stderr


def test_the_backend_of_keras_s_own_file_is_refused_too(tmp_path):
    (tmp_path / "keras.json").write_text('{"backend": "torch"}')
    done = run("import bark_tf.generation", KERAS_HOME=str(tmp_path))
    assert "KERAS_BACKEND=tensorflow" in done.stderr.splitlines()[-1]


def test_the_command_line_needs_no_variable():
    code = "from bark_tf.cli.main import main; main(['--version'])"
    assert run(code, KERAS_BACKEND="jax").returncode == 0


def test_tensorflow_logs_less_unless_told_otherwise():
    code = "import os, bark_tf; bark_tf.BarkConfig; print(os.environ[{!r}])"
    code = code.format("TF_CPP_MIN_LOG_LEVEL")
    assert run(code).stdout == "1\n"
    assert run(code, TF_CPP_MIN_LOG_LEVEL="0").stdout == "0\n"


def test_tensorflow_says_nothing_about_programs_of_ours():
    code = """
import logging
import bark_tf; bark_tf.BarkConfig
log = logging.getLogger("tensorflow")
log.setLevel(logging.INFO)  # as in a notebook
for whose in ("bark_tf.generation.loop.Programs", "mine"):
    log.warning("5 calls to <%s> triggered tf.function retracing", whose)
log.info("Assets written to: a")
log.warning("no libraries for the GPU")
"""
    said = "5 calls to <mine> triggered tf.function retracing"
    assert run(code).stderr.splitlines() == [said, "no libraries for the GPU"]
    assert len(run(code, TF_CPP_MIN_LOG_LEVEL="0").stderr.splitlines()) == 3


@pytest.mark.parametrize(
    ("before", "environment", "flag"),
    [
        ("", {}, "1"),
        ("", {"TF_ENABLE_ONEDNN_OPTS": "0"}, "0"),
        ("sys.modules['tensorflow'] = sys", {}, "None"),  # too late for it
        ("platform.machine = lambda: 'aarch64'", {}, "None"),
    ],
)
def test_tensorflow_multiplies_with_onednn(before, environment, flag):
    code = f"""
import os, platform, sys
{before or "platform.machine = lambda: 'x86_64'"}
import bark_tf
bark_tf.BarkConfig
print(os.environ.get("TF_ENABLE_ONEDNN_OPTS"))
"""
    assert run(code, **environment).stdout == f"{flag}\n"


def test_nothing_is_collected_while_tensorflow_is_imported(monkeypatch):
    """The search for garbage took a quarter of the import."""
    home = SimpleNamespace(import_module=lambda name: SimpleNamespace(BarkModel=gc))
    monkeypatch.setattr(gc, "isenabled", lambda: True)
    events = []
    monkeypatch.setattr(gc, "disable", lambda: events.append("off"))
    monkeypatch.setattr(gc, "enable", lambda: events.append("on"))
    monkeypatch.setattr(bark_tf, "importlib", home)
    assert bark_tf.BarkModel is gc
    assert events == ["off", "on"]


def test_bark_tf_speak_imports_no_plots_and_tables(tmp_path):
    """Keras imports both if they are installed; other code still can."""
    code = f"""
import sys
from bark_tf.cli.main import main
print(main(["speak", "four", "--model", {str(tmp_path)!r}]))
print("tensorflow" in sys.modules, {{"matplotlib", "pandas"}} & sys.modules.keys())
import matplotlib
"""
    done = run(code)
    assert done.stdout.splitlines() == ["1", "True set()"], done.stderr
    assert done.returncode == 0, done.stderr
