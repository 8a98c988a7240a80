import pytest

from bark_tf.text.chunks import split_chunks
from bark_tf.text.marks import read_marks

LIMITS = {"max_tokens": 4, "target_s": 10.0, "max_s": 13.0}


def chunks_of(text, gaps=(0.25, 0.6)):
    """(text, voice, lead, pause) of each chunk; four words fit into one."""

    def count(piece):
        return len(piece.split())

    chunks = split_chunks(read_marks(text), count, gaps, **LIMITS)
    return [(one.text, one.voice, one.lead_s, one.pause_s) for one in chunks]


def test_pauses_replace_the_usual_ones():
    assert chunks_of("One two three four. Five.\n\nSix. [pause 2]\n\nSeven.") == [
        ("One two three four.", "", 0, 0.25),
        ("Five.", "", 0, 0.6),
        ("Six.", "", 0, 2.0),
        ("Seven.", "", 0, 0),
    ]


def test_pauses_add_up_and_stand_at_both_ends():
    text = "[pause 1][pause 0.5] Hi [pause 1].\n[voice: ben][pause 2] Ho [pause 3]"
    assert chunks_of(text) == [("Hi", "", 1.5, 3.0), ("Ho", "ben", 0, 3.0)]
    assert chunks_of("Hi. [pause 0] Ho.")[0] == ("Hi.", "", 0, 0)


def test_another_voice_begins_a_chunk():
    text = "Hi.\n[voice: ben] Ho.\n\n[voice: ann]\n\nHu."
    assert chunks_of(text) == [
        ("Hi.", "", 0, 0.25),
        ("Ho.", "ben", 0, 0.6),
        ("Hu.", "ann", 0, 0),
    ]


def test_paragraphs_may_be_joined():
    assert chunks_of("One.\n\nTwo.", (0.25, None)) == [("One. Two.", "", 0, 0)]


@pytest.mark.parametrize("text", ["", "[pause 1]", "...\n[voice: ben]\n* * *"])
def test_there_must_be_something_to_say(text):
    with pytest.raises(ValueError, match="something to say"):
        chunks_of(text)
