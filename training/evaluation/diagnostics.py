"""Diagnostics: the errors in a task's answers and the calibration of its scores, as drawn in the report of a run.

All results are JSON values and depend on the kind of task; `diagnose` lists the keys.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn import metrics

from polytask.model.answers import Answer, tagged_ranges
from polytask.model.tasks import Kind, Task
from polytask.training.data.examples import Example
from polytask.training.evaluation.entity_scores import score_entities
from polytask.training.evaluation.metrics import Scores, likeliest_label, score_answers, word_tags
from polytask.training.evaluation.worst_mistakes import worst_mistakes

Diagnosis = dict[str, Any]

COVERED_CONFIDENCES = (0.5, 0.7, 0.9)
_BINS = 10
_MATRIX_LABELS = 20  # more do not fit on a page, and the pairs that are confused most say more
_CONFUSED_PAIRS = 20
_RANKS = 10
_RESIDUAL_BINS = 20
_LENGTHS = ((1, "1"), (2, "2"), (4, "3-4"), (8, "5-8"), (16, "9-16"), (None, "17+"))


def diagnose(task: Task, examples: Sequence[Example], answers: Sequence[Answer]) -> Diagnosis:
    """The diagnosis of `answers[i]` to `examples[i].input`, as JSON values.

    Always: `kind`, `count` (examples) and `mistakes` (at most ten, with texts of the data).
    Classification: `calibration` of the top score, `coverage`, `per_label`, and `confusion` or, over 20 labels, `confused` pairs.
    Multilabel: `calibration` of every label's score, `per_label` with thresholds. Multiple choice: `calibration`.
    Regression: `deciles` of the right values, `residuals`, `errors`. Ranking: `calibration` of every candidate's score,
    `ranks` of the first relevant one. Tagging: `per_label` (entities; words, for plain tags), `confusion` or `confused`
    by word, `calibration` of each entity's score. Span: `calibration` of the score against F1, `lengths` of the right answers.
    """
    details = _DIAGNOSES[task.kind](task, examples, answers)
    calibrated = reliability(task, examples, answers)
    return {
        "kind": str(task.kind),
        "count": len(examples),
        **({} if calibrated is None else {"calibration": calibrated}),
        **details,
        "mistakes": worst_mistakes(task, examples, answers),
    }


def reliability(task: Task, examples: Sequence[Example], answers: Sequence[Answer]) -> Diagnosis | None:
    """The `calibration` of the task's scores against what they are a probability of; None if it has no probabilities."""
    measure = _RELIABILITIES.get(task.kind)
    return None if measure is None else measure(task, examples, answers)


def coverage(task: Task, examples: Sequence[Example], answers: Sequence[Any]) -> list[Diagnosis]:
    """For each of a few confidences the share of a classification's answers that reach it, and the share right of those."""
    scores = np.array([answer.score for answer in answers])
    right = np.array([likeliest_label(a) == task.labels[e.target] for e, a in zip(examples, answers, strict=True)])
    rows = []
    for least in COVERED_CONFIDENCES:
        covered = scores >= least
        accuracy = float(right[covered].mean()) if covered.any() else None
        rows.append({"confidence": least, "coverage": float(covered.mean()), "accuracy": accuracy})
    return rows


def calibration(confidence: ArrayLike, outcome: ArrayLike) -> Diagnosis:
    """Ten equal bins of confidence with their mean confidence, mean outcome (0 to 1) and count, and the ECE.

    The expected calibration error is the mean distance of the two means, weighted by counts (Guo et al. 2017,
    arXiv:1706.04599). A bin's upper edge belongs to the next bin; 1 belongs to the last. Empty bins have no means.
    """
    confidences, outcomes = np.asarray(confidence, dtype=float), np.asarray(outcome, dtype=float)
    edges = np.arange(_BINS + 1) / _BINS
    bin_indices = np.digitize(confidences, edges[1:-1])
    bins, error = [], 0.0
    for index in range(_BINS):
        in_bin = bin_indices == index
        count = int(in_bin.sum())
        mean, accuracy = (float(confidences[in_bin].mean()), float(outcomes[in_bin].mean())) if count else (None, None)
        if mean is not None and accuracy is not None:
            error += abs(mean - accuracy) * count / len(confidences)
        bins.append(
            {
                "low": float(edges[index]),
                "high": float(edges[index + 1]),
                "confidence": mean,
                "accuracy": accuracy,
                "count": count,
            }
        )
    return {"bins": bins, "ece": error}


def _classification(task: Task, examples: Sequence[Example], answers: Sequence[Any]) -> Diagnosis:
    correct = [task.labels[example.target] for example in examples]
    predicted = [likeliest_label(answer) for answer in answers]
    return {
        "coverage": coverage(task, examples, answers),
        "per_label": _per_label(task.labels, *_label_scores(correct, predicted, labels=task.labels)),
        **_confusion(task.labels, correct, predicted),
    }


def _multilabel(task: Task, examples: Sequence[Example], answers: Sequence[Any]) -> Diagnosis:
    correct = np.array([example.target for example in examples])
    columns = {label: column for column, label in enumerate(task.labels)}
    predicted = np.zeros(correct.shape, dtype=int)
    for index, answer in enumerate(answers):
        predicted[index, [columns[label_score.label] for label_score in answer.labels]] = 1
    rows = _per_label(task.labels, *_label_scores(correct, predicted, labels=range(len(task.labels))))
    for row, threshold in zip(rows, task.thresholds, strict=True):
        row["threshold"] = threshold
    return {"per_label": rows}


def _regression(_task: Task, examples: Sequence[Example], answers: Sequence[Any]) -> Diagnosis:
    correct = np.array([example.target for example in examples], dtype=float)
    predicted = np.array([answer.value for answer in answers], dtype=float)
    # If many values are equal there are fewer than ten deciles.
    edges = np.unique(np.quantile(correct, np.arange(1, _BINS) / _BINS))
    groups = np.digitize(correct, edges)
    deciles = []
    for group in np.unique(groups):
        in_group = groups == group
        deciles.append(
            {
                "low": float(correct[in_group].min()),
                "high": float(correct[in_group].max()),
                "right": float(correct[in_group].mean()),
                "given": float(predicted[in_group].mean()),
                "spread": float(predicted[in_group].std()),
                "count": int(in_group.sum()),
            }
        )
    residuals = predicted - correct
    counts, borders = np.histogram(residuals, bins=_RESIDUAL_BINS)
    return {
        "deciles": deciles,
        "residuals": {"edges": borders.tolist(), "counts": counts.tolist()},
        "errors": {
            "mean_absolute": float(metrics.mean_absolute_error(correct, predicted)),
            "root_mean_squared": float(metrics.root_mean_squared_error(correct, predicted)),
            "bias": float(residuals.mean()),
        },
    }


def _multiple_choice(_task: Task, _examples: Sequence[Example], _answers: Sequence[Any]) -> Diagnosis:
    return {}


def _ranking(_task: Task, examples: Sequence[Example], answers: Sequence[Any]) -> Diagnosis:
    pairs = list(zip(examples, answers, strict=True))
    ranks = [0] * (_RANKS + 1)
    for example, answer in pairs:
        first = next((rank for rank, candidate in enumerate(answer.ranking) if example.target[candidate.index]), None)
        if first is not None:
            ranks[min(first, _RANKS)] += 1
    names = [*(str(rank + 1) for rank in range(_RANKS)), f"{_RANKS + 1}+"]
    histogram = [{"rank": name, "count": count} for name, count in zip(names, ranks, strict=True)]
    without_relevant = len(pairs) - sum(ranks)
    return {"ranks": histogram, "without_relevant": without_relevant}


def _tagging(task: Task, examples: Sequence[Example], answers: Sequence[Any]) -> Diagnosis:
    correct = [[task.labels[label] for label in example.target] for example in examples]
    predicted = [word_tags(example, answer, bio=task.bio) for example, answer in zip(examples, answers, strict=True)]
    correct_words, predicted_words = [*itertools.chain(*correct)], [*itertools.chain(*predicted)]
    if not task.bio:
        # Truncated words are answered with `O`, which need not be among plain tags.
        labels = tuple(dict.fromkeys([*task.labels, *predicted_words]))
        rows = _per_label(task.labels, *_label_scores(correct_words, predicted_words, labels=task.labels))
        return {"per_label": rows, **_confusion(labels, correct_words, predicted_words)}
    types = tuple(dict.fromkeys(label[2:] for label in task.labels if label != "O"))
    rows = [{"label": label, **asdict(scores)} for label, scores in score_entities(correct, predicted)[1].items()]
    without_prefix = [[tag[2:] or "O" for tag in tags] for tags in (correct_words, predicted_words)]
    return {"per_label": rows, **_confusion(("O", *types), *without_prefix)}


def _span(task: Task, examples: Sequence[Example], answers: Sequence[Any]) -> Diagnosis:
    scores = _each_score(task, examples, answers)
    f1 = np.array([score["f1"] for score in scores])
    exact = np.array([score["exact_match"] for score in scores])
    uppers = [upper for upper, _ in _LENGTHS if upper is not None]
    names = [name for _, name in _LENGTHS]
    groups = np.array([_length_group(example, uppers) for example in examples])
    lengths = []
    for group, name in enumerate([*names, "no answer"]):
        in_group = groups == group
        if in_group.any():
            row = {"f1": float(f1[in_group].mean()), "exact_match": float(exact[in_group].mean())}
            lengths.append({"words": name, "count": int(in_group.sum()), **row})
    return {"lengths": lengths}


def _each_score(task: Task, examples: Sequence[Example], answers: Sequence[Any]) -> list[Scores]:
    return [score_answers(task, [example], [answer]) for example, answer in zip(examples, answers, strict=True)]


def _length_group(example: Example, uppers: Sequence[int]) -> int:
    """The index of the answer's length in `_LENGTHS`; the one after them for a question without an answer."""
    if not example.target:
        return len(_LENGTHS)
    words = (example.input.text_pair or "")[slice(*example.target[0])].split()
    return bisect_left(uppers, len(words))


def _classification_reliability(task: Task, examples: Sequence[Example], answers: Sequence[Any]) -> Diagnosis:
    scores = np.array([[answer.scores[label] for label in task.labels] for answer in answers])
    one_hot = np.eye(len(task.labels))[[example.target for example in examples]]
    right = [likeliest_label(a) == task.labels[e.target] for e, a in zip(examples, answers, strict=True)]
    # The multi-class Brier score is the squared distance summed over the labels, 0 to 2.
    brier = float(((scores - one_hot) ** 2).sum(axis=1).mean())
    return calibration([answer.score for answer in answers], right) | {"brier": brier}


def _multilabel_reliability(task: Task, examples: Sequence[Example], answers: Sequence[Any]) -> Diagnosis:
    scores = np.array([[answer.scores[label] for label in task.labels] for answer in answers])
    return _binary_calibration(scores.ravel(), np.array([example.target for example in examples]).ravel())


def _ranking_reliability(_task: Task, examples: Sequence[Example], answers: Sequence[Any]) -> Diagnosis:
    pairs = list(zip(examples, answers, strict=True))
    scores = np.array([candidate.score for _, answer in pairs for candidate in answer.ranking])
    relevant = np.array([example.target[candidate.index] for example, answer in pairs for candidate in answer.ranking])
    return _binary_calibration(scores, relevant)


def _choice_reliability(_task: Task, examples: Sequence[Example], answers: Sequence[Any]) -> Diagnosis:
    correct = [answer.choice == example.target for example, answer in zip(examples, answers, strict=True)]
    distances = [
        ((np.array(answer.scores) - np.eye(len(answer.scores))[example.target]) ** 2).sum()
        for example, answer in zip(examples, answers, strict=True)
    ]
    calibrated = calibration([answer.scores[answer.choice] for answer in answers], correct)
    return calibrated | {"brier": float(np.mean(distances))}


def _tagging_reliability(task: Task, examples: Sequence[Example], answers: Sequence[Any]) -> Diagnosis:
    """An entity is right if its label and both ends are."""
    scores, right = [], []
    for example, answer in zip(examples, answers, strict=True):
        tags = [task.labels[label] for label in example.target]
        correct = set(tagged_ranges(example.input.words or (), tags, bio=task.bio))
        for entity in answer.entities:
            scores.append(entity.score)
            right.append((entity.label, entity.start, entity.end) in correct)
    return calibration(scores, right)


def _span_reliability(task: Task, examples: Sequence[Example], answers: Sequence[Any]) -> Diagnosis:
    f1 = [score["f1"] for score in _each_score(task, examples, answers)]
    return calibration([answer.score for answer in answers], f1)


_RELIABILITIES: dict[Kind, Callable[[Task, Sequence[Example], Sequence[Any]], Diagnosis]] = {
    Kind.CLASSIFICATION: _classification_reliability,
    Kind.MULTILABEL: _multilabel_reliability,
    Kind.RANKING: _ranking_reliability,
    Kind.MULTIPLE_CHOICE: _choice_reliability,
    Kind.TAGGING: _tagging_reliability,
    Kind.SPAN: _span_reliability,
}


def _binary_calibration(scores: NDArray[Any], outcome: NDArray[Any]) -> Diagnosis:
    """The calibration of yes-or-no decisions, with the Brier score."""
    return calibration(scores, outcome) | {"brier": float(((scores - outcome) ** 2).mean())}


def _label_scores(correct: Any, predicted: Any, labels: Sequence[Any]) -> tuple[Any, Any, Any, Any]:
    """Precision, recall, F1 and support of each label."""
    scores = metrics.precision_recall_fscore_support(correct, predicted, labels=list(labels), zero_division=0.0)
    return scores[0], scores[1], scores[2], scores[3]


def _per_label(labels: Sequence[str], precision: Any, recall: Any, f1: Any, support: Any) -> list[Diagnosis]:
    return [
        {"label": label, "precision": float(p), "recall": float(r), "f1": float(f), "support": int(s)}
        for label, p, r, f, s in zip(labels, precision, recall, f1, support, strict=True)
    ]


def _confusion(labels: Sequence[str], correct: Sequence[str], predicted: Sequence[str]) -> Diagnosis:
    """The confusion matrix, correct labels by predicted ones; with over 20 labels, the pairs confused most often."""
    counts = metrics.confusion_matrix(correct, predicted, labels=list(labels))
    if len(labels) <= _MATRIX_LABELS:
        return {"confusion": {"labels": list(labels), "counts": counts.tolist()}}
    wrong = counts - np.diag(np.diag(counts))
    order = np.argsort(-wrong, axis=None, kind="stable")[:_CONFUSED_PAIRS]
    pairs = []
    for row, column in zip(*np.unravel_index(order, wrong.shape), strict=True):
        if count := int(wrong[row, column]):
            share = count / int(counts[row].sum())
            pairs.append({"right": labels[row], "given": labels[column], "count": count, "share": share})
    return {"confused": pairs}


_DIAGNOSES: dict[Kind, Callable[[Task, Sequence[Example], Sequence[Any]], Diagnosis]] = {
    Kind.CLASSIFICATION: _classification,
    Kind.MULTILABEL: _multilabel,
    Kind.REGRESSION: _regression,
    Kind.MULTIPLE_CHOICE: _multiple_choice,
    Kind.RANKING: _ranking,
    Kind.TAGGING: _tagging,
    Kind.SPAN: _span,
}
