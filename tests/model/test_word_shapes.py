"""Word shapes, and what the network reads of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from polytask.model.config import NetworkConfig
from polytask.model.embeddings import Embeddings
from polytask.model.encoding import Input, InputEncoder, TokenCache
from polytask.model.network import Network, freeze_backbone
from polytask.model.tasks import Kind, Task
from polytask.model.truncation import Truncation
from polytask.model.word_shapes import FIRST_SHAPE_SEGMENT, WordShape, word_shape
from tests.support import tiny

TASK = Task("task", Kind.TAGGING, 12, labels=("a", "b"), word_shapes=True)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        (WordShape.LOWER, "the été e\u0301te\u0301 中文 हिन्दी"),
        (WordShape.INITIAL, "Maria A Ünï Éa ǅ"),
        (WordShape.UPPER, "USA NEW_NAME X11 U.S. --HELP"),
        (WordShape.DIGITS, "7 10,000 3.14 $5 ½ ٣"),
        (WordShape.SIGNS, "( -- ... € \u200b"),
        (WordShape.INNER_SIGNS, "--help get-it O'Neil e.g. a_1"),
        (WordShape.MIXED, "ipv6 McDonald iPhone Abc1"),
    ],
)
def test_words_have_the_shape_that_is_seen(shape: WordShape, words: str) -> None:
    """A word's shape is that of its capitals, digits and signs, in any script."""
    assert {word: word_shape(word) for word in words.split(" ")} == dict.fromkeys(words.split(" "), shape)


@given(st.text())
def test_every_word_has_a_shape(word: str) -> None:
    """Any characters have one, and it says what they are: letters, digits, signs."""
    shape = word_shape(word)
    assert (shape in {WordShape.DIGITS, WordShape.SIGNS}) == (not any(map(str.isalpha, word)) and not word.isupper())


@pytest.mark.parametrize("truncation", [Truncation.LONGEST_FIRST, Truncation.LEFT, Truncation.WINDOW])
@given(
    words=st.lists(st.sampled_from(["the", "Cat", "SAT", "12", "-", "a-b", "catSat", "\u200b", "Ca T"]), max_size=12)
)
def test_each_piece_has_the_segment_of_its_word(words: list[str], truncation: Truncation) -> None:
    """All pieces of a word have its shape's segment, special tokens the first one, in every row; nothing else changes."""
    encoder, item, cache = InputEncoder(tiny.tokenizer()), Input.from_words(words), TokenCache(TASK.max_length)
    (rows,) = encoder.encode(TASK, [item], truncation, cache)
    (plain,) = encoder.encode(replace(TASK, word_shapes=False), [item], truncation)
    assert plain == tuple(replace(row, segment_ids=(0,) * len(row)) for row in rows)
    for row, tokens in zip(rows, encoder.tokens(TASK, item, rows, cache), strict=True):
        assert (row.segment_ids[0], row.segment_ids[-1]) == (0, 0)
        for token, segment in zip(tokens, row.segment_ids[1:-1], strict=True):
            (word,) = (item.text[start:end] for start, end in item.words or () if start <= token.start < end)
            assert segment == FIRST_SHAPE_SEGMENT + word_shape(word.strip())


def test_words_of_raw_text_have_shapes_too() -> None:
    """A text that is split by the task's rule has the rows of its words."""
    encoder = InputEncoder(tiny.tokenizer())
    ((of_text,), (of_words,)) = encoder.encode(
        TASK, [Input("The CAT sat."), Input.from_words(["The", "CAT", "sat", "."])]
    )
    assert of_text.segment_ids == of_words.segment_ids == (0, 3, 4, 2, 6, 0)


def _config() -> NetworkConfig:
    return replace(tiny.config(), word_shapes=True)


def test_shapes_start_as_the_first_segment_and_are_trained() -> None:
    """At first every shape is read as segment 0 to the bit; with frozen embeddings only the shapes' segments learn."""
    network = Network(_config(), tiny.tasks()).eval()
    ids, segments = torch.tensor([[5, 6, 7, 8]]), torch.tensor([[0, 2, 5, 8]])
    embeddings = network.encoder.embeddings
    assert torch.equal(embeddings(ids, segments), embeddings(ids, torch.zeros_like(segments)))
    freeze_backbone(network, network.config.num_layers)
    assert [name for name, each in embeddings.named_parameters() if each.requires_grad] == ["shape.weight"]
    embeddings(ids, segments).square().sum().backward()
    assert embeddings.shape is not None
    assert embeddings.shape.weight.grad is not None
    assert [bool(row.any()) for row in embeddings.shape.weight.grad] == [number in {0, 3, 6} for number in range(7)]


def test_other_rows_are_the_same_to_the_bit() -> None:
    """Learnt shapes change nothing for rows of a text or a pair."""
    with_shapes, without = Embeddings(_config()).eval(), Embeddings(tiny.config()).eval()
    with_shapes.load_state_dict(without.state_dict(), strict=False)
    torch.nn.init.normal_(with_shapes.shape.weight)  # type: ignore[union-attr]
    ids, segments = torch.tensor([[5, 6, 7, 8]]), torch.tensor([[0, 0, 1, 1]])
    assert torch.equal(with_shapes(ids, segments), without(ids, segments))
    assert not torch.equal(with_shapes(ids, segments + 2), without(ids, segments))


def test_shapes_need_their_place() -> None:
    """Only tagging has shapes, and only a network with two other segments."""
    with pytest.raises(ValueError, match="only tagging reads the shapes"):
        Task("task", Kind.CLASSIFICATION, 12, labels=("a", "b"), word_shapes=True)
    with pytest.raises(ValueError, match="word_shapes need 2 other segments, there are 0"):
        replace(tiny.config(), num_segments=0, word_shapes=True)
