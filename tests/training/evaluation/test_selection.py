"""Selection: what is measured on the way, and on how many examples."""

from __future__ import annotations

from dataclasses import replace

import pytest

from polytask.model.tasks import Kind
from polytask.training.evaluation.selection import Selection, mean_score
from tests.training.conftest import Workshop
from tests.training.support import toy


def test_every_task_with_a_selection_is_measured(workshop: Workshop) -> None:
    """Tasks with a selection get their metrics, the main one first, and tasks without are left out."""
    data = [replace(own, selection=own.train[:30]) for own in workshop.data]
    data[0] = replace(data[0], selection=())
    selection = Selection(data)
    answers = dict(selection.answers(workshop.network(), workshop.encoder))
    scores = selection.scores(answers)
    assert list(scores) == [*toy.TASKS.values()][1:]
    firsts = [next(iter(metrics.values())) for metrics in scores.values()]
    assert mean_score(scores) == pytest.approx(sum(firsts) / 6)
    assert set(selection.warnings(answers)) <= set(scores)


def test_few_examples_are_measured(workshop: Workshop) -> None:
    """Of a large selection about 256 rows are measured, from all of it: of rankings a third as many of three candidates."""
    classes, rankings = workshop.data[0], workshop.data[[*toy.TASKS].index(Kind.RANKING)]
    many = [replace(own, selection=own.train * 20) for own in (classes, rankings)]
    assert Selection(many[:1]).num_rows == 256
    assert 200 <= Selection(many[1:]).num_rows <= 256
    assert Selection([replace(classes, selection=())]).num_rows == 0
