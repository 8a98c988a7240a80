"""Latency and throughput of serving, by number of clients, in one run.

    python benchmarks/serving.py                        # the small voice
    python benchmarks/serving.py --preset bark-small --tokens 64 --requests 16
    python benchmarks/serving.py --sides generate serve --clients 1 16 --no-xla

Sides: `generate` in this process, with as many rows as there are clients; `export` and
`export-xla` are SavedModels behind gRPC, which speak each request alone; `serve` is
`bark-tf serve` with one batch for all clients, `serve-one` the same server speaking one
after the other (`--max-batch 1`), and `serve-threads` with `--threads` batches at the
same time. Clients ask again as soon as they are answered.
Every number of clients is measured after a round that is not. `--preset` makes random
weights of those sizes, which speak `--tokens` semantic tokens. On a shared machine
compare `audio_s_per_cpu_s`. The last line of the output is one JSON object.
"""

import argparse
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import generate as generate_benchmark

DIGITS = "zero one two three four five six seven eight nine".split()
MAX_BATCH = 16
PCM_BYTES_PER_S = 2 * 24_000
STAND_IN = Path(__file__).parents[1] / "tests" / "serving_standins.py"


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="checkpoint; default: the small voice")
    parser.add_argument("--preset", help="random weights of a preset's sizes instead")
    parser.add_argument("--tokens", type=int, default=64, help="of --preset")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--requests", type=int, default=32, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=1, help="processes of each side")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--threads", type=int, default=2, help="of serve-threads")
    parser.add_argument("--no-xla", action="store_true")
    return parser.parse_args()


def texts(count):
    """Strings of 3 to 7 digits."""
    return [
        " ".join(DIGITS[(7 * number + word) % 10] for word in range(3 + number % 5))
        for number in range(count)
    ]


def random_checkpoint(preset, tokens, directory):
    """Writes a checkpoint of a preset's sizes that knows digits."""
    from bark_tf import BarkGenerationConfig, BarkProcessor, BarkTokenizer

    limit = BarkGenerationConfig(semantic_config={"max_new_tokens": tokens})
    generate_benchmark.random_checkpoint(preset, directory, limit)
    words = ["[PAD]", "[UNK]", *DIGITS]
    BarkProcessor(BarkTokenizer.from_vocabulary(words)).save_pretrained(directory)


def side_by_side(one):
    """`ask` of a side that answers one (seed, text) at a time, in seconds of audio."""

    def timed(job):
        begun = time.perf_counter()
        seconds = one(*job)
        return time.perf_counter() - begun, seconds

    def ask(said, clients):
        with ThreadPoolExecutor(clients) as pool:
            return list(pool.map(timed, enumerate(said)))

    return ask


# === Sides: context managers that yield two functions ===
# `ask(texts, clients)` returns (latency, audio seconds) of each text, and `cpu_s()` the
# CPU seconds so far of the process that speaks.


@contextlib.contextmanager
def generate(model_name, arguments):
    """In this process, a batch at a time."""
    from bark_tf import BarkModel, BarkProcessor

    processor = BarkProcessor.from_pretrained(model_name)
    model = BarkModel.from_pretrained(model_name)

    def ask(said, clients):
        answers = []
        for start in range(0, len(said), clients):
            batch = said[start : start + clients]
            begun = time.perf_counter()
            _, lengths = model.generate(
                **processor(batch, return_tensors="np"),
                seed=list(range(start, start + len(batch))),
                return_output_lengths=True,
                jit_compile=not arguments.no_xla,
            )
            latency = time.perf_counter() - begun
            answers += [(latency, length / model.sampling_rate) for length in lengths]
        return answers

    yield ask, time.process_time


@contextlib.contextmanager
def serve(model_name, arguments, max_batch=MAX_BATCH, threads=1):
    """`bark-tf serve` in a process of its own."""
    command = [sys.executable, "-m", "bark_tf", "serve", "--port", "0"]
    command += ["--max-batch", str(max_batch), "--timeout", "3600"]
    command += ["--threads", str(threads)]
    command += ["--model", model_name] if model_name else []
    command += ["--no-xla"] if arguments.no_xla else []
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        line = next(line for line in process.stderr if "listening" in line)
        url = re.search(r"http://[\w.:/]+", line)[0] + "/audio/speech"
        log = ThreadPoolExecutor(1).submit(process.stderr.read)

        def one(seed, text):
            body = {"model": "tts-1", "voice": "default", "input": text, "seed": seed}
            request = urllib.request.Request(
                url,
                json.dumps({**body, "response_format": "pcm"}).encode(),
                {"Content-Type": "application/json"},
            )
            with urllib.request.urlopen(request) as response:
                return len(response.read()) / PCM_BYTES_PER_S

        try:
            yield side_by_side(one), lambda: cpu_seconds(process.pid)
        finally:
            process.terminate()
            log.result()


def cpu_seconds(pid):
    """User and system time of another process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def serve_one(model_name, arguments):
    """`bark-tf serve` without batches."""
    return serve(model_name, arguments, max_batch=1)


def serve_threads(model_name, arguments):
    """`bark-tf serve` with several batches at the same time."""
    return serve(model_name, arguments, threads=arguments.threads)


@contextlib.contextmanager
def exported(model_name, arguments, jit_compile=False):
    """An export behind gRPC, in a process of its own, asked by the client."""
    from bark_tf import BarkModel, BarkProcessor
    from bark_tf.serving.client import Client

    with tempfile.TemporaryDirectory() as directory:
        path = BarkModel.from_pretrained(model_name).export(
            Path(directory, "bark"),
            BarkProcessor.from_pretrained(model_name),
            jit_compile=jit_compile,
        )
        command = [sys.executable, str(STAND_IN), str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            client = Client(process.stdout.readline().strip(), timeout=3600)

            def one(seed, text):
                spoken = client.speak(text, seed=seed)
                return spoken.audio.size / spoken.sampling_rate

            try:
                yield side_by_side(one), lambda: cpu_seconds(process.pid)
            finally:
                process.terminate()


def exported_xla(model_name, arguments):
    """The same with compiled loops."""
    return exported(model_name, arguments, jit_compile=True)


SIDES = {
    "generate": generate,
    "export": exported,
    "export-xla": exported_xla,
    "serve": serve,
    "serve-one": serve_one,
    "serve-threads": serve_threads,
}


# === Measuring ===


def measure(ask, cpu_s, clients, count):
    """Asks `count` times; returns the figures."""
    said = texts(count)
    ask(said[:clients], clients)
    begun, cpu_before = time.perf_counter(), cpu_s()
    answers = ask(said, clients)
    seconds, cpu = time.perf_counter() - begun, cpu_s() - cpu_before
    latencies, audio = zip(*answers, strict=True)
    cuts = statistics.quantiles(latencies, n=100, method="inclusive")
    return {
        "p50_s": round(cuts[49], 3),
        "p90_s": round(cuts[89], 3),
        "p99_s": round(cuts[98], 3),
        "audio_s_per_s": round(sum(audio) / seconds, 3),
        "audio_s_per_cpu_s": round(sum(audio) / cpu, 3),
    }


def report(results):
    columns = list(results[0])
    print(" ".join(f"{name:>17}" for name in columns))
    for row in results:
        print(" ".join(f"{row[name]:>17}" for name in columns))


def main():
    arguments = parse()
    results = []
    with tempfile.TemporaryDirectory() as directory:
        model_name = arguments.model
        if arguments.preset:
            random_checkpoint(arguments.preset, arguments.tokens, directory)
            model_name = directory
        for _ in range(arguments.rounds):
            for side in arguments.sides:
                with SIDES[side](model_name, arguments) as (ask, cpu_s):
                    for clients in arguments.clients:
                        figures = measure(ask, cpu_s, clients, arguments.requests)
                        results.append({"side": side, "clients": clients, **figures})
    report(results)
    print(json.dumps({"arguments": vars(arguments), "results": results}))


if __name__ == "__main__":
    main()
