"""Fair queueing: the order in which tasks send rows to the look-ahead window, start-time fair queueing by tokens.

The first row of a task queue has a *start tag*: the virtual time of its arrival, or the *finish tag* of its task queue if
that is later. The row with the smallest start tag is the next to move to the window. Its start tag becomes the virtual
time, and the finish tag of its task queue becomes that tag plus the row's tokens over the task's weight. So an idle task
saves nothing up, and tasks with waiting rows get tokens in proportion to their weights, whatever the number and the
length of their rows. Of equal start tags the smaller finish tag goes first: the task that was idle.

Reference: P. Goyal, H. M. Vin, H. Cheng, IEEE/ACM Transactions on Networking 5(5), 1997. Not deficit round robin, where
a row of an idle task waits for a round of all tasks; not fair queueing by finish tags, where the virtual time is
expensive to compute.
"""

from __future__ import annotations

import heapq
from itertools import count

from polytask.service.scheduling.batch_selection import BatchLimits, BatchSelection, LookAheadWindow
from polytask.service.scheduling.task_queue import QueuedRow, TaskQueue, Turn

LOOK_AHEAD = 16
"""Tokens in the window, in token budgets. More makes batches fuller and more even; less is fairer in the short run."""

_BURST = 64
"""How many more rows may enter the window than leave it, per batch: a long backlog does not enter at once."""


class FairScheduler:
    """Task queues whose rows may share a batch, and their window. `clock`: their virtual time.

    `weight`: of the task queues that have rows. `served`: tokens that were run over this weight, for fairness between
    schedulers.
    """

    def __init__(self) -> None:
        self.clock = 0.0
        self.num_rows = 0
        self.num_tokens = 0
        self.weight = 0.0
        self.served = 0.0
        self._window = LookAheadWindow()
        self._turns: list[tuple[Turn, int, TaskQueue]] = []
        self._ties = count()

    def add(self, task_queue: TaskQueue, rows: list[QueuedRow]) -> None:
        """Appends rows to the backlog of their task."""
        task_queue.backlog += rows
        self.num_rows += len(rows)
        self.num_tokens += sum(queued.row.num_tokens for queued in rows)
        self._schedule(task_queue)

    def select_batch(self, limits: BatchLimits, now: float) -> BatchSelection:
        """Removes the next batch, and expired rows found on the way. Removes at least one row."""
        expired = self._fill_window(limits, now)
        selection = self._window.select_batch(limits, self.num_tokens, now)
        self.served += sum(queued.row.num_tokens for queued in selection.rows) / self.weight
        self._window.serve(selection.rows)
        for queued in selection.rows:
            self._count_out(queued)
        expired += selection.expired
        for queued in expired:
            self.withdraw(queued)
        return BatchSelection(selection.rows, expired)

    def withdraw(self, queued: QueuedRow) -> None:
        """Removes a row that is not going to be run."""
        self._count_out(queued)
        if queued.in_window:
            self._window.remove(queued)

    def _count_out(self, queued: QueuedRow) -> None:
        queued.removed = True
        self.num_rows -= 1
        self.num_tokens -= queued.row.num_tokens

    def _fill_window(self, limits: BatchLimits, now: float) -> list[QueuedRow]:
        """Moves rows to the window in fair order while there is room, and the first row of each task even without room.

        Returns rows that have expired; they stay outside.
        """
        expired = []
        for _ in range(limits.max_rows + _BURST):
            task_queue = self._next_task_queue()
            has_room = self._window.num_tokens < LOOK_AHEAD * limits.token_budget
            if task_queue is None or not (has_room or not task_queue.num_in_window):
                break
            queued = task_queue.backlog.popleft()
            if queued.row.deadline <= now:
                expired.append(queued)
            else:
                assert task_queue.next_turn is not None, "the next task queue has a turn"
                start = task_queue.next_turn[0]
                self.clock = max(self.clock, start)
                task_queue.finish = start + queued.row.num_tokens / task_queue.policy.weight
                self._window.add(queued)
            self._schedule(task_queue)
        return expired

    def _schedule(self, task_queue: TaskQueue) -> None:
        """Enters the turn of a task queue's first row, if it has changed."""
        head = task_queue.head()
        turn = None if head is None else (max(head.clock, task_queue.finish), task_queue.finish, head.arrival)
        if turn != task_queue.next_turn:
            task_queue.next_turn = turn
            if turn is not None:
                heapq.heappush(self._turns, (turn, next(self._ties), task_queue))

    def _next_task_queue(self) -> TaskQueue | None:
        """The task queue with the smallest turn."""
        while self._turns:
            turn, _, task_queue = self._turns[0]
            if turn == task_queue.next_turn:
                head = task_queue.head()
                if head is not None and head.arrival == turn[2]:
                    return task_queue
                self._schedule(task_queue)
            heapq.heappop(self._turns)
        return None
