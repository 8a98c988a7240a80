"""A voice of your own on the published Bark's sizes, every step once.

    python benchmarks/chain.py                 # bark-small's sizes, 6 training steps

A stand-in for the hub, on loopback, holds `suno/bark-small` and
`facebook/hubert-base-ls960` with random weights. The commands of docs/voices.md and
docs/training.md then run one by one, each in its own process: build a semantic
tokenizer, make a voice from a recording, speak with it, prepare recordings, train each
stage with the LoRA recipe, speak with the merged model, and open it in transformers,
where its logits must be the same. The table shows seconds and peak memory per command.
Needs `pip install -e ".[dev,reference]"` and flite. The last line of the output is one
JSON object.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import bark_tf

# After `import bark_tf`: beside the test helpers is a folder of that name.
sys.path.append(str(Path(bark_tf.__file__).parents[1] / "tests"))
BARK, HUBERT = "suno/bark-small", "facebook/hubert-base-ls960"
TEXTS = (
    "This is the voice that the model will learn, with all that belongs to it.",
    "A tenth of the sentences is kept for the validation of what was learned.",
    "Nobody knows what the weather will be like on the other side of the river.",
    "There are more things in the kitchen than anybody could ever want to eat.",
    "The old man walked down the road and did not look back a single time.",
    "She wrote a long letter to her sister, and then she threw it into the fire.",
)
LARGEST_DIFFERENCE = 1e-3  # of logits, ours from transformers'

TOKENIZER = f"""
from bark_tf import HubertTokenizer
HubertTokenizer.from_pretrained("{HUBERT}", "quantizer").save("hubert")
"""

# Two processes, so that each has its own peak.
OURS = """
import numpy as np
from bark_tf import BarkSemanticModel
ids = np.arange(10_050, 10_090)[None]
model = BarkSemanticModel.from_pretrained("my-voice")
np.save("logits.npy", model(ids).logits.numpy())
"""

THEIRS = """
import numpy as np, torch
from transformers import BarkModel
model = BarkModel.from_pretrained("my-voice").eval()
ids = torch.arange(10_050, 10_090)[None]
with torch.no_grad():
    theirs = model.semantic(ids).logits.numpy()
print("DIFFERENCE", np.abs(np.load("logits.npy")[:, -theirs.shape[1]:] - theirs).max())
"""


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=6, help="training steps per stage")
    parser.add_argument("--write", help=argparse.SUPPRESS)
    return parser.parse_args()


def write_published(folder):
    """Writes what the hub and the community publish, with random weights."""
    import keras
    import toy_speech

    from bark_tf import (
        BarkConfig,
        BarkGenerationConfig,
        BarkModel,
        BarkProcessor,
        BarkTokenizer,
        HubertConfig,
        HubertModel,
        HubertQuantizer,
        HubertQuantizerConfig,
    )

    keras.utils.set_random_seed(0)
    words = sorted({word for text in TEXTS for word in text.lower().split()})
    marks = [*"abcdefghijklmnopqrstuvwxyz.,", *(f"##{c}" for c in "abcdefghij")]
    tokenizer = BarkTokenizer.from_vocabulary(["[PAD]", "[UNK]", *words, *marks])
    bark = folder / "hub" / BARK / "main"
    model = BarkModel(BarkConfig.preset("bark-small"), BarkGenerationConfig())
    model.save_pretrained(bark)
    BarkProcessor(tokenizer).save_pretrained(bark)
    HubertModel(HubertConfig()).save_pretrained(folder / "hub" / HUBERT / "main")
    quantizer = HubertQuantizerConfig(intermediate_size=4096)
    HubertQuantizer(quantizer).save_pretrained(folder / "quantizer")
    (folder / "recordings").mkdir()
    toy_speech.record(folder / "recordings", TEXTS)


def measured(command, folder, environment):
    """Runs a process; returns its output, seconds and peak memory in GiB."""
    start = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    )
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"failed: {' '.join(command)}\n{output}")
    return output, time.perf_counter() - start, usage.ru_maxrss / 2**20


def main():
    args = parse()
    if args.write:
        return write_published(Path(args.write))
    from hub_standin import HubStandIn

    python = sys.executable
    tokens = f"--model {BARK} --semantic-tokenizer hubert"
    short = "--out speech.wav --seed 1 --max-seconds 2"
    settings = (
        f"steps={args.steps} warmup_steps=1 accumulate=2 validate_every={args.steps} "
        "sample_every=None"
    )
    steps = {
        "write the stand-ins": [str(Path(__file__).resolve()), "--write", "."],
        "build the tokenizer": ["-c", TOKENIZER],
        "voice": f"voice recordings/r0.wav --out me.npz {tokens}",
        "speak with it": f"speak river --model {BARK} --voice me.npz {short}",
        "prepare": (
            f"prepare recordings prepared {tokens} --validation 0.3 --keep-audio"
        ),
        "train by the recipe": (
            f"train bark_small_lora --set data=prepared out=my-voice {settings}"
        ),
        "speak with the result": f"speak river --model my-voice --voice me.npz {short}",
        "our logits": ["-c", OURS],
        "transformers opens it": ["-c", THEIRS],
    }
    results = {}
    with tempfile.TemporaryDirectory() as name, HubStandIn(Path(name) / "hub") as hub:
        environment = {
            **os.environ,
            **hub.environment(Path(name) / "home"),
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "PYTHONWARNINGS": "ignore",
        }
        print(f"{'step':32}{'seconds':>9}{'peak, GiB':>11}", flush=True)
        for title, words in steps.items():
            if isinstance(words, str):
                words = ["-m", "bark_tf", *words.split()]
            output, seconds, peak = measured([python, *words], name, environment)
            results[title] = {"seconds": seconds, "peak_gib": peak}
            print(f"{title:32}{seconds:9.1f}{peak:11.2f}", flush=True)
        difference = float(output.split("DIFFERENCE")[1])
    print(f"largest difference of logits from transformers: {difference:.1e}")
    if not difference < LARGEST_DIFFERENCE:
        raise SystemExit("transformers does not compute the same")
    setting = {"cores": os.cpu_count(), "load_average": os.getloadavg()[0]}
    print(json.dumps({"setting": setting, "steps": results, "difference": difference}))


if __name__ == "__main__":
    main()
