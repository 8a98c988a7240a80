"""What the networks return."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import optree


class ModelOutput(OrderedDict):
    """A mapping whose fields are also read as attributes or by position.

    Fields that are None are left out, so `output[0]` is the loss when labels were
    given and the logits otherwise, as in Hugging Face's outputs. Keras and `tf.nest`
    see a structure of its fields.

    Example:
        >>> output = ModelOutput(loss=None, logits=1)
        >>> output.logits, output["logits"], output[0], output.loss
        (1, 1, 1, None)
    """

    # Read as None when they are absent.
    FIELDS = ("loss", "logits", "past_key_values", "hidden_states", "attentions")

    def __init__(self, *args: Any, **kwargs: Any):
        values = OrderedDict(*args, **kwargs)
        super().__init__((k, v) for k, v in values.items() if v is not None)

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return super().__getitem__(name)
        if name in self.FIELDS:
            return None
        raise AttributeError(f"The output has no field {name!r}. It has: {list(self)}")

    def __getitem__(self, key: str | int | slice) -> Any:
        if isinstance(key, str):
            return super().__getitem__(key)
        return self.to_tuple()[key]

    def to_tuple(self) -> tuple[Any, ...]:
        """The fields that are present, in order."""
        return tuple(super(ModelOutput, self).__getitem__(key) for key in self)


def _unflatten(names: tuple[str, ...], values: Iterable[Any]) -> ModelOutput:
    output = ModelOutput()
    for name, value in zip(names, values, strict=True):
        output[name] = value  # keeps None, which stands for a leaf
    return output


optree.register_pytree_node(
    ModelOutput,
    lambda output: (output.to_tuple(), tuple(output), tuple(output)),
    _unflatten,
    namespace="keras",
)
