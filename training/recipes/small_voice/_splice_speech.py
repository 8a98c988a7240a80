"""Makes new texts from recordings by cutting between words and joining the pieces.

    python -m bark_tf.training.recipes.small_voice._splice_speech SPEECH/kumo spliced
    bark-tf prepare spliced texts --model small --validation 0.05

The semantic stage learns the sound of each word from few recordings, but it needs many
texts to learn to say all words once and in order. Pocketsphinx finds the word
boundaries. A new recording is the start of one recording, the middle of others and the
end of another, so its melody still begins and falls naturally. Half are strings of
digits. The original recordings are copied to OUT as well. New texts are distinct, none
is in `held_out.txt`, and none uses what `bark-tf prepare --validation` holds out. Needs
the extra `evaluate`.

For the semantic stage only: other stages would learn the sound of the joints.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bark_tf.audio.editing import normalise, trim
from bark_tf.audio.reading import load, resample
from bark_tf.files import atomic_write
from bark_tf.training.data.datasets import read_dataset
from bark_tf.training.data.prepare import is_held_out
from bark_tf.training.recipes.small_voice._start import (
    FRAME_RATE,
    HELD_OUT,
    MAX_SEMANTIC,
    WORDS,
)

SAMPLE_RATE = 24_000
_ALIGNER_RATE = 16_000
_FRAMES_PER_S = 100  # the aligner's frame rate
_DIGITS = frozenset(WORDS[:10])
_MAX_SECONDS = MAX_SEMANTIC / FRAME_RATE - 0.1
_TRIES = 20  # per line, before giving up on finding new texts
_FADE = int(0.008 * SAMPLE_RATE)
_SEARCH = int(0.02 * SAMPLE_RATE)  # searched on both sides for the quietest place
_PAUSE = int(0.06 * SAMPLE_RATE)  # longest pause that is kept at a cut


class AlignedRecording(NamedTuple):
    """A recording with word boundaries.

    Attributes:
        words: Words of the text.
        starts: First sample of each word.
        ends: Sample after the last one of each word.
        audio: float32 (samples,) at 24 kHz.
    """

    words: list[str]
    starts: list[int]
    ends: list[int]
    audio: np.ndarray


def aligned(words: list[str], audio: np.ndarray, aligner) -> AlignedRecording | None:
    """Aligns a recording with its text; None if that fails.

    Args:
        words: Words of the text.
        audio: float32 (samples,) at 24 kHz.
        aligner: `pocketsphinx.Decoder` at 16 kHz.
    """
    resampled = np.clip(resample(audio, SAMPLE_RATE, _ALIGNER_RATE), -1, 1)
    aligner.set_align_text(" ".join(words))
    aligner.start_utt()
    aligner.process_raw((resampled * 32_767).astype(np.int16).tobytes(), full_utt=True)
    aligner.end_utt()
    if aligner.hyp() is None:
        return None
    spoken = [part for part in aligner.seg() if part.word[0] != "<"]
    if [part.word.split("(")[0] for part in spoken] != words:
        return None
    per_frame = SAMPLE_RATE // _FRAMES_PER_S
    starts = [part.start_frame * per_frame for part in spoken]
    ends = [(part.end_frame + 1) * per_frame for part in spoken]
    return AlignedRecording(words, [0, *starts[1:]], [*ends[:-1], len(audio)], audio)


def piece(recording: AlignedRecording, first: int, last: int) -> np.ndarray:
    """The words from `first` to before `last`, cut where it is quiet."""
    begin, end = recording.starts[first], recording.ends[last - 1]
    if first > 0:
        pause = begin - recording.ends[first - 1]
        begin = _quietest(recording.audio, begin - min(pause, _PAUSE) // 2)
    if last < len(recording.words):
        pause = recording.starts[last] - end
        end = _quietest(recording.audio, end + min(pause, _PAUSE) // 2)
    return recording.audio[begin:end]


def _quietest(audio: np.ndarray, place: int) -> int:
    """The middle of the quietest `_FADE` samples near a place."""
    begin = max(0, place - _SEARCH)
    power = np.square(audio[begin : place + _SEARCH])
    if len(power) <= _FADE:
        return place
    sums = np.convolve(power, np.ones(_FADE), "valid")
    return begin + int(np.argmin(sums)) + _FADE // 2


def join(pieces: list[np.ndarray]) -> np.ndarray:
    """Concatenates pieces with a short cross-fade."""
    whole = pieces[0]
    for new in pieces[1:]:
        fade = min(_FADE, len(whole), len(new))
        rise = np.linspace(0, 1, fade, dtype=np.float32)
        both = whole[-fade:] * rise[::-1] + new[:fade] * rise
        whole = np.concatenate([whole[:-fade], both, new[fade:]])
    return whole


def spliced(
    recordings: list[AlignedRecording], rng: random.Random
) -> tuple[list[str], np.ndarray]:
    """Joins pieces of two to four recordings.

    Args:
        recordings: Recordings of at least two words.
        rng: Random generator.

    Returns:
        The words; and the audio, float32 (samples,) at 24 kHz.
    """
    sources = [rng.choice(recordings) for _ in range(rng.choice((2, 2, 3, 4)))]
    words: list[str] = []
    pieces = []
    for number, source in enumerate(sources):
        count = len(source.words)
        length = rng.randint(1, min(count - 1, 5))
        if number == 0:
            first = 0
        elif number == len(sources) - 1:
            first = count - length
        else:
            first = rng.randint(0, count - length)
        words += source.words[first : first + length]
        pieces.append(piece(source, first, first + length))
    return words, join(pieces)


def make(data: Path, out: Path, lines: int, validation: float, seed: int) -> None:
    """Writes an LJSpeech folder; existing recordings are kept."""
    import soundfile
    from pocketsphinx import Decoder

    aligner = Decoder(
        samprate=_ALIGNER_RATE, loglevel="FATAL", beam=1e-80, wbeam=1e-60, pbeam=1e-80
    )
    out.mkdir(parents=True, exist_ok=True)
    originals, _ = read_dataset(data)
    recordings, rows = [], []
    for original in originals:
        path = out / f"{original.id.replace('/', '_')}{original.path.suffix}"
        if not path.exists():
            with atomic_write(path) as temporary:
                shutil.copyfile(original.path, temporary)
        rows.append(f"{path.stem}|{original.text}|{original.text}\n")
        if is_held_out(original.text, validation):
            continue
        audio = load(original.path, SAMPLE_RATE)
        one = aligned(original.text.split(), audio, aligner)
        if one is not None and len(one.words) > 1:
            recordings.append(one)
    digits = [one for one in recordings if _DIGITS.issuperset(one.words)]
    if not digits:
        raise ValueError(
            f"Some recordings in {data} must be strings of digits that pocketsphinx "
            f"can align. Received: {len(originals)} recordings, "
            f"{len(recordings)} of them aligned, none of digits"
        )
    print(f"{len(recordings):,} recordings aligned, {len(digits):,} of digits")
    texts = {*HELD_OUT, *(original.text for original in originals)}
    rng = random.Random(seed)
    made = 0
    for _ in range(_TRIES * lines):
        if made == lines:
            break
        words, audio = spliced(digits if rng.random() < 0.5 else recordings, rng)
        text = " ".join(words)
        is_new = text not in texts and not is_held_out(text, validation)
        if not is_new or len(audio) > _MAX_SECONDS * SAMPLE_RATE:
            continue
        texts.add(text)
        # Named by text: a file from another call never gets another text.
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        name = f"{out.name}_spliced_{digest}"
        path = out / f"{name}.ogg"
        if not path.exists():
            audio = normalise(trim(audio, SAMPLE_RATE))
            with atomic_write(path) as temporary:
                soundfile.write(temporary, audio, SAMPLE_RATE, format="OGG")
        rows.append(f"{name}|{text}|{text}\n")
        made += 1
    print(f"{made:,} of {lines:,} new texts made")
    with atomic_write(out / "metadata.csv") as temporary:
        temporary.write_text("".join(rows), encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--lines", type=int, default=8_000)
    parser.add_argument("--validation", type=float, default=0.05, metavar="SHARE")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    make(chosen.data, chosen.out, chosen.lines, chosen.validation, chosen.seed)


if __name__ == "__main__":
    main()
