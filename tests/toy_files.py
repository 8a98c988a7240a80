"""Toy checkpoints in all layouts, written without torch."""

import json

import numpy as np
import safetensors.numpy
import toy

from bark_tf.config import BarkConfig, EncodecConfig
from bark_tf.convert.configs import PARTS
from bark_tf.convert.weights import table_for

CODEC = EncodecConfig(num_filters=2, hidden_size=4)
STEMS = {"semantic": "text", "coarse_acoustics": "coarse", "fine_acoustics": "fine"}


class DictCheckpoint:
    """Arrays by name in place of an open `Checkpoint`; counts how many were read."""

    def __init__(self, arrays):
        self.arrays, self.num_reads = arrays, 0

    def names(self):
        return list(self.arrays)

    def shape(self, name):
        return self.arrays[name].shape

    def dtype(self, name):
        return self.arrays[name].dtype

    def read(self, name):
        self.num_reads += 1
        return self.arrays[name]


def bark_config(**fine):
    return BarkConfig(
        semantic_config=toy.semantic_config(bias=False),
        coarse_acoustics_config=toy.coarse_config(num_heads=2),
        fine_acoustics_config=toy.fine_config(**fine),
        codec_config=CODEC,
    )


def part_config(config, name):
    return getattr(config, PARTS[name].part)


def arrays(config, names="hf", prefix="", with_masks=False, with_heads=False):
    """Random tensors of one network, as a checkpoint of it holds them."""
    table = table_for(config, names)
    made = {
        rule.theirs: np.random.normal(size=rule.convert_shape(rule.shape)).astype("f4")
        for rule in table.rules
    }
    if with_masks:
        made |= {name: make() for name, make in table.constants.items()}
    if with_heads:
        made |= {second: made[first].copy() for second, first in table.aliases.items()}
    return {prefix + name: array for name, array in made.items()}


def bark_arrays(config, **options):
    """Random tensors of a whole Bark in Hugging Face's names."""
    return {
        name: array
        for part in PARTS
        for name, array in arrays(
            part_config(config, part), prefix=f"{part}.", **options
        ).items()
    }


def save(path, tensors):
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.numpy.save_file(tensors, path, {"format": "pt"})
    return path


def load(path):
    return safetensors.numpy.load_file(path)


def save_hf(directory, config, tensors=None):
    """A whole Bark as Hugging Face writes it; returns its tensors."""
    tensors = bark_arrays(config, with_masks=True) if tensors is None else tensors
    save(directory / "model.safetensors", tensors)
    config.save_pretrained(directory)
    return tensors


def save_suno(directory, config, codec="encodec_24khz-d7cc33bc.th"):
    """Suno's three files and Meta's: their names, safetensors content.

    Readers go by the content. What safetensors cannot hold, `model_args`, lies beside.
    """
    for name, stem in STEMS.items():
        part = part_config(config, name)
        tensors = arrays(part, "suno", "_orig_mod.", with_heads=True)
        save(directory / f"{stem}.pt", tensors)
        args = {
            "n_layer": part.num_layers,
            "n_head": part.num_heads,
            "n_embd": part.hidden_size,
            "block_size": part.block_size,
            "bias": part.bias,
            "dropout": part.dropout,
            "input_vocab_size": part.input_vocab_size,
            "output_vocab_size": part.output_vocab_size,
        }
        if name == "fine_acoustics":
            args |= {
                "n_codes_total": part.n_codes_total,
                "n_codes_given": part.n_codes_given,
            }
        (directory / f"{stem}.json").write_text(json.dumps(args))
    if codec is not None:
        save(directory / codec, arrays(config.codec_config, "meta"))


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name], name, strict=True)


def voice_arrays(num_tokens=20, num_frames=30, dtype=np.int64, seed=0):
    """The arrays of a voice of Bark's sizes, by name."""
    rng = np.random.default_rng(seed)
    return {
        "semantic_prompt": rng.integers(0, 10_000, num_tokens).astype(dtype),
        "coarse_prompt": rng.integers(0, 1024, (2, num_frames)).astype(dtype),
        "fine_prompt": rng.integers(0, 1024, (8, num_frames)).astype(dtype),
    }
