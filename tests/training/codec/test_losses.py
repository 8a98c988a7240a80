"""The codec's losses, against NumPy and by their properties."""

import numpy as np
import pytest
import tensorflow as tf

from bark_tf.training.codec import losses

RATE = 16_000


@pytest.fixture
def audio(rng):
    return rng.normal(0, 0.1, (2, 4096)).astype(np.float32)


@pytest.mark.parametrize("window", [64, 1024])
def test_a_sine_of_amplitude_one_gives_one(window):
    sine = np.sin(2 * np.pi * np.arange(4096) / 8)[None].astype(np.float32)
    spectrum = losses.magnitudes(sine, window).numpy()
    assert spectrum[0, 3].argmax() == window // 8
    assert spectrum[0, 3].max() == pytest.approx(1, abs=1e-3)


def test_mel_distance_is_in_units_of_20_db(audio):
    mel = losses.MultiScaleMel(RATE, floor=1e-9)
    assert float(mel(audio, audio)) == 0
    assert float(mel(audio, audio / 10)) == pytest.approx(1, abs=1e-3)


def test_mel_distance_skips_windows_longer_than_the_audio():
    short = np.ones((1, 100), np.float32)
    assert float(losses.MultiScaleMel(RATE)(short, short)) == 0
    with pytest.raises(ValueError, match="shortest window, 64"):
        losses.MultiScaleMel(RATE)(short[:, :50], short[:, :50])


def test_only_the_estimate_has_a_gradient(audio):
    """Half of the work would be for nothing."""
    audio, estimate = tf.constant(audio), tf.constant(audio / 2)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([audio, estimate])
        loss = losses.MultiScaleMel(RATE)(audio, estimate)
    assert tape.gradient(loss, audio) is None
    assert np.any(tape.gradient(loss, estimate))


def test_silence_has_a_gradient(audio):
    silence = tf.zeros((2, 4096))
    with tf.GradientTape() as tape:
        tape.watch(silence)
        loss = losses.MultiScaleMel(RATE)(audio, silence)
    assert np.all(np.isfinite(tape.gradient(loss, silence)))


def test_waveform_error_is_relative_to_the_power(audio):
    assert float(losses.waveform_error(audio, audio)) == 0
    assert float(losses.waveform_error(audio, 0 * audio)) == pytest.approx(1, rel=1e-5)
    assert np.isfinite(losses.waveform_error(0 * audio, audio))


def test_commitment_is_relative_to_the_variance(rng):
    latent = tf.constant(rng.normal(size=(2, 50, 4)).astype(np.float32))
    mean = tf.reduce_mean(latent, axis=[0, 1], keepdims=True)
    distance = losses.commitment(latent, mean + 0 * latent)
    assert float(distance) == pytest.approx(1, rel=1e-4)
    scaled = losses.commitment(10 * latent, 10 * (mean + 0 * latent))
    assert float(scaled) == pytest.approx(1, rel=1e-4)


def test_level_counts_latents_above_ten(rng):
    latent = tf.constant(np.sign(rng.normal(size=(2, 50, 4))).astype(np.float32))
    for scale, wanted in ((0.0, 0), (1.0, 0), (10.0, 0), (100.0, np.log(10) ** 2)):
        assert float(losses.level(scale * latent)) == pytest.approx(wanted, abs=1e-5)


def test_hinge_losses_by_hand():
    real, fake = tf.constant([2.0, 0.0]), tf.constant([-2.0, 0.5])
    # real: (0 + 1) / 2, fake: (0 + 1.5) / 2
    loss = losses.discriminator_loss([real], [fake])
    assert float(loss) == pytest.approx(1.25)
    # (3 + 0.5) / 2
    assert float(losses.adversarial_loss([fake])) == pytest.approx(1.75)


def test_feature_distance_is_relative():
    wanted, got = tf.constant([2.0, -2.0]), tf.constant([1.0, -1.0])
    distance = losses.feature_distance([[wanted]], [[got]])
    assert float(distance) == pytest.approx(0.5, rel=1e-5)
