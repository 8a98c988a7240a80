"""What the pictures show: the data of their lines and images, labels and units."""

import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.figure import Figure

from bark_tf import plots

RATE = 16_000


@pytest.fixture
def tone():
    return 0.5 * np.sin(2 * np.pi * 2000 * np.arange(RATE // 2) / RATE)


def labels(axes):
    return axes.get_xlabel(), axes.get_ylabel()


def image(axes):
    (picture,) = axes.images
    return np.asarray(picture.get_array()), picture.get_extent()


def test_a_waveform_is_the_samples_over_seconds(tone):
    axes = plots.waveform(tone, RATE)
    (line,) = axes.lines
    np.testing.assert_array_equal(line.get_ydata(), tone)
    np.testing.assert_allclose(line.get_xdata(), np.arange(tone.size) / RATE)
    assert labels(axes) == ("time (s)", "amplitude")
    assert (axes.get_xlim(), axes.get_ylim()) == ((0, 0.5), (-1, 1))
    assert plots.waveform(4 * tone, RATE).get_ylim()[1] == pytest.approx(2, abs=0.1)


def test_a_spectrogram_is_brightest_at_the_pitch(tone):
    axes = plots.spectrogram(tone, RATE)
    levels, (left, right, bottom, top) = image(axes)
    assert levels.max() == 0
    assert (left, bottom) == (0, 0)
    assert right == pytest.approx(0.5, abs=0.05)
    middle = levels[:, levels.shape[1] // 2].argmax() + 1
    texts = [text.get_text() for text in axes.get_yticklabels()]
    marks = dict(zip(texts, axes.get_yticks(), strict=True))
    assert middle * top / (len(levels) + 1) == pytest.approx(marks["2"], abs=0.5)
    assert list(marks) == ["0.25", "0.5", "1", "2", "4", "8"]
    assert labels(axes) == ("time (s)", "frequency (kHz)")
    assert image(plots.spectrogram(np.zeros(10), RATE))[0].max() == 0


@pytest.mark.parametrize("draw", [plots.waveform, plots.spectrogram])
def test_sound_may_be_what_generation_returns(draw, tone):
    figure = Figure()
    axes = figure.add_subplot()
    out = SimpleNamespace(audio=tone[None], sampling_rate=RATE)
    assert draw(out, ax=axes) is axes
    assert axes.get_xlim()[1] == pytest.approx(0.5, abs=0.05)


def test_tokens_are_dots_over_time():
    axes = plots.semantic_tokens([[5, 7, 5]], 50)
    (line,) = axes.lines
    assert line.get_xdata().tolist() == [0, 0.02, 0.04]
    assert line.get_ydata().tolist() == [5, 7, 5]
    assert labels(axes) == ("time (s)", "semantic token")
    assert labels(plots.semantic_tokens([5]))[0] == "token"


def test_a_code_map_has_the_first_codebook_on_top():
    codes = np.arange(24).reshape(1, 3, 8)
    axes = plots.codes(codes, 4)
    shown, (left, right, bottom, top) = image(axes)
    np.testing.assert_array_equal(shown, codes[0])
    assert (left, right, bottom, top) == (0, 2, 3.5, 0.5)
    assert axes.get_yticks().tolist() == [1, 2, 3]
    assert labels(axes) == ("time (s)", "codebook")
    assert labels(plots.codes(codes)) == ("frame", "codebook")


def test_attention_is_of_one_head_or_the_mean(rng):
    layers = [rng.random((1, 2, 3, 3)) for _ in range(2)]
    output = SimpleNamespace(attentions=layers)
    for choice, expected, title in (
        ({"layer": 0, "head": -1}, layers[0][0, 1], "layer 0, head 1"),
        ({"layer": 1}, layers[1][0].mean(0), "layer 1, mean of 2 heads"),
        ({}, layers[1][0].mean(0), "layer 1, mean of 2 heads"),
    ):
        axes = plots.attention(output, **choice)
        np.testing.assert_allclose(image(axes)[0], expected)
        assert image(axes)[1] == [0, 3, 3, 0]
        assert axes.get_title() == title
    assert labels(axes) == ("position seen", "position")


def test_losses_of_a_recipe_have_a_colour_per_stage(tmp_path):
    for stage, steps in (("coarse", (10, 20)), ("fine", (5,))):
        folder = tmp_path / "training" / stage
        folder.mkdir(parents=True)
        lines = [{"step": step, "loss": 1 / step} for step in steps]
        lines.insert(1, {"step": 10, "val_loss": 3.0})
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / "log.jsonl").write_text(text + '{"step": 30, "lo')
    axes = plots.losses(tmp_path)
    drawn = {line.get_label(): line for line in axes.lines}
    assert [*drawn] == ["coarse", "coarse, held out", "fine", "fine, held out"]
    assert drawn["coarse"].get_xydata().tolist() == [[10, 0.1], [20, 0.05]]
    assert drawn["coarse, held out"].get_xydata().tolist() == [[10, 3]]
    for stage in ("coarse", "fine"):
        solid, dashed = drawn[stage], drawn[f"{stage}, held out"]
        assert solid.get_color() == dashed.get_color()
        assert (solid.get_linestyle(), dashed.get_linestyle()) == ("-", "--")
    assert drawn["coarse"].get_color() != drawn["fine"].get_color()
    assert labels(axes) == ("step", "loss")
    (line, _) = plots.losses(tmp_path / "training" / "fine").lines
    assert line.get_xydata().tolist() == [[5, 0.2]]


def test_losses_may_be_numbers():
    axes = plots.losses({"loss": [3, 2], "val_loss": [2.5]})
    assert [line.get_xdata().tolist() for line in axes.lines] == [[1, 2], [1]]
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts == ["loss", "val_loss"]


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plots.waveform(np.zeros(9)), "sampling_rate must be given"),
        (lambda: plots.waveform(np.zeros(9), -1), "sample_rate"),
        (lambda: plots.waveform([], RATE), r"at least one.*float64 of shape \(0,\)"),
        (lambda: plots.spectrogram(np.zeros((2, 9)), RATE), r"row by row.*\(2, 9\)"),
        (lambda: plots.spectrogram([np.nan], RATE), "finite"),
        (lambda: plots.semantic_tokens(["a"]), "of numbers"),
        (lambda: plots.semantic_tokens([1], 0), "rate_hz must be above 0"),
        (lambda: plots.codes([1, 2]), r"\(codebooks, frames\)"),
        (lambda: plots.attention(SimpleNamespace(attentions=None)), "output_attent"),
        (lambda: plots.attention([np.ones((1, 2, 3, 3))], layer=1), "0 to 0.*layer=1"),
        (lambda: plots.attention([np.ones((1, 2, 3, 3))], head=2), "0 to 1.*head=2"),
        (lambda: plots.attention([np.ones((3, 3))]), r"\(heads, time, time\)"),
        (lambda: plots.losses({}), "must be a loss"),
    ],
)
def test_what_cannot_be_drawn_says_why(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()


def test_a_folder_without_a_run_says_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"training/STAGE/log.jsonl"):
        plots.losses(tmp_path)


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    for module in ("matplotlib.figure", "matplotlib.pyplot"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"extra `plots`"):
        plots.codes([[1]])


def test_pyplot_is_used_only_where_it_is_in_use():
    """A script without it keeps no global figures, and needs no TensorFlow."""
    code = """
import sys
from bark_tf import plots
plots.codes([[1]]).figure.savefig(sys.argv[1])
print([n for n in ("matplotlib.pyplot", "tensorflow") if n in sys.modules])
from matplotlib import pyplot
axes = plots.codes([[1]])
print(pyplot.gca() is axes, len(pyplot.get_fignums()))
"""
    command = [sys.executable, "-c", code, "/dev/null"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "True 1"]
