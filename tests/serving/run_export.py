"""Runs requests against an export where bark_tf cannot be imported and XLA is off.

    python run_export.py EXPORT REQUESTS ANSWERS

REQUESTS is a `.npz` whose arrays are named `NUMBER/SIGNATURE/INPUT`. ANSWERS becomes
one with `NUMBER/OUTPUT`, or `NUMBER/error` and `NUMBER/code` of a refused request.
"""

import ctypes
import pathlib
import sys

import numpy as np
import tensorflow as tf


def switch_xla_off():
    """As a stock TensorFlow Serving does."""
    library = pathlib.Path(tf.__file__).with_name("libtensorflow_cc.so.2")
    ctypes.CDLL(str(library))._ZN10tensorflow21DisableXlaCompilationEv()
    try:
        tf.function(lambda x: x + 1, jit_compile=True)(tf.zeros(3))
    except tf.errors.OpError:
        return
    raise SystemExit("XLA is not switched off")


def requests(path):
    """Yields number, signature and inputs, in the order of their numbers."""
    found = {}
    with np.load(path) as arrays:
        for name in arrays:
            number, signature, key = name.split("/")
            found.setdefault((int(number), signature), {})[key] = arrays[name]
    for (number, signature), inputs in sorted(found.items()):
        yield number, signature, inputs


def run(function, inputs):
    """The outputs of a signature, or the error."""
    tensors = {
        name: tf.constant(np.char.encode(array) if array.dtype.kind == "U" else array)
        for name, array in inputs.items()
    }
    try:
        return {name: one.numpy() for name, one in function(**tensors).items()}
    except tf.errors.OpError as error:
        return {"error": np.array(error.message), "code": np.array(error.error_code)}


def main(export, given, answers):
    sys.modules["bark_tf"] = None  # importing it is an error
    switch_xla_off()
    model = tf.saved_model.load(export)
    results = {}
    for number, signature, inputs in requests(given):
        for name, value in run(model.signatures[signature], inputs).items():
            value = np.array(value.astype("S") if value.dtype == object else value)
            results[f"{number}/{name}"] = value
    np.savez(answers, **results)


main(*sys.argv[1:])
