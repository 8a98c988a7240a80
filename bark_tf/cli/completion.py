"""`bark-tf completion`: a script that completes commands and options in a shell."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from bark_tf.cli.arguments import Parser, add_command, add_verbosity, local
from bark_tf.optional import required

_EXAMPLES = """examples:
  bark-tf completion bash > ~/.local/share/bash-completion/completions/bark-tf
  bark-tf completion zsh > ~/.zfunc/_bark-tf    # a folder in $fpath
"""


def add_completion(commands: Any, root: Parser) -> None:
    """Adds `bark-tf completion`, for the parser `root` of all commands."""
    parser = add_command(
        commands,
        "completion",
        lambda arguments: print(_script(root, arguments.shell)),
        "print the completions of a shell",
        _EXAMPLES,
    )
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="the shell")
    add_verbosity(parser)


def all_parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yields a parser and those of its commands."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from all_parsers(command)


def _script(root: Parser, shell: str) -> str:
    shtab = required("shtab", "Shell completion", "completion")
    for parser in all_parsers(root):
        for action in parser._actions:
            takes_text = action.nargs != 0 and action.type in (None, local)
            if takes_text and action.choices is None:
                action.complete = shtab.FILE
    return shtab.complete(root, shell)
