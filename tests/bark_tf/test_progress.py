import io
import itertools
import re
import sys
import types

import pytest

from bark_tf import progress
from bark_tf.progress import Timings, progress_bar


class Terminal(io.StringIO):
    """A standard error that says it is a terminal."""

    def isatty(self):
        return True

    def screen(self):
        """The lines that stay, without the blanks at their ends."""
        lines, row, column = [""], 0, 0
        for part in re.findall(r"\x1b\[A|\r|\n|[^\x1b\r\n]+", self.getvalue()):
            if part == "\x1b[A":
                row -= 1
            elif part == "\r":
                column = 0
            elif part == "\n":
                row, column = row + 1, 0
                lines += [""] * (row + 1 - len(lines))
            else:
                line = lines[row].ljust(column)
                lines[row] = line[:column] + part + line[column + len(part) :]
                column += len(part)
        return [line.rstrip() for line in lines if line.strip()]


@pytest.fixture
def open_terminal(monkeypatch):
    """Called in the test itself: pytest sets its own standard error before it."""

    def open_terminal():
        monkeypatch.setenv("COLUMNS", "100")
        monkeypatch.setattr(sys, "stderr", Terminal())
        return sys.stderr

    return open_terminal


@pytest.fixture
def notebook(monkeypatch):
    """Pretends to be a notebook; a list of what a cell shows, one after the other."""
    seen = []

    def display(shown, raw, display_id):
        assert shown["text/plain"] == re.sub("<.*?>", "", shown["text/html"])
        seen.append(shown["text/html"])
        return types.SimpleNamespace(update=lambda new, raw: display(new, raw, True))

    shell = type("ZMQInteractiveShell", (), {})()
    fake = types.ModuleType("IPython")
    fake.get_ipython = lambda: shell
    fake.display = types.ModuleType("IPython.display")
    fake.display.display = display
    monkeypatch.setitem(sys.modules, "IPython", fake)
    monkeypatch.setitem(sys.modules, "IPython.display", fake.display)
    return seen


def speak(report):
    report("semantic", 1, 768)
    report("semantic", 100, 100)
    report("coarse", 60, 60)


# === Bars ===


def test_a_terminal_shows_a_line_per_stage(open_terminal):
    terminal = open_terminal()
    with progress_bar() as report:
        speak(report)
    semantic, coarse = terminal.screen()
    assert semantic.startswith("semantic: 100%") and "100/100 [00:00<" in semantic
    assert coarse.startswith("coarse: 100%") and "60/60" in coarse


def test_the_pieces_of_a_long_text_share_their_lines(open_terminal):
    terminal = open_terminal()
    with progress_bar() as report:
        for done in range(2):
            report("chunks", done, 3)
            speak(report)
        report("semantic", 5, 768)
    chunks, semantic, coarse = terminal.screen()
    assert "chunks" in chunks and "1/3" in chunks
    assert "semantic" in semantic and "5/768" in semantic
    assert "coarse" in coarse and "60/60" in coarse


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
        report("semantic", 30, 40)
    semantic, coarse = terminal.screen()
    assert "30/40" in semantic and "[01:40<" in semantic
    assert "60/60 [00:07<" in coarse


def test_other_lines_appear_above_the_bars(open_terminal):
    terminal = open_terminal()
    with progress_bar() as report:
        report("semantic", 1, 768)
        sys.stderr.write("UserWarning: mind the gap\n  warn()\n")
        report("coarse", 1, 60)
        print("two", "words", file=sys.stderr)
        report("semantic", 100, 100)
    *lines, semantic, coarse = terminal.screen()
    assert lines == ["UserWarning: mind the gap", "  warn()", "two words"]
    assert "100/100" in semantic and "1/60" in coarse


def test_an_error_gives_the_terminal_back_and_leaves_the_bar_unfinished(open_terminal):
    terminal = open_terminal()
    with pytest.raises(KeyboardInterrupt), progress_bar() as report:
        report("semantic", 100, 768)
        raise KeyboardInterrupt
    assert sys.stderr is terminal and terminal.getvalue().endswith("\n")
    (line,) = terminal.screen()
    assert "100/768" in line


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
    assert out == "" and "100/100" in err and "60/60" in err


def test_many_reports_are_drawn_ten_times_a_second(open_terminal):
    terminal = open_terminal()
    with progress_bar() as report:
        for done in range(10_000):
            report("train", done, 10_000)
    assert terminal.getvalue().count("\r") < 100
    assert "9999/10000" in terminal.screen()[0]


def test_a_stage_of_nothing_is_no_error(open_terminal):
    terminal = open_terminal()
    with progress_bar() as report:
        report("coarse", 0, 0)
        report("coarse", 0, 0)
    (line,) = terminal.screen()
    assert line.startswith("coarse")


def test_no_report_is_no_error(open_terminal):
    open_terminal()
    with progress_bar():
        pass


def test_a_notebook_shows_bars_and_then_the_seconds(notebook, capsys, monkeypatch):
    """One output per call, without the widgets that tqdm's bars need."""
    now = itertools.count()
    monkeypatch.setattr(progress, "monotonic", now.__next__)
    with progress_bar() as report:
        speak(report)
    semantic = "<progress value=100 max=100></progress> semantic 100/100"
    coarse = "<progress value=60 max=60></progress> coarse 60/60"
    assert notebook[1:3] == [semantic, f"{semantic}<br>\n{coarse}"]
    end = r"<small>\d+.0 s: semantic \d.0, coarse \d.0</small>"
    assert re.fullmatch(end, notebook[3])
    assert capsys.readouterr() == ("", "")
    with progress_bar():
        pass
    assert len(notebook) == 4


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
