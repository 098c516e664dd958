"""Answers of teachers: probabilities in the shape of logits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from polytask.model.tasks import Kind
from polytask.training.teachers.answers import answer_of, mean_answer
from tests.training.conftest import Workshop


def test_answers_are_probabilities(workshop: Workshop) -> None:
    """Labels of a row or word, and the choices or places of an example, share a probability of 1; others have their own."""
    for own in workshop.data:
        rows = 1 if own.task.kind in {Kind.CLASSIFICATION, Kind.MULTILABEL, Kind.REGRESSION} else 4
        logits = np.random.default_rng(0).normal(0, 300, (rows, own.task.num_outputs)).astype(np.float32)
        answer = answer_of(own.task, logits)
        assert answer.shape == logits.shape
        assert ((answer >= 0) & (answer <= 1)).all(), "no overflow, however sure"
        axes = {Kind.CLASSIFICATION: 1, Kind.TAGGING: 1, Kind.MULTIPLE_CHOICE: 0, Kind.SPAN: 0}
        if own.task.kind in axes:
            assert answer.sum(axis=axes[own.task.kind]) == pytest.approx(1, rel=1e-5)


def test_several_teachers_have_one_mean_answer(workshop: Workshop) -> None:
    """The answer of several teachers is the mean of their probabilities, in two bytes each."""
    task = workshop.data[0].task
    mean = mean_answer(task, [np.array([[0.2, 0.8]]), np.array([[0.6, 0.4]])])
    assert mean.dtype == np.float16
    assert mean == pytest.approx(np.array([[0.4, 0.6]]), abs=1e-3)


def test_values_keep_their_precision(workshop: Workshop) -> None:
    """Values of a regression, which may be of any size, are kept as they are."""
    task = replace(next(own.task for own in workshop.data if own.task.kind is Kind.REGRESSION), raw_output=True)
    logits = np.array([[123456.0]], np.float32)
    assert mean_answer(task, [answer_of(task, logits)] * 2).tolist() == [[123456.0]]
