"""Where weights are: in a mapped file, in their own memory, or freed."""

import gc
import json
import mmap
import os
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import toy
import toy_files

from bark_tf import memory
from bark_tf.bark import BarkModel
from bark_tf.config import CtcConfig, HubertQuantizerConfig
from bark_tf.models.causal import BarkSemanticModel
from bark_tf.models.ctc import CtcModel
from bark_tf.models.encodec.model import EncodecModel
from bark_tf.models.fine import BarkFineModel
from bark_tf.models.hubert.model import HubertModel
from bark_tf.models.hubert.quantizer import HubertQuantizer
from bark_tf.models.pretrained import PretrainedModel

# Its token embeddings, 128 kB, are the only tensor large enough to be shared.
CONFIG = toy.semantic_config(bias=False, input_vocab_size=2048)
LARGE_TENSORS = 1
MAPS = Path("/proc/self/maps")

needs_maps = pytest.mark.skipif(not MAPS.exists(), reason="only Linux lists mappings")


@pytest.fixture
def directory(tmp_path):
    """A checkpoint as this library writes it."""
    toy.randomize(BarkSemanticModel(CONFIG)).save_pretrained(tmp_path)
    return tmp_path


def num_mappings(path):
    """The number of mappings of a file, or of its replaced version, in the process."""
    gc.collect()
    return sum(str(path) in line for line in MAPS.read_text().splitlines())


def values(model):
    return {weight.path: np.array(weight) for weight in model.weights}


def unaligned(path):
    """The same tensors at the package's offsets, which are never multiples of 64."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + length])).encode()
    header += b" " * (-len(header) % 64)  # the data follow at 64 n + 8
    path.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + length :])


# === Nothing is built before it is believed ===


@pytest.fixture
def unbuilt(monkeypatch):
    """Fails where a network is built."""
    monkeypatch.setattr(PretrainedModel, "__init__", lambda *args, **kwargs: 1 / 0)


HUBERT = toy.hubert_config()
QUANTIZER = HubertQuantizerConfig(input_size=6, hidden_size=4, output_size=7)


@pytest.mark.parametrize(
    ("cls", "config", "wrong"),
    [
        (BarkSemanticModel, CONFIG, {"num_layers": 3}),
        (BarkFineModel, toy.fine_config(), {"hidden_size": 32}),
        (EncodecModel, toy_files.CODEC, {"codebook_size": 512}),
        (HubertModel, HUBERT, {"num_hidden_layers": 99}),
        (HubertQuantizer, QUANTIZER, {"output_size": 10**7}),
    ],
)
def test_weights_of_other_sizes_are_refused_unbuilt(
    cls, config, wrong, tmp_path, unbuilt
):
    """Whatever `config.json` said was built first, for hours or beyond memory."""
    path = toy_files.save(tmp_path / "model.safetensors", toy_files.arrays(config))
    wrong = config.replace(**wrong)
    wrong.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"does not fit.*{type(config).__name__} has"):
        cls.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="does not fit"):
        cls.from_file(path, config=wrong)
    with pytest.raises(ZeroDivisionError):
        cls.from_file(path, config=config)


def test_a_whole_bark_of_other_sizes_is_refused_unbuilt(tmp_path, unbuilt):
    config = toy_files.bark_config()
    toy_files.save_hf(tmp_path, config)
    codec = config.codec_config.replace(num_lstm_layers=99)
    config.replace(codec_config=codec).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"EncodecConfig has .*num_lstm_layers=99"):
        BarkModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("cls", [BarkSemanticModel, CtcModel])
def test_a_network_beyond_memory_is_refused(cls, monkeypatch):
    """TensorFlow asked for 40 GB at a time, until the system killed the process."""
    config = {BarkSemanticModel: CONFIG, CtcModel: CtcConfig(hidden_size=8)}[cls]
    most = 4 * cls(config).count_params()
    monkeypatch.setattr(memory, "available_memory", lambda: most)
    cls(config)
    cls(config, dtype="mixed_float16")
    monkeypatch.setattr(memory, "available_memory", lambda: most - 1)
    cls(config, dtype="float16")
    message = rf"^\d+ weights of {type(config).__name__}\(.*\) need at least .* fit$"
    with pytest.raises(ValueError, match=message):
        cls(config)
    with memory.allocate_only():
        cls(config)


# === Habits of transformers ===


def test_a_configuration_builds_a_network():
    for cls, config in (
        (BarkSemanticModel, CONFIG),
        (EncodecModel, toy.codec_config()),
    ):
        assert cls.from_config(config).config == config


def test_counting_parameters():
    model = BarkSemanticModel(CONFIG)
    tables = (2048 + 48) * 16
    total = sum(weight.numpy().size for weight in model.weights)
    assert model.num_parameters() == total
    assert model.num_parameters(exclude_embeddings=True) == total - tables
    model.trainable = False
    assert model.num_parameters(only_trainable=True) == 0


# === Sharing a file's pages ===


@needs_maps
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_weights_are_the_pages_of_a_file_that_fits(dtype, tmp_path):
    written = toy.randomize(BarkSemanticModel(CONFIG, dtype=dtype))
    written.save_pretrained(tmp_path)
    model = BarkSemanticModel.from_pretrained(tmp_path, dtype=dtype)
    toy_files.assert_same(values(model), values(written))
    assert num_mappings(tmp_path) == LARGE_TENSORS
    model.release()
    assert num_mappings(tmp_path) == 0


@needs_maps
@pytest.mark.parametrize("reason", ["unaligned", "another dtype"])
def test_weights_are_copied_from_a_file_that_does_not_fit(reason, directory):
    expected = values(BarkSemanticModel.from_pretrained(directory))
    if reason == "unaligned":
        unaligned(directory / "model.safetensors")
    dtype = "float64" if reason == "another dtype" else None
    model = BarkSemanticModel.from_pretrained(directory, dtype=dtype)
    assert num_mappings(directory) == 0
    for path, value in values(model).items():
        np.testing.assert_array_equal(value, expected[path])


def test_training_changes_neither_the_file_nor_another_network(directory):
    before = (directory / "model.safetensors").read_bytes()
    model, other = (BarkSemanticModel.from_pretrained(directory) for _ in range(2))
    untouched = values(other)
    ids = toy.ids(2, 9)
    model.compile(optimizer=keras.optimizers.SGD(1.0))
    model.fit({"input_ids": ids, "labels": ids}, verbose=0)
    changed = values(model)
    assert all(np.any(changed[path] != untouched[path]) for path in changed)
    toy_files.assert_same(values(other), untouched)
    assert (directory / "model.safetensors").read_bytes() == before


def test_the_directory_of_a_loaded_network_can_be_saved_over(directory):
    """The old file stays readable, without a name, while it is in use."""
    model, other = (BarkSemanticModel.from_pretrained(directory) for _ in range(2))
    before = values(other)
    model.token_embedding.embeddings.assign_add(tf.ones((2048, 16)))
    model.save_pretrained(directory)
    toy_files.assert_same(values(other), before)
    again = BarkSemanticModel.from_pretrained(directory)
    toy_files.assert_same(values(again), values(model))
    other.save_pretrained(directory)  # what is read is what is replaced
    toy_files.assert_same(values(BarkSemanticModel.from_pretrained(directory)), before)


@pytest.mark.parametrize("mode", ["int8", pytest.param("int4", marks=pytest.mark.slow)])
def test_a_quantized_network_says_how_to_save_it(mode, tmp_path):
    model = BarkSemanticModel(CONFIG)
    model.quantize(mode)
    with pytest.raises(ValueError, match="save the network before it is quantized"):
        model.save_pretrained(tmp_path / "new")
    assert not list(tmp_path.glob("new/*"))


def test_arrays_of_a_caller_are_never_shared():
    ones = np.ones(2**16, np.float32)
    pages = np.ndarray(ones.shape, np.float32, mmap.mmap(-1, ones.nbytes))
    pages[:] = ones
    for array in (ones, pages):
        variable = keras.Variable(np.zeros_like(ones))
        memory.put(variable, array)
        array[:] = 2
        assert np.all(variable.numpy() == 1)


# === Memory ===


def resident_bytes():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


@needs_maps
def test_memory_of_copied_weights_goes_back_to_the_system():
    """Also for tensors of a few MB, which TensorFlow's allocator would keep."""
    arrays = [np.ones((2**10, 2**10), np.float32) for _ in range(24)]
    variables = [keras.Variable(array[:1]) for array in arrays]
    size = sum(array.nbytes for array in arrays)
    before = resident_bytes()
    for variable, array in zip(variables, arrays, strict=True):
        memory.put(variable, array)
    assert resident_bytes() - before > 0.9 * size
    for variable in variables:
        memory.put(variable, tf.zeros((0,)))
    gc.collect()
    assert resident_bytes() - before < 0.1 * size


def test_inside_allocate_only_nothing_is_drawn():
    draw = memory.drawn(keras.initializers.Constant(3.0))
    with memory.allocate_only():
        assert draw((2, 2), "float16").dtype == tf.float16
        assert memory.drawn("no such initializer")((2,), "float32").shape == (2,)
    assert np.all(draw((2, 2), "float16") == 3)


@pytest.mark.parametrize("collects", [True, False])
def test_collecting_garbage_goes_on_as_it_was(collects):
    (gc.enable if collects else gc.disable)()
    try:
        with memory.allocate_only():
            assert not gc.isenabled()
        assert gc.isenabled() == collects
    finally:
        gc.enable()


def test_without_eager_execution_no_network_is_built():
    """It once ended in an error about EagerTensor."""
    with tf.Graph().as_default(), pytest.raises(ValueError, match="disable_eager_exec"):
        BarkSemanticModel(toy.semantic_config())
