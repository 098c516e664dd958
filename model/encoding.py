"""Inputs to token ids: one truncation rule, and the character offsets that answers need."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import tokenizers

from model.tasks import CANDIDATE_KINDS, Kind, Task

# Links, @names and #tags stay whole; words keep inner apostrophes, hyphens and combining accents; any other sign is a
# word of its own.
_WORD = re.compile(r"https?://\S+|[@#]?[\w\u0300-\u036f]+(?:[-'\u2019.][\w\u0300-\u036f]+)*|[^\w\s]")

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
        """Takes any BERT-style tokenizer; its own truncation, padding and special tokens are not used."""
        self._tokenizer = tokenizers.Tokenizer.from_str(tokenizer.to_str())
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        # A text that spells [SEP] is a text; it must not end the segment.
        self._tokenizer.encode_special_tokens = True
        self._start = self._special("[CLS]")
        self._end = self._special("[SEP]")
        self.pad_id = self._special("[PAD]")

    def encode(self, task: Task, inputs: Sequence[Input]) -> list[tuple[Encoding, ...]]:
        """The rows of each input: one, or for ranking and multiple choice one per candidate.

        Raises ValueError for an input without candidates where the kind needs them.
        """
        if task.kind in CANDIDATE_KINDS and not all(item.candidates for item in inputs):
            raise ValueError(f"task {task.name!r}: an input of a {task.kind} task needs candidates")
        if task.kind is Kind.TAGGING:
            return [(self._encode_words(task, item),) for item in inputs]
        texts = [text for item in inputs for text in _texts(item)]
        pieces = iter(self._tokenizer.encode_batch(texts, add_special_tokens=False))
        return [self._rows(task, [next(pieces) for _ in _texts(item)]) for item in inputs]

    def _rows(self, task: Task, pieces: list[tokenizers.Encoding]) -> tuple[Encoding, ...]:
        first, *others = pieces
        if not others:
            return (self._single(task, first.ids),)
        return tuple(self._pair(task, first.ids, other, tied=task.kind is Kind.SPAN) for other in others)

    def _single(self, task: Task, ids: list[int]) -> Encoding:
        kept = ids[: task.max_length - 2]
        input_ids = (self._start, *kept, self._end)
        return Encoding(input_ids, (0,) * len(input_ids), dropped_tokens=len(ids) - len(kept))

    def _pair(self, task: Task, first: list[int], second: tokenizers.Encoding, tied: bool) -> Encoding:
        keep_first, keep_second = truncate_pair(len(first), len(second.ids), task.max_length - 3)
        input_ids = (self._start, *first[:keep_first], self._end, *second.ids[:keep_second], self._end)
        begin = keep_first + 2
        return Encoding(
            input_ids,
            (0,) * begin + (1,) * (keep_second + 1),
            dropped_tokens=len(first) + len(second.ids) - keep_first - keep_second,
            places=tuple(range(begin, begin + keep_second)) if tied else (),
            offsets=tuple(second.offsets[:keep_second]) if tied else (),
        )

    def _encode_words(self, task: Task, item: Input) -> Encoding:
        words = split_words(item.text) if item.words is None else item.words
        texts = [item.text[start:end] for start, end in words]
        pieces = self._tokenizer.encode(texts, is_pretokenized=True, add_special_tokens=False)
        row = self._single(task, pieces.ids)
        places, offsets, previous = [], [], None
        for place, word in enumerate(pieces.word_ids[: len(row) - 2], start=1):
            if word is not None and word != previous:
                places.append(place)
                offsets.append(words[word])
            previous = word
        return Encoding(row.input_ids, row.segment_ids, row.dropped_tokens, tuple(places), tuple(offsets))

    def _special(self, token: str) -> int:
        token_id = self._tokenizer.token_to_id(token)
        if token_id is None:
            raise ValueError(f"the tokenizer has no {token} token; only BERT-style tokenizers are supported")
        return token_id


def _texts(item: Input) -> tuple[str, ...]:
    if item.candidates:
        return (item.text, *item.candidates)
    return (item.text,) if item.text_pair is None else (item.text, item.text_pair)
