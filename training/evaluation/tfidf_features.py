"""TF-IDF features: words and characters of texts weighed by how rare they are, and windows of words for tagging."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction import FeatureHasher
from sklearn.feature_extraction.text import TfidfVectorizer

from polytask.model.encoding import Input
from polytask.model.tasks import Kind, Task

_WORD = r"\w+|[^\w\s]"
_SHAPES = ((re.compile(r"[^\W\d_a-z]"), "X"), (re.compile(r"[a-z]+"), "x"), (re.compile(r"\d+"), "0"))
_MANY_TEXTS = 1_000
"""Texts from which on what only one of them has is left out."""


class TfidfFeatures:
    """Words (1 and 2) and characters (3 to 5, within words); for tagging the words around each word and their forms.

    Of a pair, or a query and its candidate: both vectors, their difference and product by element, and their cosines.
    """

    def __init__(self) -> None:
        self._vectorizers: tuple[TfidfVectorizer, ...] = ()
        self._hasher = FeatureHasher(2**20, input_type="string", dtype=np.float32, alternate_sign=False)

    def fit(self, task: Task, inputs: Sequence[Input]) -> csr_matrix:
        """Counts the training texts and returns their rows."""
        if task.kind is Kind.TAGGING:
            return self.rows(task, inputs)
        texts = PairedTexts(inputs)
        options = {"sublinear_tf": True, "min_df": 2 if len(texts.texts) >= _MANY_TEXTS else 1, "dtype": np.float32}
        self._vectorizers = (
            TfidfVectorizer(ngram_range=(1, 2), token_pattern=_WORD, **options),
            TfidfVectorizer(ngram_range=(3, 5), analyzer="char_wb", **options),
        )
        return _joined(texts, [vectorizer.fit_transform(texts.texts) for vectorizer in self._vectorizers])

    def rows(self, task: Task, inputs: Sequence[Input]) -> csr_matrix:
        """A row for each input, candidate or word."""
        if task.kind is Kind.TAGGING:
            return self._hasher.transform(window for item in inputs for window in windows(item.given_words))
        texts = PairedTexts(inputs)
        return _joined(texts, [vectorizer.transform(texts.texts) for vectorizer in self._vectorizers])


class PairedTexts:
    """The texts of inputs, each once, and the two of each row: text and pair, or text and each candidate.

    `first`, `second`: indices into `texts` by row. `second` is empty if the rows have one text each.
    """

    def __init__(self, inputs: Sequence[Input]) -> None:
        ids: dict[str, int] = {}
        self.first, self.second = list[int](), list[int]()
        for item in inputs:
            for second in item.candidates or (item.text_pair,):
                self.first.append(ids.setdefault(item.text, len(ids)))
                if second is not None:
                    self.second.append(ids.setdefault(second, len(ids)))
        self.texts = list(ids)


def _joined(texts: PairedTexts, blocks: Sequence[csr_matrix]) -> csr_matrix:
    if not texts.second:
        return hstack([block[texts.first] for block in blocks], format="csr")
    parts = (part for block in blocks for part in _compared(block[texts.first], block[texts.second]))
    return hstack(list(parts), format="csr")


def _compared(first: csr_matrix, second: csr_matrix) -> Iterator[csr_matrix]:
    product = first.multiply(second)
    yield from (first, second, abs(first - second), product, csr_matrix(product.sum(axis=1)))


def windows(words: Sequence[str]) -> Iterator[list[str]]:
    """The features of each word: those around it, its beginning and end, and the shapes of it and its neighbours."""
    lower = ["", "", *(word.lower() for word in words), "", ""]
    shapes = ["", "", *map(_shape, words), "", ""]
    for at in range(2, len(words) + 2):
        word = lower[at]
        yield [
            "bias",
            *(f"{place}={lower[at + place]}" for place in range(-2, 3)),
            *(f"s{place}={shapes[at + place]}" for place in (-1, 0, 1)),
            *(f"e{place}={lower[at + place][-3:]}" for place in (-1, 1)),
            *(f"<{word[:size]}" for size in (1, 2, 3, 4)),
            *(f"{word[-size:]}>" for size in (1, 2, 3, 4)),
            f"before={lower[at - 1]} {word}",
            f"after={word} {lower[at + 1]}",
            f"s={shapes[at - 1]} {shapes[at]} {shapes[at + 1]}",
        ]


def _shape(word: str) -> str:
    for pattern, letter in _SHAPES:
        word = pattern.sub(letter, word)
    return word
