"""Shared queue: the fair queue between threads. Requests put rows in; the threads of a device wait here for batches."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Sequence

from polytask.service.pending import RowPayload
from polytask.service.scheduling.queue import BatchLimits, FairQueue, Row, Taken, Waiting


class SharedQueue:
    """A thread-safe queue. As many threads as it has streams call `wait`, `take` and `batch_done` in turn."""

    def __init__(self, queue: FairQueue[RowPayload]) -> None:
        self._queue = queue
        self._changed = threading.Condition()
        self._num_busy = 0

    @property
    def closed(self) -> bool:
        """Whether no more rows are admitted."""
        return self._queue.closed

    @property
    def limits(self) -> BatchLimits:
        """The limits of batches."""
        return self._queue.limits

    def start(self, limits: BatchLimits) -> None:
        """As `FairQueue.start`."""
        with self._changed:
            self._queue.start(limits, time.monotonic())

    def speed(self) -> float:
        """As `FairQueue.speed`."""
        with self._changed:
            return self._queue.speed(time.monotonic())

    def admit(self, rows: Sequence[Row[RowPayload]]) -> None:
        """Queues all rows, or none. Raises queue.Refused."""
        with self._changed:
            self._queue.admit(rows, time.monotonic())
            self._changed.notify(len(rows))

    def require_room(self, task_id: int | None, num_tokens: int, before: int, deadline: float) -> None:
        """As `FairQueue.require_room`."""
        with self._changed:
            self._queue.require_room(task_id, num_tokens, before, deadline, time.monotonic())

    def cancel(self, rows: Collection[Row[RowPayload]]) -> list[Row[RowPayload]]:
        """Removes those of the rows that are still queued, and returns them."""
        with self._changed:
            return self._queue.cancel(rows)

    def waiting(self) -> tuple[dict[int, Waiting], float]:
        """Queued rows and tokens by task id, and the seconds that the oldest row has been waiting."""
        with self._changed:
            return self._queue.waiting(), self._queue.oldest_s(time.monotonic())

    def close(self) -> None:
        """Admits nothing from now on; the streams run what is queued."""
        with self._changed:
            self._queue.close()
            self._changed.notify_all()

    def wait(self, timeout_s: float) -> bool:
        """Waits for rows, but not longer than `timeout_s`. False when the queue is closed and empty."""

        def has_news() -> bool:
            return bool(self._queue) or self._queue.closed

        with self._changed:
            if not has_news():
                self._changed.wait_for(has_news, timeout_s)
            return bool(self._queue) or not self._queue.closed

    def take(self) -> Taken[RowPayload]:
        """The next batch. While other streams are idle it has at most this stream's part of the waiting rows."""
        with self._changed:
            taken = self._queue.take(time.monotonic(), shares=max(1, self._queue.num_streams - self._num_busy))
            self._num_busy += bool(taken.rows)
            return taken

    def batch_done(self, rows: Sequence[Row[RowPayload]], seconds: float | None) -> None:
        """Records that a taken batch has ended, and how long it occupied its stream; None if it failed."""
        with self._changed:
            self._num_busy -= 1
            if seconds is not None:
                self._queue.batch_done(rows, seconds, time.monotonic())

    def drain(self) -> list[Row[RowPayload]]:
        """Empties the queue and returns its rows."""
        rows: list[Row[RowPayload]] = []
        with self._changed:
            while self._queue:
                taken = self._queue.take(time.monotonic())
                rows += [*taken.rows, *taken.expired]
        return rows
