"""The queue between threads: requests put rows in, the streams of a device take batches out, and wait here for work."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Sequence

from polytask.service.pending import RowPayload
from polytask.service.scheduling.queue import BatchLimits, FairQueue, Row, Taken, Waiting


class SharedQueue:
    """A queue that threads share. All methods may be called from any thread.

    `streams`: how many threads take batches; each calls `wait`, `take` and `drained` in turn.
    """

    def __init__(self, queue: FairQueue[RowPayload], num_streams: int) -> None:
        self._queue = queue
        self._streams = num_streams
        self._changed = threading.Condition()
        self._busy = 0
        self._free_at = 0.0
        self._recoveries = 0

    @property
    def closed(self) -> bool:
        """Whether nothing is taken any more."""
        return self._queue.closed

    @property
    def recoveries(self) -> int:
        """How often somebody has asked for another try."""
        return self._recoveries

    def admit(self, rows: Sequence[Row[RowPayload]]) -> None:
        """Puts all rows in line, or none. Raises queue.Full or queue.Closed."""
        with self._changed:
            self._queue.admit(rows, time.monotonic())
            self._changed.notify(len(rows))

    def require_room(self, task_id: int | None, num_tokens: int, before: int, deadline: float) -> None:
        """As `FairQueue.require_room`."""
        with self._changed:
            self._queue.require_room(task_id, num_tokens, before, deadline, time.monotonic())

    def cancel(self, rows: Collection[Row[RowPayload]]) -> list[Row[RowPayload]]:
        """Takes out of the line those rows that are still in it. Returns these."""
        with self._changed:
            return self._queue.cancel(rows)

    def waiting(self) -> tuple[dict[int, Waiting], float]:
        """What is in line, by task id, and for how many seconds its oldest row has been."""
        with self._changed:
            return self._queue.waiting(), self._queue.oldest_s(time.monotonic())

    @property
    def limits(self) -> BatchLimits:
        """How batches are cut."""
        return self._queue.limits

    def limit(self, limits: BatchLimits) -> None:
        """How batches are cut from now on."""
        with self._changed:
            self._queue.limits = limits

    def recover(self) -> None:
        """Wakes every stream, whether there are rows or not."""
        with self._changed:
            self._recoveries += 1
            self._changed.notify_all()

    def close(self) -> None:
        """Nothing more is admitted; streams go on until the line is empty."""
        with self._changed:
            self._queue.close()
            self._changed.notify_all()

    def wait(self, recoveries: int) -> bool:
        """Waits for rows, or more `recoveries`; False when there is nothing left to do ever."""

        def something() -> bool:
            return bool(self._queue) or self._queue.closed or self._recoveries > recoveries

        with self._changed:
            if not something():
                self._changed.wait_for(something)
                if not self._busy:
                    self._free_at = time.monotonic()
            return bool(self._queue) or not self._queue.closed

    def take(self) -> Taken[RowPayload]:
        """The next batch; where other streams have nothing to do, no more than this one's part of what waits."""
        with self._changed:
            taken = self._queue.take(time.monotonic(), shares=max(1, self._streams - self._busy))
            self._busy += bool(taken.rows)
            return taken

    def batch_done(self, rows: Sequence[Row[RowPayload]]) -> None:
        """Notes that a batch which was taken is done, whatever became of it."""
        with self._changed:
            now = time.monotonic()
            # Batches that run side by side share the time that has passed: it is counted once. Streams that had nothing to
            # do would have taken their part of it.
            self._queue.batch_done(rows, (now - self._free_at) * self._busy / self._streams)
            self._busy -= 1
            self._free_at = now

    def close_and_drain(self) -> list[Row[RowPayload]]:
        """Closes the line and empties it."""
        left: list[Row[RowPayload]] = []
        with self._changed:
            self._queue.close()
            while self._queue:
                taken = self._queue.take(time.monotonic())
                left += [*taken.rows, *taken.expired]
            self._changed.notify_all()
        return left
