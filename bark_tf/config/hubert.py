"""Configurations of HuBERT and of its quantizer."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

from bark_tf.config.base import Config, frozen_config
from bark_tf.config.encodec import MAX_SAMPLES
from bark_tf.config.fields import Positive, Share, check_field

_Sizes = Annotated[tuple[Annotated[int, "[1, 100_000]"], ...], "[1, 20]"]


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

    hidden_size: Annotated[int, "[1, 100_000]"] = 768
    num_hidden_layers: Annotated[int, "[1, 1_000]"] = 12
    num_attention_heads: Annotated[int, "[1, 1_000]"] = 12
    intermediate_size: Annotated[int, "[1, 1_000_000]"] = 3072
    hidden_act: Literal["gelu"] = "gelu"
    layer_norm_eps: Positive = 1e-5
    initializer_range: Positive = 0.02
    conv_dim: _Sizes = (512,) * 7
    conv_stride: _Sizes = (5, 2, 2, 2, 2, 2, 2)
    conv_kernel: _Sizes = (10, 3, 3, 3, 3, 2, 2)
    conv_bias: Literal[False] = False
    feat_extract_norm: Literal["group"] = "group"
    feat_extract_activation: Literal["gelu"] = "gelu"
    feat_proj_layer_norm: Literal[True] = True
    num_conv_pos_embeddings: Annotated[int, "[1, 100_000]"] = 128
    num_conv_pos_embedding_groups: Annotated[int, "[1, 100_000]"] = 16
    conv_pos_batch_norm: Literal[False] = False
    do_stable_layer_norm: Literal[False] = False
    mask_time_prob: Share = 0.05
    mask_feature_prob: Share = 0.0

    def _check(self) -> None:
        for name in ("num_attention_heads", "num_conv_pos_embedding_groups"):
            is_divisor = self.hidden_size % getattr(self, name) == 0
            expected = f"a divisor of hidden_size={self.hidden_size}"
            check_field(self, name, is_divisor, expected)
        for name in ("conv_stride", "conv_kernel"):
            fits = len(getattr(self, name)) == len(self.conv_dim)
            check_field(self, name, fits, f"{len(self.conv_dim)} numbers, as conv_dim")
        is_short = max(self.hop_length, self.receptive_field) <= MAX_SAMPLES
        expected = f"such that a frame takes at most {MAX_SAMPLES} samples"
        check_field(self, "conv_stride", is_short, expected)

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

    input_size: Annotated[int, "[1, 100_000]"] = 768
    hidden_size: Annotated[int, "[1, 100_000]"] = 1024
    num_layers: Annotated[int, "[1, 100]"] = 2
    intermediate_size: Annotated[int, "[0, 1_000_000]"] = 0
    output_size: Annotated[int, "[1, 10_000_000]"] = 10_000
