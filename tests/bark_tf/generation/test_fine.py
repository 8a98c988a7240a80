"""The coarse-to-fine stage; test_suno_reference.py compares it with Suno's loop."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
import toy

from bark_tf.config import (
    BarkFineConfig,
    BarkFineGenerationConfig,
    BarkSemanticGenerationConfig,
)
from bark_tf.generation.arrays import NUMPY
from bark_tf.generation.fine import FineStage, check_window, num_windows, window_at
from bark_tf.generation.histories import histories_of, stack
from bark_tf.generation.options import StageConfigs
from bark_tf.generation.random import keys_of
from bark_tf.generation.stage import Call

REAL = BarkFineGenerationConfig()
TOY = toy.generation_config().fine_acoustics_config
UNKNOWN = 8


@pytest.fixture(scope="module")
def model():
    return toy.shared_bark().fine_acoustics


def stage_of(model, coarse, config=TOY, *, voices=None, seeds=None):
    histories = histories_of(voices or [None] * len(coarse), 2, 4)
    configs = StageConfigs(None, fine=config, codebook_size=UNKNOWN)
    return FineStage(
        Call(SimpleNamespace(fine_acoustics=model), configs),
        tf.constant(stack(coarse)),
        tf.constant([row.shape[1] for row in coarse]),
        tf.nest.map_structure(tf.constant, histories),
        tf.constant(keys_of(seeds, len(coarse)).fine),
    )


def run(model, coarse, config=TOY, **options):
    stage = stage_of(model, coarse, config, **options)
    codes = stage.codes(stage.run()).numpy()
    return [codes[i, :, : row.shape[1]] for i, row in enumerate(coarse)]


def windows_of(num_frames, num_history, config):
    count = num_windows(NUMPY, num_frames, num_history, config)
    return [window_at(NUMPY, n, num_frames, num_history, config) for n in range(count)]


def coarse_of(*lengths):
    return [toy.ids(2, length, high=8, seed=length) for length in lengths]


# === Windows ===


@pytest.mark.parametrize(
    ("num_frames", "num_history", "windows"),
    [
        (1, 0, [(0, 0)]),
        (1024, 0, [(0, 0)]),
        (1154, 0, [(0, 0), (130, 512)]),
        (1154, 512, [(0, 512), (512, 1024), (642, 1154)]),
        (600, 464, [(0, 464), (40, 552)]),
        (560, 464, [(0, 464)]),
        (2000, 0, [(0, 0), (512, 512), (976, 1024)]),
    ],
)
def test_windows_of_bark(num_frames, num_history, windows):
    assert windows_of(num_frames, num_history, REAL) == windows


@pytest.mark.parametrize("num_history", [0, 3, 8])
@pytest.mark.parametrize("num_frames", [1, 8, 13, 16, 17, 24, 25, 40])
def test_windows_fill_every_frame(num_frames, num_history):
    filled = np.zeros(max(16, num_frames + num_history), bool)
    for window in windows_of(num_frames, num_history, TOY):
        assert 0 <= window.start <= window.fill < window.start + 16 <= len(filled)
        assert np.all(filled[num_history : window.fill])  # no gap before
        filled[window.fill : window.start + 16] = True
    assert np.all(filled[num_history:]) and not np.any(filled[:num_history])


@pytest.mark.parametrize(
    ("network", "configs", "message"),
    [
        ({"block_size": 1000}, {}, r"block_size=1000\. .*=1024"),
        ({"n_codes_total": 4}, {}, r"n_codes_total=4\. .*=8"),
        ({}, {"codebook_size": 2000}, r"codebook_size must be at most 1055.*=2000"),
        ({"n_codes_given": 3}, {}, r"at least n_codes_given=3 .*n_coarse_codebooks=2"),
        ({}, {"fine": REAL.replace(n_fine_codebooks=1)}, "at most n_fine_codebooks=1"),
    ],
)
def test_windows_and_codes_must_fit_the_network(network, configs, message):
    sizes = {"input_vocab_size": 1056, "output_vocab_size": 1056}
    fitting = StageConfigs(BarkSemanticGenerationConfig(), fine=REAL)
    check_window(BarkFineConfig(**sizes), fitting)
    with pytest.raises(ValueError, match=message):
        check_window(BarkFineConfig(**sizes, **network), fitting._replace(**configs))


# === Codes ===


@pytest.mark.parametrize("samples", [False, True])
def test_given_codes_stay_and_others_are_codes(model, samples):
    coarse = coarse_of(1, 16, 41)
    for given, codes in zip(
        coarse, run(model, coarse, TOY.replace(do_sample=samples), seeds=0), strict=True
    ):
        assert codes.shape == (4, given.shape[1])
        assert np.array_equal(codes[:2], given)
        assert codes.min() >= 0 and codes.max() < 8
    assert len(np.unique(codes[2:])) > 3


@pytest.mark.parametrize("voices", [None, [toy.voice()]])
def test_only_frames_that_are_read_reach_the_logits(model, voices, monkeypatch):
    """Later codebooks read the padding too, so only the last one leaves it out."""
    stage, counts = stage_of(model, coarse_of(5), voices=voices), []
    logits = model.logits

    def spy(codebook, x, size):
        counts.append(x.shape[1])
        return logits(codebook, x, size)

    monkeypatch.setattr(model, "logits", spy)
    monkeypatch.setattr(stage.program, "run", stage.program._run)
    stage.step(stage.start())
    first = int(stage.num_history[0])
    assert (first > 0) == bool(voices) and counts == [16 - first, 5]


def test_a_voice_changes_codes_but_is_not_part_of_them(model):
    coarse = coarse_of(12)
    (plain,), (spoken,) = run(model, coarse), run(model, coarse, voices=[toy.voice()])
    assert plain.shape == spoken.shape and not np.array_equal(plain, spoken)


@pytest.mark.parametrize(
    ("changes", "is_greedy"),
    [
        ({"temperature": None}, True),
        ({"temperature": 0}, True),
        ({"temperature": 1.0}, True),
        ({"temperature": 1.0, "do_sample": True}, False),
        ({"temperature": None, "do_sample": True}, False),
        ({"temperature": 0.9}, False),
        ({"temperature": 0.9, "do_sample": False}, True),
        ({"temperature": 0, "do_sample": True}, True),
    ],
    ids=str,
)
def test_when_the_stage_draws(model, changes, is_greedy):
    coarse, config = coarse_of(16), TOY.replace(**changes)
    takes = [run(model, coarse, config, seeds=seed)[0] for seed in (1, 2)]
    greedy = run(model, coarse)[0]
    assert np.array_equal(*takes) == is_greedy
    assert np.array_equal(takes[0], greedy) == is_greedy


def test_a_low_temperature_is_nearly_greedy(model):
    coarse = coarse_of(16)
    cold = run(model, coarse, TOY.replace(temperature=1e-4), seeds=0)[0]
    assert np.array_equal(cold, run(model, coarse)[0])


# === Rows ===


@pytest.mark.parametrize("samples", [False, True])
def test_a_row_is_the_same_alone_and_in_a_batch(model, samples):
    """Rows of no, one, two and five windows."""
    config = TOY.replace(do_sample=samples)
    coarse = coarse_of(3, 41, 0, 17)
    voices = [None, toy.voice(9), toy.voice(4), toy.voice(2, 1)]
    seeds = [3, 1, 4, 1]
    batch = run(model, coarse, config, voices=voices, seeds=seeds)
    for row in range(4):
        alone = run(
            model, [coarse[row]], config, voices=[voices[row]], seeds=[seeds[row]]
        )
        assert np.array_equal(alone[0], batch[row])


def test_seeds_decide_the_draws(model):
    config, coarse = TOY.replace(do_sample=True), coarse_of(20)
    first = run(model, coarse, config, seeds=5)[0]
    assert np.array_equal(first, run(model, coarse, config, seeds=5)[0])
    assert not np.array_equal(first, run(model, coarse, config, seeds=6)[0])
    twice = run(model, coarse * 2, config, seeds=5)
    assert np.array_equal(twice[0], first) and not np.array_equal(twice[1], first)


def test_no_two_draws_are_the_same(model):
    """At this temperature the codes are the draws of two windows and codebooks.

    Frames 0 to 7 of the first window are where frames 8 to 15 of the second are.
    """
    (codes,) = run(model, coarse_of(24), TOY.replace(temperature=1e6), seeds=0)
    blocks = [codes[k, start : start + 8] for k in (2, 3) for start in (0, 8)]
    assert len({block.tobytes() for block in blocks}) == 4


def test_no_row_no_pass(model):
    stage = stage_of(model, coarse_of(0, 0))
    assert stage.total == 0 and list(stage.steps()) == []
    assert stage.codes(stage.start()).shape == (2, 4, 0)


# === What streaming needs ===


def test_frames_before_a_boundary_are_final(model):
    """A pass needs only `needed_frames` coarse frames."""
    coarse, voices = coarse_of(41), [toy.voice(4)]
    (expected,) = run(model, coarse, voices=voices)
    unknown = [np.full((2, 41), UNKNOWN, np.int32)]
    stage = stage_of(model, unknown, voices=voices)
    state, boundaries = stage.start(), stage.boundaries()[0].numpy()
    assert len(boundaries) == stage.total == 5
    for n, boundary in enumerate(boundaries):
        needed = int(stage.needed_frames(n)[0])
        state = stage.with_coarse(state, tf.constant(coarse[0][None, :, :needed]))
        state = stage.step(state)
        codes = stage.codes(state)[0]
        assert np.array_equal(codes[:, :boundary], expected[:, :boundary])
    assert boundary == 41


def test_streams_trace_the_program_once(model):
    """They number their windows with ints, which would each be traced."""
    stage = stage_of(model, coarse_of(8))
    shown = tf.zeros((1, TOY.max_fine_input_length, TOY.n_fine_codebooks), tf.int32)
    first, end = tf.constant([0]), tf.constant([8])
    before = stage.program.run.experimental_get_tracing_count()
    for n in range(3):
        stage.fill(shown, first, end, stage.keys, stage.temperature, n)
    assert stage.program.run.experimental_get_tracing_count() <= before + 1
