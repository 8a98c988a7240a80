"""Training of a k-means semantic tokenizer on prepared audio."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from bark_tf.config import GENERATION_CONFIG_NAME, BarkSemanticGenerationConfig
from bark_tf.saving import locked
from bark_tf.semantic_tokens.kmeans import KMeansTokenizer
from bark_tf.semantic_tokens.tokenizer import SemanticTokenizer

from ..data.shards import ShardSet
from ..data.storage import storage_path


def train_tokenizer(
    data: str | os.PathLike,
    out: str | os.PathLike,
    *,
    vocab_size: int | None = None,
    rate_hz: float | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> SemanticTokenizer:
    """Fits k-means to audio and saves the tokenizer.

    Args:
        data: Shards with audio, or a directory with a folder `train` of them.
        out: Directory for the tokenizer, usually that of the model.
        vocab_size: Number of clusters; by default that of the model in `out`.
        rate_hz: Tokens per second; by default the model's.
        seed: Decides all random choices.
        progress: Called with (rounds done, rounds).

    Returns:
        The tokenizer, which `load_semantic_tokenizer(out)` reads.

    Raises:
        FileNotFoundError: If `data` holds no shards.
        ValueError: If a number is neither given nor known from a model, or there is
            too little audio.
        BlockingIOError: If another process is writing to `out`.
    """
    data, out = storage_path(data), Path(out)
    shards = ShardSet(data / "train" if (data / "train").is_dir() else data)
    with locked(out):
        vocab_size, rate_hz = token_sizes(out, vocab_size, rate_hz)
        tokenizer = KMeansTokenizer.fit(
            shards.audios,
            sample_rate=shards.info.sample_rate,
            rate_hz=rate_hz,
            vocab_size=vocab_size,
            seed=seed,
            progress=progress,
        )
        tokenizer.save(out)
    return tokenizer


def token_sizes(
    out: Path, vocab_size: int | None, rate_hz: float | None
) -> tuple[int, float]:
    """The vocabulary and rate of a new tokenizer: as given, or those of a model.

    Args:
        out: Directory, which may hold a model.
        vocab_size: Number of tokens, or None.
        rate_hz: Tokens per second, or None.

    Returns:
        Both numbers.

    Raises:
        ValueError: If a number is neither given nor known from a model.
    """
    if vocab_size is None or rate_hz is None:
        if not (out / GENERATION_CONFIG_NAME).is_file():
            raise ValueError(
                "vocab_size and rate_hz must be given: there is no model in "
                f"{str(out)!r}. Received: vocab_size={vocab_size}, rate_hz={rate_hz}"
            )
        config = BarkSemanticGenerationConfig.from_pretrained(out)
        vocab_size = vocab_size or config.semantic_vocab_size
        rate_hz = rate_hz or config.semantic_rate_hz
    return vocab_size, rate_hz
