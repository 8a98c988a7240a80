"""Before any test: a quiet TensorFlow, a quiet hub client, and one seed."""

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
_load_helper("toy")
_load_helper("toy_files")
_load_helper("toy_recordings")
_load_helper("torch_writer")
_load_helper("toy_speech")


_PROCESSES = str(Path(__file__).with_name("processes"))
_WAIT_S = 900  # a child that takes longer hangs


@pytest.fixture(scope="session")
def toy_runs():
    """`tests/processes/toy_runs.py`, whose functions children run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(_PROCESSES)
        yield importlib.import_module("toy_runs")


class Child:
    """A process that a test has started."""

    def __init__(self, process):
        self.process = process
        process.start()

    def exit_code(self):
        """How it ended: 0, or minus the signal that killed it."""
        self.process.join(_WAIT_S)
        assert self.process.exitcode is not None, "the process hangs"
        return self.process.exitcode


@pytest.fixture(scope="session")
def start(toy_runs):
    """Starts a function of `toy_runs` in a process of its own.

    A server imports everything once and forks the children, which start at once.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["toy_runs"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", _PROCESSES)  # Python 3.11 passes no `sys.path` on
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
    """The same random numbers in every test, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    if "tensorflow" in sys.modules:
        sys.modules["tensorflow"].random.set_seed(0)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A running stand-in of the hub that `bark_tf.hub` talks to, with an empty cache.

    Publish with `hub.write(repo, name, content)`.
    """
    with sys.modules["hub_standin"].HubStandIn(tmp_path / "hub") as standin:
        standin.use(monkeypatch, tmp_path / "cache")
        yield standin


@pytest.fixture
def rng():
    return np.random.default_rng(0)
