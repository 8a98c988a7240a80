"""What must hold for a long time, or at the same time."""

import gc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import toy

pytestmark = pytest.mark.slow

CALLS, THREADS = 300, 8


def resident_bytes():
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4_096


def speak(seed):
    inputs = toy.texts(seed % 5)
    voice = toy.voice() if seed % 2 else None
    audio = toy.shared_bark().generate(**inputs, history_prompt=voice, seed=seed)
    return np.asarray(audio)


def test_threads_hear_what_one_after_the_other_hears():
    alone = [speak(seed) for seed in range(3 * THREADS)]
    with ThreadPoolExecutor(THREADS) as pool:
        together = list(pool.map(speak, range(3 * THREADS)))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


def test_memory_stays_flat():
    """The first calls compile; those after them may not add up."""
    for seed in range(50):
        speak(seed)
    before = resident_bytes()
    for seed in range(CALLS):
        speak(seed)
    assert resident_bytes() - before < 20e6
