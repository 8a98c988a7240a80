"""The codec as users call it."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import toy
from toy_files import DictCheckpoint

from bark_tf.config import EncodecConfig
from bark_tf.convert import encodec, rules
from bark_tf.models.encodec.model import EncodecModel

GOLDEN = Path(__file__).parents[3] / "data" / "encodec_golden.npz"

# One layer of each kind; the golden codecs are deeper.
TOY = toy.codec_config(upsampling_ratios=(8,), num_lstm_layers=1)
STEREO = TOY.replace(
    audio_channels=2, use_causal_conv=False, norm_type="time_group_norm"
)


@pytest.fixture(scope="module")
def codec():
    keras.utils.set_random_seed(0)
    return EncodecModel(TOY)


@pytest.fixture
def audio():
    return np.random.normal(scale=0.3, size=(3, 101)).astype("float32")


@pytest.fixture
def codes():
    return np.random.randint(0, 16, size=(3, 4, 20))


# === Against transformers' outputs ===


@pytest.fixture(scope="module", params=["mono", "stereo"])
def golden(request):
    """A toy codec with weights and outputs of transformers."""
    with np.load(GOLDEN) as file:
        arrays = {
            name.removeprefix(f"{request.param}/"): file[name]
            for name in file.files
            if name.startswith(f"{request.param}/")
        }
    codec = EncodecModel(EncodecConfig.from_dict(json.loads(str(arrays["config"]))))
    weights = {
        name.removeprefix("weights/"): array
        for name, array in arrays.items()
        if name.startswith("weights/")
    }
    rules.load(
        encodec.table(codec.config), rules.variables_of(codec), DictCheckpoint(weights)
    )
    return codec, arrays


def test_decoded_audio_is_that_of_transformers(golden):
    codec, arrays = golden
    for name in [name for name in arrays if name.startswith("decoded_")]:
        num_frames = int(name.removeprefix("decoded_"))
        decoded = codec.decode(arrays["codes"][..., :num_frames])
        expected = arrays[name] if decoded.ndim == 3 else arrays[name][:, 0]
        np.testing.assert_allclose(decoded, expected, rtol=0, atol=1e-4)


def test_codes_are_those_of_transformers(golden):
    codec, arrays = golden
    bandwidth = codec.config.target_bandwidths[-1]
    for name in [name for name in arrays if name.startswith("codes_")]:
        heard = arrays["audio"][..., : int(name.removeprefix("codes_"))]
        np.testing.assert_array_equal(codec.encode(heard, bandwidth), arrays[name])


def test_latents_are_those_of_transformers(golden):
    codec, arrays = golden
    for name in [name for name in arrays if name.startswith("latent_")]:
        heard = arrays["audio"][..., : int(name.removeprefix("latent_"))]
        latent = codec.encoder(np.swapaxes(heard, 1, 2))
        expected = np.swapaxes(arrays[name], 1, 2)
        np.testing.assert_allclose(latent, expected, rtol=1e-5, atol=1e-4)


# === Shapes and kinds of input ===


@pytest.mark.parametrize("samples", [1, 8, 9])
def test_encode_and_decode_round_up_to_frames(codec, audio, samples):
    num_frames = -(-samples // 8)
    codes = codec.encode(audio[:, :samples], bandwidth=48.0)
    assert codes.shape == (3, 4, num_frames)
    assert codes.dtype == tf.int32
    decoded = codec.decode(codes)
    assert decoded.shape == (3, 8 * num_frames)
    assert decoded.dtype == tf.float32


@pytest.mark.parametrize(
    ("bandwidth", "num_codebooks"), [(None, 1), (12.0, 1), (24.0, 2), (48, 4)]
)
def test_bandwidth_decides_the_codebooks(codec, audio, bandwidth, num_codebooks):
    codes = codec.encode(audio, bandwidth)
    assert codes.shape[1] == num_codebooks
    np.testing.assert_array_equal(codes, codec.encode(audio, 48.0)[:, :num_codebooks])


def test_a_number_of_codebooks_in_place_of_a_bandwidth(codec, audio):
    codes = codec.encode(audio, num_codebooks=3)
    np.testing.assert_array_equal(codes, codec.encode(audio, 48.0)[:, :3])


def test_audio_may_have_a_channel_axis(codec, audio):
    with_channel = audio[:, None]
    np.testing.assert_array_equal(codec.encode(with_channel), codec.encode(audio))
    reconstructed = codec(with_channel)
    assert reconstructed.shape == with_channel.shape
    np.testing.assert_array_equal(reconstructed[:, 0], codec(audio))


def test_stereo():
    codec = EncodecModel(STEREO)
    audio = np.random.normal(size=(3, 2, 41)).astype("float32")
    codes = codec.encode(audio, 48.0)
    assert codes.shape == (3, 4, 6)
    assert codec.decode(codes).shape == (3, 2, 48)
    assert codec(audio).shape == audio.shape


@pytest.mark.parametrize("kind", ["uint8", "uint16", "int64", "list", "tensor"])
def test_codes_of_any_integer_kind(codec, codes, kind):
    kinds = {"list": codes.tolist(), "tensor": tf.constant(codes)}
    given = kinds[kind] if kind in kinds else codes.astype(kind)
    np.testing.assert_array_equal(codec.decode(given), codec.decode(codes))


def test_audio_of_any_float_kind(codec, audio):
    codes = codec.encode(audio)
    np.testing.assert_array_equal(codec.encode(audio.astype("float64")), codes)
    np.testing.assert_array_equal(codec.encode(audio.tolist()), codes)
    np.testing.assert_array_equal(codec.encode(tf.constant(audio)), codes)


# === What the codec promises ===


def test_reconstruction_is_what_the_codes_say(codec, audio):
    decoded = codec.decode(codec.encode(audio, 24.0))
    reconstructed = codec(audio, bandwidth=24.0)
    assert reconstructed.shape == audio.shape
    np.testing.assert_allclose(reconstructed, decoded[:, :101], atol=1e-5)


def test_late_samples_do_not_change_early_codes(codec, audio):
    changed = audio.copy()
    changed[:, 64:] += 1
    before, after = codec.encode(audio, 48.0), codec.encode(changed, 48.0)
    np.testing.assert_array_equal(after[..., :8], before[..., :8])
    assert np.any(after[..., 8:] != before[..., 8:])


def test_late_codes_do_not_change_early_audio(codec, codes):
    changed = codes.copy()
    changed[..., 12:] = 15 - changed[..., 12:]
    before, after = codec.decode(codes), codec.decode(changed)
    np.testing.assert_array_equal(after[:, : 12 * 8], before[:, : 12 * 8])
    assert np.any(np.array(after)[:, 12 * 8 :] != np.array(before)[:, 12 * 8 :])


def test_rows_of_a_batch_equal_solo_rows(codec, audio, codes):
    decoded, encoded = codec.decode(codes), codec.encode(audio, 48.0)
    for row in range(3):
        solo = codec.decode(codes[row : row + 1])
        np.testing.assert_allclose(solo[0], decoded[row], atol=1e-6)
        solo = codec.encode(audio[row : row + 1], 48.0)
        np.testing.assert_array_equal(solo[0], encoded[row])


def test_other_lengths_and_batches_are_not_traced_again(codec, audio, codes):
    def traces():
        functions = (codec._encode_graph, codec._decode_graph)
        return [function.experimental_get_tracing_count() for function in functions]

    codec.decode(codes)
    codec.encode(audio, 24.0)
    before = traces()
    for rows, frames in ((1, 1), (3, 6), (2, 19)):
        codec.decode(codes[:rows, :, :frames])
        codec.encode(audio[:rows, : 5 * frames], 24.0)
    assert traces() == before


def test_few_lengths_are_decoded(codec, monkeypatch):
    """oneDNN kept 6 MB for every length: a long text took 350 MB more and more."""
    codes = toy.ids(2, 4, 150, high=16)
    lengths = {codec._padded(codes[..., :n]).shape[2] for n in range(1, 151)}
    assert lengths == {*range(1, 64), 64, 128, 192}
    for frames in (63, 65):
        given = codes[..., :frames]
        exact = codec._decode(given)
        np.testing.assert_allclose(codec.decode(given), exact, atol=1e-6)


def test_xla_computes_the_same(codec, audio, codes):
    short = tf.constant(codes[..., :3], tf.int32)  # needs the rule for short inputs
    compiled = tf.function(
        lambda audio, codes: (codec.encode(audio, 48.0), codec.decode(codes)),
        jit_compile=True,
    )
    encoded, decoded = compiled(audio, short)
    np.testing.assert_array_equal(encoded, codec.encode(audio, 48.0))
    np.testing.assert_allclose(decoded, codec.decode(short), atol=1e-5)


def test_gradient_passes_the_quantizer(codec, audio):
    @tf.function
    def gradients(audio):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((codec(audio, bandwidth=48.0) - audio) ** 2)
        return tape.gradient(loss, codec.trainable_variables)

    found = gradients(audio)
    assert len(found) == len(codec.trainable_variables) > 0
    for variable, gradient in zip(codec.trainable_variables, found, strict=True):
        assert gradient is not None, variable.path
        assert np.abs(gradient).max() > 0, variable.path
        assert np.all(np.isfinite(gradient)), variable.path


@pytest.mark.parametrize(
    ("policy", "tolerance"),
    [("float64", 1e-5), ("mixed_float16", 0.02), ("bfloat16", 0.2)],
)
def test_other_dtype_policies(codec, audio, codes, policy, tolerance):
    other = EncodecModel(TOY, dtype=policy)
    other.set_weights(codec.get_weights())
    expected, decoded = codec.decode(codes), other.decode(codes)
    assert decoded.dtype == tf.float32
    assert np.std(expected) > 0.2  # so that the tolerance says something
    np.testing.assert_allclose(decoded, expected, rtol=0, atol=tolerance)
    encoded = other.encode(audio, 48.0)
    assert encoded.dtype == tf.int32
    assert np.mean(encoded == codec.encode(audio, 48.0)) > 0.7
    kinds = {variable.dtype for variable in other.quantizer.weights}
    assert kinds == {"float32"}


# === Errors ===


@pytest.mark.parametrize(
    "audio",
    [
        np.zeros(10, "float32"),
        np.zeros((1, 2, 10), "float32"),
        np.zeros((1, 1, 1, 10), "float32"),
        np.zeros((1, 0), "float32"),
        np.zeros((1, 10), "int16"),
    ],
    ids=["rank 1", "stereo", "rank 4", "empty", "integers"],
)
def test_audio_that_is_refused(codec, audio):
    with pytest.raises(ValueError, match=r"audio must be .* Received: \w+ of shape"):
        codec.encode(audio)


def test_stereo_audio_needs_its_channels():
    with pytest.raises(ValueError, match=r"shape \(batch, 2, samples\)"):
        EncodecModel(STEREO).encode(np.zeros((2, 10), "float32"))


@pytest.mark.parametrize("num_codebooks", [0, 5, 1.5])
def test_codebooks_that_the_codec_does_not_have(codec, audio, num_codebooks):
    with pytest.raises(ValueError, match=r"num_codebooks must be between 1 and 4"):
        codec.encode(audio, num_codebooks=num_codebooks)


@pytest.mark.parametrize("bandwidth", [6.0, 0, -1, "high"])
def test_unknown_bandwidth(codec, audio, bandwidth):
    with pytest.raises(ValueError, match=r"bandwidth must be one of .* Received"):
        codec.encode(audio, bandwidth)


@pytest.mark.parametrize(
    "codes",
    [
        np.zeros((4, 5), int),
        np.zeros((1, 5, 5), int),
        np.zeros((1, 0, 5), int),
        np.zeros((1, 4, 0), int),
        np.zeros((1, 4, 5), "float32"),
        np.zeros((1, 4, 5), bool),
    ],
    ids=["rank 2", "5 of 4 codebooks", "no codebook", "no frame", "floats", "bools"],
)
def test_codes_that_are_refused(codec, codes):
    with pytest.raises(ValueError, match=r"codes must be integers .* Received"):
        codec.decode(codes)


@pytest.mark.parametrize("code", [-1, 16, 2**40])
def test_codes_out_of_range(codec, code):
    codes = np.zeros((1, 4, 5), "int64")
    codes[0, 3, 2] = code
    with pytest.raises(ValueError, match=rf"in \[0, 16\)\. Received: .*{code}"):
        codec.decode(codes)


@pytest.mark.parametrize(
    "fields", [{"normalize": True}, {"chunk_length_s": 1.0, "overlap": 0.01}]
)
def test_codecs_that_need_more_than_codes(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        EncodecModel(TOY.replace(**fields))


def test_a_dictionary_is_no_configuration():
    with pytest.raises(ValueError, match="EncodecConfig"):
        EncodecModel({"num_filters": 4})


# === Keras ===


def test_variable_paths_are_an_interface():
    paths = [variable.path for variable in EncodecModel(TOY).weights]
    convolution = ["direction", "scale", "bias"]
    lstm = ["kernel", "recurrent_kernel", "input_bias", "recurrent_bias"]
    unit = [
        f"residual_0/{part}/{name}"
        for part in ("conv_1", "conv_2", "shortcut")
        for name in convolution
    ]
    down = [*unit, *(f"downsample/{name}" for name in convolution)]
    up = [*(f"upsample/{name}" for name in convolution), *unit]
    expected = [
        *(f"encoder/input_conv/{name}" for name in convolution),
        *(f"encoder/stage_0/{name}" for name in down),
        *(f"encoder/lstm/layer_0/{name}" for name in lstm),
        *(f"encoder/output_conv/{name}" for name in convolution),
        *(
            f"quantizer/codebook_{index}/{name}"
            for index in range(4)
            for name in ("embed", "embed_avg", "cluster_size", "inited")
        ),
        *(f"decoder/input_conv/{name}" for name in convolution),
        *(f"decoder/lstm/layer_0/{name}" for name in lstm),
        *(f"decoder/stage_0/{name}" for name in up),
        *(f"decoder/output_conv/{name}" for name in convolution),
    ]
    assert sorted(paths) == sorted(f"codec_model/{path}" for path in expected)


def test_saving_and_loading(codec, codes, tmp_path):
    codec.save(tmp_path / "codec.keras")
    loaded = keras.saving.load_model(tmp_path / "codec.keras")
    assert loaded.config == codec.config
    np.testing.assert_array_equal(loaded.decode(codes), codec.decode(codes))
    codec.save_weights(tmp_path / "codec.weights.h5")
    other = EncodecModel(TOY)
    other.load_weights(tmp_path / "codec.weights.h5")
    np.testing.assert_array_equal(other.decode(codes), codec.decode(codes))


def test_configuration_keeps_dtype_and_name():
    codec = EncodecModel(TOY, dtype="mixed_bfloat16", name="other")
    copy = EncodecModel.from_config(codec.get_config())
    assert copy.get_config() == codec.get_config()
    assert copy.dtype_policy.name == "mixed_bfloat16"
    assert [v.path for v in copy.weights] == [v.path for v in codec.weights]


def test_summary_knows_the_parameters(codec):
    lines = []
    codec.summary(print_fn=lines.append)
    text = "\n".join(lines)
    assert f"{codec.count_params():,}" in text
    assert "decoder" in text


# === Transformers' form ===


def test_calls_in_the_form_of_transformers(codec, audio):
    values, mask = audio[:, None], np.ones((3, 101), int)
    mask[0, 40:] = 0
    expected = codec.encode(audio * mask, bandwidth=24.0)
    for out in (
        codec.encode(values, mask, 24.0),
        codec.encode(input_values=values, padding_mask=mask[:, None], bandwidth=24.0),
    ):
        assert list(out) == ["audio_codes", "audio_scales", "last_frame_pad_length"]
        np.testing.assert_array_equal(out.audio_codes, expected[None])
    plain = codec.encode(values, return_dict=False)
    np.testing.assert_array_equal(plain[0][0], codec.encode(audio))
    assert plain[1:] == ([None], 0)
    decoded = codec.decode(out.audio_codes, out.audio_scales, mask)
    assert decoded[0] is decoded.audio_values
    heard = codec.decode(expected)[:, None, :101]
    np.testing.assert_array_equal(decoded.audio_values, heard)
    (longer,) = codec.decode(audio_codes=out.audio_codes, return_dict=False)
    assert longer.shape == (3, 1, 104)
    for whole in (
        codec(values, mask, 24.0),
        codec(input_values=values, padding_mask=mask, bandwidth=24.0),
        codec(values, mask, audio_codes=out.audio_codes, audio_scales=[None]),
    ):
        np.testing.assert_array_equal(whole.audio_codes, out.audio_codes)
        np.testing.assert_array_equal(whole.audio_values, heard)
    assert len(codec(input_values=values, return_dict=False)) == 2


def test_scales_and_two_names_for_one_are_refused(codec, audio, codes):
    with pytest.raises(ValueError, match="codecs that scale audio are not supported"):
        codec.decode(codes, [np.ones((3, 1))])
    with pytest.raises(ValueError, match=r"padding_mask must .*batch=3, samples=101"):
        codec.encode(audio, np.ones((3, 100)))
    with pytest.raises(ValueError, match="Exactly one of audio and input_values"):
        codec.encode(audio, input_values=audio)
    with pytest.raises(ValueError, match="Exactly one of codes and audio_codes"):
        codec.decode()
