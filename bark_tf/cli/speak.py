"""`bark-tf speak`."""

from __future__ import annotations

import argparse
import math
import os
import secrets
import sys
from collections.abc import Callable, Iterable, Iterator
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
    positive,
    probability,
    whole,
)
from bark_tf.cli.console import UsageError, note, progress_of, say
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
# A smaller model finishes a text before XLA has compiled.
_COMPILED_PARAMS = 50_000_000
_NOTHING_SAID = "the model said nothing; try another --seed or a longer text"


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
  bark-tf speak --file chapter.txt --long --out chapter.flac
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
        default="out.wav",
        help=".wav (16 bit), .flac, .ogg, .mp3 or .opus, replaced if it exists; "
        "default: out.wav",
    )
    where.add_argument(
        "--stream",
        action="store_true",
        help="write audio to standard output while it is generated",
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
        help="with --stream: start a little earlier and less exactly; long texts are "
        "streamed sentence by sentence instead",
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
    """Speaks a text into a file or to standard output."""
    _check_output(arguments)
    text = _read_text(arguments)
    if arguments.server is None:
        model_name = chosen_model(arguments)
    else:
        _check_server(arguments)
    if arguments.seed is None:
        arguments.seed = secrets.randbelow(_SEED_LIMIT)
    with progress_of(arguments) as report:
        timings = Timings(report)
        if arguments.server is None:
            processor, model = _load(model_name, arguments, timings)
            speak = _stream if arguments.stream else _speak_into_file
            summary = speak(processor, model, text, arguments, timings)
        else:
            summary = _speak_through_server(text, arguments, timings)
    note(arguments, summary)
    if arguments.verbose:
        for stage, seconds in timings.seconds.items():
            say(f"{stage:<8} {seconds:8.2f} s")


def _check_output(arguments: argparse.Namespace) -> None:
    """Raises errors about the output before any work is done."""
    from bark_tf.audio.writing import check_destination

    if arguments.stream:
        if arguments.save_voice:
            raise UsageError("--save-voice does not go with --stream")
        if sys.stdout.isatty():
            raise UsageError("--stream writes audio: send it to a player or a file")
    elif arguments.low_latency:
        raise UsageError("--low-latency goes with --stream")
    else:
        check_destination(arguments.out)


def _check_server(arguments: argparse.Namespace) -> None:
    given = vars(arguments)
    for name in _NOT_ON_A_SERVER:
        if given.get(name) not in (None, False):
            raise UsageError(f"--{name.replace('_', '-')} does not go with --server")


def _read_text(arguments: argparse.Namespace) -> str:
    if (arguments.text is None) == (arguments.file is None):
        raise UsageError(f"give TEXT, --file FILE, or {STANDARD_INPUT}, one of them")
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
        # Windows editors put a byte order mark first.
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
    """Collects the keywords for `generate` from the arguments."""
    options = _given_sampling(arguments)
    # A temperature has no effect if the checkpoint does not sample by default.
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


def _given_sampling(arguments: argparse.Namespace) -> dict[str, Any]:
    given = vars(arguments)
    names = ("temperature", *(option.keyword for option in _GENERATION_OPTIONS))
    options = {name: given[name] for name in names if name in given}
    if arguments.greedy:
        options["temperature"] = 0.0
    return options


def _speak_into_file(processor, model, text, arguments, report) -> str:
    """Writes the audio, and the voice if requested; returns a summary."""
    audio, voice = _generate(processor, model, text, arguments, report)
    summary = _save(audio, model.sampling_rate, arguments)
    if arguments.save_voice:
        if voice is None:
            raise ValueError("no piece of the text is good enough for --save-voice")
        voice.save(arguments.save_voice)
    return summary


def _save(audio: Any, rate: int, arguments: argparse.Namespace) -> str:
    from bark_tf.audio.writing import write_audio

    if not audio.size:
        raise ValueError(_NOTHING_SAID)
    path = write_audio(arguments.out, audio, rate)
    return f"{str(path)!r}: {audio.size / rate:.1f} s, seed {arguments.seed}"


def _generate(processor, model, text, arguments, report) -> tuple:
    """Generates float32 (samples,) and the voice that spoke."""
    import numpy as np

    options = _generation_options(arguments, model)
    if _is_long(text, arguments, model):
        from bark_tf.generation.long_form import generate_long

        out = generate_long(
            model, processor, text, voice=arguments.voice, progress=report, **options
        )
        return out.audio, out.voice
    inputs = processor(text, voice=arguments.voice, return_tensors="np")
    out = model.generate(**inputs, return_dict=True, progress=report, **options)
    return np.asarray(out.audio[0, : out.lengths[0]]), out.voice


def _is_long(text: str, arguments: argparse.Namespace, model: Any) -> bool:
    from bark_tf.generation.long_form import chunk_seconds
    from bark_tf.text.sentences import estimate_seconds

    if arguments.long is not None:
        return arguments.long
    _, longest = chunk_seconds(model.generation_config.semantic_config)
    return estimate_seconds(text) > longest


def _stream(processor, model, text, arguments, report) -> str:
    """Writes pieces of audio to standard output as they are generated."""
    pieces = _pieces(processor, model, text, arguments, report)
    return _write_pieces(pieces, model.sampling_rate, arguments)


def _write_pieces(pieces: Iterable, rate: int, arguments: argparse.Namespace) -> str:
    from bark_tf.audio.writing import stream_header, to_pcm16

    num_samples, output = 0, sys.stdout.buffer
    for piece in pieces:
        if not num_samples and arguments.stream_format == "wav":
            output.write(stream_header(rate))
        output.write(to_pcm16(piece).tobytes())
        output.flush()
        num_samples += piece.size
    if not num_samples:
        raise ValueError(_NOTHING_SAID)
    return f"streamed {num_samples / rate:.1f} s, seed {arguments.seed}"


def _pieces(processor, model, text, arguments, report) -> Iterator:
    """Generates pieces of audio, float32 (samples,)."""
    options = _generation_options(arguments, model)
    if _is_long(text, arguments, model):
        from bark_tf.generation.long_form import stream_long

        long = stream_long(
            model, processor, text, voice=arguments.voice, progress=report, **options
        )
        return (audio for audio, _ in long)
    inputs = processor(text, voice=arguments.voice, return_tensors="np")
    latency = "low" if arguments.low_latency else "exact"
    return model.stream(**inputs, latency=latency, progress=report, **options)


def _speak_through_server(text, arguments, report) -> str:
    """Speaks stage by stage on a server, without TensorFlow here."""
    import numpy as np

    from bark_tf.serving.client import Client

    sampling = _given_sampling(arguments)
    with Client(arguments.server, token=os.environ.get(TOKEN_VARIABLE)) as client:
        if arguments.max_seconds is not None:
            rate_hz = client.settings["semantic_rate_hz"]
            sampling["max_new_tokens"] = math.ceil(arguments.max_seconds * rate_hz)
        pieces = client.stream(
            text,
            voice=arguments.voice,
            seed=arguments.seed,
            progress=report,
            **sampling,
        )
        rate = client.settings["sampling_rate"]
        if arguments.stream:
            return _write_pieces(pieces, rate, arguments)
        return _save(np.concatenate([*pieces]), rate, arguments)
