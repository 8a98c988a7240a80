"""Pictures of sound, tokens, attention and training runs, drawn with matplotlib.

Every function draws into `ax`, or into a new figure, and returns the `Axes`. Where
pyplot is in use, or in a notebook, the new figure is one of pyplot's and is shown as
usual; elsewhere pyplot is not even imported, and `axes.figure.savefig(path)` saves it.
Needs the extra `plots`.

Example:
    >>> from matplotlib.figure import Figure
    >>> figure = Figure()
    >>> above, below = figure.subplots(2, sharex=True)
    >>> sound = np.sin(np.linspace(0, 2000, 16_000))
    >>> axes = [waveform(sound, 16_000, ax=above), spectrogram(sound, 16_000, ax=below)]
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bark_tf.audio.mel import HOP_S, WINDOW_S, hz_to_mel, mel_decibels
from bark_tf.audio.reading import check_rate
from bark_tf.optional import required
from bark_tf.progress import is_notebook
from bark_tf.training.runs.log_file import LOG_NAME, read_log

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["attention", "codes", "losses", "semantic_tokens", "spectrogram", "waveform"]

# Marks on the axis of frequencies, in Hz.
_MARKS_HZ = (250, 500, 1000, 2000, 4000, 8000, 16_000)


def _axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """The given axes, or those of a new figure, `size` in inches."""
    if ax is not None:
        return ax
    if is_notebook() or "matplotlib.pyplot" in sys.modules:
        new = required("matplotlib.pyplot", "Drawing", "plots").figure
    else:
        new = required("matplotlib.figure", "Drawing", "plots").Figure
    return new(figsize=size, layout="constrained").add_subplot()


# === Sound ===


def waveform(
    audio: Any, sampling_rate: int | None = None, *, ax: Axes | None = None
) -> Axes:
    """Draws sound over time.

    Args:
        audio: Float (samples,) or (1, samples) in [-1, 1], or what `speak` and
            `generate(..., return_dict=True)` return.
        sampling_rate: Samples per second; None: that of `audio`.
        ax: Where to draw; None: a new figure.

    Returns:
        The axes: seconds, and samples in [-1, 1].

    Raises:
        ValueError: If `audio` is not one row of finite samples, or nobody knows its
            rate.
        ImportError: If matplotlib is not installed.

    Example:
        >>> waveform(np.zeros(16_000), 16_000).get_xlabel()
        'time (s)'
    """
    samples, rate = _sound(audio, sampling_rate)
    axes = _axes(ax, (8, 2))
    axes.plot(np.arange(len(samples)) / rate, samples, linewidth=0.5)
    highest = max(1.0, float(np.abs(samples).max()))
    axes.set(xlabel="time (s)", ylabel="amplitude", ylim=(-highest, highest))
    axes.set_xlim(0, len(samples) / rate)
    return axes


def spectrogram(
    audio: Any, sampling_rate: int | None = None, *, ax: Axes | None = None
) -> Axes:
    """Draws a mel spectrogram: which frequencies sound when, and how loud.

    Args:
        audio: See `waveform`.
        sampling_rate: See `waveform`.
        ax: Where to draw; None: a new figure.

    Returns:
        The axes: seconds, and kHz on the mel scale. The picture in `axes.images` holds
        decibels relative to the loudest moment.

    Raises:
        ValueError: See `waveform`.
        ImportError: If matplotlib is not installed.

    Example:
        >>> spectrogram(np.zeros(16_000), 16_000).images[0].get_array().shape
        (80, 87)
    """
    samples, rate = _sound(audio, sampling_rate)
    # Windows stand in the middle of their frames.
    margin = round((WINDOW_S - HOP_S) / 2 * rate)
    levels = mel_decibels(np.pad(samples, margin), rate).T  # (M, T)
    axes = _axes(ax, (8, 3))
    top = float(hz_to_mel(rate / 2))
    place = (0, levels.shape[1] * round(HOP_S * rate) / rate, 0, top)
    _picture(axes, levels - levels.max(), place, cmap="magma", origin="lower")
    marks = [hz for hz in _MARKS_HZ if hz <= rate / 2]
    axes.set_yticks(hz_to_mel(marks), [f"{hz / 1000:g}" for hz in marks])
    axes.set(xlabel="time (s)", ylabel="frequency (kHz)")
    axes.set_xlim(0, len(samples) / rate)
    return axes


def _sound(audio: Any, sampling_rate: int | None) -> tuple[np.ndarray, int]:
    """Samples and their rate."""
    if sampling_rate is None:
        sampling_rate = getattr(audio, "sampling_rate", None)
    if sampling_rate is None:
        raise ValueError(
            "sampling_rate must be given with bare samples, such as "
            "model.sampling_rate. Received: None"
        )
    check_rate(sampling_rate)
    samples = np.asarray(getattr(audio, "audio", audio))
    samples = _one_row(samples, "audio", "(samples,)", 1).astype(np.float64)
    if not np.isfinite(samples).all():
        raise ValueError("audio must be finite. Received: NaN or infinity")
    return samples, sampling_rate


def _one_row(values: Any, name: str, shape: str, rank: int) -> np.ndarray:
    """Values without a batch axis of one row; a clear error for others."""
    array = np.asarray(values)
    if array.ndim == rank + 1 and len(array) == 1:
        array = array[0]
    if array.ndim != rank or not array.size or array.dtype.kind not in "fiuV":
        raise ValueError(
            f"{name} must be {shape} of numbers, at least one; draw a batch row by "
            f"row. Received: {array.dtype} of shape {array.shape}"
        )
    return array


def _picture(axes: Axes, values: np.ndarray, place: tuple, **options: Any) -> None:
    """Draws a matrix; `place` is left, right, bottom, top."""
    options |= {"aspect": "auto", "interpolation": "nearest"}
    axes.imshow(values, extent=place, **options)


# === Tokens ===


def semantic_tokens(
    tokens: Any, rate_hz: float | None = None, *, ax: Axes | None = None
) -> Axes:
    """Draws semantic tokens over time, a dot each.

    Args:
        tokens: Int (time,) or (1, time), ids.
        rate_hz: Tokens per second, 49.9 for Bark; None numbers them.
        ax: Where to draw; None: a new figure.

    Returns:
        The axes: seconds or token numbers, and ids.

    Raises:
        ValueError: If `tokens` is not one row.
        ImportError: If matplotlib is not installed.

    Example:
        >>> semantic_tokens([17, 17, 4], 49.9).lines[0].get_ydata().tolist()
        [17, 17, 4]
    """
    tokens = _one_row(tokens, "tokens", "(time,)", 1)
    rate_hz, unit = _time_axis(rate_hz, "token")
    axes = _axes(ax, (8, 2))
    axes.plot(np.arange(len(tokens)) / rate_hz, tokens, ".", markersize=3)
    axes.set(xlabel=unit, ylabel="semantic token")
    return axes


def codes(codes: Any, rate_hz: float | None = None, *, ax: Axes | None = None) -> Axes:
    """Draws a map of codes: a row per codebook, a column per frame, colours for codes.

    Args:
        codes: Int (codebooks, frames) or (1, codebooks, frames), coarse or fine.
        rate_hz: Frames per second, 75 for Bark and `codec_config.frame_rate` for any
            model; None numbers them.
        ax: Where to draw; None: a new figure.

    Returns:
        The axes: seconds or frame numbers, and codebooks, the first on top.

    Raises:
        ValueError: If `codes` has another shape.
        ImportError: If matplotlib is not installed.

    Example:
        >>> codes(np.arange(16).reshape(2, 8)).get_ylabel()
        'codebook'
    """
    array = _one_row(codes, "codes", "(codebooks, frames)", 2)
    rate_hz, unit = _time_axis(rate_hz, "frame")
    count, frames = array.shape
    axes = _axes(ax, (8, 0.6 + 0.25 * count))
    place = (0, frames / rate_hz, count + 0.5, 0.5)
    _picture(axes, array, place, cmap="viridis")
    axes.set_yticks(range(1, count + 1))
    axes.set(xlabel=unit, ylabel="codebook")
    return axes


def _time_axis(rate_hz: float | None, unit: str) -> tuple[float, str]:
    """Units per mark of the axis, and its label."""
    if rate_hz is None:
        return 1, unit
    if not rate_hz > 0:
        raise ValueError(f"rate_hz must be above 0. Received: rate_hz={rate_hz}")
    return rate_hz, "time (s)"


# === Networks ===


def attention(
    attentions: Any, layer: int = -1, head: int | None = None, *, ax: Axes | None = None
) -> Axes:
    """Draws where a layer looks: a row per position, a column per position seen.

    Args:
        attentions: The output of a sub-model called with `output_attentions=True`, or
            its `attentions`: one float (1, heads, time, time) per layer.
        layer: Number of the layer; negative: from the last.
        head: Number of the head; None: the mean of all heads.
        ax: Where to draw; None: a new figure.

    Returns:
        The axes: the position that is looked at, and the one that looks. Rows of the
        picture sum to 1.

    Raises:
        ValueError: If there are no attentions, or no such layer or head.
        ImportError: If matplotlib is not installed.

    Example:
        >>> layers = [np.eye(6)[None, None]]
        >>> attention(layers, layer=0, head=0).get_title()
        'layer 0, head 0'
    """
    layers = getattr(attentions, "attentions", attentions)
    if layers is None or not len(layers):
        raise ValueError(
            "attentions must hold a layer's weights: call the model with "
            f"output_attentions=True. Received: {layers}"
        )
    _check_number("layer", layer, len(layers))
    heads = _one_row(layers[layer], "attentions[layer]", "(heads, time, time)", 3)
    heads = heads.astype(np.float64)
    if head is None:
        weights, which = heads.mean(axis=0), f"mean of {len(heads)} heads"
    else:
        _check_number("head", head, len(heads))
        weights, which = heads[head], f"head {head % len(heads)}"
    axes = _axes(ax, (5, 4.5))
    place = (0, weights.shape[1], weights.shape[0], 0)
    _picture(axes, weights, place, cmap="magma", vmin=0)
    axes.set(xlabel="position seen", ylabel="position")
    axes.set_title(f"layer {layer % len(layers)}, {which}")
    return axes


def _check_number(name: str, number: int, count: int) -> None:
    if not -count <= number < count:
        raise ValueError(
            f"{name} must be in 0 to {count - 1}. Received: {name}={number}"
        )


# === Training ===


def losses(
    source: str | os.PathLike | Mapping[str, Sequence[float]], *, ax: Axes | None = None
) -> Axes:
    """Draws the losses of training.

    Args:
        source: The output folder of a recipe, or one of its `training/STAGE`; solid
            lines are the training loss, dashed ones that of the held-out recordings.
            Or losses by name, one per step or epoch, such as a Keras history's.
        ax: Where to draw; None: a new figure.

    Returns:
        The axes: steps, and losses.

    Raises:
        FileNotFoundError: If the folder holds no run.
        ValueError: If there is no loss.
        ImportError: If matplotlib is not installed.

    Example:
        >>> curves = losses({"semantic": [3.2, 2.9], "coarse": [4.1, 3.9]})
        >>> [line.get_label() for line in curves.lines]
        ['semantic', 'coarse']
    """
    if isinstance(source, Mapping):
        curves = {
            name: (range(1, len(values) + 1), values, name)
            for name, values in source.items()
        }
    else:
        curves = _curves_of_runs(Path(source))
    if not any(len(values) for _, values, _ in curves.values()):
        raise ValueError(f"There must be a loss to draw. Received: {source!r}")
    axes = _axes(ax, (6, 3.5))
    colours: dict[str, Any] = {}
    for label, (steps, values, stage) in curves.items():
        style = "-" if stage not in colours else "--"
        (line,) = axes.plot(
            steps, values, style, color=colours.get(stage), marker=".", label=label
        )
        colours.setdefault(stage, line.get_color())
    axes.set(xlabel="step", ylabel="loss")
    axes.legend()
    return axes


def _curves_of_runs(folder: Path) -> dict[str, tuple[list, list, str]]:
    """Label -> steps, losses and stage, in the order of the stages' first logs."""
    logs = [folder / LOG_NAME, *sorted(folder.glob(f"training/*/{LOG_NAME}"))]
    logs = [path for path in logs if path.is_file()]
    if not logs:
        raise FileNotFoundError(
            f"{str(folder)!r} holds no run: neither {LOG_NAME} nor "
            f"training/STAGE/{LOG_NAME}"
        )
    curves = {}
    for path in logs:
        lines, stage = read_log(path), path.parent.name
        for key, label in (("loss", stage), ("val_loss", f"{stage}, held out")):
            points = [(line["step"], line[key]) for line in lines if key in line]
            if points:
                curves[label] = (*map(list, zip(*points, strict=True)), stage)
    return curves
