"""Weights into and out of built networks, without torch and through transformers."""

import hashlib
import math
import runpy
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import toy
import toy_files

from bark_tf.bark import BarkModel
from bark_tf.config import BarkConfig, CtcConfig, HubertQuantizerConfig
from bark_tf.convert import rules, weights
from bark_tf.convert.checkpoints import open_checkpoint
from bark_tf.convert.configs import PARTS
from bark_tf.models.causal import BarkCoarseModel, BarkSemanticModel
from bark_tf.models.ctc import CtcModel
from bark_tf.models.encodec.model import EncodecModel
from bark_tf.models.fine import BarkFineModel
from bark_tf.models.hubert.model import HubertModel
from bark_tf.models.hubert.quantizer import HubertQuantizer

SEMANTIC = toy.semantic_config(bias=False)
FINE = toy.fine_config()
HELPER = Path(__file__).parents[1] / "reference" / "hf_bark.py"


def values(model):
    return {weight.path: np.array(weight) for weight in model.weights}


def saved(directory, *models):
    weights.save_weights(models, directory)
    return toy_files.load(directory / "model.safetensors")


@pytest.mark.parametrize(
    ("model_class", "config"),
    [
        (BarkSemanticModel, SEMANTIC),
        (BarkCoarseModel, toy.coarse_config(bias=True)),
        (BarkFineModel, FINE),
        (BarkFineModel, toy.fine_config(tie_word_embeddings=False, bias=False)),
        (EncodecModel, toy_files.CODEC),
    ],
)
def test_round_trip_of_one_network(model_class, config, tmp_path):
    arrays = toy_files.arrays(config, with_masks=True)
    path = toy_files.save(tmp_path / "in" / "model.safetensors", arrays)
    model = model_class(config)
    weights.load_weights(model, path)
    toy_files.assert_same(saved(tmp_path / "out", model), arrays)


@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
@pytest.mark.parametrize(
    ("model_class", "config"), [(BarkSemanticModel, SEMANTIC), (BarkFineModel, FINE)]
)
def test_suno_names(model_class, config, prefix, tmp_path):
    arrays = toy_files.arrays(
        config, "suno", prefix, with_masks=True, with_heads=bool(prefix)
    )
    model = model_class(config)
    weights.load_weights(model, toy_files.save(tmp_path / "text.pt", arrays))
    attention = model.blocks[1].attention.qkv.kernel
    np.testing.assert_array_equal(
        attention, arrays[f"{prefix}transformer.h.1.attn.c_attn.weight"]
    )


def test_meta_names(tmp_path):
    arrays = toy_files.arrays(toy_files.CODEC, "meta")
    model = EncodecModel(toy_files.CODEC)
    weights.load_weights(model, toy_files.save(tmp_path / "codec.th", arrays))
    np.testing.assert_array_equal(
        model.quantizer.codebooks[31].embed,
        arrays["quantizer.vq.layers.31._codebook.embed"],
    )


def test_a_part_out_of_a_whole(tmp_path):
    config = toy_files.bark_config()
    arrays = toy_files.save_hf(tmp_path, config)
    model = BarkCoarseModel(config.coarse_acoustics_config)
    weights.load_weights(model, tmp_path)
    np.testing.assert_array_equal(
        model.lm_head.kernel, arrays["coarse_acoustics.lm_head.weight"]
    )


def test_several_networks_make_a_whole(tmp_path):
    model = BarkModel(toy_files.bark_config())
    arrays = saved(tmp_path, *model.parts.values())
    prefixes = {name.split(".")[0] for name in arrays}
    assert prefixes == set(PARTS)
    np.testing.assert_array_equal(
        arrays["fine_acoustics.input_embeds_layers.2.weight"],
        model.fine_acoustics.token_embeddings[2].embeddings,
    )


def test_half_precision_files_and_models(tmp_path):
    arrays = toy_files.arrays(SEMANTIC)
    halves = {name: array.astype("float16") for name, array in arrays.items()}
    path = toy_files.save(tmp_path / "model.safetensors", halves)
    model = BarkSemanticModel(SEMANTIC)
    weights.load_weights(model, path)
    loaded = model.lm_head.kernel
    assert loaded.dtype == "float32"
    np.testing.assert_array_equal(loaded, halves["lm_head.weight"].astype("float32"))

    model = BarkSemanticModel(SEMANTIC, dtype="bfloat16")
    weights.load_weights(model, path)
    weights.save_weights([model], tmp_path / "out")
    with open_checkpoint(tmp_path / "out") as checkpoint:
        assert checkpoint.dtype("lm_head.weight").name == "bfloat16"
        kept = checkpoint.read("lm_head.weight").astype("float32")
    np.testing.assert_allclose(kept, arrays["lm_head.weight"], rtol=1e-2)


def test_a_file_of_another_network_changes_nothing(tmp_path):
    model = BarkSemanticModel(SEMANTIC)
    before = values(model)
    other = toy_files.arrays(SEMANTIC.replace(num_layers=3, hidden_size=32))
    path = toy_files.save(tmp_path / "model.safetensors", other)
    with pytest.raises(
        ValueError, match=r"model\.safetensors does not fit.* layers\.2"
    ):
        weights.load_weights(model, path)
    other = toy_files.arrays(SEMANTIC.replace(hidden_size=32))
    toy_files.save(path, other)
    with pytest.raises(ValueError, match=r"has shape \(40, 32\), expected \(40, 16\)"):
        weights.load_weights(model, path)
    toy_files.assert_same(values(model), before)


def test_a_whole_without_the_part(tmp_path):
    arrays = toy_files.arrays(SEMANTIC, prefix="semantic.")
    path = toy_files.save(tmp_path / "model.safetensors", arrays)
    with pytest.raises(
        ValueError, match=r"lacks input_.*; it has no place for semantic"
    ):
        weights.load_weights(BarkCoarseModel(toy.coarse_config(bias=False)), path)


@pytest.mark.parametrize(
    ("kind", "name"), [("hf", "a"), ("suno", "transformer.wpe.weight")]
)
def test_spelling(kind, name, tmp_path):
    path = toy_files.save(tmp_path / "x.bin", {f"_orig_mod.{name}": np.zeros(1)})
    with open_checkpoint(path) as checkpoint:
        assert weights.spelling(checkpoint) == kind


# === Shapes from configurations alone ===

CODEC = toy_files.CODEC.replace(codebook_size=8, target_bandwidths=(0.75,))
QUANTIZER = HubertQuantizerConfig(input_size=6, hidden_size=4, output_size=7)
CTC = CtcConfig(num_mels=3, hidden_size=4, num_heads=2, kernel_size=5, bias=False)
NETWORKS = {
    "semantic": (BarkSemanticModel, toy.semantic_config(bias=False)),
    "coarse, bias": (BarkCoarseModel, toy.coarse_config(num_layers=3)),
    "fine": (BarkFineModel, toy.fine_config(bias=False)),
    "fine, untied": (
        BarkFineModel,
        toy.fine_config(tie_word_embeddings=False, n_codes_given=2),
    ),
    "codec": (EncodecModel, CODEC),
    "codec, deep": (
        EncodecModel,
        CODEC.replace(
            num_residual_layers=2, num_lstm_layers=3, upsampling_ratios=(5, 4)
        ),
    ),
    "codec, stereo": (
        EncodecModel,
        CODEC.replace(
            audio_channels=2,
            norm_type="time_group_norm",
            use_causal_conv=False,
            use_conv_shortcut=False,
            num_lstm_layers=0,
            num_filters=6,
            compress=3,
            kernel_size=5,
            last_kernel_size=9,
            residual_kernel_size=1,
        ),
    ),
    "hubert": (HubertModel, toy.hubert_config()),
    "hubert, unmasked": (HubertModel, toy.hubert_config(mask_time_prob=0.0)),
    "quantizer": (HubertQuantizer, QUANTIZER),
    "quantizer, new": (HubertQuantizer, QUANTIZER.replace(intermediate_size=5)),
    "ctc": (CtcModel, CTC),
    "ctc, trained": (CtcModel, CTC.replace(output_size=9, bias=True)),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * name.startswith("codec,"))
        for name in NETWORKS
    ],
)
def test_shapes_are_those_of_the_networks(name):
    model_class, config = NETWORKS[name]
    variables = rules.variables_of(model_class(config))
    built = {path: tuple(variable.shape) for path, variable in variables.items()}
    table = weights.table_for(config)
    assert table.shapes == built
    assert table.num_values == sum(map(math.prod, built.values()))


WHOLE = toy_files.bark_config()
# A change of a part's configuration, and what the error says of it.
OTHER_SIZES = [
    ("semantic", {"num_layers": 200}, "num_layers=200"),
    ("semantic", {"num_layers": 1}, "num_layers=1"),
    ("semantic", {"hidden_size": 99_000}, "input_vocab_size=40, hidden_size=99000"),
    ("semantic", {"bias": True}, "num_layers=2, bias=True"),
    ("fine_acoustics", {"n_codes_total": 128}, "n_codes_total=128"),
    ("codec_model", {"target_bandwidths": (180.0,)}, "target_bandwidths=(180.0,), "),
    ("codec_model", {"target_bandwidths": (3.0,)}, "target_bandwidths=(3.0,), "),
    ("codec_model", {"num_residual_layers": 20}, "num_residual_layers=20, "),
    ("codec_model", {"upsampling_ratios": (8, 5, 4, 3)}, "upsampling_ratios=(8, 5, "),
    ("codec_model", {"codebook_size": 513}, "codebook_size=513"),
    ("codec_model", {"norm_type": "time_group_norm"}, "norm_type='time_group_norm'"),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "model.safetensors"
    return toy_files.save(path, toy_files.bark_arrays(WHOLE))


@pytest.mark.parametrize(("part", "changes", "fields"), OTHER_SIZES)
def test_a_file_is_compared_with_a_configuration(part, changes, fields, whole):
    """The message names the fields that decide about the tensor."""
    path, own = whole, toy_files.part_config(WHOLE, part)
    weights.check_weights(path, {f"{part}.": own})
    with pytest.raises(ValueError, match=r"model\.safetensors does not fit") as caught:
        weights.check_weights(path, {f"{part}.": own.replace(**changes)})
    assert f" {part}." in str(caught.value).replace("'", " ")
    assert fields in str(caught.value).rpartition(f"{type(own).__name__} has ")[2]
    assert len(str(caught.value)) < 1_000


@pytest.mark.parametrize("dtype", ["bool", "int8", "int64", "complex64"])
def test_tensors_of_other_kinds_are_refused(dtype, tmp_path):
    """They were cast to numbers without a sense."""
    arrays = toy_files.arrays(SEMANTIC)
    arrays["lm_head.weight"] = arrays["lm_head.weight"].astype(dtype)
    path = toy_files.save(tmp_path / "model.safetensors", arrays)
    message = rf"'lm_head\.weight' must hold floating-point .*Received: {dtype}"
    with pytest.raises(ValueError, match=message):
        weights.load_weights(BarkSemanticModel(SEMANTIC), path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float16", ml_dtypes.bfloat16])
def test_values_that_are_no_numbers_are_refused(value, dtype, tmp_path):
    """They made noise, silence, or tokens without a sense."""
    for name in ("lm_head.weight", "layers.1.attn.att_proj.weight"):
        arrays = toy_files.arrays(SEMANTIC)
        arrays[name][-1, -1] = value
        path = tmp_path / "model.safetensors"
        halves = {name: array.astype(dtype) for name, array in arrays.items()}
        path.write_bytes(safetensors.numpy.save(halves))
        message = rf"{path} is damaged: tensor '{name}' holds NaN or inf.*bfloat16"
        with pytest.raises(ValueError, match=message):
            weights.load_weights(BarkSemanticModel(SEMANTIC), path)


def test_of_large_kernels_only_some_rows_are_checked():
    """A whole Bark is not read twice: 4 GB would take seconds from a disk."""
    rows = np.zeros((2**12, 2**8), "float32")
    rows[-1] = np.nan
    names = "block_0/mlp/fc/kernel", "token_embedding/embeddings", "lm_head/kernel"
    for name in names:
        table = rules.Table((rules.Rule(name, "a", rows.shape),))
        read = rules.read(table, toy_files.DictCheckpoint({"a": rows}))
        if name == "lm_head/kernel":
            with pytest.raises(ValueError, match="'a' holds NaN"):
                dict(read)
        else:
            dict(read)
    rows[:] = np.nan
    with pytest.raises(ValueError, match="'a' holds NaN"):
        dict(rules.read(table, toy_files.DictCheckpoint({"a": rows})))


@pytest.mark.parametrize(
    ("preset", "num_tensors", "num_values", "digest"),
    [
        (
            "bark-small",
            542,
            443_673_346,
            "2d533d2e10a325c74123bfefbceeef42503a6a5aecdbdddcf2047c76807f7b1c",
        ),
        (
            "bark",
            806,
            1_166_913_282,
            "97f4ae12a6d130bcdb3d2751c9b8bc1f344035b93b4b036c5f117143c35944f5",
        ),
    ],
)
def test_published_checkpoints(preset, num_tensors, num_values, digest):
    """The first digest is of `suno/bark-small`'s own file.

    Source: kadirnar/VoiceHub, which published it.
    """
    rows = {}
    for prefix, cls in PARTS.items():
        part = getattr(BarkConfig.preset(preset), cls.part)
        table = weights.table_for(part).below("", f"{prefix}.")
        for rule in table.rules:
            rows[rule.theirs] = "F32", rule.convert_shape(rule.shape)
        rows |= {second: rows[first] for second, first in table.aliases.items()}
        rows |= {name: ("BOOL", make().shape) for name, make in table.constants.items()}
    assert len(rows) == num_tensors
    assert sum(math.prod(shape) for _, shape in rows.values()) == num_values
    lines = (
        f"{name}|{dtype}|{'x'.join(map(str, shape))}"
        for name, (dtype, shape) in sorted(rows.items())
    )
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == digest


# === Through transformers ===


@pytest.fixture(scope="module")
def torch():
    pytest.importorskip("transformers")
    return pytest.importorskip("torch")


@pytest.mark.reference
@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("tied", [True, False])
def test_transformers_to_ours_and_back(torch, file, tied, tmp_path):
    """Tensors and logits of transformers are the same after a round trip."""
    helper = runpy.run_path(str(HELPER))
    ours = BarkModel(toy_files.bark_config(tie_word_embeddings=tied))
    for part in ours.parts.values():
        toy.randomize(part)
    theirs = helper["whole"](ours, tmp_path / "first")
    state = theirs.state_dict()
    theirs.save_pretrained(tmp_path / "second")
    if file == "pytorch_model.bin":  # every tied tensor under both its names
        torch.save(state, tmp_path / "second" / file)
        (tmp_path / "second" / "model.safetensors").unlink()

    detour = BarkModel.from_pretrained(tmp_path / "second")
    back = helper["whole"](detour, tmp_path / "third")
    assert back.state_dict().keys() == state.keys()
    for name, tensor in back.state_dict().items():
        assert torch.equal(tensor, state[name]), name

    ids, codes = toy.ids(2, 9), toy.ids(2, 9, 4)
    with torch.no_grad():
        for part, arguments in (
            ("semantic", (ids,)),
            ("coarse_acoustics", (ids,)),
            ("fine_acoustics", (2, codes)),
        ):
            expected, again = (
                getattr(model, part)(
                    *(helper["tensor"](a) if np.ndim(a) else a for a in arguments)
                ).logits
                for model in (theirs, back)
            )
            assert torch.equal(expected, again)
            logits = getattr(detour, part)(*arguments).logits
            assert np.std(logits) > 1
            assert toy.largest_difference(logits, expected) < 1e-4
