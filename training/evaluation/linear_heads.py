"""Linear heads: scikit-learn's linear models on features of inputs, as answers to a task of any kind but span."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate, pairwise
from operator import itemgetter
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.dummy import DummyClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import precision_recall_curve
from sklearn.multiclass import OneVsRestClassifier
from sklearn.svm import LinearSVC

from polytask.model.answers import (
    Answer,
    ClassificationAnswer,
    Entity,
    LabelScore,
    MultilabelAnswer,
    MultipleChoiceAnswer,
    RankedCandidate,
    RankingAnswer,
    RegressionAnswer,
    TaggingAnswer,
    tagged_ranges,
)
from polytask.model.encoding import Input
from polytask.model.tasks import CANDIDATE_KINDS, Kind, Task
from polytask.training.data.examples import Example, TaskData
from polytask.training.evaluation.metrics import score_answers

Rows = Any
"""A matrix of features, sparse or dense: a row for each input, for each candidate of it, or for each word of it."""

_SPARSE_C = (0.03, 0.1, 0.3, 1.0, 3.0)
_DENSE_C = (0.0003, 0.001, 0.003, 0.01, 0.03)
_ALPHA = (0.1, 0.3, 1.0, 3.0, 10.0)
_DENSE_ALPHA = (30.0, 100.0, 300.0, 1000.0, 3000.0)
_ITERATIONS = 200
_TOLERANCE = 1e-3
_ABOVE_ZERO = float(np.nextafter(0, 1))

Make = Callable[[float], Any]
Trial = tuple[float, Any, NDArray[Any]]


class Features(Protocol):
    """Vectors of the inputs of one task."""

    def fit(self, task: Task, inputs: Sequence[Input]) -> Rows:
        """Learns what it needs from training inputs and returns their rows."""

    def rows(self, task: Task, inputs: Sequence[Input]) -> Rows:
        """The rows of other inputs."""


def num_rows_of(task: Task, item: Input) -> int:
    """The number of an input's rows."""
    if task.kind is Kind.TAGGING:
        return len(item.words or ())
    return len(item.candidates) if task.kind in CANDIDATE_KINDS else 1


def linear_answers(task_data: TaskData, train: Sequence[Example], features: Features) -> list[Answer]:
    """Answers to the validation examples by the best linear head that is learnt from `train`.

    Strength of the regularisation, weights of the labels and thresholds are chosen on `task_data.selection`; without such
    examples they are in the middle, equal, and those of even odds.
    """
    task, kept = task_data.task, task_data.selection
    rows, targets = features.fit(task, _inputs(train)), _targets(task, train)
    kept_rows = features.rows(task, _inputs(kept)) if kept else None
    validation = features.rows(task, _inputs(task_data.validation))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the choice on `selection` stops earlier than the solver
        warnings.filterwarnings("ignore", "Label .* is present in", UserWarning)

        def trial(make: Make, strength: float) -> tuple[float, Any, NDArray[Any]]:
            """The score on the selection examples, the model and its thresholds."""
            model = make(strength).fit(rows, targets)
            if kept_rows is None:
                return 0.0, model, _thresholds(task, (), None)
            outputs = _outputs(task, model, kept_rows)
            thresholds = _thresholds(task, kept, outputs)
            return _main_score(task_data, kept, _answers(task, _inputs(kept), outputs, thresholds)), model, thresholds

        makers = _makers(task_data, rows, targets)
        found = [
            _climb(partial(trial, make), strengths if kept else (strengths[len(strengths) // 2],))
            for make, strengths in makers
        ]
    _, model, thresholds = max(found, key=itemgetter(0))
    return _answers(task, _inputs(task_data.validation), _outputs(task, model, validation), thresholds)


def _climb(trial: Callable[[float], Trial], strengths: Sequence[float]) -> Trial:
    """The best trial uphill from the middle: the strengths beyond a worse one are not tried."""
    middle = len(strengths) // 2
    best = start = trial(strengths[middle])
    for side in (strengths[middle + 1 :], strengths[:middle][::-1]):
        for strength in side:
            found = trial(strength)
            if found[0] <= best[0]:
                break
            best = found
        if best[0] > start[0]:
            break
    return best


def _inputs(examples: Sequence[Example]) -> list[Input]:
    return [example.input for example in examples]


def _targets(task: Task, examples: Sequence[Example]) -> NDArray[Any]:
    """The target of each row."""
    match task.kind:
        case Kind.TAGGING | Kind.RANKING:
            return np.concatenate([example.target for example in examples])
        case Kind.MULTIPLE_CHOICE:
            return np.concatenate([np.arange(len(each.input.candidates)) == each.target for each in examples]) * 1.0
    return np.array([example.target for example in examples])


def _makers(task_data: TaskData, rows: Rows, targets: NDArray[Any]) -> list[tuple[Make, Sequence[float]]]:
    """Models to choose from: functions of the strength, with the strengths to try."""
    dense, kind = not issparse(rows), task_data.task.kind
    if kind is Kind.REGRESSION or kind in CANDIDATE_KINDS:
        solver = "cholesky" if dense else "sparse_cg"
        return [(lambda alpha: Ridge(alpha, solver=solver, tol=_TOLERANCE), _DENSE_ALPHA if dense else _ALPHA)]
    if targets.ndim == 1 and len(np.unique(targets)) == 1:
        return [(lambda _: DummyClassifier(), (0.0,))]

    def make(weights: str | None, strength: float) -> Any:
        if dense:
            model = LogisticRegression(C=strength, class_weight=weights, max_iter=_ITERATIONS, tol=_TOLERANCE)
        else:
            model = LinearSVC(C=strength, class_weight=weights, tol=_TOLERANCE, random_state=0)
        return OneVsRestClassifier(model) if targets.ndim == 2 else model

    # Metrics other than accuracy count rare labels for more than their share.
    balanced = kind is Kind.CLASSIFICATION and task_data.config.metric not in (None, "accuracy")
    strengths = _DENSE_C if dense else _SPARSE_C
    return [(partial(make, weights), strengths) for weights in ((None, "balanced") if balanced else (None,))]


def _outputs(task: Task, model: Any, rows: Rows) -> NDArray[Any]:
    """The label or value of each row, or for multilabel the score of each label."""
    return np.asarray(model.decision_function(rows) if task.kind is Kind.MULTILABEL else model.predict(rows))


def _thresholds(task: Task, examples: Sequence[Example], outputs: NDArray[Any] | None) -> NDArray[Any]:
    """For multilabel the score of each label with the best F1 on the examples; even odds for a label that none has."""
    thresholds = np.full(len(task.labels), _ABOVE_ZERO)
    if task.kind is Kind.MULTILABEL and outputs is not None:
        expected = np.array([example.target for example in examples])
        for label in np.flatnonzero(expected.any(axis=0)):
            precision, recall, cuts = precision_recall_curve(expected[:, label], outputs[:, label])
            f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-9)
            thresholds[label] = cuts[f1[:-1].argmax()]
    return thresholds


def _main_score(task_data: TaskData, examples: Sequence[Example], answers: Sequence[Answer]) -> float:
    config = task_data.config
    scores = score_answers(task_data.task, examples, answers, config.metric, config.positive_label)
    return next(iter(scores.values()))


def _answers(task: Task, inputs: Sequence[Input], outputs: NDArray[Any], thresholds: NDArray[Any]) -> list[Answer]:
    ends = accumulate((num_rows_of(task, item) for item in inputs), initial=0)
    return [
        _answer(task, item, outputs[start:end], thresholds)
        for item, (start, end) in zip(inputs, pairwise(ends), strict=True)
    ]


def _answer(task: Task, item: Input, outputs: NDArray[Any], thresholds: NDArray[Any]) -> Answer:
    match task.kind:
        case Kind.CLASSIFICATION:
            return ClassificationAnswer(task.labels[outputs[0]], 1.0, {})
        case Kind.MULTILABEL:
            found = np.flatnonzero(outputs[0] >= thresholds)
            return MultilabelAnswer(tuple(LabelScore(task.labels[label], 1.0) for label in found), {})
        case Kind.REGRESSION:
            assert task.value_range is not None
            return RegressionAnswer(float(np.clip(outputs[0], *task.value_range)))
        case Kind.RANKING:
            order = np.argsort(-outputs, kind="stable")
            return RankingAnswer(tuple(RankedCandidate(int(i), item.candidates[i], 0.0) for i in order))
        case Kind.MULTIPLE_CHOICE:
            choice = int(outputs.argmax())
            return MultipleChoiceAnswer(choice, item.candidates[choice], ())
        case Kind.TAGGING:
            ranges = tagged_ranges(item.words or (), [task.labels[label] for label in outputs], bio=task.bio)
            return TaggingAnswer(tuple(Entity(item.text[s:e], label, s, e, 1.0) for label, s, e in ranges))
        case Kind.SPAN:
            raise AssertionError("a span is no linear function of its texts' features")
