"""A voice from a recording: the three arrays that Bark continues from.

Bark continues a voice where its recording ends. The text stage reads the last 256
semantic tokens (5.1 s), the coarse stage a little less, the fine stage a little more.
The end of a recording therefore matters most: if it stops in the middle of a word,
Bark continues in the middle of a word.

Nothing is trained. The similarity to the speaker depends on the semantic tokenizer as
much as on the recording. A voice belongs to a person: see `CONSENT`.
"""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bark_tf.audio.editing import normalise, sound_bounds
from bark_tf.audio.reading import (
    MAX_S,
    MIN_S,
    SILENCE_PEAK,
    Opening,
    load_opening,
    resample,
)
from bark_tf.audio.writing import check_destination, write_audio
from bark_tf.config import BarkGenerationConfig
from bark_tf.files import local_path
from bark_tf.generation.coarse import CoarseWindow, align
from bark_tf.models.encodec.model import EncodecModel
from bark_tf.semantic_tokens.tokenizer import (
    FILE_NAME,
    SemanticTokenizer,
    check_tokenizer,
    load_semantic_tokenizer,
)
from bark_tf.text.sentences import estimate_seconds
from bark_tf.voices.presets import VoicePreset
from bark_tf.voices.sound_checks import (
    PITCH_RATE,
    clipped_share,
    frame_levels,
    levels,
    two_pitches,
)

CONSENT = (
    "a voice belongs to a person: make and use one only of yourself, or of somebody "
    "who has agreed to it"
)
# Recommended length of a voice; the rest is cut off.
MIN_ADVISED_S, MAX_VOICE_S = 5.0, 13.0
ROUNDTRIP_SUFFIX = ".roundtrip.wav"

# === What is worth a warning ===
# Speech is usually recorded at -12 to -25 dB. Below this, little but noise reaches the
# codec, and Bark was not trained on voices so quiet.
_QUIET_DB = -40.0
# Between speech and the quietest moments: 45 dB in a studio, 20 dB beside a fan.
_NEAR_DB = 25.0
_CLIPPED = 1e-4
# Sample rate of the recording, relative to the codec's.
_DULL = 0.9
# Largest factor between the expected and the measured duration of a text.
_MOST_RATE = 2.0
# Speech is cut off if the last 40 ms are as loud as this, relative to the speech.
_STILL_SPEAKING_DB, _LAST_FRAMES = -10.0, 2

# === Where a long recording is cut ===
# At the quietest 0.2 s after the first eight seconds.
_CUT_AFTER_S, _PAUSE_S, _PAUSE_HOP_S = 8.0, 0.2, 0.02


@dataclasses.dataclass(frozen=True, eq=False)
class VoiceReport:
    """How a voice was made.

    Args:
        recording: Name of the file.
        recording_s: Duration of the file in seconds, according to its header.
        start_s: Start of the voice in the file, in seconds.
        seconds: Duration of the voice.
        used_s: Duration of its end that the text stage reads.
        speech_db: Level of the speech, relative to full scale.
        distance_db: Level difference between the speech and the quietest moments.
        num_tokens: Length of `semantic_prompt`.
        num_frames: Length of `coarse_prompt` and `fine_prompt`.
        warnings: Problems of the recording, a sentence each.
        roundtrip: float32 (samples,), the decoded codes: all that the voice keeps of
            the sound.
        sample_rate: Samples per second of `roundtrip`.
    """

    recording: str
    recording_s: float
    start_s: float
    seconds: float
    used_s: float
    speech_db: float
    distance_db: float
    num_tokens: int
    num_frames: int
    warnings: tuple[str, ...]
    roundtrip: np.ndarray
    sample_rate: int

    def __str__(self) -> str:
        end_s = self.start_s + self.seconds
        return (
            f"{self.seconds:.1f} s of {self.recording} ({self.start_s:.1f} to "
            f"{end_s:.1f} s): {self.num_tokens} semantic tokens, {self.num_frames} "
            f"frames; the model uses the last {self.used_s:.1f} s. Speech "
            f"{self.speech_db:.0f} dB, {self.distance_db:.0f} dB above the quietest "
            "moments"
        )


def make_voice(
    recording: str | os.PathLike,
    model: str | os.PathLike,
    *,
    semantic_tokenizer: str | os.PathLike | SemanticTokenizer | None = None,
    text: str | None = None,
) -> tuple[VoicePreset, VoiceReport]:
    """Makes a voice for `BarkProcessor` and `generate` from a recording.

    Silence at both ends is cut off. A recording with more than 13 seconds of speech is
    cut at the quietest moment between 8 and 13 seconds. Only the first minute is read.
    `report.warnings` lists problems of the recording; an error is raised only if it
    cannot become a voice.

    Args:
        recording: WAV, FLAC, Ogg or MP3, with the extra `formats` also m4a, mp4, aac or
            webm; mono or stereo, at any rate; 5 to 13 seconds of one person, ending at
            the end of a sentence.
        model: Checkpoint directory or repository id; only its codec is loaded.
        semantic_tokenizer: The tokenizer whose tokens the model was trained on, or its
            directory; the model's own by default.
        text: Transcript, to check against the duration of the recording; not stored.

    Returns:
        The voice, validated against the model, and the report.

    Raises:
        FileNotFoundError: If there is no such model, or no semantic tokenizer.
        ValueError: If the recording is not audio, damaged, silent or too short, or the
            vocabulary or rate of the tokenizer is not the model's.

    Example:
        >>> voice, report = make_voice("me.wav", "suno/bark-small",
        ...                            semantic_tokenizer="hubert-en")
        >>> inputs = processor("Hello", voice_preset=voice)
    """
    config = BarkGenerationConfig.from_pretrained(model)
    frame_hz = config.coarse_acoustics_config.coarse_rate_hz
    piece = _piece_of(load_opening(recording), recording, frame_hz)
    if not isinstance(semantic_tokenizer, SemanticTokenizer):
        semantic_tokenizer = tokenizer_of(semantic_tokenizer, model)
    check_tokenizer(semantic_tokenizer, config.semantic_config)
    semantic = semantic_tokenizer(
        resample(piece.audio, piece.sample_rate, semantic_tokenizer.sample_rate)
    )
    del semantic_tokenizer  # one network in memory at a time
    codec = EncodecModel.from_pretrained(model)
    codec_hz = codec.config.sampling_rate
    codes = codec.encode(
        resample(piece.audio, piece.sample_rate, codec_hz)[None],
        num_codebooks=config.fine_acoustics_config.n_fine_codebooks,
    ).numpy()[0]
    coarse = config.coarse_acoustics_config
    sizes = CoarseWindow(config.semantic_config, coarse, config.codebook_size)
    semantic, codes = align(semantic, codes, sizes)
    voice = VoicePreset(semantic, codes[: coarse.n_coarse_codebooks], codes)
    voice.validate(**config.voice_limits())
    rate_hz = config.semantic_config.semantic_rate_hz
    seconds = len(semantic) / rate_hz
    used_s = config.semantic_config.max_input_semantic_length / rate_hz
    level = levels(piece.audio, piece.sample_rate)
    report = VoiceReport(
        recording=Path(recording).name,
        recording_s=piece.recording_s,
        start_s=piece.start_s,
        seconds=seconds,
        used_s=min(seconds, used_s),
        speech_db=level.speech_db,
        distance_db=level.distance_db,
        num_tokens=len(semantic),
        num_frames=codes.shape[1],
        warnings=(*piece.warnings, *_doubts(piece, codec_hz, text)),
        roundtrip=codec.decode(codes[None]).numpy()[0],
        sample_rate=codec_hz,
    )
    return voice, report


def save_voice(
    voice: VoicePreset, report: VoiceReport, path: str | os.PathLike
) -> tuple[Path, Path]:
    """Writes NAME.npz, and NAME.roundtrip.wav beside it to listen to.

    Existing files are replaced. Each appears complete or not at all, the voice last.

    Args:
        voice: From `make_voice`.
        report: From `make_voice`.
        path: Where to; `.npz` is added if it is missing, folders are made.

    Returns:
        Both files.
    """
    path, sound = voice_paths(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    peak = max(1.0, float(np.abs(report.roundtrip).max(initial=0.0)))
    write_audio(sound, report.roundtrip / np.float32(peak), report.sample_rate)
    return voice.save(path), sound


def voice_paths(path: str | os.PathLike) -> tuple[Path, Path]:
    """Returns the paths of a voice's `.npz` file and of its round trip."""
    path = local_path(path, "A voice")
    if path.suffix != ".npz":
        path = path.with_name(path.name + ".npz")
    return path, path.with_name(path.stem + ROUNDTRIP_SUFFIX)


def check_voice_paths(path: str | os.PathLike, recording: str | os.PathLike) -> None:
    """Raises what `save_voice` would raise, before any work is done.

    Raises:
        ValueError: If the recording itself would be replaced.
        OSError: If a file cannot be written there.
    """
    path, sound = voice_paths(path)
    for file in (path, sound):
        if file.exists() and Path(recording).exists() and file.samefile(recording):
            raise ValueError(
                f"The recording must not be replaced by the voice. Received: "
                f"{str(recording)!r} for both"
            )
    if path.is_dir():
        raise IsADirectoryError(f"{str(path)!r} is a directory, not a file")
    if path.parent.is_dir():
        check_destination(sound)


# === The recording ===


class _Piece(NamedTuple):
    """The part of a recording that becomes a voice."""

    audio: np.ndarray  # float32 (samples,), [-1, 1]
    sample_rate: int
    start_s: float
    speech_s: float  # of what was read, before cutting
    is_whole: bool  # whether the recording was read to its end
    recording_s: float
    warnings: tuple[str, ...]


def _piece_of(opening: Opening, path: str | os.PathLike, frame_hz: float) -> _Piece:
    """Cuts a voice out of the beginning of a recording.

    It starts at a whole number of codec frames, so that generated audio is split into
    the same frames that it was decoded from.
    """
    rate, warnings = opening.sample_rate, []
    whole = _mono(opening, path)
    is_whole = opening.duration_s <= len(whole) / rate
    start, audio = _trimmed(whole, rate)
    speech_s = len(audio) / rate
    if speech_s > MAX_VOICE_S:
        audio = audio[: _cut(audio, rate)]
        more, audio = _trimmed(audio, rate)
        start += more
        warnings.append(
            f"the recording lasts {_duration(opening.duration_s)}; its first "
            f"{len(audio) / rate:.1f} s of speech are the voice. For another part, cut "
            "it out and give that"
        )
    end = start + len(audio)
    start = round(math.floor(start / rate * frame_hz) / frame_hz * rate)
    audio = whole[start:end]
    if len(audio) < MIN_S * rate:
        raise ValueError(
            f"A voice must last at least {MIN_S:g} s, and should last "
            f"{MIN_ADVISED_S:g} to {MAX_VOICE_S:g} s. "
            f"Received: {path}, with {len(audio) / rate:.2f} s of sound"
        )
    share = clipped_share(opening.samples[start : start + len(audio)])
    if share > _CLIPPED:
        warnings.append(
            f"{100 * share:.2g} % of the samples are cut off at the same height: the "
            "recording is probably clipped. Record again, farther away or with less "
            "gain"
        )
    peak = float(np.abs(audio).max())
    audio = (audio / max(1.0, peak)).astype(np.float32)
    speech_db = levels(audio, rate).speech_db
    if speech_db < _QUIET_DB:
        audio = normalise(audio)
        warnings.append(
            f"the recording is very quiet ({speech_db:.0f} dB). It was made louder, "
            "and so was its noise"
        )
    return _Piece(
        audio=audio,
        sample_rate=rate,
        start_s=start / rate,
        speech_s=speech_s,
        is_whole=is_whole,
        recording_s=opening.duration_s,
        warnings=tuple(warnings),
    )


def _mono(opening: Opening, path: str | os.PathLike) -> np.ndarray:
    """Averages the channels; raises ValueError for silence."""
    # Sums of floats may overflow.
    with np.errstate(over="ignore", invalid="ignore"):
        audio = opening.samples.mean(axis=1)
    swing = float(audio.max(initial=0.0)) - float(audio.min(initial=0.0))
    if not swing < math.inf:
        raise ValueError(f"A recording must be finite. Received: {path}, overflowing")
    if swing / 2 < SILENCE_PEAK:
        read_s = len(audio) / opening.sample_rate
        where = f" in its first {read_s:g} s" if read_s < opening.duration_s else ""
        raise ValueError(
            f"A recording must not be silent. Received: {path}, with no sound{where}"
        )
    return audio


def _trimmed(audio: np.ndarray, rate: int) -> tuple[int, np.ndarray]:
    """Returns the first sample of sound, and audio without silence at its ends."""
    start, end = sound_bounds(audio, rate)
    return start, audio[start:end]


def _cut(audio: np.ndarray, rate: int) -> int:
    """Returns the sample at which to cut: the middle of the quietest moment."""
    first, pause = round(_CUT_AFTER_S * rate), round(_PAUSE_S * rate)
    hop = max(1, round(_PAUSE_HOP_S * rate))
    part = audio[first : round(MAX_VOICE_S * rate)].astype(np.float64)
    sums = np.concatenate([[0.0], np.cumsum(np.square(part - part.mean()))])
    starts = np.arange(0, len(part) - pause + 1, hop)
    energies = sums[starts + pause] - sums[starts]
    # The last of equally quiet moments, as in digital silence.
    quietest = len(starts) - 1 - int(energies[::-1].argmin())
    return first + int(starts[quietest]) + pause // 2


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"


def _doubts(piece: _Piece, codec_hz: int, text: str | None) -> list[str]:
    """Lists problems that a listener would notice."""
    audio, rate, found = piece.audio, piece.sample_rate, []
    seconds = len(audio) / rate
    if seconds < MIN_ADVISED_S:
        found.append(
            f"there are only {seconds:.1f} s of sound; a voice is more stable with "
            f"{MIN_ADVISED_S:g} to {MAX_VOICE_S:g} s"
        )
    if rate < _DULL * codec_hz:
        found.append(
            f"the recording has {rate} samples per second and nothing above "
            f"{rate / 2000:g} kHz; the model has {codec_hz}: the voice will sound dull"
        )
    level = levels(audio, rate)
    if level.distance_db < _NEAR_DB:
        found.append(
            f"the quietest moments are only {level.distance_db:.0f} dB below the "
            "speech: noise, music or echo would become part of the voice (whispering "
            "and speech without a pause look the same)"
        )
    last = frame_levels(audio[::-1], rate)[:_LAST_FRAMES]
    if last.mean() > level.speech_db + _STILL_SPEAKING_DB:
        found.append(
            "the recording seems to stop while somebody speaks; it should end at the "
            "end of a sentence"
        )
    pitches = two_pitches(resample(audio, rate, PITCH_RATE))
    if pitches is not None:
        low, high = pitches
        found.append(
            f"there are two separate pitches, about {low:.0f} and {high:.0f} Hz: "
            "perhaps two people. A voice should be one person, speaking one way"
        )
    return [*found, *_text_doubts(piece, text)]


def _text_doubts(piece: _Piece, text: str | None) -> list[str]:
    if text is None:
        return []
    if not piece.is_whole:
        return [
            "the text was not checked against the recording: only its first "
            f"{MAX_S:g} s were read"
        ]
    expected = estimate_seconds(text)
    if expected / _MOST_RATE <= piece.speech_s <= expected * _MOST_RATE:
        return []
    return [
        f"the text takes about {expected:.1f} s to say, and there are "
        f"{piece.speech_s:.1f} s of sound: is it the text of this recording?"
    ]


# === The model ===


def tokenizer_of(
    directory: str | os.PathLike | None, model: str | os.PathLike
) -> SemanticTokenizer:
    """Reads a semantic tokenizer from its directory; None: the model's own.

    Raises:
        FileNotFoundError: If there is none; the message says how to get one.
        ValueError: If its files are damaged.
    """
    if directory is not None or (Path(model) / FILE_NAME).is_file():
        return load_semantic_tokenizer(model if directory is None else directory)
    raise FileNotFoundError(
        f"{str(model)!r} has no {FILE_NAME}, and a voice needs the semantic tokenizer "
        "of the model. The published Bark has none: set semantic_tokenizer "
        "(--semantic-tokenizer) to a directory written by `HubertTokenizer.save` or "
        "`bark-tf train-tokenizer`"
    )
