"""The result of an evaluation: tables, JSON and plots."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_type_hints

from bark_tf.config.fields import check_values
from bark_tf.files import blame, local_path, read_json_object
from bark_tf.optional import required
from bark_tf.saving import saving

from .metrics import Edits, ErrorRate
from .scores import CodecScore, StageScore

_Record = TypeVar("_Record")
JSON_NAME, MARKDOWN_NAME = "report.json", "report.md"
# What is judged, from the recording itself to the whole model, and its name in tables.
SOURCES: Mapping[str, str] = {
    "ground_truth": "ground truth",
    "codec": "codec",
    "fine": "fine, codec",
    "coarse": "coarse, fine, codec",
    "semantic": "all stages",
    "texts": "all stages, other texts",
}
_GIVEN = (
    "Each row has one more stage of the model in it: the ground truth; the recordings "
    "encoded and decoded; from their first codebooks; from their semantic tokens; from "
    "their texts. What a row adds to the WER is that stage's share."
)
# What an evaluation must have in JSON.
_KINDS = {
    "model": str,
    "transcripts": list,
    **dict.fromkeys(("settings", "stages", "speech"), dict),
}
_WER = "WER (95 % CI)"
_SHOWN = 5  # sentences with the most errors
_DOTS_PER_INCH = 120


class SpeechScore(NamedTuple):
    """The judges' results for one source.

    Attributes:
        utterances: Number.
        wer: Word error rate, or None without a recogniser.
        empty: Utterances without any audio; all their words are errors.
        unfinished: Utterances that reached the limit of the semantic stage.
        similarity: Mean similarity to the speaker of the recordings, or None.
        quality: Mean scores by name.
    """

    utterances: int
    wer: ErrorRate | None = None
    empty: int = 0
    unfinished: int = 0
    similarity: float | None = None
    quality: Mapping[str, float] = {}


class Transcript(NamedTuple):
    """What the recogniser made of one utterance.

    Attributes:
        source: Of `SOURCES`.
        id: Name of the recording, or number of the text.
        text: The text that was spoken.
        recognised: The recogniser's text.
        errors: Word errors.
    """

    source: str
    id: str
    text: str
    recognised: str
    errors: int


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The measures of a model.

    Args:
        model: Its directory or id.
        settings: Data, recordings, texts, recogniser, seed, ...
        stages: Stage -> `StageScore`.
        codec: `CodecScore`, or None.
        speech: Source -> `SpeechScore`, in the order of `SOURCES`.
        transcripts: One per utterance.
        before: The measures of the model that this one is compared with, or None.
    """

    model: str
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    stages: Mapping[str, StageScore] = dataclasses.field(default_factory=dict)
    codec: CodecScore | None = None
    speech: Mapping[str, SpeechScore] = dataclasses.field(default_factory=dict)
    transcripts: tuple[Transcript, ...] = ()
    before: Evaluation | None = None

    # === JSON ===

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON values; numbers that are not finite become None."""
        values = {
            "model": self.model,
            "settings": dict(self.settings),
            "stages": {
                name: {**score._asdict(), "perplexity": score.perplexity}
                for name, score in self.stages.items()
            },
            "codec": None if self.codec is None else self.codec._asdict(),
            "speech": {name: _speech(score) for name, score in self.speech.items()},
            "transcripts": [one._asdict() for one in self.transcripts],
            "before": None if self.before is None else self.before.to_dict(),
        }
        return _finite(values)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Evaluation:
        """The inverse of `to_dict`.

        Raises:
            ValueError: If something is missing or has another form.
        """
        codec, before = values.get("codec"), values.get("before")
        try:
            check_values(values, _KINDS, "it")
            return cls(
                model=values["model"],
                settings=values["settings"],
                stages={
                    name: _read_stage(score) for name, score in values["stages"].items()
                },
                codec=None if codec is None else _read(CodecScore, codec),
                speech={
                    name: _read_speech(score)
                    for name, score in values["speech"].items()
                },
                transcripts=tuple(
                    _read(Transcript, one) for one in values["transcripts"]
                ),
                before=None if before is None else cls.from_dict(before),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"This is not an evaluation: {error!r}") from error

    @classmethod
    def load(cls, path: str | os.PathLike) -> Evaluation:
        """Reads `report.json`, or that of a directory.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If it is damaged.
        """
        path = Path(path)
        path = path / JSON_NAME if path.is_dir() else path
        values = read_json_object(path)
        with blame(path):
            return cls.from_dict(values)

    # === Files ===

    def save(self, directory: str | os.PathLike) -> Path:
        """Writes `report.json`, `report.md` and, if matplotlib is installed, plots.

        All files are made before the first is written.

        Args:
            directory: Created if missing. Files of an older report are replaced.

        Returns:
            The directory.
        """
        directory = local_path(directory, "The report's folder")
        files = plots(self)
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
        shown = "".join(f"\n![{Path(name).stem}]({name})\n" for name in files)
        files[JSON_NAME] = f"{text}\n".encode()
        files[MARKDOWN_NAME] = f"{self.markdown()}\n{shown}".encode()
        with saving(directory) as change:
            for name, content in files.items():
                (change.path / name).write_bytes(content)
        return directory

    # === Tables ===

    def markdown(self) -> str:
        """The report as Markdown; with `before`, cells hold both values."""
        parts = [f"# Evaluation of {self.model}", self._about()]
        if self.stages:
            parts += ["## Stages, teacher-forced", self._stage_table()]
        if self.codec is not None:
            parts += ["## Codec", self._codec_table()]
        if self.speech:
            parts += ["## Speech", self._speech_table(), _GIVEN]
        parts += self._worst()
        return "\n\n".join(parts)

    def _about(self) -> str:
        lines = []
        if self.before is not None:
            lines.append(f"- compared with: {self.before.model} → {self.model}")
        lines += [
            f"- {name.replace('_', ' ')}: {value}"
            for name, value in self.settings.items()
            if value is not None
        ]
        return "\n".join(lines)

    def _both(self) -> list[Evaluation]:
        """The model before, if there is one, and this one."""
        return [self] if self.before is None else [self.before, self]

    def _stage_table(self) -> str:
        columns: dict[str, Callable[[StageScore], str]] = {
            "loss": lambda score: f"{score.loss:.3f}",
            "perplexity": lambda score: f"{score.perplexity:.2f}",
            "accuracy": lambda score: f"{score.accuracy:.1%}",
        }
        rows = {}
        for name, score in self.stages.items():
            both = [one.stages.get(name) for one in self._both()]
            rows[name] = {
                column: _arrow(both, form) for column, form in columns.items()
            }
            rows[name]["tokens"] = str(score.targets)
        return _table("stage", rows)

    def _codec_table(self) -> str:
        columns: dict[str, Callable[[CodecScore], str]] = {
            "mel distance (dB)": lambda score: f"{score.mel_db:.2f}",
            "STFT distance": lambda score: f"{score.stft:.3f}",
            "SI-SDR (dB)": lambda score: f"{score.si_sdr_db:.2f}",
        }
        both = [one.codec for one in self._both()]
        cells = {"n": str(self.codec.recordings)}
        cells |= {column: _arrow(both, form) for column, form in columns.items()}
        return _table("source", {"reconstructions": cells})

    def _speech_table(self) -> str:
        columns = self._speech_columns()
        rows = {}
        for source, score in self.speech.items():
            both = [one.speech.get(source) for one in self._both()]
            cells = {"n": str(score.utterances)}
            for column, form in columns.items():
                cells[column] = _arrow(both, form)
                if column == _WER:
                    added = [_added(one, source) for one in self._both()]
                    cells["added WER"] = _arrow(added, str)
            rows[SOURCES[source]] = cells
        return _table("source", rows)

    def _speech_columns(self) -> dict[str, Callable[[SpeechScore], str]]:
        """Column -> format, of what was measured."""
        scores = list(self.speech.values())
        columns: dict[str, Callable[[SpeechScore], str]] = {}
        if any(score.wer for score in scores):
            columns[_WER] = lambda score: _rate(score.wer)
        if any(score.similarity is not None for score in scores):
            columns["similarity"] = lambda score: _maybe(score.similarity, ".3f")
        for name in dict.fromkeys(name for score in scores for name in score.quality):
            columns[name] = lambda score, name=name: _maybe(
                score.quality.get(name), ".2f"
            )
        columns["empty"] = lambda score: str(score.empty)
        columns["unfinished"] = lambda score: str(score.unfinished)
        return columns

    def _worst(self) -> list[str]:
        """The sentences with the most errors, of the last source."""
        sources = [one.source for one in self.transcripts]
        if not sources:
            return []
        last = max(sources, key=list(SOURCES).index)
        worst = [one for one in self.transcripts if one.source == last and one.errors]
        worst = sorted(worst, key=lambda one: -one.errors)[:_SHOWN]
        if not worst:
            return []
        lines = ["| text | recognised |", "|---|---|"]
        lines += [f"| {_cell(one.text)} | {_cell(one.recognised)} |" for one in worst]
        return [f"## Most errors ({SOURCES[last]})", "\n".join(lines)]


def _speech(score: SpeechScore) -> dict[str, Any]:
    wer = score.wer
    if wer is not None:
        wer = {**wer._asdict(), "edits": wer.edits._asdict()}
    return {**score._asdict(), "wer": wer, "quality": dict(score.quality)}


def _read(cls: Callable[..., _Record], values: Mapping[str, Any]) -> _Record:
    """A tuple of its JSON values, in which None stands for what is not finite."""
    hints = get_type_hints(cls).items()
    check_values(values, {name: hint | None for name, hint in hints}, cls.__name__)
    return cls(**values)


def _read_stage(values: Mapping[str, Any]) -> StageScore:
    values = {name: values[name] for name in StageScore._fields}
    score = _read(StageScore, values)
    return score._replace(loss=_number(score.loss))


def _read_speech(values: Mapping[str, Any]) -> SpeechScore:
    wer = values["wer"]
    if wer is not None:
        wer = _read(ErrorRate, {**wer, "edits": _read(Edits, wer["edits"])})
    return _read(SpeechScore, {**values, "wer": wer})


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    is_lost = isinstance(value, float) and not math.isfinite(value)
    return None if is_lost else value


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _table(first: str, rows: Mapping[str, Mapping[str, str]]) -> str:
    columns = list(dict.fromkeys(column for cells in rows.values() for column in cells))
    lines = ["| " + " | ".join([first, *columns]) + " |", "|---" * (1 + len(columns))]
    lines[-1] += "|"
    for name, cells in rows.items():
        shown = [cells.get(column, "") for column in columns]
        lines.append("| " + " | ".join([name, *shown]) + " |")
    return "\n".join(lines)


def _arrow(values: Sequence[Any], form: Callable[[Any], str]) -> str:
    """`before → now`, or the only value."""
    return " → ".join("–" if value is None else form(value) for value in values)


def _maybe(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _rate(wer: ErrorRate | None) -> str:
    if wer is None:
        return "–"
    return f"{wer.rate:.1%} ({100 * wer.low:.1f} to {100 * wer.high:.1f})"


def _added(evaluation: Evaluation, source: str) -> str | None:
    """WER above that of the previous row, in points; None if not comparable."""
    rows = [name for name in SOURCES if name in evaluation.speech]
    place = rows.index(source) if source in rows else 0
    if not place or source == "texts":
        return None
    rates = [evaluation.speech[name].wer for name in rows[place - 1 : place + 1]]
    return None if None in rates else f"{100 * (rates[1].rate - rates[0].rate):+.1f}"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "/").split())


# === Plots ===


def plots(evaluation: Evaluation) -> dict[str, bytes]:
    """Draws losses and WERs.

    Args:
        evaluation: The measures.

    Returns:
        File name -> PNG. Empty, with a warning, if matplotlib is not installed.
    """
    try:
        required("matplotlib", "Drawing plots", "evaluate")
    except ImportError as error:
        warnings.warn(f"The report has no plots. {error}", UserWarning, stacklevel=3)
        return {}
    drawn = {}
    if evaluation.stages:
        drawn["stages.png"] = _bars(
            evaluation, "loss (nats)", lambda one: _losses(one, evaluation)
        )
    if any(score.wer for score in evaluation.speech.values()):
        drawn["word_errors.png"] = _bars(
            evaluation, "WER (%)", lambda one: _rates(one, evaluation)
        )
    return drawn


def _losses(one: Evaluation, all_of: Evaluation) -> dict[str, tuple[float, ...]]:
    return {
        name: (one.stages[name].loss, 0.0, 0.0)
        for name in all_of.stages
        if name in one.stages
    }


def _rates(one: Evaluation, all_of: Evaluation) -> dict[str, tuple[float, ...]]:
    found = {}
    for source in all_of.speech:
        wer = one.speech[source].wer if source in one.speech else None
        if wer is not None:
            below, above = wer.rate - wer.low, wer.high - wer.rate
            name = SOURCES[source].replace(", ", ",\n")
            found[name] = tuple(100 * max(0.0, x) for x in (wer.rate, below, above))
    return found


def _bars(evaluation: Evaluation, label: str, values_of: Callable) -> bytes:
    """Groups of bars, before beside after, each with its interval."""
    from matplotlib.figure import Figure

    series = {evaluation.model: values_of(evaluation)}
    if evaluation.before is not None:
        series = {evaluation.before.model: values_of(evaluation.before), **series}
    names = list(series[evaluation.model])
    figure = Figure(figsize=(2 + 1.2 * len(names), 4), layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / len(series)
    for number, (model, values) in enumerate(series.items()):
        places = [i + width * (number + 0.5) - 0.4 for i in range(len(names))]
        shown = [values.get(name, (0.0, 0.0, 0.0)) for name in names]
        heights, below, above = zip(*shown, strict=True)
        axes.bar(places, heights, width, yerr=[below, above], capsize=3, label=model)
    axes.set_xticks(range(len(names)), names)
    axes.set_ylabel(label)
    axes.set_ylim(bottom=0)
    if len(series) > 1:
        axes.legend()
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=_DOTS_PER_INCH)
    return stream.getvalue()
