import dataclasses
import inspect
import json

import numpy as np
import pytest

from bark_tf.config import BarkGenerationConfig
from bark_tf.processor import BarkInputs, BarkProcessor
from bark_tf.text.tokenizer import BarkTokenizer
from bark_tf.voices.presets import VoicePreset

VOCABULARY = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *("Hello", "hello", ",", "my", "dog", "##s", "is", "cute", "é", "中", "♪"),
    *("[", "]", "laughs"),
]
KEYS = ("semantic_prompt", "coarse_prompt", "fine_prompt")
NAMES = ("plain", "v2/en_speaker_0", "deep/er/name")
REPO = "toy/bark"


def ids_of(*tokens):
    return [VOCABULARY.index(token) for token in tokens]


def arrays(seed=0, num_tokens=20, num_frames=30):
    rng = np.random.default_rng(seed)
    return {
        "semantic_prompt": rng.integers(0, 10_000, num_tokens),
        "coarse_prompt": rng.integers(0, 1024, (2, num_frames)),
        "fine_prompt": rng.integers(0, 1024, (8, num_frames)).astype(np.int32),
    }


def voice(seed=0):
    return VoicePreset.from_dict(arrays(seed))


@pytest.fixture(scope="module")
def tokenizer():
    return BarkTokenizer.from_vocabulary(VOCABULARY)


@pytest.fixture(scope="module")
def processor(tokenizer):
    return BarkProcessor(tokenizer)


@pytest.fixture
def voiced(tokenizer):
    return BarkProcessor(tokenizer, {n: arrays(i) for i, n in enumerate(NAMES)})


@pytest.fixture
def checkpoint(voiced, tmp_path):
    voiced.save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


# === Text ===


def test_a_text_becomes_one_row_of_tensors(processor):
    import tensorflow as tf

    inputs = processor("Hello, my dogs")
    assert list(inputs) == ["input_ids", "attention_mask"]
    for array in inputs.values():
        assert isinstance(array, tf.Tensor)
        assert array.shape == (1, 256) and array.dtype == tf.int32
    ids = ids_of("Hello", ",", "my", "dog", "##s")
    assert inputs.input_ids[0].numpy().tolist() == ids + [0] * 251
    assert inputs["attention_mask"][0].numpy().tolist() == [1] * 5 + [0] * 251


def test_a_batch_as_arrays_or_lists(processor):
    text = ["Hello", "my dog [laughs]"]
    inputs = processor(text=text, return_tensors="np", return_token_type_ids=True)
    assert list(inputs) == ["input_ids", "token_type_ids", "attention_mask"]
    assert all(array.shape == (2, 256) for array in inputs.values())
    assert all(array.dtype == np.int32 for array in inputs.values())
    lists = processor(text, return_tensors=None, return_attention_mask=False)
    assert lists == {"input_ids": inputs.input_ids.tolist()}


def test_options_reach_the_tokenizer(processor):
    inputs = processor(
        ["my", "dog"],
        return_tensors="np",
        is_split_into_words=True,
        max_length=5,
        add_special_tokens=True,
        truncation=False,
        padding="max_length",
    )
    expected = [*ids_of("[CLS]", "my", "dog", "[SEP]"), 0]
    assert inputs.input_ids.tolist() == [expected]


def test_special_tokens_that_do_not_exist_are_refused():
    """The argument once did nothing, silently."""
    bare = BarkProcessor(BarkTokenizer.from_vocabulary(["[PAD]", "[UNK]", "dog"]))
    with pytest.raises(ValueError, match="add_special_tokens must be False"):
        bare("dog", add_special_tokens=True)
    with pytest.raises(ValueError, match="add_special_tokens must be False"):
        bare.tokenizer.encode("dog", add_special_tokens=True)


def test_long_text_warns(processor):
    with pytest.warns(UserWarning, match="the last 44 of 300 tokens of row 0"):
        inputs = processor("dog " * 300, return_tensors="np")
    assert inputs.attention_mask.sum() == 256


def test_the_order_of_arguments_is_that_of_transformers():
    names = list(inspect.signature(BarkProcessor.__call__).parameters)
    assert names[1:8] == [
        "text",
        "voice_preset",
        "return_tensors",
        "max_length",
        "add_special_tokens",
        "return_attention_mask",
        "return_token_type_ids",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"return_tensors": "pt"}, "'tf', 'np' or None.*PyTorch.*'pt'"),
        ({"return_tensors": "jax"}, "'jax'"),
        ({"padding": "longest"}, "padding must be 'max_length'.*'longest'"),
        ({"padding": True}, "padding must be 'max_length'.*True"),
        ({"truncation": "sometimes"}, "truncation must be"),
        ({"max_length": 0}, "max_length must be"),
        ({"text": None}, "text must be given"),
        ({"text": ["Hello", " "]}, "text is empty in row 1"),
        ({"voice": arrays(), "voice_preset": arrays()}, "Received: both"),
    ],
)
def test_an_argument_that_cannot_be_used(processor, options, message):
    with pytest.raises(ValueError, match=message):
        processor(**{"text": "Hello", "return_tensors": "np", **options})


def test_an_unknown_keyword_is_refused_by_name(processor):
    with pytest.raises(TypeError, match="temprature"):
        processor("Hello", temprature=0.7)


def test_inputs_are_a_dictionary_with_attributes(processor):
    inputs = processor("Hello", return_tensors="np")
    assert isinstance(inputs, BarkInputs)
    assert set(dict(**inputs)) == {"input_ids", "attention_mask"}
    assert inputs.attention_mask is inputs["attention_mask"]
    with pytest.raises(AttributeError, match=r"history_prompt.*input_ids"):
        inputs.history_prompt  # noqa: B018


# === Making ===


def test_forms_of_tokenizer(tokenizer):
    class Fast:  # the part of a fast tokenizer of transformers that is used
        backend_tokenizer = tokenizer.backend
        pad_token = "[MASK]"

    assert BarkProcessor(tokenizer).tokenizer is tokenizer
    made = BarkProcessor(tokenizer.backend)
    assert made("dog", return_tensors=None)["input_ids"][0][:2] == ids_of(
        "dog", "[PAD]"
    )
    made = BarkProcessor(Fast())
    assert made("dog", return_tensors=None)["input_ids"][0][:2] == ids_of(
        "dog", "[MASK]"
    )
    with pytest.raises(ValueError, match=r"tokenizer must be.*Received: str"):
        BarkProcessor("suno/bark")


def test_the_index_is_checked_when_given(tokenizer):
    with pytest.raises(ValueError, match=r"relative path.*\.\./a\.npy"):
        BarkProcessor(tokenizer, {"a": dict.fromkeys(KEYS, "../a.npy")})


# === Voices ===


def test_a_voice_in_every_form(voiced, tmp_path):
    path = voice(5).save(tmp_path / "mine.npz")
    for given, seed in [
        ("v2/en_speaker_0", 1),
        (arrays(3), 3),
        (voice(4), 4),
        (path, 5),
        (str(path), 5),
        (str(path)[:-4], 5),
    ]:
        for name in ("voice", "voice_preset"):
            inputs = voiced("Hello", return_tensors="np", **{name: given})
            assert inputs.history_prompt == voice(seed)
            assert list(inputs) == ["input_ids", "attention_mask", "history_prompt"]


def test_one_voice_per_row(voiced):
    text = ["Hello", "my", "dog", "is"]
    given = ["plain", None, arrays(4), "plain"]
    inputs = voiced(text, voice=given, return_tensors="np")
    assert inputs.history_prompt == [voice(0), None, voice(4), voice(0)]
    assert inputs.history_prompt[0] is inputs.history_prompt[3]
    with pytest.raises(ValueError, match=r"one per row, 2 in all.*Received: 1"):
        voiced(["Hello", "dog"], voice=["plain"], return_tensors="np")


def test_voices_of_the_checkpoint_have_names(processor, voiced):
    assert processor.available_voice_presets == []
    assert voiced.available_voice_presets == list(NAMES)
    with pytest.raises(ValueError, match=r"no voice 'v2/en_speaker_00'.*Did you mean"):
        voiced("Hello", voice="v2/en_speaker_00", return_tensors="np")


def test_a_voice_may_be_added(tokenizer):
    made = BarkProcessor(tokenizer)
    made.speaker_embeddings["mine"] = voice(7)
    assert made("dog", voice="mine", return_tensors="np").history_prompt == voice(7)


def test_a_wrong_voice_is_one_clear_error(processor):
    broken = {**arrays(), "coarse_prompt": np.zeros((3, 30), int)}
    with pytest.raises(ValueError, match=r"coarse_prompt must have 2 rows"):
        processor("Hello", voice=broken, return_tensors="np")


def test_the_voices_of_transformers_own_tests_work(processor):
    """They are np.ones of 35 tokens and 35 frames; a mismatch of lengths warns."""
    given = {
        "semantic_prompt": np.ones(35),
        "coarse_prompt": np.ones((2, 35)),
        "fine_prompt": np.ones((8, 35)),
    }
    with pytest.warns(UserWarning, match="about 53 frames for 35 tokens"):
        inputs = processor(text="Hello", voice_preset=given, return_tensors="np")
    for key in KEYS:
        np.testing.assert_array_equal(inputs["history_prompt"].get(key), given[key])


# === Files ===


def test_the_layout_is_that_of_transformers(checkpoint):
    files = {p.relative_to(checkpoint).as_posix() for p in checkpoint.rglob("*.*")}
    arrays_of = {f"speaker_embeddings/{n}_{key}.npy" for n in NAMES for key in KEYS}
    assert files == arrays_of | {
        "processor_config.json",
        "speaker_embeddings_path.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    index = json.loads((checkpoint / "speaker_embeddings_path.json").read_text())
    assert index == {
        "repo_or_path": str(checkpoint),
        **{n: {k: f"speaker_embeddings/{n}_{k}.npy" for k in KEYS} for n in NAMES},
    }
    for path in arrays_of:
        assert np.load(checkpoint / path).dtype == np.int64


def test_round_trip(voiced, checkpoint, tmp_path):
    loaded = BarkProcessor.from_pretrained(checkpoint)
    assert loaded.available_voice_presets == list(NAMES)
    loaded.save_pretrained(tmp_path / "again")
    again = BarkProcessor.from_pretrained(str(tmp_path / "again"))
    for name in NAMES:
        expected = voiced("my dog", voice=name, return_tensors="np")
        result = again("my dog", voice=name, return_tensors="np")
        np.testing.assert_array_equal(result.input_ids, expected.input_ids)
        assert result.history_prompt == expected.history_prompt


def test_a_checkpoint_may_be_moved_and_saved_onto_itself(checkpoint, tmp_path):
    """The index names the place it was saved to; its present directory counts."""
    moved = checkpoint.rename(tmp_path / "moved")
    loaded = BarkProcessor.from_pretrained(moved)
    loaded.speaker_embeddings["new"] = voice(9)
    loaded.save_pretrained(moved)
    again = BarkProcessor.from_pretrained(moved)
    assert again.available_voice_presets == [*NAMES, "new"]
    assert again("dog", voice="plain", return_tensors="np").history_prompt == voice(0)
    assert again("dog", voice="new", return_tensors="np").history_prompt == voice(9)


def test_other_names_of_the_index_and_its_folder(voiced, tmp_path):
    voiced.save_pretrained(tmp_path, "voices.json", "my/voices")
    assert (tmp_path / "my/voices/v2/en_speaker_0_fine_prompt.npy").is_file()
    assert BarkProcessor.from_pretrained(tmp_path).available_voice_presets == []
    loaded = BarkProcessor.from_pretrained(tmp_path, "voices.json")
    assert loaded("dog", voice="plain", return_tensors="np").history_prompt == voice(0)


def test_without_voices_there_is_no_index(processor, checkpoint, tmp_path):
    processor.save_pretrained(tmp_path / "plain")
    names = sorted(path.name for path in (tmp_path / "plain").iterdir())
    files = ["processor_config.json", "tokenizer.json", "tokenizer_config.json"]
    assert names == files
    loaded = BarkProcessor.from_pretrained(tmp_path / "plain")
    assert loaded.speaker_embeddings == {}
    skipped = BarkProcessor.from_pretrained(checkpoint, None)
    assert skipped.available_voice_presets == []


@pytest.mark.parametrize("name", ["../a", "/a", "a/../../b", "C:\\a"])
def test_nothing_is_written_outside_or_at_all(voiced, tmp_path, name):
    target = tmp_path / "target"
    with pytest.raises(ValueError, match="relative path"):
        voiced.save_pretrained(target, speaker_embeddings_directory=name)
    with pytest.raises(ValueError, match="relative path"):
        voiced.save_pretrained(target, speaker_embeddings_dict_path=name)
    voiced.speaker_embeddings[name] = voice()
    with pytest.raises(ValueError, match="name of a voice"):
        voiced.save_pretrained(target)
    assert list(tmp_path.iterdir()) == []


def test_a_voice_that_cannot_be_read_is_left_out_with_a_warning(checkpoint, tmp_path):
    """One damaged or missing file once made the whole save fail."""
    folder = checkpoint / "speaker_embeddings"
    (folder / "plain_fine_prompt.npy").unlink()
    (folder / "v2" / "en_speaker_0_fine_prompt.npy").write_bytes(b"damaged")
    loaded = BarkProcessor.from_pretrained(checkpoint)
    message = (
        r"2 of 3 voices.*'plain' \(.*no file.*; 'v2/en_speaker_0' \(.*not an array"
    )
    with pytest.warns(UserWarning, match=message):
        loaded.save_pretrained(tmp_path / "target")
    saved = BarkProcessor.from_pretrained(tmp_path / "target")
    assert saved.available_voice_presets == ["deep/er/name"]
    assert saved("dog", voice="deep/er/name").history_prompt == voice(2)


def test_a_save_replaces_the_voices_of_an_older_one(processor, checkpoint):
    processor.save_pretrained(checkpoint)
    assert BarkProcessor.from_pretrained(checkpoint).available_voice_presets == []


def test_a_processor_saved_alone_keeps_the_layout(tokenizer, tmp_path):
    """64 columns once came back as 256, so a small model lost its text."""
    limits = BarkGenerationConfig(codebook_size=16).voice_limits()
    made = BarkProcessor(tokenizer, max_length=5, voice_limits=limits)
    assert repr(made) == "BarkProcessor(5 tokens per text, vocabulary of 19, 0 voices)"
    made.save_pretrained(tmp_path)
    loaded = BarkProcessor.from_pretrained(tmp_path)
    assert loaded("dog", return_tensors="np").input_ids.shape == (1, 5)
    with pytest.raises(ValueError, match=r"values in \[0, 16\)"):
        loaded("dog", voice=voice())
    # A model in the same directory decides.
    BarkGenerationConfig().save_pretrained(tmp_path)
    loaded = BarkProcessor.from_pretrained(tmp_path)
    assert loaded("dog", voice=voice(), return_tensors="np").input_ids.shape == (1, 256)


@pytest.mark.parametrize(
    "values",
    [{"max_length": "5"}, {"voice_limits": [1]}, {"voice_limits": {"size": 1}}],
    ids=str,
)
def test_limits_that_are_none_are_refused(processor, tmp_path, values):
    processor.save_pretrained(tmp_path)
    (tmp_path / "processor_config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"processor_config\.json: .* must be"):
        BarkProcessor.from_pretrained(tmp_path)


def test_an_interrupted_save_leaves_the_old_index(checkpoint, monkeypatch):
    index = checkpoint / "speaker_embeddings_path.json"
    before = index.read_bytes()
    loaded = BarkProcessor.from_pretrained(checkpoint)
    loaded.speaker_embeddings["new"] = voice(9)

    def fail(file, array, **_):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        loaded.save_pretrained(checkpoint)
    monkeypatch.undo()
    assert index.read_bytes() == before
    assert not [path for path in checkpoint.rglob(".*")]
    old = BarkProcessor.from_pretrained(checkpoint)
    assert old("dog", voice="plain", return_tensors="np").history_prompt == voice(0)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"a": dict.fromkeys(KEYS, "../../secret.npy")}, r"secret\.npy"),
        ({"a": dict.fromkeys(KEYS, "/etc/hostname")}, "/etc/hostname"),
        ({"../a": dict.fromkeys(KEYS, "a.npy")}, r"\.\./a"),
        ({"a": "a.npz"}, "to files"),
        (["a"], "JSON object"),
        ("{", "valid JSON"),
    ],
)
def test_an_evil_or_broken_index_is_refused(checkpoint, index, message):
    text = index if isinstance(index, str) else json.dumps(index)
    (checkpoint / "speaker_embeddings_path.json").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        BarkProcessor.from_pretrained(checkpoint)
    assert "speaker_embeddings_path.json" in str(caught.value)


def test_the_generation_config_sets_the_limits_of_voices(checkpoint):
    """A small checkpoint has fewer codebooks and codes than Bark."""
    config = BarkGenerationConfig(codebook_size=16)
    small = dataclasses.replace(config.fine_acoustics_config, n_fine_codebooks=4)
    config.replace(fine_acoustics_config=small).save_pretrained(checkpoint)
    loaded = BarkProcessor.from_pretrained(checkpoint)
    with pytest.raises(ValueError, match="fine_prompt must have 4 rows"):
        loaded("dog", voice=voice(), return_tensors="np")
    given = {key: array % 16 for key, array in arrays().items()}
    given["fine_prompt"] = given["fine_prompt"][:4]
    assert loaded("dog", voice=given, return_tensors="np").history_prompt[
        "fine_prompt"
    ].shape == (4, 30)
    given["coarse_prompt"] = given["coarse_prompt"] + 16
    with pytest.raises(
        ValueError, match=r"coarse_prompt must hold values in \[0, 16\)"
    ):
        loaded("dog", voice=given, return_tensors="np")


@pytest.mark.parametrize("path", ["no/such/directory", "/no/such"])
def test_no_such_checkpoint(path):
    with pytest.raises(FileNotFoundError, match=path):
        BarkProcessor.from_pretrained(path)


def test_a_checkpoint_without_tokenizer(checkpoint):
    (checkpoint / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match="has no tokenizer"):
        BarkProcessor.from_pretrained(checkpoint)


# === The hub ===


def publish(hub, directory, revision="main"):
    for path in directory.rglob("*.*"):
        name = path.relative_to(directory).as_posix()
        hub.write(REPO, name, path.read_bytes(), revision)


def test_voices_of_a_repository_are_downloaded_when_used(hub, checkpoint):
    publish(hub, checkpoint)
    publish(hub, checkpoint, "other")
    loaded = BarkProcessor.from_pretrained(REPO, revision="other")
    assert not any("npy" in request.path for request in hub.requests)
    inputs = loaded(["my", "dog"], voice=["plain"] * 2, return_tensors="np")
    assert inputs.history_prompt == [voice(0)] * 2
    requests = [request for request in hub.requests if "npy" in request.path]
    places = ("/other/", hub.commit(REPO, "other"))
    assert all(any(p in request.path for p in places) for request in requests)
    # Once for both rows: every look-up of a branch asks, in the cache or not.
    assert [request.method for request in requests] == ["HEAD", "GET"] * 3
    hub.stop()
    loaded = BarkProcessor.from_pretrained(
        REPO, revision="other", local_files_only=True
    )
    assert loaded("dog", voice="plain", return_tensors="np").history_prompt == voice(0)
    with pytest.raises(FileNotFoundError, match="not in the local cache"):
        loaded("dog", voice="v2/en_speaker_0", return_tensors="np")


def test_the_token_goes_along_to_the_voices(hub, checkpoint):
    publish(hub, checkpoint)
    hub.tokens[REPO] = "secret"
    loaded = BarkProcessor.from_pretrained(REPO, token="secret")
    assert loaded("dog", voice="plain", return_tensors="np").history_prompt == voice(0)


@pytest.mark.parametrize("how", ["push", "save"])
def test_push_to_hub(hub, voiced, tmp_path, how):
    if how == "push":
        url = voiced.push_to_hub("me/bark", token="t", commit_message="My voices")
        assert url.startswith(f"{hub.url}/me/bark/commit/")
    else:
        options = {"token": "t", "commit_message": "My voices"}
        (tmp_path / "bark").mkdir()
        (tmp_path / "bark" / "private.txt").write_text("not to be uploaded")
        voiced.save_pretrained(tmp_path / "bark", push_to_hub=True, **options)
    assert hub.commit_messages == ["My voices"]
    assert "private.txt" not in hub.files("me/bark")
    index = hub.files("me/bark")["speaker_embeddings_path.json"].read_text()
    assert json.loads(index)["repo_or_path"] == ("me/bark" if how == "push" else "bark")
    loaded = BarkProcessor.from_pretrained("me/bark")
    result = loaded("dog", voice="deep/er/name", return_tensors="np")
    assert result.history_prompt == voice(2)


# === Against transformers ===


@pytest.fixture
def transformers():
    pytest.importorskip("torch")
    return pytest.importorskip("transformers")


TEXTS = [
    "Hello, my dog is cute",
    ["Hello [laughs]", "♪ my dogs é 中 ♪ [PAD]"],
    "HELLO my dog's",
]


# The toy vocabulary lacks some of their words, on both sides alike.
UNKNOWN = "ignore:The model's vocabulary has no:UserWarning"


@pytest.mark.filterwarnings(UNKNOWN)
@pytest.mark.reference
@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("name", ["AutoProcessor", "BarkProcessor"])
def test_what_is_saved_here_opens_there(transformers, checkpoint, voiced, text, name):
    theirs = getattr(transformers, name).from_pretrained(checkpoint)
    assert type(theirs).__name__ == "BarkProcessor"
    assert theirs.available_voice_presets == list(NAMES)
    for preset in NAMES:
        expected = theirs(text, voice_preset=preset, return_tensors="np")
        result = voiced(text, voice_preset=preset, return_tensors="np")
        assert sorted(result) == sorted(expected)
        for key in ("input_ids", "attention_mask"):
            np.testing.assert_array_equal(result[key], expected[key])
        for key in KEYS:
            np.testing.assert_array_equal(
                result.history_prompt[key], expected["history_prompt"][key]
            )


@pytest.mark.filterwarnings(UNKNOWN)
@pytest.mark.reference
def test_what_is_saved_there_opens_here(transformers, checkpoint, voiced, tmp_path):
    theirs = transformers.BarkProcessor.from_pretrained(str(checkpoint))
    # transformers cannot save names nested otherwise than in v2.
    del theirs.speaker_embeddings["deep/er/name"]
    # Nor does it take a Path here.
    theirs.save_pretrained(str(tmp_path / "theirs"))
    loaded = BarkProcessor.from_pretrained(tmp_path / "theirs")
    assert loaded.available_voice_presets == list(NAMES[:2])
    for text in TEXTS:
        expected = voiced(text, voice="v2/en_speaker_0", return_tensors="np")
        result = loaded(text, voice="v2/en_speaker_0", return_tensors="np")
        np.testing.assert_array_equal(result.input_ids, expected.input_ids)
        assert result.history_prompt == expected.history_prompt
    loaded.save_pretrained(tmp_path / "ours")
    names = ["speaker_embeddings/v2/en_speaker_0_fine_prompt.npy", "tokenizer.json"]
    for path in names:
        assert (tmp_path / "ours" / path).is_file()
        assert (tmp_path / "theirs" / path).is_file()


@pytest.mark.reference
def test_a_tokenizer_of_transformers_and_a_voice_for_it(transformers, processor):
    vocabulary = {token: index for index, token in enumerate(VOCABULARY)}
    theirs = transformers.BarkProcessor(
        transformers.BertTokenizerFast(vocab=vocabulary, do_lower_case=False)
    )
    ours = BarkProcessor(theirs.tokenizer)
    result = ours("Hello é", return_tensors="np").input_ids
    np.testing.assert_array_equal(
        result, theirs("Hello é", return_tensors="np").input_ids
    )
    given = {key: array.copy() for key, array in voice().items()}
    history = theirs("dog", voice_preset=given, return_tensors="pt")
    again = processor("dog", voice=history["history_prompt"], return_tensors="np")
    assert again.history_prompt == voice()
