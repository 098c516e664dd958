"""Device loop: takes a batch, runs it, answers its rows. One thread each; a device may run several side by side.

An asynchronous backend runs a batch by itself. Meanwhile the next batch is taken and started, but only one, so that rows
that arrive later can still enter the batch after it. Otherwise a batch is taken when the thread is free.

Health follows from work: after a failed forward the probe row is run, and the loop is ready if that succeeds. If not,
the probe row is tried again at each `SharedQueue.recover`.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from polytask.model.answers import Logits
from polytask.model.encoding import Encoding
from polytask.service.backends.contract import DeviceLost
from polytask.service.backends.forward import Forward
from polytask.service.engine.shared_queue import SharedQueue
from polytask.service.observability.metrics import WorkerMetrics
from polytask.service.observability.request_metrics import DEADLINE
from polytask.service.pending import RowPayload
from polytask.service.scheduling.queue import Row

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Started:
    """A batch on the device. `logits` waits for its result, or raises its error."""

    rows: Sequence[Row[RowPayload]]
    at: float
    logits: Callable[[], list[Logits]]


class DeviceLoop:
    """Runs batches until the queue is closed and empty.

    `probe_row`: task id and encoding of a row that runs if the device works.
    """

    def __init__(
        self, queue: SharedQueue, forward: Forward, metrics: WorkerMetrics, probe_row: tuple[int, Encoding]
    ) -> None:
        self.ready = True
        self._queue = queue
        self._forward = forward
        self._metrics = metrics
        self._probe_row = probe_row
        self._last_succeeded = True
        self._recoveries = 0
        self._started: deque[_Started] = deque()
        self._free_at = 0.0

    @property
    def unanswered(self) -> list[Row[RowPayload]]:
        """The rows that were taken and are not answered yet."""
        return [row for batch in self._started for row in batch.rows]

    def run(self) -> None:
        """Returns when the queue is closed and empty. Raises DeviceLost."""
        num_ahead = 1 if self._forward.is_async else 0
        while self._started or self._queue.wait(self._recoveries):
            self._recoveries = self._queue.recoveries
            if not self._start_next() or len(self._started) > num_ahead:
                self._finish_first()
            self.ready = self._last_succeeded or self._probe_succeeds()

    def _start_next(self) -> bool:
        """Takes a batch and starts it. Returns False when there was none."""
        taken = self._queue.take()
        for row in taken.expired:
            self._metrics.dropped(row.task_id, DEADLINE, 1)
            row.payload.sink.expire()
        if taken.rows:
            self._started.append(self._start(taken.rows))
        return bool(taken.rows)

    def _start(self, rows: Sequence[Row[RowPayload]]) -> _Started:
        at = time.monotonic()
        try:
            logits = self._forward.start([row.task_id for row in rows], [row.payload.encoding for row in rows])
        except Exception as error:  # noqa: BLE001, handled when the batch is finished
            logits = partial(_fail, error)
        return _Started(rows, at, logits)

    def _finish_first(self) -> None:
        # The batch stays in `_started` until its rows are answered, so that an error cannot lose them.
        if self._started:
            batch = self._started[0]
            began = max(batch.at, self._free_at)
            self._finish(batch)
            seconds = time.monotonic() - began if self._last_succeeded else None
            self._queue.batch_done(self._started.popleft().rows, seconds)

    def _finish(self, batch: _Started) -> None:
        rows, self._last_succeeded = batch.rows, False
        try:
            logits = batch.logits()
        except DeviceLost:
            raise
        except Exception as error:  # noqa: BLE001, any error is the result of these rows, and the loop continues
            self._metrics.device.failed(out_of_memory=isinstance(error, MemoryError))
            if len(rows) == 1:
                rows[0].payload.sink.fail(error)
                return
            # A single row may be the cause, and must not fail the others.
            logger.warning("a batch of %d rows failed (%s); they are run one by one", len(rows), error)
            for row in rows:
                self._finish(self._start([row]))
        else:
            self._last_succeeded = True
            self._answer(batch, logits)

    def _answer(self, batch: _Started, logits: Sequence[Logits]) -> None:
        ended = time.monotonic()
        # A batch that was started while another ran has waited for it.
        began, self._free_at = max(batch.at, self._free_at), ended
        for row, row_logits in zip(batch.rows, logits, strict=True):
            row.payload.sink.answer(row.payload.index, row_logits, began, ended)
        self._metrics.device.observe_batch(
            [row.task_id for row in batch.rows], [row.num_tokens for row in batch.rows], ended - began
        )

    def _probe_succeeds(self) -> bool:
        task_id, encoding = self._probe_row
        try:
            self._forward([task_id], [encoding])
        except DeviceLost:
            raise
        except Exception:
            logger.exception("not ready: a row that used to run fails")
        else:
            self._last_succeeded = True
        return self._last_succeeded


def _fail(error: Exception) -> list[Logits]:
    raise error
