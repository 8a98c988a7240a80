"""Loading a checkpoint: time and peak memory, bark_tf against transformers.

    python benchmarks/load.py                    # random float32 weights of bark-small
    python benchmarks/load.py --model DIR --rounds 5
    python benchmarks/load.py --files transformers     # written by transformers, or
    python benchmarks/load.py --files bin              # by torch.save, as published

Each side loads the same directory in fresh processes, in turn. Both map the file where
they can and read a weight only when it is used, so both then sum all weights with the
same function. On a shared machine CPU seconds are more reliable than seconds. "From the
start" counts from the start of the process and includes imports. Memory is the
process's peak above its level after importing the framework. `offload` generates 16
semantic tokens with `from_pretrained(offload=True)` and reports all resident memory of
the process, pages of files included. The last line of the output is one JSON object.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import generate
import numpy as np

SIDES = ("bark_tf", "transformers", "offload")
# What wrote the files.
FILES = ("bark_tf", "transformers", "bin")
# The limit on peak memory when stages are loaded one at a time, see `offload_bound`.
OFFLOAD_FACTOR, OFFLOAD_BASE_BYTES = 1.2, 0.6e9


def import_framework(side):
    if side == "transformers":
        import torch
        import transformers.models.bark.modeling_bark
        from transformers import BarkModel

        transformers.logging.set_verbosity_error()
        torch.zeros(1)
    else:
        import tensorflow as tf

        from bark_tf import BarkModel

        if side == "bark_tf":  # offloading must run before TensorFlow first allocates
            tf.zeros(1)
    return BarkModel


def weights_of(model, side):
    """All weights as arrays that share the model's memory."""
    if side == "transformers":
        return [tensor.numpy() for tensor in model.state_dict().values()]
    weights = [weight for part in model.parts.values() for weight in part.weights]
    return [np.asarray(weight.value.read_value()) for weight in weights]


def worker(args):
    model_class = import_framework(args.worker)
    before, start, cpu_start = (
        generate.peak_gib(),
        time.perf_counter(),
        time.process_time(),
    )
    options = {"offload": True} if args.worker == "offload" else {}
    model = model_class.from_pretrained(args.model, **options)
    report = {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu_start,
        "from_start_seconds": time.time() - args.started,
    }
    if not options:
        for array in weights_of(model, args.worker):
            array.sum()
    report["used_seconds"] = time.perf_counter() - start
    report["used_cpu_seconds"] = time.process_time() - cpu_start
    if options:
        ids, mask = generate.inputs(1)
        model.generate(ids, attention_mask=mask, semantic_max_new_tokens=16)
        report["bound_gb"] = offload_bound(model)
    report |= {"before_gb": before, "peak_gb": generate.peak_gib()}
    print(json.dumps({**report, "added_gb": report["peak_gb"] - before}))


def offload_bound(model):
    """The limit on the peak: 1.2 times the largest stage, plus 0.6 GB."""
    largest = max(part.count_params() for part in model.parts.values()) * 4
    return (OFFLOAD_FACTOR * largest + OFFLOAD_BASE_BYTES) / 1024**3


def rewrite(args):
    """Writes the checkpoint again in the format of `--files`."""
    import torch
    from transformers import BarkModel

    model = BarkModel.from_pretrained(args.model)
    model.save_pretrained(args.rewrite)
    if args.files == "bin":
        (Path(args.rewrite) / "model.safetensors").unlink()
        torch.save(model.state_dict(), Path(args.rewrite) / "pytorch_model.bin")


def spawn(args, *options):
    command = [sys.executable, __file__, "--model", args.model, *options]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, text=True, check=True
    ).stdout


def measure(args, side):
    options = ("--worker", side, "--started", str(time.time()))
    return json.loads(spawn(args, *options).strip().splitlines()[-1])


def show(results, weights):
    print(f"weights: {weights:.2f} GB")
    for side, row in results.items():
        print(
            f"{side:>14}: {row['seconds']:6.2f} s ({row['cpu_seconds']:.2f} s of CPU), "
            f"{row['used_seconds']:.2f} s ({row['used_cpu_seconds']:.2f}) until every "
            f"weight was read, {row['from_start_seconds']:.2f} s from the start, "
            f"{row['added_gb']:.2f} GB added "
            f"({row['added_gb'] / weights:.2f} x weights), peak {row['peak_gb']:.2f} GB"
        )
    if "offload" in results:
        bound = results["offload"]["bound_gb"]
        print(f"       offload: the peak should be at most {bound:.2f} GB")


def parse(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", help="checkpoint directory; random weights if absent"
    )
    parser.add_argument(
        "--files", choices=FILES, default="bark_tf", help="what writes the files"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--started", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--rewrite", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def compare(args):
    """Measures all sides in turn; returns medians by side, and GiB of the weights."""
    with tempfile.TemporaryDirectory() as scratch:
        if args.model is None:
            args.model = str(Path(scratch) / "bark-small")
            generate.random_checkpoint("bark-small", args.model)
        if args.files != "bark_tf":
            rewritten = str(Path(scratch) / args.files)
            spawn(args, "--rewrite", rewritten, "--files", args.files)
            args.model = rewritten
        files = Path(args.model)
        weights = sum(
            file.stat().st_size
            for pattern in ("*.safetensors", "*.bin")
            for file in files.glob(pattern)
        )
        runs = {side: [] for side in args.sides}
        for _ in range(args.rounds):
            for side in args.sides:
                runs[side].append(measure(args, side))
    results = {
        side: {key: statistics.median(run[key] for run in found) for key in found[0]}
        for side, found in runs.items()
    }
    return results, weights / 1024**3


def main():
    args = parse()
    if args.worker:
        return worker(args)
    if args.rewrite:
        return rewrite(args)
    results, weights = compare(args)
    show(results, weights)
    print(json.dumps({"files": args.files, "weights_gb": weights, "results": results}))


if __name__ == "__main__":
    main()
