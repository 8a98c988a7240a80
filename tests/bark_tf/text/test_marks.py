import pytest
from hypothesis import given
from hypothesis import strategies as st

from bark_tf.text.marks import MAX_PAUSE_S, read_marks, voices_of


def read(text):
    """(words, voice, pause) of each passage, words without white space around them."""
    return [(one.text.strip(), one.voice, one.pause_s) for one in read_marks(text)]


def test_pauses_stand_anywhere():
    text = "One[pause 0.5] two [pause: 250 ms]three.\n[Pause 2s]"
    assert read(text) == [
        ("One", "", 0.5),
        ("two", "", 0.25),
        ("three.", "", 2.0),
        ("", "", None),
    ]


def test_a_voice_speaks_until_the_next():
    text = "First.\n[voice: v2/en_speaker_6] Hello.\n  [VOICE:ben]\nHi.\n[voice:] Back."
    assert [one[:2] for one in read(text)] == [
        ("First.", ""),
        ("Hello.", "v2/en_speaker_6"),
        ("Hi.", "ben"),
        ("Back.", ""),
    ]
    assert [one.line for one in read_marks(text, 10)] == [10, 11, 12, 14]


def test_a_voice_may_follow_marks_of_its_line():
    assert read("[pause 1][voice: ben] Hi.")[-1] == ("Hi.", "ben", None)


@pytest.mark.parametrize(
    "text",
    [
        "Ha [laughs] ♪ la la ♪ [MAN] [clears throat]",
        "[pause] and [pause for effect] and [long pause 3] and [paused]",
        "[voice breaking] [voice] [voices: a] [speaker: b]",
        "[[1]] a[0] ] [ [pause",
        "C:\\path [x] \\",
    ],
)
def test_cues_and_other_brackets_are_text(text):
    assert [tuple(one) for one in read_marks(text)] == [(text, "", None, 1)]


def test_a_backslash_makes_a_mark_text():
    text = r"Write \[pause 0.5] or \[voice: ben]" + "\n" + r"\[pause 99999] \[laughs]"
    (one,) = read_marks(text)
    assert one.text == "Write [pause 0.5] or [voice: ben]\n[pause 99999] \\[laughs]"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a\nb [pause -1]", r"^line 2: a pause is .*Received: '\[pause -1\]'"),
        ("[pause 60.1]", r"with at most 60"),
        ("[pause 0,5]", r"^line 1: .*'\[pause 0,5\]'"),
        ("[pause 5 minutes]", "5 minutes"),
        ("[pause 1e9]", "1e9"),
        ("\n\nHe said [voice: ben] Hi", r"^line 3: .*start of a line.*He said \[voice"),
    ],
)
def test_a_wrong_mark_is_told_with_its_line(text, words):
    with pytest.raises(ValueError, match=words):
        read_marks(text)


def test_a_text_is_a_string():
    with pytest.raises(ValueError, match=r"text must be a string. Received: list"):
        read_marks(["a"])


def test_the_voices_of_marks_are_found_once_and_errors_have_lines():
    asked = []

    def find(name):
        asked.append(name)
        if name == "eve":
            raise ValueError("there is no eve")
        return name.upper()

    passages = read_marks("[voice: ann] a\n[voice: ben] b\n[voice: ann] c [pause 1] d")
    assert voices_of(passages, find) == {"ann": "ANN", "ben": "BEN"}
    assert asked == ["ann", "ben"]
    with pytest.raises(ValueError, match=r"^line 2: there is no eve"):
        voices_of(read_marks("\n[voice: eve] a"), find)


PIECES = (
    "[",
    "]",
    "\\",
    "pause",
    "voice",
    ":",
    " ",
    "0.5",
    "\n",
    "♪",
    "a",
    "[pause 1]",
)


@given(st.lists(st.sampled_from(PIECES), max_size=20).map("".join))
def test_only_marks_and_their_backslashes_are_taken_away(text):
    try:
        passages = read_marks(text)
    except ValueError as error:
        assert str(error).startswith("line ")
        return
    letters = iter(text)
    assert all(letter in letters for one in passages for letter in one.text)
    if "pause" not in text and "voice" not in text:
        assert passages == [(text, "", None, 1)]
    assert all(0 <= (one.pause_s or 0) <= MAX_PAUSE_S for one in passages)
