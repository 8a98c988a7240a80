"""LoRA adapters in the files of Hugging Face's PEFT, and back.

A folder has `adapter_config.json` and `adapter_model.safetensors`, with the adapters of
all stages under the names of transformers' `BarkModel`:

    >>> PeftModel.from_pretrained(transformers.BarkModel.from_pretrained(base), folder)

PEFT's A is (rank, inputs), our `lora_kernel_b`; its B is (outputs, rank), our
`lora_kernel_a`. Source: PEFT's documentation of its checkpoint format.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy

from bark_tf.config import BarkSubModelConfig
from bark_tf.config.fields import Positive, check_values, shown
from bark_tf.convert import bark
from bark_tf.files import read_json_object
from bark_tf.saving import saving

from .checkpoints import read_arrays

CONFIG_NAME, WEIGHTS_NAME = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
# What is read of the configuration, and what stands for what it leaves out.
_KINDS = {
    "use_rslora": bool,
    "lora_alpha": Positive,
    "alpha_pattern": dict[str, Positive],
}
_DEFAULTS = {"use_rslora": False, "lora_alpha": 1, "alpha_pattern": {}}
_MATRICES = {"lora_kernel_a": "lora_B.weight", "lora_kernel_b": "lora_A.weight"}


class Part(NamedTuple):
    """The adapters of a network.

    Attributes:
        prefix: What its tensors start with in a whole Bark, such as `"semantic."`.
        config: Its configuration.
        rank: Rank of the matrices.
        alpha: Their product is scaled by `alpha / rank`.
        arrays: Path of a variable, such as `block_0/attention/qkv/lora_kernel_a`, ->
            its value, float32.
    """

    prefix: str
    config: BarkSubModelConfig
    rank: int
    alpha: float
    arrays: Mapping[str, np.ndarray]


def write_peft(
    parts: Iterable[Part], directory: str | os.PathLike, base: str | None = None
) -> None:
    """Writes the adapters of some networks of a Bark.

    Args:
        parts: The adapters.
        directory: The folder.
        base: Directory or repository id of the base model.
    """
    tensors, ranks, alphas = {}, {}, {}
    for part in parts:
        for ours, theirs in _names(part.config, part.prefix).items():
            if ours in part.arrays:
                tensors[theirs] = np.ascontiguousarray(part.arrays[ours])
                layer = _layer(theirs)
                ranks[layer], alphas[layer] = part.rank, part.alpha
    rank, alpha = next(iter(ranks.values())), next(iter(alphas.values()))
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": list(ranks),
        "rank_pattern": {name: r for name, r in ranks.items() if r != rank},
        "alpha_pattern": {name: a for name, a in alphas.items() if a != alpha},
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    text = json.dumps(config, indent=2) + "\n"
    with saving(directory) as change:
        safetensors.numpy.save_file(
            tensors, change.path / WEIGHTS_NAME, {"format": "pt"}
        )
        (change.path / CONFIG_NAME).write_text(text, encoding="utf-8")


def read_peft(
    directory: str | os.PathLike, prefix: str, config: BarkSubModelConfig
) -> Part:
    """Reads the adapters of a network, from those of a whole Bark or of it alone.

    Args:
        directory: The folder.
        prefix: See `Part`.
        config: The network's configuration.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If the files hold something else, nothing for this network, or
            layers of several ranks or scales.
    """
    directory = Path(directory)
    path = directory / CONFIG_NAME
    settings = {k: v for k, v in read_json_object(path).items() if v is not None}
    check_values({**_DEFAULTS, **settings}, _KINDS, path)
    if settings.get("peft_type") != "LORA" or settings.get("use_dora"):
        raise ValueError(
            f"{directory} must hold LoRA adapters, not of DoRA. Received: "
            f"peft_type={shown(settings.get('peft_type'))}, "
            f"use_dora={shown(settings.get('use_dora'))}"
        )
    tensors = read_arrays(directory / WEIGHTS_NAME)
    whole = any(name.startswith(_PREFIX + prefix) for name in tensors)
    names = _names(config, prefix if whole else "")
    found = {ours: theirs for ours, theirs in names.items() if theirs in tensors}
    scales = {_scale(settings, name, tensors[name]) for name in found.values()}
    if len(scales) != 1:
        raise ValueError(
            f"{directory} must hold adapters of one rank and alpha for the network "
            f"{prefix!r}. Received: (rank, alpha) of {sorted(scales) or 'none'}"
        )
    rank, alpha = scales.pop()
    arrays = {ours: tensors[theirs] for ours, theirs in found.items()}
    return Part(prefix, config, rank, alpha, arrays)


def _names(config: BarkSubModelConfig, prefix: str) -> dict[str, str]:
    """Path of our variable -> name of PEFT's tensor, for every linear layer."""
    names = {}
    for rule in bark.table(config).rules:
        layer, _, kind = rule.ours.rpartition("/")
        if layer.startswith("block_") and kind == "kernel":
            theirs = _PREFIX + prefix + rule.theirs.removesuffix("weight")
            names |= {f"{layer}/{a}": theirs + b for a, b in _MATRICES.items()}
    return names


def _layer(name: str) -> str:
    """The layer of a tensor, as PEFT's configuration calls it."""
    return name.removeprefix(_PREFIX).rsplit(".", 2)[0]


def _scale(settings: Mapping[str, Any], name: str, array: np.ndarray):
    """Rank and alpha of a layer, given one of its matrices."""
    if array.ndim != 2:
        raise ValueError(f"{name} must be a matrix. Received: shape {array.shape}")
    rank = array.shape[not name.endswith(_MATRICES["lora_kernel_b"])]
    alphas = settings.get("alpha_pattern") or {}
    alpha = alphas.get(_layer(name), settings.get("lora_alpha", rank))
    return rank, alpha * math.sqrt(rank) if settings.get("use_rslora") else alpha
