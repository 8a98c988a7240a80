"""What all networks share besides computing: load, save, free memory."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import keras
import tensorflow as tf

from bark_tf import hub
from bark_tf.config.base import Config
from bark_tf.convert.weights import (
    load_weights,
    read_config,
    save_weights,
    stored_dtype,
)
from bark_tf.files import local_path
from bark_tf.habits import accepts_habits, refuse_habits
from bark_tf.memory import allocate_only, put


def check_exclusive(**given: Any) -> None:
    """Raises ValueError unless exactly one of the named values is not None."""
    present = [name for name, value in given.items() if value is not None]
    if len(present) != 1:
        raise ValueError(
            f"Exactly one of {' and '.join(given)} must be given. "
            f"Received: {' and '.join(present) or 'none of them'}"
        )


class PretrainedModel(keras.Model):
    """Base of all networks; abstract.

    A subclass sets `config_class` and builds all its variables in the constructor.

    Args:
        config: An instance of `config_class`.
        **kwargs: Arguments of `keras.Model`, such as `name` and `dtype`.
    """

    config_class: ClassVar[type]
    # Prefix of this network's tensors in the checkpoint of a whole Bark.
    checkpoint_prefix: ClassVar[str] = ""

    def __init__(self, config, **kwargs):
        if not tf.compat.v1.executing_eagerly_outside_functions():
            raise ValueError(
                "Networks need eager execution: build them outside of tf.Graph, and do "
                "not call tf.compat.v1.disable_eager_execution() or "
                "disable_v2_behavior()"
            )
        super().__init__(**kwargs)
        if not isinstance(config, self.config_class):
            raise ValueError(
                f"{type(self).__name__} takes a {self.config_class.__name__}. "
                f"Received: {type(config).__name__}"
            )
        self.config = config
        # Whether `release` has freed the weights.
        self.is_released = False
        # Whether the weights are loaded for each use and freed afterwards.
        self.is_offloaded = False

    if not TYPE_CHECKING:  # a type checker would take it for an attribute of any name
        __getattr__ = refuse_habits

    def num_parameters(
        self, only_trainable: bool = False, exclude_embeddings: bool = False
    ) -> int:
        """Number of values in all weights, as in transformers.

        Args:
            only_trainable: Whether to leave frozen weights out.
            exclude_embeddings: Whether to leave embedding tables out.
        """
        weights = self.trainable_weights if only_trainable else self.weights
        return sum(
            math.prod(weight.shape)
            for weight in weights
            if not (exclude_embeddings and weight.path.endswith("/embeddings"))
        )

    # === Memory ===

    def release(self) -> None:
        """Frees the memory of the weights; compiled programs stay.

        The network is unusable until `put_weights` or loading restores the weights.
        """
        for weight in self.weights:
            put(weight, tf.zeros((0,), weight.dtype))
        self.is_released = True

    def put_weights(self, values: Sequence[Any]) -> None:
        """Sets all weights, in the order of `weights`; also after `release`."""
        for weight, value in zip(self.weights, values, strict=True):
            put(weight, value)
        self.is_released = False

    # === Serialization ===

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, for Keras."""
        return {
            "config": self.config.to_dict(),
            "name": self.name,
            "trainable": self.trainable,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
        }

    @classmethod
    def from_config(cls, config: Config | Mapping[str, Any]) -> Self:
        """Builds the network from `get_config()`, or from its configuration."""
        if isinstance(config, Config):
            return cls(config)
        values = dict(config)
        values["config"] = cls.config_class.from_dict(values["config"])
        return cls(**values)

    @classmethod
    @accepts_habits
    def from_pretrained(
        cls,
        path_or_id: str | os.PathLike,
        *,
        dtype: Any = None,
        quantize: str | None = None,
        subfolder: str | None = None,
        revision: str | None = None,
        cache_dir: str | os.PathLike | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        **overrides: Any,
    ) -> Self:
        """Loads the network from its own checkpoint or out of a whole Bark.

        Reads only this network's tensors, one at a time. Where dtype and layout allow
        it, a weight is a view of the mapped file: the file may be replaced, but must
        not be changed in place.

        Args:
            path_or_id: A checkpoint directory, or a repository id on the hub.
            dtype: A Keras dtype policy such as `"float32"`, `"bfloat16"` or
                `"mixed_bfloat16"`; `"auto"` for that of the checkpoint; Keras's global
                policy by default.
            quantize: A Keras quantization mode such as `"int8"`, applied after
                loading, or None.
            subfolder: Folder of the checkpoint inside the directory or repository.
            revision: Branch, tag or commit of the repository.
            cache_dir: Where downloads are kept.
            token: Access token for private repositories.
            local_files_only: Whether to use only files that are already here.
            **overrides: Fields of the configuration to change; keywords of
                transformers, see `bark_tf.habits`.

        Returns:
            The network.

        Raises:
            FileNotFoundError: If there is no such checkpoint.
            ValueError: If the checkpoint is damaged or belongs to another network.
        """
        where = {
            "subfolder": subfolder,
            "revision": revision,
            "cache_dir": cache_dir,
            "token": token,
            "local_files_only": local_files_only,
        }
        config = cls.config_class.from_pretrained(path_or_id, **where, **overrides)
        path = hub.find_weights(path_or_id, **where)
        with allocate_only():
            model = cls(config, dtype=stored_dtype(path) if dtype == "auto" else dtype)
        load_weights(model, path)
        if quantize is not None:
            model.quantize(quantize)
        return model

    @classmethod
    def from_file(
        cls, path: str | os.PathLike, *, config: Any = None, dtype: Any = None
    ) -> Self:
        """Loads the network from one file of weights in any supported format.

        Args:
            path: A safetensors file, a file of `torch.save`, or an index of shards.
            config: The configuration. None reads it off the shapes of the tensors,
                which works for HuBERT and its quantizer.
            dtype: A Keras dtype policy; Keras's global policy by default.

        Returns:
            The network.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is damaged or belongs to another network, or if
                `config` is needed.
        """
        if config is None:
            config = read_config(cls.config_class, path, cls.checkpoint_prefix)
        with allocate_only():
            model = cls(config, dtype=dtype)
        load_weights(model, path)
        return model

    def save_pretrained(
        self, directory: str | os.PathLike, *, max_shard_size: int | str = "5GB"
    ) -> None:
        """Writes a checkpoint directory that transformers opens too.

        Args:
            directory: Created if missing. Files of an older save are replaced.
            max_shard_size: Bytes, or a string such as `"200MB"`; larger checkpoints are
                split.
        """
        directory = local_path(directory, "The directory")
        directory.mkdir(parents=True, exist_ok=True)
        save_weights([self], directory, max_shard_size=max_shard_size)
        self.config.save_pretrained(directory)

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> str:
        """Uploads the checkpoint; the keywords are those of `hub.push_folder`.

        Returns:
            The URL of the commit.
        """
        return hub.push_saved(self.save_pretrained, repo_id, **kwargs)
