"""Recipes run one after the other, each from the same start, whatever stops them."""

import json
import shutil

import numpy as np
import pytest
import toy
from toy_trainer import utterances

from bark_tf import BarkModel, BarkSemanticModel
from bark_tf.training.data.storage import storage_path
from bark_tf.training.options import ExampleOptions, LoraOptions
from bark_tf.training.runs import fit, records, run
from bark_tf.training.runs.lora import save_lora
from bark_tf.training.runs.recipe import Recipe, with_settings

OPTIONS = {"steps": 2, "learning_rate": 0.01, "warmup_steps": 0, "checkpoint_every": 1}


@pytest.fixture(scope="module", autouse=True)
def eager():
    """Steps are not traced, which would take most of the time."""
    compile_it = fit._compile

    def compile_eagerly(trainer, options):
        trainer.compile(optimizer=fit.optimizer_of(options), run_eagerly=True)
        compile_it(trainer, options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "_compile", compile_eagerly)
        yield


def test_a_restarted_run_creates_the_same_adapters(tmp_path):
    """Before the first checkpoint only the seed determines them."""
    BarkSemanticModel(toy.semantic_config()).save_pretrained(tmp_path)
    lora = LoraOptions(rank=2)
    recipe = Recipe("semantic", "lora", str(tmp_path), lora=lora, dropout=0.1)
    models = []
    for _ in range(2):
        models.append(run._model(recipe, recipe.model))
        run._adapt(recipe, models[-1])
    one, two = models
    assert {"seed_generator_state", "lora_kernel_a"} <= {v.name for v in one.variables}
    for a, b in zip(one.variables, two.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_training_goes_on_from_adapters(tmp_path, rng):
    model = BarkSemanticModel(toy.semantic_config())
    model.save_pretrained(tmp_path)
    model.enable_lora(2, targets=("out",))
    for weight in model.trainable_weights:
        weight.assign(rng.normal(size=weight.shape))
    save_lora(model, tmp_path / "adapters" / "semantic.safetensors")
    options = LoraOptions(adapters=str(tmp_path / "adapters"))
    recipe = Recipe("semantic", "lora", str(tmp_path), lora=options)
    again = run._model(recipe, recipe.model)
    run._adapt(recipe, again)
    for one, two in zip(model.trainable_weights, again.trainable_weights, strict=True):
        np.testing.assert_array_equal(one.numpy(), two.numpy())


def test_every_recipe_trains_the_network_of_the_model():
    recipes = [Recipe(stage) for stage in ("semantic", "coarse", "fine")]
    recipes = with_settings(recipes, ["model=base", "data=recordings", "out=mine"])
    filled = run._filled_in(recipes)
    assert [recipe.model for recipe in filled] == ["base", "base", "base"]
    recipes = with_settings(recipes, ["fine.model=other"])
    assert run._filled_in(recipes)[2].model == "other"


def train(prepared, out, *stages, method="full", restart=False, **settings):
    """Trains some stages of the toy, for two steps."""
    options = {**OPTIONS, **settings.pop("options", {})}
    values = {"model": str(prepared / "model"), "data": str(prepared / "data")}
    values |= {"batch_size": 4, "lora": {"rank": 2}, **settings}
    recipes = [
        Recipe(stage, method, out=str(out), options=options, **values)
        for stage in stages
    ]
    run.run(recipes, restart=restart)


def weights(directory):
    parts = BarkModel.from_pretrained(directory).parts
    return {
        name: [weight.numpy() for weight in part.weights]
        for name, part in parts.items()
    }


def are_equal(one, two):
    return all(map(np.array_equal, one, two))


@pytest.fixture(scope="module")
def made(eager, prepared, tmp_path_factory):
    """The semantic stage, trained alone."""
    out = tmp_path_factory.mktemp("made") / "out"
    train(prepared, out, "semantic")
    return out


def test_stages_trained_one_after_the_other_keep_the_earlier_ones(
    prepared, made, tmp_path
):
    """Bug: the second command started from `model` and lost the first one's work."""
    before, semantic = weights(prepared / "model"), weights(made)
    train(prepared, made, "fine", method="lora")
    after = weights(made)
    assert are_equal(after["semantic"], semantic["semantic"])
    for name in ("semantic", "fine_acoustics"):
        assert not are_equal(after[name], before[name])
    train(prepared, tmp_path / "at_once", "fine", method="lora")
    assert are_equal(
        after["fine_acoustics"], weights(tmp_path / "at_once")["fine_acoustics"]
    )
    card = (made / "README.md").read_text(encoding="utf-8")
    assert (
        f"Base model: {prepared / 'model'}." in card and "| fine | lora | 2 |" in card
    )
    assert "8 recordings, " in card and "; 8 held out; speakers: a" in card
    (made / "README.md").write_text("My own words")
    # All that is left of a run is its result.
    copy = tmp_path / "copy"
    shutil.copytree(made, copy, ignore=shutil.ignore_patterns("training"))
    train(prepared, copy, "fine", method="lora")
    assert are_equal(weights(copy)["semantic"], semantic["semantic"])


def test_a_finished_run_continues_or_is_refused(prepared, made, tmp_path):
    """Bug: it printed OUT, whatever it was asked for."""
    message = r"batch_size was 4 and is 2; learning_rate was 0\.01 and is 0\.1"
    with pytest.raises(ValueError, match=message):
        train(prepared, made, "semantic", batch_size=2, options={"learning_rate": 0.1})
    other = tmp_path / "other"
    shutil.copytree(prepared, other)
    train(other, made, "semantic")  # the same, elsewhere
    shutil.rmtree(other / "data" / "validation")
    bark = toy.bark()
    bark.semantic.weights[0].assign(bark.semantic.weights[0] + 1)
    bark.save_pretrained(other / "model")
    with pytest.raises(ValueError, match=r"model was '.*; data was '.*--restart"):
        train(other, made, "semantic")
    train(prepared, made, "semantic", options={"steps": 3, "log_every": 1})
    assert (made / "README.md").read_text() == "My own words"
    with pytest.raises(ValueError, match="steps was 3 and is 2"):
        train(prepared, made, "semantic")
    train(prepared, made, "semantic", batch_size=2, restart=True)
    record = json.loads((made / "training/semantic/recipe.json").read_text())
    assert record["recipe"]["batch_size"] == 2 and record["recipe"]["lora_rank"] == 2


def test_a_run_that_has_no_checkpoint_may_change(prepared, tmp_path):
    """A wrong value is corrected without --restart."""
    with pytest.raises(ValueError, match="default_speaker must be"):
        train(prepared, tmp_path, "semantic", examples={"default_speaker": "nobody"})
    train(prepared, tmp_path, "semantic", options={"steps": 1})


@pytest.mark.parametrize(
    "in_place", [False, pytest.param(True, marks=pytest.mark.slow)]
)
def test_a_run_that_falls_while_it_writes_ends_the_same(
    prepared, tmp_path, monkeypatch, in_place
):
    """Adapters are merged once, even into the checkpoint that they started from."""
    outs = [tmp_path / name for name in ("whole", "fell")]
    for out in outs:
        shutil.copytree(prepared / "model", out)

    def tune(out):
        start = {"model": str(out)} if in_place else {}
        train(prepared, out, "semantic", method="lora", **start)

    tune(outs[0])
    for module, name in ((run, "save_lora"), (records, "write_done")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                tune(outs[1])
    tune(outs[1])
    whole, fell = map(weights, outs)
    # Checkpoints hold the base only if the result replaces it.
    state = outs[1] / "training/semantic/step-00000002/state.safetensors"
    base = sum(weight.nbytes for weight in whole["semantic"])
    assert (state.stat().st_size > base) == in_place
    assert are_equal(whole["semantic"], fell["semantic"])
    assert not are_equal(whole["semantic"], weights(prepared / "model")["semantic"])


def test_a_run_behind_a_url_resumes_and_leaves_no_folder_of_that_name(
    prepared, tmp_path, monkeypatch
):
    """Bug: `out=gs://bucket` wrote into a folder named `gs:`."""
    monkeypatch.chdir(tmp_path)
    url = storage_path("ram://bucket/mine")
    with monkeypatch.context() as patch:
        patch.setattr(run, "_write", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(prepared, url, "semantic")
    assert (url / "training/semantic/step-00000002/state.json").is_file()
    (url / "training/semantic/step-00000002/kept").write_text("by the next start")
    train(prepared, url, "semantic")
    assert (url / "training/semantic/step-00000002/kept").is_file()
    train(prepared, tmp_path / "local", "semantic")
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        with (url / name).open("rb") as file:
            assert file.read() == (tmp_path / "local" / name).read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["local"]
    with pytest.raises(ValueError, match=r"out must be a path, or a URL.*'s4:"):
        train(prepared, "s4://bucket/mine", "semantic")


class ShardLike(list):
    """Utterances with what a `ShardSet` knows of them."""

    speakers = ("a", "a", "a")

    @property
    def lengths(self):
        return [len(one.semantic) for one in self]


def test_held_out_recordings_are_read_as_they_are():
    bark = toy.bark()
    varied = ExampleOptions(
        history_probability=1.0,
        vary_text=lambda ids, rng: ids[:1],
        token_noise=0.5,
        tempo_noise=1.0,
        guided_attention=1.0,
    )
    _, batches, held_out = run._prepare_transformer(
        Recipe("semantic", model="model", out="out", examples=varied),
        bark.semantic,
        bark.generation_config,
        ShardLike(utterances([6, 4, 9])),
        ShardLike(utterances([6, 4, 9], seed=1)),
    )
    assert {"read", "guide", "places"} <= set(batches(0))
    assert set(held_out(0)) == {"text", "history", "targets"}
    plain = ExampleOptions(history_probability=0.0)
    assert held_out.examples.options == plain
