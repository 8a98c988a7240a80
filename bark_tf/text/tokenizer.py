"""Bark's text tokenizer: BERT's WordPiece, cased and multilingual.

Source: google-research/bert, `tokenization.py`; the vocabulary of
`bert-base-multilingual-cased`.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from bark_tf import hub
from bark_tf.config.fields import shown
from bark_tf.files import blame, local_path, read_json_object
from bark_tf.habits import accepts_habits
from bark_tf.saving import saving
from bark_tf.text.tokenizer_file import backend_errors, read_backend

TOKENIZER_NAME = "tokenizer.json"
TOKENIZER_CONFIG_NAME = "tokenizer_config.json"
VOCABULARY_NAME = "vocab.txt"

MAX_TEXT_LENGTH = 256

_SPECIAL_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
# Settings of tokenizer_config.json -> names in tokenizer.json's normalizer.
_NORMALIZER_FIELDS = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}
# Longer words become one unknown token, as in BERT.
_MAX_WORD_LENGTH = 100
_NAMED_WORDS = 8
# Characters shown on either side of a cut, and of refused input.
_SHOWN = 30

_CUT_SILENTLY = (True, "longest_first", "only_first")
_NEVER_CUT = (False, "do_not_truncate")

# A row of a batch: a text, a list of words, or a list of ids.
Row = str | list[str] | list[int]


def _special_token(settings: Mapping[str, Any], name: str) -> str:
    """The text of a special token; older files store it as an object."""
    token = settings.get(name)
    if isinstance(token, Mapping):
        token = token.get("content")
    return token if isinstance(token, str) else _SPECIAL_TOKENS[name]


def _read_vocabulary(path: str | os.PathLike) -> dict[str, int]:
    """Reads `vocab.txt`: one token per line, whose number is the id."""
    lines = Path(path).read_text(encoding="utf-8").split("\n")
    if lines[-1] == "":
        lines.pop()
    return {token: token_id for token_id, token in enumerate(lines)}


def _word_piece(
    vocabulary: Mapping[str, int], settings: Mapping[str, Any]
) -> tokenizers.Tokenizer:
    """Builds BERT's tokenizer around a vocabulary; cased unless set otherwise."""
    names = {name: _special_token(settings, name) for name in _SPECIAL_TOKENS}
    if names["unk_token"] not in vocabulary:
        raise ValueError(
            f"The vocabulary must hold the unknown token {names['unk_token']!r}. "
            f"Received: {len(vocabulary)} tokens without it"
        )
    backend = tokenizers.Tokenizer(
        tokenizers.models.WordPiece(
            dict(vocabulary),
            unk_token=names["unk_token"],
            max_input_chars_per_word=_MAX_WORD_LENGTH,
        )
    )
    backend.normalizer = tokenizers.normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=False
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    backend.decoder = tokenizers.decoders.WordPiece(prefix="##")
    backend.add_special_tokens([t for t in names.values() if t in vocabulary])
    first, last = names["cls_token"], names["sep_token"]
    if first in vocabulary and last in vocabulary:
        backend.post_processor = tokenizers.processors.TemplateProcessing(
            single=f"{first}:0 $A:0 {last}:0",
            pair=f"{first}:0 $A:0 {last}:0 $B:1 {last}:1",
            special_tokens=[(t, vocabulary[t]) for t in (first, last)],
        )
    return backend


def _check_settings(settings: Mapping[str, Any]) -> None:
    """Raises ValueError if a setting that is read has another type."""
    for name in settings.keys() & {*_SPECIAL_TOKENS, *_NORMALIZER_FIELDS}:
        value = settings[name]
        if name in _SPECIAL_TOKENS:
            text = value.get("content") if isinstance(value, Mapping) else value
            expected, is_right = "text", isinstance(text, str | None)
        else:
            follows_case = name == "strip_accents" and value is None
            expected = "true or false"
            is_right = isinstance(value, bool) or follows_case
        if not is_right:
            raise ValueError(
                f"{name} must be {expected}. Received: {name}={shown(value)}"
            )


def _apply_settings(spec: dict[str, Any], settings: Mapping[str, Any]) -> None:
    """Applies the settings of tokenizer_config.json to a tokenizer.json's content."""
    # `BarkTokenizer` truncates and pads itself, with a warning.
    spec["truncation"] = spec["padding"] = None
    normalizer = spec.get("normalizer") or {}
    if normalizer.get("type") != "BertNormalizer":
        return
    for name, field in _NORMALIZER_FIELDS.items():
        if name in settings:
            normalizer[field] = settings[name]


def _is_ids(row: Sequence) -> bool:
    return bool(row) and all(
        isinstance(i, int | np.integer) and not isinstance(i, bool) for i in row
    )


def _is_words(row: Sequence) -> bool:
    return bool(row) and all(isinstance(word, str) for word in row)


def _shorten(value: Any) -> str:
    """Refused input as an error message shows it."""
    shown = repr(value[:_SHOWN] if isinstance(value, str | list | tuple) else value)
    return f"{type(value).__name__} {shown[: 2 * _SHOWN]}"


def _as_row(row: Any, index: int, is_split_into_words: bool) -> Row:
    """Checks one row of a batch."""
    row = row.tolist() if isinstance(row, np.ndarray) else row
    if isinstance(row, str) and not is_split_into_words:
        return str(row)
    if isinstance(row, list | tuple):
        if not row:
            raise ValueError(f"text is empty in row {index}. Received: {row!r}")
        if _is_ids(row):
            return [int(token_id) for token_id in row]
        if _is_words(row) and is_split_into_words:
            return [str(word) for word in row]
    expected = (
        "lists of words, with is_split_into_words=True,"
        if is_split_into_words
        else "texts, or lists of words with is_split_into_words=True,"
    )
    raise ValueError(
        f"text must hold {expected} or lists of ids. "
        f"Received in row {index}: {_shorten(row)}"
    )


def _as_rows(text: Any, is_split_into_words: bool) -> list[Row]:
    """Turns any accepted form of `text` into a list of rows."""
    if text is None:
        raise ValueError(
            "text must be given: a text or a list of texts. Received: None"
        )
    text = text.tolist() if isinstance(text, np.ndarray) else text
    is_list = isinstance(text, list | tuple)
    if is_list and not text:
        raise ValueError(f"text is empty: it has no rows. Received: {text!r}")
    if not is_list or _is_ids(text) or (is_split_into_words and _is_words(text)):
        text = [text]
    return [_as_row(row, index, is_split_into_words) for index, row in enumerate(text)]


def _check_unicode(text: str, index: int = 0) -> None:
    """Raises ValueError for lone surrogates, which UTF-8 cannot encode."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"text must be valid Unicode. Received in row {index}: a lone surrogate "
            f"{text[error.start]!r} at character {error.start}"
        ) from error


def _place_of_cut(
    row: str | list[str], encoding: tokenizers.Encoding, count: int
) -> str:
    """Describes the text around the end of the first `count` tokens."""
    position = encoding.offsets[count - 1][1]
    if isinstance(row, list):
        words_before = row[: encoding.word_ids[count - 1]]
        position += sum(len(word) + 1 for word in words_before)
        row = " ".join(row)
    before, after = row[:position], row[position:]
    return f"; cut between {before[-_SHOWN:]!r} and {after[:_SHOWN]!r}"


class BarkTokenizer:
    """Turns text into rows of BERT ids of a fixed length.

    Args:
        backend: A `tokenizers.Tokenizer`. It is copied, and truncation and padding are
            switched off in the copy.
        settings: The content of `tokenizer_config.json`. `do_lower_case`,
            `strip_accents` and `tokenize_chinese_chars` override the backend's;
            `pad_token`, `unk_token` ... name the special tokens.

    Raises:
        ValueError: If there is no padding token, or a setting has a wrong value.

    Example:
        >>> words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "Hello", ",", "dog", "##s"]
        >>> tokenizer = BarkTokenizer.from_vocabulary(words)
        >>> tokenizer.encode("Hello, dogs")
        [4, 5, 6, 7]
    """

    def __init__(
        self, backend: tokenizers.Tokenizer, settings: Mapping[str, Any] | None = None
    ):
        if not isinstance(backend, tokenizers.Tokenizer):
            raise ValueError(
                "backend must be a tokenizers.Tokenizer. "
                f"Received: {type(backend).__name__}"
            )
        self._name = "The tokenizer"
        self._settings = dict(settings or {})
        _check_settings(self._settings)
        spec = json.loads(backend.to_str())
        _apply_settings(spec, self._settings)
        self._backend = tokenizers.Tokenizer.from_str(json.dumps(spec))
        self._vocab_size = max(self.get_vocab().values(), default=-1) + 1
        pad_token = _special_token(self._settings, "pad_token")
        pad_token_id = self._backend.token_to_id(pad_token)
        if pad_token_id is None:
            raise ValueError(
                f"The vocabulary must hold the padding token {pad_token!r}. "
                f"Received: {self.vocab_size} tokens without it"
            )
        self.pad_token_id = pad_token_id
        unknown = _special_token(self._settings, "unk_token")
        self._unknown_id = self._backend.token_to_id(unknown)

    # === Reading and writing ===

    @classmethod
    def from_vocabulary(
        cls,
        vocabulary: str | os.PathLike | Mapping[str, int] | Sequence[str],
        settings: Mapping[str, Any] | None = None,
    ) -> BarkTokenizer:
        """Builds BERT's WordPiece around a vocabulary, cased unless set otherwise.

        Args:
            vocabulary: The path of a `vocab.txt`, a sequence of tokens in the order of
                their ids, or a mapping from token to id.
            settings: The content of `tokenizer_config.json`.

        Returns:
            The tokenizer.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the vocabulary lacks `[UNK]` or `[PAD]`.
        """
        if isinstance(vocabulary, str | os.PathLike):
            with blame(vocabulary):
                return cls.from_vocabulary(_read_vocabulary(vocabulary), settings)
        if not isinstance(vocabulary, Mapping):
            vocabulary = {token: index for index, token in enumerate(vocabulary)}
        return cls(_word_piece(vocabulary, settings or {}), settings)

    @classmethod
    def from_file(
        cls, path: str | os.PathLike, settings: Mapping[str, Any] | None = None
    ) -> BarkTokenizer:
        """Reads a `tokenizer.json`.

        Args:
            path: The file.
            settings: The content of `tokenizer_config.json`.

        Returns:
            The tokenizer.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is not a tokenizer.
        """
        backend = read_backend(path)
        with blame(path):
            made = cls(backend, settings)
        made._name = str(path)
        return made

    @classmethod
    @accepts_habits
    def from_pretrained(
        cls, path_or_id: str | os.PathLike, **hub_options: Any
    ) -> BarkTokenizer:
        """Reads `tokenizer.json`, or `vocab.txt` if there is none.

        Args:
            path_or_id: A directory, or a repository id such as `"suno/bark-small"`.
            **hub_options: `subfolder`, `revision`, `cache_dir`, `token` and
                `local_files_only` of `hub.find_file`.

        Returns:
            The tokenizer, with the settings of `tokenizer_config.json` if it exists.

        Raises:
            FileNotFoundError: If the checkpoint has neither file.
            ValueError: If a file is not a tokenizer's.
        """

        def find(name: str) -> Path | None:
            return hub.find_optional(path_or_id, name, **hub_options)

        config = find(TOKENIZER_CONFIG_NAME)
        settings = {} if config is None else read_json_object(config)
        with blame(config or TOKENIZER_CONFIG_NAME):
            _check_settings(settings)
        if (path := find(TOKENIZER_NAME)) is not None:
            return cls.from_file(path, settings)
        if (path := find(VOCABULARY_NAME)) is not None:
            return cls.from_vocabulary(path, settings)
        raise FileNotFoundError(
            f"{str(path_or_id)!r} has no tokenizer. "
            f"Expected one of: {TOKENIZER_NAME}, {VOCABULARY_NAME}"
        )

    def save_pretrained(self, directory: str | os.PathLike) -> None:
        """Writes `tokenizer.json` and `tokenizer_config.json`, as transformers does.

        Args:
            directory: Created if missing.
        """
        config = json.dumps(self._config(), indent=2, ensure_ascii=False) + "\n"
        with saving(local_path(directory, "The directory")) as change:
            for name, text in (
                (TOKENIZER_NAME, self._backend.to_str(pretty=True)),
                (TOKENIZER_CONFIG_NAME, config),
            ):
                (change.path / name).write_text(text, encoding="utf-8")

    def _config(self) -> dict[str, Any]:
        """The content of tokenizer_config.json."""
        spec = json.loads(self._backend.to_str())
        normalizer = spec["normalizer"] or {}
        is_bert = (normalizer.get("type"), spec["model"]["type"]) == (
            "BertNormalizer",
            "WordPiece",
        )
        config: dict[str, Any] = {
            # BertTokenizer reads its settings from this file, with lower case by
            # default, so all of them are written.
            "tokenizer_class": "BertTokenizer"
            if is_bert
            else "PreTrainedTokenizerFast",
            "processor_class": "BarkProcessor",
        }
        if is_bert:
            for name, field in _NORMALIZER_FIELDS.items():
                config[name] = normalizer[field]
        for name in _SPECIAL_TOKENS:
            token = _special_token(self._settings, name)
            if self._backend.token_to_id(token) is not None:
                config[name] = token
        if "model_max_length" in self._settings:
            config["model_max_length"] = self._settings["model_max_length"]
        return config

    def __repr__(self) -> str:
        return f"BarkTokenizer(vocabulary of {self.vocab_size})"

    # === Vocabulary ===

    @property
    def backend(self) -> tokenizers.Tokenizer:
        """The underlying `tokenizers.Tokenizer`."""
        return self._backend

    @property
    def vocab_size(self) -> int:
        """The largest id plus one, special tokens included."""
        return self._vocab_size

    def __len__(self) -> int:
        return self.vocab_size

    def get_vocab(self) -> dict[str, int]:
        """Every token and its id."""
        return self._backend.get_vocab(with_added_tokens=True)

    # === Encoding ===

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """Turns one text into ids, neither truncated nor padded.

        Args:
            text: The text. The strings `[PAD]`, `[CLS]` ... in it become special
                tokens, as in transformers.
            add_special_tokens: Whether to add `[CLS]` and `[SEP]`.

        Returns:
            The ids, in [0, vocab_size); empty if nothing in the text has a token.

        Raises:
            ValueError: If the text is not a string or has a lone surrogate.
        """
        if not isinstance(text, str):
            raise ValueError(f"text must be one text. Received: {_shorten(text)}")
        _check_unicode(text)
        if add_special_tokens:
            self._num_special_tokens()
        with backend_errors(f"{self._name} cannot read this text"):
            return self._backend.encode(text, add_special_tokens=add_special_tokens).ids

    def unknown_words(self, text: str) -> list[str]:
        """Returns the words of a text that are not in the vocabulary, each once.

        Raises:
            ValueError: If the text has a lone surrogate.
        """
        _check_unicode(text)
        encoding = self._backend.encode(text, add_special_tokens=False)
        return self._unknown_words(text, encoding)

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Turns ids back into text; WordPiece does not preserve all spaces.

        Args:
            ids: Ids in [0, vocab_size).
            skip_special_tokens: Whether to leave out `[PAD]`, `[CLS]` ...

        Returns:
            The text.
        """
        ids = [int(token_id) for token_id in ids]
        with backend_errors(f"{self._name} cannot write these ids"):
            return self._backend.decode(ids, skip_special_tokens=skip_special_tokens)

    def __call__(
        self,
        text: Any,
        *,
        max_length: int = MAX_TEXT_LENGTH,
        add_special_tokens: bool = False,
        return_attention_mask: bool = True,
        return_token_type_ids: bool = False,
        is_split_into_words: bool = False,
        truncation: bool | str | None = None,
    ) -> dict[str, np.ndarray]:
        """Turns a text or a batch of texts into rows of exactly `max_length` ids.

        Args:
            text: A text; a list of texts; with `is_split_into_words`, a list of words
                or a list of lists of words; or a list of ids or of lists of ids in
                [0, vocab_size), which are used unchanged.
            max_length: Columns. Bark's published models read exactly 256.
            add_special_tokens: Whether to add `[CLS]` and `[SEP]` to texts. Bark was
                trained without.
            return_attention_mask: Whether to return the mask.
            return_token_type_ids: Whether to return BERT's segment ids, all 0.
            is_split_into_words: Whether lists of strings are words of one text.
            truncation: None truncates long text with a warning, True silently; False
                raises ValueError.

        Returns:
            `input_ids` int32 (batch, max_length), padded on the right, and on request
            `attention_mask` and `token_type_ids` of the same shape and dtype.

        Raises:
            ValueError: If a text is missing, empty, of another type or, with
                `truncation=False`, too long; or an id is out of range.

        Warns about words that are not in the vocabulary.
        """
        self._check_window(max_length, add_special_tokens)
        if truncation is not None and truncation not in _CUT_SILENTLY + _NEVER_CUT:
            raise ValueError(
                "truncation must be None, True or False (or 'longest_first', "
                f"'only_first', 'do_not_truncate'). Received: truncation={truncation!r}"
            )
        rows = [
            self._encode_row(row, index, max_length, add_special_tokens, truncation)
            for index, row in enumerate(_as_rows(text, is_split_into_words))
        ]
        input_ids = np.full((len(rows), max_length), self.pad_token_id, np.int32)
        attention_mask = np.zeros_like(input_ids)
        for index, ids in enumerate(rows):
            input_ids[index, : len(ids)] = ids
            attention_mask[index, : len(ids)] = 1
        result = {"input_ids": input_ids}
        if return_token_type_ids:
            result["token_type_ids"] = np.zeros_like(input_ids)
        if return_attention_mask:
            result["attention_mask"] = attention_mask
        return result

    def _check_window(self, max_length: int, add_special_tokens: bool) -> None:
        whole = isinstance(max_length, int | np.integer) and max_length is not True
        smallest = 1
        if add_special_tokens:
            smallest += self._num_special_tokens()
        if not whole or max_length < smallest:
            raise ValueError(
                f"max_length must be a whole number of at least {smallest}. "
                f"Received: max_length={max_length!r}"
            )

    def _num_special_tokens(self) -> int:
        """How many tokens are added around a text."""
        with backend_errors(f"{self._name} has wrong special tokens"):
            count = self._backend.num_special_tokens_to_add(is_pair=False)
        if not count:
            raise ValueError(
                "add_special_tokens must be False for this tokenizer, which has none "
                "to add around a text. Received: add_special_tokens=True"
            )
        return count

    def _encode_row(
        self,
        row: Row,
        index: int,
        max_length: int,
        add_special_tokens: bool,
        truncation: bool | str | None,
    ) -> list[int]:
        """The ids of one row, at most `max_length`."""
        if _is_ids(row):
            self._check_ids(row, index)
            _report_cut(len(row), max_length, index, truncation)
            return row[:max_length]
        is_words = isinstance(row, list)
        for text in row if is_words else [row]:
            _check_unicode(text, index)
        with backend_errors(f"{self._name} cannot read this text"):
            encoding = self._backend.encode(
                row, is_pretokenized=is_words, add_special_tokens=False
            )
        if not encoding.ids:
            raise ValueError(
                f"text is empty in row {index}: nothing in it has a token. "
                f"Received: {_shorten(row)}"
            )
        _report_unknown(self._unknown_words(row, encoding), index)
        room = max_length
        if add_special_tokens:
            room -= self._num_special_tokens()
        if len(encoding.ids) > room:
            place = _place_of_cut(row, encoding, room)
            _report_cut(len(encoding.ids), room, index, truncation, place)
            encoding.truncate(room)
        with backend_errors(f"{self._name} cannot read this text"):
            return self._backend.post_process(encoding, None, add_special_tokens).ids

    def _unknown_words(
        self, row: str | list[str], encoding: tokenizers.Encoding
    ) -> list[str]:
        """The words that are not in the vocabulary, each once, in order."""
        # Each access to these attributes copies the whole list.
        ids, offsets = encoding.ids, encoding.offsets
        pieces: dict[int, list[int]] = {}
        for place, word in enumerate(encoding.word_ids):
            if word is not None:
                pieces.setdefault(word, []).append(place)
        words = []
        for word, places in pieces.items():
            if ids[places[0]] == self._unknown_id:
                start, end = offsets[places[0]][0], offsets[places[-1]][1]
                words.append(row[word] if isinstance(row, list) else row[start:end])
        return list(dict.fromkeys(words))

    def _check_ids(self, ids: list[int], index: int) -> None:
        for token_id in (min(ids), max(ids)):
            if not 0 <= token_id < self.vocab_size:
                raise ValueError(
                    f"ids must be in [0, {self.vocab_size}). "
                    f"Received in row {index}: {token_id}"
                )


def _report_unknown(words: list[str], index: int) -> None:
    """Warns about words that will not sound as written."""
    if not words:
        return
    more = ", ..." if len(words) > _NAMED_WORDS else ""
    named = ", ".join(repr(word[:_SHOWN]) for word in words[:_NAMED_WORDS])
    warnings.warn(
        f"The model's vocabulary has no {named}{more}: the speech may differ. "
        f"Received: text of row {index}",
        UserWarning,
        stacklevel=2,
    )


def _report_cut(
    count: int, room: int, index: int, truncation: bool | str | None, place: str = ""
) -> None:
    """Warns about or refuses text that does not fit, unless truncated silently."""
    if count <= room or truncation in _CUT_SILENTLY:
        return
    lost = f"the last {count - room} of {count} tokens of row {index}"
    if truncation is None:
        warnings.warn(
            f"Bark reads {room} tokens: {lost} are lost{place}. "
            "Split long text into several.",
            UserWarning,
            stacklevel=2,
        )
        return
    raise ValueError(
        f"text must have at most {room} tokens with truncation={truncation!r}. "
        f"Received: {lost} do not fit{place}"
    )
