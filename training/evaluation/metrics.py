"""Answers against right answers, in each task's own metrics. All values are 0 to 1 (correlations: -1 to 1).

The metrics come from scikit-learn, scipy, seqeval and torchmetrics; this file only brings answers into their form.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from scipy import stats
from seqeval.metrics import f1_score as entity_f1
from sklearn import metrics
from torchmetrics.functional.retrieval import retrieval_average_precision, retrieval_reciprocal_rank
from torchmetrics.functional.text import squad

from polytask.model.answers import Answer
from polytask.model.tasks import Kind, Task
from polytask.training.data.examples import Example, TaskData

Scores = dict[str, float]

_MEANS = {"f1_accuracy": ("f1", "accuracy"), "accuracy_macro_f1": ("accuracy", "macro_f1")}


def score_task(own: TaskData, answers: Sequence[Answer]) -> Scores:
    """All metrics of the task, the recipe's main one first; `answers[i]` answers `own.validation[i].input`.

    Those of the first validation split go by their own names, those of the others are `metric/split`.
    """
    assert sum(own.splits.values()) == len(own.validation) == len(answers), "an answer for every example"
    scores: Scores = {}
    start = 0
    for split, size in own.splits.items():
        part = slice(start, start + size)
        choice = (own.config.metric, own.config.positive_label)
        found = score_answers(own.task, own.validation[part], answers[part], *choice)
        scores |= {f"{name}/{split}" if start else name: value for name, value in found.items()}
        start += size
    return scores


def score_answers(
    task: Task,
    examples: Sequence[Example],
    answers: Sequence[Answer],
    metric: str | None = None,
    positive_label: str | None = None,
) -> Scores:
    """All metrics of the task's kind, the main one first: `metric`, or the kind's own.

    `answers[i]` answers `examples[i].input`. The F1 of `positive_label` is among the metrics of a classification that
    has one; a mean of two metrics is only where it is the main one.
    """
    scores = _SCORERS[task.kind](task, examples, answers)
    if positive_label is not None:
        scores["f1"] = _label_f1(task, examples, answers, positive_label)
    if metric is None:
        return scores
    if metric in _MEANS:
        first, second = _MEANS[metric]
        scores[metric] = (scores[first] + scores[second]) / 2
    return {metric: scores[metric]} | scores


def _label_f1(task: Task, examples: Sequence[Example], answers: Sequence[Any], label: str) -> float:
    right = [task.labels[example.target] == label for example in examples]
    given = [answer.label == label for answer in answers]
    return float(metrics.f1_score(right, given, zero_division=0.0))


def _classification(task: Task, examples: Sequence[Example], answers: Sequence[Any]) -> Scores:
    right = [task.labels[example.target] for example in examples]
    given = [answer.label for answer in answers]
    return {
        "accuracy": float(metrics.accuracy_score(right, given)),
        "macro_f1": float(metrics.f1_score(right, given, average="macro", zero_division=0.0)),
        # Without a second label there is nothing to correlate.
        "matthews": float(metrics.matthews_corrcoef(right, given)) if len({*right, *given}) > 1 else 0.0,
    }


def _multilabel(task: Task, examples: Sequence[Example], answers: Sequence[Any]) -> Scores:
    right = np.array([example.target for example in examples])
    given = np.zeros_like(right)
    for row, answer in enumerate(answers):
        given[row, [task.labels.index(entry.label) for entry in answer.labels]] = 1
    return {
        f"{average}_f1": float(metrics.f1_score(right, given, average=average, zero_division=0.0))
        for average in ("macro", "micro")
    }


def _regression(_task: Task, examples: Sequence[Example], answers: Sequence[Any]) -> Scores:
    right = [example.target for example in examples]
    given = [answer.value for answer in answers]
    if len(set(right)) == 1 or len(set(given)) == 1:  # a constant correlates with nothing
        return {"pearson_spearman": 0.0, "pearson": 0.0, "spearman": 0.0}
    pearson = float(stats.pearsonr(right, given).statistic)
    spearman = float(stats.spearmanr(right, given).statistic)
    return {"pearson_spearman": (pearson + spearman) / 2, "pearson": pearson, "spearman": spearman}


def _ranking(_task: Task, examples: Sequence[Example], answers: Sequence[Any]) -> Scores:
    """Over the queries that have both a relevant and an irrelevant candidate; the others rank right in any order."""
    precisions, ranks = [], []
    for example, answer in zip(examples, answers, strict=True):
        if len(set(example.target)) == 2:
            # Scored by place, not probability, so that a tie keeps the order that was answered.
            relevant = torch.tensor([bool(example.target[candidate.index]) for candidate in answer.ranking])
            places = torch.arange(len(relevant), 0, -1, dtype=torch.float32)
            precisions.append(float(retrieval_average_precision(places, relevant)))
            ranks.append(float(retrieval_reciprocal_rank(places, relevant)))
    return {"map": float(np.mean(precisions or [0.0])), "mrr": float(np.mean(ranks or [0.0]))}


def _multiple_choice(_task: Task, examples: Sequence[Example], answers: Sequence[Any]) -> Scores:
    right = [example.target for example in examples]
    return {"accuracy": float(metrics.accuracy_score(right, [answer.choice for answer in answers]))}


def _tagging(task: Task, examples: Sequence[Example], answers: Sequence[Any]) -> Scores:
    right = [[task.labels[label] for label in example.target] for example in examples]
    given = [word_tags(example, answer, bio=task.bio) for example, answer in zip(examples, answers, strict=True)]
    accuracy = metrics.accuracy_score([*chain(*right)], [*chain(*given)])
    if not task.bio:
        return {"token_accuracy": float(accuracy)}
    return {"span_f1": float(entity_f1(right, given, zero_division=0)), "token_accuracy": float(accuracy)}


def word_tags(example: Example, answer: Any, *, bio: bool) -> list[str]:
    """The answer's entities as one tag per word of the example; words outside every entity are `O`."""
    assert example.input.words is not None
    tags = ["O"] * len(example.input.words)
    for entity in answer.entities:
        covered = [
            i for i, (start, end) in enumerate(example.input.words) if start >= entity.start and end <= entity.end
        ]
        for place, word in enumerate(covered):
            tags[word] = f"{'I' if place else 'B'}-{entity.label}" if bio else entity.label
    return tags


def _span(_task: Task, examples: Sequence[Example], answers: Sequence[Any]) -> Scores:
    given: list[dict[str, Any]] = [{"prediction_text": answer.text, "id": str(i)} for i, answer in enumerate(answers)]
    right: list[dict[str, Any]] = []
    for i, example in enumerate(examples):
        context = example.input.text_pair or ""
        texts = [context[start:end] for start, end in example.target]
        right.append({"answers": {"answer_start": [s for s, _ in example.target], "text": texts}, "id": str(i)})
    scores = squad(given, right)
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
