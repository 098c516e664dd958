"""Task warnings: what people must know of a task before its version is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from polytask.model.answers import Answer
from polytask.training.data.examples import TaskData
from polytask.training.evaluation.metrics import Scores
from polytask.training.evaluation.one_label import head_warnings
from polytask.training.evaluation.simple_models import References, behind_warnings


def task_warnings(
    data: Sequence[TaskData],
    scores: Mapping[str, Scores],
    answers: Mapping[str, Sequence[Answer]],
    references: References,
) -> dict[str, str]:
    """What is wrong by task, as text that follows the task's name: heads of one label, scores behind simple models."""
    found = head_warnings(data, answers), behind_warnings(data, scores, references)
    texts = {own.task.name: [each[own.task.name] for each in found if own.task.name in each] for own in data}
    return {name: ", and ".join(parts) for name, parts in texts.items() if parts}
