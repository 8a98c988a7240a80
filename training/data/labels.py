"""Batches as inputs of the networks themselves, with `labels`, for their own `fit`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from bark_tf.config import BarkGenerationConfig
from bark_tf.generation.semantic import prompt_embeddings
from bark_tf.models.losses import IGNORED_LABEL

from .batches import Batches


def labelled(
    network: Any, batches: Batches, start: int = 0, steps: int | None = None
) -> tf.data.Dataset:
    """The batches of a stage as keywords of its network, `labels` among them.

    They hold the sequences and targets that a recipe trains with. The semantic network
    reads text and history summed at the same positions, which no ids can say, so it
    gets `input_embeds`. These do not train its embedding table, of which Keras warns
    unless it is frozen, as by `enable_lora`. A sequence that fills the network loses
    its last target.

    Args:
        network: `BarkSemanticModel`, `BarkCoarseModel` or `BarkFineModel`.
        batches: `Batches` over `StageExamples` of the same stage.
        start: First step.
        steps: Number of batches. None: endless.

    Returns:
        A dataset of dictionaries: `input_ids` int32 (batch, time), for the fine network
        (batch, time, codebooks) beside `codebook_idx` int32 (batch,), for the semantic
        one `input_embeds` float32 (batch, time, hidden_size); and `labels`, int32
        (batch, time), -100 where nothing is predicted; for the coarse one also
        `sample_weight`, float32 (batch, time).

    Raises:
        ValueError: If the examples are not of the network's stage.

    Example:
        >>> examples = StageExamples(shards, "coarse", model.generation_config,
        ...                          model.coarse_acoustics.config)
        >>> data = labelled(model.coarse_acoustics, Batches(examples, batch_size=8))
        >>> model.coarse_acoustics.compile(optimizer="adamw")
        >>> model.coarse_acoustics.fit(data, steps_per_epoch=100)
    """
    stage, config = batches.examples.stage, batches.examples.config
    own = network.config.part.removesuffix("_config").removesuffix("_acoustics")
    if own != stage:
        raise ValueError(
            f"batches must be of the {own} stage, as the network is. Received: {stage}"
        )
    inputs = {"semantic": _semantic, "coarse": _coarse, "fine": _fine}[stage]
    dataset = batches.dataset(start, steps)
    return dataset.map(lambda batch: inputs(network, batch, config))


def _semantic(network, batch: Mapping, config: BarkGenerationConfig) -> dict:
    config, targets = config.semantic_config, batch["targets"]
    pad = config.semantic_pad_token
    read = batch.get("read", tf.where(targets == IGNORED_LABEL, pad, targets))
    embeds = prompt_embeddings(
        network, batch["text"], batch["history"], config.semantic_infer_token, read
    )
    before = config.max_input_semantic_length + 1  # with the infer token
    size = network.config.block_size
    labels = _after(before, targets)
    return {"input_embeds": embeds[:, :size], "labels": labels[:, :size]}


def _coarse(network, batch: Mapping, config: BarkGenerationConfig) -> dict:
    before = config.coarse_acoustics_config.max_coarse_input_length + 1
    # A position for the last target, which no later one reads.
    inputs = {
        "input_ids": tf.pad(batch["ids"], [[0, 0], [0, 1]]),
        "labels": _after(before, batch["targets"]),
        "sample_weight": tf.pad(batch["weights"], [[0, 0], [before, 0]]),
    }
    size = network.config.block_size
    return {name: values[:, :size] for name, values in inputs.items()}


def _fine(network, batch: Mapping, config: BarkGenerationConfig) -> dict:
    return {
        "codebook_idx": batch["codebook"],
        "input_ids": batch["ids"],
        "labels": batch["targets"],
    }


def _after(count: int, targets: tf.Tensor) -> tf.Tensor:
    """Targets at the positions after the first `count`, where nothing is predicted."""
    room = [[0, 0], [count, 0]]
    return tf.pad(targets, room, constant_values=IGNORED_LABEL)
