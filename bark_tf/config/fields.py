"""Types and ranges of dataclass fields: declared in annotations, checked in one place.

An annotation says all that one field must be; `check_fields` reads it. What fields must
be to each other is checked by their class.

Example:
    @dataclasses.dataclass
    class Sizes:
        num_layers: Annotated[int, "[1, 100]"] = 12
        dropout: Annotated[float, "[0, 1)"] | None = None
        strides: Annotated[tuple[Annotated[int, "[1, 64]"], ...], "[1, 8]"] = (8, 5)
        pad_mode: Literal["reflect", "edge"] = "reflect"

        def __post_init__(self):
            check_fields(self)
"""

from __future__ import annotations

import dataclasses
import functools
import math
import numbers
import operator
import os
import reprlib
import types
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, NamedTuple

# Usual intervals.
Share = Annotated[float, "[0, 1]"]
Positive = Annotated[float, "(0, 1_000_000_000]"]
Count = Annotated[int, "[1, 1_000_000_000]"]
# Samples per second of audio that is read or resampled.
SampleRate = Annotated[int, "[4_000, 384_000]"]

# Characters that a message quotes.
_MOST = 200
_SHOWN = reprlib.Repr()
_SHOWN.maxstring = _SHOWN.maxother = 100
_SHOWN.maxtuple = _SHOWN.maxlist = _SHOWN.maxdict = 10


def shown(value: Any) -> str:
    """A value as error messages show it; long ones are cut."""
    text = _SHOWN.repr(value)
    return text if len(text) <= _MOST else f"{text[:_MOST]}..."


def brief(error: Exception | str) -> str:
    """Another library's message, or a user's words, in ours: one line, not long."""
    return " ".join(str(error).split())[:_MOST] or type(error).__name__


def check_field(owner: Any, name: str, is_right: bool, expected: str) -> None:
    """Raises an error that names a field if its value is wrong.

    Args:
        owner: The object that has the field, such as a dataclass.
        name: The field.
        is_right: Whether the value is right.
        expected: What the value must be, such as `"at least 1"`.

    Raises:
        ValueError: If not `is_right`.

    Example:
        >>> check_field(options, "steps", options.steps >= 1, "at least 1")
        ValueError: TrainingOptions.steps must be at least 1. Received: steps=0
    """
    if not is_right:
        raise ValueError(
            f"{type(owner).__name__}.{name} must be {expected}. "
            f"Received: {name}={shown(getattr(owner, name))}"
        )


def check_ids(owner: Any, vocabulary: str, size: int, *names: str) -> None:
    """Raises ValueError unless these fields are ids of a vocabulary.

    Args:
        owner: The object that has the fields.
        vocabulary: What the size is called, such as `"input_vocab_size"`.
        size: Number of ids.
        *names: The fields.
    """
    for name in names:
        is_right = getattr(owner, name) < size
        check_field(owner, name, is_right, f"less than {vocabulary}={size}")


def check_fields(owner: Any) -> None:
    """Raises ValueError if a field of a dataclass is not what its annotation says.

    `Annotated[int, "[1, 8)"]` is a number in that interval, and an annotated tuple has
    a number of items in it. Numbers are finite, and True is none. Other annotations
    than numbers, bools, texts, None, `Literal`, and tuples and dictionaries of them are
    not checked.
    """
    for name, rule in _rules(type(owner)).items():
        check_field(owner, name, rule.allows(getattr(owner, name)), rule.words)


def check_values(
    values: Mapping[str, Any], kinds: Mapping[str, Any], where: str | os.PathLike
) -> None:
    """Raises ValueError unless a JSON object has all keys, each with its kind of value.

    Args:
        values: The object.
        kinds: Key -> an annotation of `check_fields`, or `dict` or `list`; others are
            not checked.
        where: The file, for the error message.

    Example:
        >>> check_values({"steps": "4"}, {"steps": int}, "recipe.json")
        ValueError: recipe.json: steps must be a whole number. Received: steps='4'
    """
    for name, kind in kinds.items():
        rule, value = _rule(kind), values.get(name)
        if rule is not None and not rule.allows(value):
            raise ValueError(
                f"{where}: {name} must be {rule.words}. Received: {name}={shown(value)}"
            )


class _Rule(NamedTuple):
    """What a value must be, in words and as a function."""

    words: str
    allows: Callable[[Any], bool]


@functools.cache
def _rules(cls: type) -> dict[str, _Rule]:
    hints = typing.get_type_hints(cls, include_extras=True)
    found = {field.name: _rule(hints[field.name]) for field in dataclasses.fields(cls)}
    return {name: rule for name, rule in found.items() if rule is not None}


# Annotation -> what it takes, in words and as a class.
_KINDS = {
    int: ("a whole number", numbers.Integral),
    float: ("a number", numbers.Real),
    bool: ("True or False", bool),
    str: ("text", str),
    type(None): ("None", type(None)),
    list: ("a list", list),
    dict: ("an object", dict),
}


def _rule(hint: Any) -> _Rule | None:
    """The rule of an annotation; None if it is not checked."""
    arguments = typing.get_args(hint)
    origin = typing.get_origin(hint)
    if hint in _KINDS:
        words, cls = _KINDS[hint]
        return _Rule(words, functools.partial(_is_kind, cls))
    if origin is Literal:
        words = " or ".join(map(repr, arguments))
        return _Rule(words, lambda value: _is_one_of(arguments, value))
    if origin is Annotated:
        return _limited(_rule(arguments[0]), arguments[1])
    if origin in (types.UnionType, typing.Union):
        rules = [_rule(argument) for argument in arguments]
        return None if None in rules else _any_of(rules)
    if origin in (tuple, dict):
        return _each(origin, _rule(arguments[origin is dict]))
    return None


def _is_kind(cls: type, value: Any) -> bool:
    if isinstance(value, bool):  # an int for Python
        return cls is bool
    is_number = isinstance(value, numbers.Real)
    return isinstance(value, cls) and (not is_number or -math.inf < value < math.inf)


def _is_one_of(known: tuple, value: Any) -> bool:
    return any(type(value) is type(one) and value == one for one in known)


def _any_of(rules: list[_Rule]) -> _Rule:
    words = " or ".join(rule.words for rule in rules)
    return _Rule(words, lambda value: any(rule.allows(value) for rule in rules))


def _each(cls: type, rule: _Rule | None) -> _Rule | None:
    """The rule of a tuple, or of a dictionary with texts as keys."""
    if rule is None:
        return None

    def allows(value: Any) -> bool:
        if not isinstance(value, cls):
            return False
        keys, items = (value, value.values()) if cls is dict else ((), value)
        return all(isinstance(key, str) for key in keys) and all(
            map(rule.allows, items)
        )

    name = "mapping from text" if cls is dict else "sequence"
    return _Rule(f"a {name}, each {rule.words}", allows)


_COMPARE = {"[": operator.le, "]": operator.le, "(": operator.lt, ")": operator.lt}


def _limited(rule: _Rule, interval: str) -> _Rule:
    """A rule with an interval such as `"[0, 1)"`, of the number or of the length."""
    low, high = map(float, interval[1:-1].split(","))
    above, below = _COMPARE[interval[0]], _COMPARE[interval[-1]]
    is_length = rule.words.startswith("a sequence")

    def allows(value: Any) -> bool:
        if not rule.allows(value):
            return False
        number = len(value) if is_length else value
        return above(low, number) and below(number, high)

    words = f"{interval} items" if is_length else f"in {interval}"
    return _Rule(f"{rule.words}{',' * is_length} {words}", allows)
