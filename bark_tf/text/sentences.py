"""Splits long text into pieces that Bark can speak in one go.

Rules find the sentences, since the text may be in any language or several. When in
doubt they do not split: sentences are grouped again anyway, so a missed end costs
nothing, while a pause after "Dr." is audible.

No character is lost: the joined pieces equal the text up to white space.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

# === Numbers ===

# Bark was trained on pieces of up to about 14 s, and its 768 semantic tokens last
# 15.4 s. Aiming at 10 s leaves room for slow speakers.
TARGET_S = 10.0
MAX_S = 13.0
# After shorter pieces Bark tends to make up speech; they join a neighbour if possible.
MIN_S = 2.0

# The model reads 256 text tokens; the margin is for tokenizers with other counts for a
# text than for the sum of its words.
TOKEN_MARGIN = 8
MAX_TOKENS = 256 - TOKEN_MARGIN

# Calm reading: about 150 words per minute of 6 characters, space included.
CHARACTERS_PER_S = 15.0
# A digit is read as a word: "7" as "seven", "42" as "forty-two".
DIGITS_PER_S = CHARACTERS_PER_S / 4
# One character is one syllable (Chinese, Korean) or more (kanji).
SYLLABLES_PER_S = 4.5
# Kana are half a syllable as often as a whole one.
KANA_PER_S = 7.0

_KANA = ((0x3041, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9F), (0x1B000, 0x1B16F))
_SYLLABLES = (
    (0x1200, 0x139F),  # Ethiopic
    (0x2E80, 0x2FDF),  # radicals
    (0x3005, 0x3007),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xA000, 0xA48F),  # Yi
    (0xAC00, 0xD7A3),  # Hangul
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)
# Scripts without spaces between words, and their punctuation.
_UNSPACED = (
    *_KANA,
    (0x2E80, 0x303F),
    (0x3400, 0x4DBF),
    (0x4E00, 0xA48F),
    (0xF900, 0xFAFF),
    (0xFF01, 0xFF65),
    (0x20000, 0x3FFFF),
)
# Scripts that end a sentence with a space instead of a mark.
_SPACE_ENDED = ((0x0E01, 0x0E5B), (0x0E81, 0x0EDF))  # Thai, Lao
# The fewest characters before such a space for it to end a sentence.
_MIN_SPACE_ENDED = 20

# === Marks ===

# End a sentence anywhere: their scripts need no space after them.
_WIDE_MARKS = "。｡！？．﹒﹖﹗।॥؟۔։።፧፨။។៕།༎᠃᠉꓿߹܀܁܂"
# End a sentence before a space, depending on the next word.
_LOUD_MARKS = "!?‼⁇⁈⁉‽⸮\u037e"
_MARKS = _WIDE_MARKS + _LOUD_MARKS + ".…"
_INVISIBLE = "\u200b\u200e\u200f\u2060\ufeff"
_CLOSERS = "\"'”’»«›‹)]}」』】》〉）］｝〕〗〙｣＂＇*_\u200d\ufe0f" + _INVISIBLE
_OPENERS = "\"'“‘”’«»‹›„‚([{（［｛「『【《〈〔｢¿¡*_#—–-…" + _INVISIBLE
_MARK = re.compile(
    rf"(?P<marks>\.(?:[ \u00a0]\.)+|[{re.escape(_MARKS)}]+)"
    # “ closes in German, and » after a space in French, before a space or a mark; they
    # open elsewhere. [1] is a footnote.
    rf"(?:[{re.escape(_CLOSERS)}]|\[\d{{1,3}}\]"
    r"|(?:[“‘]|[ \u00a0\u202f]»)(?=[\s,.;:!?]|\Z))*"
)
_SPACE = re.compile(r"\s*")
_CUE = re.compile(r"\[[^\[\]\n]{1,60}\]")
_SONG = re.compile(r"[♪♫♬][^♪♫♬]{1,400}[♪♫♬]")
_BULLET = re.compile(r"\s*(?:[-*+•‣◦▪●–—]\s|\(?\d{1,3}[.)]\s|\(?[a-zA-Z]\)\s|#{1,6}\s)")
_HEADING = re.compile(r"\s*#{1,6}\s")
_SPEAKER = re.compile(r"\s*\[?(?![a-z])[^\W\d_][\w .'-]{0,30}\]?[:：]")
_ENUMERATOR = re.compile(r"\s*\(?(?:\d{1,3}|[IVXLC]{1,5}|[ivx]{1,4}|[A-Za-z])\s*")
_ROMAN = re.compile(r"[IVXLCDM]{2,}\b")
_DOTTED = re.compile(r"(?:[^\W\d_]{1,2}\.)+[^\W\d_]{1,2}")
_CLAUSE = re.compile(
    rf"[,;:—–][{re.escape(_CLOSERS)}]*\s+|\s-{{1,2}}\s+"
    rf"|[、，；：､،؛၊፣፤፥][{re.escape(_CLOSERS)}]*\s*"
)
_SPACES = re.compile(r"\s+")

# Joiners, viramas, and the vowels that Thai and Lao write before their consonant.
_CLING_TO_NEXT = "\u200d\u2060्্੍્୍்్್്්္្᩠เแโใไເແໂໃໄ"
_CLING_TO_LAST = "\u200d\u2060ะาำๅๆຯະາຳໆ" + _CLOSERS + _MARKS
_JAMO_AND_TONES = ((0x1160, 0x11FF), (0x1F3FB, 0x1F3FF))
# Halves of a surrogate pair, of a flag, digits of a number.
_PAIRS = (
    (((0xD800, 0xDBFF),), ((0xDC00, 0xDFFF),)),
    (((0x1F1E6, 0x1F1FF),), ((0x1F1E6, 0x1F1FF),)),
    (((0x30, 0x39),), ((0x30, 0x39),)),
)

# A shorter line before one that starts with a capital is a heading, a verse or the end
# of a paragraph, not a wrapped line.
_SHORT_LINE = 50
# Characters considered before and after a mark.
_WINDOW = 40

# === Words before a full stop ===


def _words(*lines: str) -> frozenset[str]:
    return frozenset(" ".join(lines).split())


# Never the last word: a name or the rest of the sentence follows.
_NEVER_LAST = _words(
    "mr mrs ms mx messrs dr drs prof rev hon pres gov sen gen col maj capt cmdr lt sgt",
    "cpl adm supt vs cf viz approx esp incl e.g i.e",
    "hr fr dipl bzw ca evtl ggf inkl exkl sog vgl zzgl bspw geb z.b d.h u.a o.ä i.d.r",
    "m.e u.u v.a z.t z.zt s.o s.u",
    "sra srta sres dña dra ud uds vd vds lic p.ej mlle mgr c.-à-d p.ex",
    "sig sigg sig.ra dott dott.ssa avv prof.ssa p.es exmo exma profa",
    "np tzn tzw inż hab ul św płk ks m.in prof",
    "ул им проф акад т.е т.к т.н см ср напр гр тов",
    "sn doç yrd örn bkz dhr mevr bijv d.w.z t.ex bl.a f.eks např tzv tj",
    "डॉ प्रो पं ดร π.χ δηλ",
)
# The last word if one of `_STARTERS` follows.
_SELDOM_LAST = _words(
    "jr sr st ave blvd rd sq inc ltd co corp bros dept univ assn esq ft mt oz lb lbs",
    "al ph.d str tel rep ing",
)
# The last word if a capital follows.
_OFTEN_LAST = _words(
    "etc usw u.s.w ecc itd itp atd enz osv o.s.v vb т.д т.п др пр руб тыс",
    "a.m p.m a.d b.c b.c.e c.e",
)
# Abbreviations before a number, ordinary words elsewhere.
_BEFORE_NUMBER = _words(
    "no nos nr num núm nº p pp pg pág págs vol vols fig figs art arts ch chap sec sect",
    "ver op eq par abs kap bd tab стр гл рис том",
    "jan feb mar apr jun jul aug sep sept oct okt nov dec dez janv févr avr juil déc",
    "ene abr ago dic",
)
_ABBREVIATIONS = _NEVER_LAST | _SELDOM_LAST | _OFTEN_LAST
_STARTERS = _words(
    "A An The I You He She It We They This That These Those There Here My Your His Her",
    "Our Their Its But And Or So Then Now If When While What Why How Where Who Yes No",
    "Not In On At For From After Before However As Let",
    "Der Die Das Er Sie Es Wir Ich Ihr Und Aber Ein Eine Dann Wenn",
    "El La Los Las Un Una Y Pero Le Les Il Elle Nous Vous Et Mais Lo Gli Ma",
    "Он Она Они Мы Вы Это Но И А",
)
# A number with a full stop is an ordinal after `_BEFORE_ORDINAL` or before `_MONTHS`:
# "im 19. Jahrhundert", "1. Mai".
_BEFORE_ORDINAL = _words(
    "der die das dem den des am im vom zum zur beim bis jeder jede jedes ab seit und"
)
_MONTHS = _words(
    "Januar Jänner Februar März April Mai Juni Juli August September Oktober November",
    "Dezember",
)


# === Characters ===


def _is_in(char: str, ranges: Iterable[tuple[int, int]]) -> bool:
    return any(first <= ord(char) <= last for first, last in ranges)


def _is_unspaced(char: str) -> bool:
    return bool(char) and _is_in(char, _UNSPACED)


@functools.lru_cache(maxsize=2**14)
def _character_seconds(char: str) -> float:
    if char.isdigit():
        return 1 / DIGITS_PER_S
    if _is_in(char, _KANA):
        return 1 / KANA_PER_S
    return 1 / (SYLLABLES_PER_S if _is_in(char, _SYLLABLES) else CHARACTERS_PER_S)


def estimate_seconds(text: str) -> float:
    """Estimates how long a calm voice takes to read a text.

    Args:
        text: Any text.

    Returns:
        Seconds, at least 0; a rough mean over speakers and languages.

    Example:
        >>> round(estimate_seconds("Hello, my dog is cute."), 1)
        1.5
    """
    return sum(map(_character_seconds, _collapse(text)))


def _collapse(text: str) -> str:
    return " ".join(text.split())


def has_speech(text: str) -> bool:
    """Whether a text has anything to speak: a letter, a digit or a note.

    Example:
        >>> has_speech("Ok"), has_speech("* * *")
        (True, False)
    """
    return any(char.isalnum() or char in "♪♫♬" for char in text)


# === Paragraphs and sentences ===


def split_paragraphs(text: str) -> list[str]:
    r"""Splits a text at blank lines.

    Args:
        text: Any text.

    Returns:
        The paragraphs, stripped; none is empty.

    Raises:
        ValueError: If `text` is not a string.

    Example:
        >>> split_paragraphs("One.\nTwo.\n\nThree.")
        ['One.\nTwo.', 'Three.']
    """
    return _pieces(text, _paragraph_ends(_lines(text)))


def split_sentences(text: str) -> list[str]:
    """Splits a text into sentences.

    Quotes and brackets after the mark stay with the sentence, and `[laughs]` and
    `♪ ... ♪` stay whole. Blank lines, list items and lines with a speaker
    ("ANNA: ...") start a new sentence.

    Args:
        text: Any text, in any languages and scripts.

    Returns:
        The sentences, stripped; none is empty. Joined, they equal the text up to white
        space.

    Raises:
        ValueError: If `text` is not a string.

    Example:
        >>> split_sentences('Dr. Who paid 3.50. "Why?" she asked. 你好。再见！')
        ['Dr. Who paid 3.50.', '"Why?" she asked.', '你好。', '再见！']
    """
    lines = _lines(text)
    inside = _inside(text, _CUE, _SONG)
    ends = {*_line_ends(lines), *_song_ends(text), *_space_ends(text)}
    ends = {end for end in ends if not inside[end]}.union(_paragraph_ends(lines))
    return _pieces(text, _mark_ends(text, sorted(ends), inside))


class _Line(NamedTuple):
    text: str
    end: int  # offset after the line's break


def _lines(text: str) -> list[_Line]:
    if not isinstance(text, str):
        raise ValueError(f"text must be a string. Received: {type(text).__name__}")
    lines = text.splitlines(keepends=True)
    ends = itertools.accumulate(map(len, lines))
    return [_Line(line, end) for line, end in zip(lines, ends, strict=True)]


def _pieces(text: str, ends: Iterable[int]) -> list[str]:
    bounds = [0, *ends, len(text)]
    pieces = (text[a:b].strip() for a, b in itertools.pairwise(bounds))
    return [piece for piece in pieces if piece]


def _inside(text: str, *patterns: re.Pattern) -> bytearray:
    """Marks the offsets where a cut would break a match: (len(text) + 1,)."""
    inside = bytearray(len(text) + 1)
    for pattern in patterns:
        for match in pattern.finditer(text):
            length = match.end() - match.start() - 1
            inside[match.start() + 1 : match.end()] = b"\1" * length
    return inside


def _paragraph_ends(lines: Sequence[_Line]) -> list[int]:
    return [line.end for line in lines if not line.text.strip()]


def _line_ends(lines: Sequence[_Line]) -> Iterator[int]:
    """Ends before list items and speakers, and after headings and short lines."""
    for line, following in itertools.pairwise(lines):
        is_short = len(line.text.strip()) < _SHORT_LINE
        if (
            _HEADING.match(line.text)
            or _BULLET.match(following.text)
            or _SPEAKER.match(following.text)
            or (is_short and following.text.strip()[:1].isupper())
        ):
            yield line.end


def _song_ends(text: str) -> Iterator[int]:
    for song in _SONG.finditer(text):
        is_last = text[song.end() : song.end() + 1].isspace()
        if is_last and not _first_of(_next_words(text, song.end())).islower():
            yield song.end()


def _space_ends(text: str) -> Iterator[int]:
    """Ends in Thai and Lao, which have spaces between sentences and phrases."""
    begin = 0
    for space in _SPACES.finditer(text):
        before = text[space.start() - 1 : space.start()]
        after = text[space.end() : space.end() + 1]
        if not before or not after:
            continue
        is_long = space.start() - begin >= _MIN_SPACE_ENDED
        if is_long and _is_in(before, _SPACE_ENDED) and _is_in(after, _SPACE_ENDED):
            begin = space.end()
            yield begin


def _mark_ends(text: str, other: Sequence[int], inside: bytearray) -> Iterator[int]:
    """Merges the ends at marks with the other ends; ascending."""
    # In a text without capitals a small letter may start a sentence.
    is_small = not any(map(str.isupper, text))
    others = iter([*other, len(text) + 1])
    following, begin = next(others), 0
    for match in _MARK.finditer(text):
        while following <= match.start():
            yield following
            begin, following = following, next(others)
        if not inside[match.end()] and _is_end(text, match, begin, is_small):
            if match.end() < following:
                yield match.end()
            begin = match.end()
    yield from (end for end in (following, *others) if end <= len(text))


# === Ends at marks ===


def _next_words(text: str, end: int) -> list[str]:
    """Up to two words after an offset, without opening quotes and brackets."""
    start = _SPACE.match(text, end).end()
    words = text[start : start + _WINDOW].split()[:2]
    return [word.lstrip(_OPENERS) for word in words if word.strip(_OPENERS)]


def _first_of(words: Sequence[str]) -> str:
    return words[0][:1] if words else ""


def _is_end(text: str, match: re.Match, begin: int, is_small: bool) -> bool:
    """Whether a mark ends the sentence that starts at `begin`."""
    marks = match["marks"]
    has_closer = len(marks) < len(match.group())
    after = text[match.end() : match.end() + 1]
    if not after:
        return True
    if any(mark in _WIDE_MARKS for mark in marks):
        return _is_wide_end(marks, after, has_closer)
    if not after.isspace():
        # Chinese and Japanese with Western marks: 你好!再见!
        before = text[match.start() - 1 : match.start()]
        is_wide = _is_unspaced(after) and (marks != "." or _is_unspaced(before))
        return is_wide and "…" not in marks and not has_closer
    words = _next_words(text, match.end())
    is_lower = _first_of(words).islower()
    if any(mark in _LOUD_MARKS for mark in marks):
        return not (has_closer and is_lower)
    if marks != ".":
        return not is_lower
    if is_lower and not is_small:
        return False
    return has_closer or _is_full_stop(text, match.start(), begin, words, is_small)


def _is_wide_end(marks: str, after: str, has_closer: bool) -> bool:
    is_decimal = marks == "．" and after.isdigit()
    if is_decimal or unicodedata.category(after).startswith("M"):
        return False
    # A letter right after a closed quote continues the sentence: 「行く？」と言った。
    return not (has_closer and after.isalnum()) and after not in _WIDE_MARKS


def _is_full_stop(
    text: str, dot: int, begin: int, following: Sequence[str], is_small: bool
) -> bool:
    """Whether a dot before a space ends its sentence, or marks an abbreviation."""
    enumerator = _ENUMERATOR.match(text, begin)
    if enumerator and enumerator.end() == dot:
        return False
    words = text[max(begin, dot - _WINDOW) : dot].split()
    word = words[-1].lstrip(_OPENERS) if words else ""
    previous = words[-2] if len(words) > 1 else ""
    next_word = following[0] if following else ""
    if next_word.startswith("&"):
        return False
    next_word = re.sub(r"\W+$", "", next_word)
    if word.isdigit():
        is_ordinal = len(word) < 3 and next_word[:1].isupper()
        return not is_ordinal or not (
            previous.lower() in _BEFORE_ORDINAL or next_word in _MONTHS
        )
    starts = next_word in _STARTERS or not next_word
    if _is_initial(word):
        return starts or (word == "I" and previous.islower())
    return _may_be_last(word.lower(), next_word, starts, is_small)


def _is_initial(word: str) -> bool:
    """Whether a word is one letter of an alphabet: "J." but not the Korean "네."."""
    letters = [c for c in word if not unicodedata.category(c).startswith("M")]
    return (
        len(letters) == 1 and letters[0].isalpha() and not _is_in(word[0], _SYLLABLES)
    )


def _may_be_last(word: str, next_word: str, starts: bool, is_small: bool) -> bool:
    if word in _NEVER_LAST:
        return False
    if word in _BEFORE_NUMBER:
        return not (next_word[:1].isdigit() or _ROMAN.match(next_word))
    if is_small and next_word[:1].islower():
        return word not in _ABBREVIATIONS and not _DOTTED.fullmatch(word)
    if word in _OFTEN_LAST:
        # "5 p.m. EST" continues.
        return not (len(next_word) > 1 and next_word.isupper())
    if word in _SELDOM_LAST or _DOTTED.fullmatch(word):
        return starts
    return True


# === Groups ===


def group_sentences(
    sentences: Iterable[str],
    count_tokens: Callable[[str], int],
    max_tokens: int = MAX_TOKENS,
    *,
    target_s: float = TARGET_S,
    max_s: float = MAX_S,
) -> list[str]:
    """Groups sentences into pieces that Bark can speak in one go.

    A sentence that is too long is cut into roughly equal parts: after a comma or
    similar mark, else at a space, else between two characters.

    Args:
        sentences: What `split_sentences` returns.
        count_tokens: Returns the number of tokens of a text.
        max_tokens: The most tokens per piece; a single character with more stays
            whole.
        target_s: Sentences are added to a piece up to this estimate, in seconds.
        max_s: The longest estimate of a piece, in seconds.

    Returns:
        The pieces, with collapsed white space; none is empty.

    Raises:
        ValueError: If a limit is out of range.

    Example:
        >>> count = lambda text: len(text.split())
        >>> group_sentences(["One.", "Two three.", "Four."], count, max_tokens=3)
        ['One. Two three.', 'Four.']
    """
    if max_tokens < 1:
        raise ValueError(
            f"max_tokens must be at least 1. Received: max_tokens={max_tokens}"
        )
    if not 0 < target_s <= max_s < math.inf:
        raise ValueError(
            "target_s must be positive and at most max_s. "
            f"Received: target_s={target_s}, max_s={max_s}"
        )
    limits = _Limits(count_tokens, max_tokens, target_s, max_s)
    groups: list[_Group] = []
    for sentence in map(_collapse, sentences):
        for part in _parts(sentence, limits):
            _add(groups, part, limits)
    return [group.text for group in groups]


class _Limits(NamedTuple):
    count_tokens: Callable[[str], int]
    max_tokens: int
    target_s: float
    max_s: float

    def has_room(self, text: str) -> bool:
        return self.count_tokens(text) <= self.max_tokens


class _Group(NamedTuple):
    text: str
    seconds: float


def _add(groups: list[_Group], part: str, limits: _Limits) -> None:
    """Adds a part to the last group, or starts a new one with it."""
    seconds = estimate_seconds(part)
    if groups:
        last = groups[-1]
        is_tiny = min(last.seconds, seconds) < MIN_S
        joined = _join(last.text, part)
        total = last.seconds + seconds + 1 / CHARACTERS_PER_S  # the space
        most = limits.max_s if is_tiny else limits.target_s
        if total <= most and limits.has_room(joined):
            groups[-1] = _Group(joined, total)
            return
    groups.append(_Group(part, seconds))


def _join(left: str, right: str) -> str:
    space = "" if _is_unspaced(left[-1]) or _is_unspaced(right[0]) else " "
    return left + space + right


def _parts(sentence: str, limits: _Limits) -> Iterator[str]:
    """The sentence itself, or its parts."""
    seconds = [0.0, *itertools.accumulate(map(_character_seconds, sentence))]
    if seconds[-1] <= limits.max_s and limits.has_room(sentence):
        if sentence:
            yield sentence
        return
    cuts = _cuts(sentence)
    start = 0
    while start < len(sentence):
        end = bisect.bisect_right(seconds, seconds[start] + limits.max_s) - 1
        end = _last_fit(sentence, start, max(start + 1, end), limits)
        if end < len(sentence):
            left = seconds[-1] - seconds[start]
            even = left / math.ceil(left / limits.target_s)
            aim = bisect.bisect_left(seconds, seconds[start] + even)
            end = _choose_cut(cuts, start, min(aim, end), end)
            # With some tokenizers a shorter text has more tokens.
            end = _last_fit(sentence, start, end, limits)
        if part := sentence[start:end].strip():
            yield part
        start = end


def _last_fit(text: str, start: int, limit: int, limits: _Limits) -> int:
    """About the largest end up to `limit` at which the tokens fit."""
    if limits.has_room(text[start:limit]):
        return limit
    fits, too_far = start + 1, limit
    while too_far - fits > 1:
        middle = (fits + too_far) // 2
        if limits.has_room(text[start:middle]):
            fits = middle
        else:
            too_far = middle
    return fits


def _cuts(text: str) -> tuple[list[int], ...]:
    """Offsets where a sentence may be cut, by kind, best first; each ascending."""
    inside = _inside(text, _CUE)
    clauses = [m.end() for m in _CLAUSE.finditer(text) if not inside[m.end()]]
    spaces = [m.end() for m in _SPACES.finditer(text) if not inside[m.end()]]
    between = [i for i in range(1, len(text)) if _may_part(text[i - 1], text[i])]
    return clauses, spaces, between


def _choose_cut(
    levels: Sequence[Sequence[int]], start: int, aim: int, limit: int
) -> int:
    """The offset nearest to `aim`, of the best kind that leaves no tiny part."""
    least = start + max(1, (limit - start) // 3)
    for cuts in levels:
        first, last = bisect.bisect_left(cuts, least), bisect.bisect_right(cuts, limit)
        if first < last:
            return min(cuts[first:last], key=lambda cut: abs(cut - aim))
    return aim


def _may_part(left: str, right: str) -> bool:
    """Whether two characters can be separated without changing either."""
    return not (
        left in _CLING_TO_NEXT
        or right in _CLING_TO_LAST
        or unicodedata.category(right).startswith("M")
        or _is_in(right, _JAMO_AND_TONES)
        or any(_is_in(left, a) and _is_in(right, b) for a, b in _PAIRS)
    )
