"""Simulated device: runs a queue's batches at a known speed on a clock of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from polytask.service.scheduling.queue import FairQueue, Row


@dataclass
class Batch:
    """A batch under way on one stream."""

    rows: Sequence[Row[Any]]
    began: float
    ends: float


@dataclass
class SimulatedDevice:
    """A device that does `speed` work a second on all its streams together. Padding is work, too.

    `ran`: when each row was done. `expired`: rows whose deadline passed before they were taken.
    """

    queue: FairQueue[Any]
    speed: float
    now: float = 0.0
    ran: dict[Row[Any], float] = field(default_factory=dict)
    expired: list[Row[Any]] = field(default_factory=list)
    running: list[Batch] = field(default_factory=list)

    def seconds(self, rows: Sequence[Row[Any]]) -> float:
        """How long a batch occupies a stream."""
        padded = len(rows) * max(row.num_tokens for row in rows)
        return (self.queue.limits.forward_tokens + padded) * self.queue.num_streams / self.speed

    def run_until(self, end: float) -> None:
        """Runs what waits, and what is put into the queue at the present moment, until `end`."""
        while True:
            self._start_batches()
            batch = min(self.running, key=lambda batch: batch.ends, default=None)
            if batch is None or batch.ends > end:
                self.now = end
                return
            self.running.remove(batch)
            self.now = batch.ends
            self.ran |= dict.fromkeys(batch.rows, self.now)
            self.queue.batch_done(batch.rows, self.now - batch.began, self.now)

    def drain(self) -> None:
        """Runs until nothing waits and nothing runs."""
        while self.queue or self.running:
            self._start_batches()
            self.run_until(max((batch.ends for batch in self.running), default=self.now))

    def stall(self, seconds: float) -> None:
        """Stands still for a while: nothing starts, and what runs ends later."""
        self._start_batches()
        self.now += seconds
        for batch in self.running:
            batch.ends += seconds

    def _start_batches(self) -> None:
        while self.queue and len(self.running) < self.queue.num_streams:
            taken = self.queue.take(self.now, shares=max(1, self.queue.num_streams - len(self.running)))
            self.expired += taken.expired
            if taken.rows:
                self.running.append(Batch(taken.rows, self.now, self.now + self.seconds(taken.rows)))


def rows(
    lengths: Sequence[int], *, task_id: int = 0, now: float = 0.0, deadline_s: float = math.inf
) -> list[Row[None]]:
    """The rows of a request that arrives at `now`."""
    return [Row(task_id, length, now + deadline_s, None) for length in lengths]
