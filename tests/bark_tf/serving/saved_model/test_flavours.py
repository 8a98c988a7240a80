"""Exports for XLA and of the shipped voice; TensorFlow's own tool."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import toy
from toy_export import FILTERS, Rows, answers_of, processor

from bark_tf.bark import BarkModel
from bark_tf.processor import BarkProcessor

pytestmark = pytest.mark.slow

ROWS = Rows(["one two", "fours", "three! one"], ["", "kumo", "alpha"], 7, (0.9, 0.7, 0))
MOST_OVERHEAD = 1.15  # files to weights


def size_of(model):
    """Bytes of all weights."""
    weights = [weight for part in model.parts.values() for weight in part.weights]
    return sum(tf.as_dtype(w.dtype).size * int(np.prod(w.shape)) for w in weights)


def size_on_disk(path):
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def test_compiled_loops_give_the_bits_of_generate(tmp_path):
    bark = toy.shared_bark()
    path = bark.export(tmp_path / "bark", processor(), jit_compile=True)
    function = tf.saved_model.load(str(path)).signatures["serving_default"]
    out = function(**{name: tf.constant(x) for name, x in ROWS.speak().items()})
    expected = ROWS.generate(bark, processor(), jit_compile=True)
    np.testing.assert_array_equal(out["audio"], expected.audio)
    (answer,) = answers_of(path, [("speak", ROWS.speak())], tmp_path)
    assert "XLA" in str(answer["error"])


def test_the_shipped_voice_needs_little_more_than_its_weights(tmp_path):
    model = BarkModel.from_pretrained(dtype="float32")
    speaker = BarkProcessor.from_pretrained()
    path = model.export(tmp_path / "bark", speaker)
    assert size_on_disk(path) < MOST_OVERHEAD * size_of(model)
    rows = Rows(["four zero", "yes"], ["kumo", ""], [7, 8], (0.7, 0.7, 0.5), (0, 60))
    (answer,) = answers_of(path, [("speak", rows.speak())], tmp_path)
    expected = rows.generate(model, speaker, fine_do_sample=True, jit_compile=True)
    np.testing.assert_array_equal(answer["audio"], expected.audio)


@pytest.mark.parametrize(
    ("how", "equal_codes"), [({"quantize": "int8"}, 1.0), ({"dtype": "bfloat16"}, 0.98)]
)
def test_smaller_weights(how, equal_codes, tmp_path):
    """bfloat16 rounds the fine network's logits as the graph around them decides."""
    model = BarkModel.from_pretrained(**how)
    speaker = BarkProcessor.from_pretrained()
    path = model.export(tmp_path / "bark", speaker)
    # The graph takes 4 MB, however large the weights are.
    assert size_on_disk(path) < size_of(model) + 5e6
    rows = Rows(["four zero", "yes"], ["kumo", "alpha"], [7, 8], (0.7, 0.7, 0.5))
    served = tf.saved_model.load(str(path))
    inputs = {name: tf.constant(x) for name, x in rows.speak().items()}
    voices = served.signatures["voices"](voice=inputs.pop("voice"))
    ids = served.signatures["tokenize"](text=inputs.pop("text"))
    function = served.signatures["speak_tokens"]
    given = {**voices, **ids, **inputs}
    names = function.structured_input_signature[1]
    out = function(**{name: given[name] for name in names})
    expected = rows.generate(model, speaker, fine_do_sample=True)
    for name in ("semantic", "coarse"):
        np.testing.assert_array_equal(out[name], getattr(expected, name))
    assert np.mean(out["fine"] == expected.fine) >= equal_codes


def saved_model_cli(*arguments):
    command = [sys.executable, "-m", "tensorflow.python.tools.saved_model_cli"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_saved_model_cli_shows_and_runs(exported, tmp_path):
    shown = saved_model_cli("show", "--dir", str(exported), "--all")
    for name in ("serving_default", "coarse_window", "encode"):
        assert f"signature_def['{name}']" in shown
    rows = Rows(["one two"], ["kumo"], 7, 0.5, limits=(0, 7))
    given = ";".join(f"{key}={array.tolist()!r}" for key, array in rows.speak().items())
    arguments = ["run", "--dir", str(exported), "--tag_set", "serve"]
    arguments += ["--signature_def", "speak", "--input_exprs", given]
    saved_model_cli(*arguments, "--outdir", str(tmp_path))
    expected = rows.generate(toy.shared_bark(), processor(), **FILTERS)
    np.testing.assert_array_equal(np.load(tmp_path / "audio.npy"), expected.audio)
