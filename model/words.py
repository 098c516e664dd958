"""Words: the character ranges of the words of a text that is to be tagged."""

from __future__ import annotations

import re

Offsets = tuple[tuple[int, int], ...]
"""Character ranges in a text, each as its start and the position after its end."""

# Links, @names and #tags stay whole; words keep inner apostrophes, hyphens and combining accents; any other character
# is a word.
_WORD = re.compile(r"https?://\S+|[@#]?[\w\u0300-\u036f]+(?:[-'\u2019.][\w\u0300-\u036f]+)*|[^\w\s]")


def split_words(text: str) -> Offsets:
    """Character ranges of the words of a text, in order."""
    return tuple(match.span() for match in _WORD.finditer(text))
