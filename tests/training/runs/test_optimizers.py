"""AdamW's fused update equals Keras' own; Muon updates the right weights."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import toy

from bark_tf.models.causal import BarkSemanticModel
from bark_tf.training.runs.fit import TrainingOptions, optimizer_of
from bark_tf.training.runs.optimizers import AdamW

SETTINGS = {
    "learning_rate": 0.05,
    "weight_decay": 0.1,
    "beta_1": 0.8,
    "beta_2": 0.95,
    "global_clipnorm": 1.0,
}


def trained(optimizer, gradients, jit_compile=False, dtype="float32"):
    """The variables after one step per list of gradients."""
    rng = np.random.default_rng(0)
    variables = [
        keras.Variable(rng.normal(size=shape), dtype=dtype, name=name)
        for name, shape in (("kernel", (5, 3)), ("bias", (3,)))
    ]
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    optimizer.build(variables)

    @tf.function(jit_compile=jit_compile)
    def step(*arrays):
        optimizer.apply([tf.cast(array, dtype) for array in arrays], variables)

    for arrays in gradients:
        step(*arrays)
    return [keras.ops.convert_to_numpy(variable) for variable in variables]


@pytest.fixture
def gradients():
    rng = np.random.default_rng(1)
    return [
        [tf.constant(scale * rng.normal(size=shape)) for shape in ((5, 3), (3,))]
        for scale in (0.01, 10.0, 1.0, 0.1)  # clipped and not
    ]


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize(
    "more", [{}, {"gradient_accumulation_steps": 2}, {"use_ema": True}]
)
def test_updates_equal_those_of_keras(gradients, more, jit_compile):
    settings = {**SETTINGS, **more}
    expected = trained(keras.optimizers.AdamW(**settings), gradients)
    found = trained(AdamW(**settings), gradients, jit_compile)
    for ours, theirs in zip(found, expected, strict=True):
        assert np.allclose(ours, theirs, rtol=0, atol=1e-6)


def test_half_precision_weights_get_the_same_updates(gradients):
    found = trained(AdamW(**SETTINGS), gradients, dtype="bfloat16")
    expected = trained(AdamW(**SETTINGS), gradients)
    for half, full in zip(found, expected, strict=True):
        # Four roundings to 8 bits of numbers below 4; a weight moves by up to 0.2.
        assert np.allclose(np.float32(half), full, rtol=0, atol=4 * 2 / 256)


def test_rows_of_an_embedding_are_summed():
    """Keras squares the rows of a repeated token one by one."""
    table = keras.Variable(np.ones((4, 2), np.float32))
    optimizer = AdamW(0.1, weight_decay=0.0)
    optimizer.build([table])
    rows = tf.IndexedSlices(tf.ones((3, 2)), tf.constant([1, 1, 2]), (4, 2))
    optimizer.apply([rows], [table])
    moment = optimizer._velocities[0].numpy() / (1 - optimizer.beta_2)
    assert np.allclose(moment, [[0, 0], [4, 4], [1, 1], [0, 0]], rtol=1e-3)


def test_it_survives_serialization():
    optimizer = keras.optimizers.get(keras.optimizers.serialize(AdamW(**SETTINGS)))
    assert isinstance(optimizer, AdamW)
    assert optimizer.global_clipnorm == 1.0


def test_amsgrad_is_refused():
    with pytest.raises(ValueError, match="amsgrad must be False"):
        AdamW(0.1, amsgrad=True)


# === Muon ===


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_muon_gives_kernels_orthogonal_updates_and_the_rest_adamw(dtype):
    model = BarkSemanticModel(toy.semantic_config())
    variables = model.trainable_variables
    before = [variable.numpy() for variable in variables]
    rng = np.random.default_rng(0)
    gradients = [tf.constant(rng.normal(size=v.shape), "float32") for v in variables]
    options = TrainingOptions(
        optimizer="muon", learning_rate=0.01, warmup_steps=0, weight_decay=0.0
    )
    optimizer_of(options, dtype).apply(gradients, variables)
    kinds = set()
    for variable, old in zip(variables, before, strict=True):
        step = (variable.numpy() - old) / 0.01
        is_kernel = "block" in variable.path and "kernel" in variable.path
        if is_kernel:
            # All singular values are 0.2 times the root of the longer side.
            sizes = np.linalg.svd(step, compute_uv=False)
            expected = 0.2 * np.sqrt(max(step.shape))
            assert 0.6 * expected < sizes.min() <= sizes.max() < 1.3 * expected
        else:
            # AdamW's first step: the sign of the gradient.
            size = np.abs(step)
            assert size.max() < 1.001 and np.median(size) > 0.99, variable.path
        kinds.add(is_kernel)
    assert kinds == {True, False}


def test_muon_of_an_older_keras_is_refused(monkeypatch):
    monkeypatch.delattr(keras.optimizers, "Muon")
    with pytest.raises(ImportError, match=r"needs Keras 3\.13"):
        optimizer_of(TrainingOptions(optimizer="muon"))
