"""The CTC loss and the error rates of a recogniser, for `fit`.

Axes: B batch, T tokens, V characters, L characters of a text.
"""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from bark_tf.models.ctc import CtcModel
from bark_tf.models.losses import IGNORED_LABEL

from .ctc_examples import Alphabet


class TokenReader(keras.Model):
    """Reads characters from semantic tokens: what words the tokens still hold.

    A token's centre takes the place of the hidden state; the recogniser's upper blocks
    read on from there. Training changes the centres and these blocks only.

    Args:
        network: The recogniser; its lower blocks are frozen.
        layer: The block whose hidden states the centres replace.
        centres: float32 (N, C).
        name: Name of the model; checkpoints hold it.
        **kwargs: `dtype`.

    Call arguments:
        tokens: int32 (B, T).
        lengths: int32 (B,), or None.
        training: Whether to apply dropout.

    Returns:
        Logits (B, T, V + 1).
    """

    def __init__(
        self,
        network: CtcModel,
        layer: int,
        centres: np.ndarray,
        name: str = "reader",
        **kwargs,
    ):
        super().__init__(name=name, **kwargs)
        self.network, self.layer = network, layer
        for part in (network.front, *network.blocks[:layer]):
            part.trainable = False
        self.centres = self.add_weight(centres.shape, "zeros", name="centres")
        self.centres.assign(centres)
        self.built = True

    def call(self, tokens, lengths=None, training=False):
        """See the class."""
        table = tf.cast(self.centres, self.network.compute_dtype)
        x = tf.gather(table, tokens)
        x = self.network.continue_from(x, lengths, self.layer, training=training)
        return self.network.classify(x)


class CtcTrainer(keras.Model):
    """A recogniser and its loss: nats per character.

    Args:
        model: `CtcModel` or `TokenReader`.
        alphabet: The characters.
        stage: Name of the run, for progress.
        **kwargs: `name`.

    Call arguments:
        batch: A batch from `CtcExamples.pad`.
        training: Whether to apply dropout.

    Returns:
        Logits (B, T, V + 1), float32.
    """

    def __init__(self, model: keras.Model, alphabet: Alphabet, stage: str, **kwargs):
        super().__init__(**kwargs)
        self.model, self.stage = model, stage
        # The padding of decoded texts reads as nothing.
        self._characters = tf.constant([*alphabet.characters, ""])
        names = "loss", "character_error_rate", "word_error_rate"
        self._means = [keras.metrics.Mean(name) for name in names]
        self.built = True

    @property
    def metrics(self):
        """Means over all characters or words; Keras resets them between epochs."""
        return self._means

    def call(self, batch, training=False):
        """See the class."""
        lengths = tf.convert_to_tensor(batch["lengths"])
        logits = self.model(batch["inputs"], lengths, training=training)
        return tf.cast(logits, tf.float32)

    def measure(self, batch, training: bool = False):
        """The loss of a batch.

        Args:
            batch: A batch from `CtcExamples.pad`.
            training: Whether to apply dropout.

        Returns:
            The mean loss per character, the number of characters, both float32 (); and
            the logits.
        """
        logits = self(batch, training=training)
        targets = tf.convert_to_tensor(batch["targets"])
        counts = tf.reduce_sum(tf.cast(targets != IGNORED_LABEL, tf.float32), axis=1)
        has_text = counts > 0
        # The kernel refuses empty rows: they get a character and no weight.
        filler = tf.one_hot(
            0, tf.shape(targets)[1], on_value=0, off_value=IGNORED_LABEL
        )
        labels = _sparse(tf.where(has_text[:, None], targets, filler[None]))
        losses = tf.nn.ctc_loss(
            labels,
            logits,
            None,
            batch["lengths"],
            logits_time_major=False,
            blank_index=-1,
        )
        total = tf.reduce_sum(counts)
        loss = tf.reduce_sum(tf.where(has_text, losses, 0.0))
        return tf.math.divide_no_nan(loss, total), total, logits

    def gradients(self, batch):
        """Gradients of the loss, one per trainable variable; the loss; its weight."""
        with tf.GradientTape() as tape:
            loss, total, _ = self.measure(batch, training=True)
            scaled = self.optimizer.scale_loss(loss)
        return tape.gradient(scaled, self.trainable_variables), loss, total

    def train_step(self, data):
        """See `keras.Model.train_step`."""
        batch, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        gradients, loss, total = self.gradients(batch)
        self.optimizer.apply(gradients, self.trainable_variables)
        self._means[0].update_state(loss, total)
        return {"loss": self._means[0].result()}

    def test_step(self, data):
        """The loss, and the errors of the characters and words that are read."""
        batch, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        loss, total, logits = self.measure(batch)
        found = greedy(logits, batch["lengths"])
        truth = _sparse(tf.convert_to_tensor(batch["targets"]))
        measured = [(loss, total), _error_rate(found, truth)]
        measured.append(_error_rate(self._words(found), self._words(truth)))
        for mean, (value, weight) in zip(self._means, measured, strict=True):
            mean.update_state(value, weight)
        return {mean.name: mean.result() for mean in self._means}

    def _words(self, numbers: tf.SparseTensor) -> tf.SparseTensor:
        """The words of texts, as strings."""
        padding = tf.size(self._characters) - 1
        numbers = tf.sparse.to_dense(numbers, default_value=padding)
        texts = tf.strings.reduce_join(tf.gather(self._characters, numbers), axis=1)
        return tf.strings.split(texts).to_sparse()


def greedy(logits, lengths) -> tf.SparseTensor:
    """The likeliest character of each token, without blanks and repetitions.

    Args:
        logits: Float (B, T, V + 1).
        lengths: int32 (B,), tokens.

    Returns:
        Sparse int32 (B, L).
    """
    found, _ = tf.nn.ctc_greedy_decoder(tf.transpose(logits, [1, 0, 2]), lengths)
    return tf.cast(found[0], tf.int32)


def _sparse(targets) -> tf.SparseTensor:
    """Targets without their padding."""
    places = tf.where(targets != IGNORED_LABEL)
    shape = tf.shape(targets, out_type=tf.int64)
    return tf.SparseTensor(places, tf.gather_nd(targets, places), shape)


def _error_rate(found: tf.SparseTensor, truth: tf.SparseTensor):
    """Errors per element of the truth in rows that have one, and the elements."""
    errors = tf.edit_distance(found, truth, normalize=False)
    rows = truth.indices[:, 0]
    ones = tf.ones_like(rows, tf.float32)
    counts = tf.math.unsorted_segment_sum(ones, rows, tf.size(errors))
    total = tf.reduce_sum(counts)
    errors = tf.reduce_sum(tf.where(counts > 0, errors, 0.0))
    return tf.math.divide_no_nan(errors, total), total
