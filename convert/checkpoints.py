"""Checkpoints: reads every format that Bark's weights come in, writes safetensors.

Nothing here needs torch, executes a pickle or holds more than one tensor in memory.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import Any, BinaryIO

import numpy as np

from bark_tf.files import LFS_POINTER, check_file, is_lfs_pointer, local_path
from bark_tf.saving import saving, settle

from .file_tensors import CheckpointError, Contents, LazyTensor, naming
from .safetensors_files import (
    check_tensor,
    parse_json,
    read_safetensors,
    write_safetensors,
)
from .torch_files import read_legacy, read_zip

__all__ = ["Checkpoint", "CheckpointError", "open_checkpoint", "write_checkpoint"]

SAFETENSORS_NAME = "model.safetensors"
SAFETENSORS_INDEX_NAME = "model.safetensors.index.json"
# Names looked for in a directory, in this order.
WEIGHT_NAMES = (
    SAFETENSORS_NAME,
    SAFETENSORS_INDEX_NAME,
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_OUR_NAMES = re.compile(
    r"model(-\d{5,}-of-\d{5,})?\.safetensors|model\.safetensors\.index\.json"
)
_INDEX_SUFFIX = ".index.json"
_MAX_INDEX_BYTES = 32 * 2**20
_HEAD_BYTES = 32
_MAX_NAME = 255


class Checkpoint:
    """The tensors of one checkpoint, read one at a time; a context manager.

    Attributes:
        metadata: The strings of a safetensors header, or the plain values next to a
            state dict, such as suno's `model_args`.

    Example:
        >>> with open_checkpoint("bark-small") as checkpoint:
        ...     shapes = {name: checkpoint.shape(name) for name in checkpoint.names()}
    """

    def __init__(self, contents: Contents, files: contextlib.ExitStack):
        self._tensors = contents.tensors
        self._files: contextlib.ExitStack | None = files
        self.metadata: Mapping[str, Any] = MappingProxyType(contents.metadata)

    def names(self) -> list[str]:
        """The stored names of the tensors, in the order of the file."""
        return list(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it. KeyError if there is none."""
        return self._tensors[name].shape

    def dtype(self, name: str) -> np.dtype:
        """The dtype of a tensor, without reading it; bfloat16 is that of ml_dtypes."""
        return self._tensors[name].dtype

    def read(self, name: str) -> np.ndarray:
        """Reads a tensor.

        Args:
            name: One of `names()`.

        Returns:
            Read-only array, usually a view of the mapped file, possibly strided. It
            stays valid after `close`.

        Raises:
            KeyError: If there is no such tensor.
            ValueError: If the checkpoint is closed, or the tensor is compressed and
                damaged.
        """
        if self._files is None:
            raise ValueError("Expected an open checkpoint. Received: a closed one")
        return self._tensors[name].read()

    def close(self) -> None:
        """Closes the files. Arrays already read stay valid."""
        if self._files is not None:
            self._files.close()
        self._files = None

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_checkpoint(path: str | os.PathLike) -> Checkpoint:
    """Opens a checkpoint of any kind, recognised by content rather than name.

    Args:
        path: A safetensors file; a file of `torch.save` (`.bin`, `.pt`, `.pth`, `.th`;
            zip or older); an index of shards (`*.index.json`); or a directory with one
            of `WEIGHT_NAMES`, safetensors preferred.

    Returns:
        The open `Checkpoint`; only headers have been read.

    Raises:
        FileNotFoundError: If there is no such file, or the directory has no weights.
        CheckpointError: A ValueError that names the file, if the file is damaged or its
            pickle asks for more than tensors and plain values.
    """
    path = _weights_path(Path(path))
    with contextlib.ExitStack() as files:
        if path.name.endswith(_INDEX_SUFFIX):
            contents = _read_shards(path, files)
        else:
            contents = _read_file(path, files)
        return Checkpoint(contents, files.pop_all())


def _weights_path(path: Path) -> Path:
    if not path.is_dir():
        return path
    settle(path)
    for name in WEIGHT_NAMES:
        if (path / name).is_file():
            return path / name
    raise FileNotFoundError(f"{path} holds none of {', '.join(WEIGHT_NAMES)}")


def _read_file(path: Path, files: contextlib.ExitStack) -> Contents:
    check_file(path)
    handle = files.enter_context(open(path, "rb"))
    with naming(path):
        return _reader(path, handle.read(_HEAD_BYTES))(handle)


def _reader(path: Path, head: bytes) -> Callable[[BinaryIO], Contents]:
    """Chooses by the first bytes; safetensors starts with an 8-byte length."""
    if head[8:9] == b"{":
        return read_safetensors
    if head.startswith(b"PK\x03\x04"):
        return read_zip
    if head.startswith(b"\x80"):
        return read_legacy
    if is_lfs_pointer(head):
        raise CheckpointError(LFS_POINTER)
    if path.suffix == ".safetensors":
        return read_safetensors
    raise CheckpointError("expected a safetensors file or a file of torch.save")


def _read_shards(path: Path, files: contextlib.ExitStack) -> Contents:
    """Joins the files of an index, which must hold exactly the tensors it lists."""
    shards: dict[str, set[str]] = {}
    with naming(path):
        for name, file_name in _weight_map(path).items():
            shards.setdefault(_plain_file_name(file_name), set()).add(name)
    joined = Contents({}, {})
    for file_name, names in shards.items():
        if not (path.parent / file_name).is_file():
            raise CheckpointError(f"{path}: shard {file_name!r} is missing")
        contents = _read_file(path.parent / file_name, files)
        different = sorted(names.symmetric_difference(contents.tensors))
        if different:
            raise CheckpointError(
                f"{path}: shard {file_name!r} and the index disagree about "
                f"{different[0][:200]!r} and {len(different) - 1} more"
            )
        joined.tensors.update(contents.tensors)
        joined.metadata.update(contents.metadata)
    return joined


def _weight_map(path: Path) -> dict[str, Any]:
    check_file(path)
    with open(path, "rb") as handle:
        text = handle.read(_MAX_INDEX_BYTES + 1)
    if len(text) > _MAX_INDEX_BYTES:
        raise CheckpointError("it is too large for an index")
    weight_map = parse_json(text).get("weight_map")
    if type(weight_map) is not dict or not weight_map:
        raise CheckpointError("expected a 'weight_map' from tensors to files")
    return weight_map


def _plain_file_name(name: Any) -> str:
    """Refuses paths that leave the index's directory, on Windows too."""
    is_plain = (
        type(name) is str
        and name == PurePath(name).name
        and not re.search(r"[\\/:\0]", name)
        and len(name) <= _MAX_NAME
    )
    if not is_plain:
        raise CheckpointError(
            f"expected shards next to the index. Received: {str(name)[:200]!r}"
        )
    return name


# === Writing ===


def write_checkpoint(
    directory: str | os.PathLike,
    tensors: Iterable[LazyTensor],
    *,
    max_shard_size: int | str = "5GB",
    metadata: Mapping[str, str] = MappingProxyType({"format": "pt"}),
) -> list[Path]:
    """Writes `model.safetensors`, or shards and their index, as Hugging Face does.

    All files are complete and on disk before the first gets its name. If anything
    fails or the process is killed, an older checkpoint in the directory stays valid; on
    success it is removed.

    Args:
        directory: Created if missing.
        tensors: One array is in memory at a time.
        max_shard_size: Bytes, or a string such as `"200MB"` (decimal). A larger tensor
            gets its own file.
        metadata: Strings for the headers; transformers wants `{"format": "pt"}`.

    Returns:
        The files written; an index is the last.

    Raises:
        ValueError: If a name occurs twice, the format has no such dtype, or an array
            has another shape or dtype than announced.
    """
    directory = local_path(directory, "The directory")
    by_name = _by_name(tensors)
    shards, index = _plan(by_name, max_shard_size)
    with saving(directory) as change:
        for file_name, names in shards.items():
            members = [by_name[name] for name in names]
            write_safetensors(change.path / file_name, members, metadata)
        if index is not None:
            _write_index(change.path / SAFETENSORS_INDEX_NAME, index)
        files = [*shards, SAFETENSORS_INDEX_NAME] if index else list(shards)
        for path in directory.glob("model*"):
            if _OUR_NAMES.fullmatch(path.name) and path.name not in files:
                change.remove(path.name)
    return [directory / name for name in files]


def _by_name(tensors: Iterable[LazyTensor]) -> dict[str, LazyTensor]:
    by_name: dict[str, LazyTensor] = {}
    for tensor in map(check_tensor, tensors):
        if by_name.setdefault(tensor.name, tensor) is not tensor:
            raise ValueError(
                f"Expected each name once. Received: {tensor.name!r} twice"
            )
    if not by_name:
        raise ValueError("Expected at least one tensor. Received: none")
    return by_name


def _plan(
    tensors: dict[str, LazyTensor], max_shard_size: int | str
) -> tuple[dict[str, list[str]], dict[str, Any] | None]:
    """File name -> tensor names by Hugging Face's own rule, and the index if needed."""
    from huggingface_hub import split_state_dict_into_shards_factory

    if not isinstance(max_shard_size, str) and max_shard_size <= 0:
        raise ValueError(f"Expected a positive size. Received: {max_shard_size=}")
    split = split_state_dict_into_shards_factory(
        tensors,
        get_storage_size=lambda tensor: tensor.num_bytes,
        get_storage_id=lambda tensor: None,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=max_shard_size,
    )
    index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
    return split.filename_to_tensors, index if split.is_sharded else None


def _write_index(path: Path, index: dict[str, Any]) -> None:
    with open(path, "w", encoding="utf-8") as handle:
        handle.write(json.dumps(index, indent=2, sort_keys=True) + "\n")
        handle.flush()
        os.fsync(handle.fileno())
