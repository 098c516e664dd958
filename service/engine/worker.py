"""Worker: owns a device. Warms it up, runs the queued rows, and shuts down gracefully. Knows neither tasks nor HTTP.

While the device hangs it is not ready, and nobody waits for it. It goes on when the device does.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from itertools import groupby
from operator import attrgetter

from polytask.model.answers import Logits
from polytask.model.encoding import Encoding
from polytask.service.backends.forward import Forward, Run
from polytask.service.engine.device_loop import DeviceLoop
from polytask.service.engine.shared_queue import SharedQueue
from polytask.service.errors import NotReady
from polytask.service.liveness import HUNG_S, RESTART_S, TICK_S, ProgressWatch
from polytask.service.observability.metrics import WorkerMetrics
from polytask.service.pending import RowPayload
from polytask.service.scheduling.queue import BatchLimits, Closed, FairQueue, Row

logger = logging.getLogger(__name__)

_SLOWEST = 10
"""A batch that takes this many times as long as the slowest of the warm-up hangs, if that is longer than HUNG_S."""

_task_id = attrgetter("task_id")


class Worker:
    """Runs the queued rows in batches, as many side by side as the device can. Any thread may call its methods.

    `probe_row`: task id and encoding of a row that runs if the device works. `warm_up`: called before the first batch,
    returns the limits of batches; an exception from it ends the worker.
    """

    def __init__(
        self,
        queue: FairQueue[RowPayload],
        forward: Forward,
        metrics: WorkerMetrics,
        *,
        probe_row: tuple[int, Encoding],
        warm_up: Callable[[Run], BatchLimits],
    ) -> None:
        self.failure: Exception | None = None
        self.queue = SharedQueue(queue)
        self._loops = [DeviceLoop(self.queue, forward, metrics, probe_row) for _ in range(forward.num_streams)]
        self._forward = forward
        self._metrics = metrics
        self._run_warmup = warm_up
        self._is_warm = False
        self._warm_or_failed = threading.Event()
        self._warmup_s = 0.0
        self._slowest_s = 0.0
        self._hung_for_s: float | None = None
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def ready(self) -> bool:
        """Whether rows are accepted and would be answered."""
        return self._is_warm and not self.hung and not self.queue.closed and all(loop.ready for loop in self._loops)

    @property
    def hung(self) -> bool:
        """Whether the device has hung since its last batch was started."""
        return self._hung_for_s is not None

    @property
    def lost(self) -> bool:
        """Whether it has hung for so long that only a restart of the process helps."""
        return self._hung_for_s is not None and self._hung_for_s > RESTART_S

    @property
    def draining(self) -> bool:
        """Whether the worker is shutting down or has ended: it accepts no more rows."""
        return self.queue.closed

    def start(self, on_exit: Callable[[], None] = lambda: None) -> None:
        """Starts the thread: warm-up, then batches. It calls `on_exit` as the last thing."""
        self._thread = threading.Thread(target=self._work, args=(on_exit,), name="device", daemon=True)
        self._thread.start()

    def wait_until_ready(self) -> None:
        """Returns when the worker is warm. Raises the error that ended it before that."""
        self._warm_or_failed.wait()
        if self.failure is not None:
            raise self.failure

    def require_room(self, task_id: int | None, num_tokens: int, before: int, deadline: float) -> None:
        """As `SharedQueue.require_room`."""
        self.queue.require_room(task_id, num_tokens, before, deadline)

    def submit(self, rows: Sequence[Row[RowPayload]]) -> None:
        """Queues all rows, or none. Raises queue.Refused."""
        self.queue.admit(rows)
        for task_id, task_rows in groupby(rows, _task_id):
            self._metrics.admitted(task_id, [row.payload.encoding for row in task_rows])

    def cancel(self, rows: Collection[Row[RowPayload]], reason: str | None = None) -> None:
        """Removes those rows of a request that are still queued, and counts them as dropped for `reason`."""
        dropped = self.queue.cancel(rows)
        if reason is not None:
            for task_id, num_rows in Counter(map(_task_id, dropped)).items():
                self._metrics.dropped(task_id, reason, num_rows)

    def update_metrics(self) -> None:
        """Sets the gauges of the worker and its queue."""
        self._metrics.observe_queue(*self.queue.waiting())
        self._metrics.set_warmup(self._warmup_s, self.queue.limits.token_budget)

    def stop(self, timeout_s: float) -> bool:
        """Accepts no more rows, runs those that are queued, and ends. Returns whether it has ended within `timeout_s`."""
        self.queue.close()
        assert self._thread is not None, "a worker that is stopped was started"
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _work(self, on_exit: Callable[[], None]) -> None:
        others = [
            threading.Thread(target=self._run, args=(loop,), name=f"device-{number}", daemon=True)
            for number, loop in enumerate(self._loops[1:], start=1)
        ]
        try:
            self._warm_up()
        except Closed:
            logger.info("ended while it was warming up")
        except Exception as error:
            logger.exception("the worker ends")
            self._fail(error)
        else:
            watch = threading.Thread(target=self._watch, name="watch", daemon=True)
            for thread in (watch, *others):
                thread.start()
            self._run(self._loops[0])
            for other in others:
                other.join()
            self._ended.set()
            watch.join()
        self._fail_unanswered()
        self._warm_or_failed.set()
        on_exit()

    def _warm_up(self) -> None:
        started = time.monotonic()
        self.queue.start(self._run_warmup(self._timed))
        self._warmup_s = time.monotonic() - started
        self._is_warm = True
        self._warm_or_failed.set()
        logger.info("ready after %.1f s of warming up", self._warmup_s)

    def _timed(self, task_ids: Sequence[int], encodings: Sequence[Encoding]) -> list[Logits]:
        """A forward of the warm-up."""
        if self.queue.closed:
            raise Closed
        started = time.monotonic()
        try:
            return self._forward(task_ids, encodings)
        finally:
            self._slowest_s = max(self._slowest_s, time.monotonic() - started)

    def _watch(self) -> None:
        """Sees whether the device hangs, until the worker ends."""
        hung_s = max(HUNG_S, _SLOWEST * self._slowest_s)
        watches = [ProgressWatch() for _ in self._loops]
        while not self._ended.wait(TICK_S):
            still_s = [watch.look(loop.beats) for watch, loop in zip(watches, self._loops, strict=True)]
            hung = [(s, loop) for s, loop in zip(still_s, self._loops, strict=True) if s > hung_s and not loop.ended]
            if hung and not self.hung:
                logger.error("not ready: a batch has been running for %.0f s; the device hangs", hung_s)
            elif self.hung and not hung:
                logger.warning("the device goes on after it has hung for %.0f s", hung_s + (self._hung_for_s or 0))
            self._hung_for_s = max(s for s, _ in hung) - hung_s if hung else None
            if hung:
                self._turn_away([loop for _, loop in hung])

    def _turn_away(self, hung: Sequence[DeviceLoop]) -> None:
        """Fails the rows on a device that hangs and those that wait for it, so that their clients can go elsewhere."""
        for row in [*(row for loop in hung for row in loop.unanswered), *self.queue.drain()]:
            row.payload.sink.fail(NotReady("the device that was to run this hangs", retry_after_s=1))

    def _run(self, loop: DeviceLoop) -> None:
        try:
            loop.run()
        except Exception as error:
            logger.exception("the worker ends")
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self.failure = self.failure or error
        # At once: the batches of other streams may still take a while.
        self.queue.close()
        for row in self.queue.drain():
            row.payload.sink.fail(error)

    def _fail_unanswered(self) -> None:
        """Fails every accepted row that has no answer, and accepts no more."""
        self.queue.close()
        unanswered = [row for loop in self._loops for row in loop.unanswered] + self.queue.drain()
        for row in unanswered:
            row.payload.sink.fail(self.failure or RuntimeError("the worker has ended"))
