"""What this machine can do, and how near products of few rows come to it.

    python benchmarks/limits.py
    TF_ENABLE_ONEDNN_OPTS=0 python benchmarks/limits.py   # as on processors with AVX2

First the limits: bytes read per second, and products of large matrices in each dtype.
Then products of a few rows with kernels stored (out, in), inside XLA and outside, with
the kernel on either side: milliseconds, and the share of the limit reached. The limit
of a product is the longer of reading its kernel once and multiplying. Every figure is
the best of `--repeats`; the kernels together are larger than the caches. The last line
of the output is one JSON object.
"""

import argparse
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import tensorflow as tf

THREADS = len(os.sched_getaffinity(0))
READ_BYTES = 2**29


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 2, 4, 8, 16, 256])
    parser.add_argument("--kernel", type=int, nargs=2, default=[3072, 768])
    parser.add_argument("--kernels", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=15)
    return parser.parse_args()


def product(x, kernel, order, jit_compile):
    """x (rows, in) times the rows of `kernel` (out, in)."""
    if order == "right":
        return tf.matmul(x, kernel, transpose_b=True)
    y = tf.matmul(kernel, x, transpose_b=True)
    if jit_compile:
        from tensorflow.compiler.tf2xla.ops import gen_xla_ops

        # XLA would turn the product around.
        y = gen_xla_ops.xla_optimization_barrier(input=[y])[0]
    return tf.transpose(y)


def best_s(run, repeats):
    """Seconds of the fastest of several calls, after one that is not counted."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def bytes_per_s(repeats):
    """Bytes that all threads together read per second."""
    parts = np.array_split(np.ones(READ_BYTES // 8, np.int64), THREADS)
    with ThreadPoolExecutor(THREADS) as pool:
        seconds = best_s(lambda: list(pool.map(np.max, parts)), repeats)
    return READ_BYTES / seconds


def flops_per_s(dtype, repeats, size=1536):
    """Operations per second of the product of two square matrices."""
    x = tf.cast(tf.random.stateless_normal((size, size), (1, 2)), dtype)
    square = tf.function(lambda: tf.reduce_max(tf.matmul(x, x)))
    return 2 * size**3 / best_s(lambda: square().numpy(), repeats)


def limits(dtype="float32", repeats=15):
    """Bytes and operations per second, and the bytes of a value: `floors.Limits`."""
    rates = bytes_per_s(repeats), flops_per_s(dtype, repeats)
    return *rates, tf.as_dtype(dtype).size


def products(rows, order, jit_compile, kernels, repeats):
    """Seconds of one product of `rows` rows with a kernel."""

    @tf.function(jit_compile=jit_compile, autograph=False)
    def run(x):
        made = (product(x, kernel, order, jit_compile) for kernel in kernels)
        return sum(map(tf.reduce_max, made))

    x = tf.random.stateless_normal((rows, kernels[0].shape[1]), (3, 4))
    return best_s(lambda: run(x).numpy(), repeats) / len(kernels)


def measure(arguments, read, multiply):
    """A dictionary for each number of rows, program and order."""
    kernels = [
        tf.Variable(tf.random.stateless_normal(arguments.kernel, (number, 0)))
        for number in range(arguments.kernels)
    ]
    values = kernels[0].shape.num_elements()
    for rows in arguments.rows:
        limit = max(4 * values / read, 2 * values * rows / multiply)
        for jit_compile in (True, False):
            for order in ("right", "left"):
                how = rows, order, jit_compile, kernels, arguments.repeats
                seconds = products(*how)
                yield {
                    "rows": rows,
                    "program": "XLA" if jit_compile else "plain",
                    "kernel": order,
                    "ms": round(1e3 * seconds, 3),
                    "share": round(limit / seconds, 3),
                }


def main():
    arguments = parse()
    read = bytes_per_s(arguments.repeats)
    rates = {
        dtype: flops_per_s(dtype, arguments.repeats)
        for dtype in ("float32", "bfloat16")
    }
    print(f"{THREADS} threads read {read / 1e9:.1f} GB/s")
    for dtype, rate in rates.items():
        print(f"products of large matrices in {dtype}: {rate / 1e9:.0f} GFLOP/s")
    results = list(measure(arguments, read, rates["float32"]))
    columns = list(results[0])
    print(" ".join(f"{name:>8}" for name in columns))
    for row in results:
        print(" ".join(f"{row[name]:>8}" for name in columns))
    figures = {"bytes_per_s": read, "flops_per_s": rates, "results": results}
    print(json.dumps({"arguments": vars(arguments), **figures}))


if __name__ == "__main__":
    main()
