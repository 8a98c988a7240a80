"""`bark-tf export`, `bark-tf serve` and `bark-tf demo`."""

from __future__ import annotations

import argparse
import functools
import logging
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bark_tf import hub
from bark_tf.backend import quick_imports
from bark_tf.cli.arguments import (
    MODEL_HELP,
    TOKEN_VARIABLE,
    Parser,
    add_command,
    add_verbosity,
    chosen_model,
    local,
    parse_aliases,
    positive,
    positive_whole,
    whole,
)
from bark_tf.cli.console import UsageError, note
from bark_tf.optional import required

# === export ===

_EXPORT_EXAMPLES = """examples:
  # models/bark/1, for tensorflow/serving with --model_base_path=/models/bark:
  bark-tf export --model suno/bark-small --out models/bark
  # The next version, at half the size:
  bark-tf export --model my-bark --out models/bark --dtype bfloat16

docs/serving.md lists the signatures; deploy/ has the files for a server.
"""


def add_export(commands: Any) -> None:
    """Adds `bark-tf export`."""
    parser = add_command(
        commands,
        "export",
        _export,
        "write a SavedModel for TensorFlow Serving, which needs no Python",
        _EXPORT_EXAMPLES,
    )
    parser.add_argument("--model", metavar="DIR|ID", help=MODEL_HELP)
    parser.add_argument(
        "--out",
        type=local,
        metavar="DIR",
        required=True,
        help="the model's directory on the server; its last part is the model's name",
    )
    parser.add_argument(
        "--version",
        type=positive_whole,
        metavar="N",
        help="subdirectory of --out; default: one above the newest",
    )
    parser.add_argument(
        "--xla",
        action="store_true",
        help="compile the decode loops; the server needs "
        "--xla_cpu_compilation_enabled=true",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "int8"),
        default="float32",
        help="dtype of the weights; int8: of the blocks' kernels; default: float32",
    )
    add_verbosity(parser)


def _export(arguments: argparse.Namespace) -> None:
    """Exports a checkpoint."""
    from bark_tf.bark import BarkModel
    from bark_tf.processor import BarkProcessor

    name = chosen_model(arguments)
    is_quantized = arguments.dtype == "int8"
    model = BarkModel.from_pretrained(
        name,
        dtype="float32" if is_quantized else arguments.dtype,
        quantize="int8" if is_quantized else None,
    )
    path = model.export(
        arguments.out,
        BarkProcessor.from_pretrained(name),
        version=arguments.version,
        jit_compile=arguments.xla,
    )
    note(arguments, repr(str(path)))


# === serve ===

_SERVE_EXAMPLES = f"""examples:
  bark-tf serve --model suno/bark-small
  bark-tf serve --alias alloy=kumo --alias nova=alpha
  {TOKEN_VARIABLE}=... bark-tf serve --host 0.0.0.0
  bark-tf serve --host 0.0.0.0 --token-file /run/secrets/token

then:
  curl localhost:8000/v1/audio/speech -H 'Content-Type: application/json' \\
    -d '{{"model": "tts-1", "voice": "default", "input": "one two"}}' -o out.mp3
"""


def add_serve(commands: Any) -> None:
    """Adds `bark-tf serve`."""
    parser = add_command(
        commands,
        "serve",
        _serve,
        "speak over HTTP, by OpenAI's speech protocol",
        _SERVE_EXAMPLES,
    )
    _add_server(parser, "always")


def _add_server(parser: Parser, xla_default: str) -> Any:
    """Adds the arguments of a server; returns the group of those about the model.

    The help texts show the parser's own defaults.
    """
    _add_network(parser)
    model = parser.add_argument_group("model")
    _add_model(model, xla_default)
    _add_limits(parser)
    add_verbosity(parser)
    return model


def _add_model(model: Any, xla_default: str) -> None:
    model.add_argument("--model", metavar="DIR|ID", help=MODEL_HELP)
    model.add_argument(
        "--model-name",
        metavar="NAME",
        help="name for clients; default: the last part of --model",
    )
    model.add_argument(
        "--alias",
        action="append",
        default=[],
        metavar="NAME=VOICE",
        help="another name of a voice, for clients that know only alloy, nova, ...; "
        "may be repeated",
    )
    model.add_argument(
        "--dtype", metavar="POLICY", help="dtype of the computation, such as bfloat16"
    )
    model.add_argument(
        "--quantize", choices=("int8",), help="use less memory for about the same sound"
    )
    model.add_argument(
        "--xla",
        dest="jit_compile",
        action=argparse.BooleanOptionalAction,
        default=True,
        help=f"compile with XLA: starts later, speaks faster; default: {xla_default}",
    )
    model.add_argument(
        "--no-warm-up",
        dest="warm_up",
        action="store_false",
        help="listen at once; the first requests then wait for tracing and compiling",
    )


def _add_network(parser: Parser) -> None:
    group = parser.add_argument_group("network")
    group.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1")
    group.add_argument(
        "--port", type=whole, default=8000, help="default: 8000; 0: any free one"
    )
    group.add_argument(
        "--token-file",
        metavar="FILE",
        help="file with the token that clients must send (as their API key); default: "
        f"${TOKEN_VARIABLE}, or no token",
    )
    group.add_argument(
        "--without-token",
        action="store_true",
        help="listen on other addresses than loopback, or behind a proxy, without a "
        "token",
    )


def _add_limits(parser: Parser) -> None:
    group = parser.add_argument_group("limits")
    group.add_argument(
        "--max-batch",
        type=int,
        choices=[2**n for n in range(8)],
        default=16,
        metavar="N",
        help="most sentences spoken together, a power of two; default: %(default)s",
    )
    group.add_argument(
        "--threads",
        type=int,
        choices=[2**n for n in range(8)],
        metavar="N",
        help="batches spoken at the same time, a power of two; together they have at "
        "most --max-batch sentences; default: 2 for small models, whose batches leave "
        "cores idle, otherwise 1",
    )
    group.add_argument(
        "--max-requests",
        type=whole,
        default=64,
        metavar="N",
        help="most requests that are spoken or wait; others get 429; "
        "default: %(default)s",
    )
    group.add_argument(
        "--max-characters",
        type=whole,
        default=4096,
        metavar="N",
        help="most characters of a text; default: %(default)s",
    )
    group.add_argument(
        "--timeout",
        type=positive,
        default=300.0,
        metavar="S",
        help="most seconds from a request to its last byte; default: %(default)g",
    )


def _serve(arguments: argparse.Namespace) -> None:
    """Answers requests until SIGTERM or Ctrl-C."""
    _run(arguments, arguments.quiet, lambda server, name: "v1")


def _run(
    arguments: argparse.Namespace, quiet: bool, prepare: Callable[[Any, str], str]
) -> None:
    """Runs a server.

    Args:
        arguments: Those of `_add_server`.
        quiet: Whether to log no requests.
        prepare: Called with the server and the name of its checkpoint, returns the
            path to print.
    """
    for module in ("fastapi", "uvicorn", "prometheus_client"):
        required(module, arguments.parser.prog, "serve")
    from bark_tf.serving.running import HttpServer, bind, log_to
    from bark_tf.serving.server import Server

    token = _token(arguments)
    # Before the model is loaded, so that a taken port is known at once.
    with bind(arguments.host, arguments.port) as bound:
        name = chosen_model(arguments)
        server = Server(
            _engine(name, arguments),
            arguments.model_name or _name_of(name),
            token=token,
            timeout_s=arguments.timeout,
            max_characters=arguments.max_characters,
            only_loopback=token is None and not arguments.without_token,
        )
        path = prepare(server, name)
        bound.listen()
        host = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
        note(arguments, f"listening on http://{host}:{bound.getsockname()[1]}/{path}")
        if not quiet:
            logging.disable(logging.NOTSET)
            log_to(sys.stderr)
        HttpServer(server.gate).run([bound])


def _name_of(checkpoint: str) -> str:
    is_shipped = checkpoint == str(hub.SHIPPED_CHECKPOINT)
    return "small-voice" if is_shipped else Path(checkpoint).name


def _engine(name: str, arguments: argparse.Namespace) -> Any:
    """Loads the model, and compiles its programs."""
    with quick_imports():
        from bark_tf.bark import BarkModel
        from bark_tf.processor import BarkProcessor
        from bark_tf.serving.engine import Engine
        from bark_tf.speech.speaker import COMPILED_PARAMS

    aliases = parse_aliases(arguments.alias)
    processor = BarkProcessor.from_pretrained(name)
    model = BarkModel.from_pretrained(
        name, dtype=arguments.dtype, quantize=arguments.quantize
    )
    is_small = model.count_params() < COMPILED_PARAMS
    if arguments.jit_compile is None:
        arguments.jit_compile = not is_small
    # From here on warnings would quote texts.
    warnings.simplefilter("ignore")
    engine = Engine(
        model,
        processor,
        max_batch=arguments.max_batch,
        max_requests=arguments.max_requests,
        num_threads=arguments.threads or (2 if is_small else 1),
        jit_compile=arguments.jit_compile,
        aliases=aliases,
    )
    if arguments.warm_up:
        note(arguments, "warming up; --no-warm-up listens at once")
        engine.warm_up()
    return engine


def _token(arguments: argparse.Namespace) -> str | None:
    """The token of a file or of the environment."""
    from bark_tf.serving.gate import is_loopback

    if arguments.token_file is not None:
        token = Path(arguments.token_file).read_text(encoding="utf-8").strip()
    else:
        token = os.environ.get(TOKEN_VARIABLE)
        if token is None:
            if not arguments.without_token and not is_loopback(arguments.host):
                raise UsageError(
                    f"--host {arguments.host} is open to other machines: set a token "
                    f"(${TOKEN_VARIABLE} or --token-file), or give --without-token"
                )
            return None
    if not token:
        raise UsageError("the token is empty")
    return token


# === demo ===

_DEMO_EXAMPLES = """examples:
  bark-tf demo                               # then open http://127.0.0.1:8000/
  bark-tf demo --model suno/bark-small
  # With voices of your own; the published Bark needs a tokenizer for them:
  bark-tf demo --model suno/bark-small --semantic-tokenizer hubert

It is `bark-tf serve` with a page and with defaults for a few people.
"""


def add_demo(commands: Any) -> None:
    """Adds `bark-tf demo`."""
    parser = add_command(
        commands, "demo", _demo, "speak from a page in a browser", _DEMO_EXAMPLES
    )
    model = _add_server(parser, "for large models")
    model.add_argument(
        "--semantic-tokenizer",
        metavar="DIR",
        help="directory of the semantic tokenizer, which makes voices from recordings; "
        "default: that of the model",
    )
    parser.set_defaults(
        # As `bark-tf speak` decides, so that the audio is the same.
        jit_compile=None,
        max_batch=1,
        threads=1,
        max_requests=8,
        max_characters=1000,
    )


def _demo(arguments: argparse.Namespace) -> None:
    """Serves the page until SIGTERM or Ctrl-C."""

    def add_page(server: Any, name: str) -> str:
        from bark_tf.serving.page import Page

        about = f"using {arguments.model_name or _name_of(name)}"
        if name == str(hub.SHIPPED_CHECKPOINT):
            about = hub.ABOUT_SHIPPED
        Page(server, about, _make_voice(name, arguments))
        return ""

    _run(arguments, not arguments.verbose, add_page)


def _make_voice(name: str, arguments: argparse.Namespace) -> Callable | None:
    """Makes voices for a checkpoint; None without a semantic tokenizer."""
    from bark_tf.voices.cloning import make_voice, tokenizer_of

    try:
        tokenizer = tokenizer_of(arguments.semantic_tokenizer, name)
    except FileNotFoundError as error:
        if arguments.semantic_tokenizer is not None:
            raise
        note(arguments, f"the page makes no voices: {error}")
        return None
    return functools.partial(make_voice, model=name, semantic_tokenizer=tokenizer)
