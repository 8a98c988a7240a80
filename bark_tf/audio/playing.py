"""Sound to the loudspeakers: sounddevice, or a program of the system."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from bark_tf.audio.writing import write_audio
from bark_tf.optional import named

# Programs that end after the file, with their arguments before its name.
PLAYERS = (
    ("afplay",),
    ("pw-play",),
    ("paplay",),
    ("aplay", "-q"),
    ("ffplay", "-nodisp", "-autoexit", "-loglevel", "error"),
    ("play", "-q"),
)


def check_player() -> None:
    """Raises what `play` would raise for want of a player, before any work is done.

    Raises:
        ImportError: If there is neither sounddevice nor one of `PLAYERS`.
    """
    if _sounddevice() is None and _program() is None:
        names = ", ".join(command[0] for command in PLAYERS)
        raise ImportError(
            "Playing needs the package sounddevice with PortAudio, or one of the "
            f"programs {names}. Install {named('play')}"
        )


def play(audio: np.ndarray, sampling_rate: int) -> None:
    """Plays sound until its end.

    Args:
        audio: float32 (samples,), [-1, 1].
        sampling_rate: Samples per second.

    Raises:
        ImportError: If there is no player.
        OSError: If the player fails, because no sound device is there, for example.
    """
    check_player()
    device, audio = _sounddevice(), np.clip(audio, -1, 1)
    if device is None:
        _play_through(_program(), audio, sampling_rate)
        return
    try:
        device.play(audio, sampling_rate, blocking=True)
    except device.PortAudioError as error:
        raise OSError(f"No sound device plays: {error}") from error


def _sounddevice():
    """The package, or None if it or its library PortAudio is not there."""
    try:
        import sounddevice
    except (ImportError, OSError):
        return None
    return sounddevice


def _program() -> list[str] | None:
    """The first player that is installed, with its arguments."""
    for name, *arguments in PLAYERS:
        if path := shutil.which(name):
            return [path, *arguments]
    if sys.platform == "win32":
        script = "import sys, winsound; winsound.PlaySound(sys.argv[1], 0x20000)"
        return [sys.executable, "-c", script]
    return None


def _play_through(command: list[str], audio: np.ndarray, sampling_rate: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write_audio(Path(folder) / "speech.wav", audio, sampling_rate)
        done = subprocess.run([*command, str(path)], capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:] or ["it does not say why"]
        raise OSError(f"{Path(command[0]).name} could not play the sound: {said[0]}")
