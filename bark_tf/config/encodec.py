"""The configuration of the codec.

Source: Hugging Face transformers, model `encodec`, 4.31 to 5.x.
"""

from __future__ import annotations

import math
from typing import ClassVar

from bark_tf.config.base import Config, check_field, check_whole, frozen_config


@frozen_config
class EncodecConfig(Config):
    """The EnCodec codec; the defaults are the 24 kHz model that Bark uses.

    Args:
        target_bandwidths: Bit rates in kbit/s that the codec was trained for.
        sampling_rate: Samples per second.
        audio_channels: 1 or 2.
        normalize: Whether audio is scaled to unit level before encoding.
        chunk_length_s: Seconds per chunk, or None for the whole audio at once.
        overlap: Fraction of a chunk that the next one repeats.
        hidden_size: Channels of the latent between encoder, quantizer and decoder.
        num_filters: Channels of the outermost convolution.
        num_residual_layers: Residual units per stride.
        upsampling_ratios: Strides of the decoder; reversed in the encoder.
        norm_type: `"weight_norm"` or `"time_group_norm"`.
        kernel_size: Kernel of the first convolution.
        last_kernel_size: Kernel of the last convolution.
        residual_kernel_size: Kernel of the residual units.
        dilation_growth_rate: Residual unit j has this to the power j as its dilation.
        use_causal_conv: Whether convolutions pad on the left only.
        pad_mode: How convolutions pad: `"reflect"`, `"constant"`, `"edge"` or
            `"replicate"`.
        compress: Factor by which residual units narrow inside.
        num_lstm_layers: Stacked LSTMs between the convolutions and the latent.
        trim_right_ratio: How much of a transposed convolution's trim is on the right,
            in [0, 1].
        codebook_size: Entries per codebook.
        codebook_dim: Width of an entry; None means `hidden_size`.
        use_conv_shortcut: Whether the shortcut of a residual unit is a convolution.
        extra: Keys of the file that are not fields.

    Raises:
        ValueError: If a value is out of range; the message names the field.
    """

    model_type: ClassVar[str] = "encodec"
    part: ClassVar[str] = "codec_config"

    target_bandwidths: tuple[float, ...] = (1.5, 3.0, 6.0, 12.0, 24.0)
    sampling_rate: int = 24_000
    audio_channels: int = 1
    normalize: bool = False
    chunk_length_s: float | None = None
    overlap: float | None = None
    hidden_size: int = 128
    num_filters: int = 32
    num_residual_layers: int = 1
    upsampling_ratios: tuple[int, ...] = (8, 5, 4, 2)
    norm_type: str = "weight_norm"
    kernel_size: int = 7
    last_kernel_size: int = 7
    residual_kernel_size: int = 3
    dilation_growth_rate: int = 2
    use_causal_conv: bool = True
    pad_mode: str = "reflect"
    compress: int = 2
    num_lstm_layers: int = 2
    trim_right_ratio: float = 1.0
    codebook_size: int = 1024
    codebook_dim: int | None = None
    use_conv_shortcut: bool = True

    def __post_init__(self):
        if self.codebook_dim is None:
            self._set("codebook_dim", self.hidden_size)
        super().__post_init__()

    def _check(self) -> None:
        check_whole(
            self,
            "sampling_rate",
            "hidden_size",
            "num_filters",
            "num_residual_layers",
            "kernel_size",
            "last_kernel_size",
            "residual_kernel_size",
            "dilation_growth_rate",
            "compress",
            "codebook_size",
            "codebook_dim",
        )
        check_whole(self, "num_lstm_layers", minimum=0)
        check_field(self, "audio_channels", self.audio_channels in (1, 2), "1 or 2")
        check_field(
            self,
            "norm_type",
            self.norm_type in ("weight_norm", "time_group_norm"),
            '"weight_norm" or "time_group_norm"',
        )
        check_field(
            self,
            "upsampling_ratios",
            len(self.upsampling_ratios) > 0 and min(self.upsampling_ratios) >= 1,
            "whole numbers of at least 1",
        )
        check_field(
            self,
            "target_bandwidths",
            len(self.target_bandwidths) > 0 and min(self.target_bandwidths) > 0,
            "positive bit rates in kbit/s",
        )
        check_field(
            self,
            "pad_mode",
            self.pad_mode in ("reflect", "constant", "edge", "replicate"),
            '"reflect", "constant", "edge" or "replicate"',
        )
        check_field(
            self, "trim_right_ratio", 0 <= self.trim_right_ratio <= 1, "in [0, 1]"
        )
        check_field(
            self,
            "codebook_dim",
            self.codebook_dim == self.hidden_size,
            f"hidden_size={self.hidden_size}",
        )
        check_field(
            self,
            "num_filters",
            self.num_filters >= self.compress,
            f"at least compress={self.compress}",
        )
        check_field(
            self,
            "trim_right_ratio",
            self.use_causal_conv or self.trim_right_ratio == 1,
            "1.0 when use_causal_conv is False",
        )

    @property
    def hop_length(self) -> int:
        """Samples per frame: 8 * 5 * 4 * 2 = 320 by default."""
        return math.prod(self.upsampling_ratios)

    @property
    def frame_rate(self) -> int:
        """Frames per second: 75 by default."""
        return math.ceil(self.sampling_rate / self.hop_length)

    @property
    def codebook_nbits(self) -> int:
        """Bits per code: 10 by default."""
        return math.ceil(math.log2(self.codebook_size))

    @property
    def num_quantizers(self) -> int:
        """Codebooks at the highest bandwidth: 32 by default."""
        bits_per_second = 1000 * self.target_bandwidths[-1]
        return max(1, int(bits_per_second // (self.frame_rate * self.codebook_nbits)))

    def num_codebooks(self, bandwidth: float | None = None) -> int:
        """Codebooks that fit into a bandwidth: 8 at 6.0 kbit/s, which Bark uses.

        Args:
            bandwidth: kbit/s; None means the lowest.

        Raises:
            ValueError: If the codec was not trained for `bandwidth`.
        """
        bandwidth = self.target_bandwidths[0] if bandwidth is None else bandwidth
        if bandwidth not in self.target_bandwidths:
            raise ValueError(
                f"bandwidth must be one of {self.target_bandwidths} kbit/s. "
                f"Received: bandwidth={bandwidth}"
            )
        bits_per_frame = math.log2(self.codebook_size) * self.frame_rate
        fitting = max(1, int(bandwidth * 1000 // bits_per_frame))
        return min(fitting, self.num_quantizers)
