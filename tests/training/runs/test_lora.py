import json
import os

import keras
import numpy as np
import pytest
import safetensors.numpy
import toy

from bark_tf.models.causal import BarkCoarseModel, BarkSemanticModel
from bark_tf.models.fine import BarkFineModel
from bark_tf.training.runs.lora import load_lora, merge_lora, save_lora

MAKE = {
    "semantic": lambda **changes: BarkSemanticModel(toy.semantic_config(**changes)),
    "coarse": lambda **changes: BarkCoarseModel(toy.coarse_config(**changes)),
    "fine": lambda **changes: BarkFineModel(toy.fine_config(**changes)),
}
TARGETS = ("qkv", "block_1/mlp/fc")
LAYERS = ("block_0/attention/qkv", "block_1/attention/qkv", "block_1/mlp/fc")


def base(stage="semantic", seed=0, **changes):
    return toy.randomize(MAKE[stage](**changes), seed=seed)


def learn(model, seed=1):
    """Gives the adapters values that change the output, as training would."""
    rng = np.random.default_rng(seed)
    for weight in model.trainable_weights:
        weight.assign(rng.normal(0, 0.3, weight.shape))
    return model


def adapted(stage="semantic", seed=1, **changes):
    model = base(stage, **changes)
    model.enable_lora(4, lora_alpha=6.0, targets=TARGETS)
    return learn(model, seed)


def logits(model):
    ids = toy.ids(2, 8, 4) if isinstance(model, BarkFineModel) else toy.ids(2, 8)
    output = model(2, ids) if ids.ndim == 3 else model(ids)
    return np.asarray(output.logits)


def speak(model, seed):
    config = toy.generation_config().semantic_config
    tokens = model.generate(
        **toy.texts(0, 1),
        semantic_generation_config=config,
        seed=seed,
        jit_compile=False,
    )
    return np.asarray(tokens)


@pytest.fixture
def file(tmp_path):
    return save_lora(adapted(), tmp_path / "adapters" / "semantic.safetensors")


# === Saved and loaded ===


@pytest.mark.parametrize("stage", MAKE)
def test_adapters_load_onto_another_copy_of_the_base(stage, tmp_path):
    model = adapted(stage)
    assert toy.largest_difference(logits(model), logits(base(stage))) > 0.1
    path = save_lora(model, tmp_path / "some.safetensors")
    loaded = base(stage)
    about = load_lora(loaded, path)
    assert (about.stage, about.rank, about.alpha) == (stage, 4, 6.0)
    assert about.targets == LAYERS
    assert np.array_equal(logits(loaded), logits(model))
    trained = {weight.path for weight in loaded.trainable_weights}
    assert trained == {weight.path for weight in model.trainable_weights}
    assert len(trained) == 2 * len(LAYERS)


def test_a_file_holds_the_matrices_by_path_and_not_the_base(file):
    tensors = safetensors.numpy.load_file(file)
    assert {name: array.shape for name, array in tensors.items()} == {
        "block_0/attention/qkv/lora_kernel_a": (48, 4),
        "block_0/attention/qkv/lora_kernel_b": (4, 16),
        "block_1/attention/qkv/lora_kernel_a": (48, 4),
        "block_1/attention/qkv/lora_kernel_b": (4, 16),
        "block_1/mlp/fc/lora_kernel_a": (64, 4),
        "block_1/mlp/fc/lora_kernel_b": (4, 16),
    }
    with safetensors.safe_open(file, "numpy") as opened:
        metadata = opened.metadata()
    assert metadata["format"] == "bark_tf.lora" and metadata["version"] == "1"
    assert json.loads(metadata["targets"]) == list(LAYERS)
    assert json.loads(metadata["config"])["hidden_size"] == 16
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_block_1_is_not_confused_with_block_10(tmp_path):
    model = base(num_layers=12)
    model.enable_lora(2, targets=("block_1/mlp/fc",))
    path = save_lora(learn(model), tmp_path / "some.safetensors")
    loaded = base(num_layers=12)
    assert load_lora(loaded, path).targets == ("block_1/mlp/fc",)
    assert np.array_equal(logits(loaded), logits(model))


def test_the_same_adapters_are_the_same_bytes(tmp_path):
    """Bug: the metadata had a random order, so no two runs wrote the same file."""
    model = adapted()
    files = [save_lora(model, tmp_path / f"{i}.safetensors") for i in range(5)]
    assert len({path.read_bytes() for path in files}) == 1


def test_an_interrupted_save_keeps_the_old_file(file, monkeypatch):
    before = file.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save_lora(adapted(seed=2), file)
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_half_precision_bases_are_recognised(file, recwarn):
    model = toy.randomize(BarkSemanticModel(toy.semantic_config(), dtype="bfloat16"))
    load_lora(model, file)
    assert not recwarn
    difference = toy.largest_difference(logits(model), logits(adapted()))
    assert difference < 0.1 * np.abs(logits(model)).max()


def test_another_base_gives_a_warning(file):
    model = base(seed=3)
    with pytest.warns(UserWarning, match="trained on other weights"):
        load_lora(model, file)


# === Refused ===


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: base("coarse"), "of the semantic stage.*of the coarse stage"),
        (lambda: base(hidden_size=32), "hidden_size=16.*hidden_size=32"),
        (lambda: base(num_layers=3), "num_layers=2.*num_layers=3"),
        (adapted, "already has LoRA adapters"),
    ],
)
def test_models_that_do_not_fit_are_refused_and_unchanged(make, message, file):
    model = make()
    before = [np.array(weight) for weight in model.weights]
    trainable = [weight.trainable for weight in model.weights]
    with pytest.raises(ValueError, match=message):
        load_lora(model, file)
    assert [weight.trainable for weight in model.weights] == trainable
    for weight, value in zip(model.weights, before, strict=True):
        assert np.array_equal(weight, value)


def changed(file, arrays=None, **metadata):
    with safetensors.safe_open(file, "numpy") as opened:
        old = opened.metadata()
    arrays = safetensors.numpy.load_file(file) if arrays is None else arrays
    safetensors.numpy.save_file(arrays, file, {**old, **metadata})


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"format": "pt"}, "format and version must be bark_tf.lora 1"),
        ({"version": "2"}, "format and version must be bark_tf.lora 1"),
        ({"rank": "0"}, "metadata: rank must be a whole number in"),
        ({"alpha": '"a"'}, "alpha must be a number. Received: alpha='a'"),
        ({"samples": "[" * 10**4}, "samples is not valid JSON"),
        ({"rank": "3"}, "must have shape"),
        ({"targets": "5"}, "not a file of LoRA"),
        ({"targets": '["block_0/attention/qkv"]'}, "nothing else"),
        ({"config": "nonsense"}, "not a file of LoRA"),
    ],
)
def test_wrong_metadata_is_refused(metadata, message, file):
    changed(file, **metadata)
    with pytest.raises(ValueError, match=message):
        load_lora(base(), file)


def test_wrong_tensors_are_refused(file):
    arrays = safetensors.numpy.load_file(file)
    name = "block_1/mlp/fc/lora_kernel_b"
    changed(file, {**arrays, name: np.full((4, 16), np.nan, np.float32)})
    with pytest.raises(ValueError, match="not finite"):
        load_lora(base(), file)
    changed(file, {**arrays, name: np.ones((4, 16), np.int8)})
    with pytest.raises(ValueError, match=f"{name} holds values that are not finite"):
        load_lora(base(), file)
    changed(file, {key: value for key, value in arrays.items() if key != name})
    with pytest.raises(ValueError, match=f"missing or unknown {name}"):
        load_lora(base(), file)
    file.write_bytes(b"no safetensors")
    with pytest.raises(ValueError, match="not a file of LoRA adapters"):
        load_lora(base(), file)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.safetensors"):
        load_lora(base(), "nowhere.safetensors")


def test_models_without_adapters_are_refused(tmp_path):
    for function in (merge_lora, lambda model: save_lora(model, tmp_path / "some")):
        with pytest.raises(ValueError, match="without any"):
            function(base())
        with pytest.raises(ValueError, match="transformers BarkSemanticModel"):
            function(toy.shared_bark().codec_model)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_quantized_networks_and_adapters_do_not_mix(file):
    """Keras would fail only in the call, with an error of einsum."""
    quantized = base()
    quantized.quantize("int8")
    with pytest.raises(ValueError, match="merge them, then quantize"):
        load_lora(quantized, file)
    model = adapted()
    with pytest.raises(ValueError, match="merge_lora first"):
        model.quantize("int8")
    assert np.array_equal(logits(model), logits(adapted()))
    merge_lora(model)
    exact = logits(model)
    model.quantize("int8")
    assert 0 < toy.largest_difference(logits(model), exact) < np.std(exact)


# === Merged ===


@pytest.mark.parametrize("stage", MAKE)
def test_merged_equals_adapted(stage):
    model = adapted(stage)
    expected = logits(model)
    merge_lora(model)
    assert toy.largest_difference(logits(model), expected) < 1e-5
    plain = MAKE[stage]()
    assert [w.path for w in model.weights] == [w.path for w in plain.weights]
    assert len(model.trainable_weights) == len(plain.weights)


def test_a_merged_model_is_a_plain_one(tmp_path):
    model = adapted()
    model.compile(optimizer="sgd")
    ids = toy.ids(2, 8)
    model.fit({"input_ids": ids, "labels": ids}, epochs=1, verbose=0)
    merge_lora(model)
    expected = logits(model)
    model.save_pretrained(tmp_path / "saved")
    again = BarkSemanticModel.from_pretrained(tmp_path / "saved")
    assert np.array_equal(logits(again), expected)
    model.save(tmp_path / "saved.keras")
    again = keras.saving.load_model(tmp_path / "saved.keras")
    assert np.array_equal(logits(again), expected)
    head = np.array(model.lm_head.kernel)
    model.compile(optimizer=keras.optimizers.SGD(0.1))
    model.fit({"input_ids": ids, "labels": ids}, epochs=1, verbose=0)
    assert not np.array_equal(head, model.lm_head.kernel)
    model.enable_lora(2, targets=("qkv",))  # adapters can be added again
    assert len(model.trainable_weights) == 4


def test_merging_into_half_precision_rounds_once():
    model = BarkSemanticModel(toy.semantic_config(), dtype="bfloat16")
    toy.randomize(model)
    model.enable_lora(4, targets=("block_0/mlp/fc",))
    learn(model)
    layer = model.blocks[0].mlp.fc
    kernel, a, b = (
        np.asarray(v.value, np.float32)
        for v in (layer._kernel, layer.lora_kernel_a, layer.lora_kernel_b)
    )
    merge_lora(model)
    expected = (kernel + a @ b).astype(layer.kernel.dtype)
    assert layer.kernel.dtype == "bfloat16"
    assert np.array_equal(np.asarray(layer.kernel.value), expected)


def test_generation_follows_every_change():
    """Programs compiled before would keep using the old kernels."""
    model = toy.bark().semantic
    plain = speak(model, 3)
    model.enable_lora(4, lora_alpha=40.0)
    learn(model)
    changed = speak(model, 3)
    assert not np.array_equal(changed, plain)
    merge_lora(model)
    assert np.array_equal(speak(model, 3), changed)


# === Saving the whole model ===


@pytest.mark.parametrize("whole", [False, True])
def test_lora_keys_lost_on_save(whole, tmp_path):
    """Regression: `save_pretrained` wrote only the base, so training was lost."""
    bark = toy.bark()
    bark.semantic.enable_lora(2)
    model = bark if whole else bark.semantic
    with pytest.raises(ValueError, match=r"save_lora.*merge_lora"):
        model.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())
    merge_lora(bark.semantic)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()


@pytest.mark.reference
def test_a_merged_model_opens_in_transformers(tmp_path):
    import torch
    from transformers import BarkModel as TheirBark

    bark = toy.bark()
    for part in (bark.semantic, bark.coarse_acoustics, bark.fine_acoustics):
        part.enable_lora(2)
        learn(part)
    codes = toy.ids(2, 8, 4, high=10)
    expected = bark.semantic(toy.ids(2, 8)).logits, bark.fine_acoustics(2, codes).logits
    for part in (bark.semantic, bark.coarse_acoustics, bark.fine_acoustics):
        merge_lora(part)
    bark.save_pretrained(tmp_path)
    theirs, report = TheirBark.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    with torch.no_grad():
        semantic = theirs.semantic(torch.from_numpy(toy.ids(2, 8)).long()).logits
        fine = theirs.fine_acoustics(2, torch.from_numpy(codes).long()).logits
    assert toy.largest_difference(semantic.numpy(), expected[0]) < 1e-4
    assert toy.largest_difference(fine.numpy(), expected[1]) < 1e-4
