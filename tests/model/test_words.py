"""Words of texts that are to be tagged."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
import regex
from hypothesis import assume, example, given
from hypothesis import strategies as st

from polytask.model.words import WordRule, WordSplit, word_key

_SIGNS = (
    *(
        "a",
        "B",
        "e\u0301",
        "İ",
        "7",
        ".",
        ",",
        "-",
        "'",
        "\u2019",
        ":",
        "/",
        "@",
        "#",
        "_",
        " ",
        "\n",
        "\u00a0",
        "\x00",
    ),
    *("日", "本", "カ", "ー", "ส", "วั", "한", "क्", "ष", "\u064e", "\u00ad", "\u200b", "\u200c", "\u200d", "\ufeff"),
    *("\U0001f600", "\U0001f469\u200d\U0001f467", "\U0001f1e9", "\U0001f1ea", "http://", "...", "u.s."),
)
TEXTS = st.one_of(st.lists(st.sampled_from(_SIGNS), max_size=30).map("".join), st.text(max_size=40))
RULES = st.builds(
    WordRule,
    st.sampled_from(WordSplit),
    st.sets(st.sampled_from(["'s", "n't", "l'", "'"]), max_size=2).map(tuple),
    st.sets(st.sampled_from(["...", "u.s.", "日本", "a.", "0.", ":-"]), max_size=3).map(tuple),
)


@given(TEXTS, RULES)
def test_words_cover_all_but_the_spaces(text: str, rule: WordRule) -> None:
    """Words are in order, do not overlap, have no white space, and leave out nothing else."""
    previous = 0
    covered: set[int] = set()
    for start, end in rule.words(text):
        assert previous <= start < end
        previous = end
        covered.update(range(start, end))
    assert covered == {position for position, sign in enumerate(text) if not sign.isspace()}


def _words(rule: WordRule, text: str) -> list[str]:
    return [text[start:end] for start, end in rule.words(text)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("  \n", []),
        ("The cat sat.", ["The", "cat", "sat", "."]),
        ("don\u2019t stop, O'Neil-Smith!", ["don\u2019t", "stop", ",", "O'Neil-Smith", "!"]),
        ("see https://a.b/c?d=e#f now", ["see", "https://a.b/c?d=e#f", "now"]),
        ("@jane likes #cats.", ["@jane", "likes", "#cats", "."]),
        ("U.S. v3.11 (x)", ["U.S", ".", "v3.11", "(", "x", ")"]),
        ("cafe\u0301s Café", ["cafe\u0301s", "Café"]),
        ("hi\U0001f600\U0001f44d", ["hi", "\U0001f600", "\U0001f44d"]),
        ("東京 is", ["東", "京", "is"]),
    ],
)
def test_web_words_of_known_texts(text: str, words: list[str]) -> None:
    """By the rule `web` links, names, tags and words with inner signs stay whole; other signs are words."""
    assert _words(WordRule(WordSplit.WEB), text) == words


@pytest.mark.parametrize("split", [WordSplit.UNICODE, WordSplit.WEB])
@pytest.mark.parametrize(
    "word",
    [
        "दिल्ली",
        "ক্রিকেট",
        "தமிழ்",
        "مُحَمَّد",
        "שָׁלוֹם",
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        "Lon\u00addon",
        "한국어",
        "\U0001f469\u200d\U0001f467",
        "🇩🇪",
    ],
)
def test_marks_and_joiners_do_not_cut_words(split: WordSplit, word: str) -> None:
    """Vowel signs, soft hyphens and zero-width joiners are inside of words."""
    assert _words(WordRule(split), f"{word} {word}") == [word, word]


@pytest.mark.parametrize("split", [WordSplit.UNICODE, WordSplit.WEB])
@pytest.mark.parametrize("sentence", ["昨天王小明去了北京", "わたしはすし", "วันนี้"])
def test_scripts_without_blanks_are_split_by_character(split: WordSplit, sentence: str) -> None:
    """A sentence without blanks is the sequence of its characters, never one word."""
    assert _words(WordRule(split), sentence) == regex.findall(r"\X", sentence)


@given(TEXTS)
def test_the_rule_unicode_is_that_of_unicode(text: str) -> None:
    """By the rule `unicode` words lie between the default word boundaries of Unicode, white space left out.

    Without flags: behind half a flag the boundaries of the library are not those of Unicode.
    """
    assume(not any("\U0001f1e6" <= sign <= "\U0001f1ff" for sign in text))
    edges = [match.start() for match in regex.finditer(r"(?w)\b", text, regex.V1)]
    stripped = [text[start:end].strip() for start, end in pairwise(edges)]
    assert _words(WordRule(WordSplit.UNICODE), text) == [word for word in stripped if word]


_OLD = re.compile(r"https?://\S+|[@#]?\w+(?:[-'\u2019.]\w+)*|[^\w\s]")


@given(st.text(st.characters(max_codepoint=0x24F, exclude_characters="\u00ad"), max_size=40))
@example("see http://a.b/c, @jane's #tag-1 U.S. 1,000!")
def test_the_rule_web_is_a_simple_pattern_for_european_letters(text: str) -> None:
    """For letters of European languages the rule `web` finds what versions of format 1 and 2 have been trained for."""
    assert WordRule(WordSplit.WEB).words(text) == tuple(match.span() for match in _OLD.finditer(text))


@pytest.mark.parametrize("sign", ["'", "\u2019"])
def test_exceptions_hold_for_any_case_digit_and_apostrophe(sign: str) -> None:
    """Ends and beginnings are cut off, and learned words stay whole, however they are written."""
    rule = WordRule(WordSplit.WEB, apart=("'s", "n't", "l'"), whole=("u.s.", "0,000", "...", ":-)"))
    text = f"KELLER{sign}S dog doesn{sign}t l{sign}homme U.S. 2,512... :-)"
    expected = ["KELLER", f"{sign}S", "dog", "does", f"n{sign}t", f"l{sign}", "homme", "U.S.", "2,512", "...", ":-)"]
    assert _words(rule, text) == expected


@given(st.text(max_size=20))
def test_keys_have_the_length_of_the_text(text: str) -> None:
    """A key has one character for each of the text, so that a range is the same in both."""
    assert len(word_key(text)) == len(text)


@pytest.mark.parametrize("split", WordSplit)
@pytest.mark.parametrize("unit", ["\U0001f1e9", "a\u0301", "\u0301", "'", "a'", "a.", "1,", "...", "@", "\u200d", " "])
def test_repeated_signs_are_split_in_one_pass(split: WordSplit, unit: str) -> None:
    """100,000 repetitions of a sign are split at once; anything worse than linear would not end within the test run."""
    text = unit * 100_000
    words = WordRule(split, apart=("'s", "'"), whole=("...", "a.a")).words(text)
    assert sum(end - start for start, end in words) == len(text) - sum(map(str.isspace, text))
