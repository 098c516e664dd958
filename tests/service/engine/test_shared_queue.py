"""Shared queue: what it makes of the times that device loops report."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from polytask.service.engine.shared_queue import SharedQueue
from polytask.service.scheduling.queue import BatchLimits, FairQueue, Row

LIMITS = BatchLimits(max_rows=1, token_budget=64, forward_tokens=4, max_waiting_tokens=400)


def test_batches_side_by_side_add_their_speeds() -> None:
    """Two streams that take a second each for a batch are as fast together as one that takes half a second."""
    queue = SharedQueue(FairQueue[Any](LIMITS, num_streams=2))
    queue.start(replace(LIMITS, speed=100))
    assert queue.speed() == 200
    rows: list[Row[Any]] = [Row(0, 60, 1e9, None) for _ in range(8)]
    for row in rows[:-2]:
        queue.admit([row])
    for _ in range(3):
        first, second = queue.take(), queue.take()
        queue.batch_done(first.rows, 1.0)
        queue.batch_done(second.rows, 1.0)
    assert queue.speed() == pytest.approx(2 * 64)


def test_a_batch_that_fails_says_nothing_about_the_speed() -> None:
    """A batch that has failed at once leaves the speed as it was."""
    queue = SharedQueue(FairQueue[Any](LIMITS))
    queue.start(replace(LIMITS, speed=100))
    row: Row[Any] = Row(0, 60, 1e9, None)
    for _ in range(5):
        queue.admit([row])
        queue.batch_done(queue.take().rows, None)
    assert queue.speed() == 100
