"""Prepared recordings: TFRecord shards with an index for random access.

A directory of shards holds

    dataset.json            `DatasetInfo`, the description of the records
    shard-00000.tfrecord    records, each a `tf.train.Example`, see below
    shard-00000.jsonl       the index: one line per record or skipped recording

A record's features (version 1; all integers are little-endian):

    id, text, speaker   bytes, UTF-8
    text_ids            int64 (n,), the tokenizer's ids, without offset or padding
    semantic            int64 (N,), semantic tokens
    codes               bytes, uint16 (codebooks, T) in row-major order
    audio               bytes, int16 (samples,), full scale 32767

`text_ids`, `semantic` and `codes` exist if the dataset `has_tokens`, `audio` if it
`has_audio`. A line of the index is a JSON object with `id`, `speaker`, `text`,
`seconds`, `tokens` (the number of semantic tokens), and `offset`, `size` and `crc32` of
the serialized record; or, for a skipped recording, `id`, `where`, `skipped`, the
reason, and `detail`. A shard is finished when its index exists.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import tensorflow as tf

from bark_tf.config.fields import (
    Count,
    brief,
    check_field,
    check_fields,
    check_values,
    shown,
)
from bark_tf.files import parse_json_object

from .layouts import Skipped
from .storage import (
    RemotePath,
    atomic_write,
    explained,
    open_bytes,
    read_text,
    storage_path,
)

SCHEMA_VERSION = 1
INFO_NAME = "dataset.json"
INDEX_SUFFIX = ".jsonl"
RECORD_SUFFIX = ".tfrecord"
_FULL_SCALE = 32_767
_Size = Annotated[int, f"[0, {2**62}]"]
# Fields that are positive if records hold tokens.
_SIZES = (
    *("num_codebooks", "codebook_size", "frame_rate"),
    *("semantic_vocab_size", "semantic_rate_hz", "text_vocab_size"),
)
# What a line of the index says about a record.
_ROW = {
    **dict.fromkeys(("id", "speaker", "text"), str),
    **dict.fromkeys(("offset", "size", "crc32", "tokens"), _Size),
    "seconds": Annotated[float, "[0, 1_000_000_000]"],
}
# A TFRecord: length, checksum of the length, content, checksum of the content.
_HEADER = struct.Struct("<QI")


class Utterance(NamedTuple):
    """A prepared recording.

    Attributes:
        id: Name in the dataset.
        text: Transcript.
        speaker: Name of the speaker.
        text_ids: int32 (n,), the tokenizer's ids, without offset or padding.
        semantic: int32 (N,), semantic tokens.
        codes: int32 (codebooks, T); T follows from N as in generation.
        audio: float32 (samples,) at the codec's rate, or None.
    """

    id: str
    text: str
    speaker: str
    text_ids: np.ndarray
    semantic: np.ndarray
    codes: np.ndarray
    audio: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """The description of a directory of shards.

    Args:
        sample_rate: Sample rate of the audio and the codec.
        has_tokens: Whether records hold text ids, semantic tokens and codes.
        has_audio: Whether records hold audio.
        num_codebooks: Number of codebooks.
        codebook_size: Codes are in [0, codebook_size).
        frame_rate: Codec frames per second.
        semantic_vocab_size: Semantic tokens are in [0, semantic_vocab_size).
        semantic_rate_hz: Semantic tokens per second.
        text_vocab_size: Text ids are in [0, text_vocab_size).
        model: Directory or id of the model whose ids these are.
        settings: Other settings that determined the content.
        schema_version: Version of the records.
    """

    sample_rate: Count
    has_tokens: bool
    has_audio: bool
    num_codebooks: int = 0
    codebook_size: int = 0
    frame_rate: float = 0.0
    semantic_vocab_size: int = 0
    semantic_rate_hz: float = 0.0
    text_vocab_size: int = 0
    model: str = ""
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def save(self, directory: str | os.PathLike) -> None:
        """Writes `dataset.json`."""
        text = json.dumps(dataclasses.asdict(self), indent=2) + "\n"
        with atomic_write(storage_path(directory) / INFO_NAME) as temporary:
            temporary.write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, directory: str | os.PathLike) -> DatasetInfo:
        """Reads `dataset.json`.

        Raises:
            FileNotFoundError: If the file does not exist.
            ValueError: If it is damaged or has another version.
        """
        path = storage_path(directory) / INFO_NAME
        if not path.is_file():
            raise FileNotFoundError(
                f"{str(directory)!r} holds no prepared recordings: it has no "
                f"{INFO_NAME}. `bark-tf prepare` writes it"
            )
        values = parse_json_object(read_text(path), path)
        version = values.get("schema_version")
        if version != SCHEMA_VERSION:
            raise ValueError(
                f"{path}: schema_version must be {SCHEMA_VERSION}. "
                f"Received: {shown(version)}; prepare the recordings again"
            )
        try:
            return cls(**values)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: {brief(error)}") from error

    def __post_init__(self):
        check_fields(self)
        for name in _SIZES if self.has_tokens else ():
            check_field(self, name, getattr(self, name) > 0, "positive")

    def check(self, utterance: Utterance) -> None:
        """Raises ValueError if an utterance does not fit the description."""
        if not self.has_tokens:
            return
        codes = utterance.codes
        if codes.ndim != 2 or codes.shape[0] != self.num_codebooks:
            raise ValueError(
                f"codes must have {self.num_codebooks} rows. Received: {codes.shape}"
            )
        for name, values, limit in (
            ("text_ids", utterance.text_ids, self.text_vocab_size),
            ("semantic", utterance.semantic, self.semantic_vocab_size),
            ("codes", codes, self.codebook_size),
        ):
            if not values.size:
                raise ValueError(f"{name} is empty")
            if not 0 <= values.min() <= values.max() < limit:
                raise ValueError(
                    f"{name} must be in [0, {limit}). "
                    f"Received: values in [{values.min()}, {values.max()}]"
                )


# === Records ===


def to_record(utterance: Utterance, info: DatasetInfo) -> bytes:
    """Serializes an utterance.

    Raises:
        ValueError: If its values do not fit the dataset.
    """
    info.check(utterance)
    features = {
        name: _bytes(getattr(utterance, name).encode("utf-8"))
        for name in ("id", "text", "speaker")
    }
    if info.has_tokens:
        features["text_ids"] = _integers(utterance.text_ids)
        features["semantic"] = _integers(utterance.semantic)
        features["codes"] = _bytes(np.asarray(utterance.codes, "<u2").tobytes())
    if info.has_audio:
        scaled = np.round(np.clip(utterance.audio, -1, 1) * _FULL_SCALE)
        features["audio"] = _bytes(scaled.astype("<i2").tobytes())
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return example.SerializeToString(deterministic=True)


def from_record(record: bytes, info: DatasetInfo) -> Utterance:
    """Reads a serialized utterance; the inverse of `to_record`.

    Raises:
        ValueError: If a feature is missing, of the wrong type, or does not fit.
    """
    try:
        features = tf.train.Example.FromString(record).features.feature
    except Exception as error:  # DecodeError has no stable import path
        raise ValueError(f"it is not a tf.train.Example: {error}") from error

    def read_bytes(name: str) -> bytes:
        values = features[name].bytes_list.value if name in features else ()
        if len(values) != 1:
            raise ValueError(f"the feature {name!r} must be one string of bytes")
        return values[0]

    def read_integers(name: str) -> np.ndarray:
        if name not in features or not features[name].HasField("int64_list"):
            raise ValueError(f"the feature {name!r} must be integers")
        return np.array(features[name].int64_list.value, np.int32)

    id_, text, speaker = (
        read_bytes(name).decode("utf-8") for name in ("id", "text", "speaker")
    )
    text_ids = semantic = np.zeros(0, np.int32)
    codes, audio = np.zeros((info.num_codebooks, 0), np.int32), None
    if info.has_tokens:
        text_ids, semantic = read_integers("text_ids"), read_integers("semantic")
        flat = np.frombuffer(read_bytes("codes"), "<u2").astype(np.int32)
        if flat.size % info.num_codebooks:
            raise ValueError(f"codes must have {info.num_codebooks} rows")
        codes = flat.reshape(info.num_codebooks, -1)
    if info.has_audio:
        audio = np.frombuffer(read_bytes("audio"), "<i2").astype(np.float32)
        audio /= _FULL_SCALE
    utterance = Utterance(id_, text, speaker, text_ids, semantic, codes, audio)
    info.check(utterance)
    return utterance


def _bytes(value: bytes) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


def _integers(values: np.ndarray) -> tf.train.Feature:
    values = np.asarray(values).tolist()
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


# === Shards ===


def shard_path(directory: str | os.PathLike, number: int) -> Path | RemotePath:
    """The path of a shard's records."""
    return storage_path(directory) / f"shard-{number:05d}{RECORD_SUFFIX}"


def is_finished(path: Path | RemotePath) -> bool:
    """Whether the shard with these records is complete."""
    return path.with_suffix(INDEX_SUFFIX).is_file()


def write_shard(
    path: str | os.PathLike, entries: Iterable[Utterance | Skipped], info: DatasetInfo
) -> None:
    """Writes the records and the index of a shard; each appears once complete.

    Args:
        path: Path of the records, from `shard_path`.
        entries: Utterances and skipped recordings, in order.
        info: Description of the dataset.

    Raises:
        OSError: If the disk is full; an earlier shard of this name stays as it is.
    """
    path = storage_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    rows, offset = [], 0
    with atomic_write(path) as temporary:
        with _record_writer(temporary) as writer:
            for entry in entries:
                if isinstance(entry, Skipped):
                    row = entry._asdict()
                    rows.append({"skipped": row.pop("reason"), **row})
                    continue
                record = to_record(entry, info)
                writer.write(record)
                rows.append(_index_row(entry, record, offset, info))
                offset += _HEADER.size + len(record) + 4
        size = tf.io.gfile.stat(os.fspath(temporary)).length
        if size != offset:
            raise OSError(f"{path}: {size} of {offset} bytes were written; disk full?")
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    with atomic_write(path.with_suffix(INDEX_SUFFIX)) as temporary:
        temporary.write_text(lines, encoding="utf-8")


@contextlib.contextmanager
def _record_writer(path: Path | RemotePath) -> Iterator[tf.io.TFRecordWriter]:
    """Turns TensorFlow's error for a full disk into Python's."""
    try:
        with tf.io.TFRecordWriter(os.fspath(path)) as writer:
            yield writer
    except tf.errors.ResourceExhaustedError as error:  # also raised for memory
        reason = os.strerror(errno.ENOSPC)
        if reason not in str(error):
            raise
        raise OSError(errno.ENOSPC, reason, os.fspath(path)) from error


def _index_row(
    utterance: Utterance, record: bytes, offset: int, info: DatasetInfo
) -> dict[str, Any]:
    if utterance.audio is not None:
        seconds = len(utterance.audio) / info.sample_rate
    else:
        seconds = utterance.codes.shape[1] / info.frame_rate
    return {
        "id": utterance.id,
        "speaker": utterance.speaker,
        "text": utterance.text,
        "seconds": round(seconds, 3),
        "tokens": len(utterance.semantic),
        "offset": offset,
        "size": len(record),
        "crc32": zlib.crc32(record),
    }


def read_index(path: Path | RemotePath) -> list[dict[str, Any]]:
    """Reads a shard's index, given the path of its records.

    Raises:
        ValueError: If it is damaged.
    """
    path = path.with_suffix(INDEX_SUFFIX)
    rows = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        where = f"{path}:{number} is damaged"
        row = parse_json_object(line, where)
        if "skipped" not in row:
            check_values(row, _ROW, where)
        rows.append(row)
    return rows


class ShardSet(Sequence):
    """The utterances of a directory of shards, read on access.

    Args:
        directory: A split made by `bark-tf prepare`, such as `OUT/train`.

    Attributes:
        info: `DatasetInfo`.
        lengths: Numbers of semantic tokens, int64 (utterances,).
        seconds: Lengths in seconds, float64 (utterances,).
        ids: Names of the utterances.
        texts: Transcripts.
        speakers: Names of the speakers.
        fingerprint: Hash of the content: equal for a copy, wherever it is.

    Raises:
        FileNotFoundError: If the directory holds no shards.
        ValueError: If a file is damaged, or there are no utterances.
    """

    def __init__(self, directory: str | os.PathLike):
        directory = storage_path(directory)
        with explained(directory):
            rows = self._read(directory)
        if not rows:
            raise ValueError(f"{str(directory)!r} holds no utterance")
        self.lengths = np.array([row["tokens"] for row in rows], np.int64)
        self.seconds = np.array([row["seconds"] for row in rows], np.float64)
        self.ids = [row["id"] for row in rows]
        self.texts = [row["text"] for row in rows]
        self.speakers = [row["speaker"] for row in rows]
        about = dataclasses.replace(self.info, model="", settings={})
        digest = hashlib.sha256(repr(about).encode("utf-8"))
        for row in rows:  # with a checksum of its record
            digest.update(json.dumps(row, sort_keys=True).encode("utf-8"))
        self.fingerprint = digest.hexdigest()

    def _read(self, directory: Path | RemotePath) -> list[dict[str, Any]]:
        """The rows of all indices."""
        self.info = DatasetInfo.load(directory)
        self._places: list[tuple[Path | RemotePath, int, int, int]] = []
        rows = []
        for path in sorted(directory.glob(f"shard-*{INDEX_SUFFIX}")):
            records = path.with_suffix(RECORD_SUFFIX)
            for row in read_index(records):
                if "skipped" not in row:
                    rows.append(row)
                    place = (row["offset"], row["size"], row["crc32"])
                    self._places.append((records, *place))
        return rows

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Utterance:
        """Reads one utterance.

        Raises:
            IndexError: If the index is out of range.
            ValueError: If the record is damaged.
        """
        path, offset, size, checksum = self._places[index]
        # Open per read, so that threads and forked workers share no handle.
        with explained(path), open_bytes(path) as file:
            file.seek(offset + _HEADER.size)
            record = file.read(size)
        if len(record) != size or zlib.crc32(record) != checksum:
            raise ValueError(
                f"{path}: the record of {self.ids[index]!r} is damaged. Delete the "
                f"shard's two files and prepare again"
            )
        try:
            return from_record(record, self.info)
        except ValueError as error:
            raise ValueError(f"{path}: {self.ids[index]!r}: {error}") from error

    @property
    def audios(self) -> Audios:
        """The audio of the utterances, each float32 (samples,)."""
        return Audios(self)


class Audios(Sequence):
    """The audio of a `ShardSet`.

    Args:
        shards: A set with audio.

    Raises:
        ValueError: If it has no audio.
    """

    def __init__(self, shards: ShardSet):
        if not shards.info.has_audio:
            raise ValueError(
                "These shards hold no audio: prepare them with --keep-audio, or "
                "without a model"
            )
        self._shards = shards

    def __len__(self) -> int:
        return len(self._shards)

    def __getitem__(self, index: int) -> np.ndarray:
        return self._shards[index].audio
