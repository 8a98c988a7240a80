"""Pairs that a toy Bark generates, and a quantizer trained on them."""

import functools

import keras
import numpy as np
import pytest
import toy
import toy_speech

from bark_tf import BarkModel, BarkProcessor
from bark_tf.cli import main as cli
from bark_tf.config import BarkGenerationConfig
from bark_tf.generation.coarse import CoarseWindow
from bark_tf.models.hubert.model import HubertModel
from bark_tf.semantic_tokens.tokenizer import load_semantic_tokenizer
from bark_tf.training.data.shards import ShardSet, read_index, shard_path
from bark_tf.training.tokenizers import pairs as module
from bark_tf.training.tokenizers.pairs import make_pairs
from bark_tf.voices.presets import VoicePreset

NOTHING = "\u200b"  # in which nothing has a token
# Seed 0 ends the first text at once.
TEXTS = ["zero", "one two", "three", "four five six", "seven", "eight", NOTHING]
TOO_LONG = " ".join(["one"] * 17)


@pytest.fixture(scope="module", autouse=True)
def few_programs():
    """Batches of two, and one model for all tests, to compile it once."""
    load = staticmethod(functools.cache(BarkModel.from_pretrained))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BATCH_SIZE", 2)
        patch.setattr(BarkModel, "from_pretrained", load)
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Draws tokens uniformly, the end token included."""
    keras.utils.set_random_seed(0)
    folder = tmp_path_factory.mktemp("model")
    config, generation, words = toy_speech.start()
    generation = generation.replace(
        semantic_config=generation.semantic_config.replace(
            do_sample=True, max_new_tokens=12
        )
    )
    BarkModel(config, generation).save_pretrained(folder)
    BarkProcessor(words).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def made(model, tmp_path_factory):
    """The folder of pairs, and the report."""
    out = tmp_path_factory.mktemp("pairs")
    return out, speak(model, out)


def speak(model, out, texts=(*TEXTS, TOO_LONG), **changes):
    options = {"validation": 0.4, "shard_size": 2, "jit_compile": False}
    return make_pairs(texts, out, model=model, **{**options, **changes})


def all_pairs(folder):
    shards = [ShardSet(folder / split) for split in ("train", "validation")]
    return {one.id: one for split in shards for one in split}


def test_pairs_are_what_the_model_generates(model, made):
    folder, _ = made
    found = all_pairs(folder)
    assert sorted(found) == [f"{number:06d}" for number in range(1, 6)]
    config = BarkGenerationConfig.from_pretrained(model)
    sizes = CoarseWindow(config.semantic_config, config.coarse_acoustics_config, 16)
    inputs = BarkProcessor.from_pretrained(model)([TEXTS[1], TEXTS[3]])
    out = BarkModel.from_pretrained(str(model)).generate(
        **inputs, seed=[1, 3], return_dict=True, jit_compile=False
    )
    for row, number in enumerate((1, 3)):
        one, voice = found[f"{number:06d}"], out.voice[row]
        np.testing.assert_array_equal(one.semantic, voice.semantic_prompt)
        np.testing.assert_array_equal(one.codes, voice.fine_prompt)
        audio = out.audio[row, : out.lengths[row]]
        np.testing.assert_allclose(one.audio, audio, atol=1e-3)
        assert one.codes.shape == (4, sizes.num_frames(len(one.semantic)))
        assert one.text == TEXTS[number] and one.speaker == "anybody"
        assert one.text_ids.tolist() == toy_speech.tokenizer().encode(one.text)


def test_skipped_texts_are_reported(made):
    _, report = made
    reasons = {one.id: one.reason for one in report.skipped}
    assert reasons.keys() == {"000000", "000006", "000007"}
    assert reasons["000000"] == "the model said nothing"
    assert "has a token" in reasons["000006"]
    assert "longer than the 16 tokens" in reasons["000007"]
    assert sum(report.utterances.values()) == 5 and "Skipped: 3" in str(report)
    assert all(report.utterances.values()), "both splits"


def test_a_pair_does_not_depend_on_the_others(model, made, tmp_path):
    speak(model, tmp_path, TEXTS[1:2], seed=1, validation=0)
    found = ShardSet(next(tmp_path.glob("*/dataset.json")).parent)[0]
    expected = all_pairs(made[0])["000001"]
    np.testing.assert_array_equal(found.semantic, expected.semantic)
    np.testing.assert_array_equal(found.codes, expected.codes)


def test_a_killed_run_resumes_with_the_finished_shards(
    model, made, tmp_path, monkeypatch
):
    class Killed(Exception):
        pass

    spoken, speak_rows = [], module._PairMaker._spoken

    def dies(self, lines):
        if len(spoken) == 2:
            raise Killed
        spoken.append(lines)
        return speak_rows(self, lines)

    monkeypatch.setattr(module._PairMaker, "_spoken", dies)
    with pytest.raises(Killed):
        speak(model, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("shard-*")}
    assert before
    monkeypatch.setattr(module._PairMaker, "_spoken", speak_rows)
    speak(model, tmp_path)
    for path, time in before.items():
        assert path.stat().st_mtime_ns == time
    for path in made[0].rglob("shard-*"):
        assert (tmp_path / path.relative_to(made[0])).read_bytes() == path.read_bytes()
    with pytest.raises(ValueError, match="another prepared dataset"):
        speak(model, tmp_path, seed=1)


def test_voices_take_turns(model, made, tmp_path):
    rng = np.random.default_rng(0)
    names = []
    for name in ("ann", "ben"):
        codes = rng.integers(0, 16, (4, 20))
        voice = VoicePreset(rng.integers(0, 20, 20), codes[:2], codes)
        names.append(str(voice.save(tmp_path / f"{name}.npz")))
    speak(model, tmp_path / "out", TEXTS[2:5], voices=names, validation=0, seed=1)
    shards = ShardSet(tmp_path / "out/train")
    assert shards.speakers == [names[0], names[1], names[0]]
    with pytest.raises(FileNotFoundError):
        speak(model, tmp_path / "other", voices=[tmp_path / "absent.npz"])


def test_wrong_arguments_are_refused(model, tmp_path):
    with pytest.raises(ValueError, match="no texts"):
        speak(model, tmp_path, ())
    with pytest.raises(ValueError, match="validation must be"):
        speak(model, tmp_path, validation=1.0)
    with pytest.raises(FileNotFoundError):
        speak(tmp_path / "absent", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_from_texts_to_a_tokenizer_in_one_command(model, tmp_path, capsys):
    """The tokenizer fits the model, whose rates differ from Bark's."""
    config = toy.hubert_config(num_hidden_layers=1)
    toy.randomize(HubertModel(config)).save_pretrained(tmp_path / "hubert")
    (tmp_path / "a.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    words = ["train-tokenizer", str(tmp_path / "pairs"), str(tmp_path / "out")]
    words += ["--kind", "quantizer", "--make-pairs", str(tmp_path / "a.txt")]
    words += ["--model", str(model), "--validation", "0.4", "--no-xla"]
    words += ["--hubert", str(tmp_path / "hubert"), "--layer", "1"]
    assert cli.main([*words, "--width", "8", "--steps", "2"]) == 0
    out = capsys.readouterr().out
    assert "the model said nothing: 000000" in out and "| token accuracy |" in out
    tokenizer = load_semantic_tokenizer(tmp_path / "out")
    assert (tokenizer.vocab_size, tokenizer.rate_hz) == (20, 50.0)
    index = read_index(shard_path(tmp_path / "pairs/train", 0))
    assert {row.get("speaker", "anybody") for row in index} == {"anybody"}
