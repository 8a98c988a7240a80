"""Text to audio: bark_tf against transformers, per stage, in one run.

    python benchmarks/generate.py                    # float32, bark-small, 128 tokens
    python benchmarks/generate.py --dtype bfloat16 --repeats 5
    python benchmarks/generate.py --model DIR --only bark_tf
    python benchmarks/generate.py --only bark_tf --before OTHER/.venv/bin/python

Both sides read the same checkpoint (random weights of bark-small's sizes unless
`--model` names one), get the same ids and generate the same tokens greedily, each in
its own process, in turn. The first call includes tracing and compiling; the others are
steady. The last line of the output is one JSON object.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STAGES = ("semantic", "coarse", "fine", "codec")


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", help="checkpoint directory; random weights if absent"
    )
    parser.add_argument("--preset", default="bark-small")
    parser.add_argument("--tokens", type=int, default=128, help="semantic tokens")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--repeats", type=int, default=3, help="steady calls")
    parser.add_argument("--rounds", type=int, default=1, help="processes per side")
    parser.add_argument("--only", choices=("bark_tf", "transformers"))
    parser.add_argument(
        "--before",
        metavar="PYTHON",
        help="the Python of an environment with another bark_tf, measured in turn",
    )
    parser.add_argument(
        "--no-xla", action="store_true", help="bark_tf without XLA, in all stages"
    )
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args()


def random_checkpoint(preset, directory, generation_config=None):
    """Writes a checkpoint of a preset's sizes that never generates an end token."""
    import numpy as np

    from bark_tf import BarkConfig, BarkModel

    model = BarkModel(BarkConfig.preset(preset), generation_config)
    rng = np.random.default_rng(0)
    for part in list(model.parts.values())[:3]:
        for weight in part.weights:
            if "norm" not in weight.path:
                weight.assign(rng.standard_normal(weight.shape, np.float32) * 0.05)
    kernel = model.semantic.lm_head.kernel
    kernel.assign(np.concatenate([kernel[:10_000], np.zeros_like(kernel[10_000:])]))
    model.save_pretrained(directory)


def inputs(batch):
    import numpy as np

    ids = np.random.default_rng(1).integers(1_000, 100_000, (batch, 256))
    mask = np.ones_like(ids)
    mask[:, 24:] = 0
    return ids, mask


class BarkTf:
    """bark_tf."""

    def __init__(self, args):
        import tensorflow as tf

        from bark_tf import BarkModel

        self.version = f"tensorflow {tf.__version__}"
        self.model = BarkModel.from_pretrained(args.model, dtype=args.dtype)
        self.xla = {"jit_compile": False} if args.no_xla else {}

    def semantic(self, ids, mask, tokens):
        return self.model.semantic.generate(
            ids, attention_mask=mask, max_new_tokens=tokens, **self.xla
        )

    def coarse(self, semantic):
        # The same allowed ids as the peer, so both do the same work.
        return self.model.coarse_acoustics.generate(semantic, compat="hf", **self.xla)

    def fine(self, coarse):
        return self.model.fine_acoustics.generate(coarse, **self.xla)

    def codec(self, fine):
        return self.model.codec_decode(fine).numpy()

    def first_audio(self, ids, mask, tokens, latency):
        start = time.perf_counter()
        pieces = self.model.stream(
            ids[:1],
            attention_mask=mask[:1],
            semantic_max_new_tokens=tokens,
            latency=latency,
            **self.xla,
        )
        next(pieces)
        return time.perf_counter() - start


class Transformers:
    """The peer."""

    def __init__(self, args):
        import torch
        import transformers
        from transformers.models.bark import generation_configuration_bark as configs

        transformers.logging.set_verbosity_error()
        torch.set_grad_enabled(False)
        self.torch = torch
        self.version = (
            f"transformers {transformers.__version__}, torch {torch.__version__}"
        )
        dtype = getattr(torch, args.dtype)
        self.model = transformers.BarkModel.from_pretrained(
            args.model, dtype=dtype
        ).eval()
        self.semantic_config = configs.BarkSemanticGenerationConfig()
        self.coarse_config = configs.BarkCoarseGenerationConfig()
        self.fine_config = configs.BarkFineGenerationConfig()

    def semantic(self, ids, mask, tokens):
        self.semantic_config.max_new_tokens = tokens
        return self.model.semantic.generate(
            self.torch.tensor(ids),
            attention_mask=self.torch.tensor(mask),
            semantic_generation_config=self.semantic_config,
        )

    def coarse(self, semantic):
        return self.model.coarse_acoustics.generate(
            semantic.clone(),
            semantic_generation_config=self.semantic_config,
            coarse_generation_config=self.coarse_config,
            codebook_size=1024,
        )

    def fine(self, coarse):
        return self.model.fine_acoustics.generate(
            coarse,
            semantic_generation_config=self.semantic_config,
            coarse_generation_config=self.coarse_config,
            fine_generation_config=self.fine_config,
            codebook_size=1024,
        )

    def codec(self, fine):
        return self.model.codec_decode(fine).float().numpy()


SIDES = {"bark_tf": BarkTf, "before": BarkTf, "transformers": Transformers}


def run_stages(side, ids, mask, tokens):
    times, value = {}, None
    for stage in STAGES:
        arguments = (ids, mask, tokens) if stage == "semantic" else (value,)
        start = time.perf_counter()
        value = getattr(side, stage)(*arguments)
        times[stage] = time.perf_counter() - start
    times["total"] = sum(times.values())
    return times, value


def peak_gib():
    """Peak memory of this process; getrusage would include the parent's at the fork."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024**2


def worker(args):
    ids, mask = inputs(args.batch)
    start = time.perf_counter()
    side = SIDES[args.worker](args)
    report = {"version": side.version, "load": time.perf_counter() - start}
    report["first"], audio = run_stages(side, ids, mask, args.tokens)
    runs = [run_stages(side, ids, mask, args.tokens)[0] for _ in range(args.repeats)]
    report["steady"] = {
        key: statistics.median(run[key] for run in runs) for key in runs[0]
    }
    # Before anything else runs, so it is the peak of loading and generating.
    report["peak_memory_gb"] = peak_gib()
    rate = side.model.generation_config.sample_rate
    report["audio_seconds"] = audio.shape[-1] / rate
    report["checksum"] = float(abs(audio).mean())
    if hasattr(side, "first_audio"):
        for latency in ("exact", "low"):
            side.first_audio(ids, mask, args.tokens, latency)  # compiles
            seconds = side.first_audio(ids, mask, args.tokens, latency)
            report[f"first_audio_{latency}"] = seconds
    print(json.dumps(report))


def spawn(args, name):
    python = args.before if name == "before" else sys.executable
    command = [python, __file__, "--worker", name]
    command += ["--no-xla"] if args.no_xla else []
    for option in ("model", "tokens", "batch", "dtype", "repeats"):
        command += [f"--{option}", str(getattr(args, option))]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    output = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    return json.loads(output.strip().splitlines()[-1])


def middle(reports):
    """The report whose steady total is the median."""
    return sorted(reports, key=lambda r: r["steady"]["total"])[len(reports) // 2]


def show(args, results):
    rows = [("", *results)]
    for stage in (*STAGES, "total"):
        rows.append(
            (f"{stage}, s", *(f"{r['steady'][stage]:.2f}" for r in results.values()))
        )
    coarse = round(args.tokens * 75 / 49.9) * 2
    for stage, count in (("semantic", args.tokens), ("coarse", coarse)):
        speeds = (args.batch * count / r["steady"][stage] for r in results.values())
        rows.append((f"{stage}, tokens/s", *(f"{speed:.1f}" for speed in speeds)))
    rows.append(
        ("first call, s", *(f"{r['first']['total']:.1f}" for r in results.values()))
    )
    rows.append(("load, s", *(f"{r['load']:.1f}" for r in results.values())))
    factors = (r["steady"]["total"] / r["audio_seconds"] for r in results.values())
    rows.append(("real-time factor", *(f"{factor:.2f}" for factor in factors)))
    memory = (f"{r['peak_memory_gb']:.2f}" for r in results.values())
    rows.append(("peak memory, GB", *memory))
    for latency in ("exact", "low"):
        key = f"first_audio_{latency}"
        values = (f"{r[key]:.2f}" if key in r else "-" for r in results.values())
        rows.append((f"first audio ({latency}), s", *values))
    for row in rows:
        print("  ".join(f"{cell:>24}" for cell in row))
    if len(results) == 2:
        ours, theirs = (r["steady"] for r in results.values())
        ratios = {key: theirs[key] / ours[key] for key in ours}
        print("times faster:", {key: round(value, 2) for key, value in ratios.items()})


def main():
    args = parse()
    if args.worker:
        return worker(args)
    names = [args.only] if args.only else ["bark_tf", "transformers"]
    names += ["before"] if args.before else []
    with tempfile.TemporaryDirectory() as scratch:
        if args.model is None:
            args.model = str(Path(scratch) / args.preset)
            random_checkpoint(args.preset, args.model)
        reports = {name: [] for name in names}
        for _ in range(args.rounds):
            for name in names:
                reports[name].append(spawn(args, name))
    results = {name: middle(reports[name]) for name in names}
    show(args, results)
    setting = {
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "tokens": args.tokens,
        "batch": args.batch,
        "dtype": args.dtype,
        "python": platform.python_version(),
    }
    print(json.dumps({"setting": setting, "results": results}))


if __name__ == "__main__":
    main()
