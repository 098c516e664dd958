"""How fast the line moves: tokens a second of the last batches, in all and by task."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from service.lanes import Row

_MEMORY = 0.95
"""The weight of the past, per batch: about the last twenty count."""


class Drain:
    """Tokens and seconds of the batches so far, those that are long past forgotten."""

    def __init__(self) -> None:
        self._batches = 0
        self._seconds = 0.0
        self._tokens = 0.0
        self._of_task: dict[int, tuple[int, float]] = {}

    def note(self, rows: Iterable[Row[Any]], seconds: float) -> None:
        """A batch of these rows took the device so long."""
        self._batches += 1
        self._seconds = _MEMORY * self._seconds + max(seconds, 1e-6)
        self._tokens *= _MEMORY
        for row in rows:
            self._tokens += row.num_tokens
            self._of_task[row.task_id] = (self._batches, self._recent(row.task_id) + row.num_tokens)

    def rate(self) -> float | None:
        """Tokens a second; None before the first batch."""
        return self._tokens / self._seconds if self._seconds else None

    def share(self, task_id: int) -> float:
        """Which part of these tokens were the task's."""
        return self._recent(task_id) / self._tokens if self._tokens else 0.0

    def _recent(self, task_id: int) -> float:
        batch, tokens = self._of_task.get(task_id, (self._batches, 0.0))
        return float(tokens * _MEMORY ** (self._batches - batch))
