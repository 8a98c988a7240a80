"""Configurations of HuBERT and of its quantizer."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

from bark_tf.config.base import Config, check_field, check_whole, frozen_config


@frozen_config
class HubertConfig(Config):
    """HuBERT, a speech encoder; the defaults are HuBERT base.

    Only the architecture of HuBERT base is implemented: one group norm after the first
    convolution, layer norms after each half of a transformer layer.

    Args:
        hidden_size: Width of the residual stream.
        num_hidden_layers: Transformer layers.
        num_attention_heads: Attention heads; must divide `hidden_size`.
        intermediate_size: Width inside the MLPs.
        hidden_act: `"gelu"`.
        layer_norm_eps: Added to the variances of the layer norms.
        initializer_range: Standard deviation of initial kernels.
        conv_dim: Channels of each convolution of the front end.
        conv_stride: Their strides; the product is 320 samples.
        conv_kernel: Their kernel sizes.
        conv_bias: False.
        feat_extract_norm: `"group"`, after the first convolution.
        feat_extract_activation: `"gelu"`.
        feat_proj_layer_norm: True.
        num_conv_pos_embeddings: Kernel size of the positional convolution.
        num_conv_pos_embedding_groups: Its groups; must divide `hidden_size`.
        conv_pos_batch_norm: False; that convolution has weight norm.
        do_stable_layer_norm: False.
        mask_time_prob: Fraction of frames masked in pretraining. Unused here, but if
            both are 0 the checkpoint has no mask embedding.
        mask_feature_prob: Fraction of channels masked in pretraining.
        extra: Keys of the file that are not fields.

    Raises:
        ValueError: If a value is out of range or asks for another architecture, such
            as HuBERT large's; the message names the field.
    """

    model_type: ClassVar[str] = "hubert"

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    conv_dim: tuple[int, ...] = (512,) * 7
    conv_stride: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    conv_kernel: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_bias: bool = False
    feat_extract_norm: str = "group"
    feat_extract_activation: str = "gelu"
    feat_proj_layer_norm: bool = True
    num_conv_pos_embeddings: int = 128
    num_conv_pos_embedding_groups: int = 16
    conv_pos_batch_norm: bool = False
    do_stable_layer_norm: bool = False
    mask_time_prob: float = 0.05
    mask_feature_prob: float = 0.0

    def _check(self) -> None:
        check_whole(
            self,
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
            "num_conv_pos_embeddings",
            "num_conv_pos_embedding_groups",
        )
        for name in ("num_attention_heads", "num_conv_pos_embedding_groups"):
            is_divisor = self.hidden_size % getattr(self, name) == 0
            expected = f"a divisor of hidden_size={self.hidden_size}"
            check_field(self, name, is_divisor, expected)
        for name in ("conv_dim", "conv_stride", "conv_kernel"):
            values = getattr(self, name)
            check_field(
                self,
                name,
                len(values) == len(self.conv_dim) > 0
                and all(type(value) is int and value >= 1 for value in values),
                "as many whole numbers of at least 1 as there are convolutions",
            )
        for name in ("layer_norm_eps", "initializer_range"):
            check_field(self, name, getattr(self, name) > 0, "positive")
        for name in ("mask_time_prob", "mask_feature_prob"):
            value = getattr(self, name)
            is_share = isinstance(value, int | float) and 0 <= value <= 1
            check_field(self, name, is_share, "in [0, 1]")
        for field in dataclasses.fields(self):
            is_base = getattr(self, field.name) == field.default
            if field.type in ("bool", "str"):
                expected = f"{field.default!r} as in HuBERT base"
                check_field(self, field.name, is_base, expected)

    @property
    def hop_length(self) -> int:
        """Samples from one frame to the next: 320 by default."""
        return math.prod(self.conv_stride)

    @property
    def receptive_field(self) -> int:
        """Samples that a frame depends on in the convolutions: 400 by default."""
        field = 1
        for kernel, stride in zip(
            reversed(self.conv_kernel), reversed(self.conv_stride), strict=True
        ):
            field = (field - 1) * stride + kernel
        return field

    @property
    def has_mask_embedding(self) -> bool:
        """Whether a checkpoint has the embedding of masked frames."""
        return self.mask_time_prob > 0 or self.mask_feature_prob > 0


@frozen_config
class HubertQuantizerConfig(Config):
    """The network that turns HuBERT's frames into Bark's semantic tokens.

    Args:
        input_size: Width of a frame.
        hidden_size: Width of the LSTMs.
        num_layers: Stacked LSTMs.
        intermediate_size: Width of an extra linear layer before the last one, 0 for
            none. The community's quantizers of version 1 have it, of version 0 not.
        output_size: Number of semantic tokens.
        extra: Keys of the file that are not fields.

    Raises:
        ValueError: If a value is out of range; the message names the field.
    """

    model_type: ClassVar[str] = "hubert_quantizer"

    input_size: int = 768
    hidden_size: int = 1024
    num_layers: int = 2
    intermediate_size: int = 0
    output_size: int = 10_000

    def _check(self) -> None:
        check_whole(self, "input_size", "hidden_size", "num_layers", "output_size")
        check_whole(self, "intermediate_size", minimum=0)
