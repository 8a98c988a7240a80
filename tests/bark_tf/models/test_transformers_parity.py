"""The three transformers against Hugging Face's with equal random weights."""

import itertools
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import toy

from bark_tf.config import BarkConfig
from bark_tf.models.causal import BarkCausalModel, BarkCoarseModel, BarkSemanticModel
from bark_tf.models.fine import BarkFineModel

pytestmark = pytest.mark.reference

HELPER = Path(__file__).parents[2] / "reference" / "hf_bark.py"
TOLERANCE = 1e-4
BATCH, TIME = 3, 9
MASKS = {
    "none": None,
    "all": np.ones((BATCH, TIME), int),
    "right": np.array([[1] * 9, [1] * 6 + [0] * 3, [1] + [0] * 8]),
    "left": np.array([[1] * 9, [0] * 3 + [1] * 6, [0] * 8 + [1]]),
    "hole": np.array([[1] * 9, [1, 0, 0, 1, 1, 0, 1, 1, 1], [0, 1] * 4 + [0]]),
    "nothing": np.array([[1] * 9, [0] * 9, [1] * 9]),
}


@pytest.fixture(scope="module")
def torch():
    pytest.importorskip("transformers")
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def hf(torch):
    with torch.no_grad():
        yield SimpleNamespace(**runpy.run_path(str(HELPER)))


@pytest.fixture(scope="module", params=["bias", "no bias"])
def causal(request, hf):
    """Ours and theirs, once with and once without biases."""
    bias = request.param == "bias"
    model_class, make = (
        (BarkSemanticModel, toy.semantic_config)
        if bias
        else (BarkCoarseModel, toy.coarse_config)
    )
    model = toy.randomize(model_class(make(bias=bias)))
    return model, hf.network(model)


@pytest.fixture(scope="module", params=["tied", "untied, bias", "two given"])
def fine(request, hf):
    changes = {
        "tied": {"bias": False},
        "untied, bias": {"tie_word_embeddings": False, "bias": True},
        "two given": {"n_codes_given": 2, "tie_word_embeddings": False},
    }[request.param]
    model = toy.randomize(BarkFineModel(toy.fine_config(**changes)))
    return model, hf.network(model)


def assert_close(ours, theirs):
    theirs = theirs.detach().numpy()
    assert np.isfinite(theirs).all()
    assert toy.largest_difference(ours, theirs) < TOLERANCE


def assert_same_cache(ours, theirs):
    assert len(ours) == len(theirs.layers)
    for (keys, values), layer in zip(ours, theirs.layers, strict=True):
        assert_close(keys, layer.keys)
        assert_close(values, layer.values)


def assert_same_output(ours, theirs):
    """Logits, hidden states, attentions and, if present, caches."""
    assert np.std(ours.logits) > 1  # nothing has faded away
    assert_close(ours.logits, theirs.logits)
    for name in ("hidden_states", "attentions"):
        assert len(ours[name]) == len(theirs[name])
        for a, b in zip(ours[name], theirs[name], strict=True):
            assert_close(a, b)
    assert (ours.past_key_values is None) == (theirs.get("past_key_values") is None)
    if ours.past_key_values is not None:
        assert_same_cache(ours.past_key_values, theirs.past_key_values)


ALL = {"output_hidden_states": True, "output_attentions": True}


@pytest.mark.parametrize("mask", MASKS)
def test_causal_outputs(causal, hf, mask):
    model, twin = causal
    ids, mask = toy.ids(BATCH, TIME), MASKS[mask]
    theirs = twin(
        hf.tensor(ids), attention_mask=None if mask is None else hf.tensor(mask), **ALL
    )
    assert_same_output(model(ids, attention_mask=mask, **ALL), theirs)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("splits", [(0, 8, 9), (0, 1, 9), (0, 4, 7, 9)])
def test_causal_going_on_from_a_cache(causal, hf, mask, splits):
    model, twin = causal
    ids, mask = toy.ids(BATCH, TIME, seed=1), MASKS[mask]
    cache = theirs_cache = None
    for start, end in itertools.pairwise(splits):
        seen = None if mask is None else mask[:, :end]
        ours = model(
            ids[:, start:end], past_key_values=cache, attention_mask=seen, **ALL
        )
        theirs = twin(
            hf.tensor(ids[:, start:end]),
            past_key_values=theirs_cache,
            attention_mask=None if seen is None else hf.tensor(seen),
            use_cache=True,
            **ALL,
        )
        assert_same_output(ours, theirs)
        cache, theirs_cache = ours.past_key_values, theirs.past_key_values
    assert cache[0][0].shape[2] == TIME


def test_causal_without_a_cache(causal, hf):
    model, twin = causal
    ids = toy.ids(2, 5)
    theirs = twin(hf.tensor(ids), use_cache=False, **ALL)
    ours = model(ids, use_cache=False, **ALL)
    assert ours.past_key_values is None
    assert_same_output(ours, theirs)
    names = {"logits", "hidden_states", "attentions"}
    assert set(ours) == {k for k, v in theirs.items() if v is not None} == names


def test_causal_position_ids(causal, hf):
    model, twin = causal
    ids, positions = toy.ids(2, 5), np.array([[7, 0, 47, 3, 3], [0, 1, 2, 3, 4]])
    theirs = twin(hf.tensor(ids), position_ids=hf.tensor(positions), **ALL)
    assert_same_output(model(ids, position_ids=positions, **ALL), theirs)


HEAD_MASK = np.array([[1, 0, 0.5, 1], [0, 1, 1, 0.25]], "float32")


@pytest.fixture
def with_head_mask(hf):
    """Masks a twin's heads where transformers 4 did; version 5 has no `head_mask`."""
    handles = []

    def mask(twin):
        for layer, heads in zip(twin.layers, HEAD_MASK, strict=True):
            scale = hf.tensor(heads)[:, None, None]
            hook = layer.attn.attn_dropout.register_forward_hook
            handles.append(hook(lambda module, x, y, scale=scale: y * scale))

    yield mask
    for handle in handles:
        handle.remove()


def test_causal_head_mask(causal, hf, with_head_mask):
    model, twin = causal
    with_head_mask(twin)
    ids, mask = toy.ids(BATCH, TIME), MASKS["left"]
    theirs = twin(hf.tensor(ids), attention_mask=hf.tensor(mask), **ALL)
    ours = model(ids, attention_mask=mask, head_mask=HEAD_MASK, **ALL)
    assert_same_output(ours, theirs)


@pytest.mark.parametrize("mask", ["none", "left"])
def test_causal_embeddings(causal, hf, mask):
    model, twin = causal
    embeds = np.random.default_rng(3).normal(size=(BATCH, TIME, 16)).astype("float32")
    mask = MASKS[mask]
    theirs = twin(
        inputs_embeds=hf.tensor(embeds),
        attention_mask=None if mask is None else hf.tensor(mask),
        **ALL,
    )
    ours = model(inputs_embeds=embeds, attention_mask=mask, **ALL)
    assert_same_output(ours, theirs)


def test_causal_tuples_have_the_same_order(causal, hf):
    model, twin = causal
    ids = toy.ids(2, 5)
    theirs = twin(hf.tensor(ids), return_dict=False, **ALL)
    ours = model(ids, return_dict=False, **ALL)
    assert len(ours) == len(theirs) == 4
    assert_close(ours[0], theirs[0])
    assert_same_cache(ours[1], theirs[1])
    assert_close(ours[2][1], theirs[2][1])
    assert_close(ours[3][1], theirs[3][1])


def test_causal_loss_is_the_cross_entropy_of_their_logits(causal, hf, torch):
    model, twin = causal
    ids = toy.ids(BATCH, TIME)
    labels = ids.copy()
    labels[0, :4], labels[1, ::2], labels[2, 0] = -100, -100, -100
    theirs = twin(hf.tensor(ids)).logits
    expected = torch.nn.functional.cross_entropy(
        theirs[:, :-1].reshape(-1, 30), hf.tensor(labels[:, 1:]).reshape(-1)
    )
    assert float(model(ids, labels=labels).loss) == pytest.approx(
        float(expected), rel=1e-5
    )


# === The fine model ===


@pytest.mark.parametrize("options", [{}, {"repetition_penalty": 1.5}])
def test_causal_generation(causal, hf, torch, options):
    model, theirs = causal
    ids = toy.ids(BATCH, TIME, high=29)  # theirs hides `pad_token_id` in a prompt
    end = int(BarkCausalModel.generate(model, ids, **options)[0, TIME + 4])
    options = {**options, "eos_token_id": end, "pad_token_id": 29, "max_new_tokens": 9}
    ours = BarkCausalModel.generate(model, ids, **options)
    generate = super(type(theirs), theirs).generate
    expected = generate(torch.tensor(ids).long(), do_sample=False, **options)
    np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("rows", [24, 45])
def test_resized_embeddings(hf, rows):
    models = (
        BarkSemanticModel(toy.semantic_config()),
        BarkFineModel(toy.fine_config()),
        BarkFineModel(toy.fine_config(tie_word_embeddings=False)),
    )
    for model in models:
        theirs = hf.network(toy.randomize(model))
        model.resize_token_embeddings(rows, pad_to_multiple_of=4)
        theirs.resize_token_embeddings(rows, pad_to_multiple_of=4)
        expected, config = theirs.config, model.config
        assert config.input_vocab_size == expected.input_vocab_size
        assert config.output_vocab_size == expected.output_vocab_size
        is_fine = isinstance(model, BarkFineModel)
        codebook, shape = ((2,), (2, 5, 4)) if is_fine else ((), (2, 5))
        ids = toy.ids(*shape, high=24)
        ours = model(*codebook, ids).logits
        expected = theirs(*codebook, hf.tensor(ids)).logits
        assert ours.shape == expected.shape
        assert_close(ours[..., :24], expected[..., :24])


def every_codebook(model):
    return range(model.config.n_codes_given, model.config.n_codes_total)


def test_fine_outputs_of_every_codebook(fine, hf):
    model, twin = fine
    codes = toy.ids(BATCH, TIME, 4)
    for codebook in every_codebook(model):
        theirs = twin(codebook, hf.tensor(codes), **ALL)
        assert_same_output(model(codebook, codes, **ALL), theirs)


@pytest.mark.parametrize("mask", [name for name in MASKS if name != "none"])
def test_fine_mask(fine, hf, mask):
    model, twin = fine
    codes, mask = toy.ids(BATCH, TIME, 4), MASKS[mask]
    theirs = twin(3, hf.tensor(codes), attention_mask=hf.tensor(mask), **ALL)
    assert_same_output(model(3, codes, attention_mask=mask, **ALL), theirs)


def test_fine_head_mask(fine, hf, with_head_mask):
    model, twin = fine
    with_head_mask(twin)
    codes = toy.ids(BATCH, TIME, 4)
    theirs = twin(2, hf.tensor(codes), **ALL)
    assert_same_output(model(2, codes, head_mask=HEAD_MASK, **ALL), theirs)


def test_fine_position_ids_and_embeddings(fine, hf):
    model, twin = fine
    embeds = np.random.default_rng(3).normal(size=(2, 5, 16)).astype("float32")
    positions = np.array([[7, 0, 47, 3, 3]])
    theirs = twin(
        2, inputs_embeds=hf.tensor(embeds), position_ids=hf.tensor(positions), **ALL
    )
    ours = model(2, inputs_embeds=embeds, position_ids=positions, **ALL)
    assert_same_output(ours, theirs)


def test_fine_loss_is_the_cross_entropy_of_their_logits(fine, hf, torch):
    model, twin = fine
    codes = toy.ids(BATCH, TIME, 4)
    labels = codes.copy()
    labels[0, :4], labels[1, ::2] = -100, -100
    for codebook in every_codebook(model):
        theirs = twin(codebook, hf.tensor(codes)).logits
        expected = torch.nn.functional.cross_entropy(
            theirs.reshape(-1, 30), hf.tensor(labels[:, :, codebook]).reshape(-1)
        )
        for ours in (labels, labels[:, :, codebook]):
            assert float(model(codebook, codes, labels=ours).loss) == pytest.approx(
                float(expected), rel=1e-5
            )


# === The real sizes ===


def test_causal_at_the_size_of_bark_small(hf):
    config = BarkConfig.preset("bark-small").coarse_acoustics_config
    model = toy.randomize(BarkCoarseModel(config), stddev=0.05)
    twin, ids = hf.network(model), toy.ids(1, 64, high=12_096)
    mask = np.ones((1, 64), int)
    mask[0, :5] = 0
    theirs = twin(hf.tensor(ids), attention_mask=hf.tensor(mask), **ALL)
    assert_same_output(model(ids, attention_mask=mask, **ALL), theirs)


def test_fine_at_the_size_of_bark_small(hf):
    config = BarkConfig.preset("bark-small").fine_acoustics_config
    model = toy.randomize(BarkFineModel(config), stddev=0.05)
    twin, codes = hf.network(model), toy.ids(1, 128, 8, high=1056)
    for codebook in (1, 7):
        theirs = twin(codebook, hf.tensor(codes))
        assert_close(model(codebook, codes).logits, theirs.logits)
