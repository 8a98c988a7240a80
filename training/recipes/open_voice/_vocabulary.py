"""Learns the word pieces of the open voice, `vocabulary.txt`.

    python -m bark_tf.training.recipes.open_voice._vocabulary TEXTS [ALSO] > FILE

Pieces come from words only. Digits and punctuation are single characters, and every
letter is a piece, so any English text has tokens.
"""

from __future__ import annotations

import re
import string
import sys
from pathlib import Path

import tokenizers

from bark_tf.training.recipes.open_voice._texts import texts_of

SIZE = 1_000
PUNCTUATION = [*",;:-()", *".!?", *"'\""]
_LETTERS = string.ascii_lowercase
_SPECIAL = ["[PAD]", "[UNK]"]


def learned(texts: list[str]) -> list[str]:
    """The vocabulary of some texts. Pieces of equal frequency come in any order."""
    backend = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    characters = [*_SPECIAL, *PUNCTUATION, *string.digits]
    characters += [f"##{digit}" for digit in string.digits]
    trainer = tokenizers.trainers.WordPieceTrainer(
        vocab_size=SIZE - len(characters),
        initial_alphabet=list(_LETTERS),
        show_progress=False,
    )
    words = [re.sub("[^a-z ]", " ", text.lower()) for text in texts]
    backend.train_from_iterator(words, trainer)
    pieces = sorted(backend.get_vocab().items(), key=lambda pair: pair[1])
    return [*characters, *(piece for piece, _ in pieces)]


if __name__ == "__main__":
    print("\n".join(learned(texts_of(*map(Path, sys.argv[1:])).train)))
