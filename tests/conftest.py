"""Shared fixtures; silences TensorFlow and the hub client, and fixes the seeds."""

import importlib
import importlib.util
import multiprocessing
import os
import random
import sys
from multiprocessing import forkserver
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import numpy as np
import pytest


def _load_helper(name: str) -> None:
    """Makes `tests/NAME.py` importable as NAME.

    `tests` itself cannot go on `sys.path`: the folder `tests/bark_tf` would hide the
    package.
    """
    spec = importlib.util.spec_from_file_location(
        name, Path(__file__).with_name(f"{name}.py")
    )
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])


_load_helper("hub_standin")
_load_helper("serving_standins")
_load_helper("toy")
_load_helper("toy_cli")
_load_helper("toy_export")
_load_helper("toy_files")
_load_helper("toy_recordings")
_load_helper("toy_serving")
_load_helper("torch_writer")
_load_helper("toy_speech")
_load_helper("toy_numbers")
_load_helper("toy_trainer")


_PROCESSES = str(Path(__file__).with_name("processes"))
_WAIT_S = 900  # a child that takes longer counts as hanging


@pytest.fixture(scope="session")
def toy_runs():
    """The module `tests/processes/toy_runs.py`; child processes run its functions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(_PROCESSES)
        yield importlib.import_module("toy_runs")


class Child:
    """A process started by a test."""

    def __init__(self, process):
        self.process = process
        process.start()

    def exit_code(self):
        """Waits for the exit code: 0, or minus the signal that killed the process."""
        self.process.join(_WAIT_S)
        assert self.process.exitcode is not None, "the process hangs"
        return self.process.exitcode


@pytest.fixture(scope="session")
def start(toy_runs):
    """Starts a function of `toy_runs` in its own process.

    Children are forked from a server that has imported everything, so they start fast.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["toy_runs"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", _PROCESSES)  # `sys.path` is not passed on in 3.11
        forkserver.ensure_running()
    children = []

    def start(function, *args, **kwargs):
        target = getattr(toy_runs, function)
        process = context.Process(target=target, args=args, kwargs=kwargs)
        children.append(Child(process))
        return children[-1]

    yield start
    for child in children:
        child.process.kill()


@pytest.fixture(autouse=True)
def seed():
    """Gives every test the same random numbers, whatever ran before."""
    random.seed(0)
    np.random.seed(0)
    if "tensorflow" in sys.modules:
        sys.modules["tensorflow"].random.set_seed(0)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A running stand-in for the Hugging Face hub, with an empty cache.

    Publish with `hub.write(repo, name, content)`.
    """
    with sys.modules["hub_standin"].HubStandIn(tmp_path / "hub") as standin:
        standin.use(monkeypatch, tmp_path / "cache")
        yield standin


@pytest.fixture
def rng():
    return np.random.default_rng(0)
