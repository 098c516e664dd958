"""Tokenised texts: the tokens of one text that rows may read, and how many there are in all."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import tokenizers

from polytask.model.words import Offsets

Value = TypeVar("Value")


class Piece(NamedTuple):
    """A part of a text that was tokenised by itself.

    `base`: the position in the text of its first character or word. `blanks`: characters at its beginning that belong to
    no token, although the tokenizer counts them with the first one.
    """

    base: int
    encoding: tokenizers.Encoding
    blanks: int = 0


@dataclass(frozen=True, slots=True)
class Keep:
    """Which tokens of a text are kept: at least `num_tokens` from its beginning or its end, or all of them (None)."""

    num_tokens: int | None
    from_end: bool = False


@dataclass(frozen=True, slots=True)
class TokenisedText:
    """The tokens of a text or of a sequence of words.

    `pieces`: those with kept tokens. `num_tokens`: of the whole text. `first`: number of the first kept token in it.
    `word_ranges`: of a text that was tokenised as words, the character range of each.
    """

    pieces: tuple[Piece, ...]
    num_tokens: int
    first: int = 0
    word_ranges: Offsets = ()

    def part(self, of_kept: Sequence[Value], start: int, stop: int) -> Sequence[Value]:
        """What `of_kept`, which has a value for each kept token, has for the tokens `start` to before `stop` of the text."""
        return of_kept[start - self.first : stop - self.first]

    def ids(self) -> list[int]:
        """The ids of the kept tokens."""
        if len(self.pieces) == 1:
            return self.pieces[0].encoding.ids
        return [token_id for piece in self.pieces for token_id in piece.encoding.ids]

    def tokens(self) -> list[str]:
        """The kept tokens as the vocabulary writes them."""
        return [token for piece in self.pieces for token in piece.encoding.tokens]

    def characters(self) -> list[tuple[int, int]]:
        """The character range in the text of each kept token."""
        return [
            (base + max(blanks, start), base + max(blanks, end)) if start < blanks else (base + start, base + end)
            for base, encoding, blanks in self.pieces
            for start, end in encoding.offsets
        ]

    def characters_in_words(self) -> list[tuple[int, int]]:
        """The character range of each kept token, counted from the beginning of its word."""
        return [characters for piece in self.pieces for characters in piece.encoding.offsets]

    def words(self) -> list[int | None]:
        """The number of the word of each kept token."""
        return [
            None if word is None else piece.base + word for piece in self.pieces for word in piece.encoding.word_ids
        ]


def gather(pieces: Iterable[Piece], keep: Keep, word_ranges: Offsets = ()) -> TokenisedText:
    """The text that the pieces make. Those without kept tokens are let go as they come."""
    kept, first, num_kept, num_tokens = deque[Piece](), 0, 0, 0
    for piece in pieces:
        length = len(piece.encoding)
        num_tokens += length
        if keep.num_tokens is not None and not keep.from_end and num_kept >= keep.num_tokens:
            continue
        kept.append(piece)
        num_kept += length
        while keep.num_tokens is not None and keep.from_end:
            oldest = len(kept[0].encoding)
            if num_kept - oldest < keep.num_tokens:
                break
            kept.popleft()
            num_kept -= oldest
            first += oldest
    return TokenisedText(tuple(kept), num_tokens, first, word_ranges)
