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


@keras.saving.register_keras_serializable("bark_tf")
class EncodecModel(PretrainedModel):
    """The neural audio codec that turns Bark's codes into sound.

    All variables exist after construction. The three parts, `encoder`, `quantizer` and
    `decoder`, are layers that a training loop can use one by one; they work on latents
    (batch, frames, hidden_size).

    Args:
        config: The codec's configuration. Chunking (`chunk_length_s`) and `normalize`
            of the 48 kHz codec are not available.
        name: Name of the model.
        **kwargs: Of `keras.Model`. With any `dtype` the quantizer computes in float32.

    Call arguments:
        audio: Float (batch, samples) or (batch, audio_channels, samples) in [-1, 1].
        bandwidth: As in `encode`.
        training: Changes nothing: the codec has no dropout.

    Returns:
        The reconstructed audio, float32, of the input's shape. Gradients pass the
        quantizer as if it were not there (straight-through).

    Raises:
        ValueError: If the configuration needs chunking or normalization.

    Example:
        >>> codec = EncodecModel(EncodecConfig(num_filters=4, hidden_size=16))
        >>> codes = codec.encode(np.zeros((1, 24_000), "float32"), bandwidth=6.0)
        >>> codes.shape, codec.decode(codes).shape
        (TensorShape([1, 8, 75]), TensorShape([1, 24000]))

    Differs: from transformers in `encode`, which returns the codes alone and without
    an axis of chunks, and in `decode`, which takes these.
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
        """Makes the variables; the constructor has done it already."""
        if not self.built:
            build_all(self.encoder, self.quantizer, self.decoder)
            self.built = True

    def encode(self, audio, bandwidth: float | None = None) -> tf.Tensor:
        """Encodes audio.

        Args:
            audio: Float (batch, samples) in [-1, 1], or (batch, audio_channels,
                samples); a codec of two channels takes only the latter.
            bandwidth: One of `config.target_bandwidths` in kbit/s, which decides the
                number of codebooks. None means the first of them, as in transformers;
                Bark's codes have 6.0.

        Returns:
            int32 (batch, num_codebooks, ceil(samples / hop_length)), values in
            [0, codebook_size).

        Raises:
            ValueError: If `audio` is empty or of another shape or dtype, or if the
                codec was not trained for `bandwidth`.
        """
        num_codebooks = self.config.num_codebooks(bandwidth)
        audio = self._checked_audio(audio)
        if tf.inside_function():
            return self._encode(audio, num_codebooks)
        spec = tf.TensorSpec((None, self.config.audio_channels, None), audio.dtype)
        return self._encode_graph.get_concrete_function(spec, num_codebooks)(audio)

    def decode(self, codes) -> tf.Tensor:
        """Decodes codes.

        Inside a `tf.function`, the values of `codes` cannot be checked.

        Args:
            codes: Integers (batch, num_codebooks, frames) in [0, codebook_size), with
                any number of codebooks that the codec has.

        Returns:
            float32 (batch, samples) with `hop_length` samples per frame, about [-1, 1]
            and not clipped; (batch, 2, samples) for a codec of two channels.

        Raises:
            ValueError: If `codes` has no frames, another shape or dtype, more codebooks
                than the codec, or values out of range.
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
        decoded = self._decode_latent(latent + step)
        decoded = decoded[..., : tf.shape(audio)[-1]]
        return tf.reshape(decoded, tf.shape(audio)) if rank == 3 else decoded

    def _encode(self, audio, num_codebooks):
        latent = self.encoder(tf.transpose(audio, [0, 2, 1]))  # (B, T, D)
        _, codes = self.quantizer(latent, num_codebooks=num_codebooks)
        return codes

    def _decode(self, codes):
        return self._decode_latent(self.quantizer.decode(codes))

    def _decode_latent(self, latent):
        audio = tf.cast(self.decoder(latent), _AUDIO_DTYPE)  # (B, S, channels)
        if self.config.audio_channels == 1:
            return audio[..., 0]
        return tf.transpose(audio, [0, 2, 1])

    def _checked_audio(self, audio) -> tf.Tensor:
        """Brings audio to (B, channels, S) in a float dtype of at least float32."""
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
        """Brings codes to int32; values are checked where they are known."""
        symbolic = tf.is_tensor(codes) and not hasattr(codes, "numpy")
        codes = codes if symbolic else np.asarray(codes)
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
        if not symbolic and codes.size and not 0 <= codes.min() <= codes.max() < size:
            raise ValueError(
                f"codes must lie in [0, {size}). "
                f"Received: values in [{codes.min()}, {codes.max()}]"
            )
        return tf.cast(codes, tf.int32)


def _check_supported(config: EncodecConfig) -> None:
    if not isinstance(config, EncodecConfig):
        raise ValueError(
            f"EncodecModel is made from an EncodecConfig. Received: {config!r}"
        )
    for field, supported in (("normalize", False), ("chunk_length_s", None)):
        value = getattr(config, field)
        if value != supported:
            raise ValueError(
                f"EncodecModel works only with EncodecConfig.{field}={supported}: the "
                "codes alone would not hold what such a codec needs to decode. "
                f"Received: {field}={value}"
            )
