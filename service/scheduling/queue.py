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

__all__ = ["BatchLimits", "Closed", "FairQueue", "Full", "QuotaFull", "Row", "Taken", "TooLate", "Waiting"]

Payload = TypeVar("Payload")


_MARGIN = 2
"""A deadline must allow for this many times the mean wait: rows of rare lengths wait longer."""


class Full(Exception):
    """The queue has no room for a request. `wait_s`: seconds until it has, at the rate of the last batches."""

    def __init__(self, waiting_tokens: int, wait_s: float) -> None:
        super().__init__(f"{waiting_tokens} tokens are waiting")
        self.wait_s = wait_s


class QuotaFull(Full):
    """The queue has room, but the task has reached its own limit."""


class TooLate(Full):
    """The queue has room, but the request would miss its deadline there. `wait_s`: seconds until enough is done before it."""

    def __str__(self) -> str:
        return f"{super().__str__()} before its last row, more than are run by its deadline"


class Closed(Exception):
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
    """One task's part of a request: its tokens, and how many of them are of its last row."""

    tokens: int
    last_row: int


class FairQueue(Generic[Payload]):
    """The queue. Not thread-safe (`SharedQueue` is). `policies`: by task id, for tasks without the default policy."""

    def __init__(self, limits: BatchLimits, policies: Mapping[int, TaskPolicy] | None = None) -> None:
        self.closed = False
        self.limits = limits
        self._policies = dict(policies or {})
        self._throughput = ThroughputEstimator()
        self._arrivals = count()
        self._num_tokens = 0
        self._rows: dict[Row[Payload], QueuedRow] = {}
        self._reset()

    def __len__(self) -> int:
        return len(self._rows)

    def admit(self, rows: Sequence[Row[Payload]], now: float) -> None:
        """Queues all rows of a request, or none of them. Raises Full when they do not fit, or Closed."""
        if self.closed:
            raise Closed
        by_task: dict[int, list[Row[Payload]]] = {}
        for row in rows:
            by_task.setdefault(row.task_id, []).append(row)
        sizes = {
            task_id: _Size(sum(row.num_tokens for row in task_rows), task_rows[-1].num_tokens)
            for task_id, task_rows in by_task.items()
        }
        self._require_room(sizes, min(row.deadline for row in rows), now)
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
        self._require_total_room(before + num_tokens)
        if task_id is not None:
            rate = self._rate_of(task_id, self._weight_with([task_id]))
            self._require_task_room(task_id, _Size(num_tokens, num_tokens), rate, deadline, now)

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

    def batch_done(self, rows: Sequence[Row[Payload]], seconds: float) -> None:
        """Records how long a batch occupied the whole device, for the estimates that go with Full."""
        self._throughput.record(rows, seconds, self.limits)

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

    def _require_room(self, sizes: Mapping[int, _Size], deadline: float, now: float) -> None:
        """Raises Full when there is no room for a request. `sizes`: its parts, by task id."""
        self._require_total_room(sum(size.tokens for size in sizes.values()))
        weight = self._weight_with(sizes)
        for task_id, size in sizes.items():
            self._require_task_room(task_id, size, self._rate_of(task_id, weight), deadline, now)

    def _require_total_room(self, num_tokens: int) -> None:
        rate = self._throughput.rate(self.limits)
        excess = self._num_tokens + num_tokens - self.limits.max_waiting_tokens
        if excess > 0:
            raise Full(self._num_tokens, excess / rate if rate else 0.0)

    def _require_task_room(self, task_id: int, size: _Size, rate: float, deadline: float, now: float) -> None:
        most, waiting = self._policy(task_id).max_waiting_tokens, self._waiting_tokens(task_id)
        excess = waiting + size.tokens - most
        if most and excess > 0:
            raise QuotaFull(waiting, excess / rate if rate else 0.0)
        before_last = waiting + size.tokens - size.last_row
        too_late_s = now + _MARGIN * before_last / rate - deadline if rate else 0.0
        if too_late_s > 0:
            raise TooLate(before_last, too_late_s)

    def _waiting_tokens(self, task_id: int) -> int:
        return self._task_queues[task_id].num_tokens if task_id in self._task_queues else 0

    def _weight_with(self, task_ids: Iterable[int]) -> float:
        """The weight of all tasks that have rows waiting, and of these."""
        idle = [task_id for task_id in task_ids if not self._waiting_tokens(task_id)]
        return self._weight + sum(self._policy(task_id).weight for task_id in idle)

    def _rate_of(self, task_id: int, weight: float) -> float:
        """Tokens a second that a task can count on: its recent rate, or its fair share if that is more; 0 if unknown.

        `weight`: of all tasks that have rows waiting, this one included.
        """
        share = self._policy(task_id).weight / weight
        return (self._throughput.rate(self.limits) or 0.0) * max(self._throughput.task_share(task_id), share)


_DEFAULT = TaskPolicy()
