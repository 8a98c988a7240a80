"""What cannot fit into memory, or runs where TensorFlow cannot, is refused at once."""

import os
import signal
import warnings

import numpy as np
import pytest
import tensorflow as tf
import toy

from bark_tf.config import BarkGenerationConfig
from bark_tf.generation.limits import fitting_config
from bark_tf.memory import available_memory

TEXTS = toy.texts(0)
MANY = 10**9
ROWS = np.zeros((8, 6), np.int32)
# What is asked of a toy Bark -> the call; the semantic stage has the least to say.
CALLS = {
    "generate": lambda bark: bark.generate(**TEXTS, num_return_sequences=8),
    "stream": lambda bark: bark.stream(**TEXTS, num_return_sequences=8),
    "semantic": lambda bark: bark.semantic.generate(
        **TEXTS, **CONFIG, num_return_sequences=8
    ),
    "coarse": lambda bark: bark.coarse_acoustics.generate(ROWS),
    "fine": lambda bark: bark.fine_acoustics.generate(ROWS),
    "encode": lambda bark: bark.codec_model.encode(np.zeros((8, 999), np.float32)),
    "decode": lambda bark: bark.codec_model.decode(np.zeros((8, 4, 999), np.int32)),
    "codec_decode": lambda bark: bark.codec_decode(np.zeros((8, 4, 999), np.int32)),
}
CONFIG = {"semantic_generation_config": toy.generation_config().semantic_config}


@pytest.fixture
def small_memory(monkeypatch):
    toy.shared_bark()  # building networks needs memory too
    monkeypatch.setattr("bark_tf.memory.available_memory", lambda: 10_000)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_too_much_is_refused_with_what_fits(call, small_memory):
    message = r"^\d+ (rows|frames) .* need at least 0\.\d GB .* at most \d+ fit$"
    with pytest.raises(ValueError, match=message):
        call(toy.shared_bark())


def test_the_number_that_fits_does_fit(monkeypatch):
    bark, row = toy.shared_bark(), 2 * 2 * 64 * 16 * 4  # keys and values of a row
    monkeypatch.setattr("bark_tf.memory.available_memory", lambda: 300)
    with pytest.raises(ValueError, match=r"^10 frames of audio .*: at most 9 fit"):
        bark.stream(**TEXTS)
    monkeypatch.setattr("bark_tf.memory.available_memory", lambda: 5 * row)
    with pytest.raises(ValueError, match=r"^6 rows .*: at most 5 fit"):
        bark.stream(**TEXTS, num_return_sequences=6)
    with pytest.raises(ValueError, match="one text at a time"):  # after the check
        bark.stream(**TEXTS, num_return_sequences=5)


def test_an_absurd_number_is_refused_before_work():
    bark = toy.shared_bark()
    for generate in (bark.generate, bark.stream):
        with pytest.raises(ValueError, match=rf"^{MANY} rows .* at most \d+ fit"):
            generate(**TEXTS, num_return_sequences=MANY)


def test_a_system_says_how_much_memory_there_is_or_does_not(monkeypatch):
    assert 10**8 < available_memory() < 10**15
    monkeypatch.setattr("bark_tf.memory._CGROUP_LIMITS", (__file__, "/proc/1/none"))
    assert available_memory() > 10**8

    def fail(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr("pathlib.Path.read_text", fail)
    assert available_memory() is None
    with pytest.raises(ValueError, match="one text at a time"):
        toy.shared_bark().stream(**TEXTS, num_return_sequences=8)


# === Processes and traced functions ===

TRACED = {
    "generate": lambda bark, ids: bark.generate(ids),
    "stream": lambda bark, ids: bark.stream(ids),
    "semantic": lambda bark, ids: bark.semantic.generate(ids),
    "coarse": lambda bark, ids: bark.coarse_acoustics.generate(ids),
    "fine": lambda bark, ids: bark.fine_acoustics.generate(ids),
}


@pytest.mark.parametrize("call", TRACED.values(), ids=TRACED)
def test_a_traced_function_is_refused(call):
    bark = toy.shared_bark()
    traced = tf.function(lambda ids: call(bark, ids), autograph=False)
    with pytest.raises(ValueError, match=r"outside of tf.function and Dataset\.map"):
        traced(ROWS)


def test_a_forward_pass_may_be_traced():
    semantic = toy.shared_bark().semantic
    traced = tf.function(lambda ids: semantic(ids).logits)
    np.testing.assert_allclose(traced(ROWS), semantic(ROWS).logits, atol=1e-5)


def in_a_fork(call, *arguments):
    """The error of a call in a forked process, which has five seconds."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads and fork
        child = os.fork()
    if not child:
        signal.alarm(5)
        try:
            call(*arguments)
        except BaseException as error:
            os.write(writer, str(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with open(reader, encoding="utf-8") as file:
        return file.read()


def test_a_forked_process_is_refused():
    """It once waited for ever for threads that only its parent has."""
    bark = toy.shared_bark()
    forward = (lambda bark: bark.semantic(ROWS), lambda _: toy.bark())
    for call in (*CALLS.values(), *forward):
        assert "does not survive a fork" in in_a_fork(call, bark)


# === Generation and networks ===

UNFIT = {
    "the end": (
        {"semantic": {"eos_token_id": 26}},
        "eos_token_id must be less than ou",
    ),
    "an end among tokens": ({"semantic": {"eos_token_id": 3}}, "vocab_size=20"),
    "the pad": (
        {"semantic": {"text_pad_token": 40}},
        "text_pad_token must be less tha",
    ),
    "infer": ({"semantic": {"semantic_infer_token": 99}}, "input_vocab_size=40"),
    "the offset": (
        {"semantic": {"text_encoding_offset": 10**6}},
        "text_encoding_offset",
    ),
    "the prompt": ({"semantic": {"max_input_semantic_length": 64}}, "block_size=64"),
    "new tokens": ({"semantic": {"max_new_tokens": 57}}, "max_new_tokens must be at"),
    "coarse infer": ({"coarse": {"coarse_infer_token": 40}}, "coarse_infer_token must"),
    "coarse codes": ({"coarse": {"n_coarse_codebooks": 3}}, "ids. Received: input_voc"),
    "a window": ({"coarse": {"max_coarse_history": 200}}, "into the position table"),
    "rates": (
        {"coarse": {"coarse_rate_hz": 10**5}},
        r"in \[1/50, 50\]\. .* 100000 / 49",
    ),
    "fine codes": ({"fine": {"n_fine_codebooks": 9}}, "n_codes_total=4"),
}


@pytest.mark.parametrize(("changes", "message"), UNFIT.values(), ids=UNFIT)
def test_ids_and_lengths_must_fit_the_networks(changes, message, tmp_path):
    """They once were TensorFlow's errors in the middle of speaking."""
    config = toy.generation_config(**changes)
    config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=rf"generation_config\.json: .*{message}"):
        fitting_config(tmp_path / "generation_config.json", toy.bark_config())
    with pytest.raises(ValueError, match=message):
        toy.shared_bark().stream(**TEXTS, generation_config=config)


def test_the_codec_must_have_the_codes_and_defaults_are_read(tmp_path):
    config, path = toy.bark_config(), tmp_path / "generation_config.json"
    toy.generation_config().save_pretrained(tmp_path)
    assert fitting_config(path, config) == toy.generation_config()
    narrow = config.codec_config.replace(target_bandwidths=(18.0,))
    with pytest.raises(ValueError, match="n_fine_codebooks must be at most 1, as in"):
        fitting_config(path, config.replace(codec_config=narrow))
    few = config.codec_config.replace(codebook_size=4)
    with pytest.raises(ValueError, match="codebook_size must be at most 4, as in the"):
        fitting_config(path, config.replace(codec_config=few))
    BarkGenerationConfig().save_pretrained(tmp_path)
    assert fitting_config(path, config) == BarkGenerationConfig()
