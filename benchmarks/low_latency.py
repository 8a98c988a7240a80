"""The cost of early audio: `latency="low"` against the exact audio of the same texts.

    python benchmarks/low_latency.py --recogniser pocketsphinx   # the voice that ships
    python benchmarks/low_latency.py --model suno/bark-small --texts FILE

Both have the same semantic and coarse tokens; their fine codes differ, because with
low latency the fine network has not seen the following frames. For scale, the distance
of the exact audio from itself with random fine codes is printed too. The last line of
the output is one JSON object.
"""

import argparse
import json
import statistics
import time

import numpy as np

from bark_tf import BarkModel, BarkProcessor
from bark_tf.training import corpus_word_error_rate, mel_distance, recogniser_of, si_sdr

DIGITS = "zero one two three four five six seven eight nine".split()
NUM_DIGITS, TEXTS = 7, 80  # shorter texts are one piece


def streamed(model, inputs, **options):
    """Returns the audio, seconds to its first piece and to its last, and pieces."""
    begin = time.perf_counter()
    pieces, first = [], None
    for piece in model.stream(**inputs, **options):
        first = first or time.perf_counter() - begin
        pieces.append(np.asarray(piece))
    return np.concatenate(pieces), first, time.perf_counter() - begin, len(pieces)


def measure(model, processor, texts, jit_compile):
    """Returns one row of measurements per text, and the audio of both ways."""
    rows, exact, early = [], [], []
    for number, text in enumerate(texts):
        inputs = processor(text, return_tensors="np")
        options = {"seed": number, "jit_compile": jit_compile}
        if number == 0:
            for latency in ("exact", "low"):  # traces and compiles
                streamed(model, inputs, latency=latency, **options)
        whole = streamed(model, inputs, latency="exact", **options)
        low = streamed(model, inputs, latency="low", **options)
        out = model.generate(**inputs, return_dict=True, **options)
        again = np.array(out.fine[0])
        rng = np.random.default_rng(number)
        given = model.generation_config.coarse_acoustics_config.n_coarse_codebooks
        again[given:] = rng.integers(
            model.generation_config.codebook_size, size=again[given:].shape
        )
        noise = np.asarray(model.codec_decode(again[None]))[0]
        rate = model.sampling_rate
        rows.append(
            {
                "seconds": len(whole[0]) / rate,
                "exact_first_s": whole[1],
                "low_first_s": low[1],
                "exact_all_s": whole[2],
                "low_all_s": low[2],
                "low_pieces": low[3],
                "mel_db": mel_distance(whole[0], low[0], rate),
                "si_sdr_db": si_sdr(whole[0], low[0]),
                "mel_db_random_codes": mel_distance(whole[0], noise, rate),
            }
        )
        exact.append(whole[0])
        early.append(low[0])
    return rows, exact, early


def main():
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="directory or id; default: the one that ships")
    parser.add_argument("--texts", help="one per line; default: strings of digits")
    parser.add_argument("--limit", type=int, default=20)
    parser.add_argument("--recogniser", help="measures WER, such as pocketsphinx")
    parser.add_argument("--xla", action="store_true", help="compile with XLA")
    arguments = parser.parse_args()
    named = [arguments.model] if arguments.model else []
    model = BarkModel.from_pretrained(*named)
    processor = BarkProcessor.from_pretrained(*named)
    if arguments.texts:
        with open(arguments.texts, encoding="utf-8") as file:
            texts = [line.strip() for line in file if line.strip()]
    else:
        rng = np.random.default_rng(0)
        texts = [" ".join(rng.choice(DIGITS, NUM_DIGITS)) for _ in range(TEXTS)]
    texts = texts[: arguments.limit]
    rows, exact, early = measure(model, processor, texts, arguments.xla)
    result = {
        name: statistics.median(row[name] for row in rows) for name in rows[0]
    } | {"texts": len(texts), "equal": sum(row["mel_db"] == 0 for row in rows)}
    if arguments.recogniser:
        words = None if arguments.texts else DIGITS
        recognise = recogniser_of(arguments.recogniser, words)
        rate = model.sampling_rate
        for name, takes in (("exact", exact), ("low", early)):
            recognised = [recognise(take, rate) for take in takes]
            score = corpus_word_error_rate(texts, recognised)
            result[f"{name}_word_error_rate"] = score.rate
    print("| medians | exact | low |\n|---|---|---|")
    for name, digits in (("first_s", 2), ("all_s", 2), ("word_error_rate", 3)):
        if f"exact_{name}" in result:
            values = (
                f"{result[f'{way}_{name}']:.{digits}f}" for way in ("exact", "low")
            )
            print(f"| {name} | {' | '.join(values)} |")
    print(
        f"\nDifference: mel {result['mel_db']:.2f} dB (random fine codes: "
        f"{result['mel_db_random_codes']:.2f} dB), "
        f"SI-SDR {result['si_sdr_db']:.1f} dB, {result['low_pieces']:.0f} pieces, "
        f"{result['seconds']:.1f} s of audio"
    )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
