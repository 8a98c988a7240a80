"""Keywords and attributes of transformers and PyTorch."""

import numpy as np
import pytest
import toy

from bark_tf.bark import BarkModel
from bark_tf.config import BarkConfig
from bark_tf.habits import ATTRIBUTES, accepts_habits
from bark_tf.models.causal import BarkSemanticModel
from bark_tf.models.encodec.model import EncodecModel
from bark_tf.processor import BarkInputs, BarkProcessor
from bark_tf.text.tokenizer import BarkTokenizer


@accepts_habits
def load(cls, path_or_id=None, **keywords):
    return {"path_or_id": path_or_id, **keywords}


# === Keywords ===


def test_names_of_transformers_become_ours():
    given = {"pretrained_model_name_or_path": "a/b", "torch_dtype": "float16"}
    assert load(None, **given, use_auth_token="t", revision="v1") == {
        "path_or_id": "a/b",
        "dtype": "float16",
        "token": "t",
        "revision": "v1",
    }


@pytest.mark.parametrize("names", [("torch_dtype", "dtype"), ("dtype", "torch_dtype")])
def test_both_names_are_one_too_many(names):
    with pytest.raises(ValueError, match="torch_dtype is another name for dtype"):
        load(None, **dict.fromkeys(names, "float16"))


@pytest.mark.parametrize(
    "keywords",
    [
        {"low_cpu_mem_usage": True, "use_safetensors": True, "use_fast": False},
        {"attn_implementation": "eager", "trust_remote_code": False},
        {"attn_implementation": "sdpa", "force_download": False, "proxies": None},
        {"device_map": "auto"},
        {"device_map": None},
    ],
)
def test_what_costs_nothing_is_accepted(keywords):
    assert load(None, "a/b", **keywords) == {"path_or_id": "a/b"}


@pytest.mark.parametrize(
    ("keywords", "instead"),
    [
        ({"attn_implementation": "flash_attention_2"}, "one attention"),
        ({"load_in_8bit": True}, 'quantize="int8"'),
        ({"quantization_config": {"bits": 4}}, 'quantize="int8"'),
        ({"max_memory": {0: "1GB"}}, "offload=True"),
        ({"force_download": True}, "cache"),
        ({"proxies": {"https": "proxy"}}, "HTTPS_PROXY"),
        ({"safe_serialization": False}, "safetensors"),
        ({"variant": "fp16"}, "dtype"),
        ({"device_map": "cuda:7"}, "CUDA_VISIBLE_DEVICES"),
        ({"device_map": {"semantic": 0, "codec_model": "cpu"}}, "CUDA_VISIBLE"),
    ],
)
def test_what_cannot_be_honoured_says_what_to_do(keywords, instead):
    (name,) = keywords
    with pytest.raises(ValueError, match=f"^{name}=.* cannot be honoured: .*{instead}"):
        load(None, "a/b", **keywords)


@pytest.mark.parametrize(
    ("gpus", "accepted", "refused"),
    [
        ([], ("cpu", {"": "cpu"}), ("cuda", 0, {"": "cuda"})),
        (["GPU:0"], ("cuda", "cuda:0", 0, {"": 0}), ("cpu", "cuda:1", 1)),
    ],
)
def test_a_device_map_names_the_device_that_is_used(
    gpus, accepted, refused, monkeypatch
):
    monkeypatch.setattr("tensorflow.config.get_visible_devices", lambda kind: gpus)
    for device in accepted:
        load(None, "a/b", device_map=device)
    for device in refused:
        with pytest.raises(ValueError, match=r"TensorFlow sees (a|no) GPU"):
            load(None, "a/b", device_map=device)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A directory whose folder `deep/bark` holds a whole toy Bark in float16."""
    directory = tmp_path_factory.mktemp("checkpoints")
    bark = toy.bark(dtype="float16")
    bark.save_pretrained(directory / "deep" / "bark", safe_serialization=True)
    tokenizer = BarkTokenizer.from_vocabulary(["[PAD]", "[UNK]", "hello"])
    limits = bark.generation_config.voice_limits()
    processor = BarkProcessor(tokenizer, {"me": toy.voice()}, voice_limits=limits)
    processor.save_pretrained(directory / "deep" / "bark")
    return directory


def test_every_loader_takes_them(checkpoints):
    where = {
        "pretrained_model_name_or_path": checkpoints,
        "subfolder": "deep/bark",
        "low_cpu_mem_usage": True,
        "device_map": "auto",
    }
    model = BarkModel.from_pretrained(torch_dtype="auto", **where)
    semantic = BarkSemanticModel.from_pretrained(torch_dtype="auto", **where)
    codec = EncodecModel.from_pretrained(torch_dtype="float32", **where)
    assert model.semantic.dtype_policy.name == semantic.dtype_policy.name == "float16"
    assert codec.dtype_policy.name == "float32"
    assert model.generation_config == toy.generation_config()
    config = BarkConfig.from_pretrained(**where)
    assert config == model.config == toy.bark_config()
    assert BarkTokenizer.from_pretrained(**where)("hello")["input_ids"][0, 0] == 2
    inputs = BarkProcessor.from_pretrained(**where)("hello", voice_preset="me")
    np.testing.assert_array_equal(
        inputs["history_prompt"]["fine_prompt"], toy.voice()["fine_prompt"]
    )


@pytest.mark.parametrize("subfolder", ["../elsewhere", "/deep"])
def test_a_subfolder_stays_inside(checkpoints, subfolder):
    with pytest.raises(ValueError, match="subfolder must be a relative path"):
        BarkConfig.from_pretrained(checkpoints, subfolder=subfolder)
    with pytest.raises(FileNotFoundError, match=r"deep/config\.json"):
        BarkConfig.from_pretrained(checkpoints, subfolder="deep/")


# === Attributes ===


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_attributes_of_pytorch_say_what_to_do(name):
    bark = toy.shared_bark()
    owners = [bark, bark.semantic, bark.codec_model, BarkInputs(input_ids=[[1]])]
    lacking = [owner for owner in owners if not hasattr(owner, name)]
    assert lacking
    for owner in lacking:
        with pytest.raises(
            AttributeError, match=f"^{type(owner).__name__} has no `{name}`: [^\n]+$"
        ):
            getattr(owner, name)


def test_other_attributes_have_the_usual_error():
    with pytest.raises(AttributeError, match="no attribute 'genrate'"):
        toy.shared_bark().genrate  # noqa: B018
    with pytest.raises(AttributeError, match="no attribute 'genrate'"):
        toy.shared_bark().semantic.genrate  # noqa: B018
