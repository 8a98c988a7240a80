"""The configuration of the codec.

Source: Hugging Face transformers, model `encodec`, 4.31 to 5.x.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

from bark_tf.config.base import Config, frozen_config
from bark_tf.config.fields import Positive, Share, check_field

# Of a frame and of a dilation.
MAX_SAMPLES = 2**20
MAX_WIDTH = 100_000
MAX_CODEBOOKS = 256

_Kernel = Annotated[int, "[1, 1_000]"]
_Bandwidths = Annotated[tuple[Positive, ...], "[1, 100]"]


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
        num_lstm_layers: Stacked LSTMs between the convolutions and the latent; 0 for
            none, which transformers does not build.
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

    target_bandwidths: _Bandwidths = (1.5, 3.0, 6.0, 12.0, 24.0)
    sampling_rate: Annotated[int, "[1, 1_000_000]"] = 24_000
    audio_channels: Literal[1, 2] = 1
    normalize: bool = False
    chunk_length_s: Positive | None = None
    overlap: Annotated[float, "[0, 1)"] | None = None
    hidden_size: Annotated[int, "[1, 100_000]"] = 128
    num_filters: Annotated[int, "[1, 100_000]"] = 32
    num_residual_layers: Annotated[int, "[1, 100]"] = 1
    upsampling_ratios: Annotated[tuple[_Kernel, ...], "[1, 20]"] = (8, 5, 4, 2)
    norm_type: Literal["weight_norm", "time_group_norm"] = "weight_norm"
    kernel_size: _Kernel = 7
    last_kernel_size: _Kernel = 7
    residual_kernel_size: _Kernel = 3
    dilation_growth_rate: Annotated[int, "[1, 1_000]"] = 2
    use_causal_conv: bool = True
    pad_mode: Literal["reflect", "constant", "edge", "replicate"] = "reflect"
    compress: Annotated[int, "[1, 100_000]"] = 2
    num_lstm_layers: Annotated[int, "[0, 100]"] = 2
    trim_right_ratio: Share = 1.0
    codebook_size: Annotated[int, "[2, 1_000_000]"] = 1024
    codebook_dim: Annotated[int, "[1, 100_000]"] | None = None
    use_conv_shortcut: bool = True

    def __post_init__(self):
        if self.codebook_dim is None:
            self._set("codebook_dim", self.hidden_size)
        super().__post_init__()

    def _check(self) -> None:
        check_field(
            self,
            "upsampling_ratios",
            self.hop_length <= MAX_SAMPLES,
            f"numbers with a product of at most {MAX_SAMPLES}",
        )
        check_field(
            self,
            "num_filters",
            self.num_filters << len(self.upsampling_ratios) <= MAX_WIDTH,
            f"at most {MAX_WIDTH} after {len(self.upsampling_ratios)} doublings",
        )
        check_field(
            self,
            "target_bandwidths",
            self.num_quantizers <= MAX_CODEBOOKS,
            f"low enough for {MAX_CODEBOOKS} codebooks of {self.codebook_nbits} "
            f"bits at {self.frame_rate} frames per second",
        )
        check_field(
            self,
            "num_residual_layers",
            self.dilation_growth_rate**self.num_residual_layers <= MAX_SAMPLES,
            f"such that dilations of {self.dilation_growth_rate} to this power stay "
            f"below {MAX_SAMPLES}",
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
