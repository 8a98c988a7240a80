"""Semantic tokens of the published Bark: rates, windows, and the tokenizer."""

import json

import numpy as np
import pytest
import toy
from toy import largest_difference

from bark_tf.config import HubertQuantizerConfig
from bark_tf.models.hubert.model import HubertModel
from bark_tf.models.hubert.quantizer import HubertQuantizer
from bark_tf.semantic_tokens import hubert as module
from bark_tf.semantic_tokens.hubert import (
    MARGIN,
    WINDOW,
    HubertTokenizer,
    hubert_windows,
    nearest_frames,
)
from bark_tf.semantic_tokens.tokenizer import (
    ARRAYS_NAME,
    FILE_NAME,
    load_semantic_tokenizer,
)

CONFIG = toy.hubert_config()
QUANTIZER = HubertQuantizerConfig(
    input_size=16, hidden_size=6, intermediate_size=9, output_size=11
)
RATE = 16_000
# Only the order of sums differs.
LOCAL_TOLERANCE = 1e-4


def random_model(model, seed):
    toy.randomize(model, seed=seed)
    for variable in model.weights:
        if variable.path.endswith("scale"):
            variable.assign(np.ones(variable.shape))
    return model


@pytest.fixture(scope="module")
def hubert():
    return random_model(HubertModel(CONFIG), 0)


@pytest.fixture(scope="module")
def tokenizer(hubert):
    quantizer = random_model(HubertQuantizer(QUANTIZER), 1)
    for variable in quantizer.weights:  # so that frames decide, not biases
        variable.assign(variable * (0 if "bias" in variable.path else 4))
    return HubertTokenizer(hubert, quantizer, layer=1)


@pytest.fixture
def audio(rng):
    """3 s, 149 frames, of changing loudness, so that windows differ in level."""
    loudness = 0.3 * np.sin(np.linspace(0.1, 12, 3 * RATE)) ** 2
    return (loudness * rng.normal(0.1, 1, 3 * RATE)).astype("f")


# Rates --------------------------------------------------------------------------------


def test_nearest_frames_are_nearest():
    """By brute force: centres of 49.9 Hz tokens against centres of frames."""
    num_tokens, num_frames = 3_000, 3_010
    centres = (np.arange(num_tokens) + 0.5) / 49.9
    frame_centres = (np.arange(num_frames) * 320 + 200) / RATE
    expected = np.abs(centres[:, None] - frame_centres).argmin(axis=1)
    np.testing.assert_array_equal(nearest_frames(num_tokens, num_frames), expected)


def test_one_frame_in_five_hundred_is_skipped():
    steps = np.diff(nearest_frames(5_000, 5_011))
    assert set(steps) == {1, 2}
    assert set(np.diff(np.flatnonzero(steps == 2))) == {499}


@pytest.mark.parametrize("samples", [321, 400, 719, 720, 16_000, 160_000, 777_777])
def test_every_token_has_a_frame_in_the_recording(hubert, samples):
    num_tokens = int(samples * 49.9 / RATE)
    num_frames = max(1, hubert.num_frames(samples))
    chosen = nearest_frames(num_tokens, num_frames)
    assert len(chosen) == num_tokens and chosen.min() == 0
    assert chosen.max() <= num_frames - 1
    # No token is more than one frame away from its time.
    centres = (np.arange(num_tokens) + 0.5) * RATE / 49.9
    assert np.abs(chosen * 320 + 200 - centres).max() <= 320


# Windows ------------------------------------------------------------------------------


def joined(hubert, audio, layer, **options):
    parts = list(hubert_windows(hubert, audio, layer, **options))
    assert (len(parts) > 1) == bool(options)
    return np.concatenate(parts)


@pytest.mark.parametrize("seconds", [0.025, 0.5, 3])
def test_one_window_is_the_whole(hubert, audio, seconds):
    audio = audio[: int(seconds * RATE)]
    for layer in range(3):
        whole = hubert(audio[None], layer=layer)[0]
        assert largest_difference(joined(hubert, audio, layer), whole) < LOCAL_TOLERANCE


@pytest.mark.parametrize("cut", [0, 1, 500])
@pytest.mark.parametrize(("window", "margin"), [(60, 15), (64, 31), (40, 0)])
def test_local_operations_are_exact_across_windows(hubert, audio, window, margin, cut):
    """Level, convolutions and positions do not depend on windows."""
    audio = audio[: len(audio) - cut]
    whole = hubert(audio[None], layer=0)[0]
    found = joined(hubert, audio, 0, window=window, margin=margin)
    assert largest_difference(found, whole) < LOCAL_TOLERANCE


def test_layers_are_exact_where_attention_adds_nothing(hubert, audio):
    """Only attention can differ between windows and the whole recording."""
    silent = HubertModel(CONFIG)
    silent.set_weights(hubert.get_weights())
    for block in silent.blocks:
        block.attention.out.kernel.assign(np.zeros((16, 16)))
    whole = silent(audio[None])[0]
    found = joined(silent, audio, 2, window=60, margin=15)
    assert largest_difference(found, whole) < LOCAL_TOLERANCE
    # And it does differ:
    whole = hubert(audio[None])[0]
    found = joined(hubert, audio, 2, window=60, margin=15)
    assert largest_difference(found, whole) > LOCAL_TOLERANCE


def test_frames_see_their_window_and_nothing_else(hubert, audio, monkeypatch):
    level = module._level(hubert, audio)
    monkeypatch.setattr(module, "_level", lambda *_: level)
    changed = audio.copy()
    changed[: 20 * 320] = 0
    before = joined(hubert, audio, 2, window=60, margin=15)
    after = joined(hubert, changed, 2, window=60, margin=15)
    # The second window begins at frame 30; the part that is used begins at 45.
    assert largest_difference(before[:45], after[:45]) > 0.1
    np.testing.assert_array_equal(before[45:], after[45:])


def test_states_that_are_no_numbers_are_refused(hubert, audio):
    bias = hubert.projection.linear.bias
    kept = bias.numpy()
    bias.assign(np.full_like(kept, np.nan))
    with pytest.raises(ValueError, match="States of HuBERT must be finite"):
        next(hubert_windows(hubert, audio[:RATE], 0))
    bias.assign(kept)


def test_default_windows_last_a_minute():
    assert WINDOW / 50 == 60 and MARGIN / 50 == 5


@pytest.mark.parametrize(("window", "margin"), [(0, 0), (10, 5), (10, 6), (10, -1)])
def test_windows_must_overlap(hubert, audio, window, margin):
    with pytest.raises(ValueError, match="more than two margins"):
        next(hubert_windows(hubert, audio, 0, window=window, margin=margin))


# The tokenizer ------------------------------------------------------------------------


def test_tokens_are_those_of_the_networks(tokenizer, audio):
    """The quantizer's likeliest token for each frame of HuBERT's layer."""
    logits = tokenizer.quantizer(tokenizer.hubert(audio[None], layer=1))
    frames = np.asarray(logits).argmax(axis=-1)[0]
    found = tokenizer(audio)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, frames[nearest_frames(149, len(frames))])
    assert len(set(found)) > 3


def test_the_lstm_does_not_depend_on_windows(tokenizer, audio, monkeypatch):
    """The LSTM state passes between windows of any length."""
    frames = joined(tokenizer.hubert, audio, 1, window=57, margin=10)
    parts = list(hubert_windows(tokenizer.hubert, audio, 1, window=57, margin=10))
    monkeypatch.setattr(module, "hubert_windows", lambda *_: parts)
    expected = np.asarray(tokenizer.quantizer(frames[None])).argmax(axis=-1)[0]
    np.testing.assert_array_equal(tokenizer._all_frames(audio), expected)


def test_no_computation_is_wasted(tokenizer, audio, monkeypatch):
    """Two linear layers run as one, and no padding frames are computed."""
    heard = []
    window = HubertModel.window
    monkeypatch.setattr(
        HubertModel, "window", lambda *a: heard.append(a[1].shape[1]) or window(*a)
    )
    run = HubertQuantizer.run
    layers = []
    monkeypatch.setattr(
        HubertQuantizer, "run", lambda *a: layers.append(a[0].intermediate) or run(*a)
    )
    HubertTokenizer(tokenizer.hubert, tokenizer.quantizer, layer=1)(audio)
    assert layers == [None]
    assert len(heard) == 1
    assert heard[0] <= len(audio)


def test_two_traces_serve_all_lengths_and_blocks(hubert, audio):
    """One trace for the first length, and one for all others."""
    hubert = HubertModel(hubert.config)
    for samples in (8_000, 9_000, 16_000, 20_001, len(audio)):
        list(hubert_windows(hubert, audio[:samples], window=57, margin=10, layer=2))
    assert hubert._start_graph.experimental_get_tracing_count() <= 2
    assert hubert._block_graph.experimental_get_tracing_count() <= 2


@pytest.mark.parametrize("samples", [0, 1, 320, 321, 399, 400, 720, 16_000, 16_319])
def test_as_many_tokens_as_whole_periods_fit(tokenizer, samples):
    tokens = tokenizer(np.full(samples, 0.1, np.float32))
    assert len(tokens) == tokenizer.num_tokens(samples)
    assert len(tokens) == int(samples * 49.9 / RATE)


def test_silence_has_tokens(tokenizer):
    tokens = tokenizer(np.zeros(RATE, np.float32))
    assert np.all((tokens >= 0) & (tokens < 11))


def test_loudness_does_not_matter(tokenizer, audio):
    loud, quiet = tokenizer(audio), tokenizer(audio / 4)
    assert np.mean(loud == quiet) > 0.9


@pytest.mark.parametrize(
    "audio", [np.zeros((2, 5), "f"), np.zeros(5, "i"), np.full(500, np.nan, "f")]
)
def test_other_audio_is_refused(tokenizer, audio):
    with pytest.raises(ValueError, match="audio must be"):
        tokenizer(audio)


def test_saved_and_loaded_it_is_the_same(tokenizer, audio, tmp_path):
    tokenizer.save(tmp_path / "model")
    loaded = load_semantic_tokenizer(tmp_path / "model")
    assert isinstance(loaded, HubertTokenizer)
    np.testing.assert_array_equal(loaded(audio), tokenizer(audio))
    assert (loaded.kind, loaded.vocab_size, loaded.rate_hz, loaded.sample_rate) == (
        *("hubert", 11, 49.9, RATE),
    )
    assert loaded.layer == 1
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert names == {FILE_NAME, ARRAYS_NAME}


@pytest.mark.parametrize(("layer", "kept"), [(0, 1), (1, 1), (2, 2)])
def test_layers_above_the_one_read_are_not_saved(hubert, audio, tmp_path, layer, kept):
    """Dropping the layers above does not change a layer's output at all."""
    from safetensors.numpy import load_file

    network = random_model(HubertQuantizer(QUANTIZER), 1)
    tokenizer = HubertTokenizer(hubert, network, layer=layer)
    tokenizer.save(tmp_path)
    names = load_file(tmp_path / ARRAYS_NAME)
    found = {name.split(".")[3] for name in names if ".encoder.layers." in name}
    assert found == {str(number) for number in range(kept)}
    loaded = load_semantic_tokenizer(tmp_path)
    assert loaded.layer == layer and len(loaded.hubert.blocks) == kept
    for first in (loaded.hubert, hubert.first_layers(layer)):
        assert first.config == hubert.config.replace(num_hidden_layers=kept)
        np.testing.assert_array_equal(
            first(audio[None], layer=layer), hubert(audio[None], layer=layer)
        )
    np.testing.assert_array_equal(loaded(audio), tokenizer(audio))
    with pytest.raises(ValueError, match="layer must be"):
        hubert.first_layers(3)


def test_published_files_make_a_tokenizer(tokenizer, audio, tmp_path):
    tokenizer.hubert.save_pretrained(tmp_path / "hubert")
    tokenizer.quantizer.save_pretrained(tmp_path / "quantizer")
    weights = tmp_path / "quantizer" / "model.safetensors"
    for quantizer in (tmp_path / "quantizer", weights):
        made = HubertTokenizer.from_pretrained(
            tmp_path / "hubert", quantizer, layer=1, local_files_only=True
        )
        np.testing.assert_array_equal(made(audio[:RATE]), tokenizer(audio[:RATE]))
    with pytest.raises(ValueError, match="HuBERT's width 16"):
        HubertTokenizer(
            tokenizer.hubert, HubertQuantizer(QUANTIZER.replace(input_size=15))
        )
    with pytest.raises(ValueError, match="layer must be"):
        HubertTokenizer(tokenizer.hubert, tokenizer.quantizer)  # 9 of 2
    with pytest.raises(FileNotFoundError):
        HubertTokenizer.from_pretrained(tmp_path / "none", weights)


def test_hubert_from_a_hub(tokenizer, hub, tmp_path):
    tokenizer.hubert.save_pretrained(tmp_path / "hubert")
    for path in (tmp_path / "hubert").iterdir():
        hub.write("some/hubert", path.name, path.read_bytes())
    tokenizer.quantizer.save_pretrained(tmp_path / "quantizer")
    made = HubertTokenizer.from_pretrained(
        "some/hubert", tmp_path / "quantizer", layer=2
    )
    for ours, theirs in zip(made.hubert.weights, tokenizer.hubert.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer": 3}, "layer must be"),
        ({"layer": None}, "layer must be"),
        ({"rate_hz": "x"}, "rate_hz must be"),
        ({"rate_hz": 0}, "rate_hz must be"),
        ({"hubert": None}, "hubert must be an object"),
        ({"quantizer": {"output_size": 12, "input_size": 16}}, "does not fit"),
    ],
)
def test_damaged_settings_are_refused(tokenizer, tmp_path, change, message):
    tokenizer.save(tmp_path)
    path = tmp_path / FILE_NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=message):
        load_semantic_tokenizer(tmp_path)


def test_damaged_arrays_are_refused(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    path = tmp_path / ARRAYS_NAME
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ValueError, match=ARRAYS_NAME):
        load_semantic_tokenizer(tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match="is missing beside"):
        load_semantic_tokenizer(tmp_path)
