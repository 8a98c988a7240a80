import base64
import io
import re
import wave

import numpy as np

from bark_tf.audio.player import MAX_S, player_html

RATE = 1_000


def sounds(html):
    """(rate, number of samples) of each player."""
    for data in re.findall(r'<audio controls src="data:audio/wav;base64,(.*)">', html):
        with wave.open(io.BytesIO(base64.b64decode(data))) as file:
            yield file.getframerate(), file.getnframes()


def test_every_row_plays_at_its_own_rate():
    loud = np.array([np.nan, 2, -np.inf, 0.5], np.float32)
    html = player_html([loud, np.zeros(0, np.float32)], RATE)
    assert list(sounds(html)) == [(RATE, 4)] and html.count("No sound") == 1


def test_the_size_is_bounded():
    rows = [np.zeros(seconds * RATE, np.float32) for seconds in (MAX_S - 1, 3, 5)]
    html = player_html(rows, RATE)
    assert list(sounds(html)) == [(RATE, (MAX_S - 1) * RATE), (RATE, RATE)]
    assert "1.0 of 3.0 s" in html and "0.0 of 5.0 s" in html
