"""Examples for CTC: characters, what is left out, masks, padding."""

from types import SimpleNamespace

import numpy as np
import pytest

from bark_tf.models.losses import IGNORED_LABEL
from bark_tf.training.tokenizers.ctc_examples import (
    Alphabet,
    CtcExamples,
    Recordings,
    Tokens,
    mask,
    tokens_needed,
)

TEXTS = ["Ab, BA!", "b c"]


def test_the_alphabet_is_read_off_the_texts():
    alphabet = Alphabet.of(TEXTS)
    assert alphabet.characters == (" ", "a", "b", "c")
    assert alphabet.encode("C, a: (x)").tolist() == [3, 0, 1, 0]
    assert alphabet.decode([2, 0, 1]) == "b a"


@pytest.mark.parametrize(
    ("text", "characters"),
    [("Ünï", "nïü"), ("42 Über", " 24berü"), ("мир 世界", " имр世界"), ("ชื่อ", "ชอื่")],
)
def test_any_script_works(text, characters):
    alphabet = Alphabet.of([text])
    assert alphabet.characters == tuple(sorted(characters))
    assert alphabet.decode(alphabet.encode(text)) == text.lower()


def test_equal_neighbours_need_a_blank():
    assert tokens_needed(np.array([1, 1, 2, 2, 2])) == 8
    assert tokens_needed(np.zeros(0, np.int32)) == 0


def test_what_cannot_be_learned_is_left_out():
    """No letters; as many letters as tokens; too long."""
    shards = SimpleNamespace(
        texts=["abc", "?", "abcabc", "abc", "aaa"],
        seconds=np.array([1.0, 1.0, 0.61, 20.5, 0.5]),
    )
    alphabet = Alphabet.of(["abc"])
    recordings = Recordings.of(shards, alphabet, 10.0)
    assert recordings.numbers == [0]
    assert recordings.texts == ["abc"] and recordings.seconds.tolist() == [1.0]
    assert Recordings.of(shards, alphabet, 20.0).numbers == [0, 2, 4]


def test_masks_cover_a_little_of_time_and_bands(rng):
    shares = []
    for _ in range(50):
        frames = np.ones((200, 40), np.float32)
        mask(frames, 100.0, rng)
        hidden = frames == 0
        times, bands = hidden.all(axis=1), hidden.all(axis=0)
        assert times.sum() <= 2 * 20 and bands.sum() <= 2 * 6
        np.testing.assert_array_equal(hidden, times[:, None] | bands[None])
        shares.append(hidden.mean())
    assert 0.05 < np.mean(shares) < 0.3
    short = np.ones((3, 40), np.float32)
    mask(short, 100.0, rng)
    assert not (short == 0).all(axis=1).any()


def test_batches_are_padded():
    recordings = Recordings(
        SimpleNamespace(seconds=np.array([0.5, 0.3])),
        [0, 1],
        [np.array([1, 2], np.int32), np.array([3], np.int32)],
        10.0,
    )
    tokens = [np.arange(1, 6, dtype=np.int32), np.arange(7, 10, dtype=np.int32)]
    examples = CtcExamples(recordings, Tokens(tokens))
    assert len(examples) == 2 and examples.lengths.tolist() == [5, 3]
    pair = [examples.example(0), examples.without_targets(examples.example(1))]
    batch = examples.pad(pair, 6)
    assert batch["inputs"].tolist() == [[1, 2, 3, 4, 5, 0], [7, 8, 9, 0, 0, 0]]
    assert batch["lengths"].tolist() == [5, 3]
    assert batch["targets"].tolist() == [[1, 2], [IGNORED_LABEL, IGNORED_LABEL]]
    assert examples.longest >= 5
