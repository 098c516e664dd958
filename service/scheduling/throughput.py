"""Throughput: tokens a second of the last batches, in total and by task."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from polytask.service.scheduling.batch_selection import BatchLimits
from polytask.service.scheduling.task_queue import Row

_MEMORY = 0.95
"""The weight of the past, per batch: about the last twenty count."""


class ThroughputEstimator:
    """Tokens and seconds of the last batches, as exponentially decaying sums.

    A forward has a fixed cost, and a batch may be small because nothing else was waiting. So the work of a batch is its
    tokens plus `BatchLimits.forward_tokens`, and the rate is that of full batches at this speed, of rows like the last.
    """

    def __init__(self) -> None:
        self._batches = 0
        self._seconds = 0.0
        self._work = 0.0
        self._tokens = 0.0
        self._rows = 0.0
        self._by_task: dict[int, tuple[int, float]] = {}

    def record(self, rows: Iterable[Row[Any]], seconds: float, limits: BatchLimits) -> None:
        """Records a batch. `seconds`: how long it occupied the whole device."""
        self._batches += 1
        self._seconds = _MEMORY * self._seconds + max(seconds, 1e-6)
        self._work = _MEMORY * self._work + limits.forward_tokens
        self._tokens *= _MEMORY
        self._rows *= _MEMORY
        for row in rows:
            self._rows += 1
            self._work += row.num_tokens
            self._tokens += row.num_tokens
            self._by_task[row.task_id] = (self._batches, self._tokens_of(row.task_id) + row.num_tokens)

    def rate(self, limits: BatchLimits) -> float | None:
        """Tokens a second in full batches; None before the first batch."""
        if not self._rows:
            return None
        full = min(limits.token_budget, limits.max_rows * self._tokens / self._rows)
        return self._work / self._seconds * full / (full + limits.forward_tokens)

    def task_share(self, task_id: int) -> float:
        """The task's share of the recorded tokens, from 0 to 1."""
        return self._tokens_of(task_id) / self._tokens if self._tokens else 0.0

    def _tokens_of(self, task_id: int) -> float:
        batch, tokens = self._by_task.get(task_id, (self._batches, 0.0))
        return float(tokens * _MEMORY ** (self._batches - batch))
