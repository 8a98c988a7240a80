"""A sample of the damaged files that `make hostile` reads, and the check itself."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parent))
import cases
import formats

# Those that need no network to be made or read.
QUICK = (
    *("safetensors", "shard-index", "torch-zip", "torch-legacy", "suno", "voice"),
    *("wav", "flac", "ogg", "lists", "prepared", "kmeans", "answer"),
)
SEEDS = range(8)


@pytest.fixture
def scratch(tmp_path):
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("name", QUICK)
def test_damaged_files_are_read_or_refused(name, tmp_path, scratch):
    cases.make_seeds(name, tmp_path)
    outcomes = [cases.run(name, seed, tmp_path, scratch) for seed in SEEDS]
    assert not [one for one in outcomes if one.failed]
    again = cases.run(name, 3, tmp_path, scratch)
    assert again[:5] == outcomes[3][:5]


@pytest.mark.parametrize(
    ("use", "words"),
    [
        (lambda folder: {}["a"], "KeyError"),
        (lambda folder: "é".encode("ascii"), "UnicodeEncodeError"),
        (lambda folder: Path("canary").touch(), "It left canary"),
        (lambda folder: np.ones(10**7), "It took too much"),
    ],
)
def test_what_is_worse_is_found(use, words, tmp_path, scratch, monkeypatch):
    format_ = formats.FORMATS["wav"]._replace(use=use)
    monkeypatch.setitem(formats.FORMATS, "wav", format_)
    monkeypatch.setattr(cases, "MAX_BYTES", 5 * 10**7)
    cases.make_seeds("wav", tmp_path)
    outcome = cases.run("wav", 0, tmp_path, scratch)
    assert outcome.failed and words in outcome.message
