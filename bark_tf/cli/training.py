"""`bark-tf prepare`, `train-tokenizer`, `train` and `evaluate`.

The work itself is in `bark_tf.training`, which each command imports when it runs.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from typing import Any

from bark_tf.cli.arguments import (
    Parser,
    add_command,
    add_verbosity,
    local,
    positive_whole,
    text_lines,
)
from bark_tf.cli.console import progress_of
from bark_tf.cli.tokenizers import add_tokenizer


def add_training(commands: Any) -> None:
    """Adds `bark-tf prepare`, `train-tokenizer`, `train` and `evaluate`."""
    for add in (_add_prepare, add_tokenizer, _add_train, _add_evaluate):
        add_verbosity(add(commands))


# === prepare ===


_PREPARE_EXAMPLES = """examples:
  # A folder with metadata.csv (id|text|normalised) and its recordings:
  bark-tf prepare my-recordings prepared --model my-bark --validation 0.05
  # Only audio, to train a codec and a tokenizer from scratch:
  bark-tf prepare my-recordings audio --sample-rate 16000
  # Check a dataset, and see what would be skipped and why; nothing is written:
  bark-tf prepare my-list.txt --model my-bark --dry-run
  # A dataset of the Hugging Face hub, its split `test`:
  bark-tf prepare hf:owner/name:test prepared --model my-bark
  # On Apache Beam; the runner's own options follow its name:
  bark-tf prepare my-recordings prepared --model my-bark --runner DirectRunner
"""


def _add_prepare(commands: Any) -> Parser:
    parser = add_command(
        commands,
        "prepare",
        _prepare,
        "turn recordings into training data",
        _PREPARE_EXAMPLES,
    )
    parser.add_argument(
        "dataset",
        metavar="DATASET",
        help="folder of audio and .txt files (also LibriTTS and VCTK), folder with "
        "metadata.csv, metadata.jsonl or validated.tsv (LJSpeech, audiofolder, Common "
        "Voice), a list (.csv, .jsonl, .tsv, .txt, .list), or hf:OWNER/NAME",
    )
    parser.add_argument(
        "out", nargs="?", metavar="OUT", help="folder for the shards; not for --dry-run"
    )
    parser.add_argument(
        "--model",
        metavar="DIR|ID",
        help="checkpoint to make text ids, codes and semantic tokens for; without it "
        "only audio is kept",
    )
    parser.add_argument(
        "--semantic-tokenizer",
        metavar="DIR",
        help="directory of the semantic tokenizer; default: that of the model",
    )
    parser.add_argument(
        "--keep-audio", action="store_true", help="store audio beside the tokens"
    )
    parser.add_argument(
        "--sample-rate", type=int, metavar="HZ", help="without --model; default: 24000"
    )
    parser.add_argument(
        "--silence",
        type=float,
        metavar="SECONDS",
        help="cut or pad the silence at both ends of each recording to this length; "
        "default: leave at most 0.05",
    )
    parser.add_argument(
        "--validation",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of the texts to hold out, at least one; default: 0",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="read and check the recordings and report; encode and write nothing",
    )
    parser.add_argument(
        "--limit", type=int, metavar="N", help="only the first N recordings"
    )
    parser.add_argument(
        "--workers", type=int, default=1, metavar="N", help="processes; default: 1"
    )
    parser.add_argument(
        "--runner",
        nargs=argparse.REMAINDER,
        metavar="NAME",
        help="an Apache Beam runner and its options; must come last",
    )
    return parser


def _prepare(arguments: argparse.Namespace) -> None:
    """Turns recordings into shards of training data."""
    from bark_tf.training.data.prepare import prepare

    if arguments.runner == []:
        raise ValueError("--runner needs the NAME of an Apache Beam runner")
    runner, *runner_options = arguments.runner or [None]
    with progress_of(arguments) as report:
        result = prepare(
            arguments.dataset,
            arguments.out,
            model=arguments.model,
            semantic_tokenizer=arguments.semantic_tokenizer,
            keep_audio=arguments.keep_audio,
            sample_rate=arguments.sample_rate,
            validation=arguments.validation,
            limit=arguments.limit,
            num_workers=arguments.workers,
            silence_s=arguments.silence,
            runner=runner,
            runner_options=runner_options,
            dry_run=arguments.dry_run,
            progress=lambda done, total: report("recordings", done, total),
        )
    if not arguments.quiet:
        note = "A dry run: nothing was encoded or written.\n\n"
        print(f"{note if arguments.dry_run else ''}{result}")


# === train ===


_TRAIN_EXAMPLES = """examples:
  # List the recipes; describe one of them:
  bark-tf train --list
  bark-tf train lora --show
  # Learn a voice from prepared recordings:
  bark-tf train lora --set model=my-bark data=prepared out=my-voice
  # One stage at a time, which takes the least memory; OUT keeps what it holds:
  bark-tf train full --stages coarse --set model=my-bark data=prepared out=mine
  bark-tf train full --stages fine --set model=my-bark data=prepared out=mine
  # On all GPUs of this machine; rehearsed without a GPU:
  bark-tf train lora --set model=my-bark out=my-voice --strategy mirrored
  bark-tf train lora --set model=my-bark steps=4 --strategy mirrored --cpus 2
  bark-tf train my_recipe.py --set steps=500 semantic.learning_rate=1e-4
"""


def _add_train(commands: Any) -> Parser:
    parser = add_command(
        commands, "train", _train, "train a model with a recipe", _train_help
    )
    parser.add_argument(
        "recipe", nargs="?", metavar="RECIPE", help="a name from --list, or a .py file"
    )
    parser.add_argument("--list", action="store_true", help="list the recipes and exit")
    parser.add_argument(
        "--show", action="store_true", help="show the recipe with its values and exit"
    )
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="change values of the recipe (below); STAGE.KEY=VALUE for a single stage",
    )
    parser.add_argument(
        "--stages",
        nargs="+",
        metavar="STAGE",
        help="train only these stages of the recipe; default: all",
    )
    parser.add_argument(
        "--restart", action="store_true", help="discard an earlier run and start over"
    )
    parser.add_argument(
        "--strategy",
        choices=("mirrored", "multi-worker"),
        help="use all devices of this machine, or of the machines in TF_CONFIG",
    )
    parser.add_argument(
        "--cpus",
        type=positive_whole,
        metavar="N",
        help="rehearse --strategy mirrored on N logical devices that share the CPU",
    )
    return parser


def _train_help() -> str:
    """The examples, and the keys of --set."""
    from bark_tf.training.runs.recipe import described_keys

    wrap = textwrap.TextWrapper(80, initial_indent="  ", subsequent_indent=" " * 6)
    keys = [wrap.fill(f"{key}: {text}") for key, text in described_keys().items()]
    return "\n".join([_TRAIN_EXAMPLES, "keys of --set:", *keys])


def _train(arguments: argparse.Namespace) -> None:
    """Trains a model, or lists or shows recipes."""
    from bark_tf.training.runs.recipe import (
        load_recipe,
        only_stages,
        recipe_names,
        with_settings,
    )

    if arguments.list:
        print("\n".join(recipe_names()))
        return
    if arguments.recipe is None:
        raise ValueError("give a RECIPE; `bark-tf train --list` lists them")
    recipes, docstring = load_recipe(arguments.recipe)
    recipes = only_stages(recipes, arguments.stages)
    recipes = with_settings(recipes, arguments.set)
    if arguments.show:
        print("\n\n".join([docstring, *map(_as_lines, recipes)]))
        return
    from bark_tf.training.runs.display import Display
    from bark_tf.training.runs.run import run
    from bark_tf.training.runs.strategies import strategy_of

    stream = sys.stderr
    with progress_of(arguments):  # warnings appear above the bar
        path = run(
            recipes,
            restart=arguments.restart,
            strategy=strategy_of(arguments.strategy, arguments.cpus),
            callbacks=lambda one: () if arguments.quiet else [Display(one, stream)],
        )
    if not arguments.quiet:
        print(path)


def _as_lines(recipe: Any) -> str:
    """One line per value, as `--set` takes it."""
    values = recipe.values().items()
    return "\n".join(f"{recipe.stage}.{key}={value}" for key, value in values)


# === evaluate ===


_EVALUATE_EXAMPLES = """examples:
  # Loss of each stage, and how well the codec reconstructs recordings:
  bark-tf evaluate my-voice prepared --out report
  # Compared with the base model, and the WER that each stage adds:
  bark-tf evaluate my-voice prepared --before my-bark --recogniser pocketsphinx
  # Your own sentences, with a recogniser limited to their words:
  bark-tf evaluate my-bark --texts a.txt --words w.txt --recogniser pocketsphinx
  # Speaker similarity and sound quality:
  bark-tf evaluate my-voice prepared --similarity resemblyzer --quality dnsmos
"""


def _add_evaluate(commands: Any) -> Parser:
    parser = add_command(
        commands,
        "evaluate",
        _evaluate,
        "measure a model, stage by stage",
        _EVALUATE_EXAMPLES,
    )
    parser.add_argument(
        "model", metavar="MODEL", help="checkpoint directory or repository id"
    )
    parser.add_argument(
        "data",
        nargs="?",
        metavar="DATA",
        help="output of `prepare --validation` for this model, with --keep-audio for "
        "all metrics; or any folder of shards",
    )
    parser.add_argument("--before", metavar="MODEL", help="model to compare with")
    parser.add_argument(
        "--out",
        type=local,
        metavar="DIR",
        help="folder for report.md, report.json and plots",
    )
    parser.add_argument(
        "--texts", metavar="FILE", help="sentences to speak, one per line"
    )
    parser.add_argument(
        "--voice", metavar="NAME|FILE.npz", help="default: a random voice"
    )
    _add_judges(parser)
    parser.add_argument(
        "--limit",
        type=int,
        metavar="N",
        help="use at most N recordings and N sentences, evenly spaced",
    )
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument(
        "--no-xla",
        dest="jit_compile",
        action="store_false",
        help="do not compile with XLA; faster for a few sentences",
    )
    return parser


def _add_judges(parser: Parser) -> None:
    parser.add_argument(
        "--recogniser",
        metavar="NAME",
        help="speech recogniser for the WER: pocketsphinx (English; extra `evaluate`), "
        "moonshine (English; extra `evaluate-moonshine`), or "
        "faster-whisper:DIRECTORY of a converted Whisper (extra `evaluate-whisper`)",
    )
    parser.add_argument(
        "--words",
        metavar="FILE",
        help="vocabulary of pocketsphinx; default: general English",
    )
    parser.add_argument(
        "--language",
        metavar="CODE",
        help="language for Whisper, such as en; default: detected",
    )
    parser.add_argument(
        "--similarity",
        metavar="NAME",
        help="speaker similarity model: resemblyzer (extra `evaluate-speakers`)",
    )
    parser.add_argument(
        "--quality",
        metavar="NAME",
        help="sound quality model: dnsmos (extra `evaluate-quality`)",
    )


def _evaluate(arguments: argparse.Namespace) -> None:
    """Measures a model."""
    from bark_tf.training.evaluation.evaluate import evaluate
    from bark_tf.training.evaluation.recognisers import quality_judge_of, voice_judge_of

    with progress_of(arguments) as report:
        result = evaluate(
            arguments.model,
            arguments.data,
            texts=text_lines(arguments.texts),
            recogniser=_recogniser(arguments),
            similarity=arguments.similarity and voice_judge_of(arguments.similarity),
            quality=arguments.quality and quality_judge_of(arguments.quality),
            voice=arguments.voice,
            before=arguments.before,
            limit=arguments.limit,
            seed=arguments.seed,
            jit_compile=arguments.jit_compile,
            out=arguments.out,
            progress=report,
        )
    if not arguments.quiet:
        print(result.markdown())


def _recogniser(arguments: argparse.Namespace) -> Any:
    from bark_tf.training.evaluation.recognisers import recogniser_of

    if arguments.recogniser is not None:
        return recogniser_of(
            arguments.recogniser, arguments.words, language=arguments.language
        )
    for name in ("words", "language"):
        if getattr(arguments, name) is not None:
            raise ValueError(f"--{name} is for a --recogniser. Received: none")
    return None
