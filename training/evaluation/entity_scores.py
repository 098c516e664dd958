"""Entity scores: precision, recall and F1 of whole entities, as CoNLL counts: right are those with the right words and label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from polytask.model.answers import word_runs


@dataclass(frozen=True, slots=True)
class EntityScores:
    """Scores from 0 to 1 of entities, of which there are `support`.

    `precision` is 0 where none was found, `recall` where there is none.
    """

    precision: float
    recall: float
    f1: float
    support: int


def score_entities(
    correct: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]
) -> tuple[EntityScores, dict[str, EntityScores]]:
    """Scores of the BIO tags of sentences: over all entities, and of each label that is among them, in alphabetical order."""
    support, found, right = Counter[str](), Counter[str](), Counter[str]()
    for correct_tags, predicted_tags in zip(correct, predicted, strict=True):
        theirs, ours = set(word_runs(correct_tags, bio=True)), set(word_runs(predicted_tags, bio=True))
        support.update(label for label, _, _ in theirs)
        found.update(label for label, _, _ in ours)
        right.update(label for label, _, _ in theirs & ours)
    by_label = {
        label: _scores(right[label], found[label], support[label]) for label in sorted(support.keys() | found.keys())
    }
    return _scores(right.total(), found.total(), support.total()), by_label


def _scores(right: int, found: int, support: int) -> EntityScores:
    precision, recall = right / found if found else 0.0, right / support if support else 0.0
    return EntityScores(precision, recall, 2 * right / (found + support) if right else 0.0, support)
