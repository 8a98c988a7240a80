"""Mel-frequency cepstra and their slopes."""

import numpy as np

from bark_tf.semantic_tokens.features import _cosines, with_slopes


def test_cepstra_are_an_orthonormal_transform():
    cosines = _cosines(40, 40)
    np.testing.assert_allclose(cosines.T @ cosines, np.eye(40), atol=1e-10)


def test_a_ramp_has_a_constant_slope():
    frames = np.arange(10, dtype=np.float32)[:, None] * 3
    slopes = with_slopes(frames)[:, 1]
    np.testing.assert_allclose(slopes[2:-2], 3, rtol=1e-6)
