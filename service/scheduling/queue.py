"""Who goes next: a bounded line of rows, from which a batch is taken whenever the device is free.

No torch, no threads, no HTTP, and no clock: the time comes in. Each task has a lane; `turns` says in which order rows
leave their lanes for the front, `cutting` which rows of the front share a batch. Rows of tasks with `mix = false` have
a front of their own; between fronts, too, the one that had the fewest tokens for its lanes' weights goes first.

With F = the tokens that the front has room for, l = the longest row, w(i) = the weight of lane i:

- Fairness: while lanes i and j, which may share batches, have rows behind the front, the tokens that left them over
  their weights differ by at most (F + 2 l) (1 / w(i) + 1 / w(j)). For what enters the front differs by no more than
  l / w(i) + l / w(j), and of one lane at most F + l tokens are there.
- No row waits for ever: every second batch takes the row that entered the front first, so a row waits for at most
  2 n + 1 batches of its front, n being the rows that enter it before this one. These are rows that were in line before
  it, and later ones, of lane j at most one and w(j) (t + l) / w(i) tokens, t being the tokens before it in its lane i.
- Every second batch takes the first row of the lane in the front that was served least. So a row that comes to an idle
  lane, which had no more than the others lately, is in one of the next two batches that are taken, and the k-th such
  row of a lane that stays behind them in one of the next 2 k; each lane that came so before it is two batches more.
  Where the last batch was taken beside no other lane in the front, it is in the next one.
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
"""How many times the mean wait a deadline must allow for: rows of rare lengths wait longer."""


class Full(Exception):
    """The line has no room for a request. `wait_s`: when it will have, at the rate of the last batches."""

    def __init__(self, waiting_tokens: int, wait_s: float) -> None:
        super().__init__(f"{waiting_tokens} tokens are waiting")
        self.wait_s = wait_s


class QuotaFull(Full):
    """There is room in line, but the task has all that it may have."""


class TooLate(Full):
    """There is room in line, but the deadline would pass there. `wait_s`: when what is before it will be less."""

    def __str__(self) -> str:
        return f"{super().__str__()} before its last row, more than are run by its deadline"


class Closed(Exception):
    """The line was closed: what is in it will be run, nothing more comes in."""


class Taken(NamedTuple, Generic[Payload]):
    """What left the line: rows to run as one batch, and rows whose deadline has passed."""

    rows: list[Row[Payload]]
    expired: list[Row[Payload]]


class Waiting(NamedTuple):
    """How much of one task is in line."""

    rows: int
    tokens: int


class _Size(NamedTuple):
    """What a request has of one task: tokens, and how many of them are its last row's."""

    tokens: int
    last: int


class FairQueue(Generic[Payload]):
    """The line. Not thread-safe: whoever shares it between threads locks it.

    `policies`: by task id, for tasks that want another than the default.
    """

    def __init__(self, limits: BatchLimits, policies: Mapping[int, TaskPolicy] | None = None) -> None:
        self.closed = False
        self.limits = limits
        self._policies = dict(policies or {})
        self._drain = ThroughputEstimator()
        self._arrivals = count()
        self._tokens = 0
        self._places: dict[Row[Payload], QueuedRow] = {}
        self._begin_anew()

    def __len__(self) -> int:
        return len(self._places)

    def admit(self, rows: Sequence[Row[Payload]], now: float) -> None:
        """Puts all rows of a request in line, each in its task's lane, or none of them.

        Raises Full when they do not fit, or Closed.
        """
        if self.closed:
            raise Closed
        by_task: dict[int, list[Row[Payload]]] = {}
        for row in rows:
            by_task.setdefault(row.task_id, []).append(row)
        sizes = {task_id: _Size(sum(map(_tokens, own)), own[-1].num_tokens) for task_id, own in by_task.items()}
        self._require_room(sizes, min(row.deadline for row in rows), now)
        if not self._places:
            self._begin_anew()
        for task_id, own in by_task.items():
            self._enter(task_id, own, sizes[task_id].tokens, now)

    def require_room(self, task_id: int | None, num_tokens: int, before: int, deadline: float, now: float) -> None:
        """Raises Full when a row of `num_tokens` would not be admitted behind `before` tokens to come first, or Closed.

        What comes when nothing waits is let through: it may be smaller than expected. Without a task only the line counts.
        """
        if self.closed:
            raise Closed
        if not self._places and not before:
            return
        self._require_room_in_line(before + num_tokens)
        if task_id is not None:
            rate = self._rate_of(task_id, self._weight_with([task_id]))
            self._require_room_in_lane(task_id, _Size(num_tokens, num_tokens), rate, deadline, now)

    def close(self) -> None:
        """From now on nothing is admitted."""
        self.closed = True

    def take(self, now: float, shares: int = 1) -> Taken[Payload]:
        """Removes the next batch from the line, together with the expired rows met on the way to it.

        `shares`: between how many takers what is in line is to be divided; the batch is one part of that at most.
        """
        limits = self.limits
        if shares > 1 and self._tokens < shares * limits.token_budget:
            limits = replace(limits, token_budget=max(1, -(-self._tokens // shares)))
        taken = Taken[Payload]([], [])
        while not taken.rows and self._places:
            pool = min((pool for pool in self._pools() if pool.num_rows), key=_served)
            self._served = pool.served
            cut = pool.select_batch(limits, now)
            for place in (*cut.places, *cut.expired):
                self._forget(place)
            taken.rows.extend(place.row for place in cut.places)
            taken.expired.extend(place.row for place in cut.expired)
        return taken

    def cancel(self, rows: Collection[Row[Payload]]) -> list[Row[Payload]]:
        """Takes the rows out of the line, those that still are in it. Returns these."""
        places = [place for row in rows if (place := self._places.get(row)) is not None]
        for place in places:
            self._pool(place.row.task_id).withdraw(place)
            self._forget(place)
        return [place.row for place in places]

    def batch_done(self, rows: Sequence[Row[Payload]], seconds: float) -> None:
        """Notes how long a batch kept the whole device busy, for the estimates that go with Full."""
        self._drain.record(rows, seconds, self.limits)

    def waiting(self) -> dict[int, Waiting]:
        """What is in line, by task id; only tasks that have something there."""
        return {
            task_id: Waiting(lane.num_rows, lane.num_tokens) for task_id, lane in self._lanes.items() if lane.num_rows
        }

    def oldest_s(self, now: float) -> float:
        """For how long the oldest row has been waiting; 0 when none is."""
        return now - next((place.admitted_at for place in self._places.values()), now)

    def _begin_anew(self) -> None:
        """An empty line owes nobody anything: all tags are forgotten."""
        self._served = 0.0
        self._weight = 0.0
        self._lanes: dict[int, TaskQueue] = {}
        self._mixed, self._alone = FairScheduler(), dict[int, FairScheduler]()

    def _policy(self, task_id: int) -> TaskPolicy:
        return self._policies.get(task_id, _DEFAULT)

    def _lane(self, task_id: int) -> TaskQueue:
        if task_id not in self._lanes:
            self._lanes[task_id] = TaskQueue(self._policy(task_id))
        return self._lanes[task_id]

    def _pool(self, task_id: int) -> FairScheduler:
        if self._policy(task_id).mix:
            return self._mixed
        return self._alone.setdefault(task_id, FairScheduler())

    def _pools(self) -> Iterable[FairScheduler]:
        return (self._mixed, *self._alone.values())

    def _forget(self, place: QueuedRow) -> None:
        del self._places[place.row]
        lane, num_tokens = place.task_queue, place.row.num_tokens
        lane.num_rows -= 1
        lane.num_tokens -= num_tokens
        self._tokens -= num_tokens
        if not lane.num_rows:
            self._weight -= lane.policy.weight
            self._pool(place.row.task_id).weight -= lane.policy.weight

    def _enter(self, task_id: int, rows: Sequence[Row[Payload]], num_tokens: int, now: float) -> None:
        """Puts rows of one task, which have so many tokens, in its lane."""
        lane, pool = self._lane(task_id), self._pool(task_id)
        if not pool.num_rows:
            pool.served = max(pool.served, self._served)
        if not lane.num_rows:
            pool.weight += lane.policy.weight
            self._weight += lane.policy.weight
        places = [QueuedRow(row, lane, next(self._arrivals), now, pool.clock) for row in rows]
        self._places.update(zip(rows, places, strict=True))
        lane.num_rows += len(rows)
        lane.num_tokens += num_tokens
        self._tokens += num_tokens
        pool.add(lane, places)

    def _require_room(self, sizes: Mapping[int, _Size], deadline: float, now: float) -> None:
        """For what a request has of each task."""
        self._require_room_in_line(sum(size.tokens for size in sizes.values()))
        weight = self._weight_with(sizes)
        for task_id, size in sizes.items():
            self._require_room_in_lane(task_id, size, self._rate_of(task_id, weight), deadline, now)

    def _require_room_in_line(self, num_tokens: int) -> None:
        rate = self._drain.rate(self.limits)
        excess = self._tokens + num_tokens - self.limits.max_waiting_tokens
        if excess > 0:
            raise Full(self._tokens, excess / rate if rate else 0.0)

    def _weight_with(self, task_ids: Iterable[int]) -> float:
        """Of all lanes that have rows in line, and of these."""
        return self._weight + sum(self._policy(task_id).weight for task_id in task_ids if not self._in_line(task_id))

    def _require_room_in_lane(self, task_id: int, size: _Size, rate: float, deadline: float, now: float) -> None:
        most = self._policy(task_id).max_waiting_tokens
        in_lane = self._lanes[task_id].num_tokens if task_id in self._lanes else 0
        excess = in_lane + size.tokens - most
        if most and excess > 0:
            raise QuotaFull(in_lane, excess / rate if rate else 0.0)
        before_last = in_lane + size.tokens - size.last
        too_late_s = now + _MARGIN * before_last / rate - deadline if rate else 0.0
        if too_late_s > 0:
            raise TooLate(before_last, too_late_s)

    def _in_line(self, task_id: int) -> bool:
        return task_id in self._lanes and self._lanes[task_id].num_rows > 0

    def _rate_of(self, task_id: int, weight: float) -> float:
        """Tokens a second that a lane can count on: what it had lately, or its share if that is more; 0 if unknown.

        `weight`: of all lanes that have rows in line, this one included.
        """
        share = self._policy(task_id).weight / weight
        return (self._drain.rate(self.limits) or 0.0) * max(self._drain.task_share(task_id), share)


_DEFAULT = TaskPolicy()

_served = attrgetter("served")
_tokens = attrgetter("num_tokens")
