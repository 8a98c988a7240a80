"""Speaks through a TensorFlow Serving server that has an export of this project.

Imports neither TensorFlow nor a model, so it starts at once and runs anywhere.
"""

from __future__ import annotations

import functools
import itertools
import numbers
import os
import random
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bark_tf.audio.writing import write_audio
from bark_tf.progress import Progress
from bark_tf.serving.transports import Unreachable, transport_to
from bark_tf.text.chunks import Chunk, ChunkReport, split_chunks
from bark_tf.text.marks import Passage
from bark_tf.text.sentences import (
    MAX_S,
    MAX_TOKENS,
    TARGET_S,
    estimate_seconds,
    has_speech,
)

__all__ = ["Client", "Spoken"]

GAP_S = 0.25  # between the pieces of a long text
_FIRST_PAUSE_S = 0.2
_STAGES = ("semantic", "coarse", "fine")
_TEXT_IDS = ("input_ids", "attention_mask")
# Inputs of `speak` -> dtype.
_SAMPLING = {
    **dict.fromkeys((f"{stage}_temperature" for stage in _STAGES), np.float32),
    **dict.fromkeys(("min_new_tokens", "max_new_tokens"), np.int32),
}
_SETTINGS = ("names", "sampling_rate", "semantic_rate_hz", *_SAMPLING)


class Spoken(NamedTuple):
    """Audio of one text.

    Attributes:
        audio: float32 (samples,), about [-1, 1].
        sampling_rate: Samples per second.
    """

    audio: np.ndarray
    sampling_rate: int

    def save(self, path: str | os.PathLike) -> None:
        """Writes a .wav, .flac, .ogg, .mp3 or .opus file."""
        write_audio(path, self.audio, self.sampling_rate)


class _Prompt(NamedTuple):
    """The voice that a text continues from: arrays of one row."""

    semantic: np.ndarray  # int32 (1, tokens)
    coarse: np.ndarray  # int32 (1, coarse codebooks, frames)
    fine: np.ndarray  # int32 (1, fine codebooks, frames)

    def inputs(self, *parts: str) -> dict[str, np.ndarray]:
        """The inputs of a signature that reads these parts."""
        arrays = {f"{part}_prompt": getattr(self, part) for part in parts}
        if "semantic" in parts:
            arrays["num_prompt_tokens"] = _row(self.semantic.shape[-1], np.int32)
        if set(parts) & {"coarse", "fine"}:
            arrays["num_prompt_frames"] = _row(self.fine.shape[-1], np.int32)
        return arrays


class Client:
    """A connection to a server.

    Args:
        address: `grpc://HOST:PORT` or `http://HOST:PORT`; with TLS `grpcs`, `https`.
        model: Name of the model on the server.
        timeout: Seconds until a call, with all its attempts, is given up.
        attempts: How often a call is tried while the server is unreachable or busy.
            The pauses between the attempts double, from 0.2 s.
        token: Bearer token, for a proxy in front of the server.

    Raises:
        ValueError: If the address is of another form.
        ImportError: If a package is missing: `grpc://` needs grpcio.

    Example:
        >>> with Client("grpc://127.0.0.1:8500") as client:  # doctest: +SKIP
        ...     client.speak("Hello", voice="kumo", seed=7).save("hello.wav")
    """

    def __init__(
        self,
        address: str,
        *,
        model: str = "bark",
        timeout: float = 300.0,
        attempts: int = 5,
        token: str | None = None,
    ):
        self.address, self.timeout, self.attempts = address, timeout, attempts
        self._transport = transport_to(address, model, token)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._transport.close()

    def predict(
        self,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        outputs: Iterable[str] = (),
    ) -> dict[str, np.ndarray]:
        """Calls a signature.

        Args:
            signature: Its name; `docs/serving.md` lists them.
            inputs: Arrays by name; texts are arrays of `bytes` objects.
            outputs: Names of the outputs to return; none: all.

        Returns:
            Arrays by name.

        Raises:
            ConnectionError: If the server is unreachable or busy at every attempt.
            TimeoutError: If the time is over.
            ValueError: If the server refuses the request.
            RuntimeError: If the server fails, or its answer cannot be read.
        """
        ends = time.monotonic() + self.timeout
        pause = _FIRST_PAUSE_S
        for attempt in itertools.count(1):
            left = ends - time.monotonic()
            try:
                return self._transport.predict(signature, inputs, outputs, left)
            except Unreachable as error:
                # Clients that failed together come back one by one.
                wait = pause * random.uniform(0.5, 1.0)
                if attempt >= self.attempts or time.monotonic() + wait >= ends:
                    raise ConnectionError(
                        f"{self.address} cannot answer, {attempt} attempts: {error}"
                    ) from error
            except TimeoutError as error:
                raise TimeoutError(
                    f"{self.address} did not answer within {self.timeout:g} s"
                ) from error
            time.sleep(wait)
            pause *= 2

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """What the server's model is: names of its voices, defaults, rates."""
        out = self._outputs("voices", {"voice": _texts([""])}, *_SETTINGS)
        names = [_word(name) for name in out["names"][0].tolist()]
        return {"names": names, **{key: out[key][0].item() for key in _SETTINGS[1:]}}

    def voices(self) -> list[str]:
        """The names of the model's voices."""
        return self.settings["names"]

    def speak(
        self,
        text: str | Sequence[str],
        *,
        voice: str | Sequence[str] | None = None,
        seed: int | Sequence[int] | None = None,
        **sampling: float | None,
    ) -> Spoken | list[Spoken]:
        """Speaks a text, or several together, in one request.

        Args:
            text: Text, or a list of texts; each as long as one generation can be,
                which is about 13 s for Bark. `stream` takes any length.
            voice: Name of a voice, or a list with one per text; None or an empty name:
                a random voice.
            seed: As in `BarkModel.generate`: an int, or a list with one per text.
                None: a new one, the same for all attempts.
            **sampling: `temperature` for all stages, `semantic_temperature`,
                `coarse_temperature`, `fine_temperature`, `min_new_tokens` and
                `max_new_tokens`; by default those of the checkpoint.

        Returns:
            `Spoken`, or a list of them for a list of texts.

        Raises:
            ConnectionError, TimeoutError, ValueError, RuntimeError: See `predict`.
        """
        texts = [text] if isinstance(text, str) else list(text)
        voices = [voice] * len(texts) if isinstance(voice, str | None) else voice
        inputs = {
            "text": _texts(texts),
            "voice": _texts([one or "" for one in voices]),
            **_seeds(seed, len(texts)),
            **self._sampling(len(texts), sampling),
        }
        out = self._outputs("speak", inputs, "audio", "lengths", "sampling_rate")
        rows = zip(out["audio"], out["lengths"], out["sampling_rate"], strict=True)
        spoken = [Spoken(audio[:length], int(rate)) for audio, length, rate in rows]
        return spoken[0] if isinstance(text, str) else spoken

    def stream(
        self,
        text: str | Sequence[Passage],
        *,
        voice: str | None = None,
        voices: Mapping[str, str] | None = None,
        seed: int | None = None,
        progress: Progress | None = None,
        on_chunk: Callable[[ChunkReport], None] | None = None,
        **sampling: float | None,
    ) -> Iterator[np.ndarray]:
        """Speaks a text of any length, stage by stage, in many short requests.

        A long text is cut at sentences; without a voice, all pieces have that of the
        first.

        Args:
            text: Text to speak; or the passages of a text with marks, from
                `bark_tf.text.marks.read_marks`.
            voice: Name of a voice; None: a random one.
            voices: Names of the server's voices by other names in the passages.
            seed: Seed of all random choices; None: a new one.
            progress: Called with (stage, done, total).
            on_chunk: Called with a `ChunkReport` when a piece is spoken.
            **sampling: See `speak`.

        Yields:
            float32 (samples,), consecutive pieces of the audio, at
            `settings["sampling_rate"]`.

        Raises:
            ConnectionError, TimeoutError, ValueError, RuntimeError: See `predict`.
        """
        chunks = _chunks(text)
        values = self._sampling(1, sampling)
        named = {chunk.voice: chunk.voice for chunk in chunks} | dict(voices or {})
        prompts = {
            name: self._prompt(one or "") for name, one in {**named, "": voice}.items()
        }
        first = secrets.randbits(32) if seed is None else seed
        report = progress or (lambda *_: None)
        rate, position = self.settings["sampling_rate"], 0
        for number, chunk in enumerate(chunks):
            report("chunks", number, len(chunks))
            lead, pause = (round(s * rate) for s in (chunk.lead_s, chunk.pause_s))
            if lead:
                yield np.zeros(lead, np.float32)
            position += lead
            seed, prompt = (first + number) % 2**64, prompts[chunk.voice]
            said, size = yield from self._stages(
                chunk.text, prompt, _seeds([seed], 1), values, report
            )
            if not prompt.fine.size and said.fine.size:
                prompts[chunk.voice] = said
            if on_chunk is not None:
                on_chunk(ChunkReport(chunk.text, 1, seed, size / rate, None, position))
            if pause:
                yield np.zeros(pause, np.float32)
            position += size + pause
        report("chunks", len(chunks), len(chunks))

    def _prompt(self, voice: str) -> _Prompt:
        parts = ("semantic", "coarse", "fine")
        names = [f"{part}_prompt" for part in parts]
        out = self._outputs("voices", {"voice": _texts([voice])}, *names)
        return _Prompt(*(out[name] for name in names))

    def _stages(self, text, prompt, seeds, values, report):
        """Yields the audio of a chunk; returns its `_Prompt` and number of samples."""
        limits = {k: v for k, v in values.items() if k.endswith("new_tokens")}
        heat = {
            stage: {"temperature": values[f"{stage}_temperature"]} for stage in _STAGES
        }
        ids = self._outputs("tokenize", {"text": _texts([text])}, *_TEXT_IDS)
        report("semantic", 0, 1)
        out = self._outputs(
            "semantic",
            {**ids, **prompt.inputs("semantic"), **seeds, **heat["semantic"], **limits},
            "semantic",
            "num_semantic",
        )
        report("semantic", 1, 1)
        coarse = np.zeros((1, prompt.coarse.shape[1], 0), np.int32)
        common = {
            **out,
            **prompt.inputs("semantic", "coarse"),
            **seeds,
            **heat["coarse"],
        }
        wanted = 1
        while coarse.shape[2] < wanted:
            inputs = {**common, "coarse": coarse}
            window = self._outputs("coarse_window", inputs, "coarse", "num_frames")
            wanted, new = int(window["num_frames"][0]), window["coarse"]
            if wanted and not new.shape[2]:
                raise RuntimeError(f"{self.address} answered with an empty window")
            coarse = np.concatenate([coarse, new], axis=2)
            report("coarse", coarse.shape[2], wanted)
        frames = _row(coarse.shape[2], np.int32)
        inputs = {"coarse": coarse, "num_frames": frames, **prompt.inputs("fine")}
        inputs |= {**seeds, **heat["fine"]}
        fine = self._outputs("fine", inputs, "fine", "boundaries")
        report("fine", 1, 1)
        start = size = 0
        for end in fine["boundaries"][0].tolist():
            if end > start:
                span = {
                    "start": _row(start, np.int32),
                    "num_frames": _row(end, np.int32),
                }
                inputs = {"fine": fine["fine"], **span}
                audio = self._outputs("decode", inputs, "audio")["audio"][0]
                yield audio
                start, size = end, size + audio.size
        tokens = out["semantic"][:, : int(out["num_semantic"][0])]
        return _Prompt(tokens, coarse, fine["fine"]), size

    def _sampling(self, rows: int, given: Mapping[str, float | None]) -> dict:
        """The temperatures and limits of a request, each (rows,)."""
        given = {name: value for name, value in given.items() if value is not None}
        shared = given.pop("temperature", None)
        values = {name: self.settings[name] for name in _SAMPLING}
        if shared is not None:
            values |= {f"{stage}_temperature": shared for stage in _STAGES}
        if unknown := sorted(set(given) - set(values)):
            raise ValueError(
                f"Sampling keywords are temperature, {', '.join(values)}. "
                f"Received: {', '.join(unknown)}"
            )
        return {
            name: np.full(rows, value, _SAMPLING[name])
            for name, value in {**values, **given}.items()
        }

    def _outputs(
        self, signature: str, inputs: Mapping[str, np.ndarray], *names: str
    ) -> dict[str, np.ndarray]:
        out = self.predict(signature, inputs, names)
        rows = len(next(iter(inputs.values())))
        for name in names:
            if name not in out or out[name].ndim < 1 or len(out[name]) != rows:
                found = out[name].shape if name in out else "nothing"
                raise RuntimeError(
                    f"{self.address} must answer {signature} with {rows} rows of "
                    f"{name}. Received: {found}"
                )
        return {name: out[name] for name in names}


def _texts(texts: Sequence[str]) -> np.ndarray:
    return np.array([*(text.encode() for text in texts), None], object)[:-1]


def _word(name: str | bytes) -> str:
    """A text, which REST sends as `str` and gRPC as `bytes`."""
    return name.decode() if isinstance(name, bytes) else name


def _row(value: int, dtype: Any) -> np.ndarray:
    return np.array([value], dtype)


def _seeds(seed: int | Sequence[int] | None, rows: int) -> dict[str, np.ndarray]:
    """`seed` and `stream`: row i has stream i of one seed, or stream 0 of its own."""
    if seed is None:
        seed = secrets.randbits(32)
    one = isinstance(seed, numbers.Integral)
    values = [seed] * rows if one else list(seed)
    if not all(0 <= value < 2**64 for value in values):
        raise ValueError(f"seed must lie in [0, 2**64). Received: seed={seed!r}")
    return {
        "seed": np.array(values, np.uint64).view(np.int64),
        "stream": np.arange(len(values), dtype=np.int32) * one,
    }


def _chunks(text: str | Sequence[Passage]) -> list[Chunk]:
    if isinstance(text, str):
        if estimate_seconds(text) <= MAX_S and has_speech(text):
            return [Chunk(text)]
        text = [Passage(text)]
    # Word pieces are not known here; they are rarely shorter than two letters.
    return split_chunks(
        text,
        lambda piece: len(piece) // 2,
        (GAP_S, None),
        max_tokens=MAX_TOKENS,
        target_s=TARGET_S,
        max_s=MAX_S,
    )
