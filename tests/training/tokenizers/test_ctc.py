"""Training of a tokenizer by CTC: tones that stand for letters."""

import dataclasses
import json

import numpy as np
import pytest
import toy

from bark_tf.cli import main as cli
from bark_tf.config import CtcConfig
from bark_tf.models.ctc import CtcModel
from bark_tf.semantic_tokens.ctc import CtcTokenizer
from bark_tf.semantic_tokens.tokenizer import load_semantic_tokenizer
from bark_tf.training.data.shards import (
    DatasetInfo,
    ShardSet,
    Utterance,
    shard_path,
    write_shard,
)
from bark_tf.training.options import TrainingOptions
from bark_tf.training.tokenizers.ctc import ctc_options, train_ctc
from bark_tf.training.tokenizers.ctc_examples import Alphabet
from bark_tf.training.tokenizers.ctc_recogniser import put_recogniser, save_recogniser

RATE = 8_000  # of the audio; the recogniser hears 16 kHz
RATE_HZ = 25.0
PITCHES = {" ": 120, "a": 300, "é": 600, "ش": 1_100, "d": 1_900, "e": 3_000}
LETTERS = list("aéشde")
STEPS = 90
OPTIONS = TrainingOptions(
    steps=STEPS,
    learning_rate=1e-2,
    warmup_steps=5,
    weight_decay=0.0,
    checkpoint_every=STEPS,
    validate_every=STEPS,
    log_every=5,
)
INFO = DatasetInfo(sample_rate=RATE, has_tokens=False, has_audio=True)
SIZES = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "kernel_size": 5}
SIZES |= {"num_mels": 20, "dropout": 0.0}


def spoken(seed):
    """A text of two words, and audio in which each letter is a tone of its pitch."""
    rng = np.random.default_rng(seed)
    words = ["".join(rng.choice(LETTERS, 3)) for _ in range(2)]
    parts = []
    for letter in " ".join(words):
        time = np.arange(int(0.16 * RATE)) / RATE
        tone = 0.3 * np.sin(2 * np.pi * PITCHES[letter] * time)
        parts += [tone, np.zeros(int(0.04 * RATE))]
    audio = np.concatenate(parts)
    audio += rng.normal(0, 3e-3, audio.size)
    return f"{words[0].upper()}, {words[1]}!", audio.astype(np.float32)


def write_speech(folder, train=64, validation=9, change=lambda text, audio: text):
    """Speech in the form of shards."""
    nothing, start = np.zeros(0, np.int32), 0
    for split, count in (("train", train), ("validation", validation)):
        made = []
        for seed in range(start, start + count):
            text, audio = spoken(seed)
            names = (f"{seed}", change(text, audio), "sine")
            codes = np.zeros((0, 0), np.int32)
            made.append(Utterance(*names, nothing, nothing, codes, audio))
        if count:
            write_shard(shard_path(folder / split, 0), made, INFO)
            INFO.save(folder / split)
        start += count
    return folder


def trained(data, out, **changes):
    arguments = {
        "vocab_size": 24,
        "rate_hz": RATE_HZ,
        "sizes": SIZES,
        "options": OPTIONS,
        "batch_size": 8,
    }
    return train_ctc(data, out, **{**arguments, **changes})


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_speech(tmp_path_factory.mktemp("speech"))


@pytest.fixture(scope="module")
def made(data, tmp_path_factory):
    """A fully trained tokenizer, its score, its directory, and the plan."""
    out, plans = tmp_path_factory.mktemp("made"), []
    return *trained(data, out, announce=plans.append), out, plans[0]


# What is learned ----------------------------------------------------------------------


def test_letters_are_learned_and_the_tokens_hold_them(made):
    score, out = made[1], made[2]
    assert score.recordings == 9
    for reading in (score.audio, score.tokens):
        assert reading.characters[0] == 0 and reading.words[0] == 0
    assert score.centres.characters[0] < 0.2
    lines = (out / "training/ctc/log.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    assert last["step"] == STEPS and last["val_loss"] < 0.2
    assert last["val_character_error_rate"] == last["val_word_error_rate"] == 0
    assert "| audio | 0.0 % (0.0 to 0.0) | 0.0 % (0.0 to 0.0) |" in str(score)


def test_the_tokenizer_is_the_saved_one(made, data):
    """It needs audio only, at any loudness."""
    tokenizer, out = made[0], made[2]
    loaded = load_semantic_tokenizer(out)
    assert isinstance(loaded, CtcTokenizer) and len(loaded.network.blocks) == 1
    assert (loaded.vocab_size, loaded.rate_hz) == (24, RATE_HZ)
    audio = np.repeat(ShardSet(data / "validation").audios[0], 2)
    tokens = loaded(audio)
    np.testing.assert_array_equal(tokens, tokenizer(audio))
    assert len(tokens) == len(audio) * 25 // 16_000 and len(set(tokens)) > 4
    assert np.mean(loaded(0.1 * audio) == tokens) > 0.95


def test_the_cost_is_told_before(made):
    plan = made[3]
    assert (plan.recordings, plan.left_out, plan.characters) == (64, 0, 6)
    assert plan.steps == STEPS + STEPS // 2
    assert plan.epochs == STEPS * 8 / 64 and plan.step_s > 0
    assert "64 recordings (0 left out), 6 characters" in str(plan)


@pytest.mark.slow
def test_another_vocabulary_starts_from_the_same_recogniser(made, data):
    """It is trained once without tokens; a repeated call reads the same score."""
    out, steps = made[2], []

    def progress(what, done, total):
        steps.append(what)

    plans = []
    changes = {"progress": progress, "announce": plans.append}
    tokenizer, score = trained(data, out, vocab_size=23, **changes)
    assert plans[0].steps == STEPS // 2  # through the tokens
    assert tokenizer.vocab_size == 23 and score.audio == made[1].audio
    assert {"k-means", "ctc through tokens", "held-out tokens"} <= set(steps)
    assert "ctc" not in steps
    del steps[:]
    again, same = trained(data, out, progress=progress)
    assert same == made[1] and "k-means" not in steps
    np.testing.assert_array_equal(again.centres, made[0].centres)


@pytest.mark.slow
def test_a_stopped_run_resumes(data, tmp_path):
    """Stopped halfway, it ends with the same tokens, masks and dropout included."""

    class Stop(Exception):
        pass

    def stop(what, done, total):
        if what == "ctc" and done > 5:
            raise Stop

    options = TrainingOptions(
        steps=8, checkpoint_every=4, log_every=1, validate_every=8, learning_rate=1e-2
    )
    changes = {"options": options, "sizes": {**SIZES, "dropout": 0.3}}
    whole = trained(data, tmp_path / "whole", **changes)
    with pytest.raises(Stop):
        trained(data, tmp_path / "parts", progress=stop, **changes)
    parts = trained(data, tmp_path / "parts", **changes)
    assert parts[1] == whole[1]
    np.testing.assert_array_equal(parts[0].centres, whole[0].centres)


# What is refused ----------------------------------------------------------------------


def test_what_cannot_work_is_refused_before_training(made, data, tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder 'train'"):
        trained(tmp_path, tmp_path / "out")
    write_speech(tmp_path / "one", train=1, validation=0)
    with pytest.raises(FileNotFoundError, match="no folder 'validation'"):
        trained(tmp_path / "one", tmp_path / "out")
    write_speech(tmp_path / "fast", 1, 1, change=lambda text, audio: 9 * text)
    with pytest.raises(ValueError, match=r"No recording of .*fast.* is usable"):
        trained(tmp_path / "fast", tmp_path / "out")
    with pytest.raises(ValueError, match="layer must be a whole number from 1 to 2"):
        trained(data, tmp_path / "out", layer=3)
    with pytest.raises(ValueError, match="rate_hz must be positive and at most 100"):
        trained(data, tmp_path / "out", rate_hz=101)
    with pytest.raises(ValueError, match="vocab_size must be from 1 to 2176"):
        trained(data, tmp_path / "out", vocab_size=2_177)
    with pytest.raises(ValueError, match="vocab_size and rate_hz must be given"):
        trained(data, tmp_path / "out", rate_hz=None)
    with pytest.raises(ValueError, match=r"other inputs \(batch_size differ\)"):
        trained(data, made[2], batch_size=9)
    assert not (tmp_path / "out").exists()


# Going on from a recogniser -----------------------------------------------------------


@pytest.mark.slow
def test_a_recogniser_goes_on_learning(made, data, tmp_path):
    start = made[2] / "training/recogniser"
    once = dataclasses.replace(OPTIONS, steps=1, learning_rate=1e-9, warmup_steps=0)
    _, score = trained(data, tmp_path / "on", start=start, options=once)
    assert score.audio.characters[0] == 0
    with pytest.raises(ValueError, match=r"other inputs \(start differ\)"):
        trained(data, tmp_path / "on", options=once)
    with pytest.raises(ValueError, match="sizes of the new one, num_layers 1"):
        sizes = {**SIZES, "num_layers": 1}
        trained(data, tmp_path / "other", start=start, options=once, sizes=sizes)
    with pytest.raises(FileNotFoundError, match=r"recogniser\.json is missing"):
        trained(data, tmp_path / "other", start=tmp_path, options=once)
    assert not (tmp_path / "other").exists()


def test_characters_keep_their_weights_in_another_alphabet(tmp_path):
    config = CtcConfig(**SIZES)
    old, new = Alphabet(("a", "b", "d")), Alphabet(("b", "c", "d", "e"))
    before, after = (CtcModel(config.replace(output_size=n)) for n in (3, 4))
    before, after = toy.randomize(before), toy.randomize(after, seed=1)
    fresh = after.arrays()["head/kernel"].copy()
    save_recogniser(tmp_path, before, old)
    put_recogniser(tmp_path, after, new)
    wanted = before.arrays()
    for name, array in after.arrays().items():
        kept = wanted[name].astype(np.float16).astype(np.float32)
        if not name.startswith("head/"):
            np.testing.assert_array_equal(array, kept)
        else:  # the last row is the blank's
            np.testing.assert_array_equal(array[[0, 2, 4]], kept[[1, 2, 3]])
    np.testing.assert_array_equal(after.arrays()["head/kernel"][[1, 3]], fresh[[1, 3]])


# The command --------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command(data, tmp_path, capsys):
    words = ["train-tokenizer", str(data), str(tmp_path), "--kind", "ctc"]
    words += ["--clusters", "5", "--rate", "25", "--width", "8", "--layer", "2"]
    words += ["--steps", "2", "--batch-size", "4", "--dtype", "mixed_bfloat16"]
    words += ["--optimizer", "muon"]
    assert cli.main(words) == 0
    shown = capsys.readouterr()
    assert "64 recordings (0 left out), 6 characters" in shown.err
    assert "| tokens, learned |" in shown.out
    assert "5 tokens at 25.0 per second in" in shown.out
    settings = json.loads((tmp_path / "semantic_tokenizer.json").read_text())
    assert (settings["kind"], settings["network"]["hidden_size"]) == ("ctc", 8)
    assert settings["network"]["num_layers"] == 2


def test_an_optimizer_brings_its_own_learning_rate():
    adamw, muon = ctc_options(100), ctc_options(100, optimizer="muon")
    assert (adamw.optimizer, adamw.learning_rate) == ("adamw", 2e-3)
    assert (muon.optimizer, muon.learning_rate) == ("muon", 3e-3)
