"""Runs recipes: from a checkpoint and prepared data to a new checkpoint.

`OUT` becomes a complete checkpoint, which every step of the way replaces file by file:

    OUT/                     what `BarkModel.from_pretrained` opens
    OUT/adapters/            LoRA matrices by stage, small enough to pass on
    OUT/training/STAGE/      the run: checkpoints to resume from, logs, TensorBoard

A run that was stopped goes on where it was when it is started again; a stage that is
done is not repeated.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from bark_tf.bark import BarkModel
from bark_tf.config import BarkGenerationConfig
from bark_tf.files import atomic_write
from bark_tf.models.causal import BarkCoarseModel, BarkSemanticModel
from bark_tf.models.encodec.model import EncodecModel
from bark_tf.models.fine import BarkFineModel
from bark_tf.processor import BarkProcessor

from . import strategies
from .recipe import Recipe

MODELS = {
    "semantic": BarkSemanticModel,
    "coarse": BarkCoarseModel,
    "fine": BarkFineModel,
    "codec": EncodecModel,
}
_DONE = "done.json"
# What belongs to a checkpoint besides the weights and configurations that we write.
_COMPANIONS = (
    "semantic_tokenizer.json",
    "semantic_tokenizer.safetensors",
    "speaker_embeddings_path.json",
    "speaker_embeddings",
)
# Recordings from which the codec's start takes its level.
_LEVEL_RECORDINGS = 64


def run(
    recipes: Sequence[Recipe],
    *,
    restart: bool = False,
    strategy: Any = None,
    progress: Callable | None = None,
) -> Path:
    """Runs recipes one after the other.

    Args:
        recipes: In order. The first needs `model` (or `start`), all need `data` and
            `out`; what a later one lacks is what the one before had.
        restart: Forget what an earlier run of the same `out` has done.
        strategy: Of `strategy_of`: trains on several devices; every worker of a
            cluster calls this function. None: on one.
        progress: Called with (stage, step, steps).

    Returns:
        The directory of the new checkpoint.

    Raises:
        ValueError: If something is missing or does not fit together.
        ConnectionError: If another worker is gone.
    """
    recipes = _filled_in(recipes)
    workers = strategies.workers_of(strategy)
    for recipe in recipes:
        folder = Path(recipe.out) / "training" / recipe.stage
        if restart and workers.is_chief:
            shutil.rmtree(folder, ignore_errors=True)
        workers.wait()
        if not (folder / _DONE).is_file():
            with workers.losses_named():
                _run_one(recipe, folder, strategy, workers, progress)
        workers.wait()
    return Path(recipes[-1].out)


def _filled_in(recipes: Sequence[Recipe]) -> list[Recipe]:
    """Gives every recipe its directories."""
    filled: list[Recipe] = []
    for number, recipe in enumerate(recipes):
        if filled:
            before = filled[-1]
            # --set model=... names it for all recipes and means the first one's.
            is_own = recipe.model != recipes[number - 1].model
            recipe = dataclasses.replace(
                recipe,
                data=recipe.data or before.data,
                out=recipe.out or before.out,
                model=(is_own and recipe.model) or before.out,
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


def _run_one(recipe: Recipe, folder: Path, strategy, workers, progress) -> None:
    from .fit import train

    if workers.is_chief:
        _make_base(recipe)
    workers.wait()
    base = recipe.model or recipe.out
    with strategy.scope() if strategy is not None else contextlib.nullcontext():
        model = _model(recipe, base)
        trainer, batches, validation = _prepared(recipe, model, base)
    callbacks = [] if strategy is not None else _samples(recipe, model, base, folder)
    history = train(
        trainer,
        batches,
        options=recipe.options,
        directory=folder,
        validation=validation,
        callbacks=callbacks,
        progress=progress,
    )
    if not workers.is_chief:
        return
    _write(recipe, model, base)
    with atomic_write(folder / _DONE) as temporary:
        text = json.dumps({"stage": recipe.stage, "last": _last(history)}, indent=2)
        temporary.write_text(text + "\n", encoding="utf-8")


def _last(history: Any) -> dict[str, float]:
    values = getattr(history, "history", history) or {}
    return {name: float(np.ravel(value)[-1]) for name, value in values.items()}


def _make_base(recipe: Recipe) -> None:
    """Makes the checkpoint to start from if the recipe starts from nothing."""
    out = Path(recipe.out)
    if not recipe.model and not (out / "config.json").is_file():
        config, generation_config, tokenizer = recipe.start()
        keras.utils.set_random_seed(recipe.options.seed)
        BarkProcessor(tokenizer).save_pretrained(out)
        BarkModel(config, generation_config).save_pretrained(out)


def _model(recipe: Recipe, base: str):
    # What is new, adapters and the seeds of dropout, is new in the same way whenever
    # the run is started again.
    keras.utils.set_random_seed(recipe.options.seed)
    overrides = {}
    if recipe.dropout is not None:
        overrides["dropout"] = recipe.dropout
    model = MODELS[recipe.stage].from_pretrained(base, dtype=recipe.dtype, **overrides)
    if recipe.gradient_checkpointing:
        model.gradient_checkpointing = True
    if recipe.method == "lora":
        model.enable_lora(
            recipe.lora_rank, recipe.lora_alpha, targets=recipe.lora_targets
        )
    return model


def _shards(recipe: Recipe):
    """The recordings to learn from, and the held-out ones or None."""
    from ..data.shards import ShardSet

    data = Path(recipe.data)
    has_split = (data / "train").is_dir()
    held_out = data / "validation"
    return (
        ShardSet(data / "train" if has_split else data),
        ShardSet(held_out) if held_out.is_dir() else None,
    )


def _samples(recipe: Recipe, model, base: str, folder: Path) -> list:
    """The callback that lets one hear the run, if it is wanted."""
    if recipe.sample_every is None:
        return []
    from .callbacks import AudioSamples
    from .samples import codec_samples, speech_samples

    shards, held_out = _shards(recipe)
    heard = held_out if held_out else shards
    if recipe.stage == "codec":
        make = codec_samples(model, heard)
    else:
        make = speech_samples(_part(recipe), model, base, heard)
    rate = BarkGenerationConfig.from_pretrained(base).sample_rate
    return [AudioSamples(folder, recipe.sample_every, make, rate)]


def _part(recipe: Recipe) -> str:
    """The stage's network among the parts of `BarkModel`."""
    return MODELS[recipe.stage].checkpoint_prefix.rstrip(".")


def _prepared(recipe: Recipe, model, base: str):
    """The trainer, its batches, and the batches of the held-out data or None."""
    shards, held_out = _shards(recipe)
    if recipe.stage == "codec":
        return _codec(recipe, model, shards, held_out)
    return _transformer(recipe, model, base, shards, held_out)


def _codec(recipe: Recipe, codec: EncodecModel, shards, held_out):
    from ..codec.discriminator import Discriminator
    from ..codec.trainer import (
        AudioBatches,
        CodecOptions,
        CodecTrainer,
        audio_level,
        start_at_level,
    )

    if not shards.info.has_audio:
        raise ValueError(
            "The codec learns from audio, which these shards do not hold: prepare them "
            f"with --keep-audio or without a model. Received: {recipe.data}"
        )
    options = CodecOptions(**{"seed": recipe.options.seed, **recipe.codec})
    if options.quantize_from > 0:
        several = [shards.audios[i] for i in range(min(len(shards), _LEVEL_RECORDINGS))]
        start_at_level(codec, audio_level(several))
    judge = Discriminator() if recipe.discriminator else None
    trainer = CodecTrainer(codec, options, judge)

    def batches(part, weights=None):
        return AudioBatches(
            part.audios,
            round(recipe.segment_s * codec.config.sampling_rate),
            recipe.batch_size,
            seed=recipe.options.seed,
            weights=weights,
        )

    weights = None
    if recipe.speakers:
        weights = [recipe.speakers.get(speaker, 0.0) for speaker in shards.speakers]
    validation = None if held_out is None else batches(held_out)
    return trainer, batches(shards, weights), validation


def _transformer(recipe: Recipe, model, base: str, shards, held_out):
    from ..data.batches import Batches
    from ..data.examples import StageExamples
    from .trainers import TRAINERS

    speakers = sorted(set(shards.speakers))
    if recipe.default_speaker not in (None, *speakers):
        raise ValueError(
            "default_speaker must be a speaker of the data, one of "
            f"{', '.join(speakers)}. Received: {recipe.default_speaker!r}"
        )
    config = BarkGenerationConfig.from_pretrained(base)
    trainer = TRAINERS[recipe.stage](model, config)

    def batches(part, history_probability, shuffle=True):
        examples = StageExamples(
            part,
            recipe.stage,
            config,
            model_config=model.config,
            history_probability=history_probability,
            seed=recipe.options.seed,
            past_weight=recipe.past_weight,
            vary_text=recipe.vary_text if shuffle else None,
            token_noise=recipe.token_noise if shuffle else 0.0,
            default_speaker=recipe.default_speaker,
        )
        return Batches(
            examples, recipe.batch_size, seed=recipe.options.seed, shuffle=shuffle
        )

    validation = None if held_out is None else batches(held_out, 0.0, shuffle=False)
    return trainer, batches(shards, recipe.history_probability), validation


# === The new checkpoint ===


def _write(recipe: Recipe, model, base: str) -> None:
    """Writes the trained stage, in the company of all the others."""
    out = Path(recipe.out)
    if recipe.method == "lora":
        from .lora import merge_lora, save_lora

        (out / "adapters").mkdir(parents=True, exist_ok=True)
        save_lora(model, out / "adapters" / f"{recipe.stage}.safetensors")
        merge_lora(model)
    bark = BarkModel.from_pretrained(base)
    part = bark.parts[_part(recipe)]
    part.put_weights([weight.numpy() for weight in model.weights])
    bark.save_pretrained(out)
    if Path(base).resolve() != out.resolve():
        BarkProcessor.from_pretrained(base).save_pretrained(out)
        _copy_companions(Path(base), out)


def _copy_companions(base: Path, out: Path) -> None:
    for name in _COMPANIONS:
        source, target = base / name, out / name
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        elif source.is_file():
            with atomic_write(target) as temporary:
                shutil.copyfile(source, temporary)
