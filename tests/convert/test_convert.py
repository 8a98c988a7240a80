"""Whole conversions: bits, files, errors, and destinations that stay complete."""

import json
import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import toy
import toy_files

from bark_tf.config import BarkConfig, BarkGenerationConfig, EncodecConfig
from bark_tf.convert import convert
from bark_tf.convert.checkpoints import open_checkpoint
from bark_tf.convert.configs import PARTS, published_generation_config
from bark_tf.convert.convert import convert_checkpoint

CONFIG = toy_files.bark_config()
SUNO_STEMS = ["coarse", "encodec", "fine", "text"]
REFERENCE = Path(__file__).parents[1] / "reference"


@pytest.fixture
def bark(tmp_path):
    """A whole Bark in Hugging Face's names, and where to convert it to."""
    toy_files.save_hf(tmp_path / "bark", CONFIG)
    return tmp_path / "bark"


@pytest.fixture
def suno(tmp_path):
    toy_files.save_suno(tmp_path / "suno", CONFIG)
    return tmp_path / "suno"


def weights(directory):
    return toy_files.load(directory / "model.safetensors")


def files(directory):
    return sorted(
        path.relative_to(directory).as_posix()
        for path in directory.rglob("*")
        if path.is_file()
    )


def canonical(tensors):
    return {name.removeprefix("_orig_mod."): array for name, array in tensors.items()}


# === Bits ===


def test_a_whole_bark_stays_bit_by_bit(bark, tmp_path):
    made = convert_checkpoint(bark, tmp_path / "made")
    assert made == tmp_path / "made"
    assert files(made) == ["config.json", "generation_config.json", "model.safetensors"]
    toy_files.assert_same(weights(made), weights(bark))
    assert BarkConfig.from_pretrained(made) == CONFIG
    assert BarkGenerationConfig.from_pretrained(made) == BarkGenerationConfig()


def test_masks_are_written_where_they_were_not(bark, tmp_path):
    """Otherwise transformers reports them as missing."""
    expected = weights(bark)
    without = {n: a for n, a in expected.items() if not n.endswith(".attn.bias")}
    assert len(without) < len(expected)
    toy_files.save_hf(bark, CONFIG, without)
    convert_checkpoint(bark, tmp_path / "made")
    toy_files.assert_same(weights(tmp_path / "made"), expected)


def test_other_spellings_of_the_same_checkpoint(bark, tmp_path):
    expected = weights(bark)
    newer = {
        name.replace("weight_g", "parametrizations.weight.original0").replace(
            "weight_v", "parametrizations.weight.original1"
        ): array
        for name, array in expected.items()
    }
    heads = {
        f"fine_acoustics.lm_heads.{i}.weight": newer[
            f"fine_acoustics.input_embeds_layers.{i + 1}.weight"
        ]
        for i in range(3)
    }
    compiled = {f"_orig_mod.{name}": array for name, array in (newer | heads).items()}
    toy_files.save_hf(bark, CONFIG, compiled)
    convert_checkpoint(bark, tmp_path / "made")
    toy_files.assert_same(weights(tmp_path / "made"), expected)


def test_suno_to_hugging_face(suno, tmp_path):
    made = convert_checkpoint(suno, tmp_path / "made")
    tensors, text = weights(made), toy_files.load(suno / "text.pt")
    codec = toy_files.load(next(suno.glob("*.th")))
    for name, original in {
        "semantic.layers.1.attn.att_proj.weight": text[
            "_orig_mod.transformer.h.1.attn.c_attn.weight"
        ],
        "semantic.lm_head.weight": text["_orig_mod.lm_head.weight"],
        "codec_model.decoder.layers.3.conv.weight_v": codec[
            "decoder.model.3.convtr.convtr.weight_v"
        ],
    }.items():
        np.testing.assert_array_equal(tensors[name], original, strict=True)
    assert BarkConfig.from_pretrained(made) == CONFIG
    generation = BarkGenerationConfig.from_pretrained(made)
    assert generation == published_generation_config()
    expected = toy_files.bark_arrays(CONFIG, with_masks=True)
    assert {name: (array.shape, array.dtype) for name, array in tensors.items()} == {
        name: (array.shape, array.dtype) for name, array in expected.items()
    }


@pytest.mark.parametrize("tied", [True, False])
def test_suno_to_hugging_face_and_back(tied, tmp_path):
    config = toy_files.bark_config(tie_word_embeddings=tied)
    toy_files.save_suno(tmp_path / "suno", config)
    if not tied:  # their configuration cannot say so, the tensors do
        fine = toy_files.arrays(config.fine_acoustics_config, "suno", "_orig_mod.")
        toy_files.save(tmp_path / "suno" / "fine.pt", fine)
    convert_checkpoint(tmp_path / "suno", tmp_path / "hf")
    assert BarkConfig.from_pretrained(tmp_path / "hf") == config
    back = convert_checkpoint(tmp_path / "hf", tmp_path / "back", names="suno")
    originals = {
        f"{stem}.{ending}" for stem in SUNO_STEMS for ending in ("json", "safetensors")
    }
    assert {*files(back)} == {*originals, "generation_config.json"}
    for stem in ("text", "coarse", "fine"):
        first = canonical(toy_files.load(tmp_path / "suno" / f"{stem}.pt"))
        toy_files.assert_same(toy_files.load(back / f"{stem}.safetensors"), first)
        first, again = (
            json.loads((directory / f"{stem}.json").read_text())
            for directory in (tmp_path / "suno", back)
        )
        assert again == first
    codec = toy_files.load(next((tmp_path / "suno").glob("*.th")))
    toy_files.assert_same(toy_files.load(back / "encodec.safetensors"), codec)
    assert EncodecConfig.from_json_file(back / "encodec.json") == config.codec_config
    again = convert_checkpoint(back, tmp_path / "again")
    toy_files.assert_same(weights(again), weights(tmp_path / "hf"))


def test_a_codec_whose_sizes_do_not_tell_all(tmp_path):
    """`encodec.json` holds what Meta's tensors do not show."""
    codec = toy_files.CODEC.replace(sampling_rate=16_000, target_bandwidths=(1.0, 2.0))
    config = CONFIG.replace(codec_config=codec)
    toy_files.save_hf(tmp_path / "bark", config)
    convert_checkpoint(tmp_path / "bark", tmp_path / "suno", names="suno")
    convert_checkpoint(tmp_path / "suno", tmp_path / "again")
    assert BarkConfig.from_pretrained(tmp_path / "again") == config


@pytest.mark.parametrize("stem", SUNO_STEMS)
def test_one_part_alone(stem, suno, tmp_path):
    convert_checkpoint(suno, tmp_path / "whole")
    source = next(p for p in suno.glob(f"{stem}*") if p.suffix != ".json")
    made = convert_checkpoint(source, tmp_path / "made")
    part = {"text": "semantic", "encodec": "codec_model"}.get(stem, f"{stem}_acoustics")
    assert files(made) == ["config.json", "model.safetensors"]
    whole = weights(tmp_path / "whole")
    prefix = f"{part}."
    toy_files.assert_same(
        weights(made),
        {n.removeprefix(prefix): a for n, a in whole.items() if n.startswith(prefix)},
    )
    config = toy_files.part_config(CONFIG, part)
    assert PARTS[part].from_pretrained(made) == config


def test_some_parts_are_no_bark(suno, tmp_path):
    next(suno.glob("*.th")).unlink()
    with pytest.raises(ValueError, match=r"without codec_model; pass the codec"):
        convert_checkpoint(suno, tmp_path / "made")
    (suno / "coarse.pt").unlink()
    with pytest.raises(ValueError, match=r"without coarse_acoustics, codec_model"):
        convert_checkpoint(suno, tmp_path / "made")
    # Suno's own layout has a file for each and lacks nothing.
    made = convert_checkpoint(suno, tmp_path / "made", names="suno")
    assert sorted(p.stem for p in made.glob("*.safetensors")) == ["fine", "text"]


def test_sharded_source_and_destination(bark, tmp_path):
    made = convert_checkpoint(bark, tmp_path / "shards", max_shard_size="100kB")
    assert len(list(made.glob("model-*.safetensors"))) > 2
    again = convert_checkpoint(made, tmp_path / "again")
    toy_files.assert_same(weights(again), weights(bark))


# === Dtypes ===


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_dtypes(dtype, bark, tmp_path):
    made = convert_checkpoint(bark, tmp_path / "made", dtype=dtype)
    original = weights(bark)
    numpy_dtype = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float16
    with open_checkpoint(made) as checkpoint:
        for name, array in original.items():
            expected = array if array.dtype == bool else array.astype(numpy_dtype)
            np.testing.assert_array_equal(checkpoint.read(name), expected, strict=True)
    config = json.loads((made / "config.json").read_text())
    # What transformers loads with; a part may be loaded alone.
    assert config["torch_dtype"] == dtype
    assert config["codec_config"]["torch_dtype"] == dtype


def test_the_dtype_in_the_configuration_follows(bark, tmp_path):
    path = bark / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"dtype": "float32"}))
    kept = convert_checkpoint(bark, tmp_path / "kept")
    assert json.loads((kept / "config.json").read_text())["dtype"] == "float32"
    made = convert_checkpoint(bark, tmp_path / "made", dtype="float16")
    config = json.loads((made / "config.json").read_text())
    assert "dtype" not in config
    assert config["torch_dtype"] == "float16"


def test_half_precision_sources_stay_so(bark, tmp_path):
    halves = {
        name: array if array.dtype == bool else array.astype("float16")
        for name, array in weights(bark).items()
    }
    toy_files.save_hf(bark, CONFIG, halves)
    kept = convert_checkpoint(bark, tmp_path / "kept")
    toy_files.assert_same(weights(kept), halves)
    wide = convert_checkpoint(bark, tmp_path / "wide", dtype="float32")
    assert {str(a.dtype) for a in weights(wide).values()} == {"float32", "bool"}


def test_damaged_values_are_not_passed_on(bark, tmp_path):
    arrays = weights(bark)
    name = "semantic.layers.0.mlp.in_proj.weight"
    arrays[name][3, 5] = np.nan
    toy_files.save_hf(bark, CONFIG, arrays)
    with pytest.raises(ValueError, match=rf"undamaged weights.*'{name}' with NaN"):
        convert_checkpoint(bark, tmp_path / "made")
    assert files(tmp_path) == ["bark/config.json", "bark/model.safetensors"]


def test_values_beyond_float16(bark, tmp_path):
    arrays = weights(bark)
    name = "codec_model.quantizer.layers.3.codebook.cluster_size"
    arrays[name][0] = 1e6
    toy_files.save_hf(bark, CONFIG, arrays)
    with pytest.raises(ValueError, match=rf"fit float16.*{name}' with up to 1e\+06"):
        convert_checkpoint(bark, tmp_path / "made", dtype="float16")
    assert files(tmp_path) == ["bark/config.json", "bark/model.safetensors"]
    convert_checkpoint(bark, tmp_path / "made", dtype="bfloat16")


@pytest.mark.parametrize(
    "options", [{"names": "meta"}, {"dtype": "float64"}, {"dtype": "int8"}]
)
def test_unknown_options(options, tmp_path):
    (name,) = options
    with pytest.raises(ValueError, match=f"{name} must be one of"):
        convert_checkpoint(tmp_path / "no", tmp_path / "made", **options)


# === Files beside the weights ===


def add_voices(bark, paths, **entries):
    for path in paths:
        (bark / path).parent.mkdir(parents=True, exist_ok=True)
        np.save(bark / path, np.arange(3))
    index = {"repo_or_path": "suno/bark"} | entries
    (bark / "speaker_embeddings_path.json").write_text(json.dumps(index))


def test_tokenizer_voices_and_generation_are_copied(bark, tmp_path):
    texts = {
        "tokenizer.json": "{}",
        "vocab.txt": "[PAD]",
        "tokenizer_config.json": '{"a": 1}',
        "special_tokens_map.json": "{}",
        "generation_config.json": '{"sample_rate": 24000, "mine": [1]}',
    }
    for name, text in texts.items():
        (bark / name).write_text(text)
    (bark / "notes.txt").write_text("private")
    (bark / "speaker_embeddings").mkdir()
    np.save(bark / "speaker_embeddings" / "unlisted.npy", np.arange(3))
    listed = ["speaker_embeddings/v2/a_semantic_prompt.npy", "speaker_embeddings/b.npy"]
    add_voices(
        bark,
        listed,
        **{
            "v2/a": {"semantic_prompt": listed[0]},
            "b": {"semantic_prompt": listed[1].replace("/", "\\")},
            "lost": {"semantic_prompt": "speaker_embeddings/lost.npy"},
        },
    )
    original = convert_checkpoint(bark, tmp_path / "original", names="suno")
    made = convert_checkpoint(original, tmp_path / "made")
    copied = [*texts, *listed, "speaker_embeddings_path.json"]
    assert files(made) == sorted([*copied, "config.json", "model.safetensors"])
    for name in copied:
        assert (made / name).read_bytes() == (bark / name).read_bytes()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("../secret.npy", "must be a relative path"),
        ("/etc/secret.npy", "must be a relative path"),
        ("a\\..\\..\\secret.npy", "must be a relative path"),
        ("notes.txt", "expected .npy files"),
        ("model.safetensors", "expected .npy files"),
    ],
)
def test_voices_stay_inside_the_directory(path, message, bark, tmp_path):
    np.save(tmp_path / "secret.npy", np.arange(3))
    (bark / "notes.txt").write_text("private")
    add_voices(bark, [], a={"semantic_prompt": path})
    with pytest.raises(ValueError, match=f"speaker_embeddings_path.json: .*{message}"):
        convert_checkpoint(bark, tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_unknown_keys_of_the_configuration_are_kept(bark, tmp_path):
    path = bark / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"mine": [1, 2]}))
    made = convert_checkpoint(bark, tmp_path / "made")
    assert json.loads((made / "config.json").read_text())["mine"] == [1, 2]


# === The destination ===


def test_an_empty_directory_is_used(bark, tmp_path):
    (tmp_path / "made").mkdir()
    convert_checkpoint(bark, tmp_path / "made")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bark", "made"]


def test_missing_parents_are_made(bark, tmp_path):
    assert weights(convert_checkpoint(bark, tmp_path / "a" / "b"))


def test_the_directory_is_as_readable_as_any(bark, tmp_path):
    """One from `tempfile` would be private."""
    (tmp_path / "usual").mkdir()
    made = convert_checkpoint(bark, tmp_path / "made")
    assert made.stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_files_are_not_overwritten_unasked(bark, tmp_path):
    made = tmp_path / "made"
    made.mkdir()
    (made / "config.json").write_text("mine")
    with pytest.raises(FileExistsError, match="not empty"):
        convert_checkpoint(bark, made)
    with pytest.raises(FileExistsError, match="is a file"):
        convert_checkpoint(bark, made / "config.json", overwrite=True)
    assert files(made) == ["config.json"]
    assert (made / "config.json").read_text() == "mine"


def test_a_checkpoint_is_replaced_as_a_whole(bark, suno, tmp_path):
    made = tmp_path / "made"
    for source, names in ((bark, "hf"), (suno, "suno"), (suno, "hf")):
        convert_checkpoint(source, made, names=names, overwrite=True)
    assert files(made) == ["config.json", "generation_config.json", "model.safetensors"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bark", "made", "suno"]


def test_nothing_but_checkpoints_is_replaced(bark, tmp_path):
    """`--overwrite` with the wrong path must not cost a home directory."""
    made = convert_checkpoint(bark, tmp_path / "made")
    (made / "thesis.tex").write_text("years")
    with pytest.raises(FileExistsError, match=r"holds 'thesis\.tex'"):
        convert_checkpoint(bark, made, overwrite=True)
    assert (made / "thesis.tex").exists()


def test_what_a_kill_left_is_no_obstacle(bark, tmp_path):
    made = convert_checkpoint(bark, tmp_path / "made")
    before = files(made)
    for name in (".saving/new/model.safetensors", ".bark-tf.lock", ".a.saving-0.json"):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).touch()
    convert_checkpoint(bark, made, overwrite=True)
    assert files(made) == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_source_and_destination_apart(overwrite, bark, tmp_path, monkeypatch):
    codec = tmp_path / "codec"
    toy_files.save(codec / "x.th", toy_files.arrays(toy_files.CODEC, "meta"))
    (tmp_path / "link").symlink_to(bark)
    monkeypatch.chdir(bark)
    before = weights(bark)
    for source, destination, options in (
        (bark, bark, {}),
        (bark / "model.safetensors", bark, {}),
        ([bark / "model.safetensors"], bark, {}),
        (bark, tmp_path / "link", {}),
        (bark, ".", {}),
        (bark, tmp_path, {}),
        (bark, codec, {"codec": codec / "x.th"}),
    ):
        with pytest.raises(ValueError, match="outside of the source"):
            convert_checkpoint(source, destination, overwrite=overwrite, **options)
    toy_files.assert_same(weights(bark), before)


@pytest.mark.parametrize("names", ["hf", "suno"])
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_failure_half_way_leaves_no_trace(names, error, bark, tmp_path):
    old = convert_checkpoint(bark, tmp_path / "old")
    before = (old / "model.safetensors").stat().st_mtime_ns

    def fail(tensor, done, total):
        if done > total / 2:
            raise error("half-way")

    for destination in (tmp_path / "new", old):
        with pytest.raises(error, match="half-way"):
            convert_checkpoint(
                bark, destination, names=names, overwrite=True, progress=fail
            )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bark", "old"]
    assert (old / "model.safetensors").stat().st_mtime_ns == before
    toy_files.assert_same(weights(old), weights(bark))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", ".saved"])
def test_the_old_checkpoint_comes_back_if_a_rename_fails(
    name, bark, tmp_path, monkeypatch
):
    old = convert_checkpoint(bark, tmp_path / "old")
    replace = os.replace

    def fail(source, destination):
        if Path(destination) == old / name and "/.saved/old/" not in str(source):
            raise OSError("no")
        replace(source, destination)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="no"):
            convert_checkpoint(bark, old, dtype="float16", overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bark", "old"]
    toy_files.assert_same(weights(old), weights(bark))


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_killed_half_way_without_tensorflow(bark, tmp_path):
    """Nothing is under the final name, and TensorFlow was never needed."""
    code = """
import os, signal, sys
from bark_tf.convert.convert import convert_checkpoint

def kill(tensor, done, total):
    if done > total / 2:
        print("tensorflow" in sys.modules, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

convert_checkpoint(sys.argv[1], sys.argv[2], progress=kill)
"""
    command = [sys.executable, "-c", code, str(bark), str(tmp_path / "made")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert done.stdout.strip() == "False"
    assert not (tmp_path / "made").exists()


# === Progress and memory ===


@pytest.mark.parametrize("names", ["hf", "suno"])
def test_progress(names, bark, tmp_path):
    calls = []
    made = convert_checkpoint(
        bark, tmp_path / "made", names=names, progress=lambda *call: calls.append(call)
    )
    done = [call[1] for call in calls]
    assert done == sorted(set(done))
    assert done[-1] == calls[0][2]
    stored = sum(
        array.nbytes
        for path in made.glob("*.safetensors")
        for array in toy_files.load(path).values()
    )
    assert done[-1] == stored


# === Against the originals ===


@pytest.fixture(scope="module")
def torch():
    pytest.importorskip("transformers")
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def originals(torch, tmp_path_factory):
    """Suno's networks and their files as suno's trainer wrote them, and Meta's."""
    directory = tmp_path_factory.mktemp("suno")
    network = runpy.run_path(str(REFERENCE / "suno_bark.py"))["network"]
    torch.manual_seed(0)
    networks = {}
    for name, stem in toy_files.STEMS.items():
        args = convert.to_model_args(toy_files.part_config(CONFIG, name))
        networks[name] = network(args)
        for parameter in networks[name].parameters():
            torch.nn.init.normal_(parameter, std=0.5)
        state = {f"_orig_mod.{n}": t for n, t in networks[name].state_dict().items()}
        content = {
            "model": state,
            "model_args": args,
            "optimizer": torch.optim.AdamW(networks[name].parameters()).state_dict(),
            "best_val_loss": torch.tensor(2.5),
        }
        torch.save(content, directory / f"{stem}_2.pt")
    codec = toy_files.arrays(CONFIG.codec_config, "meta")
    content = {name: torch.from_numpy(array) for name, array in codec.items()}
    torch.save(
        {"best_state": content},
        directory / "encodec_24khz-d7cc33bc.th",
        _use_new_zipfile_serialization=False,
    )
    return directory, networks


def load_whole(model_class, directory):
    """Opens with transformers, without missing or unexpected tensors."""
    model, report = model_class.from_pretrained(directory, output_loading_info=True)
    assert not any(report.values()), report
    return model.eval()


@pytest.mark.reference
def test_transformers_says_what_suno_says(torch, originals, tmp_path):
    import transformers

    directory, networks = originals
    made = convert_checkpoint(directory, tmp_path / "made")
    bark = load_whole(transformers.BarkModel, made)
    ids = torch.from_numpy(toy.ids(2, 9)).long()
    codes = torch.from_numpy(toy.ids(2, 9, 4)).long()
    with torch.no_grad():
        for name in ("semantic", "coarse_acoustics"):
            ours = getattr(bark, name)(ids).logits[:, -1:]
            theirs, _ = networks[name](ids)
            assert np.std(theirs.numpy()) > 0.1
            assert toy.largest_difference(ours, theirs) < 1e-4
        for codebook in (1, 2, 3):
            ours = bark.fine_acoustics(codebook, codes).logits
            theirs = networks["fine_acoustics"](codebook, codes)
            assert toy.largest_difference(ours, theirs) < 1e-4
    generation = bark.generation_config
    assert generation.semantic_config["temperature"] == 0.7
    assert generation.fine_acoustics_config["temperature"] == 0.5


@pytest.mark.reference
def test_suno_opens_its_names(torch, originals, tmp_path):
    from safetensors.torch import load_file

    directory, networks = originals
    convert_checkpoint(directory, tmp_path / "hf")
    made = convert_checkpoint(tmp_path / "hf", tmp_path / "made", names="suno")
    make = runpy.run_path(str(REFERENCE / "suno_bark.py"))["network"]
    for name, stem in toy_files.STEMS.items():
        network = make(json.loads((made / f"{stem}.json").read_text()))
        network.load_state_dict(load_file(made / f"{stem}.safetensors"), strict=True)
        for key, tensor in network.state_dict().items():
            assert torch.equal(tensor, networks[name].state_dict()[key]), key


@pytest.mark.reference
@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("text_2.pt", "BarkSemantic"),
        ("coarse_2.pt", "BarkCoarse"),
        ("fine_2.pt", "BarkFine"),
        ("encodec_24khz-d7cc33bc.th", "Encodec"),
    ],
)
def test_transformers_opens_parts(originals, source, kind, tmp_path):
    import transformers

    made = convert_checkpoint(originals[0] / source, tmp_path / "made")
    model = load_whole(getattr(transformers, f"{kind}Model"), made)
    expected = weights(made)
    for name, tensor in model.state_dict().items():
        for spelling in (("original0", "weight_g"), ("original1", "weight_v")):
            name = name.replace(f"parametrizations.weight.{spelling[0]}", spelling[1])
        if name in expected:  # else a tied head
            np.testing.assert_array_equal(tensor.numpy(), expected.pop(name))
    assert not expected


@pytest.mark.reference
@pytest.mark.parametrize("dtype", [None, "bfloat16", "float16"])
@pytest.mark.parametrize("tied", [True, False])
def test_transformers_before_and_after(torch, tied, dtype, tmp_path):
    """A Bark of transformers gives bit-equal results after a conversion."""
    import transformers

    toy_files.save_hf(tmp_path / "b", toy_files.bark_config(tie_word_embeddings=tied))
    before = load_whole(transformers.BarkModel, tmp_path / "b")
    before.save_pretrained(tmp_path / "before")
    made = convert_checkpoint(tmp_path / "before", tmp_path / "made", dtype=dtype)
    after = load_whole(transformers.BarkModel, made)
    if dtype is not None:
        before = before.to(getattr(torch, dtype))
    ids = torch.from_numpy(toy.ids(2, 9)).long()
    codes = torch.from_numpy(toy.ids(2, 9, 4)).long()
    state = after.state_dict()
    for name, tensor in before.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    with torch.no_grad():
        for part, arguments in (("semantic", (ids,)), ("fine_acoustics", (2, codes))):
            one, two = (
                getattr(model, part)(*arguments).logits for model in (before, after)
            )
            assert torch.equal(one, two)
