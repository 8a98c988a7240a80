"""Adapters in PEFT's files, which PEFT itself reads and writes in a reference test."""

import json

import numpy as np
import pytest
import safetensors.numpy
import toy

from bark_tf.models.causal import BarkSemanticModel
from bark_tf.training.runs.lora import load_lora, merge_lora, save_lora, save_peft
from bark_tf.training.runs.peft import CONFIG_NAME, WEIGHTS_NAME

PREFIX = "base_model.model.semantic.layers.0."


def adapted(rng, rank=2, alpha=6):
    model = toy.bark().semantic
    model.enable_lora(rank, alpha, targets=("qkv", "proj"))
    for weight in model.trainable_weights:
        weight.assign(rng.normal(0, 0.5, weight.shape))
    return model


@pytest.fixture
def folder(rng, tmp_path):
    save_lora(adapted(rng), tmp_path / "semantic.safetensors")
    save_peft(tmp_path, "suno/bark-small")
    return tmp_path


def test_the_files_say_what_the_merged_kernels_are(rng, folder):
    config = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == "suno/bark-small"
    assert (config["r"], config["lora_alpha"]) == (2, 6)
    names = {name.split("layers.0.")[-1] for name in config["target_modules"]}
    assert {"attn.att_proj", "mlp.out_proj"} <= names
    tensors = safetensors.numpy.load_file(folder / WEIGHTS_NAME)
    model = toy.bark().semantic
    before = {name: layer.kernel.numpy() for name, layer in model.projections()}
    load_lora(model, folder / "semantic.safetensors")
    merge_lora(model)
    kernel = dict(model.projections())["block_0/attention/qkv"].kernel.numpy()
    a, b = (tensors[f"{PREFIX}attn.att_proj.lora_{one}.weight"] for one in "AB")
    expected = before["block_0/attention/qkv"] + 6 / 2 * b @ a
    np.testing.assert_allclose(kernel, expected, atol=1e-6)


@pytest.mark.parametrize("whole", [True, False])
def test_they_come_back(rng, folder, whole):
    ids = np.arange(6)[None]
    one, two = toy.bark().semantic, toy.bark().semantic
    load_lora(one, folder)
    (folder / "semantic.safetensors").unlink()
    if not whole:
        tensors = safetensors.numpy.load_file(folder / WEIGHTS_NAME)
        tensors = {name.replace(".semantic.", "."): v for name, v in tensors.items()}
        safetensors.numpy.save_file(tensors, folder / WEIGHTS_NAME)
    about = load_lora(two, folder)
    assert (about.rank, about.alpha) == (2, 6)
    np.testing.assert_array_equal(one(ids).logits, two(ids).logits)
    assert len(two.trainable_weights) == len(one.trainable_weights) > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "IA3"}, "must hold LoRA adapters.*peft_type='IA3'"),
        ({"use_dora": True}, "not of DoRA.*use_dora=True"),
        (
            {"alpha_pattern": {"semantic.layers.0.attn.att_proj": 9}},
            r"one rank and alpha for .*Received: .*\(2, 6\), \(2, 9\)",
        ),
    ],
)
def test_other_adapters_are_refused(folder, changes, message):
    (folder / "semantic.safetensors").unlink()
    config = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
    (folder / CONFIG_NAME).write_text(json.dumps({**config, **changes}))
    with pytest.raises(ValueError, match=message):
        load_lora(toy.bark().semantic, folder)
    with pytest.raises(ValueError, match=r"network 'coarse_acoustics\.'.*none"):
        (folder / CONFIG_NAME).write_text(json.dumps(config))
        load_lora(toy.bark().coarse_acoustics, folder)


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")
def test_peft_reads_and_writes_them(rng, folder, tmp_path):
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    from transformers import BarkModel

    ids = np.arange(6)[None]
    toy.bark().save_pretrained(tmp_path / "base")
    theirs = BarkModel.from_pretrained(tmp_path / "base").eval()
    loaded = peft.PeftModel.from_pretrained(theirs, folder)
    ours = toy.bark().semantic
    load_lora(ours, folder)
    with torch.no_grad():
        logits = loaded.base_model.model.semantic(torch.tensor(ids)).logits
    np.testing.assert_allclose(ours(ids).logits, logits, atol=1e-5)

    theirs = BarkModel.from_pretrained(tmp_path / "base").semantic.eval()
    settings = peft.LoraConfig(
        r=3, lora_alpha=7, target_modules=["att_proj"], init_lora_weights=False
    )
    made = peft.get_peft_model(theirs, settings).eval()
    made.save_pretrained(tmp_path / "theirs")
    ours = BarkSemanticModel.from_pretrained(tmp_path / "base")
    load_lora(ours, tmp_path / "theirs")
    with torch.no_grad():
        logits = made(torch.tensor(ids)).logits
    np.testing.assert_allclose(ours(ids).logits, logits, atol=1e-5)
