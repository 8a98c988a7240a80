"""Training sequences are those of generation; no known mistake is made."""

import dataclasses
from types import SimpleNamespace

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from bark_tf.config import (
    BarkCoarseConfig,
    BarkCoarseGenerationConfig,
    BarkFineConfig,
    BarkFineGenerationConfig,
    BarkGenerationConfig,
    BarkSemanticConfig,
    BarkSemanticGenerationConfig,
)
from bark_tf.generation.arrays import NUMPY
from bark_tf.generation.coarse import CoarseStage, CoarseWindow, window_prompt
from bark_tf.generation.fine import FineStage, window_at
from bark_tf.generation.histories import histories_of
from bark_tf.generation.options import StageConfigs
from bark_tf.generation.random import keys_of
from bark_tf.generation.stage import Call
from bark_tf.models.causal import BarkCoarseModel, BarkSemanticModel
from bark_tf.models.fine import BarkFineModel
from bark_tf.tokens import interleave
from bark_tf.training.data import examples as made
from bark_tf.training.data.examples import (
    StageExamples,
    coarse_example,
    coarse_row,
    coarse_segments,
    fine_example,
    semantic_example,
    voice_of,
)
from bark_tf.training.data.shards import Utterance
from bark_tf.training.options import ExampleOptions
from bark_tf.training.runs import trainers
from bark_tf.training.runs.trainers import CoarseTrainer, FineTrainer, SemanticTrainer
from bark_tf.voices.presets import VoicePreset

SEMANTIC, BOOK, BOOKS, COARSE = 20, 8, 4, 2
IGNORED = -100


def toy(rate_hz=50.0, **coarse):
    """Numbers that are all different, so that none can stand for another."""
    return BarkGenerationConfig(
        semantic_config=BarkSemanticGenerationConfig(
            eos_token_id=SEMANTIC,
            max_new_tokens=30,
            text_encoding_offset=SEMANTIC + 1,
            text_pad_token=38,
            semantic_infer_token=39,
            semantic_vocab_size=SEMANTIC,
            max_input_semantic_length=12,
            semantic_rate_hz=rate_hz,
        ),
        coarse_acoustics_config=BarkCoarseGenerationConfig(
            **{
                "coarse_semantic_pad_token": SEMANTIC + COARSE * BOOK,
                "coarse_infer_token": SEMANTIC + COARSE * BOOK + 1,
                "coarse_rate_hz": 50,
                "n_coarse_codebooks": COARSE,
                "max_coarse_input_length": 14,
                "max_coarse_history": 22,
                "sliding_window_len": 6,
                **coarse,
            }
        ),
        fine_acoustics_config=BarkFineGenerationConfig(
            max_fine_history_length=9, max_fine_input_length=20, n_fine_codebooks=BOOKS
        ),
        sample_rate=16_000,
        codebook_size=BOOK,
    )


CONFIG = toy()
SMALL = {"num_layers": 2, "num_heads": 2, "hidden_size": 16, "initializer_range": 0.5}
MODELS = {
    "semantic": lambda: BarkSemanticModel(
        BarkSemanticConfig(
            input_vocab_size=40, output_vocab_size=21, block_size=42, **SMALL
        )
    ),
    "coarse": lambda: BarkCoarseModel(
        BarkCoarseConfig(
            input_vocab_size=40, output_vocab_size=40, block_size=64, **SMALL
        )
    ),
    "fine": lambda: BarkFineModel(
        BarkFineConfig(
            input_vocab_size=BOOK + 1,
            output_vocab_size=BOOK + 1,
            block_size=20,
            n_codes_total=BOOKS,
            **SMALL,
        )
    ),
}


@pytest.fixture(scope="module")
def model():
    made = {}
    tf.random.set_seed(3)
    return lambda stage: made.setdefault(stage, MODELS[stage]())


def histories(voice):
    """Of one row, for the stages of generation."""
    return tf.nest.map_structure(tf.constant, histories_of([voice], COARSE, BOOKS))


def prompt_of(opened, tokens, sizes):
    """The ids that generation reads before the next of some coarse tokens."""
    coarse = sizes.coarse
    width = coarse.max_coarse_input_length + 1 + coarse.max_coarse_history
    past = np.concatenate([opened.past, np.asarray(tokens, np.int32)[None]], axis=1)
    ids, padding = window_prompt(NUMPY, opened, past, len(tokens), width, sizes)
    return ids[0, padding[0] :]


def sizes_of(config=CONFIG):
    return CoarseWindow.of(config)


def utterance(rng, count=25, speaker="a", config=CONFIG, name="u"):
    sizes = sizes_of(config)
    return Utterance(
        id=name,
        text="",
        speaker=speaker,
        text_ids=rng.integers(0, 17, 5),
        semantic=rng.integers(0, SEMANTIC, count),
        codes=rng.integers(0, BOOK, (BOOKS, sizes.num_frames(count))),
        audio=None,
    )


def batched(example):
    return {name: np.asarray(array)[None] for name, array in example.items()}


# === The same sequences as generation ===


@pytest.mark.parametrize("has_voice", [False, True])
def test_semantic_training_predicts_what_generation_says(model, rng, has_voice):
    """Greedy generation, and the likeliest targets given its own tokens, are one."""
    voice = voice_of(utterance(rng, 17), sizes_of()) if has_voice else None
    text_ids = rng.integers(0, 17, 5)
    tokens = model("semantic").generate(
        text_ids[None],
        semantic_generation_config=CONFIG.semantic_config,
        history_prompt=voice,
        min_new_tokens=30,
    )
    tokens = np.asarray(tokens)[0]
    assert len(tokens) == 30 and len(set(tokens)) > 1
    example = semantic_example(
        text_ids, tokens, voice, CONFIG.semantic_config, block_size=42
    )
    np.testing.assert_array_equal(example["targets"], tokens)
    logits = SemanticTrainer(model("semantic"), CONFIG)(batched(example))
    said = np.argmax(logits[0, :, :SEMANTIC], axis=-1)
    np.testing.assert_array_equal(said, tokens)


@pytest.mark.parametrize("rate_hz", [50.0, 33.0])
@pytest.mark.parametrize("has_voice", [False, True])
def test_coarse_training_predicts_what_generation_says(model, rng, has_voice, rate_hz):
    config = toy(rate_hz)
    sizes = sizes_of(config)
    voice = voice_of(utterance(rng, 17, config=config), sizes) if has_voice else None
    semantic = rng.integers(0, SEMANTIC, 40)
    row = coarse_row(semantic, voice, sizes)
    configs = StageConfigs(
        config.semantic_config, config.coarse_acoustics_config, codebook_size=BOOK
    )
    stage = CoarseStage(
        Call(SimpleNamespace(coarse_acoustics=model("coarse")), configs),
        tf.constant(semantic[None], tf.int32),
        tf.constant([40]),
        histories(voice),
        tf.constant(keys_of(0, 1).coarse),
    )
    state = stage.run()
    tokens, codes = stage.tokens(state)[0].numpy(), stage.codes(state)[0].numpy()
    segments = coarse_segments(row, tokens.size, sizes)
    assert len(segments) > 3
    trainer = CoarseTrainer(model("coarse"), config)
    for segment in segments:
        example = coarse_example(row, codes, segment, sizes)
        logits = trainer(batched(example)).numpy()[0]
        count = segment.end - segment.start
        targets = example["targets"][-count:]
        np.testing.assert_array_equal(targets, tokens[segment.start : segment.end])
        for place, scores in enumerate(logits[-count:]):
            first = SEMANTIC + (segment.start + place) % COARSE * BOOK
            assert first + scores[first : first + BOOK].argmax() == targets[place]


@pytest.mark.parametrize(("frames", "history"), [(11, 0), (11, 6), (20, 9), (45, 9)])
def test_fine_training_predicts_what_generation_says(model, rng, frames, history):
    config = CONFIG.fine_acoustics_config
    voice = None
    if history:
        voice = {"fine_prompt": rng.integers(0, BOOK, (BOOKS, history))}
    coarse = rng.integers(0, BOOK, (COARSE, frames))
    configs = StageConfigs(None, fine=config, codebook_size=BOOK)
    stage = FineStage(
        Call(SimpleNamespace(fine_acoustics=model("fine")), configs),
        tf.constant(coarse[None], tf.int32),
        tf.constant([frames]),
        histories(voice),
        tf.constant(keys_of(0, 1).fine),
    )
    state, before = stage.start(), int(stage.num_history[0])
    for number in range(int(stage.total)):
        # An example does not know the guesses of the window before.
        codes = state.codes.numpy()
        codes[0, window_at(NUMPY, number, frames, before, config).fill :, COARSE:] = (
            BOOK
        )
        state = stage.step(state._replace(codes=tf.constant(codes)))
    codes = stage.codes(state)[0].numpy()
    # What generation has said about frames after the end.
    after = state.codes[0, before + frames :].numpy().T
    trainer = FineTrainer(model("fine"), CONFIG)
    for codebook in range(COARSE, BOOKS):
        # Only the last window's frames are not written again.
        example = fine_example(
            codes,
            voice,
            int(stage.total) - 1,
            codebook,
            config,
            num_given=COARSE,
            unknown=BOOK,
            after=after,
        )
        logits = trainer(batched(example)).numpy()[0, :, :BOOK]
        counts = example["targets"] != IGNORED
        assert counts.any()
        np.testing.assert_array_equal(
            logits.argmax(-1)[counts], example["targets"][counts]
        )


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(
    st.integers(1, 90),
    st.integers(0, 60),
    st.sampled_from([50.0, 33.0, 49.9]),
    st.sampled_from([{}, {"max_coarse_history": 40, "sliding_window_len": 10}]),
    st.integers(0, 2**32 - 1),
)
def test_coarse_sequences_equal_those_of_generation(count, past, rate, coarse, seed):
    """At every step t the ids before it are those that generation has read."""
    rng = np.random.default_rng(seed)
    config = toy(rate, **coarse)
    sizes = sizes_of(config)
    row = utterance(rng, count, config=config)
    voice = voice_of(utterance(rng, past, config=config), sizes) if past else None
    opened = coarse_row(row.semantic, voice, sizes)
    tokens = interleave(row.codes[:COARSE], BOOK, SEMANTIC)
    segments = coarse_segments(opened, len(tokens), sizes)
    assert [s.start for s in segments[1:]] == [s.end for s in segments[:-1]]
    assert not segments or (segments[0].start, segments[-1].end) == (0, len(tokens))
    window = sizes.coarse.sliding_window_len
    for segment in segments:
        example = coarse_example(opened, row.codes, segment, sizes)
        sequence = np.append(example["ids"], tokens[segment.end - 1])
        assert len(sequence) <= sizes.slots
        first = len(sequence) - (segment.end - segment.start)
        for step in range(segment.start, segment.end):
            begin = step // window * window
            prompt = prompt_of(opened, tokens[:begin], sizes)
            fed = np.concatenate([prompt, tokens[begin:step]])
            place = first + step - segment.start
            np.testing.assert_array_equal(sequence[:place], fed)
            assert sequence[place] == tokens[step]


# === The known mistakes of others ===


def test_mistake_history_not_summed(model, rng):
    """Suno sums text and history at 256 positions; others put one after the other."""
    voice = voice_of(utterance(rng, 17), sizes_of())
    args = (np.arange(5), np.arange(7), voice, CONFIG.semantic_config, 42)
    example = semantic_example(*args)
    assert example["text"].shape == example["history"].shape == (12,)
    seen = []
    trainer = SemanticTrainer(model("semantic"), CONFIG)
    forward = trainer.model.forward
    trainer.model.forward = lambda x, **kw: (seen.append(x), forward(x, **kw))[1]
    try:
        trainer(batched(example))
    finally:
        del trainer.model.forward
    table = trainer.model.token_embedding.embeddings.numpy()
    wanted = table[example["text"]] + table[example["history"]]
    np.testing.assert_allclose(seen[0][0, :12], wanted, rtol=1e-6)
    np.testing.assert_allclose(seen[0][0, 12], table[39], rtol=1e-6)
    np.testing.assert_allclose(seen[0][0, 13:], table[np.arange(7)], rtol=1e-6)


def test_mistake_first_token_never_a_target():
    config = CONFIG.semantic_config
    example = semantic_example(np.arange(5), np.array([7, 8]), None, config, 42)
    assert example["targets"].tolist() == [7, 8, SEMANTIC]


def test_mistake_pads_as_targets(rng):
    rows = [utterance(rng, 3), utterance(rng, 9)]
    for stage in ("semantic", "coarse"):
        config = MODELS[stage]().config
        stages = StageExamples(rows, stage, CONFIG, config)
        one, two = stages.example(0), stages.example(1)
        length = max(map(stages.length_of, (one, two))) + 5
        batch = stages.pad([one, two], length)
        for row, example in enumerate((one, two)):
            count = len(example["targets"])
            assert (batch["targets"][row, count:] == IGNORED).all()
            np.testing.assert_array_equal(
                batch["targets"][row, :count], example["targets"]
            )


def test_a_sequence_that_is_cut_has_no_end(rng):
    long = rng.integers(0, SEMANTIC, 50)
    example = semantic_example(np.arange(5), long, None, CONFIG.semantic_config, 42)
    np.testing.assert_array_equal(example["targets"], long[:30])


@pytest.mark.parametrize("seed", range(20))
def test_mistake_odd_crop_phase(seed):
    """The first token after the infer token is one of codebook 0, whatever is cut."""
    rng = np.random.default_rng(seed)
    config = toy(rate_hz=33.0)
    sizes = sizes_of(config)
    rows = [utterance(rng, 60, config=config, name=str(i)) for i in range(2)]
    options = ExampleOptions(history_probability=1.0)
    stages = StageExamples(rows, "coarse", config, MODELS["coarse"]().config, options)
    for epoch in range(10):
        ids = stages.example(0, epoch)["ids"]
        past = ids[config.coarse_acoustics_config.max_coarse_input_length + 1 :]
        books = (past - sizes.offset) // BOOK
        np.testing.assert_array_equal(books, np.arange(len(books)) % COARSE)


def test_mistake_missing_history_windows(rng):
    """Later windows are trained too, at the offset that they have in generation."""
    row = utterance(rng, 60)
    stages = StageExamples([row], "coarse", CONFIG, MODELS["coarse"]().config)
    firsts = {tuple(stages.example(0, epoch)["ids"][:14]) for epoch in range(200)}
    sizes = sizes_of()
    num_tokens = row.codes.shape[1] * COARSE
    opened = coarse_row(row.semantic, None, sizes)
    examples = [
        coarse_example(opened, row.codes, segment, sizes)
        for segment in coarse_segments(opened, num_tokens, sizes)
    ]
    assert firsts == {tuple(example["ids"][:14]) for example in examples}
    assert len(firsts) > 5


@pytest.mark.parametrize("codebook", range(COARSE, BOOKS))
def test_mistake_zero_fill_for_unknown_codebooks(rng, codebook):
    """Unknown codes are 1024 (here 8), and so are frames after the end."""
    codes = rng.integers(0, BOOK, (BOOKS, 11))
    voice = {"fine_prompt": rng.integers(0, BOOK, (BOOKS, 4))}
    example = fine_example(
        codes,
        voice,
        0,
        codebook,
        CONFIG.fine_acoustics_config,
        num_given=COARSE,
        unknown=BOOK,
    )
    ids = example["ids"]
    np.testing.assert_array_equal(ids[:4], voice["fine_prompt"].T)
    np.testing.assert_array_equal(ids[4:15, :codebook], codes[:codebook].T)
    assert (ids[4:15, codebook:] == BOOK).all() and (ids[15:] == BOOK).all()
    targets = example["targets"]
    assert (targets[:4] == IGNORED).all() and (targets[15:] == IGNORED).all()
    np.testing.assert_array_equal(targets[4:15], codes[codebook])


def test_mistake_untrained_codebooks(model, rng):
    rows = [utterance(rng, 25, name=str(i)) for i in range(3)]
    stages = StageExamples(rows, "fine", CONFIG, MODELS["fine"]().config)
    drawn = [int(stages.example(i, e)["codebook"]) for e in range(30) for i in range(3)]
    assert set(drawn) == set(range(COARSE, BOOKS))
    assert min(np.bincount(drawn)[COARSE:]) > 25
    trainer = FineTrainer(model("fine"), CONFIG)
    for codebook in range(COARSE, BOOKS):
        example = next(
            stages.example(0, e)
            for e in range(50)
            if stages.example(0, e)["codebook"] == codebook
        )
        with tf.GradientTape() as tape:
            loss = trainer.measure(batched(example), training=True)[0]
        table = trainer.model.token_embeddings[codebook].embeddings
        gradient = tf.convert_to_tensor(tape.gradient(loss, table))
        # Tied: the head of a codebook is its table, every row of which learns.
        assert (np.abs(gradient.numpy()).sum(-1) > 0).all()


# === Histories and choices ===


@pytest.mark.parametrize("rate_hz", [50.0, 33.0, 49.9])
def test_cropped_histories_are_voices(rng, rate_hz):
    config = toy(rate_hz)
    sizes = sizes_of(config)
    row = utterance(rng, 80, config=config)
    lengths = set()
    for _ in range(50):
        voice = voice_of(row, sizes, rng)
        VoicePreset.from_dict(
            voice,
            semantic_vocab_size=SEMANTIC,
            codebook_size=BOOK,
            num_coarse=COARSE,
            num_fine=BOOKS,
            frames_per_token=50 / rate_hz,
        )
        lengths.add(len(voice["semantic_prompt"]))
    assert min(lengths) >= made.MIN_HISTORY_TOKENS and len(lengths) > 20


def test_histories_are_of_the_same_speaker_and_another_recording(rng, monkeypatch):
    rows = [utterance(rng, 40, speaker=s, name=f"{s}{i}") for s in "abb" for i in "12"]
    seen = []
    monkeypatch.setattr(
        made,
        "voice_of",
        lambda row, sizes, rng: seen.append(row) or voice_of(row, sizes),
    )
    options = ExampleOptions(history_probability=1.0)
    network = MODELS["semantic"]().config
    stages = StageExamples(rows, "semantic", CONFIG, network, options)
    for epoch in range(20):
        for index, row in enumerate(rows):
            seen.clear()
            stages.example(index, epoch)
            assert seen[0].speaker == row.speaker and seen[0] is not row
    lone = StageExamples(rows[:1], "semantic", CONFIG, MODELS["semantic"]().config)
    assert (lone.example(0)["history"] == SEMANTIC).all()


def test_only_the_default_speaker_is_spoken_without_a_history(rng):
    rows = [utterance(rng, 40, speaker=s, name=f"{s}{i}") for s in "ab" for i in "12"]
    config = MODELS["semantic"]().config
    options = ExampleOptions(history_probability=0.5, default_speaker="a")
    stages = StageExamples(rows, "semantic", CONFIG, config, options)
    has_history = {
        row.id: {
            bool((stages.example(index, epoch)["history"] != SEMANTIC).any())
            for epoch in range(20)
        }
        for index, row in enumerate(rows)
    }
    assert has_history == {
        "a1": {True, False},
        "a2": {True, False},
        "b1": {True},
        "b2": {True},
    }


@pytest.mark.parametrize("stage", ["semantic", "coarse", "fine"])
def test_an_example_is_a_function_of_seed_epoch_and_number(rng, stage):
    rows = [utterance(rng, 40, name=str(i)) for i in range(4)]

    def drawn(seed, epoch, index):
        config = MODELS[stage]().config
        return StageExamples(rows, stage, CONFIG, config, seed=seed).example(
            index, epoch
        )

    def same(one, two):
        return all(np.array_equal(one[name], two[name]) for name in one)

    assert same(drawn(1, 2, 3), drawn(1, 2, 3))
    assert any(not same(drawn(1, 2, 3), drawn(1, epoch, 3)) for epoch in range(3, 9))
    assert any(not same(drawn(1, 2, 3), drawn(seed, 2, 3)) for seed in range(2, 9))


def test_past_tokens_may_count_a_little(rng):
    row = utterance(rng, 40)
    sizes = sizes_of()
    opened = coarse_row(row.semantic, voice_of(utterance(rng, 17), sizes), sizes)
    segment = coarse_segments(opened, 80, sizes)[1]
    example = coarse_example(opened, row.codes, segment, sizes, 0.25)
    new, own = segment.end - segment.start, segment.start
    weights = example["weights"]
    assert (weights[-new:] == 1).all() and (weights[-new - own : -new] == 0.25).all()
    assert (weights[: -new - own] == 0).all()
    assert ((example["targets"] == IGNORED) == (weights == 0)).all()


def test_token_noise_changes_what_is_read_and_not_what_is_said(rng):
    rows = [utterance(rng, 40, name=str(i)) for i in range(50)]
    config = MODELS["semantic"]().config

    def all_of(noise):
        options = ExampleOptions(token_noise=noise)
        stages = StageExamples(rows, "semantic", CONFIG, config, options)
        return stages, [stages.example(index) for index in range(len(rows))]

    stages, noisy = all_of(0.25)
    _, plain = all_of(0.0)
    for one, other in zip(noisy, plain, strict=True):
        for name, array in other.items():
            np.testing.assert_array_equal(one[name], array)
        assert "read" not in other and one["read"].dtype == np.int32
        assert ((one["read"] >= 0) & (one["read"] <= SEMANTIC)).all()
    changed = np.mean([np.mean(one["read"] != one["targets"]) for one in noisy])
    assert 0.2 < changed < 0.3
    # A batch is padded as the network without noise would read it.
    trainer = trainers.TRAINERS["semantic"](MODELS["semantic"](), CONFIG)
    length = stages.longest
    batch = stages.pad(plain[:2], length)
    same = stages.pad([{**one, "read": one["targets"]} for one in plain[:2]], length)
    np.testing.assert_allclose(trainer(batch), trainer(same), atol=1e-6)
    other = trainer(stages.pad(noisy[:2], length))
    assert np.abs(np.asarray(other) - np.asarray(trainer(batch))).max() > 1e-3


@pytest.mark.parametrize("stage", ["coarse", "fine"])
def test_token_noise_gives_codes_of_the_same_codebook(rng, stage):
    rows = [utterance(rng, 40, name=str(i)) for i in range(50)]
    config, size = MODELS[stage]().config, CONFIG.codebook_size
    offset = CONFIG.semantic_config.semantic_vocab_size
    changed = []
    for index in range(len(rows)):
        plain, noisy = (
            StageExamples(
                rows, stage, CONFIG, config, ExampleOptions(token_noise=noise)
            ).example(index)
            for noise in (0.0, 0.25)
        )
        for name in plain.keys() - {"ids"}:
            np.testing.assert_array_equal(noisy[name], plain[name])
        one, other = plain["ids"], noisy["ids"]
        assert other.dtype == one.dtype
        if stage == "coarse":
            is_code = (one >= offset) & (one < offset + 2 * size)
            codebooks = (one - offset) // size, (other - offset) // size
            np.testing.assert_array_equal(codebooks[0][is_code], codebooks[1][is_code])
        else:
            is_code = one != size  # which stands for a code that is unknown
            assert ((other >= 0) & (other < size))[is_code].all()
        np.testing.assert_array_equal(one[~is_code], other[~is_code])
        changed.append((one != other)[is_code])
    # Some random codes are the right ones.
    share = np.mean(np.concatenate(changed)) / (1 - 1 / size)
    assert 0.2 < share < 0.3


@hypothesis.given(st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_a_part_is_read_at_another_tempo(count, seed):
    rng = np.random.default_rng(seed)
    order, is_own = made.changed_tempo(count, rng, 1000)
    assert order.shape == is_own.shape and (np.diff(order) >= 0).all()
    # Outside the part, every token stands once; inside, from one end to the other.
    part = order[~is_own]
    outside = order[is_own]
    assert len(set(outside)) == len(outside)
    assert not set(part) & set(outside)
    assert part.size <= 2 * 0.6 * count + 2
    if part.size:
        assert set(range(count)) - set(outside) >= set(range(part[0], part[-1] + 1))
        assert (np.diff(part) <= 2).all() and (np.bincount(part).max() <= 2)
    assert order[-1] == count - 1 or not is_own[-1]
    assert len(made.changed_tempo(count, rng, 5)[0]) <= 5


def test_tempo_noise_is_read_and_not_learned(rng):
    config = MODELS["semantic"]().config
    rows = [utterance(rng, 16, name=str(i)) for i in range(40)]

    def all_of(**options):
        options = ExampleOptions(history_probability=0.0, **options)
        stages = StageExamples(rows, "semantic", CONFIG, config, options)
        return stages, [stages.example(index) for index in range(len(rows))]

    stages, changed = all_of(tempo_noise=0.5, guided_attention=1.0)
    _, plain = all_of()
    lengths = {len(one["read"]) for one in changed}
    assert len(lengths) > 4 and max(lengths) <= stages.longest
    same = 0
    for one, other in zip(changed, plain, strict=True):
        learned = one["targets"] != IGNORED
        np.testing.assert_array_equal(one["targets"][learned], one["read"][learned])
        assert set(one["targets"][learned]) <= set(other["targets"])
        # Where a token stands in its recording is known, whatever the tempo.
        count = len(other["targets"])
        origin = np.round(one["places"] * count - 0.5).astype(int)
        np.testing.assert_array_equal(one["read"], other["targets"][origin])
        same += learned.all()
    assert 10 < same < 30
    batch = stages.pad(changed[:3], stages.longest)
    assert batch["places"].shape == batch["read"].shape == batch["targets"].shape
    assert batch["places"].min() == made.NO_PLACE


@pytest.mark.parametrize("options", [{"stage": "codec"}, {"utterances": []}])
def test_wrong_examples_are_refused(rng, options):
    right = {"utterances": [utterance(rng)], "stage": "semantic"}
    with pytest.raises(ValueError, match="Received"):
        StageExamples(**{**right, **options}, config=CONFIG, model_config=None)


# === Training ===


@pytest.mark.parametrize(
    "stage", ["semantic", pytest.param("coarse", marks=pytest.mark.slow), "fine"]
)
def test_a_batch_is_learned(rng, stage):
    import keras

    rows = [utterance(rng, 12, name=str(i)) for i in range(4)]
    config = dataclasses.replace(MODELS[stage]().config, initializer_range=0.02)
    network = type(MODELS[stage]())(config)
    options = ExampleOptions(history_probability=0.0)
    stages = StageExamples(rows, stage, CONFIG, config, options)
    one = [stages.example(i) for i in range(4)]
    batch = stages.pad(one, max(map(stages.length_of, one)))
    trainer = trainers.TRAINERS[stage](network, CONFIG)
    trainer.compile(optimizer=keras.optimizers.Adam(1e-2), jit_compile=False)
    dataset = tf.data.Dataset.from_tensors(batch).repeat()
    how = {"steps_per_epoch": 30, "epochs": 4, "shuffle": False, "verbose": 0}
    history = trainer.fit(dataset, **how).history
    assert history["loss"][-1] < 0.2 * history["loss"][0]
    assert history["accuracy"][-1] > 0.9
    result = trainer.evaluate(
        tf.data.Dataset.from_tensors(batch), verbose=0, return_dict=True
    )
    assert result["loss"] < history["loss"][0]
