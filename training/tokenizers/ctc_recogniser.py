"""A trained recogniser with all its blocks, to train it further or on other speech.

A directory holds `recogniser.json`, its sizes and alphabet, and
`recogniser.safetensors`, its weights in half precision.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from bark_tf.config import CtcConfig
from bark_tf.config.fields import check_values
from bark_tf.convert.checkpoints import open_checkpoint
from bark_tf.convert.rules import Rule, Table, read
from bark_tf.convert.weights import table_for
from bark_tf.files import atomic_write, local_path, read_json_object
from bark_tf.models.ctc import CtcModel

from .ctc_examples import Alphabet

SETTINGS_NAME, ARRAYS_NAME = "recogniser.json", "recogniser.safetensors"
# What may differ between the run that made a recogniser and the one that goes on.
_FREE = "output_size", "dropout"
_HEAD = "head/"


def save_recogniser(directory: Path, network: CtcModel, alphabet: Alphabet) -> None:
    """Writes both files."""
    directory.mkdir(parents=True, exist_ok=True)
    settings = {
        "characters": list(alphabet.characters),
        "network": network.config.to_dict(),
    }
    arrays = {
        name: np.ascontiguousarray(array.astype(np.float16))
        for name, array in network.arrays().items()
    }
    with atomic_write(directory / ARRAYS_NAME) as temporary:
        temporary.write_bytes(save(arrays))
    with atomic_write(directory / SETTINGS_NAME) as temporary:
        text = json.dumps(settings, indent=2, ensure_ascii=False) + "\n"
        temporary.write_text(text, encoding="utf-8")


def put_recogniser(directory: Any, network: CtcModel, alphabet: Alphabet) -> None:
    """Gives a network the weights of a trained recogniser.

    Characters that only the new alphabet has keep their new weights.

    Args:
        directory: What `save_recogniser` wrote.
        network: The network, of the same sizes.
        alphabet: The characters that it shall read.

    Raises:
        FileNotFoundError: If there is no recogniser.
        ValueError: If a file is damaged, or the sizes differ; the message says which.
    """
    directory = local_path(directory, "The recogniser's directory")
    path = directory / SETTINGS_NAME
    if not path.is_file():
        raise FileNotFoundError(
            f"{str(directory)!r} must hold a recogniser, such as the folder "
            f"training/recogniser of a trained tokenizer: {SETTINGS_NAME} is missing"
        )
    settings = read_json_object(path)
    check_values(settings, {"characters": list, "network": dict}, path)
    config = CtcConfig.from_dict(settings["network"])
    for name in config.field_names():
        had, has = getattr(config, name), getattr(network.config, name)
        if name not in _FREE and had != has:
            raise ValueError(
                f"The recogniser of {str(directory)!r} must have the sizes of the new "
                f"one, {name} {has!r}. Received: {had!r}"
            )
    shapes = table_for(config).shapes
    table = Table(tuple(Rule(name, name, shape) for name, shape in shapes.items()))
    source = directory / ARRAYS_NAME
    with open_checkpoint(source) as checkpoint:
        arrays = dict(read(table, checkpoint, source=str(source)))
    arrays |= _head(arrays, settings["characters"], network, alphabet)
    network.put_arrays(arrays)


def _head(arrays, characters, network, alphabet) -> dict[str, np.ndarray]:
    """The last layer's arrays, a row per character and one for the blank."""
    before = {character: number for number, character in enumerate([*characters, ""])}
    rows = [before.get(character) for character in (*alphabet.characters, "")]
    head = {}
    for name, fresh in network.arrays().items():
        if name.startswith(_HEAD):
            head[name] = np.stack(
                [
                    new if row is None else arrays[name][row]
                    for new, row in zip(fresh, rows, strict=True)
                ]
            )
    return head
