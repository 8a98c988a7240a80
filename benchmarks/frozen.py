"""Hashes of what the program gives for fixed seeds, to compare two commits.

    python benchmarks/frozen.py RECORDINGS --out before.json
    python benchmarks/frozen.py RECORDINGS --against before.json

RECORDINGS is a folder with `metadata.csv` and a few .ogg recordings. The script runs
every command and the Python interface on the shipped voice and on a toy model, and
hashes audio, tokens, losses and files. On one machine with one version of TensorFlow, a
change that is meant to change nothing changes none of these values. `--against` lists
the differences and exits with 1 if there are any. It takes minutes on two cores.
"""

import argparse
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import bark_tf
from bark_tf import BarkConfig, BarkModel, BarkProcessor

# Name -> `bark-tf` command, in a folder where `small` is a copy of the shipped voice.
COMMANDS = {
    "prepare": "prepare {recordings} data --model small --validation 0.2 "
    "--silence 0.25 --keep-audio",
    "prepare-audio": "prepare {recordings} audio --sample-rate 16000 --limit 12",
    "train": "train full --set model=small data=data out=full batch_size=4 steps=6 "
    "warmup_steps=2 accumulate=2 validate_every=3 sample_every=None dropout=0.1 "
    "history_probability=0.5",
    "lora": "train lora --set model=small data=data out=lora batch_size=2 steps=4 "
    "warmup_steps=1 accumulate=1 validate_every=2 sample_every=None token_noise=0",
    "codec": "train open_voice/codec --set model=small data=data out=codec steps=6 "
    "warmup_steps=2 validate_every=3 sample_every=None batch_size=2 segment_s=0.5 "
    "speakers={{}}",
    "tokenizer": "train-tokenizer audio tokens --clusters 20 --rate 49.9",
    "voice": "voice {recording} --out me.npz --model small",
    "speak": 'speak "four zero eight two" --model small --voice me.npz --seed 3 '
    "-o a.wav",
    "speak-flac": 'speak "four zero eight two" --model small --seed 3 -o a.flac',
    "speak-xla": 'speak "one nine" --model full --seed 4 --xla -o b.wav',
    "speak-long": 'speak "one two three four. five six seven. eight nine." --long '
    "--model small --seed 5 -o long.wav",
    "convert": "convert small suno --names suno",
    "evaluate": "evaluate lora data --before small --out report --seed 1 --no-xla "
    "--limit 4",
}
RESULTS = (
    "data audio full lora codec tokens me.npz me.roundtrip.wav a.wav a.flac b.wav "
    "long.wav suno report/report.json"
).split()
# Parts of names of files that are not hashed.
IGNORED = ("events.out", "tensorboard", ".checkpoint", "checkpoints")
# Files whose bytes differ from run to run: speeds; the order of safetensors' metadata.
NOT_COMPARED = ("done.json", "adapters/")
LOGGED = ("step", "loss", "val_loss")
FIELDS = ("audio", "semantic", "coarse", "fine")
SAMPLING = {
    "sampled": {},
    "greedy": {"temperature": 0},
    "filtered": {"top_k": 20, "top_p": 0.8, "min_eos_p": 0.3},
    "penalty": {"repetition_penalty": 1.3, "semantic_min_new_tokens": 20},
    "hf": {"compat": "hf"},
}


# === Hashes ===


def digest_bytes(data):
    return hashlib.sha256(data).hexdigest()[:16]


def digest(value):
    array = np.ascontiguousarray(value)
    return digest_bytes(f"{array.dtype} {array.shape} ".encode() + array.tobytes())


def digest_file(path):
    """What a file holds: arrays and records rather than the bytes around them."""
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return {name: digest(arrays[name]) for name in sorted(arrays)}
    if path.name == "log.jsonl":
        rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
        return [{key: row[key] for key in LOGGED if key in row} for row in rows]
    if ".tfrecord" in path.name:
        records = tf.data.TFRecordDataset(str(path))
        return digest_bytes(b"".join(record.numpy() for record in records))
    return digest_bytes(path.read_bytes())


def hash_files(folder):
    found = {}
    for name in RESULTS:
        path = folder / name
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and not any(part in str(file) for part in IGNORED):
                found[str(file.relative_to(folder))] = digest_file(file)
    return found


# === What is run ===


def run_commands(folder, recordings):
    """Runs all commands; gives their exit codes."""
    values = {
        "recordings": recordings,
        "recording": sorted(Path(recordings).glob("*.ogg"))[0],
    }
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    codes = {}
    for name, command in COMMANDS.items():
        done = subprocess.run(
            [sys.executable, "-m", "bark_tf", *shlex.split(command.format(**values))],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
        )
        codes[name] = done.returncode
        print(name, done.returncode, done.stderr.strip()[-300:], flush=True)
    return codes


def add_fields(found, name, out):
    for field in FIELDS:
        found[f"{name} {field}"] = digest(getattr(out, field))


def add_sampling(found, model, inputs):
    for name, options in SAMPLING.items():
        for jit in (True, False):
            out = model.generate(
                **inputs, seed=7, return_dict=True, jit_compile=jit, **options
            )
            add_fields(found, f"small {name} {jit}", out)
            found[f"small {name} {jit} lengths"] = list(map(int, out.lengths))


def add_batches(found, model, processor, voices):
    inputs = processor(["one two three", "four", "the red house is near the old road"])
    options = {**inputs, "return_dict": True}
    for jit in (True, False):
        out = model.generate(
            **options, history_prompt=voices, seed=[1, 2**63 + 5, 3], jit_compile=jit
        )
        add_fields(found, f"small voices {jit}", out)
    out = model.generate(**options, seed=11, semantic_num_return_sequences=2)
    found["small takes"] = digest(out.audio)


def add_windows(found, model, processor, voice):
    text = "we will see the new house in the morning and the old one at night"
    options = {
        **processor(text),
        "history_prompt": voice,
        "seed": 2,
        "semantic_min_new_tokens": 200,
        "semantic_max_new_tokens": 256,
    }
    found["small two windows"] = digest(model.generate(**options))
    for latency in ("exact", "low"):
        pieces = model.stream(**options, latency=latency)
        found[f"small stream {latency}"] = [digest(piece) for piece in pieces]
    text = (
        "one two three four. five six seven eight nine. the house is red. who is there?"
    )
    spoken = model.generate_long(processor, text, seed=4)
    found["small long"] = digest(spoken.audio)


def add_stages(found, model, inputs):
    """Each sub-model's own `generate`, and the codec."""
    config = model.generation_config
    semantic = model.semantic.generate(
        inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        semantic_generation_config=config.semantic_config,
        seed=5,
    )
    found["sub semantic"] = digest(semantic)
    options = {
        "semantic_generation_config": config.semantic_config,
        "coarse_generation_config": config.coarse_acoustics_config,
        "codebook_size": config.codebook_size,
        "seed": 5,
    }
    coarse, lengths = model.coarse_acoustics.generate(
        semantic, return_output_lengths=True, **options
    )
    found["sub coarse"] = [digest(coarse), list(map(int, lengths))]
    fine = model.fine_acoustics.generate(
        coarse, fine_generation_config=config.fine_acoustics_config, **options
    )
    found["sub fine"] = digest(fine)
    audio = model.codec_decode(fine)
    found["sub audio"] = digest(audio)
    found["codec codes"] = digest(model.codec_model.encode(audio))


def shipped_voice():
    found = {}
    processor, model = BarkProcessor.from_pretrained(), BarkModel.from_pretrained()
    inputs = processor("four zero eight two six")
    named = [processor("a", voice_preset=name) for name in ("kumo", "alpha")]
    voices = [None, *(row["history_prompt"] for row in named)]
    add_sampling(found, model, inputs)
    add_batches(found, model, processor, voices)
    add_windows(found, model, processor, voices[1])
    add_stages(found, model, inputs)
    half = BarkModel.from_pretrained(dtype="bfloat16")
    found["small bfloat16"] = digest(half.generate(**inputs, seed=7))
    quantized = BarkModel.from_pretrained(quantize="int8")
    found["small int8"] = digest(quantized.generate(**inputs, seed=7))
    return found


def toy_model(rng):
    keras.utils.set_random_seed(0)
    model = BarkModel(BarkConfig.preset("tiny"))
    for part in model.parts.values():
        for weight in part.weights:
            if "norm" not in weight.path:
                weight.assign(rng.standard_normal(weight.shape).astype("float32") * 0.3)
    return model


def toy(folder):
    """Bark's own numbers with a tiny network: generating, saving, a loss, `fit`."""
    found, rng = {}, np.random.default_rng(0)
    model = toy_model(rng)
    ids = rng.integers(1_000, 100_000, (3, 256))
    mask = np.ones_like(ids)
    mask[:, 20:] = 0
    lengths = {"semantic_min_new_tokens": 100, "semantic_max_new_tokens": 150}
    for jit in (True, False):
        for temperature in (0, 0.9):
            draw = {"temperature": temperature, "do_sample": bool(temperature)}
            options = {**lengths, **draw, "jit_compile": jit, "return_dict": True}
            out = model.generate(ids, attention_mask=mask, seed=9, **options)
            add_fields(found, f"toy {jit} {temperature}", out)
    add_toy_windows(found, model, ids[:1], mask[:1])
    model.save_pretrained(folder / "toy")
    labels = np.clip(ids[:, :40], 0, 10_000)
    found["toy loss"] = float(model.semantic(labels, labels=labels).loss)
    model.semantic.compile(optimizer="adamw")
    batches = tf.data.Dataset.from_tensors({"input_ids": labels, "labels": labels})
    history = model.semantic.fit(batches.repeat(4), verbose=0)
    found["toy fit"] = history.history["loss"]
    for file in sorted((folder / "toy").iterdir()):
        found[f"toy file {file.name}"] = digest_file(file)
    return found


def add_toy_windows(found, model, ids, mask):
    options = {
        "attention_mask": mask,
        "seed": 2,
        "semantic_min_new_tokens": 700,
        "semantic_max_new_tokens": 750,
        "temperature": 0.9,
        "do_sample": True,
    }
    voice = model.generate(ids, return_dict=True, **options).voice
    found["toy windows"] = digest(model.generate(ids, voice, **options))
    for latency in ("exact", "low"):
        pieces = model.stream(ids, voice, latency=latency, **options)
        found[f"toy stream {latency}"] = [digest(piece) for piece in pieces]


def everything(recordings):
    """Key -> hash, number, or list of these."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        shutil.copytree(Path(bark_tf.__file__).parent / "assets", folder / "small")
        found = {"status": run_commands(folder, str(Path(recordings).resolve()))}
        found |= hash_files(folder)
        found |= toy(folder)
    return found | shipped_voice()


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recordings", help="folder with metadata.csv and .ogg files")
    parser.add_argument("--out", help="write the hashes here instead of printing them")
    parser.add_argument("--against", help="hashes of an earlier run to compare with")
    return parser.parse_args()


def main():
    args = parse()
    text = json.dumps(everything(args.recordings), indent=1, sort_keys=True)
    if args.out:
        Path(args.out).write_text(text + "\n", encoding="utf-8")
    else:
        print(text)
    if args.against:
        before = json.loads(Path(args.against).read_text(encoding="utf-8"))
        now = json.loads(text)
        keys = sorted(
            key
            for key in before.keys() | now.keys()
            if not any(part in key for part in NOT_COMPARED)
        )
        differ = [key for key in keys if before.get(key) != now.get(key)]
        print(f"{len(keys)} values, {len(differ)} differ:", *differ, sep="\n  ")
        sys.exit(bool(differ))


if __name__ == "__main__":
    main()
