"""Where a task's answers go wrong and how far its scores can be trusted: what the report of a run draws.

Everything comes as plain JSON values, by the kind of the task; `diagnose` lists the keys.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from seqeval.metrics.sequence_labeling import precision_recall_fscore_support as entity_scores
from sklearn import metrics

from polytask.model.answers import Answer
from polytask.model.tasks import Kind, Task
from polytask.training.data.examples import Example
from polytask.training.evaluation.metrics import score_answers, word_tags
from polytask.training.evaluation.worst_mistakes import worst_mistakes

Diagnosis = dict[str, Any]

_BINS = 10
_MATRIX_LABELS = 20  # more do not fit on a page; the pairs that are confused most say more
_CONFUSED_PAIRS = 20
_RANKS = 10
_RESIDUAL_BINS = 20
_LENGTHS = ((1, "1"), (2, "2"), (4, "3-4"), (8, "5-8"), (16, "9-16"), (None, "17+"))


def diagnose(task: Task, examples: Sequence[Example], answers: Sequence[Answer]) -> Diagnosis:
    """A closer look at `answers[i]` to `examples[i].input`, as JSON values.

    Always: `kind`, `count` (examples) and `mistakes` (at most ten; they hold texts of the data).
    Classification: `calibration` of the top score, `per_label`, and `confusion` or, over 20 labels, `confused` pairs.
    Multilabel: `calibration` of every label's score, `per_label` with thresholds. Multiple choice: `calibration`.
    Regression: `deciles` of the right values, `residuals`, `errors`. Ranking: `calibration` of every candidate's score,
    `ranks` of the first relevant one. Tagging: `per_label` (entities; words, for plain tags), `confusion` or `confused`
    by word. Span: `calibration` of the score against F1, `lengths` of the right answers.
    """
    found = _DIAGNOSES[task.kind](task, examples, answers)
    return {
        "kind": str(task.kind),
        "count": len(examples),
        **found,
        "mistakes": worst_mistakes(task, examples, answers),
    }


def calibration(confidence: ArrayLike, outcome: ArrayLike) -> Diagnosis:
    """Ten equal bins of confidence, each with its mean, the mean outcome (0 to 1) and the count, and the ECE.

    The expected calibration error is the mean distance of the two, weighted by counts (Guo et al. 2017,
    arXiv:1706.04599). A bin's upper edge belongs to the next bin; 1 belongs to the last. Empty bins have no means.
    """
    given, right = np.asarray(confidence, dtype=float), np.asarray(outcome, dtype=float)
    edges = np.arange(_BINS + 1) / _BINS
    places = np.digitize(given, edges[1:-1])
    bins, error = [], 0.0
    for place in range(_BINS):
        inside = places == place
        count = int(inside.sum())
        mean, share = (float(given[inside].mean()), float(right[inside].mean())) if count else (None, None)
        if mean is not None and share is not None:
            error += abs(mean - share) * count / len(given)
        bins.append(
            {
                "low": float(edges[place]),
                "high": float(edges[place + 1]),
                "confidence": mean,
                "accuracy": share,
                "count": count,
            }
        )
    return {"bins": bins, "ece": error}


def _classification(task: Task, examples: Sequence[Example], answers: Sequence[Any]) -> Diagnosis:
    right = [task.labels[example.target] for example in examples]
    given = [answer.label for answer in answers]
    scores = np.array([[answer.scores[label] for label in task.labels] for answer in answers])
    wanted = np.eye(len(task.labels))[[example.target for example in examples]]
    calibrated = calibration([answer.score for answer in answers], np.array(right) == np.array(given))
    # The multi-class Brier score: the squared distance summed over the labels, 0 to 2.
    calibrated["brier"] = float(((scores - wanted) ** 2).sum(axis=1).mean())
    return {
        "calibration": calibrated,
        "per_label": _per_label(task.labels, *_four_scores(right, given, labels=task.labels)),
        **_confusion(task.labels, right, given),
    }


def _multilabel(task: Task, examples: Sequence[Example], answers: Sequence[Any]) -> Diagnosis:
    right = np.array([example.target for example in examples])
    given = np.array([[label in {one.label for one in answer.labels} for label in task.labels] for answer in answers])
    scores = np.array([[answer.scores[label] for label in task.labels] for answer in answers])
    rows = _per_label(task.labels, *_four_scores(right, given.astype(int), labels=range(len(task.labels))))
    for row, threshold in zip(rows, task.thresholds, strict=True):
        row["threshold"] = threshold
    return {"calibration": _of_probabilities(scores.ravel(), right.ravel()), "per_label": rows}


def _regression(_task: Task, examples: Sequence[Example], answers: Sequence[Any]) -> Diagnosis:
    right = np.array([example.target for example in examples], dtype=float)
    given = np.array([answer.value for answer in answers], dtype=float)
    # Values that are often the same give fewer than ten deciles.
    edges = np.unique(np.quantile(right, np.arange(1, _BINS) / _BINS))
    places = np.digitize(right, edges)
    deciles = []
    for place in np.unique(places):
        inside = places == place
        deciles.append(
            {
                "low": float(right[inside].min()),
                "high": float(right[inside].max()),
                "right": float(right[inside].mean()),
                "given": float(given[inside].mean()),
                "spread": float(given[inside].std()),
                "count": int(inside.sum()),
            }
        )
    residuals = given - right
    counts, borders = np.histogram(residuals, bins=_RESIDUAL_BINS)
    return {
        "deciles": deciles,
        "residuals": {"edges": borders.tolist(), "counts": counts.tolist()},
        "errors": {
            "mean_absolute": float(metrics.mean_absolute_error(right, given)),
            "root_mean_squared": float(metrics.root_mean_squared_error(right, given)),
            "bias": float(residuals.mean()),
        },
    }


def _multiple_choice(_task: Task, examples: Sequence[Example], answers: Sequence[Any]) -> Diagnosis:
    right = [answer.choice == example.target for example, answer in zip(examples, answers, strict=True)]
    calibrated = calibration([answer.scores[answer.choice] for answer in answers], right)
    distances = [
        ((np.array(answer.scores) - np.eye(len(answer.scores))[example.target]) ** 2).sum()
        for example, answer in zip(examples, answers, strict=True)
    ]
    return {"calibration": calibrated | {"brier": float(np.mean(distances))}}


def _ranking(_task: Task, examples: Sequence[Example], answers: Sequence[Any]) -> Diagnosis:
    pairs = list(zip(examples, answers, strict=True))
    scores = np.array([one.score for answer in answers for one in answer.ranking])
    relevant = np.array([example.target[one.index] for example, answer in pairs for one in answer.ranking])
    ranks = [0] * (_RANKS + 1)
    for example, answer in pairs:
        first = next((rank for rank, one in enumerate(answer.ranking) if example.target[one.index]), None)
        if first is not None:
            ranks[min(first, _RANKS)] += 1
    names = [*(str(rank + 1) for rank in range(_RANKS)), f"{_RANKS + 1}+"]
    histogram = [{"rank": name, "count": count} for name, count in zip(names, ranks, strict=True)]
    none = len(pairs) - sum(ranks)
    return {"calibration": _of_probabilities(scores, relevant), "ranks": histogram, "without_relevant": none}


def _tagging(task: Task, examples: Sequence[Example], answers: Sequence[Any]) -> Diagnosis:
    right = [[task.labels[label] for label in example.target] for example in examples]
    given = [word_tags(example, answer, bio=task.bio) for example, answer in zip(examples, answers, strict=True)]
    right_words, given_words = [*itertools.chain(*right)], [*itertools.chain(*given)]
    if not task.bio:
        # Words beyond the truncation are answered with `O`, which plain tags need not have.
        labels = tuple(dict.fromkeys([*task.labels, *given_words]))
        rows = _per_label(task.labels, *_four_scores(right_words, given_words, labels=task.labels))
        return {"per_label": rows, **_confusion(labels, right_words, given_words)}
    types = tuple(dict.fromkeys(label[2:] for label in task.labels if label != "O"))
    seen = sorted({tag[2:] for tag in (*right_words, *given_words) if tag != "O"})
    four = entity_scores(right, given, average=None, zero_division=0) if seen else ([], [], [], [])
    rows = _per_label(seen, *four)
    without_prefix = [[tag[2:] or "O" for tag in tags] for tags in (right_words, given_words)]
    return {"per_label": rows, **_confusion(("O", *types), *without_prefix)}


def _span(task: Task, examples: Sequence[Example], answers: Sequence[Any]) -> Diagnosis:
    pairs = zip(examples, answers, strict=True)
    scores = [score_answers(task, [example], [answer]) for example, answer in pairs]
    f1 = np.array([score["f1"] for score in scores])
    exact = np.array([score["exact_match"] for score in scores])
    words = [len((example.input.text_pair or "")[slice(*example.target[0])].split()) for example in examples]
    uppers = [upper for upper, _ in _LENGTHS if upper is not None]
    places = np.searchsorted(uppers, words)
    lengths = []
    for place, (_, name) in enumerate(_LENGTHS):
        inside = places == place
        if inside.any():
            row = {"f1": float(f1[inside].mean()), "exact_match": float(exact[inside].mean())}
            lengths.append({"words": name, "count": int(inside.sum()), **row})
    return {"calibration": calibration([answer.score for answer in answers], f1), "lengths": lengths}


def _of_probabilities(scores: NDArray[Any], outcome: NDArray[Any]) -> Diagnosis:
    """Calibration of yes-or-no decisions, with the Brier score."""
    return calibration(scores, outcome) | {"brier": float(((scores - outcome) ** 2).mean())}


def _four_scores(right: Any, given: Any, labels: Sequence[Any]) -> tuple[Any, Any, Any, Any]:
    """Precision, recall, F1 and support of each label."""
    found = metrics.precision_recall_fscore_support(right, given, labels=list(labels), zero_division=0.0)
    return found[0], found[1], found[2], found[3]


def _per_label(labels: Sequence[str], precision: Any, recall: Any, f1: Any, support: Any) -> list[Diagnosis]:
    return [
        {"label": label, "precision": float(p), "recall": float(r), "f1": float(f), "support": int(s)}
        for label, p, r, f, s in zip(labels, precision, recall, f1, support, strict=True)
    ]


def _confusion(labels: Sequence[str], right: Sequence[str], given: Sequence[str]) -> Diagnosis:
    """How often each label (row) was answered by each (column); over 20 labels the pairs confused most often."""
    counts = metrics.confusion_matrix(right, given, labels=list(labels))
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
