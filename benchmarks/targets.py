"""The targets of this project's speed, all in one run: met or missed.

    python benchmarks/targets.py                          # everything, about an hour
    python benchmarks/targets.py --sections decode start --repeats 1
    python benchmarks/targets.py --preset tiny --tokens 8 --sections decode

The other scripts measure, with transformers or torch in the same run; this one compares
with what each target says for the processor at hand. A line is missed if the figure is
on the wrong side of its target. The last line of the output is one JSON object.

`decode`: share of the machine's limits in a decode step, in prefill and in fine passes;
times faster than transformers, end to end. `half`: the same in bfloat16, where the
processor has it. `rows`: eight rows beside one. `int8`: tokens per second beside
float32. `start`: a cold `bark-tf speak`. `load`: beside transformers. `long`: seconds
and memory from 2 to 60 s of audio. `train`: steps beside torch.
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
from typing import NamedTuple

import generate
import load
import long_form
import train_step

COLD_TEXT = "one two three four five"


class Line(NamedTuple):
    """One target: `figure` should be at least `aim`, or at most."""

    name: str
    figure: float
    aim: float
    at_least: bool = True

    @property
    def is_met(self):
        return self.figure >= self.aim if self.at_least else self.figure <= self.aim


def parse(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sections = list(SECTIONS)
    parser.add_argument("--sections", nargs="+", choices=sections, default=sections)
    parser.add_argument("--preset", default="bark-small")
    parser.add_argument("--tokens", type=int, default=128, help="semantic tokens")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1, help="processes per side")
    return parser.parse_args(arguments)


def processor():
    """Name and flags of the processor (Linux)."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    fields = [line.partition(":") for line in text.splitlines()]
    found = {name.strip(): value.strip() for name, _, value in fields}
    return found.get("model name", "unknown"), set(found.get("flags", "").split())


def generated(args, *options):
    """What `generate.py` finds with some options."""
    common = ["--preset", args.preset, "--tokens", str(args.tokens)]
    common += ["--repeats", str(args.repeats), "--rounds", str(args.rounds)]
    parsed = generate.parse([*common, *options])
    found = generate.compare(parsed)
    generate.show(parsed, found)
    return found["results"]


def times_faster(results, key="total"):
    return results["transformers"]["steady"][key] / results["bark_tf"]["steady"][key]


# === Sections ===


def decode(args):
    results = generated(args)
    shares, aim = results["bark_tf"]["shares"], 3.0
    if "avx512f" not in processor()[1]:
        aim = 2.3
    return [
        Line("decode step, share of read bandwidth", shares["step"], 0.8),
        Line("prefill, share of the product rate", shares["prefill"], 0.85),
        Line("fine passes, share of the product rate", shares["fine"], 0.85),
        Line("float32, times faster than transformers", times_faster(results), aim),
    ]


def half(args):
    if not processor()[1] & {"avx512_bf16", "amx_bf16"}:
        print("this processor does not compute in bfloat16")
        return []
    results = generated(args, "--dtype", "bfloat16")
    faster, fine = times_faster(results), times_faster(results, "fine")
    return [
        Line("bfloat16, times faster than transformers", faster, 2.0),
        Line("bfloat16 fine stage, times faster", fine, 2.0),
    ]


def rows(args):
    results = generated(args, "--rows", "1", "8")
    ours, theirs = (results[side]["rows"] for side in ("bark_tf", "transformers"))
    return [
        line
        for stage in ("semantic", "coarse")
        for line in (
            Line(
                f"{stage}, 8 rows over 1, tokens/s",
                ours["8"][stage] / ours["1"][stage],
                3.0,
            ),
            Line(
                f"{stage}, 8 rows, times transformers",
                ours["8"][stage] / theirs["8"][stage],
                2.0,
            ),
        )
    ]


def int8(args):
    results = generated(args, "--only", "bark_tf", "--also", "int8")
    one, other = (results[side]["steady"]["step"] for side in ("bark_tf", "int8"))
    return [Line("int8 decode over float32, tokens/s", one / other, 1.6)]


def start(args):
    """Seconds of a whole process that speaks 2 s."""
    seconds = []
    with tempfile.TemporaryDirectory() as directory:
        out = str(Path(directory, "a.wav"))
        command = [sys.executable, "-m", "bark_tf", "speak", COLD_TEXT, "-o", out]
        for _ in range(1 + args.repeats):  # the first reads files from the disk
            begun = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            seconds.append(time.perf_counter() - begun)
    middle = statistics.median(seconds[1:])
    return [Line("cold start of the small voice, s", middle, 8.0, at_least=False)]


def loading(args):
    sides = ["bark_tf", "transformers"]
    results, weights = load.compare(load.parse(["--sides", *sides]))
    load.show(results, weights)
    ours, theirs = (results[side] for side in sides)
    return [
        Line(f"{title} over transformers'", ours[key] / theirs[key], 1.5, False)
        for title, key in (
            ("loading, time", "seconds"),
            ("loading and reading all weights, time", "used_seconds"),
        )
    ]


def long(args):
    found = long_form.measure(long_form.parse(["--repeats", str(args.repeats)]))
    print(json.dumps(found))
    return [
        Line("2 to 60 s, slowest over fastest", 1 + found["spread"], 1.15, False),
        Line("growth of memory from 2 to 60 s, MB", found["growth_mb"], 30, False),
    ]


def train(args):
    options = ["--preset", args.preset, "--rounds", str(args.rounds)]
    return [
        Line(
            f"training, {one['stage']}, {one['method']}, times torch",
            one["times_faster"]["seconds"],
            1.0,
        )
        for one in train_step.compare_all(train_step.parse(options))
    ]


SECTIONS = {
    "decode": decode,
    "half": half,
    "rows": rows,
    "int8": int8,
    "start": start,
    "load": loading,
    "long": long,
    "train": train,
}


def main():
    args = parse()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    name, flags = processor()
    kind = "AVX-512" if "avx512f" in flags else "AVX2" if "avx2" in flags else "other"
    print(f"{os.cpu_count()} cores of {name}, {kind}", flush=True)
    lines = [line for section in args.sections for line in SECTIONS[section](args)]
    for line in lines:
        verdict = "met" if line.is_met else "MISSED"
        relation = "at least" if line.at_least else "at most"
        print(f"{verdict:7}{line.name:46} {line.figure:8.2f} ({relation} {line.aim:g})")
    rows = [{**line._asdict(), "is_met": bool(line.is_met)} for line in lines]
    print(json.dumps({"processor": name, "kind": kind, "lines": rows}))


if __name__ == "__main__":
    main()
