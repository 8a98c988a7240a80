"""The residual vector quantizer of EnCodec: latent frames to codes, and back.

Axes: B batch, T frames, D width of an entry (`hidden_size`), N entries of a codebook,
Q codebooks.

Source: facebookresearch/encodec, `encodec/quantization/`.
"""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from bark_tf.config import EncodecConfig
from bark_tf.memory import drawn
from bark_tf.models.encodec.conv import build_all
from bark_tf.models.pretrained import check_shape

# The search runs in float32 under every policy: codes depend on small differences.
SEARCH_DTYPE = "float32"


class Codebook(keras.layers.Layer):
    """The entries of a codebook, and their moving averages for training.

    No variable has a gradient: training moves `embed` towards the latents that chose an
    entry.

    Args:
        size: Entries N.
        width: Width D of an entry.
        **kwargs: `name`.

    Attributes:
        embed: (N, D), the entries.
        embed_avg: (N, D), moving sums of the latents that chose an entry.
        cluster_size: (N,), moving counts of these latents.
        inited: (1,), 1 once the entries have been initialised from data.
    """

    def __init__(self, size: int, width: int, **kwargs):
        super().__init__(dtype=SEARCH_DTYPE, **kwargs)
        self.size = size
        self.width = width

    def build(self, input_shape=None):
        """Creates the variables."""
        shape = (self.size, self.width)
        self.embed = self._buffer("embed", shape, drawn("he_uniform"))
        self.embed_avg = self._buffer(
            "embed_avg", shape, drawn(lambda shape, dtype: tf.identity(self.embed))
        )
        self.cluster_size = self._buffer("cluster_size", shape[:1], "zeros")
        self.inited = self._buffer("inited", (1,), "ones")
        self.built = True

    def _buffer(self, name, shape, initializer):
        return self.add_weight(
            shape, initializer, name=name, trainable=False, autocast=False
        )

    def nearest(self, x: tf.Tensor) -> tf.Tensor:
        """Finds the nearest entry of each vector, the first one in a tie.

        Args:
            x: (B, T, D) float32.

        Returns:
            int32 (B, T), values in [0, N).
        """
        entries = tf.convert_to_tensor(self.embed)
        products = tf.matmul(2 * x, entries, transpose_b=True)  # (B, T, N)
        norms = tf.reduce_sum(x**2, axis=-1, keepdims=True)
        distances = norms - products + tf.reduce_sum(entries**2, axis=-1)
        return tf.argmin(distances, axis=-1, output_type=tf.int32)

    def lookup(self, codes: tf.Tensor) -> tf.Tensor:
        """Looks up codes (B, T); returns (B, T, D) float32."""
        return tf.gather(self.embed, codes)


class ResidualVectorQuantizer(keras.layers.Layer):
    """Codebooks that each quantize the residual of the ones before.

    Args:
        config: The codec's configuration.
        **kwargs: `name`.

    Call arguments:
        latent: (B, T, D).
        num_codebooks: Codebooks to use, in [1, Q].

    Returns:
        quantized: float32 (B, T, D); no gradient reaches `latent` through it.
        codes: int32 (B, num_codebooks, T), values in [0, N).
    """

    def __init__(self, config: EncodecConfig, **kwargs):
        super().__init__(dtype=SEARCH_DTYPE, **kwargs)
        self.codebooks = [
            Codebook(
                config.codebook_size, config.codebook_dim, name=f"codebook_{index}"
            )
            for index in range(config.num_quantizers)
        ]
        self._usual_counts = {
            config.num_codebooks(bandwidth) for bandwidth in config.target_bandwidths
        }

    def build(self, input_shape=None):
        """Creates the variables."""
        build_all(*self.codebooks)
        self.built = True

    def call(self, latent, num_codebooks):
        """Quantizes."""
        width = self.codebooks[0].width
        check_shape("latent", latent, {"batch": None, "frames": None, "width": width})
        residual = tf.stop_gradient(tf.cast(latent, SEARCH_DTYPE))
        quantized = tf.zeros_like(residual)
        codes = []
        for codebook in self.codebooks[:num_codebooks]:
            codes.append(codebook.nearest(residual))
            entries = codebook.lookup(codes[-1])
            residual -= entries
            quantized += entries
        return quantized, tf.stack(codes, axis=1)

    def decode(self, codes) -> tf.Tensor:
        """Sums the entries of all codebooks.

        Args:
            codes: Integers (B, num_codebooks, T), values in [0, N).

        Returns:
            float32 (B, T, D).

        Raises:
            ValueError: As from `checked`, or if the shape is probably transformers'
                (num_codebooks, B, T): no bandwidth has as many codebooks as the second
                axis, but one has as many as the first.

        Differs: transformers' quantizer takes the codebooks first.
        """
        codes = self.checked(codes)
        rows, count, _ = codes.shape
        if rows in self._usual_counts and count not in self._usual_counts:
            raise ValueError(
                "codes must have shape (batch, codebooks, frames), not transformers' "
                f"(codebooks, batch, frames). Received: {tuple(codes.shape)}. If these "
                f"are {rows} rows of {count} codebooks, use EncodecModel.decode"
            )
        return self.sum_of_entries(codes)

    def checked(self, codes) -> tf.Tensor:
        """Codes as int32.

        Args:
            codes: See `decode`.

        Raises:
            ValueError: If `codes` has no frames, another shape or dtype, too many
                codebooks, or values out of range (not checked in a `tf.function`).
        """
        is_symbolic = tf.is_tensor(codes) and not hasattr(codes, "numpy")
        codes = codes if is_symbolic else np.asarray(codes)
        dtype, shape = tf.as_dtype(codes.dtype), codes.shape
        most, size = len(self.codebooks), self.codebooks[0].size
        if (
            not dtype.is_integer
            or len(shape) != 3
            or shape[1] not in range(1, most + 1)
            or shape[2] == 0
        ):
            raise ValueError(
                "codes must be integers of shape (batch, codebooks, frames) with 1 to "
                f"{most} codebooks and at least one frame. "
                f"Received: {dtype.name} of shape {tuple(shape)}"
            )
        is_known = not is_symbolic and codes.size
        if is_known and not 0 <= codes.min() <= codes.max() < size:
            raise ValueError(
                f"codes must lie in [0, {size}). "
                f"Received: values in [{codes.min()}, {codes.max()}]"
            )
        return tf.cast(codes, tf.int32)

    def sum_of_entries(self, codes: tf.Tensor) -> tf.Tensor:
        """`decode` without checks."""
        quantized = 0.0
        for index, column in enumerate(tf.unstack(codes, axis=1)):
            quantized += self.codebooks[index].lookup(column)
        return quantized
