"""Worker: every accepted row is answered, whatever happens to the others."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import pytest

from polytask.model.encoding import Encoding
from polytask.service.backends.contract import Backend, DeviceLost
from polytask.service.backends.forward import Forward, Run
from polytask.service.engine.worker import Worker
from polytask.service.errors import DeadlineExceeded, InternalError, NotReady
from polytask.service.observability.metrics import Metrics, WorkerMetrics
from polytask.service.pending import PendingRequest, Results, RowPayload, completion_mailbox
from polytask.service.scheduling.queue import BatchLimits, Closed, FairQueue, Row
from tests.service.support.doubles import FailingBackend, GatedBackend
from tests.service.support.serving import until
from tests.support import tiny

pytestmark = pytest.mark.anyio

KNOWN_GOOD = (0, Encoding((2, 3), (0, 0)))
LIMITS = BatchLimits(max_rows=8, token_budget=256, forward_tokens=256, max_waiting_tokens=1000)
POISON = 9


@dataclass
class Bench:
    """A worker with a backend of the test's choice."""

    worker: Worker
    ended: threading.Event
    metrics: Metrics

    def submit(self, *tokens: int, deadline_s: float = 60) -> asyncio.Future[Results]:
        """Submits a request with a row of task 0 and three tokens for each token."""
        pending = PendingRequest(len(tokens), completion_mailbox(asyncio.get_running_loop()))
        rows = [
            Row(0, 3, time.monotonic() + deadline_s, RowPayload(Encoding((2, token, 3), (0, 0, 0)), pending, index))
            for index, token in enumerate(tokens)
        ]
        self.worker.submit(rows)
        return pending.future


@contextlib.contextmanager
def working(backend: Backend, warm_up: Callable[[Run], BatchLimits] = lambda _: LIMITS) -> Iterator[Bench]:
    """A started worker, stopped at the end."""
    ended = threading.Event()
    forward = Forward(backend, tiny.tasks(), 0)
    metrics = Metrics(tiny.tasks())
    worker_metrics = WorkerMetrics(metrics, tiny.tasks())
    queue: FairQueue[RowPayload] = FairQueue(LIMITS, num_streams=forward.num_streams)
    worker = Worker(queue, forward, worker_metrics, probe_row=KNOWN_GOOD, warm_up=warm_up)
    worker.start(ended.set)
    try:
        yield Bench(worker, ended, metrics)
    finally:
        assert worker.stop(timeout_s=30)


async def test_rows_that_wait_together_run_together() -> None:
    """When the device becomes free, the rows that have arrived in the meantime form a batch, without a timer."""
    backend = GatedBackend()
    with working(backend) as bench:
        backend.shut()
        first = bench.submit(7)
        await until(lambda: len(backend.batches) == 1)
        others = [bench.submit(token) for token in (7, 8, 10)]
        backend.open()
        for future in (first, *others):
            assert len((await future).logits) == 1
    assert [len(batch.lengths) for batch in backend.batches] == [1, 3]


async def test_the_next_batch_is_started_while_one_runs_and_no_further_one() -> None:
    """With an asynchronous backend one batch is started ahead; other rows wait in the queue."""
    backend = GatedBackend(is_async=True)
    with working(backend) as bench:
        backend.shut()
        calls = [bench.submit(*[7] * 20)]
        await until(lambda: len(backend.batches) == 2)
        calls.append(bench.submit(8, 8))
        assert sum(waiting.rows for waiting in bench.worker.queue.waiting()[0].values()) == 6
        backend.open()
        assert [len((await call).logits) for call in calls] == [20, 2]
    assert [len(batch.lengths) for batch in backend.batches] == [8, 8, 6]


async def test_expired_and_cancelled_rows_are_dropped_with_the_next_batch_started() -> None:
    """Rows that expire or are cancelled while two batches are on the device are never run."""
    backend = GatedBackend(is_async=True)
    with working(backend) as bench:
        backend.shut()
        first = bench.submit(*[7] * 16)
        await until(lambda: len(backend.batches) == 2)
        late, last = bench.submit(POISON, deadline_s=0), bench.submit(8)
        pending = PendingRequest(1, completion_mailbox(asyncio.get_running_loop()))
        unwanted = Row(0, 3, float("inf"), RowPayload(Encoding((2, POISON, 3), (0, 0, 0)), pending, 0))
        bench.worker.submit([unwanted])
        bench.worker.cancel([unwanted])
        backend.open()
        with pytest.raises(DeadlineExceeded):
            await late
        for call in (first, last):
            await call
    assert all(POISON not in batch.input_ids for batch in backend.batches)


@pytest.mark.parametrize("at_start", [False, True])
async def test_an_asynchronous_batch_that_fails_hurts_only_the_row_that_fails(at_start: bool) -> None:
    """A failing row fails alone, whether its batch fails at the start or later, and with other batches before and after it."""
    backend = FailingBackend(lambda batch: POISON in batch.input_ids, is_async=True)
    gate = GatedBackend(backend, is_async=True)
    if at_start:
        gate.start = lambda batch: partial(lambda outputs: outputs, gate.run(batch))  # type: ignore[method-assign]
    with working(gate) as bench:
        calls = {token: bench.submit(token) for token in (7, 8, 10)}
        mixed, bad = bench.submit(7, POISON), bench.submit(POISON)
        calls[11] = bench.submit(11)
        for call in calls.values():
            assert len((await call).logits) == 1
        for call in (mixed, bad):
            with pytest.raises(InternalError):
                await call
        await until(lambda: bench.worker.ready)


async def test_a_device_that_is_lost_with_two_batches_on_it_answers_everybody() -> None:
    """A lost device fails the rows of both batches on it and the queued rows."""
    backend = FailingBackend(lambda _: True, DeviceLost("gone"), is_async=True)
    gate = GatedBackend(backend, is_async=True)
    with working(gate) as bench:
        gate.shut()
        doomed = [bench.submit(*[7] * 9) for _ in range(3)]
        await until(lambda: len(gate.batches) == 2)
        gate.open()
        for future in doomed:
            with pytest.raises(InternalError):
                await future
        await until(bench.ended.is_set)
        assert isinstance(bench.worker.failure, DeviceLost)


async def test_the_limits_of_the_warm_up_hold() -> None:
    """Batches keep to the limits that the warm-up returns."""
    backend = GatedBackend()
    with working(backend, lambda _: replace(LIMITS, max_rows=2)) as bench:
        await bench.submit(7, 8, 10, 11, 12)
    assert [len(batch.lengths) for batch in backend.batches] == [2, 2, 1]


async def test_a_failing_batch_hurts_only_the_row_that_fails() -> None:
    """The rows of a failed batch are run one by one; the next batch runs as usual."""
    backend = FailingBackend(lambda batch: POISON in batch.input_ids)
    gate = GatedBackend(backend)
    with working(gate) as bench:
        gate.shut()
        first = bench.submit(7)
        await until(lambda: len(gate.batches) == 1)
        good, bad, mixed = bench.submit(8, 10), bench.submit(POISON), bench.submit(7, POISON)
        gate.open()
        assert len((await good).logits) == 2
        for future in (bad, mixed):
            with pytest.raises(InternalError):
                await future
        assert len((await first).logits) == 1
        assert bench.worker.ready
        assert len((await bench.submit(8)).logits) == 1


async def test_it_is_not_ready_while_the_probe_row_fails() -> None:
    """The worker is ready if its last forward succeeded; the probe row is tried again by itself."""
    backend = FailingBackend(lambda _: True)
    with working(backend) as bench:
        with pytest.raises(InternalError):
            await bench.submit(7)
        await until(lambda: not bench.worker.ready)
        tried = len(backend.batches)
        await until(lambda: len(backend.batches) > tried)
        assert not bench.worker.ready
        backend.fails = lambda _: False
        await until(lambda: bench.worker.ready)


async def test_a_device_that_hangs_answers_nobody_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Running and waiting rows fail while the batch still runs, nothing is ready until it has ended, and then all is as before."""
    monkeypatch.setattr("polytask.service.engine.worker.HUNG_S", 1)
    monkeypatch.setattr("polytask.service.engine.device_loop.BEAT_S", 0.05)
    backend = GatedBackend()
    with working(backend) as bench:
        backend.shut()
        running = bench.submit(7)
        await until(lambda: len(backend.batches) == 1)
        for call in (running, bench.submit(8, 10)):
            with pytest.raises(NotReady):
                await call
        assert (bench.worker.ready, bench.worker.hung, bench.worker.draining) == (False, True, False)
        with pytest.raises(NotReady):
            await bench.submit(8)
        backend.open()
        await until(lambda: bench.worker.ready)
        assert len((await bench.submit(8)).logits) == 1
    assert [len(batch.lengths) for batch in backend.batches] == [1, 1]


async def test_a_batch_may_take_as_long_as_the_warm_up_leads_to_expect(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the batches of the warm-up are slow, one that takes some times as long does not hang."""
    monkeypatch.setattr("polytask.service.engine.worker.HUNG_S", 0.1)
    monkeypatch.setattr("polytask.service.engine.worker._SLOWEST", 1000)
    backend = GatedBackend()

    def warm_up(run: Run) -> BatchLimits:
        threading.Timer(0.1, backend.open).start()
        backend.shut()
        run([0], [KNOWN_GOOD[1]])
        return LIMITS

    with working(backend, warm_up) as bench:
        await until(lambda: bench.worker.ready)
        backend.shut()
        call = bench.submit(7)
        await asyncio.sleep(1)
        assert bench.worker.ready
        backend.open()
        assert len((await call).logits) == 1


async def test_without_requests_the_device_is_tried_and_nothing_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """An idle worker counts on, runs the probe row now and then, and is not ready where that fails, with no request at all."""
    monkeypatch.setattr("polytask.service.engine.worker.HUNG_S", 2.5)
    monkeypatch.setattr("polytask.service.engine.device_loop.PROBE_S", 0.5)
    backend = FailingBackend(lambda _: False)
    with working(backend) as bench:
        await until(lambda: len(backend.batches) >= 4)
        assert bench.worker.ready
        backend.fails = lambda _: True
        await until(lambda: not bench.worker.ready)
        assert not bench.worker.hung
        backend.fails = lambda _: False
        await until(lambda: bench.worker.ready)


async def test_an_expired_row_never_reaches_the_device() -> None:
    """A row whose deadline passes in the queue fails with DeadlineExceeded and is not run."""
    backend = GatedBackend()
    with working(backend) as bench:
        backend.shut()
        first = bench.submit(7)
        await until(lambda: len(backend.batches) == 1)
        late, last = bench.submit(POISON, deadline_s=0), bench.submit(8)
        backend.open()
        with pytest.raises(DeadlineExceeded):
            await late
        await first
        await last
    assert all(POISON not in batch.input_ids for batch in backend.batches)


async def test_stopping_answers_what_was_accepted() -> None:
    """After `stop` no row is accepted, and all accepted rows are answered before the thread ends."""
    backend = GatedBackend()
    with working(backend) as bench:
        backend.shut()
        first = bench.submit(7)
        await until(lambda: len(backend.batches) == 1)
        waiting = bench.submit(*[8] * 40)
        stopped = asyncio.create_task(asyncio.to_thread(bench.worker.stop, 30))
        await until(lambda: not bench.worker.ready)
        with pytest.raises(Closed):
            bench.submit(7)
        backend.open()
        assert await stopped
        assert len((await first).logits) == 1
        assert len((await waiting).logits) == 40
    assert bench.ended.is_set()
    assert bench.worker.failure is None


async def test_stopping_takes_no_longer_than_it_may() -> None:
    """If a batch does not end in time, `stop` returns False."""
    backend = GatedBackend()
    with working(backend) as bench:
        backend.shut()
        first = bench.submit(7)
        await until(lambda: len(backend.batches) == 1)
        assert not bench.worker.stop(timeout_s=0)
        backend.open()
        await first


async def test_a_lost_device_ends_the_worker_and_answers_everybody() -> None:
    """When the device is lost, running and queued rows get an error, and `on_exit` is called."""
    backend = FailingBackend(lambda batch: POISON in batch.input_ids, DeviceLost("gone"))
    gate = GatedBackend(backend)
    with working(gate) as bench:
        gate.shut()
        first = bench.submit(7)
        await until(lambda: len(gate.batches) == 1)
        doomed = [bench.submit(*[POISON] * 8), bench.submit(*[8] * 20)]
        gate.open()
        await first
        for future in doomed:
            with pytest.raises(InternalError):
                await future
        await until(bench.ended.is_set)
        assert isinstance(bench.worker.failure, DeviceLost)
        assert not bench.worker.ready
        with pytest.raises(Closed):
            bench.submit(7)


async def test_it_is_ready_after_the_warm_up_only() -> None:
    """The worker is not ready before its warm-up, which runs in its thread with the forward of batches, has returned."""
    gate = threading.Event()
    seen: list[int] = []

    def warm_up(run: Callable[[Sequence[int], Sequence[Encoding]], list[object]]) -> BatchLimits:
        seen.append(len(run([0, 1], [KNOWN_GOOD[1]] * 2)))
        assert gate.wait(30)
        return replace(LIMITS, max_rows=1)

    with working(GatedBackend(), warm_up) as bench:  # type: ignore[arg-type]
        await until(lambda: seen == [2])
        assert not bench.worker.ready
        gate.set()
        await until(lambda: bench.worker.ready)


async def test_a_failed_warm_up_ends_the_worker() -> None:
    """An error of the warm-up ends the worker and is its `failure`."""

    def warm_up(_: Run) -> BatchLimits:
        raise ValueError("wrong answers")

    with working(GatedBackend(), warm_up) as bench:
        await until(bench.ended.is_set)
        assert str(bench.worker.failure) == "wrong answers"
        assert not bench.worker.ready


async def test_a_cancelled_row_is_not_run() -> None:
    """Cancelled rows leave the queue and are counted once; rows that are running are not affected."""
    backend = GatedBackend()
    with working(backend) as bench:
        backend.shut()
        first = bench.submit(7)
        await until(lambda: len(backend.batches) == 1)
        pending = PendingRequest(1, completion_mailbox(asyncio.get_running_loop()))
        row = Row(0, 3, float("inf"), RowPayload(Encoding((2, POISON, 3), (0, 0, 0)), pending, 0))
        bench.worker.submit([row])
        for _ in range(2):
            bench.worker.cancel([row], "disconnect")
            assert 'polytask_dropped_inputs_total{reason="disconnect",task="mood"} 1.0' in bench.metrics.page().decode()
        backend.open()
        await first
    assert [len(batch.lengths) for batch in backend.batches] == [1]


async def test_streams_run_side_by_side() -> None:
    """With two streams two batches run at the same time, and a third waits."""
    backend = GatedBackend(num_streams=2)
    with working(backend) as bench:
        backend.shut()
        calls = []
        for token, running in ((7, 1), (8, 2), (10, 2)):
            calls.append(bench.submit(token))
            await until(lambda running=running: len(backend.batches) == running)  # type: ignore[misc]
        assert sum(waiting.rows for waiting in bench.worker.queue.waiting()[0].values()) == 1
        backend.open()
        assert [len((await call).logits) for call in calls] == [1, 1, 1]


async def test_idle_streams_share_what_comes() -> None:
    """The rows of one request are divided between idle streams, and their results are in order."""
    backend = GatedBackend(num_streams=2)
    with working(backend) as bench:
        backend.shut()
        call = bench.submit(7, 8, 7, 8, 7, 8)
        await until(lambda: len(backend.batches) == 2)
        backend.open()
        logits = (await call).logits
        alone = [(await bench.submit(token)).logits[0] for token in (7, 8)]
    assert sorted(len(batch.lengths) for batch in backend.batches[:2]) == [3, 3]
    for index, own in enumerate(logits):
        assert own == pytest.approx(alone[index % 2], abs=1e-4)


async def test_a_device_that_is_lost_in_one_stream_ends_them_all() -> None:
    """When one stream loses the device, queued rows fail at once, batches of other streams are answered, and the worker ends."""
    backend = FailingBackend(lambda batch: POISON in batch.input_ids, DeviceLost("gone"), num_streams=2)
    gate = GatedBackend(backend, num_streams=2)
    with working(gate) as bench:
        gate.shut()
        good = bench.submit(7)
        await until(lambda: len(gate.batches) == 1)
        with pytest.raises(InternalError):
            await bench.submit(*[POISON] * 20)
        gate.open()
        assert len((await good).logits) == 1
        await until(bench.ended.is_set)
        assert isinstance(bench.worker.failure, DeviceLost)


async def test_one_stream_that_fails_makes_it_not_ready() -> None:
    """After a failure in one of two streams the worker is not ready until the probe row succeeds there."""
    backend = FailingBackend(lambda batch: POISON in batch.input_ids or fails, num_streams=2)
    fails = True
    with working(backend) as bench:
        with pytest.raises(InternalError):
            await bench.submit(POISON)
        await until(lambda: not bench.worker.ready)
        fails = False
        await until(lambda: bench.worker.ready)
