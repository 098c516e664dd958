"""Diagnostics of answers of every kind."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from statistics import fmean
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.model.answers import LabelScore, MultilabelAnswer, RegressionAnswer, TaggingAnswer
from polytask.model.encoding import Input
from polytask.model.tasks import Kind, Task
from polytask.training.data.examples import Example
from polytask.training.evaluation.diagnostics import calibration, diagnose
from polytask.training.evaluation.metrics import score_answers, word_tags
from polytask.training.evaluation.worst_mistakes import MAX_MISTAKES
from tests.training.support.guesses import answers_to, examples_of, task_of

CALIBRATED = [kind for kind in Kind if kind not in {Kind.REGRESSION, Kind.TAGGING}]


def _trial(kind: Kind, count: int = 80, skill: float = 0.7, seed: int = 0, labels: int = 0) -> tuple[Task, Any, Any]:
    """A task with examples and answers to them."""
    task = task_of(kind, labels=labels)
    examples = examples_of(task, count, seed)
    return task, examples, answers_to(task, examples, skill, seed)


@pytest.mark.parametrize("kind", Kind)
def test_a_diagnosis_is_json(kind: Kind) -> None:
    """A diagnosis survives strict JSON unchanged, and has its kind and the number of examples."""
    task, examples, answers = _trial(kind)
    found = diagnose(task, examples, answers)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert (found["kind"], found["count"]) == (str(kind), 80)
    assert 0 < len(found["mistakes"]) <= MAX_MISTAKES


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("count", [1, 2])
def test_few_examples_are_enough(kind: Kind, count: int) -> None:
    """A single example, right or wrong, has a diagnosis."""
    for skill in (0.0, 1.0):
        found = diagnose(*_trial(kind, count, skill))
        assert json.dumps(found, allow_nan=False)


# Calibration


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60))
def test_calibration_is_what_counting_gives(pairs: list[tuple[float, bool]]) -> None:
    """Each answer is in the bin of its score, and the ECE is the weighted distance of the bins' means."""
    found = calibration([score for score, _ in pairs], [right for _, right in pairs])
    assert sum(one["count"] for one in found["bins"]) == len(pairs)
    error = 0.0
    for one in found["bins"]:
        inside = [p for p in pairs if one["low"] <= p[0] < one["high"] or (p[0] == 1 and one["high"] == 1)]
        assert one["count"] == len(inside)
        if inside:
            mean, share = fmean(p[0] for p in inside), fmean(p[1] for p in inside)
            assert one["confidence"] == pytest.approx(mean)
            assert one["accuracy"] == pytest.approx(share)
            error += abs(mean - share) * len(inside) / len(pairs)
        else:
            assert one["confidence"] is one["accuracy"] is None
    assert found["ece"] == pytest.approx(error)


@settings(max_examples=15)
@given(kind=st.sampled_from(CALIBRATED), seed=st.integers(0, 1000), count=st.integers(1, 30))
def test_right_answers_that_are_sure_are_calibrated(kind: Kind, seed: int, count: int) -> None:
    """Perfect answers given with probability 1 have neither calibration error, nor Brier score, nor mistakes."""
    found = diagnose(*_trial(kind, count, 1.0, seed))
    assert found["calibration"]["ece"] == 0
    assert found["calibration"].get("brier", 0) == 0
    assert found["mistakes"] == []


def test_the_brier_score_is_the_squared_distance() -> None:
    """For several labels it is summed over them, for yes or no it is that of the one probability."""
    task, examples, answers = _trial(Kind.CLASSIFICATION)
    distances = [
        sum((one.scores[label] - (index == example.target)) ** 2 for index, label in enumerate(task.labels))
        for example, one in zip(examples, answers, strict=True)
    ]
    assert diagnose(task, examples, answers)["calibration"]["brier"] == pytest.approx(np.mean(distances))
    task, examples, answers = _trial(Kind.RANKING)
    squares = [
        (one.score - example.target[one.index]) ** 2
        for example, answer in zip(examples, answers, strict=True)
        for one in answer.ranking
    ]
    assert diagnose(task, examples, answers)["calibration"]["brier"] == pytest.approx(np.mean(squares))


# Labels


@settings(max_examples=15)
@given(seed=st.integers(0, 1000), labels=st.integers(2, 20))
def test_a_confusion_matrix_counts_every_answer(seed: int, labels: int) -> None:
    """Rows are right labels, columns given ones, all counts add up, and perfect answers are on the diagonal."""
    task, examples, answers = _trial(Kind.CLASSIFICATION, 40, 0.5, seed, labels)
    confusion = diagnose(task, examples, answers)["confusion"]
    assert confusion["labels"] == list(task.labels)
    pairs = Counter((task.labels[e.target], a.label) for e, a in zip(examples, answers, strict=True))
    for right, row in zip(task.labels, confusion["counts"], strict=True):
        assert row == [pairs[right, label] for label in task.labels]
    perfect = np.array(diagnose(*_trial(Kind.CLASSIFICATION, 40, 1.0, seed, labels))["confusion"]["counts"])
    assert perfect.trace() == perfect.sum() == 40


def test_of_many_labels_the_most_confused_pairs_are_listed() -> None:
    """With over twenty labels there is no matrix, but the twenty most frequent mistakes with their shares."""
    task, examples, answers = _trial(Kind.CLASSIFICATION, 300, 0.5, labels=25)
    found = diagnose(task, examples, answers)
    assert "confusion" not in found
    pairs = Counter((task.labels[e.target], a.label) for e, a in zip(examples, answers, strict=True))
    rights = Counter(task.labels[e.target] for e in examples)
    counts = sorted((count for (right, label), count in pairs.items() if right != label), reverse=True)
    assert [one["count"] for one in found["confused"]] == counts[:20]
    for one in found["confused"]:
        assert one["count"] == pairs[one["right"], one["given"]]
        assert one["share"] == pytest.approx(one["count"] / rights[one["right"]])


@pytest.mark.parametrize("kind", [Kind.CLASSIFICATION, Kind.MULTILABEL])
def test_scores_of_a_label_are_those_of_counting(kind: Kind) -> None:
    """Precision, recall, F1 and support of each label follow from its right and wrong decisions."""
    task, examples, answers = _trial(kind)
    for index, row in enumerate(diagnose(task, examples, answers)["per_label"]):
        if kind is Kind.CLASSIFICATION:
            right = np.array([example.target == index for example in examples])
            predicted = np.array([answer.label == task.labels[index] for answer in answers])
        else:
            right = np.array([bool(example.target[index]) for example in examples])
            predicted = np.array([task.labels[index] in {one.label for one in answer.labels} for answer in answers])
            assert row["threshold"] == task.thresholds[index]
        hits = (right & predicted).sum()
        assert row["label"] == task.labels[index]
        assert row["support"] == right.sum()
        assert row["precision"] == pytest.approx(hits / max(1, predicted.sum()))
        assert row["recall"] == pytest.approx(hits / max(1, right.sum()))
        assert row["f1"] == pytest.approx(2 * hits / max(1, predicted.sum() + right.sum()))


def test_entities_are_counted_whole_and_words_by_type() -> None:
    """Supports are the right entities of each type, and the word matrix adds up to the words."""
    task, examples, answers = _trial(Kind.TAGGING)
    found = diagnose(task, examples, answers)
    words = sum(len(example.target) for example in examples)
    assert np.sum(found["confusion"]["counts"]) == words
    right = Counter(task.labels[label][2:] or "O" for example in examples for label in example.target)
    for label, row in zip(found["confusion"]["labels"], found["confusion"]["counts"], strict=True):
        assert sum(row) == right[label]
    shared = [(row["f1"], row["support"]) for row in found["per_label"]]
    assert all(0 < f1 < 1 and support > 0 for f1, support in shared)
    perfect = diagnose(*_trial(Kind.TAGGING, skill=1.0))
    assert [row["f1"] for row in perfect["per_label"]] == [1.0] * len(perfect["per_label"])
    assert perfect["mistakes"] == []


def test_plain_tags_are_diagnosed_by_word() -> None:
    """Tags that are not BIO are diagnosed by word, and many of them as confused pairs."""
    task, examples, answers = _trial(Kind.TAGGING, 200, labels=24)
    found = diagnose(task, examples, answers)
    assert [row["label"] for row in found["per_label"]] == list(task.labels)
    given_tags = [word_tags(e, a, bio=False) for e, a in zip(examples, answers, strict=True)]
    wrong = sum(
        task.labels[x] != y
        for e, tags in zip(examples, given_tags, strict=True)
        for x, y in zip(e.target, tags, strict=True)
    )
    assert wrong > 0
    assert 0 < sum(one["count"] for one in found["confused"]) <= wrong


def test_text_without_entities_has_no_entity_scores() -> None:
    """If there are no entities, correct or predicted, there are no entity scores."""
    task = task_of(Kind.TAGGING)
    example = Example(Input.from_words(["just", "words"]), (task.labels.index("O"),) * 2)
    found = diagnose(task, [example], [TaggingAnswer(())])
    assert found["per_label"] == found["mistakes"] == []


# Values, ranks and spans


@settings(max_examples=20)
@given(st.lists(st.tuples(st.sampled_from([0.0, 1.0, 2.5, 5.0]), st.floats(0, 5)), min_size=1, max_size=50))
def test_deciles_and_residuals_hold_every_example(pairs: list[tuple[float, float]]) -> None:
    """Deciles ascend without overlap and cover all examples, and the histogram covers all errors."""
    task = task_of(Kind.REGRESSION)
    examples = [Example(Input("a", "b"), right) for right, _ in pairs]
    found = diagnose(task, examples, [RegressionAnswer(value) for _, value in pairs])
    assert sum(row["count"] for row in found["deciles"]) == sum(found["residuals"]["counts"]) == len(pairs)
    assert len(found["deciles"]) <= 10
    assert all(one["high"] < other["low"] for one, other in pairwise(found["deciles"]))
    for row in found["deciles"]:
        inside = [pair for pair in pairs if row["low"] <= pair[0] <= row["high"]]
        assert row["count"] == len(inside)
        assert row["right"] == pytest.approx(np.mean([right for right, _ in inside]))
        assert row["given"] == pytest.approx(np.mean([value for _, value in inside]))
    errors = np.array([value - right for right, value in pairs])
    assert found["errors"]["bias"] == pytest.approx(errors.mean())
    assert found["errors"]["mean_absolute"] == pytest.approx(abs(errors).mean())
    assert found["errors"]["root_mean_squared"] == pytest.approx(np.sqrt((errors**2).mean()))


def test_ranks_are_those_of_the_first_relevant_candidate() -> None:
    """Each query counts at the rank of its first relevant candidate; those without one are counted apart."""
    task, examples, answers = _trial(Kind.RANKING)
    expected: Counter[str] = Counter()
    for example, answer in zip(examples, answers, strict=True):
        indices = [index for index, one in enumerate(answer.ranking, 1) if example.target[one.index]]
        expected[str(min(indices)) if indices else "none"] += 1
    found = diagnose(task, examples, answers)
    assert found["without_relevant"] == expected["none"] > 0
    assert {one["rank"]: one["count"] for one in found["ranks"] if one["count"]} == {
        rank: count for rank, count in expected.items() if rank != "none"
    }


def test_spans_are_measured_by_the_length_of_the_answer() -> None:
    """The length buckets cover all answers, and their weighted means are the task's metrics."""
    task, examples, answers = _trial(Kind.SPAN)
    scores = score_answers(task, examples, answers)
    found = diagnose(task, examples, answers)
    assert sum(row["count"] for row in found["lengths"]) == len(examples)
    for metric in ("f1", "exact_match"):
        mean = sum(row[metric] * row["count"] for row in found["lengths"]) / len(examples)
        assert mean == pytest.approx(scores[metric], abs=1e-6)
    shortest = [len((e.input.text_pair or "")[slice(*e.target[0])].split()) for e in examples]
    assert {row["words"]: row["count"] for row in found["lengths"]}["1"] == shortest.count(1)


class CountedLabel(str):  # noqa: SLOT000 - the counter is of the class
    """A label that counts how often it is compared with another."""

    comparisons = 0

    def __eq__(self, other: object) -> bool:
        CountedLabel.comparisons += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def _comparisons(num_labels: int) -> int:
    """Comparisons of labels in the metrics and the diagnosis of twenty answers that are all labels."""
    labels = tuple(CountedLabel(f"label {index}") for index in range(num_labels))
    task = Task("task", Kind.MULTILABEL, 32, labels=labels, thresholds=(0.5,) * num_labels)
    examples = [Example(Input("a"), (1, 0) * (num_labels // 2))] * 20
    scores: dict[str, float] = {CountedLabel(label): 0.9 for label in labels}
    answers = [MultilabelAnswer(tuple(LabelScore(CountedLabel(label), 0.9) for label in labels), scores)] * 20
    CountedLabel.comparisons = 0
    score_answers(task, examples, answers)
    diagnose(task, examples, answers)
    return CountedLabel.comparisons


def test_a_multilabel_diagnosis_is_linear_in_the_labels() -> None:
    """Twice as many labels need at most about twice as many comparisons."""
    assert _comparisons(400) <= 2.2 * _comparisons(200)
