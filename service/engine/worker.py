"""What owns the device: it gets warm, answers every row that it takes, and ends in order. Knows neither tasks nor HTTP."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from itertools import groupby
from operator import attrgetter

from polytask.model.encoding import Encoding
from polytask.service.backends.forward import Forward, Run
from polytask.service.engine.device_loop import DeviceLoop
from polytask.service.engine.shared_queue import SharedQueue
from polytask.service.observability.metrics import Metrics
from polytask.service.pending import RowPayload
from polytask.service.scheduling.queue import BatchLimits, FairQueue, Row, Waiting

logger = logging.getLogger(__name__)

_task_id = attrgetter("task_id")


class Worker:
    """Runs what the queue holds, in batches, as many side by side as the device can. Any thread may call it.

    `known_good`: task id and encoding of a row that runs if anything does. `warm_up` is called before the first
    batch and returns the limits of batches; what it raises ends the worker. `ended` is called from the worker's
    thread as the last thing.
    """

    def __init__(
        self,
        queue: FairQueue[RowPayload],
        forward: Forward,
        metrics: Metrics,
        *,
        probe_row: tuple[int, Encoding],
        warm_up: Callable[[Run], BatchLimits],
        on_exit: Callable[[], None] = lambda: None,
    ) -> None:
        self.failure: Exception | None = None
        self._queue = SharedQueue(queue, forward.num_streams)
        self._streams = [DeviceLoop(self._queue, forward, metrics, probe_row) for _ in range(forward.num_streams)]
        self._forward = forward
        self._metrics = metrics
        self._warm_up = warm_up
        self._on_exit = on_exit
        self._warm = False
        self._settled = threading.Event()
        self._warmup_s = 0.0
        self._thread = threading.Thread(target=self._work, name="device", daemon=True)

    @property
    def ready(self) -> bool:
        """Whether rows are taken and would be answered."""
        return self._warm and not self._queue.closed and all(stream.ready for stream in self._streams)

    @property
    def draining(self) -> bool:
        """Whether the worker is ending, or has ended: it takes no rows any more."""
        return self._queue.closed

    def start(self) -> None:
        """Starts the thread: warm-up, then batches."""
        self._thread.start()

    @property
    def limits(self) -> BatchLimits:
        """How batches are cut; until it is warm, before calibration."""
        return self._queue.limits

    @property
    def warmup_s(self) -> float:
        """How long it took to get warm; 0 before."""
        return self._warmup_s

    def wait_until_ready(self) -> None:
        """Returns when it is warm, or raises why it did not get so."""
        self._settled.wait()
        if self.failure is not None:
            raise self.failure

    def require_room(self, task_id: int | None, num_tokens: int, before: int, deadline: float) -> None:
        """As `FairQueue.require_room`."""
        self._queue.require_room(task_id, num_tokens, before, deadline)

    def submit(self, rows: Sequence[Row[RowPayload]]) -> None:
        """Puts all rows in line, or none. Raises queue.Full or queue.Closed."""
        self._queue.admit(rows)
        for task_id, own in groupby(rows, _task_id):
            self._metrics.admitted(task_id, [row.payload.encoding for row in own])

    def cancel(self, rows: Collection[Row[RowPayload]], reason: str | None = None) -> None:
        """Takes out of the line those rows of a request that are still in it, and counts them as dropped for `reason`."""
        dropped = self._queue.cancel(rows)
        if reason is not None:
            for task_id, num_rows in Counter(map(_task_id, dropped)).items():
                self._metrics.dropped(task_id, reason, num_rows)

    def recover(self) -> None:
        """If the last forward failed, tries the known-good row once more."""
        self._queue.recover()

    def waiting(self) -> tuple[dict[int, Waiting], float]:
        """What is in line, by task id, and for how many seconds its oldest row has been."""
        return self._queue.waiting()

    def stop(self, timeout_s: float) -> bool:
        """Takes nothing more, runs what is in line, ends. Returns whether it ended within `timeout_s`."""
        self._queue.close()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _work(self) -> None:
        others = [
            threading.Thread(target=self._run, args=(stream,), name=f"device-{number}", daemon=True)
            for number, stream in enumerate(self._streams[1:], start=1)
        ]
        try:
            self._get_warm()
        except Exception as error:
            logger.exception("the worker ends")
            self._fail(error)
        else:
            for other in others:
                other.start()
            self._run(self._streams[0])
            for other in others:
                other.join()
        self._abandon()
        self._settled.set()
        self._on_exit()

    def _run(self, stream: DeviceLoop) -> None:
        try:
            stream.run()
        except Exception as error:
            logger.exception("the worker ends")
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self.failure = self.failure or error
        # Nobody is to wait for streams that go on to be told so, too.
        for row in self._queue.close_and_drain():
            row.payload.sink.fail(error)

    def _get_warm(self) -> None:
        started = time.monotonic()
        limits = self._warm_up(self._forward)
        self._queue.limit(limits)
        self._warmup_s = time.monotonic() - started
        self._warm = True
        self._settled.set()
        logger.info("ready after %.1f s of warming up", self._warmup_s)

    def _abandon(self) -> None:
        """Every row that was accepted gets an error if it has no answer."""
        left = [row for stream in self._streams for row in stream.unanswered] + self._queue.close_and_drain()
        for row in left:
            row.payload.sink.fail(self.failure or RuntimeError("the worker has ended"))
