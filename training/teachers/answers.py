"""Answers of teachers: from logits to the probabilities that a network is to learn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polytask.model.answers import Logits, sigmoid, softmax
from polytask.model.tasks import Kind, Task

Answers = NDArray[np.floating[Any]]
"""What is to be learnt of one example, see `EncodedExample.taught`."""


def answer_of(task: Task, logits: Logits) -> Answers:
    """The answer in the logits of one example, [rows, or words or tokens, outputs], in the same shape.

    Probabilities over labels, choices, or the places of a context; of each label or candidate by itself; or the place of a
    value in the range of a regression. If the output of a regression is the value, it is the answer.
    """
    match task.kind:
        case Kind.CLASSIFICATION | Kind.TAGGING:
            return softmax(logits, axis=1)
        case Kind.MULTIPLE_CHOICE | Kind.SPAN:
            return softmax(logits, axis=0)
        case Kind.REGRESSION if task.raw_output:
            return logits
        case Kind.REGRESSION | Kind.MULTILABEL | Kind.RANKING:
            return sigmoid(logits)


def mean_answer(task: Task, answers: Sequence[Answers]) -> Answers:
    """The mean of several teachers' answers to one example, in half precision if they are probabilities."""
    mean: Answers = np.mean(answers, axis=0, dtype=np.float32)
    return mean if task.raw_output else mean.astype(np.float16)
