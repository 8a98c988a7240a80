"""Filters and choices against slow versions.

The statistical tests use fixed seeds: they cannot fail by chance from run to run. The
odds in their docstrings are those with which a right generator fails for one seed.
"""

import math

import numpy as np
import pytest
import tensorflow as tf
from toy_numbers import WAYS, bits, chi_square_deviation, random_logits, reference

from bark_tf.config import BarkCoarseGenerationConfig, BarkSemanticGenerationConfig
from bark_tf.generation import random, sampling
from bark_tf.generation.random import row_keys
from bark_tf.generation.sampling import SamplingRules, SamplingValues

INF = float("inf")
NEUTRAL = {
    "temperature": 1.0,
    "top_k": 1,
    "top_p": 1.0,
    "repetition_penalty": 1.0,
    "min_eos_p": 1.0,
    "min_new_tokens": 0,
}


def settings_of(**settings):
    """Rules and values with the given filters on."""
    rules = SamplingRules(
        **{
            name: bool(value)
            for name, value in settings.items()
            if name != "temperature"
        }
    )
    numbers = {name: settings.get(name, value) for name, value in NEUTRAL.items()}
    whole = ("top_k", "min_new_tokens")
    return rules, SamplingValues(
        **{
            name: tf.constant(value, tf.int32 if name in whole else tf.float32)
            for name, value in numbers.items()
        }
    )


# === Rules ===


def test_rules_of_a_configuration():
    assert SamplingRules.of(BarkSemanticGenerationConfig()) == SamplingRules()
    drawn = BarkSemanticGenerationConfig(
        do_sample=True,
        temperature=0.7,
        top_p=0.9,
        repetition_penalty=1.2,
        min_eos_p=0.2,
        min_new_tokens=4,
    )
    assert SamplingRules.of(drawn) == (True,) * 6 + (False,)
    assert SamplingRules.of(drawn, 51).top_k
    assert not SamplingRules.of(drawn, 50).top_k
    values = SamplingValues.of(drawn)
    np.testing.assert_allclose(
        [float(v) for v in values], [0.7, 50, 0.9, 1.2, 0.2, 4], rtol=1e-6
    )
    coarse = BarkCoarseGenerationConfig(do_sample=True, top_k=0)
    assert SamplingRules.of(coarse) == SamplingRules(do_sample=True)
    assert len(SamplingValues.of(coarse)) == 6


@pytest.mark.parametrize("temperature", [0, 0.0, 1e-40])
def test_temperature_zero_is_greedy(temperature):
    config = BarkCoarseGenerationConfig(
        do_sample=True, temperature=temperature, top_p=0.5
    )
    assert SamplingRules.of(config) == SamplingRules()


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"do_sample": True}, "keys"),
        ({"min_eos_p": 0.5}, "eos"),
        ({"min_new_tokens": 2}, "eos"),
        ({"repetition_penalty": 2.0}, "seen"),
    ],
)
def test_a_rule_without_its_argument_is_refused(settings, name):
    rules, values = settings_of(**settings)
    with pytest.raises(ValueError, match=f"need {name}. Received: {name}=None"):
        sampling.choose(random_logits(1, 4), rules, values)


def test_each_row_may_have_its_own_temperature():
    """Temperature 0 is greedy, whatever the other rows do."""
    config = BarkSemanticGenerationConfig(top_k=6, min_new_tokens=2)
    logits, keys = random_logits(4, 200), row_keys(1, 4, "semantic")
    rules, values = SamplingRules.of(config, by_row=True), SamplingValues.of(config)

    def choose(rules, values, rows=slice(None)):
        return sampling.choose(
            logits[rows], rules, values, keys[rows], 5, eos=3
        ).numpy()

    greedy = choose(rules._replace(do_sample=False, by_row=False), values)
    least = tf.fill((4,), 2)
    for heats in ([0.0, 0.7, 1e-40, 1.9], [0.0] * 4, [0.3, 0.7, 1.0, 1.9]):
        chosen = choose(rules, values.with_rows(tf.constant(heats), least))
        for row, heat in enumerate(heats):
            expected = greedy[row]
            if heat > 1e-38:
                alone = values._replace(temperature=tf.constant(heat))
                one = slice(row, row + 1)
                expected = choose(rules._replace(by_row=False), alone, one)[0]
            assert chosen[row] == expected


def test_each_row_may_have_its_own_least_number_of_tokens():
    config = BarkSemanticGenerationConfig()
    logits = tf.constant([[0.0, 9.0, 1.0]] * 2)
    rules = SamplingRules.of(config, by_row=True)
    values = SamplingValues.of(config).with_rows(tf.zeros(2), tf.constant([3, 4]))
    keys = row_keys(1, 2, "semantic")
    assert sampling.choose(logits, rules, values, keys, 3, eos=1).numpy().tolist() == [
        1,
        2,
    ]
    coarse = BarkCoarseGenerationConfig()
    assert not SamplingRules.of(coarse, by_row=True).min_new_tokens


# === Filters ===


def logits_with_traps(size, seed):
    """Rows with ties, both zeros and forbidden entries."""
    logits = random_logits(6, size, seed=seed)
    logits[1] = np.round(logits[1])  # ties
    logits[2, ::2] = -INF
    logits[3] = np.where(np.arange(size) % 2, 0.0, -0.0)
    logits[3, 0] = 1.0
    logits[4] = -INF
    logits[4, size // 2] = 5.0
    logits[5] *= 1e-3  # flat
    return logits


@pytest.mark.parametrize("top_k", [1, 2, 7, 50, 10_000])
@pytest.mark.parametrize("size", [9, 130])
def test_top_k_equals_sorting(size, top_k):
    logits = logits_with_traps(size, seed=top_k)
    kept = sampling.keep_top_k(tf.constant(logits), tf.constant(top_k)).numpy()
    expected = [reference.keep_top_k(row, top_k) for row in logits]
    np.testing.assert_array_equal(kept, np.float32(expected))


@pytest.mark.parametrize("top_p", [1e-12, 0.1, 0.5, 0.9, 0.999, 1.0])
@pytest.mark.parametrize("size", [9, 130])
def test_top_p_equals_adding_up(size, top_p):
    logits = logits_with_traps(size, seed=int(top_p * 1000))
    logits[3, 0] = 1e-3  # no sum of the equal ones falls on top_p
    kept = sampling.keep_top_p(tf.constant(logits), tf.constant(top_p)).numpy()
    expected = [reference.keep_top_p(row, np.float32(top_p)) for row in logits]
    np.testing.assert_array_equal(kept, np.float32(expected))


@pytest.mark.parametrize("top_p", [1.0, np.nextafter(np.float32(1), np.float32(0))])
def test_top_p_of_nearly_everything(top_p):
    """The least likely tokens go only when the others make up top_p without them."""
    logits = np.log(np.float32([[0.5, 0.5, 1e-7, 1e-8, 1e-9, 1e-12]]))
    kept = sampling.keep_top_p(tf.constant(logits), tf.constant(top_p)).numpy()
    assert np.isfinite(kept).sum() == (6 if top_p == 1 else 3)


def test_filters_take_a_value_per_row():
    logits = random_logits(3, 40)
    k, p = tf.constant([[1], [5], [40]]), tf.constant([[0.1], [0.5], [1.0]])
    top_k = sampling.keep_top_k(tf.constant(logits), k).numpy()
    top_p = sampling.keep_top_p(tf.constant(logits), p).numpy()
    for row in range(3):
        np.testing.assert_array_equal(
            top_k[row], np.float32(reference.keep_top_k(logits[row], int(k[row, 0])))
        )
        np.testing.assert_array_equal(
            top_p[row], np.float32(reference.keep_top_p(logits[row], float(p[row, 0])))
        )


def test_penalty_divides_positive_and_multiplies_negative_logits():
    logits = tf.constant([[2.0, -2.0, 3.0, -INF, 0.0]])
    seen = tf.constant([[True, True, False, True, True]])
    penalized = sampling.penalize_repetition(logits, seen, tf.constant(2.0))
    assert penalized.numpy().tolist() == [[1.0, -4.0, 3.0, -INF, 0.0]]


def test_mark_seen_adds_one_token_per_row():
    seen = tf.constant([[True, False, False]] * 3)
    marked = sampling.mark_seen(seen, tf.constant([2, 0, 3]))
    assert marked.numpy().tolist() == [
        [True, False, True],
        [True, False, False],
        [True, False, False],
    ]


def test_end_is_forbidden_before_the_minimum():
    logits = tf.zeros((2, 3))
    for step, early in ((1, True), (2, False)):
        kept = sampling.forbid_early_end(logits, tf.constant(step), 2, tf.constant(2))
        assert (kept.numpy()[:, 2] == -INF).tolist() == [early] * 2
        assert (kept.numpy()[:, :2] == 0).all()
    per_row = sampling.forbid_early_end(
        logits, tf.constant([4, 4]), 2, tf.constant([[5], [4]])
    )
    assert (per_row.numpy() == -INF).tolist() == [[False, False, True], [False] * 3]


def test_a_likely_end_is_forced():
    half = tf.constant([[0.0, 0.0], [0.1, 0.0], [0.0, 0.1]])
    forced = sampling.prioritize_end(half, 1, tf.constant(0.5)).numpy()
    # Exactly min_eos_p is not above it.
    assert (forced == -INF).tolist() == [[False, False], [False, False], [True, False]]


def test_temperature_keeps_small_differences_of_large_logits():
    logits = tf.constant([[10.0, np.nextafter(np.float32(10), np.float32(0)), -INF]])
    scaled = sampling.apply_temperature(logits, tf.constant(1e-6)).numpy()[0]
    assert scaled[0] == 0 and scaled[2] == -INF
    np.testing.assert_allclose(scaled[1], -0.95367, rtol=1e-4)  # 2**-20 / 1e-6


# === Choices ===

FILTERS = {"repetition_penalty": 1.3, "min_new_tokens": 3, "min_eos_p": 0.3}
CASES = {
    "greedy": {},
    "greedy, filters": FILTERS,
    "plain": {"do_sample": True, "temperature": 0.7},
    "top_k": {"do_sample": True, "temperature": 0.7, "top_k": 50},
    "top_p": {"do_sample": True, "temperature": 0.9, "top_p": 0.9},
    "all": {
        "do_sample": True,
        "temperature": 0.7,
        "top_k": 20,
        "top_p": 0.8,
        **FILTERS,
    },
}


def case(name, batch, size, eos=1):
    """A function of nothing but tensors, and its arguments, for one of CASES."""
    rules, values = settings_of(**CASES[name])
    logits = random_logits(batch, size, seed=size, scale=1.0)
    logits[:, eos] = np.linspace(0, 8, batch)
    seen = np.random.default_rng(size).random((batch, size)) < 0.5
    steps = np.arange(batch, dtype=np.int32)

    def choose(logits, values, keys, steps, seen):
        return sampling.choose(logits, rules, values, keys, steps, eos=eos, seen=seen)

    keys = row_keys(size, batch, "semantic")
    return choose, (tf.constant(logits), values, keys, steps, seen)


@pytest.mark.parametrize("name", CASES)
def test_choices_equal_the_slow_version(name):
    choose, (logits, values, keys, steps, seen) = case(name, 12, 200)
    tokens = choose(logits, values, keys, steps, seen)
    assert tokens.dtype == tf.int32
    expected = [
        reference.choose(row, key, step, CASES[name], eos=1, seen=was_seen)
        for row, key, step, was_seen in zip(
            logits.numpy(), keys, steps.tolist(), seen, strict=True
        )
    ]
    assert tokens.numpy().tolist() == expected


@pytest.mark.parametrize(
    ("name", "batch", "size"),
    [
        ("greedy", 3, 10001),
        ("plain", 1, 10001),
        ("plain", 200, 5),
        ("top_k", 3, 10001),
        ("top_p", 64, 1024),
        ("all", 64, 130),
    ],
)
def test_choices_are_equal_in_eager_graph_and_xla(name, batch, size):
    choose, arguments = case(name, batch, size)
    eager, graph, xla = (way(choose)(*arguments).numpy() for way in WAYS.values())
    np.testing.assert_array_equal(graph, eager)
    np.testing.assert_array_equal(xla, eager)


@pytest.mark.parametrize("name", CASES)
def test_a_row_alone_equals_the_row_in_a_batch(name):
    choose, (logits, values, keys, steps, seen) = case(name, 5, 300)
    tokens = choose(logits, values, keys, steps, seen).numpy()
    for row in range(5):
        one = slice(row, row + 1)
        alone = choose(logits[one], values, keys[one], steps[one], seen[one])
        assert alone.numpy().tolist() == [tokens[row]]


GOLDEN_WORDS = [1190048625, 818919285, 3798460152, 3015477566, 333925327, 3327324088]
GOLDEN_NOISE_BITS = [
    1066406859,
    1069994666,
    3208961279,
    3192129222,
    1075898058,
    3201059307,
]
GOLDEN_TOKENS = {
    "greedy": [413, 239, 370, 1, 1, 1, 1, 1],
    "greedy, filters": [413, 443, 349, 315, 1, 1, 1, 1],
    "plain": [458, 88, 85, 462, 197, 1, 1, 1],
    "top_k": [443, 328, 353, 462, 197, 1, 1, 1],
    "top_p": [141, 88, 85, 133, 197, 189, 1, 1],
    "all": [441, 345, 404, 462, 1, 1, 1, 1],
}


def test_golden_numbers_of_every_supported_tensorflow():
    """What a seed means must not change with TensorFlow's version, or ours."""
    keys = row_keys(2026, 2, "coarse")
    words = random.random_bits(keys, 17, 3).numpy()
    assert words.ravel().tolist() == GOLDEN_WORDS
    assert bits(random.gumbel(keys, 17, 3)).ravel().tolist() == GOLDEN_NOISE_BITS


@pytest.mark.parametrize("name", CASES)
def test_golden_tokens_of_every_supported_tensorflow(name):
    choose, arguments = case(name, 8, 500)
    assert choose(*arguments).numpy().tolist() == GOLDEN_TOKENS[name]


@pytest.mark.parametrize("name", ["plain", "top_k", "top_p", "all"])
def test_draws_follow_the_processed_softmax(name):
    """One in a million that a right sampler fails, per case.

    20 000 draws, each with the key and step of its own, from 30 candidates.
    """
    num, size = 20_000, 30
    settings = {**CASES[name]}
    if name == "all":
        settings["top_k"] = 12
    rules, values = settings_of(**settings)
    logits = random_logits(size, seed=3, scale=1.5)
    seen = np.arange(size) % 3 == 0
    tokens = sampling.choose(
        tf.tile(logits[None], (num, 1)),
        rules,
        values,
        row_keys(8, num, "semantic"),
        tf.range(num) % 7 + 3,
        eos=4,
        seen=tf.tile(seen[None], (num, 1)),
    )
    logits = reference.process(logits, 3, settings, eos=4, seen=seen)
    possible = np.isfinite(logits)
    counts = np.bincount(tokens, minlength=size)
    assert counts[~possible].sum() == 0
    expected = num * reference.probabilities(logits)[possible]
    assert abs(chi_square_deviation(counts[possible], expected)) < 4.9


def test_successive_steps_of_one_row_follow_the_softmax_independently():
    """One in a million that a right sampler fails; pairs of successive tokens."""
    num = 20_000
    probabilities = np.array([0.5, 0.3, 0.15, 0.05])
    rules, values = settings_of(do_sample=True)
    tokens = sampling.choose(
        tf.tile(np.log(probabilities)[None], (num, 1)),
        rules,
        values,
        np.tile(row_keys(1, 1, "coarse"), (num, 1)),
        tf.range(num),
    ).numpy()
    counts = np.bincount(tokens[1:] * 4 + tokens[:-1], minlength=16)
    expected = np.outer(probabilities, probabilities).ravel() * (num - 1)
    assert abs(chi_square_deviation(counts, expected)) < 4.9


def test_many_equal_candidates_are_all_reached():
    """One in a million; counts per 200 of 10 000 equal candidates."""
    num, size, group = 1_000, 10_000, 200
    rules, values = settings_of(do_sample=True)
    keys = row_keys(4, num, "semantic")
    tokens = sampling.choose(tf.zeros((num, size)), rules, values, keys).numpy()
    counts = np.bincount(tokens // group, minlength=size // group)
    assert abs(chi_square_deviation(counts, num * group / size)) < 4.9


@pytest.mark.parametrize("way", WAYS)
def test_extreme_temperatures(way):
    """At 1e-6 a draw is the maximum; at 1e6 it is anything not forbidden."""
    num = 400
    logits = np.tile(np.float32([1.0, 1.01, -INF, 0.5]), (num, 1))
    choose = WAYS[way](sampling.choose)
    keys = row_keys(6, num, "coarse")
    tokens = {}
    for temperature in (1e-6, 1e6):
        rules, values = settings_of(
            do_sample=True, temperature=temperature, top_k=3, top_p=0.999
        )
        tokens[temperature] = choose(logits, rules, values, keys, 0).numpy()
    assert (tokens[1e-6] == 1).all()
    counts = np.bincount(tokens[1e6], minlength=4)
    assert counts[2] == 0 and counts.sum() == num
    assert counts[[0, 1, 3]].min() > num / 3 - 4.9 * math.sqrt(num * 2 / 9)


@pytest.mark.parametrize("name", CASES)
def test_the_only_allowed_token_is_chosen(name):
    choose, (logits, values, keys, steps, seen) = case(name, 4, 200)
    only = np.array([0, 77, 150, 199])
    logits = np.where(np.arange(200) == only[:, None], logits, -INF)
    tokens = choose(logits, values, keys, steps, seen)
    assert tokens.numpy().tolist() == only.tolist()


def test_greedy_takes_the_first_of_equals():
    rules, values = settings_of()
    logits = tf.constant([[0.0, 2.0, 2.0], [-0.0, 0.0, -1.0]])
    assert sampling.choose(logits, rules, values).numpy().tolist() == [1, 0]


def test_half_precision_logits_are_taken():
    rules, values = settings_of(do_sample=True)
    logits = tf.cast(random_logits(3, 50), tf.bfloat16)
    keys = row_keys(0, 3, "coarse")
    np.testing.assert_array_equal(
        sampling.choose(logits, rules, values, keys),
        sampling.choose(tf.cast(logits, tf.float32), rules, values, keys),
    )


def test_other_values_need_no_other_trace():
    traces = []

    @tf.function
    def choose(logits, rules, values, keys, step, seen):
        traces.append(rules)
        return sampling.choose(logits, rules, values, keys, step, eos=0, seen=seen)

    logits, keys = random_logits(2, 20), row_keys(0, 2, "semantic")
    seen = tf.zeros((2, 20), tf.bool)
    changes = (
        CASES["all"],
        {**CASES["all"], "temperature": 1.5, "top_k": 3, "top_p": 0.1},
        {**CASES["all"], "repetition_penalty": 2.0, "min_eos_p": 0.9},
        {**CASES["all"], "min_new_tokens": 9},
    )
    for step, settings in enumerate(changes):
        rules, values = settings_of(**settings)
        choose(tf.constant(logits), rules, values, keys, tf.constant(step), seen)
    assert len(traces) == 1
    rules, values = settings_of(**CASES["plain"])
    choose(tf.constant(logits), rules, values, keys, tf.constant(0), seen)
    assert len(traces) == 2


# === The fine stage ===


def test_codes_are_drawn_from_the_documented_counters():
    logits = random_logits(2, 3, 8)
    keys = row_keys(12, 2, "fine")
    codes = sampling.sample_codes(logits, keys, 21, tf.constant(0.5)).numpy()
    assert codes.dtype == np.int32 and codes.shape == (2, 3)
    for row in range(2):
        key = [int(word) for word in keys[row]]
        for frame in range(3):
            noise = [
                reference.gumbel(reference.threefry(key, (21, frame * 8 + i))[0])
                for i in range(8)
            ]
            scores = logits[row, frame].astype(np.float64) / 0.5 + noise
            assert codes[row, frame] == np.argmax(scores)


def test_codes_are_equal_in_eager_graph_and_xla_and_for_a_row_alone():
    logits, keys = random_logits(2, 64, 128), row_keys(12, 2, "fine")
    arguments = tf.constant(logits), keys, tf.constant(3), tf.constant(0.7)
    eager, graph, xla = (
        way(sampling.sample_codes)(*arguments).numpy() for way in WAYS.values()
    )
    np.testing.assert_array_equal(graph, eager)
    np.testing.assert_array_equal(xla, eager)
    alone = sampling.sample_codes(logits[1:, :40], keys[1:], 3, tf.constant(0.7))
    np.testing.assert_array_equal(alone, eager[1:, :40])


def test_frames_follow_the_softmax_independently():
    """One in a million that a right sampler fails; pairs of neighbouring frames."""
    num = 20_000
    probabilities = np.float32([0.4, 0.1, 0.3, 0.2])
    logits = np.tile(np.log(probabilities), (1, num, 1)) * 0.5
    codes = sampling.sample_codes(
        logits, row_keys(2, 1, "fine"), 0, tf.constant(0.5)
    ).numpy()[0]
    counts = np.bincount(codes[1:] * 4 + codes[:-1], minlength=16)
    expected = np.outer(probabilities, probabilities).ravel() * (num - 1)
    assert abs(chi_square_deviation(counts, expected)) < 4.9


# === Hugging Face transformers ===


@pytest.mark.reference
@pytest.mark.parametrize("seed", range(5))
def test_filters_equal_transformers(seed):
    torch = pytest.importorskip("torch")
    theirs = pytest.importorskip("transformers.generation.logits_process")
    batch, size, eos = 4, 10001, 10000
    logits = random_logits(batch, size, seed=seed)
    logits[:, eos] = np.linspace(5, 16, batch)
    ids = np.random.default_rng(seed).integers(0, size, (batch, 300))
    seen = np.zeros((batch, size), bool)
    np.put_along_axis(seen, ids, True, axis=1)
    ours = tf.constant(logits)
    by_theirs = {
        "repetition_penalty": theirs.RepetitionPenaltyLogitsProcessor(1.3),
        "early": theirs.MinNewTokensLengthLogitsProcessor(296, 5, eos, device="cpu"),
        "late": theirs.MinNewTokensLengthLogitsProcessor(295, 5, eos, device="cpu"),
        "min_eos_p": theirs.BarkEosPrioritizerLogitsProcessor(eos, 0.2, device="cpu"),
        "temperature": theirs.TemperatureLogitsWarper(0.7),
        "top_k": theirs.TopKLogitsWarper(50),
        "top_p": theirs.TopPLogitsWarper(0.9),
    }
    by_ours = {
        "repetition_penalty": sampling.penalize_repetition(ours, seen, 1.3),
        "early": sampling.forbid_early_end(ours, 4, eos, 5),
        "late": sampling.forbid_early_end(ours, 5, eos, 5),
        "min_eos_p": sampling.prioritize_end(ours, eos, 0.2),
        "temperature": sampling.apply_temperature(ours, 0.7),
        "top_k": sampling.keep_top_k(ours, 50),
        "top_p": sampling.keep_top_p(ours, 0.9),
    }
    forced = np.isneginf(by_ours["min_eos_p"]).any(axis=1)
    assert 0 < forced.sum() < batch
    for name, processor in by_theirs.items():
        scores = processor(torch.tensor(ids), torch.tensor(logits)).numpy()
        if name == "temperature":  # ours has the maximum at 0
            scores = scores - scores.max(axis=1, keepdims=True)
            np.testing.assert_allclose(by_ours[name], scores, rtol=1e-5, atol=1e-5)
        else:
            np.testing.assert_array_equal(by_ours[name], scores, err_msg=name)


@pytest.mark.reference
@pytest.mark.parametrize("name", CASES)
def test_all_filters_in_order_equal_transformers(name, monkeypatch):
    """The distribution from which a token is drawn, and the greedy token."""
    torch = pytest.importorskip("torch")
    theirs = pytest.importorskip("transformers.generation.logits_process")
    settings, batch, size, eos = CASES[name], 6, 1024, 1
    choose, (logits, values, keys, _, seen) = case(name, batch, size, eos)
    steps = np.full(batch, 2, np.int32)
    # The ids seen, padded to one length by repeating the first.
    ids = [np.flatnonzero(row) for row in seen]
    length = max(map(len, ids))
    ids = np.stack([np.pad(row, (0, length - len(row)), "edge") for row in ids])
    processors = []
    if "repetition_penalty" in settings:
        processors += [
            theirs.RepetitionPenaltyLogitsProcessor(settings["repetition_penalty"]),
            theirs.MinNewTokensLengthLogitsProcessor(
                length - 2, settings["min_new_tokens"], eos, device="cpu"
            ),
            theirs.BarkEosPrioritizerLogitsProcessor(
                eos, settings["min_eos_p"], device="cpu"
            ),
        ]
    if "do_sample" in settings:
        processors.append(theirs.TemperatureLogitsWarper(settings["temperature"]))
        if "top_k" in settings:
            processors.append(theirs.TopKLogitsWarper(settings["top_k"]))
        if "top_p" in settings:
            processors.append(theirs.TopPLogitsWarper(settings["top_p"]))
    scores = torch.tensor(logits.numpy())
    for processor in processors:
        scores = processor(torch.tensor(ids), scores)
    if "do_sample" not in settings:
        tokens = choose(logits, values, keys, steps, seen).numpy()
        np.testing.assert_array_equal(tokens, scores.log_softmax(-1).argmax(-1))
        return
    drawn = []
    monkeypatch.setattr(
        sampling, "_draw", lambda logits, *_: drawn.append(logits) or tf.zeros(1)
    )
    choose(logits, values, keys, steps, seen)
    np.testing.assert_allclose(
        tf.nn.softmax(drawn[0]), scores.softmax(-1), rtol=2e-5, atol=1e-9
    )


def test_all_programs_share_one_trace_of_the_noise():
    """Its hundreds of operations take long, whatever is drawn and wherever."""
    keys = tf.constant(row_keys(3, 2, "semantic"))
    programs = [
        tf.function(lambda step, a=a: a * random.gumbel(keys, step, 77, 5))
        for a in (1.0, 2.0)
    ]
    one, two = (program(tf.constant(4)).numpy() for program in programs)
    assert np.array_equal(2 * one, two)
    steps, num = tf.constant([4, 4]), tf.constant(3)
    few = tf.function(lambda first: random.gumbel(keys, steps, num, first))
    assert np.array_equal(few(tf.constant([6, 5])).numpy()[1], one[1, :3])
    assert random._gumbel.experimental_get_tracing_count() == 1
