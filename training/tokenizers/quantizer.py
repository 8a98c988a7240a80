"""Training of the quantizer that maps HuBERT's frames to a model's semantic tokens.

It learns from pairs of audio and tokens, usually those that the model generated itself
(`pairs.py`). HuBERT is frozen: its frames are computed once and stored in files.
`nearest_frames` assigns a frame to each token, as when audio is tokenized.

    OUT/semantic_tokenizer.*                what `load_semantic_tokenizer` reads
    OUT/training/quantizer/frames/          frames and tokens, 100 KB per second
    OUT/training/quantizer/                 the run: checkpoints, logs

The folder `training` can be deleted when training is done.

Axes: B batch, T frames, N tokens, D width of a frame.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from bark_tf.audio.reading import resample
from bark_tf.config import (
    GENERATION_CONFIG_NAME,
    BarkSemanticGenerationConfig,
    HubertConfig,
    HubertQuantizerConfig,
)
from bark_tf.files import atomic_write
from bark_tf.models.hubert.model import SAMPLE_RATE, HubertModel
from bark_tf.models.hubert.quantizer import HubertQuantizer
from bark_tf.models.losses import IGNORED_LABEL
from bark_tf.progress import Progress
from bark_tf.saving import locked, saving
from bark_tf.semantic_tokens.hubert import (
    LAYER,
    HubertTokenizer,
    hubert_windows,
    nearest_frames,
    open_network,
)
from bark_tf.semantic_tokens.tokenizer import check_tokenizer

from ..data.batches import Batches
from ..data.shards import DatasetInfo, ShardSet
from ..data.storage import RemotePath, storage_path
from ..evaluation.metrics import edit_distance
from ..options import TrainingOptions
from ..runs.fit import train
from ..runs.trainers import StageTrainer
from .inputs import claim, digest_of_weights, run_options

SPLITS = ("train", "validation")
STEPS = 3_000
BATCH_SIZE = 8
# Frames per example, 20 s: the logits of a batch, 8 x 1,000 x 10,000, take 320 MB.
MAX_FRAMES = 1_000
# Pairs per file of frames, which are in memory while it is written.
_PAIRS_PER_FILE = 64


def _silent(what: str, done: int, total: int) -> None:
    """The default progress: reports nothing."""


def quantizer_options(steps: int = STEPS, seed: int = 0) -> TrainingOptions:
    """The default training options: the best of twenty validations is kept.

    Args:
        steps: Number of batches.
        seed: Decides all random choices.
    """
    return run_options(steps, 100, learning_rate=1e-3, seed=seed)


# === The result ===


class QuantizerScore(NamedTuple):
    """How well a tokenizer recovers the tokens of held-out generated audio.

    Attributes:
        pairs: Number of pairs.
        tokens: Tokens that the model generated.
        hits: Tokens recovered in their place.
        changes: Edit distance between generated and recovered tokens.
    """

    pairs: int
    tokens: int
    hits: int
    changes: int

    @property
    def accuracy(self) -> float:
        """Share of tokens recovered in their place."""
        return self.hits / self.tokens

    @property
    def edit_distance(self) -> float:
        """Changes per token: 0 for a perfect tokenizer, about 1 for a useless one."""
        return self.changes / self.tokens

    def __str__(self) -> str:
        return (
            "| held-out pairs | tokens | token accuracy | edit distance |\n"
            "|---|---|---|---|\n"
            f"| {self.pairs} | {self.tokens} | {100 * self.accuracy:.1f} % "
            f"| {self.edit_distance:.3f} |"
        )


def quantizer_score(
    tokenizer: HubertTokenizer,
    shards: ShardSet,
    progress: Callable[[int, int], None] | None = None,
) -> QuantizerScore:
    """Tokenizes audio and compares with the tokens that it was generated from.

    Args:
        tokenizer: The tokenizer.
        shards: Pairs, with tokens and audio.
        progress: Called with (pairs done, pairs).

    Returns:
        `QuantizerScore`.
    """
    tokens = hits = changes = 0
    for number, (audio, truth) in enumerate(_resampled(shards)):
        found = tokenizer(audio)
        both = min(len(truth), len(found))
        tokens += len(truth)
        hits += int(np.sum(truth[:both] == found[:both]))
        changes += edit_distance(truth, found)
        if progress is not None:
            progress(number + 1, len(shards))
    return QuantizerScore(len(shards), tokens, hits, changes)


def _resampled(
    shards: ShardSet, numbers: Sequence[int] | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Audio at HuBERT's rate, and semantic tokens."""
    for number in range(len(shards)) if numbers is None else numbers:
        pair = shards[number]
        yield resample(pair.audio, shards.info.sample_rate, SAMPLE_RATE), pair.semantic


# === Training ===


def train_quantizer(
    data: str | os.PathLike,
    out: str | os.PathLike,
    *,
    hubert: str | os.PathLike | HubertModel,
    layer: int = LAYER,
    quantizer: str | os.PathLike | None = None,
    hidden_size: int | None = None,
    options: TrainingOptions | None = None,
    batch_size: int = BATCH_SIZE,
    restart: bool = False,
    progress: Progress | None = None,
) -> tuple[HubertTokenizer, QuantizerScore]:
    """Trains a quantizer, saves it with HuBERT as a tokenizer, and scores that.

    A killed run resumes when it is started again.

    Args:
        data: Output of `make_pairs`: shards with tokens and audio in `train` and
            `validation`.
        out: Directory for the tokenizer, usually that of the model.
        hubert: The network, or its path or id as in `HubertTokenizer.from_pretrained`.
        layer: The layer that the quantizer reads.
        quantizer: A quantizer to start from: the community's `.pth`, or a directory;
            None: random weights.
        hidden_size: Width of the LSTMs without `quantizer`; None: 1024, as in the
            community's.
        options: By default `quantizer_options()`.
        batch_size: Pairs per step.
        restart: Whether to delete an earlier run in `out`.
        progress: Called with (what, done, total).

    Returns:
        The tokenizer, which `load_semantic_tokenizer(out)` reads, and its score on the
        held-out pairs.

    Raises:
        FileNotFoundError: If there are no pairs, no HuBERT or no quantizer.
        ValueError: If arguments do not fit together; the message says which.
    """
    out, options = Path(out), options or quantizer_options()
    progress = progress or _silent
    pairs = _pairs(storage_path(data))
    info = pairs["train"].info
    if not isinstance(hubert, HubertModel):
        hubert = open_network(HubertModel, hubert)
    layer = hubert.checked_layer(layer)
    keras.utils.set_random_seed(options.seed)
    network = _network(quantizer, hidden_size, hubert.config, info)
    tokenizer = HubertTokenizer(
        hubert, network, layer=layer, rate_hz=info.semantic_rate_hz
    )
    if (out / GENERATION_CONFIG_NAME).is_file():
        check_tokenizer(tokenizer, BarkSemanticGenerationConfig.from_pretrained(out))
    with locked(out):
        run = out / "training" / "quantizer"
        if restart:
            with saving(out) as change:
                change.remove("training/quantizer")
        claim(run, _inputs(pairs, hubert.first_layers(layer), network, quantizer))
        batches = _batches(run, pairs, tokenizer, options.seed, batch_size, progress)
        train(
            QuantizerTrainer(network),
            batches["train"],
            options=options,
            directory=run,
            validation=batches["validation"],
            progress=progress,
        )
        tokenizer.save(out)
        score = quantizer_score(
            tokenizer,
            pairs["validation"],
            lambda done, total: progress("held-out pairs", done, total),
        )
        return tokenizer, score


def _batches(
    run: Path,
    pairs: Mapping[str, ShardSet],
    tokenizer: HubertTokenizer,
    seed: int,
    batch_size: int,
    progress: Progress,
) -> dict[str, Batches]:
    """The batches of both splits, once their frames are computed."""
    batches = {}
    for split, shards in pairs.items():
        report = functools.partial(progress, f"{split} frames")
        frames = Frames(run / "frames", split, shards, tokenizer, report)
        examples = QuantizerExamples(
            frames, rate_hz=tokenizer.rate_hz, config=tokenizer.hubert.config, seed=seed
        )
        batches[split] = Batches(
            examples, batch_size, seed=seed, shuffle=split == "train"
        )
    return batches


def _pairs(data: Path | RemotePath) -> dict[str, ShardSet]:
    """Opens the training pairs and the held-out ones."""
    if not (data / "train").is_dir():
        raise FileNotFoundError(
            f"{str(data)!r} holds no pairs: there is no folder 'train'. Make them with "
            "`bark-tf train-tokenizer --kind quantizer --make-pairs`"
        )
    if not (data / "validation").is_dir():
        raise ValueError(
            f"{str(data)!r} has no held-out pairs: make pairs from more texts, or with "
            "a larger --validation"
        )
    pairs = {split: ShardSet(data / split) for split in SPLITS}
    for split, shards in pairs.items():
        for has, what in (
            (shards.info.has_tokens, "semantic tokens"),
            (shards.info.has_audio, "audio"),
        ):
            if not has:
                raise ValueError(
                    "Expected pairs of semantic tokens and audio. "
                    f"Received: {str(data / split)!r} without {what}"
                )
    return pairs


def _network(
    start: str | os.PathLike | None,
    hidden_size: int | None,
    hubert: HubertConfig,
    info: DatasetInfo,
) -> HubertQuantizer:
    """The quantizer before training."""
    if start is None:
        sizes = {} if hidden_size is None else {"hidden_size": hidden_size}
        config = HubertQuantizerConfig(
            input_size=hubert.hidden_size, output_size=info.semantic_vocab_size, **sizes
        )
        return HubertQuantizer(config)
    if hidden_size is not None:
        raise ValueError(
            "hidden_size is set by the quantizer to start from. Received: both"
        )
    network = open_network(HubertQuantizer, start)
    if network.config.output_size != info.semantic_vocab_size:
        raise ValueError(
            "The quantizer to start from must have the pairs' "
            f"{info.semantic_vocab_size} tokens. "
            f"Received: {network.config.output_size}"
        )
    return network


# === The inputs of a run ===


def _inputs(
    pairs: Mapping[str, ShardSet],
    hubert: HubertModel,
    network: HubertQuantizer,
    start: str | os.PathLike | None,
) -> dict[str, Any]:
    """What must not change when a run resumes, besides its options."""
    return {
        "pairs": {split: shards.fingerprint for split, shards in pairs.items()},
        "hubert": digest_of_weights(hubert),
        "layers": hubert.config.num_hidden_layers,
        "quantizer": network.config.to_dict(),
        "start": None if start is None else digest_of_weights(network),
    }


# === Frames ===


class Pair(NamedTuple):
    """The place of a pair's frames in a file, and its tokens."""

    path: Path
    start: int
    stop: int
    semantic: np.ndarray


class Frames(Sequence):
    """HuBERT's frames of pairs, computed once and read from files on access.

    They are stored in float16; the frames are normalised, so three digits are enough.

    Args:
        directory: For the files; existing ones are reused.
        name: Prefix of their names.
        shards: The pairs.
        tokenizer: Holds HuBERT and the layer.
        progress: Called with (pairs done, pairs).

    Attributes:
        lengths: int64 (pairs,), frames.
    """

    def __init__(
        self,
        directory: Path,
        name: str,
        shards: ShardSet,
        tokenizer: HubertTokenizer,
        progress: Callable[[int, int], None],
    ):
        directory.mkdir(parents=True, exist_ok=True)
        self._pairs: list[Pair] = []
        for start in range(0, len(shards), _PAIRS_PER_FILE):
            numbers = range(start, min(start + _PAIRS_PER_FILE, len(shards)))
            path = directory / f"{name}-{start // _PAIRS_PER_FILE:05d}.safetensors"
            if not path.is_file():
                _write_frames(path, _resampled(shards, numbers), tokenizer)
            self._pairs += _read_pairs(path)
            progress(numbers.stop, len(shards))
        self.lengths = np.array([pair.stop - pair.start for pair in self._pairs])

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Frames, float16 (T, D), and semantic tokens, int32 (N,)."""
        from safetensors import safe_open

        path, start, stop, semantic = self._pairs[index]
        # A handle per read, since threads must not share one.
        with safe_open(path, framework="numpy") as file:
            return file.get_slice("frames")[start:stop], semantic


def _write_frames(
    path: Path, pairs: Iterator[tuple], tokenizer: HubertTokenizer
) -> None:
    from safetensors.numpy import save_file

    frames, tokens = [], []
    for audio, semantic in pairs:
        windows = hubert_windows(tokenizer.hubert, audio, tokenizer.layer)
        frames.append(np.concatenate([part.astype(np.float16) for part in windows]))
        tokens.append(semantic.astype(np.int32))
    arrays = {
        "frames": np.concatenate(frames),
        "semantic": np.concatenate(tokens),
        "num_frames": np.array([len(part) for part in frames]),
        "num_tokens": np.array([len(part) for part in tokens]),
    }
    with atomic_write(path) as temporary:
        save_file(arrays, temporary)


def _read_pairs(path: Path) -> Iterator[Pair]:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        semantic, num_frames, num_tokens = (
            file.get_tensor(name) for name in ("semantic", "num_frames", "num_tokens")
        )
    ends = np.cumsum(num_frames)
    tokens = np.split(semantic, np.cumsum(num_tokens)[:-1])
    for end, count, one in zip(ends, num_frames, tokens, strict=True):
        yield Pair(path, int(end - count), int(end), one)


# === Examples ===


class QuantizerExamples:
    """Examples for `Batches`: frames, tokens, and the frame of each token.

    Pairs of more than `MAX_FRAMES` frames are cropped, differently in each epoch.

    Args:
        frames: `Frames`, or other pairs of frames (T, D) and tokens (N,) with
            `lengths`.
        rate_hz: Tokens per second.
        config: HuBERT's configuration.
        seed: Decides the crops.

    Attributes:
        lengths: int64 (pairs,), frames.
        longest: Frames of the longest example.
    """

    def __init__(
        self, frames: Any, *, rate_hz: float, config: HubertConfig, seed: int = 0
    ):
        self._frames, self._rate_hz, self._config = frames, rate_hz, config
        self._seed = seed
        self.lengths = np.minimum(frames.lengths, MAX_FRAMES)
        self.longest = int(self.lengths.max())

    def __len__(self) -> int:
        return len(self._frames)

    def example(self, index: int, epoch: int = 0) -> dict[str, np.ndarray]:
        """One pair, or a crop of it.

        Returns:
            `frames` float16 (T, D); `chosen` int32 (N,), the index of each token's
            frame, ascending; `targets` int32 (N,), the tokens.
        """
        frames, targets = self._frames[index]
        chosen = nearest_frames(
            len(targets), len(frames), rate_hz=self._rate_hz, config=self._config
        )
        if len(frames) > MAX_FRAMES:
            rng = np.random.default_rng([self._seed, epoch, index])
            start = int(rng.integers(len(frames) - MAX_FRAMES + 1))
            frames = frames[start : start + MAX_FRAMES]
            is_in = (chosen >= start) & (chosen < start + MAX_FRAMES)
            chosen, targets = chosen[is_in] - start, targets[is_in]
        return {"frames": frames, "chosen": chosen.astype(np.int32), "targets": targets}

    def length_of(self, example: Mapping[str, np.ndarray]) -> int:
        """Frames of an example."""
        return len(example["frames"])

    def pad(
        self, examples: Sequence[Mapping[str, np.ndarray]], length: int
    ) -> dict[str, np.ndarray]:
        """A batch: `frames` (B, length, D), `chosen` and `targets` (B, N)."""
        count = max(len(example["targets"]) for example in examples)
        lengths = {"frames": length, "chosen": count, "targets": count}
        fills = {"frames": 0, "chosen": 0, "targets": IGNORED_LABEL}
        return {
            name: np.stack(
                [_filled(one[name], lengths[name], fills[name]) for one in examples]
            )
            for name in lengths
        }

    def without_targets(
        self, example: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """The same example with all targets ignored."""
        nothing = np.full_like(example["targets"], IGNORED_LABEL)
        return {**example, "targets": nothing}


def _filled(array: np.ndarray, length: int, fill: int) -> np.ndarray:
    widths = [(0, length - len(array)), *[(0, 0)] * (array.ndim - 1)]
    return np.pad(array, widths, constant_values=fill)


class QuantizerTrainer(StageTrainer):
    """Trains a quantizer; see `StageTrainer`.

    Args:
        quantizer: `HubertQuantizer`.
        **kwargs: `name`.
    """

    stage = "quantizer"

    def __init__(self, quantizer: HubertQuantizer, **kwargs):
        super().__init__(quantizer, None, **kwargs)

    def call(self, batch, training=False):
        """Logits of the tokens, (B, N, vocabulary)."""
        states, _ = self.model.run_lstms(batch["frames"])
        chosen = tf.gather(states, tf.convert_to_tensor(batch["chosen"]), batch_dims=1)
        return self.model.classify(chosen)
