"""The input pipeline: batches per second, and the training steps that consume them.

    python benchmarks/input_pipeline.py               # recordings of random numbers
    python benchmarks/input_pipeline.py --data DIR    # bark-tf prepare ... --keep-audio

Measures, for every stage of the recipe `open_voice`, how many batches the pipeline
makes when nothing else runs, and how many steps training takes when its batch is ready.
Training waits for its input if the first number is smaller; if both share the
processor, the pipeline uses steps / batches of it. The last line of the output is one
JSON object.
"""

import argparse
import dataclasses
import itertools
import json
import statistics
import tempfile
import time
from pathlib import Path

import keras
import numpy as np

from bark_tf import BarkCoarseModel, BarkFineModel, BarkSemanticModel, EncodecModel
from bark_tf.training import (
    TRAINERS,
    AudioBatches,
    Batches,
    CodecTrainer,
    DatasetInfo,
    ShardSet,
    StageExamples,
    Utterance,
    load_recipe,
    optimizer_of,
    shard_path,
    write_shard,
)

STAGES = {
    "codec": (EncodecModel, "codec_config"),
    "semantic": (BarkSemanticModel, "semantic_config"),
    "coarse": (BarkCoarseModel, "coarse_acoustics_config"),
    "fine": (BarkFineModel, "fine_acoustics_config"),
}
SECONDS = (1.0, 5.0)  # shortest and longest random recording
SHARD_SIZE = 256
WARM_UP = 20  # batches, more than are prefetched


def write_random_shards(directory, count, start):
    """Writes shards of random numbers in the sizes of the voice that ships."""
    _, config, tokenizer = start
    semantic = config.semantic_config
    frames_hz = semantic.semantic_rate_hz
    info = DatasetInfo(
        sample_rate=config.sample_rate,
        has_tokens=True,
        has_audio=True,
        num_codebooks=config.fine_acoustics_config.n_fine_codebooks,
        codebook_size=config.codebook_size,
        frame_rate=float(config.coarse_acoustics_config.coarse_rate_hz),
        semantic_vocab_size=semantic.semantic_vocab_size,
        semantic_rate_hz=float(frames_hz),
        text_vocab_size=tokenizer.vocab_size,
    )
    rng = np.random.default_rng(0)

    def utterance(number):
        frames = round(rng.uniform(*SECONDS) * frames_hz)
        return Utterance(
            f"{number}",
            "one two three",
            f"speaker {number % 2}",
            rng.integers(2, tokenizer.vocab_size, 12).astype(np.int32),
            rng.integers(0, info.semantic_vocab_size, frames).astype(np.int32),
            rng.integers(0, info.codebook_size, (info.num_codebooks, frames)),
            rng.normal(0, 0.1, int(frames * info.sample_rate / frames_hz)),
        )

    info.save(directory)
    for number, first in enumerate(range(0, count, SHARD_SIZE)):
        numbers = range(first, min(first + SHARD_SIZE, count))
        write_shard(shard_path(directory, number), map(utterance, numbers), info)


def batches_of(recipe, shards, start):
    """The batches that the recipe trains on."""
    config, generation_config, _ = start
    seed = recipe.options.seed
    if recipe.stage == "codec":
        segment = round(recipe.codec.segment_s * config.codec_config.sampling_rate)
        return AudioBatches(shards.audios, segment, recipe.batch_size, seed=seed)
    examples = StageExamples(
        shards,
        recipe.stage,
        generation_config,
        getattr(config, STAGES[recipe.stage][1]),
        dataclasses.replace(recipe.examples, default_speaker=None, token_noise=0.0),
        seed=seed,
    )
    return Batches(examples, recipe.batch_size, seed=seed)


def trainer_of(recipe, start):
    """The recipe's network with random weights, ready to train."""
    config, generation_config, _ = start
    model_class, name = STAGES[recipe.stage]
    model = model_class(getattr(config, name))
    if recipe.stage == "codec":
        # With codebooks, as in all but the first steps.
        options = dataclasses.replace(recipe.codec, quantize_from=0)
        trainer = CodecTrainer(model, options)
    else:
        trainer = TRAINERS[recipe.stage](model, generation_config)
    trainer.compile(optimizer=optimizer_of(recipe.options), jit_compile=False)
    return trainer


def batches_per_second(batches, count):
    """Speed of the dataset as `fit` reads it, without the prefetched batches."""
    elements = iter(batches.dataset())
    for _ in itertools.islice(elements, WARM_UP):
        pass
    begin = time.perf_counter()
    for _ in itertools.islice(elements, count):
        pass
    return count / (time.perf_counter() - begin)


def steps_per_second(trainer, batch, count):
    """Median speed of `count` steps on one batch, after two warm-up steps."""
    times = []
    for _ in range(count + 2):
        begin = time.perf_counter()
        trainer.train_on_batch(batch)
        times.append(time.perf_counter() - begin)
    return 1 / statistics.median(times[2:])


def measure(recipe, shards, start, args):
    keras.utils.set_random_seed(0)
    batches = batches_of(recipe, shards, start)
    made = batches_per_second(batches, args.batches)
    taken = steps_per_second(trainer_of(recipe, start), batches(0), args.steps)
    return {
        "batch_size": recipe.batch_size,
        "examples_per_s": round(made * recipe.batch_size, 1),
        "batches_per_s": round(made, 2),
        "steps_per_s": round(taken, 2),
        "times_faster": round(made / taken, 1),
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", help="shards with audio and tokens of the voice that ships"
    )
    parser.add_argument(
        "--recordings", type=int, default=512, help="random ones; default: 512"
    )
    parser.add_argument("--batches", type=int, default=200)
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    recipes = {name: load_recipe(f"open_voice/{name}")[0][0] for name in STAGES}
    start = recipes["codec"].start()
    with tempfile.TemporaryDirectory() as scratch:
        if args.data is None:
            args.data = scratch
            write_random_shards(Path(scratch), args.recordings, start)
        shards = ShardSet(args.data)
        results = {
            name: measure(recipe, shards, start, args)
            for name, recipe in recipes.items()
        }
    print("| stage | examples/s | batches/s | steps/s | times faster |")
    print("|---|---|---|---|---|")
    for name, row in results.items():
        print(
            f"| {name} | {row['examples_per_s']} | {row['batches_per_s']} "
            f"| {row['steps_per_s']} | {row['times_faster']} |"
        )
    print(json.dumps({"recordings": len(shards), "results": results}))


if __name__ == "__main__":
    main()
