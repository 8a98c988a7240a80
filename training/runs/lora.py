"""Low-rank adapters: saved alone, loaded beside a base, added to its kernels.

`model.enable_lora(...)` of a transformer makes them; `fit` then trains nothing else. A
file of adapters holds two matrices per adapted kernel, named by the paths of their
variables (`block_0/attention/qkv/lora_kernel_a`), and in its metadata what they are and
what they were made for. A directory of adapters holds one file per stage,
`semantic.safetensors`, `coarse.safetensors`, `fine.safetensors`.

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from bark_tf.bark import BarkModel
from bark_tf.files import atomic_write
from bark_tf.models.causal import BarkCoarseModel, BarkSemanticModel
from bark_tf.models.fine import BarkFineModel
from bark_tf.models.layers import Projection
from bark_tf.models.transformer import TransformerModel

SUFFIX = ".safetensors"
FORMAT = "bark_tf.lora"
VERSION = 1
STAGES: Mapping[str, type[TransformerModel]] = {
    "semantic": BarkSemanticModel,
    "coarse": BarkCoarseModel,
    "fine": BarkFineModel,
}
_MATRICES = ("lora_kernel_a", "lora_kernel_b")
# Fields of a configuration that decide shapes.
_SIZES = ("hidden_size", "num_layers", "num_heads")
# Numbers of the base by which it is known again.
_SAMPLES = 32
# Twice what storing a weight in bfloat16 changes.
_SAMPLE_TOLERANCE = 2**-7


class Adapters(NamedTuple):
    """What a file of adapters says about itself.

    Attributes:
        stage: `"semantic"`, `"coarse"` or `"fine"`.
        rank: Rank of the matrices.
        alpha: Their product counts `alpha / rank` times.
        targets: Paths of the adapted layers, such as `block_0/attention/qkv`.
        config: The base's configuration.
        samples: Numbers out of the base's embeddings.
    """

    stage: str
    rank: int
    alpha: float
    targets: tuple[str, ...]
    config: dict[str, Any]
    samples: tuple[float, ...]


# === One network ===


def save_lora(model: TransformerModel, path: str | os.PathLike) -> Path:
    """Writes a network's adapters, and nothing of its base.

    Args:
        model: A network with adapters.
        path: Of the file, by custom `STAGE.safetensors`; it appears complete or not at
            all. Its directory is made if missing.

    Returns:
        The path.

    Raises:
        ValueError: If the model has no adapters.

    Example:
        >>> model.enable_lora(16, targets=("qkv",))
        >>> save_lora(model, "adapters/semantic.safetensors")
        PosixPath('adapters/semantic.safetensors')
    """
    from safetensors.numpy import save

    layers = _adapted(model)
    if not layers:
        raise ValueError(
            "save_lora takes a model with LoRA matrices, which enable_lora adds. "
            f"Received: {model.name!r} without any"
        )
    kinds = {(layer.lora_rank, layer.lora_alpha) for layer in layers.values()}
    if len(kinds) > 1:
        raise ValueError(
            "All layers of an adapter must have one rank and alpha. "
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
    arrays = {
        f"{name}/{matrix}": np.array(getattr(layer, matrix).value)
        for name, layer in layers.items()
        for matrix in _MATRICES
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        temporary.write_bytes(save(arrays, _to_metadata(about)))
    return path


def load_lora(model: TransformerModel, path: str | os.PathLike) -> Adapters:
    """Adds the adapters of a file to a base, which stays as it is.

    The adapters can be trained on; what else the model has is frozen.

    Args:
        model: A network without adapters, of the sizes that the file was made for.
        path: What `save_lora` wrote.

    Returns:
        What the file says about itself.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, was made for another stage or other sizes,
            or the model is quantized or has adapters already. The model is unchanged
            then.

    Warns:
        UserWarning: If the adapters were trained beside other weights.
    """
    about, arrays = _read(Path(path))
    _check_fit(model, about, arrays, path)
    if not _is_base(model, about):
        warnings.warn(
            f"The LoRA matrices of {path} were trained beside other weights than "
            f"those of {model.name!r}: they will not do there what they have learned",
            UserWarning,
            stacklevel=2,
        )
    model.enable_lora(about.rank, about.alpha, targets=about.targets)
    for name, layer in _adapted(model).items():
        for matrix in _MATRICES:
            getattr(layer, matrix).assign(arrays[f"{name}/{matrix}"])
    return about


def merge_lora(model: TransformerModel) -> None:
    """Adds the adapters to the kernels and removes them: a plain network again.

    All its weights can be trained, and it is to be compiled again before.

    Args:
        model: A network with adapters.

    Raises:
        ValueError: If the model has none, or its kernels are quantized.
    """
    layers = _adapted(model)
    if not layers:
        raise ValueError(
            "merge_lora takes a model with LoRA matrices. "
            f"Received: {model.name!r} without any"
        )
    if model.quantized:
        raise ValueError(
            "LoRA matrices cannot be added to quantized kernels: merge first, then "
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
    kernel = layer._kernel  # `layer.kernel` is the sum already, in the compute dtype
    merged = tf.cast(kernel, product.dtype) + scale * product
    kernel.assign(tf.cast(merged, kernel.dtype))
    for matrix in _MATRICES:
        # `del` would collect garbage after each, which takes seconds in all.
        layer._untrack_variable(getattr(layer, matrix))
        object.__delattr__(layer, matrix)
    layer.lora_enabled = False
    layer.lora_rank = layer.lora_alpha = None


def stage_of(model: Any) -> str:
    """The stage of a network: `"semantic"`, `"coarse"` or `"fine"`.

    Raises:
        ValueError: If it is none of the three transformers.
    """
    for stage, kind in STAGES.items():
        if isinstance(model, kind):
            return stage
    names = ", ".join(kind.__name__ for kind in STAGES.values())
    raise ValueError(
        f"LoRA is for the transformers {names}. Received: {type(model).__name__}"
    )


def _adapted(model: TransformerModel) -> dict[str, Projection]:
    """The layers that have adapters, by path."""
    stage_of(model)
    return {name: layer for name, layer in model.projections() if layer.lora_enabled}


# === Several stages ===


def save_adapters(
    models: BarkModel | Iterable[TransformerModel], directory: str | os.PathLike
) -> list[str]:
    """Writes the adapters of several stages, one file each.

    Args:
        models: A Bark, or networks of different stages; those without adapters are
            left out.
        directory: Made if missing. Files of other stages stay.

    Returns:
        The stages that were written.

    Raises:
        ValueError: If no model has adapters.
    """
    adapted = {
        stage: model for stage, model in _by_stage(models).items() if _adapted(model)
    }
    if not adapted:
        raise ValueError(
            "save_adapters takes models with LoRA matrices. Received: none"
        )
    for stage, model in adapted.items():
        save_lora(model, Path(directory) / f"{stage}{SUFFIX}")
    return list(adapted)


def load_adapters(
    models: BarkModel | Iterable[TransformerModel], directory: str | os.PathLike
) -> list[str]:
    """Adds the adapters of a directory to the networks that they are for.

    Args:
        models: A Bark, or networks of different stages; those for which there is no
            file stay as they are.
        directory: What `save_adapters` or a training run wrote.

    Returns:
        The stages that have adapters now.

    Raises:
        FileNotFoundError: If there is no file for any of them.
        ValueError: As in `load_lora`; the networks before are changed then.
    """
    paths = {stage: Path(directory) / f"{stage}{SUFFIX}" for stage in _by_stage(models)}
    found = {stage: path for stage, path in paths.items() if path.is_file()}
    if not found:
        names = ", ".join(path.name for path in paths.values())
        raise FileNotFoundError(f"{str(directory)!r} holds none of {names}")
    for stage, path in found.items():
        load_lora(_by_stage(models)[stage], path)
    return list(found)


def _by_stage(models: Any) -> dict[str, TransformerModel]:
    if isinstance(models, BarkModel):
        parts = models.parts.values()
        models = [part for part in parts if isinstance(part, TransformerModel)]
    by_stage: dict[str, TransformerModel] = {}
    for model in models:
        if by_stage.setdefault(stage_of(model), model) is not model:
            raise ValueError(
                "models must be of different stages. "
                f"Received: several of stage {stage_of(model)!r}"
            )
    return by_stage


# === Files ===


def _to_metadata(about: Adapters) -> dict[str, str]:
    fields = {name: json.dumps(value) for name, value in about._asdict().items()}
    return {"format": FORMAT, "version": str(VERSION), **fields}


def read_lora(path: str | os.PathLike) -> Adapters:
    """What a file of adapters says about itself.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is none, or damaged.
    """
    return _read(Path(path))[0]


def _read(path: Path) -> tuple[Adapters, dict[str, np.ndarray]]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise FileNotFoundError(f"There is no file of LoRA matrices at {str(path)!r}")
    try:
        with safe_open(path, framework="numpy") as file:
            about = _from_metadata(file.metadata() or {})
            arrays = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is no file of LoRA matrices: {error}") from error
    expected = {f"{name}/{matrix}" for name in about.targets for matrix in _MATRICES}
    if arrays.keys() != expected:
        different = sorted(expected.symmetric_difference(arrays))
        raise ValueError(
            f"{path} must hold both matrices of every target and nothing else. "
            f"Received: missing or unknown {', '.join(different[:4])}"
        )
    if not all(np.all(np.isfinite(array)) for array in arrays.values()):
        raise ValueError(f"{path} holds values that are not finite")
    return about, arrays


def _from_metadata(metadata: Mapping[str, str]) -> Adapters:
    found = metadata.get("format"), metadata.get("version")
    if found != (FORMAT, str(VERSION)):
        raise ValueError(
            f"its format and version must be {FORMAT} {VERSION}. Received: "
            f"{found[0]} {found[1]}"
        )
    about = Adapters(**{name: json.loads(metadata[name]) for name in Adapters._fields})
    rank_is_right = type(about.rank) is int and about.rank > 0
    if not rank_is_right or not isinstance(about.alpha, int | float):
        raise ValueError(
            "rank must be a positive whole number and alpha a number. "
            f"Received: rank={about.rank!r}, alpha={about.alpha!r}"
        )
    return about._replace(targets=tuple(about.targets), samples=tuple(about.samples))


# === Checks before anything changes ===


def _check_fit(
    model: TransformerModel,
    about: Adapters,
    arrays: Mapping[str, np.ndarray],
    path: str | os.PathLike,
) -> None:
    stage = stage_of(model)
    if about.stage != stage:
        raise ValueError(
            f"{path} holds LoRA matrices of the {about.stage} stage. "
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
            raise ValueError(f"{path} is for a layer {name!r}, which {stage} has not")
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
    """Whether the model's numbers are those of the base, but for their storage."""
    samples = np.array(about.samples)
    difference = np.abs(np.array(_samples(model)) - samples).max()
    return bool(difference <= _SAMPLE_TOLERANCE * np.abs(samples).max())


def _samples(model: TransformerModel) -> tuple[float, ...]:
    """Numbers of the base that no adapter changes: of its position embeddings."""
    table = model.position_embedding.embeddings
    rows, columns = table.shape
    row = np.linspace(0, rows - 1, _SAMPLES).astype(int)
    column = np.linspace(0, columns - 1, _SAMPLES).astype(int)
    values = tf.gather_nd(table.value, np.stack([row, column], axis=1))
    return tuple(tf.cast(values, tf.float32).numpy().tolist())
