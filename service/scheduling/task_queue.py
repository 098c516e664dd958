"""Task queue: the waiting rows of one task, first in, first out."""

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
"""Order in which rows move to the window, smallest first: start tag, finish tag of the task queue, arrival number."""


@dataclass(slots=True, eq=False)
class QueuedRow:
    """A row in the queue. `clock`: the virtual time of its arrival. `in_window`: whether it has moved to the window.

    `first_of_task`: whether no other row of its task was there when it did. `removed`: whether it has left the queue.
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
    """The rows of one task. `backlog`: those not yet in the window; `window`: those in it, and some that have left it.

    `finish`: its finish tag. `served`: tokens that were run over its weight, raised after an idle time so that nothing is
    saved up. `next_turn`: of the first row of the backlog, as it was last scheduled. The counts are of all rows, and of
    those in the window.
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
        """The first row of the backlog."""
        while self.backlog and self.backlog[0].removed:
            self.backlog.popleft()
        return self.backlog[0] if self.backlog else None
