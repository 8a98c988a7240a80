"""The interface of semantic tokenizers: audio in, tokens out, saved beside the model.

A tokenizer is stored in the directory of the checkpoint that speaks its tokens, as
`semantic_tokenizer.json` (its kind and settings) and `semantic_tokenizer.safetensors`.
"""

from __future__ import annotations

import abc
import importlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np

from bark_tf.config import BarkSemanticGenerationConfig
from bark_tf.config.fields import check_values, shown
from bark_tf.convert.checkpoints import open_checkpoint
from bark_tf.convert.rules import Rule, Table, read
from bark_tf.files import local_path, read_json_object
from bark_tf.saving import saving, settle

FILE_NAME = "semantic_tokenizer.json"
ARRAYS_NAME = "semantic_tokenizer.safetensors"
FORMAT = 1
TokenRate = Annotated[float, "(0, 1_000]"]
# Kind -> module in this package and class; imported on use.
KINDS = {
    "kmeans": ("kmeans", "KMeansTokenizer"),
    "hubert": ("hubert", "HubertTokenizer"),
    "ctc": ("ctc", "CtcTokenizer"),
}


class SemanticTokenizer(abc.ABC):
    """Turns audio into semantic tokens; abstract.

    Attributes:
        kind: Its name in `semantic_tokenizer.json`.
        sample_rate: Samples per second of the audio it takes.
        rate_hz: Tokens per second.
        vocab_size: Tokens are in [0, vocab_size).
    """

    kind: ClassVar[str]
    sample_rate: int
    rate_hz: float
    vocab_size: int

    @abc.abstractmethod
    def __call__(self, audio: np.ndarray) -> np.ndarray:
        """Turns audio into tokens.

        Args:
            audio: float32 (samples,), at `sample_rate`, in [-1, 1].

        Returns:
            int32 (num_tokens(samples),).

        Raises:
            ValueError: If `audio` has another shape or is not finite.
        """

    def num_tokens(self, num_samples: int) -> int:
        """The number of tokens of audio: the whole token periods that fit."""
        return int(num_samples * self.rate_hz / self.sample_rate + 1e-6)

    @abc.abstractmethod
    def save(self, directory: str | os.PathLike) -> None:
        """Writes the tokenizer into a directory, created if missing."""

    @classmethod
    @abc.abstractmethod
    def load(
        cls, directory: str | os.PathLike, settings: Mapping[str, Any]
    ) -> SemanticTokenizer:
        """Reads what `save` wrote; `settings` is the content of the JSON file."""


def load_semantic_tokenizer(directory: str | os.PathLike) -> SemanticTokenizer:
    """Reads the semantic tokenizer of a checkpoint.

    Args:
        directory: The checkpoint's directory.

    Returns:
        The tokenizer.

    Raises:
        FileNotFoundError: If the directory has none.
        ValueError: If the files are damaged or of an unknown kind.
    """
    settle(directory)
    path = Path(directory) / FILE_NAME
    if not path.is_file():
        raise FileNotFoundError(
            f"{str(directory)!r} has no {FILE_NAME}, which is needed to prepare data "
            "for a model: make it with `bark-tf train-tokenizer`"
        )
    settings = read_json_object(path)
    kind = settings.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(
            f"{path} must name a kind among {', '.join(KINDS)}. Received: {shown(kind)}"
        )
    if settings.get("format") != FORMAT:
        raise ValueError(
            f"{path} must have format {FORMAT}. "
            f"Received: {shown(settings.get('format'))}"
        )
    check_values(settings, {"rate_hz": TokenRate}, path)
    module, name = KINDS[kind]
    module = importlib.import_module(f".{module}", __package__)
    return getattr(module, name).load(directory, settings)


def write_files(
    directory: str | os.PathLike,
    settings: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
) -> None:
    """Writes both files of a tokenizer together."""
    from safetensors.numpy import save

    contiguous = {name: np.ascontiguousarray(a) for name, a in arrays.items()}
    with saving(local_path(directory, "The directory")) as change:
        (change.path / ARRAYS_NAME).write_bytes(save(contiguous))
        write_settings(change.path, settings)


def write_settings(directory: Path, settings: Mapping[str, Any]) -> None:
    """Writes the JSON file of a tokenizer into the folder of a change."""
    text = json.dumps({"format": FORMAT, **settings}, indent=2) + "\n"
    (directory / FILE_NAME).write_text(text, encoding="utf-8")


def read_arrays(
    directory: str | os.PathLike, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """Reads a tokenizer's arrays.

    Raises:
        ValueError: If the file is damaged, or an array is missing, unknown, of another
            shape, or not of finite floating-point numbers.
    """
    path = Path(directory) / ARRAYS_NAME
    if not path.is_file():
        raise ValueError(f"{path} is missing beside {FILE_NAME}")
    table = Table(tuple(Rule(name, name, shape) for name, shape in shapes.items()))
    with open_checkpoint(path) as checkpoint:
        return dict(read(table, checkpoint, source=str(path)))


def checked_audio(audio: Any) -> np.ndarray:
    """Audio as float32 (samples,); raises ValueError for anything else."""
    audio = np.asarray(audio)
    if audio.ndim != 1 or not np.issubdtype(audio.dtype, np.floating):
        raise ValueError(
            "audio must be floating point of shape (samples,). "
            f"Received: {audio.dtype} of shape {audio.shape}"
        )
    if not np.all(np.isfinite(audio)):
        raise ValueError("audio must be finite. Received: NaN or infinity")
    return audio.astype(np.float32, copy=False)


def check_tokenizer(
    tokenizer: SemanticTokenizer, config: BarkSemanticGenerationConfig
) -> None:
    """Raises ValueError if a tokenizer's tokens are not those that a model speaks."""
    found = (tokenizer.vocab_size, tokenizer.rate_hz)
    wanted = (config.semantic_vocab_size, config.semantic_rate_hz)
    if found != wanted:
        raise ValueError(
            "The semantic tokenizer must make the tokens that the model speaks, "
            f"{wanted[0]} at {wanted[1]} Hz. Received: {found[0]} at {found[1]} Hz"
        )
