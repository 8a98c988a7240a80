"""Parsing of arguments, and arguments that several commands take."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from bark_tf import hub
from bark_tf.cli.console import WRONG_USAGE, UsageError, note, one_line
from bark_tf.files import local_path
from bark_tf.suggestions import did_you_mean

MODEL_VARIABLE = hub.MODEL_VARIABLE
# Of a server: what it asks for, and what its client sends.
TOKEN_VARIABLE = "BARK_TF_TOKEN"
MODEL_HELP = (
    "a checkpoint directory, or a repository such as suno/bark-small, which is "
    f"downloaded once (1.7 GB) and kept; default: ${MODEL_VARIABLE}, or the small "
    "English voice that comes with bark-tf"
)


# === Values ===


def _named(name: str) -> Callable[[Callable], Callable]:
    """Names a function as argparse shows it: "invalid NAME value: 'x'"."""

    def rename(parse: Callable) -> Callable:
        parse.__name__ = name
        return parse

    return rename


@_named("non-negative number")
def non_negative(text: str) -> float:
    """Parses a finite number of at least 0."""
    value = float(text)
    if not 0 <= value < math.inf:
        raise ValueError
    return value


@_named("positive number")
def positive(text: str) -> float:
    """Parses a finite number above 0."""
    value = non_negative(text)
    if value == 0:
        raise ValueError
    return value


@_named("probability")
def probability(text: str) -> float:
    """Parses a number in (0, 1]."""
    value = positive(text)
    if value > 1:
        raise ValueError
    return value


@_named("whole number")
def whole(text: str) -> int:
    """Parses a whole number of at least 0."""
    value = int(text)
    if value < 0:
        raise ValueError
    return value


@_named("positive whole number")
def positive_whole(text: str) -> int:
    """Parses a whole number of at least 1."""
    value = whole(text)
    if value == 0:
        raise ValueError
    return value


def local(text: str) -> str:
    """Parses the path of a file or folder of this machine."""
    try:
        return os.fspath(local_path(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def parse_aliases(given: Iterable[str]) -> dict[str, str]:
    """Parses the values of --alias: name -> voice."""
    aliases = {}
    for alias in given:
        name, equals, voice = alias.partition("=")
        if not (name and equals and voice):
            raise UsageError(f"--alias must be NAME=VOICE. Received: {alias!r}")
        aliases[name] = voice
    return aliases


def text_lines(path: str | None) -> list[str] | None:
    """Reads the non-empty lines of a UTF-8 file."""
    if path is None:
        return None
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path!r} is not UTF-8 text") from error
    lines = [line.strip() for line in lines if line.strip()]
    if not lines:
        raise ValueError(f"{path!r} holds no texts")
    return lines


# === Parsers ===


def _hint(name: str, known: Iterable[str]) -> str:
    suggestion = did_you_mean(name, known)
    return suggestion and f".{suggestion}"


class Parser(argparse.ArgumentParser):
    """A parser that reports wrong usage in one line."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(
            *args,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            **kwargs,
        )

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parses arguments; those that are left over are wrong usage.

        Each command reports its own, because only it knows its options.
        """
        namespace, rest = super().parse_known_args(args, namespace)
        if rest:
            options = [
                name for action in self._actions for name in action.option_strings
            ]
            hint = ". Text with spaces needs quotes around it"
            if rest[0].startswith("-"):
                hint = _hint(rest[0].partition("=")[0], options)
            self.error(f"unrecognized arguments: {' '.join(rest)}{hint}")
        return namespace, rest

    def format_help(self) -> str:
        """Makes the help; its end may be a function, called only here."""
        if callable(self.epilog):
            self.epilog = self.epilog()
        return super().format_help()

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            error.message += _hint(str(value), map(str, action.choices))
            raise

    def error(self, message: str) -> None:
        """Prints the message and exits."""
        self.exit(
            WRONG_USAGE, f"{self.prog}: {one_line(message)} (see {self.prog} --help)\n"
        )


def add_command(
    commands: Any,
    name: str,
    command: Callable,
    summary: str,
    examples: str | Callable[[], str],
) -> Parser:
    """Adds the parser of a command to `bark-tf`.

    Args:
        commands: The subparsers of `bark-tf`.
        name: The command's name.
        command: Function that runs it, called with the parsed arguments.
        summary: What it does, for both --help texts.
        examples: End of its own --help text, or a function that makes it.

    Returns:
        The parser, to add arguments to.
    """
    parser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=examples,
    )
    parser.set_defaults(command=command, parser=parser)
    return parser


# === Shared arguments ===


def add_verbosity(parser: Parser) -> None:
    """Adds --verbose and --quiet."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        help="show seconds per stage, TensorFlow's messages and tracebacks",
    )
    group.add_argument(
        "-q", "--quiet", action="store_true", help="print nothing but errors"
    )


def chosen_model(arguments: argparse.Namespace) -> str:
    """Returns the checkpoint of --model, of the environment, or of the package."""
    named = arguments.model or os.environ.get(MODEL_VARIABLE)
    if named:
        return named
    note(arguments, hub.ABOUT_SHIPPED)
    return str(hub.SHIPPED_CHECKPOINT)
