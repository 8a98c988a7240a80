"""Toy models, weights and comparisons that many tests share."""

import numpy as np

from bark_tf.config import (
    BarkCoarseConfig,
    BarkFineConfig,
    BarkSemanticConfig,
)

SIZES = {
    "block_size": 48,
    "input_vocab_size": 40,
    "output_vocab_size": 30,
    "num_layers": 2,
    "num_heads": 4,
    "hidden_size": 16,
}


def semantic_config(**changes):
    return BarkSemanticConfig(**{**SIZES, **changes})


def coarse_config(**changes):
    return BarkCoarseConfig(**{**SIZES, **changes})


def fine_config(**changes):
    sizes = {**SIZES, "input_vocab_size": 30, "n_codes_total": 4}
    return BarkFineConfig(**{**sizes, **changes})


def ids(*shape, high=30, seed=0):
    return np.random.default_rng(seed).integers(0, high, shape, dtype=np.int32)


def randomize(model, stddev=0.5, seed=0):
    """Weights so large that logits differ: ties and near ties would hide mistakes."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        mean = 1.0 if variable.path.endswith("gamma") else 0.0
        spread = 0.1 if "norm" in variable.path else stddev
        variable.assign(rng.normal(mean, spread, variable.shape))
    return model


def largest_difference(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    assert a.shape == b.shape, (a.shape, b.shape)
    return float(np.abs(a - b).max()) if a.size else 0.0
