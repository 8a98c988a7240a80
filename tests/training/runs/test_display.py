"""What a run shows, on a terminal and without one."""

import io
import itertools
import re
import types

import pytest
from toy_trainer import Stop, ToyBatches, ToyTrainer, fall_over, options

from bark_tf.training.runs import display
from bark_tf.training.runs.display import Display
from bark_tf.training.runs.fit import train
from bark_tf.training.runs.recipe import Recipe


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(folder, stream, *callbacks, **clock):
    """What a run of 12 steps, which validates after 5, 10 and 12, shows."""
    recipe = Recipe("coarse", out=str(folder), options=options())
    train(
        ToyTrainer(),
        ToyBatches(),
        options=recipe.options,
        directory=folder,
        validation=ToyBatches(),
        callbacks=[Display(recipe, stream, **clock), *callbacks],
    )
    return stream.getvalue()


def test_lines_without_a_terminal(tmp_path):
    """Under nohup nothing was to be seen for 20 minutes; here a step takes 12 s."""
    clock = itertools.count(0.0, 12.0)
    lines = shown(tmp_path, io.StringIO(), clock=clock.__next__).splitlines()
    assert re.match(
        r"coarse: to step 12 of batch size 8; full trains 24 of 32 weights; needs "
        r"[\d.]+kB of disk, [\d.]+GB are free",
        lines[0],
    )
    assert re.match(r"coarse 1/12, loss [\d.]+, rate not known yet", lines[1])
    (measured,) = [line for line in lines if "5 steps measured" in line]
    assert re.search(r": 12 s/step, 01:24 left; [\d.]+[MG]B of memory", measured)
    steps = [int(line.split()[1].split("/")[0]) for line in lines if "/12" in line]
    assert steps == [1, 4, 5, 8, 10, 12]
    assert re.match(r"coarse 12/12, loss .*, val_loss .*, .* 00:00 left", lines[-1])


def test_a_bar_on_a_terminal(tmp_path):
    with pytest.raises(RuntimeError, match="gone"):
        shown(tmp_path, Terminal(), Stop(6, fall_over))
    text = shown(tmp_path, Terminal())
    assert "coarse: from step 4 to step 12" in text
    last = re.split("[\r\n]+", text.strip())[-1]
    assert re.search(r"12/12 \[.*, loss=[\d.]+, val_loss=[\d.]+\]", last)


def test_a_full_disk_is_foreseen(tmp_path, monkeypatch):
    usage = types.SimpleNamespace(free=1)
    monkeypatch.setattr(display.shutil, "disk_usage", lambda _: usage)
    with pytest.warns(UserWarning, match=r"needs about [\d.]+kB in .*where 1.00B are"):
        shown(tmp_path, io.StringIO())
