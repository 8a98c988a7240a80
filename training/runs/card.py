"""OUT's README.md: what the model is made of, for whoever gets it."""

from __future__ import annotations

import math
from typing import Any

from bark_tf.saving import Saving
from bark_tf.voices.cloning import CONSENT

from .records import DONE_NAME, RECORD_NAME, read_done, read_record

CARD_NAME = "README.md"
MARK = "<!-- bark-tf train writes this file; delete this line to keep your changes -->"


def write_card(change: Saving, name: str) -> None:
    """Writes the model card, unless there is one of somebody's own.

    Args:
        change: The checkpoint that is being saved, with the finished runs in its folder
            `training`.
        name: Its directory or URL, as the user gave it.
    """
    path = change.directory / CARD_NAME
    if path.is_file() and MARK not in path.read_text(encoding="utf-8"):
        return
    runs = []
    for record in sorted(change.directory.glob(f"training/*/{RECORD_NAME}")):
        done = change.find(f"training/{record.parent.name}/{DONE_NAME}")
        if done.is_file():
            runs.append({**read_record(record), **read_done(done)})
    (change.path / CARD_NAME).write_text(_card(name, runs), encoding="utf-8")


def _card(name: str, runs: list[dict[str, Any]]) -> str:
    bases = _unique(run["recipe"]["model"] or "random weights" for run in runs)
    data = _unique(map(_about, runs))
    rows = "\n".join(map(_row, runs))
    title = name.rstrip("/").rpartition("/")[2]
    return f"""---
library_name: bark-tf
pipeline_tag: text-to-speech
tags: [bark, text-to-speech]
---
{MARK}

# {title}

A Bark trained by `bark-tf train` {runs[0]["bark_tf"]}. Base model: {", ".join(bases)}.

    bark-tf speak "Hello" --model {name}

## Figures

| stage | method | steps | loss | loss on held-out recordings |
|---|---|---|---|---|
{rows}

All values are in `training/STAGE/{RECORD_NAME}`, all figures in `log.jsonl` beside it.

## Data

{chr(10).join(data)}

## Licence and consent

The licences of the base model and of the recordings both hold for this model. Name them
here before you share it: **not stated yet**.

Note that {CONSENT}. Whether the speakers agreed: **not stated yet**.
"""


def _unique(texts) -> list[str]:
    return list(dict.fromkeys(texts))


def _about(run: dict[str, Any]) -> str:
    data, speakers = run["data"], ", ".join(map(str, run["data"]["speakers"]))
    return (
        f"- `{run['recipe']['data']}`: {data['recordings']} recordings, "
        f"{data['hours']:.2g} hours; {data['held_out']} held out; speakers: {speakers}"
    )


def _row(run: dict[str, Any]) -> str:
    last, recipe = run["last"], run["recipe"]
    losses = [f"{last.get(name, math.nan):.4g}" for name in ("loss", "val_loss")]
    cells = [run["stage"], recipe["method"], f"{last['step']:.0f}", *losses]
    return f"| {' | '.join(cells)} |"
