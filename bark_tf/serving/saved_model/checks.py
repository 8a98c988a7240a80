"""The inputs of the signatures: names, shapes, and what is refused in the graph.

All signatures use the same names for the same things. A refused request fails with
INVALID_ARGUMENT before anything is computed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from bark_tf.generation.options import StageConfigs

_RECEIVED = "Received:"


class Check(NamedTuple):
    """What must hold, and the words and values of the error where it does not."""

    holds: tf.Tensor  # bool, any shape
    words: str
    received: Any


def require(checks: Iterable[Check], tensors: Any) -> Any:
    """The tensors, once all checks hold; else the request fails with the first."""
    before = []
    for check in checks:
        words = [f"{check.words}. {_RECEIVED}", check.received]
        with tf.control_dependencies(before):
            before = [tf.debugging.Assert(tf.reduce_all(check.holds), words)]
    with tf.control_dependencies(before):
        return tf.nest.map_structure(tf.identity, tensors)


class Limits(NamedTuple):
    """The sizes of a model that inputs must respect.

    Attributes:
        text_vocabulary: Text ids lie below this.
        text_length: Most text ids of a row.
        semantic_vocabulary: Semantic tokens lie below this.
        semantic_length: Most semantic tokens that can be generated.
        codebook_size: Codes lie below this.
        num_coarse: Codebooks of the coarse stage.
        num_fine: Codebooks of the fine stage.
    """

    text_vocabulary: int
    text_length: int
    semantic_vocabulary: int
    semantic_length: int
    codebook_size: int
    num_coarse: int
    num_fine: int

    @classmethod
    def of(cls, model: Any, configs: StageConfigs) -> Limits:
        """The limits of a `BarkModel` with these generation configurations."""
        semantic, network = configs.semantic, model.config.semantic_config
        return cls(
            text_vocabulary=network.input_vocab_size - semantic.text_encoding_offset,
            text_length=semantic.max_input_semantic_length,
            semantic_vocabulary=semantic.semantic_vocab_size,
            semantic_length=network.block_size - semantic.max_input_semantic_length,
            codebook_size=configs.codebook_size,
            num_coarse=configs.coarse.n_coarse_codebooks,
            num_fine=configs.fine.n_fine_codebooks,
        )


def specs(limits: Limits) -> dict[str, tf.TensorSpec]:
    """Name -> shape and dtype of every input; each row of a batch has its own."""
    shapes = {
        tf.string: {"text": (), "voice": ()},
        tf.int64: {"seed": ()},
        tf.float32: {
            "temperature": (),
            "semantic_temperature": (),
            "coarse_temperature": (),
            "fine_temperature": (),
            "audio": (None,),
        },
        tf.int32: {
            "input_ids": (None,),
            "attention_mask": (None,),
            "semantic_prompt": (None,),
            "coarse_prompt": (limits.num_coarse, None),
            "fine_prompt": (limits.num_fine, None),
            "num_prompt_tokens": (),
            "num_prompt_frames": (),
            "stream": (),
            "min_new_tokens": (),
            "max_new_tokens": (),
            "semantic": (None,),
            "num_semantic": (),
            "coarse": (limits.num_coarse, None),
            "fine": (limits.num_fine, None),
            "num_frames": (),
            "start": (),
            "num_samples": (),
        },
    }
    return {
        name: tf.TensorSpec((None, *shape), dtype, name)
        for dtype, named in shapes.items()
        for name, shape in named.items()
    }


# Arrays -> the input with the length of each row.
_LENGTHS = {
    "semantic_prompt": "num_prompt_tokens",
    "coarse_prompt": "num_prompt_frames",
    "fine_prompt": "num_prompt_frames",
    "semantic": "num_semantic",
    "coarse": "num_frames",
    "fine": "num_frames",
    "audio": "num_samples",
}


def checked(inputs: Mapping[str, tf.Tensor], limits: Limits) -> dict[str, tf.Tensor]:
    """The inputs of a request, which fails if they do not fit each other or the model.

    Args:
        inputs: Tensors by the names of `specs`.
        limits: `Limits`.
    """
    inputs = require(_shapes(inputs, limits), dict(inputs))
    return require(_values(inputs, limits), inputs)


def _shapes(inputs, limits: Limits) -> Iterator[Check]:
    sizes = tf.stack([tf.shape(tensor)[0] for tensor in inputs.values()])
    names = ", ".join(inputs)
    yield Check(sizes > 0, f"the batch must have rows; {names}", sizes)
    words = f"all inputs must have the same number of rows; {names}"
    yield Check(sizes == sizes[0], words, sizes)
    if "input_ids" in inputs:
        size, mask = (
            tf.shape(inputs[name]) for name in ("input_ids", "attention_mask")
        )
        yield Check(size == mask, "attention_mask must have input_ids' shape", mask)
        most = limits.text_length
        yield Check(size[1] <= most, f"a text must have at most {most} ids", size[1])
    if "coarse_prompt" in inputs and "fine_prompt" in inputs:
        sizes = [tf.shape(inputs[name])[2] for name in ("coarse_prompt", "fine_prompt")]
        words = "coarse_prompt and fine_prompt must have the same frames"
        yield Check(sizes[0] == sizes[1], words, sizes)


def _values(inputs, limits: Limits) -> Iterator[Check]:
    for name, tensor in inputs.items():
        if tensor.dtype == tf.float32 and tensor.shape.rank == 1:
            holds = tf.math.is_finite(tensor) & (tensor >= 0)
            yield Check(holds, f"{name} must be finite and at least 0", tensor)
        elif tensor.dtype == tf.int32 and tensor.shape.rank == 1:
            yield from _whole(name, tensor, inputs, limits)
        elif tensor.dtype == tf.int32 and name != "attention_mask":
            yield from _ids(name, tensor, inputs, limits)
    if "audio" in inputs:
        audio = inputs["audio"]
        yield Check(tf.math.is_finite(audio), "audio must be finite", audio)
    if "num_prompt_tokens" in inputs and "num_prompt_frames" in inputs:
        tokens, frames = inputs["num_prompt_tokens"], inputs["num_prompt_frames"]
        words = "a prompt needs semantic tokens and frames, or neither"
        holds = (tokens > 0) == (frames > 0)
        yield Check(holds, words, tf.stack([tokens, frames]))


def _whole(name, tensor, inputs, limits: Limits) -> Iterator[Check]:
    """Counts are not negative, and not above the array whose rows they measure."""
    yield Check(tensor >= 0, f"{name} must be at least 0", tensor)
    for array, length in _LENGTHS.items():
        if length == name and array in inputs:
            most = tf.shape(inputs[array])[-1]
            words = f"{name} must be at most the length of {array}"
            yield Check(tensor <= most, words, tensor)
    if name == "max_new_tokens":
        most = limits.semantic_length
        yield Check(tensor <= most, f"{name} must be at most {most}", tensor)


def _ids(name, tensor, inputs, limits: Limits) -> Iterator[Check]:
    """Ids and codes that count lie in their vocabulary."""
    vocabularies = {
        "input_ids": limits.text_vocabulary,
        "semantic": limits.semantic_vocabulary,
        "semantic_prompt": limits.semantic_vocabulary,
    }
    most = vocabularies.get(name, limits.codebook_size)
    if name == "input_ids":
        counts = inputs["attention_mask"] != 0
    else:
        length = inputs.get(_LENGTHS[name], tf.fill(tf.shape(tensor)[:1], tf.int32.max))
        counts = tf.sequence_mask(length, tf.shape(tensor)[-1])
    if tensor.shape.rank == 3:
        counts = tf.broadcast_to(counts[:, None], tf.shape(tensor))
    wrong = counts & ((tensor < 0) | (tensor >= most))
    words = f"{name} must lie between 0 and {most - 1}"
    yield Check(~wrong, words, tf.boolean_mask(tensor, wrong))
