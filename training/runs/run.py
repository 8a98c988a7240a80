"""Runs recipes: from a checkpoint and prepared data to a new checkpoint.

`OUT` is a complete checkpoint after every stage:

    OUT/                     what `BarkModel.from_pretrained` opens
    OUT/README.md            its base, data and figures; licence and consent to fill in
    OUT/adapters/            LoRA adapters, one file per stage, and all for PEFT
    OUT/training/STAGE/      the run: its recipe, checkpoints to resume from, logs

A stage trains the network of `model`; all other networks are those that OUT holds, so
stages can be trained one after the other. A run that was stopped resumes when it is
started again; a finished stage is skipped, and continues if `steps` is now larger.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras

from bark_tf.bark import BarkModel
from bark_tf.config import BarkConfig, BarkGenerationConfig
from bark_tf.models.causal import BarkCoarseModel, BarkSemanticModel
from bark_tf.models.encodec.model import EncodecModel
from bark_tf.models.fine import BarkFineModel
from bark_tf.processor import BarkProcessor
from bark_tf.saving import Saving, locked, saving
from bark_tf.semantic_tokens.tokenizer import SemanticTokenizer, load_semantic_tokenizer

from ..codec.discriminator import Discriminator
from ..codec.trainer import AudioBatches, CodecTrainer, audio_level, start_at_level
from ..data.batches import Batches
from ..data.examples import StageExamples
from ..data.shards import ShardSet
from ..data.storage import RemotePath, storage_path
from . import records, strategies
from .callbacks import AudioSamples
from .card import write_card
from .fit import train
from .lora import load_lora, merge_lora, save_lora, save_peft
from .mirrors import Mirrors, mirrors
from .recipe import Recipe
from .samples import codec_samples, speech_samples
from .trainers import TRAINERS

MODELS = {
    "semantic": BarkSemanticModel,
    "coarse": BarkCoarseModel,
    "fine": BarkFineModel,
    "codec": EncodecModel,
}
# Files of a checkpoint besides weights, configurations and the text tokenizer.
_COMPANIONS = (
    "semantic_tokenizer.json",
    "semantic_tokenizer.safetensors",
    "speaker_embeddings_path.json",
    "speaker_embeddings",
)
# Number of recordings whose level a new codec is scaled to.
_LEVEL_RECORDINGS = 64


def run(
    recipes: Sequence[Recipe],
    *,
    restart: bool = False,
    strategy: Any = None,
    progress: Callable | None = None,
    callbacks: Callable[[Recipe], Sequence[keras.callbacks.Callback]] = lambda _: (),
) -> Path | RemotePath:
    """Runs recipes one after the other.

    Args:
        recipes: In order. The first needs `model` (or `start`), `data` and `out`; later
            ones take over what they do not set.
        restart: Whether to discard what an earlier run with the same `out` has done.
        strategy: From `strategy_of`, to train on several devices; every worker of a
            cluster calls this function. None: one device.
        progress: Called with (stage, step, steps).
        callbacks: Called with each recipe; returns Keras callbacks for its run, such as
            `Display(recipe)`. They see `val_loss` in the logs of the steps after which
            the run validates.

    Returns:
        The directory of the new checkpoint, or its URL.

    Raises:
        ValueError: If something is missing or does not fit together, or `out` holds a
            run with other values.
        BlockingIOError: If another process is writing to `out`. A URL cannot be locked.
        ConnectionError: If another worker is lost.
    """
    recipes = _filled_in(recipes)
    workers = strategies.workers_of(strategy)
    with mirrors() as places, contextlib.ExitStack() as stack:
        here = [_here(recipe, places) for recipe in recipes]
        if workers.is_chief:
            for out in dict.fromkeys(recipe.out for recipe in here):
                stack.enter_context(locked(out))
        if restart and workers.is_chief:
            for recipe in here:
                with saving(recipe.out) as change:
                    change.remove(f"training/{recipe.stage}")
                places.push(recipe.out)
        workers.wait()
        for recipe, named in zip(here, recipes, strict=True):
            if not workers.is_chief:
                places.pull(recipe.out)
            with workers.lost_workers_reported():
                shown = callbacks(recipe) if workers.is_chief else ()
                _run_one(recipe, named, strategy, workers, places, progress, shown)
            workers.wait()
    return storage_path(recipes[-1].out)


def _here(recipe: Recipe, places: Mirrors) -> Recipe:
    """The recipe with folders of this machine in place of URLs."""
    storage_path(recipe.data, "data")
    out = places.local(recipe.out, "out")
    # The id of a repository is no path of this machine, but stays as it is.
    model = recipe.model and places.local(recipe.model, "model")
    return dataclasses.replace(recipe, model=model, out=out)


def _folder(recipe: Recipe) -> Path:
    return Path(recipe.out) / "training" / recipe.stage


def _filled_in(recipes: Sequence[Recipe]) -> list[Recipe]:
    """Fills in the directories of every recipe."""
    filled: list[Recipe] = []
    for recipe in recipes:
        if filled:
            before = filled[-1]
            recipe = dataclasses.replace(
                recipe,
                data=recipe.data or before.data,
                out=recipe.out or before.out,
                model=recipe.model or before.model or before.out,
            )
        for name in ("data", "out"):
            if not getattr(recipe, name):
                raise ValueError(
                    f"The recipe of the {recipe.stage} stage needs {name}: give "
                    f"--set {name}=DIRECTORY"
                )
        if not recipe.model and recipe.start is None:
            raise ValueError(
                f"The recipe of the {recipe.stage} stage needs a model to start from: "
                "give --set model=DIRECTORY, or an id such as suno/bark-small"
            )
        filled.append(recipe)
    return filled


def _run_one(recipe, named, strategy, workers, places, progress, callbacks):
    """Runs a recipe; `named` has the URLs for which `recipe` has folders."""
    folder = _folder(recipe)
    if workers.is_chief:
        _make_base(recipe)
    workers.wait()
    base = recipe.model or recipe.out
    others = _others(recipe)
    shards, held_out = _shards(storage_path(recipe.data))
    config = BarkGenerationConfig.from_pretrained(base)
    with strategy.scope() if strategy is not None else contextlib.nullcontext():
        model = _model(recipe, base)
    record = records.record_of(recipe, model, config, (shards, held_out))
    record["recipe"] |= {"model": named.model, "out": named.out}
    if records.is_finished(folder, record):
        return
    workers.wait()  # until all have compared the record
    if workers.is_chief:
        records.write_record(folder, {**record, "others": others})
    prepare = _prepare_codec if recipe.stage == "codec" else _prepare_transformer
    with strategy.scope() if strategy is not None else contextlib.nullcontext():
        _adapt(recipe, model)
        trainer, batches, validation = prepare(recipe, model, config, shards, held_out)
    others = base if others == "model" else recipe.out
    callbacks = list(callbacks)
    if strategy is None and recipe.sample_every is not None:
        callbacks += [_samples(recipe, model, others, held_out or shards)]
    if workers.is_chief:
        callbacks += recipe.callbacks(recipe) if recipe.callbacks else ()
        callbacks += places.callbacks(recipe.out, folder)
    history = train(
        trainer,
        batches,
        options=recipe.options,
        directory=folder,
        validation=validation,
        callbacks=callbacks,
        progress=progress,
    )
    if workers.is_chief:
        _write(recipe, named, model, others, history)
        places.push(recipe.out)


def _others(recipe: Recipe) -> str:
    """Where the networks that this stage does not train come from: `model` or `out`.

    From OUT, if it holds a checkpoint that is not just what this run has written.

    Raises:
        ValueError: If that is of other sizes than the model.
    """
    out, record = Path(recipe.out), _folder(recipe) / records.RECORD_NAME
    if records.trains_in_place(recipe):
        return "out"
    finished = [one for one in records.finished_stages(out) if one != recipe.stage]
    if not finished and record.is_file():
        return records.read_record(record)["others"]
    is_own = not (out / "config.json").is_file() or (out / "training").is_dir()
    if not finished and is_own:
        return "model"
    if BarkConfig.from_pretrained(out) != BarkConfig.from_pretrained(recipe.model):
        raise ValueError(
            f"out holds a checkpoint of another architecture than {recipe.model!r}: "
            f"choose another directory. Received: out={recipe.out}"
        )
    return "out"


def _make_base(recipe: Recipe) -> None:
    """Creates the initial checkpoint of a recipe that trains from scratch."""
    out = Path(recipe.out)
    if not recipe.model and not (out / "config.json").is_file():
        config, generation_config, tokenizer = recipe.start()
        keras.utils.set_random_seed(recipe.options.seed)
        with saving(out):
            BarkProcessor(tokenizer).save_pretrained(out)
            BarkModel(config, generation_config).save_pretrained(out)


def _model(recipe: Recipe, base: str):
    # New variables (adapters, dropout seeds) are the same in every start of the run.
    keras.utils.set_random_seed(recipe.options.seed)
    overrides = {} if recipe.dropout is None else {"dropout": recipe.dropout}
    return MODELS[recipe.stage].from_pretrained(base, dtype=recipe.dtype, **overrides)


def _adapt(recipe: Recipe, model) -> None:
    if recipe.gradient_checkpointing:
        model.gradient_checkpointing = True
    lora = recipe.lora
    if recipe.method == "lora" and lora.adapters is not None:
        load_lora(model, lora.adapters)
    elif recipe.method == "lora":
        model.enable_lora(lora.rank, lora.alpha, targets=lora.targets)


def _shards(data: Path | RemotePath) -> tuple[ShardSet, ShardSet | None]:
    """The training recordings, and the held-out ones if there are any."""
    train, held_out = data / "train", data / "validation"
    return (
        ShardSet(train if train.is_dir() else data),
        ShardSet(held_out) if held_out.is_dir() else None,
    )


def _samples(recipe: Recipe, model, others: str, shards) -> AudioSamples:
    if recipe.stage == "codec":
        make = codec_samples(model, shards)
    else:
        make = speech_samples(_part(recipe), model, others, shards)
    rate = BarkGenerationConfig.from_pretrained(others).sample_rate
    return AudioSamples(_folder(recipe), recipe.sample_every, make, rate)


def _part(recipe: Recipe) -> str:
    """The name of the stage's network in `BarkModel.parts`."""
    return MODELS[recipe.stage].checkpoint_prefix.rstrip(".")


# === Trainer, batches and validation batches ===


def _recogniser(directory: str) -> SemanticTokenizer:
    tokenizer = load_semantic_tokenizer(directory)
    if tokenizer.kind != "ctc":
        raise ValueError(
            "codec.recogniser must hold a semantic tokenizer of kind ctc, see "
            f"`bark-tf train-tokenizer`. Received: {tokenizer.kind} in {directory!r}"
        )
    return tokenizer


def _prepare_codec(recipe: Recipe, codec: EncodecModel, config, shards, held_out):
    if not shards.info.has_audio:
        raise ValueError(
            "The codec is trained on audio, which these shards do not hold: prepare "
            f"them with --keep-audio or without a model. Received: {recipe.data}"
        )
    options, seed = recipe.codec, recipe.options.seed
    if options.quantize_from > 0:
        several = [shards.audios[i] for i in range(min(len(shards), _LEVEL_RECORDINGS))]
        start_at_level(codec, audio_level(several))
    judge = Discriminator() if options.discriminator else None
    tokenizer = options.recogniser and _recogniser(options.recogniser)
    trainer = CodecTrainer(codec, options, judge, tokenizer=tokenizer, seed=seed)

    def batches(part, weights=None):
        segment = round(options.segment_s * codec.config.sampling_rate)
        return AudioBatches(
            part.audios, segment, recipe.batch_size, seed=seed, weights=weights
        )

    weights = None
    if options.speakers:
        weights = [options.speakers.get(speaker, 0.0) for speaker in shards.speakers]
    validation = None if held_out is None else batches(held_out)
    return trainer, batches(shards, weights), validation


def _prepare_transformer(recipe: Recipe, model, config, shards, held_out):
    speakers = sorted(set(shards.speakers))
    if recipe.examples.default_speaker not in (None, *speakers):
        raise ValueError(
            "default_speaker must be a speaker of the data, one of "
            f"{', '.join(speakers)}. Received: {recipe.examples.default_speaker!r}"
        )

    def batches(part, options, shuffle=True):
        seed = recipe.options.seed
        examples = StageExamples(
            part, recipe.stage, config, model.config, options, seed=seed
        )
        return Batches(examples, recipe.batch_size, seed=seed, shuffle=shuffle)

    validation = None
    if held_out is not None:
        options = dataclasses.replace(
            recipe.examples,
            history_probability=0.0,
            vary_text=None,
            token_noise=0.0,
            tempo_noise=0.0,
            guided_attention=0.0,
        )
        validation = batches(held_out, options, shuffle=False)
    trainer = TRAINERS[recipe.stage](model, config)
    trainer.saves_frozen = records.trains_in_place(recipe)
    return trainer, batches(shards, recipe.examples), validation


# === The new checkpoint ===


def _write(recipe: Recipe, named: Recipe, model, others: str, history) -> None:
    """Writes a complete checkpoint with the trained network in its place."""
    out = Path(recipe.out)
    with saving(out) as change:
        if recipe.method == "lora":
            _save_adapters(recipe, named, model, change)
            merge_lora(model)
        bark = BarkModel.from_pretrained(others)
        part = bark.parts[_part(recipe)]
        part.put_weights([weight.numpy() for weight in model.weights])
        bark.save_pretrained(out)
        if Path(others).resolve() != out.resolve():
            BarkProcessor.from_pretrained(others).save_pretrained(out)
            _copy(Path(others), change.path, _COMPANIONS)
        records.write_done(change, recipe, history)
        write_card(change, named.out)


def _save_adapters(recipe: Recipe, named: Recipe, model, change: Saving) -> None:
    """Writes a stage's adapters, and for PEFT those of all stages."""
    _copy(change.directory, change.path, ["adapters"])
    folder = change.path / "adapters"
    save_lora(model, folder / f"{recipe.stage}.safetensors")
    save_peft(folder, named.model)


def _copy(base: Path, out: Path, names: Sequence[str]) -> None:
    """Copies those files and folders that exist."""
    for name in names:
        source, target = base / name, out / name
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        elif source.is_file():
            shutil.copyfile(source, target)
