"""One training step per stage: bark_tf against the same step written in torch.

    python benchmarks/train_step.py                        # every stage, full and LoRA
    python benchmarks/train_step.py --stages coarse --methods lora --rounds 2
    python benchmarks/train_step.py --dtype mixed_bfloat16 --only bark_tf

Both sides read the same checkpoint (random weights of bark-small's sizes unless
`--model` names one) and take steps on the same batch: mean cross-entropy, gradient,
global norm clipped to 1, AdamW. The peer is transformers' network with a handwritten
loss and step; bfloat16 is autocast there. Each stage, method and side runs in its own
process, in turn, and the first losses must agree. Tokens are the positions that the
network reads. CPU seconds add up all threads; on a busy machine seconds and CPU seconds
grow, and not by the same factor on both sides. The last line of the output is one JSON
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

import generate
import numpy as np

STAGES = ("semantic", "coarse", "fine")
METHODS = ("full", "lora")
RANK = 16
LEARNING_RATE = 1e-4
WEIGHT_DECAY = 0.01
BETAS = (0.9, 0.99)
EPSILON = 1e-7
CLIP_NORM = 1.0
SEMANTIC_TOKENS = 511  # with their end: 512 targets
DTYPES = ("float32", "mixed_bfloat16")
# Relative, between the first losses of both sides.
LOSS_TOLERANCE = 1e-3


def parse(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", help="checkpoint directory; random weights if absent"
    )
    parser.add_argument("--preset", default="bark-small")
    parser.add_argument("--stages", nargs="+", default=STAGES, choices=STAGES)
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--dtype", default="float32", choices=DTYPES)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=3, help="steady steps")
    parser.add_argument("--rounds", type=int, default=1, help="processes per side")
    parser.add_argument("--jit-compile", action="store_true", help="bark_tf with XLA")
    parser.add_argument("--only", choices=("bark_tf", "torch"))
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--arrays", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


# === The batch ===


def utterance(rng):
    """Random tokens of ten seconds of speech."""
    from bark_tf.training import Utterance

    frames = int(SEMANTIC_TOKENS * 75 / 49.9)
    return Utterance(
        id="",
        text="",
        speaker="",
        text_ids=rng.integers(1_000, 100_000, 24),
        semantic=rng.integers(0, 10_000, SEMANTIC_TOKENS),
        codes=rng.integers(0, 1024, (8, frames)),
    )


def batch_of(stage, size, model):
    """The arrays of one step."""
    from bark_tf import BarkConfig, BarkGenerationConfig
    from bark_tf.training import Batches, ExampleOptions, StageExamples

    rng = np.random.default_rng(0)
    config = BarkConfig.from_pretrained(model)
    name = "semantic" if stage == "semantic" else f"{stage}_acoustics"
    examples = StageExamples(
        [utterance(rng) for _ in range(size)],
        stage,
        BarkGenerationConfig.from_pretrained(model),
        getattr(config, f"{name}_config"),
        ExampleOptions(history_probability=0.0),
    )
    # As little padding as possible.
    return Batches(examples, size, num_buckets=examples.longest)(0)


def positions(stage, batch):
    """How many positions the network reads for a batch."""
    if stage != "semantic":
        return batch["ids"].shape[0] * batch["ids"].shape[1]
    rows, targets = batch["targets"].shape
    return rows * (batch["text"].shape[1] + targets)


# === The sides ===


class BarkTf:
    """bark_tf, as `bark-tf train` uses it."""

    def __init__(self, args, stage, method):
        import tensorflow as tf

        import bark_tf
        from bark_tf import BarkGenerationConfig
        from bark_tf.training import TRAINERS, TrainingOptions, optimizer_of

        self.version = f"tensorflow {tf.__version__}"
        model_class = getattr(bark_tf, f"Bark{stage.title()}Model")
        model = model_class.from_pretrained(args.model, dtype=args.dtype)
        if method == "lora":
            model.enable_lora(RANK)
        config = BarkGenerationConfig.from_pretrained(args.model)
        self.trainer = TRAINERS[stage](model, config)
        options = TrainingOptions(
            learning_rate=LEARNING_RATE,
            warmup_steps=0,
            final_share=1.0,
            weight_decay=WEIGHT_DECAY,
            beta_1=BETAS[0],
            beta_2=BETAS[1],
            clip_norm=CLIP_NORM,
        )
        optimizer = optimizer_of(options)
        self.trainer.compile(optimizer=optimizer, jit_compile=args.jit_compile)

    def step(self, batch):
        return float(self.trainer.train_on_batch(batch, return_dict=True)["loss"])


class Torch:
    """The peer: transformers' networks with a handwritten step."""

    def __init__(self, args, stage, method):
        import torch
        import transformers

        transformers.logging.set_verbosity_error()
        self.torch, self.stage = torch, stage
        self.version = (
            f"transformers {transformers.__version__}, torch {torch.__version__}"
        )
        self.autocast = args.dtype == "mixed_bfloat16"
        bark = transformers.BarkModel.from_pretrained(args.model, dtype=torch.float32)
        generation = bark.generation_config
        self.infer = generation.semantic_config["semantic_infer_token"]
        self.pad = generation.semantic_config["semantic_pad_token"]
        name = "semantic" if stage == "semantic" else f"{stage}_acoustics"
        self.model = getattr(bark, name).train()
        if method == "lora":
            self._add_adapters()
        self.optimizer = self._optimizer()

    def _add_adapters(self):
        nn = self.torch.nn

        class Adapted(nn.Module):
            def __init__(self, layer):
                super().__init__()
                self.layer = layer
                self.a = nn.Linear(layer.in_features, RANK, bias=False)
                self.b = nn.Linear(RANK, layer.out_features, bias=False)
                nn.init.zeros_(self.b.weight)

            def forward(self, x):
                return self.layer(x) + self.b(self.a(x))

        self.model.requires_grad_(False)
        for block in self.model.layers:
            for part, names in (
                (block.attn, "att_proj out_proj"),
                (block.mlp, "in_proj out_proj"),
            ):
                for name in names.split():
                    setattr(part, name, Adapted(getattr(part, name)))

    def _optimizer(self):
        self.weights = [p for p in self.model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in self.weights if p.ndim > 1]},
            {"params": [p for p in self.weights if p.ndim == 1], "weight_decay": 0.0},
        ]
        return self.torch.optim.AdamW(
            groups, LEARNING_RATE, betas=BETAS, eps=EPSILON, weight_decay=WEIGHT_DECAY
        )

    # Like bark_tf, each computes logits only at positions with targets.

    def _semantic(self, batch):
        text, read = batch["text"], batch["targets"][:, :-1]
        read = self.torch.where(read < 0, self.pad, read)
        infer = self.torch.full((len(read), 1), self.infer)
        ids = self.torch.cat([text, batch["history"], infer, read], dim=1)
        x, length = self.model.input_embeds_layer(ids), text.shape[1]
        x = self.torch.cat(
            [x[:, :length] + x[:, length : 2 * length], x[:, 2 * length :]], dim=1
        )
        return self._causal(batch, inputs_embeds=x)

    def _coarse(self, batch):
        return self._causal(batch, input_ids=batch["ids"])

    def _causal(self, batch, **inputs):
        count = batch["targets"].shape[1]
        keep = self.model.lm_head.register_forward_pre_hook(
            lambda head, arguments: (arguments[0][:, -count:],)
        )
        logits = self.model(**inputs, use_cache=False).logits
        keep.remove()
        return logits

    def _fine(self, batch):
        # It takes one codebook per call.
        rows = zip(batch["codebook"].tolist(), batch["ids"], strict=True)
        logits = [self.model(codebook, ids[None]).logits for codebook, ids in rows]
        return self.torch.cat(logits)

    def step(self, batch):
        torch = self.torch
        batch = {name: torch.tensor(array) for name, array in batch.items()}
        targets = batch["targets"].long()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            logits = getattr(self, f"_{self.stage}")({**batch, "targets": targets})
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1).float(), targets.flatten(), ignore_index=-100
        )
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.weights, CLIP_NORM)
        self.optimizer.step()
        return loss.item()


SIDES = {"bark_tf": BarkTf, "torch": Torch}


# === One process ===


def timed_step(side, batch):
    start, cpu = time.perf_counter(), time.process_time()
    loss = side.step(batch)
    return {
        "loss": loss,
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu,
    }


def worker(args):
    batch = dict(np.load(args.arrays))
    start = time.perf_counter()
    side = SIDES[args.worker](args, args.stages[0], args.methods[0])
    load = time.perf_counter() - start
    steps = [timed_step(side, batch) for _ in range(1 + args.steps)]
    report = {
        "version": side.version,
        "load": load,
        "first_seconds": steps[0]["seconds"],
        "seconds": statistics.median(step["seconds"] for step in steps[1:]),
        "cpu_seconds": statistics.median(step["cpu_seconds"] for step in steps[1:]),
        "losses": [step["loss"] for step in steps],
        "peak_memory_gb": generate.peak_gib(),
    }
    print(json.dumps(report))


# === All of them ===


def spawn(args, side, stage, method, arrays):
    command = [sys.executable, __file__, "--worker", side, "--arrays", str(arrays)]
    command += ["--stages", stage, "--methods", method]
    for option in ("model", "dtype", "steps"):
        command += [f"--{option}", str(getattr(args, option))]
    if args.jit_compile:
        command.append("--jit-compile")
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    output = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    return json.loads(output.strip().splitlines()[-1])


def middle(reports):
    """The median of every number over the rounds; memory is the highest."""
    merged = {"version": reports[0]["version"], "losses": reports[0]["losses"]}
    for key in ("load", "first_seconds", "seconds", "cpu_seconds"):
        merged[key] = statistics.median(report[key] for report in reports)
    merged["peak_memory_gb"] = max(report["peak_memory_gb"] for report in reports)
    return merged


def compare(args, stage, method, scratch):
    """Runs both sides in turn on one batch."""
    batch = batch_of(stage, args.batch, args.model)
    arrays = scratch / f"{stage}.npz"
    np.savez(arrays, **batch)
    names = [args.only] if args.only else list(SIDES)
    reports = {name: [] for name in names}
    for number in range(args.rounds):
        for name in names[:: -1 if number % 2 else 1]:
            reports[name].append(spawn(args, name, stage, method, arrays))
    found = {name: middle(reports[name]) for name in names}
    first = [report["losses"][0] for report in found.values()]
    if max(first) - min(first) > LOSS_TOLERANCE * max(first):
        raise SystemExit(f"{stage}, {method}: the sides compute other losses: {first}")
    tokens = positions(stage, batch)
    for report in found.values():
        report["tokens_per_second"] = tokens / report["seconds"]
    return {"stage": stage, "method": method, "tokens": tokens, **found}


COLUMNS = (
    ("tokens/s", "tokens_per_second", "{:.0f}"),
    ("step, s", "seconds", "{:.2f}"),
    ("CPU, s", "cpu_seconds", "{:.2f}"),
    ("first, s", "first_seconds", "{:.1f}"),
    ("peak, GB", "peak_memory_gb", "{:.2f}"),
    ("loss", "losses", "{0[0]:.4f}"),
)


def line(cells):
    print("  ".join(f"{cell:>10}" for cell in cells), flush=True)


def show(result):
    """Prints one line per side, and how many times faster the first side is."""
    names = [name for name in SIDES if name in result]
    for name in names:
        row = result[name]
        cells = (form.format(row[key]) for _, key, form in COLUMNS)
        line((result["stage"], result["method"], name, *cells))
    if len(names) == 2:
        ours, theirs = (result[name] for name in names)
        ratios = {key: theirs[key] / ours[key] for key in ("seconds", "cpu_seconds")}
        result["times_faster"] = ratios
        time_ratio, cpu_ratio = (f"{ratio:.2f}x" for ratio in ratios.values())
        line(("", "", "faster", "", time_ratio, cpu_ratio))


def compare_all(args):
    """Every stage and method; prints each as it comes."""
    results = []
    line(("stage", "method", "", *(title for title, _, _ in COLUMNS)))
    with tempfile.TemporaryDirectory() as scratch:
        if args.model is None:
            args.model = str(Path(scratch) / args.preset)
            generate.random_checkpoint(args.preset, args.model)
        for stage in args.stages:
            for method in args.methods:
                results.append(compare(args, stage, method, Path(scratch)))
                show(results[-1])
    return results


def main():
    args = parse()
    if args.worker:
        return worker(args)
    results = compare_all(args)
    setting = {
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "preset": args.preset,
        "batch": args.batch,
        "dtype": args.dtype,
        "jit_compile": args.jit_compile,
        "python": platform.python_version(),
    }
    print(json.dumps({"setting": setting, "results": results}))


if __name__ == "__main__":
    main()
