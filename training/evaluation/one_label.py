"""One label: heads that say the same of every text, which a mean metric can hide where the other labels are rare."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from polytask.model.answers import Answer
from polytask.model.tasks import Kind, Task
from polytask.training.data.examples import Example, TaskData
from polytask.training.evaluation.metrics import likeliest_label

_SHARE = 0.98
"""Share of the answers from which on a head says one thing only."""
_FEWEST = 20
"""Examples; of fewer nothing can be said."""


def only_answer(task: Task, examples: Sequence[Example], answers: Sequence[Answer]) -> str | None:
    """What the task's head says in at least 98% of the answers, if a twentieth of the examples or more are otherwise.

    The answer to an example is its label, its set of labels, or of tagging whether any word is tagged (that some are is no fault). None for other
    kinds and heads, and for fewer than 20 examples.
    """
    if task.kind not in _SAID or len(examples) < _FEWEST:
        return None
    right, given = _SAID[task.kind]
    said, count = Counter(given(answer) for answer in answers).most_common(1)[0]
    others = sum(right(task, example) != said for example in examples) / len(examples)
    share = count / len(answers)
    if said is True or share < _SHARE or others < 0.05:
        return None
    return f"says {_name(said)} in {share:.0%} of {len(answers):,} answers, where {others:.0%} should be others"


def head_warnings(data: Sequence[TaskData], answers: Mapping[str, Sequence[Answer]]) -> dict[str, str]:
    """What `only_answer` says of the answers to validation examples, of each task of which it says something."""
    found = {own.task.name: only_answer(own.task, own.validation, answers[own.task.name]) for own in data}
    return {name: warning for name, warning in found.items() if warning}


def _name(said: Hashable) -> str:
    if isinstance(said, frozenset):
        return " and ".join(map(repr, sorted(said))) or "no label"
    if said is False:
        return "no entity"
    return repr(said)


def _right_labels(task: Task, example: Example) -> Hashable:
    return frozenset(label for label, has in zip(task.labels, example.target, strict=True) if has)


def _right_tags(task: Task, example: Example) -> Hashable:
    return any(task.labels[label] != "O" for label in example.target)


_SAID: dict[Kind, tuple[Any, Any]] = {
    Kind.CLASSIFICATION: (lambda task, example: task.labels[example.target], likeliest_label),
    Kind.MULTILABEL: (_right_labels, lambda answer: frozenset(entry.label for entry in answer.labels)),
    Kind.TAGGING: (_right_tags, lambda answer: bool(answer.entities)),
}
"""By kind what an example says and what an answer says, in the same form."""
