import functools
import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from bark_tf.training.evaluation.metrics import (
    Edits,
    corpus_word_error_rate,
    cosine_similarity,
    edit_distance,
    error_rate,
    mel_distance,
    normalised,
    perplexity,
    si_sdr,
    stft_distance,
    word_edits,
)

RATE = 16_000


def tone(hz=440.0, seconds=0.5, rate=RATE, amplitude=0.5):
    return amplitude * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)


# === Words ===


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, World!", "hello world"),
        ("  Don’t   'stop' — it's  ", "don't stop it's"),
        ("the dogs' well-known no. 7", "the dogs well known no 7"),
        ("Straße ＡＢＣ", "strasse abc"),
        ("café", "café"),
        ("[laughs] ♪ 3.5", "laughs 3 5"),
        ("...", ""),
    ],
)
def test_texts_are_compared_by_their_words(text, expected):
    assert normalised(text) == expected
    assert normalised(expected) == expected


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("a b c", "a b c", Edits(3, 0, 0, 0)),
        ("a b c", "", Edits(0, 0, 3, 0)),
        ("", "a b", Edits(0, 0, 0, 2)),
        ("a b c", "a x c", Edits(2, 1, 0, 0)),
        ("a b c", "a c", Edits(2, 0, 1, 0)),
        ("a b c", "a b x c", Edits(3, 0, 0, 1)),
        ("a b c d e", "b x d y e z", Edits(3, 1, 1, 2)),
    ],
)
def test_edits_are_counted_by_kind(reference, hypothesis, expected):
    assert word_edits(reference, hypothesis) == expected


def distance(a, b):
    """Levenshtein's recursion, written literally."""

    @functools.cache
    def below(i, j):
        if not i or not j:
            return i + j
        return min(
            below(i - 1, j) + 1,
            below(i, j - 1) + 1,
            below(i - 1, j - 1) + (a[i - 1] != b[j - 1]),
        )

    return below(len(a), len(b))


@hypothesis.given(st.text("abc", max_size=8), st.text("abc", max_size=8))
def test_edits_are_the_fewest(reference, hypothesis):
    found = word_edits(" ".join(reference), " ".join(hypothesis))
    assert found.errors == distance(reference, hypothesis)
    assert found.hits + found.substitutions + found.deletions == len(reference)
    assert found.hits + found.substitutions + found.insertions == len(hypothesis)
    assert min(found) >= 0
    numbers = [ord(letter) for letter in reference]
    assert edit_distance(numbers, [ord(c) for c in hypothesis]) == found.errors


def test_distance_of_long_sequences():
    rng = np.random.default_rng(0)
    reference = rng.integers(0, 10_000, 700)
    changed = np.delete(np.insert(reference, 600, 3), [5, 80])
    changed[300] += 1
    assert edit_distance(reference, changed) == 4
    assert edit_distance(reference, reference[:0]) == 700


@pytest.mark.parametrize(
    ("reference", "hypothesis", "rate"),
    [
        ("One, two: THREE four", "one too three four", 0.25),
        ("one", "one two three", 2.0),
        ("7 dogs", "seven dogs", 0.5),
    ],
)
def test_error_rates_of_one_text(reference, hypothesis, rate):
    assert corpus_word_error_rate([reference], [hypothesis]).rate == rate


def test_a_corpus_weighs_words_and_not_texts():
    references = ["a b c d e f g h i j", "k", ""]
    hypotheses = ["a b c d e f g h i j", "x", "y"]
    result = corpus_word_error_rate(references, hypotheses)
    assert result.edits == Edits(10, 1, 0, 1)
    assert result.rate == pytest.approx(2 / 11)
    with pytest.raises(ValueError, match="3 references, 2 hypotheses"):
        corpus_word_error_rate(references, hypotheses[:2])
    with pytest.raises(ValueError, match="empty reference"):
        corpus_word_error_rate(["..."], ["one"])
    with pytest.raises(ValueError, match="confidence"):
        error_rate([Edits(1, 0, 0, 0)], confidence=1.0)


def test_the_interval_covers_as_often_as_it_says():
    """200 corpora of 60 texts: a 90 % interval misses the true rate 20 times, +- 12."""
    rng = np.random.default_rng(0)
    missed = 0
    for corpus in range(200):
        wrong = rng.binomial(8, rng.beta(2, 6, size=60))
        several = [Edits(8 - int(w), int(w), 0, 0) for w in wrong]
        found = error_rate(several, confidence=0.9, resamples=200, seed=corpus)
        assert found.low <= found.rate <= found.high
        missed += not found.low <= 0.25 <= found.high
    assert 8 <= missed <= 36


def test_the_interval_is_decided_by_the_seed():
    several = [Edits(5, k % 3, 0, k % 2) for k in range(20)]
    assert error_rate(several, seed=1) == error_rate(several, seed=1)
    assert error_rate(several, seed=1) != error_rate(several, seed=2)
    same = error_rate([Edits(3, 1, 0, 0)] * 9)
    assert same[:3] == (0.25, 0.25, 0.25)


# === Audio ===


def test_distances_grow_with_the_damage(rng):
    audio = tone() + 0.01 * rng.standard_normal(8000)
    noise = rng.standard_normal(8000)
    for measure in (functools.partial(mel_distance, sample_rate=RATE), stft_distance):
        assert measure(audio, audio) == 0
        near, far = measure(audio, audio + 0.003 * noise), measure(audio, noise)
        assert 0 < near < far
    assert si_sdr(audio, audio + 0.003 * noise) > si_sdr(audio, audio + 0.1 * noise)


def test_mel_distance_is_in_decibels(rng):
    audio = 0.3 * rng.standard_normal(RATE)
    assert mel_distance(audio, audio / 10, RATE) == pytest.approx(20, abs=1e-6)
    # Everything below the floor is silence.
    assert mel_distance(audio * 1e-9, np.zeros(RATE), RATE) == 0
    assert mel_distance(audio, np.append(audio, 1.0), RATE) == 0


def test_stft_distance_is_that_of_its_formula(rng):
    audio = 0.3 * rng.standard_normal(4096)
    # Half of every magnitude is missing: convergence 1/2, log distance ln 2.
    assert stft_distance(audio, audio / 2) == pytest.approx(0.5 + np.log(2), abs=1e-3)


def test_si_sdr_ignores_volume_and_counts_in_decibels(rng):
    audio = rng.standard_normal(RATE)
    other = rng.standard_normal(RATE)
    other -= (other @ audio) / (audio @ audio) * audio
    other *= np.linalg.norm(audio) / np.linalg.norm(other)
    assert si_sdr(audio, audio + 0.1 * other) == pytest.approx(20)
    assert si_sdr(audio, -5 * (audio + 0.1 * other)) == pytest.approx(20)
    assert si_sdr(audio, 0.3 * audio) == math.inf
    assert si_sdr(audio, np.zeros(RATE)) == -math.inf
    with pytest.raises(ValueError, match="silence"):
        si_sdr(np.zeros(8), other[:8])


@pytest.mark.parametrize("bad", [np.zeros(0), np.zeros((1, 8)), np.array([np.nan])])
def test_wrong_audio_is_refused(bad):
    for measure in (functools.partial(mel_distance, sample_rate=RATE), si_sdr):
        with pytest.raises(ValueError, match="audio must be finite"):
            measure(bad, np.ones(8))
        with pytest.raises(ValueError, match="estimate must be finite"):
            measure(np.ones(8), bad)


# === Others ===


def test_perplexity():
    assert perplexity(math.log(50)) == pytest.approx(50)
    assert perplexity(1e6) == math.inf


def test_cosine_similarity():
    assert cosine_similarity([1, 0], [2, 0]) == 1
    assert cosine_similarity([1, 0], [0, 3]) == 0
    assert cosine_similarity([1, 1], [-1, -1]) == pytest.approx(-1)
    assert cosine_similarity([0, 0], [1, 1]) == 0
