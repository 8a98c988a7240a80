"""The decode loop with a network whose logits the test decides."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from bark_tf.config import BarkConfig, BarkSemanticGenerationConfig
from bark_tf.generation import loop
from bark_tf.generation.loop import AllowedIds, Programs, Rows, cached, programs_of
from bark_tf.generation.random import row_keys
from bark_tf.generation.sampling import SamplingRules, SamplingValues
from bark_tf.models.causal import BarkSemanticModel

SLOTS = 24
PROMPT = 3
END = 6
PLAIN = AllowedIds(first=0, stride=0, groups=1, size=8)
ENDING = PLAIN._replace(end=END, pad=END)
PAIRS = AllowedIds(first=2, stride=4, groups=2, size=4, pad=15)


class FakeNetwork:
    """Its logits are a function of the position and of the token fed there.

    Args:
        logits_of: `(position (B,), token (B,)) -> (B, V)`, both float32 tensors.
    """

    config = SimpleNamespace(num_layers=0, num_heads=1, head_size=1)
    compute_dtype = "float32"
    weights = ()

    def __init__(self, logits_of):
        self.logits_of = logits_of

    def token_embedding(self, ids):
        return tf.cast(ids, tf.float32)[..., None]

    def forward(self, x, cache=(), position=0, *, position_ids, wanted=None, **_):
        positions = tf.broadcast_to(tf.cast(position_ids, x.dtype), tf.shape(x)[:2])
        states = tf.stack([positions, x[..., 0]], axis=-1)
        return states if wanted is None else wanted(states), cache, None, None

    def logits(self, x, start, size):
        assert x.shape[1] == 1  # of a prompt too: the last position
        logits = self.logits_of(x[:, 0, 0], x[:, 0, 1])
        return tf.slice(logits, [0, start], [-1, size])[:, None]


def table(logits):
    """A network whose logits (B, T, V) at [b, t] decide the t-th choice of row b."""
    logits = tf.constant(logits, tf.float32)

    def logits_of(position, _):
        step = tf.cast(position, tf.int32) - (PROMPT - 1)
        return tf.gather(logits, tf.minimum(step, logits.shape[1] - 1), batch_dims=1)

    return FakeNetwork(logits_of)


def favouring(*rows, size=8):
    """Logits under which every row's greedy choices are the given ids."""
    return np.eye(size)[np.array(rows)]


UNIFORM = FakeNetwork(lambda position, _: tf.zeros((tf.shape(position)[0], 16)))


def decode(
    network,
    allowed=PLAIN,
    *,
    limit=8,
    batch=1,
    step=0,
    pieces=(),
    start=None,
    seed=0,
    jit_compile=None,
    **options,
):
    """Runs both programs; returns the tokens (B, count) and the last state.

    Eagerly, which is quickest for a few steps, unless `jit_compile` says otherwise.
    """
    config = BarkSemanticGenerationConfig(**{"top_k": 0, **options})
    rules, values = SamplingRules.of(config), SamplingValues.of(config)
    programs = Programs(network, allowed, rules, SLOTS, bool(jit_compile))
    rows = Rows(
        start=tf.constant(start or [0] * batch),
        keys=tf.constant(row_keys(seed, batch, "semantic")),
        limit=tf.constant(np.broadcast_to(limit, batch).astype(np.int32)),
    )
    seen = np.zeros((batch, programs.num_seen), bool)
    prompt = tf.zeros((batch, PROMPT, 1))
    tf.config.run_functions_eagerly(jit_compile is None)
    try:
        state = programs.prefill(prompt, tf.constant(step), rows, values, seen)
        for until in (*pieces, SLOTS):
            state = programs.decode(state, tf.constant(until), rows, values)
    finally:
        tf.config.run_functions_eagerly(False)
    return state.tokens.numpy()[:, : int(state.count)], state


@pytest.mark.parametrize("jit_compile", [None, False, True])
def test_greedy_tokens_are_the_likeliest(jit_compile):
    tokens, _ = decode(
        table(favouring([3, 1, 4, 1, 5])), limit=5, jit_compile=jit_compile
    )
    assert tokens.tolist() == [[3, 1, 4, 1, 5]]


@pytest.mark.parametrize("jit_compile", [None, True])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_row_whose_logits_are_no_numbers_ends(jit_compile, value):
    """It would choose some token as if nothing had happened; the others go on."""
    logits = favouring([3, 1, 4], [3, 1, 4], [3, END, 4])
    logits[1:, 2, 7] = value  # at the third step, when the last row has ended
    tokens, state = decode(
        table(logits), ENDING, limit=3, batch=3, jit_compile=jit_compile
    )
    assert tokens[:, :2].tolist() == [[3, 1], [3, 1], [3, END]] and tokens[0, 2] == 4
    assert state.failed.numpy().tolist() == [False, True, False]
    assert state.done.numpy().all()
    with pytest.raises(ValueError, match="Logits of the x stage must be finite"):
        state.checked("x")


def test_every_token_is_fed_at_its_own_position():
    def rule(position, token):
        return (3 * token + position) % 7

    network = FakeNetwork(
        lambda position, token: tf.one_hot(tf.cast(rule(position, token), tf.int32), 8)
    )
    tokens, _ = decode(network, limit=10)
    expected, token = [], 0
    for position in range(PROMPT - 1, PROMPT + 9):
        token = rule(position, token)
        expected.append(token)
    assert tokens.tolist() == [expected] and len(set(expected)) > 3


def test_padding_before_a_prompt_takes_no_positions():
    """A row whose prompt starts two slots later has positions two lower."""
    network = FakeNetwork(
        lambda position, _: tf.one_hot(tf.cast(position, tf.int32), 16)
    )
    allowed = PLAIN._replace(size=16)
    tokens, _ = decode(network, allowed, batch=2, start=[0, 2], limit=4)
    assert tokens.tolist() == [[2, 3, 4, 5], [0, 1, 2, 3]]


# === Ends and limits ===


def test_a_row_that_ended_stays_ended():
    """The network goes on to favour other tokens; they do not count."""
    logits = favouring([1, END, 2, 3, 4, 5], [1, 2, 3, 4, 5, END])
    tokens, state = decode(table(logits), ENDING, batch=2, limit=20)
    assert tokens.tolist() == [[1, END, END, END, END, END], [1, 2, 3, 4, 5, END]]
    assert np.all(state.done)


def test_the_loop_stops_with_the_last_row():
    logits = favouring([1, 2, END] + [0] * 9)
    _, state = decode(table(logits), ENDING, limit=12)
    assert int(state.count) == int(state.step) == 3


def test_an_end_at_once_leaves_only_the_end():
    tokens, state = decode(table(favouring([END, 1, 1])), ENDING)
    assert tokens.tolist() == [[END]] and np.all(state.done)


def test_every_row_has_a_limit_of_its_own():
    logits = favouring([1] * 9, [2] * 9, [3] * 9)
    tokens, _ = decode(table(logits), PLAIN._replace(pad=7), batch=3, limit=[1, 6, 3])
    assert tokens.tolist() == [[1] + [7] * 5, [2] * 6, [3] * 3 + [7] * 3]


def test_min_new_tokens_puts_the_end_off():
    logits = 2 * np.eye(8)[[[END] * 6]] + np.eye(8)[[[1, 2, 3, 4, 5, 1]]]
    tokens, _ = decode(table(logits), ENDING, min_new_tokens=4)
    assert tokens.tolist() == [[1, 2, 3, 4, END]]


def test_min_eos_p_ends_a_row_as_soon_as_the_end_is_likely():
    """The end has probability 0.1, 0.2, 0.3; token 1 has the rest."""
    p = np.array([0.1, 0.2, 0.3])
    logits = np.full((1, 3, 8), -50.0)
    logits[0, :, END], logits[0, :, 1] = np.log(p), np.log(1 - p)
    for least, expected in ((0.05, 1), (0.15, 2), (0.25, 3)):
        tokens, _ = decode(table(logits), ENDING, min_eos_p=least)
        assert tokens.tolist() == [[1] * (expected - 1) + [END]]
    tokens, _ = decode(table(logits), ENDING, limit=3)
    assert tokens.tolist() == [[1, 1, 1]]


# === Which ids may be chosen ===

SAMPLED = {"do_sample": True, "temperature": 5.0}


@pytest.mark.parametrize("options", [{}, SAMPLED], ids=["greedy", "sampled"])
def test_forbidden_ids_are_never_chosen(options):
    """Ids 2, 3 and 4 are by far the likeliest; 5 and 7 come next."""
    logits = np.zeros((4, 1, 8))
    logits[..., 2:5], logits[..., [5, 7]] = 90, 60
    allowed = ENDING._replace(forbidden=(2, 5))
    tokens, _ = decode(table(logits), allowed, batch=4, limit=20, **options)
    assert set(tokens.ravel()) == ({5, 7} if options else {5})


@pytest.mark.parametrize("options", [{}, SAMPLED], ids=["greedy", "sampled"])
def test_codebooks_take_turns(options):
    """Ids outside of the current codebook are likelier."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 12, 16))
    logits[:, ::2, 6:] += 50
    logits[:, 1::2, :6] += 50
    tokens, _ = decode(table(logits), PAIRS, batch=3, limit=12, **options)
    assert tokens.shape == (3, 12)
    assert np.all((tokens[:, ::2] >= 2) & (tokens[:, ::2] < 6))
    assert np.all((tokens[:, 1::2] >= 6) & (tokens[:, 1::2] < 10))
    if not options:
        assert np.array_equal(tokens[:, ::2], 2 + logits[:, ::2, 2:6].argmax(-1))
        assert np.array_equal(tokens[:, 1::2], 6 + logits[:, 1::2, 6:10].argmax(-1))


def test_turns_are_counted_from_the_start_of_the_stage():
    """A window that begins at an odd step begins with the second codebook."""
    tokens, _ = decode(UNIFORM, PAIRS, step=3, limit=7)
    assert tokens.tolist() == [[6, 2, 6, 2]]


def test_only_the_last_codebook_may_be_open():
    """With an open end it may draw ids above its own; the others never do."""
    allowed = PAIRS._replace(size=10, open_end=True)
    logits = np.zeros((1, 6, 16))
    logits[..., 5], logits[..., 9], logits[..., 12] = 1, 2, 3
    tokens, _ = decode(table(logits), allowed, limit=6)
    assert tokens.tolist() == [[5, 12, 5, 12, 5, 12]]
    tokens, _ = decode(table(logits), PAIRS, limit=6)
    assert tokens.tolist() == [[5, 9, 5, 9, 5, 9]]


# === Random choices ===


def test_draws_belong_to_their_step_in_the_stage():
    """Going on after a new prompt draws what going on without one would have."""
    options = {"do_sample": True, "seed": 3, "allowed": PLAIN._replace(size=16)}
    whole, _ = decode(UNIFORM, limit=12, **options)
    tail, _ = decode(UNIFORM, limit=12, step=5, **options)
    assert whole.shape == (1, 12) and len(set(whole[0])) > 5
    assert tail.tolist() == whole[:, 5:].tolist()


def test_rows_of_one_seed_draw_differently():
    tokens, _ = decode(UNIFORM, batch=3, limit=12, do_sample=True)
    assert len({tuple(row) for row in tokens}) == 3


def test_a_loop_in_pieces_is_the_same_loop():
    options = {"do_sample": True, "limit": 12, "batch": 2}
    whole, _ = decode(UNIFORM, **options)
    parts, _ = decode(UNIFORM, pieces=(2, 3, 9), **options)
    assert np.array_equal(whole, parts)


@pytest.mark.parametrize("allowed", [PLAIN, PAIRS], ids=["plain", "pairs"])
def test_repetition_penalty_counts_all_tokens_so_far(allowed):
    """Against a slow loop; a large penalty makes every id be chosen once first."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 10, 16)).astype("float32")
    tokens, _ = decode(
        table(logits), allowed, batch=2, limit=10, repetition_penalty=1.7
    )
    plain, _ = decode(table(logits), allowed, batch=2, limit=10)
    for row in range(2):
        chosen = []
        for step in range(10):
            first = allowed.first + step % allowed.groups * allowed.stride
            scores = logits[row, step].copy()
            for token in set(chosen):
                scores[token] *= 1.7 if scores[token] < 0 else 1 / 1.7
            window = scores[first : first + allowed.size]
            chosen.append(first + int(np.argmax(window)))
        assert tokens[row].tolist() == chosen
    assert not np.array_equal(tokens, plain)


# === Cached programs ===


def test_programs_are_made_once_per_model_and_rules():
    model = FakeNetwork(None)
    rules = SamplingRules()
    first = programs_of(model, PLAIN, rules, SLOTS, False)
    assert programs_of(model, PLAIN, rules, SLOTS, False) is first
    for arguments in (
        (model, ENDING, rules, SLOTS, False),
        (model, PLAIN, SamplingRules(do_sample=True), SLOTS, False),
        (model, PLAIN, rules, SLOTS + 1, False),
        (model, PLAIN, rules, SLOTS, True),
        (FakeNetwork(None), PLAIN, rules, SLOTS, False),
    ):
        assert programs_of(*arguments) is not first


def test_a_program_is_made_once():
    model, calls = FakeNetwork(None), []
    for _ in range(2):
        assert cached(model, "key", lambda: calls.append(1) or len(calls)) == 1


@pytest.mark.parametrize(
    ("is_gpu", "dtype", "is_held"),
    [
        (False, "float32", False),
        (False, "bfloat16", True),
        (True, "bfloat16", False),  # its products need no conversion to hold back
        (True, "int8", True),
    ],
)
def test_weights_that_must_be_converted_are_held_in_the_loop(
    is_gpu, dtype, is_held, monkeypatch
):
    monkeypatch.setattr(loop, "has_gpu", lambda: is_gpu)
    scopes = []
    monkeypatch.setattr(loop.keras, "StatelessScope", lambda **_: scopes.append(1))
    with tf.Graph().as_default():
        weight = SimpleNamespace(dtype=dtype, value=tf.zeros((2,), dtype))
        compute = "bfloat16" if dtype == "int8" else dtype
        model = SimpleNamespace(weights=[weight], compute_dtype=compute)
        loop._held(model, tf.constant(0))
    assert bool(scopes) == is_held


def test_a_compiled_step_copies_no_cache():
    """The caches are copied once per call, before the loop, and then overwritten."""
    model = BarkSemanticModel(BarkConfig.preset("tiny").semantic_config)
    programs = Programs(model, PLAIN, SamplingRules(), SLOTS, jit_compile=True)
    state = programs.before_prefill(2)
    zeros = tf.zeros((2,), tf.int32)
    rows = Rows(zeros, tf.zeros((2, 2), tf.uint32), zeros)
    values = SamplingValues.of(BarkSemanticGenerationConfig())
    inputs = state, tf.constant(SLOTS), rows, values
    hlo = programs.decode.experimental_get_compiler_ir(*inputs)(stage="optimized_hlo")
    for buffer in state.cache[0]:
        sizes = re.escape(",".join(map(str, buffer.shape)))
        for operation in ("copy", "dynamic-update-slice"):
            made = re.findall(rf"= f32\[{sizes}\]\S* {operation}\(", hlo)
            assert len(made) == len(state.cache), (operation, made)
