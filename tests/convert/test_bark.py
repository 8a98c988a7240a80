"""The tables of the three transformers."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import toy
import toy_files

from bark_tf.convert import bark
from bark_tf.convert.checkpoints import open_checkpoint
from bark_tf.convert.configs import to_model_args
from bark_tf.convert.rules import fit

REFERENCE = Path(__file__).parents[1] / "reference"
CONFIGS = {
    "semantic": toy.semantic_config(bias=False),
    "coarse": toy.coarse_config(bias=True),
    "fine": toy.fine_config(bias=False),
    "fine, bias": toy.fine_config(bias=True),
    "fine, untied": toy.fine_config(tie_word_embeddings=False),
    "fine, two given": toy.fine_config(n_codes_given=2, tie_word_embeddings=False),
}
# HF's name -> suno's, as in suno-ai/bark.
PAIRS = {
    "layers.1.layernorm_1.weight": "transformer.h.1.ln_1.weight",
    "layers.1.layernorm_2.weight": "transformer.h.1.ln_2.weight",
    "layers.1.attn.att_proj.weight": "transformer.h.1.attn.c_attn.weight",
    "layers.1.attn.out_proj.weight": "transformer.h.1.attn.c_proj.weight",
    "layers.1.mlp.in_proj.weight": "transformer.h.1.mlp.c_fc.weight",
    "layers.1.mlp.out_proj.weight": "transformer.h.1.mlp.c_proj.weight",
    "position_embeds_layer.weight": "transformer.wpe.weight",
    "layernorm_final.weight": "transformer.ln_f.weight",
}
CAUSAL_PAIRS = {
    "input_embeds_layer.weight": "transformer.wte.weight",
    "lm_head.weight": "lm_head.weight",
}
FINE_PAIRS = {
    f"input_embeds_layers.{j}.weight": f"transformer.wtes.{j}.weight" for j in range(4)
}


def theirs(config, names="hf"):
    return [rule.theirs for rule in bark.table(config, names).rules]


@pytest.mark.parametrize("name", CONFIGS)
def test_both_spellings_name_the_same_variables(name):
    config = CONFIGS[name]
    hf, suno = bark.table(config), bark.table(config, "suno")
    assert [rule.ours for rule in hf.rules] == [rule.ours for rule in suno.rules]
    names = dict(zip(theirs(config), theirs(config, "suno"), strict=True))
    expected = PAIRS | (CAUSAL_PAIRS if "fine" not in name else FINE_PAIRS)
    assert {hf_name: names[hf_name] for hf_name in expected} == expected
    for table in (hf, suno):
        assert len({rule.theirs for rule in table.rules}) == len(table.rules)


def test_every_name_of_a_causal_model():
    assert sorted(theirs(toy.semantic_config(bias=False, num_layers=1))) == [
        "input_embeds_layer.weight",
        "layernorm_final.weight",
        "layers.0.attn.att_proj.weight",
        "layers.0.attn.out_proj.weight",
        "layers.0.layernorm_1.weight",
        "layers.0.layernorm_2.weight",
        "layers.0.mlp.in_proj.weight",
        "layers.0.mlp.out_proj.weight",
        "lm_head.weight",
        "position_embeds_layer.weight",
    ]


def test_biases():
    causal = [n for n in theirs(toy.coarse_config()) if n.endswith("bias")]
    assert len(causal) == 2 * 6 + 1
    assert "layers.1.attn.out_proj.bias" in causal
    assert "lm_head.bias" not in causal
    # The fine model's norms have theirs always.
    fine = [n for n in theirs(toy.fine_config(bias=False)) if n.endswith("bias")]
    assert len(fine) == 2 * 2 + 1
    assert {n.split(".")[-2] for n in fine} == {
        *("layernorm_1", "layernorm_2", "layernorm_final")
    }


def test_masks_are_constants_of_the_causal_models():
    masks = bark.table(toy.semantic_config()).constants
    assert list(masks) == ["layers.0.attn.bias", "layers.1.attn.bias"]
    mask = masks["layers.0.attn.bias"]()
    assert (mask.shape, mask.dtype) == ((1, 1, 48, 48), bool)
    np.testing.assert_array_equal(mask[0, 0], np.tril(np.ones((48, 48), bool)))
    assert list(bark.table(toy.coarse_config(), "suno").constants) == [
        *("transformer.h.0.attn.bias", "transformer.h.1.attn.bias")
    ]
    assert bark.table(toy.fine_config()).constants == {}


def test_tied_heads_are_second_names():
    tied = bark.table(toy.fine_config())
    assert tied.aliases == {
        f"lm_heads.{i}.weight": f"input_embeds_layers.{i + 1}.weight" for i in range(3)
    }
    untied = bark.table(CONFIGS["fine, untied"])
    assert untied.aliases == {}
    heads = {rule.ours: rule.theirs for rule in untied.rules if "head" in rule.theirs}
    assert heads == {f"lm_head_{i}/kernel": f"lm_heads.{i}.weight" for i in range(3)}
    assert len([n for n in theirs(CONFIGS["fine, two given"]) if "head" in n]) == 2


def test_unknown_names():
    with pytest.raises(ValueError, match=r"names must be one of .* Received: 'meta'"):
        bark.table(toy.semantic_config(), "meta")


@pytest.mark.parametrize("name", ["semantic", "coarse", "fine, bias"])
def test_suno_names_of_a_compiled_module_with_masks(name, tmp_path):
    config = CONFIGS[name]
    arrays = toy_files.arrays(
        config, "suno", "_orig_mod.", with_masks=True, with_heads=True
    )
    path = toy_files.save(tmp_path / "text.pt", arrays)
    table = bark.table(config, "suno")
    with open_checkpoint(path) as checkpoint:
        stored = fit(table, checkpoint)
    # ".attn.bias" is a mask, ".c_attn.bias" a bias.
    assert set(stored.values()) == {n for n in arrays if not n.endswith(".attn.bias")}


# === Against the originals ===


@pytest.mark.reference
@pytest.mark.parametrize("name", CONFIGS)
def test_names_and_shapes_of_transformers(name):
    transformers = pytest.importorskip("transformers")
    config = CONFIGS[name]
    kind = type(config).__name__.removesuffix("Config")  # BarkSemantic, ...
    fields = config.to_dict()
    del fields["model_type"]
    twin = getattr(transformers, f"{kind}Model")(
        getattr(transformers, f"{kind}Config")(**fields)
    )
    made = toy_files.arrays(config, with_masks=True, with_heads=True)
    assert {n: (a.shape, str(a.dtype)) for n, a in made.items()} == {
        n: (tuple(t.shape), str(t.dtype).removeprefix("torch."))
        for n, t in twin.state_dict().items()
    }


@pytest.mark.reference
@pytest.mark.parametrize("name", ["semantic", "coarse", "fine", "fine, bias"])
def test_names_and_shapes_of_suno(name):
    pytest.importorskip("torch")
    suno = runpy.run_path(str(REFERENCE / "suno_bark.py"))
    config = CONFIGS[name]
    twin = suno["network"](to_model_args(config))
    made = toy_files.arrays(config, "suno", with_heads=True)
    masks = bark.table(config, "suno").constants
    assert {n: a.shape for n, a in made.items()} == {
        n: tuple(t.shape) for n, t in twin.state_dict().items() if n not in masks
    }
