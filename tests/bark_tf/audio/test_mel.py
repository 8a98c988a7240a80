"""The mel scale and its filter bank."""

import math

import numpy as np
import pytest

from bark_tf.audio import mel


def test_mel_scale_inverts():
    hz = np.array([0, 200, 999, 1000, 4000, 8000.0])
    np.testing.assert_allclose(mel.mel_to_hz(mel.hz_to_mel(hz)), hz, atol=1e-8)


@pytest.mark.parametrize(("window", "num_mels"), [(64, 8), (512, 64), (2048, 80)])
def test_bands_average_and_cover(window, num_mels):
    bands = mel.mel_matrix(window, num_mels, 16_000)
    assert bands.shape == (window // 2 + 1, num_mels)
    np.testing.assert_allclose(bands.sum(0), 1, rtol=1e-5)
    assert bands.min() >= 0


def test_magnitudes_read_the_amplitude_of_a_sine():
    sine = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(8000) / 16_000)
    spectrum = mel.magnitudes(sine, 512, 128)
    assert spectrum.shape == (60, 257)
    assert spectrum[:-4].max() == pytest.approx(0.5, rel=1e-3)
    assert spectrum[0].argmax() == 1000 * 512 / 16_000


@pytest.mark.parametrize("length", [1, 100, 512, 513, 640])
def test_every_sample_is_under_a_window(length):
    audio = np.zeros(length)
    audio[-1] = 1
    frames = mel.magnitudes(audio, 512, 128)
    assert len(frames) == 1 + max(0, math.ceil((length - 512) / 128))


def test_decibels_of_a_louder_sound_are_higher(rng):
    noise = 0.1 * rng.standard_normal(16_000)
    quiet, loud = (mel.mel_decibels(one, 16_000) for one in (noise, 10 * noise))
    assert quiet.shape == (84, 80)
    np.testing.assert_allclose(loud - quiet, 20, atol=1e-6)
    assert mel.mel_decibels(np.zeros(100), 16_000).tolist() == [[-80.0] * 80]
