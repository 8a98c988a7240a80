"""Conversion is a table that maps our variables to the tensors of a checkpoint.

A `Rule` maps the path of a Keras variable below its model, such as
`block_0/attention/qkv/kernel`, to the name of a tensor, with an invertible `Operation`
between them, so the same table reads and writes. A `Table` also lists what else a
checkpoint holds: second names of the same tensor, and constants.

Tables come from the same loops as the architecture (`bark.py`, `encodec.py`, ...).
`fit` guarantees that each variable is written once with its exact shape, and that each
tensor is used or listed as dropped.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from typing import Any, NamedTuple

import numpy as np

from bark_tf.config.fields import brief

from .file_tensors import DTYPES, LazyTensor, all_finite, is_floating

Shapes = Mapping[str, tuple[int, ...]]  # name or path -> shape

# === Tables ===


class Operation(NamedTuple):
    """A lossless change of layout and its inverse."""

    name: str
    to_ours: Callable[[np.ndarray], np.ndarray]
    to_theirs: Callable[[np.ndarray], np.ndarray]


def _reverse_axes(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.transpose(array))


KEEP = Operation("KEEP", lambda array: array, lambda array: array)
REVERSE_AXES = Operation("REVERSE_AXES", _reverse_axes, _reverse_axes)


class Rule(NamedTuple):
    """A variable of ours and the tensor of theirs that holds it.

    Attributes:
        ours: Path of the variable.
        theirs: Name of the tensor.
        shape: Shape of ours, which follows from the configuration: what a file holds
            is compared with it before a network is built.
        operation: Turns theirs into ours.
    """

    ours: str
    theirs: str
    shape: tuple[int, ...]
    operation: Operation = KEEP

    def convert_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Turns the shape of ours into that of theirs, and the other way round."""
        return shape if self.operation is KEEP else shape[::-1]


class Table(NamedTuple):
    """Everything that a checkpoint of one model holds.

    Attributes:
        rules: One rule per variable.
        aliases: Second name -> first name of a tensor stored twice (tied heads). Read
            if the first name is missing.
        constants: Name -> function that makes a tensor without a variable (causal
            masks). Dropped on reading, made again on writing.
        dropped: Unused tensors (heads for pretraining). Neither read nor written.
    """

    rules: tuple[Rule, ...]
    aliases: Mapping[str, str] = {}
    constants: Mapping[str, Callable[[], np.ndarray]] = {}
    dropped: frozenset[str] = frozenset()

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Path -> shape of our variables."""
        return {rule.ours: rule.shape for rule in self.rules}

    @property
    def num_values(self) -> int:
        """Number of values in all our variables."""
        return sum(math.prod(rule.shape) for rule in self.rules)

    def below(self, ours: str, theirs: str) -> Table:
        """The same table with prefixes, for a model that is part of a larger one."""
        return Table(
            tuple(
                rule._replace(ours=ours + rule.ours, theirs=theirs + rule.theirs)
                for rule in self.rules
            ),
            {theirs + a: theirs + b for a, b in self.aliases.items()},
            {theirs + name: make for name, make in self.constants.items()},
            frozenset(theirs + name for name in self.dropped),
        )


def join(*tables: Table) -> Table:
    """Joins the tables of several models."""
    return Table(
        tuple(rule for table in tables for rule in table.rules),
        {a: b for table in tables for a, b in table.aliases.items()},
        {name: make for table in tables for name, make in table.constants.items()},
        frozenset(name for table in tables for name in table.dropped),
    )


def linear(
    ours: str, theirs: str, shape: tuple[int, int], has_bias: bool = True
) -> Iterator[Rule]:
    """The rules of a linear layer, whose kernel both sides store as (out, in)."""
    yield Rule(f"{ours}/kernel", f"{theirs}.weight", shape)
    if has_bias:
        yield Rule(f"{ours}/bias", f"{theirs}.bias", shape[:1])


def norm(ours: str, theirs: str, size: int, has_bias: bool = True) -> Iterator[Rule]:
    """The rules of a layer norm or group norm."""
    yield Rule(f"{ours}/gamma", f"{theirs}.weight", (size,))
    if has_bias:
        yield Rule(f"{ours}/beta", f"{theirs}.bias", (size,))


# === Names ===

_WRAPPERS = re.compile(r"(^|(?<=\.))(_orig_mod|module)\.")
_NEW_WEIGHT_NORM = re.compile(r"\.parametrizations\.weight\.original([01])$")


def canonical_name(name: str) -> str:
    """Removes the differences between writers of the same checkpoint.

    These are the `_orig_mod.` of compiled torch modules, the `module.` of those that
    were trained on several devices, and torch's newer names for the two halves of a
    weight norm.

    Example:
        >>> canonical_name("_orig_mod.conv.parametrizations.weight.original0")
        'conv.weight_g'
    """
    name = _WRAPPERS.sub("", name)
    return _NEW_WEIGHT_NORM.sub(lambda m: f".weight_{'gv'[int(m[1])]}", name)


def variables_of(model: Any) -> dict[str, Any]:
    """The weights of a built Keras model or layer, by path.

    Returns:
        Path below the model, such as `decoder/input_conv/bias` -> variable.

    Raises:
        ValueError: If the model has LoRA adapters or is quantized, which no checkpoint
            can hold.
    """
    prefix = f"{model.path}/"
    variables = {weight.path.removeprefix(prefix): weight for weight in model.weights}
    if any("/lora_kernel_" in path for path in variables):
        raise ValueError(
            f"{model.name} has LoRA adapters, which a checkpoint cannot hold: save "
            "them alone with bark_tf.training.save_lora, or merge them with "
            "merge_lora first"
        )
    if any(path.endswith("/kernel_scale") for path in variables):
        raise ValueError(
            f"{model.name} is quantized, which a checkpoint cannot hold: "
            "save the network before it is quantized, and load it with "
            'from_pretrained(..., quantize="int8"); or save a file of Keras with '
            "save('name.keras')"
        )
    return variables


# === Reading ===

# What makes up most of a Bark: of such tensors, only some rows are checked if larger.
_LARGE = re.compile(r"block_\d+/.*/kernel|token_embedding/embeddings")
_SMALL_BYTES = 2**20
_CHECKED_ROWS = 16


class MisfitError(ValueError):
    """A checkpoint that does not hold what a table says.

    Attributes:
        shape: Whether a tensor has another shape; else some are missing or unknown.
        tensors: The first of them.
    """

    def __init__(self, message: str, shape: bool, *tensors: str):
        super().__init__(message)
        self.shape, self.tensors = shape, tensors


def fit(
    table: Table, checkpoint: Any, *, prefix: str = "", source: str = "the checkpoint"
) -> dict[str, str]:
    """Finds the tensors of a table in a checkpoint that must hold exactly these.

    Args:
        table: What the checkpoint should hold.
        checkpoint: `Checkpoint`; no tensor is read.
        prefix: Considers only names that start with this and removes it, to read one
            part of a whole Bark.
        source: Named in errors.

    Returns:
        Name in the table -> stored name, for all rules and all aliases that exist.

    Raises:
        ValueError: If a tensor is missing, unknown, stored twice, of another shape or
            not of floating-point numbers. The message names the tensors.
    """
    stored = _stored_names(checkpoint, prefix, source)
    for second, first in table.aliases.items():
        if second in stored:
            stored.setdefault(first, stored[second])
    wanted = {rule.theirs for rule in table.rules} | table.aliases.keys()
    missing = wanted - table.aliases.keys() - stored.keys()
    unknown = stored.keys() - wanted - table.constants.keys() - table.dropped
    if missing or unknown:
        what = [f"lacks {_some(missing, prefix)}"] if missing else []
        what += [f"has no place for {_some(unknown, prefix)}"] if unknown else []
        raise MisfitError(
            f"{source} does not fit the model: it {'; it '.join(what)}",
            False,
            *_in_order(missing)[-1:],
            *_in_order(unknown)[:1],
        )
    for rule in table.rules:
        name = stored[rule.theirs]
        shape, dtype = tuple(checkpoint.shape(name)), checkpoint.dtype(name)
        expected = rule.convert_shape(rule.shape)
        if shape != expected:
            raise MisfitError(
                f"{source} does not fit the model: tensor {prefix + rule.theirs!r} has "
                f"shape {shape}, expected {expected}",
                True,
                rule.theirs,
            )
        if not is_floating(dtype):
            raise ValueError(
                f"{source} is damaged or quantized: tensor {prefix + rule.theirs!r} "
                f"must hold floating-point numbers. Received: {dtype}"
            )
    return {name: stored[name] for name in stored.keys() & wanted}


def _stored_names(checkpoint: Any, prefix: str, source: str) -> dict[str, str]:
    """Canonical name without the prefix -> stored name."""
    stored: dict[str, str] = {}
    for name in checkpoint.names():
        canonical = canonical_name(name)
        if canonical.startswith(prefix):
            first = stored.setdefault(canonical[len(prefix) :], name)
            if first != name:
                raise ValueError(
                    f"{source} holds one tensor twice: as {first!r} and {name!r}"
                )
    return stored


def _in_order(names: Set[str]) -> list[str]:
    """Names sorted by the numbers in them, so that layer 10 comes after layer 9."""
    return sorted(names, key=lambda name: re.sub(r"\d+", _padded, name))


def _padded(number: re.Match) -> str:
    return number[0].zfill(9)


def _some(names: Set[str], prefix: str) -> str:
    some = ", ".join(prefix + brief(name) for name in _in_order(names)[:5])
    return some + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def read(
    table: Table, checkpoint: Any, *, prefix: str = "", source: str = "the checkpoint"
) -> Iterator[tuple[str, np.ndarray]]:
    """Reads a checkpoint, one tensor at a time.

    Some rows of the transformers' kernels and of the largest embeddings are checked for
    NaN and infinity, and every value of all else: a whole Bark is not read twice.

    Args:
        table: What the checkpoint should hold.
        checkpoint: `Checkpoint`.
        prefix: See `fit`.
        source: Named in errors.

    Yields:
        The path of our variable, and its value.

    Raises:
        ValueError: See `fit`; or if a tensor holds NaN or infinity.
    """
    stored = fit(table, checkpoint, prefix=prefix, source=source)
    for rule in table.rules:
        name = stored[rule.theirs]
        array = checkpoint.read(name)
        is_large = array.nbytes > _SMALL_BYTES and _LARGE.fullmatch(rule.ours)
        every = max(1, len(array) // _CHECKED_ROWS) if is_large else 1
        if not all_finite(array, every):
            raise ValueError(
                f"{source} is damaged: tensor {name!r} holds NaN or infinity. If it "
                "was converted to float16, convert it again, to bfloat16 or float32"
            )
        yield rule.ours, rule.operation.to_ours(array)


def load(table: Table, variables: Mapping[str, Any], *args: Any, **options) -> None:
    """Reads a checkpoint into Keras variables; see `read`.

    Args:
        table: What the checkpoint should hold.
        variables: Path -> Keras variable, all of one model.
        *args: Of `read`.
        **options: Of `read`.

    Raises:
        ValueError: See `fit`; no variable has been changed. Or see `read`.
    """
    _check_variables(table, variables)
    # Late, so that converting from file to file does not load TensorFlow.
    from bark_tf.memory import put

    for path, array in read(table, *args, **options):
        put(variables[path], array, share=True)


# === Writing ===


def tensors(table: Table, variables: Mapping[str, Any]) -> Iterator[LazyTensor]:
    """Yields the tensors of a model's checkpoint in table order, without aliases.

    Args:
        table: The model's table.
        variables: Path -> Keras variable, all of one model.
    """
    _check_variables(table, variables)
    for rule in table.rules:
        variable = variables[rule.ours]
        make = functools.partial(_theirs, rule.operation, variable)
        shape = rule.convert_shape(tuple(variable.shape))
        yield LazyTensor(rule.theirs, shape, DTYPES[variable.dtype], make)
    for name, make in table.constants.items():
        yield LazyTensor.constant(name, make)


def _theirs(operation: Operation, variable: Any) -> np.ndarray:
    return operation.to_theirs(np.asarray(variable.value))


def _check_variables(table: Table, variables: Iterable[str]) -> None:
    """Raises RuntimeError: a table without one of our variables is our own bug."""
    ruled = [rule.ours for rule in table.rules]
    if len(ruled) != len(set(ruled)) or set(ruled) != set(variables):
        difference = sorted(set(ruled).symmetric_difference(variables))
        raise RuntimeError(f"The conversion table and the model differ: {difference}")
