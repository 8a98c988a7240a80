"""The semantic-to-coarse stage. Its tokens stand against Suno's loop elsewhere."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
import toy

from bark_tf.config import (
    BarkCoarseConfig,
    BarkCoarseGenerationConfig,
    BarkSemanticGenerationConfig,
)
from bark_tf.generation.arrays import NUMPY, TENSORS
from bark_tf.generation.coarse import (
    CoarseRows,
    CoarseStage,
    CoarseWindow,
    allowed_ids,
    coarse_rows,
    window_prompt,
    window_start,
)
from bark_tf.generation.histories import histories_of, stack
from bark_tf.generation.options import StageConfigs
from bark_tf.generation.random import keys_of
from bark_tf.generation.stage import Call

REAL = CoarseWindow(BarkSemanticGenerationConfig(), BarkCoarseGenerationConfig(), 1024)
FIRST_IDS = np.array([[10_000], [11_024]])  # of the two codebooks
CONFIG = toy.generation_config()
TOY = CoarseWindow(CONFIG.semantic_config, CONFIG.coarse_acoustics_config, 8)


@pytest.fixture(scope="module")
def model():
    return toy.shared_bark().coarse_acoustics


class SilentModel:
    """A network that must not be called."""

    config = toy.bark_config().coarse_acoustics_config
    compute_dtype = "float32"


def stage_of(model, semantic, window=TOY, *, voices=None, seeds=None, compat=None):
    rows = [np.array(row, np.int32) for row in semantic]
    histories = histories_of(voices or [None] * len(rows), 2, 4)
    configs = StageConfigs(window.semantic, window.coarse, codebook_size=8)
    return CoarseStage(
        Call(SimpleNamespace(coarse_acoustics=model), configs, compat, False),
        tf.constant(stack(rows)),
        tf.constant([len(row) for row in rows]),
        tf.nest.map_structure(tf.constant, histories),
        tf.constant(keys_of(seeds, len(rows)).coarse),
    )


def run(model, semantic, window=TOY, **options):
    """All tokens of a stage, (batch, tokens), and its row lengths."""
    stage = stage_of(model, semantic, window, **options)
    return stage.tokens(stage.run()).numpy(), stage.limits.numpy()


def row_of(window, voice, semantic=()):
    """The `CoarseRows` of one row; the same from arrays and from tensors."""
    arguments = (
        np.array([semantic], np.int32),
        np.array([len(semantic)], np.int32),
        histories_of([voice], 2, 4),
    )
    row = coarse_rows(NUMPY, *arguments, window)
    tensors = tf.nest.map_structure(tf.constant, arguments)
    for array, tensor in zip(row, coarse_rows(TENSORS, *tensors, window), strict=True):
        np.testing.assert_array_equal(array, tensor)
    return row


def prompt_of(row, new, window):
    """The ids before the next token, without padding."""
    new = np.asarray(new, np.int32)
    most = window.coarse.max_coarse_history
    width = window.coarse.max_coarse_input_length + 1 + most
    tokens = np.concatenate([row.past, new[None]], axis=1)
    ids, padding = window_prompt(NUMPY, row, tokens, len(new), width, window)
    tensors = tf.nest.map_structure(tf.constant, (row, tokens, len(new)))
    again, _ = window_prompt(TENSORS, *tensors, width, window)
    np.testing.assert_array_equal(ids, again)
    return ids[0, padding[0] :]


def semantic_of(*lengths):
    return [toy.ids(length, high=20, seed=length) for length in lengths]


def sampled(**changes):
    options = {"do_sample": True, "temperature": 1.3, **changes}
    return TOY._replace(coarse=TOY.coarse.replace(**options))


# === Numbers ===


def test_the_numbers_of_bark():
    assert REAL.ratio == 75 / 49.9 * 2
    assert REAL.max_semantic_history == 209
    assert REAL.offset == 10_000
    assert REAL.slots == 256 + 1 + 630 + 60


def test_frames_per_semantic_tokens():
    expected = {0: 0, 1: 1, 2: 3, 10: 15, 256: 384, 499: 750, 500: 751, 768: 1154}
    assert {count: REAL.num_frames(count) for count in expected} == expected


def test_the_codebooks_take_turns():
    allowed = allowed_ids(REAL, 12_096, None)
    assert (allowed.first, allowed.stride, allowed.groups) == (10_000, 1024, 2)
    assert (allowed.size, allowed.open_end, allowed.pad) == (1024, False, 12_048)
    assert allowed.end is None


def test_in_transformers_the_last_codebook_reaches_to_the_end_of_the_vocabulary():
    allowed = allowed_ids(REAL, 12_096, "hf")
    assert allowed.first + allowed.stride + allowed.size == 12_096
    assert allowed.open_end


def test_windows_must_fit():
    sizes = {"input_vocab_size": 12_096, "output_vocab_size": 12_096}
    REAL.check(BarkCoarseConfig(block_size=947, **sizes))
    with pytest.raises(ValueError, match=r"<= 946\. Received: 947"):
        REAL.check(BarkCoarseConfig(block_size=946, **sizes))
    with pytest.raises(ValueError, match=r"<= 64\. Received: 71"):
        run(SilentModel(), [[1]], sampled(sliding_window_len=50))


# === Histories ===


def real_voice(num_semantic, num_frames):
    rng = np.random.default_rng(0)
    return {
        "semantic_prompt": rng.integers(0, 10_000, num_semantic),
        "coarse_prompt": rng.integers(0, 1024, (2, num_frames)),
    }


@pytest.mark.parametrize(
    ("num_semantic", "num_frames", "read"),
    [
        (309, 464, (209, 626)),  # v2/en_speaker_6
        (499, 750, (209, 626)),  # announcer
        (84, 126, (83, 247)),  # 252 coarse tokens are too few for 84 semantic ones
        (84, 200, (84, 251)),  # an odd number of coarse tokens
        (85, 200, (84, 251)),  # an even number of semantic ones
        (300, 10, (6, 16)),
        (1, 1, (0, 0)),
    ],
)
def test_what_of_a_voice_is_read(num_semantic, num_frames, read):
    """The ends of both sequences, without the last frame of the coarse one."""
    voice = real_voice(num_semantic, num_frames)
    row = row_of(REAL, voice)
    assert (row.num_history[0], row.num_past[0]) == read
    tokens = (voice["coarse_prompt"] + FIRST_IDS).T.ravel()[:-2]
    if read != (0, 0):
        assert row.past[0, -read[1] :].tolist() == tokens[-read[1] :].tolist()
        expected = voice["semantic_prompt"][-read[0] :]
        assert row.semantic[0].tolist() == expected.tolist()


def test_no_voice_is_an_empty_history():
    row = row_of(REAL, None)
    assert row.num_history[0] == row.num_past[0] == row.num_semantic[0] == 0


# === Windows ===


@pytest.mark.parametrize("xp", [NUMPY, TENSORS], ids=["numpy", "tensors"])
def test_windows_start_209_semantic_tokens_before_the_current_one(xp):
    def starts(steps, num_history):
        steps = np.array(steps) if xp is NUMPY else tf.constant(steps)
        return np.array(window_start(xp, steps, num_history, REAL)).tolist()

    assert starts([0, 600, 660], 0) == [0, 0, 11]
    assert starts([0, 60, 120], 209) == [0, 20, 40]


def test_a_window_is_semantic_tokens_infer_token_and_past():
    row = CoarseRows(
        semantic=np.array([[1, 2, 3, 4, 5]], np.int32),
        num_semantic=np.array([5], np.int32),
        num_history=np.array([2], np.int32),
        past=np.array([[0] * 8 + [20, 28, 21, 29]], np.int32),
        num_past=np.array([4], np.int32),
    )
    prompt = prompt_of(row, [], TOY)
    assert prompt.tolist() == [1, 2, 3, 4, 5, 36, 36, 36, 38, 20, 28, 21, 29]
    new = np.arange(20, 29)
    prompt = prompt_of(row, new, TOY)
    assert prompt.tolist() == [3, 4, 5] + [36] * 5 + [38, 28, 21, 29, *new]


def test_keeping_caches_between_windows_changes_nothing(model, monkeypatch):
    """Reading every window anew chooses the same tokens."""
    window = sampled(max_coarse_history=30)
    arguments = (model, semantic_of(12, 9, 3), window)
    read = []
    prefilled = CoarseStage._prefilled

    def counted(stage, state):
        read.append(int(state.step))
        return prefilled(stage, state)

    monkeypatch.setattr(CoarseStage, "_prefilled", counted)
    cached, _ = run(*arguments, seeds=3)
    assert read == [0, 30]
    monkeypatch.setattr(CoarseStage, "_goes_on", lambda *_: tf.constant(False))
    anew, _ = run(*arguments, seeds=3)
    assert np.array_equal(cached, anew)
    assert read == [0, 30, 0, 6, 12, 18, 24, 30]


def test_steps_are_windows_and_later_tokens_are_padding(model):
    stage = stage_of(model, semantic_of(9, 2, 0))
    assert stage.total == 26
    steps = []
    for state in stage.steps():
        done, total = stage.progress(state)
        assert total == 26 and stage.codes(state).shape == (3, 2, done // 2)
        assert np.all(stage.tokens(state)[:, done:] == 36)
        steps.append(int(done))
    assert steps == [6, 12, 18, 24, 26]


# === Rows ===


def test_a_row_is_the_same_alone_and_in_a_batch(model):
    window = sampled()
    semantic = semantic_of(1, 14, 0, 6)
    voices = [None, toy.voice(4), toy.voice(9), toy.voice(25, 1)]
    seeds = [3, 1, 4, 1]
    batch, lengths = run(model, semantic, window, voices=voices, seeds=seeds)
    assert lengths.tolist() == [2, 42, 0, 18]
    for row in range(4):
        alone, _ = run(
            model, [semantic[row]], window, voices=[voices[row]], seeds=[seeds[row]]
        )
        assert np.array_equal(alone[0], batch[row, : lengths[row]])
        assert np.all(batch[row, lengths[row] :] == 36)


def test_ids_are_those_of_the_codebook_whose_turn_it_is(model):
    tokens, _ = run(model, semantic_of(14, 14, 14), sampled(), seeds=0)
    assert np.all((tokens[:, ::2] >= 20) & (tokens[:, ::2] < 28))
    assert np.all((tokens[:, 1::2] >= 28) & (tokens[:, 1::2] < 36))


def test_in_transformers_rows_go_on_to_the_length_of_the_longest(model):
    ours, lengths = run(model, semantic_of(9, 4, 9))
    theirs, their_lengths = run(model, semantic_of(9, 4, 9), compat="hf")
    assert lengths.tolist() == [26, 12, 26] and their_lengths.tolist() == [26] * 3
    assert np.all(ours[1, 12:] == 36) and not np.all(theirs[1, 12:] == 36)


def test_no_semantic_tokens_at_all_need_no_network():
    tokens, lengths = run(SilentModel(), [[], []])
    assert tokens.shape == (2, 0) and lengths.tolist() == [0, 0]


def test_seeds_decide_the_draws(model):
    semantic = semantic_of(9, 9, 9)
    first, _ = run(model, semantic, sampled(), seeds=5)
    assert np.array_equal(first, run(model, semantic, sampled(), seeds=5)[0])
    assert not np.array_equal(first, run(model, semantic, sampled(), seeds=6)[0])
    assert not np.array_equal(first[0], first[1])


def test_repetition_penalty_equals_a_slow_loop(model):
    """What the window shows counts as seen, semantic tokens aside, and new tokens."""
    penalty, window = (
        1.6,
        TOY._replace(coarse=TOY.coarse.replace(repetition_penalty=1.6)),
    )
    (semantic,) = semantic_of(8)
    voice = toy.voice(5)
    tokens, _ = run(model, [semantic], window, voices=[voice])
    row, new = row_of(window, voice, semantic), []
    while len(new) < 24:
        if len(new) % 6 == 0:
            shown = prompt_of(row, new, window)
        logits = np.array(model(shown[None].astype(np.int32)).logits)[0, -1]
        for token in set(shown.tolist()):
            logits[token] *= penalty if logits[token] < 0 else 1 / penalty
        first = 20 + 8 * (len(new) % 2)
        new.append(first + int(np.argmax(logits[first : first + 8])))
        shown = np.append(shown, new[-1])
    assert tokens[0].tolist() == new
    assert new != run(model, [semantic], voices=[voice])[0][0].tolist()


def test_a_window_goes_on_from_the_codes_before_it(model):
    """Without the caches of the last window, as in a request of its own."""
    semantic, voices = semantic_of(14, 5), [None, toy.voice(9)]
    stage = stage_of(model, semantic, sampled(), voices=voices, seeds=[1, 2])
    codes, count = tf.zeros((2, 2, 0), tf.int32), 0
    for state in stage.steps():
        again = stage.step(stage.after(codes))
        codes, count = stage.codes(state), count + 1
        np.testing.assert_array_equal(stage.codes(again), codes)
    assert count > 2
