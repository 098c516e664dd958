"""Answer drift: its value for each kind of task, and the golden inputs that it is computed from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from polytask.model.encoding import InputEncoder
from polytask.model.tasks import Kind, Task
from polytask.service.backends.forward import Forward
from polytask.service.backends.torch_cpu import TorchBackend
from polytask.service.versions.answer_drift import answer_drift, task_drifts
from tests.service.support import checkpoints
from tests.support import tiny

TASKS = {task.kind: task for task in tiny.tasks()}


def entity(label: str, start: int, end: int) -> dict[str, Any]:
    """An entity of an answer."""
    return {"label": label, "start": start, "end": end, "score": 0.5, "text": "x" * (end - start)}


@pytest.mark.parametrize(
    ("kind", "before", "after", "far"),
    [
        (Kind.CLASSIFICATION, {"scores": {"a": 0.9, "b": 0.1}}, {"scores": {"b": 0.4, "a": 0.6}}, 0.3),
        (Kind.CLASSIFICATION, {"scores": {"a": 0.9, "b": 0.1}}, {"scores": {"c": 1.0}}, 1.0),
        (Kind.MULTILABEL, {"scores": {"a": 0.9, "b": 0.1}}, {"scores": {"a": 0.8, "b": 0.5}}, 0.4),
        (Kind.REGRESSION, {"value": 1.0}, {"value": 3.5}, 0.5),
        (
            Kind.RANKING,
            {"ranking": ({"index": 1, "score": 0.9}, {"index": 0, "score": 0.2})},
            {"ranking": ({"index": 0, "score": 0.5}, {"index": 1, "score": 0.4})},
            0.5,
        ),
        (Kind.MULTIPLE_CHOICE, {"scores": (0.9, 0.1)}, {"scores": (0.6, 0.4)}, 0.3),
        (Kind.TAGGING, {"entities": (entity("a", 0, 3), entity("b", 4, 6))}, {"entities": (entity("a", 0, 3),)}, 1 / 3),
        (Kind.TAGGING, {"entities": (entity("a", 0, 3),)}, {"entities": (entity("b", 0, 3),)}, 1.0),
        (Kind.TAGGING, {"entities": ()}, {"entities": ()}, 0.0),
        (Kind.SPAN, {"start": 0, "end": 10}, {"start": 5, "end": 15}, 0.5),
        (Kind.SPAN, {"start": 0, "end": 4}, {"start": 5, "end": 9}, 1.0),
    ],
)
def test_the_drift_of_an_answer(kind: Kind, before: Mapping[str, Any], after: Mapping[str, Any], far: float) -> None:
    """The drift is the same in both directions, and 0 for equal answers."""
    task = TASKS[kind]
    assert answer_drift(task, before, after) == answer_drift(task, after, before) == pytest.approx(far)
    assert answer_drift(task, before, before) == answer_drift(task, after, after) == 0


def drifts(seed: int, tasks: tuple[Task, ...], tolerance: float = 0.5) -> dict[str, Any]:
    """The drifts of a network against the tiny one, for the tasks that both have."""
    encoder = InputEncoder(tiny.tokenizer())
    forward = Forward(TorchBackend(tiny.network(seed, tasks)), tasks, encoder.pad_id)
    names = {task.name for task in tiny.tasks()}
    tolerances = {task.name: tolerance for task in tasks if task.name in names}
    return task_drifts(forward, tasks, encoder, checkpoints.in_memory().manifest, tolerances)


def test_the_same_network_has_no_drift() -> None:
    """The drift is below 1e-5 for an equal network, whatever the order of its tasks, and nothing is refused."""
    same = drifts(0, tiny.tasks(), tolerance=1e-5)
    assert same.keys() == TASKS_BY_NAME.keys()
    assert all(shift.moved < 1e-5 and not shift.refused for shift in same.values())


def test_another_network_has_drift() -> None:
    """Drifts over the tolerance are refused, the others are not."""
    other = drifts(1, tuple(reversed(tiny.tasks())))
    assert max(shift.moved for shift in other.values()) > 0.5
    assert all(shift.refused == (shift.moved > 0.5) for shift in other.values())


def test_a_task_of_another_kind_has_a_drift_of_one() -> None:
    """Answers of different kinds cannot be compared and count as the largest drift."""
    tasks = (replace(TASKS_BY_NAME["topics"], name="mood"), *tiny.tasks()[2:])
    assert drifts(0, tasks)["mood"].moved == 1


TASKS_BY_NAME = {task.name: task for task in tiny.tasks()}
