"""Splitting and grouping: tables of cases, and properties of any text."""

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bark_tf.text import sentences as module
from bark_tf.text.sentences import (
    MAX_S,
    MAX_TOKENS,
    MIN_S,
    TARGET_S,
    estimate_seconds,
    group_sentences,
    has_speech,
    split_paragraphs,
    split_sentences,
)

# | separates the expected sentences; the text is the case without it.
ENGLISH = [
    "Hello, my dog is cute. | He barks! | Does he? | Yes.",
    "Mr. Smith met Dr. J. R. R. Tolkien and Mrs. Jones at St. Mary's. | They talked.",
    "Use it for speech, e.g. in books, i.e. long text, vs. Short ones. | Done.",
    "It costs 3.14 or $1,000.50. | Version 2.0.1 is out.",
    "See No. 5, Fig. 3 and Vol. II of it. | No. | I will not. | Art. | He likes it.",
    "We met at 5 p.m. | He left at 6 a.m. in the dark.",
    "The U.S. Army won. | They live in the U.S. | The end.",
    "Acme Inc. Chairman Bo resigned. | Smith & Co. & Sons paid John Smith Jr. | "
    "The rest is lost etc. | And so on.",
    "It was Plan B. | It worked. | So did I. | Everybody left with J. Doe.",
    "In 1999. | The next line.",
    'He said: "Go away." | She went. | "Why?" he asked. | "Stop!" | Then silence.',
    "(He left.) | [Really?!] | ‘Yes.’ | “No.” | Good.",
    "Well... maybe. | Wait… what? | Hm... | No. | Wait . . . what? | Um . . . | What?",
    "What?! | No!!! | Yes?? | OK.",
    "Visit https://example.org/a.b?c=d!e or example.com. | Mail a.b@c.org. | Ok",
    "End of it.[1] | Next.[23] | Last.",
    "**Bold.** | _Soft._ | Plain.",
    "1. First point. | It goes on.",
    "hello there. | how are you? | i am fine, e.g. good, etc. and so on. | bye",
    "Great! | 😀 Nice. | 😀 Fine.",
    "Yes!\u200b | No.\ufeff | So.",
]
CUES = [
    "Hello! | [laughs. Loudly] How are you? | [clears throat] Fine.",
    "♪ La la. La! La ♪ | Then. | He sang ♪ do. re ♪ and left.",
    "[unclosed. | Next.",
    "Uh — I mean... well — no. | OK.",
]
LINES = [
    "A line without end\n\n | another",
    "♪ La la\nLa la ♪ | Then. | ♪ la\n\n | la ♪",
    "wrapped at the\nmargin, as editors do. | Then\nmore.",
    "a line that is wrapped at the margin by an editor, before\nBerlin or so. | No.",
    "ANNA: Hello there, how is it going. | Fine?\n"
    " | BOB: Very well, thank you so much\n | 小明：你好。",
    "List:\n | - one\n | * two\n | • three\n | 1. four. | Yes.\n | 2) five\n | a) six",
    "Chapter One\n | It was a dark night. | So it was.",
    "# Title\n | text",
    "One\r\n\r\n | Two\u2029\u2029 | Three",
    "— Hola.\n | — Adiós.",
]
LANGUAGES = [
    # German
    "Z. B. hier, d. h. dort, bzw. da, usw. | Danach kam Hr. Dr. Maier.",
    "Am 1. Mai und am 3. Oktober, im 19. Jahrhundert. | Ja, Nr. 5.",
    "„Hallo!“ sagte er. | „Wie geht es?“ | »Nein!« rief sie. | »Doch.«",
    # French, Spanish, Portuguese, Italian
    "« Bonjour ! » dit-il. | « Ça va ? » | Oui, M. Dupont et Mlle. Durand. | Bien.",
    "¡Hola! | ¿Qué tal? | El Sr. García y la Sra. López viven en la pág. 5. | Bien.",
    "O Sr. Silva chegou às 5h. | A Dra. Ana não. | Bom dia!",
    "Il sig. Rossi, il dott. Bianchi ecc. | Poi basta.",
    # Polish, Russian, Turkish, Greek
    "Mieszka na ul. Długiej z prof. Nowakiem itd. | Potem wrócił.",
    "А. С. Пушкин родился в 1799 г. в Москве и т. д. | Он был поэт. | Да!",
    "Sn. Yılmaz geldi. | Prof. Dr. Kaya gitti.",
    "Τι κάνεις\u037e | Καλά. | Εσύ;",
    # Chinese, Japanese, Korean
    "你好。 | 你好吗？ | “再见。”他说。 | 他说：“好！” | “走吧。” | 圆周率是3.14。",
    "你好! | 你好吗? | 我很好. | 谢谢……再见。",
    "今日は。 | 「行く？」と言った。 | 「はい。」 | 「いいえ。」 | ３．１４です。",
    "안녕하세요. | 네. | 그래요? | 좋아요!",
    # Hindi, Urdu, Arabic, Hebrew
    "नमस्ते। | आप कैसे हैं? | डॉ. राम आए। | ठीक है॥ | हाँ",
    "مرحبا. | كيف حالك؟ | جاء د. أحمد. | شكرا!",
    "یہ ہے۔ | ٹھیک؟ | ہاں۔",
    "שלום. | מה שלומך? | טוב.",
    # Thai, Lao, Khmer, Burmese, Amharic, Armenian, Tibetan
    "สวัสดีครับผมชื่อสมชายและผมมาจากกรุงเทพ | วันนี้อากาศดีมากเลยนะครับ | ไป ไหน",
    "ຂ້ອຍຊື່ສົມຊາຍແລະຂ້ອຍມາຈາກວຽງຈັນ | ມື້ນີ້",
    "សួស្តី។ | អ្នកសុខសប្បាយទេ?",
    "မင်္ဂလာပါ။ | နေကောင်းလား။",
    "ሰላም። | እንዴት ነህ፧ | ደህና።",
    "Բարև։ | Ինչպես ես։",
    "བཀྲ་ཤིས། | བདེ་ལེགས།",
]


@pytest.mark.parametrize("case", ENGLISH + CUES + LINES + LANGUAGES)
def test_sentences(case):
    expected = [part.strip() for part in case.split("|")]
    text = case.replace(" |", "")
    assert split_sentences(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("你好。再见！", ["你好。", "再见！"]),
        ("你好!再见?好.走", ["你好!", "再见?", "好.", "走"]),
        ("「はい。」「いいえ。」", ["「はい。」", "「いいえ。」"]),
        ("नमस्ते।ठीक", ["नमस्ते।", "ठीक"]),
    ],
)
def test_scripts_without_spaces(text, expected):
    assert split_sentences(text) == expected


def test_paragraphs():
    text = "\n \nOne.\nTwo.\r\n\t\r\nThree.\n\n\n"
    assert split_paragraphs(text) == ["One.\nTwo.", "Three."]


@pytest.mark.parametrize("function", [split_sentences, split_paragraphs])
@pytest.mark.parametrize("text", ["", " \n\t\u3000\n"])
def test_nothing_has_no_pieces(function, text):
    assert function(text) == []


@pytest.mark.parametrize("function", [split_sentences, split_paragraphs])
@pytest.mark.parametrize("text", [None, b"bytes", ["list"]])
def test_only_strings_are_split(function, text):
    with pytest.raises(ValueError, match="text must be a string"):
        function(text)


# === Estimates ===


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("", 0, 0),
        # 15.5 s of a calm audiobook is about 40 words.
        ("the quick brown fox jumps over the lazy dog " * 4, 10, 14),
        ("今天天气很好我们去公园散步吧", 2.5, 4),
        ("오늘 날씨가 좋아서 공원에 갑니다", 2.5, 4),
        ("きょうはてんきがいいです", 1.2, 2.5),
        ("1984", 0.8, 1.5),
    ],
)
def test_estimated_seconds(text, low, high):
    assert low <= estimate_seconds(text) <= high


def test_white_space_takes_no_time():
    assert estimate_seconds(" a \n\n  b ") == estimate_seconds("a b")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("Ok", True), ("7", True), ("♪", True), ("ก", True), ("* * * —…!", False)],
)
def test_has_speech(text, expected):
    assert has_speech(text) is expected


# === Groups ===


def count_words(text):
    return len(text.split())


def test_sentences_are_grouped_to_the_target():
    sentence = "This one takes about two seconds of time."
    groups = group_sentences([sentence] * 12, count_words)
    assert " ".join(groups) == " ".join([sentence] * 12)
    assert [group.count(".") for group in groups] == [3, 3, 3, 3]
    assert all(TARGET_S / 2 < estimate_seconds(group) <= TARGET_S for group in groups)


def test_tokens_limit_a_group():
    groups = group_sentences(["a b c.", "d e.", "f."], count_words, max_tokens=5)
    assert groups == ["a b c. d e.", "f."]


def test_a_tiny_sentence_joins_its_neighbour_beyond_the_target():
    long = "word " * 29 + "end."
    assert TARGET_S - MIN_S < estimate_seconds(long) <= TARGET_S
    for sentences in (["No.", long], [long, "No."]):
        assert group_sentences(sentences, count_words) == [" ".join(sentences)]


def test_no_space_is_put_between_chinese_sentences():
    sentences = ["你好。", "再见！", "Ok.", "Bye."]
    assert group_sentences(sentences, count_words) == ["你好。再见！Ok. Bye."]


@pytest.mark.parametrize(
    "sentence",
    [
        "word " * 20 + "comma, " + "word " * 22 + "end.",
        "word " * 20 + "(semicolon;) " + "word " * 22 + "end.",
        "word " * 20 + "dash — " + "word " * 22 + "end.",
        "word " * 20 + "hyphen - " + "word " * 22 + "end.",
        "字" * 40 + "，" + "字" * 36 + "。",
        "字" * 40 + "、" + "字" * 36 + "。",
        "كلمة " * 22 + "فاصلة، " + "كلمة " * 18 + "هنا.",
    ],
)
def test_a_long_sentence_is_cut_at_a_clause(sentence):
    first, second = group_sentences([sentence], count_words)
    assert first[-1] in ",;)—-，、،"
    assert "".join((first + second).split()) == "".join(sentence.split())


def test_numbers_and_cues_are_no_clauses():
    """A cut at the comma of 10,000 or inside a cue would change the speech."""
    sentence = "costs 10,000 dollars [clears throat] " * 20
    for group in group_sentences([sentence], count_words):
        assert group.count("10,000") == group.count("10")
        assert group.count("[") == group.count("]") == group.count("throat]")


def test_without_clauses_the_cut_is_at_a_space_and_the_parts_are_even():
    groups = group_sentences(["word " * 60 + "end."], count_words)
    assert len(groups) == 3
    seconds = list(map(estimate_seconds, groups))
    assert max(seconds) - min(seconds) < 1
    assert set(" ".join(groups).split()) == {"word", "end."}


@pytest.mark.parametrize(
    ("unit", "per_part"),
    [
        ("e\u0301", 1),  # a letter and its accent
        ("\U0001f468\u200d\U0001f469\u200d\U0001f467", 1),  # a family
        ("\U0001f1e9\U0001f1ea", 1),  # a flag
        ("\U0001f44d\U0001f3fd", 1),  # a thumb and its colour
        ("क्षि", 1),  # a conjunct with a vowel
        ("เกา", 1),  # Thai: the vowels around a consonant
        ("\ud83d\ude00", 1),  # a surrogate pair in two halves
        ("\u1112\u1161\u11ab", 1),  # Korean in single letters
    ],
)
def test_characters_are_not_torn_apart(unit, per_part):
    for group in group_sentences([unit * 400], len, max_tokens=50):
        assert group == unit * (len(group) // len(unit))


@pytest.mark.parametrize(
    ("limits", "name"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"target_s": 0}, "target_s"),
        ({"target_s": 5, "max_s": 4}, "max_s"),
        ({"max_s": float("nan")}, "max_s"),
        ({"max_s": float("inf")}, "max_s"),
    ],
)
def test_limits_are_checked(limits, name):
    with pytest.raises(ValueError, match=name):
        group_sentences(["a"], count_words, **limits)


def test_a_character_with_too_many_tokens_is_left_whole():
    assert group_sentences(["ab"], lambda text: 3 * len(text), max_tokens=2) == [
        "a",
        "b",
    ]


# === Any text ===

TELLING = [
    *". ! ? … 。 ！ । ؟ ។ , ; : 、 — - \" ' “ ” « » ( ) [ ] ♪ @ / * #".split(),
    *" \n\r\t\u00a0\u2029\u3000\u200b\u200d\ufe0f\ufeff\x00\x1c\x85",
    *"aAzZ19éßЯא字あ한กเक्ा\u0301\ud800\udc00\U0001f600\U0001f1e9",
    *("Mr", "e.g", "z. B", "No", "[laughs]", "ANNA:", "\n\n", "- ", "1. ", "..."),
]
ANY_TEXT = st.lists(
    st.sampled_from(TELLING) | st.integers(0, 0x10FFFF).map(chr), max_size=60
).map("".join)


def without_space(pieces):
    return "".join("".join(pieces).split())


@settings(deadline=None, max_examples=200)
@given(ANY_TEXT)
@example("\ud800 \udc00.")
def test_any_text_is_split_without_loss(text):
    for split in (split_sentences, split_paragraphs):
        pieces = split(text)
        assert without_space(pieces) == without_space([text])
        assert all(piece and piece == piece.strip() for piece in pieces)


@settings(deadline=None, max_examples=100)
@given(ANY_TEXT, st.integers(1, 30), st.floats(0.1, 5))
def test_any_text_is_grouped_without_loss_and_within_limits(text, max_tokens, max_s):
    groups = group_sentences(
        split_sentences(text), len, max_tokens, target_s=max_s / 2, max_s=max_s
    )
    assert without_space(groups) == without_space([text])
    for group in groups:
        assert group and len(group) <= max_tokens
        assert len(group) == 1 or estimate_seconds(group) <= max_s + 1e-6


@pytest.mark.parametrize(
    "unit",
    [
        *("a. ", "a! ", ".", ". ", "[ ", "♪a", "\n- ", "字", "x", "\u0301", " "),
        *('?"', "1", "A:\n", "ก ", "Hello there, my friend. ", "(((", "\ud800"),
    ],
)
def test_a_hundred_thousand_characters_take_no_time(unit):
    text = (unit * 100_000)[:100_000]
    start = time.process_time()
    groups = group_sentences(split_sentences(text), len)
    assert time.process_time() - start < 2
    assert without_space(groups) == without_space([text])
    assert all(len(group) <= MAX_TOKENS for group in groups)
    assert all(estimate_seconds(group) <= MAX_S + 1e-6 for group in groups)


def test_abbreviations_are_written_as_they_are_looked_up():
    """Words are looked up in lower case and without their last dot."""
    for words in (module._ABBREVIATIONS, module._BEFORE_NUMBER):
        assert all(word == word.lower().rstrip(".") for word in words)
