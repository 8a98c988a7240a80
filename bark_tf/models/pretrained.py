"""What all four networks can do besides computing: train, load, save."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import keras
import tensorflow as tf

from bark_tf import hub
from bark_tf.memory import allocate_only, put


def check_exclusive(**given: Any) -> None:
    """Raises ValueError unless exactly one of the named values is not None."""
    present = [name for name, value in given.items() if value is not None]
    if len(present) != 1:
        raise ValueError(
            f"Exactly one of {' and '.join(given)} must be given. "
            f"Received: {' and '.join(present) or 'none of them'}"
        )


def save_together(models: Sequence[Any], path: str | os.PathLike) -> None:
    """Writes networks into one safetensors file, from which each `from_file` reads.

    Args:
        models: Networks with different checkpoint prefixes.
        path: The file, written beside and renamed.
    """
    from bark_tf.convert.weights import save_file

    save_file(models, path)


class PretrainedModel(keras.Model):
    """Base of the four networks; abstract.

    A subclass names its `config_class` and builds all its variables in the constructor.

    Args:
        config: An instance of `config_class`.
        **kwargs: `name`, `dtype` (a Keras dtype policy) and others of `keras.Model`.
    """

    config_class: ClassVar[type]
    # Where this network's tensors stand in a whole Bark's checkpoint.
    checkpoint_prefix: ClassVar[str] = ""

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(config, self.config_class):
            raise ValueError(
                f"{type(self).__name__} is made from a {self.config_class.__name__}. "
                f"Received: {type(config).__name__}"
            )
        self.config = config
        # Whether the weights have been let go by `release`.
        self.is_released = False
        # Whether the weights come and go, because memory is scarce.
        self.is_offloaded = False

    # === Memory ===

    def release(self) -> None:
        """Frees the memory of the weights; programs that were compiled stay.

        The network cannot be used until `put_weights`, or loading, brings them back.
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
    def from_config(cls, config: Mapping[str, Any]):
        """Builds the network from `get_config()`."""
        values = dict(config)
        values["config"] = cls.config_class.from_dict(values["config"])
        return cls(**values)

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | os.PathLike,
        *,
        dtype: Any = None,
        quantize: str | None = None,
        revision: str | None = None,
        cache_dir: str | os.PathLike | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        **overrides: Any,
    ):
        """Loads the network from its own checkpoint or out of a whole Bark.

        Reads only this network's tensors, one at a time. Those that fit stay in the
        file until they are used: it may be replaced, but must not be changed in place.

        Args:
            path_or_id: A checkpoint directory, or a repository id on the hub.
            dtype: A Keras dtype policy such as `"float32"`, `"bfloat16"` or
                `"mixed_bfloat16"`; Keras's global policy by default.
            quantize: A Keras quantization mode such as `"int8"`, applied after
                loading; None: off.
            revision: Branch, tag or commit of the repository.
            cache_dir: Where downloads are kept.
            token: Access token for private repositories.
            local_files_only: Never ask the network.
            **overrides: Fields of the configuration to change.

        Returns:
            The network.

        Raises:
            FileNotFoundError: If there is no such checkpoint.
            ValueError: If the checkpoint is damaged or of another network.
        """
        where = {
            "revision": revision,
            "cache_dir": cache_dir,
            "token": token,
            "local_files_only": local_files_only,
        }
        config = cls.config_class.from_pretrained(path_or_id, **where, **overrides)
        path = hub.find_weights(path_or_id, **where)
        with allocate_only():
            model = cls(config, dtype=dtype)
        from bark_tf.convert.weights import load_weights

        load_weights(model, path)
        if quantize is not None:
            model.quantize(quantize)
        return model

    @classmethod
    def from_file(
        cls, path: str | os.PathLike, *, config: Any = None, dtype: Any = None
    ):
        """Loads the network from one file of weights, whoever wrote it.

        Args:
            path: A safetensors file or one of `torch.save`, or an index of shards.
            config: The configuration; None: as the shapes of the tensors tell it, which
                works for a HuBERT and its quantizer.
            dtype: A Keras dtype policy; Keras's global policy by default.

        Returns:
            The network.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is damaged or of another network, or `config` is
                needed.
        """
        from bark_tf.convert.weights import load_weights, read_config

        if config is None:
            config = read_config(cls.config_class, path, cls.checkpoint_prefix)
        with allocate_only():
            model = cls(config, dtype=dtype)
        load_weights(model, path)
        return model

    def save_pretrained(
        self, directory: str | os.PathLike, *, max_shard_size: int | str = "5GB"
    ) -> None:
        """Writes the network as a checkpoint directory that transformers opens too.

        Args:
            directory: Made if missing. Files of an older save are replaced.
            max_shard_size: Bytes, or a text such as `"200MB"`; larger checkpoints are
                split.
        """
        from bark_tf.convert.weights import save_weights

        Path(directory).mkdir(parents=True, exist_ok=True)
        save_weights([self], directory, max_shard_size=max_shard_size)
        self.config.save_pretrained(directory)

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> str:
        """Uploads the checkpoint; see `hub.push_folder` for the keywords.

        Returns:
            The address of the commit.
        """
        return hub.push_saved(self.save_pretrained, repo_id, **kwargs)
