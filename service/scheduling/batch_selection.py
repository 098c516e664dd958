"""Batch selection: start from the next row in fair order and add waiting rows of similar length, so that little is padded.

Costs are counted in tokens. A batch costs its number of rows times its longest row, and `forward_tokens` on top.

Batches start in turn from the row that entered the window first, and from the first row of the least served task: rows
of one task in the window do not delay a task that has had less. This is start-time fair queueing once more (see
`fair_queueing`), by the tokens that were run. Among rows of equal
length, a row goes first if its task had no other row in the window when it entered.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left, insort
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, count

from polytask.service.scheduling.task_queue import QueuedRow, TaskQueue

_PADDING = 0.1
"""The share of a batch that may always be padding."""


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Bounds of a batch and of the queue, and what a batch costs. A row longer than the token budget runs alone.

    `token_budget`: number of rows times the longest row. `forward_tokens`: the fixed cost of a forward, as the number of
    tokens that the device could process in that time. `deadline_s`: the longest deadline of a request. `speed`: work a
    second of one stream, as measured at the start; None if it was not.
    """

    max_rows: int
    token_budget: int
    forward_tokens: int
    max_waiting_tokens: int
    deadline_s: float = math.inf
    speed: float | None = None

    def work(self, num_rows: int, num_tokens: int) -> float:
        """What rows cost in full batches, in tokens: their own, and the fixed cost of as many forwards as they fill."""
        return num_tokens + self.forward_tokens * max(num_rows / self.max_rows, num_tokens / self.token_budget)


@dataclass(slots=True)
class BatchSelection:
    """The rows of a batch, and the expired rows found while selecting them."""

    rows: list[QueuedRow] = field(default_factory=list)
    expired: list[QueuedRow] = field(default_factory=list)


class LookAheadWindow:
    """The rows from which the next batches are selected, in the order in which they entered, and by length."""

    def __init__(self) -> None:
        self.num_tokens = 0
        self._all: deque[QueuedRow] = deque()
        self._least_served_is_next = True
        self._least_served: list[tuple[float, int, TaskQueue]] = []
        self._ties = count()
        self._clock = 0.0
        self._lengths: list[int] = []
        # By length: the rows that were the first of their task, and the others.
        self._by_length: dict[int, tuple[dict[QueuedRow, None], dict[QueuedRow, None]]] = {}

    def add(self, queued: QueuedRow) -> None:
        """Adds a row."""
        self._all.append(queued)
        task_queue = queued.task_queue
        queued.first_of_task = not task_queue.num_in_window
        task_queue.window.append(queued)
        if queued.first_of_task:
            task_queue.served = max(task_queue.served, self._clock)
            self._schedule(task_queue)
        length = queued.row.num_tokens
        if length not in self._by_length:
            insort(self._lengths, length)
            self._by_length[length] = ({}, {})
        self._by_length[length][not queued.first_of_task][queued] = None
        self.num_tokens += length
        queued.in_window = True
        task_queue.num_in_window += 1

    def serve(self, rows: Iterable[QueuedRow]) -> None:
        """Removes rows that are about to run, and counts them for their tasks."""
        served: dict[TaskQueue, None] = {}  # in their order: of a set it would differ from run to run
        for queued in rows:
            self.remove(queued)
            queued.task_queue.served += queued.row.num_tokens / queued.task_queue.policy.weight
            served[queued.task_queue] = None
        for task_queue in served:
            self._schedule(task_queue)

    def remove(self, queued: QueuedRow) -> None:
        """Removes a row."""
        length = queued.row.num_tokens
        same_length = self._by_length[length]
        del same_length[not queued.first_of_task][queued]
        if not any(same_length):
            del self._by_length[length]
            del self._lengths[bisect_left(self._lengths, length)]
        self.num_tokens -= length
        queued.in_window = False
        queued.task_queue.num_in_window -= 1

    def select_batch(self, limits: BatchLimits, waiting_tokens: int, now: float) -> BatchSelection:
        """The next batch; its rows stay in the window. Empty if the first row has expired or the window is empty.

        `waiting_tokens`: of all rows that wait, in the window and behind it.
        """
        first = self._first(self._all)
        if first is None:
            return BatchSelection()
        least_served = self._first_of_least_served()
        seed = least_served if self._least_served_is_next else first
        if seed.row.deadline <= now:
            return BatchSelection(expired=[seed])
        # A row that is both leaves the next batch to the first row of a task that has been idle.
        self._least_served_is_next = seed is first
        return self._grow_batch(seed, limits, waiting_tokens - seed.row.num_tokens, now)

    @staticmethod
    def _first(rows: deque[QueuedRow]) -> QueuedRow | None:
        while rows and not rows[0].in_window:
            rows.popleft()
        return rows[0] if rows else None

    def _first_of_least_served(self) -> QueuedRow:
        """The first row of the least served task. The window is not empty."""
        while True:
            served, _, task_queue = self._least_served[0]
            queued = self._first(task_queue.window)
            if queued is not None and served == task_queue.served:
                self._clock = served
                return queued
            heapq.heappop(self._least_served)

    def _schedule(self, task_queue: TaskQueue) -> None:
        heapq.heappush(self._least_served, (task_queue.served, next(self._ties), task_queue))

    def _grow_batch(self, seed: QueuedRow, limits: BatchLimits, waiting_tokens: int, now: float) -> BatchSelection:
        """The seed and the rows nearest to it in length, each time the one that pads less.

        Grows while the limits allow it, and returns the largest of these batches whose padding is worth it.
        """
        rows, num_worthwhile, rows_by_task = [seed], 1, Counter([seed.task_queue])

        def has_room(queued: QueuedRow) -> bool:
            most = queued.task_queue.policy.max_rows
            return not most or rows_by_task[queued.task_queue] < most

        seed_length = longest = num_tokens = seed.row.num_tokens
        middle = bisect_left(self._lengths, seed_length)
        longer = _Neighbours(self._of_lengths(self._lengths[middle:]), seed, now)
        shorter = _Neighbours(self._of_lengths(reversed(self._lengths[:middle])), seed, now)

        def padding_with(queued: QueuedRow | None) -> float:
            if queued is None:
                return math.inf
            padded = (len(rows) + 1) * max(longest, queued.row.num_tokens)
            return padded - num_tokens - queued.row.num_tokens if padded <= limits.token_budget else math.inf

        while len(rows) < limits.max_rows:
            padding, shorter_padding = padding_with(longer.find(has_room)), padding_with(shorter.find(has_room))
            side = longer
            if shorter_padding < padding:
                padding, side = shorter_padding, shorter
            if padding > limits.forward_tokens:
                break
            queued = side.pop()
            rows.append(queued)
            rows_by_task[queued.task_queue] += 1
            num_tokens += queued.row.num_tokens
            longest = max(longest, queued.row.num_tokens)
            added = (num_tokens - seed_length) / waiting_tokens
            if padding <= _worthwhile_padding(len(rows) * longest, added, limits):
                num_worthwhile = len(rows)
        return BatchSelection(rows[:num_worthwhile], longer.expired + shorter.expired)

    def _of_lengths(self, lengths: Iterable[int]) -> Iterator[QueuedRow]:
        return chain.from_iterable(chain(*self._by_length[length]) for length in lengths)


def _worthwhile_padding(padded_tokens: int, added: float, limits: BatchLimits) -> float:
    """The most padding worth having in a batch: it must cost less than the forwards that it saves.

    `padded_tokens`: of the batch, padding included. `added`: the share of the added rows in all tokens that wait beside
    the seed. Where little waits, a row that is left behind needs much of a forward for itself, so that padding may cost
    that share of a forward. Where much waits, the row would have found another batch; there padding may be a tenth of
    this one. So padding is under a tenth of every batch once ten times as many tokens wait as a forward costs.
    """
    return max(_PADDING * padded_tokens, limits.forward_tokens * added)


class _Neighbours:
    """The rows on one side of the seed, nearest in length first. `expired`: expired rows found among them."""

    def __init__(self, rows: Iterator[QueuedRow], seed: QueuedRow, now: float) -> None:
        self.expired: list[QueuedRow] = []
        self._rows = rows
        self._seed = seed
        self._now = now
        self._next: QueuedRow | None = None
        self._advance()

    def find(self, has_room: Callable[[QueuedRow], bool]) -> QueuedRow | None:
        """The next row for which the batch has room, or None. Rows without room are skipped for good."""
        while self._next is not None and not has_room(self._next):
            self._advance()
        return self._next

    def pop(self) -> QueuedRow:
        """Removes and returns the row that `find` has returned."""
        queued = self._next
        assert queued is not None, "find has returned a row"
        self._advance()
        return queued

    def _advance(self) -> None:
        for queued in self._rows:
            if queued.row.deadline <= self._now:
                self.expired.append(queued)
            elif queued is not self._seed:
                self._next = queued
                return
        self._next = None
