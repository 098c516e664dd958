"""Running text: words joined as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polytask.training.data.running_text import running_text

WORDS = st.lists(st.one_of(st.sampled_from(['"', "'s", "(", ".", "n't", "``", "王", "。", "$"]), st.text(min_size=1)))


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["Maria", "Keller", "'s", "brother", ",", "who", "does", "n\u2019t", "sing", "."], None),
        (["He", "said", '"', "no", '"', "and", '"', "go", '"', "."], 'He said "no" and "go".'),
        (["He", "(", "or", "she", ")", "paid", "$", "5", "!", "!"], "He (or she) paid $5!!"),
        (["the", "boys", "'", "coat", "\u2026"], "the boys' coat\u2026"),
        (["L'", "homme", "et", "l\u2019", "eau"], "L'homme et l\u2019eau"),
        (["王", "小", "明", "去", "了", "Berlin", "。", "好"], "王小明去了 Berlin。好"),
        (["วัน", "นี้", "ดี"], "วันนี้ดี"),
        (["well", "-", "known"], "well - known"),
    ],
)
def test_words_are_joined_as_people_write(words: list[str], text: str | None) -> None:
    """Punctuation, possessives and contractions touch what they belong to; unspaced scripts have no blanks."""
    assert running_text(words).text == (text or "Maria Keller's brother, who doesn\u2019t sing.")


@given(WORDS)
def test_every_word_is_where_its_range_says(words: list[str]) -> None:
    """The text holds the words in order with at most one blank between two, and knows the range of each."""
    item = running_text(words)
    assert item.given_words == tuple(words)
    edges = [0, *(edge for word in item.words or () for edge in word), len(item.text)]
    gaps = {item.text[start:end] for start, end in zip(edges[::2], edges[1::2], strict=True)}
    assert edges == sorted(edges)
    assert gaps <= {"", " "}
