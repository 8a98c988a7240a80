"""`bark-tf speak`."""

from __future__ import annotations

import argparse
import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from bark_tf.cli.arguments import (
    MODEL_HELP,
    MODEL_VARIABLE,
    TOKEN_VARIABLE,
    Parser,
    add_command,
    add_verbosity,
    chosen_model,
    local,
    non_negative,
    parse_aliases,
    positive,
    positive_whole,
    probability,
    whole,
)
from bark_tf.cli.console import UsageError, note, progress_of, say
from bark_tf.cli.speaking import check_output, speak_into_files, speaker_of, stream
from bark_tf.progress import Timings

STANDARD_INPUT = "-"

_DTYPES = ("float32", "bfloat16", "float16", "mixed_bfloat16", "mixed_float16")
_SEED_LIMIT = 2**31
# Destinations of arguments that a server's export has decided, or does not return.
_NOT_ON_A_SERVER = (
    "model",
    "dtype",
    "quantize",
    "jit_compile",
    "long",
    "low_latency",
    "save_voice",
    "top_k",
    "top_p",
    "min_eos_p",
)


class _Option(NamedTuple):
    """An argument that is a keyword of `BarkModel.generate`."""

    flag: str
    keyword: str
    kind: Callable[[str], Any]
    metavar: str
    help: str


_GENERATION_OPTIONS = (
    _Option(
        "--semantic-temperature",
        "semantic_temperature",
        non_negative,
        "T",
        "for the text stage only: how the text is spoken",
    ),
    _Option(
        "--coarse-temperature",
        "coarse_temperature",
        non_negative,
        "T",
        "for the coarse stage only: how the voice sounds",
    ),
    _Option(
        "--fine-temperature",
        "fine_temperature",
        non_negative,
        "T",
        "for the fine stage only: details of the sound",
    ),
    _Option(
        "--top-k", "top_k", whole, "K", "sample from the K most likely tokens; 0: all"
    ),
    _Option(
        "--top-p",
        "top_p",
        probability,
        "P",
        "sample from the most likely tokens with a total probability of P",
    ),
    _Option(
        "--min-eos-p",
        "min_eos_p",
        probability,
        "P",
        "stop when the end has at least probability P (0.2 stops rambling)",
    ),
)

_EXAMPLES = f"""examples:
  export {MODEL_VARIABLE}=suno/bark-small        # or --model each time
  bark-tf speak "Hello, my dog is cute [laughs]"
  bark-tf speak "The same take again" --seed 7 --out again.wav
  bark-tf speak "In another voice" --voice v2/en_speaker_6
  bark-tf speak --file chapter.txt --out chapter.mp3 --subtitles chapter.srt
  bark-tf speak --texts lines.txt --out line.opus  # line-1.opus, line-2.opus
  bark-tf speak "Which one is best?" --takes 5     # out-1.wav to out-5.wav
  bark-tf speak "Hear it now. [pause 0.5] And again." --play
  bark-tf speak --file play.txt --alias anna=anna.npz  # [voice: anna] Hello!
  echo "From a pipe" | bark-tf speak - --out pipe.ogg
  bark-tf speak "Without waiting" --stream --low-latency | aplay
  bark-tf speak "Keep my voice" --save-voice me.npz
  bark-tf speak "It is me again" --voice me.npz
  bark-tf speak "From a server" --server http://127.0.0.1:8501
  bark-tf speak -- "-5 degrees: a text that starts with a dash"
"""


def add_speak(commands: Any) -> None:
    """Adds `bark-tf speak`."""
    parser = add_command(
        commands, "speak", _speak, "speak a text into a file or a stream", _EXAMPLES
    )
    text = parser.add_argument_group("text")
    text.add_argument(
        "text",
        nargs="?",
        metavar="TEXT",
        help=f"text to speak; {STANDARD_INPUT} for standard input",
    )
    text.add_argument("--file", metavar="FILE", help="read the text from a UTF-8 file")
    text.add_argument(
        "--texts",
        metavar="FILE",
        help="read one text from each line, and speak each into a file of its own: "
        "out-1.wav, out-2.wav, ...",
    )
    text.add_argument(
        "--marks",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="read [pause 0.5], and [voice: NAME] at the start of a line, as marks, "
        "which is the default; a backslash before one makes it text",
    )
    text.add_argument(
        "--long",
        action=argparse.BooleanOptionalAction,
        help="speak sentence by sentence; default: if the text takes longer than the "
        "model's limit, which is 13 seconds for Bark",
    )
    _add_speak_output(parser)
    _add_speak_model(parser)
    _add_sampling(parser.add_argument_group("sampling"))
    add_verbosity(parser)


def _add_speak_output(parser: Parser) -> None:
    group = parser.add_argument_group("output")
    where = group.add_mutually_exclusive_group()
    where.add_argument(
        "-o",
        "--out",
        type=local,
        metavar="FILE",
        help=".wav (16 bit), .flac, .ogg, .mp3 or .opus, replaced if it exists; "
        "default: out.wav, or no file with --play",
    )
    where.add_argument(
        "--stream",
        action="store_true",
        help="write audio to standard output while it is generated",
    )
    group.add_argument(
        "--stream-format",
        choices=("wav", "raw", "mp3", "opus", "flac"),
        default="wav",
        help="raw: 16-bit little-endian mono without a header; default: wav",
    )
    group.add_argument(
        "--low-latency",
        action="store_true",
        help="with --stream: start a little earlier and less exactly; long texts are "
        "streamed sentence by sentence instead",
    )
    group.add_argument(
        "--play",
        action="store_true",
        help="play it, by sounddevice (extra `play`) or a player of the system",
    )
    group.add_argument(
        "--takes",
        type=positive_whole,
        metavar="N",
        default=1,
        help="speak N times, with seeds that count up, into numbered files",
    )
    group.add_argument(
        "--resume",
        action="store_true",
        help="with --texts: leave out what has its file already",
    )
    group.add_argument(
        "--subtitles",
        type=local,
        metavar="FILE",
        help="also write what is said when, as .srt or .vtt",
    )
    group.add_argument(
        "--loudness",
        type=float,
        metavar="LUFS",
        help="make it this loud, such as -16 (extra `loudness`)",
    )
    group.add_argument(
        "--save-voice",
        metavar="FILE.npz",
        help="also save the voice that spoke, for --voice",
    )


def _add_speak_model(parser: Parser) -> None:
    group = parser.add_argument_group("model")
    group.add_argument("--model", metavar="DIR|ID", help=MODEL_HELP)
    group.add_argument(
        "--server",
        metavar="ADDRESS",
        help="speak through TensorFlow Serving at grpc://HOST:PORT or "
        "http://HOST:PORT (TLS: grpcs, https), which has an export of `bark-tf "
        f"export`; ${TOKEN_VARIABLE} is sent as a bearer token",
    )
    group.add_argument(
        "--voice",
        metavar="NAME|FILE.npz",
        help="a name from `bark-tf voices`, or a voice file; default: a random voice",
    )
    group.add_argument(
        "--alias",
        action="append",
        default=[],
        metavar="NAME=VOICE",
        help="a voice that the text calls [voice: NAME]; may be repeated",
    )
    group.add_argument(
        "--dtype",
        choices=_DTYPES,
        metavar="POLICY",
        help=f"dtype of the computation: {', '.join(_DTYPES)}",
    )
    group.add_argument(
        "--quantize", choices=("int8",), help="use less memory for about the same sound"
    )
    group.add_argument(
        "--xla",
        dest="jit_compile",
        action=argparse.BooleanOptionalAction,
        help="compile with XLA: starts later, speaks faster; default: for large models",
    )


def _add_sampling(group: Any) -> None:
    group.add_argument(
        "--seed", type=whole, metavar="N", help="equal seeds give equal audio"
    )
    draws = group.add_mutually_exclusive_group()
    draws.add_argument(
        "--temperature",
        type=non_negative,
        metavar="T",
        default=argparse.SUPPRESS,
        help="0: always the most likely token; 0.7 is lively, 1 is wild",
    )
    draws.add_argument("--greedy", action="store_true", help="same as --temperature 0")
    for option in _GENERATION_OPTIONS:
        group.add_argument(
            option.flag,
            dest=option.keyword,
            type=option.kind,
            metavar=option.metavar,
            default=argparse.SUPPRESS,
            help=option.help,
        )
    group.add_argument(
        "--max-seconds",
        type=positive,
        metavar="S",
        help="stop after S seconds; in long texts, for each sentence",
    )


# === Running ===


def _speak(arguments: argparse.Namespace) -> None:
    """Speaks texts into files, to standard output or to the loudspeakers."""
    arguments.alias = parse_aliases(arguments.alias)
    arguments.sampling = _given_sampling(arguments)
    check_output(arguments)
    texts = [_passages(text, line, arguments) for text, line in _read_texts(arguments)]
    if arguments.server is None:
        name = chosen_model(arguments)
    else:
        name = None
        _check_server(arguments)
    if arguments.seed is None:
        arguments.seed = secrets.randbelow(_SEED_LIMIT)
    with progress_of(arguments) as report:
        timings = Timings(report)
        with speaker_of(name, arguments, timings) as speaker:
            if arguments.stream:
                note(arguments, stream(speaker, texts[0], arguments))
            else:
                speak_into_files(speaker, texts, arguments)
    if arguments.verbose:
        for stage, seconds in timings.seconds.items():
            say(f"{stage:<8} {seconds:8.2f} s")


def _given_sampling(arguments: argparse.Namespace) -> dict[str, Any]:
    given = vars(arguments)
    names = ("temperature", *(option.keyword for option in _GENERATION_OPTIONS))
    options = {name: given[name] for name in names if name in given}
    if arguments.greedy:
        options["temperature"] = 0.0
    return options


def _check_server(arguments: argparse.Namespace) -> None:
    given = vars(arguments)
    for name in _NOT_ON_A_SERVER:
        if given.get(name) not in (None, False):
            raise UsageError(f"--{name.replace('_', '-')} does not go with --server")


def _passages(text: str, line: int, arguments: argparse.Namespace) -> list:
    """The passages of a text, whose first line has a number."""
    from bark_tf.text.marks import Passage, read_marks

    passages = read_marks(text, line) if arguments.marks else [Passage(text)]
    if len(passages) > 1 and arguments.long is False:
        raise UsageError(
            "--no-long does not go with marks such as [pause 0.5]; give --no-marks, or "
            "write a backslash before them"
        )
    return passages


def _read_texts(arguments: argparse.Namespace) -> list[tuple[str, int]]:
    """The texts, each with the number of its first line."""
    sources = (arguments.text, arguments.file, arguments.texts)
    if sum(source is not None for source in sources) != 1:
        raise UsageError(
            f"give TEXT, --file FILE, --texts FILE or {STANDARD_INPUT}, one of them"
        )
    if arguments.texts is not None:
        return _lines(arguments.texts)
    if arguments.file is not None:
        text = _contents(arguments.file)
    elif arguments.text == STANDARD_INPUT:
        text = _contents(STANDARD_INPUT)
    else:
        text = arguments.text
    if not text.strip():
        raise ValueError("the text is empty")
    return [(text, 1)]


def _lines(path: str) -> list[tuple[str, int]]:
    """The lines of a file that are not blank, with their numbers."""
    from bark_tf.text.sentences import has_speech

    text = _contents(path)
    lines = [
        (line.strip(), number)
        for number, line in enumerate(text.splitlines(), start=1)
        if line.strip()
    ]
    for line, number in lines:
        if not has_speech(line):
            raise ValueError(f"line {number} of {path!r} says nothing: {line[:80]!r}")
    if not lines:
        raise ValueError(f"{path!r} holds no texts")
    return lines


def _contents(path: str) -> str:
    """The text of a file, or of standard input."""
    if path == STANDARD_INPUT:
        data, source = sys.stdin.buffer.read(), "standard input"
    else:
        data, source = Path(path).read_bytes(), repr(path)
    try:
        # Windows editors put a byte order mark first.
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{source} is not UTF-8 text: byte {error.start} is "
            f"0x{data[error.start]:02x}"
        ) from error
