"""The one thread that owns the device: take rows, run them, answer every row. It knows neither tasks nor HTTP.

Where the device runs a batch by itself, the next one is taken and started meanwhile, and no further one: rows that
come later still have a say in the batch after that. Elsewhere a batch is taken when the device is free.

Health is a by-product of work: after a forward has failed, one row that is known to be good is run. The worker is
ready if that succeeds. If not, the row is tried again whenever somebody asks (`recover`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial

from model.answers import Logits
from model.encoding import Encoding
from service.metrics import DEADLINE, Metrics
from service.queue import Limits, Queue, Row, Waiting
from service.runners import DeviceLost, Forward
from service.tickets import Work

logger = logging.getLogger(__name__)

Run = Callable[[Sequence[int], Sequence[Encoding]], list[Logits]]
"""Task ids and encodings of rows to the rows' own logits."""


@dataclass(frozen=True, slots=True)
class _Started:
    """A batch on the device. `logits` waits for it, or raises why there is none."""

    rows: Sequence[Row[Work]]
    at: float
    logits: Callable[[], list[Logits]]


class Worker:
    """Runs what the queue holds, in batches. The public methods may be called from any thread.

    `known_good`: task id and encoding of a row that runs if anything does. `warm_up` is called before the first
    batch and returns the limits of batches; what it raises ends the worker. `ended` is called from the worker's
    thread as the last thing.
    """

    def __init__(
        self,
        queue: Queue[Work],
        forward: Forward,
        metrics: Metrics,
        *,
        known_good: tuple[int, Encoding],
        warm_up: Callable[[Run], Limits],
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        self.failure: Exception | None = None
        self._queue = queue
        self._forward = forward
        self._metrics = metrics
        self._known_good = known_good
        self._warm_up = warm_up
        self._ended = ended
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="device", daemon=True)
        self._ready = False
        self._last_succeeded = True
        self._recovery_wanted = False
        self._started: deque[_Started] = deque()
        self._device_free_at = 0.0

    @property
    def ready(self) -> bool:
        """Whether rows are taken and would be answered."""
        return self._ready and not self._queue.closed

    @property
    def draining(self) -> bool:
        """Whether the worker is ending, or has ended: it takes no rows any more."""
        return self._queue.closed

    def start(self) -> None:
        """Starts the thread: warm-up, then batches."""
        self._thread.start()

    def submit(self, rows: Sequence[Row[Work]]) -> None:
        """Puts all rows in line, or none. Raises queue.Full or queue.Closed."""
        with self._changed:
            self._queue.admit(rows, time.monotonic())
            self._changed.notify()
        self._metrics.admitted(rows[0].task_id, [row.payload.encoding for row in rows])

    def cancel(self, rows: Collection[Row[Work]], reason: str | None = None) -> None:
        """Takes out of the line those rows of a request that are still in it, and counts them as dropped for `reason`."""
        with self._changed:
            dropped = self._queue.cancel(rows)
        if reason is not None:
            self._metrics.dropped(next(iter(rows)).task_id, reason, dropped)

    def recover(self) -> None:
        """If the last forward failed, tries the known-good row once more."""
        with self._changed:
            self._recovery_wanted = True
            self._changed.notify()

    def waiting(self) -> tuple[dict[int, Waiting], float]:
        """What is in line, by task id, and for how many seconds its oldest row has been."""
        with self._changed:
            return self._queue.waiting(), self._queue.oldest_s(time.monotonic())

    def stop(self, timeout_s: float) -> bool:
        """Takes nothing more, runs what is in line, ends. Returns whether it ended within `timeout_s`."""
        with self._changed:
            self._queue.close()
            self._changed.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _work(self) -> None:
        try:
            self._get_warm()
            while self._started or self._wait():
                if not self._start_next() or len(self._started) > self._forward.overlaps:
                    self._finish_first()
                self._ready = self._last_succeeded or self._known_good_runs()
        except Exception as error:
            logger.exception("the worker ends")
            self.failure = error
        finally:
            self._abandon()
            self._ended()

    def _get_warm(self) -> None:
        started = time.monotonic()
        limits = self._warm_up(self._forward)
        with self._changed:
            self._queue.limits = limits
        seconds = time.monotonic() - started
        self._metrics.device.warmup.set(seconds)
        self._metrics.device.token_budget.set(limits.token_budget)
        self._ready = True
        logger.info("ready after %.1f s of warming up", seconds)

    def _wait(self) -> bool:
        """Waits for something to do; False when there is nothing left to do ever."""

        def something() -> bool:
            return bool(self._queue) or self._queue.closed or self._recovery_wanted

        with self._changed:
            if not something():
                self._changed.wait_for(something)
                self._device_free_at = time.monotonic()
            self._recovery_wanted = False
            return bool(self._queue) or not self._queue.closed

    def _start_next(self) -> bool:
        """Takes a batch and starts it; False when there was none."""
        with self._changed:
            taken = self._queue.take(time.monotonic())
        for row in taken.expired:
            self._metrics.dropped(row.task_id, DEADLINE, 1)
            row.payload.ticket.expire()
        if taken.rows:
            self._started.append(self._start(taken.rows))
        return bool(taken.rows)

    def _start(self, rows: Sequence[Row[Work]]) -> _Started:
        at = time.monotonic()
        try:
            logits = self._forward.start([row.task_id for row in rows], [row.payload.encoding for row in rows])
        except Exception as error:  # noqa: BLE001, it is dealt with when it is the turn of this batch
            logits = partial(_fail, error)
        return _Started(rows, at, logits)

    def _finish_first(self) -> None:
        # It stays among the started until its rows have their answers: whatever happens, they are not forgotten.
        if self._started:
            self._finish(self._started[0])
            self._started.popleft()

    def _finish(self, batch: _Started) -> None:
        rows, self._last_succeeded = batch.rows, False
        try:
            logits = batch.logits()
        except DeviceLost:
            raise
        except Exception as error:  # noqa: BLE001, whatever it is, it is the answer of these rows and the loop goes on
            self._metrics.device.failed(out_of_memory=isinstance(error, MemoryError))
            if len(rows) == 1:
                rows[0].payload.ticket.fail(error)
                return
            # One row may be the reason, and must not hurt its mates.
            logger.warning("a batch of %d rows failed (%s); they are run one by one", len(rows), error)
            for row in rows:
                self._finish(self._start([row]))
        else:
            self._last_succeeded = True
            self._answer(batch, logits)

    def _answer(self, batch: _Started, logits: Sequence[Logits]) -> None:
        rows, free_at, ended = batch.rows, self._device_free_at, time.monotonic()
        self._device_free_at = ended
        with self._changed:
            self._queue.drained(rows, ended - free_at)
        # A batch that was started while another ran has waited for that one.
        began = max(batch.at, free_at)
        for row, own in zip(rows, logits, strict=True):
            row.payload.ticket.answer(row.payload.place, own, began, ended)
        self._metrics.device.ran([row.task_id for row in rows], [row.num_tokens for row in rows], ended - began)

    def _known_good_runs(self) -> bool:
        task_id, encoding = self._known_good
        try:
            self._forward([task_id], [encoding])
        except DeviceLost:
            raise
        except Exception:
            logger.exception("not ready: a row that used to run fails")
        else:
            self._last_succeeded = True
        return self._last_succeeded

    def _abandon(self) -> None:
        """Every row that was accepted gets an error if it has no answer."""
        left = [row for batch in self._started for row in batch.rows]
        with self._changed:
            self._queue.close()
            while self._queue:
                taken = self._queue.take(time.monotonic())
                left += [*taken.rows, *taken.expired]
        for row in left:
            row.payload.ticket.fail(self.failure or RuntimeError("the worker has ended"))


def _fail(error: Exception) -> list[Logits]:
    raise error
