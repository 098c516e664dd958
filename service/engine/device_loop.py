"""Device loop: takes a batch, runs it, answers its rows. One thread each; a device may run several side by side.

An asynchronous backend runs a batch by itself. Meanwhile the next batch is taken and started, but only one, so that rows
that arrive later can still enter the batch after it. Otherwise a batch is taken when the thread is free.

Health follows from work: after a failed forward the probe row is run, and again every second until it succeeds; until
then the loop is not ready. A device that has nothing to do runs it now and then, so that it is known whether it could.
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
from polytask.service.liveness import BEAT_S
from polytask.service.observability.metrics import WorkerMetrics
from polytask.service.observability.request_metrics import DEADLINE
from polytask.service.pending import RowPayload
from polytask.service.scheduling.queue import Row

logger = logging.getLogger(__name__)

PROBE_S = 5.0
"""Seconds without a batch after which a device that is idle runs the probe row."""


@dataclass(frozen=True, slots=True)
class _Started:
    """A batch on the device. `logits` waits for its result, or raises its error."""

    rows: Sequence[Row[RowPayload]]
    at: float
    logits: Callable[[], list[Logits]]


class DeviceLoop:
    """Runs batches until the queue is closed and empty.

    `probe_row`: task id and encoding of a row that runs if the device works. `beats`: a count of what it does, at least one
    a second unless a batch takes longer. `ended`: whether it has returned.
    """

    def __init__(
        self, queue: SharedQueue, forward: Forward, metrics: WorkerMetrics, probe_row: tuple[int, Encoding]
    ) -> None:
        self.ready = True
        self.beats = 0
        self.ended = False
        self._queue = queue
        self._forward = forward
        self._metrics = metrics
        self._probe_row = probe_row
        self._last_succeeded = True
        self._started: deque[_Started] = deque()
        self._free_at = 0.0

    @property
    def unanswered(self) -> list[Row[RowPayload]]:
        """The rows that were taken and are not answered yet."""
        # A copy, as another thread may ask while a batch runs.
        return [row for batch in list(self._started) for row in batch.rows]

    def run(self) -> None:
        """Returns when the queue is closed and empty. Raises DeviceLost."""
        num_ahead = 1 if self._forward.is_async else 0
        self._free_at = time.monotonic()
        try:
            while self._started or self._queue.wait(BEAT_S):
                self.beats += 1
                if not self._start_next() or len(self._started) > num_ahead:
                    self._finish_first()
                is_idle = not self._started and time.monotonic() - self._free_at > PROBE_S
                if not self._last_succeeded or is_idle:
                    self._probe()
                self.ready = self._last_succeeded
        finally:
            self.ended = True

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
        self.beats += 1
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

    def _probe(self) -> None:
        task_id, encoding = self._probe_row
        self._last_succeeded = False
        try:
            self._forward([task_id], [encoding])
        except DeviceLost:
            raise
        except Exception:
            if self.ready:
                logger.exception("not ready: a row that used to run fails")
        else:
            self._last_succeeded = True
        self._free_at = time.monotonic()


def _fail(error: Exception) -> list[Logits]:
    raise error
