"""The stages against a slow NumPy version of Suno's loops, without caches."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
import toy

from bark_tf.generation.semantic import lengths_of

REFERENCE = Path(__file__).parents[2] / "reference" / "suno_reference.py"
suno = SimpleNamespace(**runpy.run_path(str(REFERENCE)))

NUMBERS = suno.Numbers(
    text_encoding_offset=26,
    semantic_pad_token=toy.EOS,
    text_pad_token=36,
    semantic_infer_token=38,
    semantic_vocab_size=20,
    max_text=toy.PROMPT,
    codebook_size=8,
    num_fine=4,
    coarse_semantic_pad_token=36,
    coarse_infer_token=38,
    max_coarse_input=toy.PROMPT,
    max_coarse_history=12,
    sliding_window_len=6,
    fine_window=16,
    fine_hop=8,
)
FIRST_IDS = np.array([[20], [28]])  # of the two codebooks
VOICES = {"no voice": None, "short voice": toy.voice(3), "long voice": toy.voice(25)}


@pytest.fixture(scope="module")
def bark():
    return toy.shared_bark()


LONGEST = 40  # positions of a prompt
LIMIT = 12  # semantic tokens


@pytest.fixture(scope="module")
def networks(bark):
    """The networks as the reference calls them, traced once.

    A causal network does not see what stands behind a position, so that prompts are
    filled up to one length.
    """
    semantic, coarse, fine = (
        tf.function(function, reduce_retracing=True)
        for function in (
            lambda embeddings: bark.semantic(inputs_embeds=embeddings).logits,
            lambda ids: bark.coarse_acoustics(ids).logits,
            lambda codebook, codes: bark.fine_acoustics(codebook, codes).logits,
        )
    )

    def last(network, prompt):
        room = [(0, LONGEST - len(prompt))] + [(0, 0)] * (prompt.ndim - 1)
        return np.array(network(np.pad(prompt, room)[None]))[0, len(prompt) - 1]

    return SimpleNamespace(
        embed=lambda ids: np.array(bark.semantic.token_embedding(np.array(ids))),
        semantic=lambda embeddings: last(semantic, embeddings),
        coarse=lambda ids: last(coarse, ids),
        fine=lambda codebook, codes: np.array(fine(codebook, codes[None]))[0],
    )


@pytest.mark.parametrize("voice", VOICES.values(), ids=VOICES)
def test_semantic_tokens(bark, networks, voice):
    inputs = toy.texts(1, 2, 17)
    ours = bark.semantic.generate(
        **inputs,
        history_prompt=voice,
        semantic_generation_config=bark.generation_config.semantic_config,
        max_new_tokens=LIMIT,
        jit_compile=False,
    )
    history = None if voice is None else voice["semantic_prompt"]
    for row, length in enumerate(lengths_of(ours, toy.EOS)):
        text = inputs["input_ids"][row][inputs["attention_mask"][row] == 1]
        expected = suno.semantic(
            text, networks.embed, networks.semantic, NUMBERS, LIMIT, history
        )
        assert ours[row, :length].numpy().tolist() == expected


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"sliding_window_len": 5, "max_coarse_history": 21},
        {"sliding_window_len": 20, "max_coarse_history": 7, "max_coarse_input": 5},
    ],
    ids=str,
)
@pytest.mark.parametrize("voice", VOICES.values(), ids=VOICES)
def test_coarse_codes(bark, networks, voice, sizes):
    """An odd window ends in the middle of a frame; the next one goes on there."""
    numbers = NUMBERS._replace(**sizes)
    config = bark.generation_config
    coarse_config = config.coarse_acoustics_config.replace(
        sliding_window_len=numbers.sliding_window_len,
        max_coarse_history=numbers.max_coarse_history,
        max_coarse_input_length=numbers.max_coarse_input,
    )

    lengths = (1, 2, 7, 17)
    semantic = np.full((4, 17), toy.EOS)
    for row, length in enumerate(lengths):
        semantic[row, :length] = toy.ids(length, high=20, seed=row)
    tokens = np.array(
        bark.coarse_acoustics.generate(
            semantic,
            config.semantic_config,
            coarse_config,
            config.codebook_size,
            voice,
            jit_compile=False,
        )
    )
    for row, length in enumerate(lengths):
        codes = suno.coarse(semantic[row, :length], networks.coarse, numbers, voice)
        expected = (codes + FIRST_IDS).T.ravel()
        assert codes.shape[1] == int(length * 75 / 49.9)
        assert tokens[row, : len(expected)].tolist() == expected.tolist()
        assert np.all(tokens[row, len(expected) :] == 36)


@pytest.mark.parametrize("hop", [8, 5])
@pytest.mark.parametrize("voice", VOICES.values(), ids=VOICES)
def test_fine_codes(bark, networks, voice, hop):
    config = bark.generation_config
    numbers = NUMBERS._replace(fine_hop=hop)
    fine_config = config.fine_acoustics_config.replace(max_fine_history_length=hop)

    lengths = (1, 7, 8, 16, 17, 41)
    coarse = toy.ids(6, 2, 41, high=8)
    ids = (coarse + FIRST_IDS).transpose(0, 2, 1).reshape(6, -1)
    codes = bark.fine_acoustics.generate(
        ids,
        config.semantic_config,
        config.coarse_acoustics_config,
        fine_config,
        config.codebook_size,
        voice,
        output_lengths=[2 * length for length in lengths],
    )
    for row, length in enumerate(lengths):
        expected = suno.fine(coarse[row, :, :length], networks.fine, numbers, voice)
        np.testing.assert_array_equal(codes[row, :, :length], expected)
