"""The mel scale and its filter bank."""

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
