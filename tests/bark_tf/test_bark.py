"""Text to audio through all four networks, at toy size."""

import json
import os
import re
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import toy

from bark_tf import memory
from bark_tf.bark import SYSTEM_ALLOCATOR, BarkModel, BarkOutput
from bark_tf.config import BarkConfig, BarkGenerationConfig
from bark_tf.models.transformer import TransformerModel
from bark_tf.processor import BarkProcessor
from bark_tf.text.tokenizer import BarkTokenizer
from bark_tf.voices.presets import VoicePreset

SAMPLED = {"do_sample": True, "temperature": 1.2}
HOP = toy.SAMPLES_PER_FRAME
VOICE = toy.voice()
PROMPT = toy.PROMPT
SEMANTIC = toy.generation_config().semantic_config


@pytest.fixture(scope="module")
def bark():
    return toy.shared_bark()


def generate(bark, *seeds, **options):
    """Everything that texts become; compiled only where a test asks for it."""
    options = {"return_dict": True, "jit_compile": False, **options}
    return bark.generate(**toy.texts(*seeds), **options)


def arrays(output):
    return [output.semantic, output.coarse, output.fine, output.audio]


def assert_equal(output, other):
    for a, b in zip(arrays(output), arrays(other), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def spoken(bark):
    """One text, spoken greedily: 7 semantic tokens, 10 frames."""
    return generate(bark, 4)


# === What comes out ===


def test_shapes_and_dtypes(bark):
    output = generate(bark, 1, 17, 4)
    assert isinstance(output, BarkOutput)
    counts = [6, 2, 7]  # semantic tokens; floor(count * 75 / 49.9) frames
    frames = [9, 3, 10]
    assert output.lengths == [HOP * count for count in frames]
    assert output.audio.shape == (3, HOP * 10) and output.audio.dtype == tf.float32
    assert output.semantic.shape == (3, 7) and output.semantic.dtype == tf.int32
    assert output.coarse.shape == (3, 2, 10) and output.fine.shape == (3, 4, 10)
    assert np.array_equal(output.coarse, output.fine[:, :2])
    for row in range(3):
        assert np.sum(output.semantic[row] != toy.EOS) == counts[row]
        assert not np.any(output.fine[row, :, frames[row] :])
        assert not np.any(output.audio[row, output.lengths[row] :])
        assert np.std(output.audio[row, : output.lengths[row]]) > 1e-3
    assert np.all(np.array(output.fine) < 8)


def test_plain_and_with_lengths_are_the_same_audio(bark):
    inputs, output = toy.texts(1, 17, 4), generate(bark, 1, 17, 4)
    plain = bark.generate(**inputs, jit_compile=False)
    audio, lengths = bark.generate(
        **inputs, return_output_lengths=True, jit_compile=False
    )
    assert np.array_equal(plain, output.audio) and np.array_equal(audio, output.audio)
    assert lengths == output.lengths == [36, 12, 40]


def test_audio_is_the_codec_s_of_the_codes(bark):
    """Decoded in the pieces in which it could be streamed, so up to rounding.

    With 9 to 15 frames after a voice of 8, all but the first frames are of the second
    fine window: too few for the codec to decode alone.
    """
    output = generate(bark, 3, 17, 4, semantic_max_new_tokens=30)
    assert output.lengths == [45 * HOP, 3 * HOP, 13 * HOP]
    assert_decoded_at_once(bark, output)
    for limit in (6, 7, 8, 10):
        options = {"semantic_max_new_tokens": limit, "semantic_min_new_tokens": limit}
        output = generate(bark, 3, history_prompt=toy.voice(25), **options)
        assert 8 < output.lengths[0] / HOP < 16
        assert_decoded_at_once(bark, output)


def assert_decoded_at_once(bark, output):
    audio = bark.codec_decode(output.fine, [n // HOP for n in output.lengths])
    assert toy.largest_difference(audio, output.audio) < 1e-6


def test_exact_streaming_gives_the_same_audio(bark):
    options = {"semantic_max_new_tokens": 30, "jit_compile": False}
    for voice in (None, toy.voice(25)):
        audio = generate(bark, 3, history_prompt=voice, **options).audio[0]
        pieces = list(bark.stream(**toy.texts(3), history_prompt=voice, **options))
        assert len(pieces) > 1 and min(map(len, pieces)) > 0
        assert np.array_equal(np.concatenate(pieces), audio)


def test_the_mask_says_where_the_text_ends(bark, spoken):
    inputs = toy.texts(4)
    with pytest.warns(UserWarning, match="end in padding .* without an attention_mask"):
        unmasked = bark.generate(
            inputs["input_ids"], return_dict=True, jit_compile=False
        )
    assert not np.array_equal(unmasked.semantic, spoken.semantic)


def test_a_row_that_ends_at_once_is_empty_and_warned_about(bark):
    with pytest.warns(UserWarning, match=r"ended rows \[0\] at once"):
        output = generate(bark, 1, min_eos_p=1e-9)
    assert output.lengths == [0] and output.audio.shape == (1, 0)
    assert output.coarse.shape == (1, 2, 0) and output.fine.shape == (1, 4, 0)
    assert output.voice is None


def test_an_empty_row_leaves_the_others_alone(bark):
    """Row 1 is the text and voice whose end comes at once."""
    voices = [None, toy.voice(), None]
    with pytest.warns(UserWarning, match=r"ended rows \[1\] at once"):
        output = generate(bark, 17, 16, 17, history_prompt=voices)
    alone = generate(bark, 17)
    assert output.lengths == [12, 0, 12] and output.voice[1] is None
    assert np.array_equal(output.audio[:1], alone.audio)


# === A voice to continue from ===


def test_a_single_row_gives_a_voice_to_continue_from(bark, spoken):
    output, voice = spoken, spoken.voice
    assert isinstance(voice, VoicePreset)
    assert np.array_equal(voice.semantic_prompt, output.semantic[0])
    assert np.array_equal(voice.coarse_prompt, output.coarse[0])
    assert np.array_equal(voice.fine_prompt, output.fine[0])
    voice.validate(
        semantic_vocab_size=20, codebook_size=8, num_fine=4, strict_rate=True
    )
    again = generate(bark, 4, history_prompt=voice)
    assert not np.array_equal(again.semantic, output.semantic)


def test_several_rows_give_a_voice_each(bark, spoken):
    output = generate(bark, 4, 17, 4)
    shapes = [voice.fine_prompt.shape for voice in output.voice]
    assert shapes == [(4, 10), (4, 3), (4, 10)]
    assert output.voice[0] == spoken.voice


# === Rows are on their own ===


@pytest.mark.parametrize("options", [{}, SAMPLED], ids=["greedy", "sampled"])
def test_a_row_is_the_same_alone_and_in_a_batch(bark, options):
    """Bit by bit, beside rows of other lengths and voices."""
    seeds, takes = [1, 3, 17, 4], [10, 11, 12, 13]
    voices = [None, toy.voice(4), None, toy.voice(25, 1)]
    options = {"semantic_max_new_tokens": 20, **options}
    batch = generate(bark, *seeds, history_prompt=voices, seed=takes, **options)
    assert len(set(batch.lengths)) > 2
    for row in range(4):
        alone = generate(
            bark, seeds[row], history_prompt=voices[row], seed=[takes[row]], **options
        )
        frames = alone.fine.shape[2]
        assert alone.lengths == [batch.lengths[row]] == [HOP * frames]
        assert np.array_equal(batch.fine[row, :, :frames], alone.fine[0])
        assert np.array_equal(batch.audio[row, : HOP * frames], alone.audio[0])
        assert batch.voice[row] == alone.voice


def test_voices_one_for_all_or_one_per_row(bark):
    voices = [toy.voice(4), toy.voice(25, 1), None]
    listed = generate(bark, 4, 4, 4, history_prompt=voices)
    for row, voice in enumerate(voices):
        shared = generate(bark, 4, 4, 4, history_prompt=voice)
        count = shared.lengths[row]
        assert listed.lengths[row] == count
        assert np.array_equal(listed.audio[row, :count], shared.audio[row, :count])
    assert len({voice.semantic_prompt.tobytes() for voice in listed.voice}) == 3


def test_a_voice_may_be_a_name_of_the_checkpoint_or_a_file(
    bark, saved, tmp_path, monkeypatch
):
    """`generate(history_prompt="alpha")` once counted the letters."""
    expected = generate(bark, 2, history_prompt=VOICE)
    path = VOICE.save(tmp_path / "mine")
    words = BarkTokenizer.from_vocabulary(["[PAD]", "[UNK]", "dog"])
    limits = bark.generation_config.voice_limits()
    listed = BarkProcessor(words, {"alpha": VOICE}, voice_limits=limits)
    listed.save_pretrained(saved)
    loaded = BarkModel.from_pretrained(saved)
    with pytest.raises(ValueError, match=r"no voice 'alfa'.*Did you mean 'alpha'"):
        generate(loaded, 2, history_prompt="alfa")
    monkeypatch.setattr(bark, "_source", loaded._source)
    for voice in ("alpha", path, str(path), np.load(path), ["alpha"]):
        assert_equal(generate(bark, 2, history_prompt=voice), expected)
    pieces = bark.stream(**toy.texts(2), history_prompt="alpha", jit_compile=False)
    assert np.array_equal(np.concatenate(list(pieces)), expected.audio[0])
    # A network knows no checkpoint: names are Suno's, or paths.
    for voice in (VOICE, path, str(path)):
        inputs = {**toy.texts(2), "history_prompt": voice, "jit_compile": False}
        tokens = bark.semantic.generate(semantic_generation_config=SEMANTIC, **inputs)
        assert np.array_equal(tokens, expected.semantic)
    with pytest.raises(ValueError, match="no voice 'alpha'"):
        bark.semantic.generate(
            **{**inputs, "history_prompt": "alpha"}, semantic_generation_config=SEMANTIC
        )


def test_a_voice_may_be_a_dictionary_of_any_integers(bark):
    plain = {key: value.astype(np.uint16) for key, value in toy.voice(4).items()}
    assert_equal(
        generate(bark, 4, history_prompt=plain),
        generate(bark, 4, history_prompt=toy.voice(4)),
    )


# === Seeds ===


def test_a_seed_decides_the_audio_and_nothing_else_does(bark):
    """Global random numbers are neither used nor moved."""
    outputs = []
    for global_seed in (1, 2):
        keras.utils.set_random_seed(global_seed)
        state = np.random.get_state()[1].copy()
        outputs.append(generate(bark, 4, 4, 4, seed=7, **SAMPLED))
        assert np.array_equal(np.random.get_state()[1], state)
    assert_equal(*outputs)
    other = generate(bark, 4, 4, 4, seed=8, **SAMPLED)
    assert not np.array_equal(other.semantic, outputs[0].semantic)
    assert not np.array_equal(other.semantic[0], other.semantic[1])


def test_a_list_of_seeds_is_one_per_row_wherever_the_row_is(bark):
    first = generate(bark, 4, 1, 4, seed=[7, 8, 9], **SAMPLED)
    second = generate(bark, 1, 4, 4, seed=[8, 9, 7], **SAMPLED)
    for row, place in ((0, 2), (1, 0), (2, 1)):
        count = first.lengths[row]
        assert second.lengths[place] == count
        assert np.array_equal(first.audio[row, :count], second.audio[place, :count])


def test_without_a_seed_every_take_differs(bark):
    options = {"semantic_max_new_tokens": 1, "semantic_min_new_tokens": 1, **SAMPLED}
    takes = [generate(bark, 4, **options) for _ in range(3)]
    assert len({take.fine.numpy().tobytes() for take in takes}) > 1


def test_temperature_zero_is_greedy(bark, spoken):
    assert_equal(generate(bark, 4, seed=1, do_sample=True, temperature=0), spoken)


@pytest.mark.parametrize("stage", ["semantic", "coarse", "fine"])
def test_every_stage_can_be_greedy_on_its_own(bark, spoken, stage):
    """One stage of three draws; at temperature 0 none does."""
    draws = generate(bark, 4, seed=1, **{f"{stage}_do_sample": True})
    assert not np.array_equal(draws.fine, spoken.fine)
    cold = {f"{stage}_do_sample": True, f"{stage}_temperature": 0}
    assert_equal(generate(bark, 4, seed=1, **cold), spoken)


# === The same everywhere ===


def test_eager_graph_and_xla_draw_the_same_tokens(bark):
    """With and without a voice, over several windows of every stage."""
    options = {
        "seed": [5, 6, 7],
        "history_prompt": [None, toy.voice(25), None],
        "semantic_max_new_tokens": 14,
        **SAMPLED,
    }
    graph = generate(bark, 1, 2, 3, **options)
    compiled = generate(bark, 1, 2, 3, **options, jit_compile=True)
    tf.config.run_functions_eagerly(True)
    try:
        eager = generate(bark, 1, 2, 3, **options)
    finally:
        tf.config.run_functions_eagerly(False)
    assert graph.fine.shape[2] > 16
    assert_equal(graph, compiled)
    assert_equal(graph, eager)


def test_nothing_is_traced_again_for_other_values(bark):
    """Other texts, voices, seeds, temperatures and limits use the kept programs.

    At most 5 semantic tokens: then every row has one fine window, whatever its end.
    """

    def run(*texts, voice=VOICE, seed=(4, 6, 7), **options):
        options = {"semantic_max_new_tokens": 5, **SAMPLED, **options}
        generate(bark, *texts, history_prompt=voice, seed=seed, **options)
        return [toy.count_traces(part) for part in bark.parts.values()]

    first = run(1, 2, 3)
    assert min(first[:3]) > 0
    again = [
        run(4, 5, 6, voice=toy.voice(30, 5), seed=(4, 7, 8)),
        run(4, 5, 6, 1, voice=[toy.voice(3)] * 4, seed=(6, 7, 8, 9)),
        run(1, 2, 3, temperature=0.6),
        run(1, 2, 3, fine_temperature=0.5),
        run(4, 5, 6, semantic_max_new_tokens=3),
    ]
    assert again == [first] * 5


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_generates(dtype):
    model = toy.bark(dtype=dtype)
    options = {"semantic_max_new_tokens": 2, "seed": 0, **SAMPLED}
    output = generate(model, 4, jit_compile=dtype == "bfloat16", **options)
    assert output.audio.dtype == tf.float32 and output.lengths == [12]
    assert np.all(np.isfinite(output.audio)) and np.std(output.audio) > 1e-3
    assert np.all(np.array(output.fine) < 8)


# === Configurations ===


def test_the_configuration_of_the_model_is_used(bark, spoken, monkeypatch):
    config = toy.generation_config(semantic={"max_new_tokens": 3})
    given = generate(bark, 4, generation_config=config)
    assert given.semantic.shape == (1, 3) and spoken.semantic.shape == (1, 7)
    monkeypatch.setattr(bark, "generation_config", config)
    assert_equal(generate(bark, 4), given)


def test_min_eos_p_of_the_configuration_is_the_keyword(bark):
    """transformers ignores the field."""
    config = toy.generation_config(semantic={"min_eos_p": 0.02})
    early = generate(bark, 2, generation_config=config)
    assert_equal(early, generate(bark, 2, min_eos_p=0.02))
    assert early.lengths < generate(bark, 2).lengths


def test_results_carry_the_rate_of_the_codec(bark, spoken):
    """The voice that ships has 16 kHz; 24 kHz once stood in every example."""
    assert bark.sampling_rate == spoken.sampling_rate == 24_000
    config = bark.config.replace(
        codec_config=bark.config.codec_config.replace(sampling_rate=16_000)
    )
    assert BarkModel(config).sampling_rate == 16_000
    assert repr(spoken) == "BarkOutput(0.00 s of audio at 24000 Hz)"
    assert spoken._repr_html_().count("<audio") == 1
    summary = r"BarkModel\([\d,]+ parameters, float32, 24000 Hz\)"
    assert re.fullmatch(summary, repr(bark))
    assert BarkModel(config).generation_config.sample_rate == 16_000


def test_no_example_states_the_rate():
    """The model decides: what is played at another rate is too fast or too slow."""
    root = Path(__file__).parents[2]
    paths = [root / "README.md", root / "bark_tf/bark.py", *root.glob("docs/*.md")]
    paths += [*root.glob("notebooks/*.ipynb"), *root.glob("bark_tf/generation/*.py")]
    for path in paths:
        text = path.read_text(encoding="utf-8")
        assert not re.findall(r"(?<![a-z_])rate\s*=\s*\d|\), 24 kHz|24_000", text), path


def test_a_mapping_changes_the_model_s_configuration(bark, spoken):
    given = {
        "semantic_config": {"max_new_tokens": 3},
        "coarse_temperature": 0.5,
        "transformers_version": "5.0",
    }
    output = generate(bark, 4, generation_config=given)
    expected = generate(bark, 4, semantic_max_new_tokens=3)
    assert_equal(output, expected)
    whole = bark.generation_config.to_dict()
    assert_equal(generate(bark, 4, generation_config=whole), spoken)


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
    output = generate(bark, 1, 17, 17, generation_config=hf)
    assert_equal(output, generate(bark, 1, 17, 17, compat="hf"))
    # Shorter rows go on to the end of the longest, in their codes and their audio.
    assert output.lengths == [36, 12, 12]
    assert np.all(np.any(output.audio[:, 12:], axis=1))


def test_a_saved_model_is_loaded_as_it_was(bark, tmp_path):
    bark.save_pretrained(tmp_path)
    again = BarkModel.from_pretrained(tmp_path)
    assert again.config == bark.config
    assert again.generation_config == bark.generation_config
    for part, other in zip(bark.parts.values(), again.parts.values(), strict=True):
        for variable, loaded in zip(part.weights, other.weights, strict=True):
            np.testing.assert_array_equal(variable, loaded, err_msg=variable.path)


def test_a_saved_configuration_names_the_dtype_of_the_weights(tmp_path):
    """transformers loads in the dtype that it finds there."""
    bark = toy.bark()
    config = bark.config.replace(extra={"torch_dtype": "float16"})
    BarkModel(config, bark.generation_config).save_pretrained(tmp_path / "whole")
    again = BarkModel.from_pretrained(tmp_path / "whole", dtype="bfloat16")
    assert again.config.extra["torch_dtype"] == "float32"
    again.save_pretrained(tmp_path / "half")
    half = BarkModel.from_pretrained(tmp_path / "half")
    assert half.config.extra["torch_dtype"] == "bfloat16"
    half.semantic.save_pretrained(tmp_path / "part")
    text = (tmp_path / "part" / "config.json").read_text(encoding="utf-8")
    assert json.loads(text)["torch_dtype"] == "float32"


# === One part in memory at a time ===


@pytest.fixture(scope="module")
def saved(bark, tmp_path_factory):
    directory = tmp_path_factory.mktemp("bark")
    bark.save_pretrained(directory)
    return directory


def test_offloading_changes_no_bit_and_holds_one_part(bark, spoken, saved, monkeypatch):
    trims = []
    monkeypatch.setattr(memory, "return_free_memory", lambda: trims.append(1))
    monkeypatch.delenv(SYSTEM_ALLOCATOR, raising=False)
    offloaded = BarkModel.from_pretrained(saved, offload=True)
    assert os.environ[SYSTEM_ALLOCATOR] == "1"
    assert all(part.is_released for part in offloaded.parts.values())
    held = []

    def look(stage, done, total):
        held.append([name for name, p in offloaded.parts.items() if not p.is_released])

    assert_equal(generate(offloaded, 4, progress=look), spoken)
    assert {tuple(names) for names in held} == {(name,) for name in offloaded.parts}
    assert len(trims) >= 4  # after two prompts, and two codebooks of the fine stage
    assert_equal(generate(offloaded, 4), spoken)  # and again, from the file
    trims.clear()
    assert_equal(generate(bark, 4), spoken)
    assert not trims


def test_offloaded_parts_are_not_saved(saved, tmp_path):
    offloaded = BarkModel.from_pretrained(saved, offload=True)
    with pytest.raises(ValueError, match="offloaded parts cannot be saved"):
        offloaded.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"offload=True.*Received: quantize='int8'"):
        BarkModel.from_pretrained(saved, offload=True, quantize="int8")


# === Progress ===


def test_progress_ends_with_the_totals(bark):
    calls = []
    generate(
        bark,
        *(3, 17, 4),
        progress=lambda *call: calls.append(call),
        semantic_max_new_tokens=12,
    )
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

WRONG = {
    "no text": ({"input_ids": None}, "needs input_ids"),
    "one axis": ({"input_ids": [1, 2, 3]}, r"shape \(batch, time\)"),
    "fractions": ({"input_ids": [[0.5]]}, "must be integers"),
    "no rows": ({"input_ids": np.zeros((0, 8), int)}, r"shape \(0, 8\)"),
    "text ids": ({"input_ids": [[14], [1]]}, r"\[0, 14\)"),
    "too many tokens": ({"semantic_max_new_tokens": 57}, "at most 56"),
    "wide window": ({"sliding_window_len": 50}, "must fit into the position table"),
    "long history": ({"max_coarse_history": 60}, "must fit into the position table"),
    "fine window": ({"max_fine_input_length": 65}, "block_size=64"),
    "codebooks": ({"n_fine_codebooks": 5}, "n_codes_total=4"),
    "temperature": ({"temperature": -1}, "temperature"),
    "beams": ({"num_beams": 4}, "beam search"),
    "spelling": ({"temprature": 1}, "no option 'temprature'"),
    "one seed": ({"seed": [1]}, "one for each of 2 rows"),
    "negative seed": ({"seed": -1}, "seed must be"),
    "one voice": ({"history_prompt": [None]}, "2 of them. Received: 1"),
    "three voices": ({"history_prompt": [None] * 3}, "2 of them. Received: 3"),
    "no voice": ({"history_prompt": "nobody"}, "no voice 'nobody'"),
    "a number": ({"history_prompt": 3}, "history_prompt must be the name.*int"),
    "a recording": ({"history_prompt": "me.wav"}, "bark-tf voice me.wav --out"),
    "ragged": ({"input_ids": [[1, 2], [3]]}, "rows of equal length"),
    "ragged tensor": (
        {"input_ids": tf.ragged.constant([[1, 2], [3]])},
        "rows of equal length",
    ),
    "ragged mask": ({"attention_mask": [[1], [1, 0]]}, "must be an array"),
    "text": (
        {"temperature": "0.7"},
        r"number in \[0, 1_000_000\] or None. Received: temperature='0.7'",
    ),
    "a text config": (
        {"generation_config": {"temperature": "warm"}},
        "temperature must be a number",
    ),
    "a config's typo": ({"generation_config": {"temprature": 1}}, "'temperature'"),
    "a config's name": ({"generation_config": "warm"}, "BarkGenerationConfig or a map"),
    "another name": ({"voice_preset": "a"}, "pass history_prompt"),
}
WRONG_VOICES = {
    "semantic_prompt": [20],
    "coarse_prompt": np.full((2, 13), 8),
    "fine_prompt": np.zeros((3, 13), int),
}
for name, wrong in WRONG_VOICES.items():
    WRONG[name] = ({"history_prompt": {**VOICE, name: wrong}}, name)


@pytest.mark.parametrize(("options", "message"), WRONG.values(), ids=WRONG)
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
    with (
        warnings.catch_warnings(action="ignore"),
        pytest.raises(ValueError, match=message),
    ):
        bark.generate(**inputs, jit_compile=False)


def test_a_traced_function_is_refused_in_one_sentence(bark):
    for call in (
        lambda ids: bark.generate(ids),
        lambda ids: bark.stream(ids),
        lambda ids: bark.semantic.generate(ids),
        lambda ids: bark.coarse_acoustics.generate(ids),
        lambda ids: bark.fine_acoustics.generate(ids),
        lambda ids: bark.codec_decode(ids),
    ):
        with pytest.raises(
            ValueError, match=r"outside of tf\.function and Dataset\.map"
        ):
            tf.function(call, autograph=False)(tf.zeros((1, PROMPT), tf.int32))


def test_another_network_takes_a_place_and_the_others_are_shared(bark):
    # A checkpoint of the new model has the configuration of its parts.
    changed = bark.config.semantic_config.replace(dropout=0.5)
    other = BarkModel(bark.config.replace(semantic_config=changed)).semantic
    better = bark.with_part("semantic", other)
    assert better.config.semantic_config == other.config
    assert better.semantic is other and bark.semantic is not other
    assert better.codec_model is bark.codec_model
    for name, part in (("nothing", other), ("fine_acoustics", other)):
        with pytest.raises(ValueError, match="name must be one of semantic"):
            bark.with_part(name, part)


# === Habits of transformers ===


def test_a_part_that_changes_its_sizes_is_saved_so(tmp_path):
    bark = BarkModel.from_config(toy.bark_config())
    before = bark.num_parameters()
    bark.semantic.resize_token_embeddings(44)
    assert bark.config.semantic_config.input_vocab_size == 44
    assert bark.num_parameters() == bark.count_params() == before + 4 * 16
    bark.save_pretrained(tmp_path)
    assert BarkModel.from_pretrained(tmp_path).config == bark.config
    bark.gradient_checkpointing_enable()
    assert [p for p in bark.parts.values() if getattr(p, "gradient_checkpointing", 0)]
    bark.gradient_checkpointing_disable()
    assert not bark.fine_acoustics.is_gradient_checkpointing
