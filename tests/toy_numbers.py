"""What the tests of random numbers and of sampling share."""

import math
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import tensorflow as tf

REFERENCE_FILE = Path(__file__).with_name("reference") / "sampling_reference.py"

reference = SimpleNamespace(**runpy.run_path(str(REFERENCE_FILE)))

WAYS = {
    "eager": lambda function: function,
    "graph": tf.function,
    "xla": lambda function: tf.function(function, jit_compile=True),
}


def random_logits(*shape, seed=0, scale=3.0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) * scale).astype(np.float32)


def bits(array):
    array = np.asarray(array)
    return array.view(np.uint32) if array.dtype == np.float32 else array


def chi_square_deviation(counts, expected):
    """How many standard deviations Pearson's statistic is off (Wilson-Hilferty)."""
    freedom = len(counts) - 1
    statistic = ((counts - expected) ** 2 / expected).sum()
    spread = 2 / (9 * freedom)
    return ((statistic / freedom) ** (1 / 3) - (1 - spread)) / math.sqrt(spread)
