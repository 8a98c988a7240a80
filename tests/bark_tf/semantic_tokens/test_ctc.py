"""Semantic tokens from a recogniser."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
import toy
from safetensors.numpy import load, save
from toy import largest_difference

from bark_tf.config import CtcConfig
from bark_tf.models.ctc import CtcModel
from bark_tf.semantic_tokens import ctc as module
from bark_tf.semantic_tokens.ctc import (
    SAMPLE_RATE,
    CtcTokenizer,
    log_mel,
    log_mel_of_batch,
)
from bark_tf.semantic_tokens.tokenizer import (
    ARRAYS_NAME,
    FILE_NAME,
    load_semantic_tokenizer,
)

CONFIG = CtcConfig(
    num_mels=10, hidden_size=8, num_layers=1, num_heads=2, kernel_size=5, dropout=0.0
)


@pytest.fixture
def audio(rng):
    """Two seconds of tones and noise."""
    pitch = np.repeat(rng.choice([200, 500, 1_500, 4_000], 20), SAMPLE_RATE // 10)
    tones = 0.2 * np.sin(2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE)
    return (tones + rng.normal(0, 1e-3, tones.size)).astype(np.float32)


@pytest.fixture(scope="module")
def tokenizer():
    """Random weights as they are saved; the centres are states of noise."""
    network = toy.randomize(CtcModel(CONFIG), stddev=0.3)
    network.put_arrays({n: a.astype(np.float16) for n, a in network.arrays().items()})
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 2, (40, 8)).astype(np.float16).astype(np.float32)
    return CtcTokenizer(network, centres, rate_hz=50.0)


# Tokens -------------------------------------------------------------------------------


@pytest.mark.parametrize("rate_hz", [50.0, 25.0, 49.9])
@pytest.mark.parametrize("samples", [0, 100, 320, 641, 16_000, 16_319])
def test_as_many_tokens_as_whole_periods_fit(tokenizer, rate_hz, samples):
    other = CtcTokenizer(tokenizer.network, tokenizer.centres, rate_hz=rate_hz)
    found = other(np.zeros(samples, np.float32))
    assert found.dtype == np.int32
    assert len(found) == other.num_tokens(samples)
    assert len(found) == int(np.floor(samples * rate_hz / SAMPLE_RATE + 1e-6))


def test_tokens_are_the_nearest_centres_of_the_states(tokenizer, audio):
    frames = log_mel(audio, 100, rate_hz=50.0, config=CONFIG)
    states = np.asarray(tokenizer.network.encode(frames[None]))[0]
    distances = np.square(states[:, None] - tokenizer.centres).sum(axis=-1)
    found = tokenizer(audio)
    np.testing.assert_array_equal(found, distances.argmin(axis=1))
    np.testing.assert_array_equal(found, tokenizer(audio))
    assert len(set(found)) > 4


def test_loudness_does_not_matter(tokenizer, audio):
    features = [
        log_mel(gain * audio, 100, rate_hz=50.0, config=CONFIG) for gain in (1, 0.02)
    ]
    assert largest_difference(*features) < 1e-4
    assert np.mean(tokenizer(audio) == tokenizer(0.02 * audio)) > 0.98


def test_features_are_about_normal(audio):
    features = log_mel(audio, 100, rate_hz=50.0, config=CONFIG)
    assert features.shape == (200, 10) and features.dtype == np.float32
    assert abs(features.mean()) < 1.5 and 0.3 < features.std() < 2


@pytest.mark.parametrize("rate_hz", [50.0, 49.9])
def test_features_in_a_graph_are_the_same_and_have_a_gradient(audio, rate_hz):
    alone = log_mel(audio, int(2 * rate_hz), rate_hz=rate_hz, config=CONFIG)
    several = tf.constant(np.stack([audio, 0.3 * audio]))
    with tf.GradientTape() as tape:
        tape.watch(several)
        found = log_mel_of_batch(several, several, rate_hz=rate_hz, config=CONFIG)
    gradient = tape.gradient(found, several).numpy()
    assert np.isfinite(gradient).all() and np.any(gradient)
    for row in found.numpy():
        assert largest_difference(row, alone) < 1e-3
    quieter = log_mel_of_batch(0.3 * several, several, rate_hz=rate_hz, config=CONFIG)
    assert np.mean(quieter.numpy() < found.numpy()) > 0.5
    with pytest.raises(ValueError, match=r"at least as long as a token, 0\.02 s"):
        log_mel_of_batch(several[:, :9], several, rate_hz=rate_hz, config=CONFIG)


def test_long_recordings_run_in_windows(tokenizer, audio, monkeypatch):
    """Far from the edges of windows, only attention differs."""
    seen = []
    whole = tokenizer.states(audio)
    monkeypatch.setattr(module, "WINDOW_S", 0.8)
    monkeypatch.setattr(module, "MARGIN_S", 0.2)
    encode = tokenizer._encode
    tokenizer._encode = lambda x: seen.append(x.shape[1]) or encode(x)
    parts = tokenizer.states(audio)
    tokenizer._encode = encode
    assert parts.shape == whole.shape and seen == [80, 80, 80, 80]
    correlation = np.corrcoef(parts.ravel(), whole.ravel())[0, 1]
    assert correlation > 0.9


# Files --------------------------------------------------------------------------------


def test_saved_and_loaded_it_is_the_same(tokenizer, audio, tmp_path):
    tokenizer.save(tmp_path)
    loaded = load_semantic_tokenizer(tmp_path)
    np.testing.assert_array_equal(loaded(audio), tokenizer(audio))
    assert (loaded.kind, loaded.vocab_size, loaded.rate_hz, loaded.sample_rate) == (
        *("ctc", 40, 50.0, SAMPLE_RATE),
    )
    arrays = load((tmp_path / ARRAYS_NAME).read_bytes())
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.float16)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rate_hz": 0}, r"rate_hz must be a number in .*Received: rate_hz=0"),
        ({"rate_hz": "50"}, "rate_hz must be a number in"),
        ({"vocab_size": None}, "vocab_size must be a whole number in"),
        ({"vocab_size": 41}, r"'centres' has shape \(40, 8\), expected \(41, 8\)"),
        ({"network": None}, "network must be an object"),
        ({"network": {"num_heads": 3}}, "num_heads must be"),
    ],
)
def test_damaged_settings_are_refused(tokenizer, tmp_path, change, message):
    tokenizer.save(tmp_path)
    settings = json.loads((tmp_path / FILE_NAME).read_text())
    (tmp_path / FILE_NAME).write_text(json.dumps({**settings, **change}))
    with pytest.raises(ValueError, match=message):
        load_semantic_tokenizer(tmp_path)


def test_arrays_are_compared_before_a_network_is_built(
    tokenizer, tmp_path, monkeypatch
):
    tokenizer.save(tmp_path)
    settings = json.loads((tmp_path / FILE_NAME).read_text())
    settings["network"]["hidden_size"] *= 2
    (tmp_path / FILE_NAME).write_text(json.dumps(settings))
    monkeypatch.setattr(keras.Model, "__init__", None)
    with pytest.raises(ValueError, match=r"tensor 'front/kernel' has shape \(8, "):
        load_semantic_tokenizer(tmp_path)


def test_damaged_arrays_are_refused(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    path = tmp_path / ARRAYS_NAME
    arrays = load(path.read_bytes())
    del arrays["front/bias"]
    path.write_bytes(save(arrays))
    with pytest.raises(ValueError, match="lacks front/bias"):
        load_semantic_tokenizer(tmp_path)


def test_states_that_are_no_numbers_are_refused(tokenizer, audio):
    bias = tokenizer.network.front.bias
    kept = bias.numpy()
    bias.assign(np.full_like(kept, np.nan))
    with pytest.raises(ValueError, match="States of the recogniser must be finite"):
        tokenizer(audio)
    bias.assign(kept)


def test_centres_of_another_width_are_refused(tokenizer):
    with pytest.raises(ValueError, match="the network's width 8"):
        CtcTokenizer(tokenizer.network, np.zeros((3, 9), "f"), rate_hz=50.0)


@pytest.mark.parametrize("wrong", [np.zeros((2, 9), "f"), np.full(900, np.nan, "f")])
def test_wrong_audio_is_refused(tokenizer, wrong):
    with pytest.raises(ValueError, match="audio must be"):
        tokenizer(wrong)
