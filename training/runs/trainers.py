"""Keras models that compute the losses of the three transformers, for `fit`."""

from __future__ import annotations

import keras
import tensorflow as tf

from bark_tf.config import BarkGenerationConfig
from bark_tf.generation.semantic import prompt_embeddings
from bark_tf.models.losses import IGNORED_LABEL, cross_entropy

from . import strategies
from .guide import guided_attention_loss


class StageTrainer(keras.Model):
    """A network and its loss on batches of its stage; abstract.

    Args:
        model: The network.
        config: Generation configuration.
        **kwargs: `name`.

    Attributes:
        saves_frozen: Whether checkpoints hold frozen weights too. Set it to False if
            the model is loaded anew when the run resumes.

    Call arguments:
        batch: A batch from `StageExamples.pad`.
        training: Whether to apply dropout.

    Returns:
        Logits of the targets, (B, L, vocabulary), at least float32.
    """

    stage: str
    saves_frozen = True

    def __init__(self, model, config: BarkGenerationConfig, **kwargs):
        super().__init__(**kwargs)
        self.model = model
        self.generation_config = config
        self._loss = keras.metrics.Mean("loss")
        self._accuracy = keras.metrics.Mean("accuracy")
        self.built = True

    @property
    def unsaved(self) -> list:
        """Weights that checkpoints leave out."""
        frozen = [weight for weight in self.model.weights if not weight.trainable]
        return [] if self.saves_frozen else frozen

    @property
    def metrics(self):
        """Means over the targets; Keras resets them between epochs."""
        return [self._loss, self._accuracy]

    def measure(self, batch, training: bool = False):
        """The loss and the accuracy of a batch.

        Args:
            batch: A batch from `StageExamples.pad`.
            training: Whether to apply dropout.

        Returns:
            The mean cross-entropy over the targets, the sum of the targets' weights,
            and the mean accuracy, each float32 ().
        """
        logits = self(batch, training=training)
        targets = tf.convert_to_tensor(batch["targets"])
        weights = tf.cast(targets != IGNORED_LABEL, tf.float32)
        if "weights" in batch:
            weights *= tf.cast(batch["weights"], tf.float32)
        loss = cross_entropy(logits, targets, weights)
        right = tf.argmax(logits, -1, output_type=targets.dtype) == targets
        total = tf.reduce_sum(weights)
        accuracy = tf.math.divide_no_nan(
            tf.reduce_sum(tf.cast(right, tf.float32) * weights), total
        )
        return loss, total, accuracy

    def gradients(self, batch):
        """Gradients and metrics of a batch.

        Args:
            batch: A batch from `StageExamples.pad`; with several replicas, this one's
                share of it.

        Returns:
            Gradients of the mean loss over the targets of all replicas, one per
            trainable variable; and the logs.
        """
        with tf.GradientTape() as tape:
            loss, weight, accuracy = self.measure(batch, training=True)
            scaled = self.optimizer.scale_loss(sum(self.losses, loss))
        gradients = tape.gradient(scaled, self.trainable_variables)
        means, weight = strategies.mean_over_replicas(
            [loss, accuracy, *gradients], weight
        )
        loss, accuracy, *gradients = means
        return gradients, self._reported(loss, weight, accuracy)

    def train_step(self, data):
        """See `keras.Model.train_step`."""
        batch, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        gradients, logs = self.gradients(batch)
        self.optimizer.apply(gradients, self.trainable_variables)
        return logs

    def test_step(self, data):
        """See `keras.Model.test_step`."""
        batch, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        loss, weight, accuracy = self.measure(batch)
        (loss, accuracy), weight = strategies.mean_over_replicas(
            [loss, accuracy], weight
        )
        return self._reported(loss, weight, accuracy)

    def _reported(self, loss, weight, accuracy):
        weight = strategies.share_of_replica(weight)
        self._loss.update_state(loss, weight)
        self._accuracy.update_state(accuracy, weight)
        return {metric.name: metric.result() for metric in self.metrics}


class SemanticTrainer(StageTrainer):
    """Trains the text-to-semantic network; see `StageTrainer`."""

    stage = "semantic"

    def call(self, batch, training=False):
        """Logits of the semantic tokens."""
        config = self.generation_config.semantic_config
        read = batch.get("read")
        if read is None:
            targets = tf.convert_to_tensor(batch["targets"])
            pad = config.semantic_pad_token
            read = tf.where(targets == IGNORED_LABEL, pad, targets)
        x = prompt_embeddings(
            self.model,
            batch["text"],
            batch["history"],
            config.semantic_infer_token,
            read[:, :-1],
        )
        out = self.model.forward(x, training=training)
        if training and "guide" in batch:
            is_text = tf.convert_to_tensor(batch["text"]) != config.text_pad_token
            guide = guided_attention_loss(
                out.attentions,
                tf.reduce_sum(tf.cast(is_text, tf.int32), 1),
                batch["places"],
            )
            self.add_loss(tf.reduce_mean(batch["guide"]) * guide)
        # The infer token at position P predicts the first token.
        return self.model.logits(out.hidden[:, config.max_input_semantic_length :])


class CoarseTrainer(StageTrainer):
    """Trains the semantic-to-coarse network; see `StageTrainer`."""

    stage = "coarse"

    def call(self, batch, training=False):
        """Logits of the coarse tokens."""
        infer = self.generation_config.coarse_acoustics_config.max_coarse_input_length
        x = self.model.token_embedding(batch["ids"])
        x = self.model.forward(x, training=training).hidden
        return self.model.logits(x[:, infer:])


class FineTrainer(StageTrainer):
    """Trains the fine network, one codebook per row; see `StageTrainer`."""

    stage = "fine"

    def call(self, batch, training=False):
        """Logits of one codebook for all frames of the window."""
        codebook = tf.convert_to_tensor(batch["codebook"])
        x = self.model.embed(codebook, batch["ids"])
        x = self.model.forward(x, training=training).hidden
        return self.model.logits(codebook, x)


TRAINERS = {
    trainer.stage: trainer for trainer in (SemanticTrainer, CoarseTrainer, FineTrainer)
}
