"""Threefry, keys and noise against published and slow versions.

The statistical tests use fixed seeds, so they cannot fail by chance from run to run.
Their docstrings give the odds with which a right generator fails for one seed.
"""

import math

import numpy as np
import pytest
import tensorflow as tf
from toy_numbers import WAYS, bits, chi_square_deviation, random_logits, reference

from bark_tf.generation import random
from bark_tf.generation.random import row_keys

INF = float("inf")
WORD_MAX = 2**32 - 1
# Random123, tests/kat_vectors: key, counter, result of threefry2x32 with 20 rounds.
PUBLISHED = (
    ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
    ((WORD_MAX, WORD_MAX), (WORD_MAX, WORD_MAX), (0x1CB996FC, 0xBB002BE7)),
    ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
)


# === Random numbers ===


@pytest.mark.parametrize(("key", "counter", "expected"), PUBLISHED)
def test_threefry_published_vectors(key, counter, expected):
    def column(words, make):
        return tuple(make(np.array([word], np.uint32)) for word in words)

    assert reference.threefry(key, counter) == expected
    on_host = random.threefry(column(key, np.array), column(counter, np.array), np)
    assert tuple(int(word[0]) for word in on_host) == expected
    arguments = column(key, tf.constant), column(counter, tf.constant)
    for way in WAYS.values():
        words = way(random.threefry)(*arguments)
        assert tuple(int(word[0]) for word in words) == expected


def test_random_bits_follow_the_documented_layout():
    seed, stage = 2**63 + 12345, "coarse"
    keys = row_keys(seed, 3, stage)
    words = random.random_bits(keys, 9, 4, first=5).numpy()
    for row in range(3):
        key = reference.threefry((seed % 2**32, seed >> 32), (row, 1))
        assert tuple(keys[row]) == key
        for i in range(4):
            assert words[row, i] == reference.threefry(key, (9, 5 + i))[0]


@pytest.mark.parametrize(("batch", "size"), [(1, 3), (3, 1024), (1, 10001)])
def test_numbers_have_the_same_bits_in_eager_graph_and_xla(batch, size):
    keys = tf.constant(row_keys(11, batch, "semantic"))

    def numbers(keys, step):
        return (
            random.random_bits(keys, step, size),
            random.uniform(keys, step, size),
            random.gumbel(keys, step, size),
        )

    eager, graph, xla = (way(numbers)(keys, tf.constant(5)) for way in WAYS.values())
    for ours, in_graph, compiled in zip(eager, graph, xla, strict=True):
        np.testing.assert_array_equal(bits(ours), bits(in_graph))
        np.testing.assert_array_equal(bits(ours), bits(compiled))


def test_noise_of_chosen_words():
    """The ends, the words around every change of exponent, and random ones."""
    powers = 2 ** np.arange(33, dtype=np.int64)
    edges = np.concatenate([powers + d for d in (-2, -1, 0, 1)])
    words = np.concatenate([edges, 2**32 - edges, [0, WORD_MAX]])
    words = np.unique(np.clip(words, 0, WORD_MAX)).astype(np.uint32)
    others = np.random.default_rng(0).integers(0, 2**32, 2**16, dtype=np.uint32)
    words = np.concatenate([words, others])
    noise = random._gumbel_from_bits(tf.constant(words)).numpy()
    expected = np.array([reference.gumbel(int(word)) for word in words])
    assert np.isfinite(noise).all()
    assert np.abs(noise - expected).max() < 2e-6  # one step of float32 at 22
    for way in ("graph", "xla"):
        again = WAYS[way](random._gumbel_from_bits)(tf.constant(words))
        np.testing.assert_array_equal(bits(again), bits(noise))


@pytest.mark.parametrize("scale", [0.01, 3.0, 30.0])
def test_softmax_has_the_same_bits_in_eager_graph_and_xla(scale):
    logits = random_logits(4, 1003, scale=scale)
    logits[1, ::3] = -INF
    logits[2] += 1e4
    logits[3, 1:] = -INF

    def both(logits):
        return random.softmax(logits), random.log_softmax(logits)

    softmax, log_softmax = both(tf.constant(logits))
    expected = np.array([reference.probabilities(row) for row in logits])
    np.testing.assert_allclose(softmax, expected, rtol=5e-6, atol=1e-30)
    possible = expected > 0
    np.testing.assert_allclose(
        log_softmax[possible], np.log(expected[possible]), rtol=1e-6, atol=1e-6
    )
    for way in ("graph", "xla"):
        again = WAYS[way](both)(tf.constant(logits))
        np.testing.assert_array_equal(bits(again[0]), bits(softmax))
        np.testing.assert_array_equal(bits(again[1]), bits(log_softmax))


def test_uniform_is_strictly_inside_the_unit_interval(monkeypatch):
    extremes = tf.constant([[0, WORD_MAX]], tf.uint32)
    monkeypatch.setattr(random, "random_bits", lambda *_: extremes)
    low, high = random.uniform(None, 0, 2).numpy()[0]
    assert 0 < low == 2.0**-24
    assert low + high == 1 and high < 1


def test_draws_depend_neither_on_other_rows_nor_on_their_number():
    keys = row_keys(3, 5, "fine")
    noise = random.gumbel(keys, 7, 40).numpy()
    for row in range(5):
        alone = random.gumbel(keys[row : row + 1], 7, 40)
        np.testing.assert_array_equal(alone[0], noise[row])
    np.testing.assert_array_equal(random.gumbel(keys, 7, 10), noise[:, :10])
    np.testing.assert_array_equal(random.gumbel(keys, 7, 9, first=31), noise[:, 31:])
    steps = random.gumbel(keys, tf.constant([7, 7, 0, 7, 8]), 40).numpy()
    np.testing.assert_array_equal(steps[[0, 1, 3]], noise[[0, 1, 3]])
    assert not np.isin(steps[[2, 4]], noise).any()


def test_other_seed_row_stage_step_or_index_is_another_draw():
    words = [
        random.random_bits(row_keys(seed, 2, stage), step, 50).numpy()
        for seed in (0, 1, 2**32, 2**64 - 1)
        for stage in random.STAGES
        for step in (0, 1)
    ]
    words = np.concatenate(words, axis=None)
    # 2400 words of 32 bits: 1 in 1500 that two of them are equal.
    assert len(np.unique(words)) == len(words) == 4 * 2 * 3 * 2 * 50


def test_words_are_uniform_and_independent():
    """One in a million that a right generator fails, per comparison."""
    words = random.random_bits(row_keys(1, 64, "semantic"), 0, 4096).numpy()
    pairs = {
        "neighbours": (words[:, 1:], words[:, :-1]),
        "rows": (words[1:], words[:-1]),
        "steps": (
            words,
            random.random_bits(row_keys(1, 64, "semantic"), 1, 4096).numpy(),
        ),
        "stages": (
            words,
            random.random_bits(row_keys(1, 64, "coarse"), 0, 4096).numpy(),
        ),
    }
    for shift in (0, 12, 24):
        for one, other in pairs.values():
            cells = (one >> shift) % 16 * 16 + (other >> shift) % 16
            counts = np.bincount(cells.ravel(), minlength=256)
            assert abs(chi_square_deviation(counts, counts.mean())) < 4.9
    ones = np.unpackbits(words.view(np.uint8)).mean()
    assert abs(ones - 0.5) < 4.9 * 0.5 / math.sqrt(words.size * 32)


def test_noise_has_the_gumbel_distribution_and_its_tail():
    """One in a million per bin count; the last bins hold about 100 of 4e6 draws."""
    keys = row_keys(5, 400, "semantic")
    noise = random.gumbel(keys, 0, 10_000).numpy().ravel()
    edges = np.array([-INF, *np.arange(-2, 11, 0.5), INF])
    counts = np.histogram(noise, edges)[0]
    expected = np.diff(np.exp(-np.exp(-edges))) * noise.size
    assert expected[-1] > 100
    assert abs(chi_square_deviation(counts, expected)) < 4.9


def test_keys_of_rows_are_those_of_numbers():
    seeds = [5, 2**63 + 7, 2**64 - 1]
    signed = tf.constant(np.array(seeds, np.uint64).astype(np.int64))
    expected = random.keys_of(seeds, 3)
    for given, keys in zip(
        expected, random.keys_of_rows(signed, [0, 0, 0]), strict=True
    ):
        np.testing.assert_array_equal(keys, given)
    expected = random.keys_of(seeds[1], 3)
    same = tf.repeat(signed[1:2], 3)
    for given, keys in zip(expected, random.keys_of_rows(same, [0, 1, 2]), strict=True):
        np.testing.assert_array_equal(keys, given)


# === Keys ===


def test_rows_of_one_seed_are_its_streams_in_any_batch():
    keys = row_keys(42, 6, "semantic")
    assert keys.dtype == np.uint32 and keys.shape == (6, 2)
    np.testing.assert_array_equal(row_keys(42, 2, "semantic"), keys[:2])
    assert len(np.unique(keys, axis=0)) == 6
    assert row_keys(42, 0, "semantic").shape == (0, 2)


@pytest.mark.parametrize("kind", [list, tuple, np.array])
def test_listed_seeds_equal_solo_calls(kind):
    seeds = [7, 0, 7, 2**63 - 1]
    keys = row_keys(kind(seeds), 4, "fine")
    for key, seed in zip(keys, seeds, strict=True):
        np.testing.assert_array_equal(key, row_keys(seed, 1, "fine")[0])


def test_numpy_seeds_equal_python_seeds():
    for seed in (np.int64(9), np.array(9)):
        np.testing.assert_array_equal(row_keys(seed, 2, "fine"), row_keys(9, 2, "fine"))


def test_no_seed_is_fresh_entropy():
    assert not np.array_equal(row_keys(None, 2, "fine"), row_keys(None, 2, "fine"))


@pytest.mark.parametrize(
    "seed", [-1, 2**64, 1.5, 1.0, "7", True, [1, -1], [1, 2.5], [1, None], [[1], [2]]]
)
def test_bad_seeds_are_refused(seed):
    with pytest.raises(ValueError, match=r"integer in \[0, 2\*\*64\)\. Received"):
        row_keys(seed, 2, "semantic")


def test_wrong_count_of_seeds_and_unknown_stage_are_refused():
    with pytest.raises(ValueError, match=r"each of 2 rows\. Received: 3 seeds"):
        row_keys([1, 2, 3], 2, "semantic")
    with pytest.raises(ValueError, match="Received: stage='text'"):
        row_keys(1, 2, "text")
