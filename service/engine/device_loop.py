"""One thread of a device: take a batch, run it, answer its rows. A device that runs batches side by side has several.

Where the device runs a batch by itself, the next one is taken and started meanwhile, and no further one: rows that
come later still have a say in the batch after that. Elsewhere a batch is taken when the stream is free.

Health is a by-product of work: after a forward has failed, one row that is known to be good is run. The stream is
ready if that succeeds. If not, the row is tried again whenever somebody asks (`SharedQueue.recover`).
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
from polytask.service.observability.metrics import DEADLINE, Metrics
from polytask.service.pending import RowPayload
from polytask.service.scheduling.queue import Row

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Started:
    """A batch on the device. `logits` waits for it, or raises why there is none."""

    rows: Sequence[Row[RowPayload]]
    at: float
    logits: Callable[[], list[Logits]]


class DeviceLoop:
    """Runs batches of the line until that is closed and empty.

    `known_good`: task id and encoding of a row that runs if anything does.
    """

    def __init__(self, line: SharedQueue, forward: Forward, metrics: Metrics, probe_row: tuple[int, Encoding]) -> None:
        self.ready = True
        self._queue = line
        self._forward = forward
        self._metrics = metrics
        self._probe_row = probe_row
        self._last_succeeded = True
        self._recoveries = 0
        self._started: deque[_Started] = deque()
        self._free_at = 0.0

    @property
    def unanswered(self) -> list[Row[RowPayload]]:
        """The rows that were taken and have no answer."""
        return [row for batch in self._started for row in batch.rows]

    def run(self) -> None:
        """Returns when there is nothing left to do ever. Raises DeviceLost."""
        while self._started or self._queue.wait(self._recoveries):
            self._recoveries = self._queue.recoveries
            if not self._start_next() or len(self._started) > self._forward.is_async:
                self._finish_first()
            self.ready = self._last_succeeded or self._known_good_runs()

    def _start_next(self) -> bool:
        """Takes a batch and starts it; False when there was none."""
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
        except Exception as error:  # noqa: BLE001, it is dealt with when it is the turn of this batch
            logits = partial(_fail, error)
        return _Started(rows, at, logits)

    def _finish_first(self) -> None:
        # It stays among the started until its rows have their answers: whatever happens, they are not forgotten.
        if self._started:
            self._finish(self._started[0])
            self._queue.batch_done(self._started.popleft().rows)

    def _finish(self, batch: _Started) -> None:
        rows, self._last_succeeded = batch.rows, False
        try:
            logits = batch.logits()
        except DeviceLost:
            raise
        except Exception as error:  # noqa: BLE001, whatever it is, it is the answer of these rows and the loop goes on
            self._metrics.device.failed(out_of_memory=isinstance(error, MemoryError))
            if len(rows) == 1:
                rows[0].payload.sink.fail(error)
                return
            # One row may be the reason, and must not hurt its mates.
            logger.warning("a batch of %d rows failed (%s); they are run one by one", len(rows), error)
            for row in rows:
                self._finish(self._start([row]))
        else:
            self._last_succeeded = True
            self._answer(batch, logits)

    def _answer(self, batch: _Started, logits: Sequence[Logits]) -> None:
        ended = time.monotonic()
        # A batch that was started while another ran has waited for that one.
        began, self._free_at = max(batch.at, self._free_at), ended
        for row, own in zip(batch.rows, logits, strict=True):
            row.payload.sink.answer(row.payload.index, own, began, ended)
        self._metrics.device.observe_batch(
            [row.task_id for row in batch.rows], [row.num_tokens for row in batch.rows], ended - began
        )

    def _known_good_runs(self) -> bool:
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
