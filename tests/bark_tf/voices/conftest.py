"""A voice in a file."""

import numpy as np
import pytest
from toy_files import voice_arrays


@pytest.fixture
def npz(tmp_path):
    path = tmp_path / "voice.npz"
    np.savez(path, **voice_arrays())
    return path
