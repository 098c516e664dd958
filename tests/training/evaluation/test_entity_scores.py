"""Entity scores: those of seqeval on any tags, and what they are where there is nothing to score."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import precision_recall_fscore_support as seqeval_scores

from polytask.training.evaluation.entity_scores import EntityScores, score_entities

_TAGS = st.sampled_from(["O", *(f"{sign}-{label}" for sign in "BI" for label in ("place", "animal", "a-b"))])
_SENTENCES = st.lists(st.lists(st.tuples(_TAGS, _TAGS), min_size=1, max_size=8), min_size=1, max_size=5)


@given(_SENTENCES)
def test_scores_agree_with_seqeval(sentences: list[list[tuple[str, str]]]) -> None:
    """Over all entities and for each label, precision, recall, F1 and support are seqeval's, for tags that are not well-formed, too."""
    correct, predicted = ([[pair[side] for pair in pairs] for pairs in sentences] for side in (0, 1))
    overall, by_label = score_entities(correct, predicted)
    labels = sorted({tag[2:] for pairs in sentences for pair in pairs for tag in pair if tag != "O"})
    assert list(by_label) == labels
    if labels:
        expected = seqeval_scores(correct, predicted, average="micro", zero_division=0)[:3]
        assert (overall.precision, overall.recall, overall.f1) == pytest.approx(expected)
        rows = zip(*seqeval_scores(correct, predicted, average=None, zero_division=0), strict=True)
        for scores, row in zip(by_label.values(), rows, strict=True):
            assert (scores.precision, scores.recall, scores.f1, scores.support) == pytest.approx(row)


def test_without_entities_all_scores_are_zero() -> None:
    """Sentences without any entity have no label and score 0, and nothing is divided by zero."""
    assert score_entities([["O", "O"], []], [["O", "O"], []]) == (EntityScores(0, 0, 0, 0), {})


def test_sentences_must_be_pairs() -> None:
    """Answers of which some are missing are an error, not a lower score."""
    with pytest.raises(ValueError, match="shorter"):
        score_entities([["O"], ["O"]], [["O"]])
