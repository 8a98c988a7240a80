"""What the commands' arguments share."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable
from typing import Any

from bark_tf import hub
from bark_tf.cli.console import WRONG_USAGE, note, one_line

MODEL_VARIABLE = "BARK_TF_MODEL"


# === Values of arguments ===


def non_negative(text: str) -> float:
    """A number of at least 0."""
    value = float(text)
    if not 0 <= value < math.inf:
        raise ValueError
    return value


def positive(text: str) -> float:
    """A number above 0."""
    value = non_negative(text)
    if value == 0:
        raise ValueError
    return value


def probability(text: str) -> float:
    """A number in (0, 1]."""
    value = positive(text)
    if value > 1:
        raise ValueError
    return value


def whole(text: str) -> int:
    """A whole number of at least 0."""
    value = int(text)
    if value < 0:
        raise ValueError
    return value


# argparse says "invalid ... value: 'x'" with these names.
non_negative.__name__ = "non-negative number"
positive.__name__ = "positive number"
probability.__name__ = "probability"
whole.__name__ = "whole number"


# === Arguments ===


class Parser(argparse.ArgumentParser):
    """Reports wrong usage in one line."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(
            *args,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            **kwargs,
        )

    def error(self, message: str) -> None:
        """Ends the program."""
        self.exit(
            WRONG_USAGE, f"{self.prog}: {one_line(message)} (see {self.prog} --help)\n"
        )


MODEL_HELP = (
    "a directory with a checkpoint, or a repository such as suno/bark-small, which is "
    f"downloaded once (1.7 GB) and kept; default: ${MODEL_VARIABLE}, or the small "
    "voice that comes with bark-tf (147 words)"
)


def add_command(
    commands: Any, name: str, command: Callable, summary: str, examples: str
) -> Parser:
    """Adds a command's parser to those of `bark-tf`."""
    parser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=examples,
    )
    parser.set_defaults(command=command, parser=parser)
    return parser


def add_amount_of_output(parser: Parser) -> None:
    """Adds --verbose and --quiet."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        help="seconds per stage, TensorFlow's own messages, tracebacks",
    )
    group.add_argument(
        "-q", "--quiet", action="store_true", help="say nothing but errors"
    )


def chosen_model(arguments: argparse.Namespace) -> str:
    """What to load."""
    named = arguments.model or os.environ.get(MODEL_VARIABLE)
    if named:
        return named
    note(arguments, hub.ABOUT_SHIPPED)
    return str(hub.SHIPPED_CHECKPOINT)
