"""Suggestions for names that do not exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_MOST = 3
_SIMILAR = 0.65  # as "speek" is to "speak", and not to "serve"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Makes the end of an error message about an unknown name.

    Args:
        name: What was given.
        known: The names that exist.

    Returns:
        A sentence with the most similar names and a space before it; empty if there
        are none.

    Example:
        >>> did_you_mean("speek", ["speak", "voices"])
        " Did you mean 'speak'?"
    """
    matches = difflib.get_close_matches(name, list(known), n=_MOST, cutoff=_SIMILAR)
    return f" Did you mean {' or '.join(map(repr, matches))}?" if matches else ""
