"""`bark-tf train-tokenizer`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from bark_tf.cli.arguments import Parser, add_command, local, text_lines
from bark_tf.cli.console import note, progress_of

_EXAMPLES = """examples:
  # A vocabulary of 300 semantic tokens, saved with the model:
  bark-tf train-tokenizer audio my-bark --clusters 300
  # Tokens that keep the words, from hours of speech with its texts:
  bark-tf prepare speech audio --sample-rate 16000 --validation 0.02
  bark-tf train-tokenizer audio my-bark --kind ctc --clusters 500 --rate 50
  # For a model without a tokenizer, such as the published Bark: it speaks the
  # texts, one per line, and a quantizer learns which sound stands for which
  # token. Run it again to resume. hubert: that of facebook/hubert-base-ls960.
  bark-tf train-tokenizer pairs bark --kind quantizer --make-pairs a.txt \\
      --hubert hubert
  # From existing pairs, starting with an existing quantizer:
  bark-tf train-tokenizer pairs new --kind quantizer --hubert hubert \\
      --quantizer old.pth
"""


# Arguments that only some kinds have, and those that need --make-pairs.
_NETWORK_ARGUMENTS = ("layer", "width", "steps", "batch_size", "restart")
_KIND_ARGUMENTS = {
    "kmeans": ("clusters", "rate"),
    "ctc": ("clusters", "rate", "dtype", "optimizer", "start", *_NETWORK_ARGUMENTS),
    "quantizer": ("hubert", "quantizer", "make_pairs", *_NETWORK_ARGUMENTS),
}
_PAIR_ARGUMENTS = ("model", "voice", "validation")


def add_tokenizer(commands: Any) -> Parser:
    """Adds `bark-tf train-tokenizer`."""
    parser = add_command(
        commands,
        "train-tokenizer",
        _train_tokenizer,
        "learn semantic tokens from audio",
        _EXAMPLES,
    )
    parser.add_argument(
        "data",
        metavar="DATA",
        help="output of `prepare` with audio; for a quantizer, the folder of pairs",
    )
    parser.add_argument(
        "out", type=local, metavar="OUT", help="folder, usually the model's own"
    )
    parser.add_argument(
        "--kind",
        choices=tuple(_KIND_ARGUMENTS),
        default="kmeans",
        help="kmeans: new tokens for a model to learn, in minutes; ctc: the same, from "
        "a recogniser that learns to read speech, in hours; quantizer: the tokens that "
        "a trained model speaks; default: kmeans",
    )
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    group = parser.add_argument_group("new tokens (kmeans, ctc)")
    group.add_argument(
        "--clusters",
        type=int,
        metavar="N",
        help="vocabulary size; default: semantic_vocab_size of the model in OUT",
    )
    group.add_argument(
        "--rate",
        type=float,
        metavar="HZ",
        help="tokens per second; default: semantic_rate_hz of the model in OUT",
    )
    _add_network(parser.add_argument_group("networks (ctc, quantizer)"))
    _add_quantizer(parser.add_argument_group("quantizer"))
    _add_pairs(parser.add_argument_group("pairs for a quantizer"))
    return parser


def _add_network(group: Any) -> None:
    group.add_argument(
        "--layer",
        type=int,
        metavar="N",
        help="layer whose states become tokens; default: 3 of ctc's 4, HuBERT's 9",
    )
    group.add_argument(
        "--width",
        type=int,
        metavar="N",
        help="width of the network; default: 256 for ctc, 1024 for a quantizer",
    )
    group.add_argument(
        "--steps",
        type=int,
        metavar="N",
        help="training steps; default: 10000 for ctc, 3000 for a quantizer",
    )
    group.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="recordings per step; default: 16 for ctc, 8 for a quantizer",
    )
    group.add_argument(
        "--dtype",
        choices=("float32", "mixed_bfloat16"),
        help="only ctc; mixed_bfloat16 is faster where the processor has it; default: "
        "float32",
    )
    group.add_argument(
        "--optimizer", choices=("adamw", "muon"), help="only ctc; default: adamw"
    )
    group.add_argument(
        "--start",
        metavar="DIR",
        help="only ctc; folder training/recogniser of an earlier run to go on from",
    )
    group.add_argument(
        "--restart",
        action="store_true",
        help="discard an earlier run in OUT; pairs are kept",
    )


def _add_quantizer(group: Any) -> None:
    group.add_argument(
        "--hubert",
        metavar="DIR|ID|FILE",
        help="HuBERT that makes the frames, such as facebook/hubert-base-ls960",
    )
    group.add_argument(
        "--quantizer", metavar="FILE|DIR", help="start from this quantizer"
    )


def _add_pairs(group: Any) -> None:
    group.add_argument(
        "--make-pairs",
        metavar="FILE",
        help="first have --model speak these texts, one per line, into DATA",
    )
    group.add_argument(
        "--model", metavar="DIR|ID", help="model that speaks; default: the one in OUT"
    )
    group.add_argument(
        "--voice",
        nargs="+",
        metavar="NAME|FILE.npz",
        help="voices, used in turn; default: random voices",
    )
    group.add_argument(
        "--validation",
        type=float,
        metavar="SHARE",
        help="share of the texts to hold out; default: 0.1",
    )
    group.add_argument(
        "--no-xla",
        dest="jit_compile",
        action="store_false",
        help="do not compile with XLA; faster for a few texts",
    )


def _train_tokenizer(arguments: argparse.Namespace) -> None:
    """Trains a tokenizer or a quantizer."""
    others = {name for names in _KIND_ARGUMENTS.values() for name in names}
    for name in sorted(others - {*_KIND_ARGUMENTS[arguments.kind]}):
        kinds = [kind for kind, names in _KIND_ARGUMENTS.items() if name in names]
        wanted = f"--kind {' or '.join(kinds)}"
        _refuse(arguments, [name], wanted, f"--kind {arguments.kind}")
    if arguments.make_pairs is None:
        _refuse(arguments, _PAIR_ARGUMENTS, "--make-pairs FILE", "none")
    if arguments.kind != "kmeans":
        train = {"ctc": _train_ctc, "quantizer": _train_quantizer}[arguments.kind]
        train(arguments)
        return
    from bark_tf.training.tokenizers.train import train_tokenizer

    with progress_of(arguments) as report:
        tokenizer = train_tokenizer(
            arguments.data,
            arguments.out,
            vocab_size=arguments.clusters,
            rate_hz=arguments.rate,
            seed=arguments.seed,
            progress=lambda done, total: report("k-means", done, total),
        )
    if not arguments.quiet:
        print(_about(tokenizer, arguments))


def _refuse(
    arguments: argparse.Namespace, names: Sequence[str], wanted: str, given: str
) -> None:
    """Raises ValueError if an argument that would have no effect is given."""
    for name in names:
        if getattr(arguments, name) not in (None, False):
            flag = name.replace("_", "-")
            raise ValueError(f"--{flag} is for {wanted}. Received: {given}")


def _train_ctc(arguments: argparse.Namespace) -> None:
    """Trains a recogniser, and makes a tokenizer of it."""
    from bark_tf.training.tokenizers import ctc as training

    sizes = {} if arguments.width is None else {"hidden_size": arguments.width}
    with progress_of(arguments) as report:
        tokenizer, score = training.train_ctc(
            arguments.data,
            arguments.out,
            vocab_size=arguments.clusters,
            rate_hz=arguments.rate,
            layer=arguments.layer,
            sizes=sizes,
            options=training.ctc_options(
                _given(arguments.steps, training.STEPS),
                arguments.seed,
                _given(arguments.optimizer, "adamw"),
            ),
            batch_size=_given(arguments.batch_size, training.BATCH_SIZE),
            dtype=arguments.dtype,
            start=arguments.start,
            restart=arguments.restart,
            announce=lambda plan: note(arguments, str(plan)),
            progress=report,
        )
    if not arguments.quiet:
        print(f"{score}\n\n{_about(tokenizer, arguments)}")


def _train_quantizer(arguments: argparse.Namespace) -> None:
    """Makes pairs if requested, and trains a quantizer on them."""
    if arguments.hubert is None:
        raise ValueError("--kind quantizer needs a --hubert. Received: none")
    texts = text_lines(arguments.make_pairs)
    from bark_tf.training.tokenizers import quantizer as training
    from bark_tf.training.tokenizers.pairs import VALIDATION, make_pairs

    with progress_of(arguments) as report:
        pairs = texts and make_pairs(
            texts,
            arguments.data,
            model=_given(arguments.model, arguments.out),
            voices=arguments.voice or (),
            validation=_given(arguments.validation, VALIDATION),
            seed=arguments.seed,
            jit_compile=arguments.jit_compile,
            progress=lambda done, total: report("pairs", done, total),
        )
        tokenizer, score = training.train_quantizer(
            arguments.data,
            arguments.out,
            hubert=arguments.hubert,
            layer=_given(arguments.layer, training.LAYER),
            quantizer=arguments.quantizer,
            hidden_size=arguments.width,
            options=training.quantizer_options(
                _given(arguments.steps, training.STEPS), arguments.seed
            ),
            batch_size=_given(arguments.batch_size, training.BATCH_SIZE),
            restart=arguments.restart,
            progress=report,
        )
    if not arguments.quiet:
        parts = [pairs, score, _about(tokenizer, arguments)]
        print("\n\n".join(str(part) for part in parts if part))


def _given(value: Any, default: Any) -> Any:
    return default if value is None else value


def _about(tokenizer: Any, arguments: argparse.Namespace) -> str:
    return (
        f"{tokenizer.vocab_size} tokens at {tokenizer.rate_hz} per second "
        f"in {arguments.out}"
    )
