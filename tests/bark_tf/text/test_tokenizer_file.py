"""A hostile `tokenizer.json` is one clear error, and soon."""

import json

import pytest

from bark_tf.text.tokenizer import BarkTokenizer
from bark_tf.text.tokenizer_file import read_backend

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "Hello", "a", "##a"]


def pattern(text):
    step = {"type": "Split", "behavior": "Isolated", "invert": False}
    return {"pre_tokenizer": {**step, "pattern": {"Regex": text}}}


def replace(content, times=1):
    step = {"type": "Replace", "pattern": {"String": "a"}, "content": content}
    return {"normalizer": {"type": "Sequence", "normalizers": [step] * times}}


@pytest.fixture
def write(tmp_path):
    """Writes a tokenizer's file with changes, and returns its path."""
    BarkTokenizer.from_vocabulary(VOCABULARY).save_pretrained(tmp_path)
    path = tmp_path / "tokenizer.json"
    good = json.loads(path.read_text(encoding="utf-8"))

    def write(model=(), **changes):
        spec = {**good, "model": {**good["model"], **dict(model)}, **changes}
        path.write_text(json.dumps(spec), encoding="utf-8")
        return path

    return write


def vocab(**ids):
    return {"model": {"vocab": {"[PAD]": 0, "[UNK]": 1, **ids}}}


FIXED = {"strategy": {"Fixed": 10**9}, "direction": "Right", "pad_to_multiple_of": None}
REFUSED = {
    "an id of 2**31": (vocab(a=2**31), r"ids must be whole numbers in \[0, 65\d+\)"),
    "a negative id": (vocab(a=-1), "ids must be whole"),
    "half an id": (vocab(a=2.5), "ids must be whole.*Received: 2.5"),
    "an id twice": (vocab(a=1), "ids must differ"),
    "an added token": (
        {"added_tokens": [{"id": 4 * 10**9, "content": "zz"}]},
        "ids must be whole.*Received: 4000000000",
    ),
    "no vocabulary": ({"model": {"vocab": {}}}, "must hold tokens"),
    "no model": ({"model": {"vocab": None}}, "must hold tokens"),
    "any length of word": (
        {"model": {"max_input_chars_per_word": 10**9}},
        "max_input_chars_per_word must be a whole number",
    ),
    "a text that grows": (replace("aa", times=40), "at most 1000 times longer"),
    "nested repetitions": (pattern("(a+)+$"), r"must not repeat.*'\(a\+\)\+\$'"),
    "repeated choices": (pattern("(?:a|aa)*b"), "must not repeat"),
    "counted repetitions": (pattern("(a{1,}){2,}"), "must not repeat"),
    "hidden in a set": (pattern(r"([^\])][a-z]+)*x"), "must not repeat"),
    "three in a row": (pattern(r"a*(a*)a*\d"), "must not repeat"),
    "no pattern": (pattern("(a"), "is not a tokenizer: Oniguruma error"),
    "a panic": (
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
        "is not a tokenizer: Precompiled",
    ),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED)
def test_what_would_take_all_time_or_memory_is_refused(changes, message, write):
    """Bug: an id of 2**31 took 25 s and 8.4 GB, and was accepted."""
    with pytest.raises(ValueError, match=rf"tokenizer\.json:? .*{message}") as found:
        BarkTokenizer.from_file(write(**changes))
    assert "\n" not in str(found.value) and len(str(found.value)) < 500


PUBLISHED = (
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s]+[\r\n]*|\s*[\r\n]+",
    r"[^\r\n\p{L}]?[\p{Lu}\p{M}]*[\p{Ll}\p{M}]+(?i:'s|'t)?|\p{N}{1,3}|\s+(?!\S)|\s+",
    r"\d{1,3}(?=(?:\d{3})*\b)|[[a-z]&&[^x]]+|\(\[\)+",
)


@pytest.mark.parametrize("text", PUBLISHED)
def test_published_patterns_are_read(text, write):
    assert read_backend(write(**pattern(text))).encode("Hello").ids


def test_gaps_truncation_and_padding_change_nothing(write):
    path = write(padding={**FIXED, "pad_id": 0, "pad_type_id": 0, "pad_token": "x"})
    assert len(BarkTokenizer.from_file(path).encode("Hello")) == 1
    assert BarkTokenizer.from_file(write(**vocab(Hello=60_000))).encode("Hello")


def test_a_panic_at_a_text_is_an_error_that_names_the_file(write):
    """The library's panic is no `Exception`, and once ended the process."""
    path = write(pre_tokenizer={"type": "FixedLength", "length": 0})
    tokenizer = BarkTokenizer.from_file(path)
    for read in (tokenizer, tokenizer.encode):
        with pytest.raises(
            ValueError, match=r"tokenizer\.json cannot read .* non-zero"
        ):
            read("Hello")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pad_token": 3}, "pad_token must be text. Received: pad_token=3"),
        ({"unk_token": {"content": ["a"]}}, "unk_token must be text"),
        ({"do_lower_case": "no"}, "do_lower_case must be true or false"),
        ({"pad_token": "none"}, "hold the padding token 'none'"),
    ],
)
def test_wrong_settings_name_their_file(settings, message, write):
    path = write()
    path.with_name("tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=rf"tokenizer\w*\.json: .*{message}"):
        BarkTokenizer.from_pretrained(path.parent)


def test_a_vocabulary_file_is_named(tmp_path):
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    with pytest.raises(ValueError, match=r"vocab\.txt: .*unknown token"):
        BarkTokenizer.from_pretrained(tmp_path)
