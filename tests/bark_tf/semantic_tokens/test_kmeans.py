"""Semantic tokens by k-means."""

import json

import numpy as np
import pytest
from safetensors.numpy import load, save

from bark_tf.semantic_tokens.kmeans import KMeansTokenizer, _drawn, nearest
from bark_tf.semantic_tokens.tokenizer import (
    ARRAYS_NAME,
    FILE_NAME,
    load_semantic_tokenizer,
)

RATE = 16_000


def tones(rng, count=6, seconds=1.0):
    """Recordings of a few steady tones in noise, half a second each."""
    audios = []
    for _ in range(count):
        pitches = rng.choice([300, 900, 2_000, 4_000], size=2)
        time = np.arange(int(RATE * seconds / 2)) / RATE
        audio = np.concatenate([np.sin(2 * np.pi * p * time) for p in pitches])
        audios.append((0.1 * audio + rng.normal(0, 1e-3, audio.size)).astype("f"))
    return audios


@pytest.fixture
def tokenizer(rng):
    options = {"sample_rate": RATE, "rate_hz": 50.0, "vocab_size": 12}
    return KMeansTokenizer.fit(tones(rng), **options)


def test_the_same_sound_gets_the_same_token(tokenizer):
    time = np.arange(RATE) / RATE
    first = tokenizer((0.1 * np.sin(2 * np.pi * 900 * time)).astype("f"))
    second = tokenizer((0.05 * np.sin(2 * np.pi * 900 * time + 1)).astype("f"))
    other = tokenizer((0.1 * np.sin(2 * np.pi * 4_000 * time)).astype("f"))
    middle = slice(5, -5)
    assert len(set(first[middle]) | set(second[middle])) <= 2
    assert not set(first[middle]) & set(other[middle])


@pytest.mark.parametrize("rate_hz", [50.0, 49.9])
@pytest.mark.parametrize("samples", [0, 100, 320, 321, 16_000, 16_319])
def test_as_many_tokens_as_whole_periods_fit(tokenizer, rate_hz, samples):
    tokenizer.rate_hz = rate_hz
    tokens = tokenizer(np.zeros(samples, np.float32))
    assert tokens.dtype == np.int32
    assert len(tokens) == tokenizer.num_tokens(samples)
    assert len(tokens) == int(np.floor(samples * rate_hz / RATE + 1e-6))


def test_saved_and_loaded_it_is_the_same(tokenizer, rng, tmp_path):
    tokenizer.save(tmp_path)
    loaded = load_semantic_tokenizer(tmp_path)
    audio = tones(rng, 1)[0]
    np.testing.assert_array_equal(loaded(audio), tokenizer(audio))
    assert (loaded.kind, loaded.vocab_size, loaded.rate_hz, loaded.sample_rate) == (
        *("kmeans", 12, 50.0, RATE),
    )


def test_slopes_count_less_than_values(rng):
    from bark_tf.semantic_tokens import kmeans

    audios = tones(rng)
    tokenizer = KMeansTokenizer.fit(
        audios, sample_rate=RATE, rate_hz=50.0, vocab_size=12
    )
    features = np.concatenate([kmeans._features(audio, tokenizer) for audio in audios])
    spread = ((features - tokenizer.mean) / tokenizer.scale).std(axis=0)
    np.testing.assert_allclose(spread[: kmeans.NUM_CEPSTRA], 1, rtol=1e-3)
    expected = kmeans.SLOPE_WEIGHT
    np.testing.assert_allclose(spread[kmeans.NUM_CEPSTRA :], expected, rtol=1e-3)


def test_the_seed_decides_the_centres(rng):
    audios = tones(rng)
    options = {"sample_rate": RATE, "rate_hz": 50.0, "vocab_size": 8}
    one = KMeansTokenizer.fit(audios, **options, seed=1).centres
    same = KMeansTokenizer.fit(iter(audios), **options, seed=1).centres
    other = KMeansTokenizer.fit(audios, **options, seed=2).centres
    np.testing.assert_array_equal(one, same)
    assert np.any(one != other)


def test_every_centre_is_used(rng):
    audios = [rng.normal(0, 0.1, RATE).astype("f") for _ in range(3)]
    options = {"sample_rate": RATE, "rate_hz": 50.0, "vocab_size": 30}
    tokenizer = KMeansTokenizer.fit(audios, **options)
    used = {token for audio in audios for token in tokenizer(audio)}
    assert used == set(range(30))


def test_frames_are_drawn_fairly_and_in_bounded_memory(rng):
    parts = [np.full((100, 2), part, np.float32) for part in range(20)]
    drawn = _drawn(iter(parts), 400, rng)
    counts = np.bincount(drawn[:, 0].astype(int), minlength=20)
    assert len(drawn) == 400 and counts.min() >= 6 and counts.max() <= 40


def test_nearest_is_the_nearest(rng):
    rows, centres = rng.normal(size=(9_000, 3)), rng.normal(size=(7, 3))
    numbers, distances = nearest(rows, centres)
    wanted = ((rows[:, None] - centres) ** 2).sum(-1)
    np.testing.assert_array_equal(numbers, wanted.argmin(1))
    np.testing.assert_allclose(distances, wanted.min(1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "audio", [np.zeros((2, 5), "f"), np.zeros(5, "i"), np.full(500, np.nan, "f")]
)
def test_other_audio_is_refused(tokenizer, audio):
    with pytest.raises(ValueError, match="audio must be"):
        tokenizer(audio)


def test_too_little_audio_is_refused():
    with pytest.raises(ValueError, match=r"at least vocab_size=30.*Received: 5"):
        KMeansTokenizer.fit(
            [np.zeros(1_600, "f")], sample_rate=RATE, rate_hz=50.0, vocab_size=30
        )


def test_without_a_tokenizer_there_is_advice(tmp_path):
    with pytest.raises(FileNotFoundError, match="bark-tf train-tokenizer"):
        load_semantic_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "other"}, "kind among"),
        ({"format": 9}, "format 1"),
        ({"vocab_size": 13}, "'centres' has shape"),
        ({"vocab_size": "12"}, "vocab_size must be a whole number"),
        ({"sample_rate": -1}, "sample_rate must be a whole number in"),
    ],
)
def test_damaged_settings_are_refused(tokenizer, tmp_path, change, message):
    tokenizer.save(tmp_path)
    path = tmp_path / FILE_NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=message):
        load_semantic_tokenizer(tmp_path)


def test_damaged_arrays_are_refused(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    path = tmp_path / ARRAYS_NAME
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    with pytest.raises(ValueError, match="truncated or too long"):
        load_semantic_tokenizer(tmp_path)
    arrays = load(whole)
    path.write_bytes(save({**arrays, "mean": np.full_like(arrays["mean"], np.nan)}))
    with pytest.raises(ValueError, match="is damaged: tensor 'mean' holds NaN"):
        load_semantic_tokenizer(tmp_path)
    path.write_bytes(save({**arrays, "mean": np.ones_like(arrays["mean"], int)}))
    with pytest.raises(ValueError, match=r"'mean' must hold .* Received: int64"):
        load_semantic_tokenizer(tmp_path)
    (tmp_path / FILE_NAME).write_text("{")
    with pytest.raises(ValueError, match="is not valid JSON"):
        load_semantic_tokenizer(tmp_path)
    path.unlink()
    tokenizer.save(tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match="is missing beside"):
        load_semantic_tokenizer(tmp_path)
