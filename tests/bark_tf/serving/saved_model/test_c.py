"""An export speaks from C."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import toy
from tensorflow.python.tools import saved_model_utils
from toy_export import FILTERS, Rows, processor

SOURCE = Path(__file__).parents[3] / "serving" / "speak.c"


def compiled(folder):
    """The program, compiled against the installed TensorFlow."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    wheel = Path(tf.__file__).parent
    program = folder / "speak"
    command = [compiler, "-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", "-pedantic"]
    command += [SOURCE, "-isystem", wheel / "include", "-o", program, f"-L{wheel}"]
    command += ["-l:libtensorflow_cc.so.2", "-l:libtensorflow_framework.so.2"]
    command += [f"-Wl,-rpath,{wheel}"]
    subprocess.run(list(map(str, command)), check=True)
    return program


@pytest.mark.slow
def test_c_gives_the_bits_of_generate(exported, tmp_path):
    program, out = compiled(tmp_path), tmp_path / "audio.f32"
    rows = Rows(["three! one"], ["kumo"], 7, 0.5, limits=(0, 40))
    graph = saved_model_utils.get_meta_graph_def(str(exported), "serve")
    audio = graph.signature_def["serving_default"].outputs["audio"].name
    command = [program, exported, audio, *rows.texts, *rows.voices, "7", "0.5", out]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = rows.generate(toy.shared_bark(), processor(), **FILTERS)
    np.testing.assert_array_equal(np.fromfile(out, np.float32), expected.audio[0])
    command[3] = ""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 1 and "text must not be empty" in done.stderr
