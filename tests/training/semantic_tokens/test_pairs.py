"""Pairs that a toy Bark makes itself, and the quantizer that learns from them."""

import keras
import numpy as np
import pytest
import toy
import toy_speech

from bark_tf import BarkModel, BarkProcessor, cli
from bark_tf.config import BarkGenerationConfig, HubertConfig
from bark_tf.generation.coarse import Layout
from bark_tf.training.semantic_tokens import load_semantic_tokenizer
from bark_tf.training.semantic_tokens import pairs as module
from bark_tf.training.semantic_tokens.hubert import HubertModel
from bark_tf.training.semantic_tokens.pairs import make_pairs
from bark_tf.training.shards import ShardSet, read_index, shard_path
from bark_tf.voices import VoicePreset

pytest.importorskip("soxr")

EMPTY = "zero"  # at which the toy says nothing
TEXTS = ["one two", EMPTY, "three", "four five six", "seven", "eight", "???"]
TOO_LONG = " ".join(["one"] * 17)


@pytest.fixture(scope="module", autouse=True)
def small_batches():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BATCH_SIZE", 2)
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Draws tokens at random; it ends soon, and at one text at once."""
    keras.utils.set_random_seed(0)
    folder = tmp_path_factory.mktemp("model")
    config, generation, words = toy_speech.start()
    generation = generation.replace(
        semantic_config=generation.semantic_config.replace(
            do_sample=True, max_new_tokens=40
        )
    )
    BarkModel(config, generation).save_pretrained(folder)
    BarkProcessor(words).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def silent_at():
    """Makes `generate` say nothing at a text, as models may."""
    generate = BarkModel.generate

    def instead(self, *args, **kwargs):
        out = generate(self, *args, **kwargs)
        word = toy_speech.tokenizer().encode(EMPTY)[0]
        is_empty = np.asarray(kwargs["input_ids"])[:, 0] == word
        voices = [
            None if empty else voice
            for empty, voice in zip(is_empty, out.voice, strict=True)
        ]
        return out._replace(voice=voices)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BarkModel, "generate", instead)
        yield


@pytest.fixture(scope="module")
def made(model, silent_at, tmp_path_factory):
    """The folder of pairs, and the report."""
    out = tmp_path_factory.mktemp("pairs")
    return out, speak(model, out)


def speak(model, out, texts=(*TEXTS, TOO_LONG), **changes):
    options = {"validation": 0.4, "shard_size": 2, "jit_compile": False, **changes}
    return make_pairs(texts, out, model=model, **options)


def all_pairs(folder):
    shards = [ShardSet(folder / split) for split in ("train", "validation")]
    return {one.id: one for split in shards for one in split}


def test_pairs_are_what_the_model_says(model, made):
    folder, _ = made
    found = all_pairs(folder)
    assert sorted(found) == ["000000", "000002", "000003", "000004", "000005"]
    config = BarkGenerationConfig.from_pretrained(model)
    sizes = Layout(config.semantic_config, config.coarse_acoustics_config, 16)
    bark, processor = (cls.from_pretrained(model) for cls in (BarkModel, BarkProcessor))
    for number in (0, 3):
        one, text = found[f"{number:06d}"], TEXTS[number]
        inputs = processor(text, return_tensors="np")
        out = bark.generate(**inputs, seed=number, return_dict=True, jit_compile=False)
        np.testing.assert_array_equal(
            one.semantic, out.semantic[0, : len(one.semantic)]
        )
        np.testing.assert_array_equal(one.codes, out.fine[0])
        assert one.codes.shape == (4, sizes.num_frames(len(one.semantic)))
        np.testing.assert_allclose(one.audio, out.audio[0], atol=1e-3)
        assert one.text == text and one.speaker == "anybody"
        assert one.text_ids.tolist() == toy_speech.tokenizer().encode(text)


def test_what_is_not_said_is_reported(made):
    _, report = made
    reasons = {one.id: one.reason for one in report.skipped}
    assert reasons.keys() == {"000001", "000006", "000007"}
    assert reasons["000001"] == "the model said nothing"
    assert "has a token" in reasons["000006"]
    assert "longer than the 16 tokens" in reasons["000007"]
    assert sum(report.utterances.values()) == 5 and "Skipped: 3" in str(report)
    assert all(report.utterances.values()), "both splits"


def test_a_pair_does_not_depend_on_the_others(model, made, tmp_path):
    speak(model, tmp_path, TEXTS[:1])
    found = ShardSet(next(tmp_path.glob("*/dataset.json")).parent)[0]
    expected = all_pairs(made[0])["000000"]
    np.testing.assert_array_equal(found.semantic, expected.semantic)
    np.testing.assert_array_equal(found.codes, expected.codes)


def test_killed_it_goes_on_with_the_shards_that_are_there(
    model, made, tmp_path, monkeypatch
):
    class Killed(Exception):
        pass

    spoken, speak_rows = [], module._Maker._spoken

    def dies(self, lines):
        if len(spoken) == 2:
            raise Killed
        spoken.append(lines)
        return speak_rows(self, lines)

    monkeypatch.setattr(module._Maker, "_spoken", dies)
    with pytest.raises(Killed):
        speak(model, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("shard-*")}
    assert before
    monkeypatch.setattr(module._Maker, "_spoken", speak_rows)
    speak(model, tmp_path)
    for path, time in before.items():
        assert path.stat().st_mtime_ns == time
    for path in made[0].rglob("shard-*"):
        assert (tmp_path / path.relative_to(made[0])).read_bytes() == path.read_bytes()
    with pytest.raises(ValueError, match="prepared from something else"):
        speak(model, tmp_path, seed=1)


def test_voices_take_turns(model, made, tmp_path):
    rng = np.random.default_rng(0)
    names = []
    for name in ("ann", "ben"):
        codes = rng.integers(0, 16, (4, 20))
        voice = VoicePreset(rng.integers(0, 20, 20), codes[:2], codes)
        names.append(str(voice.save(tmp_path / f"{name}.npz")))
    speak(model, tmp_path / "out", TEXTS[2:5], voices=names, validation=0)
    shards = ShardSet(tmp_path / "out/train")
    assert shards.speakers == [names[0], names[1], names[0]]
    with pytest.raises(FileNotFoundError):
        speak(model, tmp_path / "other", voices=[tmp_path / "absent.npz"])


def test_what_cannot_be_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match="no texts"):
        speak(model, tmp_path, ())
    with pytest.raises(ValueError, match="validation must be"):
        speak(model, tmp_path, validation=1.0)
    with pytest.raises(FileNotFoundError):
        speak(tmp_path / "absent", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_from_texts_to_a_tokenizer_in_one_command(model, silent_at, tmp_path, capsys):
    """The tokenizer fits the model, whose rates are not those of Bark."""
    config = HubertConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        conv_dim=(4,) * 7,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=4,
    )
    toy.randomize(HubertModel(config)).save_pretrained(tmp_path / "hubert")
    (tmp_path / "a.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    words = ["train-tokenizer", str(tmp_path / "pairs"), str(tmp_path / "out")]
    words += ["--kind", "quantizer", "--make-pairs", str(tmp_path / "a.txt")]
    words += ["--model", str(model), "--validation", "0.4", "--no-xla"]
    words += ["--hubert", str(tmp_path / "hubert"), "--layer", "1"]
    assert cli.main([*words, "--width", "8", "--steps", "2"]) == 0
    out = capsys.readouterr().out
    assert "the model said nothing: 000001" in out and "| token accuracy |" in out
    tokenizer = load_semantic_tokenizer(tmp_path / "out")
    assert (tokenizer.vocab_size, tokenizer.rate_hz) == (20, 50.0)
    index = read_index(shard_path(tmp_path / "pairs/train", 0))
    assert {row.get("speaker", "anybody") for row in index} == {"anybody"}
