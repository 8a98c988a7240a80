"""Before any test: a quiet TensorFlow, a quiet hub client, and one seed."""

import importlib.util
import os
import random
import sys
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
