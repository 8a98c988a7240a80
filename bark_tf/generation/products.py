"""Products with kernels that are stored (out, in).

`x @ kernel.T` and `(kernel @ x.T).T` are the same numbers, and who multiplies decides
which of them is fast on a CPU. Eigen, which XLA and TensorFlow without oneDNN use,
packs a kernel on the right at a tenth of the speed of one on the left; for one row it
packs nothing. oneDNN is fast both ways, for few rows faster with the kernel on the
right.

Kernels of 8 or 16 bits are another matter: XLA's products take float32, and a kernel
that it converts is written to memory and read again. Only into the product of a matrix
and a vector it fuses the conversion, which then happens in registers while the kernel
is read once, at the speed of its bytes.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from contextvars import ContextVar

import tensorflow as tf

_IS_COMPILED = ContextVar("is_compiled", default=False)
# Beyond, one conversion for all rows costs less than reading the kernel for each.
_FEW_ROWS = 8
# XLA fuses products with vectors of less than 16 KiB.
_FUSED_WIDTH = 16 * 1024 // 4


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


def _unfused_sum(terms):
    """A sum that XLA fuses neither with what reads it nor with its terms.

    If it fused a product's input, it would compute that again for each output, and
    without vectors where heads are not yet joined; if it fused a product with a sum
    that follows, it would no longer fuse the conversion of its kernel.
    """
    return tf.reduce_sum(tf.stack([*terms, tf.zeros_like(terms[0])]), 0)


def _row_by_row(x, kernel):
    """Float32 products of each row with a kernel that XLA converts in registers."""
    width = kernel.shape[1]
    step = width if width < _FUSED_WIDTH else _FUSED_WIDTH // 2
    columns = [slice(start, start + step) for start in range(0, width, step)]
    wide = tf.cast(kernel, tf.float32)
    parts = [wide[:, part] for part in columns]
    rows = tf.cast(tf.reshape(x, (-1, width)), tf.float32)
    y = [
        [tf.linalg.matvec(k, row[c]) for k, c in zip(parts, columns, strict=True)]
        for row in tf.unstack(_unfused_sum([rows]))
    ]
    y = _unfused_sum([tf.stack(part) for part in zip(*y, strict=True)])
    return tf.cast(tf.reshape(y, (*x.shape[:-1], -1)), x.dtype)


def matmul_rows(x, kernel):
    """Multiplies x (..., in) with the rows of `kernel` (out, in), of any dtype."""
    num_rows = x.shape[:-1].num_elements()
    is_small = tf.as_dtype(kernel.dtype).size < 4 and x.dtype != tf.float64
    if _IS_COMPILED.get() and is_small and num_rows and num_rows <= _FEW_ROWS:
        return _row_by_row(x, tf.convert_to_tensor(kernel))
    kernel = tf.cast(kernel, x.dtype)
    if num_rows == 1 or not (_IS_COMPILED.get() or eigen_multiplies()):
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
