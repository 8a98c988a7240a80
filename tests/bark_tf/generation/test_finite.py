"""What is no number ends in an error, whoever asked: logits, codes and audio."""

import contextlib

import numpy as np
import pytest
import tensorflow as tf
import toy

from bark_tf.generation import finite
from bark_tf.generation.pipeline import piece
from bark_tf.memory import put
from bark_tf.models.causal import BarkCausalModel
from bark_tf.models.encodec.model import EncodecModel

ADVICE = r"must be finite\. Received: NaN or infinity\. .* dtype bfloat16 or float32"


@pytest.fixture(scope="module")
def bark():
    return toy.shared_bark()


@contextlib.contextmanager
def damaged(weight, value=np.nan):
    """One number of a weight is NaN, in a place that only computing shows."""
    kept = weight.numpy()
    broken = kept.copy()
    broken.flat[-1] = value
    put(weight, broken)
    yield
    put(weight, kept)


def test_a_graph_raises_tensorflows_error():
    """An export has nothing else."""

    @tf.function
    def checked(x):
        finite.require(finite.is_finite(x), "x")
        return x

    assert checked(tf.constant([1.0])) == 1
    for value in (np.nan, np.inf, -np.inf):
        with pytest.raises(tf.errors.InvalidArgumentError, match=f"x {ADVICE}"):
            checked(tf.constant([1.0, value]))


@pytest.mark.parametrize(
    ("part", "stage"),
    [
        ("semantic", "Logits of the semantic stage"),
        ("coarse_acoustics", "Logits of the coarse stage"),
        ("fine_acoustics", "Logits of the fine stage"),
        ("codec_model", "Audio"),
    ],
)
def test_damaged_weights_end_in_an_error(bark, part, stage):
    """They once were silence, noise, or tokens without a sense."""
    network = bark.parts[part]
    weight = (
        network.decoder.output_conv.bias
        if part == "codec_model"
        else network.blocks[-1].mlp.proj.kernel
    )
    speak = {**toy.texts(4), "jit_compile": False}
    with damaged(weight):
        with pytest.raises(ValueError, match=f"^{stage}.* {ADVICE}"):
            bark.generate(**speak)
        if part == "codec_model":
            with pytest.raises(ValueError, match=f"^{stage}.* {ADVICE}"):
                list(bark.stream(**speak))
    assert np.isfinite(bark.generate(**speak)).all()


def test_the_sub_models_too(bark):
    codes = np.zeros((1, 4, 8), np.int32)
    ids = np.zeros((1, 2), np.int32)
    with damaged(bark.semantic.blocks[0].attention.qkv.kernel):
        with pytest.raises(ValueError, match=f"semantic stage {ADVICE}"):
            BarkCausalModel.generate(bark.semantic, ids, jit_compile=False)
    with damaged(bark.codec_model.decoder.output_conv.bias):
        with pytest.raises(ValueError, match=f"Audio of the codec {ADVICE}"):
            bark.codec_model.decode(codes)
        with pytest.raises(ValueError, match=f"Audio of the codec {ADVICE}"):
            bark.codec_decode(codes)
        with pytest.raises(tf.errors.InvalidArgumentError, match=f"Audio {ADVICE}"):
            tf.function(piece)(bark.codec_model, tf.constant(codes[0]), 0, 8)
    audio = np.zeros((1, 80), np.float32)
    bark.codec_model.encode(audio)
    with damaged(bark.codec_model.encoder.output_conv.bias):
        with pytest.raises(ValueError, match=f"what the codec makes of it {ADVICE}"):
            bark.codec_model.encode(audio)


def test_what_overflows_in_half_precision():
    """Sums beyond 65,504 are infinite in float16."""
    codec = EncodecModel(toy.codec_config(), dtype="float16")
    codes = np.zeros((1, 4, 8), np.int32)
    codec.decode(codes)
    scale = codec.decoder.output_conv.scale
    scale.assign(tf.fill(scale.shape, 60_000.0))
    bias = codec.decoder.output_conv.bias
    bias.assign(tf.fill(bias.shape, 60_000.0))
    with pytest.raises(ValueError, match=f"Audio of the codec {ADVICE}"):
        codec.decode(codes)
