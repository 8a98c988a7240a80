"""`BarkModel.speak`: one call from a text to a sound."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Unpack, overload

from bark_tf.audio.loudness import check_loudness
from bark_tf.generation.keywords import SpeakKeywords
from bark_tf.generation.long_form import LongForm
from bark_tf.processor import BarkProcessor
from bark_tf.progress import Progress, progress_bar
from bark_tf.speech.result import Speech
from bark_tf.suggestions import did_you_mean
from bark_tf.text.marks import read_marks, voices_of
from bark_tf.voices.presets import list_voices

# A smaller model finishes a text before XLA has compiled.
COMPILED_PARAMS = 50_000_000


@contextlib.contextmanager
def shown(progress: Progress | bool | None) -> Iterator[Progress]:
    """Yields a progress callable: the given one, or one that draws bars.

    Args:
        progress: A callable; or `enabled` of `progress_bar`.
    """
    if callable(progress):
        yield progress
        return
    with progress_bar(progress) as report:
        yield report


def per_text(name: str, value: Any, count: int) -> list:
    """One value for each text: those of a list, or the same for all.

    Raises:
        ValueError: If a list has another length.
    """
    if not isinstance(value, list | tuple):
        return [value] * count
    if len(value) != count:
        raise ValueError(
            f"A list of {name} must have one for each of the {count} texts. "
            f"Received: {len(value)}"
        )
    return list(value)


class Speaker:
    """The method `speak` of `BarkModel`."""

    _processor: BarkProcessor | None = None

    @overload
    def speak(
        self, text: str, voice: Any = None, **keywords: Unpack[SpeakKeywords]
    ) -> Speech: ...

    @overload
    def speak(
        self, text: Sequence[str], voice: Any = None, **keywords: Unpack[SpeakKeywords]
    ) -> list[Speech]: ...

    def speak(
        self,
        text,
        voice=None,
        *,
        processor=None,
        progress=None,
        loudness=None,
        **keywords,
    ):
        """Speaks a text of any length.

        It is spoken sentence by sentence and checked, as by `generate_long`. A
        progress bar shows where someone watches: in a terminal or a notebook.

        Args:
            text: The text; or a list of texts, which are spoken one by one.
            voice: Speaker: a name such as `"v2/en_speaker_6"`, the path of a .npz
                file, or a `VoicePreset`. None: the model's own, or a random one. A
                list has one per text.
            processor: `BarkProcessor`. None: that of the checkpoint from which the
                model was loaded.
            progress: True or False: a bar, or none. Or a callable (stage, done,
                total).
            loudness: LUFS, such as -16, with the extra `loudness`; None: as it is.
            **keywords: `seed`: an int or a list with one per text; None draws one,
                which the result names. `marks=False` speaks `[pause 0.5]` and `[voice:
                NAME]` as text. `aliases`: further voices for `[voice: NAME]`, by name.
                Also those of `generate_long` and `generate`, such as `temperature`.

        Returns:
            `Speech`; a list of them for a list of texts.

        Raises:
            ValueError: For invalid arguments, or a text with nothing to say, before
                any work is done.

        Example:
            >>> model.speak("Hello", seed=7).save("hello.mp3")  # doctest: +SKIP
        """
        is_list = isinstance(text, list | tuple)
        texts = list(text) if is_list else [text]
        voices = per_text("voices", voice, len(texts))
        seeds = per_text("seeds", keywords.pop("seed", None), len(texts))
        if loudness is not None:
            check_loudness(loudness)
        processor = self._own_processor() if processor is None else processor
        keywords.setdefault("jit_compile", self.count_params() >= COMPILED_PARAMS)
        spoken = []
        with shown(progress) as report:
            runs = [
                _run(self, processor, *row, progress=report, **keywords)
                for row in zip(texts, voices, seeds, strict=True)
            ]
            for run in runs:
                if len(runs) > 1:
                    report("texts", len(spoken), len(runs))
                spoken.append(_spoken(run, loudness))
            if len(runs) > 1:
                report("texts", len(runs), len(runs))
        return spoken if is_list else spoken[0]

    def _own_processor(self) -> BarkProcessor:
        """The processor of the model's checkpoint, which is read once."""
        if self._processor is None:
            if self._source is None:
                raise ValueError(
                    "A model that was not loaded from a checkpoint has no tokenizer: "
                    "speak(text, processor=BarkProcessor...)"
                )
            path, where = self._source
            self._processor = BarkProcessor.from_pretrained(path, **where)
        return self._processor


def _run(
    model: Any,
    processor: Any,
    text: str,
    voice: Any,
    seed: int | None,
    *,
    marks: bool = True,
    aliases: Mapping[str, Any] | None = None,
    **keywords: Any,
) -> LongForm:
    if marks:
        text = read_marks(text)
        keywords["voices"] = voices_of(text, voice_finder(processor, voice, aliases))
    return LongForm(model, processor, text, voice=voice, seed=seed, **keywords)


def _spoken(run: LongForm, loudness: float | None) -> Speech:
    out = run.output()
    speech = Speech(out.audio, out.sample_rate, out.seed, out.chunks, out.voice)
    return speech if loudness is None else speech.with_loudness(loudness)


def voice_finder(
    processor: Any, voice: Any, aliases: Mapping[str, Any] | None
) -> Callable[[str], Any]:
    """Finds voices by the names in marks.

    A text may come from a stranger, so that it names listed voices only, never files.

    Args:
        processor: `BarkProcessor`.
        voice: That of the call, which its text may name too.
        aliases: Further names of voices.

    Returns:
        A function for `voices_of`.
    """
    aliases = aliases or {}

    def find(name: str) -> Any:
        if name in aliases:
            return aliases[name]
        known = [one.name for one in list_voices(processor.speaker_embeddings)]
        if name in known or name == voice:
            return name
        raise ValueError(
            "[voice: NAME] takes a name that `bark-tf voices` lists, or an alias "
            "(aliases={NAME: FILE}, --alias NAME=FILE). "
            f"Received: {name[:80]!r}.{did_you_mean(name, [*known, *aliases])}"
        )

    return find
