"""The `generate` methods of the sub-models, and what they share."""

import numpy as np
import pytest
import toy


@pytest.fixture(scope="module")
def bark():
    return toy.shared_bark()


# === Stage after stage, as one would do by hand ===


def test_the_stages_by_hand_are_the_whole(bark):
    config, inputs = bark.generation_config, toy.texts(1, 17, 5)
    configs = config.semantic_config, config.coarse_acoustics_config
    voice, options = toy.voice(25), {"do_sample": True, "seed": 4}
    whole = bark.generate(
        **inputs, history_prompt=voice, return_dict=True, jit_compile=False, **options
    )
    options |= {"jit_compile": False, "use_cache": False, "pad_token_id": 0}
    semantic = bark.semantic.generate(
        inputs["input_ids"], configs[0], voice, inputs["attention_mask"], **options
    )
    coarse, lengths = bark.coarse_acoustics.generate(
        semantic, *configs, 8, voice, True, **options
    )
    fine = bark.fine_acoustics.generate(
        coarse,
        *configs,
        config.fine_acoustics_config,
        8,
        voice,
        output_lengths=lengths,
        **options,
    )
    audio = bark.codec_decode(fine, [length // 2 for length in lengths])
    assert np.array_equal(semantic, whole.semantic)
    assert np.array_equal(fine, whole.fine)
    assert [length // 2 * toy.SAMPLES_PER_FRAME for length in lengths] == whole.lengths
    assert toy.largest_difference(audio, whole.audio) < 1e-6
    assert len(set(lengths)) > 1


def test_coarse_rows_end_where_their_semantic_tokens_do(bark):
    semantic = np.full((3, 9), toy.EOS)
    semantic[0], semantic[1, :4] = 7, 9
    config = bark.generation_config
    arguments = (config.semantic_config, config.coarse_acoustics_config, 8)
    tokens, lengths = bark.coarse_acoustics.generate(
        semantic, *arguments, return_output_lengths=True, jit_compile=False
    )
    assert lengths == [26, 12, 0] and tokens.shape == (3, 26)
    for row, length in enumerate(lengths):
        assert np.all(tokens[row, :length] < 36)
        assert np.all(tokens[row, length:] == 36)


def test_several_takes_per_text_follow_each_other(bark):
    inputs, config = toy.texts(1, 2), bark.generation_config.semantic_config
    options = {"do_sample": True, "jit_compile": False}
    tokens = bark.semantic.generate(
        **inputs,
        semantic_generation_config=config,
        num_return_sequences=2,
        seed=0,
        **options,
    )
    twice = {name: np.repeat(array, 2, axis=0) for name, array in inputs.items()}
    expected = bark.semantic.generate(
        **twice, semantic_generation_config=config, seed=0, **options
    )
    assert tokens.shape[0] == 4 and np.array_equal(tokens, expected)
    assert not np.array_equal(tokens[0], tokens[1])


def test_semantic_tokens_have_two_axes(bark):
    with pytest.raises(ValueError, match=r"batch, time.*shape \(3,\)"):
        bark.coarse_acoustics.generate([1, 2, 3])


@pytest.mark.parametrize(
    ("part", "inputs"),
    [
        ("semantic", toy.texts(1)["input_ids"]),
        ("coarse_acoustics", np.ones((1, 3), int)),
        ("fine_acoustics", np.full((1, 6), 21)),
    ],
)
def test_unknown_options_are_named(bark, part, inputs):
    with pytest.raises(ValueError, match="no field 'temprature'"):
        getattr(bark, part).generate(inputs, temprature=1.0)


def test_coarse_tokens_of_half_a_frame_are_refused(bark):
    with pytest.raises(ValueError, match=r"multiple of 2\. Received: 5"):
        bark.fine_acoustics.generate(np.full((1, 5), 21), codebook_size=8)
