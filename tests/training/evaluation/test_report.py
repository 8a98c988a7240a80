"""Reports: their tables, and that they are written completely or not at all."""

import json
import math
import sys

import numpy as np
import pytest

from bark_tf.training.evaluation import report as module
from bark_tf.training.evaluation.metrics import Edits, ErrorRate
from bark_tf.training.evaluation.report import Evaluation, SpeechScore, Transcript
from bark_tf.training.evaluation.scores import CodecScore, StageScore


def wer(rate):
    wrong = round(100 * rate)
    return ErrorRate(rate, rate - 0.02, rate + 0.03, Edits(100 - wrong, wrong, 0, 0))


def evaluation(loss=2.0, extra=0.0, before=None):
    return Evaluation(
        model="my-voice" if before else "my-bark",
        settings={"data": "prepared", "recordings": 7, "texts": None, "seed": 3},
        stages={
            "semantic": StageScore(loss, 0.25, 900),
            "fine": StageScore(math.nan, 0.5, 80),
        },
        codec=CodecScore(4.5, 1.25, -3.0, 7),
        speech={
            "ground_truth": SpeechScore(7, wer(0.05), similarity=0.9),
            "codec": SpeechScore(7, wer(0.08), quality={"overall": 3.5}),
            "semantic": SpeechScore(7, wer(0.20 + extra), 2, 1, 0.7),
            "texts": SpeechScore(4, wer(0.5)),
        },
        transcripts=(
            Transcript("codec", "r1", "one two", "x y", 2),
            Transcript("texts", "1", "three", "tree", 1),
            Transcript("texts", "2", "one | two\nfour", "", 3),
            Transcript("texts", "3", "five", "five", 0),
        ),
        before=before,
    )


def row(text, name):
    (line,) = [one for one in text.splitlines() if one.startswith(f"| {name} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


# === JSON ===


def test_json_gives_back_what_was_measured(tmp_path):
    result = evaluation(before=evaluation())
    result.save(tmp_path)
    again = Evaluation.load(tmp_path)
    assert math.isnan(again.stages["fine"].loss)
    assert again.to_dict() == result.to_dict()
    assert again.stages["semantic"] == result.stages["semantic"]
    assert again.speech == result.speech and again.codec == result.codec
    assert again.transcripts == result.transcripts
    assert again.before.speech == result.before.speech
    assert again.markdown() == result.markdown()
    saved = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert saved["stages"]["semantic"]["perplexity"] == pytest.approx(math.exp(2))
    assert saved["stages"]["fine"]["loss"] is None


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"model": "x", "settings": 1}'])
def test_a_damaged_report_is_one_error(tmp_path, text):
    (tmp_path / "report.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"report\.json:? "):
        Evaluation.load(tmp_path)


# === Tables ===


def test_a_table_holds_every_figure():
    text = evaluation().markdown()
    assert "# Evaluation of my-bark" in text and "- recordings: 7" in text
    assert "texts: " not in text
    assert row(text, "semantic") == ["semantic", "2.000", "7.39", "25.0%", "900"]
    cells = ["reconstructions", "7", "4.50", "1.250", "-3.00"]
    assert row(text, "reconstructions") == cells
    text = text.partition("## Speech")[2]
    head = row(text, "source")
    assert head == [
        "source",
        "n",
        "WER (95 % CI)",
        "added WER",
        "similarity",
        "overall",
        "empty",
        "unfinished",
    ]
    found = dict(zip(head, row(text, "all stages"), strict=True))
    assert found["WER (95 % CI)"] == "20.0% (18.0 to 23.0)"
    # Compared with the row above; other texts are not comparable.
    assert found["added WER"] == "+12.0" and found["similarity"] == "0.700"
    assert found["overall"] == "–" and found["empty"] == "2"
    assert row(text, "all stages, other texts")[3] == "–"
    assert row(text, "ground truth")[2:4] == ["5.0% (3.0 to 8.0)", "–"]


def test_before_and_after_stand_side_by_side():
    text = evaluation(1.0, -0.05, before=evaluation(2.0)).markdown()
    assert "compared with: my-bark → my-voice" in text
    cells = row(text, "semantic")
    assert cells[1:3] == ["2.000 → 1.000", "7.39 → 2.72"] and cells[4] == "900"
    cells = row(text, "all stages")
    assert cells[2] == "20.0% (18.0 to 23.0) → 15.0% (13.0 to 18.0)"
    assert cells[3] == "+12.0 → +7.0"


def test_the_worst_sentences_of_the_last_source_are_shown():
    _, _, text = evaluation().markdown().partition("## Most errors")
    lines = text.splitlines()
    assert lines[0] == " (all stages, other texts)"
    assert lines[-2:] == ["| one / two four |  |", "| three | tree |"]
    assert "Most errors" not in Evaluation("m").markdown()


# === Files ===


def test_plots_are_pictures_that_the_report_shows(tmp_path):
    pytest.importorskip("matplotlib")
    evaluation(before=evaluation()).save(tmp_path / "new" / "folder")
    folder = tmp_path / "new" / "folder"
    names = {path.name for path in folder.iterdir()}
    pictures = {"stages.png", "word_errors.png"}
    assert names == {"report.md", "report.json", *pictures}
    text = (folder / "report.md").read_text(encoding="utf-8")
    for name in pictures:
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
        assert f"]({name})" in text


def test_a_plot_has_a_bar_for_every_figure(monkeypatch):
    figure = pytest.importorskip("matplotlib.figure")
    drawn = []
    monkeypatch.setattr(
        figure.Figure, "savefig", lambda self, *_, **__: drawn.append(self)
    )
    module.plots(evaluation(extra=0.1, before=evaluation()))
    _, errors = (one.axes[0] for one in drawn)
    heights = [bar.get_height() for bar in errors.patches]
    assert np.round(heights).tolist() == [5, 8, 20, 50, 5, 8, 30, 50]
    assert [text.get_text() for text in errors.get_legend().get_texts()] == [
        "my-bark",
        "my-voice",
    ]


def test_without_matplotlib_the_report_has_no_plots(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.warns(UserWarning, match=r"no plots\. .*matplotlib.*`evaluate`"):
        evaluation().save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"report.md", "report.json"}


def test_nothing_is_half_written(tmp_path, monkeypatch):
    def fails(_):
        raise RuntimeError

    monkeypatch.setattr(module, "plots", fails)
    with pytest.raises(RuntimeError):
        evaluation().save(tmp_path / "out")
    assert not (tmp_path / "out").exists()
