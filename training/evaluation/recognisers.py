"""Judges of speech: recognisers, voice similarity and sound quality.

A recogniser is any callable `(audio, sample_rate) -> text`. A voice judge returns a
vector with a similar direction for the same speaker; a quality judge returns scores by
name. Audio is float32 (samples,) in [-1, 1]. Those here wrap packages that extras of
bark-tf install, and read models from the disk: nothing is downloaded.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import soxr

from bark_tf.audio.reading import check_resampling
from bark_tf.optional import named, required

SAMPLE_RATE = 16_000  # of every model here
RECOGNISERS = ("pocketsphinx", "moonshine", "faster-whisper:DIRECTORY")
_DIGITS = "zero one two three four five six seven eight nine".split()
_FULL_SCALE = 32_767
# A converted Whisper. Without the last file, faster-whisper would download it.
_WHISPER_FILES = ("model.bin", "config.json", "tokenizer.json")


class Recogniser(Protocol):
    """Transcribes speech.

    Attributes:
        name: Its name in reports.
    """

    name: str

    def __call__(self, audio: np.ndarray, sample_rate: int) -> str:
        """The recognised words; empty if there are none."""


class VoiceJudge(Protocol):
    """Gives voice vectors.

    Attributes:
        name: Its name in reports.
    """

    name: str

    def __call__(self, audio: np.ndarray, sample_rate: int) -> np.ndarray:
        """The voice vector, float32 (size,); only its direction matters."""


class QualityJudge(Protocol):
    """Scores the sound.

    Attributes:
        name: Its name in reports.
    """

    name: str

    def __call__(self, audio: np.ndarray, sample_rate: int) -> dict[str, float]:
        """Scores by name; higher is better."""


# === By name ===


def recogniser_of(
    name: str,
    words: Iterable[str] | str | os.PathLike | None = None,
    *,
    language: str | None = None,
) -> Recogniser:
    """Makes a recogniser.

    Args:
        name: `"pocketsphinx"` or `"moonshine"` (English), or
            `"faster-whisper:DIRECTORY"` with a converted Whisper.
        words: The only words that pocketsphinx may recognise, in any order and number,
            or the path of a file with words separated by white space. None: its own
            language model of general English.
        language: Language code for Whisper, such as `"en"`; None: it guesses for each
            recording.

    Returns:
        The recogniser.

    Raises:
        FileNotFoundError: If there is no such file or directory.
        ValueError: If the name is unknown, does not take an argument that is given, or
            a word has no pronunciation.
        ImportError: If the package is not installed.

    Example:
        >>> recognise = recogniser_of("pocketsphinx", ["yes", "no"])
        >>> audio, sample_rate = soundfile.read("yes.wav", dtype="float32")
        >>> recognise(audio, sample_rate)
        'yes'
    """
    kind, _, directory = name.partition(":")
    is_whisper = kind == "faster-whisper" and directory
    if not is_whisper and name not in ("pocketsphinx", "moonshine"):
        raise ValueError(
            f"The recogniser must be one of {', '.join(RECOGNISERS)}. "
            f"Received: {name!r}"
        )
    if words is not None and name != "pocketsphinx":
        raise ValueError(f"words are for pocketsphinx only. Received: {name!r}")
    if language is not None and not is_whisper:
        raise ValueError(
            f"language is for faster-whisper; {name} recognises English only. "
            f"Received: language={language!r}"
        )
    if is_whisper:
        return FasterWhisper.from_directory(directory, language)
    if name == "moonshine":
        return Moonshine()
    if isinstance(words, str | os.PathLike):
        words = read_words(words)
    return Pocketsphinx(words)


def read_words(path: str | os.PathLike) -> list[str]:
    """Reads the words of a UTF-8 file, lower case, each once.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not UTF-8 text or has no words.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(path)!r} is not UTF-8 text") from error
    words = list(dict.fromkeys(text.lower().split()))
    if not words:
        raise ValueError(f"{str(path)!r} has no words")
    return words


def at_rate(audio: Any, sample_rate: int, wanted: int = SAMPLE_RATE) -> np.ndarray:
    """Resamples audio and clips it to [-1, 1].

    Args:
        audio: Float (samples,).
        sample_rate: Samples per second.
        wanted: Samples per second of the result.

    Returns:
        float32 (samples,).

    Raises:
        ValueError: If the audio has another shape or is not finite, or a rate is below
            4,000 or above 384,000.
    """
    check_resampling(sample_rate, wanted)
    audio = np.asarray(audio, np.float32)
    if audio.ndim != 1 or not np.isfinite(audio).all():
        raise ValueError(
            "audio must be finite numbers of shape (samples,). "
            f"Received: shape {audio.shape}"
        )
    if sample_rate != wanted and audio.size:
        audio = soxr.resample(audio, sample_rate, wanted)
    return np.clip(audio, -1, 1).astype(np.float32)


# === Words ===


class Pocketsphinx:
    """CMU's recogniser with the English model in its package.

    Each recording is recognised independently of those before it.

    Args:
        words: The only words to recognise, in any order and number; None: its language
            model of general English.

    Raises:
        ValueError: If a word is not in its dictionary.
        ImportError: If pocketsphinx is not installed.
    """

    def __init__(self, words: Iterable[str] | None = None):
        # "batch": the cepstral mean of this recording, not of those before.
        settings = {"samprate": SAMPLE_RATE, "cmn": "batch", "loglevel": "FATAL"}
        decoder = required("pocketsphinx", "This recogniser", "evaluate").Decoder
        self.name = "pocketsphinx, general English"
        if words is None:
            self._decoder = decoder(**settings)
            return
        words = list(dict.fromkeys(word.lower() for word in words))
        self._decoder = decoder(lm=None, **settings)
        self._restrict_to(words)
        self.name = f"pocketsphinx, any sequence of {len(words)} words"

    def _restrict_to(self, words: Sequence[str]) -> None:
        unknown = [word for word in words if self._decoder.lookup_word(word) is None]
        if unknown or not words:
            raise ValueError(
                "Expected one or more words of pocketsphinx's English dictionary. "
                f"Received: {', '.join(unknown) or 'none'}"
            )
        # A JSGF grammar would have an arc from every word to every other: with 150
        # words it takes minutes per recording.
        there = [(0, 1, 1 / len(words), word) for word in words]
        graph = self._decoder.create_fsg("words", 0, 1, [*there, (1, 0, 1.0)])
        self._decoder.add_fsg("words", graph)
        self._decoder.activate_search("words")

    def __call__(self, audio: np.ndarray, sample_rate: int) -> str:
        """The recognised words; empty if there are none.

        Args:
            audio: float32 (samples,), [-1, 1].
            sample_rate: Samples per second.
        """
        samples = np.rint(at_rate(audio, sample_rate) * _FULL_SCALE).astype("<i2")
        if not samples.any():
            return ""
        # Resets the noise estimate of the recordings before.
        self._decoder.reinit_feat()
        self._decoder.start_utt()
        self._decoder.process_raw(samples.tobytes(), no_search=False, full_utt=True)
        self._decoder.end_utt()
        found = self._decoder.hyp()
        return found.hypstr if found is not None else ""


class FasterWhisper:
    """OpenAI's Whisper, run by faster-whisper; it spells out numbers.

    Args:
        model: A `faster_whisper.WhisperModel`.
        language: Language code; None: it guesses.
        name: Its name in reports.
    """

    def __init__(
        self, model: Any, language: str | None = None, name: str = "faster-whisper"
    ):
        self.name, self._model, self._language = name, model, language
        # So that it writes "seven two", as spoken texts do, rather than "72".
        self._digits = [
            number
            for token, number in model.hf_tokenizer.get_vocab().items()
            if not token.startswith("<|") and any(map(str.isdigit, token))
        ]

    @classmethod
    def from_directory(
        cls, directory: str | os.PathLike, language: str | None = None
    ) -> FasterWhisper:
        """Opens a converted Whisper.

        Args:
            directory: With `model.bin`, `config.json` and `tokenizer.json`.
            language: Language code; None: it guesses.

        Raises:
            FileNotFoundError: If one of the files is missing.
            ImportError: If faster-whisper is not installed.
        """
        directory = Path(directory)
        missing = [name for name in _WHISPER_FILES if not (directory / name).is_file()]
        if missing:
            raise FileNotFoundError(
                f"{str(directory)!r} is not a Whisper for faster-whisper: it has no "
                f"{', '.join(missing)}. Nothing is downloaded"
            )
        package = required("faster_whisper", "This recogniser", "evaluate-whisper")
        model = package.WhisperModel(str(directory), local_files_only=True)
        return cls(model, language, f"faster-whisper, {directory.name}")

    def __call__(self, audio: np.ndarray, sample_rate: int) -> str:
        """The recognised words; empty if there are none.

        Args:
            audio: float32 (samples,), [-1, 1].
            sample_rate: Samples per second.
        """
        audio = at_rate(audio, sample_rate)
        if not audio.size:
            return ""
        segments, _ = self._model.transcribe(
            audio,
            language=self._language,
            beam_size=5,
            temperature=0.0,
            condition_on_previous_text=False,
            suppress_tokens=[-1, *self._digits],
        )
        return " ".join(segment.text.strip() for segment in segments).strip()


class Moonshine:
    """Moonshine tiny, for English; numbers are spelled out.

    Releases of moonshine-voice up to 0.1.0 include the weights.

    Raises:
        FileNotFoundError: If the installed package has no weights.
        ImportError: If moonshine-voice is not installed.
    """

    name = "moonshine, tiny"

    def __init__(self):
        needed = ("This recogniser", "evaluate-moonshine")
        package = required("moonshine_voice", *needed)
        directory = Path(package.get_assets_path()) / "tiny-en"
        if not (directory / "encoder_model.ort").is_file():
            raise FileNotFoundError(
                f"This moonshine-voice has no weights in {str(directory)!r}, and "
                f"nothing is downloaded. Install {named('evaluate-moonshine')}"
            )
        transcriber = required("moonshine_voice.transcriber", *needed)
        model = transcriber.Transcriber(str(directory), package.ModelArch.TINY)
        self._transcribe = model.transcribe_without_streaming

    def __call__(self, audio: np.ndarray, sample_rate: int) -> str:
        """The recognised words; empty if there are none.

        Args:
            audio: float32 (samples,), [-1, 1].
            sample_rate: Samples per second.
        """
        audio = at_rate(audio, sample_rate)
        if not audio.size:
            return ""
        # Its voice detection misses speech that begins at the first sample.
        audio = np.pad(audio, int(0.3 * SAMPLE_RATE))
        lines = self._transcribe(audio.tolist(), SAMPLE_RATE).lines
        return numbers_as_words(" ".join(line.text for line in lines))


def numbers_as_words(text: str) -> str:
    """Spells out digits one by one, and 10 as ten: "10 of 42", "ten of four two"."""
    text = re.sub(r"(?<!\d)10(?!\d)", " ten ", text)
    text = re.sub(r"[0-9]", lambda digit: f" {_DIGITS[int(digit[0])]} ", text)
    return " ".join(text.split())


# === Voices ===


class Resemblyzer:
    """Voice vectors from the encoder of the package resemblyzer.

    Raises:
        ImportError: If resemblyzer is not installed.
    """

    name = "resemblyzer"

    def __init__(self):
        with warnings.catch_warnings():
            # It imports renamed modules, which warn.
            warnings.simplefilter("ignore")
            package = required("resemblyzer", "Comparing voices", "evaluate-speakers")
        self._prepare = package.preprocess_wav
        self._encoder = package.VoiceEncoder("cpu", verbose=False)

    def __call__(self, audio: np.ndarray, sample_rate: int) -> np.ndarray:
        """The voice vector, float32 (256,) of length 1; zeros without a voice.

        Args:
            audio: float32 (samples,), [-1, 1].
            sample_rate: Samples per second.
        """
        audio = at_rate(audio, sample_rate)
        speech = self._prepare(audio) if np.any(audio) else audio[:0]
        if not speech.size:
            return np.zeros(256, np.float32)
        return self._encoder.embed_utterance(speech)


# === Quality ===


class Dnsmos:
    """DNSMOS P.835 and P.808: predicted opinions of listeners, 1 (bad) to 5.

    Raises:
        ImportError: If speechmos is not installed.
    """

    name = "DNSMOS"

    def __init__(self):
        dnsmos = required("speechmos.dnsmos", "Scoring the sound", "evaluate-quality")
        self._run = dnsmos.run

    def __call__(self, audio: np.ndarray, sample_rate: int) -> dict[str, float]:
        """`overall`, `signal`, `background` and `p808`; empty for empty audio.

        Args:
            audio: float32 (samples,), [-1, 1].
            sample_rate: Samples per second.
        """
        audio = at_rate(audio, sample_rate)
        if not audio.size:
            return {}
        scores = self._run(audio, SAMPLE_RATE)
        names = {"ovrl": "overall", "sig": "signal", "bak": "background"}
        return {
            names.get(key.removesuffix("_mos"), "p808"): float(value)
            for key, value in scores.items()
        }


def voice_judge_of(name: str) -> VoiceJudge:
    """Makes a voice judge: `"resemblyzer"`.

    Raises:
        ValueError: If the name is unknown.
        ImportError: If the package is not installed.
    """
    return _judge_of(name, {"resemblyzer": Resemblyzer}, "The voice judge")


def quality_judge_of(name: str) -> QualityJudge:
    """Makes a quality judge: `"dnsmos"`.

    Raises:
        ValueError: If the name is unknown.
        ImportError: If the package is not installed.
    """
    return _judge_of(name, {"dnsmos": Dnsmos}, "The quality judge")


def _judge_of(name: str, known: dict[str, Any], what: str) -> Any:
    if name not in known:
        raise ValueError(f"{what} must be {', '.join(known)}. Received: {name!r}")
    return known[name]()
