"""Special tokens, on the tokenizers that transformers makes."""

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


@pytest.mark.parametrize(("kind", "template"), _FRAMES.items())
def test_the_special_tokens_are_the_tokenizers_own(kind: str, template: SpecialTokens) -> None:
    """BERT's family has [CLS] a [SEP] b [SEP] with two segments, RoBERTa's has <s> a </s></s> b </s> with one."""
    tokenizer = backbones.tokenizer(kind).backend_tokenizer
    assert read_special_tokens(tokenizer, pair=True) == template
    single = read_special_tokens(tokenizer, pair=False)
    assert single.gaps == (template.gaps[0], (template.gaps[2][0], (0,)))
    assert single.segments == (0,)


@pytest.mark.parametrize("template", [_BERT, _ROBERTA], ids=["bert", "roberta"])
@pytest.mark.parametrize("texts", [([7, 8, 9], [5, 6]), ([], [5]), ([7], []), ([], [])])
def test_rows_are_texts_between_special_tokens(template: SpecialTokens, texts: tuple[list[int], list[int]]) -> None:
    """A row is the texts in order with the special tokens around them, as long as both together."""
    ids, segment_ids = template.row(texts)
    first, second = texts
    (before, _), (between, _), (after, _) = template.gaps
    assert ids == (*before, *first, *between, *second, *after)
    assert len(ids) == len(segment_ids) == len(first) + len(second) + template.num_tokens
    assert list(segment_ids) == sorted(segment_ids)
    position = template.last_text_position(texts)
    assert list(ids[position : position + len(second)]) == second
    assert segment_ids[position:] == (template.segments[1],) * (len(ids) - position)


def test_a_tokenizer_without_special_tokens_gets_berts() -> None:
    """A tokenizer with BERT's vocabulary and no post-processor gets BERT's special tokens."""
    tokenizer = tiny.tokenizer()
    ensure_special_tokens(tokenizer)
    assert read_special_tokens(tokenizer, pair=True) == _BERT


def test_a_tokenizers_own_special_tokens_stay() -> None:
    """A tokenizer with a post-processor keeps it, even if its vocabulary holds BERT's special tokens."""
    tokenizer = backbones.tokenizer("mpnet").backend_tokenizer
    assert tokenizer.token_to_id("[CLS]") is not None
    before = tokenizer.to_str()
    ensure_special_tokens(tokenizer)
    assert tokenizer.to_str() == before


def test_without_any_special_tokens_there_is_an_error() -> None:
    """A tokenizer with neither a post-processor nor BERT's tokens is refused with the name of a missing one."""
    with pytest.raises(ValueError, match=r"no \[SEP\] token; it needs those of BERT or of RoBERTa"):
        ensure_special_tokens(tokenizers.Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?")))  # noqa: S106, a piece
