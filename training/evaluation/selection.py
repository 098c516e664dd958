"""Selection: how good a run is on training examples that no update sees, measured often and so on a few of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from polytask.model.answers import Answer
from polytask.model.encoding import InputEncoder
from polytask.model.network import Network
from polytask.training.data.examples import Example, TaskData
from polytask.training.data.splits import subsample
from polytask.training.evaluation.evaluate import answer_inputs
from polytask.training.evaluation.metrics import Scores, score_task
from polytask.training.evaluation.one_label import head_warnings

_MOST_ROWS = 256
"""Rows of a task; a ranking has one a candidate."""


class Selection:
    """The examples of `TaskData.selection` to measure on, drawn once: about 256 rows of each task that has any."""

    def __init__(self, data: Sequence[TaskData]) -> None:
        self._data = [_as_validation(task_data) for task_data in data]

    @property
    def num_rows(self) -> int:
        """The number of rows that one evaluation reads."""
        return sum(_num_rows(example) for task_data in self._data for example in task_data.validation)

    def answers(self, network: Network, encoder: InputEncoder) -> Iterator[tuple[str, list[Answer]]]:
        """Each measured task's name with the answers to its examples."""
        for task_id, task_data in enumerate(self._data):
            if task_data.validation:
                inputs = [example.input for example in task_data.validation]
                yield task_data.task.name, answer_inputs(network, encoder, task_id, inputs)

    def scores(self, answers: Mapping[str, Sequence[Answer]]) -> dict[str, Scores]:
        """The metrics of every measured task, the main one first."""
        data = {task_data.task.name: task_data for task_data in self._data}
        return {name: score_task(data[name], own) for name, own in answers.items()}

    def warnings(self, answers: Mapping[str, Sequence[Answer]]) -> dict[str, str]:
        """What is said of the tasks with a head that always says the same."""
        return head_warnings([task_data for task_data in self._data if task_data.task.name in answers], answers)


def mean_score(scores: Mapping[str, Scores]) -> float:
    """The mean of the tasks' main metrics."""
    return fmean(next(iter(metrics.values())) for metrics in scores.values())


def _as_validation(task_data: TaskData) -> TaskData:
    """The task with a random part of its selection as its only validation split."""
    examples = task_data.selection
    rows = sum(_num_rows(example) for example in examples)
    if rows > _MOST_ROWS:
        examples = tuple(subsample(examples, max(1, len(examples) * _MOST_ROWS // rows), seed=0))
    return replace(task_data, validation=examples, splits={"selection": len(examples)})


def _num_rows(example: Example) -> int:
    return max(1, len(example.input.candidates))
