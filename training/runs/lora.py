"""LoRA adapters: saved to small files, loaded onto a base model, merged into it.

`model.enable_lora(...)` of a transformer creates adapters; `fit` then trains nothing
else. `bark-tf train` writes one file per stage, `adapters/semantic.safetensors` and so
on. A file holds two matrices per adapted kernel, named by the paths of their variables
(`block_0/attention/qkv/lora_kernel_a`), and metadata about them and their base. Beside
them, `adapter_config.json` and `adapter_model.safetensors` hold the same for PEFT.

Example:
    >>> model = BarkModel.from_pretrained("suno/bark-small")
    >>> load_lora(model.semantic, "my-voice/adapters/semantic.safetensors")

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
import tensorflow as tf

from bark_tf.config.fields import Count, brief, check_values
from bark_tf.convert.file_tensors import LazyTensor
from bark_tf.convert.safetensors_files import write_safetensors
from bark_tf.files import atomic_write, check_file, parse_json_object
from bark_tf.models.causal import BarkCoarseModel, BarkSemanticModel
from bark_tf.models.fine import BarkFineModel
from bark_tf.models.layers import Projection
from bark_tf.models.transformer import TransformerModel
from bark_tf.saving import settle

from . import peft

FORMAT = "bark_tf.lora"
VERSION = 1
STAGES: Mapping[str, type[TransformerModel]] = {
    "semantic": BarkSemanticModel,
    "coarse": BarkCoarseModel,
    "fine": BarkFineModel,
}
_MATRICES = ("lora_kernel_a", "lora_kernel_b")
# Fields of the configuration that determine shapes.
_SIZES = ("hidden_size", "num_layers", "num_heads")
# Number of weights that identify a base.
_SAMPLES = 32
# Twice the relative rounding error of bfloat16.
_SAMPLE_TOLERANCE = 2**-7
# Fields of `Adapters` -> what they must be.
_KINDS = {
    "stage": str,
    "rank": Count,
    "alpha": float,
    "targets": tuple[str, ...],
    "config": dict,
    "samples": tuple[float, ...],
}


class Adapters(NamedTuple):
    """The metadata of a file of adapters.

    Attributes:
        stage: `"semantic"`, `"coarse"` or `"fine"`.
        rank: Rank of the matrices.
        alpha: The product of the matrices is scaled by `alpha / rank`.
        targets: Paths of the adapted layers, such as `block_0/attention/qkv`.
        config: The base's configuration.
        samples: Some values of the base's position embeddings, to recognise it.
    """

    stage: str
    rank: int
    alpha: float
    targets: tuple[str, ...]
    config: dict[str, Any]
    samples: tuple[float, ...]


def save_lora(model: TransformerModel, path: str | os.PathLike) -> Path:
    """Writes a network's adapters, without its base.

    Args:
        model: A network with adapters.
        path: The file, usually `STAGE.safetensors`. Its directory is created if
            missing.

    Returns:
        The path.

    Raises:
        ValueError: If the model has no adapters.

    Example:
        >>> model.enable_lora(16, targets=("qkv",))
        >>> save_lora(model, "adapters/semantic.safetensors")
        PosixPath('adapters/semantic.safetensors')
    """
    layers = _adapted(model)
    if not layers:
        raise ValueError(
            "save_lora needs a model with LoRA adapters, which enable_lora adds. "
            f"Received: {model.name!r} without any"
        )
    kinds = {(layer.lora_rank, layer.lora_alpha) for layer in layers.values()}
    if len(kinds) > 1:
        raise ValueError(
            "All adapted layers must have the same rank and alpha. "
            f"Received: (rank, alpha) of {sorted(kinds)}"
        )
    rank, alpha = kinds.pop()
    about = Adapters(
        stage=stage_of(model),
        rank=rank,
        alpha=alpha,
        targets=tuple(layers),
        config=model.config.to_dict(),
        samples=_samples(model),
    )
    tensors = [
        LazyTensor.constant(f"{name}/{matrix}", getattr(layer, matrix).numpy)
        for name, layer in layers.items()
        for matrix in _MATRICES
    ]
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # In our own writer the metadata keeps its order; in the package's it is random.
    with atomic_write(path) as temporary:
        write_safetensors(temporary, tensors, _to_metadata(about))
    return path


def save_peft(directory: str | os.PathLike, base: str | None = None) -> None:
    """Writes the adapters of all stages in a folder in PEFT's files too.

    Args:
        directory: Folder of files from `save_lora`, named `STAGE.safetensors`.
        base: Directory or repository id of the base model, for PEFT's configuration.
    """
    parts = []
    for stage, kind in STAGES.items():
        path = Path(directory) / f"{stage}.safetensors"
        if path.is_file():
            about, arrays = _read(path)
            config = kind.config_class.from_dict(about.config)
            prefix = kind.checkpoint_prefix
            parts.append(peft.Part(prefix, config, about.rank, about.alpha, arrays))
    peft.write_peft(parts, directory, base)


def load_lora(model: TransformerModel, path: str | os.PathLike) -> Adapters:
    """Loads adapters onto a base model.

    The adapters can be trained further; the base's own weights are frozen.

    Args:
        model: A network without adapters, of the sizes that the file was made for.
        path: A file from `save_lora`, a folder with such a file for the model's stage,
            or a folder of PEFT's.

    Returns:
        The file's metadata.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is damaged or for another stage or other sizes, or the
            model is quantized or has adapters already. The model is left unchanged.

    Warns:
        UserWarning: If the adapters were trained on another base.
    """
    path = Path(path)
    for folder in (path, *path.parents[:2]):  # the adapters', and the checkpoint's
        settle(folder)
    own = path / f"{stage_of(model)}.safetensors"
    if path.is_dir() and not own.is_file():
        about, arrays = _read_peft(model, path)
    else:
        path = own if path.is_dir() else path
        about, arrays = _read(path)
    _check_fit(model, about, arrays, path)
    if not _is_base(model, about):
        warnings.warn(
            f"The LoRA adapters of {path} were trained on other weights than those "
            f"of {model.name!r}, so they will not work as trained",
            UserWarning,
            stacklevel=2,
        )
    model.enable_lora(about.rank, about.alpha, targets=about.targets)
    for name, layer in _adapted(model).items():
        for matrix in _MATRICES:
            getattr(layer, matrix).assign(arrays[f"{name}/{matrix}"])
    return about


def merge_lora(model: TransformerModel) -> None:
    """Merges the adapters into the kernels, which gives a plain network.

    All its weights are trainable again. Compile it again before training.

    Args:
        model: A network with adapters.

    Raises:
        ValueError: If the model has no adapters, or its kernels are quantized.
    """
    layers = _adapted(model)
    if not layers:
        raise ValueError(
            "merge_lora needs a model with LoRA adapters. "
            f"Received: {model.name!r} without any"
        )
    if model.quantized:
        raise ValueError(
            "LoRA adapters cannot be merged into quantized kernels: merge first, then "
            f"quantize. Received: a model quantized to {model.quantized}"
        )
    for layer in layers.values():
        _merge(layer)
    for weight in model.weights:
        weight.trainable = True
    model.forget_programs()


def _merge(layer: Projection) -> None:
    product = tf.matmul(layer.lora_kernel_a, layer.lora_kernel_b)
    scale = layer.lora_alpha / layer.lora_rank
    kernel = layer._kernel  # `layer.kernel` is merged, in the compute dtype
    merged = tf.cast(kernel, product.dtype) + scale * product
    kernel.assign(tf.cast(merged, kernel.dtype))
    for matrix in _MATRICES:
        # `del` would collect garbage each time, which adds up to seconds.
        layer._untrack_variable(getattr(layer, matrix))
        object.__delattr__(layer, matrix)
    layer.lora_enabled = False
    layer.lora_rank = layer.lora_alpha = None


def stage_of(model: Any) -> str:
    """The stage of a network: `"semantic"`, `"coarse"` or `"fine"`.

    Raises:
        ValueError: If it is not one of the three transformers.
    """
    for stage, kind in STAGES.items():
        if isinstance(model, kind):
            return stage
    names = ", ".join(kind.__name__ for kind in STAGES.values())
    raise ValueError(
        f"LoRA is for the transformers {names}. Received: {type(model).__name__}"
    )


def _adapted(model: TransformerModel) -> dict[str, Projection]:
    """Path -> layer, of the layers with adapters."""
    stage_of(model)
    return {name: layer for name, layer in model.projections() if layer.lora_enabled}


# === Files ===


def _to_metadata(about: Adapters) -> dict[str, str]:
    fields = {name: json.dumps(value) for name, value in about._asdict().items()}
    return {"format": FORMAT, "version": str(VERSION), **fields}


def _read(path: Path) -> tuple[Adapters, dict[str, np.ndarray]]:
    if not path.is_file():
        raise FileNotFoundError(f"There is no file of LoRA adapters {str(path)!r}")
    check_file(path)
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            about = _from_metadata(file.metadata() or {})
            arrays = {name: file.get_tensor(name) for name in file.keys()}
    except (safetensors.SafetensorError, ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path} is not a file of LoRA adapters: {brief(error)}"
        ) from error
    return about, arrays


def _read_peft(model, path: Path) -> tuple[Adapters, Mapping[str, np.ndarray]]:
    part = peft.read_peft(path, model.checkpoint_prefix, model.config)
    targets = dict.fromkeys(name.rpartition("/")[0] for name in part.arrays)
    config = model.config.to_dict()
    about = Adapters(
        stage_of(model), part.rank, part.alpha, tuple(targets), config, samples=()
    )
    return about, part.arrays


def _from_metadata(metadata: Mapping[str, str]) -> Adapters:
    found = metadata.get("format"), metadata.get("version")
    if found != (FORMAT, str(VERSION)):
        raise ValueError(
            f"its format and version must be {FORMAT} {VERSION}. Received: "
            f"{found[0]} {found[1]}"
        )
    values = {}
    for name in Adapters._fields:
        where = f"its {name}"
        value = parse_json_object(f'{{"{name}": {metadata[name]}}}', where)[name]
        values[name] = tuple(value) if isinstance(value, list) else value
    check_values(values, _KINDS, "its metadata")
    if len(values["samples"]) not in (0, _SAMPLES):
        raise ValueError(f"it must hold {_SAMPLES} samples of its base")
    return Adapters(**values)


# === Checks ===


def _check_fit(
    model: TransformerModel,
    about: Adapters,
    arrays: Mapping[str, np.ndarray],
    path: str | os.PathLike,
) -> None:
    expected = {f"{name}/{matrix}" for name in about.targets for matrix in _MATRICES}
    if arrays.keys() != expected:
        different = sorted(expected.symmetric_difference(arrays))
        raise ValueError(
            f"{path} must hold both matrices of every target and nothing else. "
            f"Received: missing or unknown {', '.join(map(brief, different[:4]))}"
        )
    for name, array in arrays.items():
        # bfloat16 is no float for NumPy.
        if array.dtype.kind in "biuc" or not np.all(np.isfinite(array)):
            raise ValueError(f"{path}: {name} holds values that are not finite floats")
    stage = stage_of(model)
    if about.stage != stage:
        raise ValueError(
            f"{path} holds LoRA adapters of the {about.stage} stage. "
            f"Received: a model of the {stage} stage"
        )
    for field in _SIZES:
        wanted, found = about.config.get(field), getattr(model.config, field)
        if wanted != found:
            raise ValueError(
                f"{path} was made for a model with {field}={wanted}. "
                f"Received: one with {field}={found}"
            )
    layers = dict(model.projections())
    for name in about.targets:
        if name not in layers:
            raise ValueError(
                f"{path} is for a layer {name!r}, which the {stage} model lacks"
            )
        rows, columns = layers[name].kernel.shape
        shapes = ((rows, about.rank), (about.rank, columns))
        for matrix, shape in zip(_MATRICES, shapes, strict=True):
            found = arrays[f"{name}/{matrix}"].shape
            if found != shape:
                raise ValueError(
                    f"{path}: {name}/{matrix} must have shape {shape}. "
                    f"Received: {found}"
                )


def _is_base(model: TransformerModel, about: Adapters) -> bool:
    """Whether the model has the base's weights, up to the precision of storage.

    PEFT's files do not say.
    """
    if not about.samples:
        return True
    samples = np.array(about.samples)
    difference = np.abs(np.array(_samples(model)) - samples).max()
    return bool(difference <= _SAMPLE_TOLERANCE * np.abs(samples).max())


def _samples(model: TransformerModel) -> tuple[float, ...]:
    """Some values of the position embeddings, which adapters do not change."""
    table = model.position_embedding.embeddings
    rows, columns = table.shape
    row = np.linspace(0, rows - 1, _SAMPLES).astype(int)
    column = np.linspace(0, columns - 1, _SAMPLES).astype(int)
    values = tf.gather_nd(table.value, np.stack([row, column], axis=1))
    return tuple(tf.cast(values, tf.float32).numpy().tolist())
