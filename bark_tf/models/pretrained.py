"""What all networks share besides computing: load, save, free memory."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import keras
import numpy as np
import tensorflow as tf

from bark_tf import hub
from bark_tf.backend import check_process
from bark_tf.config.base import Config
from bark_tf.convert.configs import as_stored
from bark_tf.convert.weights import (
    check_weights,
    load_weights,
    read_config,
    save_weights,
    stored_dtype,
    table_for,
)
from bark_tf.files import local_path
from bark_tf.habits import accepts_habits, refuse_habits
from bark_tf.memory import allocate_only, check_room, put
from bark_tf.saving import saving


def check_exclusive(**given: Any) -> None:
    """Raises ValueError unless exactly one of the named values is not None."""
    present = [name for name, value in given.items() if value is not None]
    if len(present) != 1:
        raise ValueError(
            f"Exactly one of {' and '.join(given)} must be given. "
            f"Received: {' and '.join(present) or 'none of them'}"
        )


def check_shape(name: str, value: Any, *allowed: Mapping[str, int | None]) -> None:
    """Raises ValueError unless an array has an allowed shape, as far as it is known.

    Args:
        name: Of the argument.
        value: The array, or None for nothing to check.
        *allowed: Names of axes -> their sizes, None for any.
    """
    if value is None:
        return
    shape = tf.TensorShape(np.shape(value))
    if any(shape.is_compatible_with(list(axes.values())) for axes in allowed):
        return
    shapes = " or ".join(
        f"({', '.join(a if n is None else f'{a}={n}' for a, n in axes.items())})"
        for axes in allowed
    )
    raise ValueError(f"{name} must have shape {shapes}. Received: shape {shape}")


def half_precision(variables: Iterable[keras.Variable]) -> str | None:
    """What to say about training these variables, if it is too coarse for them."""
    for variable in variables:
        if variable.dtype in ("bfloat16", "float16"):
            return (
                f"Pure {variable.dtype} weights do not learn: small updates and Adam's "
                "decay of 0.999 are rounded away, and large gradients overflow. Create "
                f"or load the network with dtype='mixed_{variable.dtype}'. Received: "
                f"{variable.path} in {variable.dtype}"
            )
    return None


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
        check_process()
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
        check_room(table_for(config).num_values, self.variable_dtype, config)
        self.config = config
        # Whether `release` has freed the weights.
        self.is_released = False
        # Whether the weights are loaded for each use and freed afterwards.
        self.is_offloaded = False
        self._is_exporting = False

    if not TYPE_CHECKING:
        # A type checker would take it for an attribute of any name.
        __getattr__ = refuse_habits

        # A type checker would no longer see the arguments of `call`.
        def __call__(self, *args, **kwargs):
            """See `call`."""
            check_process()
            return super().__call__(*args, **kwargs)

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

    # === Training ===

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Prepares training and evaluation; see `keras.Model.compile`.

        Warns:
            UserWarning: If trainable weights are pure half precision.
        """
        super().compile(*args, **kwargs)
        problem = half_precision(self.trainable_variables)
        if problem:
            warnings.warn(problem, UserWarning, stacklevel=2)

    def compile_from_config(self, config: Mapping[str, Any]) -> None:
        """Compiles a loaded network as it was; Keras needs to be told how."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.optimizer is not None:
            self.optimizer.build(self.trainable_variables)

    # === Serialization ===

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, for Keras."""
        return {
            "config": self.config.to_dict(),
            "name": self.name,
            "trainable": self.trainable,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            "frozen": [weight.path for weight in self.weights if not weight.trainable],
        }

    @classmethod
    def from_config(cls, config: Config | Mapping[str, Any]) -> Self:
        """Builds the network from `get_config()`, or from its configuration."""
        if isinstance(config, Config):
            return cls(config)
        values = dict(config)
        frozen = values.pop("frozen", ())
        values["config"] = cls.config_class.from_dict(values["config"])
        return cls(**values).freeze(frozen)

    def freeze(self, paths: Collection[str]):
        """Makes the weights with these paths untrainable; returns the network."""
        for weight in self.weights:
            if weight.path in paths:
                weight.trainable = False
        return self

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
        check_weights(path, {cls.checkpoint_prefix: config})
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
        check_weights(path, {cls.checkpoint_prefix: config})
        with allocate_only():
            model = cls(config, dtype=dtype)
        load_weights(model, path)
        return model

    @accepts_habits
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
        with saving(directory):
            save_weights([self], directory, max_shard_size=max_shard_size)
            as_stored(self.config, self.variable_dtype).save_pretrained(directory)

    def input_signature(self) -> list[tf.TensorSpec] | None:
        """What a call of the exported network takes, unless `export` is told."""
        return None

    def export(
        self,
        filepath: str | os.PathLike,
        format: str = "tf_saved_model",
        verbose: bool | None = None,
        input_signature: Any = None,
        **kwargs: Any,
    ) -> None:
        """Writes the forward pass for serving; see `keras.Model.export`.

        The endpoint `serve` of a transformer takes `input_ids`, of the fine model
        `codebook_idx` and `input_ids`, and returns a mapping with `logits`. That of the
        codec returns the reconstruction of `audio`. For other inputs give their
        signature, and for other outputs export a functional model.

        Args:
            filepath: Directory to write.
            format: Of `keras.Model.export`.
            verbose: Whether Keras says what it has written.
            input_signature: Specs of the arguments, or one mapping of specs.
            **kwargs: Of `keras.Model.export`.

        Example:
            >>> ids = tf.TensorSpec((None, None), tf.int32)
            >>> mapping = {"input_ids": ids, "attention_mask": ids}
            >>> model.export("semantic", input_signature=[mapping])
        """
        self._is_exporting = True
        try:
            super().export(
                filepath,
                format=format,
                verbose=verbose,
                input_signature=input_signature or self.input_signature(),
                **kwargs,
            )
        finally:
            self._is_exporting = False

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> str:
        """Uploads the checkpoint; the keywords are those of `hub.push_folder`.

        Returns:
            The URL of the commit.
        """
        return hub.push_saved(self.save_pretrained, repo_id, **kwargs)
