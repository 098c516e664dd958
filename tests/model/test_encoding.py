"""Encoding with the tokenizer of all-MiniLM-L6-v2 and with a small one of each sort."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import tokenizers
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.model.encoding import Encoding, Input, InputEncoder, TokenCache
from polytask.model.tasks import Kind, Task
from polytask.model.tokenised_text import TokenisedText
from polytask.model.truncation import Truncation, truncate_pair
from polytask.model.words import WordRule, WordSplit
from tests.model.support.networks import MINILM
from tests.support import backbones

TOKENIZER = tokenizers.Tokenizer.from_file(str(MINILM / "tokenizer.json"))
ENCODER = InputEncoder(TOKENIZER)
START, END = 101, 102

_ODD = (
    *("a", "e\u0301", "é", "ü", "ß", "İ", "日", "本", "한", "क्ष", "न", "\U0001f600", "\U0001f469\u200d\U0001f467"),
    *(
        "\u200b",
        "\u0301",
        "\ufeff",
        "\x00",
        "\ufffd",
        "\u00a0",
        "\t",
        "\n",
        " ",
        " ",
        ".",
        "-",
        "'",
        "@",
        "#",
        "[SEP]",
        "##",
    ),
    *("the", "cat", "playing", "antidisestablishmentarianism", "x" * 120),
)
TEXTS = st.one_of(
    st.lists(st.sampled_from(_ODD), max_size=30).map("".join),
    st.lists(st.sampled_from(_ODD), max_size=30).map(" ".join),
    st.text(max_size=40),
)


def _task(kind: Kind, max_length: int = 128) -> Task:
    labels = ("O", "B-x", "I-x") if kind in {Kind.CLASSIFICATION, Kind.TAGGING} else ()
    return Task("task", kind, max_length, labels=labels, pair=kind in {Kind.RANKING, Kind.MULTIPLE_CHOICE, Kind.SPAN})


def _one(task: Task, item: Input) -> Encoding:
    """The only row of an input."""
    ((row,),) = ENCODER.encode(task, [item])
    return row


def _plain() -> tokenizers.Tokenizer:
    """The tokenizer without truncation and padding."""
    plain = tokenizers.Tokenizer.from_str(TOKENIZER.to_str())
    plain.no_truncation()
    plain.no_padding()
    plain.encode_special_tokens = True
    return plain


PLAIN = _plain()


def _pieces(text: str) -> list[str]:
    """The tokens of a text that stands alone."""
    return list(PLAIN.encode(text, add_special_tokens=False).tokens)


def _tokens(row: Encoding) -> list[str]:
    return [TOKENIZER.id_to_token(token) or "?" for token in row.input_ids]


CUTTING = _plain()
CASES = list(product(range(14), range(14), range(1, 30)))


def test_truncation_takes_from_the_longer_side() -> None:
    """Truncation gives the result of removing tokens one by one: from the longer side, and on a tie from the second."""
    for first, second, room in CASES:
        kept = [first, second]
        while sum(kept) > room:
            kept[0 if kept[0] > kept[1] else 1] -= 1
        assert truncate_pair(first, second, room) == tuple(kept)


def test_truncation_uses_the_room_and_no_more() -> None:
    """Texts that fit stay whole; others fill the room exactly, and no side grows."""
    for first, second, room in CASES:
        kept = truncate_pair(first, second, room)
        assert sum(kept) == min(first + second, room)
        assert 0 <= kept[0] <= first
        assert 0 <= kept[1] <= second


def test_truncation_is_fair() -> None:
    """A side that lost tokens is at most one token shorter than the other."""
    for first, second, room in CASES:
        kept = truncate_pair(first, second, room)
        assert kept[0] == first or kept[0] >= kept[1] - 1
        assert kept[1] == second or kept[1] >= kept[0] - 1


@given(st.integers(0, 80), st.integers(0, 80), st.integers(5, 60))
def test_truncation_is_that_of_tokenizers_but_for_the_odd_token(first: int, second: int, room: int) -> None:
    """`tokenizers` keeps the same counts, except that an odd last token goes to the longer or the second side."""
    CUTTING.enable_truncation(room + 3, strategy="longest_first")
    encoding = CUTTING.encode("a " * first, "b " * second)
    theirs = tuple(encoding.tokens.count(token) for token in "ab")
    ours = truncate_pair(first, second, room)
    differs = room % 2 == 1 and room // 2 < first <= second
    assert theirs == ((ours[0] - 1, ours[1] + 1) if differs else ours)


@given(TEXTS, TEXTS, st.integers(8, 40))
def test_pairs_are_the_beginnings_of_both_texts(first: str, second: str, max_length: int) -> None:
    """A pair is [CLS] first [SEP] second [SEP]; each side is cut at its end, and dropped tokens are counted."""
    row = _one(_task(Kind.CLASSIFICATION, max_length), Input(first, second))
    ids = [TOKENIZER.token_to_id(piece) for piece in _pieces(first)]
    ids_second = [TOKENIZER.token_to_id(piece) for piece in _pieces(second)]
    keep, keep_second = truncate_pair(len(ids), len(ids_second), max_length - 3)
    assert list(row.input_ids) == [START, *ids[:keep], END, *ids_second[:keep_second], END]
    assert list(row.segment_ids) == [0] * (keep + 2) + [1] * (keep_second + 1)
    assert len(row) + row.dropped_tokens == len(ids) + len(ids_second) + 3
    assert len(row) <= max_length


@given(TEXTS, st.integers(8, 40))
def test_single_texts_are_cut_at_the_end(text: str, max_length: int) -> None:
    """A text is [CLS] text [SEP], cut at its end, and dropped tokens are counted."""
    row = _one(_task(Kind.CLASSIFICATION, max_length), Input(text))
    ids = [TOKENIZER.token_to_id(piece) for piece in _pieces(text)]
    assert list(row.input_ids) == [START, *ids[: max_length - 2], END]
    assert set(row.segment_ids) == {0}
    assert row.dropped_tokens == max(0, len(ids) + 2 - max_length)


@pytest.mark.parametrize("pair", [None, "Is it? Yes.", ""])
def test_rows_are_those_of_the_published_tokenizer(pair: str | None) -> None:
    """If nothing is cut, ids and segments are those of the tokenizer's own template."""
    text = "A naïve café-goer's 3rd visit, un\u00adbelievably!"
    expected = PLAIN.encode(text, pair)
    row = _one(_task(Kind.CLASSIFICATION), Input(text, pair))
    assert list(row.input_ids) == expected.ids
    assert list(row.segment_ids) == expected.type_ids


@pytest.mark.parametrize("text", ["", " ", "\n\t ", "\u200b", "\x00", "\u0301"])
def test_texts_without_tokens_are_rows_too(text: str) -> None:
    """A text without tokens still makes a row of [CLS] and [SEP]."""
    assert _one(_task(Kind.CLASSIFICATION), Input(text)).input_ids == (START, END)
    assert _one(_task(Kind.SPAN), Input(text, text)).input_ids == (START, END, END)
    assert _one(_task(Kind.TAGGING), Input(text)).positions == ()


@pytest.mark.parametrize(
    ("kind", "item"),
    [
        (Kind.CLASSIFICATION, Input("a [SEP] b [CLS][PAD] [MASK]")),
        (Kind.CLASSIFICATION, Input("a [SEP]", "[SEP] b")),
        (Kind.RANKING, Input("[SEP]", candidates=("[SEP]", "[CLS]"))),
        (Kind.TAGGING, Input("a [SEP] b")),
        (Kind.TAGGING, Input.from_words(["a", "[SEP]", "[MASK]"])),
    ],
)
def test_a_text_cannot_write_special_tokens(kind: Kind, item: Input) -> None:
    """A text that contains "[SEP]" gets ordinary tokens for it: the row has one [CLS] and its own [SEP] only."""
    for row in ENCODER.encode(_task(kind), [item])[0]:
        inner = [token for token in _tokens(row) if token in {"[CLS]", "[SEP]", "[PAD]", "[MASK]"}]
        assert inner == ["[CLS]", *["[SEP]"] * (1 + max(row.segment_ids))]


@given(st.lists(TEXTS, min_size=1, max_size=4), st.sampled_from([Kind.CLASSIFICATION, Kind.TAGGING, Kind.SPAN]))
def test_inputs_are_encoded_one_by_one(texts: list[str], kind: Kind) -> None:
    """An input's rows do not depend on the inputs encoded with it."""
    task = _task(kind, 24)
    items = [Input(text, texts[0] if kind is Kind.SPAN else None) for text in texts]
    assert ENCODER.encode(task, items) == [ENCODER.encode(task, [item])[0] for item in items]


def test_no_inputs_are_no_rows() -> None:
    """Without inputs there are no rows."""
    assert ENCODER.encode(_task(Kind.CLASSIFICATION), []) == []
    assert ENCODER.encode(_task(Kind.TAGGING), []) == []


@pytest.mark.parametrize("kind", [Kind.RANKING, Kind.MULTIPLE_CHOICE])
def test_every_candidate_is_a_row(kind: Kind) -> None:
    """The rows of an input are its text paired with each candidate, in order."""
    item = Input("Which cat sat?", candidates=("the bad cat " * 20, "", "a good cat"))
    task, pair = _task(kind, 24), _task(Kind.CLASSIFICATION, 24)
    alone = [_one(pair, Input(item.text, candidate)) for candidate in item.candidates]
    for rows in ENCODER.encode(task, [item, item]):
        assert [row.parts[1].text for row in rows] == [1, 2, 3]
        assert [replace(row, parts=()) for row in rows] == [replace(row, parts=()) for row in alone]


def _normalised(text: str) -> str:
    assert TOKENIZER.normalizer is not None
    return str(TOKENIZER.normalizer.normalize_str(text)).strip()


@settings(deadline=None, max_examples=200)
@given(TEXTS)
def test_span_offsets_point_at_the_characters_of_each_token(context: str) -> None:
    """The characters of a context token contain its piece, in order; the others are blank to the tokenizer."""
    row = _one(_task(Kind.SPAN, 2000), Input("what?", context))
    tokens, covered, previous = _tokens(row), set[int](), 0
    assert len(row.positions) == len(row.offsets) == sum(row.segment_ids) - 1
    for position, (start, end) in zip(row.positions, row.offsets, strict=True):
        assert row.segment_ids[position] == 1
        assert tokens[position] == "[UNK]" or tokens[position].removeprefix("##") in _normalised(context[start:end])
        assert previous <= start < end <= len(context)
        previous = start
        covered.update(range(start, end))
    assert all(_normalised(sign) == "" for position, sign in enumerate(context) if position not in covered)


@pytest.mark.parametrize(
    ("context", "token", "expected"),
    [
        ("Visit the Café de Flore", "cafe", "Café"),
        ("Ich heiße Jürgen.", "jurgen", "Jürgen"),
        ("東京 is big", "京", "京"),
        ("good \U0001f600\U0001f44d day", "day", "day"),
        ("\U0001f469\u200d\U0001f467 cat", "cat", "cat"),
        # A combining accent at the end of a word belongs to no token; one inside belongs to its letter.
        ("the cafe\u0301 here", "cafe", "cafe"),
        ("the u\u0308ber here", "uber", "u\u0308ber"),
        ("\ufeffthe\u00a0cat", "cat", "cat"),
    ],
)
def test_span_offsets_of_known_texts(context: str, token: str, expected: str) -> None:
    """Accents, wide characters and emoji before or inside a token do not shift its characters."""
    row = _one(_task(Kind.SPAN), Input("q", context))
    found = [
        context[start:end]
        for position, (start, end) in zip(row.positions, row.offsets, strict=True)
        if _tokens(row)[position] == token
    ]
    assert found == [expected]


def test_truncated_span_rows_keep_the_offsets_that_fit() -> None:
    """A context that is cut has positions and offsets for its kept tokens only."""
    context = "the cat sat " * 20
    whole, cut = (_one(_task(Kind.SPAN, length), Input("who sat?", context)) for length in (128, 16))
    assert cut.positions == tuple(range(5, 15))
    assert cut.offsets == whole.offsets[:10]
    assert cut.dropped_tokens == 50


@given(st.lists(st.text(max_size=5), max_size=8))
def test_given_words_keep_their_characters(words: list[str]) -> None:
    """An input from words has the character range of each word in the joined text."""
    item = Input.from_words(words)
    assert item.words is not None
    assert [item.text[start:end] for start, end in item.words] == words
    assert item.text == " ".join(words)


@given(st.lists(st.one_of(st.sampled_from(_ODD), st.text(max_size=6)), max_size=12), st.integers(8, 40))
def test_a_word_stands_at_its_first_piece(words: list[str], max_length: int) -> None:
    """Each word that has pieces and fits has the position of its first piece; a word without pieces has none."""
    item = Input.from_words(words)
    row = _one(_task(Kind.TAGGING, max_length), item)
    assert item.words is not None
    expected, pieces = [], ["[CLS]"]
    for word, characters in zip(words, item.words, strict=True):
        word_pieces = _pieces(word)
        if word_pieces and len(pieces) < max_length - 1:
            expected.append((len(pieces), characters))
        pieces += word_pieces
    assert list(zip(row.positions, row.offsets, strict=True)) == expected
    assert _tokens(row) == [*pieces[: max_length - 1], "[SEP]"]
    assert row.dropped_tokens == len(pieces) - len(pieces[: max_length - 1])


def test_words_without_pieces_are_passed_over() -> None:
    """Blank and invisible words get no position, and the words around them keep theirs."""
    words = ["the", "", " ", "\u200b", "\u0301", "cat"]
    row = _one(_task(Kind.TAGGING), Input.from_words(words))
    assert row.positions == (1, 2)
    assert row.offsets == ((0, 3), (11, 14))


@given(TEXTS, st.sampled_from(WordSplit))
def test_words_are_found_where_none_are_given(text: str, split: WordSplit) -> None:
    """A text without given words is tagged by the words of the task's rule."""
    rule = WordRule(split)
    task = replace(_task(Kind.TAGGING), words=rule)
    assert _one(task, Input(text)) == _one(task, Input(text, words=rule.words(text)))


def test_the_given_tokenizer_is_left_alone() -> None:
    """The encoder ignores the tokenizer's truncation and padding, and does not change the given tokenizer."""
    given = tokenizers.Tokenizer.from_str(TOKENIZER.to_str())
    given.enable_truncation(4)
    given.enable_padding(length=4)
    before = given.to_str()
    (row,) = InputEncoder(given).encode(_task(Kind.CLASSIFICATION), [Input("the cat sat in the sun")])[0]
    assert len(row) == 8
    assert given.to_str() == before


@pytest.mark.parametrize("missing", ["[CLS]", "[SEP]", "[PAD]"])
def test_other_tokenizers_are_refused(missing: str) -> None:
    """A tokenizer without BERT's special tokens is refused with the name of a missing one."""
    vocabulary = {
        token: position for position, token in enumerate(("[CLS]", "[SEP]", "[PAD]", "[UNK]")) if token != missing
    }
    model = tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]")  # noqa: S106, a piece, no password
    with pytest.raises(ValueError, match=rf"no \{missing[:-1]}\] token"):
        InputEncoder(tokenizers.Tokenizer(model))


def test_padding_has_the_tokenizers_own_id(tiny_tokenizer: tokenizers.Tokenizer) -> None:
    """The padding id is that of [PAD]."""
    assert InputEncoder(tiny_tokenizer).pad_id == tiny_tokenizer.token_to_id("[PAD]")


def test_threads_share_one_encoder() -> None:
    """Several threads that encode at once get what one thread gets."""
    task = _task(Kind.SPAN)
    items = [Input(f"who is {position}?", "the cat sat " * position) for position in range(40)]
    expected = [ENCODER.encode(task, [item]) for item in items]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda item: ENCODER.encode(task, [item]), items)) == expected


# Word pieces with BERT's special tokens, byte-level BPE, unigram, and word pieces with RoBERTa's special tokens.
SORTS = ("bert", "roberta", "xlm-roberta", "mpnet")
THEIRS = {sort: backbones.tokenizer(sort) for sort in SORTS}
OURS = {sort: InputEncoder(theirs.backend_tokenizer) for sort, theirs in THEIRS.items()}
# A text with a special token in it means that token to transformers and nothing special to us.
PLAIN_TEXTS = TEXTS.filter(lambda text: "[SEP]" not in text)


@pytest.mark.parametrize("sort", SORTS)
@given(PLAIN_TEXTS, st.none() | PLAIN_TEXTS)
def test_rows_of_every_sort_are_those_of_transformers(sort: str, text: str, pair: str | None) -> None:
    """If nothing is cut, token ids are those of the transformers tokenizer, and so are its segments if it has any."""
    ((row,),) = OURS[sort].encode(_task(Kind.CLASSIFICATION, 2000), [Input(text, pair)])
    # In lists, as it takes an empty second text for none otherwise.
    expected = THEIRS[sort]([text], None if pair is None else [pair])
    assert list(row.input_ids) == expected["input_ids"][0]
    assert list(row.segment_ids) == expected.get("token_type_ids", [[0] * len(row)])[0]


@pytest.mark.parametrize("sort", SORTS)
@given(TEXTS, TEXTS, st.integers(8, 40))
def test_every_sort_fills_the_room(sort: str, first: str, second: str, max_length: int) -> None:
    """A row of any tokenizer is as long as it may be and no longer, and dropped tokens are counted."""
    for pair in (None, second):
        whole, cut = (
            OURS[sort].encode(_task(Kind.CLASSIFICATION, length), [Input(first, pair)])[0][0]
            for length in (2000, max_length)
        )
        assert len(cut) == min(len(whole), max_length)
        assert len(cut) + cut.dropped_tokens == len(whole)


@pytest.mark.parametrize("sort", SORTS)
def test_the_pad_token_is_that_of_transformers(sort: str) -> None:
    """The padding id is that of the transformers tokenizer, even if the vocabulary holds another pad token."""
    assert OURS[sort].pad_id == THEIRS[sort].pad_token_id
    assert OURS[sort].num_segments == (2 if sort == "bert" else 1)


@pytest.mark.parametrize("sort", SORTS)
@pytest.mark.parametrize("kind", [Kind.CLASSIFICATION, Kind.TAGGING, Kind.SPAN])
def test_no_text_can_write_special_tokens_of_any_sort(sort: str, kind: Kind) -> None:
    """A text that contains the names of special tokens, alone or inside words, adds no special token to its row."""
    special = THEIRS[sort].all_special_tokens
    text = "a " + " ".join(special) + " b" + "".join(special) + "c"
    pair = text if kind is Kind.SPAN else None
    ((row,),) = OURS[sort].encode(_task(kind, 2000), [Input(text, pair)])
    ((empty,),) = OURS[sort].encode(_task(kind, 2000), [Input("", pair and "")])
    reserved = set(THEIRS[sort].all_special_ids) - {THEIRS[sort].unk_token_id}
    assert sorted(reserved.intersection(row.input_ids)) == sorted(set(empty.input_ids))
    assert sum(token in reserved for token in row.input_ids) == len(empty)


WORDS = st.lists(
    st.one_of(
        st.sampled_from([part for part in _ODD if part.strip() == part and part != "[SEP]"]),
        st.text("aé.'", min_size=1),
    ),
    max_size=12,
)


@pytest.mark.parametrize("sort", SORTS)
@given(WORDS)
def test_words_of_every_sort_are_those_of_transformers(sort: str, words: list[str]) -> None:
    """Given words make the row of transformers, each as after a space, with the position of its first piece."""
    vocabulary, merges = backbones.byte_level_bpe()
    theirs = (
        transformers.RobertaTokenizer(vocab=vocabulary, merges=merges, add_prefix_space=True)
        if sort == "roberta"
        else THEIRS[sort]
    )
    item = Input.from_words(words)
    ((row,),) = OURS[sort].encode(_task(Kind.TAGGING, 2000), [item])
    expected = theirs(words, is_split_into_words=True)
    assert list(row.input_ids) == expected["input_ids"]
    word_ids = expected.word_ids()
    assert item.words is not None
    assert dict(zip(row.offsets, row.positions, strict=True)) == {
        item.words[word]: word_ids.index(word) for word in sorted(set(word_ids) - {None})
    }


def test_a_word_is_the_same_inside_a_text() -> None:
    """With a tokenizer that marks spaces, given words have the tokens of a text that starts with a space."""
    text = "the good cat sat in paris"
    for sort in SORTS:
        ((row,),) = OURS[sort].encode(_task(Kind.TAGGING), [Input(text)])
        assert row.input_ids == OURS[sort].encode(_task(Kind.CLASSIFICATION), [Input(" " + text)])[0][0].input_ids


CONTEXT = "  the  Café\n de Flore, in   Paris.  東京 \U0001f600\u00a0naïve\t it's "


@pytest.mark.parametrize("sort", SORTS)
def test_answers_have_the_characters_of_their_words(sort: str) -> None:
    """The offsets of a word's first and last token have the word's ends, without the blanks around it."""
    ((row,),) = OURS[sort].encode(_task(Kind.SPAN, 2000), [Input("Who?", CONTEXT)])
    for start, end in (match.span() for match in re.finditer(r"\S+", CONTEXT)):
        touching = [(left, right) for left, right in row.offsets if left < end and right > start]
        assert touching[0][0] == start
        assert touching[-1][1] == end
    tied = THEIRS[sort].convert_ids_to_tokens([row.input_ids[position] for position in row.positions])
    assert not {"\u2581", "\u0120"} & set(tied)  # a piece that only marks a space neither begins nor ends an answer


@pytest.mark.parametrize("sort", SORTS)
@given(TEXTS)
def test_span_offsets_of_every_sort(sort: str, context: str) -> None:
    """Offsets of context tokens are in order and do not begin or end with a blank; every other character has a token."""
    ((row,),) = OURS[sort].encode(_task(Kind.SPAN, 2000), [Input("what?", context)])
    covered, previous = set[int](), 0
    begin = len(OURS[sort].encode(_task(Kind.SPAN, 2000), [Input("what?", "")])[0][0]) - 1
    for position, (start, end) in zip(row.positions, row.offsets, strict=True):
        assert begin <= position < len(row) - 1
        assert previous <= start < end <= len(context)
        assert context[start:end] == context[start:end].strip()
        previous = start
        covered.update(range(start, end))
    seen = {position for position, sign in enumerate(context) if not sign.isspace()}
    if sort in {"roberta", "xlm-roberta"}:  # BERT's normalizer drops signs that are not blank as well
        assert covered >= seen


@given(
    TEXTS,
    TEXTS,
    st.sampled_from([Kind.CLASSIFICATION, Kind.RANKING, Kind.TAGGING, Kind.SPAN]),
    st.sampled_from(Truncation),
)
def test_rows_fit_and_know_what_they_hold(text: str, other: str, kind: Kind, rule: Truncation) -> None:
    """Under any rule no row is too long, and its parts locate its tokens in the whole text."""
    task, whole = _task(kind, 24), _task(kind, 10_000)
    item = Input(text, other) if kind is Kind.SPAN else Input(text, candidates=(other,) if kind is Kind.RANKING else ())
    (rows,) = ENCODER.encode(task, [item], rule)
    ((full,),) = ENCODER.encode(whole, [item])
    for row in rows:
        assert len(row) <= 24
        assert set(row.offsets) <= set(full.offsets)
        for part, all_of_it in zip(row.parts, full.parts, strict=True):
            tokens = row.input_ids[part.position : part.position + part.stop - part.start]
            assert tokens == full.input_ids[all_of_it.position :][part.start : part.stop]
    held = {(part.text, token) for row in rows for part in row.parts for token in range(part.start, part.stop)}
    in_all = sum(part.stop - part.start for part in full.parts)
    assert len(held) + sum(row.dropped_tokens for row in rows) == in_all


def test_what_is_known_is_not_tokenised_again() -> None:
    """Texts in the cache are not tokenised again; each task on words has entries of its own, as its words may differ."""

    class Counted(InputEncoder):
        def _tokenise(self, texts: Sequence[str], *options: Any) -> list[TokenisedText]:
            asked.extend(texts)
            return super()._tokenise(texts, *options)

    asked: list[str] = []
    encoder, cache = Counted(TOKENIZER), TokenCache(128)
    items = [Input("a cat"), Input("two cats"), Input("a cat")]
    for kind in (Kind.CLASSIFICATION, Kind.TAGGING, Kind.CLASSIFICATION, Kind.TAGGING):
        assert encoder.encode(_task(kind), items, cache=cache) == ENCODER.encode(_task(kind), items)
    assert asked == ["a cat", "two cats"]
    assert set(cache.texts) == {"a cat", "two cats", *(("task", item) for item in items)}
    task = replace(_task(Kind.TAGGING), name="letters", words=WordRule(WordSplit.CHARACTERS))
    assert encoder.encode(task, items, cache=cache) == ENCODER.encode(task, items)


@given(TEXTS, st.sampled_from([Kind.CLASSIFICATION, Kind.TAGGING]))
def test_tokens_lie_where_they_say(text: str, kind: Kind) -> None:
    """The characters of each token of a row spell the token, in lower case without accents."""
    cache = TokenCache(16)
    task, item = _task(kind, 16), Input(text)
    ((row,),) = ENCODER.encode(task, [item], cache=cache)
    (found,) = ENCODER.tokens(task, item, [row], cache)
    assert len(found) == len(row) - 2
    for token in found:
        assert 0 <= token.start <= token.end <= len(text)
        spelled = token.token.removeprefix("##")
        if spelled.isascii() and spelled.isalpha() and text.isascii():
            assert text[token.start : token.end].lower() == spelled


def test_tokens_of_given_words_are_counted_in_the_joined_text() -> None:
    """The character ranges of a given word's tokens do not include blanks around the word."""
    cache = TokenCache(128)
    task, item = _task(Kind.TAGGING), Input.from_words([" playing", "cats "])
    ((row,),) = ENCODER.encode(task, [item], cache=cache)
    (tokens,) = ENCODER.tokens(task, item, [row], cache)
    assert [item.text[token.start : token.end] for token in tokens] == ["playing", "cats"]
