"""The conversion tables of HuBERT and of its quantizer."""

import contextlib
import json

import numpy as np
import pytest
import torch_writer
from torch_writer import Call, Name

from bark_tf.config import HubertConfig, HubertQuantizerConfig
from bark_tf.convert import hubert, rules
from bark_tf.convert.checkpoints import CheckpointError, open_checkpoint
from bark_tf.convert.weights import read_config, save_file, save_weights
from bark_tf.memory import allocate_only
from bark_tf.models.hubert.model import HubertModel
from bark_tf.models.hubert.quantizer import HubertQuantizer

TOY = HubertConfig(
    hidden_size=64,
    num_hidden_layers=2,
    num_attention_heads=1,
    intermediate_size=6,
    conv_dim=(3, 4, 5, 3, 4, 5, 3),
    num_conv_pos_embeddings=4,
    num_conv_pos_embedding_groups=8,
)
QUANTIZERS = {
    "version 0": HubertQuantizerConfig(
        input_size=5, hidden_size=4, output_size=7, intermediate_size=0
    ),
    "version 1": HubertQuantizerConfig(
        input_size=5, hidden_size=4, output_size=7, intermediate_size=6
    ),
}

# Name and shape in `facebook/hubert-base-ls960`, and in fairseq's file of it.
PUBLISHED = {
    "masked_spec_embed": (768,),
    "feature_extractor.conv_layers.0.conv.weight": (512, 1, 10),
    "feature_extractor.conv_layers.0.layer_norm.bias": (512,),
    "feature_extractor.conv_layers.4.conv.weight": (512, 512, 3),
    "feature_extractor.conv_layers.6.conv.weight": (512, 512, 2),
    "feature_projection.layer_norm.weight": (512,),
    "feature_projection.projection.weight": (768, 512),
    "encoder.pos_conv_embed.conv.weight_g": (1, 1, 128),
    "encoder.pos_conv_embed.conv.weight_v": (768, 48, 128),
    "encoder.pos_conv_embed.conv.bias": (768,),
    "encoder.layer_norm.weight": (768,),
    "encoder.layers.0.attention.k_proj.weight": (768, 768),
    "encoder.layers.3.attention.out_proj.bias": (768,),
    "encoder.layers.5.layer_norm.weight": (768,),
    "encoder.layers.11.feed_forward.intermediate_dense.weight": (3072, 768),
    "encoder.layers.11.feed_forward.output_dense.weight": (768, 3072),
    "encoder.layers.11.final_layer_norm.bias": (768,),
}
FAIRSEQ = {
    "masked_spec_embed": "mask_emb",
    "feature_extractor.conv_layers.0.conv.weight": (
        "feature_extractor.conv_layers.0.0.weight"
    ),
    "feature_extractor.conv_layers.0.layer_norm.bias": (
        "feature_extractor.conv_layers.0.2.bias"
    ),
    "feature_projection.layer_norm.weight": "layer_norm.weight",
    "feature_projection.projection.weight": "post_extract_proj.weight",
    "encoder.pos_conv_embed.conv.weight_g": "encoder.pos_conv.0.weight_g",
    "encoder.layer_norm.weight": "encoder.layer_norm.weight",
    "encoder.layers.0.attention.q_proj.weight": (
        "encoder.layers.0.self_attn.q_proj.weight"
    ),
    "encoder.layers.3.attention.out_proj.bias": (
        "encoder.layers.3.self_attn.out_proj.bias"
    ),
    "encoder.layers.5.layer_norm.weight": (
        "encoder.layers.5.self_attn_layer_norm.weight"
    ),
    "encoder.layers.11.feed_forward.output_dense.weight": (
        "encoder.layers.11.fc2.weight"
    ),
    "encoder.layers.11.final_layer_norm.bias": (
        "encoder.layers.11.final_layer_norm.bias"
    ),
}


def arrays_of(model, table):
    """Random arrays as a checkpoint of a network holds them."""
    return {
        name: np.random.normal(size=shape).astype("float32")
        for name, shape, *_ in rules.tensors(table, rules.variables_of(model))
    }


@pytest.fixture(scope="module")
def model():
    return HubertModel(TOY)


@pytest.fixture
def arrays(model):
    """A checkpoint in fairseq's names."""
    return arrays_of(model, hubert.table(TOY, "fairseq"))


def write_torch(path, arrays, **more):
    """A file of torch.save; `more` is stored next to the state dict."""
    storages, tree = {}, {}
    for number, (name, array) in enumerate(arrays.items()):
        strides = [s // array.itemsize for s in array.strides]
        stored = torch_writer.storage(str(number), array.size)
        tree[name] = torch_writer.tensor(stored, array.shape, tuple(strides))
        storages[str(number)] = array
    tree = {"model": tree, **more} if more else tree
    return torch_writer.write_zip(path, tree, storages)


def assert_holds(model, table, arrays):
    written = rules.tensors(table, rules.variables_of(model))
    written = {name: make() for name, *_, make in written}
    for name, array in written.items():
        np.testing.assert_array_equal(array, arrays[name], name, strict=True)


# === HuBERT ===


def test_inventory_of_the_published_hubert():
    with allocate_only():
        model = HubertModel(HubertConfig())
    table = hubert.table(model.config)
    shapes = {
        name: shape
        for name, shape, *_ in rules.tensors(table, rules.variables_of(model))
    }
    assert len(shapes) == 211
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 94_371_712
    assert {name: shapes.get(name) for name in PUBLISHED} == PUBLISHED
    fairseq = [rule.theirs for rule in hubert.table(model.config, "fairseq").rules]
    names = dict(zip((r.theirs for r in table.rules), fairseq, strict=True))
    assert {name: names[name] for name in FAIRSEQ} == FAIRSEQ
    assert len(set(fairseq)) == 211


@pytest.mark.parametrize("names", hubert.NAMES)
def test_round_trip_is_bit_equal(names, model, tmp_path):
    table = hubert.table(TOY, names)
    arrays = arrays_of(model, table)
    loaded = HubertModel.from_file(write_torch(tmp_path / "x.bin", arrays), config=TOY)
    assert_holds(loaded, table, arrays)
    save_weights([loaded], tmp_path)
    again = HubertModel.from_file(tmp_path / "model.safetensors", config=TOY)
    assert_holds(again, table, arrays)


def test_newer_spelling_of_the_weight_norm(model, tmp_path):
    table = hubert.table(TOY)
    arrays = arrays_of(model, table)
    newer = {
        name.replace("weight_g", "parametrizations.weight.original0").replace(
            "weight_v", "parametrizations.weight.original1"
        ): array
        for name, array in arrays.items()
    }
    assert newer.keys() != arrays.keys()
    path = write_torch(tmp_path / "pytorch_model.bin", newer)
    assert_holds(HubertModel.from_file(path, config=TOY), table, arrays)


def test_a_directory_of_transformers(model, tmp_path):
    """Settings that only matter in training are kept and written back."""
    table = hubert.table(TOY)
    arrays = arrays_of(model, table)
    write_torch(tmp_path / "pytorch_model.bin", arrays)
    values = {**TOY.to_dict(), "final_dropout": 0.1, "architectures": ["HubertModel"]}
    (tmp_path / "config.json").write_text(json.dumps(values))
    loaded = HubertModel.from_pretrained(tmp_path)
    assert_holds(loaded, table, arrays)
    loaded.save_pretrained(tmp_path / "again")
    again = json.loads((tmp_path / "again" / "config.json").read_text())
    assert again == json.loads(json.dumps(values))
    assert_holds(HubertModel.from_pretrained(tmp_path / "again"), table, arrays)


def test_below_a_head_for_recognition(model, tmp_path):
    """`HubertForCTC` has a HuBERT with the prefix `hubert.`"""
    table = hubert.table(TOY)
    arrays = arrays_of(model, table)
    outer = {f"hubert.{name}": array for name, array in arrays.items()}
    outer["lm_head.weight"] = np.zeros((2, 64), "f")
    path = write_torch(tmp_path / "x.bin", outer)
    assert_holds(HubertModel.from_file(path), table, arrays)


def test_fairseq_file(model, arrays, tmp_path):
    """Values next to the tensors and pretraining heads are skipped."""
    heads = {
        "final_proj.weight": np.zeros((2, 64), "f"),
        "final_proj.bias": np.zeros(2, "f"),
        "label_embs_concat": np.zeros((9, 2), "f"),
    }
    dictionary = Call(Name("fairseq.data.dictionary", "Dictionary"), (), {"unk": "?"})
    path = write_torch(
        tmp_path / "hubert_base_ls960.pt",
        arrays | heads,
        args=Call(Name("argparse", "Namespace"), (), {"lr": [0.1]}),
        cfg=Call(Name("omegaconf.dictconfig", "DictConfig"), ({"a": 1},)),
        task_state={"dictionaries": [dictionary]},
        extra_state={"epoch": 3},
    )
    loaded = HubertModel.from_file(path)
    assert loaded.config == TOY.replace(
        conv_kernel=(10, 3, 3, 3, 3, 2, 2), num_attention_heads=1
    )
    assert_holds(loaded, hubert.table(TOY, "fairseq"), arrays)


def test_without_mask_embedding(model, arrays, tmp_path):
    path = write_torch(tmp_path / "x.pt", arrays)
    config = TOY.replace(mask_time_prob=0.0)
    assert not hasattr(HubertModel.from_file(path, config=config), "mask_embedding")
    del arrays["mask_emb"]
    path = write_torch(tmp_path / "x.pt", arrays)
    assert not HubertModel.from_file(path).config.has_mask_embedding
    with pytest.raises(ValueError, match="lacks mask_emb"):
        HubertModel.from_file(path, config=TOY)


@pytest.mark.parametrize("names", hubert.NAMES)
def test_sizes_from_shapes(names):
    """HuBERT base itself, from shapes alone."""
    with allocate_only():
        model = HubertModel(HubertConfig(num_hidden_layers=1))
    table = hubert.table(model.config, names)
    shapes = {n: s for n, s, *_ in rules.tensors(table, rules.variables_of(model))}
    assert hubert.hubert_config(shapes) == model.config


DAMAGE = {
    "no first convolution": ("feature_extractor.conv_layers.0.0.weight", None),
    "six convolutions": ("feature_extractor.conv_layers.6.0.weight", None),
    "no positions": ("encoder.pos_conv.0.weight_v", None),
    "positions of two axes": ("encoder.pos_conv.0.weight_v", (64, 8)),
    "empty positions": ("encoder.pos_conv.0.weight_v", (64, 0, 4)),
    "no layers": ("encoder.layers.0.fc1.weight", None),
    "layers of another width": ("encoder.layers.1.fc2.weight", (64, 5)),
    "a layer that lacks": ("encoder.layers.1.self_attn.q_proj.bias", None),
    "a tensor too many": ("encoder.layers.0.adapter.weight", (3, 3)),
    "layers that lack": ("encoder.layers.900.fc1.weight", (6, 64)),
    "attention of another width": (
        "encoder.layers.0.self_attn.q_proj.weight",
        (64, 32),
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_wrong_sizes(damage, arrays, tmp_path):
    name, shape = DAMAGE[damage]
    if shape is None:
        del arrays[name]
    else:
        arrays[name] = np.zeros(shape, "f")
    path = write_torch(tmp_path / "x.pt", arrays)
    with pytest.raises(ValueError, match=r"x\.pt"):
        HubertModel.from_file(path)


def test_hubert_large_is_refused(arrays, tmp_path):
    """Its norms are elsewhere: results would be silently wrong."""
    arrays["feature_extractor.conv_layers.1.2.1.weight"] = np.zeros(4, "f")
    path = write_torch(tmp_path / "x.pt", arrays)
    with pytest.raises(ValueError, match="feat_extract_norm must be 'group'"):
        HubertModel.from_file(path)
    with pytest.raises(ValueError, match="do_stable_layer_norm must be False"):
        HubertConfig(do_stable_layer_norm=True)


def test_another_network_is_refused(model, tmp_path):
    save_file([HubertQuantizer(QUANTIZERS["version 0"])], tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"conv_layers\.0.*no such tensor"):
        HubertModel.from_file(tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="does not fit the model: it lacks"):
        HubertModel.from_file(tmp_path / "x.safetensors", config=TOY)


def test_unknown_names():
    with pytest.raises(ValueError, match=r"names must be one of .* Received: 'suno'"):
        hubert.table(TOY, "suno")


def test_sizes_of_other_networks_are_not_told(tmp_path):
    with pytest.raises(ValueError, match="config must be given"):
        read_config(int, tmp_path)


# === The quantizer ===


@pytest.mark.parametrize("version", QUANTIZERS)
@pytest.mark.parametrize("info", [None, b"{}", b"not JSON", b'{"version": 0}'])
def test_community_file(version, info, tmp_path):
    """With the member that repeats the sizes, without it, or with a wrong one."""
    config = QUANTIZERS[version]
    table = hubert.quantizer_table(config)
    arrays = arrays_of(HubertQuantizer(config), table)
    path = write_torch(tmp_path / "quantifier_V1.pth", arrays)
    if info is not None:
        with torch_writer.zipfile.ZipFile(path, "a") as archive:
            archive.writestr("quantifier_V1/.info", info)
    loaded = HubertQuantizer.from_file(path)
    assert loaded.config == config
    assert_holds(loaded, table, arrays)
    loaded.save_pretrained(tmp_path / "saved")
    again = HubertQuantizer.from_pretrained(tmp_path / "saved")
    assert again.config == config
    assert_holds(again, table, arrays)


def test_names_of_the_community():
    names = {
        rule.theirs for rule in hubert.quantizer_table(HubertQuantizerConfig()).rules
    }
    assert names == {
        f"lstm.{part}_l{layer}"
        for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        for layer in (0, 1)
    } | {"fc.weight", "fc.bias"}
    config = HubertQuantizerConfig(intermediate_size=4096)
    more = {rule.theirs for rule in hubert.quantizer_table(config).rules} - names
    assert more == {"intermediate.weight", "intermediate.bias"}


QUANTIZER_DAMAGE = {
    "no head": ("fc.weight", None),
    "head of another width": ("fc.weight", (7, 5)),
    "bias of another length": ("fc.bias", (8,)),
    "three gates": ("lstm.weight_ih_l0", (12, 5)),
    "second layer of another width": ("lstm.weight_ih_l1", (16, 5)),
    "a third layer that lacks": ("lstm.weight_ih_l2", (16, 4)),
    "both directions": ("lstm.weight_ih_l0_reverse", (16, 5)),
    "a state of another width": ("lstm.weight_hh_l0", (16, 5)),
    "a vector": ("lstm.weight_hh_l0", (16,)),
    "an intermediate without bias": ("intermediate.weight", (6, 4)),
}


@pytest.mark.parametrize("damage", QUANTIZER_DAMAGE)
def test_quantizer_of_wrong_sizes(damage, tmp_path):
    config = QUANTIZERS["version 0"]
    arrays = arrays_of(HubertQuantizer(config), hubert.quantizer_table(config))
    name, shape = QUANTIZER_DAMAGE[damage]
    if shape is None:
        del arrays[name]
    else:
        arrays[name] = np.zeros(shape, "f")
    path = write_torch(tmp_path / "x.pth", arrays)
    with pytest.raises(ValueError, match=r"x\.pth"):
        HubertQuantizer.from_file(path)


@pytest.mark.parametrize("module", ["posix", "os", "builtins", "torch.nn.modules.rnn"])
def test_hostile_quantizer(module, tmp_path):
    """Next to good tensors, so that nothing else is wrong."""
    config = QUANTIZERS["version 0"]
    arrays = arrays_of(HubertQuantizer(config), hubert.quantizer_table(config))
    name = {"builtins": "eval", "torch.nn.modules.rnn": "LSTM"}.get(module, "system")
    marker = tmp_path / "executed"
    attack = Call(Name(module, name), (f"touch {marker}",))
    path = write_torch(tmp_path / "x.pth", arrays, extra=attack)
    with pytest.raises(CheckpointError, match="nothing was executed"):
        HubertQuantizer.from_file(path)
    assert not marker.exists()


def test_damaged_quantizer(tmp_path):
    config = QUANTIZERS["version 0"]
    arrays = arrays_of(HubertQuantizer(config), hubert.quantizer_table(config))
    path = write_torch(tmp_path / "x.pth", arrays)
    whole = path.read_bytes()
    for length in (0, 5, len(whole) // 2, len(whole) - 30):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"x\.pth"):
            HubertQuantizer.from_file(path)


def test_two_networks_in_one_file(model, tmp_path):
    quantizer = HubertQuantizer(QUANTIZERS["version 1"])
    path = tmp_path / "both.safetensors"
    save_file([model, quantizer], path)
    with contextlib.ExitStack() as files:
        names = files.enter_context(open_checkpoint(path)).names()
    assert {name.partition(".")[0] for name in names} == {"hubert", "quantizer"}
    again = HubertQuantizer.from_file(path, config=quantizer.config)
    for ours, theirs in zip(quantizer.weights, again.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
