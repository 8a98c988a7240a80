"""From recordings to a model that has learned from them, at toy size."""

import json
import shutil
import subprocess
import wave

import numpy as np
import pytest

pytest.importorskip("soundfile")
pytest.importorskip("soxr")

import keras

from bark_tf import BarkModel, BarkProcessor, cli
from bark_tf.config import (
    BarkCoarseConfig,
    BarkCoarseGenerationConfig,
    BarkConfig,
    BarkFineConfig,
    BarkFineGenerationConfig,
    BarkGenerationConfig,
    BarkSemanticConfig,
    BarkSemanticGenerationConfig,
    EncodecConfig,
)
from bark_tf.generation.coarse import Layout
from bark_tf.tokenizer import BarkTokenizer
from bark_tf.training import prepare as module
from bark_tf.training.prepare import align, is_held_out, prepare
from bark_tf.training.shards import ShardSet

RATE = 8_000
WORDS = "zero one two three four five six seven eight nine".split()
TEXTS = [
    f"{a} {b} {c}"
    for a, b, c in zip(WORDS, WORDS[3:] + WORDS, WORDS[::-1], strict=False)
]
SMALL = {"num_layers": 1, "num_heads": 2, "hidden_size": 16, "bias": False}


def start():
    """A toy Bark: 8 kHz, 50 Hz, 20 semantic tokens, 4 codebooks of 16."""
    config = BarkConfig(
        semantic_config=BarkSemanticConfig(
            input_vocab_size=40, output_vocab_size=21, block_size=216, **SMALL
        ),
        coarse_acoustics_config=BarkCoarseConfig(
            input_vocab_size=54, output_vocab_size=54, block_size=512, **SMALL
        ),
        fine_acoustics_config=BarkFineConfig(
            input_vocab_size=17,
            output_vocab_size=17,
            block_size=64,
            n_codes_total=4,
            **SMALL,
        ),
        codec_config=EncodecConfig(
            sampling_rate=RATE,
            target_bandwidths=(0.8,),
            num_filters=2,
            hidden_size=8,
            upsampling_ratios=(8, 5, 4),
            num_lstm_layers=1,
            codebook_size=16,
        ),
    )
    generation_config = BarkGenerationConfig(
        semantic_config=BarkSemanticGenerationConfig(
            eos_token_id=20,
            max_new_tokens=200,
            text_encoding_offset=21,
            text_pad_token=38,
            semantic_infer_token=39,
            semantic_vocab_size=20,
            max_input_semantic_length=16,
            semantic_rate_hz=50,
        ),
        coarse_acoustics_config=BarkCoarseGenerationConfig(
            coarse_semantic_pad_token=52,
            coarse_infer_token=53,
            coarse_rate_hz=50,
            max_coarse_input_length=64,
            max_coarse_history=100,
            sliding_window_len=20,
        ),
        fine_acoustics_config=BarkFineGenerationConfig(
            max_fine_history_length=32, max_fine_input_length=64, n_fine_codebooks=4
        ),
        sample_rate=RATE,
        codebook_size=16,
    )
    return config, generation_config, tokenizer()


def tokenizer():
    return BarkTokenizer.from_vocabulary(["[PAD]", "[UNK]", *WORDS])


def say(text, path):
    """Speech by flite or espeak-ng; tones, one per word, where both are missing."""
    if shutil.which("flite"):
        command = ["flite", "-voice", "slt", "-t", text, "-o", str(path)]
    elif shutil.which("espeak-ng"):
        command = ["espeak-ng", "-w", str(path), text]
    else:
        pitches = [200 + 90 * WORDS.index(word) for word in text.split()]
        time = np.arange(4_000) / 16_000
        tones = [np.sin(2 * np.pi * pitch * time) for pitch in pitches]
        samples = (np.concatenate(tones) * 8_000).astype("<i2").tobytes()
        with wave.open(str(path), "wb") as file:
            file.setparams((1, 2, 16_000, 0, "NONE", ""))
            file.writeframes(samples)
        return
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Ten recordings in LJSpeech's form, and three lines that are of no use."""
    folder = tmp_path_factory.mktemp("ann")
    lines = []
    for number, text in enumerate(TEXTS):
        say(text, folder / f"r{number}.wav")
        lines.append(f"r{number}|{text}|{text}")
    (folder / "broken.wav").write_bytes(b"RIFF, but not really")
    lines += ["broken|one|one", "absent|two|two", "r1|again|again", "a|b|c|d|e"]
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    keras.utils.set_random_seed(0)
    folder = tmp_path_factory.mktemp("model")
    config, generation_config, words = start()
    BarkModel(config, generation_config).save_pretrained(folder)
    BarkProcessor(words).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def audio(recordings, tmp_path_factory):
    out = tmp_path_factory.mktemp("audio")
    return prepare(recordings, out, sample_rate=RATE), out


@pytest.fixture(scope="module")
def with_tokenizer(model, audio):
    command = ["train-tokenizer", str(audio[1]), str(model), "-q"]
    assert cli.main(command) == 0
    return model


# === Preparing ===


def test_what_is_of_no_use_is_a_row_of_the_report(audio):
    report, out = audio
    assert report.utterances == {"train": 10}
    reasons = {one.id: one.reason for one in report.skipped}
    assert set(reasons) == {"broken", "absent", "r1", "a"}
    assert "5 columns" in reasons["a"] and "no audio file" in reasons["absent"]
    saved = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert len(saved["skipped"]) == 4 and saved["seconds"] == report.seconds
    text = str(report)
    assert "Skipped: 4" in text and (out / "report.md").read_text().endswith(
        f"{text}\n"
    )


def test_tokens_and_codes_are_of_one_length(with_tokenizer, recordings, tmp_path):
    prepare(recordings, tmp_path, model=with_tokenizer, keep_audio=True)
    shards = ShardSet(tmp_path / "train")
    config = BarkGenerationConfig.from_pretrained(with_tokenizer)
    sizes = Layout(config.semantic_config, config.coarse_acoustics_config, 16)
    codec = BarkModel.from_pretrained(with_tokenizer).codec_model
    for index in range(len(shards)):
        one = shards[index]
        assert one.codes.shape == (4, sizes.num_frames(len(one.semantic)))
        seconds = len(one.audio) / RATE
        assert len(one.semantic) == pytest.approx(50 * seconds, abs=1.01)
        # int16 in the shard: a code next to a border may change.
        codes = codec.encode(one.audio[None]).numpy()[0, :, : one.codes.shape[1]]
        assert (codes == one.codes).mean() > 0.98
        ids = tokenizer().encode(one.text)
        assert one.text_ids.tolist() == ids


def test_a_killed_run_goes_on_and_gives_the_same_bytes(
    recordings, tmp_path, monkeypatch
):
    how = {"sample_rate": RATE, "shard_size": 3, "validation": 0.2}
    prepare(recordings, tmp_path / "whole", **how)
    made = []
    make_shard = module.make_shard

    def dies(*args):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(args[0].path.name)
        make_shard(*args)

    monkeypatch.setattr(module, "make_shard", dies)
    with pytest.raises(KeyboardInterrupt):
        prepare(recordings, tmp_path / "part", **how)
    monkeypatch.setattr(
        module, "make_shard", lambda *args: (made.append(1), make_shard(*args))
    )
    prepare(recordings, tmp_path / "part", **how)
    files = sorted(
        p.relative_to(tmp_path / "whole") for p in tmp_path.glob("whole/*/*")
    )
    shards = [path for path in files if path.suffix == ".tfrecord"]
    assert len(made) == len(shards) > 2
    for path in files:
        one, two = tmp_path / "whole" / path, tmp_path / "part" / path
        assert one.read_bytes() == two.read_bytes()


def test_another_dataset_or_setting_is_refused(recordings, audio):
    with pytest.raises(ValueError, match="prepared from something else"):
        prepare(recordings, audio[1], sample_rate=RATE, trim=False)


def test_a_text_is_held_out_whoever_says_it():
    texts = [f"sentence number {number}" for number in range(4_000)]
    held = {text for text in texts if is_held_out(text, 0.05)}
    assert 0.035 < len(held) / len(texts) < 0.065
    assert held <= {text for text in texts if is_held_out(text, 0.1)}
    assert all(is_held_out(f" {text.upper()} ", 0.05) for text in held)
    assert not any(is_held_out(text, 0.0) for text in texts)


def test_a_tokenizer_for_another_model_is_refused(model, recordings, audio, tmp_path):
    command = ["train-tokenizer", str(audio[1]), str(tmp_path), "-q"]
    assert cli.main([*command, "--clusters", "9", "--rate", "50"]) == 0
    with pytest.raises(ValueError, match=r"20 at 50 Hz. Received: 9 at 50.0 Hz"):
        prepare(recordings, tmp_path / "o", model=model, semantic_tokenizer=tmp_path)


@pytest.mark.parametrize(("tokens", "frames"), [(10, 10), (10, 9), (9, 12), (1, 1)])
def test_aligned_lengths_fit(tokens, frames):
    config = start()[1]
    sizes = Layout(config.semantic_config, config.coarse_acoustics_config, 16)
    semantic, codes = align(np.arange(tokens), np.zeros((4, frames)), sizes)
    assert codes.shape[1] == sizes.num_frames(len(semantic)) == min(tokens, frames)


def test_wrong_arguments_are_refused(recordings, tmp_path):
    with pytest.raises(ValueError, match="validation must be"):
        prepare(recordings, tmp_path, validation=1.0)
    with pytest.raises(ValueError, match="sample_rate is the model's own"):
        prepare(recordings, tmp_path, model="x", sample_rate=RATE)
    with pytest.raises(FileNotFoundError):
        prepare(tmp_path / "absent", tmp_path / "out")


# === End to end ===

RECIPE = '''"""Trains the toy a little."""
from bark_tf.training.fit import TrainingOptions
from bark_tf.training.recipe import Recipe

RECIPE = [
    Recipe(stage="codec", segment_s=0.3, batch_size=2, codec={"quantize_from": 4},
           options=TrainingOptions(steps=8, learning_rate=3e-3, warmup_steps=1,
                                   log_every=1)),
    *[
        Recipe(stage=stage, batch_size=4, history_probability=0.3, method=method,
               options=TrainingOptions(steps=8, learning_rate=3e-3, warmup_steps=1,
                                       log_every=1, validate_every=8))
        for stage, method in
        (("semantic", "full"), ("coarse", "lora"), ("fine", "full"))
    ],
]
'''


def test_every_stage_is_trained_and_the_model_speaks(
    with_tokenizer, recordings, tmp_path, capsys
):
    data, out = tmp_path / "data", tmp_path / "out"
    prepared = ["prepare", str(recordings), str(data), "--model", str(with_tokenizer)]
    assert cli.main([*prepared, "--keep-audio", "--validation", "0.2"]) == 0
    assert "Skipped: 4" in capsys.readouterr().out
    recipe = tmp_path / "recipe.py"
    recipe.write_text(RECIPE, encoding="utf-8")
    command = ["train", str(recipe), "--set", f"data={data}", f"out={out}"]
    command += [f"model={with_tokenizer}", "semantic.seed=3"]
    # Only the first may name the model; the others go on from what it made.
    command[-2:] = [f"codec.model={with_tokenizer}", "semantic.seed=3"]
    assert cli.main(command) == 0, capsys.readouterr().err
    for stage in ("codec", "semantic", "coarse", "fine"):
        folder = out / "training" / stage
        lines = (folder / "log.jsonl").read_text().splitlines()
        losses = [json.loads(line).get("loss") for line in lines]
        losses = [loss for loss in losses if loss is not None]
        assert len(losses) == 8 and losses[-1] < losses[0], stage
        assert (folder / "done.json").is_file()
    assert (out / "adapters" / "coarse.safetensors").is_file()
    before = BarkModel.from_pretrained(with_tokenizer)
    after = BarkModel.from_pretrained(out)
    for name, part in after.parts.items():
        old = before.parts[name].weights
        changed = [
            np.any(a.numpy() != b.numpy())
            for a, b in zip(part.weights, old, strict=True)
        ]
        assert any(changed), name
    processor = BarkProcessor.from_pretrained(out)
    inputs = processor("four two", return_tensors="np")
    speech = after.generate(**inputs, semantic_max_new_tokens=40, seed=1)
    assert np.isfinite(speech).all() and speech.shape[1] > 0
    # A second call finds everything done.
    assert cli.main([*command, "-q"]) == 0


def test_a_model_from_nothing_starts_itself(audio, tmp_path, capsys):
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        f"""
import importlib.util
spec = importlib.util.spec_from_file_location("toy_start", {__file__!r})
toy = importlib.util.module_from_spec(spec)
spec.loader.exec_module(toy)
from bark_tf.training.fit import TrainingOptions
from bark_tf.training.recipe import Recipe
RECIPE = Recipe(stage="codec", start=toy.start, segment_s=0.2, batch_size=2,
                codec={{"quantize_from": 2}},
                options=TrainingOptions(steps=3, learning_rate=1e-3, log_every=1))
""",
        encoding="utf-8",
    )
    command = ["train", str(recipe), "--set", f"data={audio[1]}"]
    assert cli.main([*command, f"out={tmp_path / 'out'}"]) == 0, capsys.readouterr().err
    assert (
        BarkProcessor.from_pretrained(tmp_path / "out")("one").input_ids.shape[1] == 16
    )
    assert BarkModel.from_pretrained(tmp_path / "out").codec_model.config.codebook_size
    assert cli.main(["train", str(recipe), "--show"]) == 0
    assert "codec.learning_rate=0.001" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nosuch"], "There is no recipe 'nosuch'"),
        ([], "give a RECIPE"),
        (["lora", "--set", "steps=many"], "steps must be a number"),
        (["lora", "--set", "nothing=1"], "A recipe has no 'nothing'"),
        (["lora", "--set", "steps"], "--set takes key=value"),
        (["lora", "--set", "codec.steps=1"], "has the stages semantic, coarse, fine"),
        (["lora", "--set", "steps=0"], "steps must be at least 1"),
        (["lora"], "needs data: give --set data=DIRECTORY"),
        (["lora", "--set", "data=a", "out=b"], "needs a model to start from"),
    ],
)
def test_wrong_usage_of_train_is_one_line(words, message, capsys):
    assert cli.main(["train", *words]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_all_shipped_recipes_can_be_read(capsys):
    assert cli.main(["train", "--list"]) == 0
    names = capsys.readouterr().out.split()
    assert {"full", "lora", "small_voice/codec"} <= set(names)
    for name in names:
        assert cli.main(["train", name, "--show"]) == 0
        shown = capsys.readouterr().out
        assert "bark-tf train" in shown and "learning_rate=" in shown
