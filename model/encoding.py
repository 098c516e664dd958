"""Encoding of inputs: token ids of rows, and the character offsets that answers need."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import tokenizers

from polytask.model.special_tokens import ensure_special_tokens, read_special_tokens, special_id
from polytask.model.tasks import CANDIDATE_KINDS, Kind, Task
from polytask.model.truncation import TokenRange, Truncation, truncate_one, truncate_two
from polytask.model.words import Offsets, split_words

# A piece that only marks a space, in vocabularies that mark spaces; it stands for no characters.
_SPACE = "\u2581"

_SERIAL_LIMIT = 8
"""Up to this number of texts are tokenised one after the other: waking other threads would take longer."""

TokenCache = dict[str | tuple[str, ...], tokenizers.Encoding]
"""Tokenised texts and sequences of words, kept by a caller so that they are not tokenised again."""


@dataclass(frozen=True, slots=True)
class Input:
    """One input of a task of any kind.

    `text`, and `text_pair` for tasks on pairs (for a span task: the question and the context).
    `candidates`: texts that a ranking task orders or a multiple-choice task chooses from.
    `words`: for tagging, the character range of each word in `text`; None stands for those of `split_words`.
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

    @property
    def num_segments(self) -> int:
        """Number of segments in the rows: two if the tokenizer separates the texts of a pair by segment."""
        return 1 + max(self._pair_template.segments)

    def encode(
        self,
        task: Task,
        inputs: Sequence[Input],
        truncation: Truncation = Truncation.LONGEST_FIRST,
        cache: TokenCache | None = None,
    ) -> list[tuple[Encoding, ...]]:
        """The rows of each input: one, or one per candidate for ranking and multiple choice; more with windows.

        Texts in `cache` are not tokenised again; new ones are added to it.

        Raises ValueError for an input without candidates if the kind needs them.
        """
        if task.kind in CANDIDATE_KINDS and not all(item.candidates for item in inputs):
            raise ValueError(f"task {task.name!r}: an input of a {task.kind} task needs candidates")
        if task.kind is Kind.TAGGING:
            return [tuple(self._encode_words(task, item, truncation, cache)) for item in inputs]
        texts = [text for item in inputs for text in _texts(item)]
        pieces = iter(self._tokenise_cached(texts, cache))
        return [self._encode_item(task, item, [next(pieces) for _ in _texts(item)], truncation) for item in inputs]

    def tokens(self, task: Task, item: Input, row: Encoding, cache: TokenCache) -> list[Token]:
        """The tokens of a row of `item` without special tokens. `cache`: as filled by `encode`."""
        tokens: list[Token] = []
        for text, start, stop, _ in row.parts:
            if task.kind is Kind.TAGGING:
                ranges = _word_ranges(item)
                pieces = cache[_words(item, ranges)]
                characters = _piece_offsets(item.text, ranges, pieces)
            else:
                pieces = cache[_texts(item)[text]]
                characters = pieces.offsets
            tokens += [
                Token(text, token, *span)
                for token, span in zip(pieces.tokens[start:stop], characters[start:stop], strict=True)
            ]
        return tokens

    def _tokenise_cached(self, texts: Sequence[str], cache: TokenCache | None) -> list[tokenizers.Encoding]:
        if cache is None:
            return self._tokenise(texts)
        new = [text for text in dict.fromkeys(texts) if text not in cache]
        cache.update(zip(new, self._tokenise(new), strict=True))
        return [cache[text] for text in texts]

    def _tokenise(self, texts: Sequence[str]) -> list[tokenizers.Encoding]:
        if len(texts) > _SERIAL_LIMIT:
            return self._tokenizer.encode_batch(texts, add_special_tokens=False)
        return [self._tokenizer.encode(text, add_special_tokens=False) for text in texts]

    def _encode_item(
        self, task: Task, item: Input, pieces: list[tokenizers.Encoding], truncation: Truncation
    ) -> tuple[Encoding, ...]:
        first, *others = map(self._token_ids, pieces)
        if not others:
            return tuple(self._single_rows(task, first, truncation))
        pairs = (
            row
            for number, other in enumerate(others, start=1)
            for row in self._pair_rows(task, first, other, number, truncation)
        )
        if task.kind is Kind.SPAN:
            assert item.text_pair is not None
            rows = (_with_offsets(row, item.text_pair, pieces[1]) for row in pairs)
            return tuple(map(_with_no_answer, rows)) if task.may_lack_answer else tuple(rows)
        return tuple(pairs)

    def _token_ids(self, pieces: tokenizers.Encoding) -> list[int]:
        """The pieces' ids. A unigram model reads "[SEP]" in a text as the special token; here it becomes unknown."""
        ids = pieces.ids
        if self._reserved.isdisjoint(ids):
            return ids
        return [self._unknown if token_id in self._reserved else token_id for token_id in ids]

    def _single_rows(self, task: Task, ids: list[int], truncation: Truncation) -> Iterator[Encoding]:
        ranges = truncate_one(len(ids), task.max_length - self._single_template.num_tokens, truncation)
        position, dropped = self._single_template.last_text_position([()]), len(ids) - _num_covered(ranges)
        for start, stop in ranges:
            row = self._single_template.row([ids[start:stop]])
            yield Encoding(*row, dropped, parts=(TextRange(0, start, stop, position),))
            dropped = 0

    def _pair_rows(
        self, task: Task, first: list[int], second: list[int], number: int, truncation: Truncation
    ) -> Iterator[Encoding]:
        """The rows of two texts. `number`: index of the second one among the input's texts."""
        room, second_is_context = task.max_length - self._pair_template.num_tokens, task.kind is Kind.SPAN
        pairs = truncate_two(len(first), len(second), room, truncation, second_is_context=second_is_context)
        covered = sum(_num_covered([pair[side] for pair in pairs]) for side in (0, 1))
        dropped = len(first) + len(second) - covered
        position = self._pair_template.last_text_position([(), ()])
        for (start_first, stop_first), (start, stop) in pairs:
            texts = first[start_first:stop_first], second[start:stop]
            parts = (
                TextRange(0, start_first, stop_first, len(self._pair_template.gaps[0][0])),
                TextRange(number, start, stop, position + len(texts[0])),
            )
            yield Encoding(*self._pair_template.row(texts), dropped, parts=parts)
            dropped = 0

    def _encode_words(
        self, task: Task, item: Input, truncation: Truncation, cache: TokenCache | None
    ) -> Iterator[Encoding]:
        ranges = _word_ranges(item)
        words = _words(item, ranges)
        pieces = None if cache is None else cache.get(words)
        if pieces is None:
            pieces = self._tokenizer.encode(words, is_pretokenized=True, add_special_tokens=False)
        if cache is not None:
            cache[words] = pieces
        word_ids = pieces.word_ids
        for row in self._single_rows(task, self._token_ids(pieces), truncation):
            _, start, stop, first_position = row.parts[0]
            positions, offsets = [], []
            # The remaining pieces of a word whose first piece was cut off do not count as a word.
            previous = word_ids[start - 1] if start else None
            for position, word in enumerate(word_ids[start:stop], start=first_position):
                if word is not None and word != previous:
                    positions.append(position)
                    offsets.append(ranges[word])
                previous = word
            yield replace(row, positions=tuple(positions), offsets=tuple(offsets))


def _word_ranges(item: Input) -> Offsets:
    """The character range of each word of a tagging input."""
    return split_words(item.text) if item.words is None else item.words


def _words(item: Input, ranges: Offsets) -> tuple[str, ...]:
    """The words as they are tokenised.

    The space before a word makes its pieces those of a word inside a text; it has no effect in vocabularies without
    spaces.
    """
    stripped = (item.text[start:end].strip() for start, end in ranges)
    return tuple(f" {word}" if word else "" for word in stripped)


def _piece_offsets(text: str, ranges: Offsets, pieces: tokenizers.Encoding) -> list[tuple[int, int]]:
    """The character range in the text of each piece of the words, without the space that `_words` adds."""
    starts = [end - len(text[start:end].lstrip()) for start, end in ranges]
    return [
        (starts[word or 0] + max(0, start - 1), starts[word or 0] + max(0, end - 1))
        for word, (start, end) in zip(pieces.word_ids, pieces.offsets, strict=True)
    ]


def _num_covered(ranges: Sequence[TokenRange]) -> int:
    """Number of tokens that the ranges cover; they are in order and leave no gap."""
    return ranges[-1][1] - ranges[0][0]


def _with_offsets(row: Encoding, context: str, pieces: tokenizers.Encoding) -> Encoding:
    """The row of a span task with the character ranges of its context tokens."""
    _, start, stop, first_position = row.parts[1]
    kept = [
        (position, trimmed)
        for position, piece, characters in zip(
            range(first_position, first_position + stop - start),
            pieces.tokens[start:stop],
            pieces.offsets[start:stop],
            strict=True,
        )
        if (trimmed := _trim(context, *characters)) and piece != _SPACE
    ]
    return replace(
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
