"""The networks of the codec and their parts."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import toy

from bark_tf.models.encodec.seanet import (
    STEPS_PER_LOOP,
    Decoder,
    Encoder,
    LSTMLayer,
    ResidualUnit,
    SkipLSTM,
)

TOY = toy.codec_config()


def randomize(layer):
    """Builds a layer and gives every variable random content."""
    layer.build(None)
    for variable in layer.weights:
        variable.assign(0.5 * np.random.normal(size=variable.shape))
    return layer


def lstm(x, layer):
    """An LSTM one step at a time, gates in the order i, f, g, o."""

    def sigmoid(value):
        return 1 / (1 + np.exp(-value))

    kernel, recurrent_kernel, input_bias, recurrent_bias = map(np.array, layer.weights)
    hidden = cell = np.zeros_like(x[:, 0])
    outputs = []
    for t in range(x.shape[1]):
        gates = x[:, t] @ kernel + hidden @ recurrent_kernel
        i, f, g, o = np.split(gates + input_bias + recurrent_bias, 4, axis=-1)
        cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
        hidden = sigmoid(o) * np.tanh(cell)
        outputs.append(hidden)
    return np.stack(outputs, axis=1)


@pytest.mark.parametrize(
    "length", [1, STEPS_PER_LOOP - 1, STEPS_PER_LOOP, 2 * STEPS_PER_LOOP + 1]
)
def test_lstm_of_lengths_around_whole_turns(length):
    layer = randomize(LSTMLayer(5))
    x = np.random.normal(size=(3, length, 5)).astype("float32")
    np.testing.assert_allclose(layer(x), lstm(x, layer), atol=1e-5)


def test_gradient_of_the_lstm():
    layer = randomize(LSTMLayer(2, dtype="float64"))
    x = np.random.normal(size=(1, STEPS_PER_LOOP + 2, 2))
    traced = tf.function(layer)
    theirs, numeric = tf.test.compute_gradient(traced, [x])
    np.testing.assert_allclose(theirs[0], numeric[0], atol=1e-6)


def test_lstm_stack_has_one_skip_around_all():
    layer = randomize(SkipLSTM(2, 5))
    x = np.random.normal(size=(2, 9, 5)).astype("float32")
    expected = x + lstm(lstm(x, layer.layers[0]), layer.layers[1])
    np.testing.assert_allclose(layer(x), expected, atol=1e-5)


@pytest.mark.parametrize("has_shortcut", [True, False])
def test_residual_unit(has_shortcut):
    config = TOY.replace(use_conv_shortcut=has_shortcut)
    unit = randomize(ResidualUnit(config, 4, dilation=2))
    x = np.random.normal(size=(2, 9, 4)).astype("float32")
    added = unit.conv_2(tf.nn.elu(unit.conv_1(tf.nn.elu(x))))
    beside = unit.shortcut(x) if has_shortcut else x
    assert (unit.shortcut is not None) == has_shortcut
    assert unit.conv_1.channels == 4 // TOY.compress
    np.testing.assert_allclose(unit(x), beside + added, atol=1e-6)


@pytest.mark.parametrize(
    "fields",
    [
        {"num_lstm_layers": 0},
        {"num_residual_layers": 3, "dilation_growth_rate": 3, "compress": 1},
        {"audio_channels": 2, "use_causal_conv": False, "norm_type": "time_group_norm"},
        {"kernel_size": 5, "last_kernel_size": 3, "residual_kernel_size": 4},
    ],
)
def test_shapes(fields):
    config = TOY.replace(**fields)
    encoder, decoder = Encoder(config), Decoder(config)
    encoder.build(None)
    decoder.build(None)
    audio = np.random.normal(size=(2, 33, config.audio_channels))
    latent = encoder(audio.astype("float32"))
    assert latent.shape == (2, 5, 8)
    assert decoder(latent).shape == (2, 5 * 8, config.audio_channels)


@pytest.mark.parametrize(
    ("fields", "dilations"),
    [
        ({}, [1]),
        ({"num_residual_layers": 3}, [1, 2, 4]),
        ({"num_residual_layers": 3, "dilation_growth_rate": 3}, [1, 3, 9]),
    ],
)
def test_dilations_grow_within_a_stage(fields, dilations):
    for stage in Decoder(TOY.replace(**fields)).stages:
        assert [unit.conv_1.dilation for unit in stage.residual_units] == dilations


def test_encoder_has_the_ratios_reversed():
    assert [stage.downsample.stride for stage in Encoder(TOY).stages] == [2, 4]
    assert [stage.upsample.stride for stage in Decoder(TOY).stages] == [4, 2]


@pytest.mark.parametrize("is_causal", [True, False])
def test_what_the_decoder_sees_of_the_future(is_causal):
    """The first frames are mirrored before the start, so these see frame 6."""
    keras.utils.set_random_seed(0)
    decoder = Decoder(TOY.replace(use_causal_conv=is_causal))
    decoder.build(None)
    latent = np.random.normal(size=(1, 20, 8)).astype("float32")
    audio = decoder(latent)
    for frame in (7, 12, 19):
        changed = latent.copy()
        changed[:, frame:] += 1
        differs = np.abs(decoder(changed) - audio)
        start = frame * TOY.hop_length
        assert (differs[:, :start].max() == 0) == is_causal
        assert differs[:, start:].max() > 1e-3
