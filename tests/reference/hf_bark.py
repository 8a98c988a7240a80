"""Hugging Face transformers' Bark with the weights of ours.

Imports torch and transformers: load it from tests marked `reference` only.
"""

import contextlib
import json

import numpy as np
import torch
import transformers

from bark_tf.convert import bark as names
from bark_tf.convert import rules

CLASSES = {
    "semantic": (transformers.BarkSemanticConfig, transformers.BarkSemanticModel),
    "coarse_acoustics": (transformers.BarkCoarseConfig, transformers.BarkCoarseModel),
    "fine_acoustics": (transformers.BarkFineConfig, transformers.BarkFineModel),
}


def state_dict(model):
    """The tensors of one of our transformers under transformers' names."""
    table = names.table(model.config)
    variables = rules.variables_of(model)
    arrays = {name: make() for name, _, _, make in rules.tensors(table, variables)}
    for second, first in table.aliases.items():
        arrays[second] = arrays[first]
    return {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}


def network(model):
    """A transformers model that equals one of our three transformers."""
    config_class, model_class = CLASSES[model.config.model_type]
    fields = model.config.to_dict()
    del fields["model_type"]
    twin = model_class(config_class(**fields)).eval()
    twin.load_state_dict(state_dict(model), strict=True)
    return twin


def whole(model, directory):
    """A transformers Bark that equals ours, through a saved checkpoint."""
    model.save_pretrained(directory)
    return transformers.BarkModel.from_pretrained(directory).eval()


def set_generation(twin, config):
    """Gives a transformers Bark our generation configuration, as JSON would."""
    fields = json.loads(json.dumps(config.to_dict()))
    twin.generation_config = transformers.GenerationConfig.from_dict(fields)


def tensor(array):
    """NumPy to torch; whole numbers as int64, masks and all."""
    array = np.array(array)
    dtype = np.float32 if array.dtype.kind == "f" else np.int64
    return torch.from_numpy(array.astype(dtype))


def voice(preset):
    """A voice as transformers' processor returns it."""
    return None if preset is None else {k: tensor(v) for k, v in preset.items()}


@contextlib.contextmanager
def recording(twin):
    """Records what the stages of a transformers Bark return inside the block.

    Yields:
        Dictionary, filled during the block: part -> array, and "lengths" of the coarse
        tokens.
    """
    kept = {}

    def record(part):
        original = getattr(twin, part).generate

        def generate(*args, **kwargs):
            output = original(*args, **kwargs)
            tokens = output
            if isinstance(output, tuple):
                tokens, kept["lengths"] = output[0], output[1].tolist()
            # A copy: the coarse stage writes into the semantic stage's tokens.
            kept[part] = tokens.numpy().copy()
            return output

        getattr(twin, part).generate = generate

    for part in CLASSES:
        record(part)
    try:
        yield kept
    finally:
        for part in CLASSES:
            del getattr(twin, part).generate
