"""The community's quantizer: HuBERT's frames to Bark's semantic tokens.

Bark's own tokenizer was never released. These networks were trained on Bark's output to
predict the token of each frame: LSTMs, then one linear layer (version 0) or two
(version 1).

Axes: B batch, T frames, D width of a frame, H width of an LSTM, V tokens.

Source: gitmylo/bark-voice-cloning-HuBERT-quantizer.
"""

from __future__ import annotations

import keras
import tensorflow as tf

from bark_tf.config import HubertQuantizerConfig
from bark_tf.memory import allocate_only, put
from bark_tf.models.encodec.conv import build_all
from bark_tf.models.encodec.seanet import LSTMLayer
from bark_tf.models.layers import Projection
from bark_tf.models.pretrained import PretrainedModel


@keras.saving.register_keras_serializable("bark_tf")
class HubertQuantizer(PretrainedModel):
    """Frames to logits of semantic tokens.

    Args:
        config: `HubertQuantizerConfig`.
        name: Name of the model.
        **kwargs: Arguments of `keras.Model`.

    Call arguments:
        frames: Float (B, T, D), T at least 1.

    Returns:
        Logits (B, T, V); the original applies a log-softmax, which keeps their order.

    Example:
        >>> quantizer = HubertQuantizer.from_file("quantifier_hubert_base_ls960_14.pth")
        >>> quantizer(np.zeros((1, 50, 768), "float32")).shape
        TensorShape([1, 50, 10000])
    """

    config_class = HubertQuantizerConfig
    checkpoint_prefix = "quantizer."

    def __init__(
        self, config: HubertQuantizerConfig, name: str = "quantizer", **kwargs
    ):
        super().__init__(config, name=name, **kwargs)
        policy = self.dtype_policy
        self.lstms = [
            LSTMLayer(
                config.hidden_size,
                None if index else config.input_size,
                name=f"lstm_{index}",
                dtype=policy,
            )
            for index in range(config.num_layers)
        ]
        self.intermediate = None
        if config.intermediate_size:
            self.intermediate = Projection(
                config.intermediate_size, True, name="intermediate", dtype=policy
            )
        self.head = Projection(config.output_size, True, name="head", dtype=policy)
        self.build()

    def build(self, input_shape=None):
        """Creates the variables; the constructor calls it."""
        if self.built:
            return
        build_all(*self.lstms)
        width = self.config.hidden_size
        if self.intermediate is not None:
            self.intermediate.build((None, None, width))
            width = self.config.intermediate_size
        self.head.build((None, None, width))
        self.built = True

    def call(self, frames, training=False):
        """Classifies frames."""
        return self.run(frames)[0]

    def run(self, frames, state=None):
        """Classifies part of a recording.

        Args:
            frames: Float (B, T, D), T at least 1.
            state: State after the previous part, or None at the start.

        Returns:
            Logits (B, T, V), and the state.
        """
        x, after = self.run_lstms(frames, state)
        return self.classify(x), after

    def run_lstms(self, frames, state=None):
        """Runs the LSTMs; see `run`. Returns their output (B, T, H) and the state."""
        x, after = tf.cast(frames, self.compute_dtype), []
        for lstm, before in zip(
            self.lstms, state or [None] * len(self.lstms), strict=True
        ):
            x, last = lstm.run(x, before)
            after.append(last)
        return x, after

    def classify(self, x):
        """Logits (B, T, V) for the output (B, T, H) of the LSTMs."""
        if self.intermediate is not None:
            x = self.intermediate(x)
        return self.head(x)

    def merged(self) -> HubertQuantizer:
        """The network with its two linear layers multiplied into one.

        The result is the same up to rounding. At the community's sizes, it saves three
        quarters of the work in these layers.

        Returns:
            A network of version 0, or this one if merging would not save work or if
            the layers are quantized.
        """
        config = self.config.replace(intermediate_size=0)
        width, size = config.hidden_size, config.output_size
        saves = self.config.intermediate_size * (width + size) > width * size
        if not saves or self.head.quantization_mode:
            return self
        with allocate_only():
            merged = HubertQuantizer(config, name=self.name, dtype=self.dtype_policy)
        for lstm, own in zip(merged.lstms, self.lstms, strict=True):
            for variable, value in zip(lstm.weights, own.weights, strict=True):
                put(variable, value.value)
        head, inner = self.head, self.intermediate
        put(merged.head.kernel, tf.matmul(head.kernel, inner.kernel))
        put(merged.head.bias, tf.linalg.matvec(head.kernel, inner.bias) + head.bias)
        return merged
