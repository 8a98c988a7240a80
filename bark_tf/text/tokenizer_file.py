"""Reading `tokenizer.json`: what its library would choke on is refused first.

The library, written in Rust, makes a table of as many rows as the largest id, pads to
any length, and runs any pattern; and where it gives up, its error is no `Exception`.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import tokenizers

from bark_tf.files import blame, read_json_object

# Vocabularies have gaps, but not more than these.
_IDS_PER_TOKEN, _FREE_IDS = 16, 65_536
# Longer words take long; BERT's limit is 100.
_LONGEST_WORD = 10_000
# How many times longer the replacements of a normalizer may make a text.
_MOST_GROWTH = 1_000
# Published patterns repeat at most this many things in an alternative.
_MOST_REPETITIONS = 2
_REPETITION = r"[*+][?+]?|\{\d*,\d*\}"
# Characters shown of an error of the library.
_SHOWN = 200


@contextlib.contextmanager
def backend_errors(about: str) -> Iterator[None]:
    """Turns errors of the library, panics too, into a ValueError of one line.

    Args:
        about: Begins the message.
    """
    try:
        yield
    except BaseException as error:
        if (
            not isinstance(error, Exception)
            and type(error).__name__ != "PanicException"
        ):
            raise
        reason = str(error).partition("\n")[0][:_SHOWN]
        raise ValueError(f"{about}: {reason}") from error


def read_backend(path: str | os.PathLike) -> tokenizers.Tokenizer:
    """Reads a `tokenizer.json`, without its truncation and padding.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not a tokenizer, or one that would take more time or
            memory than its size promises.
    """
    spec = {**read_json_object(path), "truncation": None, "padding": None}
    with blame(path):
        _check_ids(spec)
        _check_work(spec)
    with backend_errors(f"{path} is not a tokenizer"):
        return tokenizers.Tokenizer.from_str(json.dumps(spec))


def _check_ids(spec: Mapping[str, Any]) -> None:
    """Raises ValueError if the ids are no numbers of the tokens."""
    model, added = spec.get("model"), spec.get("added_tokens")
    added = added if isinstance(added, list) else []
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(vocabulary, dict | list) or not vocabulary:
        raise ValueError("model.vocab must hold tokens. Received: none")
    ids = list(vocabulary.values()) if isinstance(vocabulary, dict) else []
    most = _IDS_PER_TOKEN * (len(vocabulary) + len(added)) + _FREE_IDS
    for token_id in [*ids, *(token.get("id") for token in _objects(added))]:
        if type(token_id) is not int or not 0 <= token_id < most:
            raise ValueError(
                f"ids must be whole numbers in [0, {most}) for {len(vocabulary)} "
                f"tokens. Received: {str(token_id)[:_SHOWN]}"
            )
    if len({*ids}) < len(ids):
        raise ValueError("ids must differ from token to token. Received: one twice")


def _check_work(spec: Mapping[str, Any]) -> None:
    """Raises ValueError if reading a text could take without end."""
    longest = spec["model"].get("max_input_chars_per_word", 0)
    if type(longest) is not int or not 0 <= longest <= _LONGEST_WORD:
        raise ValueError(
            f"max_input_chars_per_word must be a whole number in [0, {_LONGEST_WORD}]. "
            f"Received: {str(longest)[:_SHOWN]}"
        )
    steps = list(_objects([spec.get("normalizer"), spec.get("pre_tokenizer")]))
    growth = math.prod(len(str(step.get("content", " "))) or 1 for step in steps)
    if growth > _MOST_GROWTH:
        raise ValueError(
            f"its replacements may make a text at most {_MOST_GROWTH} times longer. "
            f"Received: {growth} times"
        )
    for step in steps:
        pattern = step.get("Regex")
        if isinstance(pattern, str) and _is_costly(pattern):
            raise ValueError(
                "its patterns must not repeat a group with repetitions or choices, "
                f"nor more than {_MOST_REPETITIONS} things in a row. "
                f"Received: {pattern[:_SHOWN]!r}"
            )


def _objects(value: Any) -> Iterator[Mapping[str, Any]]:
    """All JSON objects inside a value."""
    if isinstance(value, Mapping):
        yield value
        value = value.values()
    if not isinstance(value, str | int | float | None):
        for item in value:
            yield from _objects(item)


def _is_costly(pattern: str) -> bool:
    """Whether the time of a search may grow faster than the text's third power."""
    pattern = re.sub(r"\\(?:\w\{[^}]*\}|.)", "x", pattern, flags=re.DOTALL)
    count = 1
    while count:  # sets of characters may hold others
        pattern, count = re.subn(r"\[\^?\]?[^\[\]]*\]", "x", pattern)
    while group := re.search(r"\(([^()]*)\)([*+{]?)", pattern):
        repetitions = _most_repetitions(group[1])
        if group[2] and (repetitions or "|" in group[1]):
            return True
        rest = pattern[group.end() - len(group[2]) :]
        pattern = pattern[: group.start()] + "x*" * repetitions + "x" + rest
    return _most_repetitions(pattern) > _MOST_REPETITIONS


def _most_repetitions(pattern: str) -> int:
    """The most repetitions in one alternative of a pattern without groups."""
    return max(len(re.findall(_REPETITION, one)) for one in pattern.split("|"))
