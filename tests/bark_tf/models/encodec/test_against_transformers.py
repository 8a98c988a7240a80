"""The codec against transformers with the same random weights."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from toy_files import DictCheckpoint

from bark_tf.config import EncodecConfig
from bark_tf.convert import encodec, rules
from bark_tf.models.encodec.model import EncodecModel

pytestmark = pytest.mark.reference

SCRIPT = Path(__file__).parents[3] / "data" / "make_encodec_golden.py"

TOLERANCE = 1e-4

TOY = {
    "num_filters": 4,
    "hidden_size": 16,
    "upsampling_ratios": [4, 2],
    "codebook_size": 64,
    "target_bandwidths": [72.0],
}
CODECS = {
    "real": {},
    "toy": {**TOY, "target_bandwidths": [18.0, 36.0, 72.0]},
    "deep": {**TOY, "num_residual_layers": 3, "num_lstm_layers": 1},
    "wide kernels": {
        **TOY,
        "kernel_size": 9,
        "last_kernel_size": 3,
        "residual_kernel_size": 5,
        "dilation_growth_rate": 3,
        "num_residual_layers": 2,
        "compress": 1,
    },
    "zero padding": {**TOY, "pad_mode": "constant", "use_conv_shortcut": False},
    "edge padding": {**TOY, "pad_mode": "replicate", "trim_right_ratio": 0.3},
    "not causal": {**TOY, "use_causal_conv": False, "upsampling_ratios": [5, 2]},
    "stereo": {
        **TOY,
        "audio_channels": 2,
        "norm_type": "time_group_norm",
        "use_causal_conv": False,
    },
}


@pytest.fixture(scope="module")
def torch():
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    # On a busy machine, torch's threads wait for each other in every small step.
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        yield torch
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="module")
def maker(torch):
    """The script that makes the golden file: it makes weights with visible effect."""
    spec = importlib.util.spec_from_file_location(SCRIPT.stem, SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", params=CODECS)
def pair(request, torch, maker):
    """Theirs, ours with the same weights, and audio (3, channels, samples).

    The toys' audio is shorter: they have 8 or 10 samples per frame, not 320.
    """
    torch.manual_seed(0)
    num_samples = 24_001 if request.param == "real" else 2001
    theirs, audio = maker.random_codec(num_samples, **CODECS[request.param])
    ours = EncodecModel(EncodecConfig(**CODECS[request.param]))
    arrays = {name: value.numpy() for name, value in theirs.state_dict().items()}
    variables = rules.variables_of(ours)
    rules.load(encodec.table(ours.config), variables, DictCheckpoint(arrays))
    return theirs, ours, audio.numpy()


@pytest.mark.parametrize("num_frames", [1, 2, 3, 6, 7, 8, 20])
@pytest.mark.parametrize("batch", [1, 3])
def test_decoded_audio(pair, torch, num_frames, batch):
    theirs, ours, _ = pair
    size = ours.config.codebook_size
    for bandwidth in ours.config.target_bandwidths:
        shape = (batch, ours.config.num_codebooks(bandwidth), num_frames)
        codes = np.random.randint(0, size, shape)
        expected = theirs.decode(torch.tensor(codes)[None], [None]).audio_values
        decoded = np.reshape(ours.decode(codes), expected.shape)
        assert expected.std() > 0.05
        np.testing.assert_allclose(decoded, expected, rtol=0, atol=TOLERANCE)


def assert_same_codes(ours, theirs, latents, codebooks):
    """Codes are equal, except where two entries are equally near.

    Random codebooks make such ties: both entries are then as near as an error of
    TOLERANCE in every value of the latent can tell. What follows a tie in its frame
    is not compared.

    Args:
        ours: (batch, num_codebooks, frames).
        theirs: The same.
        latents: (batch, frames, width).
        codebooks: Arrays (entries, width).
    """
    assert ours.shape == theirs.shape
    rest = latents.astype("float64")
    compared = np.ones(rest.shape[:2], bool)
    for index, entries in enumerate(codebooks[: ours.shape[1]]):
        mine, other = entries[ours[:, index]], entries[theirs[:, index]]
        farther = np.sum((rest - mine) ** 2 - (rest - other) ** 2, axis=-1)
        explained = 2 * TOLERANCE * np.sum(np.abs(mine - other), axis=-1)
        assert np.all(farther[compared] <= explained[compared])
        compared &= ours[:, index] == theirs[:, index]
        rest -= other
    assert np.mean(compared) > 0.99


@pytest.mark.parametrize("samples", [1, 319, 320, 321, 4000, 24_001])
@pytest.mark.parametrize("batch", [1, 3])
def test_latents_and_codes(pair, torch, samples, batch):
    theirs, ours, audio = pair
    heard = audio[:batch, :, :samples]
    expected = theirs.encoder(torch.tensor(heard)).transpose(1, 2).numpy()
    latents = ours.encoder(np.swapaxes(heard, 1, 2))
    np.testing.assert_allclose(latents, expected, rtol=0, atol=TOLERANCE)
    codebooks = [np.array(codebook.embed) for codebook in ours.quantizer.codebooks]
    for bandwidth in (None, *ours.config.target_bandwidths):
        codes = theirs.encode(torch.tensor(heard), bandwidth=bandwidth).audio_codes[0]
        encoded = ours.encode(heard, bandwidth).numpy()
        assert_same_codes(encoded, codes.numpy(), expected, codebooks)


def test_reconstruction(pair, torch):
    theirs, ours, audio = pair
    bandwidth = ours.config.target_bandwidths[-1]
    expected = theirs(torch.tensor(audio[..., :4001]), bandwidth=bandwidth)
    reconstructed = ours(audio[..., :4001], bandwidth=bandwidth)
    np.testing.assert_allclose(
        reconstructed, expected.audio_values, rtol=0, atol=TOLERANCE
    )


def test_their_form_of_call(pair, torch):
    theirs, ours, audio = pair
    bandwidth = ours.config.target_bandwidths[-1]
    mask = np.ones((3, 2001), int)
    mask[0, 1200:] = 0
    heard = audio[..., :2001]
    tensors = torch.tensor(heard), torch.tensor(mask), bandwidth
    expected, found = theirs(*tensors), ours(heard, mask, bandwidth)
    assert found.audio_codes.shape == expected.audio_codes.shape
    assert np.mean(found.audio_codes == expected.audio_codes.numpy()) > 0.99
    assert found.audio_values.shape == expected.audio_values.shape
    encoded = ours.encode(heard, mask, bandwidth)
    assert list(encoded) == list(theirs.encode(*tensors))
    decoded = ours.decode(expected.audio_codes.numpy(), encoded.audio_scales, mask)
    np.testing.assert_allclose(decoded[0], expected.audio_values, atol=TOLERANCE)


def test_round_trip_is_bit_equal(pair):
    theirs, ours, _ = pair
    state = {
        rules.canonical_name(name): value.numpy()
        for name, value in theirs.state_dict().items()
    }
    written = rules.tensors(encodec.table(ours.config), rules.variables_of(ours))
    written = {name: make() for name, *_, make in written}
    assert written.keys() == state.keys()
    for name, array in written.items():
        np.testing.assert_array_equal(array, state[name], strict=True)


@pytest.mark.parametrize("codec", CODECS)
def test_derived_numbers(torch, codec):
    import transformers

    theirs = transformers.EncodecModel(transformers.EncodecConfig(**CODECS[codec]))
    ours = EncodecConfig(**CODECS[codec])
    assert ours.num_quantizers == theirs.config.num_quantizers
    for bandwidth in ours.target_bandwidths:
        expected = theirs.quantizer.get_num_quantizers_for_bandwidth(bandwidth)
        assert ours.num_codebooks(bandwidth) == expected
