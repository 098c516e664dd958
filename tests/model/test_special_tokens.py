"""Tests of model/frame.py, on the tokenizers that transformers makes."""

from __future__ import annotations

import pytest
import tokenizers
from tokenizers import models

from polytask.model.special_tokens import SpecialTokens, ensure_special_tokens, read_special_tokens
from tests.support import backbones, tiny

_BERT = SpecialTokens((((2,), (0,)), ((3,), (0,)), ((3,), (1,))), (0, 1))
_ROBERTA = SpecialTokens((((0,), (0,)), ((2, 2), (0, 0)), ((2,), (0,))), (0, 0))


_FRAMES = {"bert": _BERT, "distilbert": _BERT, "electra": _BERT}
_FRAMES |= {"roberta": _ROBERTA, "xlm-roberta": _ROBERTA, "mpnet": _ROBERTA}


@pytest.mark.parametrize(("kind", "frame"), _FRAMES.items())
def test_the_frame_is_the_tokenizers_own(kind: str, frame: SpecialTokens) -> None:
    """BERT's kin have [CLS] a [SEP] b [SEP] with two segments, RoBERTa's <s> a </s></s> b </s> with one."""
    tokenizer = backbones.tokenizer(kind).backend_tokenizer
    assert read_special_tokens(tokenizer, pair=True) == frame
    single = read_special_tokens(tokenizer, pair=False)
    assert single.gaps == (frame.gaps[0], (frame.gaps[2][0], (0,)))
    assert single.segments == (0,)


@pytest.mark.parametrize("frame", [_BERT, _ROBERTA], ids=["bert", "roberta"])
@pytest.mark.parametrize("texts", [([7, 8, 9], [5, 6]), ([], [5]), ([7], []), ([], [])])
def test_rows_are_texts_in_their_frame(frame: SpecialTokens, texts: tuple[list[int], list[int]]) -> None:
    """A row is the texts in order with the frame's tokens around them, as long as both together."""
    ids, segment_ids = frame.row(texts)
    first, second = texts
    (before, _), (between, _), (after, _) = frame.gaps
    assert ids == (*before, *first, *between, *second, *after)
    assert len(ids) == len(segment_ids) == len(first) + len(second) + frame.num_tokens
    assert list(segment_ids) == sorted(segment_ids)
    position = frame.last_text_position(texts)
    assert list(ids[position : position + len(second)]) == second
    assert segment_ids[position:] == (frame.segments[1],) * (len(ids) - position)


def test_a_tokenizer_without_a_frame_gets_berts() -> None:
    """A vocabulary of BERT's tokens without a post-processor makes BERT's rows."""
    tokenizer = tiny.tokenizer()
    ensure_special_tokens(tokenizer)
    assert read_special_tokens(tokenizer, pair=True) == _BERT


def test_a_tokenizers_own_frame_stays() -> None:
    """A tokenizer that has a post-processor keeps it, though its vocabulary holds BERT's tokens as well."""
    tokenizer = backbones.tokenizer("mpnet").backend_tokenizer
    assert tokenizer.token_to_id("[CLS]") is not None
    before = tokenizer.to_str()
    ensure_special_tokens(tokenizer)
    assert tokenizer.to_str() == before


def test_without_any_frame_there_is_an_error() -> None:
    """A tokenizer with neither a post-processor nor BERT's tokens is refused by the token that it lacks."""
    with pytest.raises(ValueError, match=r"no \[SEP\] token; it needs those of BERT or of RoBERTa"):
        ensure_special_tokens(tokenizers.Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?")))  # noqa: S106, a piece
