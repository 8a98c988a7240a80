"""Training of a semantic tokenizer that knows words, from speech and its texts.

A small recogniser learns by CTC which characters are said; k-means of the hidden states
of one of its blocks gives the first tokens. Then it learns on while its upper blocks
see only the tokens: so the tokens come to hold the words, and the recogniser reads
them, which shows how much of the words they hold.

    OUT/semantic_tokenizer.*        what `load_semantic_tokenizer` reads
    OUT/training/ctc/               the run of the recogniser: checkpoints, logs
    OUT/training/ctc_tokens/        the run through the tokens
    OUT/training/recogniser/        the recogniser with all its blocks, to start from

The folder `training` can be deleted when training is done. As long as it exists, other
tokens (another vocabulary or layer) start from the same recogniser.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from safetensors.numpy import load_file, save_file

from bark_tf.config import CtcConfig
from bark_tf.files import atomic_write, local_path
from bark_tf.memory import allocate_only
from bark_tf.models.ctc import CtcModel
from bark_tf.progress import Progress
from bark_tf.saving import locked, saving
from bark_tf.semantic_tokens.ctc import CtcTokenizer
from bark_tf.semantic_tokens.kmeans import drawn_frames, fit_centres

from ..data.batches import Batches
from ..data.shards import ShardSet
from ..data.storage import storage_path
from ..options import TrainingOptions
from ..runs import checkpoints
from ..runs.fit import train
from .ctc_examples import Alphabet, CtcExamples, Features, Recordings, Tokens
from .ctc_recogniser import put_recogniser, save_recogniser
from .ctc_score import CtcScore, Reading, transcripts
from .ctc_trainer import CtcTrainer, QuantizedRecogniser, TokenReader
from .inputs import claim, digest_of_weights, run_options
from .train import token_sizes

SPLITS = ("train", "validation")
STEPS = 10_000
BATCH_SIZE = 16
# Feature frames per second, which a token's are a whole number of.
_FEATURES_HZ = 100
# Steps through tokens, and their learning rate, relative to those before.
_READING_SHARE = 0.5
_READING_RATE = 0.7
# Tokens to fit centres to, drawn recording by recording.
_FITTED_TOKENS = 400_000
# Validation batches of equal length compile less.
_BUCKETS = 8
_CENTRES_NAME = "centres.safetensors"


def ctc_options(
    steps: int = STEPS, seed: int = 0, optimizer: str = "adamw"
) -> TrainingOptions:
    """The default training options: the best of twenty validations is kept.

    Args:
        steps: Number of batches.
        seed: Decides all random choices.
        optimizer: `"adamw"` or `"muon"`, see `TrainingOptions`.

    Raises:
        ValueError: If a value is out of range.
    """
    return run_options(
        steps,
        500,
        optimizer=optimizer,
        learning_rate=3e-3 if optimizer == "muon" else 2e-3,
        final_share=0.02,
        seed=seed,
    )


def _config(rate_hz: float, sizes: Mapping[str, Any]) -> CtcConfig:
    """The network for a number of tokens per second."""
    if not 0 < rate_hz <= _FEATURES_HZ:
        raise ValueError(
            f"rate_hz must be positive and at most {_FEATURES_HZ}. "
            f"Received: rate_hz={rate_hz!r}"
        )
    return CtcConfig(**{"stride": round(_FEATURES_HZ / rate_hz), **sizes})


# === What it will cost ===


class Plan(NamedTuple):
    """What a training run uses and costs, known before it starts.

    Attributes:
        recordings: Recordings to learn from.
        left_out: Recordings that are too long, too fast or without letters.
        hours: Hours of speech.
        characters: Characters of the alphabet.
        weights: Weights of the recogniser.
        steps: Steps that are still to be taken, with and without tokens.
        epochs: How often the recogniser hears each recording.
        step_s: Seconds of one step, measured.
    """

    recordings: int
    left_out: int
    hours: float
    characters: int
    weights: int
    steps: int
    epochs: float
    step_s: float

    def __str__(self) -> str:
        hours = self.steps * self.step_s / 3600
        return (
            f"{self.hours:.2f} hours of speech in {self.recordings} recordings "
            f"({self.left_out} left out), {self.characters} characters; "
            f"{self.weights / 1e6:.2f} million weights; {self.steps} steps to take, "
            f"{self.step_s:.2f} s each, about {hours:.1f} hours; "
            f"the recogniser hears each recording {self.epochs:.1f} times"
        )


def _plan(job: _Job, batches: Batches, dtype: Any, run: Path) -> Plan:
    """Measures one step of a network that is then dropped."""
    newest = checkpoints.newest(run)
    taken = 0 if newest is None else int(newest.name.rpartition("-")[2])
    network = CtcModel(job.config, dtype=dtype)
    trainer = CtcTrainer(network, job.alphabet, "ctc")
    trainer.compile(optimizer="sgd")
    for _ in range(2):  # the first one loads kernels
        start = time.monotonic()
        trainer.gradients(batches(0))
    recordings, steps = job.recordings["train"], job.options.steps
    return Plan(
        recordings=len(recordings),
        left_out=len(recordings.shards) - len(recordings),
        hours=float(recordings.seconds.sum()) / 3600,
        characters=len(job.alphabet.characters),
        weights=network.count_params(),
        steps=max(0, steps - taken) + _reading_options(job.options).steps,
        epochs=steps * batches.batch_size / len(recordings),
        step_s=time.monotonic() - start,
    )


# === Training ===


def train_ctc(
    data: str | os.PathLike,
    out: str | os.PathLike,
    *,
    vocab_size: int | None = None,
    rate_hz: float | None = None,
    layer: int | None = None,
    sizes: Mapping[str, Any] | None = None,
    options: TrainingOptions | None = None,
    batch_size: int = BATCH_SIZE,
    dtype: Any = None,
    start: str | os.PathLike | None = None,
    restart: bool = False,
    announce: Callable[[Plan], None] | None = None,
    progress: Progress | None = None,
) -> tuple[CtcTokenizer, CtcScore]:
    """Trains a tokenizer, saves it, and measures how much of the words it keeps.

    A killed run resumes when it is started again.

    Args:
        data: Shards with audio and texts in `train` and `validation`, made by
            `bark-tf prepare`; any language.
        out: Directory for the tokenizer, usually that of the model.
        vocab_size: Number of tokens; by default that of the model in `out`.
        rate_hz: Tokens per second, at most 100; by default the model's.
        layer: The block whose hidden states become tokens, from 1; None: the last but
            one, or the only one.
        sizes: Fields of `CtcConfig`, such as `{"hidden_size": 192}`.
        options: By default `ctc_options()`.
        batch_size: Recordings per step.
        dtype: Keras dtype policy of training; `"mixed_bfloat16"` is faster on
            processors that have it. None: Keras's global policy.
        start: The folder `training/recogniser` of another run, whose recogniser goes on
            learning; its alphabet may differ. None: new weights.
        restart: Whether to delete an earlier run in `out`.
        announce: Called with the `Plan` before training starts.
        progress: Called with (what, done, total).

    Returns:
        The tokenizer, which `load_semantic_tokenizer(out)` reads, and its score on the
        held-out recordings.

    Raises:
        FileNotFoundError: If there are no recordings.
        ValueError: If arguments do not fit together, or no recording is usable; the
            message says which.
        BlockingIOError: If another process is writing to `out`.
    """
    options = options or ctc_options()
    out = local_path(out, "The directory")
    vocab_size, rate_hz = token_sizes(out, vocab_size, rate_hz)
    config = _config(rate_hz, sizes or {})
    folder = out / "training"
    with locked(out):
        if restart:
            with saving(out) as change:
                change.remove("training/ctc", "training/ctc_tokens")
        job = _job(data, config, rate_hz, options, batch_size, progress or _silent)
        _check_vocabulary(job.recordings["train"], vocab_size)
        layer = _checked_layer(layer, job.config)
        network, audio = _train_network(job, dtype, folder / "ctc", start, announce)
        centres, before = _learn_tokens(
            job, network, layer, vocab_size, folder / "ctc_tokens"
        )
        save_recogniser(folder / "recogniser", network, job.alphabet)
        tokenizer = _tokenizer(job, network, layer, centres)
        tokenizer.save(out)
        after = _read_tokens(job, network, layer, tokenizer)
    count = len(job.recordings["validation"])
    return tokenizer, CtcScore(count, audio, before, after)


def _silent(what: str, done: int, total: int) -> None:
    """The default progress: reports nothing."""


class _Job(NamedTuple):
    """What all parts of the training share."""

    recordings: Mapping[str, Recordings]
    alphabet: Alphabet
    config: CtcConfig
    options: TrainingOptions
    batch_size: int
    progress: Progress

    def features(self) -> dict[str, Features]:
        """The features of both splits."""
        return {
            split: Features(recordings, self.config, is_masked=split == "train")
            for split, recordings in self.recordings.items()
        }

    def batches(self, inputs: Mapping[str, Any]) -> dict[str, Batches]:
        """The batches of splits, given their `Features` or `Tokens`."""
        return {
            split: Batches(
                CtcExamples(self.recordings[split], given, seed=self.options.seed),
                self.batch_size,
                seed=self.options.seed,
                num_buckets=_BUCKETS,
                shuffle=split == "train",
            )
            for split, given in inputs.items()
        }

    def reading(self, trainer: CtcTrainer, batches: Batches, what: str) -> Reading:
        """How well a model reads the held-out recordings."""
        report = functools.partial(self.progress, what)
        found = transcripts(trainer, batches, self.alphabet, report)
        return Reading.of(self.recordings["validation"].texts, found)


def _job(data, config, rate_hz, options, batch_size, progress) -> _Job:
    """Opens the recordings and reads the alphabet off their texts."""
    data = storage_path(data)
    for split in SPLITS:
        if not (data / split).is_dir():
            raise FileNotFoundError(
                f"{str(data)!r} must hold recordings to learn from and held-out ones: "
                f"there is no folder {split!r}. Make both with `bark-tf prepare "
                "--validation 0.02`"
            )
    shards = {split: ShardSet(data / split) for split in SPLITS}
    for one in shards.values():
        _ = one.audios  # raises without audio
    alphabet = Alphabet.of(shards["train"].texts)
    recordings = {
        split: Recordings.of(one, alphabet, rate_hz) for split, one in shards.items()
    }
    for split, usable in recordings.items():
        if not len(usable):
            raise ValueError(
                f"No recording of {str(data / split)!r} is usable: each needs a text, "
                f"of fewer characters than the recording has tokens at {rate_hz} Hz, "
                "and at most 20 seconds"
            )
    config = config.replace(output_size=len(alphabet.characters))
    return _Job(recordings, alphabet, config, options, batch_size, progress)


def _check_vocabulary(recordings: Recordings, vocab_size: int) -> None:
    """Fails before hours of training, not after them."""
    most = int(recordings.seconds.sum() * recordings.rate_hz) - len(recordings)
    if not 1 <= vocab_size <= most:
        raise ValueError(
            f"vocab_size must be from 1 to {most}, the frames to learn from. "
            f"Received: vocab_size={vocab_size!r}"
        )


def _checked_layer(layer: int | None, config: CtcConfig) -> int:
    if layer is None:
        return max(1, config.num_layers - 1)
    if type(layer) is not int or not 1 <= layer <= config.num_layers:
        raise ValueError(
            f"layer must be a whole number from 1 to {config.num_layers}. "
            f"Received: layer={layer!r}"
        )
    return layer


def _train_network(
    job: _Job,
    dtype: Any,
    run: Path,
    start: str | os.PathLike | None,
    announce: Callable[[Plan], None] | None,
) -> tuple[CtcModel, Reading]:
    """Trains the recogniser, and reads the held-out recordings with it."""
    recordings = {
        split: one.shards.fingerprint for split, one in job.recordings.items()
    }
    inputs = {"recordings": recordings, "network": job.config.to_dict()}
    inputs["rate_hz"] = job.recordings["train"].rate_hz
    inputs["dtype"] = keras.dtype_policies.get(dtype).name
    keras.utils.set_random_seed(job.options.seed)
    network = CtcModel(job.config, dtype=dtype)
    inputs["start"] = None
    if start is not None:
        put_recogniser(start, network, job.alphabet)
        inputs["start"] = digest_of_weights(network)
    claim(run, {**inputs, "batch_size": job.batch_size})
    batches = job.batches(job.features())
    if announce is not None:
        announce(_plan(job, batches["train"], dtype, run))
    trainer = CtcTrainer(network, job.alphabet, "ctc")
    train(
        trainer,
        batches["train"],
        options=job.options,
        directory=run,
        validation=batches["validation"],
        progress=job.progress,
    )
    return network, job.reading(trainer, batches["validation"], "reading audio")


def _tokenizer(
    job: _Job, network: CtcModel, layer: int, centres: np.ndarray
) -> CtcTokenizer:
    """The tokenizer of a recogniser, all weights rounded as they are saved."""
    config = job.config.replace(num_layers=layer, output_size=0)
    with allocate_only():
        encoder = CtcModel(config, dtype="float32")
    encoder.put_arrays(
        {name: _rounded(array) for name, array in network.arrays().items()}
    )
    rate_hz = job.recordings["train"].rate_hz
    return CtcTokenizer(encoder, _rounded(centres), rate_hz=rate_hz)


def _rounded(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float16).astype(np.float32)


def _first_centres(
    job: _Job, network: CtcModel, layer: int, vocab_size: int
) -> np.ndarray:
    """K-means of the hidden states of a layer, float32 (N, C)."""
    nothing = np.zeros((0, job.config.hidden_size), np.float32)
    tokenizer = _tokenizer(job, network, layer, nothing)
    recordings = job.recordings["train"]
    rng = np.random.default_rng(job.options.seed)
    order = rng.permutation(len(recordings))
    ends = np.cumsum(recordings.seconds[order]) * recordings.rate_hz
    order = order[: np.searchsorted(ends, _FITTED_TOKENS) + 1]

    def states():
        for done, index in enumerate(order, start=1):
            yield tokenizer.states(recordings.audio(index))
            job.progress("hidden states", done, len(order))

    frames = drawn_frames(states(), vocab_size, rng)
    return fit_centres(
        frames,
        vocab_size,
        rng,
        lambda done, total: job.progress("k-means", done, total),
    )


# === Learning to read the tokens ===


def _reading_options(options: TrainingOptions) -> TrainingOptions:
    steps = max(1, round(_READING_SHARE * options.steps))
    return dataclasses.replace(
        options,
        steps=steps,
        learning_rate=_READING_RATE * options.learning_rate,
        warmup_steps=min(options.warmup_steps, steps // 10),
        validate_every=max(1, steps // 10),
    )


def _learn_tokens(
    job: _Job, network: CtcModel, layer: int, vocab_size: int, folder: Path
) -> tuple[np.ndarray, Reading]:
    """Trains the recogniser on through its tokens.

    Returns:
        The centres, float32 (N, C), and how well the recogniser read before that.
    """
    digest = digest_of_weights(network)[:8]
    run = folder / f"layer-{layer}-vocabulary-{vocab_size}-{digest}"
    run.mkdir(parents=True, exist_ok=True)
    path = run / _CENTRES_NAME
    if not path.is_file():  # a resumed run starts from the same ones
        centres = _first_centres(job, network, layer, vocab_size)
        with atomic_write(path) as temporary:
            save_file({"centres": centres}, temporary)
    centres = load_file(path)["centres"]
    recogniser = QuantizedRecogniser(
        network, layer, centres, dtype=network.dtype_policy
    )
    trainer = CtcTrainer(recogniser, job.alphabet, "ctc through tokens")
    batches = job.batches(job.features())
    before = job.reading(trainer, batches["validation"], "reading tokens")
    train(
        trainer,
        batches["train"],
        options=_reading_options(job.options),
        directory=run,
        validation=batches["validation"],
        progress=job.progress,
    )
    return recogniser.centres.numpy(), before


def _read_tokens(job: _Job, network: CtcModel, layer: int, tokenizer: CtcTokenizer):
    """Reads the held-out recordings from the tokens of the saved tokenizer."""
    recordings = job.recordings["validation"]
    tokens = []
    for index in range(len(recordings)):
        tokens.append(tokenizer(recordings.audio(index)))
        job.progress("held-out tokens", index + 1, len(recordings))
    batches = job.batches({"validation": Tokens(tokens)})
    reader = TokenReader(QuantizedRecogniser(network, layer, tokenizer.centres))
    trainer = CtcTrainer(reader, job.alphabet, "token reader")
    return job.reading(trainer, batches["validation"], "reading tokens")
