"""Word shapes: what a vocabulary of small letters loses of a word, its capitals, digits and signs."""

from __future__ import annotations

from enum import IntEnum

import regex


class WordShape(IntEnum):
    """The shape of a word, by the first one that fits.

    LOWER: small letters only, or letters without case. UPPER: two or more characters, and all letters are capitals, as in
    `NEW_NAME`. DIGITS: digits and signs without letters. SIGNS: neither letters nor digits. INNER_SIGNS: letters and
    signs. INITIAL: a capital and small letters. MIXED: anything else, such as `ipv6` and `McDonald`.
    """

    LOWER = 0
    INITIAL = 1
    UPPER = 2
    DIGITS = 3
    SIGNS = 4
    INNER_SIGNS = 5
    MIXED = 6


FIRST_SHAPE_SEGMENT = 2
"""The segment id of the first shape, behind those of a pair of texts."""

_LETTER = regex.compile(r"\p{L}")
_DIGIT = regex.compile(r"\p{N}")
_SIGN = regex.compile(r"[^\p{L}\p{M}\p{N}]")
_INNER_CAPITAL = regex.compile(r"(?<=.)[\p{Lu}\p{Lt}]", regex.DOTALL)


def word_shape(word: str) -> WordShape:
    """The shape of a word, as it is written in the text. Takes time in proportion to its length."""
    # The usual case first: it is several times as fast as an expression.
    if word.islower() and word.isalpha():
        return WordShape.LOWER
    if len(word) > 1 and word.isupper():
        return WordShape.UPPER
    has_digit = _DIGIT.search(word) is not None
    if _LETTER.search(word) is None:
        return WordShape.DIGITS if has_digit else WordShape.SIGNS
    if _SIGN.search(word) is not None:
        return WordShape.INNER_SIGNS
    if has_digit or _INNER_CAPITAL.search(word) is not None:
        return WordShape.MIXED
    return WordShape.INITIAL if word[0].isupper() or word[0].istitle() else WordShape.LOWER
