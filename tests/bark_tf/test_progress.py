import importlib.util
import io
import itertools
import sys
import types

import pytest

from bark_tf import progress
from bark_tf.progress import Timings, progress_bar


class Terminal(io.StringIO):
    """A standard error that says it is a terminal."""

    def isatty(self):
        return True


@pytest.fixture
def open_terminal(monkeypatch):
    """Called in the test itself: pytest sets its own standard error before it."""

    def open_terminal():
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "100")
        monkeypatch.setattr(sys, "stderr", Terminal())
        return sys.stderr

    return open_terminal


@pytest.fixture
def notebook(monkeypatch):
    shell = type("ZMQInteractiveShell", (), {})()
    fake = types.SimpleNamespace(get_ipython=lambda: shell)
    monkeypatch.setitem(sys.modules, "IPython", fake)


def speak(report):
    report("semantic", 1, 768)
    report("semantic", 100, 100)
    report("coarse", 60, 60)


def final_lines(text):
    """What stays on the screen: the last drawing of each line."""
    drawn = text.split("\x1b[?25l")[-1].replace("\x1b[?25h", "")
    lines = [line.split("\x1b[2K")[-1] for line in drawn.split("\n")]
    return [line for line in lines if any(c.isalnum() for c in line)]


# === Bars ===


def test_a_terminal_shows_a_line_per_stage(open_terminal):
    terminal = open_terminal()
    with progress_bar() as report:
        speak(report)
    last = final_lines(terminal.getvalue())[-2:]
    assert "semantic" in last[0] and "100/100" in last[0] and "0:00:0" in last[0]
    assert "coarse" in last[1] and "60/60" in last[1]


def test_the_pieces_of_a_long_text_share_their_lines(open_terminal):
    terminal = open_terminal()
    with progress_bar() as report:
        for done in range(2):
            report("chunks", done, 3)
            speak(report)
        report("semantic", 5, 768)
    last = final_lines(terminal.getvalue())[-3:]
    assert "chunks" in last[0] and "1/3" in last[0]
    assert "semantic" in last[1] and "5/768" in last[1]
    assert "coarse" in last[2] and "60/60" in last[2]


def test_a_bar_shows_the_seconds_of_its_stage(open_terminal, monkeypatch):
    """A stage may report only when it is done."""
    terminal = open_terminal()
    now = [0]
    monkeypatch.setattr(progress, "monotonic", lambda: now[0])
    with progress_bar() as report:
        for stage in ("semantic", "coarse"):
            now[0] += 7
            report(stage, 60, 60)
        now[0] += 100
        # The next piece of a long text.
        report("semantic", 30, 60)
    last = final_lines(terminal.getvalue())[-2:]
    assert "30/60" in last[0] and "0:00:07" in last[1]
    assert "0:01:40" in last[0]


def test_an_error_gives_the_terminal_back_and_leaves_the_bar_unfinished(open_terminal):
    terminal = open_terminal()
    with pytest.raises(KeyboardInterrupt), progress_bar() as report:
        report("semantic", 100, 768)
        raise KeyboardInterrupt
    text = terminal.getvalue()
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")  # the cursor is back
    assert "100/768" in final_lines(text)[-1]
    assert sys.stderr is terminal


def test_standard_output_stays_clean(open_terminal, capsys):
    open_terminal()
    with progress_bar() as report:
        speak(report)
        print("audio")
    assert capsys.readouterr().out == "audio\n"


def test_a_file_gets_nothing_unless_asked(capsys):
    with progress_bar() as report:
        speak(report)
    with progress_bar(enabled=False) as report:
        speak(report)
    assert capsys.readouterr() == ("", "")
    with progress_bar(enabled=True) as report:
        speak(report)
    out, err = capsys.readouterr()
    assert out == "" and "100/100" in err and "\x1b" not in err


def test_a_stage_of_nothing_is_no_error(open_terminal):
    terminal = open_terminal()
    with progress_bar() as report:
        report("coarse", 0, 0)
    assert "coarse" in final_lines(terminal.getvalue())[-1]


def test_no_report_is_no_error(open_terminal):
    open_terminal()
    with progress_bar():
        pass


def test_a_notebook_gets_tqdm(notebook, capsys):
    pytest.importorskip("tqdm")
    with progress_bar() as report:
        speak(report)
        report("semantic", 5, 768)
    out, err = capsys.readouterr()
    assert out == ""
    assert "semantic" in err and "100/100" in err and "coarse" in err and "5/768" in err


def test_a_notebook_without_tqdm_stays_silent(notebook, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with progress_bar() as report:
        speak(report)
    assert capsys.readouterr() == ("", "")


# === Timings ===


def test_timings_give_each_stage_the_time_up_to_its_reports():
    clock = itertools.count()
    timings = Timings(clock=lambda: next(clock))
    speak(timings)
    assert timings.seconds == {"semantic": 2, "coarse": 1}
    speak(timings)
    assert timings.seconds == {"semantic": 4, "coarse": 2}


def test_timings_pass_reports_on():
    seen = []
    speak(Timings(lambda *report: seen.append(report)))
    assert seen == [("semantic", 1, 768), ("semantic", 100, 100), ("coarse", 60, 60)]
