"""EnCodec: audio to codes and back.

Axes: B batch, S samples, K codebooks, T frames of `hop_length` samples.

Source: facebookresearch/encodec, `encodec/model.py`; Hugging Face transformers, model
`encodec`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import keras
import numpy as np
import tensorflow as tf

from bark_tf.backend import check_process
from bark_tf.config import EncodecConfig
from bark_tf.generation.finite import is_finite, require
from bark_tf.memory import check_memory
from bark_tf.models.encodec.conv import build_all, wide_dtype
from bark_tf.models.encodec.quantizer import ResidualVectorQuantizer
from bark_tf.models.encodec.seanet import Decoder, Encoder
from bark_tf.models.outputs import ModelOutput
from bark_tf.models.pretrained import PretrainedModel, check_exclusive, check_shape

_AUDIO_DTYPE = "float32"
# Lengths are rounded up to multiples of this many frames, except short ones: for every
# new length oneDNN compiles kernels of 6 MB, which it keeps.
FRAMES_STEP = 64


def _check_supported(config: EncodecConfig) -> None:
    for field, supported in (("normalize", False), ("chunk_length_s", None)):
        value = getattr(config, field)
        if value != supported:
            raise ValueError(
                f"EncodecModel supports only {field}={supported}, because other codecs "
                f"need more than the codes to decode. Received: {field}={value}"
            )


# === Transformers' form ===

# Arguments of a call that only transformers has.
_FOREIGN = {
    "input_values",
    "padding_mask",
    "audio_codes",
    "audio_scales",
    "return_dict",
    "last_frame_pad_length",
}


def _silenced(audio: tf.Tensor, padding_mask) -> tf.Tensor:
    """Audio (B, channels, S) with zeros where the mask (B, S) or (B, 1, S) has them."""
    if padding_mask is None:
        return audio
    batch, channels, samples = audio.shape
    allowed = {"batch": batch, "samples": samples}
    with_channels = {"batch": batch, "channels": channels, "samples": samples}
    check_shape("padding_mask", padding_mask, allowed, with_channels)
    mask = tf.convert_to_tensor(padding_mask)
    mask = mask[:, None] if mask.shape.rank == 2 else mask
    return audio * tf.cast(mask, audio.dtype)


def _check_scales(scales) -> None:
    if scales is not None and any(one is not None for one in scales):
        raise ValueError(
            "audio_scales must be None or [None]: codecs that scale audio are not "
            f"supported. Received: {scales!r}"
        )


def _output(return_dict: bool | None, **values):
    return ModelOutput(values) if return_dict in (None, True) else (*values.values(),)


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

        Called as in transformers (`input_values`, `padding_mask`, `bandwidth`,
        `audio_codes`, `audio_scales`, `return_dict`), a `ModelOutput` or tuple of
        `audio_codes` and `audio_values`; see `encode` and `decode`.

    Raises:
        ValueError: If the configuration needs chunking or normalization.

    Example:
        >>> codec = EncodecModel(EncodecConfig(num_filters=4, hidden_size=16))
        >>> codes = codec.encode(np.zeros((1, 24_000), "float32"), bandwidth=6.0)
        >>> codes.shape, codec.decode(codes).shape
        (TensorShape([1, 8, 75]), TensorShape([1, 24000]))

    Differs: `encode` returns and `decode` takes the codes alone, without transformers'
    axis of chunks, unless they are called as in transformers.
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

    def __call__(self, *args, **kwargs):
        """Calls the network, in Keras's form or in that of transformers."""
        if kwargs.keys() & _FOREIGN or (len(args) > 1 and np.shape(args[1])):
            return self._reconstruct(*args, **kwargs)
        return super().__call__(*args, **kwargs)

    def _reconstruct(
        self,
        input_values=None,
        padding_mask=None,
        bandwidth=None,
        audio_codes=None,
        audio_scales=None,
        return_dict=None,
        last_frame_pad_length=0,
    ):
        """What transformers' model returns for the same arguments."""
        if audio_codes is None:
            audio_codes = self.encode(
                input_values, bandwidth, padding_mask=padding_mask, return_dict=True
            ).audio_codes
        longest = input_values if padding_mask is None else padding_mask
        audio_values = self.decode(
            audio_codes,
            audio_scales,
            longest,
            last_frame_pad_length=last_frame_pad_length,
        ).audio_values
        return _output(return_dict, audio_codes=audio_codes, audio_values=audio_values)

    @overload
    def encode(
        self, audio, bandwidth: float | None = None, num_codebooks: int | None = None
    ) -> tf.Tensor: ...

    @overload
    def encode(
        self,
        audio=None,
        bandwidth: Any = None,
        num_codebooks: Any = None,
        *,
        input_values=None,
        padding_mask=None,
        return_dict: bool | None = None,
    ) -> Any: ...

    def encode(
        self,
        audio=None,
        bandwidth: Any = None,
        num_codebooks: Any = None,
        *,
        input_values=None,
        padding_mask=None,
        return_dict: bool | None = None,
    ):
        """Encodes audio.

        Args:
            audio: Float (batch, samples) in [-1, 1], or (batch, audio_channels,
                samples); a codec of two channels takes only the latter.
            bandwidth: One of `config.target_bandwidths` in kbit/s, which decides the
                number of codebooks. None means the first, as in transformers; Bark uses
                6.0.
            num_codebooks: The number itself, instead of `bandwidth`.
            input_values: `audio` under its name in transformers.
            padding_mask: (batch, samples) or (batch, audio_channels, samples), 0 where
                the audio is padding, which is encoded as silence. May come second, with
                `bandwidth` third, as in transformers.
            return_dict: Whether to return a `ModelOutput` or a tuple.

        Returns:
            int32 (batch, num_codebooks, ceil(samples / hop_length)), values in
            [0, codebook_size). With one of the last three arguments, transformers'
            output: `audio_codes` (1, batch, num_codebooks, frames), `audio_scales`
            [None] and `last_frame_pad_length` 0.

        Raises:
            ValueError: If `audio` is empty, not finite, or has another shape or dtype,
                or the codec lacks `bandwidth` or `num_codebooks`.
        """
        if np.shape(bandwidth):  # transformers' order
            padding_mask, bandwidth, num_codebooks = bandwidth, num_codebooks, None
        check_exclusive(audio=audio, input_values=input_values)
        if any(one is not None for one in (input_values, padding_mask, return_dict)):
            audio = self._checked_audio(input_values if audio is None else audio)
            audio = _silenced(audio, padding_mask)
            return _output(
                return_dict,
                audio_codes=self.encode(audio, bandwidth, num_codebooks)[None],
                audio_scales=[None],
                last_frame_pad_length=0,
            )
        if num_codebooks is None:
            num_codebooks = self.config.num_codebooks(bandwidth)
        elif num_codebooks not in range(1, self.config.num_quantizers + 1):
            raise ValueError(
                f"num_codebooks must be between 1 and {self.config.num_quantizers}. "
                f"Received: num_codebooks={num_codebooks}"
            )
        audio = self._checked_audio(audio)
        if tf.inside_function():
            return self._encode(audio, num_codebooks)[0]
        self.check_frames(audio.shape[0] * -(-audio.shape[2] // self.config.hop_length))
        spec = tf.TensorSpec((None, self.config.audio_channels, None), audio.dtype)
        encode = self._encode_graph.get_concrete_function(spec, num_codebooks)
        codes, are_finite = encode(audio)
        require(are_finite, "Audio and what the codec makes of it")
        return codes

    @overload
    def decode(self, codes) -> tf.Tensor: ...

    @overload
    def decode(
        self,
        codes=None,
        audio_scales: Sequence[None] | None = None,
        padding_mask=None,
        return_dict: bool | None = None,
        last_frame_pad_length: int = 0,
        *,
        audio_codes=None,
    ) -> Any: ...

    def decode(
        self,
        codes=None,
        audio_scales: Sequence[None] | None = None,
        padding_mask=None,
        return_dict: bool | None = None,
        last_frame_pad_length: int = 0,
        *,
        audio_codes=None,
    ):
        """Decodes codes.

        Args:
            codes: Integers (batch, num_codebooks, frames) in [0, codebook_size), of the
                first 1 to `config.num_quantizers` codebooks. Or transformers'
                (1, batch, num_codebooks, frames).
            audio_scales: [None] or None; the codecs of Bark have no scales.
            padding_mask: The audio is no longer than its last axis.
            return_dict: Whether to return a `ModelOutput` or a tuple.
            last_frame_pad_length: Frames at the end to leave out.
            audio_codes: `codes` under its name in transformers.

        Returns:
            float32 (batch, samples) with `hop_length` samples per frame, about [-1, 1]
            and not clipped; (batch, 2, samples) if the codec has two channels. For
            codes of four axes, transformers' output: `audio_values` (batch,
            audio_channels, samples).

        Raises:
            ValueError: If `codes` has no frames, another shape or dtype, too many
                codebooks, or values out of range (not checked in a `tf.function`).
        """
        check_exclusive(codes=codes, audio_codes=audio_codes)
        codes = audio_codes if codes is None else codes
        codes = codes if tf.is_tensor(codes) else np.asarray(codes)
        _check_scales(audio_scales)
        if len(codes.shape) == 4 and codes.shape[0] == 1:
            frames = codes.shape[-1] - last_frame_pad_length
            audio = self.decode(codes[0][..., :frames])
            if self.config.audio_channels == 1:
                audio = audio[:, None]
            if padding_mask is not None:
                audio = audio[..., : np.shape(padding_mask)[-1]]
            return _output(return_dict, audio_values=audio)
        codes = self.quantizer.checked(codes)
        samples = tf.shape(codes)[2] * self.config.hop_length
        if tf.inside_function():
            return self._decode(self._padded(codes))[..., :samples]
        self.check_frames(codes.shape[0] * codes.shape[2])
        spec = tf.TensorSpec((None, codes.shape[1], None), codes.dtype)
        decode = self._decode_graph.get_concrete_function(spec)
        audio = decode(self._padded(codes))[..., :samples]
        require(is_finite(audio), "Audio of the codec")
        return audio

    def check_frames(self, frames: int) -> None:
        """Raises ValueError if as many frames at once, over all rows, cannot fit."""
        check_process()
        config = self.config
        size = tf.as_dtype(self.compute_dtype).size  # of the outermost convolution
        each = config.hop_length * config.num_filters * size
        check_memory(frames, each, "frames of audio")

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

    def input_signature(self):
        """See `PretrainedModel`."""
        channels = self.config.audio_channels
        shape = (None, None) if channels == 1 else (None, channels, None)
        return [tf.TensorSpec(shape, tf.float32, name="audio")]

    def _encode(self, audio, num_codebooks):
        latent = self.encoder(tf.transpose(audio, [0, 2, 1]))  # (B, T, D)
        _, codes = self.quantizer(latent, num_codebooks=num_codebooks)
        return codes, is_finite(latent)

    def _decode(self, codes):
        return self.decode_latent(self.quantizer.sum_of_entries(codes))

    def _padded(self, codes):
        """Codes (B, K, T) with frames at the end that change no audio before them."""
        config = self.config
        is_causal = config.use_causal_conv and config.trim_right_ratio == 1
        if not is_causal or config.norm_type != "weight_norm":
            return codes
        # Short inputs are padded on the left by a reflection of all they have.
        dilation = config.dilation_growth_rate**config.num_residual_layers
        reach = config.kernel_size, config.residual_kernel_size * dilation
        frames = tf.shape(codes)[2]
        is_long = frames >= max(FRAMES_STEP, config.last_kernel_size, *reach)
        room = tf.where(is_long, -frames % FRAMES_STEP, 0)
        padded = tf.pad(codes, [[0, 0], [0, 0], [0, room]])
        return tf.ensure_shape(padded, (*codes.shape[:2], None))

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
