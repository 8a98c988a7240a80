"""Loading a checkpoint: time and peak memory, bark_tf against transformers.

    python benchmarks/load.py                    # random float32 weights of bark-small
    python benchmarks/load.py --model DIR --rounds 5

Each side loads the same directory in fresh processes, in turn. Memory is the process's
peak over what it was after importing its framework. `offload` generates a few tokens
with `from_pretrained(offload=True)` and reports the whole process. The last line of the
output is one JSON object.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import generate as texts

SIDES = ("bark_tf", "transformers", "offload")
GIB_IN_KIB = 1024**2


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / GIB_IN_KIB


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

        tf.zeros(1)
    return BarkModel


def worker(args):
    model_class = import_framework(args.worker)
    before, start = peak(), time.perf_counter()
    options = {"offload": True} if args.worker == "offload" else {}
    model = model_class.from_pretrained(args.model, **options)
    seconds = time.perf_counter() - start
    if args.worker == "transformers":
        # It maps the file and reads nothing before a weight is used.
        for tensor in model.state_dict().values():
            tensor.float().sum()
    used = time.perf_counter() - start
    if options:
        ids, mask = texts.inputs(1)
        model.generate(ids, attention_mask=mask, semantic_max_new_tokens=16)
    report = {
        "seconds": seconds,
        "used_seconds": used,
        "before_gb": before,
        "peak_gb": peak(),
    }
    print(json.dumps({**report, "added_gb": report["peak_gb"] - before}))


def spawn(args, side):
    command = [sys.executable, __file__, "--worker", side, "--model", args.model]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.strip().splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", help="checkpoint directory; random weights if absent"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return worker(args)
    with tempfile.TemporaryDirectory() as scratch:
        if args.model is None:
            args.model = str(Path(scratch) / "bark-small")
            texts.random_checkpoint("bark-small", args.model)
        weights = sum(f.stat().st_size for f in Path(args.model).glob("*.safetensors"))
        runs = {side: [] for side in SIDES}
        for _ in range(args.rounds):
            for side in SIDES:
                runs[side].append(spawn(args, side))
    results = {
        side: {key: statistics.median(run[key] for run in found) for key in found[0]}
        for side, found in runs.items()
    }
    weights /= 1024**3
    print(f"weights: {weights:.2f} GB")
    for side, row in results.items():
        print(
            f"{side:>14}: {row['seconds']:6.2f} s, {row['used_seconds']:.2f} s until "
            f"every weight was read, {row['added_gb']:.2f} GB added "
            f"({row['added_gb'] / weights:.2f} x weights), peak {row['peak_gb']:.2f} GB"
        )
    print(json.dumps({"weights_gb": weights, "results": results}))


if __name__ == "__main__":
    main()
