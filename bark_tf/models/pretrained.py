"""What all four networks can do besides computing: train, load, save."""

from __future__ import annotations

import contextlib
import contextvars
import ctypes
import functools
import gc
import mmap
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from bark_tf import hub

_ALLOCATE_ONLY = contextvars.ContextVar("bark_tf_allocate_only", default=False)


@contextlib.contextmanager
def allocate_only() -> Iterator[None]:
    """Variables made inside are memory without content.

    For weights that are read from a file right after: drawing random numbers for
    them costs more time than reading, and untouched memory costs nothing. Building
    makes many objects and no garbage, so Python does not look for any meanwhile.
    """
    token = _ALLOCATE_ONLY.set(True)
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
        _ALLOCATE_ONLY.reset(token)


def drawn(initializer: str | Callable) -> Callable:
    """An initializer for variables that are only memory inside `allocate_only`.

    Args:
        initializer: A Keras initializer, or its name.
    """

    def make(shape, dtype=None):
        if _ALLOCATE_ONLY.get():
            return tf.raw_ops.Empty(shape=shape, dtype=tf.as_dtype(dtype), init=False)
        return keras.initializers.get(initializer)(shape, dtype=dtype)

    return make


@keras.saving.register_keras_serializable("bark_tf")
class Normal(keras.initializers.Initializer):
    """Normal random numbers, or only memory inside `allocate_only`.

    Args:
        stddev: Standard deviation.
    """

    def __init__(self, stddev: float):
        self.stddev = stddev

    def __call__(self, shape, dtype=None):
        """Makes the initial value."""
        return drawn(keras.initializers.RandomNormal(stddev=self.stddev))(shape, dtype)

    def get_config(self):
        """The arguments, for serialization."""
        return {"stddev": self.stddev}


# Arrays of at least this size do not go into TensorFlow's memory.
_LARGE_BYTES = 2**16
# They are copied in blocks of this size.
_BLOCK_BYTES = 16 * 2**20
# TensorFlow reads a tensor with instructions that need it (EIGEN_MAX_ALIGN_BYTES).
_ALIGNMENT = 64


def put(variable: Any, value: Any, *, share: bool = False) -> None:
    """Sets a Keras variable, whatever it held: nothing, or another shape.

    Args:
        variable: Keras variable.
        value: Tensor or array of its shape (or of none, to free its memory); cast to
            its dtype.
        share: Whether the variable may use the pages of a file that `value` lies in,
            where they fit, instead of a copy. TensorFlow never writes into memory that
            is not its own: the first change of the variable makes another copy.
    """
    dtype = tf.as_dtype(variable.dtype)
    if isinstance(value, np.ndarray) and value.nbytes >= _LARGE_BYTES:
        fits = share and _is_mapped(value) and _fits(value, dtype)
        value = _handed_over(value if fits else _own_memory(value, dtype), dtype)
    value = tf.cast(value, dtype)
    # Under a `tf.distribute.Strategy` one variable per device.
    for part in getattr(variable.value, "values", (variable.value,)):
        tf.raw_ops.AssignVariableOp(
            resource=part.handle, value=value, validate_shape=False
        )


def _is_mapped(value: np.ndarray) -> bool:
    """Whether an array's memory are pages of a file, or others of `mmap`."""
    return isinstance(value.base, mmap.mmap)


def _fits(value: np.ndarray, dtype: tf.DType) -> bool:
    """Whether TensorFlow could use an array's memory as it is.

    Elsewhere than on POSIX systems a file that is in use could not be replaced.
    """
    return (
        os.name == "posix"
        and value.dtype == dtype.as_numpy_dtype
        and value.flags.c_contiguous
        and value.ctypes.data % _ALIGNMENT == 0
    )


def _own_memory(value: np.ndarray, dtype: tf.DType) -> np.ndarray:
    """A copy that never exists twice and goes back to the system when it is dropped.

    TensorFlow's allocator keeps what it has; memory that is handed over stays ours.
    Pages of an array that lies in a file are let go as they are copied.
    """
    numpy_dtype = np.dtype(dtype.as_numpy_dtype)
    pages = mmap.mmap(-1, value.size * numpy_dtype.itemsize)
    copy = np.frombuffer(pages, numpy_dtype).reshape(value.shape)
    rows = max(1, _BLOCK_BYTES // value[0].nbytes)
    for start in range(0, len(value), rows):
        copy[start : start + rows] = value[start : start + rows]
        if _is_mapped(value) and hasattr(mmap, "MADV_DONTNEED"):
            value.base.madvise(mmap.MADV_DONTNEED)
    return copy


def _handed_over(value: np.ndarray, dtype: tf.DType) -> tf.Tensor:
    """A tensor over an array's own memory."""
    value = value.view()
    value.flags.writeable = True  # nobody writes, but DLPack knows no read-only memory
    from_dlpack = tf.experimental.dlpack.from_dlpack
    if dtype == tf.bfloat16:  # unknown to numpy's side of the exchange
        return tf.bitcast(from_dlpack(value.view(np.uint16).__dlpack__()), dtype)
    return from_dlpack(value.__dlpack__())


def return_free_memory() -> None:
    """Gives the memory that the C library keeps for later back to the system.

    TensorFlow frees tensors of some MB to it, and it keeps them. Only glibc has the
    function; elsewhere nothing happens.
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None


def rest(model: Any) -> None:
    """Returns free memory between two steps of a model, if it is offloaded.

    After a prompt was read above all: the largest moment is the next one, when XLA
    compiles and its loop begins with a copy of the caches.
    """
    if getattr(model, "is_offloaded", False):
        return_free_memory()


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
