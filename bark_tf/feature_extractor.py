"""From recordings to the inputs of EnCodec.

Source: Hugging Face transformers, `EncodecFeatureExtractor` (its interface and file).
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import numpy as np

from bark_tf.config.base import Config, frozen_config
from bark_tf.processor import BarkInputs, as_tensors, check_tensors


@frozen_config
class EncodecFeatureExtractor(Config):
    """Makes a batch of recordings.

    Args:
        feature_size: Channels, 1 or 2.
        sampling_rate: Samples per second.
        padding_value: Stands after the end of shorter recordings.
        extra: Keys of the file that are not fields.

    Example:
        >>> inputs = EncodecFeatureExtractor()([np.zeros(3), np.zeros(5)])
        >>> inputs.input_values.shape, inputs.padding_mask.sum(axis=1)
        ((2, 1, 5), array([3, 5], dtype=int32))
    """

    file_name: ClassVar[str] = "preprocessor_config.json"

    feature_size: Literal[1, 2] = 1
    sampling_rate: Annotated[int, "[1, 1_000_000]"] = 24_000
    padding_value: Annotated[float, "[-1_000, 1_000]"] = 0.0

    def _check(self) -> None:
        chunk = self.extra.get("chunk_length_s")
        if chunk is not None:
            raise ValueError(
                "Only codecs without chunks are supported. "
                f"Received: chunk_length_s={chunk}"
            )

    def to_dict(self) -> dict[str, Any]:
        """The fields and the extra keys, with `feature_extractor_type`."""
        values = {**super().to_dict(), "feature_extractor_type": type(self).__name__}
        del values["model_type"]
        return values

    def __call__(
        self,
        raw_audio: Any,
        padding: bool | str | None = None,
        truncation: bool = False,
        max_length: int | None = None,
        return_tensors: str | None = "np",
        sampling_rate: int | None = None,
    ) -> BarkInputs:
        """Turns a recording or a list of them into the inputs of `EncodecModel`.

        Args:
            raw_audio: Numbers (samples,), for two channels (2, samples), or a list of
                such arrays.
            padding: None, True and `"longest"` pad to the longest recording,
                `"max_length"` to `max_length`.
            truncation: Whether to cut recordings after `max_length`.
            max_length: Samples, for padding and truncation.
            return_tensors: `"tf"`, `"np"`, or None for lists.
            sampling_rate: The rate of the recordings, which is checked.

        Returns:
            `input_values`, float32 (batch, feature_size, samples), and `padding_mask`,
            int32 (batch, samples), 0 where a recording is padded.

        Raises:
            ValueError: If a recording has another shape or rate, or an argument is
                invalid.
        """
        check_tensors(return_tensors)
        if sampling_rate not in (None, self.sampling_rate):
            raise ValueError(
                f"The recordings must have {self.sampling_rate} samples per second: "
                f"resample them first. Received: sampling_rate={sampling_rate}"
            )
        if padding not in (None, True, "longest", "max_length"):
            raise ValueError(
                "padding must be True, 'longest' or 'max_length': a batch has one "
                f"length. Received: padding={padding!r}"
            )
        if max_length is None and (truncation or padding == "max_length"):
            raise ValueError(
                "truncation and padding='max_length' need max_length. Received: None"
            )
        rows = [self._channels(audio) for audio in _recordings(raw_audio)]
        if truncation:
            rows = [row[:, :max_length] for row in rows]
        longest = max(row.shape[1] for row in rows)
        if padding == "max_length":
            longest = max(longest, max_length)
        shape = (len(rows), self.feature_size, longest)
        values = np.full(shape, self.padding_value, np.float32)
        mask = np.zeros((len(rows), longest), np.int32)
        for i, row in enumerate(rows):
            values[i, :, : row.shape[1]] = row
            mask[i, : row.shape[1]] = 1
        arrays = {"input_values": values, "padding_mask": mask}
        return BarkInputs(as_tensors(arrays, return_tensors))

    def _channels(self, audio: Any) -> np.ndarray:
        """One recording as (channels, samples)."""
        audio = np.asarray(audio)
        rows = audio[None] if audio.ndim == 1 else audio
        if rows.ndim != 2 or len(rows) != self.feature_size or not rows.size:
            form = "(samples,)" if self.feature_size == 1 else "(2, samples)"
            raise ValueError(
                f"A recording must have the shape {form}. Received: {audio.shape}"
            )
        return rows


def _recordings(raw_audio: Any) -> list[Any]:
    """A recording, or a list of recordings, as a list."""
    is_list = isinstance(raw_audio, list | tuple)
    is_batch = is_list and len(raw_audio) > 0 and np.ndim(raw_audio[0]) > 0
    return list(raw_audio) if is_batch else [raw_audio]
