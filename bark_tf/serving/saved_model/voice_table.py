"""Voices by name, as variables of an export."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from bark_tf.generation.histories import Histories, histories_of
from bark_tf.serving.saved_model.checks import Check, Limits, require

_NAMED = 20  # names in an error message


class VoiceTable(tf.Module):
    """The voices of an export, and no voice under the empty name.

    Args:
        voices: Name -> `VoicePreset`.
        limits: `Limits` of the model.
    """

    def __init__(self, voices: Mapping[str, Any], limits: Limits):
        super().__init__(name="voices")
        self.names = sorted(voices)
        rows = [None, *(voices[name] for name in self.names)]
        arrays = histories_of(rows, limits.num_coarse, limits.num_fine)
        # Ids of Bark fit 16 bits.
        largest = max(limits.semantic_vocabulary, limits.codebook_size)
        dtype = np.int16 if largest <= np.iinfo(np.int16).max else np.int32
        self.arrays = [
            tf.Variable(array.astype(dtype), trainable=False) for array in arrays
        ]
        self.table = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(
                tf.constant(["", *self.names]), tf.range(len(rows))
            ),
            default_value=-1,
        )

    def __call__(self, names: tf.Tensor) -> Histories:
        """The voices of rows: `Histories`, as long as the longest of them.

        A request with an unknown name fails.
        """
        index = self.table.lookup(names)
        known = ", ".join(map(repr, self.names[:_NAMED])) or "there are none"
        more = len(self.names) - _NAMED
        words = f"voice must be empty or one of the voices of this model: {known}"
        words += f" and {more} more" if more > 0 else ""
        unknown = tf.boolean_mask(names, index < 0)
        index = require([Check(index >= 0, words, unknown)], index)
        rows = Histories(
            *(tf.cast(tf.gather(array, index), tf.int32) for array in self.arrays)
        )
        tokens, frames = (tf.reduce_max(n) for n in (rows.num_semantic, rows.num_fine))
        return rows._replace(
            semantic=rows.semantic[:, :tokens],
            coarse=rows.coarse[:, :, :frames],
            fine=rows.fine[:, :, :frames],
        )
