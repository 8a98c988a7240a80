"""The text tokenizer as TensorFlow operations, equal to the one in the checkpoint.

What BERT's normalizer and pre-tokenizer do with a character does not depend on its
neighbours. So they are asked once about every code point, and the graph looks the
answers up. The words are then split by greedy longest match, all side by side.
"""

from __future__ import annotations

import functools
import json
import re
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tokenizers

from bark_tf.serving.saved_model.checks import Check, require

_MAKE = {
    "normalizer": "BertNormalizer",
    "pre_tokenizer": "BertPreTokenizer",
    "model": "WordPiece",
}
# Surrounds special tokens; the normalizer drops it like any control character.
_MARK, _DROPPED = "\x02", "\x03"
_BATCH = 2**16  # code points per question
# A letter to the tokenizer, which no other character becomes.
_STARTER = "\N{SNOWMAN}"
_SURROGATES = range(0xD800, 0xE000)
_KEPT, _ABSENT, _GAP, _ALONE, _CHANGED = range(5)


def check_make(backend: tokenizers.Tokenizer) -> dict[str, Any]:
    """Returns the content of the tokenizer's file.

    Raises:
        ValueError: If it is not BERT's.
    """
    spec = json.loads(backend.to_str())
    made = {part: (spec[part] or {}).get("type") for part in _MAKE}
    if made != _MAKE or not spec["normalizer"]["clean_text"]:
        raise ValueError(
            f"An export takes a tokenizer of BERT's make, {_MAKE}, which cleans text. "
            f"Received: {made}"
        )
    for token in spec["added_tokens"]:
        flags = [
            flag
            for flag in ("normalized", "single_word", "lstrip", "rstrip")
            if token[flag]
        ]
        if flags:
            raise ValueError(
                "An export takes added tokens that are found as they are written. "
                f"Received: {token['content']!r} with {', '.join(flags)}"
            )
    return spec


# === What becomes of every code point ===


class CodePoints(NamedTuple):
    """What the normalizer and the pre-tokenizer make of all code points.

    Attributes:
        starts: int32 (ranges,), the first code point of each range of one kind.
        kinds: int32 (ranges,): kept, dropped, a gap between words, a word of its own,
            or changed.
        changed: Code point -> the text that replaces it.
    """

    starts: np.ndarray
    kinds: np.ndarray
    changed: Mapping[int, str]


@functools.cache
def code_points(**options: Any) -> CodePoints:
    """Asks the library about all code points, with these options of BertNormalizer."""
    normalizer = tokenizers.normalizers.BertNormalizer(**options)
    kinds = np.full(sys.maxunicode + 1, _KEPT, np.int32)
    changed = {}
    for start in range(0, len(kinds), _BATCH):
        codes = range(start, start + _BATCH)
        chars = [chr(c) for c in codes if c not in _SURROGATES and chr(c) != _STARTER]
        for char, text in zip(chars, _words_of(normalizer, chars), strict=True):
            known = {char: _KEPT, "": _ABSENT, " ": _GAP, f" {char} ": _ALONE}
            kinds[ord(char)] = kind = known.get(text, _CHANGED)
            if kind == _CHANGED:
                changed[ord(char)] = text
    starts = np.flatnonzero(np.diff(kinds, prepend=-1)).astype(np.int32)
    return CodePoints(starts, kinds[starts], changed)


def _words_of(normalizer: Any, chars: list[str]) -> list[str]:
    """What becomes of characters inside a word; single spaces separate words."""
    text = normalizer.normalize_str(_STARTER.join(["", *chars, ""]))
    splitter = tokenizers.pre_tokenizers.BertPreTokenizer()
    out = [" "] * len(text)
    for word, (start, end) in splitter.pre_tokenize_str(text):
        is_alone = len(word) == 1 and word != _STARTER
        out[start:end] = [f" {word} "] if is_alone else word
    pieces = "".join(out).split(_STARTER)[1:-1]
    return [re.sub(" +", " ", piece) for piece in pieces]


# === The graph ===


class TextGraph(tf.Module):
    """Texts to ids with TensorFlow's own operations.

    Args:
        backend: The checkpoint's tokenizer, of BERT's make.
        length: Columns of the result, and the most ids of a text.
        pad: Id that pads a row.

    Raises:
        ValueError: If the tokenizer is of another make.
    """

    def __init__(self, backend: tokenizers.Tokenizer, length: int, pad: int):
        super().__init__(name="text")
        spec = check_make(backend)
        self.length, self.pad = length, pad
        options = {k: v for k, v in spec["normalizer"].items() if k != "type"}
        points = code_points(**options)
        self.starts = tf.constant(points.starts)
        self.kinds = tf.constant(points.kinds)
        changed = points.changed or {-1: ""}
        self.changed = _table(
            list(changed), tf.int64, list(changed.values()), tf.string, ""
        )
        vocabulary = backend.get_vocab(with_added_tokens=False)
        self.vocabulary = _table(
            list(vocabulary), tf.string, list(vocabulary.values()), tf.int64, -1
        )
        self.unknown = vocabulary[spec["model"]["unk_token"]]
        self.prefix = spec["model"]["continuing_subword_prefix"]
        self.longest_word = spec["model"]["max_input_chars_per_word"]
        self.longest_piece = max(map(len, vocabulary))
        special = {token["content"]: token["id"] for token in spec["added_tokens"]}
        self.special = _table(
            list(special), tf.string, list(special.values()), tf.int64, -1
        )
        names = sorted(special, key=len, reverse=True)
        self.special_pattern = "|".join(map(re.escape, names))

    def __call__(self, texts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Ids and mask, int32 (B, length), of texts (B,).

        A request fails if a text is not UTF-8, or has no ids or too many.
        """
        valid = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="ignore")
        wrong = tf.where(valid != texts)
        texts = require(
            [Check(valid == texts, "text must be valid UTF-8; wrong rows", wrong)],
            texts,
        )
        ids = self.encode(texts)
        counts = ids.row_lengths()
        ids = require(
            [
                Check(counts > 0, "text must not be empty; ids per row", counts),
                Check(
                    counts <= self.length,
                    f"text must have at most {self.length} ids; ids per row",
                    counts,
                ),
            ],
            ids,
        )
        mask = tf.sequence_mask(counts, self.length, tf.int32)
        padded = ids.to_tensor(self.pad, shape=(None, self.length))
        return tf.cast(padded, tf.int32), mask

    def encode(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """The ids (B, None), int64, of valid texts."""
        parts = self._parts(texts)
        token = self.special.lookup(parts.flat_values)
        is_special = token >= 0
        words = self._words(tf.where(is_special, "", parts.flat_values))
        pieces = tf.RaggedTensor.from_row_splits(
            self._pieces(words.flat_values), words.row_splits
        ).merge_dims(1, 2)
        tokens = tf.RaggedTensor.from_row_lengths(
            tf.boolean_mask(token, is_special), tf.cast(is_special, tf.int64)
        )
        both = tf.concat([pieces, tokens], 1)
        return tf.RaggedTensor.from_row_splits(both, parts.row_splits).merge_dims(1, 2)

    def _parts(self, texts) -> tf.RaggedTensor:
        """Splits texts at special tokens, which become parts."""
        texts = tf.strings.regex_replace(texts, _MARK, _DROPPED)
        if self.special_pattern:
            marked = rf"{_MARK}\0{_MARK}"
            texts = tf.strings.regex_replace(texts, self.special_pattern, marked)
        return tf.strings.split(texts, _MARK)

    def _words(self, texts) -> tf.RaggedTensor:
        """The normalized words of texts (n,)."""
        points = tf.strings.unicode_decode(texts, "UTF-8")
        code = points.flat_values
        range_of = tf.searchsorted(self.starts, code, side="right") - 1
        kind = tf.gather(self.kinds, range_of)
        char = tf.strings.unicode_encode(code[:, None], "UTF-8")
        changed = self.changed.lookup(tf.cast(code, tf.int64))
        text = tf.where(kind == _KEPT, char, "")
        text = tf.where(kind == _GAP, " ", text)
        text = tf.where(kind == _ALONE, tf.strings.join([" ", char, " "]), text)
        text = tf.where(kind == _CHANGED, changed, text)
        return tf.strings.split(
            tf.strings.reduce_join(points.with_flat_values(text), 1)
        )

    def _pieces(self, words) -> tf.RaggedTensor:
        """The ids of words (n,)."""
        length = tf.strings.length(words, unit="UTF8_CHAR")
        count = tf.size(words)

        def next_piece(n, position, is_unknown, ids):
            is_open = (position < length) & ~is_unknown
            size, token = self._longest(words, position, length, is_open)
            is_unknown |= is_open & (size == 0)
            ids = ids.write(n, tf.where(size > 0, token, -1))
            return n + 1, position + size, is_unknown, ids

        _, _, is_unknown, ids = tf.while_loop(
            lambda n, position, is_unknown, _: tf.reduce_any(
                (position < length) & ~is_unknown
            ),
            next_piece,
            (
                tf.constant(1),
                tf.zeros_like(length),
                length > self.longest_word,
                tf.TensorArray(
                    tf.int64, 1, dynamic_size=True, element_shape=[None]
                ).write(0, tf.fill([count], tf.constant(-1, tf.int64))),
            ),
        )
        ids = tf.transpose(ids.stack())  # (n, pieces)
        is_first = tf.range(tf.shape(ids)[1]) == 0
        unknown = tf.where(is_first, tf.constant(self.unknown, tf.int64), -1)
        ids = tf.where(is_unknown[:, None], unknown[None], ids)
        return tf.RaggedTensor.from_row_lengths(
            tf.boolean_mask(ids, ids >= 0),
            tf.reduce_sum(tf.cast(ids >= 0, tf.int64), 1),
        )

    def _longest(self, words, position, length, is_open):
        """Size and id of the longest piece at a position of each open word; or 0."""
        start = tf.minimum(position, length)

        def shorter(size, found, token):
            sizes = tf.fill(tf.shape(words), size)
            piece = tf.strings.substr(words, start, sizes, unit="UTF8_CHAR")
            piece = tf.where(position > 0, tf.strings.join([self.prefix, piece]), piece)
            known = self.vocabulary.lookup(piece)
            fits = (found == 0) & (known >= 0) & (position + size <= length) & is_open
            return size - 1, tf.where(fits, size, found), tf.where(fits, known, token)

        room = tf.reduce_max(tf.where(is_open, length - position, 0))
        _, found, token = tf.while_loop(
            lambda size, found, _: (size > 0) & tf.reduce_any(is_open & (found == 0)),
            shorter,
            (
                tf.minimum(room, self.longest_piece),
                tf.zeros_like(length),
                tf.fill(tf.shape(words), tf.constant(-1, tf.int64)),
            ),
        )
        return found, token


def _table(keys, key_dtype, values, value_dtype, default) -> tf.lookup.StaticHashTable:
    initializer = tf.lookup.KeyValueTensorInitializer(
        tf.constant(keys, key_dtype), tf.constant(values, value_dtype)
    )
    return tf.lookup.StaticHashTable(initializer, default)
