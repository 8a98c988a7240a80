"""Writes the open voice so that transformers opens it.

    python -m bark_tf.training.recipes.open_voice._for_transformers open whole

transformers builds no codec without an LSTM, and this one learned without: with it, a
step takes a quarter longer, and as much time teaches less. An LSTM whose weights are 0
adds 0 to what passes it, so the codec with it makes the same codes and sound. Its 8 MB
in half precision are zeros, which a package compresses to nothing.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bark_tf.bark import BarkModel
from bark_tf.config import BarkConfig
from bark_tf.processor import BarkProcessor


def add_lstm(bark: BarkModel) -> BarkModel:
    """Returns a copy whose codec has one LSTM with weights of 0.

    Args:
        bark: A model whose codec has no LSTM.

    Raises:
        ValueError: If it has one.
    """
    count = bark.config.codec_config.num_lstm_layers
    if count:
        raise ValueError(f"The codec must have no LSTM. Received: {count}")
    values = bark.config.to_dict()
    values["codec_config"]["num_lstm_layers"] = 1
    copy = BarkModel(BarkConfig.from_dict(values), bark.generation_config)
    for name, part in copy.parts.items():
        known = {weight.path: weight.numpy() for weight in bark.parts[name].weights}
        part.set_weights(
            [
                np.zeros(weight.shape)
                if "/lstm/" in weight.path
                else known[weight.path]
                for weight in part.weights
            ]
        )
    return copy


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the model at the first path and writes the other at the second."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="the trained model")
    parser.add_argument("destination", type=Path, help="another directory")
    paths = parser.parse_args(arguments)
    if paths.destination.resolve() == paths.source.resolve():
        parser.error("the destination must be another directory than the source")
    add_lstm(BarkModel.from_pretrained(paths.source)).save_pretrained(paths.destination)
    BarkProcessor.from_pretrained(paths.source).save_pretrained(paths.destination)
    for path in paths.source.glob("semantic_tokenizer.*"):
        shutil.copy(path, paths.destination)


if __name__ == "__main__":
    main()
