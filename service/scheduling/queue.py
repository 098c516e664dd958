"""Queue: bounded, fair between tasks; a batch is taken from it whenever the device is free.

No torch, no threads, no HTTP, and no clock: callers pass the time. Each task has a queue of its own. `fair_queueing`
decides in which order rows move from there to the look-ahead window, `batch_selection` which rows of the window share a
batch. Tasks with `mix = false` have a scheduler of their own; of several schedulers that one goes first that had the
fewest tokens for the weights of its tasks.

With F = the tokens that the window has room for, l = the longest row, w(i) = the weight of task i:

- Fairness: while tasks i and j, which may share batches, have rows behind the window, their tokens that were run over
  their weights differ by at most (F + 2 l) (1 / w(i) + 1 / w(j)). For what enters the window differs by at most
  l / w(i) + l / w(j), and at most F + l tokens of one task are in it.
- No row waits for ever: every second batch starts from the row that entered the window first, so a row waits for at most
  2 n + 1 batches of its scheduler, where n is the number of rows that enter the window before it. These are rows that
  were queued before it, and later ones: of task j at most one row plus w(j) (t + l) / w(i) tokens, where t is the number
  of tokens queued before it in its own task i.
- Latency bound: every second batch starts from the first row of the least served task in the window. So the first row of
  a task that has been idle, and has had no more than the others lately, runs within two batches, the k-th row of a task
  that stays behind the others within 2 k. Each other task that became active just before it adds two batches. If the
  last batch was taken while no other task was in the window, the row is in the next one.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import count
from operator import attrgetter
from typing import Generic, NamedTuple, TypeVar

from polytask.service.config.task_policies import TaskPolicy
from polytask.service.scheduling.batch_selection import BatchLimits
from polytask.service.scheduling.fair_queueing import FairScheduler
from polytask.service.scheduling.task_queue import QueuedRow, Row, TaskQueue
from polytask.service.scheduling.throughput import ThroughputEstimator

__all__ = [
    "BatchLimits",
    "Closed",
    "FairQueue",
    "Full",
    "QuotaFull",
    "Refused",
    "Row",
    "Taken",
    "TooLarge",
    "TooLate",
    "Waiting",
]

Payload = TypeVar("Payload")


_MARGIN = 2
"""A deadline must allow for this many times the mean wait: rows of rare lengths wait longer."""

_SLACK = 1.25
"""By this factor an estimate may be wrong before what follows from it is: that there will be room, or never can be."""


class Refused(Exception):
    """The queue does not take a request. None of its rows was queued."""


class Full(Refused):
    """The queue has no room for a request. `wait_s`: seconds until it has, if nothing else comes."""

    def __init__(self, waiting_tokens: int, wait_s: float) -> None:
        super().__init__(f"{waiting_tokens} tokens are waiting")
        self.wait_s = wait_s


class QuotaFull(Full):
    """The queue has room, but the task has reached its own limit."""


class TooLate(Full):
    """The queue has room, but the request would miss its deadline there."""

    def __str__(self) -> str:
        return f"{super().__str__()} before its last row, more than are run by its deadline"


class TooLarge(Refused):
    """The request takes longer than any deadline, even alone. `num_tokens`: it has. `most_tokens`: are run in that time."""

    def __init__(self, num_tokens: int, most_tokens: int, deadline_s: float) -> None:
        super().__init__(f"{num_tokens} tokens, of which {most_tokens} are run within {deadline_s:g} s")
        self.num_tokens = num_tokens
        self.most_tokens = most_tokens
        self.deadline_s = deadline_s


class Closed(Refused):
    """The queue is closed: its rows will be run, and no more are admitted."""


class Taken(NamedTuple, Generic[Payload]):
    """Rows that have left the queue: those to run as one batch, and those whose deadline has passed."""

    rows: list[Row[Payload]]
    expired: list[Row[Payload]]


class Waiting(NamedTuple):
    """Rows and tokens of one task in the queue."""

    rows: int
    tokens: int


class _Size(NamedTuple):
    """One task's part of a request: its rows and tokens, and how many of these are of its last row."""

    rows: int
    tokens: int
    last_row: int


class FairQueue(Generic[Payload]):
    """The queue. Not thread-safe (`SharedQueue` is).

    `policies`: by task id, for tasks without the default policy. `num_streams`: batches that the device runs side by side.
    """

    def __init__(
        self, limits: BatchLimits, policies: Mapping[int, TaskPolicy] | None = None, num_streams: int = 1
    ) -> None:
        self.closed = False
        self.limits = limits
        self._policies = dict(policies or {})
        self.num_streams = num_streams
        self._throughput = ThroughputEstimator(num_streams)
        self._arrivals = count()
        self._num_tokens = 0
        self._rows: dict[Row[Payload], QueuedRow] = {}
        self._reset()

    def __len__(self) -> int:
        return len(self._rows)

    def start(self, limits: BatchLimits, now: float) -> None:
        """Sets the limits as measured at the start."""
        self.limits = limits
        self._throughput.start(limits.speed, now)

    def admit(self, rows: Sequence[Row[Payload]], now: float) -> None:
        """Queues all rows of a request, or none of them. Raises Refused.

        A request that could be run in time is taken when nothing waits, whatever the estimate of the wait is: so no
        estimate keeps a device idle, and what runs mends it.
        """
        if self.closed:
            raise Closed
        by_task: dict[int, list[Row[Payload]]] = {}
        for row in rows:
            by_task.setdefault(row.task_id, []).append(row)
        sizes = {
            task_id: _Size(len(task_rows), sum(row.num_tokens for row in task_rows), task_rows[-1].num_tokens)
            for task_id, task_rows in by_task.items()
        }
        num_tokens = sum(size.tokens for size in sizes.values())
        self._require_possible(len(rows), num_tokens, now)
        self._require_room(num_tokens, sizes, min(row.deadline for row in rows), now)
        if not self._rows:
            self._reset()
        for task_id, task_rows in by_task.items():
            self._add(task_id, task_rows, sizes[task_id].tokens, now)

    def require_room(self, task_id: int | None, num_tokens: int, before: int, deadline: float, now: float) -> None:
        """Raises Full when a row of `num_tokens` would not be admitted after `before` other tokens, or Closed.

        Does not raise Full when nothing waits: the row may be smaller than expected. Without a task only the limit of the
        whole queue counts.
        """
        if self.closed:
            raise Closed
        if not self._rows and not before:
            return
        sizes = {} if task_id is None else {task_id: _Size(1, num_tokens, num_tokens)}
        self._require_room(before + num_tokens, sizes, deadline, now)

    def close(self) -> None:
        """Admits nothing from now on."""
        self.closed = True

    def take(self, now: float, shares: int = 1) -> Taken[Payload]:
        """Removes the next batch, and expired rows found on the way.

        `shares`: how many takers divide the waiting rows; the batch has one part of them at most.
        """
        limits = self.limits
        if shares > 1 and self._num_tokens < shares * limits.token_budget:
            limits = replace(limits, token_budget=max(1, -(-self._num_tokens // shares)))
        taken = Taken[Payload]([], [])
        while not taken.rows and self._rows:
            schedulers = (self._mixed, *self._unmixed.values())
            scheduler = min((each for each in schedulers if each.num_rows), key=attrgetter("served"))
            self._served = scheduler.served
            selection = scheduler.select_batch(limits, now)
            for queued in (*selection.rows, *selection.expired):
                self._count_out(queued)
            taken.rows.extend(queued.row for queued in selection.rows)
            taken.expired.extend(queued.row for queued in selection.expired)
        return taken

    def cancel(self, rows: Collection[Row[Payload]]) -> list[Row[Payload]]:
        """Removes those of the rows that are still queued, and returns them."""
        still_queued = [queued for row in rows if (queued := self._rows.get(row)) is not None]
        for queued in still_queued:
            self._scheduler(queued.row.task_id).withdraw(queued)
            self._count_out(queued)
        return [queued.row for queued in still_queued]

    def batch_done(self, rows: Sequence[Row[Payload]], seconds: float, now: float) -> None:
        """Records how long a batch occupied its stream, for the estimates of later ones."""
        self._throughput.record(rows, seconds, self.limits, now)

    def speed(self, now: float) -> float:
        """Work a second (`BatchLimits.work`) at present; infinite if it is unknown."""
        return self._throughput.speed(now) or math.inf

    def waiting(self) -> dict[int, Waiting]:
        """Queued rows and tokens by task id, of tasks that have any."""
        return {
            task_id: Waiting(task_queue.num_rows, task_queue.num_tokens)
            for task_id, task_queue in self._task_queues.items()
            if task_queue.num_rows
        }

    def oldest_s(self, now: float) -> float:
        """Seconds that the oldest row has been waiting; 0 when the queue is empty."""
        return now - next((queued.admitted_at for queued in self._rows.values()), now)

    def _reset(self) -> None:
        """Forgets all tags: an empty queue owes no task anything."""
        self._served = 0.0
        self._weight = 0.0
        self._task_queues: dict[int, TaskQueue] = {}
        self._mixed: FairScheduler = FairScheduler()
        self._unmixed: dict[int, FairScheduler] = {}

    def _policy(self, task_id: int) -> TaskPolicy:
        return self._policies.get(task_id, _DEFAULT)

    def _scheduler(self, task_id: int) -> FairScheduler:
        if self._policy(task_id).mix:
            return self._mixed
        return self._unmixed.setdefault(task_id, FairScheduler())

    def _count_out(self, queued: QueuedRow) -> None:
        """Takes a row off the counts."""
        del self._rows[queued.row]
        task_queue, num_tokens = queued.task_queue, queued.row.num_tokens
        task_queue.num_rows -= 1
        task_queue.num_tokens -= num_tokens
        self._num_tokens -= num_tokens
        if not task_queue.num_rows:
            self._weight -= task_queue.policy.weight
            self._scheduler(queued.row.task_id).weight -= task_queue.policy.weight

    def _add(self, task_id: int, rows: Sequence[Row[Payload]], num_tokens: int, now: float) -> None:
        """Queues rows of one task, which have `num_tokens` in total."""
        if task_id not in self._task_queues:
            self._task_queues[task_id] = TaskQueue(self._policy(task_id))
        task_queue, scheduler = self._task_queues[task_id], self._scheduler(task_id)
        if not scheduler.num_rows:
            scheduler.served = max(scheduler.served, self._served)
        if not task_queue.num_rows:
            scheduler.weight += task_queue.policy.weight
            self._weight += task_queue.policy.weight
        added = [QueuedRow(row, task_queue, next(self._arrivals), now, scheduler.clock) for row in rows]
        self._rows.update(zip(rows, added, strict=True))
        task_queue.num_rows += len(rows)
        task_queue.num_tokens += num_tokens
        self._num_tokens += num_tokens
        scheduler.add(task_queue, added)

    def _require_possible(self, num_rows: int, num_tokens: int, now: float) -> None:
        """Raises TooLarge for a request that would miss every deadline."""
        speed = self._throughput.certain_speed(now)
        deadline_s, work = self.limits.deadline_s, self.limits.work(num_rows, num_tokens)
        if speed is not None and work > _SLACK * speed * deadline_s:
            raise TooLarge(num_tokens, int(num_tokens * speed * deadline_s / work), deadline_s)

    def _require_room(self, num_tokens: int, sizes: Mapping[int, _Size], deadline: float, now: float) -> None:
        """Raises Full when there is no room for `num_tokens`, or for the parts of a request in their task queues.

        `sizes`: of the parts, by task id. Its `wait_s` is that of the last room that there will be.
        """
        reasons = [self._no_room(num_tokens, now)]
        weight = self._weight_with(sizes)
        for task_id, size in sizes.items():
            share = self._share_of(task_id, weight)
            reasons += [
                self._over_quota(task_id, size, share, now),
                self._too_late(task_id, size, share, deadline, now),
            ]
        refused = [reason for reason in reasons if reason is not None]
        if refused:
            refused[0].wait_s = max(reason.wait_s for reason in refused)
            raise refused[0]

    def _no_room(self, num_tokens: int, now: float) -> Full | None:
        waiting = self._all_waiting()
        excess = waiting.tokens + num_tokens - self.limits.max_waiting_tokens
        return Full(waiting.tokens, self._wait_s(excess, waiting, 1.0, now)) if excess > 0 else None

    def _over_quota(self, task_id: int, size: _Size, share: float, now: float) -> QuotaFull | None:
        most, waiting = self._policy(task_id).max_waiting_tokens, self._waiting(task_id)
        excess = waiting.tokens + size.tokens - most
        if not most or excess <= 0:
            return None
        return QuotaFull(waiting.tokens, self._wait_s(excess, waiting, share, now))

    def _too_late(self, task_id: int, size: _Size, share: float, deadline: float, now: float) -> TooLate | None:
        speed, waiting = self._throughput.speed(now), self._waiting(task_id)
        if speed is None or not self._rows:
            return None
        before_last = waiting.tokens + size.tokens - size.last_row
        work = self.limits.work(waiting.rows + size.rows - 1, before_last)
        in_time = max(0.0, deadline - now) * speed * share / _MARGIN
        if work <= in_time:
            return None
        return TooLate(before_last, self._wait_s(before_last * (1 - in_time / work), waiting, share, now))

    def _wait_s(self, excess: float, waiting: Waiting, share: float, now: float) -> float:
        """Seconds until `excess` of the tokens that wait are run with a share of the speed, or nothing waits any more."""
        everything = self._all_waiting()
        wait_s = self.limits.work(*everything) / self.speed(now)
        if excess < waiting.tokens:
            work = excess / waiting.tokens * self.limits.work(*waiting)
            wait_s = min(wait_s, work / (share * self.speed(now)))
        return _SLACK * wait_s

    def _all_waiting(self) -> Waiting:
        return Waiting(len(self._rows), self._num_tokens)

    def _waiting(self, task_id: int) -> Waiting:
        task_queue = self._task_queues.get(task_id)
        return Waiting(task_queue.num_rows, task_queue.num_tokens) if task_queue is not None else Waiting(0, 0)

    def _weight_with(self, task_ids: Iterable[int]) -> float:
        """The weight of all tasks that have rows waiting, and of these."""
        idle = [task_id for task_id in task_ids if not self._waiting(task_id).rows]
        return self._weight + sum(self._policy(task_id).weight for task_id in idle)

    def _share_of(self, task_id: int, weight: float) -> float:
        """The share of the speed that a task can count on: what it had of late, or its fair share if that is more.

        `weight`: of all tasks that have rows waiting, this one included.
        """
        return max(self._throughput.task_share(task_id), self._policy(task_id).weight / weight)


_DEFAULT = TaskPolicy()
