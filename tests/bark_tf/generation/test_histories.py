"""Voices as arrays of one shape."""

import numpy as np
import pytest
import toy

from bark_tf.generation.histories import histories_of, stack, voices_per_row


def test_one_voice_is_for_all_rows():
    voice = toy.voice()
    assert voices_per_row(voice, 3) == [voice] * 3
    assert voices_per_row(None, 2) == [None, None]
    assert voices_per_row([voice, None], 2) == [voice, None]
    assert voices_per_row(({"a": 1},), 1) == [{"a": 1}]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_list_of_voices_has_one_per_row(count):
    with pytest.raises(ValueError, match=f"2 of them. Received: {count}"):
        voices_per_row([None] * count, 2)


def test_one_that_is_no_voice_is_refused():
    with pytest.raises(ValueError, match=r"history_prompt must be the name.*: int"):
        voices_per_row(3, 2)
    assert voices_per_row("alpha", 2) == ["alpha"] * 2


def test_voices_become_arrays_of_one_shape():
    histories = histories_of([toy.voice(4), None, toy.voice(9)], 2, 4)
    assert histories.num_semantic.tolist() == [4, 0, 9]
    assert histories.num_coarse.tolist() == histories.num_fine.tolist() == [6, 0, 13]
    assert histories.semantic.shape == (3, 9) and histories.fine.shape == (3, 4, 13)
    assert np.array_equal(histories.coarse[0, :, :6], toy.voice(4)["coarse_prompt"])
    empty = histories_of([None], 2, 4)
    assert [array.shape for array in empty[::2]] == [(1, 0), (1, 2, 0), (1, 4, 0)]


def test_stack_fills_up_behind_every_row():
    rows = [np.ones((2, 1), int), np.ones((2, 3), int), np.ones((2, 0), int)]
    stacked = stack(rows, fill=5)
    assert stacked[:, 0].tolist() == [[1, 5, 5], [1, 1, 1], [5, 5, 5]]
    assert stack([np.zeros(0, np.float32)] * 2).shape == (2, 0)
