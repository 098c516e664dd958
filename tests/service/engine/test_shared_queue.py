"""What the line notes of streams that run side by side."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from polytask.service.engine.shared_queue import SharedQueue
from polytask.service.scheduling.queue import BatchLimits, FairQueue, Row

LIMITS = BatchLimits(max_rows=1, token_budget=64, forward_tokens=4, max_waiting_tokens=400)


class Noted(FairQueue[Any]):
    """A queue that keeps what it was told of batches: for how many seconds each had the whole device."""

    def __init__(self) -> None:
        super().__init__(LIMITS)
        self.seconds: list[float] = []

    def batch_done(self, rows: Sequence[Row[Any]], seconds: float) -> None:
        """As for any queue."""
        self.seconds.append(seconds)
        super().batch_done(rows, seconds)


def test_a_batch_has_the_part_of_the_device_that_its_stream_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that run side by side share the time that passes, and one alone has left a half of it unused."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("polytask.service.engine.shared_queue.time", SimpleNamespace(monotonic=lambda: clock.now))
    queue = Noted()
    line = SharedQueue(queue, num_streams=2)
    rows: list[Row[Any]] = [Row(0, 10, 1e9, None) for _ in range(3)]
    line.admit(rows)
    first, second = line.take(), line.take()
    clock.now = 3.0
    line.batch_done(first.rows)
    third = line.take()
    clock.now = 4.0
    line.batch_done(second.rows)
    clock.now = 6.0
    line.batch_done(third.rows)
    assert queue.seconds == [3.0, 1.0, 1.0]
