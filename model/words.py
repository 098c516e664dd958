"""Words: the character ranges of the words of a raw text that is to be tagged, by a rule that is stored with the task."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import TypeVar

import regex

Offsets = tuple[tuple[int, int], ...]
"""Character ranges in a text, each as its start and the position after its end."""

Item = TypeVar("Item")

_CHECKED = 20_000
"""Words between two checks: some ten milliseconds of work."""

# Scripts that are written without blanks, so that a run of their characters is no word.
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_LETTER = rf"[[\w\p{{M}}\p{{N}}]--[{_UNSPACED}]]"
# Soft hyphens, zero-width joiners and other invisible signs stay inside a word as apostrophes do.
_INNER = r"[-'\u2019.\p{Cf}--\u200b]"
# Flags of countries come first: `\X` and `\b` look back over a whole run of their signs to know which of them pair up.
_FLAG = r"\p{WB=RI}(?:[\p{WB=Extend}\p{WB=Format}\p{WB=ZWJ}]*+\p{WB=RI})?+[\p{WB=Extend}\p{WB=Format}\p{WB=ZWJ}]*+"
_BLANK = r"\s\x1c-\x1f"  # what str.isspace takes for white space
_CHARACTER = rf"{_FLAG}|(?![{_BLANK}])\X"


class WordSplit(StrEnum):
    """How a text is split into words. White space is never part of one.

    UNICODE: at the word boundaries of Unicode (UAX 29, the default rules): "don't" and "3.14" are words, "well-known" is
    three. WEB: links, @names and #tags stay whole, and words keep inner hyphens, apostrophes and full stops; every other
    sign is a word. In both, a character of a script that is written without blanks is a word (with UNICODE a run of
    Katakana is one). SPACES: only white space separates words. CHARACTERS: every character that a reader sees as one
    (a grapheme cluster) is a word.
    """

    UNICODE = "unicode"
    WEB = "web"
    SPACES = "spaces"
    CHARACTERS = "characters"


_PATTERNS = {
    WordSplit.UNICODE: regex.compile(rf"{_FLAG}|[^{_BLANK}].*?\b", regex.V1 | regex.WORD | regex.DOTALL),
    WordSplit.WEB: regex.compile(
        rf"https?://[^{_BLANK}]+|[@#]?+{_LETTER}++(?:[{_INNER}]{_LETTER}++)*+|{_CHARACTER}", regex.V1
    ),
    WordSplit.SPACES: regex.compile(rf"[^{_BLANK}]+", regex.V1),
    WordSplit.CHARACTERS: regex.compile(_CHARACTER, regex.V1),
}


@dataclass(frozen=True)
class WordRule:
    """The rule by which the raw texts of a task are split.

    `split`: the words, but for what the training data do otherwise. `apart`: ends of words that are words of their own
    (`'s`, `n't`), and beginnings, which end in an apostrophe (`l'`). `whole`: words that `split` would cut (`Mr.`,
    `U.S.`, `:-)`). Both are in the form of `word_key`.
    """

    split: WordSplit = WordSplit.WEB
    apart: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()

    def words(self, text: str, check: Callable[[], None] = lambda: None) -> Offsets:
        """Character ranges of the words of a text, in order. `check`: called now and then; may raise to stop."""
        matches = _with_checks(_PATTERNS[self.split].finditer(text), check)
        words: Iterator[tuple[int, int]] = (match.span() for match in matches)
        if not (self.apart or self.whole):
            return tuple(words)
        key = word_key(text)
        if self.apart:
            words = (part for start, end in words for part in self._parted(key, start, end))
        return tuple(_with_checks(self._merged(key, list(words)), check) if self.whole else words)

    @cached_property
    def _affixes(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The beginnings and the ends that are words of their own, longest first."""
        longest_first = sorted(self.apart, key=len, reverse=True)
        beginnings = tuple(affix for affix in longest_first if affix.endswith("'"))
        return beginnings, tuple(affix for affix in longest_first if not affix.endswith("'"))

    @cached_property
    def _whole(self) -> frozenset[str]:
        return frozenset(self.whole)

    @cached_property
    def _beginnings(self) -> frozenset[str]:
        """All beginnings of the words in `whole`, themselves included."""
        return frozenset(word[:stop] for word in self.whole for stop in range(1, len(word) + 1))

    def _parted(self, key: str, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The parts of the word from `start` to before `end`."""
        beginnings, ends = self._affixes
        if "'" not in key[start:end]:
            yield start, end
            return
        for affix in beginnings:
            if len(affix) < end - start and key.startswith(affix, start, end):
                yield start, start + len(affix)
                start += len(affix)
                break
        for affix in ends:
            if len(affix) < end - start and key.endswith(affix, start, end):
                yield start, end - len(affix)
                yield end - len(affix), end
                return
        yield start, end

    def _merged(self, key: str, words: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        """The words, with those together that make a word in `whole`; the longest one counts."""
        first = 0
        while first < len(words):
            start, end = words[first]
            last, further = first, first + 1
            while further < len(words) and words[further][0] == end and key[start:end] in self._beginnings:
                end = words[further][1]
                if key[start:end] in self._whole:
                    last = further
                further += 1
            yield start, words[last][1]
            first = last + 1


def _with_checks(items: Iterable[Item], check: Callable[[], None]) -> Iterator[Item]:
    for number, item in enumerate(items):
        if number % _CHECKED == 0:
            check()
        yield item


def word_key(text: str) -> str:
    """The text in the form in which words are compared, of the same length.

    Small letters, 0 for every digit, and straight apostrophes: what holds for "U.S." and "10,000" holds for "u.s." and
    "25,000".
    """
    small = text.lower()
    if len(small) != len(text):  # "İ" has two small characters
        small = "".join(low if len(low := sign.lower()) == 1 else sign for sign in text)
    return small.translate(_SAME)


_SAME = {ord("\u2019"): "'"} | {ord(digit): "0" for digit in "123456789"}
