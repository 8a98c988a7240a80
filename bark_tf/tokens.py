"""Bark's token ids: the published values, and the arithmetic between codes and ids.

The names are suno's. The values are the defaults of the generation configuration, from
which all code takes them.

Axes: K codebooks, T frames.
"""

from __future__ import annotations

import numpy as np

SEMANTIC_VOCAB_SIZE = 10_000
SEMANTIC_PAD_TOKEN = SEMANTIC_VOCAB_SIZE  # also ends the sequence
SEMANTIC_RATE_HZ = 49.9

TEXT_ENCODING_OFFSET = 10_048
BERT_VOCAB_SIZE = 119_547  # bert-base-multilingual-cased
TEXT_PAD_TOKEN = TEXT_ENCODING_OFFSET + BERT_VOCAB_SIZE  # 129_595
SEMANTIC_INFER_TOKEN = 129_599

CODEBOOK_SIZE = 1024
N_COARSE_CODEBOOKS = 2
N_FINE_CODEBOOKS = 8
COARSE_RATE_HZ = 75
COARSE_SEMANTIC_PAD_TOKEN = (
    SEMANTIC_VOCAB_SIZE + N_COARSE_CODEBOOKS * CODEBOOK_SIZE
)  # 12_048
COARSE_INFER_TOKEN = 12_050

SAMPLE_RATE = 24_000


def interleave(
    codes: np.ndarray,
    codebook_size: int = CODEBOOK_SIZE,
    offset: int = SEMANTIC_VOCAB_SIZE,
) -> np.ndarray:
    """Turns codes into coarse token ids, frame by frame.

    Args:
        codes: int (..., K, T), values in [0, codebook_size).
        codebook_size: Entries per codebook; ids of codebook k are shifted by k times
            this.
        offset: Id of entry 0 of codebook 0.

    Returns:
        int (..., K * T): c0[0], c1[0], c0[1], c1[1], ...

    Example:
        >>> interleave(np.array([[1, 2], [3, 4]])).tolist()
        [10001, 11027, 10002, 11028]
    """
    codes = np.asarray(codes)
    num_codebooks, num_frames = codes.shape[-2:]
    shifts = offset + codebook_size * np.arange(num_codebooks, dtype=codes.dtype)
    tokens = np.swapaxes(codes + shifts[:, None], -1, -2)  # (..., T, K)
    return tokens.reshape(*codes.shape[:-2], num_codebooks * num_frames)


def deinterleave(
    tokens: np.ndarray,
    num_codebooks: int = N_COARSE_CODEBOOKS,
    codebook_size: int = CODEBOOK_SIZE,
    offset: int = SEMANTIC_VOCAB_SIZE,
) -> np.ndarray:
    """Turns coarse token ids back into codes; the inverse of `interleave`.

    Args:
        tokens: int (..., K * T).
        num_codebooks: K.
        codebook_size: Entries per codebook.
        offset: Id of entry 0 of codebook 0.

    Returns:
        int (..., K, T), values in [0, codebook_size).

    Raises:
        ValueError: If the length is not a multiple of `num_codebooks`.
    """
    tokens = np.asarray(tokens)
    if tokens.shape[-1] % num_codebooks:
        raise ValueError(
            f"The number of coarse tokens must be a multiple of {num_codebooks}. "
            f"Received: {tokens.shape[-1]} tokens"
        )
    frames = tokens.reshape(*tokens.shape[:-1], -1, num_codebooks)
    return np.swapaxes((frames - offset) % codebook_size, -1, -2)
