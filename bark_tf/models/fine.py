"""The fine transformer: from the first codebooks to all, one codebook at a time.

Axes as in `transformer.py`; N is the number of codebooks.

Source: suno-ai/bark, `bark/model_fine.py`.
"""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from bark_tf.config import BarkFineConfig
from bark_tf.generation.api import generate_fine_codes
from bark_tf.generation.products import matmul_rows
from bark_tf.models.layers import resize_rows
from bark_tf.models.outputs import ModelOutput
from bark_tf.models.pretrained import check_exclusive, check_shape
from bark_tf.models.transformer import TransformerModel


@keras.saving.register_keras_serializable("bark_tf")
class BarkFineModel(TransformerModel):
    """Predicts one codebook of each frame from the codebooks before it.

    Args:
        config: `BarkFineConfig`.
        **kwargs: `gradient_checkpointing`, `name` and `dtype`.

    Call arguments:
        codebook_idx: The codebook to predict, in [n_codes_given, n_codes_total): an
            int, a scalar int tensor, or one per row (batch,), as in a dataset.
        input_ids: int (batch, time, n_codes_total), values in [0, input_vocab_size);
            the embeddings of codebooks 0 to `codebook_idx` **inclusive** are summed.
        attention_mask: (batch, time), 0 where a position is padding.
        position_ids: int (batch, time), values in [0, block_size).
        head_mask: (heads,) or (layers, heads), multiplies the attention weights.
        labels: int (batch, time), codes of `codebook_idx`, or (batch, time,
            n_codes_total), from which that column is taken; -100 is ignored.
        input_embeds: float (batch, time, hidden_size), the sum of embeddings, instead
            of `input_ids`; also spelled `inputs_embeds`.
        output_attentions: Whether to return the attention weights.
        output_hidden_states: Whether to return all hidden states.
        return_dict: Whether to return a `ModelOutput` (the default) or a tuple.
        sample_weight: (batch,) or (batch, time), weights of the labels in the loss.

    Returns:
        `ModelOutput` with `logits` (batch, time, output_vocab_size) and, if requested,
        `loss`, `hidden_states` and `attentions`.

    Raises:
        ValueError: If `codebook_idx` is out of range, both or neither of ids and
            embeddings are given, or the sequence is longer than `block_size`.

    Example:
        >>> model = BarkFineModel(BarkConfig.preset("tiny").fine_acoustics_config)
        >>> codes = np.zeros((1, 4, 8), "int32")
        >>> model(2, codes, labels=codes).loss.shape
        TensorShape([])

    Source: suno-ai/bark, `bark/model_fine.py::FineGPT`.
    """

    config_class = BarkFineConfig
    checkpoint_prefix = "fine_acoustics."
    is_causal = False

    def __init__(self, config, *, name="fine_acoustics", **kwargs):
        # In the published fine model the norms have a bias and nothing else has.
        super().__init__(config, norm_bias=True, name=name, **kwargs)
        self.token_embeddings = [
            self._embedding(config.input_vocab_size, f"token_embedding_{j}")
            for j in range(config.n_codes_total)
        ]
        self.lm_heads = []
        if not config.tie_word_embeddings:
            self.lm_heads = [self._head(f"lm_head_{i}") for i in range(self._num_heads)]
        self.built = True

    @property
    def _num_heads(self) -> int:
        return self.config.n_codes_total - self.config.n_codes_given

    def get_input_embeddings(self):
        """The token embeddings, one per codebook."""
        return self.token_embeddings

    def _resize(self, rows, stddev):
        for table in self.token_embeddings:
            resize_rows(table, "_embeddings", rows, stddev)
            table.input_dim = rows
        for head in self.lm_heads:
            resize_rows(head, "_kernel", rows, stddev)
            head.size = rows
        self.config = self.config.replace(input_vocab_size=rows, output_vocab_size=rows)

    def call(
        self,
        codebook_idx=None,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        head_mask=None,
        labels=None,
        input_embeds=None,
        output_attentions=None,
        output_hidden_states=None,
        return_dict=None,
        inputs_embeds=None,
        sample_weight=None,
        training=False,
    ):
        """See the class."""
        codebook_idx = self._checked_codebook(codebook_idx)
        embeds = input_embeds if inputs_embeds is None else inputs_embeds
        check_exclusive(input_ids=input_ids, input_embeds=embeds)
        x = self.embed(codebook_idx, input_ids) if embeds is None else embeds
        x = tf.convert_to_tensor(x)
        self._check_inputs(x, 0, attention_mask, position_ids, head_mask)
        out = self.forward(
            x,
            position_ids=position_ids,
            padding=attention_mask,
            head_mask=head_mask,
            training=training,
            use_xla=not self._is_exporting,
        )
        logits = self.logits(codebook_idx, out.hidden)
        loss = None
        if labels is not None:
            labels = self._labels_of(codebook_idx, labels)
            loss = self.loss_from_labels(logits, labels, sample_weight)
        output = ModelOutput(
            loss=loss,
            logits=logits,
            hidden_states=out.hidden_states if output_hidden_states else None,
            attentions=out.attentions if output_attentions else None,
        )
        return output if return_dict in (None, True) else output.to_tuple()

    def _checked_codebook(self, codebook_idx):
        first, end = self.config.n_codes_given, self.config.n_codes_total
        if tf.is_tensor(codebook_idx) and not hasattr(codebook_idx, "numpy"):
            return tf.cast(codebook_idx, tf.int32)  # its value is not known yet
        values = np.asarray(codebook_idx)
        is_whole = np.issubdtype(values.dtype, np.integer) and values.ndim <= 1
        if not is_whole or not np.all((first <= values) & (values < end)):
            raise ValueError(
                f"codebook_idx must be a whole number in [{first}, {end}), or one per "
                f"row. Received: codebook_idx={codebook_idx!r}"
            )
        return int(values) if values.ndim == 0 else tf.constant(values, tf.int32)

    def embed(self, codebook_idx, input_ids):
        """Sums the embeddings of codebooks 0 to `codebook_idx` inclusive.

        Args:
            codebook_idx: int, or an int tensor () or (B,), with which one traced
                program serves all codebooks.
            input_ids: int (B, T, N).

        Returns:
            (B, T, C).
        """
        input_ids = tf.convert_to_tensor(input_ids)
        axes = {"batch": None, "time": None, "n_codes_total": self.config.n_codes_total}
        check_shape("input_ids", input_ids, axes)
        static = isinstance(codebook_idx, int)
        last = codebook_idx if static else self.config.n_codes_total - 1
        included = None if static else tf.reshape(codebook_idx, (-1, 1, 1))
        x = self.token_embeddings[0](input_ids[:, :, 0])
        for j in range(1, last + 1):
            e = self.token_embeddings[j](input_ids[:, :, j])
            x += e if static else tf.where(j <= included, e, tf.zeros((), e.dtype))
        return x

    def logits(self, codebook_idx, x, size=None):
        """Logits of codebook `codebook_idx`.

        Args:
            codebook_idx: int, or an int tensor () or (B,).
            x: (B, T, C), `hidden` of `forward`.
            size: Number of ids from 0; all by default.

        Returns:
            (B, T, size).
        """
        index = codebook_idx - self.config.n_codes_given
        if self.config.tie_word_embeddings:
            # Head i is the embedding of codebook i + 1, whatever n_codes_given is.
            kernels = [e.embeddings for e in self.token_embeddings[1:]]
        else:
            kernels = [head.kernel for head in self.lm_heads]
        kernels = [tf.convert_to_tensor(k)[:size] for k in kernels[: self._num_heads]]
        kernel = kernels[index] if isinstance(index, int) else tf.gather(kernels, index)
        return matmul_rows(tf.cast(x, self.compute_dtype), kernel)

    def generate(self, coarse_output, *args, **kwargs):
        """Generates all codebooks.

        Args:
            coarse_output: int (batch, codebooks * frames), coarse tokens.
            *args: `semantic_generation_config`, `coarse_generation_config`,
                `fine_generation_config`, `codebook_size` and `history_prompt`, in
                this order; by keyword too.
            **kwargs: `output_lengths` (tokens per row), `seed`, `jit_compile` (True:
                XLA compiles each pass; None, the default: only where it pays; False:
                nothing), and fields of `BarkFineGenerationConfig` to change.

        Returns:
            int32 (batch, n_fine_codebooks, frames), 75 Hz, values in
            [0, codebook_size); shorter rows are filled up with 0.

        Raises:
            ValueError: For an unknown option.
        """
        return generate_fine_codes(self, coarse_output, *args, **kwargs)

    def aligned(self, logits, labels, sample_weight=None, inputs=None):
        """Logits and labels of the same positions; see `TransformerModel`."""
        if inputs is not None:
            labels = self._labels_of(inputs.get("codebook_idx"), labels)
        labels, sample_weight = self._checked_labels(logits, labels, sample_weight)
        return logits, labels, sample_weight

    def _labels_of(self, codebook_idx, labels):
        """Labels (B, T) of the codebook that is predicted, from one or all of them."""
        labels = tf.convert_to_tensor(labels)
        if labels.shape.rank != 3:
            return labels
        axes = {"batch": None, "time": None, "n_codes_total": self.config.n_codes_total}
        check_shape("labels", labels, axes)
        codebook_idx = tf.cast(codebook_idx, tf.int32)  # Keras builds with float ids
        rows = tf.broadcast_to(codebook_idx, tf.shape(labels)[:1])
        return tf.gather(labels, rows, axis=2, batch_dims=1)

    def input_signature(self):
        """See `PretrainedModel`."""
        shape = (None, None, self.config.n_codes_total)
        return [
            tf.TensorSpec((), tf.int32, name="codebook_idx"),
            tf.TensorSpec(shape, tf.int32, name="input_ids"),
        ]
