"""EnCodec: audio to codes and back.

Axes: B batch, S samples, K codebooks, T frames of `hop_length` samples.

Source: facebookresearch/encodec, `encodec/model.py`; Hugging Face transformers, model
`encodec`.
"""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from bark_tf.config import EncodecConfig
from bark_tf.models.encodec.conv import build_all, wide_dtype
from bark_tf.models.encodec.quantizer import ResidualVectorQuantizer
from bark_tf.models.encodec.seanet import Decoder, Encoder
from bark_tf.models.pretrained import PretrainedModel

_AUDIO_DTYPE = "float32"


def _check_supported(config: EncodecConfig) -> None:
    for field, supported in (("normalize", False), ("chunk_length_s", None)):
        value = getattr(config, field)
        if value != supported:
            raise ValueError(
                f"EncodecModel supports only {field}={supported}, because other codecs "
                f"need more than the codes to decode. Received: {field}={value}"
            )


@keras.saving.register_keras_serializable("bark_tf")
class EncodecModel(PretrainedModel):
    """The neural audio codec that turns Bark's codes into audio.

    Its layers `encoder`, `quantizer` and `decoder` can be used one by one; between them
    are latents (batch, frames, hidden_size).

    Args:
        config: The codec's configuration. Chunking (`chunk_length_s`) and `normalize`
            of the 48 kHz codec are not supported.
        name: Name of the model.
        **kwargs: Arguments of `keras.Model`. The quantizer computes in float32 with any
            `dtype`.

    Call arguments:
        audio: Float (batch, samples) or (batch, audio_channels, samples) in [-1, 1].
        bandwidth: See `encode`.
        training: Ignored; the codec has no dropout.

    Returns:
        The reconstructed audio, float32, in the shape of the input. Gradients pass
        straight through the quantizer.

    Raises:
        ValueError: If the configuration needs chunking or normalization.

    Example:
        >>> codec = EncodecModel(EncodecConfig(num_filters=4, hidden_size=16))
        >>> codes = codec.encode(np.zeros((1, 24_000), "float32"), bandwidth=6.0)
        >>> codes.shape, codec.decode(codes).shape
        (TensorShape([1, 8, 75]), TensorShape([1, 24000]))

    Differs: `encode` returns and `decode` takes the codes alone, without transformers'
    axis of chunks.
    """

    config_class = EncodecConfig
    checkpoint_prefix = "codec_model."

    def __init__(self, config: EncodecConfig, name: str = "codec_model", **kwargs):
        super().__init__(config, name=name, **kwargs)
        _check_supported(config)
        self.encoder = Encoder(config, name="encoder", dtype=self.dtype_policy)
        self.quantizer = ResidualVectorQuantizer(config, name="quantizer")
        self.decoder = Decoder(config, name="decoder", dtype=self.dtype_policy)
        self._encode_graph = tf.function(self._encode, autograph=False)
        self._decode_graph = tf.function(self._decode, autograph=False)
        self.build()

    def build(self, input_shape=None):
        """Creates the variables; the constructor calls it."""
        if not self.built:
            build_all(self.encoder, self.quantizer, self.decoder)
            self.built = True

    def encode(
        self, audio, bandwidth: float | None = None, num_codebooks: int | None = None
    ) -> tf.Tensor:
        """Encodes audio.

        Args:
            audio: Float (batch, samples) in [-1, 1], or (batch, audio_channels,
                samples); a codec of two channels takes only the latter.
            bandwidth: One of `config.target_bandwidths` in kbit/s, which decides the
                number of codebooks. None means the first, as in transformers; Bark uses
                6.0.
            num_codebooks: The number itself, instead of `bandwidth`.

        Returns:
            int32 (batch, num_codebooks, ceil(samples / hop_length)), values in
            [0, codebook_size).

        Raises:
            ValueError: If `audio` is empty or has another shape or dtype, or the codec
                lacks `bandwidth` or `num_codebooks`.
        """
        if num_codebooks is None:
            num_codebooks = self.config.num_codebooks(bandwidth)
        elif num_codebooks not in range(1, self.config.num_quantizers + 1):
            raise ValueError(
                f"num_codebooks must be between 1 and {self.config.num_quantizers}. "
                f"Received: num_codebooks={num_codebooks}"
            )
        audio = self._checked_audio(audio)
        if tf.inside_function():
            return self._encode(audio, num_codebooks)
        spec = tf.TensorSpec((None, self.config.audio_channels, None), audio.dtype)
        return self._encode_graph.get_concrete_function(spec, num_codebooks)(audio)

    def decode(self, codes) -> tf.Tensor:
        """Decodes codes.

        Args:
            codes: Integers (batch, num_codebooks, frames) in [0, codebook_size), of the
                first 1 to `config.num_quantizers` codebooks.

        Returns:
            float32 (batch, samples) with `hop_length` samples per frame, about [-1, 1]
            and not clipped; (batch, 2, samples) if the codec has two channels.

        Raises:
            ValueError: If `codes` has no frames, another shape or dtype, too many
                codebooks, or values out of range (not checked in a `tf.function`).
        """
        codes = self._checked_codes(codes)
        if tf.inside_function():
            return self._decode(codes)
        spec = tf.TensorSpec((None, codes.shape[1], None), codes.dtype)
        return self._decode_graph.get_concrete_function(spec)(codes)

    def call(self, audio, bandwidth=None, training=False):
        """Encodes, quantizes and decodes."""
        num_codebooks = self.config.num_codebooks(bandwidth)
        rank = len(audio.shape)
        audio = self._checked_audio(audio)
        latent = self.encoder(tf.transpose(audio, [0, 2, 1]))  # (B, T, D)
        quantized, _ = self.quantizer(latent, num_codebooks=num_codebooks)
        step = tf.stop_gradient(tf.cast(quantized, latent.dtype) - latent)
        decoded = self.decode_latent(latent + step)
        decoded = decoded[..., : tf.shape(audio)[-1]]
        return tf.reshape(decoded, tf.shape(audio)) if rank == 3 else decoded

    def _encode(self, audio, num_codebooks):
        latent = self.encoder(tf.transpose(audio, [0, 2, 1]))  # (B, T, D)
        _, codes = self.quantizer(latent, num_codebooks=num_codebooks)
        return codes

    def _decode(self, codes):
        return self.decode_latent(self.quantizer.decode(codes))

    def decode_latent(self, latent) -> tf.Tensor:
        """Decodes latents (batch, frames, hidden_size); returns audio as `decode`."""
        audio = tf.cast(self.decoder(latent), _AUDIO_DTYPE)  # (B, S, channels)
        if self.config.audio_channels == 1:
            return audio[..., 0]
        return tf.transpose(audio, [0, 2, 1])

    def _checked_audio(self, audio) -> tf.Tensor:
        """Audio as (B, channels, S) in at least float32."""
        channels = self.config.audio_channels
        audio = tf.convert_to_tensor(audio)
        shape = audio.shape
        if audio.shape.rank == 2 and channels == 1:
            audio = audio[:, None]
        if not audio.dtype.is_floating or (
            audio.shape.rank != 3
            or audio.shape[1] not in (channels, None)
            or audio.shape[2] == 0
        ):
            shapes = "(batch, samples) or " if channels == 1 else ""
            raise ValueError(
                f"audio must be floating point of shape {shapes}(batch, {channels}, "
                f"samples) with at least one sample. Received: {audio.dtype.name} of "
                f"shape {shape}"
            )
        return tf.cast(audio, wide_dtype(self.compute_dtype))

    def _checked_codes(self, codes) -> tf.Tensor:
        """Codes as int32; values are checked where they are known."""
        is_symbolic = tf.is_tensor(codes) and not hasattr(codes, "numpy")
        codes = codes if is_symbolic else np.asarray(codes)
        dtype, shape = tf.as_dtype(codes.dtype), codes.shape
        if (
            not dtype.is_integer
            or len(shape) != 3
            or shape[1] not in range(1, self.config.num_quantizers + 1)
            or shape[2] == 0
        ):
            raise ValueError(
                "codes must be integers of shape (batch, codebooks, frames) with 1 to "
                f"{self.config.num_quantizers} codebooks and at least one frame. "
                f"Received: {dtype.name} of shape {tuple(shape)}"
            )
        size = self.config.codebook_size
        is_known = not is_symbolic and codes.size
        if is_known and not 0 <= codes.min() <= codes.max() < size:
            raise ValueError(
                f"codes must lie in [0, {size}). "
                f"Received: values in [{codes.min()}, {codes.max()}]"
            )
        return tf.cast(codes, tf.int32)
