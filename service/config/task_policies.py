"""What a deployment may decide about each task's lane in the queue: its share of the device, and its limits."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from polytask.service.errors import StartupError

_MAX_WEIGHT = 1000.0


class PolicyError(ValueError):
    """A policy that cannot be; the message says which and why."""


@dataclass(frozen=True, slots=True)
class TaskPolicy:
    """How the rows of one task are treated. A limit of 0 is none beyond those of the whole queue.

    `weight`: its share of the device's tokens, beside those of the other tasks that have rows waiting.
    `max_waiting_tokens`: over that, its requests are refused. `max_rows`: of its rows in a batch.
    `mix`: whether a batch may hold rows of other tasks as well. Raises PolicyError.
    """

    weight: float = 1.0
    max_waiting_tokens: int = 0
    max_rows: int = 0
    mix: bool = True

    def __post_init__(self) -> None:
        if not 1 / _MAX_WEIGHT <= self.weight <= _MAX_WEIGHT:
            raise PolicyError(f"weight must be from {1 / _MAX_WEIGHT} to {_MAX_WEIGHT:.0f}, got {self.weight}")
        for name in ("max_waiting_tokens", "max_rows"):
            if getattr(self, name) < 0:
                raise PolicyError(f"{name} must be at least 0, got {getattr(self, name)}")


def parse_task_policies(text: str) -> dict[str, TaskPolicy]:
    """Policies by the name of the task, from JSON: {"intent": {"weight": 4, "mix": false}}. Raises PolicyError."""
    try:
        given = json.loads(text)
    except ValueError as error:
        raise PolicyError(f"must be JSON: {error}") from None
    if not isinstance(given, dict):
        raise PolicyError('must be an object by task, such as {"intent": {"weight": 4}}')
    return {task: _policy(task, wishes) for task, wishes in given.items()}


def by_task_id(policies: Mapping[str, TaskPolicy], tasks: Sequence[str]) -> dict[int, TaskPolicy]:
    """The same by task id. Raises StartupError for a task that the checkpoint does not have."""
    for name in policies:
        if name not in tasks:
            close = difflib.get_close_matches(name, tasks, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(tasks)}"
            raise StartupError(f"POLYTASK_LANES: the checkpoint has no task {name!r}; {hint}")
    return {tasks.index(name): policy for name, policy in policies.items()}


def _policy(task: str, wishes: Any) -> TaskPolicy:
    if not isinstance(wishes, dict):
        raise PolicyError(f'task {task!r}: must be an object such as {{"weight": 4}}, got {wishes!r}')
    defaults = {field.name: field.default for field in fields(TaskPolicy)}
    for name, value in wishes.items():
        if name not in defaults:
            raise PolicyError(f"task {task!r}: {name!r} is none of {', '.join(defaults)}")
        kind = type(defaults[name])
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise PolicyError(f"task {task!r}: {name} must be a {_NOUNS[kind]}, got {value!r}")
    try:
        return TaskPolicy(**wishes)
    except PolicyError as error:
        raise PolicyError(f"task {task!r}: {error}") from None


_NOUNS: dict[type, str] = {float: "number", int: "whole number", bool: "boolean"}
