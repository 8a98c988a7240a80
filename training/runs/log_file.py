"""The log of a run: a line of JSON every so many steps."""

from __future__ import annotations

import json
from pathlib import Path

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
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:  # half a line, from a run that was killed
            break
    return lines
