import re
from itertools import pairwise

import pytest

from bark_tf.text.chunks import ChunkReport
from bark_tf.text.subtitles import check_subtitles, cues_of, write_subtitles

RATE = 1000
LONG = (
    "It was a long and quiet evening by the sea, and nobody said a single word to "
    "anyone. Then the telephone rang, as if it had waited for that moment for years."
)


def chunk(text, start, seconds):
    return ChunkReport(text, 1, 0, seconds, None, start)


CHUNKS = [
    chunk("Hi <b> & [laughs] --> ho.", 500, 1.5),
    chunk("Nothing", 2000, 0.0),
    chunk(LONG, 3_600_250, 10.0),
]


def test_cues_are_short_and_fill_their_chunks():
    cues = list(cues_of(CHUNKS, RATE))
    assert cues[0] == (0.5, 2.0, CHUNKS[0].text)
    rest = cues[1:]
    assert len(rest) >= 2
    assert rest[0].start_s == 3600.25 and rest[-1].end_s == pytest.approx(3610.25)
    assert all(one.end_s == following.start_s for one, following in pairwise(rest))
    assert " ".join(cue.text.replace("\n", " ") for cue in rest) == LONG
    for cue in rest:
        lines = cue.text.split("\n")
        assert len(lines) <= 2 and max(map(len, lines)) <= 42
        assert 1 < cue.end_s - cue.start_s < 7


def test_srt(tmp_path):
    text = write_subtitles(tmp_path / "a.SRT", CHUNKS, RATE).read_bytes().decode()
    assert text.startswith(
        "1\n00:00:00,500 --> 00:00:02,000\nHi <b> & [laughs] --> ho.\n\n"
        "2\n01:00:00,250 --> 01:00:0"
    )
    assert re.fullmatch(r"(\d+\n[\d:,]{12} --> [\d:,]{12}\n(.+\n){1,2}\n?)+", text)


def test_vtt(tmp_path):
    text = write_subtitles(tmp_path / "a.vtt", CHUNKS, RATE).read_text()
    assert text.startswith(
        "WEBVTT\n\n1\n00:00:00.500 --> 00:00:02.000\n"
        "Hi &lt;b&gt; &amp; [laughs] --&gt; ho.\n\n2\n"
    )


def test_a_speech_without_words_has_no_cues(tmp_path):
    path = write_subtitles(tmp_path / "a.vtt", [chunk("♪", 0, 1.0)], RATE)
    assert path.read_text().endswith("00:00:01.000\n♪\n")
    assert write_subtitles(tmp_path / "a.srt", [], RATE).read_text() == ""


def test_a_wrong_path_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"end in \.srt or \.vtt. Received: 'a.txt'"):
        check_subtitles("a.txt")
    with pytest.raises(FileNotFoundError, match="no directory"):
        write_subtitles(tmp_path / "no" / "a.srt", CHUNKS, RATE)
    with pytest.raises(ValueError, match="on this machine"):
        check_subtitles("s3://bucket/a.srt")
