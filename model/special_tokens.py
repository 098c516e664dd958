"""Special tokens that a tokenizer puts around one text or two, read from its post-processor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import tokenizers
from tokenizers.processors import BertProcessing


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """Template of a row: the special tokens before, between and after its one or two texts.

    `gaps`: the token ids and segment ids before, between and after the texts. `segments`: the segment of each text.
    """

    gaps: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    segments: tuple[int, ...]

    @property
    def num_tokens(self) -> int:
        """Number of special tokens in a row."""
        return sum(len(ids) for ids, _ in self.gaps)

    def last_text_position(self, texts: Sequence[Sequence[int]]) -> int:
        """Position in the row of the last text's first token."""
        return sum(len(ids) for ids, _ in self.gaps[:-1]) + sum(map(len, texts[:-1]))

    def row(self, texts: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The token ids and segment ids of a row. `texts`: the token ids of each text."""
        ids, segment_ids = map(list, self.gaps[0])
        for text, segment, (gap_ids, gap_segments) in zip(texts, self.segments, self.gaps[1:], strict=True):
            ids += (*text, *gap_ids)
            segment_ids += ((segment,) * len(text)) + gap_segments
        return tuple(ids), tuple(segment_ids)


def read_special_tokens(tokenizer: tokenizers.Tokenizer, *, pair: bool) -> SpecialTokens:
    """The template of the tokenizer's post-processor, read from a row that it makes."""
    probe = tokenizer.encode("a", "a") if pair else tokenizer.encode("a")
    gaps: list[tuple[list[int], list[int]]] = [([], [])]
    segments: list[int] = []
    for token, segment, text in zip(probe.ids, probe.type_ids, probe.sequence_ids, strict=True):
        if text is None:
            gaps[-1][0].append(token)
            gaps[-1][1].append(segment)
        elif text == len(segments):
            segments.append(segment)
            gaps.append(([], []))
    return SpecialTokens(tuple((tuple(ids), tuple(segment_ids)) for ids, segment_ids in gaps), tuple(segments))


def ensure_special_tokens(tokenizer: tokenizers.Tokenizer) -> None:
    """Gives a tokenizer that adds no special tokens BERT's template. Raises ValueError if it lacks [CLS] or [SEP]."""
    if not tokenizer.num_special_tokens_to_add(is_pair=False):
        separator, start = (("[SEP]", special_id(tokenizer, "[SEP]")), ("[CLS]", special_id(tokenizer, "[CLS]")))
        tokenizer.post_processor = BertProcessing(separator, start)


def special_id(tokenizer: tokenizers.Tokenizer, token: str) -> int:
    """The id of a special token. Raises ValueError if the tokenizer lacks it."""
    token_id = tokenizer.token_to_id(token)
    if token_id is None:
        raise ValueError(f"the tokenizer has no {token} token; it needs those of BERT or of RoBERTa")
    return token_id
