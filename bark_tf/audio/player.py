"""Players of sound in notebooks."""

from __future__ import annotations

import base64
import io
import wave
from collections.abc import Sequence

import numpy as np

from bark_tf.audio.writing import to_pcm16

# In one output, which a notebook stores: about 8 MB at 24 kHz.
MAX_S = 120


def player_html(rows: Sequence[np.ndarray], sampling_rate: int) -> str:
    """HTML that plays sound; the sound is inside, as 16-bit WAV.

    Args:
        rows: float32 (samples,) each. The rows are shortened to `MAX_S` in all, which
            is then said.
        sampling_rate: Samples per second.
    """
    room = MAX_S * sampling_rate
    players = []
    for row in rows:
        shown = row[:room]
        room -= shown.size
        if shown.size:
            players.append(_player(shown, sampling_rate))
        if shown.size < row.size:
            players.append(
                f"<p>{shown.size / sampling_rate:.1f} of "
                f"{row.size / sampling_rate:.1f} s: write_audio writes all of it.</p>"
            )
        elif not row.size:
            players.append("<p>No sound.</p>")
    return "\n".join(players)


def _player(audio: np.ndarray, sampling_rate: int) -> str:
    audio = np.nan_to_num(np.asarray(audio, np.float32), posinf=1, neginf=-1)
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(sampling_rate)
        writer.writeframes(to_pcm16(np.clip(audio, -1, 1)).tobytes())
    data = base64.b64encode(file.getvalue()).decode()
    return f'<audio controls src="data:audio/wav;base64,{data}"></audio>'
