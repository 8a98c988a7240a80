"""The residual vector quantizer."""

import numpy as np
import pytest
import tensorflow as tf
import toy

from bark_tf.models.encodec.quantizer import Codebook, ResidualVectorQuantizer

TOY = toy.codec_config()


@pytest.fixture
def quantizer():
    layer = ResidualVectorQuantizer(TOY)
    layer.build(None)
    for codebook in layer.codebooks:
        codebook.embed.assign(np.random.normal(size=(16, 8)))
    return layer


@pytest.fixture
def latent():
    return np.random.normal(size=(3, 10, 8)).astype("float32")


def test_nearest_entry(quantizer, latent):
    codebook = quantizer.codebooks[0]
    differences = latent[:, :, None] - np.array(codebook.embed)
    expected = np.argmin(np.linalg.norm(differences, axis=-1), axis=-1)
    codes = codebook.nearest(latent)
    assert codes.dtype == tf.int32
    np.testing.assert_array_equal(codes, expected)


def test_first_of_equally_near_entries():
    codebook = Codebook(4, 2)
    codebook.build(None)
    codebook.embed.assign([[5, 5], [1, 0], [1, 0], [0, 1]])
    assert codebook.nearest(np.array([[[1, 0]]], "float32")).numpy().item() == 1


def test_every_codebook_describes_the_rest(quantizer, latent):
    num_codebooks = len(quantizer.codebooks)
    assert num_codebooks == TOY.num_quantizers == 4
    quantized, codes = quantizer(latent, num_codebooks=num_codebooks)
    rest = latent
    for index, codebook in enumerate(quantizer.codebooks):
        np.testing.assert_array_equal(codes[:, index], codebook.nearest(rest))
        rest = rest - np.array(codebook.embed)[codes[:, index]]
    np.testing.assert_allclose(quantized, latent - rest, atol=1e-5)


def test_fewer_codebooks_give_the_first_codes(quantizer, latent):
    _, codes = quantizer(latent, num_codebooks=4)
    quantized, fewer = quantizer(latent, num_codebooks=2)
    np.testing.assert_array_equal(fewer, codes[:, :2])
    np.testing.assert_array_equal(quantizer.decode(fewer), quantized)


def test_no_gradient_and_no_trainable_variable(quantizer, latent):
    latent = tf.constant(latent)
    with tf.GradientTape() as tape:
        tape.watch(latent)
        quantized, _ = quantizer(latent, num_codebooks=4)
    assert tape.gradient(quantized, latent) is None
    assert quantizer.trainable_variables == []
    assert len(quantizer.weights) == 4 * 4


def test_new_codebook_is_consistent():
    """The moving averages start at the entries."""
    codebook = Codebook(16, 8)
    codebook.build(None)
    np.testing.assert_array_equal(codebook.embed_avg, codebook.embed)
    assert np.std(codebook.embed) > 0
    assert np.array(codebook.inited) == 1


def test_codes_in_the_order_of_transformers_are_refused(quantizer, latent):
    """With the codebooks first they would be rows of fewer codebooks: wrong audio."""
    _, codes = quantizer(latent[:1], num_codebooks=4)
    eight = ResidualVectorQuantizer(TOY.replace(target_bandwidths=(24.0, 48.0)))
    eight.build(None)
    theirs = np.swapaxes(codes, 0, 1)
    with pytest.raises(ValueError, match=r"transformers' \(codebooks, batch, frames\)"):
        eight.decode(theirs)
    assert eight.decode(codes).shape == (1, 10, 8)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (np.zeros((1, 5, 3), int), "1 to 4 codebooks"),
        (np.zeros((4, 3), int), "of shape"),
        (np.zeros((1, 4, 3)), "must be integers"),
        (np.full((1, 4, 3), 16), r"lie in \[0, 16\)"),
    ],
)
def test_codes_that_are_none(quantizer, codes, message):
    with pytest.raises(ValueError, match=message):
        quantizer.decode(codes)


def test_latents_with_the_channels_first_are_refused(quantizer, latent):
    with pytest.raises(ValueError, match=r"latent must have shape .* width=8\)"):
        quantizer(np.swapaxes(latent, 1, 2), num_codebooks=4)
