"""Inputs to token ids: one truncation rule, and the character offsets that answers need."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import tokenizers

from model.frame import ensure_frame, frame_of, special_id
from model.tasks import CANDIDATE_KINDS, Kind, Task

# Links, @names and #tags stay whole; words keep inner apostrophes, hyphens and combining accents; any other sign is a
# word of its own.
_WORD = re.compile(r"https?://\S+|[@#]?[\w\u0300-\u036f]+(?:[-'\u2019.][\w\u0300-\u036f]+)*|[^\w\s]")

# The piece that marks a space where a vocabulary marks them: it has no characters of its own.
_SPACE = "\u2581"

_FEW = 8
"""Texts that are tokenised one after the other: to wake other threads for them takes longer."""

Offsets = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Input:
    """One thing to answer, whatever the kind of its task.

    `text`, and `text_pair` for tasks on pairs (for a span task: the question, and the context).
    `candidates`: what a ranking task orders or a multiple-choice task chooses from.
    `words`: for tagging, the character range of each word in `text`; None lets `split_words` find them.
    """

    text: str
    text_pair: str | None = None
    candidates: tuple[str, ...] = ()
    words: Offsets | None = None

    @classmethod
    def from_words(cls, words: Sequence[str]) -> Input:
        """A tagging input from given words: the text is the words joined by single spaces."""
        offsets, start = [], 0
        for word in words:
            offsets.append((start, start + len(word)))
            start += len(word) + 1
        return cls(text=" ".join(words), words=tuple(offsets))


@dataclass(frozen=True, slots=True)
class Encoding:
    """One row for the network.

    `offsets` ties outputs to characters. Tagging: `places[i]` is the row position of the first piece of the
    word with character range `offsets[i]`. Span: `places[i]` is the position of the context token with range
    `offsets[i]`. Empty for the other kinds. `dropped_tokens` counts what truncation removed.
    """

    input_ids: tuple[int, ...]
    segment_ids: tuple[int, ...]
    dropped_tokens: int = 0
    places: tuple[int, ...] = ()
    offsets: Offsets = ()

    def __len__(self) -> int:
        return len(self.input_ids)


def split_words(text: str) -> Offsets:
    """Character ranges of the words of a raw text, in order."""
    return tuple(match.span() for match in _WORD.finditer(text))


def truncate_pair(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens of each side to keep so that both fit into `room`.

    Longest first: the longer side loses tokens from its end until both fit; on a tie the second side does.
    """
    excess = max(0, first + second - room)
    longer_loses = min(excess, abs(first - second))
    both_lose = excess - longer_loses
    if first > second:
        first -= longer_loses
    else:
        second -= longer_loses
    return first - both_lose // 2, second - (both_lose - both_lose // 2)


class InputEncoder:
    """Turns the inputs of a task into encodings with one tokenizer. Safe to share between threads."""

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        """Takes any tokenizer of the BERT or RoBERTa style; its own truncation and padding are not used.

        Raises ValueError where it lacks a special token.
        """
        self._tokenizer = tokenizers.Tokenizer.from_str(tokenizer.to_str())
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        ensure_frame(self._tokenizer)
        self._around_one = frame_of(self._tokenizer, pair=False)
        self._around_two = frame_of(self._tokenizer, pair=True)
        start = self._tokenizer.id_to_token(self._around_one.row([()])[0][0]) or ""
        # Not whichever it has: MPNet's vocabulary holds all of BERT's.
        self.pad_id = special_id(self._tokenizer, "<pad>" if start.startswith("<") else "[PAD]")
        # A text that spells [SEP] is a text; it must not end the segment.
        self._tokenizer.encode_special_tokens = True
        unknown = [self._tokenizer.token_to_id(token) for token in ("[UNK]", "<unk>")]
        self._unknown = next((token_id for token_id in unknown if token_id is not None), self.pad_id)
        added = self._tokenizer.get_added_tokens_decoder()
        self._reserved = {token_id for token_id, token in added.items() if token.special}.difference(unknown)

    @property
    def num_segments(self) -> int:
        """How many segments the rows have: two where the tokenizer tells the texts of a pair apart."""
        return 1 + max(self._around_two.segments)

    def encode(self, task: Task, inputs: Sequence[Input]) -> list[tuple[Encoding, ...]]:
        """The rows of each input: one, or for ranking and multiple choice one per candidate.

        Raises ValueError for an input without candidates where the kind needs them.
        """
        if task.kind in CANDIDATE_KINDS and not all(item.candidates for item in inputs):
            raise ValueError(f"task {task.name!r}: an input of a {task.kind} task needs candidates")
        if task.kind is Kind.TAGGING:
            return [(self._encode_words(task, item),) for item in inputs]
        texts = [text for item in inputs for text in _texts(item)]
        pieces = iter(self._pieces(texts))
        return [self._rows(task, item, [next(pieces) for _ in _texts(item)]) for item in inputs]

    def _pieces(self, texts: Sequence[str]) -> list[tokenizers.Encoding]:
        if len(texts) > _FEW:
            return self._tokenizer.encode_batch(texts, add_special_tokens=False)
        return [self._tokenizer.encode(text, add_special_tokens=False) for text in texts]

    def _rows(self, task: Task, item: Input, pieces: list[tokenizers.Encoding]) -> tuple[Encoding, ...]:
        first, *others = map(self._ids, pieces)
        if not others:
            return (self._single(task, first),)
        if task.kind is Kind.SPAN:
            assert item.text_pair is not None
            return (self._tied_pair(task, first, others[0], item.text_pair, pieces[1]),)
        return tuple(self._pair(task, first, other)[0] for other in others)

    def _ids(self, pieces: tokenizers.Encoding) -> list[int]:
        """The pieces' ids. A unigram model finds the special tokens that a text spells: here they become unknown."""
        ids = pieces.ids
        if self._reserved.isdisjoint(ids):
            return ids
        return [self._unknown if token_id in self._reserved else token_id for token_id in ids]

    def _single(self, task: Task, ids: list[int]) -> Encoding:
        kept = ids[: task.max_length - self._around_one.num_tokens]
        return Encoding(*self._around_one.row([kept]), dropped_tokens=len(ids) - len(kept))

    def _pair(self, task: Task, first: list[int], second: list[int]) -> tuple[Encoding, range]:
        """The row of two texts, and the places of the second one's tokens in it."""
        room = task.max_length - self._around_two.num_tokens
        keep_first, keep_second = truncate_pair(len(first), len(second), room)
        texts = first[:keep_first], second[:keep_second]
        dropped = len(first) + len(second) - keep_first - keep_second
        begin = self._around_two.place(texts)
        return Encoding(*self._around_two.row(texts), dropped), range(begin, begin + keep_second)

    def _tied_pair(
        self, task: Task, first: list[int], second: list[int], context: str, pieces: tokenizers.Encoding
    ) -> Encoding:
        row, places = self._pair(task, first, second)
        tied = [
            (place, inked)
            for place, piece, characters in zip(places, pieces.tokens, pieces.offsets, strict=False)
            if (inked := _without_blanks(context, *characters)) and piece != _SPACE
        ]
        return replace(row, places=tuple(place for place, _ in tied), offsets=tuple(inked for _, inked in tied))

    def _encode_words(self, task: Task, item: Input) -> Encoding:
        words = split_words(item.text) if item.words is None else item.words
        # With a space before it, a word is what it is inside a text; where a vocabulary has no spaces it changes nothing.
        stripped = (item.text[start:end].strip() for start, end in words)
        pieces = self._tokenizer.encode(
            [f" {word}" if word else "" for word in stripped], is_pretokenized=True, add_special_tokens=False
        )
        row = self._single(task, self._ids(pieces))
        places, offsets, previous = [], [], None
        begin = self._around_one.place([()])
        for place, word in enumerate(pieces.word_ids[: len(row) - self._around_one.num_tokens], start=begin):
            if word is not None and word != previous:
                places.append(place)
                offsets.append(words[word])
            previous = word
        return replace(row, places=tuple(places), offsets=tuple(offsets))


def _texts(item: Input) -> tuple[str, ...]:
    if item.candidates:
        return (item.text, *item.candidates)
    return (item.text,) if item.text_pair is None else (item.text, item.text_pair)


def _without_blanks(text: str, start: int, end: int) -> tuple[int, int] | None:
    """The range without the blanks at its ends, which some vocabularies make part of a word; None if nothing is left."""
    part = text[start:end]
    stripped = part.lstrip()
    return (end - len(stripped), start + len(part.rstrip())) if stripped else None
