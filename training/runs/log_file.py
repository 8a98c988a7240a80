"""The log of a run: a line of JSON every so many steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bark_tf.files import parse_json_object, read_text

LOG_NAME = "log.jsonl"


def read_log(path: Path) -> list[dict[str, float]]:
    """Reads `OUT/training/STAGE/log.jsonl`; there are no lines without the file.

    Returns:
        The lines, each with `step` and what was measured there, such as `loss` or
        `val_loss`.
    """
    if not path.is_file():
        return []
    lines = []
    for line in read_text(path).splitlines():
        try:
            values = parse_json_object(line, path)
        except ValueError:  # half a line, from a run that was killed
            break
        if "step" not in values or not all(map(_is_number, values.values())):
            break
        lines.append(values)
    return lines


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)
