"""Words of texts that are to be tagged."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polytask.model.words import split_words

TEXTS = st.text(max_size=40)


@given(TEXTS)
def test_words_cover_all_but_the_spaces(text: str) -> None:
    """Words are in order, do not overlap, have no white space, and leave out nothing else."""
    words = split_words(text)
    previous = 0
    for start, end in words:
        assert previous <= start < end
        previous = end
    covered = {position for start, end in words for position in range(start, end)}
    assert covered == {position for position, sign in enumerate(text) if not sign.isspace()}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("  \n", []),
        ("The cat sat.", ["The", "cat", "sat", "."]),
        ("don\u2019t stop, O'Neil-Smith!", ["don\u2019t", "stop", ",", "O'Neil-Smith", "!"]),
        ("see https://a.b/c?d=e#f now", ["see", "https://a.b/c?d=e#f", "now"]),
        ("@jane likes #cats.", ["@jane", "likes", "#cats", "."]),
        ("U.S. v3.11 (x)", ["U.S", ".", "v3.11", "(", "x", ")"]),
        ("cafe\u0301s Café", ["cafe\u0301s", "Café"]),
        ("hi\U0001f600\U0001f44d", ["hi", "\U0001f600", "\U0001f44d"]),
        ("東京 is", ["東京", "is"]),
    ],
)
def test_words_of_known_texts(text: str, words: list[str]) -> None:
    """Links, names, tags and words with inner signs stay whole; other signs are words."""
    assert [text[start:end] for start, end in split_words(text)] == words
