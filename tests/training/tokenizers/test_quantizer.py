"""Training of the quantizer: alignment, learning, resuming, and the command."""

import json

import keras
import numpy as np
import pytest
import toy
from toy import largest_difference

from bark_tf.cli import main as cli
from bark_tf.config import BarkGenerationConfig, HubertQuantizerConfig
from bark_tf.models.hubert.model import HubertModel
from bark_tf.models.hubert.quantizer import HubertQuantizer
from bark_tf.models.losses import IGNORED_LABEL
from bark_tf.semantic_tokens.hubert import HubertTokenizer
from bark_tf.semantic_tokens.tokenizer import load_semantic_tokenizer
from bark_tf.training.data.shards import (
    DatasetInfo,
    ShardSet,
    Utterance,
    shard_path,
    write_shard,
)
from bark_tf.training.runs.fit import TrainingOptions
from bark_tf.training.tokenizers import quantizer as module
from bark_tf.training.tokenizers.quantizer import (
    QuantizerExamples,
    QuantizerScore,
    QuantizerTrainer,
    quantizer_options,
    quantizer_score,
    train_quantizer,
)

# Frames have base's length and place; layer 1 of 2 is read.
CONFIG = toy.hubert_config(conv_dim=(8,) * 7)
RATE = 8_000  # of the audio of pairs; HuBERT hears 16 kHz
RATE_HZ = 25.0  # of the tokens: every other frame
PITCHES = (150, 400, 900, 1_500, 2_400, 3_300)
STEPS = 60
OPTIONS = TrainingOptions(
    steps=STEPS,
    learning_rate=2e-2,
    warmup_steps=5,
    checkpoint_every=STEPS // 2,
    validate_every=STEPS // 4,
    patience=9,
)
INFO = DatasetInfo(
    sample_rate=RATE,
    has_tokens=True,
    has_audio=True,
    num_codebooks=1,
    codebook_size=2,
    frame_rate=RATE_HZ,
    semantic_vocab_size=len(PITCHES),
    semantic_rate_hz=RATE_HZ,
    text_vocab_size=9,
)


def tones(seed, count=6):
    """Tokens, and audio in which each of them is a tone of its own pitch.

    A token lasts for a fifth of a second, as sounds of speech do.
    """
    rng = np.random.default_rng(seed)
    tokens = np.repeat(rng.integers(0, len(PITCHES), count), int(RATE_HZ / 5))
    pitch = np.repeat(np.array(PITCHES)[tokens], int(RATE / RATE_HZ))
    audio = 0.3 * np.sin(2 * np.pi * np.cumsum(pitch) / RATE)
    audio += rng.normal(0, 0.01, audio.size)
    return tokens.astype(np.int32), audio.astype(np.float32)


def write_pairs(folder, info=INFO, train=40, validation=6):
    """Pairs of tones in the form of shards."""
    ids, start = np.ones(1, np.int32), 0
    for split, count in (("train", train), ("validation", validation)):
        pairs = []
        for seed in range(start, start + count):
            tokens, audio = tones(seed)
            codes = np.zeros((info.num_codebooks, len(tokens)), np.int32)
            name = f"{seed}"
            pairs.append(Utterance(name, name, "sine", ids, tokens, codes, audio))
        if count:
            write_shard(shard_path(folder / split, 0), pairs, info)
            info.save(folder / split)
        start += count
    return folder


@pytest.fixture(scope="module")
def hubert():
    """Random weights: its frames tell tones apart all the same.

    Its layers add little to what they are given, or they would scramble it.
    """
    hubert = toy.randomize(HubertModel(CONFIG), seed=0)
    for variable in hubert.weights:
        if variable.path.endswith("scale"):
            variable.assign(np.ones(variable.shape))
        if variable.path.endswith(("out/kernel", "proj/kernel")):
            variable.assign(variable * 0.2)
    return hubert


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("pairs"))


def trained(pairs, out, hubert, **changes):
    options = {"hidden_size": 24, "layer": 1, "options": OPTIONS, **changes}
    return train_quantizer(pairs, out, hubert=hubert, **options)


@pytest.fixture(scope="module")
def made(pairs, hubert, tmp_path_factory):
    """A fully trained quantizer, its score and its directory."""
    out = tmp_path_factory.mktemp("made")
    return *trained(pairs, out, hubert), out


# What is learned ----------------------------------------------------------------------


def test_tokens_of_held_out_audio_are_found(made, pairs):
    tokenizer, score, out = made
    assert (score.pairs, score.tokens) == (6, 6 * 30)
    assert score.accuracy > 0.9 and score.edit_distance < 0.1
    again = quantizer_score(
        load_semantic_tokenizer(out), ShardSet(pairs / "validation")
    )
    assert again == score
    assert (tokenizer.vocab_size, tokenizer.rate_hz) == (len(PITCHES), RATE_HZ)


def test_layers_above_the_one_read_are_not_saved(made):
    tokenizer, _, out = made
    loaded = load_semantic_tokenizer(out)
    assert len(tokenizer.hubert.blocks) == 2 and len(loaded.hubert.blocks) == 1


@pytest.mark.slow
def test_a_stopped_run_resumes_with_the_frames_on_disk(
    made, pairs, hubert, tmp_path, monkeypatch
):
    """Stopped after its first checkpoint, it ends with the same weights.

    The seed decides all of them, whatever happened in the process before.
    """

    class Stop(Exception):
        pass

    def stop(what, done, total):
        if what == "quantizer" and done > STEPS // 2:
            raise Stop

    keras.utils.set_random_seed(99)
    with pytest.raises(Stop):
        trained(pairs, tmp_path, hubert, progress=stop)
    monkeypatch.setattr(module, "_write_frames", None)
    tokenizer, score = trained(pairs, tmp_path, hubert)
    assert score == made[1]
    for one, other in zip(
        tokenizer.quantizer.weights, made[0].quantizer.weights, strict=True
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_a_quantizer_can_be_the_start(made, pairs, hubert, tmp_path):
    """One step with a tiny learning rate changes neither weights nor score."""
    made[0].quantizer.save_pretrained(tmp_path / "start")
    options = TrainingOptions(steps=1, learning_rate=1e-9, weight_decay=0.0)
    change = {"hidden_size": None, "quantizer": tmp_path / "start", "options": options}
    tokenizer, score = trained(pairs, tmp_path / "out", hubert, **change)
    assert score == made[1]
    for one, other in zip(
        tokenizer.quantizer.weights, made[0].quantizer.weights, strict=True
    ):
        assert largest_difference(one, other) < 1e-6


# Alignment ----------------------------------------------------------------------------


class Held:
    """Frames in memory: each holds its own number."""

    def __init__(self, *sizes):
        self.lengths = np.array([frames for frames, _ in sizes])
        self._sizes = sizes

    def __len__(self):
        return len(self._sizes)

    def __getitem__(self, index):
        num_frames, num_tokens = self._sizes[index]
        numbers = np.arange(num_frames, dtype=np.float16)[:, None]
        return numbers, np.arange(num_tokens, dtype=np.int32)


@pytest.mark.parametrize(("rate_hz", "sizes"), [(50.0, (99, 99)), (25.0, (99, 49))])
def test_each_token_is_assigned_the_frame_at_its_time(rate_hz, sizes):
    examples = QuantizerExamples(Held(sizes), rate_hz=rate_hz, config=CONFIG)
    example = examples.example(0)
    centres = (example["targets"] + 0.5) / rate_hz
    frames = example["frames"][example["chosen"], 0].astype(float)
    assert len(example["targets"]) == sizes[1]
    # Half the distance of two frames.
    assert np.abs(centres - (frames * 320 + 200) / 16_000).max() <= 0.01


def test_long_pairs_are_cropped_differently_in_each_epoch(monkeypatch):
    monkeypatch.setattr(module, "MAX_FRAMES", 20)
    examples = QuantizerExamples(Held((99, 50)), rate_hz=25.0, config=CONFIG, seed=1)
    assert examples.longest == 20
    starts = set()
    for epoch in range(8):
        one, again = examples.example(0, epoch), examples.example(0, epoch)
        for name, array in one.items():
            np.testing.assert_array_equal(array, again[name])
        said = one["frames"][one["chosen"], 0]
        np.testing.assert_array_equal(said, np.rint(2 * one["targets"] + 0.4))
        assert len(one["frames"]) == 20 and 9 <= len(one["targets"]) <= 11
        starts.add(float(one["frames"][0, 0]))
    assert len(starts) > 4


def test_padding_changes_nothing():
    """Padding frames and ignored rows do not change the loss."""
    rng = np.random.default_rng(0)
    examples = QuantizerExamples(Held((30, 15), (20, 10)), rate_hz=25.0, config=CONFIG)
    sizes = {"input_size": 1, "hidden_size": 4, "output_size": 15}
    trainer = QuantizerTrainer(HubertQuantizer(HubertQuantizerConfig(**sizes)))
    for variable in trainer.model.weights:
        variable.assign(rng.normal(0, 0.3, variable.shape))
    long, short = examples.example(0), examples.example(1)
    alone = trainer.measure(examples.pad([short], 20))
    padded = examples.pad([examples.without_targets(long), short], 40)
    assert padded["frames"].shape == (2, 40, 1)
    assert (padded["targets"] == IGNORED_LABEL).sum() == 15 + 5
    beside = trainer.measure(padded)
    np.testing.assert_allclose(alone, beside, rtol=1e-5)
    assert float(alone[1]) == 10


def test_score_counts_what_is_missing_as_wrong(pairs):
    shards = ShardSet(pairs / "validation")
    answers = iter([shards[i].semantic for i in range(6)])

    def cut(audio):
        return next(answers)[1:]

    score = quantizer_score(cut, shards)
    assert score.changes == 6 and score.edit_distance == 6 / 180
    assert score.hits == sum(
        int(np.sum(shards[i].semantic[:-1] == shards[i].semantic[1:])) for i in range(6)
    )
    assert "| 6 | 180 |" in str(score) and "| 0.033 |" in str(score)
    assert "50.0 %" in str(QuantizerScore(1, 4, 2, 2))


# What is refused ----------------------------------------------------------------------


def test_without_pairs_there_is_advice(pairs, hubert, tmp_path):
    with pytest.raises(FileNotFoundError, match="--make-pairs"):
        trained(tmp_path, tmp_path / "out", hubert)
    write_pairs(tmp_path, validation=0)
    with pytest.raises(ValueError, match="has no held-out pairs"):
        trained(tmp_path, tmp_path / "out", hubert)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("has", "missing"), [("has_tokens", "semantic tokens"), ("has_audio", "audio")]
)
def test_half_a_pair_is_refused(hubert, tmp_path, has, missing):
    write_pairs(tmp_path, DatasetInfo(**{**vars(INFO), has: False}))
    with pytest.raises(ValueError, match=f"without {missing}"):
        trained(tmp_path, tmp_path / "out", hubert)


def test_other_tokens_are_refused(made, pairs, hubert, tmp_path):
    BarkGenerationConfig().save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match=r"10000 at 49\.9 Hz. Received: 6 at 25"):
        trained(pairs, tmp_path / "model", hubert)
    sizes = HubertQuantizerConfig(input_size=16, hidden_size=4, output_size=7)
    HubertQuantizer(sizes).save_pretrained(tmp_path / "seven")
    with pytest.raises(ValueError, match=r"the pairs' 6 tokens. Received: 7"):
        trained(pairs, tmp_path, hubert, hidden_size=None, quantizer=tmp_path / "seven")
    with pytest.raises(ValueError, match="hidden_size is set by the quantizer"):
        trained(pairs, tmp_path, hubert, quantizer=tmp_path / "seven")
    with pytest.raises(ValueError, match="layer must be"):
        trained(pairs, tmp_path, hubert, layer=3)


def test_a_run_with_other_inputs_is_not_resumed(made, pairs, hubert):
    with pytest.raises(ValueError, match=r"other inputs \(quantizer differ\)"):
        trained(pairs, made[2], hubert, hidden_size=25)
    other = HubertModel(CONFIG)
    with pytest.raises(ValueError, match=r"other inputs \(hubert differ\)"):
        trained(pairs, made[2], other)
    with pytest.raises(ValueError, match="--restart"):
        trained(pairs, made[2], hubert, options=quantizer_options(7))


# The command --------------------------------------------------------------------------


def test_the_command(made, pairs, hubert, tmp_path, capsys):
    hubert.save_pretrained(tmp_path / "hubert")
    run = tmp_path / "out/training/quantizer"
    run.mkdir(parents=True)
    (run / "inputs.json").write_text("{}", encoding="utf-8")  # of another run
    words = ["train-tokenizer", str(pairs), str(tmp_path / "out")]
    words += ["--kind", "quantizer", "--hubert", str(tmp_path / "hubert")]
    words += ["--layer", "1", "--width", "8", "--steps", "2", "--batch-size", "3"]
    assert cli.main(words) == 1
    assert "start again with --restart" in capsys.readouterr().err
    assert cli.main([*words, "--restart"]) == 0
    out = capsys.readouterr().out
    assert "| held-out pairs | tokens | token accuracy | edit distance |" in out
    assert "| 6 | 180 |" in out and "6 tokens at 25.0 per second in" in out
    settings = json.loads((tmp_path / "out/semantic_tokenizer.json").read_text())
    assert (settings["layer"], settings["quantizer"]["hidden_size"]) == (1, 8)
    assert isinstance(load_semantic_tokenizer(tmp_path / "out"), HubertTokenizer)
