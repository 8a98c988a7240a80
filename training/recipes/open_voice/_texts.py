"""The texts of the open voice: sentences of a file, strings of digits, numbers.

Everything is a function of the file and `SEED`. Held-out texts are in no other set.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SEED = 20
HELD_OUT_SENTENCES, HELD_OUT_DIGITS = 250, 100
_HELD_OUT_WORDS = range(4, 15)
_OWN_WORDS, _COMMAS = 0.6, 0.15  # shares, in `word_lists`
_DIGIT_STRINGS, _NUMBER_SENTENCES = 2_000, 1_600
_DIGITS = "zero one two three four five six seven eight nine".split()
_THINGS = """people miles dollars pages years days houses letters children boxes
minutes seats ships trees songs""".split()
_MONTHS = """January February March April May June July August September October
November December""".split()
_FORMS = (
    "There are {n} {thing} in all.",
    "It took {n} {thing}.",
    "Room {n} is on the left.",
    "We counted {n} {thing} on {month} {day}.",
    "In {year}, {n} {thing} were lost.",
    "He was born in {year}.",
    "The train leaves at {hour}:{minute}.",
    "Call {phone}.",
    "Chapter {n}.",
    "She paid {n} {thing} for {few} of them.",
    "The answer is {n}.",
    "From {year} to {later} nothing changed.",
)


class Texts(NamedTuple):
    """The texts of all recordings.

    Attributes:
        train: Texts to learn from, shuffled.
        sentences: Held-out sentences.
        digits: Held-out strings of digits, in words.
    """

    train: list[str]
    sentences: list[str]
    digits: list[str]


def texts_of(path: Path, also: Path | None = None) -> Texts:
    """Makes all texts.

    Args:
        path: File with a text per line, without digits.
        also: File with texts to learn from that are never held out.

    Raises:
        ValueError: If the file has fewer sentences than are held out.
    """
    rng = random.Random(SEED)
    lines = list(dict.fromkeys(_lines(path)))
    rng.shuffle(lines)
    fitting = [line for line in lines if len(line.split()) in _HELD_OUT_WORDS]
    if len(fitting) <= HELD_OUT_SENTENCES:
        raise ValueError(
            f"The texts must be more than the {HELD_OUT_SENTENCES} that are held out. "
            f"Received: {len(fitting)} of 4 to 14 words in {str(path)!r}"
        )
    sentences = fitting[:HELD_OUT_SENTENCES]
    held_out = set(sentences)
    train = [line for line in lines if line not in held_out]

    strings = _distinct(
        HELD_OUT_DIGITS + _DIGIT_STRINGS,
        lambda: tuple(rng.choices(range(10), k=rng.randint(3, 7))),
    )
    digits = [_in_words(string) for string in strings[:HELD_OUT_DIGITS]]
    for string in strings[HELD_OUT_DIGITS:]:
        spelled = rng.random() < 0.5
        train.append(_in_words(string) if spelled else " ".join(map(str, string)))
    train += _distinct(_NUMBER_SENTENCES, lambda: _number_sentence(rng))
    held_out.update(digits)
    train += [line for line in _lines(also) if line not in held_out] if also else []
    rng.shuffle(train)
    return Texts(train, sentences, digits)


def word_lists(texts: Texts, count: int, lexicon: Path | None = None) -> list[str]:
    """Sentences of random words, which no network guesses from the words before.

    In ordinary sentences a few hundred words are most of what is said, and a rare word
    comes once or never. Here all words are equally frequent.

    Args:
        texts: Of `texts_of`.
        count: Number of sentences, of 3 to 7 words.
        lexicon: File with more words, the first of each line, such as CMUdict; two in
            five are drawn from it. Those that only held-out sentences have are left
            out, so that they stay unseen.

    Returns:
        The sentences.
    """
    rng = random.Random(SEED)
    own = sorted({word for line in texts.train for word in _words(line)})
    unseen = {word for line in texts.sentences for word in _words(line)} - {*own}
    listed = [line.split()[0].lower() for line in _lines(lexicon)] if lexicon else []
    other = {word for word in listed if _words(word) == [word]} - {*own} - unseen
    draws = _endlessly(own, rng), _endlessly(sorted(other) or own, rng)
    found = []
    for _ in range(count):
        words = [
            next(draws[rng.random() >= _OWN_WORDS]) for _ in range(rng.randint(3, 7))
        ]
        breaks = [", " if rng.random() < _COMMAS else " " for _ in words[1:]]
        line = "".join(itertools.chain(*itertools.zip_longest(words, [*breaks, "."])))
        found.append(line[0].upper() + line[1:])
    return found


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+(?:'[a-z]+)?", text.lower())


def _endlessly(words: list[str], rng: random.Random) -> Iterator[str]:
    """All words in random order, again and again."""
    while True:
        yield from rng.sample(words, len(words))


def _lines(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip()]


def _distinct(count: int, draw) -> list:
    """The first `count` different values of a function."""
    found: dict = {}
    while len(found) < count:
        found.setdefault(draw())
    return list(found)


def _in_words(string) -> str:
    return " ".join(_DIGITS[digit] for digit in string)


def _number_sentence(rng: random.Random) -> str:
    """A sentence with numbers in digits."""
    year = rng.randint(1100, 2030)
    form = rng.choice(_FORMS)
    sizes = ((0, 20), (10, 99), (100, 999), (1000, 9999))
    return form.format(
        n=rng.choice([rng.randint(*size) for size in sizes]),
        thing=rng.choice(_THINGS),
        month=rng.choice(_MONTHS),
        day=rng.randint(1, 31),
        year=year,
        later=year + rng.randint(1, 90),
        hour=rng.randint(1, 12),
        minute=rng.randint(10, 59),
        phone=" ".join(str(rng.randint(0, 9)) for _ in range(7)),
        few=rng.randint(2, 12),
    )
