import re

import numpy as np
import pytest
import tensorflow as tf
from toy import generation_config, shared_bark, texts

from bark_tf.generation import products
from bark_tf.generation.products import compiled_products, matmul_rows

KERNEL = np.random.default_rng(0).normal(size=(24, 16)).astype(np.float32)


@tf.function(jit_compile=True, autograph=False)
def compiled(x):
    with compiled_products():
        return matmul_rows(x, KERNEL)


@pytest.mark.parametrize("shape", [(1, 16), (3, 16), (4, 1, 16), (2, 3, 16)])
def test_both_orders_are_the_same_product(shape, monkeypatch):
    x = tf.constant(np.random.default_rng(1).normal(size=shape), tf.float32)
    expected = x.numpy() @ KERNEL.T
    np.testing.assert_allclose(compiled(x), expected, rtol=1e-5, atol=1e-5)
    for is_eigen in (False, True):
        monkeypatch.setattr(products, "eigen_multiplies", lambda value=is_eigen: value)
        got = matmul_rows(x, KERNEL)
        assert got.shape == expected.shape
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_xla_keeps_the_kernel_on_the_left():
    x = tf.zeros((4, 16))
    hlo = compiled.experimental_get_compiler_ir(x)(stage="optimized_hlo")
    assert re.search(r"f32\[24,4\]\S* dot\(", hlo), hlo
    assert not re.search(r"f32\[4,24\]\S* dot\(", hlo), hlo


@pytest.mark.parametrize("dtype", [tf.int8, tf.bfloat16])
@pytest.mark.parametrize(("rows", "width"), [(1, 16), (3, 16), (2, 4096)])
def test_xla_converts_small_kernels_in_registers(dtype, rows, width):
    """A converted copy of the kernel would be written and read for each step."""
    rng = np.random.default_rng(2)
    kernel = tf.cast(rng.integers(-9, 9, (24, width)), dtype)
    x = tf.constant(rng.normal(size=(rows, 1, width)), tf.float32)

    @tf.function(jit_compile=True, autograph=False)
    def product(x, kernel):
        with compiled_products():
            return matmul_rows(x, kernel)

    expected = x.numpy() @ tf.cast(kernel, tf.float32).numpy().T
    np.testing.assert_allclose(product(x, kernel), expected, rtol=1e-4, atol=1e-3)
    hlo = product.experimental_get_compiler_ir(x, kernel)(stage="optimized_hlo")
    products = re.findall(r"= f32\[24\]\S* dot\(", hlo)
    assert len(products) == rows * (1 if width < 4096 else 2)
    assert not re.search(r"\[24,\d+\]\S* fusion\(", hlo), hlo


@pytest.mark.parametrize("after", [tf.identity, tf.nn.gelu])
def test_a_product_of_a_small_kernel_computes_its_input_once(after):
    """Not again for each output; a vector of numbers is read as one."""

    @tf.function(jit_compile=True, autograph=False)
    def product(heads, values, kernel):
        joined = tf.reshape(after(tf.matmul(heads, values)), (1, 1, 16))
        with compiled_products():
            return 1 + matmul_rows(joined, kernel)

    kernel = tf.cast(np.arange(24 * 16).reshape(24, 16) % 19 - 9, tf.int8)
    given = tf.ones((4, 1, 3)), tf.ones((4, 3, 4)), kernel
    hlo = product.experimental_get_compiler_ir(*given)(stage="optimized_hlo")
    fused = re.findall(r"^%fused\S* \((.*)\) -> f32\[24\] \{", hlo, re.MULTILINE)
    (inputs,) = [re.findall(r"\w+\[[\d,]*\]", one) for one in fused]
    assert sorted(inputs) == ["f32[1,16]", "s8[24,16]"], hlo


@pytest.mark.parametrize("is_eigen", [False, True])
def test_eigen_gets_the_kernel_on_the_left(monkeypatch, is_eigen):
    monkeypatch.setattr(products, "eigen_multiplies", lambda: is_eigen)
    graph = tf.function(matmul_rows).get_concrete_function(
        tf.TensorSpec((None, 16)), tf.TensorSpec((24, 16))
    )
    product = next(op for op in graph.graph.get_operations() if op.type == "MatMul")
    assert product.inputs[0].shape[0] == (24 if is_eigen else None)


@pytest.mark.parametrize("jit_compile", [True, False])
def test_only_compiled_decoding_uses_compiled_products(monkeypatch, jit_compile):
    model, used = shared_bark().semantic, []
    forward = model.forward

    def spy(x, cache=None, *args, **kwargs):
        if cache is not None:  # a step, not a prompt
            used.append(products._IS_COMPILED.get())
        return forward(x, cache, *args, **kwargs)

    monkeypatch.setattr(model, "forward", spy)
    monkeypatch.setitem(vars(model), "_generation_programs", {})
    config = generation_config().semantic_config.replace(max_new_tokens=3)
    model.generate(
        **texts(0), semantic_generation_config=config, jit_compile=jit_compile
    )
    assert used and set(used) == {jit_compile}
