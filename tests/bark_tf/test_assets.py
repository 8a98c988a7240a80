"""The voice that comes with the package."""

import logging
import runpy
import zlib
from pathlib import Path

import numpy as np
import pytest

from bark_tf import BarkModel, BarkProcessor, hub
from bark_tf.training.evaluation.metrics import si_sdr
from bark_tf.training.recipes.open_voice._start import start

MOST_BYTES = 40_000_000  # in a package, which is compressed
HELPER = Path(__file__).parents[1] / "reference" / "hf_bark.py"
# Digits, and words that no training text has.
TEXTS = ["Four zero eight.", "Call 4 0 8.", "Zoltan juggles marmalade, doesn't he?"]


@pytest.fixture(scope="module")
def model():
    return BarkModel.from_pretrained()


@pytest.fixture(scope="module")
def processor():
    return BarkProcessor.from_pretrained()


def test_it_is_small_and_says_what_it_is():
    files = [path for path in hub.SHIPPED_CHECKPOINT.rglob("*") if path.is_file()]
    assert sum(len(zlib.compress(path.read_bytes())) for path in files) < MOST_BYTES
    card = (hub.SHIPPED_CHECKPOINT / "README.md").read_text(encoding="utf-8")
    for part in ("license: mit", "Piper", "Kokoro-82M", "held-out"):
        assert part in card


def test_it_is_what_the_recipe_makes(model, processor):
    config, generation, tokenizer = start()
    assert model.generation_config.to_dict() == generation.to_dict()
    for part in model.parts.values():
        wanted = getattr(config, part.config_class.part)
        for name in wanted.field_names():
            if name != "num_lstm_layers":  # see `_for_transformers`
                assert getattr(part.config, name) == getattr(wanted, name), name
    text = "Room 408, my cat"
    assert processor.tokenizer.encode(text) == tokenizer.encode(text)


def test_it_is_announced_once(caplog):
    hub.shipped_checkpoint.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            BarkProcessor.from_pretrained()
    (record,) = caplog.records
    assert "suno/bark-small" in record.getMessage()


def test_it_says_what_it_is_told_as_long_as_that_takes(model, processor):
    """A word takes between 0.1 and 0.8 s, and nobody whispers."""
    for text in TEXTS:
        inputs = processor(text, return_tensors="np")
        out = model.generate(**inputs, seed=1, jit_compile=False, return_dict=True)
        seconds = out.lengths[0] / model.generation_config.sample_rate
        count = len(text.split())
        assert 0.1 * count < seconds < 0.8 * count + 1, text
        assert 0.02 < np.sqrt(np.mean(np.square(out.audio))) < 0.5


def test_both_its_voices_are_there_by_name(model, processor):
    assert processor.available_voice_presets == ["kumo", "alpha"]
    options = {"seed": 1, "jit_compile": False}
    takes = []
    for voice in (None, "kumo", "alpha"):
        inputs = processor("four zero eight two", voice_preset=voice)
        takes.append(np.asarray(model.generate(**inputs, **options))[0])
    levels = [np.sqrt(np.mean(np.square(take))) for take in takes]
    assert 0.02 < min(levels) <= max(levels) < 0.5
    for one, two in ((0, 1), (0, 2), (1, 2)):
        assert not np.array_equal(takes[one], takes[two])


def test_one_call_speaks_as_generate_does(model, processor):
    """The ends are faded: 5 ms at 16 kHz."""
    text, options = "four zero eight two", {"seed": 1, "jit_compile": False}
    inputs = processor(text, voice_preset="alpha")
    wanted = np.asarray(model.generate(**inputs, **options))[0]
    speech = model.speak(text, "alpha", **options)
    assert np.array_equal(speech.audio[80:-80], wanted[80:-80])
    assert speech.audio.shape == wanted.shape and speech.audio[0] == 0


def test_early_audio_comes_in_pieces_near_the_exact_audio(model, processor):
    """The first piece is a second; no more is lost than fine codes of the future."""
    inputs = processor("seven two six nine four eight three", return_tensors="np")
    options = {"seed": 3, "jit_compile": False}
    exact = np.concatenate(list(model.stream(**inputs, latency="exact", **options)))
    pieces = list(model.stream(**inputs, latency="low", **options))
    rate = model.generation_config.sample_rate
    assert len(pieces) > 1 and len(pieces[0]) == rate
    early = np.concatenate(pieces)
    assert len(early) == len(exact) and not np.array_equal(early, exact)
    assert si_sdr(exact, early) > 10  # 27 dB in `benchmarks/low_latency.py`


@pytest.mark.reference
def test_transformers_speaks_the_same_tokens(model, processor, tmp_path):
    """Its token ids differ from Bark's, so nothing may assume those."""
    pytest.importorskip("transformers")
    hf = runpy.run_path(str(HELPER))
    inputs = processor("Room 408, my cat", return_tensors="np")
    mine = model.generate(
        **inputs,
        do_sample=False,
        compat="hf",
        semantic_max_new_tokens=70,
        return_dict=True,
    )
    # transformers would compute in the half precision of the file.
    twin = hf["whole"](model, tmp_path).float()
    hf["set_generation"](twin, model.generation_config)
    with hf["recording"](twin) as kept:
        twin.generate(
            input_ids=hf["tensor"](inputs["input_ids"]),
            attention_mask=hf["tensor"](inputs["attention_mask"]),
            do_sample=False,
            semantic_max_new_tokens=70,
        )
    count = mine.semantic.shape[1]
    assert np.array_equal(kept["semantic"][:, :count], mine.semantic)
    assert np.array_equal(kept["fine_acoustics"][..., : mine.fine.shape[2]], mine.fine)


@pytest.mark.slow
def test_digits_are_understood(model, processor):
    """The bound is far from the figure of the model card, and far from noise."""
    pytest.importorskip("pocketsphinx")
    from bark_tf.training.evaluation.metrics import corpus_word_error_rate
    from bark_tf.training.evaluation.recognisers import recogniser_of
    from bark_tf.training.evaluation.scores import Speaker

    words = "zero one two three four five six seven eight nine".split()
    listen = recogniser_of("pocketsphinx", words)
    rate = model.generation_config.sample_rate
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(words, 5)) for _ in range(20)]
    audios = Speaker(model, processor, jit_compile=False).from_texts(texts).audios
    heard = [listen(audio, rate) for audio in audios]
    assert corpus_word_error_rate(texts, heard).rate < 0.5
