"""Fields: what an annotation says is what a value must be."""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Literal

import numpy as np
import pytest

from bark_tf.config.fields import check_fields


@dataclasses.dataclass
class Options:
    layers: Annotated[int, "[1, 8)"] = 2
    share: Annotated[float, "(0, 1]"] | None = None
    level: float = 0.0
    name: str = "a"
    is_on: bool | Literal["auto"] = True
    strides: Annotated[tuple[Annotated[int, "[1, 9]"], ...], "[1, 3]"] = (1,)
    weights: dict[str, float] = dataclasses.field(default_factory=dict)
    anything: Callable | None = None


RIGHT = (
    *({"layers": 1}, {"layers": np.int64(7)}, {"share": 1}, {"share": np.float32(0.5)}),
    *(
        {"is_on": "auto"},
        {"strides": (9, 1, 1)},
        {"weights": {"b": 2}},
        {"anything": 3},
    ),
    {"level": -(10**300)},
)


@pytest.mark.parametrize("values", RIGHT, ids=str)
def test_a_right_value(values):
    check_fields(Options(**values))


ABOUT_LAYERS = r"a whole number in [1, 8). Received: layers="
ABOUT_SHARE = r"a number in (0, 1] or None. Received: share="
ABOUT_STRIDES = "a sequence, each a whole number in [1, 9], [1, 3] items. Received: "
WRONG = {
    "below": ({"layers": 0}, f"Options.layers must be {ABOUT_LAYERS}0"),
    "at an open end": ({"layers": 8}, f"{ABOUT_LAYERS}8"),
    "a fraction": ({"layers": 2.0}, f"{ABOUT_LAYERS}2.0"),
    "a bool as a number": ({"layers": True}, f"{ABOUT_LAYERS}True"),
    "a list": ({"layers": [1]}, f"{ABOUT_LAYERS}[1]"),
    "null": ({"layers": None}, f"{ABOUT_LAYERS}None"),
    "huge": ({"layers": 10**400}, f"{ABOUT_LAYERS}1000"),
    "NaN": ({"share": float("nan")}, f"{ABOUT_SHARE}nan"),
    "NaN without limits": ({"level": float("nan")}, "a number. Received: level=nan"),
    "infinity": ({"level": float("inf")}, "a number. Received: level=inf"),
    "text": ({"share": "1"}, f"{ABOUT_SHARE}'1'"),
    "complex": ({"level": 1j}, "a number. Received: level=1j"),
    "no text": ({"name": b"a"}, "text. Received: name=b'a'"),
    "long text": ({"level": "x" * 10_000}, "xxx...xxx"),
    "a number as a bool": ({"is_on": 1}, "True or False or 'auto'. Received: is_on=1"),
    "unknown text": ({"is_on": "no"}, "True or False or 'auto'. Received: is_on='no'"),
    "no sequence": ({"strides": 3}, f"{ABOUT_STRIDES}strides=3"),
    "too few": ({"strides": ()}, f"{ABOUT_STRIDES}strides=()"),
    "an item": ({"strides": (1, 10)}, f"{ABOUT_STRIDES}strides=(1, 10)"),
    "a key": ({"weights": {1: 2}}, "a mapping from text, each a number. Received"),
    "a value": ({"weights": {"b": "2"}}, "a mapping from text, each a number."),
}


@pytest.mark.parametrize(("values", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_value_is_one_short_line(values, message):
    with pytest.raises(ValueError) as found:
        check_fields(Options(**values))
    assert message in str(found.value)
    assert len(str(found.value)) < 300 and "\n" not in str(found.value)
