"""Temperature: it is found again in logits that were multiplied by it, for every kind that has probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from polytask.model.answers import Logits, sigmoid, softmax
from polytask.model.tasks import Kind, Task
from polytask.training.data.examples import EncodedExample
from polytask.training.publishing.temperature import HIGHEST, LOWEST, fit_temperature
from tests.training.conftest import Workshop

KINDS = [kind for kind in Kind if kind is not Kind.REGRESSION]


def _drawn(task: Task, example: EncodedExample, rows: Sequence[Logits], generator: np.random.Generator) -> Any:
    """A target that is drawn by the probabilities of the rows' logits."""

    def one_of(logits: Logits) -> int:
        return int(generator.choice(len(logits), p=softmax(logits.astype(np.float64))))

    positions = list(example.encodings[0].positions)
    match task.kind:
        case Kind.CLASSIFICATION:
            return one_of(rows[0])
        case Kind.MULTIPLE_CHOICE:
            return one_of(np.concatenate(rows))
        case Kind.TAGGING:
            return tuple(one_of(word) for word in rows[0][positions])
        case Kind.SPAN:
            return tuple(one_of(end) for end in rows[0][positions].T)
        case _:
            return tuple((generator.random(len(row)) < sigmoid(row)).astype(int).tolist() for row in rows)


def _sample(workshop: Workshop, kind: Kind, copies: int = 30) -> tuple[Task, list[EncodedExample], list[list[Logits]]]:
    """Examples with targets that are drawn by the probabilities of the logits."""
    generator = np.random.default_rng(4)
    task_id = next(index for index, each in enumerate(workshop.data) if each.task.kind is kind)
    task, examples, logits = workshop.data[task_id].task, [], []
    for example in workshop.examples[task_id] * copies:
        shapes = [
            (len(row), task.num_outputs) if task.token_level else (task.num_outputs,) for row in example.encodings
        ]
        rows = [generator.normal(scale=1.5, size=shape).astype(np.float32) for shape in shapes]
        target = _drawn(task, example, rows, generator)
        if kind in {Kind.MULTILABEL, Kind.RANKING}:
            target = tuple(value for row in target for value in row)
        examples.append(replace(example, target=target))
        logits.append(rows)
    return task, examples, logits


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_the_temperature_of_logits_is_found(workshop: Workshop, kind: Kind, factor: float) -> None:
    """Logits by whose probabilities the targets were drawn, times a factor, have about that factor as temperature."""
    task, examples, logits = _sample(workshop, kind)
    scaled = [[row * np.float32(factor) for row in rows] for rows in logits]
    assert fit_temperature(task, examples, scaled) == pytest.approx(factor, rel=0.15)


def test_a_temperature_has_bounds(workshop: Workshop) -> None:
    """Logits that are far too large or too small have the highest or lowest temperature."""
    task, examples, logits = _sample(workshop, Kind.CLASSIFICATION)
    for factor, bound in ((100.0, HIGHEST), (0.01, LOWEST)):
        scaled = [[row * np.float32(factor) for row in rows] for rows in logits]
        assert fit_temperature(task, examples, scaled) == pytest.approx(bound, rel=1e-3)


def test_regressions_and_few_examples_have_none(workshop: Workshop) -> None:
    """The temperature of a regression, and that below fifty examples, is 1."""
    task, examples, logits = _sample(workshop, Kind.CLASSIFICATION)
    large = [[row * 5 for row in rows] for rows in logits]
    assert fit_temperature(task, examples[:49], large[:49]) == 1.0
    assert fit_temperature(task, examples[:50], large[:50]) > 1.0
    (regression,) = [each.task for each in workshop.data if each.task.kind is Kind.REGRESSION]
    assert fit_temperature(regression, examples, large) == 1.0
