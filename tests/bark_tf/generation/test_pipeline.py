"""The whole of Bark, traced at once, gives the bits of `generate` and `stream`."""

import functools
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import toy

from bark_tf.generation.api import checked_request
from bark_tf.generation.options import stage_configs
from bark_tf.generation.pipeline import speak
from bark_tf.generation.stage import Call

TESTS = Path(__file__).parents[2]
VOICES = [None, toy.voice(9), toy.voice(25, 1)]
# Of 40 semantic tokens: 60 frames, 20 coarse windows, seven fine ones.
LONG = {"semantic_max_new_tokens": 40, "semantic_min_new_tokens": 30}
OPTIONS = {
    "short": {"temperature": 0.9, "do_sample": True},
    "long": {"temperature": 0.9, "do_sample": True, **LONG},
    "filtered": {
        "do_sample": True,
        "top_k": 6,
        "top_p": 0.8,
        "semantic_min_eos_p": 0.2,
        "repetition_penalty": 1.4,
    },
    "hf": {"compat": "hf", **LONG},
    "nothing": {"semantic_max_new_tokens": 0},
}


@functools.cache
def traced(name, jit_compile):
    """`speak` as one function of any batch size and length."""
    bark, options = toy.shared_bark(), dict(OPTIONS[name])
    compat = options.pop("compat", None)
    configs = stage_configs(bark.generation_config, options, compat)
    call = Call(bark, configs, compat, jit_compile)

    def signature(array):
        shape = [None] * array.ndim
        if array.ndim == 3 or array.dtype == np.uint32:
            shape[1] = array.shape[1]  # codebooks, or words of a key
        return tf.TensorSpec(shape, array.dtype)

    def request(inputs, voices, seed):
        arrays = checked_request(
            bark.config.semantic_config,
            configs,
            inputs["input_ids"],
            inputs["attention_mask"],
            voices,
            seed,
            row_bytes=1,
        )
        return tf.nest.map_structure(tf.convert_to_tensor, arrays)

    example = request(toy.texts(1), None, 0)
    specs = tf.nest.map_structure(signature, example)
    whole = tf.function(
        lambda request: speak(call, request), input_signature=[specs], autograph=False
    )
    return lambda *arguments: whole(request(*arguments))


@pytest.mark.filterwarnings("ignore:The text-to-semantic stage ended rows")
@pytest.mark.parametrize(
    ("name", "jit_compile"),
    [
        pytest.param("long", True, marks=pytest.mark.slow),
        ("long", False),
        *(
            pytest.param(name, False, marks=pytest.mark.slow)
            for name in OPTIONS
            if name != "long"
        ),
    ],
)
def test_a_traced_function_gives_the_bits_of_generate(name, jit_compile):
    bark, options = toy.shared_bark(), OPTIONS[name]
    whole = traced(name, jit_compile)
    for texts, voices, seed in (
        ([4], None, [7]),
        ([1], VOICES[1:2], [2**63 + 5]),
        ([1, 17, 4], VOICES, [1, 2, 3]),
    ):
        inputs = toy.texts(*texts)
        out = whole(inputs, voices, seed)
        expected = bark.generate(
            **inputs,
            history_prompt=voices,
            seed=seed,
            return_dict=True,
            jit_compile=jit_compile,
            return_output_lengths=True,
            **options,
        )
        for field in ("semantic", "coarse", "fine", "audio"):
            np.testing.assert_array_equal(
                getattr(out, field), getattr(expected, field), err_msg=field
            )
        hop = bark.config.codec_config.hop_length
        assert (out.frames * hop).numpy().tolist() == expected.lengths
    assert (expected.audio.shape[1] > 0) == (name != "nothing")


@pytest.mark.parametrize(
    "jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("voice", VOICES)
def test_a_stream_put_together_is_the_traced_audio(voice, jit_compile):
    bark, inputs = toy.shared_bark(), toy.texts(4)
    (audio,) = traced("long", jit_compile)(inputs, voice, 5).audio
    pieces = bark.stream(
        **inputs,
        history_prompt=voice,
        seed=5,
        jit_compile=jit_compile,
        **OPTIONS["long"],
    )
    pieces = list(pieces)
    assert len(pieces) > 1
    np.testing.assert_array_equal(np.concatenate(pieces), audio)


def test_one_trace_serves_every_batch_and_length():
    whole = traced("short", False)
    lengths = {whole(toy.texts(*range(n)), None, n).audio.shape for n in (1, 2, 5)}
    assert len(lengths) == 3


def test_without_jit_compile_nothing_needs_xla():
    """Where XLA is switched off, as in a server, its operations are refused."""
    code = f"""
    import ctypes, pathlib, sys
    import numpy as np, tensorflow as tf
    library = pathlib.Path(tf.__file__).with_name("libtensorflow_cc.so.2")
    ctypes.CDLL(str(library))._ZN10tensorflow21DisableXlaCompilationEv()
    try:
        tf.function(lambda x: x + 1, jit_compile=True)(tf.zeros(3))
    except tf.errors.OpError:
        pass
    else:
        raise SystemExit("XLA is not switched off")
    sys.path.append({str(TESTS)!r})
    import toy
    from bark_tf.models import layers
    layers._FUSED_WIDTH = 1  # as in a network of half precision that is wide
    bark = toy.shared_bark()
    for dtype in ("float32", "bfloat16"):
        bark = type(bark)(bark.config, bark.generation_config, dtype=dtype)
        for part in bark.parts.values():
            toy.randomize(part)
        options = dict(seed=[3], jit_compile=False, **{LONG})
        audio = bark.generate(**toy.texts(4), **options)
        pieces = list(bark.stream(**toy.texts(4), **options))
        assert len(pieces) > 1 and np.array_equal(np.concatenate(pieces), audio[0])
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    subprocess.run(command, check=True)
