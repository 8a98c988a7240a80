"""The recipe of the small voice: texts, configuration, and all steps once."""

import itertools
import random
import re
import runpy
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import toy_speech

from bark_tf import hub
from bark_tf.audio.reading import load
from bark_tf.bark import BarkModel
from bark_tf.processor import BarkProcessor
from bark_tf.training.data.prepare import is_held_out
from bark_tf.training.recipes import small_voice
from bark_tf.training.recipes.small_voice import _make_speech as speech
from bark_tf.training.recipes.small_voice import _splice_speech as splice
from bark_tf.training.recipes.small_voice import _start as recipe

HELPER = Path(__file__).parents[2] / "reference" / "hf_bark.py"
# Pocketsphinx must recognise the words: it does flite's, but not espeak-ng's.
needs_flite = pytest.mark.skipif(shutil.which("flite") is None, reason="needs flite")
MOST_BYTES = 20_000_000  # of the package data, in half precision


def test_held_out_sentences_are_many_and_use_known_words():
    assert len(set(recipe.HELD_OUT)) == len(recipe.HELD_OUT) >= 200
    for sentence in recipe.HELD_OUT:
        assert set(sentence.split()) <= set(recipe.WORDS), sentence
    digits = [s for s in recipe.HELD_OUT if set(s.split()) <= set(speech.DIGITS)]
    assert len(digits) >= 50


def test_no_recording_says_a_held_out_sentence():
    """Digits are drawn so often that some would be held-out ones."""
    made = list(itertools.islice(speech.texts(seed=0), 20_000))
    assert len(set(made)) == len(made)
    assert not set(made) & set(recipe.HELD_OUT)
    assert set(" ".join(made).split()) == set(recipe.WORDS)


def test_texts_are_a_function_of_the_seed():
    first, again, other = (
        list(itertools.islice(speech.texts(seed), 50)) for seed in (1, 1, 2)
    )
    assert first == again != other


def humming(*pitches):
    """A recording with a tone of a quarter of a second per word, and pauses."""
    rate, long, pause = splice.SAMPLE_RATE, 6_000, 1_200
    time = np.arange(long) / rate
    parts = [np.sin(2 * np.pi * pitch * time) for pitch in pitches]
    audio = np.concatenate([np.append(part, np.zeros(pause)) for part in parts])
    starts = [number * (long + pause) for number in range(len(parts))]
    ends = [*(start + long for start in starts[:-1]), len(audio)]
    words = [str(pitch) for pitch in pitches]
    return splice.AlignedRecording(words, starts, ends, audio.astype(np.float32))


def test_a_spliced_recording_says_its_text():
    """Every word has its own pitch, so the audio shows the words."""
    recordings = [
        humming(300, 500, 700),
        humming(1100, 1300),
        humming(1700, 1900, 2300),
    ]
    rng = random.Random(0)
    for _ in range(30):
        words, audio = splice.spliced(recordings, rng)
        assert audio.dtype == np.float32
        loud = np.abs(audio) > 0.05
        # A short pause remains between any two words.
        edges = np.flatnonzero(np.diff(np.flatnonzero(loud)) > 15)
        places = np.split(np.flatnonzero(loud), edges + 1)
        pitches = []
        for place in places:
            tone = audio[place[0] : place[-1] + 1]
            peak = np.argmax(np.abs(np.fft.rfft(tone)))
            pitches.append(peak * splice.SAMPLE_RATE / len(tone))
            assert abs(len(tone) - 6_000) < 200  # whole, and not more
        np.testing.assert_allclose(pitches, [float(word) for word in words], rtol=0.02)


def test_a_joint_has_no_click():
    levels = [np.full(1_000, level, np.float32) for level in (0.5, -0.5, 0.5)]
    joined = splice.join(levels)
    assert joined[0] == joined[-1] == 0.5 and joined.min() == -0.5
    assert np.abs(np.diff(joined)).max() < 0.01
    # A piece that is shorter than the fade gets a shorter fade.
    assert len(splice.join([levels[0], levels[1][:50]])) == 1_000


@needs_flite
def test_spliced_texts_are_new_and_the_recordings_stay(tmp_path, capsys):
    pytest.importorskip("pocketsphinx")
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    texts = ["one two three four", "five six seven", "my red cat is old", "nine zero"]
    texts = [text for text in texts if not is_held_out(text, 0.05)]
    toy_speech.record(data, texts)
    rows = (data / "metadata.csv").read_text().splitlines()
    splice.make(data, out, lines=12, validation=0.05, seed=0)
    made = (out / "metadata.csv").read_text().splitlines()
    assert made[: len(rows)] == rows and len(made) == len(rows) + 12
    for row in made[len(rows) :]:
        name, text, _ = row.split("|")
        assert text not in texts and text not in recipe.HELD_OUT
        assert not is_held_out(text, 0.05)
        seconds = len(load(out / f"{name}.ogg", 16_000)) / 16_000
        assert 0.1 * len(text.split()) < seconds < 5.1
    assert (out / "r0.wav").read_bytes() == (data / "r0.wav").read_bytes()
    # Started again, it makes the same recordings and nothing twice.
    spliced = out / f"{made[-1].split('|')[0]}.ogg"
    kept = spliced.stat().st_mtime_ns
    splice.make(data, out, lines=12, validation=0.05, seed=0)
    assert (out / "metadata.csv").read_text().splitlines() == made
    assert spliced.stat().st_mtime_ns == kept
    # With another seed in the same folder, no old recording gets a new text.
    splice.make(data, out, lines=12, validation=0.05, seed=1)
    texts_of = dict(row.split("|")[:2] for row in made)
    for row in (out / "metadata.csv").read_text().splitlines():
        name, text, _ = row.split("|")
        assert texts_of.get(name, text) == text
    # When texts run out, it stops and says so.
    capsys.readouterr()
    (data / "metadata.csv").write_text(rows[1])
    splice.make(data, tmp_path / "few", lines=500, validation=0.05, seed=0)
    assert "of 500 new texts made" in capsys.readouterr().out


@needs_flite
def test_splicing_needs_digits(tmp_path):
    pytest.importorskip("pocketsphinx")
    toy_speech.record(tmp_path, ["the red cat"])
    with pytest.raises(ValueError, match="strings of digits"):
        splice.make(tmp_path, tmp_path / "out", lines=1, validation=0.0, seed=0)


def test_every_word_is_one_token_and_other_words_are_spelled():
    tokenizer = recipe.start()[2]
    for sentence in recipe.HELD_OUT:
        ids = tokenizer.encode(sentence)
        assert [recipe.VOCABULARY[i] for i in ids] == sentence.split()
    assert [recipe.VOCABULARY[i] for i in tokenizer.encode("Zebra!")] == [
        "z", "##e", "##b", "##r", "##a", "!",
    ]  # fmt: skip


def test_varied_text_has_known_tokens_and_the_same_words():
    tokenizer = recipe.start()[2]
    ids = np.array(tokenizer.encode("the red cat likes seven stones"))
    rng = np.random.default_rng(0)
    kinds = set()
    for _ in range(200):
        varied = [recipe.VOCABULARY[i] for i in recipe.vary_text(ids, rng)]
        said = "".join(token.removeprefix("##") for token in varied)
        assert said.rstrip(".!?").translate(str.maketrans("", "", ",;:-")) == (
            "theredcatlikessevenstones"
        )
        kinds.add(len(varied))
    assert len(kinds) > 3


def test_the_numbers_of_the_configurations_fit_together():
    config, generation, tokenizer = recipe.start()
    semantic = generation.semantic_config
    assert semantic.text_encoding_offset + tokenizer.vocab_size == (
        semantic.text_pad_token
    )
    assert config.semantic_config.input_vocab_size == semantic.semantic_infer_token + 1
    assert semantic.max_input_semantic_length + 1 + semantic.max_new_tokens == (
        config.semantic_config.block_size
    )
    codec = config.codec_config
    assert codec.frame_rate == generation.coarse_acoustics_config.coarse_rate_hz
    assert codec.num_quantizers == generation.fine_acoustics_config.n_fine_codebooks
    assert codec.codebook_size == generation.codebook_size


def test_the_model_is_small_enough_for_the_package():
    config, generation, _ = recipe.start()
    model = BarkModel(config, generation)
    values = sum(
        int(np.prod(weight.shape))
        for part in model.parts.values()
        for weight in part.weights
    )
    assert 2 * values < MOST_BYTES


@pytest.mark.reference
def test_transformers_speaks_the_same_tokens(tmp_path):
    """Its token ids differ from Bark's, so nothing may assume those."""
    pytest.importorskip("transformers")
    hf = runpy.run_path(str(HELPER))
    _, generation, tokenizer = recipe.start()
    model = BarkModel.from_pretrained(hub.SHIPPED_CHECKPOINT)
    inputs = BarkProcessor(tokenizer)("four zero eight, my cat", return_tensors="np")
    mine = model.generate(
        **inputs,
        do_sample=False,
        compat="hf",
        semantic_max_new_tokens=70,
        return_dict=True,
    )
    # transformers would compute in the half precision of the file.
    twin = hf["whole"](model, tmp_path).float()
    hf["set_generation"](twin, generation)
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
def test_all_steps_from_recordings_to_a_packaged_voice(tmp_path, monkeypatch):
    """Runs the commands of the recipe's docstring with few steps and small batches."""
    monkeypatch.chdir(tmp_path)
    for speaker in ("kumo", "alpha"):
        Path("SPEECH", speaker).mkdir(parents=True)
        toy_speech.record(Path("SPEECH", speaker))
    Path("words.txt").write_text("\n".join(recipe.WORDS), encoding="utf-8")
    Path("held_out.txt").write_text("\n".join(recipe.HELD_OUT[:2]), encoding="utf-8")
    shown = small_voice.__doc__.replace("\n        ", " ")
    commands = re.findall(r"^    (?:bark-tf|python -m) (.*)$", shown, re.MULTILINE)
    assert len(commands) == 13
    few = "steps=4 warmup_steps=1 batch_size=2 validate_every=4 sample_every=4"
    for command in commands:
        words = shlex.split(command)
        if words[0] == splice.__name__:
            splice.main([*words[1:], "--lines", "10"])
            continue
        if words[0] == "train":
            words += few.split()
        if words[1] == "small_voice/codec":
            words += ["segment_s=0.4", "codec={'quantize_from': 2}"]
        toy_speech.run_step(words)
    names = {path.name for path in Path("assets").iterdir()}
    assert {"tokenizer.json", "semantic_tokenizer.safetensors"} <= names
    assert sum(path.stat().st_size for path in Path("assets").iterdir()) < MOST_BYTES
    assert Path("report/report.md").is_file() and Path("speech.wav").is_file()
