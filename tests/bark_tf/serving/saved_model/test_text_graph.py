"""The tokenizer in the graph gives the ids of `tokenizers`."""

import functools
import json
import random
import sys

import pytest
import tensorflow as tf
import tokenizers

from bark_tf import hub
from bark_tf.serving.saved_model.text_graph import TextGraph
from bark_tf.text.tokenizer import BarkTokenizer

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LETTERS = tuple("aábcdeéABCÉİſßςΣж中日ह한ก.,!?'-")
WORDS = ("Hello", "hello", "über", "the", "中", "naïve", "##llo", "##ing", "##é", "##!")
# What random strings are made of: pieces of words, and what is treated specially.
AWKWARD = (
    *LETTERS,
    *WORDS,
    *SPECIAL,
    *("twenty", "two", "laughter", "[laughter]", "♪", "[PAD", "PAD]", "[[CLS]]"),
    *(" ", "  ", "\t", "\n", "\r", "\u3000", "\u00a0", "\u2028", "\u200b", "\ufeff"),
    *("\0", "\x02", "\x03", "\x7f", "\x85", "\xad", "\ufffd", "\u0301", "\u0328"),
    *("Å", "\u1e9b\u0323", "\uac00", "\U0002f800", "\U0001f600", "\U000e0001", "☃"),
    *("«", "—", "$", "^", "`", "~", "|", "+", "₂", "½", "ﬁ"),
)
MAKES = ("shipped", "multilingual")


@functools.cache
def tokenizer(make):
    if make == "shipped":
        return BarkTokenizer.from_pretrained(hub.SHIPPED_CHECKPOINT)
    pieces = dict.fromkeys((*SPECIAL, *LETTERS, *WORDS))
    pieces |= dict.fromkeys(f"##{letter}" for letter in LETTERS)
    return BarkTokenizer.from_vocabulary(list(pieces))


@functools.cache
def encode(make):
    graph = TextGraph(tokenizer(make).backend, 256, 0)
    spec = tf.TensorSpec([None], tf.string)
    return tf.function(graph.encode, input_signature=[spec], autograph=False)


def check(make, texts):
    encodings = tokenizer(make).backend.encode_batch(texts, add_special_tokens=False)
    found = encode(make)([text.encode() for text in texts]).to_list()
    for text, encoding, ids in zip(texts, encodings, found, strict=True):
        assert ids == encoding.ids, ascii(text)


@pytest.mark.parametrize(
    ("make", "count"),
    [
        ("shipped", 500),
        ("multilingual", 5000),
        pytest.param("shipped", 5000, marks=pytest.mark.slow),
    ],
)
def test_awkward_and_random_strings(make, count):
    draw = random.Random(0)
    planes = [(0, 0x3000), (0, 0xD800), (0xE000, sys.maxunicode + 1)]
    texts = ["", " ", "a" * 99, "a" * 100, "a" * 101, "한" * 101, "a" * 5000]
    for _ in range(count * 2 // 3):
        texts.append("".join(draw.choices(AWKWARD, k=draw.randrange(30))))
    while len(texts) < count:
        codes = (
            draw.randrange(*draw.choice(planes)) for _ in range(draw.randrange(20))
        )
        texts.append("".join(map(chr, codes)))
    check(make, texts)


@pytest.mark.slow
@pytest.mark.parametrize("make", MAKES)
def test_all_code_points(make):
    chars = [chr(code) for code in range(sys.maxunicode + 1)]
    chars = [char for char in chars if not "\ud800" <= char <= "\udfff"]
    for start in range(0, len(chars), 2**16):
        check(make, [f"a{char}b" for char in chars[start : start + 2**16]])


def changed(**parts):
    """A tokenizer that differs from BERT's in some parts of its file."""
    spec = json.loads(tokenizer("multilingual").backend.to_str())
    for part, values in parts.items():
        spec[part] = {**spec[part], **values} if values else None
    return tokenizers.Tokenizer.from_str(json.dumps(spec))


@pytest.mark.parametrize(
    "parts",
    [
        {"normalizer": None},
        {"normalizer": {"clean_text": False}},
        {"pre_tokenizer": {"type": "Whitespace"}},
    ],
)
def test_tokenizers_of_another_make_are_refused(parts):
    with pytest.raises(ValueError, match="takes a tokenizer of BERT's make"):
        TextGraph(changed(**parts), 256, 0)


def test_added_tokens_that_are_found_otherwise_are_refused():
    backend = changed()
    backend.add_tokens([tokenizers.AddedToken("[laughs]", lstrip=True)])
    with pytest.raises(ValueError, match=r"'\[laughs\]' with normalized, lstrip"):
        TextGraph(backend, 256, 0)
