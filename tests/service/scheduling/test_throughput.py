"""The drain rate, and what is told to clients because of it, in a simulated overload."""

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
    """A row with nothing in it."""
    return Row(task_id, length, deadline, None)


def test_the_rate_is_that_of_the_last_batches() -> None:
    """By time rather than by batch, and by task; nothing is known before the first."""
    drain, limits = ThroughputEstimator(), replace(LIMITS, forward_tokens=0)
    assert (drain.rate(limits), drain.task_share(0)) == (None, 0)
    for _ in range(200):
        drain.record([row(1000)], 10, limits)
    for _ in range(200):
        drain.record([row(90), row(10, task_id=1)], 1, limits)
        drain.record([row(300)], 1, limits)
    assert drain.rate(limits) == pytest.approx(200, rel=0.05)
    assert drain.task_share(1) == pytest.approx(10 / 400, rel=0.1)


@pytest.mark.parametrize(("length", "together"), [(4, 1), (4, 20), (30, 1), (30, 32), (1000, 1)])
def test_the_rate_is_that_of_full_batches_however_small_the_last_were(length: int, together: int) -> None:
    """What a device can do does not depend on how little it was asked lately, but on how long rows are."""
    drain = ThroughputEstimator()
    for _ in range(50):
        drain.record([row(length)] * together, (LIMITS.forward_tokens + together * length) / TOKENS_PER_S, LIMITS)
    full = min(LIMITS.max_rows * length, LIMITS.token_budget)
    assert drain.rate(LIMITS) == pytest.approx(TOKENS_PER_S * full / (LIMITS.forward_tokens + full), rel=0.01)


def test_many_rows_are_let_in_after_single_ones() -> None:
    """A device that was asked for a word now and then is not too slow for two hundred long rows."""
    queue: FairQueue[None] = FairQueue(LIMITS)
    for _ in range(50):
        queue.admit([row(4)], 0)
        queue.batch_done(queue.take(0).rows, (LIMITS.forward_tokens + 4) / TOKENS_PER_S)
    queue.admit([row(100, deadline=10) for _ in range(200)], 0)


@dataclass
class Simulation:
    """A device with a known cost, and far more requests than it can take, half of them for task 0. Times are simulated.

    `left`: when, and how many tokens of task 0 and in all had left the line. `refused`: when, why, how many tokens had
    to leave, and the wait that was told.
    """

    queue: FairQueue[None]
    deadline_s: float = 1e9
    total: Counter[str] = field(default_factory=Counter)
    left: list[tuple[float, int, int]] = field(default_factory=list)
    refused: list[tuple[float, type[Full], int, float]] = field(default_factory=list)

    def overload(self, seconds: float, *, times: float) -> None:
        """So many times what the device can take arrives, in requests of widely different sizes."""
        generator, next_at, now = np.random.default_rng(0), 0.0, 0.0
        while now < seconds:
            rows, expired = self.queue.take(now)
            self.total.update(expired=len(expired), ran=len(rows))
            for each in rows:
                self.total.update({"line": each.num_tokens, f"task {each.task_id}": each.num_tokens})
            self.left.append((now, self.total["task 0"], self.total["line"]))
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
        """Waits as they were told and as they were, after a while; without those of a batch or two."""
        column, found = (1 if why is QuotaFull else 2), []
        times = [entry[0] for entry in self.left]
        gone = [entry[column] for entry in self.left]
        for now, what, excess, told in self.refused:
            then = bisect_left(gone, gone[bisect_right(times, now) - 1] + excess)
            if what is why and now > 5 and told > 0.25 and then < len(times):
                found.append((told, times[then] - now))
        return found


@pytest.mark.parametrize("why", [Full, QuotaFull])
def test_retry_after_is_right_within_a_factor_of_two(why: type[Full]) -> None:
    """With ten times more requests than can be run, room is there when it was told, in line and within a quota."""
    quota = TaskPolicy(weight=2, max_waiting_tokens=QUOTA)
    simulation = Simulation(FairQueue(LIMITS, dict.fromkeys(range(4), quota) if why is QuotaFull else {}))
    simulation.overload(15, times=10)
    waits = simulation.waits(why)
    assert len(waits) > 20
    right = [told / 2 <= real <= 2 * told for told, real in waits]
    assert sum(right) >= 0.95 * len(right)


def test_what_is_accepted_in_an_overload_is_run_before_its_deadline() -> None:
    """When the line is longer than deadlines allow, requests are refused at once rather than given up later."""
    simulation = Simulation(FairQueue(LIMITS), deadline_s=1.5)
    simulation.overload(15, times=10)
    assert any(why is TooLate for _, why, _, _ in simulation.refused)
    assert simulation.total["expired"] <= 0.01 * simulation.total["ran"]
