import json
import string
import subprocess
import sys

import hypothesis
import numpy as np
import pytest
import tokenizers
from hypothesis import strategies as st

from bark_tf.text.tokenizer import BarkTokenizer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SCRIPTS = "éüñß中文你好こんкотשลไทยनमस्ते♪—🎵"
WORDS = (
    "Hello hello my dog is cute laughs sighs music clears throat uh cat Bark".split()
)
VOCABULARY = [
    *SPECIAL,
    *WORDS,
    *string.ascii_letters,
    *string.digits,
    *string.punctuation,
    *dict.fromkeys(SCRIPTS),
    *(f"##{letter}" for letter in string.ascii_lowercase),
    *(f"##{letter}" for letter in dict.fromkeys("éüñßтนमสते")),
    "##ing",
]
TEXTS = [
    "Hello, my dog is cute",
    "HELLO hello hElLo",
    "Hello uh ... [clears throat], my dog is cute [laughs]",
    "♪ Hello, my dog is cute ♪",
    "Résumé — naïve café, Über",
    "惊人的!我会说中文 你好",
    "こんにちは",
    "кот שלום ไทย สวัสดี",
    "नमस्ते दुनिया",
    "🎵 music 🎵👩‍👩‍👧 hello",
    "a\tb\nc\r\nd\u00a0e\u2028f",
    "zero\u200bwidth \x00nul \ufffd \x7f",
    "[PAD] my [MASK] dog [SEP] [CLS] [UNK] [pad] [ PAD ]",
    "x" * 100 + " " + "x" * 101,
    "e\u0301 vs \u00e9 and ﬁ ＡＢＣ",
    "1,234.56 €5 C++ don't",
]


@pytest.fixture(scope="module")
def tokenizer():
    return BarkTokenizer.from_vocabulary(VOCABULARY)


def ids_of(*tokens):
    return [VOCABULARY.index(token) for token in tokens]


# === Making ===


def test_import_is_light():
    """Programs that only tokenize do not load TensorFlow."""
    code = (
        "import sys, bark_tf.text.tokenizer, bark_tf.voices.presets, bark_tf.processor;"
        "sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_vocabulary_from_file_list_and_mapping_is_the_same(tmp_path, tokenizer):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    from_file = BarkTokenizer.from_vocabulary(path)
    from_mapping = BarkTokenizer.from_vocabulary(
        {token: index for index, token in enumerate(VOCABULARY)}
    )
    assert from_file.get_vocab() == from_mapping.get_vocab() == tokenizer.get_vocab()
    assert len(tokenizer) == tokenizer.vocab_size == len(VOCABULARY)
    for text in TEXTS:
        assert from_file.encode(text) == tokenizer.encode(text)


def test_a_token_that_is_there_twice_moves_no_other(tmp_path):
    """Ids are line numbers; counting tokens used to refuse the largest one."""
    path = tmp_path / "vocab.txt"
    path.write_text("[PAD]\n[UNK]\ntwice\ntwice\nlast\n", encoding="utf-8")
    tokenizer = BarkTokenizer.from_vocabulary(path)
    assert tokenizer.encode("twice last") == [3, 4]
    assert tokenizer([3, 4], max_length=2)["input_ids"].tolist() == [[3, 4]]


def test_vocabulary_file_keeps_unicode_line_separators_inside_tokens(tmp_path):
    """`str.splitlines` would make two tokens of this one."""
    path = tmp_path / "vocab.txt"
    path.write_text("[PAD]\n[UNK]\na\u2028b\nlast\n", encoding="utf-8")
    assert BarkTokenizer.from_vocabulary(path).get_vocab()["last"] == 3


@pytest.mark.parametrize("missing", ["[PAD]", "[UNK]"])
def test_vocabulary_needs_padding_and_unknown(missing):
    words = [word for word in VOCABULARY if word != missing]
    with pytest.raises(ValueError, match=rf"\{missing[:-1]}"):
        BarkTokenizer.from_vocabulary(words)


def test_special_tokens_may_have_other_names():
    settings = {"pad_token": "<p>", "unk_token": {"content": "<u>"}}
    tokenizer = BarkTokenizer.from_vocabulary(["a", "<u>", "<p>"], settings)
    assert tokenizer.pad_token_id == 2
    assert tokenizer.encode("a b <p>") == [0, 1, 2]


def test_the_backend_is_copied_and_its_truncation_switched_off(tokenizer):
    backend = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
    backend.enable_truncation(2)
    backend.enable_padding(length=7)
    copy = BarkTokenizer(backend)
    words = "Hello my dog is cute"
    assert copy.encode(words) == ids_of(*words.split())
    assert backend.truncation["max_length"] == 2
    assert backend.padding["length"] == 7


def test_a_wrong_backend_is_refused():
    with pytest.raises(ValueError, match=r"tokenizers\.Tokenizer.*Received: str"):
        BarkTokenizer("bert-base-multilingual-cased")


# === Settings ===


@pytest.mark.parametrize(
    ("settings", "text", "expected"),
    [
        ({}, "Hello é", ["Hello", "é"]),
        ({"do_lower_case": True}, "Hello é", ["hello", "e"]),
        ({"do_lower_case": True, "strip_accents": False}, "Hello é", ["hello", "é"]),
        ({"strip_accents": True}, "Hello é", ["Hello", "e"]),
        ({}, "中文", ["中", "文"]),
        ({"tokenize_chinese_chars": False}, "中文", ["[UNK]"]),
    ],
)
@pytest.mark.parametrize("file", ["vocab.txt", "tokenizer.json"])
def test_settings_of_the_config_file_are_honoured(
    tmp_path, tokenizer, file, settings, text, expected
):
    if file == "vocab.txt":
        (tmp_path / file).write_text("\n".join(VOCABULARY), encoding="utf-8")
    else:
        tokenizer.backend.save(str(tmp_path / file))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    loaded = BarkTokenizer.from_pretrained(tmp_path)
    assert loaded.encode(text) == ids_of(*expected)


@pytest.mark.parametrize("value", [1, "yes", None, []])
def test_a_setting_of_another_type_is_refused(value):
    with pytest.raises(ValueError, match=r"do_lower_case must be true or false"):
        BarkTokenizer.from_vocabulary(VOCABULARY, {"do_lower_case": value})


# === Files ===


@pytest.mark.parametrize("settings", [{}, {"do_lower_case": True}])
def test_round_trip(tmp_path, settings):
    saved = BarkTokenizer.from_vocabulary(VOCABULARY, settings)
    saved.save_pretrained(tmp_path / "new" / "folder")
    loaded = BarkTokenizer.from_pretrained(tmp_path / "new" / "folder")
    files = sorted(path.name for path in (tmp_path / "new" / "folder").iterdir())
    assert files == ["tokenizer.json", "tokenizer_config.json"]
    for text in TEXTS:
        assert loaded.encode(text) == saved.encode(text)
    loaded.save_pretrained(tmp_path / "again")
    for name in files:
        first = (tmp_path / "new" / "folder" / name).read_bytes()
        assert (tmp_path / "again" / name).read_bytes() == first


def test_tokenizer_json_wins_over_the_vocabulary(tmp_path, tokenizer):
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n")
    assert len(BarkTokenizer.from_pretrained(tmp_path)) == len(VOCABULARY)


def test_a_checkpoint_without_tokenizer_says_what_it_lacks(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json, vocab\.txt"):
        BarkTokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b"\xff\xfe", b"{}", b'{"model": 3}', b"[" * 5000]
)
def test_a_broken_file_is_one_clear_error(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        BarkTokenizer.from_file(path)


# === Encoding ===


def test_known_ids(tokenizer):
    text = "Hello,  my dogs [laughs]\n♪ 中文 [PAD] qué Ж"
    words = "Hello , my dog ##s [ laughs ] ♪ 中 文 [PAD] q ##u ##é [UNK]".split()
    assert tokenizer.encode(text) == ids_of(*words)


def test_special_tokens_are_put_around_on_request(tokenizer):
    assert tokenizer.encode("dog", add_special_tokens=True) == ids_of(
        "[CLS]", "dog", "[SEP]"
    )


def test_decode(tokenizer):
    ids = tokenizer.encode("my dogs [laughs]")
    assert tokenizer.decode(ids) == "my dogs [ laughs ]"
    assert tokenizer.decode(np.array([*ids, 0, 0])) == "my dogs [ laughs ]"


def test_rows_are_padded_on_the_right(tokenizer):
    result = tokenizer(["my dog", "Hello"], max_length=4, return_token_type_ids=True)
    my, dog, hello = ids_of("my", "dog", "Hello")
    assert result["input_ids"].tolist() == [[my, dog, 0, 0], [hello, 0, 0, 0]]
    assert result["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 0, 0, 0]]
    assert result["token_type_ids"].tolist() == [[0] * 4] * 2
    assert all(array.dtype == np.int32 for array in result.values())


def test_a_literal_pad_is_text_not_padding(tokenizer):
    result = tokenizer("[PAD] dog", max_length=3)
    assert result["input_ids"].tolist() == [[0, *ids_of("dog"), 0]]
    assert result["attention_mask"].tolist() == [[1, 1, 0]]


def test_forms_of_text(tokenizer):
    expected = tokenizer("my dog")["input_ids"]
    my, dog = ids_of("my", "dog")
    for text in (
        ["my dog"],
        ("my dog",),
        np.array(["my dog"]),
        [my, dog],
        [[my, dog]],
        np.array([my, dog]),
        [np.array([my, dog], np.uint16)],
    ):
        np.testing.assert_array_equal(tokenizer(text)["input_ids"], expected)
    for text in (["my", "dog"], [["my", "dog"]], (("my", "dog"),), ["my dog"]):
        result = tokenizer(text, is_split_into_words=True)
        np.testing.assert_array_equal(result["input_ids"], expected)


def test_rows_of_text_and_of_ids_may_be_mixed(tokenizer):
    result = tokenizer(["my dog", ids_of("my", "dog")])["input_ids"]
    np.testing.assert_array_equal(result[0], result[1])


def test_ids_are_taken_as_they_are(tokenizer):
    result = tokenizer([[3, 1]], max_length=3, add_special_tokens=True)
    assert result["input_ids"].tolist() == [[3, 1, 0]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "Received: None"),
        ("", "empty in row 0"),
        ([], "no rows"),
        (["dog", " \n\t\u3000"], "empty in row 1"),
        ("\x00\u200b\u202e", "empty in row 0"),
        (["dog", []], "empty in row 1"),
        (b"dog", "Received in row 0: bytes"),
        (3, "Received in row 0: int"),
        (True, "Received in row 0: bool"),
        ([["my", "dog"]], "is_split_into_words=True"),
        (["dog", None], "Received in row 1: NoneType"),
        (["dog", 3], "Received in row 1: int"),
        ([[1, 2.5]], "Received in row 0: list"),
        ([[True, False]], "Received in row 0: list"),
        ([[1, "dog"]], "Received in row 0: list"),
        ({"dog"}, "Received in row 0: set"),
        ([[-1]], r"in \[0, \d+\).*-1"),
        ([[1], [10**6]], "row 1: 1000000"),
        ([[2**70]], "row 0"),
        (["dog", "a\ud800b"], r"row 1: a lone surrogate '\\ud800' at character 1"),
    ],
)
def test_text_that_cannot_be_used_is_one_clear_error(tokenizer, text, message):
    with pytest.raises(ValueError, match=message):
        tokenizer(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("my dog", "lists of words"),
        ([["my", 3]], "lists of words"),
        ([" ", ""], "empty in row 0"),
        (["my", "\udfff"], "lone surrogate"),
    ],
)
def test_words_that_cannot_be_used(tokenizer, text, message):
    with pytest.raises(ValueError, match=message):
        tokenizer(text, is_split_into_words=True)


@pytest.mark.parametrize("text", [b"dog", None, ["dog"], "\ud83d"])
def test_encode_takes_one_text(tokenizer, text):
    with pytest.raises(ValueError, match=r"text must be .*Received"):
        tokenizer.encode(text)


def test_the_error_shows_little_of_a_long_text(tokenizer):
    with pytest.raises(ValueError, match="row 0") as caught:
        tokenizer(" " * 100_000)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("max_length", [0, -1, 2.0, "256", None, True])
def test_max_length_is_checked(tokenizer, max_length):
    with pytest.raises(ValueError, match="max_length must be a whole number"):
        tokenizer("dog", max_length=max_length)


def test_max_length_leaves_room_for_the_text(tokenizer):
    with pytest.raises(ValueError, match="at least 3"):
        tokenizer("dog", max_length=2, add_special_tokens=True)
    result = tokenizer("dog", max_length=3, add_special_tokens=True)
    assert result["input_ids"].tolist() == [ids_of("[CLS]", "dog", "[SEP]")]


# === Cutting ===


def test_long_text_is_cut_with_a_warning_that_shows_the_place(tokenizer):
    text = ["dog", "Hello my dog is cute [laughs]"]
    with pytest.warns(UserWarning) as caught:
        result = tokenizer(text, max_length=5)
    assert len(caught) == 1
    message = str(caught[0].message)
    assert "the last 3 of 8 tokens of row 1 are lost" in message
    assert "cut between 'Hello my dog is cute' and ' [laughs]'" in message
    expected = ids_of(*"Hello my dog is cute".split())
    assert result["input_ids"][1].tolist() == expected
    assert result["attention_mask"][1].tolist() == [1] * 5


def test_the_place_of_a_cut_inside_pretokenised_words(tokenizer):
    with pytest.warns(UserWarning, match="between 'my dog' and 's Hello'"):
        tokenizer(["my", "dogs", "Hello"], is_split_into_words=True, max_length=2)


def test_a_cut_keeps_the_closing_special_token(tokenizer):
    with pytest.warns(UserWarning, match="the last 2 of 4 tokens"):
        result = tokenizer("Hello my dog is", max_length=4, add_special_tokens=True)
    expected = ids_of("[CLS]", "Hello", "my", "[SEP]")
    assert result["input_ids"].tolist() == [expected]


def test_ids_are_cut_too(tokenizer):
    with pytest.warns(UserWarning, match="the last 2 of 4 tokens of row 0"):
        assert tokenizer([5, 6, 7, 8], max_length=2)["input_ids"].tolist() == [[5, 6]]


def test_text_that_just_fits_gives_no_warning(tokenizer):
    assert tokenizer("dog " * 256)["attention_mask"].sum() == 256


@pytest.mark.parametrize("truncation", [True, "longest_first", "only_first"])
def test_truncation_can_be_silent(tokenizer, truncation):
    result = tokenizer("dog " * 300, truncation=truncation)
    assert result["input_ids"].shape == (1, 256)


@pytest.mark.parametrize("truncation", [False, "do_not_truncate"])
def test_truncation_can_be_refused(tokenizer, truncation):
    assert tokenizer("dog", truncation=truncation)["attention_mask"].sum() == 1
    with pytest.raises(ValueError, match=r"at most 256 .*the last 44 of 300"):
        tokenizer("dog " * 300, truncation=truncation)


@pytest.mark.parametrize("truncation", ["only_second", "yes", 2])
def test_other_truncation_is_refused(tokenizer, truncation):
    with pytest.raises(ValueError, match="truncation must be"):
        tokenizer("dog", truncation=truncation)


UNKNOWN = "ignore:The model's vocabulary has no:UserWarning"


@pytest.mark.filterwarnings(UNKNOWN)
@pytest.mark.parametrize("text", ["dog " * 25_000, "x" * 100_000, "中" * 100_000])
def test_very_long_text(tokenizer, text):
    ids = tokenizer(text, truncation=True)["input_ids"]
    assert ids.shape == (1, 256)


# === Unknown words ===


def test_unknown_words_are_named_once(tokenizer):
    with pytest.warns(UserWarning, match=r"no '☃', '☂': the speech.*of row 1"):
        tokenizer(["my dog", "☃ dog ☂ ☃"])
    with pytest.warns(UserWarning, match="no '☃':"):
        tokenizer([["my", "☃"]], is_split_into_words=True)
    assert tokenizer.unknown_words("☃ dog ☂ ☃") == ["☃", "☂"]
    assert tokenizer.unknown_words("my dog") == tokenizer.unknown_words("") == []


# === Any text at all ===

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=60)


@pytest.mark.filterwarnings(UNKNOWN)
@hypothesis.given(st.lists(ANY_TEXT, min_size=1, max_size=3))
def test_any_text_works_or_is_refused_clearly(texts):
    tokenizer = BarkTokenizer.from_vocabulary(VOCABULARY)
    try:
        result = tokenizer(texts, truncation=True)
    except ValueError as error:
        half = any("\ud800" <= char <= "\udfff" for char in "".join(texts))
        message = str(error)
        assert "text is empty" in message or (half and "surrogate" in message)
        return
    ids, mask = result["input_ids"], result["attention_mask"]
    assert ids.shape == mask.shape == (len(texts), 256)
    assert (0 <= ids).all() and (ids < len(VOCABULARY)).all()
    assert (np.diff(mask, axis=1) <= 0).all() and (mask[:, 0] == 1).all()
    assert (ids[mask == 0] == tokenizer.pad_token_id).all()


@pytest.mark.filterwarnings(UNKNOWN)
@hypothesis.given(st.recursive(st.none() | st.integers() | ANY_TEXT, st.lists))
def test_any_nesting_works_or_is_refused_clearly(text):
    tokenizer = BarkTokenizer.from_vocabulary(["[PAD]", "[UNK]", "a"])
    for is_split in (False, True):
        try:
            ids = tokenizer(text, truncation=True, is_split_into_words=is_split)
        except ValueError as error:
            assert "Received" in str(error)
        else:
            assert ids["input_ids"].shape[1] == 256


# === Against transformers ===

SETTINGS = [
    {"do_lower_case": lower, "strip_accents": strip, "tokenize_chinese_chars": chinese}
    for lower in (False, True)
    for strip in (None, False, True)
    for chinese in (True, False)
]


def reference_tokenizer(**settings):
    transformers = pytest.importorskip("transformers")
    vocabulary = {token: index for index, token in enumerate(VOCABULARY)}
    return transformers.BertTokenizerFast(vocab=vocabulary, **settings)


@pytest.mark.filterwarnings(UNKNOWN)
@pytest.mark.reference
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_ids_equal_those_of_transformers(settings):
    theirs = reference_tokenizer(**settings)
    ours = BarkTokenizer.from_vocabulary(VOCABULARY, settings)
    options = {"max_length": 256, "padding": "max_length", "return_tensors": "np"}
    for special in (False, True):
        expected = theirs(TEXTS, add_special_tokens=special, **options)
        result = ours(TEXTS, add_special_tokens=special, return_token_type_ids=True)
        for name in ("input_ids", "attention_mask", "token_type_ids"):
            np.testing.assert_array_equal(result[name], expected[name])
    words = [text.split() for text in TEXTS]
    expected = theirs(
        words, is_split_into_words=True, add_special_tokens=False, **options
    )
    result = ours(words, is_split_into_words=True)
    np.testing.assert_array_equal(result["input_ids"], expected["input_ids"])


@pytest.mark.filterwarnings(UNKNOWN)
@pytest.mark.reference
def test_cut_rows_equal_those_of_transformers():
    theirs = reference_tokenizer(do_lower_case=False)
    ours = BarkTokenizer.from_vocabulary(VOCABULARY)
    for special in (False, True):
        options = {"max_length": 9, "truncation": True, "add_special_tokens": special}
        expected = theirs(TEXTS, padding="max_length", **options)["input_ids"]
        assert ours(TEXTS, **options)["input_ids"].tolist() == expected


@pytest.mark.reference
def test_any_text_gives_the_ids_of_transformers():
    theirs = reference_tokenizer(do_lower_case=False)
    ours = BarkTokenizer.from_vocabulary(VOCABULARY)

    @hypothesis.given(st.text(max_size=60))
    def compare(text):
        expected = theirs(text, add_special_tokens=False)["input_ids"]
        assert ours.encode(text) == expected

    compare()


@pytest.mark.reference
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_saved_files_open_in_transformers_and_back(tmp_path, settings):
    transformers = pytest.importorskip("transformers")
    ours = BarkTokenizer.from_vocabulary(VOCABULARY, settings)
    ours.save_pretrained(tmp_path / "ours")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    back = BarkTokenizer.from_pretrained(tmp_path / "theirs")
    for text in TEXTS:
        ids = ours.encode(text)
        assert theirs(text, add_special_tokens=False)["input_ids"] == ids
        assert back.encode(text) == ids


@pytest.mark.reference
def test_a_tokenizer_that_is_not_bert_opens_in_transformers(tmp_path):
    """transformers rebuilds a BertTokenizer and would lose these steps."""
    transformers = pytest.importorskip("transformers")
    model = tokenizers.models.WordLevel({"[PAD]": 0, "[UNK]": 1, "Dog!": 2}, "[UNK]")
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    BarkTokenizer(backend).save_pretrained(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ids = theirs("Dog! dog", add_special_tokens=False)["input_ids"]
    assert ids == BarkTokenizer.from_pretrained(tmp_path).encode("Dog! dog") == [2, 1]
