"""Windows over long recordings."""

import pytest

from bark_tf.semantic_tokens.windows import windows_of


@pytest.mark.parametrize("num_frames", [1, 99, 100, 101, 160, 161, 1_000, 12_345])
@pytest.mark.parametrize("margin", [0, 20, 49])
def test_each_frame_is_used_once_far_from_edges_inside(num_frames, margin):
    done = 0
    for first, last, start, end in windows_of(num_frames, 100, margin):
        assert last - first == min(100, num_frames)
        assert first <= start < end <= last and start == done
        assert first == 0 or start - first >= margin
        assert last == num_frames or last - end >= margin
        done = end
    assert done == num_frames


def test_windows_must_advance():
    with pytest.raises(ValueError, match="more than two margins"):
        next(windows_of(30, 10, 5))
