"""The configuration of the codec."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

from bark_tf.config.base import Config


@dataclasses.dataclass(frozen=True)
class EncodecConfig(Config):
    """The EnCodec codec; the defaults are the 24 kHz model that Bark uses.

    Args:
        target_bandwidths: Bit rates in kbit/s that the codec was trained for.
        sampling_rate: Samples per second.
        audio_channels: 1 or 2.
        normalize: Whether audio is scaled to unit level before encoding.
        chunk_length_s: Seconds per chunk, or None for the whole audio at once.
        overlap: Share of a chunk that the next one repeats.
        hidden_size: Channels between encoder, quantizer and decoder.
        num_filters: Channels of the outermost convolution.
        num_residual_layers: Residual units per scale.
        upsampling_ratios: Strides of the decoder; reversed in the encoder.
        norm_type: `"weight_norm"` or `"time_group_norm"`.
        kernel_size: Kernel of the first convolution.
        last_kernel_size: Kernel of the last convolution.
        residual_kernel_size: Kernel of the residual units.
        dilation_growth_rate: Dilation of residual unit j is this to the power j.
        use_causal_conv: Whether padding is only to the left.
        pad_mode: Padding of the convolutions.
        compress: Narrowing inside residual units.
        num_lstm_layers: Stacked LSTMs between convolutions and latent.
        trim_right_ratio: Share of a transposed convolution's trim on the right.
        codebook_size: Entries per codebook.
        codebook_dim: Width of an entry; None means `hidden_size`.
        use_conv_shortcut: Whether residual units have a convolution as shortcut.
        extra: Keys of the file that no field knows.

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
        for name in ("target_bandwidths", "upsampling_ratios"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.codebook_dim is None:
            object.__setattr__(self, "codebook_dim", self.hidden_size)
        super().__post_init__()

    def _check(self) -> None:
        self._require_whole(
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
        self._require_whole("num_lstm_layers", minimum=0)
        self._require(self.audio_channels in (1, 2), "audio_channels", "1 or 2")
        self._require(
            self.norm_type in ("weight_norm", "time_group_norm"),
            "norm_type",
            '"weight_norm" or "time_group_norm"',
        )
        self._require(
            len(self.upsampling_ratios) > 0 and min(self.upsampling_ratios) >= 1,
            "upsampling_ratios",
            "whole numbers of at least 1",
        )
        self._require(
            len(self.target_bandwidths) > 0 and min(self.target_bandwidths) > 0,
            "target_bandwidths",
            "positive bit rates in kbit/s",
        )
        self._require(
            self.pad_mode in ("reflect", "constant", "edge", "replicate"),
            "pad_mode",
            '"reflect", "constant", "edge" or "replicate"',
        )
        self._require(0 <= self.trim_right_ratio <= 1, "trim_right_ratio", "in [0, 1]")
        self._require(
            self.codebook_dim == self.hidden_size,
            "codebook_dim",
            f"hidden_size={self.hidden_size}",
        )
        self._require(
            self.num_filters >= self.compress,
            "num_filters",
            f"at least compress={self.compress}",
        )
        self._require(
            self.use_causal_conv or self.trim_right_ratio == 1,
            "trim_right_ratio",
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
        """Codebooks that fit a bandwidth in kbit/s: 8 at 6.0, the one Bark uses.

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

    @classmethod
    def _select(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        return values.get(cls.part) or values if cls.part in values else values
