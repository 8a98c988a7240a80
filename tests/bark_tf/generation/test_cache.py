"""Caches that are written in three ways, with equal results."""

import numpy as np
import pytest
import tensorflow as tf
import toy

from bark_tf.generation.cache import (
    InPlaceLayerCache,
    LayerCache,
    XlaLayerCache,
    bucket,
    extend,
    pad_rows,
)

HEADS, SLOTS, SIZE = 3, 7, 4
KINDS = {
    "scattered": (LayerCache, False),
    "in place": (InPlaceLayerCache.copy_of, False),
    "xla": (XlaLayerCache, True),
}


def buffers(slots=SLOTS, seed=0):
    rng = np.random.default_rng(seed)
    keys = rng.normal(size=(HEADS, slots, SIZE)).astype(np.float32)
    return tf.constant(keys), tf.constant(keys.transpose(0, 2, 1).copy())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 2])
def test_a_loop_writes_its_positions_and_leaves_its_inputs(kind, count):
    make, jit_compile = KINDS[kind]
    old, new = buffers(), buffers(4 * count, seed=1)
    before = [array.numpy().copy() for array in old]

    @tf.function(jit_compile=jit_compile, autograph=False)
    def run(keys, values):
        def write(n, cache):
            at = [0, n * count, 0]
            key = tf.slice(new[0], at, [HEADS, count, SIZE])
            value = tf.slice(new[1], [0, 0, n * count], [HEADS, SIZE, count])
            return n + 1, cache.write(key, value, 1 + n * count)

        cache = make(keys, values)
        return tf.while_loop(lambda n, _: n < 3, write, (tf.constant(0), cache))[1]

    keys, values = run(*old)
    expected = before[0].copy()
    expected[:, 1 : 1 + 3 * count] = new[0][:, : 3 * count]
    np.testing.assert_array_equal(keys, expected)
    np.testing.assert_array_equal(values, expected.transpose(0, 2, 1))
    for array, copy in zip(old, before, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_only_the_program_for_xla_has_operations_of_xla():
    """And the plain one overwrites its caches: a copy per token costs more than it."""
    model = toy.bark().semantic
    model.generate(**toy.texts(1), jit_compile=False, **LIMITS)
    model.generate(**toy.texts(1), jit_compile=True, **LIMITS)
    found = {}
    for program in vars(model)["_generation_programs"].values():
        (traced,) = program.decode._list_all_concrete_functions()
        graph = traced.graph.as_graph_def()
        nodes = [graph.node, *(one.node_def for one in graph.library.function)]
        ops = {node.op for group in nodes for node in group}
        found[program.jit_compile] = {
            op for op in ops if "Xla" in op or "Inplace" in op
        }
    assert found == {False: {"InplaceUpdate"}, True: {"XlaDynamicUpdateSlice"}}


LIMITS = {
    "semantic_generation_config": toy.generation_config().semantic_config,
    "max_new_tokens": 3,
}


def test_prompts_get_room_for_what_follows():
    keys, values = buffers(2)
    (layer,) = extend([LayerCache(keys, values)], 5, tf.float64)
    assert layer.keys.shape == (HEADS, 5, SIZE) and layer.keys.dtype == tf.float64
    assert layer.values.shape == (HEADS, SIZE, 5)
    np.testing.assert_array_equal(layer.keys[:, :2], keys)
    assert not np.any(layer.keys[:, 2:]) and not np.any(layer.values[..., 2:])


def test_batches_are_padded_to_powers_of_two():
    sizes = [int(bucket(batch)) for batch in (1, 2, 3, 4, 5, 8, 9, 1000)]
    assert sizes == [1, 2, 4, 4, 8, 8, 16, 1024]
    assert pad_rows([[1, 2]], 3).numpy().tolist() == [[1, 2], [0, 0], [0, 0]]
