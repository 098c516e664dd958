"""Encoding of inputs: token ids of rows, and the character offsets that answers need."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import tokenizers

from polytask.model.special_tokens import ensure_special_tokens, read_special_tokens, special_id
from polytask.model.tasks import CANDIDATE_KINDS, Kind, Task
from polytask.model.text_pieces import PIECE_LENGTH, cut, find_cut
from polytask.model.tokenised_text import Keep, Piece, TokenisedText, gather
from polytask.model.truncation import TokenRange, Truncation, truncate_one, truncate_two
from polytask.model.word_shapes import FIRST_SHAPE_SEGMENT, word_shape
from polytask.model.words import Offsets

# A piece that only marks a space, in vocabularies that mark spaces; it stands for no characters.
_SPACE = "\u2581"

_WORDS_IN_PIECE = 512
"""Words of a text to be tagged that are tokenised at once."""

_SERIAL_LIMIT = 8
"""Up to this number of texts are tokenised one after the other: waking other threads would take longer."""


@dataclass(frozen=True, slots=True)
class Input:
    """One input of a task of any kind.

    `text`, and `text_pair` for tasks on pairs (for a span task: the question and the context).
    `candidates`: texts that a ranking task orders or a multiple-choice task chooses from.
    `words`: for tagging, the character range of each word in `text`; None stands for those of the task's rule.
    """

    text: str
    text_pair: str | None = None
    candidates: tuple[str, ...] = ()
    words: Offsets | None = None

    @classmethod
    def from_words(cls, words: Sequence[str]) -> Input:
        """A tagging input whose text is the given words joined by single spaces."""
        offsets, start = [], 0
        for word in words:
            offsets.append((start, start + len(word)))
            start += len(word) + 1
        return cls(text=" ".join(words), words=tuple(offsets))

    @property
    def given_words(self) -> tuple[str, ...]:
        """The words in `words`; none for raw text."""
        return tuple(self.text[start:end] for start, end in self.words or ())


class TextRange(NamedTuple):
    """Part of one text in a row: tokens `start` to before `stop`, the first one at `position` in the row.

    `text`: index among the input's texts: 0 for `text`, then `text_pair` or the candidates.
    """

    text: int
    start: int
    stop: int
    position: int


class Token(NamedTuple):
    """A token of a row: the index of its text, as in `TextRange`, and its character range there."""

    text: int
    token: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Encoding:
    """One row for the network.

    `positions` and `offsets` map outputs to characters. Tagging: `positions[i]` is the row position of the first piece
    of the word with character range `offsets[i]`. Span: it is the position of the context token with that range, after
    position 0 with the range (0, 0) if questions may have no answer. Other kinds: empty. `dropped_tokens`: number of tokens that truncation removed, counted in the first of several windows.
    `parts`: the parts of the input's texts in this row.
    """

    input_ids: tuple[int, ...]
    segment_ids: tuple[int, ...]
    dropped_tokens: int = 0
    positions: tuple[int, ...] = ()
    offsets: Offsets = ()
    parts: tuple[TextRange, ...] = ()

    def __len__(self) -> int:
        return len(self.input_ids)


class TooManyTokens(ValueError):
    """A text that is read in windows has more tokens than the caller allows."""


@dataclass(slots=True)
class TokenCache:
    """Tokenised texts, kept by a caller so that they are not tokenised again.

    `max_length`: the longest `max_length` of the tasks that read them. `texts`: by the text; of tagging tasks by the task's
    name, as each may split texts into other words, and the input.
    """

    max_length: int
    texts: dict[str | tuple[str, Input], TokenisedText] = field(default_factory=dict)


Check = Callable[[], None]
"""Called every few milliseconds of some work. What it raises ends the work."""


def go_on() -> None:
    """A check that lets all work be finished."""


@dataclass(frozen=True, slots=True)
class EncodingLimits:
    """Limits of an encoder's work. `max_tokens`: of a text that is read in windows, as all of it is; None for any number."""

    check: Check = go_on
    max_tokens: int | None = None


_UNLIMITED = EncodingLimits()


class InputEncoder:
    """Encodes the inputs of any task with one tokenizer. Safe to share between threads."""

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        """Takes a tokenizer of the BERT or RoBERTa style; its own truncation and padding are not used.

        Raises ValueError if it lacks a special token.
        """
        self._tokenizer = tokenizers.Tokenizer.from_str(tokenizer.to_str())
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        ensure_special_tokens(self._tokenizer)
        self._single_template = read_special_tokens(self._tokenizer, pair=False)
        self._pair_template = read_special_tokens(self._tokenizer, pair=True)
        start = self._tokenizer.id_to_token(self._single_template.row([()])[0][0]) or ""
        # By the style of the start token, not by what the vocabulary has: MPNet's holds all of BERT's special tokens.
        self.pad_id = special_id(self._tokenizer, "<pad>" if start.startswith("<") else "[PAD]")
        # "[SEP]" in a text is text; it must not end the segment.
        self._tokenizer.encode_special_tokens = True
        unknown = [self._tokenizer.token_to_id(token) for token in ("[UNK]", "<unk>")]
        self._unknown = next((token_id for token_id in unknown if token_id is not None), self.pad_id)
        added = self._tokenizer.get_added_tokens_decoder()
        self._reserved = {token_id for token_id, token in added.items() if token.special}.difference(unknown)
        self._find_cut = find_cut(self._tokenizer)
        self._blanks = self._uncounted_blanks()

    @property
    def num_segments(self) -> int:
        """Number of segments in the rows: two if the tokenizer separates the texts of a pair by segment."""
        return 1 + max(self._pair_template.segments)

    @property
    def loses_case(self) -> bool:
        """Whether capitals and small letters are the same to the tokenizer."""
        capital, small = (self._tokenizer.encode(letter, add_special_tokens=False).ids for letter in "Aa")
        return capital == small

    def encode(
        self,
        task: Task,
        inputs: Sequence[Input],
        truncation: Truncation = Truncation.LONGEST_FIRST,
        cache: TokenCache | None = None,
        limits: EncodingLimits = _UNLIMITED,
    ) -> list[tuple[Encoding, ...]]:
        """The rows of each input: one, or one per candidate for ranking and multiple choice; more with windows.

        Texts in `cache` are not tokenised again; new ones are added to it.

        Raises ValueError for an input without candidates if the kind needs them, and TooManyTokens.
        """
        if task.kind in CANDIDATE_KINDS and not all(item.candidates for item in inputs):
            raise ValueError(f"task {task.name!r}: an input of a {task.kind} task needs candidates")
        # What no row can read need not be kept, only counted.
        most = None if truncation is Truncation.WINDOW else cache.max_length if cache else task.max_length
        keep = Keep(most, truncation is Truncation.LEFT)
        if task.kind is Kind.TAGGING:
            words = (self._tokenise_words(task, item, keep, limits, cache) for item in inputs)
            return [
                tuple(self._word_rows(task, item, text, truncation)) for item, text in zip(inputs, words, strict=True)
            ]
        texts = iter(self._tokenise_cached([text for item in inputs for text in _texts(item)], keep, limits, cache))
        return [self._encode_item(task, item, [next(texts) for _ in _texts(item)], truncation) for item in inputs]

    def tokens(self, task: Task, item: Input, rows: Sequence[Encoding], cache: TokenCache) -> list[list[Token]]:
        """The tokens of each row of `item` without special tokens. `cache`: as filled by `encode`."""
        if task.kind is Kind.TAGGING:
            texts = [cache.texts[task.name, item]]
            characters = [_characters_of_words(item.text, texts[0])]
        else:
            texts = [cache.texts[text] for text in _texts(item)]
            characters = [text.characters() for text in texts]
        spelled = [text.tokens() for text in texts]
        return [
            [
                Token(number, token, *span)
                for number, start, stop, _ in row.parts
                for token, span in zip(
                    texts[number].part(spelled[number], start, stop),
                    texts[number].part(characters[number], start, stop),
                    strict=True,
                )
            ]
            for row in rows
        ]

    def _uncounted_blanks(self) -> int:
        """1 if no token has the blank before it, but for the first one of a text that begins with a blank; else 0."""
        first, second = (self._tokenizer.encode(text, add_special_tokens=False).offsets[-1] for text in (" a", "a a"))
        return int(first == (0, 2) and second == (2, 3))

    def _tokenise_cached(
        self, texts: Sequence[str], keep: Keep, limits: EncodingLimits, cache: TokenCache | None
    ) -> list[TokenisedText]:
        if cache is None:
            return self._tokenise(texts, keep, limits)
        new = [text for text in dict.fromkeys(texts) if text not in cache.texts]
        cache.texts.update(zip(new, self._tokenise(new, keep, limits), strict=True))
        return [cache.texts[text] for text in texts]

    def _tokenise(self, texts: Sequence[str], keep: Keep, limits: EncodingLimits) -> list[TokenisedText]:
        if max(map(len, texts), default=0) > PIECE_LENGTH:
            short = iter(self._tokenise([text for text in texts if len(text) <= PIECE_LENGTH], keep, limits))
            return [
                next(short) if len(text) <= PIECE_LENGTH else self._tokenise_text(text, keep, limits) for text in texts
            ]
        if len(texts) > _SERIAL_LIMIT:
            encodings = self._tokenizer.encode_batch(texts, add_special_tokens=False)
        else:
            encodings = [self._tokenizer.encode(text, add_special_tokens=False) for text in texts]
        return [TokenisedText((Piece(0, encoding),), len(encoding)) for encoding in encodings]

    def _tokenise_text(self, text: str, keep: Keep, limits: EncodingLimits) -> TokenisedText:
        pieces = (
            # As a batch of one, which lets other threads run while it is tokenised.
            Piece(base, self._tokenizer.encode_batch([part], add_special_tokens=False)[0], self._blanks if base else 0)
            for base, part in cut(text, self._find_cut)
        )
        return gather(_limited(pieces, keep, limits), keep)

    def _tokenise_words(
        self, task: Task, item: Input, keep: Keep, limits: EncodingLimits, cache: TokenCache | None
    ) -> TokenisedText:
        if cache is not None and (task.name, item) in cache.texts:
            return cache.texts[task.name, item]
        ranges = task.word_rule.words(item.text, limits.check) if item.words is None else item.words
        if len(item.text) <= PIECE_LENGTH:
            encoding = self._tokenizer.encode(_words(item, ranges), is_pretokenized=True, add_special_tokens=False)
            text = TokenisedText((Piece(0, encoding),), len(encoding), word_ranges=ranges)
        else:
            text = gather(_limited(self._word_pieces(item, ranges), keep, limits), keep, ranges)
        if cache is not None:
            cache.texts[task.name, item] = text
        return text

    def _word_pieces(self, item: Input, ranges: Offsets) -> Iterator[Piece]:
        for base in range(0, len(ranges), _WORDS_IN_PIECE):
            words = _words(item, ranges[base : base + _WORDS_IN_PIECE])
            (encoding,) = self._tokenizer.encode_batch([words], is_pretokenized=True, add_special_tokens=False)
            yield Piece(base, encoding)

    def _encode_item(
        self, task: Task, item: Input, texts: Sequence[TokenisedText], truncation: Truncation
    ) -> tuple[Encoding, ...]:
        first, *others = map(self._read, texts)
        if not others:
            return tuple(self._single_rows(task, first, truncation))
        pairs = (
            row
            for number, other in enumerate(others, start=1)
            for row in self._pair_rows(task, first, other, number, truncation)
        )
        if task.kind is Kind.SPAN:
            rows = _with_offsets(pairs, item, texts[1])
            return tuple(map(_with_no_answer, rows)) if task.may_lack_answer else tuple(rows)
        return tuple(pairs)

    def _read(self, text: TokenisedText) -> _Read:
        """The token ids of a text. A unigram model reads "[SEP]" in it as the special token; here it becomes unknown."""
        ids = text.ids()
        if not self._reserved.isdisjoint(ids):
            ids = [self._unknown if token_id in self._reserved else token_id for token_id in ids]
        return _Read(ids, text.first, text.num_tokens)

    def _single_rows(self, task: Task, text: _Read, truncation: Truncation) -> Iterator[Encoding]:
        num_tokens = text.num_tokens
        ranges = truncate_one(num_tokens, task.max_length - self._single_template.num_tokens, truncation)
        position, dropped = self._single_template.last_text_position([()]), num_tokens - _num_covered(ranges)
        for start, stop in ranges:
            row = self._single_template.row([text.part(start, stop)])
            yield Encoding(*row, dropped, parts=(TextRange(0, start, stop, position),))
            dropped = 0

    def _pair_rows(
        self, task: Task, first: _Read, second: _Read, number: int, truncation: Truncation
    ) -> Iterator[Encoding]:
        """The rows of two texts. `number`: index of the second one among the input's texts."""
        room, second_is_context = task.max_length - self._pair_template.num_tokens, task.kind is Kind.SPAN
        pairs = truncate_two(first.num_tokens, second.num_tokens, room, truncation, second_is_context=second_is_context)
        covered = sum(_num_covered([pair[side] for pair in pairs]) for side in (0, 1))
        dropped = first.num_tokens + second.num_tokens - covered
        position = self._pair_template.last_text_position([(), ()])
        for (start_first, stop_first), (start, stop) in pairs:
            texts = first.part(start_first, stop_first), second.part(start, stop)
            parts = (
                TextRange(0, start_first, stop_first, len(self._pair_template.gaps[0][0])),
                TextRange(number, start, stop, position + len(texts[0])),
            )
            yield Encoding(*self._pair_template.row(texts), dropped, parts=parts)
            dropped = 0

    def _word_rows(self, task: Task, item: Input, text: TokenisedText, truncation: Truncation) -> Iterator[Encoding]:
        words = text.words()
        for row in self._single_rows(task, self._read(text), truncation):
            _, start, stop, first_position = row.parts[0]
            positions, offsets = [], []
            # The remaining pieces of a word whose first piece was cut off do not count as a word.
            previous = text.part(words, start - 1, start)[0] if start else None
            for position, word in enumerate(text.part(words, start, stop), start=first_position):
                if word is not None and word != previous:
                    positions.append(position)
                    offsets.append(text.word_ranges[word])
                previous = word
            segments = row.segment_ids
            if task.word_shapes:
                shapes = _shape_segments(item.text, text.word_ranges, text.part(words, start, stop))
                segments = (*segments[:first_position], *shapes, *segments[first_position + stop - start :])
            yield replace(row, segment_ids=segments, positions=tuple(positions), offsets=tuple(offsets))


class _Read(NamedTuple):
    """The ids of a text's kept tokens, the number of the first of them, and how many tokens the text has."""

    ids: list[int]
    first: int
    num_tokens: int

    def part(self, start: int, stop: int) -> list[int]:
        """The ids of the tokens `start` to before `stop` of the text."""
        return self.ids[start - self.first : stop - self.first]


def _limited(pieces: Iterable[Piece], keep: Keep, limits: EncodingLimits) -> Iterator[Piece]:
    """The pieces, with a check before each. Raises TooManyTokens if all of them are read and have too many."""
    num_tokens, most = 0, limits.max_tokens if keep.num_tokens is None else None
    pieces = iter(pieces)
    while True:
        limits.check()
        piece = next(pieces, None)
        if piece is None:
            return
        num_tokens += len(piece.encoding)
        if most is not None and num_tokens > most:
            raise TooManyTokens(f"a text of more than {most} tokens is too long for windows")
        yield piece


def _words(item: Input, ranges: Offsets) -> tuple[str, ...]:
    """The words as they are tokenised.

    The space before a word makes its pieces those of a word inside a text; it has no effect in vocabularies without
    spaces.
    """
    stripped = (item.text[start:end].strip() for start, end in ranges)
    return tuple(f" {word}" if word else "" for word in stripped)


def _shape_segments(text: str, ranges: Offsets, words: Sequence[int | None]) -> list[int]:
    """The segment of each token: the shape of its word. `words`: the number of the word of each token."""
    segments, previous, segment = [], None, 0
    for word in words:
        if word is not None and word != previous:
            start, end = ranges[word]
            segment = FIRST_SHAPE_SEGMENT + word_shape(text[start:end].strip())
            previous = word
        segments.append(segment)
    return segments


def _characters_of_words(text: str, words: TokenisedText) -> list[tuple[int, int]]:
    """The character range in the text of each kept token of its words, without the space that `_words` adds."""
    starts = [end - len(text[start:end].lstrip()) for start, end in words.word_ranges]
    return [
        (starts[word or 0] + max(0, start - 1), starts[word or 0] + max(0, end - 1))
        for word, (start, end) in zip(words.words(), words.characters_in_words(), strict=True)
    ]


def _num_covered(ranges: Sequence[TokenRange]) -> int:
    """Number of tokens that the ranges cover; they are in order and leave no gap."""
    return ranges[-1][1] - ranges[0][0]


def _with_offsets(rows: Iterable[Encoding], item: Input, context: TokenisedText) -> Iterator[Encoding]:
    """The rows of a span task with the character ranges of their context tokens."""
    assert item.text_pair is not None
    tokens, characters = context.tokens(), context.characters()
    for row in rows:
        _, start, stop, first_position = row.parts[1]
        kept = [
            (position, trimmed)
            for position, token, span in zip(
                range(first_position, first_position + stop - start),
                context.part(tokens, start, stop),
                context.part(characters, start, stop),
                strict=True,
            )
            if (trimmed := _trim(item.text_pair, *span)) and token != _SPACE
        ]
        yield replace(
            row, positions=tuple(position for position, _ in kept), offsets=tuple(trimmed for _, trimmed in kept)
        )


def _with_no_answer(row: Encoding) -> Encoding:
    """The row with its start token before the context tokens: where a question without an answer has start and end."""
    return replace(row, positions=(0, *row.positions), offsets=((0, 0), *row.offsets))


def _texts(item: Input) -> tuple[str, ...]:
    if item.candidates:
        return (item.text, *item.candidates)
    return (item.text,) if item.text_pair is None else (item.text, item.text_pair)


def _trim(text: str, start: int, end: int) -> tuple[int, int] | None:
    """The range without blanks at its ends, which some vocabularies make part of a word; None if nothing is left."""
    # The usual case first: this runs for every token of a long text.
    if start < end and not (text[start].isspace() or text[end - 1].isspace()):
        return start, end
    part = text[start:end]
    stripped = part.lstrip()
    return (end - len(stripped), start + len(part.rstrip())) if stripped else None
