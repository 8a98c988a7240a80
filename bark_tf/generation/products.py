"""Products with kernels that are stored (out, in).

`x @ kernel.T` and `(kernel @ x.T).T` are the same numbers, and who multiplies decides
which of them is fast on a CPU. Eigen, which XLA and TensorFlow without oneDNN use,
packs a kernel on the right at a tenth of the speed of one on the left; for one row it
packs nothing. oneDNN is fast both ways, for few rows faster with the kernel on the
right.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from contextvars import ContextVar

import tensorflow as tf

_IS_COMPILED = ContextVar("is_compiled", default=False)


@contextlib.contextmanager
def compiled_products() -> Iterator[None]:
    """While this is open, products are written for programs that XLA compiles."""
    token = _IS_COMPILED.set(not has_gpu())
    try:
        yield
    finally:
        _IS_COMPILED.reset(token)


def has_gpu() -> bool:
    """Whether TensorFlow has a GPU."""
    return bool(tf.config.list_logical_devices("GPU"))


@functools.cache
def eigen_multiplies() -> bool:
    """Whether products outside of XLA are Eigen's: on CPUs without oneDNN."""
    try:
        from tensorflow.python.util import _pywrap_util_port
    except ImportError:  # it is no public interface
        return False
    return not _pywrap_util_port.IsMklEnabled() and not has_gpu()


def matmul_rows(x, kernel):
    """Multiplies x (..., in) with the rows of `kernel` (out, in)."""
    kernel = tf.cast(kernel, x.dtype)
    is_one_row = x.shape[:-1].num_elements() == 1
    if is_one_row or not (_IS_COMPILED.get() or eigen_multiplies()):
        return tf.matmul(x, kernel, transpose_b=True)
    rows = x if x.shape.rank == 2 else tf.reshape(x, (-1, x.shape[-1]))
    y = tf.matmul(kernel, rows, transpose_b=True)
    if _IS_COMPILED.get():
        from tensorflow.compiler.tf2xla.ops import gen_xla_ops

        # Otherwise XLA merges the transposition into the product and turns it around.
        y = gen_xla_ops.xla_optimization_barrier(input=[y])[0]
    y = tf.transpose(y)
    if rows is x:
        return y
    return tf.reshape(y, tf.concat([tf.shape(x)[:-1], tf.shape(y)[-1:]], 0))
