"""The CTC loss and the error rates of a recogniser, for `fit`.

Axes: B batch, T tokens, V characters, L characters of a text.
"""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from bark_tf.models.ctc import CtcModel
from bark_tf.models.losses import IGNORED_LABEL

from ..codec.losses import commitment
from .ctc_examples import Alphabet

# A centre's decay per step, and the count below which it stays where it is.
_DECAY = 0.99
_LEAST_COUNT = 1e-3
# Weight of the distance from states to their centres, relative to the variance.
_COMMITMENT = 0.2


class QuantizedRecogniser(keras.Model):
    """A recogniser that reads from its own semantic tokens.

    The nearest centres take the place of the hidden states after a block; the upper
    blocks read on from there. Gradients pass straight through, so the lower blocks
    learn to make states that the centres tell apart. The centres have no gradient: they
    follow the moving average of the states assigned to them.

    Args:
        network: The recogniser.
        layer: The block whose hidden states the centres replace.
        centres: float32 (N, C).
        name: Name of the model; checkpoints hold it.
        **kwargs: `dtype`.

    Call arguments:
        features: Float (B, F, M).
        lengths: int32 (B,), tokens of each row before padding.
        training: Whether to apply dropout, and to move the centres.

    Returns:
        Logits (B, T, V + 1).

    Source: van den Oord et al., "Neural Discrete Representation Learning", 2017; Du et
    al., "CosyVoice", 2024 (tokens of a recogniser that is trained through them).
    """

    def __init__(
        self,
        network: CtcModel,
        layer: int,
        centres: np.ndarray,
        name: str = "quantized",
        **kwargs,
    ):
        super().__init__(name=name, autocast=False, **kwargs)
        self.network, self.layer = network, layer
        how = {"trainable": False, "autocast": False, "dtype": "float32"}
        count = len(centres)
        self.centres = self.add_weight(centres.shape, "zeros", name="centres", **how)
        self.sums = self.add_weight(centres.shape, "zeros", name="sums", **how)
        self.counts = self.add_weight((count,), "ones", name="counts", **how)
        self.centres.assign(centres)
        self.sums.assign(centres)
        self.built = True

    def call(self, features, lengths, training=False):
        """See the class."""
        states = self.network.encode(features, lengths, self.layer, training=training)
        wide = tf.cast(states, tf.float32)
        tokens = self.nearest(tf.stop_gradient(wide))
        entries = tf.gather(tf.convert_to_tensor(self.centres), tokens)
        is_real = tf.sequence_mask(lengths, tf.shape(wide)[1])
        if training:
            rows, found = (tf.boolean_mask(x, is_real) for x in (wide, tokens))
            targets = tf.boolean_mask(entries, is_real)
            self.add_loss(_COMMITMENT * commitment(rows[None], targets[None]))
            self._follow(tf.stop_gradient(rows), found)
        wide += tf.stop_gradient(entries - wide)
        return self.read(tf.cast(wide, states.dtype), lengths, training=training)

    def nearest(self, states):
        """The tokens of hidden states: float32 (B, T, C) to int32 (B, T)."""
        centres = tf.convert_to_tensor(self.centres)
        products = tf.einsum("btc,nc->btn", states, centres)
        distances = tf.reduce_sum(centres**2, axis=-1) - 2 * products
        return tf.argmin(distances, axis=-1, output_type=tf.int32)

    def read(self, states, lengths, training=False):
        """Logits (B, T, V + 1) of hidden states after the block, (B, T, C)."""
        states = self.network.continue_from(
            states, lengths, self.layer, training=training
        )
        return self.network.classify(states)

    def _follow(self, rows, tokens):
        """Moves the centres to the states (R, C) that are theirs."""
        centres = tf.convert_to_tensor(self.centres)
        ones = tf.ones_like(tokens, tf.float32)
        found = (
            (self.counts, tf.math.unsorted_segment_sum(ones, tokens, centres.shape[0])),
            (self.sums, tf.math.unsorted_segment_sum(rows, tokens, centres.shape[0])),
        )
        for variable, new in found:
            old = tf.convert_to_tensor(variable)
            variable.assign(_DECAY * old + (1 - _DECAY) * new)
        counts = tf.convert_to_tensor(self.counts)[:, None]
        means = tf.convert_to_tensor(self.sums) / tf.maximum(counts, _LEAST_COUNT)
        self.centres.assign(tf.where(counts > _LEAST_COUNT, means, centres))


class TokenReader(keras.Model):
    """Reads characters from stored semantic tokens.

    Args:
        recogniser: `QuantizedRecogniser`.
        **kwargs: `name`.

    Call arguments:
        tokens: int32 (B, T).
        lengths: int32 (B,).
        training: Has no effect.

    Returns:
        Logits (B, T, V + 1).
    """

    def __init__(self, recogniser: QuantizedRecogniser, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.recogniser = recogniser
        self.built = True

    def call(self, tokens, lengths, training=False):
        """See the class."""
        entries = tf.gather(tf.convert_to_tensor(self.recogniser.centres), tokens)
        entries = tf.cast(entries, self.recogniser.network.compute_dtype)
        return self.recogniser.read(entries, lengths)


class CtcTrainer(keras.Model):
    """A recogniser and its loss: nats per character.

    Args:
        model: `CtcModel`, `QuantizedRecogniser` or `TokenReader`.
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
        """The loss of a batch, the model's own losses included.

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
        loss = tf.math.divide_no_nan(loss, total)
        return tf.add_n([loss, *self.model.losses]), total, logits

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
