"""Seconds per second of audio and memory, from short texts to long ones.

    python benchmarks/long_form.py                       # the small voice, 2 to 60 s
    python benchmarks/long_form.py --sentences 150       # memory in one long call
    python benchmarks/long_form.py --preset bark-small --seconds 2.5 10 --repeats 1

Texts of digits are spoken by `generate_long`, each length in turn, `--repeats` times
after a round that compiles; figures are medians. Memory is what is resident after each
text of the last round. `--preset` makes random weights of those sizes, which speak
128 semantic tokens (2.56 s) per chunk, whatever it says. The last line of the output is
one JSON object.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import serving

SENTENCE_WORDS = 7
WORDS_PER_S = 2.2  # of the small voice
RANDOM_TOKENS, RANDOM_WORDS_PER_S = 128, 1.25


def parse(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="checkpoint; default: the small voice")
    parser.add_argument("--preset", help="random weights of a preset's sizes instead")
    parser.add_argument(
        "--seconds", type=float, nargs="+", default=[2, 5, 10, 20, 40, 60]
    )
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--sentences", type=int, default=0, help="of one long call")
    return parser.parse_args(arguments)


def resident_mb():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def text_of(words):
    """Sentences of at most seven digits."""
    digits = [serving.DIGITS[(3 * n + n // 7) % 10] for n in range(words)]
    starts = range(0, words, SENTENCE_WORDS)
    return " ".join(" ".join(digits[n : n + SENTENCE_WORDS]) + "." for n in starts)


def words_in(seconds, preset):
    rate = RANDOM_WORDS_PER_S if preset else WORDS_PER_S
    return max(1, round(seconds * rate))


def timed(model, processor, words, **options):
    """(seconds per second of audio, seconds of audio, resident MB) of one text."""
    start = time.perf_counter()
    spoken = model.generate_long(processor, text_of(words), seed=1, **options)
    taken = time.perf_counter() - start
    seconds = len(spoken.audio) / spoken.sample_rate
    return taken / seconds, seconds, resident_mb()


def lengths(args, model, processor):
    """A row for each length."""
    # Random weights sound like a problem, which another take would not solve.
    options = {"max_attempts": 1} if args.preset else {}
    counts = [words_in(seconds, args.preset) for seconds in args.seconds]
    rounds = [
        [timed(model, processor, words, **options) for words in counts]
        for _ in range(1 + args.repeats)
    ]
    return [
        {
            "audio_s": round(row[0][1], 2),
            "s_per_audio_s": round(statistics.median(one[0] for one in row[1:]), 4),
            "resident_mb": round(row[-1][2]),
        }
        for row in zip(*rounds, strict=True)
    ]


def one_call(args, model, processor):
    """Resident MB after some of the sentences of one long text."""
    text, found = text_of(args.sentences * SENTENCE_WORDS), {}
    chunks = model.stream_long(processor, text, seed=1)
    for number, _ in enumerate(chunks, 1):
        if number in (1, 5) or number % 25 == 0:
            found[number] = round(resident_mb())
    return found


def measure(args):
    """Rows, how far the slowest is from the fastest, and growth of memory."""
    from bark_tf import BarkModel, BarkProcessor

    with tempfile.TemporaryDirectory() as directory, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        name = args.model
        if args.preset:
            serving.random_checkpoint(args.preset, RANDOM_TOKENS, directory)
            name = directory
        processor = BarkProcessor.from_pretrained(name)
        model = BarkModel.from_pretrained(name)
        rows = lengths(args, model, processor)
        calls = one_call(args, model, processor) if args.sentences else {}
    speeds = [row["s_per_audio_s"] for row in rows]
    memory = [row["resident_mb"] for row in rows]
    return {
        "rows": rows,
        "spread": round(max(speeds) / min(speeds) - 1, 3),
        "growth_mb": max(memory) - memory[0],
        "one_call_mb": calls,
    }


def main():
    args = parse()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    found = measure(args)
    print(f"{'audio, s':>10} {'s per audio s':>14} {'resident, MB':>13}")
    for row in found["rows"]:
        print(
            f"{row['audio_s']:10.1f} {row['s_per_audio_s']:14.3f} "
            f"{row['resident_mb']:13}"
        )
    print(f"slowest over fastest: {found['spread']:.0%} more")
    for number, memory in found["one_call_mb"].items():
        print(f"after {number} chunks of one call: {memory} MB")
    print(json.dumps({"arguments": vars(args), **found}))


if __name__ == "__main__":
    main()
