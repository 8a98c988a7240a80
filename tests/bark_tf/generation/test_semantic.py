"""The text-to-semantic stage."""

import numpy as np
import pytest
import tensorflow as tf
import toy

from bark_tf.config import BarkSemanticConfig, BarkSemanticGenerationConfig
from bark_tf.generation import semantic as stage
from bark_tf.generation.arrays import NUMPY, TENSORS
from bark_tf.generation.histories import histories_of
from bark_tf.generation.semantic import (
    check_semantic_limit,
    lengths_of,
    prompt_embeddings,
    prompt_ids,
)
from bark_tf.models.causal import BarkSemanticModel

CONFIG = toy.generation_config().semantic_config


@pytest.fixture(scope="module")
def model():
    return toy.shared_bark().semantic


def generate(model, inputs, **options):
    options = {"semantic_generation_config": CONFIG, "jit_compile": False, **options}
    return np.array(model.generate(**inputs, **options))


def ends(tokens):
    return [int(np.sum(row != toy.EOS)) for row in tokens]


# === The prompt ===


def prompts(ids, mask, histories):
    """Text and history ids; the same from arrays and from tensors."""
    voices = [None if one is None else {"semantic_prompt": one} for one in histories]
    histories = histories_of(voices, 2, 4)
    ids = np.asarray(ids, np.int32)
    arrays = prompt_ids(NUMPY, ids, mask, histories, CONFIG)
    tensors = prompt_ids(
        TENSORS,
        *(one if one is None else tf.constant(one) for one in (ids, mask)),
        tf.nest.map_structure(tf.constant, histories),
        CONFIG,
    )
    for array, tensor in zip(arrays, tensors, strict=True):
        assert array.dtype == np.int32
        np.testing.assert_array_equal(array, tensor)
    return arrays


def test_text_ids_are_shifted_and_filled_up():
    ids = np.array([[0, 4, 9], [1, 2, 0]])
    text, history = prompts(ids, np.array([[1, 1, 1], [1, 0, 0]]), [None] * 2)
    assert text.tolist() == [[26, 30, 35] + [36] * 5, [27] + [36] * 7]
    assert history.tolist() == [[toy.EOS] * 8] * 2


def test_without_a_mask_no_text_id_is_padding():
    text, _ = prompts(np.zeros((1, 3), int), None, [None])
    assert text.tolist() == [[26, 26, 26] + [36] * 5]


def test_long_texts_lose_their_end_and_long_histories_their_start():
    ids = np.arange(10)[None]
    text, history = prompts(ids, None, [np.arange(11)])
    assert text.tolist() == [list(range(26, 34))]
    assert history.tolist() == [list(range(3, 11))]


def test_histories_begin_at_the_front_and_are_each_rows_own():
    ids = np.zeros((3, 2), int)
    _, history = prompts(ids, None, [np.array([5, 6]), None, np.array([7])])
    pad = toy.EOS
    assert history.tolist() == [[5, 6] + [pad] * 6, [pad] * 8, [7] + [pad] * 7]


def test_the_prompt_is_the_sum_of_two_embeddings_and_the_infer_token(model):
    text, history = toy.ids(2, 8, high=40), toy.ids(2, 8, high=23, seed=1)
    prompt = np.array(prompt_embeddings(model, text, history, 38))
    table = np.array(model.token_embedding.embeddings)
    assert prompt.shape == (2, 9, 16)
    np.testing.assert_allclose(prompt[:, :8], table[text] + table[history], atol=1e-6)
    np.testing.assert_array_equal(prompt[:, 8], table[[38, 38]])


def test_ids_beyond_the_text_vocabulary_are_refused(model):
    for wrong in (14, -1):
        inputs = toy.texts(1)
        inputs["input_ids"][0, 0] = wrong
        with pytest.raises(ValueError, match=r"\[0, 14\).*Received"):
            generate(model, inputs)


# === Ends and limits ===


def test_rows_end_where_the_network_says(model):
    tokens = generate(model, toy.texts(1, 4, 17), max_new_tokens=40)
    assert ends(tokens) == [6, 9, 2] and tokens.shape[1] == 10
    for row, length in zip(tokens, ends(tokens), strict=True):
        assert np.all(row[:length] < 20) and np.all(row[length:] == toy.EOS)


@pytest.mark.parametrize("limit", [0, 1, 2, 7])
def test_max_new_tokens_is_the_limit(model, limit):
    tokens = generate(model, toy.texts(2, 17, 3), max_new_tokens=limit)
    whole = generate(model, toy.texts(2, 17, 3))
    assert tokens.shape == (3, limit)
    assert np.array_equal(tokens, whole[:, :limit])


def test_the_whole_position_table_can_be_used(model):
    """57 prompt positions and 56 tokens, of which the last is never fed."""
    tokens = generate(model, toy.texts(1), max_new_tokens=56, min_new_tokens=56)
    assert tokens.shape == (1, 56) and np.all(tokens < 20)
    with pytest.raises(ValueError, match=r"at most 56: .*=57"):
        generate(model, toy.texts(1), max_new_tokens=57)


def test_the_real_limit_is_768():
    sizes, config = (
        BarkSemanticConfig(input_vocab_size=129_600),
        BarkSemanticGenerationConfig(),
    )
    check_semantic_limit(sizes, config)
    with pytest.raises(ValueError, match="max_new_tokens must be at most 768"):
        check_semantic_limit(sizes, config.replace(max_new_tokens=769))


def test_min_new_tokens_puts_the_end_off(model):
    plain = generate(model, toy.texts(17))
    late = generate(model, toy.texts(17), min_new_tokens=5)
    assert ends(plain) == [2] and ends(late)[0] >= 5
    assert np.array_equal(late[0, :2], plain[0, :2])


def test_min_eos_p_ends_rows_early(model):
    """Against the probabilities of the network itself, row by row."""
    inputs, least = toy.texts(2, 7, 9, 12), 0.02
    plain = generate(model, inputs, max_new_tokens=20)
    early = generate(model, inputs, max_new_tokens=20, min_eos_p=least)
    text, history = prompts(*inputs.values(), [None] * 4)
    prompt = prompt_embeddings(model, text, history, 38)
    fed = np.concatenate([prompt, model.token_embedding(plain)], axis=1)
    logits = np.array(model(inputs_embeds=fed).logits)[:, 8:, :23]
    logits[:, :, 20:22] = -np.inf
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p = (p / p.sum(-1, keepdims=True))[:, :, toy.EOS]
    expected = [min(20, int(np.argmax(np.append(row, 1) > least))) for row in p]
    assert ends(early) == expected
    assert ends(plain) != expected
    for row, length in enumerate(expected):
        assert np.array_equal(early[row, :length], plain[row, :length])


def test_min_eos_p_from_the_configuration_is_the_keyword(model):
    inputs = toy.texts(2, 7, 9, 12)
    config = CONFIG.replace(min_eos_p=0.02)
    assert np.array_equal(
        generate(model, inputs, semantic_generation_config=config),
        generate(model, inputs, min_eos_p=0.02),
    )


def test_repetition_penalty_changes_tokens(model):
    plain = generate(model, toy.texts(2))
    penalized = generate(model, toy.texts(2), repetition_penalty=3.0)
    assert not np.array_equal(plain, penalized)


def test_rows_are_as_long_as_what_stands_before_their_end():
    tokens = [[1, 2, 22, 5], [22, 22, 22, 22], [6, 7, 8, 9]]
    assert lengths_of(np.array(tokens), 22).numpy().tolist() == [2, 0, 4]
    assert lengths_of(np.zeros((2, 0), int), 22).numpy().tolist() == [0, 0]


# === Rows, seeds, traces ===

SAMPLED = {"do_sample": True, "temperature": 1.3}


def test_a_row_is_the_same_alone_and_in_a_batch(model):
    texts, seeds = [1, 2, 17, 4], [10, 11, 12, 13]
    voices = [None, toy.voice(4), None, toy.voice(20, 1)]
    batch = generate(
        model, toy.texts(*texts), seed=seeds, history_prompt=voices, **SAMPLED
    )
    for row in range(4):
        options = {"seed": [seeds[row]], "history_prompt": [voices[row]], **SAMPLED}
        alone = generate(model, toy.texts(texts[row]), **options)
        count = alone.shape[1]
        assert np.array_equal(batch[row, :count], alone[0])
        assert np.all(batch[row, count:] == toy.EOS)


def test_seeds_decide_the_draws(model):
    inputs = toy.texts(2, 2, 3)
    first = generate(model, inputs, seed=5, **SAMPLED)
    assert np.array_equal(first, generate(model, inputs, seed=5, **SAMPLED))
    assert not np.array_equal(first, generate(model, inputs, seed=6, **SAMPLED))
    unseeded = [generate(model, inputs, **SAMPLED).tolist() for _ in range(2)]
    assert unseeded[0] != unseeded[1]
    assert first[0].tolist() != first[1].tolist()  # same text, streams of their own


def test_the_first_row_of_a_seed_is_that_seed_in_a_list(model):
    one = generate(model, toy.texts(2), seed=5, **SAMPLED)
    listed = generate(model, toy.texts(3, 2, 4), seed=[9, 5, 7], **SAMPLED)
    count = min(one.shape[1], listed.shape[1])
    assert np.array_equal(one[0, :count], listed[1, :count])


def test_greedy_choices_need_no_seed(model):
    inputs = toy.texts(2, 3, 4)
    assert np.array_equal(generate(model, inputs), generate(model, inputs, seed=1))


@pytest.mark.parametrize("seed", [[1], [1, 2, 3], -1, 1.5, "7", [1, None]], ids=str)
def test_wrong_seeds_are_refused(model, seed):
    with pytest.raises(ValueError, match="seed"):
        generate(model, toy.texts(2, 3), seed=seed, **SAMPLED)


def test_progress_counts_the_tokens(model, monkeypatch):
    monkeypatch.setattr(stage, "REPORT_EVERY", 20)
    calls = []
    toy.shared_bark().generate(
        **toy.texts(17),
        semantic_max_new_tokens=50,
        semantic_min_new_tokens=50,
        jit_compile=False,
        progress=lambda *call: calls.append(call),
    )
    calls = [call[1:] for call in calls if call[0] == "semantic"]
    assert calls == [(1, 50), (21, 50), (41, 50), (50, 50)]


def test_other_values_of_filters_need_no_other_trace(model):
    filters = {"top_k": 5, "top_p": 0.9, "min_eos_p": 0.9, "repetition_penalty": 1.1}
    options = {"min_new_tokens": 2, **filters, **SAMPLED}
    generate(model, toy.texts(1), **options)
    before = toy.count_traces(model)
    others = {"top_k": 3, "top_p": 0.5, "min_eos_p": 0.5, "repetition_penalty": 1.3}
    generate(model, toy.texts(1), **{**options, **others, "min_new_tokens": 3})
    assert toy.count_traces(model) == before


def test_batch_sizes_share_programs():
    """1, 3, 4 and 7 rows run as 1, 4, 4 and 8: a prefill and a decode for each."""
    model = BarkSemanticModel(toy.bark_config().semantic_config.replace(num_layers=1))
    traces = []
    for batch in (1, 3, 4, 7):
        generate(model, toy.texts(*[4] * batch), min_new_tokens=2)
        traces.append(toy.count_traces(model))
    assert traces == [2, 4, 4, 6]


@pytest.mark.parametrize("shape", [(17,), (1, 17), (2, 16)])
def test_a_mask_of_another_shape_is_refused(model, shape):
    inputs = {**toy.texts(2, 17), "attention_mask": np.ones(shape, int)}
    with pytest.raises(ValueError, match="attention_mask must have the shape"):
        generate(model, inputs)
