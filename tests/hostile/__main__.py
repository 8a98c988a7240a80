"""Reads damaged files of every format, in processes that may die.

    python tests/hostile                           # 5,000 cases
    python tests/hostile --format flac --seed 17   # one of them again, with its error

The last lines are a table of what came out, and the slowest and largest cases.
"""

import argparse
import collections
import importlib.util
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import time
from multiprocessing.connection import wait
from pathlib import Path

# Memory of threads counts once they use it, not 64 MB each in advance.
os.environ.setdefault("MALLOC_ARENA_MAX", "2")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

_CONFTEST = Path(__file__).parents[1] / "conftest.py"
spec = importlib.util.spec_from_file_location("conftest", _CONFTEST)
spec.loader.exec_module(importlib.util.module_from_spec(spec))  # the toys of all tests

import cases  # noqa: E402
import formats  # noqa: E402
import tensorflow  # noqa: E402, F401  # once, for all processes

HANGS_S = 60
# A worker that takes more than this is stopped by the system.
ROOM_BYTES = 6 * 10**9


def planned(count):
    """(format, seed) of all cases; the order mixes the formats."""
    total = sum(one.share for one in formats.FORMATS.values())
    plan = [
        ((seed + 0.5) / number, name, seed)
        for name, one in formats.FORMATS.items()
        for number in [max(1, round(count * one.share / total))]
        for seed in range(number)
    ]
    return [(name, seed) for _, name, seed in sorted(plan)]


class Worker:
    """A process that runs one case after the other."""

    def __init__(self, seeds):
        self._context = multiprocessing.get_context("fork")
        self._seeds = seeds
        self._start()

    def _start(self):
        self.pipe, other = self._context.Pipe()
        self._errors = tempfile.TemporaryFile("w+", errors="replace")
        arguments = (other, self._seeds, self._errors)
        self._process = self._context.Process(target=_work, args=arguments)
        self._process.start()
        other.close()
        self.case = None

    def give(self, case):
        self.case, self.since = case, time.monotonic()
        self.pipe.send(case)

    def outcome(self):
        """Of the case; starts anew if the process has died."""
        try:
            return self.pipe.recv()
        except EOFError:
            self._process.join()
            self._errors.seek(0)
            last = self._errors.read().splitlines()[-1:]
            return self._failed(f"The process ended: {self._process.exitcode} {last}")

    def hung(self):
        """The outcome of a case that takes too long."""
        if self.case and time.monotonic() - self.since > HANGS_S:
            self._process.kill()
            return self._failed(f"It hung for {HANGS_S} s")
        return None

    def _failed(self, words):
        case = self.case
        self._start()
        return cases.Outcome(*case, "FAILED", words)

    def stop(self):
        self._process.kill()


def _work(pipe, seeds, errors):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.dup2(errors.fileno(), sys.stderr.fileno())
    limit = cases.status("VmSize") + ROOM_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    with tempfile.TemporaryDirectory(dir=seeds) as scratch:
        while True:
            case = pipe.recv()
            pipe.send(cases.run(*case, seeds, Path(scratch)))


def _make_all(seeds):
    for name in formats.FORMATS:
        folder = cases.make_seeds(name, seeds)
        formats.FORMATS[name].use(folder)  # what is valid is read


def run_all(plan, seeds, jobs):
    """Yields the outcomes, as they come."""
    maker = multiprocessing.get_context("fork").Process(target=_make_all, args=[seeds])
    maker.start()
    maker.join()
    if maker.exitcode:
        raise SystemExit(maker.exitcode)
    plan = iter(plan)
    workers = [Worker(seeds) for _ in range(jobs)]
    try:
        busy = [worker for worker in workers if _next(worker, plan)]
        while busy:
            ready = wait([worker.pipe for worker in busy], timeout=1)
            for worker in list(busy):
                outcome = worker.outcome() if worker.pipe in ready else worker.hung()
                if outcome:
                    yield outcome
                    if not _next(worker, plan):
                        busy.remove(worker)
    finally:
        for worker in workers:
            worker.stop()


def _next(worker, plan):
    case = next(plan, None)
    if case is not None:
        worker.give(case)
    return case is not None


def report(outcomes, seconds):
    kinds = sorted({one.kind for one in outcomes})
    rows = [["format", "cases", *kinds, "slowest", "largest"]]
    for name in [*formats.FORMATS, ""]:
        own = [one for one in outcomes if name in ("", one.format)]
        if own:
            counts = collections.Counter(one.kind for one in own)
            rows.append(
                [name or "all", len(own)]
                + [counts[kind] for kind in kinds]
                + [f"{max(one.seconds for one in own):.2f} s"]
                + [f"{max(one.num_bytes for one in own) / 1e6:.0f} MB"]
            )
    for first, *others in rows:
        print(f"{first:<16}", *(f"{other:>17}" for other in others))
    print(f"{len(outcomes)} cases in {seconds:.0f} s")


def again(name, seed):
    """Runs a case in this process, and shows its error."""
    with tempfile.TemporaryDirectory() as folder:
        cases.make_seeds(name, Path(folder) / "seeds")
        place = Path(folder) / "scratch"
        place.mkdir()
        outcome = cases.run(name, seed, Path(folder) / "seeds", place, shows=True)
    print(*outcome)
    return outcome.failed


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", type=int, default=5_000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--format", choices=formats.FORMATS)
    parser.add_argument("--seed", type=int)
    arguments = parser.parse_args()
    if arguments.format and arguments.seed is not None:
        return again(arguments.format, arguments.seed)
    plan = planned(arguments.cases)
    if arguments.format:
        plan = [(arguments.format, seed) for seed in range(arguments.cases)]
    outcomes, start = [], time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for outcome in run_all(plan, Path(folder), arguments.jobs):
            outcomes.append(outcome)
            if outcome.failed:
                print(_failure(outcome), flush=True)
    report(outcomes, time.monotonic() - start)
    return any(one.failed for one in outcomes)


def _failure(outcome):
    name, seed, _, message, mutation, seconds, num_bytes = outcome
    return (
        f"FAILED --format {name} --seed {seed} ({mutation}, {seconds:.1f} s, "
        f"{num_bytes / 1e6:.0f} MB): {message[:300]!r}"
    )


if __name__ == "__main__":
    sys.exit(main())
