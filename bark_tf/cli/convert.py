"""`bark-tf convert`."""

from __future__ import annotations

import argparse
from typing import Any

from bark_tf.cli.arguments import add_command, add_verbosity
from bark_tf.cli.console import note, progress_of

_MEGABYTE = 10**6

_EXAMPLES = """examples:
  # Suno's and Meta's files to a directory for --model:
  bark-tf convert text_2.pt coarse_2.pt fine_2.pt encodec_24khz.th my-bark
  # At half the size:
  bark-tf convert suno/bark-small bark-small-bf16 --dtype bfloat16
  # Back to Suno's names:
  bark-tf convert my-bark my-bark-suno --names suno
"""


def add_convert(commands: Any) -> None:
    """Adds `bark-tf convert`."""
    parser = add_command(
        commands,
        "convert",
        _convert,
        "convert a checkpoint of Suno, Hugging Face or bark-tf",
        _EXAMPLES,
    )
    parser.add_argument(
        "source",
        nargs="+",
        metavar="SOURCE",
        help="a directory, a repository such as suno/bark, or one or more files",
    )
    parser.add_argument("destination", metavar="DESTINATION", help="new directory")
    parser.add_argument(
        "--names",
        choices=("hf", "suno"),
        default="hf",
        help="naming of files and tensors; default: hf, for --model and transformers",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "float16", "bfloat16"),
        help="dtype of all weights; default: unchanged",
    )
    parser.add_argument(
        "--max-shard-size",
        metavar="SIZE",
        default="5GB",
        help="split weights into files of at most this size; default: 5GB",
    )
    parser.add_argument(
        "--codec",
        metavar="SOURCE",
        help="codec, if the source has none: Meta's file, or a directory or repository "
        "of Hugging Face",
    )
    parser.add_argument(
        "--config",
        metavar="NAME|DIR",
        help="configuration, if the source has none: bark, bark-small, or a directory "
        "with config.json",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace the checkpoint at the destination and all its files",
    )
    add_verbosity(parser)


def _convert(arguments: argparse.Namespace) -> None:
    """Converts a checkpoint."""
    from bark_tf.convert.convert import convert_checkpoint

    with progress_of(arguments) as report:
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
    note(arguments, repr(str(path)))


def _named_config(name: str | None) -> Any:
    from bark_tf.config import PRESETS, BarkConfig

    if name is None:
        return None
    return PRESETS[name] if name in PRESETS else BarkConfig.from_pretrained(name)
