"""The recipe of the open voice: texts, pieces, configuration, and all steps once."""

import itertools
import json
import re
import shlex
import shutil
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import toy_speech

from bark_tf.bark import BarkModel
from bark_tf.processor import BarkProcessor
from bark_tf.training.recipes import open_voice
from bark_tf.training.recipes.open_voice import _for_transformers as for_transformers
from bark_tf.training.recipes.open_voice import _make_speech as speech
from bark_tf.training.recipes.open_voice import _speakers as speakers
from bark_tf.training.recipes.open_voice import _start as recipe
from bark_tf.training.recipes.open_voice import _texts, _vocabulary

MOST_BYTES = 40_000_000  # of the package data, in half precision
SEMANTIC_TOKENIZER_BYTES = 6_500_000


@pytest.fixture
def lines(tmp_path):
    """A file of sentences."""
    path = tmp_path / "lines.txt"
    rows = [f"Sentence {'abcdefghij'[n % 10]} of row {chr(97 + n // 26 % 26)}{n}."
            for n in range(400)]  # fmt: skip
    path.write_text("\n".join([*rows, "", rows[0], "Short."]), encoding="utf-8")
    return path


def test_held_out_texts_are_in_no_recording(lines):
    texts = _texts.texts_of(lines)
    held_out = {*texts.sentences, *texts.digits}
    assert len(held_out) == 350
    assert not held_out & set(texts.train)
    assert len(set(texts.train)) == len(texts.train) == 151 + 2_000 + 1_600
    assert texts == _texts.texts_of(lines)
    with pytest.raises(ValueError, match=r"more than the 250 .* Received: 0 of 4 to"):
        few = lines.with_name("few.txt")
        few.write_text("Short.\n", encoding="utf-8")
        _texts.texts_of(few)


def test_other_texts_are_learned_but_never_held_out(lines):
    also = lines.with_name("also.txt")
    held_out = _texts.texts_of(lines).digits[0]
    also.write_text(f"my red cat\n{held_out}\n", encoding="utf-8")
    texts = _texts.texts_of(lines, also)
    assert "my red cat" in texts.train and held_out not in texts.train


def test_word_lists_have_all_words_and_none_that_is_held_out(tmp_path):
    texts = _texts.Texts(["The cat sat.", "A dog didn't."], ["The owl sat."], [])
    lexicon = tmp_path / "words.dict"
    lexicon.write_text("EMU  IY1 M UW0\nowl AW1 L\nemu(2) x\n\n;;; x\n", "utf-8")
    lists = _texts.word_lists(texts, 200, lexicon)
    assert len(lists) == 200 and lists == _texts.word_lists(texts, 200, lexicon)
    assert all(line[0].isupper() and line[-1] == "." for line in lists)
    words = Counter(word for line in lists for word in _texts._words(line))
    assert set(words) == {"the", "cat", "sat", "a", "dog", "didn't", "emu"}
    own = [words[word] for word in words if word != "emu"]
    assert max(own) - min(own) <= 1
    assert 0.3 < words["emu"] / words.total() < 0.5
    assert any("," in line for line in lists)
    assert set(_texts._words(" ".join(_texts.word_lists(texts, 9)))) <= {*words}


def test_any_text_has_tokens():
    tokenizer = recipe.start()[2]
    assert len(set(recipe.VOCABULARY)) == len(recipe.VOCABULARY) == _vocabulary.SIZE
    unknown = recipe.IDS["[UNK]"]
    for text in ('Zyxwvut\'s 1984 (quick), jumps: "over" 3.14!', "Café; naïve - OK?"):
        assert unknown not in tokenizer.encode(text)
    pieces = [recipe.VOCABULARY[n] for n in tokenizer.encode("In 1984.")]
    assert pieces == ["in", "1", "##9", "##8", "##4", "."]


def test_a_vocabulary_has_every_letter_and_digit():
    pieces = _vocabulary.learned(["The window was open.", "Windows open 24 hours."])
    assert {"window", "9", "##9", "z", "."} <= set(pieces)
    assert not any(re.search(r"\d.", piece.removeprefix("##")) for piece in pieces)


def test_varied_text_says_the_same_words():
    tokenizer = recipe.start()[2]
    text = "although the building in november cost 20 dollars, himself"
    ids = np.array(tokenizer.encode(text))
    rng = np.random.default_rng(0)
    lengths = set()
    for _ in range(100):
        varied = recipe.vary_text(ids, rng)
        pieces = [recipe.VOCABULARY[number] for number in varied]
        said = " ".join(pieces).replace(" ##", "").replace(" ,", ",")
        assert said == text and varied.dtype == np.int32
        lengths.add(len(varied))
    assert len(lengths) > 3


def test_lists_name_every_recording(tmp_path):
    jobs = speech.jobs_of(["One.", "Two."], tmp_path / "joe", "joe", "joe", varied=True)
    assert [job.path.name for job in jobs] == ["joe_00000.flac", "joe_00001.flac"]
    assert all(0.95 <= job.length <= 1.1 for job in jobs)
    assert jobs[0].length != jobs[1].length
    rows = (tmp_path / "joe" / "metadata.jsonl").read_text().splitlines()
    assert rows[1] == '{"audio": "joe_00001.flac", "text": "Two."}'
    speech.write_phonemes(tmp_path, jobs, lambda text: text + "ɹ")
    row = (tmp_path / "phonemes.jsonl").read_text().splitlines()[1]
    found = json.loads(row)
    assert found == {"audio": "joe/joe_00001.flac", "speaker": "joe", "text": "Two.ɹ"}
    (held_out,) = speech.jobs_of(["Three."], tmp_path / "held", "joe", "held", False)
    assert held_out.length == 1.0


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="needs espeak-ng")
def test_phonemes_are_signs_of_kokoro():
    spoken = speakers.kokoro_phonemes("four zero my mother judge")
    assert "O" in spoken and "ʤ" in spoken and "ɹ" in spoken
    assert not set(spoken) & set("ː\u200dɚr")
    assert speakers.kokoro_phonemes("-v four") != ""  # no option of the program


@pytest.mark.skipif(shutil.which("flite") is None, reason="needs flite")
def test_a_speaker_takes_the_length_that_is_asked():
    usual, longer = (speakers.Flite("rms")("four zero", length) for length in (1, 1.5))
    assert usual.dtype == np.float32 and 0 < np.abs(usual).max() <= 1
    assert 1.2 < len(longer) / len(usual) < 1.6


def test_unknown_speakers_are_refused():
    with pytest.raises(ValueError, match="must be one of joe, awb"):
        speakers.speaker_of("nobody")


def test_the_numbers_of_the_configurations_fit_together():
    config, generation, tokenizer = recipe.start()
    semantic = generation.semantic_config
    assert semantic.text_encoding_offset + tokenizer.vocab_size == (
        semantic.text_pad_token
    )
    assert config.semantic_config.input_vocab_size == semantic.semantic_infer_token + 1
    codec = config.codec_config
    assert codec.frame_rate == generation.coarse_acoustics_config.coarse_rate_hz
    assert codec.num_quantizers == generation.fine_acoustics_config.n_fine_codebooks
    assert codec.codebook_size == generation.codebook_size
    model = BarkModel(config, generation)
    values = sum(
        int(np.prod(weight.shape))
        for part in model.parts.values()
        for weight in part.weights
    )
    assert 2 * values + SEMANTIC_TOKENIZER_BYTES < MOST_BYTES


def test_an_lstm_of_zeros_changes_nothing(tmp_path):
    config, generation, tokenizer = recipe.start()
    bark = BarkModel(config, generation)
    bark.save_pretrained(tmp_path / "open")
    BarkProcessor(tokenizer).save_pretrained(tmp_path / "open")
    (tmp_path / "open" / "semantic_tokenizer.json").write_text("{}")
    paths = [str(tmp_path / name) for name in ("open", "whole")]
    for_transformers.main(paths)
    whole = BarkModel.from_pretrained(paths[1])
    assert whole.config.codec_config.num_lstm_layers == 1
    audio = np.random.default_rng(0).normal(0, 0.1, (1, 4_000)).astype(np.float32)
    one, other = bark.parts["codec_model"], whole.parts["codec_model"]
    codes = one.encode(audio)
    np.testing.assert_array_equal(codes, other.encode(audio))
    np.testing.assert_array_equal(one.decode(codes), other.decode(codes))
    for name in ("semantic", "coarse_acoustics", "fine_acoustics"):
        for mine, copied in zip(
            bark.parts[name].weights, whole.parts[name].weights, strict=True
        ):
            np.testing.assert_array_equal(mine, copied)
    names = {path.name for path in (tmp_path / "whole").iterdir()}
    assert {"tokenizer.json", "semantic_tokenizer.json"} <= names
    for_transformers.main(paths)  # as after an interruption
    with pytest.raises(SystemExit):
        for_transformers.main(paths[:1] * 2)
    with pytest.raises(ValueError, match=r"must have no LSTM\. Received: 1"):
        for_transformers.add_lstm(whole)


@pytest.mark.slow
def test_all_steps_from_recordings_to_a_voice(tmp_path, monkeypatch):
    """Runs the commands of the recipe's docstring with few steps and small batches."""
    monkeypatch.chdir(tmp_path)
    Path("SPEECH/train/joe").mkdir(parents=True)
    # As many frames as the recipe wants tokens.
    pairs = itertools.product(toy_speech.TEXTS[:4], toy_speech.TEXTS[:4])
    texts = [f"{one} {other}" for one, other in pairs]
    toy_speech.record(Path("SPEECH/train/joe"), texts)
    train = Path("SPEECH/train")
    jobs = [
        speech.Job("joe", train / "joe" / f"r{number}.wav", text, 1.0)
        for number, text in enumerate(texts)
    ]
    speech.write_phonemes(train, jobs, str.swapcase)
    shown = open_voice.__doc__.replace("\n        ", " ").replace("0.02", "0.2")
    # This one is no package that the tests need.
    shown = shown.replace("moonshine", "pocketsphinx")
    commands = re.findall(
        r"^    (?:bark-tf|python -m \S+(?=_for_)) ?(.*)$", shown, re.MULTILINE
    )
    assert len(commands) == 11
    few = "steps=4 warmup_steps=1 batch_size=2 validate_every=4 sample_every=4"
    for command in commands:
        words = shlex.split(command)
        if words[0] == "_for_transformers":
            for_transformers.main(words[1:])
            continue
        if words[0] == "train":
            words += few.split()
        if words[0] == "train-tokenizer":
            words += "--steps 4 --batch-size 2".split()
        if words[1] == "open_voice/codec":
            words += ["segment_s=0.4", "codec={'quantize_from': 2}"]
        toy_speech.run_step(words)
    log = Path("open/training/codec/log.jsonl").read_text(encoding="utf-8")
    assert json.loads(log.splitlines()[-1])["val_recogniser"] > 0
    assert Path("report/report.md").is_file() and Path("speech.wav").is_file()
    voice = [path for path in Path("voice").rglob("*") if path.is_file()]
    assert sum(len(zlib.compress(path.read_bytes())) for path in voice) < MOST_BYTES
