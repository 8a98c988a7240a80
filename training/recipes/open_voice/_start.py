"""The configuration of the open voice: vocabulary, token ids and sizes."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from bark_tf.config import (
    BarkCoarseConfig,
    BarkCoarseGenerationConfig,
    BarkConfig,
    BarkFineConfig,
    BarkFineGenerationConfig,
    BarkGenerationConfig,
    BarkSemanticConfig,
    BarkSemanticGenerationConfig,
    EncodecConfig,
)
from bark_tf.text.tokenizer import BarkTokenizer

# Made by `_vocabulary`.
VOCABULARY = (
    (Path(__file__).parent / "vocabulary.txt").read_text(encoding="utf-8").split()
)
IDS = {token: number for number, token in enumerate(VOCABULARY)}
_CONTINUES = "##"
# How often `vary_text` cuts a word into other pieces.
_RECUT = 0.1

SAMPLE_RATE = 16_000
FRAME_RATE = 50  # codec frames, and semantic tokens, per second
SEMANTIC_TOKENS = 1_000
CODEBOOK_SIZE = 512
NUM_CODEBOOKS = 4
NUM_COARSE = 2
BITS_PER_CODE = 9  # 2 ** 9 == CODEBOOK_SIZE

TEXT_LENGTH = 64
TEXT_OFFSET = SEMANTIC_TOKENS + 1  # after the end of the sequence
TEXT_PAD = TEXT_OFFSET + len(VOCABULARY)
SEMANTIC_INFER = TEXT_PAD + 1
MAX_SEMANTIC = 383  # 7.7 s

COARSE_PAD = SEMANTIC_TOKENS + NUM_COARSE * CODEBOOK_SIZE
COARSE_INFER = COARSE_PAD + 1
COARSE_TEXT = 160  # semantic tokens in a window
COARSE_HISTORY = 252  # 126 frames: a window sees 34 semantic tokens ahead
COARSE_WINDOW = 60

FINE_LENGTH, FINE_HISTORY = 256, 128

SIZES = {"num_heads": 4, "hidden_size": 256, "bias": False, "dropout": 0.0}


def start() -> tuple[BarkConfig, BarkGenerationConfig, BarkTokenizer]:
    """Returns the configuration, the generation configuration and the tokenizer."""
    tokenizer = BarkTokenizer.from_vocabulary(VOCABULARY, {"do_lower_case": True})
    return _config(), _generation_config(), tokenizer


def vary_text(text_ids: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Other ids for the same speech: some words are cut into other pieces.

    A network that sees a word as "window", "win ##dow" and "w ##in ##d ##ow" learns
    what the pieces sound like, and reads words that it never saw.

    Args:
        text_ids: Ids of a text, int (n,).
        rng: Random generator.

    Returns:
        The new ids, int32 (m,).
    """
    words: list[list[int]] = []
    for number in text_ids.tolist():
        if VOCABULARY[number].startswith(_CONTINUES) and words:
            words[-1].append(number)
        else:
            words.append([number])
    varied: list[int] = []
    for word in words:
        text = "".join(VOCABULARY[number].removeprefix(_CONTINUES) for number in word)
        is_recut = text.isalpha() and rng.random() < _RECUT
        varied += _cut(text, rng) if is_recut else word
    return np.array(varied[:TEXT_LENGTH], np.int32)


def _cut(word: str, rng: np.random.Generator) -> list[int]:
    """Random pieces of a word, from left to right."""
    pieces, place = [], 0
    while place < len(word):
        choices = _pieces_from(word, place)
        piece = choices[int(rng.integers(len(choices)))]
        pieces.append(piece)
        place += len(VOCABULARY[piece].removeprefix(_CONTINUES))
    return pieces


@functools.lru_cache(maxsize=100_000)
def _pieces_from(word: str, place: int) -> list[int]:
    """All pieces that stand in a word from a place on."""
    start = _CONTINUES if place else ""
    ends = range(place + 1, len(word) + 1)
    found = (IDS.get(start + word[place:end]) for end in ends)
    return [number for number in found if number is not None]


def _config() -> BarkConfig:
    coarse_vocabulary = COARSE_INFER + 1
    return BarkConfig(
        semantic_config=BarkSemanticConfig(
            input_vocab_size=SEMANTIC_INFER + 1,
            output_vocab_size=SEMANTIC_TOKENS + 1,
            block_size=TEXT_LENGTH + MAX_SEMANTIC + 1,
            num_layers=6,
            **SIZES,
        ),
        coarse_acoustics_config=BarkCoarseConfig(
            input_vocab_size=coarse_vocabulary,
            output_vocab_size=coarse_vocabulary,
            block_size=COARSE_TEXT + 1 + COARSE_HISTORY + COARSE_WINDOW,
            num_layers=4,
            **SIZES,
        ),
        fine_acoustics_config=BarkFineConfig(
            input_vocab_size=CODEBOOK_SIZE + 1,  # and the unknown code
            output_vocab_size=CODEBOOK_SIZE + 1,
            block_size=FINE_LENGTH,
            n_codes_total=NUM_CODEBOOKS,
            num_layers=3,
            **SIZES,
        ),
        codec_config=EncodecConfig(
            sampling_rate=SAMPLE_RATE,
            target_bandwidths=(BITS_PER_CODE * FRAME_RATE * NUM_CODEBOOKS / 1000,),
            num_filters=32,
            # The cheapest for its weights: what runs at the full rate is the cost.
            upsampling_ratios=(2, 4, 5, 8),
            hidden_size=16,
            # With an LSTM a step takes a quarter longer, and as much time teaches less.
            num_lstm_layers=0,
            codebook_size=CODEBOOK_SIZE,
        ),
    )


def _generation_config() -> BarkGenerationConfig:
    return BarkGenerationConfig(
        semantic_config=BarkSemanticGenerationConfig(
            do_sample=True,
            temperature=0.3,
            top_k=0,
            eos_token_id=SEMANTIC_TOKENS,
            max_new_tokens=MAX_SEMANTIC,
            text_encoding_offset=TEXT_OFFSET,
            text_pad_token=TEXT_PAD,
            semantic_infer_token=SEMANTIC_INFER,
            semantic_vocab_size=SEMANTIC_TOKENS,
            max_input_semantic_length=TEXT_LENGTH,
            semantic_rate_hz=FRAME_RATE,
        ),
        coarse_acoustics_config=BarkCoarseGenerationConfig(
            do_sample=True,
            temperature=0.4,
            top_k=0,
            coarse_semantic_pad_token=COARSE_PAD,
            coarse_infer_token=COARSE_INFER,
            coarse_rate_hz=FRAME_RATE,
            n_coarse_codebooks=NUM_COARSE,
            max_coarse_input_length=COARSE_TEXT,
            max_coarse_history=COARSE_HISTORY,
            sliding_window_len=COARSE_WINDOW,
        ),
        fine_acoustics_config=BarkFineGenerationConfig(
            max_fine_history_length=FINE_HISTORY,
            max_fine_input_length=FINE_LENGTH,
            n_fine_codebooks=NUM_CODEBOOKS,
        ),
        sample_rate=SAMPLE_RATE,
        codebook_size=CODEBOOK_SIZE,
    )
