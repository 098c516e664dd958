"""How fast the line moves: tokens a second of the last batches, in all and by task."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from polytask.service.scheduling.batch_selection import BatchLimits
from polytask.service.scheduling.task_queue import Row

_MEMORY = 0.95
"""The weight of the past, per batch: about the last twenty count."""


class ThroughputEstimator:
    """Tokens and seconds of the batches so far, those that are long past forgotten.

    A forward has a cost of its own, and a batch may have been small because nothing else was there. So the work of a batch
    is its tokens and `Limits.forward_tokens`, and the rate is what that speed comes to in full batches of rows like the last.
    """

    def __init__(self) -> None:
        self._batches = 0
        self._seconds = 0.0
        self._work = 0.0
        self._tokens = 0.0
        self._rows = 0.0
        self._of_task: dict[int, tuple[int, float]] = {}

    def record(self, rows: Iterable[Row[Any]], seconds: float, limits: BatchLimits) -> None:
        """A batch of these rows took the whole of the device so long."""
        self._batches += 1
        self._seconds = _MEMORY * self._seconds + max(seconds, 1e-6)
        self._work = _MEMORY * self._work + limits.forward_tokens
        self._tokens *= _MEMORY
        self._rows *= _MEMORY
        for row in rows:
            self._rows += 1
            self._work += row.num_tokens
            self._tokens += row.num_tokens
            self._of_task[row.task_id] = (self._batches, self._recent(row.task_id) + row.num_tokens)

    def rate(self, limits: BatchLimits) -> float | None:
        """Tokens a second in full batches; None before the first batch."""
        if not self._rows:
            return None
        full = min(limits.token_budget, limits.max_rows * self._tokens / self._rows)
        return self._work / self._seconds * full / (full + limits.forward_tokens)

    def task_share(self, task_id: int) -> float:
        """Which part of these tokens were the task's."""
        return self._recent(task_id) / self._tokens if self._tokens else 0.0

    def _recent(self, task_id: int) -> float:
        batch, tokens = self._of_task.get(task_id, (self._batches, 0.0))
        return float(tokens * _MEMORY ** (self._batches - batch))
