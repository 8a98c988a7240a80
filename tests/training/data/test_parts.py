"""Recordings that are cut at pauses between timed words."""

import json
from pathlib import Path

import numpy as np
import pytest

from bark_tf.training.data.datasets import Recording, read_dataset
from bark_tf.training.data.layouts import Word
from bark_tf.training.data.parts import parts_of

RATE = 100
TEXT = "One, two - three four; five. Six"


def recording(text=TEXT, pauses=(), names=("One", "two", "three", "four", "five.")):
    """A word per second, each 0.7 s long; a pause is added before some."""
    words, start = [], 0.1
    for number, name in enumerate((*names, "Six")):
        start += dict(pauses).get(number, 0)
        words.append(Word(name, start, start + 0.7))
        start += 1
    return Recording("long", text, "ann", Path("long.wav"), tuple(words))


def cut(one, seconds, most_s):
    audio = np.arange(round(seconds * RATE), dtype=np.float32)
    return list(parts_of(one, audio, RATE, most_s))


def test_parts_end_at_the_longest_pause_and_keep_their_text():
    one = recording(pauses={2: 1, 5: 0.5})
    parts = cut(one, 8, 4)
    assert [part.id for part, _ in parts] == ["long#1", "long#2", "long#3"]
    assert [part.text for part, _ in parts] == [
        "One, two -",
        "three four; five.",
        "Six",
    ]
    assert [len(part.words) for part, _ in parts] == [2, 3, 1]
    # Cut in the middle of a pause, with nothing lost or used twice.
    joined = np.concatenate([audio for _, audio in parts])
    np.testing.assert_array_equal(joined, np.arange(800))
    assert len(parts[0][1]) == round((1.8 + 3.1) / 2 * RATE)


def test_what_fits_or_has_no_times_stays_whole():
    assert cut(recording(), 6, 6)[0][0] == recording()
    untimed = recording()._replace(words=())
    ((part, audio),) = cut(untimed, 8, 4)
    assert part is untimed and len(audio) == 800


def test_no_part_is_longer_than_allowed_unless_a_word_is():
    for most_s in (0.5, 1.2, 2.5, 3.4):
        parts = cut(recording(), 6, most_s)
        spoken = [one.words[-1].end_s - one.words[0].start_s for one, _ in parts]
        assert max(spoken) <= max(most_s, 0.7 + 1e-9)
        assert " ".join(one.text for one, _ in parts) == TEXT


def test_texts_without_spaces_are_cut_where_the_words_are():
    one = recording("一二三四五六", names="一二三四五")
    one = one._replace(words=(*one.words[:-1], one.words[-1]._replace(text="六")))
    assert [part.text for part, _ in cut(one, 6, 2.8)] == ["一二三", "四五六"]


def test_words_of_another_text_are_refused():
    with pytest.raises(ValueError, match=r"not those of its text.*Received: 'four'"):
        cut(recording("One two three for five. Six"), 8, 4)


def test_times_after_the_end_are_refused():
    with pytest.raises(ValueError, match=r"after the recording. Received: 5\.8 of 4"):
        cut(recording(), 4.2, 2)


def words(*times):
    return [{"word": "w", "start": start, "end": end} for start, end in times]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (words((0, 1), (1, 2)), None),
        (None, None),
        (words((1, 2), (0, 1)), "must not decrease"),
        (words((0, 1), (3, 2)), "must not decrease"),
        (words((0, float("nan"))), "must not decrease"),
        (words((-1, 1)), "must not decrease"),
        ([{"word": "w"}], "with word, start and end"),
        (["w"], "with word, start and end"),
        (5, "with word, start and end"),
    ],
)
def test_times_are_read_from_json_lines(value, message, tmp_path):
    (tmp_path / "a.wav").touch()
    lines = [{"audio": "a.wav", "text": "w w", "words": value}]
    lines += [{"audio": "a.wav", "text": "fine", "id": "b"}]
    path = tmp_path / "list.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    recordings, problems = read_dataset(path)
    if message is None:
        assert len(recordings[0].words) == len(value or ()) and not problems
    else:
        assert message in problems[0].reason
