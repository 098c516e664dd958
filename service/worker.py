"""The one thread that owns the device: take rows, run them, answer every row. It knows neither tasks nor HTTP.

Health is a by-product of work: after a forward has failed, one row that is known to be good is run. The worker is
ready if that succeeds. If not, the row is tried again whenever somebody asks (`recover`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence

from model.answers import Logits
from model.encoding import Encoding
from service.metrics import DEADLINE, Metrics
from service.queue import Queue, Row, Taken, Waiting
from service.runners import DeviceLost, Forward
from service.tickets import Work

logger = logging.getLogger(__name__)

Run = Callable[[Sequence[int], Sequence[Encoding]], list[Logits]]
"""Task ids and encodings of rows to the rows' own logits."""


class Worker:
    """Runs what the queue holds, in batches. The public methods may be called from any thread.

    `known_good`: task id and encoding of a row that runs if anything does. `warm_up` is called before the first
    batch; what it raises ends the worker. `ended` is called from the worker's thread as the last thing.
    """

    def __init__(
        self,
        queue: Queue[Work],
        forward: Forward,
        metrics: Metrics,
        *,
        known_good: tuple[int, Encoding],
        warm_up: Callable[[Run], None],
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
        self._running: Sequence[Row[Work]] = ()

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
            while (taken := self._take()) is not None:
                self._serve(taken)
        except Exception as error:
            logger.exception("the worker ends")
            self.failure = error
        finally:
            self._abandon()
            self._ended()

    def _get_warm(self) -> None:
        started = time.monotonic()
        self._warm_up(self._timed)
        seconds = time.monotonic() - started
        self._metrics.device.warmup.set(seconds)
        self._ready = True
        logger.info("ready after %.1f s of warming up", seconds)

    def _take(self) -> Taken[Work] | None:
        """Waits for something to do; None when there is nothing left to do ever."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._queue.closed or self._recovery_wanted)
            self._recovery_wanted = False
            return self._queue.take(time.monotonic()) if self._queue or not self._queue.closed else None

    def _serve(self, taken: Taken[Work]) -> None:
        for row in taken.expired:
            self._metrics.dropped(row.task_id, DEADLINE, 1)
            row.payload.ticket.expire()
        self._running = taken.rows
        if taken.rows:
            self._answer(taken.rows)
        self._ready = self._last_succeeded or self._known_good_runs()

    def _answer(self, rows: Sequence[Row[Work]]) -> None:
        task_ids = [row.task_id for row in rows]
        started = time.monotonic()
        try:
            logits = self._timed(task_ids, [row.payload.encoding for row in rows])
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
                self._answer([row])
        else:
            ended = time.monotonic()
            for row, own in zip(rows, logits, strict=True):
                row.payload.ticket.answer(row.payload.place, own, started, ended)
            self._metrics.device.ran(task_ids, [row.num_tokens for row in rows], ended - started)

    def _timed(self, task_ids: Sequence[int], encodings: Sequence[Encoding]) -> list[Logits]:
        started = time.monotonic()
        self._last_succeeded = False
        logits = self._forward(task_ids, encodings)
        self._last_succeeded = True
        with self._changed:
            self._queue.drained(sum(map(len, encodings)), time.monotonic() - started)
        return logits

    def _known_good_runs(self) -> bool:
        task_id, encoding = self._known_good
        try:
            self._timed([task_id], [encoding])
        except DeviceLost:
            raise
        except Exception:
            logger.exception("not ready: a row that used to run fails")
        return self._last_succeeded

    def _abandon(self) -> None:
        """Every row that was accepted gets an error if it has no answer."""
        left = list(self._running)
        with self._changed:
            self._queue.close()
            while self._queue:
                taken = self._queue.take(time.monotonic())
                left += [*taken.rows, *taken.expired]
        for row in left:
            row.payload.ticket.fail(self.failure or RuntimeError("the worker has ended"))
