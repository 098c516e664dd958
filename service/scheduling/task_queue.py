"""The rows of one task that wait: a lane, and the place of each row in it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from polytask.service.config.task_policies import TaskPolicy

Payload = TypeVar("Payload")


@dataclass(frozen=True, slots=True, eq=False)
class Row(Generic[Payload]):
    """One row for the network. `deadline`: seconds on the clock that the callers of the queue share."""

    task_id: int
    num_tokens: int
    deadline: float
    payload: Payload


Turn = tuple[float, float, int]
"""When a row leaves its lane for the front, smallest first: its start tag, its lane's finish tag, its arrival."""


@dataclass(slots=True, eq=False)
class QueuedRow:
    """A row in line. `clock`: the virtual time at which it came. `in_front`: whether it has left its lane for there.

    `fresh`: whether no other row of its lane was there when it entered.
    """

    row: Row[Any]
    task_queue: TaskQueue
    arrival: int
    admitted_at: float
    clock: float
    in_window: bool = False
    first_of_task: bool = False
    removed: bool = False


@dataclass(slots=True, eq=False)
class TaskQueue:
    """One task's rows. `behind`: those not in the front yet; `front`: those in it, and some that were. `finish`: its
    finish tag. `served`: what of it was run over its weight, in tokens, but that an idle time saves nothing up.

    `next_turn`: of the first row behind the front, as last told to the other lanes. The counts are of all its rows,
    and of those in the front.
    """

    policy: TaskPolicy
    backlog: deque[QueuedRow] = field(default_factory=deque)
    window: deque[QueuedRow] = field(default_factory=deque)
    finish: float = 0.0
    served: float = 0.0
    next_turn: Turn | None = None
    num_rows: int = 0
    num_tokens: int = 0
    num_in_window: int = 0

    def head(self) -> QueuedRow | None:
        """The first row behind the front."""
        while self.backlog and self.backlog[0].removed:
            self.backlog.popleft()
        return self.backlog[0] if self.backlog else None
