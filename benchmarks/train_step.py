"""One training step per stage: bark_tf against the same step written in torch.

    python benchmarks/train_step.py                       # full and LoRA, every stage
    python benchmarks/train_step.py --stages coarse --methods lora --steps 5
    python benchmarks/train_step.py --model DIR --dtype mixed_bfloat16 --only bark_tf

Both sides read the same checkpoint (random weights of bark-small's sizes unless
`--model` names one) and take AdamW steps on the same full-length example: gradient of
the mean cross-entropy, global norm clipped to 1. Each stage and method runs in a process
of its own. Tokens are the positions that the network reads. The last line of the output
is one JSON object.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STAGES = ("semantic", "coarse", "fine")
METHODS = ("full", "lora")
RANK = 16
SEMANTIC_TOKENS = 512
LEARNING_RATE = 1e-4
CODEBOOK = 4  # that the fine example predicts


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="checkpoint directory; random if absent")
    parser.add_argument("--preset", default="bark-small")
    parser.add_argument("--stages", nargs="+", default=STAGES, choices=STAGES)
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=3, help="steady steps")
    parser.add_argument("--only", choices=("bark_tf", "torch"))
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args()


def utterance(rng):
    """A recording of ten seconds, as its tokens."""
    from bark_tf.training.shards import Utterance

    frames = int(SEMANTIC_TOKENS * 75 / 49.9)
    return Utterance(
        id="one",
        text="",
        speaker="",
        text_ids=rng.integers(1_000, 100_000, 24),
        semantic=rng.integers(0, 10_000, SEMANTIC_TOKENS),
        codes=rng.integers(0, 1024, (8, frames)),
        audio=None,
    )


def batch_of(stage, size):
    """The arrays of one step; both sides train on these."""
    import numpy as np

    from bark_tf.config import BarkGenerationConfig
    from bark_tf.training.examples import StageExamples
    from bark_tf.training.inputs import Batches

    rng = np.random.default_rng(0)
    utterances = [utterance(rng) for _ in range(size)]
    examples = StageExamples(
        utterances, stage, BarkGenerationConfig(), history_probability=0.0, seed=0
    )
    return Batches(examples, size, seed=0)(0)


class BarkTf:
    def __init__(self, args, stage, method):
        import keras
        import tensorflow as tf

        from bark_tf.training.examples import TRAINERS
        from bark_tf.training.run import MODELS

        self.version = f"tensorflow {tf.__version__}"
        model = MODELS[stage].from_pretrained(args.model, dtype=args.dtype)
        if method == "lora":
            model.enable_lora(RANK)
        self.trainer = TRAINERS[stage](model)
        optimizer = keras.optimizers.AdamW(LEARNING_RATE, global_clipnorm=1.0)
        self.trainer.compile(optimizer=optimizer, jit_compile=False)

    def step(self, batch):
        return self.trainer.train_on_batch(batch, return_dict=True)["loss"]


class Torch:
    def __init__(self, args, stage, method):
        import torch
        import transformers

        transformers.logging.set_verbosity_error()
        self.torch = torch
        self.stage = stage
        self.version = f"torch {torch.__version__}"
        names = {
            "semantic": transformers.BarkSemanticModel,
            "coarse": transformers.BarkCoarseModel,
            "fine": transformers.BarkFineModel,
        }
        whole = transformers.BarkModel.from_pretrained(args.model)
        part = "semantic" if stage == "semantic" else f"{stage}_acoustics"
        self.model = getattr(whole, part).train()
        if not isinstance(self.model, names[stage]):
            raise TypeError(type(self.model))
        if method == "lora":
            self._add_lora()
        self.weights = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.weights, LEARNING_RATE)

    def _add_lora(self):
        torch = self.torch

        class Lora(torch.nn.Module):
            def __init__(self, layer):
                super().__init__()
                self.layer = layer
                self.a = torch.nn.Linear(layer.in_features, RANK, bias=False)
                self.b = torch.nn.Linear(RANK, layer.out_features, bias=False)
                torch.nn.init.zeros_(self.b.weight)

            def forward(self, x):
                return self.layer(x) + self.b(self.a(x))

        for parameter in self.model.parameters():
            parameter.requires_grad_(False)
        for block in self.model.layers:
            block.attn.att_proj = Lora(block.attn.att_proj)
            block.attn.out_proj = Lora(block.attn.out_proj)
            block.mlp.in_proj = Lora(block.mlp.in_proj)
            block.mlp.out_proj = Lora(block.mlp.out_proj)

    def step(self, batch):
        torch = self.torch
        tensors = {name: torch.tensor(array) for name, array in batch.items()}
        logits, targets = getattr(self, f"_{self.stage}")(tensors)
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, -2).float(), targets.flatten().long(), ignore_index=-100
        )
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()
        return loss.item()
