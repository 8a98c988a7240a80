"""Text to audio through all four networks, at toy size."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import toy

from bark_tf.bark import BarkModel, BarkOutput
from bark_tf.config import BarkConfig, BarkGenerationConfig
from bark_tf.models.transformer import TransformerModel
from bark_tf.voices import VoicePreset

SAMPLED = {"do_sample": True, "temperature": 1.2}
HOP = toy.SAMPLES_PER_FRAME


@pytest.fixture(scope="module")
def bark():
    return toy.shared_bark()


def generate(bark, *seeds, **options):
    """Everything that texts become; compiled only where a test asks for it."""
    options = {"return_dict": True, "jit_compile": False, **options}
    return bark.generate(**toy.texts(*seeds), **options)


def arrays(output):
    return [np.array(array) for array in (output.semantic, *output[2:5], output.audio)]


def assert_equal(output, other):
    for a, b in zip(arrays(output), arrays(other), strict=True):
        np.testing.assert_array_equal(a, b)


# === What comes out ===


def test_shapes_and_dtypes(bark):
    output = generate(bark, 1, 17, 4)
    assert isinstance(output, BarkOutput)
    counts = [6, 2, 9]  # semantic tokens; floor(count * 75 / 49.9) frames
    frames = [9, 3, 13]
    assert output.lengths == [HOP * count for count in frames]
    assert output.audio.shape == (3, HOP * 13) and output.audio.dtype == tf.float32
    assert output.semantic.shape == (3, 10) and output.semantic.dtype == tf.int32
    assert output.coarse.shape == (3, 2, 13) and output.fine.shape == (3, 4, 13)
    assert np.array_equal(output.coarse, output.fine[:, :2])
    for row in range(3):
        assert np.sum(output.semantic[row] != toy.EOS) == counts[row]
        assert not np.any(output.fine[row, :, frames[row] :])
        assert not np.any(output.audio[row, output.lengths[row] :])
        assert np.std(output.audio[row, : output.lengths[row]]) > 1e-3
    assert np.all(np.array(output.fine) < 8)


def test_plain_and_with_lengths_are_the_same_audio(bark):
    inputs, output = toy.texts(1, 17), generate(bark, 1, 17)
    plain = bark.generate(**inputs, jit_compile=False)
    audio, lengths = bark.generate(
        **inputs, return_output_lengths=True, jit_compile=False
    )
    assert np.array_equal(plain, output.audio) and np.array_equal(audio, output.audio)
    assert lengths == output.lengths == [36, 12]


def test_audio_is_the_codec_s_of_the_codes(bark):
    """Decoded in the pieces in which it could be streamed, so up to rounding."""
    output = generate(bark, 3, 17, semantic_max_new_tokens=30)
    frames = [length // HOP for length in output.lengths]
    audio = bark.codec_decode(output.fine, frames)
    assert frames == [45, 3]
    assert toy.largest_difference(audio, output.audio) < 1e-6


def test_the_mask_says_where_the_text_ends(bark):
    inputs = toy.texts(4)
    masked = bark.semantic.generate(
        **inputs,
        **{"semantic_generation_config": bark.generation_config.semantic_config},
    )
    output = generate(bark, 4)
    assert np.array_equal(masked, output.semantic)
    unmasked = bark.generate(inputs["input_ids"], return_dict=True, jit_compile=False)
    assert not np.array_equal(unmasked.semantic, output.semantic)


def test_a_row_that_ends_at_once_is_empty_and_warned_about(bark):
    with pytest.warns(UserWarning, match=r"ended rows \[0, 1\] at once"):
        output = generate(bark, 1, 2, min_eos_p=1e-9)
    assert output.lengths == [0, 0] and output.audio.shape == (2, 0)
    assert output.coarse.shape == (2, 2, 0) and output.fine.shape == (2, 4, 0)
    assert output.voice == [None, None]


def test_an_empty_row_leaves_the_others_alone(bark):
    """Row 1 is the text and voice whose end comes at once."""
    voices = [None, toy.voice()]
    with pytest.warns(UserWarning, match=r"ended rows \[1\] at once"):
        output = generate(bark, 17, 16, history_prompt=voices)
    alone = generate(bark, 17)
    assert output.lengths == [12, 0] and output.voice[1] is None
    assert np.array_equal(output.audio[:1], alone.audio)
    with pytest.warns(UserWarning, match=r"\[0\] at once"):
        assert generate(bark, 16, history_prompt=toy.voice()).voice is None


# === A voice to continue from ===


def test_a_single_row_gives_a_voice_to_continue_from(bark):
    output = generate(bark, 4)
    voice = output.voice
    assert isinstance(voice, VoicePreset)
    assert np.array_equal(voice.semantic_prompt, output.semantic[0, :9])
    assert np.array_equal(voice.coarse_prompt, output.coarse[0])
    assert np.array_equal(voice.fine_prompt, output.fine[0])
    voice.validate(
        semantic_vocab_size=20, codebook_size=8, num_fine=4, strict_rate=True
    )
    again = generate(bark, 4, history_prompt=voice)
    assert not np.array_equal(again.semantic, output.semantic)


def test_several_rows_give_a_voice_each(bark):
    output = generate(bark, 4, 17)
    assert [voice.fine_prompt.shape for voice in output.voice] == [(4, 13), (4, 3)]
    assert output.voice[0] == generate(bark, 4).voice


# === Rows are on their own ===


@pytest.mark.parametrize("options", [{}, SAMPLED], ids=["greedy", "sampled"])
def test_a_row_is_the_same_alone_and_in_a_batch(bark, options):
    """Bit by bit, beside rows of other lengths and voices."""
    seeds = [1, 3, 17, 4, 2]
    voices = [None, toy.voice(4), None, toy.voice(25, 1), None]
    takes = [10, 11, 12, 13, 14]
    options = {"semantic_max_new_tokens": 20, **options}
    batch = generate(bark, *seeds, history_prompt=voices, seed=takes, **options)
    assert len(set(batch.lengths)) > 2
    for row in range(5):
        alone = generate(
            bark, seeds[row], history_prompt=voices[row], seed=[takes[row]], **options
        )
        frames = alone.fine.shape[2]
        assert alone.lengths == [batch.lengths[row]] == [HOP * frames]
        assert np.array_equal(batch.fine[row, :, :frames], alone.fine[0])
        assert np.array_equal(batch.audio[row, : HOP * frames], alone.audio[0])
        assert batch.voice[row] == alone.voice


def test_voices_one_for_all_or_one_per_row(bark):
    first, second = toy.voice(4), toy.voice(25, 1)
    listed = generate(bark, 4, 4, history_prompt=[first, second])
    for row, voice in enumerate((first, second)):
        shared = generate(bark, 4, 4, history_prompt=voice)
        count = shared.lengths[row]
        assert listed.lengths[row] == count
        assert np.array_equal(listed.audio[row, :count], shared.audio[row, :count])
    plain = {key: np.array(value, np.uint16) for key, value in first.items()}
    assert_equal(
        generate(bark, 4, history_prompt=plain), generate(bark, 4, history_prompt=first)
    )
    assert not np.array_equal(listed.semantic[0], listed.semantic[1])


def test_several_takes_of_a_text(bark):
    output = generate(bark, 1, 4, num_return_sequences=2, seed=3, **SAMPLED)
    assert output.semantic.shape[0] == 4
    assert_equal(output, generate(bark, 1, 1, 4, 4, seed=3, **SAMPLED))


# === Seeds ===


def test_a_seed_decides_the_audio(bark):
    first = generate(bark, 4, 4, seed=7, **SAMPLED)
    assert_equal(first, generate(bark, 4, 4, seed=7, **SAMPLED))
    other = generate(bark, 4, 4, seed=8, **SAMPLED)
    assert not np.array_equal(first.semantic, other.semantic)
    assert not np.array_equal(first.semantic[0], first.semantic[1])


def test_a_list_of_seeds_is_one_per_row_wherever_the_row_is(bark):
    first = generate(bark, 4, 1, 4, seed=[7, 8, 9], **SAMPLED)
    second = generate(bark, 1, 4, 4, seed=[8, 9, 7], **SAMPLED)
    for row, place in ((0, 2), (1, 0), (2, 1)):
        count = first.lengths[row]
        assert second.lengths[place] == count
        assert np.array_equal(first.audio[row, :count], second.audio[place, :count])


def test_without_a_seed_every_take_differs(bark):
    takes = [generate(bark, 4, 4, 4, 4, **SAMPLED).semantic for _ in range(2)]
    assert takes[0].shape != takes[1].shape or not np.array_equal(*takes)


def test_no_global_state_is_read_or_written(bark):
    before = np.random.get_state()[1].copy(), tf.random.get_global_generator().state
    keras.utils.set_random_seed(1)
    first = generate(bark, 4, seed=7, **SAMPLED)
    keras.utils.set_random_seed(2)
    state = np.random.get_state()[1].copy()
    assert_equal(first, generate(bark, 4, seed=7, **SAMPLED))
    assert np.array_equal(np.random.get_state()[1], state)
    assert before[0] is not None


@pytest.mark.parametrize("stage", ["semantic", "coarse", "fine"])
def test_temperature_zero_is_greedy_in_every_stage(bark, stage):
    """One stage of three draws; at temperature 0 none does."""
    greedy = generate(bark, 4, 3)
    draws = generate(bark, 4, 3, seed=1, **{f"{stage}_do_sample": True})
    assert not np.array_equal(draws.fine, greedy.fine)
    cold = {f"{stage}_do_sample": True, f"{stage}_temperature": 0}
    assert_equal(generate(bark, 4, 3, seed=1, **cold), greedy)
    assert_equal(generate(bark, 4, 3, seed=1, do_sample=True, temperature=0), greedy)


# === The same everywhere ===


def test_eager_graph_and_xla_draw_the_same_tokens(bark):
    """With and without a voice, over several windows of every stage."""
    options = {
        "seed": [5, 6],
        "history_prompt": [None, toy.voice(25)],
        "semantic_max_new_tokens": 14,
        "semantic_min_new_tokens": 12,
        "min_eos_p": 0.6,
        "top_k": 15,
        "top_p": 0.98,
        "repetition_penalty": 1.1,
        **SAMPLED,
    }
    graph = generate(bark, 3, 4, **options)
    compiled = generate(bark, 3, 4, **options, jit_compile=True)
    tf.config.run_functions_eagerly(True)
    try:
        eager = generate(bark, 3, 4, **options)
    finally:
        tf.config.run_functions_eagerly(False)
    assert graph.fine.shape[2] >= 18
    assert_equal(graph, compiled)
    assert_equal(graph, eager)


def test_nothing_is_traced_again_for_other_values():
    """Other texts, voices, seeds, temperatures, limits: the programs are kept."""
    bark = toy.bark()
    parts = bark.parts.values()

    def run(*texts, voice, **options):
        options = {"min_eos_p": 0.9, "top_k": 5, "top_p": 0.9, **SAMPLED, **options}
        generate(
            bark, *texts, history_prompt=voice, semantic_min_new_tokens=2, **options
        )
        return [toy.count_traces(part) for part in parts]

    first = run(1, 2, voice=toy.voice(), seed=1)
    assert min(first[:3]) > 0
    again = [
        run(3, 4, voice=toy.voice(30, 5), seed=2),
        run(3, 4, voice=[toy.voice(3), toy.voice(20)], seed=[5, 6]),
        run(1, 2, voice=toy.voice(), temperature=0.6, fine_temperature=0.5),
        run(1, 2, voice=toy.voice(), semantic_max_new_tokens=7),
        run(1, 2, voice=toy.voice(), top_k=3, top_p=0.5, min_eos_p=0.5),
    ]
    assert again == [first] * 5


def test_batch_sizes_share_programs():
    """1, 3, 4 and 7 rows run as 1, 4, 4 and 8: three traces of each program."""
    bark, traces = toy.bark(), []
    for batch in (1, 3, 4, 7):
        generate(bark, *[4] * batch)
        traces.append([toy.count_traces(part) for part in bark.parts.values()])
    # The semantic stage has a prefill and a decode, the coarse stage a prefill more
    # once there is a past to read, the fine stage one program.
    assert [counts[:3] for counts in traces] == [
        [2, 3, 1],
        [4, 6, 2],
        [4, 6, 2],
        [6, 9, 3],
    ]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "mixed_bfloat16"])
def test_half_precision_generates(dtype):
    bark = toy.bark(dtype=dtype)
    output = generate(bark, 4, 3, seed=0, jit_compile=dtype == "bfloat16", **SAMPLED)
    assert output.audio.dtype == tf.float32
    assert np.all(np.isfinite(output.audio)) and np.std(output.audio) > 1e-3
    assert np.all(np.array(output.fine) < 8)


# === Configurations ===


def test_the_configuration_of_the_model_is_used(bark):
    model = toy.bark()
    model.generation_config = toy.generation_config(semantic={"max_new_tokens": 3})
    assert generate(model, 3).semantic.shape == (1, 3)
    given = generate(bark, 3, generation_config=model.generation_config)
    assert_equal(given, generate(model, 3))
    assert generate(bark, 3).semantic.shape == (1, 12)


def test_min_eos_p_of_the_configuration_is_the_keyword(bark):
    """Which transformers forgets."""
    config = toy.generation_config(semantic={"min_eos_p": 0.02})
    early = generate(bark, 2, generation_config=config)
    assert_equal(early, generate(bark, 2, min_eos_p=0.02))
    assert early.lengths < generate(bark, 2).lengths


def test_a_new_model_has_the_defaults():
    model = BarkModel(BarkConfig.preset("tiny"))
    assert model.generation_config == BarkGenerationConfig()
    assert model.can_generate()
    assert model.count_params() == sum(p.count_params() for p in model.parts.values())
    assert list(model.parts) == [
        "semantic",
        "coarse_acoustics",
        "fine_acoustics",
        "codec_model",
    ]


def test_compat_can_stand_in_the_configuration(bark):
    config = toy.generation_config()
    hf = BarkGenerationConfig.from_dict({**config.to_dict(), "compat": "hf"})
    output = generate(bark, 1, 17, generation_config=hf)
    assert_equal(output, generate(bark, 1, 17, compat="hf"))
    # Shorter rows go on to the end of the longest, in their codes and their audio.
    assert output.lengths == [36, 12] and np.all(np.any(output.audio[:, 12:], axis=1))


def test_saved_and_loaded_models_say_the_same(bark, tmp_path):
    bark.save_pretrained(tmp_path)
    again = BarkModel.from_pretrained(tmp_path)
    assert again.config == bark.config
    assert again.generation_config == bark.generation_config
    assert_equal(generate(again, 3, 4), generate(bark, 3, 4))


# === Progress ===


def test_progress_ends_with_the_totals(bark):
    calls = []
    generate(bark, 3, 17, 4, progress=lambda *call: calls.append(call))
    last = {}
    for stage, done, total in calls:
        assert 0 <= last.get(stage, (0,))[0] <= done <= total
        last[stage] = done, total
    assert list(last) == ["semantic", "coarse", "fine", "codec"]
    # 12 tokens are 18 frames: 36 coarse tokens and two windows.
    assert last == {"semantic": (12, 12), "coarse": (36, 36), "fine": (2, 2)} | {
        "codec": (3, 3)
    }


# === Refused before any work ===

WRONG_VOICES = {
    "too large a semantic token": {**toy.voice(), "semantic_prompt": [20]},
    "too large a code": {**toy.voice(), "coarse_prompt": np.full((2, 13), 8)},
    "too few codebooks": {**toy.voice(), "fine_prompt": np.zeros((3, 13), int)},
    "no fine codes": {"semantic_prompt": [1], "coarse_prompt": [[1], [1]]},
    "fractions": {**toy.voice(), "semantic_prompt": [0.5]},
    "a name": "en_speaker_6",
    "too few": [None],
    "too many": [None] * 3,
}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_ids": None}, "needs input_ids"),
        ({"input_ids": [1, 2, 3]}, r"shape \(batch, time\)"),
        ({"input_ids": [[0.5]]}, "must be integers"),
        ({"input_ids": np.zeros((0, 8), int)}, r"shape \(0, 8\)"),
        ({"input_ids": [[14], [1]]}, r"\[0, 14\)"),
        ({"semantic_max_new_tokens": 57}, "at most 56"),
        ({"sliding_window_len": 50}, "must fit into the position table"),
        ({"max_coarse_history": 60}, "must fit into the position table"),
        ({"max_fine_input_length": 65}, "block_size=64"),
        ({"n_fine_codebooks": 5}, "n_codes_total=4"),
        ({"temperature": -1}, "temperature"),
        ({"num_beams": 4}, "beam search"),
        ({"temprature": 1}, "no option 'temprature'"),
        ({"seed": [1]}, "one per row, 2 here"),
        ({"seed": -1}, "seed must be"),
        *(({"history_prompt": voice}, "") for voice in WRONG_VOICES.values()),
    ],
    ids=str,
)
def test_what_cannot_work_is_refused_before_any_network_runs(
    monkeypatch, options, message
):
    def fail(*_, **__):
        pytest.fail("a network was run")

    bark = toy.shared_bark()
    for part in bark.parts.values():
        monkeypatch.delitem(vars(part), "_generation_programs", raising=False)
    monkeypatch.setattr(TransformerModel, "forward", fail)
    inputs = {"input_ids": toy.texts(1, 2)["input_ids"], **options}
    with pytest.raises(ValueError, match=message):
        bark.generate(**inputs, jit_compile=False)
