"""`bark-tf convert`."""

from __future__ import annotations

import argparse
from typing import Any

from bark_tf.cli.arguments import add_amount_of_output, add_command
from bark_tf.cli.console import note

_MEGABYTE = 10**6


_CONVERT_EXAMPLES = """examples:
  # Suno's own files, and Meta's codec, into a directory for --model:
  bark-tf convert text_2.pt coarse_2.pt fine_2.pt encodec_24khz-d7cc33bc.th my-bark
  # Half the size:
  bark-tf convert suno/bark-small bark-small-bf16 --dtype bfloat16
  # And back to suno's names:
  bark-tf convert my-bark my-bark-suno --names suno
"""


def add_convert(commands: Any) -> None:
    """Adds `bark-tf convert`."""
    parser = add_command(
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
    add_amount_of_output(parser)


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
    note(arguments, repr(str(path)))


def _named_config(name: str | None) -> Any:
    from bark_tf.config import PRESETS, BarkConfig

    if name is None:
        return None
    return PRESETS[name] if name in PRESETS else BarkConfig.from_pretrained(name)
