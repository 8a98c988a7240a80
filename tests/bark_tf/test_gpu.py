"""What must hold on a GPU; run with `pytest -m gpu` where there is one."""

import numpy as np
import pytest
import tensorflow as tf
import toy

pytestmark = pytest.mark.gpu

DEVICE = "GPU"
CALLS = 20
# A later call may keep a little more, such as the code of a program.
SLACK = 2**20


@pytest.fixture(autouse=True)
def exact_products():
    """Skips where there is no GPU; float32 means float32."""
    if not tf.config.list_logical_devices(DEVICE):
        pytest.skip("no GPU")
    was_on = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    yield
    tf.config.experimental.enable_tensor_float_32_execution(was_on)


def generate(model, **options):
    voices = [toy.voice(), None]
    given = {"history_prompt": voices, "seed": [3, 5], "return_dict": True, **options}
    return model.generate(**toy.texts(4, 1), **given)


def used_bytes():
    return tf.config.experimental.get_memory_info(f"{DEVICE}:0")["current"]


@pytest.mark.parametrize("jit_compile", [True, False])
@pytest.mark.parametrize("temperature", [0, 0.8])
def test_tokens_are_those_of_the_cpu(jit_compile, temperature):
    options = {"jit_compile": jit_compile, "temperature": temperature}
    out = generate(toy.shared_bark(), **options)
    with tf.device("CPU:0"):
        expected = generate(toy.bark(), **options)
    for field in ("semantic", "coarse", "fine"):
        there, here = getattr(out, field), getattr(expected, field)
        np.testing.assert_array_equal(there, here, err_msg=field)
    np.testing.assert_allclose(out.audio, expected.audio, atol=1e-4)


def test_networks_and_caches_stay_on_the_device():
    bark = toy.shared_bark()
    for part in bark.parts.values():
        assert all(f"{DEVICE}:0" in weight.value.device for weight in part.weights)
    audio = bark.codec_model.decode(toy.ids(1, 4, 20, high=8))
    assert f"{DEVICE}:0" in audio.device


def test_memory_stays_flat():
    bark = toy.shared_bark()
    generate(bark)
    before = used_bytes()
    for _ in range(CALLS):
        generate(bark)
    assert used_bytes() - before < SLACK


def test_offloading_frees_the_device_and_changes_nothing():
    bark = toy.bark()
    expected = generate(bark)
    full = used_bytes()
    bark.enable_cpu_offload()
    assert used_bytes() < full
    out = generate(bark)
    np.testing.assert_array_equal(out.fine, expected.fine)
    np.testing.assert_array_equal(out.audio, expected.audio)


def test_half_precision_speaks():
    out = generate(toy.bark(dtype="bfloat16"))
    assert np.isfinite(out.audio).all()
