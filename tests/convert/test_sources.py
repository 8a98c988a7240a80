"""Which networks a source holds, and what is refused."""

import contextlib
import json

import numpy as np
import pytest
import toy_files

from bark_tf.config import BarkConfig
from bark_tf.convert import sources
from bark_tf.convert.configs import PARTS

CONFIG = toy_files.bark_config()
SEMANTIC = CONFIG.semantic_config
META_NAME = "encodec_24khz-d7cc33bc.th"


@pytest.fixture
def open_source():
    with contextlib.ExitStack() as files:
        yield lambda source, **options: sources.open_source(source, files, **options)


def configs(source):
    return {name: part.config for name, part in source.parts.items()}


def spellings(source):
    return {name: part.spelling for name, part in source.parts.items()}


def edit_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# === Recognising ===


def test_a_whole_bark(tmp_path, open_source):
    toy_files.save_hf(tmp_path, CONFIG)
    source = open_source(tmp_path)
    assert list(source.parts) == list(PARTS)
    assert source.config == CONFIG
    assert configs(source) == {n: toy_files.part_config(CONFIG, n) for n in PARTS}
    assert source.location == tmp_path


@pytest.mark.parametrize("name", PARTS)
def test_one_part_of_hugging_face(name, tmp_path, open_source):
    config = toy_files.part_config(CONFIG, name)
    toy_files.save(tmp_path / "model.safetensors", toy_files.arrays(config))
    config.save_pretrained(tmp_path)
    for path in (tmp_path, tmp_path / "model.safetensors"):
        source = open_source(path)
        assert configs(source) == {name: config}
        assert source.config is None
        assert source.location == tmp_path


def test_sunos_directory(tmp_path, open_source):
    toy_files.save_suno(tmp_path, CONFIG)
    source = open_source(tmp_path)
    assert configs(source) == {n: toy_files.part_config(CONFIG, n) for n in PARTS}
    assert spellings(source) == {**dict.fromkeys(PARTS, "suno"), "codec_model": "meta"}


def test_a_list_of_files(tmp_path, open_source):
    toy_files.save_suno(tmp_path, CONFIG)
    (tmp_path / "coarse.pt").rename(tmp_path / "coarse_2.pt")
    (tmp_path / "coarse.json").rename(tmp_path / "coarse_2.json")
    paths = [tmp_path / "fine.pt", tmp_path / "coarse_2.pt"]
    source = open_source(paths)
    assert list(source.parts) == ["coarse_acoustics", "fine_acoustics"]
    with pytest.raises(ValueError, match=r"one fine_acoustics model.*also .*/fine\.pt"):
        open_source([*paths, paths[0]])


def test_a_list_with_directories(tmp_path, open_source):
    toy_files.save_suno(tmp_path / "suno", CONFIG, codec=None)
    toy_files.save(
        tmp_path / "codec" / "model.safetensors", toy_files.arrays(toy_files.CODEC)
    )
    toy_files.CODEC.save_pretrained(tmp_path / "codec")
    source = open_source([tmp_path / "suno", tmp_path / "codec"])
    assert list(source.parts) == list(PARTS)
    assert source.location == tmp_path / "suno"


def test_small_and_large_in_one_directory(tmp_path, open_source):
    toy_files.save_suno(tmp_path, CONFIG)
    (tmp_path / "fine_2.pt").write_bytes((tmp_path / "fine.pt").read_bytes())
    with pytest.raises(
        ValueError, match=r"one fine_acoustics model.*list of files.* fine\.pt, fine_2"
    ):
        open_source(tmp_path)


def test_hugging_face_wins_in_a_directory_with_both(tmp_path, open_source):
    """The repository `suno/bark` has suno's own weights next to the converted ones."""
    toy_files.save_hf(tmp_path, CONFIG)
    toy_files.save_suno(tmp_path, CONFIG)
    assert set(spellings(open_source(tmp_path)).values()) == {"hf"}


def test_model_args_inside_the_file(tmp_path, open_source, monkeypatch):
    toy_files.save_suno(tmp_path, CONFIG)
    args = json.loads((tmp_path / "text.json").read_text())
    del args["bias"]  # the tensors tell
    (tmp_path / "text.json").unlink()
    opened = sources.open_checkpoint

    def open_with_metadata(path):
        checkpoint = opened(path)
        checkpoint.metadata = {"model_args": args, "best_val_loss": 3.5}
        return checkpoint

    monkeypatch.setattr(sources, "open_checkpoint", open_with_metadata)
    assert configs(open_source(tmp_path / "text.pt")) == {"semantic": SEMANTIC}


def test_untied_heads_are_noticed(tmp_path, open_source):
    """Suno's configuration cannot express it; without them the model would differ."""
    toy_files.save_suno(tmp_path, CONFIG)
    path = tmp_path / "fine.pt"
    assert open_source(path).parts["fine_acoustics"].config.tie_word_embeddings
    arrays = toy_files.load(path)
    arrays["_orig_mod.lm_heads.1.weight"][0, 0] += 1
    toy_files.save(path, arrays)
    part = open_source(path).parts["fine_acoustics"]
    assert part.config == CONFIG.fine_acoustics_config.replace(
        tie_word_embeddings=False
    )
    assert "lm_heads.1.weight" in part.stored


def test_heads_that_should_be_tied(tmp_path, open_source):
    arrays = toy_files.bark_arrays(CONFIG, with_heads=True)
    arrays["fine_acoustics.lm_heads.2.weight"][0, 0] += 1
    toy_files.save_hf(tmp_path, CONFIG, arrays)
    with pytest.raises(
        ValueError,
        match=r"fine_acoustics\.lm_heads\.2.* differs from .*layers\.3\.weight",
    ):
        open_source(tmp_path)
    untied = CONFIG.fine_acoustics_config.replace(tie_word_embeddings=False)
    source = open_source(tmp_path, config=untied)
    assert source.parts["fine_acoustics"].config == untied


# === The codec ===


@pytest.mark.parametrize("kind", ["th", "encodec", "bark", "suno"])
def test_the_codec_from_elsewhere(kind, tmp_path, open_source):
    toy_files.save_suno(tmp_path / "suno", CONFIG, codec=None)
    other = tmp_path / "codec"
    if kind == "th":
        tensors = toy_files.arrays(toy_files.CODEC, "meta")
        codec = toy_files.save(other / META_NAME, tensors)
    elif kind == "encodec":
        codec = other
        tensors = toy_files.arrays(toy_files.CODEC)
        toy_files.save(other / "model.safetensors", tensors)
        toy_files.CODEC.save_pretrained(other)
    elif kind == "bark":
        codec = other
        toy_files.save_hf(other, CONFIG)
    else:
        codec = other
        toy_files.save_suno(other, CONFIG)
    assert "codec_model" not in open_source(tmp_path / "suno").parts
    source = open_source(tmp_path / "suno", codec=codec)
    assert list(source.parts) == list(PARTS)
    assert source.parts["codec_model"].config == toy_files.CODEC


def test_the_named_codec_wins(tmp_path, open_source):
    toy_files.save_hf(tmp_path / "bark", CONFIG)
    codec = toy_files.save(
        tmp_path / META_NAME, toy_files.arrays(toy_files.CODEC, "meta")
    )
    source = open_source(tmp_path / "bark", codec=codec)
    assert spellings(source)["codec_model"] == "meta"


def test_no_codec_in_the_codec(tmp_path, open_source):
    toy_files.save_suno(tmp_path, CONFIG, codec=None)
    with pytest.raises(ValueError, match=r"Expected a codec.*text\.pt"):
        open_source(tmp_path, codec=tmp_path / "text.pt")


# === Configurations ===


def test_weights_without_a_configuration(tmp_path, open_source):
    toy_files.save_hf(tmp_path, CONFIG)
    (tmp_path / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        open_source(tmp_path)
    assert open_source(tmp_path, config=CONFIG).config == CONFIG


def test_suno_without_model_args(tmp_path, open_source):
    toy_files.save_suno(tmp_path, CONFIG)
    (tmp_path / "text.json").unlink()
    with pytest.raises(ValueError, match=r"text\.pt: Expected model_args"):
        open_source(tmp_path / "text.pt")
    for config in (SEMANTIC, CONFIG):
        source = open_source(tmp_path / "text.pt", config=config)
        assert configs(source) == {"semantic": SEMANTIC}


def test_a_given_configuration_wins(tmp_path, open_source):
    toy_files.save_hf(tmp_path, CONFIG)
    given = SEMANTIC.replace(num_heads=2)  # leaves no trace in the tensors
    source = open_source(tmp_path, config=given)
    assert configs(source)["semantic"] == given
    assert configs(source)["codec_model"] == toy_files.CODEC


def test_a_configuration_of_another_part(tmp_path, open_source):
    toy_files.save_suno(tmp_path, CONFIG)
    with pytest.raises(ValueError, match="Expected a configuration of semantic"):
        open_source(tmp_path / "text.pt", config=toy_files.CODEC)
    with pytest.raises(ValueError, match="config must be a BarkConfig or a part's"):
        open_source(tmp_path / "text.pt", config={"n_layer": 2})


@pytest.mark.parametrize("model_type", ["vits", None, ["bark"], {"a": 1}])
def test_other_models(model_type, tmp_path, open_source):
    toy_files.save_hf(tmp_path, CONFIG)
    edit_json(tmp_path / "config.json", model_type=model_type)
    with pytest.raises(ValueError, match=r"config\.json: expected model_type to be "):
        open_source(tmp_path)


# === What does not fit ===


def test_missing_and_unknown_tensors(tmp_path, open_source):
    arrays = toy_files.save_hf(tmp_path, CONFIG)
    moved = {"semantic.other": arrays.pop("semantic.lm_head.weight")}
    toy_files.save_hf(tmp_path, CONFIG, arrays | moved)
    with pytest.raises(
        ValueError, match=r"lacks semantic\.lm_head.*no place for semantic\.other"
    ):
        open_source(tmp_path)


def test_tensors_of_no_part(tmp_path, open_source):
    arrays = toy_files.save_hf(tmp_path, CONFIG)
    toy_files.save_hf(tmp_path, CONFIG, arrays | {"vocoder.weight": np.zeros(1)})
    with pytest.raises(ValueError, match=r"no place for vocoder\.weight"):
        open_source(tmp_path)


def test_wrong_sizes(tmp_path, open_source):
    toy_files.save_suno(tmp_path, CONFIG)
    edit_json(tmp_path / "text.json", n_embd=32)
    with pytest.raises(ValueError, match=r"'transformer\.wte\.weight' has shape"):
        open_source(tmp_path)
    edit_json(tmp_path / "text.json", n_embd=16, n_layer=3)
    with pytest.raises(ValueError, match=r"lacks transformer\.h\.2\."):
        open_source(tmp_path)


def test_nothing_there(tmp_path, open_source):
    with pytest.raises(FileNotFoundError):
        open_source(tmp_path)
    with pytest.raises(FileNotFoundError):
        open_source(tmp_path / "text.pt")
    with pytest.raises(FileNotFoundError):
        open_source([tmp_path / "text.pt"])
    with pytest.raises(ValueError, match="at least one"):
        open_source([])


def test_a_repository_of_the_hub(hub, open_source, tmp_path):
    toy_files.save_hf(tmp_path / "bark", CONFIG)
    for name in ("model.safetensors", "config.json"):
        hub.write("me/bark", name, (tmp_path / "bark" / name).read_bytes())
    source = open_source("me/bark")
    assert source.config == BarkConfig.from_pretrained(tmp_path / "bark")
    assert source.location == "me/bark"
