"""Throughput: the estimated rate, and the waits that clients get from it, in a simulated overload."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from polytask.service.config.task_policies import TaskPolicy
from polytask.service.scheduling.queue import BatchLimits, FairQueue, Full, QuotaFull, Row, TooLate
from polytask.service.scheduling.throughput import ThroughputEstimator

LIMITS = BatchLimits(max_rows=32, token_budget=1024, forward_tokens=32, max_waiting_tokens=30_000)
TOKENS_PER_S = 10_000
QUOTA = 6000


def row(length: int, *, task_id: int = 0, deadline: float = 1e9) -> Row[None]:
    """A row without a payload."""
    return Row(task_id, length, deadline, None)


def test_the_rate_is_that_of_the_last_batches() -> None:
    """The rate is weighted by time, total and by task; it is unknown before the first batch."""
    throughput, limits = ThroughputEstimator(), replace(LIMITS, forward_tokens=0)
    assert (throughput.rate(limits), throughput.task_share(0)) == (None, 0)
    for _ in range(200):
        throughput.record([row(1000)], 10, limits)
    for _ in range(200):
        throughput.record([row(90), row(10, task_id=1)], 1, limits)
        throughput.record([row(300)], 1, limits)
    assert throughput.rate(limits) == pytest.approx(200, rel=0.05)
    assert throughput.task_share(1) == pytest.approx(10 / 400, rel=0.1)


@pytest.mark.parametrize(("length", "together"), [(4, 1), (4, 20), (30, 1), (30, 32), (1000, 1)])
def test_the_rate_is_that_of_full_batches_however_small_the_last_were(length: int, together: int) -> None:
    """The rate depends on the length of rows, not on the number of rows in the last batches."""
    throughput = ThroughputEstimator()
    for _ in range(50):
        throughput.record([row(length)] * together, (LIMITS.forward_tokens + together * length) / TOKENS_PER_S, LIMITS)
    full = min(LIMITS.max_rows * length, LIMITS.token_budget)
    assert throughput.rate(LIMITS) == pytest.approx(TOKENS_PER_S * full / (LIMITS.forward_tokens + full), rel=0.01)


def test_many_rows_are_let_in_after_single_ones() -> None:
    """A device that has run only single short rows is not considered too slow for two hundred long rows."""
    queue: FairQueue[None] = FairQueue(LIMITS)
    for _ in range(50):
        queue.admit([row(4)], 0)
        queue.batch_done(queue.take(0).rows, (LIMITS.forward_tokens + 4) / TOKENS_PER_S)
    queue.admit([row(100, deadline=10) for _ in range(200)], 0)


@dataclass
class Simulation:
    """A device with a known cost and too many requests, half of them for task 0. Times are simulated.

    `left`: time, and tokens of task 0 and of all tasks that have left the queue by then. `refused`: time, error, tokens
    in excess, and the estimated wait.
    """

    queue: FairQueue[None]
    deadline_s: float = 1e9
    total: Counter[str] = field(default_factory=Counter)
    left: list[tuple[float, int, int]] = field(default_factory=list)
    refused: list[tuple[float, type[Full], int, float]] = field(default_factory=list)

    def overload(self, seconds: float, *, times: float) -> None:
        """Sends `times` as many tokens as the device can run, in requests of very different sizes."""
        generator, next_at, now = np.random.default_rng(0), 0.0, 0.0
        while now < seconds:
            rows, expired = self.queue.take(now)
            self.total.update(expired=len(expired), ran=len(rows))
            for each in rows:
                self.total.update({"all": each.num_tokens, f"task {each.task_id}": each.num_tokens})
            self.left.append((now, self.total["task 0"], self.total["all"]))
            padded = len(rows) * max((row.num_tokens for row in rows), default=0)
            took = (LIMITS.forward_tokens + padded) / TOKENS_PER_S
            while next_at < now + took:
                lengths = generator.lognormal(3, 0.6, generator.choice([1, 4, 30, 200])).clip(4, 384).astype(int)
                task_id = int(generator.choice([0, 0, 0, 1, 2, 3]))
                self._request(
                    [row(int(n), task_id=task_id, deadline=next_at + self.deadline_s) for n in lengths], next_at
                )
                next_at += lengths.sum() / TOKENS_PER_S / times
            now += took
            self.queue.batch_done(rows, took)

    def _request(self, rows: list[Row[None]], now: float) -> None:
        waiting = self.queue.waiting()
        asked = sum(row.num_tokens for row in rows)
        try:
            self.queue.admit(rows, now)
        except QuotaFull as full:
            if rows[0].task_id == 0:
                self.refused.append((now, QuotaFull, waiting[0].tokens + asked - QUOTA, full.wait_s))
        except Full as full:
            excess = sum(tokens for _, tokens in waiting.values()) + asked - LIMITS.max_waiting_tokens
            self.refused.append((now, type(full), excess, full.wait_s))

    def waits(self, why: type[Full]) -> list[tuple[float, float]]:
        """Estimated and real waits after the start, without those of one or two batches."""
        column, found = (1 if why is QuotaFull else 2), []
        times = [entry[0] for entry in self.left]
        left = [entry[column] for entry in self.left]
        for now, error, excess, estimate in self.refused:
            then = bisect_left(left, left[bisect_right(times, now) - 1] + excess)
            if error is why and now > 5 and estimate > 0.25 and then < len(times):
                found.append((estimate, times[then] - now))
        return found


@pytest.mark.parametrize("why", [Full, QuotaFull])
def test_retry_after_is_right_within_a_factor_of_two(why: type[Full]) -> None:
    """At ten times the possible load, the queue and a quota have room again within a factor of two of the estimate."""
    quota = TaskPolicy(weight=2, max_waiting_tokens=QUOTA)
    simulation = Simulation(FairQueue(LIMITS, dict.fromkeys(range(4), quota) if why is QuotaFull else {}))
    simulation.overload(15, times=10)
    waits = simulation.waits(why)
    assert len(waits) > 20
    right = [estimate / 2 <= real <= 2 * estimate for estimate, real in waits]
    assert sum(right) >= 0.95 * len(right)


def test_what_is_accepted_in_an_overload_is_run_before_its_deadline() -> None:
    """When the queue is longer than deadlines allow, requests are refused at once instead of expiring in it."""
    simulation = Simulation(FairQueue(LIMITS), deadline_s=1.5)
    simulation.overload(15, times=10)
    assert any(why is TooLate for _, why, _, _ in simulation.refused)
    assert simulation.total["expired"] <= 0.01 * simulation.total["ran"]
