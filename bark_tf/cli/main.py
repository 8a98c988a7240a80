"""The command line `bark-tf`.

Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted (Ctrl-C), 141 if the
reader of a stream has closed it. An error is one line on standard error; with
`--verbose`, or BARK_TF_DEBUG=1 in the environment, its traceback comes first.

Commands import TensorFlow when they run, so `--help` is quick.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence

from bark_tf._version import __version__
from bark_tf.cli.arguments import MODEL_VARIABLE, Parser
from bark_tf.cli.completion import add_completion
from bark_tf.cli.console import (
    DEBUG_VARIABLE,
    DONE,
    FAILED,
    INTERRUPTED,
    PIPE_CLOSED,
    WRONG_USAGE,
    UsageError,
    explain,
    give_up_output,
    is_debugging,
    quiet_libraries,
    say,
)
from bark_tf.cli.convert import add_convert
from bark_tf.cli.serving import add_demo, add_export, add_serve
from bark_tf.cli.speak import add_speak
from bark_tf.cli.training import add_training
from bark_tf.cli.voices import add_voice, add_voices

_EXAMPLES = f"""examples:
  bark-tf speak "Hello, my dog is cute" --model suno/bark-small
  bark-tf voices
  bark-tf convert ~/.cache/suno/bark_v0 my-bark --codec encodec_24khz.th

environment:
  {MODEL_VARIABLE}   default of --model
  {DEBUG_VARIABLE}   1: print tracebacks of errors

exit status:
  {DONE} done, {FAILED} failed, {WRONG_USAGE} wrong usage, {INTERRUPTED} interrupted,
  {PIPE_CLOSED} the reader of the stream has closed it
"""


def build_parser() -> Parser:
    """Builds the parser of `bark-tf` with those of all commands."""
    parser = Parser(
        prog="bark-tf",
        description="Text to speech with Bark. Each command has its own --help.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("--version", action="version", version=f"bark-tf {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    add_speak(commands)
    add_voices(commands)
    add_voice(commands)
    add_convert(commands)
    add_demo(commands)
    add_serve(commands)
    add_export(commands)
    add_training(commands)
    add_completion(commands, parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: The arguments after `bark-tf`; None: those of this process.

    Returns:
        The exit status.
    """
    try:
        arguments = build_parser().parse_args(argv)
        with quiet_libraries(arguments):
            return _run(arguments)
    except SystemExit as stop:  # --help, --version, wrong usage
        return int(stop.code or DONE)


def _run(arguments: argparse.Namespace) -> int:
    try:
        arguments.command(arguments)
        sys.stdout.flush()
    except UsageError as error:
        arguments.parser.error(str(error))
    except KeyboardInterrupt as stop:
        status, message = INTERRUPTED, str(stop) or "interrupted"
    except BrokenPipeError:
        status, message = PIPE_CLOSED, ""
    except Exception as error:
        if is_debugging(arguments):
            traceback.print_exc()
        status, message = FAILED, explain(error)
    else:
        return DONE
    give_up_output()
    if message:
        say(message)
    return status
