"""Pieces of long texts: they have the tokens of the whole, with tokenizers of every sort."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import models, normalizers, pre_tokenizers, processors

from polytask.model.encoding import EncodingLimits, Input, InputEncoder, TokenCache, TooManyTokens
from polytask.model.tasks import Kind, Task
from polytask.model.text_pieces import PIECE_LENGTH, cut, find_cut
from polytask.model.tokenised_text import TokenisedText
from polytask.model.truncation import Truncation
from tests.support import backbones

_SIGNS = (
    *(
        "the",
        "cat",
        "Café",
        "e\u0301",
        "ß",
        "İ",
        "ﬃ",
        "日本",
        "東",
        "한국",
        "क्ष",
        "ไทย",
        "\U0001f469\u200d\U0001f467",
        "x" * 110,
    ),
    *(" ", " ", " ", " ", "  ", "\t", "\n", "\r\n", "\u00a0", "\u3000", "\u2009", "\u200b", "\u0301", "\x00", "\ufeff"),
    *(
        ".",
        ",",
        "-",
        "'",
        "'s",
        "@",
        "#",
        "²",
        "\u00b4",
        "\u00a8",
        "\u037a",
        "\ufc5e",
        "\ufdfa",
        "_",
        "1",
        "[SEP]",
        "</s>",
        "##",
    ),
)
TEXTS = st.one_of(
    st.lists(st.sampled_from(_SIGNS), max_size=40).map("".join),
    st.lists(st.sampled_from(_SIGNS), max_size=40).map(" ".join),
    st.text(max_size=60),
    st.lists(st.text(max_size=3), max_size=30).map(" ".join),
)


def _byte_level(*, prefix: bool, trim: bool) -> tokenizers.Tokenizer:
    built = _published("roberta")
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    built.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), trim_offsets=trim, add_prefix_space=prefix
    )
    return built


def _unigram(**options: object) -> tokenizers.Tokenizer:
    """As sentencepiece's own models are converted: its normalizers, and words marked by the blank before them."""
    built = _published("xlm-roberta")
    built.normalizer = normalizers.Sequence(
        [
            normalizers.Nmt(),
            normalizers.NFKC(),
            normalizers.Strip(left=False),
            normalizers.Replace(tokenizers.Regex(" {2,}"), " "),
        ]
    )
    built.pre_tokenizer = pre_tokenizers.Metaspace(**options)  # type: ignore[arg-type]
    return built


def _unstripped() -> tokenizers.Tokenizer:
    """A normalizer that makes blanks of signs without width, and one blank of several, also at the end of a text."""
    built = _unigram()
    built.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.Replace(tokenizers.Regex(" {2,}"), " ")])
    return built


def _published(sort: str) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_str(backbones.tokenizer(sort).backend_tokenizer.to_str())


def _wordpiece(**options: object) -> tokenizers.Tokenizer:
    built = _published("bert")
    built.normalizer = normalizers.BertNormalizer(**options)  # type: ignore[arg-type]
    return built


TOKENIZERS = {
    "bert": _published("bert"),
    "cased": _wordpiece(lowercase=False, strip_accents=False, clean_text=False, handle_chinese_chars=False),
    "mpnet": _published("mpnet"),
    "roberta": _published("roberta"),
    "byte level, prefixed": _byte_level(prefix=True, trim=True),
    "byte level, with blanks": _byte_level(prefix=True, trim=False),
    "xlm-roberta": _published("xlm-roberta"),
    "unigram": _unigram(),
    "unigram, unstripped": _unstripped(),
    "unigram, first": _unigram(prepend_scheme="first"),
    "unigram, never": _unigram(prepend_scheme="never"),
}


def _whole(encoder: InputEncoder) -> InputEncoder:
    """The same encoder, which cuts no text."""
    other = copy.copy(encoder)
    other._find_cut = lambda text, _: len(text)
    return other


PIECEWISE = {sort: InputEncoder(tokenizer) for sort, tokenizer in TOKENIZERS.items()}


def _task(kind: Kind, max_length: int) -> Task:
    labels = ("O", "B-x", "I-x") if kind in {Kind.CLASSIFICATION, Kind.TAGGING} else ()
    return Task("task", kind, max_length, labels=labels, pair=kind is Kind.SPAN)


@pytest.mark.parametrize("sort", TOKENIZERS)
@given(TEXTS, st.integers(1, 20))
@example("cat\u200b dog", 1)
@example("cat \u037adog", 1)
def test_pieces_have_the_tokens_of_the_whole(sort: str, text: str, length: int) -> None:
    """The tokens of a text and their characters are those of its pieces one after the other, wherever it is cut."""
    tokenizer, blanks = PIECEWISE[sort]._tokenizer, PIECEWISE[sort]._blanks
    pieces = list(cut(text, PIECEWISE[sort]._find_cut, length))
    assert "".join(part for _, part in pieces) == text
    found = [
        (token, base + max(start, blanks if base else 0), base + max(end, blanks if base else 0))
        for base, part in pieces
        for encoded in [tokenizer.encode(part, add_special_tokens=False)]
        for token, (start, end) in zip(encoded.tokens, encoded.offsets, strict=True)
    ]
    whole = tokenizer.encode(text, add_special_tokens=False)
    assert found == [(token, *span) for token, span in zip(whole.tokens, whole.offsets, strict=True)]


@pytest.mark.parametrize("sort", TOKENIZERS)
def test_texts_of_words_are_cut(sort: str) -> None:
    """A long text of words and blanks has as many pieces as it should have, whichever the tokenizer."""
    pieces = list(cut("a cat sat in Paris. " * 2_000, find_cut(TOKENIZERS[sort])))
    assert len(pieces) == 10
    assert max(len(part) for _, part in pieces) < PIECE_LENGTH + 10


def test_signs_and_ideographs_are_cut_where_each_is_a_word() -> None:
    """A text without blanks is cut all the same if its signs are words of their own to the tokenizer."""
    assert len(list(cut("@" * 20_000, find_cut(TOKENIZERS["bert"])))) == 5
    assert len(list(cut("日" * 20_000, find_cut(TOKENIZERS["bert"])))) == 5
    assert len(list(cut("日" * 20_000, find_cut(TOKENIZERS["cased"])))) == 1


def _joining() -> tokenizers.Tokenizer:
    built = _published("bert")
    built.add_tokens(["new york"])
    return built


@pytest.mark.parametrize(
    "tokenizer",
    [_unigram(split=False), _joining(), tokenizers.Tokenizer(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]"))],  # noqa: S106
    ids=["words across blanks", "a token with a blank", "no words"],
)
def test_what_may_read_across_blanks_is_left_whole(tokenizer: tokenizers.Tokenizer) -> None:
    """With a tokenizer that may make a token of what stands on both sides of a blank, no text is cut."""
    text = "new york " * 2_000
    assert list(cut(text, find_cut(tokenizer))) == [(0, text)]


@pytest.mark.parametrize("sort", ["bert", "byte level, prefixed", "unigram"])
@pytest.mark.parametrize("kind", [Kind.CLASSIFICATION, Kind.SPAN, Kind.TAGGING])
@settings(max_examples=6)
@given(part=TEXTS, rule=st.sampled_from(Truncation))
def test_rows_of_long_texts_are_those_of_the_whole(sort: str, kind: Kind, part: str, rule: Truncation) -> None:
    """Under any rule a text of several pieces has the rows, positions, offsets and dropped tokens of the uncut text."""
    text = f"{part} the cat " * (10_000 // (len(part) + 9))
    item = Input("who sat?", text) if kind is Kind.SPAN else Input(text)
    encoder, task, cache = PIECEWISE[sort], _task(kind, 200), TokenCache(250)
    (rows,) = encoder.encode(task, [item], rule, cache)
    one_piece, whole_cache = _whole(encoder), TokenCache(10**6)
    assert (rows,) == tuple(one_piece.encode(task, [item], rule, whole_cache))
    assert encoder.tokens(task, item, rows, cache) == one_piece.tokens(task, item, rows, whole_cache)


def test_short_and_long_texts_may_come_together() -> None:
    """Each of many texts has its own rows, in order, whatever the lengths of the others."""
    texts = ["cat", "the cat " * 1_000, "sat", *["a " * length for length in (1, 3_000, 5, 4_000, 2)], *["the"] * 9]
    inputs, task = [Input(text) for text in texts], _task(Kind.CLASSIFICATION, 16)
    together = PIECEWISE["bert"].encode(task, inputs)
    assert together == [rows for item in inputs for rows in PIECEWISE["bert"].encode(task, [item])]


class _Stop(Exception):
    pass


@pytest.mark.parametrize("kind", [Kind.CLASSIFICATION, Kind.SPAN, Kind.TAGGING])
def test_tokenising_stops_in_the_middle_of_a_text(kind: Kind) -> None:
    """What `check` raises ends the work after the piece of text at hand."""
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise _Stop

    text = "the cat " * 60_000
    with pytest.raises(_Stop):
        PIECEWISE["bert"].encode(
            _task(kind, 64),
            [Input("who?", text) if kind is Kind.SPAN else Input(text)],
            limits=EncodingLimits(check),
        )
    assert calls == 3


@pytest.mark.parametrize("kind", [Kind.CLASSIFICATION, Kind.SPAN, Kind.TAGGING])
def test_a_text_for_windows_is_read_as_far_as_it_may_be_long(kind: Kind) -> None:
    """A text of too many tokens for windows is refused when that many are read; without windows it is cut and counted."""
    calls: list[None] = []
    limits = EncodingLimits(lambda: calls.append(None), max_tokens=5_000)
    item = Input("who?", "the cat " * 60_000) if kind is Kind.SPAN else Input("the cat " * 60_000)
    with pytest.raises(TooManyTokens, match="more than 5000 tokens"):
        PIECEWISE["bert"].encode(_task(kind, 64), [item], Truncation.WINDOW, limits=limits)
    assert len(calls) < 20
    ((row,),) = PIECEWISE["bert"].encode(_task(kind, 64), [item], limits=limits)
    assert len(row) + row.dropped_tokens > 120_000


@pytest.mark.parametrize("rule", [Truncation.RIGHT, Truncation.LEFT])
@pytest.mark.parametrize("kind", [Kind.CLASSIFICATION, Kind.SPAN, Kind.TAGGING])
def test_only_what_rows_can_read_is_kept(rule: Truncation, kind: Kind) -> None:
    """Of a long text without windows only the pieces with tokens that fit into a row stay in memory."""
    cache, text = TokenCache(64), "the cat " * 60_000
    item = Input("who?", text) if kind is Kind.SPAN else Input(text)
    task = _task(kind, 64)
    PIECEWISE["bert"].encode(task, [item], rule, cache)
    kept = cache.texts[(task.name, item) if kind is Kind.TAGGING else text]
    assert kept.num_tokens >= 120_000
    assert len(kept.pieces) <= 2


@pytest.mark.parametrize("kind", [Kind.CLASSIFICATION, Kind.SPAN, Kind.TAGGING])
def test_windows_and_their_tokens_are_linear_in_the_text(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice the text makes about twice the list elements for its windows and their tokens, not four times as many."""
    elements = 0

    def counted(method: Callable[[TokenisedText], list[Any]]) -> Callable[[TokenisedText], list[Any]]:
        def call(text: TokenisedText) -> list[Any]:
            nonlocal elements
            values = method(text)
            elements += len(values)
            return values

        return call

    for name in ("ids", "tokens", "characters", "characters_in_words", "words"):
        monkeypatch.setattr(TokenisedText, name, counted(getattr(TokenisedText, name)))
    costs = []
    for size in (1_000, 2_000):
        elements, text, cache = 0, "the cat " * size, TokenCache(32)
        item = Input("who?", text) if kind is Kind.SPAN else Input(text)
        (rows,) = PIECEWISE["bert"].encode(_task(kind, 32), [item], Truncation.WINDOW, cache)
        assert len(rows) > size / 20
        PIECEWISE["bert"].tokens(_task(kind, 32), item, rows, cache)
        costs.append(elements)
    assert costs[0] < costs[1] < 3 * costs[0]
