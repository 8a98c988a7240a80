"""From ten recordings to a trained model that speaks, at toy size."""

import json

import keras
import numpy as np
import pytest
import toy_speech
from toy_speech import RATE

from bark_tf import BarkModel, BarkProcessor
from bark_tf.cli import main as cli

STAGES = ("codec", "semantic", "coarse", "fine")
# The coarse stage has adapters; the slow test of `open_voice` samples every stage.
SAMPLED = ("codec", "coarse")
STEPS = 8
RECIPE = f'''"""Trains the toy a little."""
from bark_tf.training import CodecOptions, Recipe, TrainingOptions

OPTIONS = TrainingOptions(steps={STEPS}, learning_rate=3e-3, warmup_steps=1,
                          log_every=1, validate_every={STEPS})
RECIPE = [
    Recipe(stage="codec", batch_size=2, options=OPTIONS, sample_every=4,
           codec=CodecOptions(segment_s=0.3, quantize_from=4)),
    *[Recipe(stage=stage, method=method, batch_size=4, options=OPTIONS,
             sample_every=8 if stage == "coarse" else None)
      for stage, method in
      (("semantic", "full"), ("coarse", "lora"), ("fine", "full"))],
]
'''


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Runs all commands; gives the folder with the results."""
    keras.utils.set_random_seed(0)
    folder = tmp_path_factory.mktemp("made")
    for name in ("recordings", "start"):
        (folder / name).mkdir()
    toy_speech.record(folder / "recordings")
    toy_speech.write_model(folder / "start")
    (folder / "recipe.py").write_text(RECIPE, encoding="utf-8")
    for line in (
        f"prepare recordings audio --sample-rate {RATE}",
        "train-tokenizer audio start",
        "prepare recordings data --model start --keep-audio --validation 0.2",
        "train recipe.py --set data=data codec.model=start out=out",
        "evaluate out data --before start --out report",
    ):
        run(folder, line)
    return folder


def run(folder, line):
    """Runs a command whose words may name files of the folder."""
    names = {"recordings", "start", "audio", "data", "out", "recipe.py", "report"}
    words = []
    for word in line.split():
        key, sign, value = word.rpartition("=")
        words.append(key + sign + (str(folder / value) if value in names else value))
    assert cli.main([*words, "-q"]) == 0, line


def test_the_losses_of_every_stage_fall(made):
    for stage in STAGES:
        lines = (made / "out/training" / stage / "log.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        losses = [row["loss"] for row in rows if "loss" in row]
        assert len(losses) == STEPS and losses[-1] < losses[0], stage
        if stage != "codec":
            assert any("val_loss" in row for row in rows), stage


def test_every_stage_has_changed_and_is_saved(made):
    before = BarkModel.from_pretrained(made / "start")
    after = BarkModel.from_pretrained(made / "out")
    for name, part in after.parts.items():
        pairs = zip(part.weights, before.parts[name].weights, strict=True)
        assert any(np.any(new.numpy() != old.numpy()) for new, old in pairs), name
    assert (made / "out/adapters/coarse.safetensors").is_file()


@pytest.mark.parametrize("stage", SAMPLED)
def test_stages_write_audio_samples(made, stage):
    pytest.importorskip("tensorboard")
    events = (made / "out/training" / stage / "tensorboard").glob("events*")
    written = b"".join(path.read_bytes() for path in events)
    names = ("recording", "reconstruction") if stage == "codec" else ("speech",)
    for name in names:
        assert f"{name}_spectrogram".encode() in written and b"RIFF" in written


def test_held_out_losses_are_lower_than_before(made):
    after = json.loads((made / "report/report.json").read_text(encoding="utf-8"))
    for stage in ("semantic", "coarse", "fine"):
        assert after["stages"][stage]["loss"] < after["before"]["stages"][stage]["loss"]
    assert after["codec"]["mel_db"] < after["before"]["codec"]["mel_db"]
    assert "| semantic |" in (made / "report/report.md").read_text(encoding="utf-8")


def test_started_again_nothing_is_repeated(made):
    marks = [made / "out/training" / stage / "done.json" for stage in STAGES]
    times = [mark.stat().st_mtime_ns for mark in marks]
    run(made, "train recipe.py --set data=data codec.model=start out=out")
    assert [mark.stat().st_mtime_ns for mark in marks] == times


def test_an_unknown_default_speaker_is_refused(made, tmp_path, capsys):
    where = f"model={made / 'start'} data={made / 'data'} out={tmp_path / 'out'}"
    words = f"train full --set {where} default_speaker=nobody"
    assert cli.main(words.split()) != 0
    message = capsys.readouterr().err
    assert "default_speaker must be a speaker of the data" in message
    assert "Received: 'nobody'" in message


def test_a_recipe_without_a_model_creates_one(made, tmp_path, capsys):
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        """
from toy_speech import start
from bark_tf.training import Recipe, TrainingOptions
RECIPE = Recipe(stage="semantic", start=start, batch_size=2,
                options=TrainingOptions(steps=3, learning_rate=1e-3, log_every=1))
""",
        encoding="utf-8",
    )
    command = ["train", str(recipe), "--set", f"data={made / 'data'}"]
    assert cli.main([*command, f"out={tmp_path / 'out'}"]) == 0, capsys.readouterr().err
    assert (
        BarkProcessor.from_pretrained(tmp_path / "out")("one").input_ids.shape[1] == 16
    )
    assert BarkModel.from_pretrained(tmp_path / "out").codec_model.config.codebook_size
    assert cli.main(["train", str(recipe), "--show"]) == 0
    assert "semantic.learning_rate=0.001" in capsys.readouterr().out


def test_the_result_speaks(made):
    inputs = BarkProcessor.from_pretrained(made / "out")("four two")
    model = BarkModel.from_pretrained(made / "out")
    audio = model.generate(
        **inputs, semantic_max_new_tokens=20, seed=1, jit_compile=False
    )
    assert audio.shape[1] > 0 and np.isfinite(audio).all() and np.any(audio)
