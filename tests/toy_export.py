"""Toy exports, and requests to them in a process of its own."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import toy

from bark_tf.processor import BarkProcessor
from bark_tf.text.tokenizer import BarkTokenizer

RUN_EXPORT = Path(__file__).with_name("serving") / "run_export.py"
WORDS = ("[PAD]", "[UNK]", "one", "two", "three", "##s", "four", "!")
VOICES = {"alpha": toy.voice(9), "kumo": toy.voice(25, 1)}
FILTERS = {
    "do_sample": True,
    "top_k": 6,
    "top_p": 0.8,
    "semantic_min_eos_p": 0.2,
    "repetition_penalty": 1.4,
}
STAGES = ("semantic", "coarse", "fine")


def processor():
    return BarkProcessor(
        BarkTokenizer.from_vocabulary(WORDS),
        VOICES,
        max_length=toy.PROMPT,
        voice_limits=toy.generation_config().voice_limits(),
    )


class Rows:
    """The rows of a request, for `speak` and for `generate`."""

    def __init__(self, texts, voices, seed, temperatures, limits=(30, 40)):
        self.texts, self.voices, self.seed = texts, voices, seed
        self.temperatures = np.broadcast_to(np.float32(temperatures), (3,))
        self.limits = limits

    def options(self):
        """The inputs that are not text and voice."""
        batch = len(self.texts)
        is_one = np.ndim(self.seed) == 0
        seeds = [self.seed] * batch if is_one else self.seed
        heat, limits = self.temperatures, np.int32(self.limits)
        return {
            "seed": np.array(seeds, np.uint64).astype(np.int64),
            "stream": np.int32(range(batch) if is_one else [0] * batch),
            **{
                f"{stage}_temperature": np.repeat(heat[i], batch)
                for i, stage in enumerate(STAGES)
            },
            "min_new_tokens": np.repeat(limits[0], batch),
            "max_new_tokens": np.repeat(limits[1], batch),
        }

    def speak(self, **changes):
        """Inputs of `speak`."""
        texts, voices = np.array(self.texts), np.array(self.voices)
        return {"text": texts, "voice": voices, **self.options(), **changes}

    def generate(self, bark, processor, **options):
        """What `generate` returns for the rows."""
        inputs = processor(self.texts, return_tensors="np")
        voices = [processor.load_voice(name) if name else None for name in self.voices]
        heat = zip(STAGES, map(float, self.temperatures), strict=True)
        return bark.generate(
            **inputs,
            history_prompt=voices,
            seed=self.seed,
            **{f"{stage}_temperature": value for stage, value in heat},
            min_new_tokens=self.limits[0],
            max_new_tokens=self.limits[1],
            return_dict=True,
            **{"do_sample": True, "jit_compile": False, **options},
        )


def answers_of(export, requests, folder):
    """What a process without bark_tf and without XLA answers.

    Args:
        export: Directory of a version.
        requests: List of (signature, inputs).
        folder: For temporary files.

    Returns:
        List of outputs by name; `error` is the message of a refused request.
    """
    given, answers = folder / "requests.npz", folder / "answers.npz"
    arrays = {
        f"{number}/{signature}/{name}": value
        for number, (signature, inputs) in enumerate(requests)
        for name, value in inputs.items()
    }
    np.savez(given, **arrays)
    command = [sys.executable, RUN_EXPORT, export, given, answers]
    subprocess.run(list(map(str, command)), check=True)
    found = [{} for _ in requests]
    with np.load(answers) as arrays:
        for name in arrays:
            number, _, output = name.partition("/")
            found[int(number)][output] = arrays[name]
    return found
