"""Audio to a voice: HuBERT with a quantizer, and the codec, bark_tf against torch.

    python benchmarks/voice.py                          # 10 and 60 seconds of audio
    python benchmarks/voice.py --seconds 300 --parts semantic --rounds 3
    python benchmarks/voice.py --only bark_tf           # torch is not needed

`semantic` is HuBERT base up to layer 9 and the community's quantizer (version 1), on
audio at 16 kHz; `codec` is EnCodec's encoder with 8 codebooks, on audio at 24 kHz.
Weights are random and of the published sizes, and both sides read the same files. The
peer is transformers' HuBERT without the unused layers, a quantizer written in torch,
and transformers' EnCodec. Each part, length and side runs in its own process, in turn.
Nearly all tokens must agree; those whose two best logits are within rounding may
differ.

Recordings over a minute are different work: bark_tf processes them in windows, the peer
in one piece, in memory that grows with the square of the length. Their tokens are not
compared. The first call includes tracing. Memory is the process's peak above its level
after importing the framework (Linux). On a busy machine CPU seconds are more reliable
than seconds. The last line of the output is one JSON object.
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

import generate
import numpy as np

PARTS = ("semantic", "codec")
RATES = {"semantic": 16_000, "codec": 24_000}
LAYER = 9
BANDWIDTH = 6.0  # kbit/s: 8 codebooks
QUANTIZER_WIDTH = 4096  # between its two linear layers
# Share of tokens or codes that may differ by rounding.
MAX_DIFFERENT = 0.02
MINUTE_S = 60


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, nargs="+", default=(10.0, 60.0))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--repeats", type=int, default=3, help="steady calls")
    parser.add_argument("--rounds", type=int, default=1, help="processes per side")
    parser.add_argument("--only", choices=("bark_tf", "torch"))
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--files", help=argparse.SUPPRESS)
    parser.add_argument("--write", help=argparse.SUPPRESS)
    return parser.parse_args()


# === Networks and audio for both sides ===


def write_networks(folder):
    """Writes random networks of the published sizes."""
    import keras

    from bark_tf import (
        BarkConfig,
        EncodecModel,
        HubertConfig,
        HubertModel,
        HubertQuantizer,
        HubertQuantizerConfig,
    )

    keras.utils.set_random_seed(0)
    quantizer = HubertQuantizerConfig(intermediate_size=QUANTIZER_WIDTH)
    HubertModel(HubertConfig()).save_pretrained(folder / "hubert")
    HubertQuantizer(quantizer).save_pretrained(folder / "quantizer")
    codec = BarkConfig.preset("bark-small").codec_config
    EncodecModel(codec).save_pretrained(folder / "codec")
    print("{}")


def sound(part, seconds):
    """Noise that grows and fades: float32 (samples,)."""
    count = round(seconds * RATES[part])
    loudness = 0.2 * np.sin(np.linspace(0.1, 2 * seconds, count)) ** 2
    noise = np.random.default_rng(0).standard_normal(count)
    return (loudness * noise).astype(np.float32)


# === The sides ===


class BarkTf:
    """bark_tf, as `bark-tf voice` uses it."""

    def __init__(self):
        import tensorflow as tf

        from bark_tf import EncodecModel, HubertTokenizer

        tf.zeros(1)
        self.version = f"tensorflow {tf.__version__}"
        self.classes = EncodecModel, HubertTokenizer

    def load(self, part, files):
        codec, tokenizer = self.classes
        if part == "codec":
            self.codec = codec.from_pretrained(files / "codec")
        else:
            self.tokenizer = tokenizer.from_pretrained(
                files / "hubert", files / "quantizer", layer=LAYER
            )

    def semantic(self, audio):
        return self.tokenizer(audio)

    def codec_codes(self, audio):
        return self.codec.encode(audio[None], BANDWIDTH).numpy()[0]


class Torch:
    """The peer."""

    def __init__(self):
        import torch
        import transformers

        transformers.logging.set_verbosity_error()
        torch.set_grad_enabled(False)
        torch.zeros(1)
        self.version = (
            f"transformers {transformers.__version__}, torch {torch.__version__}"
        )
        self.torch, self.transformers = torch, transformers

    def load(self, part, files):
        if part == "codec":
            model = self.transformers.EncodecModel
            self.codec = model.from_pretrained(files / "codec").eval()
            return
        model = self.transformers.HubertModel
        self.hubert = model.from_pretrained(files / "hubert").eval()
        del self.hubert.encoder.layers[LAYER:]
        self._load_quantizer(files / "quantizer" / "model.safetensors")

    def _load_quantizer(self, path):
        from safetensors.torch import load_file

        nn, weights = self.torch.nn, load_file(path)
        weights = {name.removeprefix("quantizer."): w for name, w in weights.items()}
        width, inputs = weights["lstm.weight_ih_l0"].shape
        outputs = len(weights["fc.weight"])
        self.quantizer = nn.ModuleDict(
            {
                "lstm": nn.LSTM(inputs, width // 4, 2, batch_first=True),
                "intermediate": nn.Linear(width // 4, QUANTIZER_WIDTH),
                "fc": nn.Linear(QUANTIZER_WIDTH, outputs),
            }
        )
        self.quantizer.load_state_dict(weights)

    def semantic(self, audio):
        """One token per frame, 50 per second."""
        x = self.hubert(self.torch.tensor(audio[None])).last_hidden_state
        x, _ = self.quantizer["lstm"](x)
        x = self.quantizer["fc"](self.quantizer["intermediate"](x))
        return x.argmax(-1)[0].numpy()

    def codec_codes(self, audio):
        audio = self.torch.tensor(audio[None, None])
        return self.codec.encode(audio, bandwidth=BANDWIDTH).audio_codes[0, 0].numpy()


SIDES = {"bark_tf": BarkTf, "torch": Torch}
CALLS = {"semantic": "semantic", "codec": "codec_codes"}


# === One process ===


def timed(call, audio):
    start, cpu = time.perf_counter(), time.process_time()
    result = call(audio)
    return result, time.perf_counter() - start, time.process_time() - cpu


def worker(args):
    part, seconds, files = args.parts[0], args.seconds[0], Path(args.files)
    side = SIDES[args.worker]()
    audio = sound(part, seconds)
    before, start = generate.peak_gib(), time.perf_counter()
    side.load(part, files)
    load = time.perf_counter() - start
    call = getattr(side, CALLS[part])
    result, first, _ = timed(call, audio)
    runs = [timed(call, audio)[1:] for _ in range(args.repeats)]
    np.save(files / f"{args.worker}.npy", result)
    report = {
        "version": side.version,
        "load": load,
        "first": first,
        "seconds": statistics.median(run[0] for run in runs),
        "cpu_seconds": statistics.median(run[1] for run in runs),
        "before_gb": before,
        "peak_gb": generate.peak_gib(),
    }
    print(json.dumps(report))


def spawn(*options):
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    output = subprocess.run(
        [sys.executable, __file__, *options],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    return json.loads(output.strip().splitlines()[-1])


# === All of them ===


def middle(reports):
    """The median of every number over the rounds; memory is the highest."""
    merged = {"version": reports[0]["version"]}
    for key in ("load", "first", "seconds", "cpu_seconds", "before_gb"):
        merged[key] = statistics.median(report[key] for report in reports)
    merged["peak_gb"] = max(report["peak_gb"] for report in reports)
    merged["added_gb"] = merged["peak_gb"] - merged["before_gb"]
    return merged


def different(part, files):
    """Share of tokens or codes in which the sides differ."""
    ours, theirs = (np.load(files / f"{name}.npy") for name in SIDES)
    if part == "semantic":
        from bark_tf import nearest_frames

        theirs = theirs[nearest_frames(len(ours), len(theirs))]
    if ours.shape != theirs.shape:
        raise SystemExit(f"{part}: shapes differ: {ours.shape} and {theirs.shape}")
    return float(np.mean(ours != theirs))


def compare(args, part, seconds, files):
    """Runs both sides in turn on the same audio."""
    names = [args.only] if args.only else list(SIDES)
    reports = {name: [] for name in names}
    for number in range(args.rounds):
        for name in names[:: -1 if number % 2 else 1]:
            options = ("--worker", name, "--files", str(files), "--parts", part)
            options += ("--seconds", str(seconds), "--repeats", str(args.repeats))
            reports[name].append(spawn(*options))
    result = {"part": part, "audio_s": seconds}
    result |= {name: middle(reports[name]) for name in names}
    for name in names:
        for key in ("seconds", "cpu_seconds"):
            result[name][f"{key}_per_s"] = result[name][key] / seconds
    if len(names) == 2 and seconds <= MINUTE_S:
        result["different"] = different(part, files)
        if result["different"] > MAX_DIFFERENT:
            raise SystemExit(f"{part}: the sides differ: {result['different']:.1%}")
    return result


COLUMNS = (
    ("s per s", "seconds_per_s", "{:.3f}"),
    ("CPU s per s", "cpu_seconds_per_s", "{:.3f}"),
    ("first, s", "first", "{:.2f}"),
    ("load, s", "load", "{:.2f}"),
    ("added, GB", "added_gb", "{:.2f}"),
    ("peak, GB", "peak_gb", "{:.2f}"),
)


def line(cells):
    print("  ".join(f"{cell:>11}" for cell in cells), flush=True)


def show(result):
    """Prints one line per side, and how many times less the first side needs."""
    names = [name for name in SIDES if name in result]
    for name in names:
        cells = (form.format(result[name][key]) for _, key, form in COLUMNS)
        line((result["part"], f"{result['audio_s']:g} s", name, *cells))
    if len(names) == 2:
        ours, theirs = (result[name] for name in names)
        keys = ("seconds", "cpu_seconds", "added_gb", "peak_gb")
        result["times_less"] = {key: theirs[key] / ours[key] for key in keys}
        a, b, c, d = (f"{ratio:.2f}x" for ratio in result["times_less"].values())
        line(("", "", "less", a, b, "", "", c, d))


def main():
    args = parse()
    if args.worker:
        return worker(args)
    if args.write:
        return write_networks(Path(args.write))
    results = []
    with tempfile.TemporaryDirectory() as scratch:
        spawn("--write", scratch)
        line(("part", "audio", "", *(title for title, _, _ in COLUMNS)))
        for part in args.parts:
            for seconds in args.seconds:
                results.append(compare(args, part, seconds, Path(scratch)))
                show(results[-1])
    setting = {
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
    }
    print(json.dumps({"setting": setting, "results": results}))


if __name__ == "__main__":
    main()
