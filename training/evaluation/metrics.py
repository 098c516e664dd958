"""Metrics: scores of answers by kind of task, all from 0 to 1 (correlations: -1 to 1).

scikit-learn, scipy and torchmetrics compute them, and `entity_scores`; this module only converts answers to their form.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from statistics import fmean
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy import stats
from sklearn import metrics
from torchmetrics.functional.retrieval import (
    retrieval_average_precision,
    retrieval_normalized_dcg,
    retrieval_reciprocal_rank,
)
from torchmetrics.functional.text import squad

from polytask.model.answers import Answer, ClassificationAnswer, tagged_ranges
from polytask.model.tasks import Kind, Task
from polytask.training.data.examples import Example, TaskData
from polytask.training.evaluation.entity_scores import score_entities

Scores = dict[str, float]

_MEANS = {"f1_accuracy": ("f1", "accuracy"), "accuracy_macro_f1": ("accuracy", "macro_f1")}


def score_task(task_data: TaskData, answers: Sequence[Answer]) -> Scores:
    """All metrics of the task, the recipe's main one first. `answers[i]` answers `task_data.validation[i].input`.

    Metrics of the first validation split have plain names, those of the others are `metric/split`.
    """
    metric, label = task_data.config.metric, task_data.config.positive_label
    return _by_split(
        task_data, task_data.validation, answers, partial(score_answers, metric=metric, positive_label=label)
    )


def score_task_on_text(task_data: TaskData, examples: Sequence[Example], answers: Sequence[Answer]) -> Scores:
    """`text_f1` of a tagging task, named by split as in `score_task`.

    `examples`: the validation examples as running text with the ranges of their words. `answers[i]` answers the text
    alone of `examples[i]`.
    """
    return _by_split(task_data, examples, answers, _text_f1)


def _by_split(
    task_data: TaskData, examples: Sequence[Example], answers: Sequence[Answer], score: Callable[..., Scores]
) -> Scores:
    assert sum(task_data.splits.values()) == len(examples) == len(answers), "an answer for every example"
    scores: Scores = {}
    start = 0
    for split, size in task_data.splits.items():
        part = slice(start, start + size)
        split_scores = score(task_data.task, examples[part], answers[part])
        scores |= {f"{name}/{split}" if start else name: value for name, value in split_scores.items()}
        start += size
    return scores


def score_answers(
    task: Task,
    examples: Sequence[Example],
    answers: Sequence[Answer],
    metric: str | None = None,
    positive_label: str | None = None,
) -> Scores:
    """All metrics of the task's kind, the main one first: `metric`, by default the kind's.

    `answers[i]` answers `examples[i].input`. With `positive_label` the metrics of a classification include that label's
    F1. A mean of two metrics is only included if it is the main one.
    """
    scores = _SCORERS[task.kind](task, examples, answers)
    if positive_label is not None:
        scores["f1"] = score_labels("f1", *_labels(task, examples, answers), positive_label)
    if metric is None:
        return scores
    if metric in _MEANS:
        first, second = _MEANS[metric]
        scores[metric] = (scores[first] + scores[second]) / 2
    return {metric: scores[metric]} | scores


def score_labels(metric: str, correct: ArrayLike, predicted: ArrayLike, positive: Any = None) -> float:
    """A metric of a classification from labels or their ids. `positive`: the label that `f1` is of."""
    if metric in _MEANS:
        return fmean(score_labels(name, correct, predicted, positive) for name in _MEANS[metric])
    correct, predicted = np.asarray(correct), np.asarray(predicted)
    match metric:
        case "f1":
            return float(metrics.f1_score(correct == positive, predicted == positive, zero_division=0.0))
        case "macro_f1":
            return float(metrics.f1_score(correct, predicted, average="macro", zero_division=0.0))
        case "matthews":
            # With a single label the correlation is undefined.
            defined = len({*correct.tolist(), *predicted.tolist()}) > 1
            return float(metrics.matthews_corrcoef(correct, predicted)) if defined else 0.0
    assert metric == "accuracy", f"{metric} is no metric of a classification"
    return float(metrics.accuracy_score(correct, predicted))


def likeliest_label(answer: ClassificationAnswer) -> str:
    """The label that all figures are about: also where an answer says none of them, as that is a choice of its user."""
    return next(iter(answer.scores)) if answer.label is None else answer.label


def _classification(task: Task, examples: Sequence[Example], answers: Sequence[Any]) -> Scores:
    correct, predicted = _labels(task, examples, answers)
    return {name: score_labels(name, correct, predicted) for name in ("accuracy", "macro_f1", "matthews")}


def _labels(task: Task, examples: Sequence[Example], answers: Sequence[Any]) -> tuple[list[str], list[str]]:
    """The right label of each example, and the likeliest one of each answer."""
    return [task.labels[example.target] for example in examples], [likeliest_label(answer) for answer in answers]


def _multilabel(task: Task, examples: Sequence[Example], answers: Sequence[Any]) -> Scores:
    correct = np.array([example.target for example in examples])
    predicted = np.zeros_like(correct)
    columns = {label: column for column, label in enumerate(task.labels)}
    for row, answer in enumerate(answers):
        predicted[row, [columns[entry.label] for entry in answer.labels]] = 1
    return {
        f"{average}_f1": float(metrics.f1_score(correct, predicted, average=average, zero_division=0.0))
        for average in ("macro", "micro")
    }


def _regression(_task: Task, examples: Sequence[Example], answers: Sequence[Any]) -> Scores:
    correct = [example.target for example in examples]
    predicted = [answer.value for answer in answers]
    if len(set(correct)) == 1 or len(set(predicted)) == 1:  # the correlation with a constant is undefined
        return {"pearson_spearman": 0.0, "pearson": 0.0, "spearman": 0.0}
    pearson = float(stats.pearsonr(correct, predicted).statistic)
    spearman = float(stats.spearmanr(correct, predicted).statistic)
    return {"pearson_spearman": (pearson + spearman) / 2, "pearson": pearson, "spearman": spearman}


def _ranking(_task: Task, examples: Sequence[Example], answers: Sequence[Any]) -> Scores:
    """Metrics over queries with better and worse candidates; for the others every order is right.

    MAP and MRR: candidates of any relevance above the lowest possible, 0, are relevant. nDCG: over the whole ranking, with
    linear gains, so that it does not depend on the scale of the grades.
    """
    precisions, ranks, gains = [], [], []
    for example, answer in zip(examples, answers, strict=True):
        if len(set(example.target)) == 1:
            continue
        relevance = torch.tensor([float(example.target[candidate.index]) for candidate in answer.ranking])
        # Scores are positions instead of probabilities, so that ties keep the answered order.
        scores = torch.arange(len(relevance), 0, -1, dtype=torch.float32)
        gains.append(float(retrieval_normalized_dcg(scores, relevance)))
        if relevance.min() == 0:
            precisions.append(float(retrieval_average_precision(scores, relevance > 0)))
            ranks.append(float(retrieval_reciprocal_rank(scores, relevance > 0)))
    scores_by_name = {"map": precisions, "mrr": ranks, "ndcg": gains}
    return {name: float(np.mean(values or [0.0])) for name, values in scores_by_name.items()}


def _multiple_choice(_task: Task, examples: Sequence[Example], answers: Sequence[Any]) -> Scores:
    correct = [example.target for example in examples]
    return {"accuracy": float(metrics.accuracy_score(correct, [answer.choice for answer in answers]))}


def _tagging(task: Task, examples: Sequence[Example], answers: Sequence[Any]) -> Scores:
    correct = [[task.labels[label] for label in example.target] for example in examples]
    predicted = [word_tags(example, answer, bio=task.bio) for example, answer in zip(examples, answers, strict=True)]
    accuracy = metrics.accuracy_score([*chain(*correct)], [*chain(*predicted)])
    if not task.bio:
        return {"token_accuracy": float(accuracy)}
    return {"span_f1": score_entities(correct, predicted)[0].f1, "token_accuracy": float(accuracy)}


def _text_f1(task: Task, examples: Sequence[Example], answers: Sequence[Any]) -> Scores:
    """F1 of entities, or of words with plain tags, of which label, start and end are right."""
    right = given = common = 0
    for example, answer in zip(examples, answers, strict=True):
        tags = [task.labels[label] for label in example.target]
        correct = set(tagged_ranges(example.input.words or (), tags, bio=task.bio))
        predicted = {(entity.label, entity.start, entity.end) for entity in answer.entities}
        right, given, common = right + len(correct), given + len(predicted), common + len(correct & predicted)
    return {"text_f1": 2 * common / max(1, right + given)}


def word_tags(example: Example, answer: Any, *, bio: bool) -> list[str]:
    """The answer's entities as one tag per word of the example; words outside all entities are `O`."""
    assert example.input.words is not None
    tags = ["O"] * len(example.input.words)
    for entity in answer.entities:
        covered = [
            i for i, (start, end) in enumerate(example.input.words) if start >= entity.start and end <= entity.end
        ]
        for index, word in enumerate(covered):
            tags[word] = f"{'I' if index else 'B'}-{entity.label}" if bio else entity.label
    return tags


def _span(task: Task, examples: Sequence[Example], answers: Sequence[Any]) -> Scores:
    """F1 and exact match as in SQuAD; where questions may have no answer, F1 also of those with one and of those without."""
    scores = _squad(examples, answers)
    if task.may_lack_answer:
        for name, with_answer in (("has_answer_f1", True), ("no_answer_f1", False)):
            part = [pair for pair in zip(examples, answers, strict=True) if bool(pair[0].target) is with_answer]
            if part:
                scores[name] = _squad(*zip(*part, strict=True))["f1"]
    return scores


def _squad(examples: Sequence[Example], answers: Sequence[Any]) -> Scores:
    predicted: list[dict[str, Any]] = [
        {"prediction_text": answer.text, "id": str(i)} for i, answer in enumerate(answers)
    ]
    correct: list[dict[str, Any]] = []
    for i, example in enumerate(examples):
        context = example.input.text_pair or ""
        right = example.target or ((0, 0),)  # no answer is right as the empty text alone
        texts = [context[start:end] for start, end in right]
        correct.append({"answers": {"answer_start": [start for start, _ in right], "text": texts}, "id": str(i)})
    scores = squad(predicted, correct)
    return {"f1": float(scores["f1"]) / 100, "exact_match": float(scores["exact_match"]) / 100}


_SCORERS: dict[Kind, Callable[[Task, Sequence[Example], Sequence[Any]], Scores]] = {
    Kind.CLASSIFICATION: _classification,
    Kind.MULTILABEL: _multilabel,
    Kind.REGRESSION: _regression,
    Kind.RANKING: _ranking,
    Kind.MULTIPLE_CHOICE: _multiple_choice,
    Kind.TAGGING: _tagging,
    Kind.SPAN: _span,
}
