"""AdamW with a fused update, and Muon configured for Bark's networks."""

from __future__ import annotations

import functools
import inspect

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("bark_tf")
class AdamW(keras.optimizers.AdamW):
    """Keras' AdamW, computed by TensorFlow's fused update.

    Keras computes the update in ten operations, each over arrays of a variable's size.
    Bark's text embedding has 100 million values, of which a step reads 800, so this
    takes much of a step.

    Args:
        *args: Passed to `keras.optimizers.AdamW`.
        amsgrad: Must be False: the fused update does not support it.
        **kwargs: Passed to `keras.optimizers.AdamW`.

    Raises:
        ValueError: If `amsgrad` is true.

    Example:
        >>> model.compile(optimizer=AdamW(1e-4, global_clipnorm=1.0))
    """

    def __init__(self, *args, amsgrad: bool = False, **kwargs):
        if amsgrad:
            raise ValueError(f"amsgrad must be False. Received: amsgrad={amsgrad}")
        super().__init__(*args, **kwargs)

    def update_step(self, gradient, variable, learning_rate):
        """See `keras.optimizers.Optimizer`."""
        index = self._get_variable_index(variable)
        dtype = variable.dtype
        beta_1, beta_2 = (tf.cast(beta, dtype) for beta in (self.beta_1, self.beta_2))
        step = tf.cast(self.iterations + 1, dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=tf.pow(beta_1, step),
            beta2_power=tf.pow(beta_2, step),
            lr=tf.cast(learning_rate, dtype),
            beta1=beta_1,
            beta2=beta_2,
            epsilon=tf.cast(self.epsilon, dtype),
            grad=tf.cast(tf.convert_to_tensor(gradient), dtype),
            use_locking=False,
        )


def muon(
    beta_1: float, beta_2: float, dtype: str = "float32", **kwargs
) -> keras.optimizers.Optimizer:
    """Keras' Muon for hidden kernels, with AdamW for embeddings, heads and the rest.

    Args:
        beta_1: AdamW's decay of the mean gradient.
        beta_2: AdamW's decay of the mean squared gradient.
        dtype: `"bfloat16"` orthogonalises in it, which on processors that have it takes
            half the time. Any other dtype: in that of the variables.
        **kwargs: Passed to `keras.optimizers.Muon`; both share the learning rate.

    Raises:
        ImportError: If Keras is older than 3.13.

    Source:
        K. Jordan, "Muon: an optimizer for hidden layers in neural networks", 2024, with
        the scale of "Muon is scalable for LLM training", arXiv 2502.16982.
    """
    kind = getattr(keras.optimizers, "Muon", None)
    if kind is None or "rms_rate" not in inspect.signature(kind).parameters:
        raise ImportError(
            'optimizer="muon" needs Keras 3.13 or newer: pip install -U keras. '
            f"Received: Keras {keras.__version__}"
        )
    if dtype == "bfloat16":
        kind = _in_bfloat16(kind)
    return kind(
        adam_beta_1=beta_1,
        adam_beta_2=beta_2,
        adam_weight_decay=kwargs.get("weight_decay"),
        exclude_layers=["lm_head"],
        **kwargs,
    )


@functools.cache
def _in_bfloat16(kind: type) -> type:
    """Muon whose iteration multiplies in bfloat16; it is made to tolerate that."""

    class HalfMuon(kind):
        def zeropower_via_newtonschulz5(self, x, steps):
            x = tf.convert_to_tensor(x)
            x /= tf.norm(x, axis=(-2, -1), keepdims=True) + 1e-7
            half = super().zeropower_via_newtonschulz5(tf.cast(x, tf.bfloat16), steps)
            return tf.cast(half, x.dtype)

    return HalfMuon
