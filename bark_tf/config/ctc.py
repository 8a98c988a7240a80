"""Configuration of the speech recogniser behind CTC semantic tokens."""

from __future__ import annotations

import dataclasses
from typing import Annotated, ClassVar

from bark_tf.config.base import Config
from bark_tf.config.fields import Positive, check_field


@dataclasses.dataclass(frozen=True)
class CtcConfig(Config):
    """A small network from log-mel frames to characters.

    Args:
        num_mels: Mel bands of a feature frame.
        stride: Feature frames per token.
        hidden_size: Width of the residual stream.
        num_layers: Blocks of attention, convolution and MLP.
        num_heads: Attention heads; must divide `hidden_size`.
        kernel_size: Taps of the convolutions, an odd number.
        output_size: Symbols, without the blank of CTC. 0: no output layer, for a
            network that only makes hidden states.
        dropout: Probability of dropping a value in training.
        bias: Whether linear layers have biases.
        initializer_range: Standard deviation of initial kernels.
        extra: Keys of the file that are not fields.

    Raises:
        ValueError: If a value is out of range; the message names the field.
    """

    model_type: ClassVar[str] = "ctc"

    num_mels: Annotated[int, "[1, 10_000]"] = 80
    stride: Annotated[int, "[1, 1_000]"] = 2
    hidden_size: Annotated[int, "[1, 100_000]"] = 256
    num_layers: Annotated[int, "[1, 1_000]"] = 4
    num_heads: Annotated[int, "[1, 1_000]"] = 4
    kernel_size: Annotated[int, "[1, 10_000]"] = 15
    output_size: Annotated[int, "[0, 10_000_000]"] = 0
    dropout: Annotated[float, "[0, 1)"] = 0.1
    bias: bool = True
    initializer_range: Positive = 0.02

    def _check(self) -> None:
        is_divisor = self.hidden_size % self.num_heads == 0
        expected = f"a divisor of hidden_size={self.hidden_size}"
        check_field(self, "num_heads", is_divisor, expected)
        check_field(self, "kernel_size", self.kernel_size % 2 == 1, "odd")

    @property
    def head_size(self) -> int:
        """Width of an attention head."""
        return self.hidden_size // self.num_heads
