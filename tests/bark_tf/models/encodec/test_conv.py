"""The convolutions against slow and obvious NumPy."""

import math

import numpy as np
import pytest
import tensorflow as tf

from bark_tf.config import EncodecConfig
from bark_tf.models.encodec.conv import Convolution, TransposedConvolution, pad_time


def reflect(x, left, right):
    """Pads axis 1 by reflection; a short input is first followed by zeros."""
    missing = max(max(left, right) + 1 - x.shape[1], 0)
    longer = np.pad(x, [(0, 0), (0, missing), (0, 0)])
    padded = np.pad(longer, [(0, 0), (left, right), (0, 0)], mode="reflect")
    return padded[:, : padded.shape[1] - missing]


def convolve(x, kernel, stride=1, dilation=1):
    """A plain convolution of (B, T, C) with (K, C, channels), one tap at a time."""
    reach = (len(kernel) - 1) * dilation
    length = (x.shape[1] - reach - 1) // stride + 1
    taps = [
        x[:, k * dilation :][:, : (length - 1) * stride + 1 : stride] @ kernel[k]
        for k in range(len(kernel))
    ]
    return sum(taps)


def stretch(x, kernel, stride):
    """A plain transposed convolution of (B, T, C) with (K, channels, C)."""
    batch, length, _ = x.shape
    y = np.zeros((batch, (length - 1) * stride + len(kernel), kernel.shape[1]))
    for t in range(length):
        y[:, t * stride :][:, : len(kernel)] += np.einsum(
            "bc,koc->bko", x[:, t], kernel
        )
    return y


def randomize(layer):
    """Builds a layer and gives every variable random content."""
    layer.build(None)
    for variable in layer.weights:
        variable.assign(np.random.normal(size=variable.shape))
    return layer


def normed_kernel(layer):
    """The kernel of a weight norm, per index of the last axis."""
    direction, scale = np.array(layer.direction), np.array(layer.scale)
    columns = [
        direction[..., i] * scale[0, 0, i] / np.linalg.norm(direction[..., i])
        for i in range(direction.shape[-1])
    ]
    return np.stack(columns, axis=-1)


@pytest.mark.parametrize("right", [0, 1, 3])
@pytest.mark.parametrize("length", range(1, 10))
def test_reflection_of_every_length(length, right):
    x = np.random.normal(size=(2, length, 3)).astype("float32")
    expected = reflect(x, 6, right)
    assert expected.shape[1] == 6 + length + right
    np.testing.assert_array_equal(
        pad_time(tf.constant(x), 6, right, "reflect"), expected
    )


def test_reflection_of_a_length_known_only_when_running():
    traced = tf.function(
        lambda x, right: pad_time(x, 6, right, "reflect"),
        input_signature=[tf.TensorSpec((None, None, 3)), tf.TensorSpec((), tf.int32)],
    )
    for length in (1, 6, 7, 30):
        x = np.random.normal(size=(2, length, 3)).astype("float32")
        np.testing.assert_array_equal(traced(x, 2), reflect(x, 6, 2))


@pytest.mark.parametrize(
    ("mode", "numpy_mode"),
    [("constant", "constant"), ("edge", "edge"), ("replicate", "edge")],
)
def test_other_paddings_are_numpys(mode, numpy_mode):
    x = np.random.normal(size=(2, 3, 4)).astype("float32")
    expected = np.pad(x, [(0, 0), (5, 2), (0, 0)], mode=numpy_mode)
    np.testing.assert_array_equal(pad_time(tf.constant(x), 5, 2, mode), expected)


@pytest.mark.parametrize("stride", [1, 2, 5])
@pytest.mark.parametrize("length", [1, 2, 9, 10])
@pytest.mark.parametrize("is_causal", [True, False])
def test_strided_convolution(is_causal, length, stride):
    config = EncodecConfig(use_causal_conv=is_causal)
    layer = randomize(Convolution(config, 3, 4, 2 * stride, stride=stride))
    x = np.random.normal(size=(2, length, 3)).astype("float32")
    fill = math.ceil(length / stride) * stride - length
    right = fill if is_causal else stride // 2 + fill
    left = stride if is_causal else stride - stride // 2
    expected = convolve(reflect(x, left, right), normed_kernel(layer), stride)
    assert expected.shape == (2, math.ceil(length / stride), 4)
    np.testing.assert_allclose(layer(x), expected + np.array(layer.bias), atol=1e-5)


@pytest.mark.parametrize("is_causal", [True, False])
def test_dilated_convolution(is_causal):
    config = EncodecConfig(use_causal_conv=is_causal)
    layer = randomize(Convolution(config, 3, 4, 3, dilation=4))
    x = np.random.normal(size=(2, 11, 3)).astype("float32")
    padded = reflect(x, *((8, 0) if is_causal else (4, 4)))
    expected = convolve(padded, normed_kernel(layer), dilation=4)
    np.testing.assert_allclose(layer(x), expected + np.array(layer.bias), atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "left"),
    [
        ({}, 0),  # everything is cut on the right
        ({"trim_right_ratio": 0.3}, 3),  # ceil(0.3 * 5) = 2 on the right
        ({"trim_right_ratio": 0.0}, 5),
        ({"use_causal_conv": False}, 3),
    ],
)
def test_transposed_convolution(fields, left):
    layer = randomize(TransposedConvolution(EncodecConfig(**fields), 3, 4, 5))
    x = np.random.normal(size=(2, 7, 3)).astype("float32")
    expected = stretch(x, normed_kernel(layer), 5)[:, left : left + 7 * 5]
    np.testing.assert_allclose(layer(x), expected + np.array(layer.bias), atol=1e-5)


@pytest.mark.parametrize("length", [64, None])
@pytest.mark.parametrize("is_causal", [True, False])
def test_no_gradient_is_that_of_a_strided_slice(is_causal, length):
    """That operation takes longer than a convolution of 16 channels."""
    config = EncodecConfig(use_causal_conv=is_causal)
    layers = [
        Convolution(config, 2, 2, 7),
        Convolution(config, 2, 2, 4, stride=2),
        TransposedConvolution(config, 2, 2, 2),
    ]
    for layer in layers:
        layer.build(None)

    @tf.function(input_signature=[tf.TensorSpec((2, length, 2))])
    def gradient(x):
        y = x
        for layer in layers:
            y = layer(y)
        return tf.gradients(y, x)

    operations = gradient.get_concrete_function().graph.get_operations()
    kinds = [operation.type for operation in operations]
    assert "StridedSliceGrad" not in kinds
    # A length known when tracing needs no padding with zeros before the reflection.
    reflections = kinds.count("MirrorPad")
    assert reflections == 2
    if length is not None:
        assert kinds.count("Pad") + kinds.count("PadV2") <= 1


@pytest.mark.parametrize("is_transposed", [False, True])
def test_group_norm_is_over_time_and_channels(is_transposed):
    config = EncodecConfig(norm_type="time_group_norm")
    kind = TransposedConvolution if is_transposed else Convolution
    layer = randomize(kind(config, 3, 4, 2))
    x = np.random.normal(size=(2, 9, 3)).astype("float32")
    kernel = np.array(layer.kernel)
    if is_transposed:
        plain = stretch(x, kernel, 2)
    else:
        plain = convolve(reflect(x, 1, 0), kernel)
    plain = plain + np.array(layer.bias)
    mean = plain.mean(axis=(1, 2), keepdims=True)
    variance = plain.var(axis=(1, 2), keepdims=True)
    expected = (plain - mean) / np.sqrt(variance + 1e-5)
    expected = expected * np.array(layer.norm.gamma) + np.array(layer.norm.beta)
    # The norm sees what is trimmed afterwards.
    np.testing.assert_allclose(
        layer(x), expected[:, : 9 * (2 if is_transposed else 1)], atol=1e-5
    )


def test_weight_norm_of_half_precision_is_computed_wider():
    """The sum of squares of this direction is larger than any float16."""
    layer = Convolution(EncodecConfig(), 8, 4, 3, dtype="float16")
    layer.build(None)
    layer.direction.assign(np.full((3, 8, 4), 100.0))
    expected = np.full((3, 8, 4), 1 / math.sqrt(3 * 8))
    np.testing.assert_allclose(layer.effective_kernel(), expected, rtol=1e-3)
