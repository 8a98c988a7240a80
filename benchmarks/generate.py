"""Text to audio: bark_tf against transformers, per stage, in one run.

    python benchmarks/generate.py                    # float32, bark-small, 128 tokens
    python benchmarks/generate.py --dtype bfloat16 --repeats 5
    python benchmarks/generate.py --model DIR --only bark_tf
    python benchmarks/generate.py --only bark_tf --before OTHER/.venv/bin/python
    python benchmarks/generate.py --also transformers-compiled --rows 1 4 8 --plot a.png
    python benchmarks/generate.py --preset bark --only offload --tokens 8 --no-stream

All sides read the same checkpoint (random weights of bark-small's sizes unless
`--model` names one), get the same ids and generate the same tokens greedily, each in
its own process, in turn. The first call includes tracing and compiling; the others are
steady. Every round measures the machine's limits too (`limits.py`), and beside each
stage stand its floor that follows (`floors.py`) and the share of it that is reached.
`prefill` and `step` are parts of the semantic stage. `transformers-compiled` is the
peer with `torch.compile` and a static cache. The last line of the output is one JSON
object.
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

import floors

STAGES = ("semantic", "coarse", "fine", "codec")
# Measured without a stage's number of tokens, or with another.
PARTS = ("prefill", "step")


def parse(arguments=None):
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
    parser.add_argument("--only", choices=SIDES)
    parser.add_argument("--also", nargs="+", choices=SIDES, default=[])
    parser.add_argument(
        "--rows", type=int, nargs="+", default=[], help="tokens/s of so many rows, too"
    )
    parser.add_argument(
        "--no-stream", action="store_true", help="without the first audio of a stream"
    )
    parser.add_argument("--plot", metavar="FILE", help="a picture; needs matplotlib")
    parser.add_argument(
        "--before",
        metavar="PYTHON",
        help="the Python of an environment with another bark_tf, measured in turn",
    )
    parser.add_argument(
        "--no-xla", action="store_true", help="bark_tf without XLA, in all stages"
    )
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


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

    loading = {}  # noqa: RUF012

    def __init__(self, args):
        import tensorflow as tf

        from bark_tf import BarkModel

        self.version = f"tensorflow {tf.__version__}"
        self.model = BarkModel.from_pretrained(
            args.model, dtype=args.dtype, **self.loading
        )
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


class Int8(BarkTf):
    """bark_tf with 8-bit kernels."""

    loading = {"quantize": "int8"}  # noqa: RUF012


class Offload(BarkTf):
    """bark_tf with one network in memory at a time."""

    loading = {"offload": True}  # noqa: RUF012


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


class TransformersCompiled(Transformers):
    """The peer, compiled; its prompts have one length, so one program serves each."""

    def __init__(self, args):
        super().__init__(args)
        for part in (self.model.semantic, self.model.coarse_acoustics):
            part.forward = self.torch.compile(part.forward)
        fine = self.model.fine_acoustics
        fine.forward = self.torch.compile(fine.forward)
        for config in (self.semantic_config, self.coarse_config):
            config.cache_implementation = "static"


SIDES = {
    "bark_tf": BarkTf,
    "int8": Int8,
    "offload": Offload,
    "before": BarkTf,
    "transformers": Transformers,
    "transformers-compiled": TransformersCompiled,
}


def run_stages(side, ids, mask, tokens):
    """Seconds of each stage and of the semantic stage's parts; and the audio."""
    times, value = {}, None
    for stage in STAGES:
        arguments = (ids, mask, tokens) if stage == "semantic" else (value,)
        start = time.perf_counter()
        value = getattr(side, stage)(*arguments)
        times[stage] = time.perf_counter() - start
    times["total"] = sum(times.values())
    start = time.perf_counter()
    side.semantic(ids, mask, 1)
    times["prefill"] = time.perf_counter() - start
    times["step"] = (times["semantic"] - times["prefill"]) / max(1, tokens - 1)
    return times, value


def rates_of_rows(side, rows, tokens):
    """Tokens per second of both causal stages, for each number of rows."""
    rates = {}
    for count in rows:
        ids, mask = inputs(count)
        side.coarse(side.semantic(ids, mask, tokens))  # compiles
        start = time.perf_counter()
        semantic = side.semantic(ids, mask, tokens)
        middle = time.perf_counter()
        coarse = side.coarse(semantic)
        end = time.perf_counter()
        made = count * tokens, coarse.shape[0] * coarse.shape[1]
        rates[count] = {
            "semantic": made[0] / (middle - start),
            "coarse": made[1] / (end - middle),
        }
    return rates


def peak_gib():
    """Peak memory of this process; getrusage would include the parent's at the fork."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024**2


def worker(args):
    if args.worker == "limits":
        import limits

        return print(json.dumps(limits.limits(args.dtype)))
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
    if hasattr(side, "first_audio") and not args.no_stream:
        for latency in ("exact", "low"):
            side.first_audio(ids, mask, args.tokens, latency)  # compiles
            seconds = side.first_audio(ids, mask, args.tokens, latency)
            report[f"first_audio_{latency}"] = seconds
    report["rows"] = rates_of_rows(side, args.rows, args.tokens)
    print(json.dumps(report))


def spawn(args, name):
    python = args.before if name == "before" else sys.executable
    command = [python, __file__, "--worker", name]
    flags = {"--no-xla": args.no_xla, "--no-stream": args.no_stream}
    command += [flag for flag, is_set in flags.items() if is_set]
    command += ["--rows", *map(str, args.rows)] if args.rows else []
    for option in ("model", "tokens", "batch", "dtype", "repeats"):
        command += [f"--{option}", str(getattr(args, option))]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    output = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    return json.loads(output.strip().splitlines()[-1])


def middle(reports):
    """The report whose steady total is the median, with the rounds' median times."""
    report = sorted(reports, key=lambda r: r["steady"]["total"])[len(reports) // 2]
    steady = {
        key: statistics.median(r["steady"][key] for r in reports)
        for key in report["steady"]
    }
    return {**report, "steady": steady}


def compare(args):
    """Runs all sides and the limits in turn; returns limits, floors and results."""
    from bark_tf import BarkConfig

    names = [args.only] if args.only else ["bark_tf", "transformers"]
    names += args.also + (["before"] if args.before else [])
    with tempfile.TemporaryDirectory() as scratch:
        if args.model is None:
            args.model = str(Path(scratch) / args.preset)
            random_checkpoint(args.preset, args.model)
        reports = {name: [] for name in ("limits", *names)}
        for _ in range(args.rounds):
            for name, found in reports.items():
                found.append(spawn(args, name))
        config = BarkConfig.from_pretrained(args.model)
    measured = zip(*reports.pop("limits"), strict=True)
    limits = floors.Limits(*map(statistics.median, measured))
    results = {name: middle(found) for name, found in reports.items()}
    least = floors.stages_s(config, args.tokens, args.batch, limits)
    for report in results.values():
        steady = report["steady"]
        report["shares"] = {key: least[key] / steady[key] for key in least}
    return {"limits": limits._asdict(), "floors": least, "results": results}


# === Showing ===


def show(args, found):
    least, results = found["floors"], found["results"]
    limits = floors.Limits(**found["limits"])
    print(
        f"the machine reads {limits.bytes_per_s / 1e9:.1f} GB/s and multiplies "
        f"{limits.flops_per_s / 1e9:.0f} GFLOP/s in {args.dtype}"
    )
    rows = [("seconds (share of limit)", "floor", *results)]
    for stage in (*STAGES, "total", *PARTS):
        cells = (
            f"{r['steady'][stage]:.4g} ({r['shares'][stage]:.0%})"
            for r in results.values()
        )
        rows.append((stage, f"{least[stage]:.4g}", *cells))
    coarse = round(args.tokens * 75 / 49.9) * 2
    for stage, count in (("semantic", args.tokens), ("coarse", coarse)):
        speeds = (args.batch * count / r["steady"][stage] for r in results.values())
        rows.append((f"{stage}, tokens/s", "", *(f"{speed:.1f}" for speed in speeds)))
    for count in args.rows:
        for stage in ("semantic", "coarse"):
            speeds = (r["rows"][str(count)][stage] for r in results.values())
            title = f"{stage}, {count} rows, tokens/s"
            rows.append((title, "", *(f"{speed:.1f}" for speed in speeds)))
    rows.append(
        ("first call, s", "", *(f"{r['first']['total']:.1f}" for r in results.values()))
    )
    rows.append(("load, s", "", *(f"{r['load']:.1f}" for r in results.values())))
    factors = (r["steady"]["total"] / r["audio_seconds"] for r in results.values())
    rows.append(("real-time factor", "", *(f"{factor:.2f}" for factor in factors)))
    memory = (f"{r['peak_memory_gb']:.2f}" for r in results.values())
    rows.append(("peak memory, GB", "", *memory))
    for latency in ("exact", "low"):
        key = f"first_audio_{latency}"
        values = (f"{r[key]:.2f}" if key in r else "-" for r in results.values())
        rows.append((f"first audio ({latency}), s", "", *values))
    for row in rows:
        print("  ".join(f"{cell:>26}" for cell in row))
    if len(results) == 2:
        ours, theirs = (r["steady"] for r in results.values())
        ratios = {key: theirs[key] / ours[key] for key in ours}
        print("times faster:", {key: round(value, 2) for key, value in ratios.items()})


def plot(path, found):
    """Seconds of each stage by side, beside the floor."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    sides = {"floor": found["floors"]}
    sides |= {name: report["steady"] for name, report in found["results"].items()}
    width = 0.8 / len(sides)
    for number, (name, seconds) in enumerate(sides.items()):
        places = [index + number * width for index in range(len(STAGES))]
        axes.bar(places, [seconds[stage] for stage in STAGES], width, label=name)
    centres = [index + 0.4 - width / 2 for index in range(len(STAGES))]
    axes.set_xticks(centres, STAGES)
    axes.set_ylabel("seconds")
    axes.legend()
    figure.savefig(path)


def setting(args):
    return {
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "preset": args.preset,
        "tokens": args.tokens,
        "batch": args.batch,
        "dtype": args.dtype,
        "python": platform.python_version(),
    }


def main():
    args = parse()
    if args.worker:
        return worker(args)
    found = compare(args)
    show(args, found)
    if args.plot:
        plot(args.plot, found)
    print(json.dumps({"setting": setting(args), **found}))


if __name__ == "__main__":
    main()
