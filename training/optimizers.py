"""AdamW that passes over every variable once."""

from __future__ import annotations

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("bark_tf")
class AdamW(keras.optimizers.AdamW):
    """Keras' AdamW, the same numbers from TensorFlow's fused update.

    Keras writes the update as ten operations, each of which reads and writes arrays of
    a variable's size: much of a step, for the embeddings of Bark's text, 100 million
    numbers of which a step has read 800.

    Args:
        *args: Of `keras.optimizers.AdamW`.
        amsgrad: False; the fused update has none.
        **kwargs: Of `keras.optimizers.AdamW`.

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
