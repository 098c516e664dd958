"""Running text: the words of a tagging example joined as people write them, which is how most users send them."""

from __future__ import annotations

from collections.abc import Sequence

import regex

from polytask.model.encoding import Input

_UNSPACED = regex.compile(
    r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\u3000-\u303f\uff00-\uffef]", regex.V1
)
_NO_BLANK_BEFORE = regex.compile(
    r"[.,;:!?%)\]}\u201d\u2019\u00bb\u2026\u3001\u3002\uff01\uff09\uff0c\uff0e\uff1a\uff1b\uff1f]+|''|['\u2019]\p{L}{0,2}|n['\u2019]t|\p{M}+",
    regex.V1 | regex.IGNORECASE,
)
_NO_BLANK_AFTER = regex.compile(r"[(\[{\u201c\u2018\u00ab$\u00a3\u20ac]+|``|\p{L}{1,2}['\u2019]", regex.V1)


def running_text(words: Sequence[str]) -> Input:
    """The words as one text, with their character ranges in it.

    A blank stands between two words, but not before closing punctuation, `'s`, `n't` and the like, nor behind opening
    punctuation, `l'` and the like, nor between two characters of scripts that are written without blanks. Of straight
    double quotes every second one closes.
    """
    parts: list[str] = []
    ranges: list[tuple[int, int]] = []
    end, opens, in_quotes = 0, True, False
    for word in words:
        quote = word == '"'
        blank = not (
            opens
            or (quote and in_quotes)
            or _NO_BLANK_BEFORE.fullmatch(word)
            or (_UNSPACED.match(word) and _UNSPACED.match(parts[-1][-1]))
        )
        if blank:
            parts.append(" ")
        parts.append(word)
        start = end + blank
        end = start + len(word)
        ranges.append((start, end))
        in_quotes ^= quote
        opens = (quote and in_quotes) or _NO_BLANK_AFTER.fullmatch(word) is not None
    return Input("".join(parts), words=tuple(ranges))
