"""What `bark-tf speak` does: who speaks, and where the sound goes."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bark_tf.backend import quick_imports
from bark_tf.cli.arguments import TOKEN_VARIABLE
from bark_tf.cli.console import UsageError, note
from bark_tf.progress import Progress

if TYPE_CHECKING:
    import numpy as np

NOTHING_SAID = "the model said nothing; try another --seed or a longer text"
DEFAULT_OUT = "out.wav"


# === Who speaks ===


class Checkpoint:
    """A model in this process.

    Args:
        name: The checkpoint.
        arguments: Of the command.
        report: Progress callable.
    """

    def __init__(self, name: str, arguments: argparse.Namespace, report: Progress):
        report("load", 0, 1)
        with quick_imports():
            from bark_tf.bark import BarkModel
            from bark_tf.processor import BarkProcessor

        self.arguments, self.report = arguments, report
        self.processor = BarkProcessor.from_pretrained(name)
        self.model = BarkModel.from_pretrained(
            name, dtype=arguments.dtype, quantize=arguments.quantize
        )
        self.rate = self.model.sampling_rate
        report("load", 1, 1)

    def voices(self, passages: Sequence) -> dict[str, Any]:
        """The voices of a text's marks."""
        from bark_tf.speech.speaker import voice_finder
        from bark_tf.text.marks import voices_of

        given = self.arguments.voice, self.arguments.alias
        return voices_of(passages, voice_finder(self.processor, *given))

    def speech(self, passages: Sequence, seed: int) -> Any:
        """Speaks a text: `Speech`."""
        import numpy as np

        from bark_tf.generation.long_form import generate_long
        from bark_tf.speech.result import Speech
        from bark_tf.text.chunks import ChunkReport

        if self._is_long(passages):
            out = self._long(generate_long, passages, seed)
            return Speech(out.audio, out.sample_rate, seed, out.chunks, out.voice)
        text = passages[0].text
        out = self.model.generate(return_dict=True, **self._short(text, seed))
        audio = np.asarray(out.audio[0, : out.lengths[0]])
        chunk = ChunkReport(text, 1, seed, audio.size / self.rate, None, 0)
        return Speech(audio, self.rate, seed, (chunk,), out.voice)

    def pieces(self, passages: Sequence, seed: int) -> Iterator[np.ndarray]:
        """Speaks a text as pieces of audio, float32 (samples,)."""
        from bark_tf.generation.long_form import stream_long

        if self._is_long(passages):
            return (audio for audio, _ in self._long(stream_long, passages, seed))
        latency = "low" if self.arguments.low_latency else "exact"
        return self.model.stream(latency=latency, **self._short(passages[0].text, seed))

    def _long(self, speak: Callable, passages: Sequence, seed: int) -> Any:
        return speak(
            self.model,
            self.processor,
            passages,
            voice=self.arguments.voice,
            voices=self.voices(passages),
            **self._options(seed),
        )

    def _short(self, text: str, seed: int) -> dict[str, Any]:
        voice = self.arguments.voice
        inputs = self.processor(text, voice=voice, return_tensors="np")
        return {**inputs, **self._options(seed)}

    def _options(self, seed: int) -> dict[str, Any]:
        """Collects the keywords for `generate` from the arguments."""
        from bark_tf.speech.speaker import COMPILED_PARAMS

        options = dict(self.arguments.sampling)
        # A temperature has no effect if the checkpoint does not sample by default.
        for name in [name for name in options if name.endswith("temperature")]:
            options[name.replace("temperature", "do_sample")] = options[name] > 0
        if self.arguments.max_seconds is not None:
            rate_hz = self.model.generation_config.semantic_config.semantic_rate_hz
            most = math.ceil(self.arguments.max_seconds * rate_hz)
            options["semantic_max_new_tokens"] = most
        jit_compile = self.arguments.jit_compile
        if jit_compile is None:
            jit_compile = self.model.count_params() >= COMPILED_PARAMS
        options |= {"seed": seed, "jit_compile": jit_compile, "progress": self.report}
        return options

    def _is_long(self, passages: Sequence) -> bool:
        from bark_tf.generation.long_form import chunk_seconds
        from bark_tf.text.sentences import estimate_seconds

        if len(passages) > 1:
            return True
        if self.arguments.long is not None:
            return self.arguments.long
        _, longest = chunk_seconds(self.model.generation_config.semantic_config)
        return estimate_seconds(passages[0].text) > longest


class Server:
    """A client of TensorFlow Serving; nothing here loads TensorFlow.

    Args:
        client: `Client`.
        arguments: Of the command.
        report: Progress callable.
    """

    def __init__(self, client: Any, arguments: argparse.Namespace, report: Progress):
        self.client, self.arguments, self.report = client, arguments, report
        self.rate = client.settings["sampling_rate"]

    def voices(self, passages: Sequence) -> dict[str, str]:
        """The server's voices of a text's marks."""
        from bark_tf.text.marks import voices_of

        def find(name: str) -> str:
            voice, known = self.arguments.alias.get(name, name), self.client.voices()
            if voice not in known:
                raise ValueError(
                    f"[voice: NAME] must be one of {', '.join(known)}. "
                    f"Received: {voice[:80]!r}"
                )
            return voice

        return voices_of(passages, find)

    def speech(self, passages: Sequence, seed: int) -> Any:
        """Speaks a text: `Speech`."""
        import numpy as np

        from bark_tf.speech.result import Speech

        chunks: list = []
        audio = np.concatenate([*self.pieces(passages, seed, chunks.append)])
        return Speech(audio, self.rate, seed, tuple(chunks))

    def pieces(
        self, passages: Sequence, seed: int, on_chunk: Callable | None = None
    ) -> Iterator[np.ndarray]:
        """Speaks a text as pieces of audio, float32 (samples,)."""
        sampling = dict(self.arguments.sampling)
        if self.arguments.max_seconds is not None:
            rate_hz = self.client.settings["semantic_rate_hz"]
            most = math.ceil(self.arguments.max_seconds * rate_hz)
            sampling["max_new_tokens"] = most
        return self.client.stream(
            passages if len(passages) > 1 else passages[0].text,
            voice=self.arguments.voice,
            voices=self.voices(passages),
            seed=seed,
            progress=self.report,
            on_chunk=on_chunk,
            **sampling,
        )


def speaker_of(
    name: str | None, arguments: argparse.Namespace, report: Progress
) -> AbstractContextManager[Checkpoint | Server]:
    """Loads a checkpoint, or connects to a server if `name` is None."""
    if name is not None:
        return contextlib.nullcontext(Checkpoint(name, arguments, report))
    return _connected(arguments, report)


@contextlib.contextmanager
def _connected(arguments: argparse.Namespace, report: Progress) -> Iterator[Server]:
    from bark_tf.serving.client import Client

    token = os.environ.get(TOKEN_VARIABLE)
    with Client(arguments.server, token=token) as client:
        yield Server(client, arguments, report)


# === Where it goes ===


def check_output(arguments: argparse.Namespace) -> None:
    """Raises errors about the output before any work is done."""
    from bark_tf.audio.loudness import check_loudness
    from bark_tf.audio.playing import check_player
    from bark_tf.audio.writing import check_destination
    from bark_tf.text.subtitles import check_subtitles

    if arguments.stream:
        _check_stream(arguments)
        return
    if arguments.low_latency:
        raise UsageError("--low-latency goes with --stream")
    if arguments.resume and not arguments.texts:
        raise UsageError("--resume goes with --texts")
    if arguments.takes > 1 and arguments.sampling.get("temperature") == 0:
        raise UsageError("all --takes would be equal without random choices")
    if arguments.out is None and (arguments.texts or not arguments.play):
        arguments.out = DEFAULT_OUT
    if arguments.out is not None:
        check_destination(arguments.out)
    if arguments.subtitles is not None:
        check_subtitles(arguments.subtitles)
    if arguments.loudness is not None:
        check_loudness(arguments.loudness)
    if arguments.play:
        check_player()


def _check_stream(arguments: argparse.Namespace) -> None:
    others = ("save_voice", "play", "texts", "resume", "subtitles", "loudness")
    for name in others:
        if vars(arguments)[name] not in (None, False):
            raise UsageError(f"--{name.replace('_', '-')} does not go with --stream")
    if arguments.takes > 1:
        raise UsageError("--takes does not go with --stream")
    if sys.stdout.isatty():
        raise UsageError("--stream writes audio: send it to a player or a file")


def speak_into_files(
    speaker: Checkpoint | Server,
    texts: Sequence[Sequence],
    arguments: argparse.Namespace,
) -> None:
    """Speaks every take of every text; each file appears complete or not at all."""
    for passages in texts:
        speaker.voices(passages)  # all errors before the first text
    takes = _numbers(arguments.takes) if arguments.takes > 1 else [""]
    numbers = _numbers(len(texts)) if arguments.texts else [""]
    for done, (number, passages) in enumerate(zip(numbers, texts, strict=True)):
        if len(texts) > 1:
            speaker.report("texts", done, len(texts))
        for index, take in enumerate(takes):
            place = number + take
            if arguments.resume and Path(_placed(arguments.out, place)).exists():
                continue
            speech = speaker.speech(passages, arguments.seed + index)
            note(arguments, _deliver(speech, place, arguments))
    if len(texts) > 1:
        speaker.report("texts", len(texts), len(texts))


def _numbers(count: int) -> list[str]:
    """Ends of names that sort as they count: -01 to -12."""
    return [f"-{number:0{len(str(count))}}" for number in range(1, count + 1)]


def _placed(path: str, place: str) -> str:
    """The path with its number before the suffix."""
    plain = Path(path)
    return str(plain.with_name(plain.stem + place + plain.suffix))


def _deliver(speech: Any, place: str, arguments: argparse.Namespace) -> str:
    """Writes and plays a speech; returns a summary."""
    if not speech.audio.size:
        raise ValueError(NOTHING_SAID)
    if arguments.loudness is not None:
        speech = speech.with_loudness(arguments.loudness)
    said = "spoken"
    if arguments.subtitles is not None:
        speech.save_subtitles(_placed(arguments.subtitles, place))
    if arguments.out is not None:
        said = repr(str(speech.save(_placed(arguments.out, place))))
    if arguments.save_voice:
        if speech.voice is None:
            raise ValueError("no piece of the text is good enough for --save-voice")
        speech.voice.save(_placed(arguments.save_voice, place))
    if arguments.play:
        speech.play()
    return f"{said}: {speech.duration:.1f} s, seed {speech.seed}"


def stream(
    speaker: Checkpoint | Server, passages: Sequence, arguments: argparse.Namespace
) -> str:
    """Writes audio to standard output while it is made; returns a summary."""
    import numpy as np

    from bark_tf.audio.writing import clipped

    encode = _encoder(arguments.stream_format, speaker.rate)
    num_samples, output = 0, sys.stdout.buffer
    for piece in speaker.pieces(passages, arguments.seed):
        output.write(encode(clipped(piece), False))
        output.flush()
        num_samples += piece.size
    if not num_samples:
        raise ValueError(NOTHING_SAID)
    output.write(encode(np.zeros(0, np.float32), True))
    return f"streamed {num_samples / speaker.rate:.1f} s, seed {arguments.seed}"


def _encoder(name: str, rate: int) -> Callable[[np.ndarray, bool], bytes]:
    """Encodes pieces: called with a piece and whether it is the last."""
    from bark_tf.audio.encoding import Encoder
    from bark_tf.audio.writing import to_pcm16

    if name == "raw":  # at the model's own rate
        return lambda piece, is_last: to_pcm16(piece).tobytes()
    return Encoder(name, rate).add
