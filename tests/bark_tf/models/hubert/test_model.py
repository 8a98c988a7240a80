"""HuBERT: against golden arrays of transformers, and transformers itself."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import toy_speech
from toy import largest_difference
from toy_files import DictCheckpoint

from bark_tf.audio.reading import load
from bark_tf.config import HubertConfig, HubertQuantizerConfig
from bark_tf.convert import rules
from bark_tf.convert.weights import table_for
from bark_tf.models.hubert import model as hubert_module
from bark_tf.models.hubert.model import HubertModel, Moments
from bark_tf.models.hubert.quantizer import HubertQuantizer
from bark_tf.semantic_tokens.hubert import HubertTokenizer, nearest_frames
from bark_tf.training.recipes.open_voice._start import VOCABULARY

DATA = Path(__file__).parents[3] / "data"
# A few roundings of float32; the values are about 1.
GOLDEN_TOLERANCE = 1e-5
TOY = HubertConfig(
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=24,
    conv_dim=(8, 12, 8),
    conv_stride=(5, 2, 2),
    conv_kernel=(10, 3, 2),
    num_conv_pos_embeddings=8,
    num_conv_pos_embedding_groups=4,
)


def filled(model, arrays):
    """The model, with a checkpoint's tensors."""
    table = table_for(model.config)
    rules.load(table, rules.variables_of(model), DictCheckpoint(arrays))
    return model


def below(golden, prefix):
    """The arrays of one network in the golden file."""
    return {
        name.removeprefix(prefix): golden[name]
        for name in golden
        if name.startswith(prefix)
    }


@pytest.fixture(scope="module")
def golden():
    with np.load(DATA / "hubert_golden.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def hubert(golden):
    return filled(HubertModel(TOY), below(golden, "hubert/"))


def test_every_layer_of_a_row_alone(hubert, golden):
    for row, length in enumerate(golden["mask"].sum(axis=1)):
        states = hubert(golden["audio"][row : row + 1, :length], output_hidden_states=1)
        expected = golden[f"alone_{row}"]
        assert len(states) == len(expected) == 3
        for layer, state in enumerate(states):
            assert largest_difference(state[0], expected[layer]) < GOLDEN_TOLERANCE


def test_rows_of_a_batch_are_what_they_are_alone(hubert, golden):
    states = hubert(golden["audio"], golden["mask"], output_hidden_states=True)
    for row, length in enumerate(golden["mask"].sum(axis=1)):
        frames = hubert.num_frames(length)
        for state, expected in zip(states, golden[f"alone_{row}"], strict=True):
            assert largest_difference(state[row, :frames], expected) < GOLDEN_TOLERANCE


def test_batches_of_transformers(hubert, golden):
    """With padding in the group norm, rows differ from their solo runs."""
    states = hubert(
        golden["audio"], golden["mask"], output_hidden_states=True, compat="hf"
    )
    for row, length in enumerate(golden["mask"].sum(axis=1)):
        frames = hubert.num_frames(length)
        for state, expected in zip(states, golden["batch"], strict=True):
            difference = largest_difference(state[row, :frames], expected[row, :frames])
            assert difference < GOLDEN_TOLERANCE
    alone = golden["alone_2"][-1]
    assert largest_difference(golden["batch"][-1, 2, : len(alone)], alone) > 0.01


def test_any_layer(hubert, golden):
    audio = golden["audio"][:1]
    for layer, expected in enumerate(golden["alone_0"]):
        state = hubert(audio, layer=layer)[0]
        assert largest_difference(state, expected) < GOLDEN_TOLERANCE
    np.testing.assert_array_equal(hubert(audio), hubert(audio, layer=2))


def test_attention_in_blocks_is_the_same(hubert, golden, monkeypatch):
    expected = hubert(golden["audio"], golden["mask"])
    frames = expected.shape[1]
    for queries in (1, frames - 1, frames):
        monkeypatch.setattr(hubert_module, "QUERIES_PER_BLOCK", queries)
        found = hubert(golden["audio"], golden["mask"])
        assert largest_difference(found, expected) < 1e-6


def test_moments_of_pieces_are_those_of_the_whole(rng):
    audio = rng.normal(0.2, 0.1, (2, 403)).astype("f")
    whole = hubert_module.moments(audio, None, 10, 5)
    pieces = [audio[:, start : start + 100 + 5] for start in range(0, 400, 100)]
    parts = [hubert_module.moments(piece, None, 10, 5) for piece in pieces]
    total = parts[0].plus(parts[1]).plus(parts[2]).plus(parts[3])
    for ours, expected in zip(total, whole, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-12)
    assert whole.count[0] == (403 - 10) // 5 + 1


def test_level_norm_is_a_group_norm(rng):
    """Loud and silent audio, against the definition in float64."""
    for level in (0.0, 1e-4, 1.0):
        audio = (level * rng.normal(0.5, 1, (1, 200))).astype("f")
        kernel = rng.normal(size=(10, 4))
        taps = np.lib.stride_tricks.sliding_window_view(audio[0], 10)[::5]
        x = taps.astype("d") @ kernel
        norm = hubert_module.RecordingNorm(4, dtype="float64")
        norm.build()
        moments = Moments(*hubert_module.moments(audio, None, 10, 5))
        found = norm(x[None], kernel, moments)[0]
        expected = (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-5)
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_half_precision_is_near(golden, hubert):
    half = HubertModel(TOY, dtype="mixed_bfloat16")
    half.set_weights(hubert.get_weights())
    state = half(golden["audio"][:1])
    assert state.dtype == "bfloat16"
    assert largest_difference(state[0], golden["alone_0"][-1]) < 0.2


def test_saved_as_keras_has_it(hubert, golden):
    again = HubertModel.from_config(hubert.get_config())
    again.set_weights(hubert.get_weights())
    audio = golden["audio"]
    np.testing.assert_array_equal(again(audio), hubert(audio))


@pytest.mark.parametrize("samples", [30, 49, 50, 399])
def test_number_of_frames(hubert, samples):
    frames = hubert(np.ones((1, samples), "f"), layer=0).shape[1]
    assert frames == hubert.num_frames(samples) == (samples - 30) // 20 + 1


def test_sizes_of_base():
    config = HubertConfig()
    assert (config.hop_length, config.receptive_field) == (320, 400)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"audio": np.zeros((1, 29), "f")}, "at least 30 samples"),
        ({"audio": np.zeros(100, "f")}, "audio must be"),
        ({"audio": np.zeros((1, 100), "i")}, "audio must be"),
        ({"layer": 3}, "layer must be a whole number from 0 to 2"),
        ({"layer": -1}, "layer must be"),
        ({"layer": 1.0}, "layer must be"),
        ({"compat": "HF"}, "compat must be"),
        ({"attention_mask": np.ones((1, 99), "i")}, "shape of audio"),
        ({"attention_mask": np.eye(1, 100, 1, "i")}, "ones for samples"),
        ({"attention_mask": np.full((1, 100), 2)}, "ones for samples"),
        ({"attention_mask": np.zeros((1, 100), "i")}, "at least 30 samples.*row of 0"),
    ],
)
def test_bad_input(hubert, arguments, message):
    with pytest.raises(ValueError, match=message):
        hubert(**{"audio": np.zeros((1, 100), "f"), **arguments})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_attention_heads": 5}, "num_attention_heads must be a divisor"),
        ({"num_conv_pos_embedding_groups": 5}, "groups must be a divisor"),
        ({"conv_stride": (5, 2)}, "conv_stride must be"),
        ({"conv_kernel": (10, 3, 0)}, "conv_kernel must be"),
        ({"conv_dim": ()}, "conv_dim must be"),
        ({"hidden_act": "relu"}, "hidden_act must be 'gelu'"),
        ({"conv_bias": True}, "conv_bias must be False"),
        ({"mask_time_prob": None}, "mask_time_prob must be a number"),
        ({"layer_norm_eps": 0}, r"layer_norm_eps must be a number in \(0, "),
    ],
)
def test_bad_configurations(fields, message):
    with pytest.raises(ValueError, match=message):
        TOY.replace(**fields)


# The quantizer ------------------------------------------------------------------------


@pytest.fixture(params=[0, 14], ids=["version 0", "version 1"], scope="module")
def quantizer(request, golden):
    """A quantizer and its expected output."""
    version = int(request.param > 0)
    config = HubertQuantizerConfig(16, 12, 2, request.param, 20)
    model = filled(HubertQuantizer(config), below(golden, f"quantizer_{version}/"))
    return model, golden[f"logits_{version}"]


def test_quantizer(quantizer, golden):
    model, expected = quantizer
    assert largest_difference(model(golden["frames"]), expected) < GOLDEN_TOLERANCE


def test_merged_quantizer(quantizer, golden):
    """One linear layer replaces two; the original is unchanged."""
    model, expected = quantizer
    before = model.get_weights()
    merged = model.merged()
    assert merged.config.intermediate_size == 0
    assert merged.intermediate is None
    assert largest_difference(merged(golden["frames"]), expected) < GOLDEN_TOLERANCE
    for weight, value in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, value)


@pytest.mark.parametrize("size", [0, 1, 7])
def test_merging_that_saves_nothing(size):
    """12 * 20 weights are not fewer than 7 * (12 + 20)."""
    model = HubertQuantizer(HubertQuantizerConfig(16, 12, 2, size, 20))
    assert model.merged() is model


def test_int8_layers_are_not_merged():
    model = HubertQuantizer(HubertQuantizerConfig(16, 12, 2, 14, 20))
    assert model.merged() is not model
    for layer in (model.intermediate, model.head):
        layer.quantize("int8")
    assert model.merged() is model


@pytest.mark.parametrize("sizes", [(21,), (8, 8, 5), (1, 7, 13), (3, 18)])
def test_quantizer_in_pieces(quantizer, golden, sizes):
    """Parts that are multiples of a loop iteration, and others."""
    model, expected = quantizer
    start, state, logits = 0, None, []
    for size in sizes:
        part, state = model.run(golden["frames"][:, start : start + size], state)
        start += size
        logits.append(part)
    logits = np.concatenate(logits, axis=1)
    assert largest_difference(logits, expected) < GOLDEN_TOLERANCE


# Against transformers and torch -------------------------------------------------------


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
    script = DATA / "make_hubert_golden.py"
    spec = importlib.util.spec_from_file_location(script.stem, script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TOLERANCE = 1e-4
TOY_FIELDS = {
    name: getattr(TOY, name)
    for name in (
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "conv_dim",
        "conv_stride",
        "conv_kernel",
        "num_conv_pos_embeddings",
        "num_conv_pos_embedding_groups",
    )
}
SIZES = {
    "base": {},
    "toy": {**TOY_FIELDS, "num_hidden_layers": 4},
    "odd": {**TOY_FIELDS, "num_conv_pos_embeddings": 7, "mask_time_prob": 0.0},
}


@pytest.fixture(scope="module", params=SIZES)
def pair(request, torch, maker):
    """Theirs and ours."""
    torch.manual_seed(0)
    fields = SIZES[request.param]
    if fields:
        theirs = maker.random_hubert(**fields)
    else:  # as it starts: lively weights of this size amplify rounding
        import transformers

        theirs = transformers.HubertModel(transformers.HubertConfig()).eval()
    ours = filled(HubertModel(HubertConfig(**fields)), maker.tensors(theirs))
    return theirs, ours


@pytest.mark.reference
@pytest.mark.parametrize("frames", [1, 2, 9, 150])
@pytest.mark.parametrize("batch", [1, 3])
def test_against_transformers(pair, torch, rng, frames, batch):
    """Every layer; rows of different lengths."""
    theirs, ours = pair
    hop, field = ours.config.hop_length, ours.config.receptive_field
    samples = (frames - 1) * hop + field + hop // 3
    lengths = np.linspace(samples, field, batch).astype(int)
    mask = np.arange(samples) < lengths[:, None]
    audio = (rng.normal(0, 0.1, (batch, samples)) * mask).astype("f")
    expected = theirs(
        torch.tensor(audio),
        attention_mask=torch.tensor(mask, dtype=torch.long),
        output_hidden_states=True,
    ).hidden_states
    found = ours(audio, mask, output_hidden_states=True, compat="hf")
    assert len(found) == len(expected) == ours.config.num_hidden_layers + 1
    for mine, other in zip(found, expected, strict=True):
        for row, length in enumerate(lengths):
            n = ours.num_frames(length)
            difference = largest_difference(mine[row, :n], other[row, :n].numpy())
            assert difference < TOLERANCE
    # Alone, transformers' row is what it is in our batch.
    found = ours(audio, mask)
    for row, length in enumerate(lengths):
        alone = theirs(torch.tensor(audio[row : row + 1, :length])).last_hidden_state
        n = ours.num_frames(length)
        assert largest_difference(found[row, :n], alone[0].numpy()) < TOLERANCE


@pytest.mark.reference
def test_round_trip_is_bit_equal(pair, maker):
    theirs, ours = pair
    state = maker.tensors(theirs)
    written = rules.tensors(table_for(ours.config), rules.variables_of(ours))
    written = {name: make() for name, *_, make in written}
    assert written.keys() == state.keys()
    for name, array in written.items():
        np.testing.assert_array_equal(array, state[name], strict=True)


@pytest.mark.reference
def test_checkpoints_both_ways(pair, torch, rng, tmp_path):
    """Both of their file types open here, and ours open there."""
    import transformers

    theirs, ours = pair
    if ours.config.hidden_size > 100:
        pytest.skip("the toys show it")
    audio = rng.normal(0, 0.1, (1, 500)).astype("f")
    expected = theirs(torch.tensor(audio)).last_hidden_state.numpy()
    theirs.save_pretrained(tmp_path / "safetensors")
    (tmp_path / "bin").mkdir()
    theirs.config.save_pretrained(tmp_path / "bin")
    torch.save(theirs.state_dict(), tmp_path / "bin" / "pytorch_model.bin")
    for kind in ("safetensors", "bin"):
        loaded = HubertModel.from_pretrained(tmp_path / kind)
        assert largest_difference(loaded(audio), expected) < TOLERANCE
    loaded.save_pretrained(tmp_path / "ours")
    again, info = transformers.HubertModel.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    again = again(torch.tensor(audio)).last_hidden_state
    np.testing.assert_array_equal(again, expected)


@pytest.mark.reference
@pytest.mark.parametrize("size", [0, 4096])
def test_quantizer_against_torch(torch, maker, rng, size):
    """At the community's sizes; torch starts weights at 1 / sqrt(hidden size)."""
    torch.manual_seed(0)
    theirs = maker.Quantizer(768, 1024, 10_000, size).eval()
    config = HubertQuantizerConfig(intermediate_size=size)
    ours = filled(HubertQuantizer(config), maker.tensors(theirs))
    frames = rng.normal(size=(1, 201, 768)).astype("f")
    expected = theirs(torch.tensor(frames)).numpy()
    found = ours(frames).numpy()
    assert largest_difference(found, expected) < 1e-5
    np.testing.assert_array_equal(found.argmax(-1), expected.argmax(-1))


@pytest.mark.reference
def test_tokens_of_a_minute_of_speech(torch, maker, tmp_path):
    """At the published sizes, with layer 9 and the community's quantizer."""
    import transformers

    torch.manual_seed(0)
    theirs = transformers.HubertModel(transformers.HubertConfig()).eval()
    quantizer = maker.Quantizer(768, 1024, 10_000, 4096).eval()
    for weight in quantizer.parameters():
        weight *= 2  # as it starts, it says few tokens
    tokenizer = HubertTokenizer(
        filled(HubertModel(HubertConfig()), maker.tensors(theirs)),
        filled(
            HubertQuantizer(HubertQuantizerConfig(intermediate_size=4096)),
            maker.tensors(quantizer),
        ),
        layer=9,
    )
    words = [word for word in VOCABULARY if word.isalpha() and len(word) > 3]
    toy_speech.say(". ".join(words[:150]), tmp_path / "speech.wav")
    audio = load(tmp_path / "speech.wav", 16_000, max_s=120)[: 60 * 16_000]
    assert len(audio) == 60 * 16_000
    hidden = theirs(torch.tensor(audio[None]), output_hidden_states=True).hidden_states
    expected = quantizer(hidden[9]).argmax(-1)[0].numpy()
    found = tokenizer(audio)
    expected = expected[nearest_frames(len(found), len(expected))]
    assert len(np.unique(expected)) > 100  # or it would show little
    np.testing.assert_array_equal(found, expected)
