"""Thresholds: the probabilities from which a label is given, or a question has no answer, chosen on examples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_curve

from polytask.model.answers import AnswerOptions, OptionalSpanAnswer, sigmoid
from polytask.model.encoding import InputEncoder
from polytask.model.network import Network
from polytask.model.tasks import Kind, Task
from polytask.training.data.examples import Example
from polytask.training.evaluation.evaluate import answer_inputs, row_logits
from polytask.training.evaluation.metrics import score_answers

FEWEST = 10
"""Examples that have a label, or have no answer, below which a threshold of its own would be that of a few examples."""


def choose_thresholds(network: Network, encoder: InputEncoder, task_id: int, examples: Sequence[Example]) -> Task:
    """The task with the thresholds that give the best F1 on `examples`: of each label, or of no answer to a question.

    A label that fewer than ten of the examples have gets the threshold that is best for all labels together; thresholds
    for which there are fewer than ten cases at all stay as they are.
    """
    task = network.tasks[task_id]
    if task.kind is Kind.SPAN:
        return _choose_no_answer(network, encoder, task_id, examples)
    rows = [row for rows in encoder.encode(task, [example.input for example in examples]) for row in rows]
    scores = sigmoid(np.stack(row_logits(network, rows, task_id, encoder.pad_id)))
    expected = np.array([example.target for example in examples])
    if expected.sum() < FEWEST:
        return task
    together = _best_cut(expected.ravel(), scores.ravel())
    thresholds = [
        _best_cut(expected[:, label], scores[:, label]) if expected[:, label].sum() >= FEWEST else together
        for label in range(len(task.labels))
    ]
    return replace(task, thresholds=tuple(thresholds))


def _best_cut(expected: NDArray[np.int64], scores: NDArray[np.float32]) -> float:
    """The score from which to say yes for the best F1."""
    precision, recall, cuts = precision_recall_curve(expected, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-9)
    return float(cuts[f1[:-1].argmax()])


def _choose_no_answer(network: Network, encoder: InputEncoder, task_id: int, examples: Sequence[Example]) -> Task:
    """The span task with the threshold that gives the best F1, as the evaluation of SQuAD 2.0 searches it."""
    task = network.tasks[task_id]
    unanswered = sum(not example.target for example in examples)
    if min(unanswered, len(examples) - unanswered) < FEWEST:
        return task
    never_empty = AnswerOptions(thresholds=(math.inf,))
    answers = answer_inputs(network, encoder, task_id, [example.input for example in examples], never_empty)
    # From the surest to the least sure that there is no answer: what F1 gains if each question up to here is left open.
    gains = []
    for example, found in zip(examples, answers, strict=True):
        assert isinstance(found, OptionalSpanAnswer)
        gains.append((float(not example.target) - score_answers(task, [example], [found])["f1"], found.no_answer))
    gains.sort(key=itemgetter(1), reverse=True)
    totals = np.cumsum([0.0, *(gain for gain, _ in gains)])
    best = int(totals.argmax())
    # Halfway to the next one, so that neither is decided by rounding.
    sure = [1.0, *(no_answer for _, no_answer in gains), 0.0]
    return replace(task, thresholds=((sure[best] + sure[best + 1]) / 2,))
