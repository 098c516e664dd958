"""Shared queue: the time that it records for batches that run side by side."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from polytask.service.engine.shared_queue import SharedQueue
from polytask.service.scheduling.queue import BatchLimits, FairQueue, Row

LIMITS = BatchLimits(max_rows=1, token_budget=64, forward_tokens=4, max_waiting_tokens=400)


class RecordedQueue(FairQueue[Any]):
    """A queue that keeps the seconds for which each batch had the whole device."""

    def __init__(self) -> None:
        super().__init__(LIMITS)
        self.seconds: list[float] = []

    def batch_done(self, rows: Sequence[Row[Any]], seconds: float) -> None:
        """Keeps the seconds of the batch, and records it."""
        self.seconds.append(seconds)
        super().batch_done(rows, seconds)


def test_batches_side_by_side_share_the_elapsed_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two batches side by side share the elapsed time; one alone on two streams uses half of it."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("polytask.service.engine.shared_queue.time", SimpleNamespace(monotonic=lambda: clock.now))
    recorded = RecordedQueue()
    queue = SharedQueue(recorded, num_streams=2)
    rows: list[Row[Any]] = [Row(0, 10, 1e9, None) for _ in range(3)]
    queue.admit(rows)
    first, second = queue.take(), queue.take()
    clock.now = 3.0
    queue.batch_done(first.rows)
    third = queue.take()
    clock.now = 4.0
    queue.batch_done(second.rows)
    clock.now = 6.0
    queue.batch_done(third.rows)
    assert recorded.seconds == [3.0, 1.0, 1.0]
