"""Task policies: each task's share of the device, and its limits in the queue and in a batch."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from polytask.service.config.validation import first_problem
from polytask.service.errors import StartupError

_EXAMPLE = '{"intent": {"weight": 4}}'


class PolicyError(ValueError):
    """A policy that is not valid; the message says of which task and why."""


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid", strict=True, allow_inf_nan=False))
class TaskPolicy:
    """How the rows of one task are treated. A limit of 0 means that only those of the whole queue apply.

    `weight`: its share of the device's tokens, relative to the other tasks that have rows waiting.
    `max_waiting_tokens`: beyond that its requests are refused. `max_rows`: its rows in a batch.
    `mix`: whether a batch may also hold rows of other tasks. Raises ValidationError.
    """

    weight: float = Field(default=1.0, ge=0.001, le=1000)
    max_waiting_tokens: int = Field(default=0, ge=0)
    max_rows: int = Field(default=0, ge=0)
    mix: bool = True


_POLICIES = TypeAdapter(dict[str, TaskPolicy])


def parse_task_policies(text: str) -> dict[str, TaskPolicy]:
    """Policies by the name of the task, from JSON: {"intent": {"weight": 4, "mix": false}}. Raises PolicyError."""
    try:
        return _POLICIES.validate_json(text)
    except ValidationError as error:
        path, problem = first_problem(error, TaskPolicy.__pydantic_fields__)  # type: ignore[attr-defined]  # mypy sees a plain dataclass
        if path:
            problem = " ".join([f"of task {path[0]!r}:", *path[1:], problem])
        raise PolicyError(f"{problem}; an example is {_EXAMPLE}") from None


def by_task_id(policies: Mapping[str, TaskPolicy], tasks: Sequence[str]) -> dict[int, TaskPolicy]:
    """The policies by task id. Raises StartupError for a task that the checkpoint does not have."""
    for name in policies:
        if name not in tasks:
            close = difflib.get_close_matches(name, tasks, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(tasks)}"
            raise StartupError(f"POLYTASK_TASK_POLICIES: the checkpoint has no task {name!r}; {hint}")
    return {tasks.index(name): policy for name, policy in policies.items()}
