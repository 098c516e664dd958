"""Predictor: one request from its body to its answers. It checks, tokenises, queues, waits and decodes.

It knows tasks and limits, but neither HTTP nor the device. Results of queued rows come back through a PendingRequest.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from polytask.model.answers import Logits
from polytask.model.encoding import Check, InputEncoder, go_on
from polytask.model.tasks import Task
from polytask.model_store.manifest import Golden
from polytask.service.config.settings import Settings
from polytask.service.errors import ClientGone, DeadlineExceeded, InternalError, ServiceError, UnknownTask
from polytask.service.observability.request_metrics import UNKNOWN_TASK, RequestMetrics
from polytask.service.pending import Completion, LoopMailbox, PendingRequest, Results, RowPayload, completion_mailbox
from polytask.service.prediction.engine_client import EngineClient, drop_reason, refusal, require_ready
from polytask.service.prediction.prepared_request import PreparedRequest, RequestPreparer
from polytask.service.prediction.stop_signal import TOO_LATE, StopSignal
from polytask.service.prediction.token_estimate import TokenEstimator
from polytask.service.request_context import RequestContext
from polytask.service.scheduling.queue import Refused, Row

_Result = TypeVar("_Result")

_SMALL_BODY = 2048
"""Bytes of a body that is checked and tokenised on the event loop, where a thread would cost more than it saves."""

_THREADS = 2
"""Threads that tokenise and decode. Python runs on one of them at a time; most of tokenising is not Python."""

_LARGE_BODY, _LARGE_ANSWERS = 65_536, 1_048_576
"""Bytes that a thread of their own works on, so that only other large ones wait for it: about 20 ms of work."""

_ROWS_DECODED_AT_ONCE = 8
_TOKENS_DECODED_AT_ONCE = 256
_BYTES_WRITTEN_AT_ONCE = 65_536
"""Limits on rows, on tokens of token-level rows, and on bytes that are decoded on the event loop, else on a thread."""

Translate = Callable[[bytes], bytes]
"""Makes a body of this API from one of another protocol, or a response of that from one of this. Raises ServiceError."""

WatchDisconnect = Callable[[Callable[[], None]], Callable[[], object]]
"""Takes a callback and calls it when the client disconnects. Returns a function that stops watching."""


@dataclass(frozen=True, slots=True)
class PredictCall:
    """An admitted request whose body has been read. `task`: None if the body names its tasks.

    `deadline`: in seconds of `time.monotonic()`. `translate_body`, `translate_response`: None if the body is, or the
    response is to be, one of this API.
    """

    task: str | None
    body: bytes
    deadline: float
    context: RequestContext
    watch_disconnect: WatchDisconnect
    translate_body: Translate | None = None
    translate_response: Translate | None = None


class Predictor:
    """Answers requests for the tasks of one checkpoint. `revision`: its name and version.

    For each request: within `track`, first `admit`, then `predict`.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        encoder: InputEncoder,
        engine: EngineClient,
        metrics: RequestMetrics,
        settings: Settings,
        revision: str,
    ) -> None:
        self._preparer = RequestPreparer(tasks, encoder, settings, revision, metrics.predictions)
        self._engine = engine
        self._metrics = metrics
        self._max_deadline_s = settings.deadline_s
        self._token_estimator = TokenEstimator()
        self._threads = ThreadPoolExecutor(_THREADS, "prepare")
        self._thread_for_large = ThreadPoolExecutor(1, "prepare_large")
        self._mailbox: LoopMailbox[Completion] | None = None

    def close(self) -> None:
        """Stops the threads. No request may be waiting."""
        for threads in (self._threads, self._thread_for_large):
            threads.shutdown(cancel_futures=True)

    def example(self, golden: Golden) -> dict[str, Any]:
        """The response to a golden input, as JSON values."""
        return self._preparer.example(golden)

    @contextlib.contextmanager
    def track(self, context: RequestContext) -> Iterator[None]:
        """Counts a request, from its arrival to its answer or error. Raises ServiceError only: others become InternalError."""
        arrived = time.monotonic()
        with self._metrics.in_flight.track_inprogress():
            try:
                yield
            except ServiceError as error:
                self._count_failure(context, error, arrived)
                raise
            except Exception as error:
                internal = InternalError(error)
                self._count_failure(context, internal, arrived)
                raise internal from error
        stages, seconds = context.seconds(), time.monotonic() - arrived
        for task in context.tasks:
            self._metrics.answered(task, stages, seconds)

    def admit(self, task: str | None, context: RequestContext) -> None:
        """Decides what is known before the body is read. Raises UnknownTask, NotReady or Draining."""
        if task is not None:
            if task not in self._preparer.tasks:
                raise UnknownTask(task, list(self._preparer.tasks))
            context.tasks = (task,)
        require_ready(self._engine)

    def deadline(self, allowed_s: float | None) -> float:
        """The deadline of a request that arrives now, if its client allows `allowed_s` seconds."""
        return time.monotonic() + (self._max_deadline_s if allowed_s is None else min(self._max_deadline_s, allowed_s))

    async def predict(self, call: PredictCall) -> bytes:
        """The response as JSON. Fills in the context of the call. Raises ServiceError."""
        context = call.context
        # Before tokenising: under overload a refusal must be cheap and immediate.
        task_id = None if call.task is None else self._preparer.ids[call.task]
        with _as_service_errors():
            estimate = self._token_estimator.estimate(len(call.body))
            tried = self._token_estimator.is_to_be_tried(len(call.body), time.monotonic())
            # A small request is queued before those that threads are still tokenising.
            before_it = 0 if len(call.body) <= _SMALL_BODY else self._token_estimator.pending_tokens
            self._engine.require_room(task_id, 0 if tried else estimate, before_it, call.deadline)
        started = time.monotonic()
        prepared = await self._prepare(call, estimate)
        tokenized = time.monotonic()
        context.tasks = prepared.tasks
        context.num_inputs, context.num_rows = prepared.num_inputs, len(prepared.rows)
        context.num_tokens = prepared.num_tokens
        context.stages["tokenize"] = started, tokenized
        results = await self._run(prepared, call)
        resumed = time.monotonic()
        context.stages["queue"] = tokenized, results.started
        context.stages["forward"] = results.started, results.ended
        response = await self._render(prepared, results.logits, call)
        context.stages["postprocess"] = resumed, time.monotonic()
        return response

    def _count_failure(self, context: RequestContext, error: ServiceError, arrived: float) -> None:
        # A body that names several tasks may not have been read.
        for task in context.tasks or (UNKNOWN_TASK,):
            self._metrics.failed(task, error, time.monotonic() - arrived)

    async def _prepare(self, call: PredictCall, estimate: int) -> PreparedRequest:
        def prepare(check: Check = go_on) -> PreparedRequest:
            body = call.body if call.translate_body is None else call.translate_body(call.body)
            return self._preparer.prepare(call.task, body, check)

        num_bytes = len(call.body)
        if num_bytes <= _SMALL_BODY:
            prepared = prepare()
        else:
            self._token_estimator.add(estimate)
            try:
                prepared = await self._on_thread(call, prepare, is_large=num_bytes >= _LARGE_BODY)
            finally:
                self._token_estimator.remove(estimate)
        # Tokens of one task: the sum over several tasks that read the same texts would be expected of each single one.
        self._token_estimator.update(num_bytes, prepared.num_tokens // len(prepared.parts))
        return prepared

    async def _run(self, prepared: PreparedRequest, call: PredictCall) -> Results:
        """Queues the rows and waits for the last result, the first failure, the deadline or a disconnect."""
        if not prepared.rows:
            now = time.monotonic()
            return Results([], now, now)
        loop = asyncio.get_running_loop()
        if self._mailbox is None or self._mailbox.loop is not loop:
            self._mailbox = completion_mailbox(loop)
        pending = PendingRequest(len(prepared.rows), self._mailbox)
        rows = [
            Row(task_id, len(encoding), call.deadline, RowPayload(encoding, pending, index))
            for index, (task_id, encoding) in enumerate(prepared.rows)
        ]
        self._submit(rows)
        timer = loop.call_later(call.deadline - time.monotonic(), pending.expire)
        stop_watching = call.watch_disconnect(lambda: pending.fail(ClientGone("nobody waits")))
        try:
            return await pending.future
        except BaseException as error:
            self._engine.cancel(rows, drop_reason(error))
            raise
        finally:
            timer.cancel()
            stop_watching()

    def _submit(self, rows: Sequence[Row[RowPayload]]) -> None:
        if rows[0].deadline <= time.monotonic():
            raise DeadlineExceeded("the deadline passed before the request was queued")
        with _as_service_errors():
            self._engine.submit(rows)

    async def _render(self, prepared: PreparedRequest, logits: list[Logits], call: PredictCall) -> bytes:
        def render(check: Check = go_on) -> bytes:
            response = self._preparer.render(prepared, logits, check)
            return response if call.translate_response is None else call.translate_response(response)

        num_tokens = sum(len(row) for row in logits if row.ndim > 1)
        few = len(logits) <= _ROWS_DECODED_AT_ONCE and num_tokens <= _TOKENS_DECODED_AT_ONCE
        if few and prepared.max_answer_bytes < _BYTES_WRITTEN_AT_ONCE:
            return render()
        return await self._on_thread(call, render, is_large=prepared.max_answer_bytes >= _LARGE_ANSWERS)

    async def _on_thread(self, call: PredictCall, work: Callable[[Check], _Result], *, is_large: bool) -> _Result:
        """The result of work for a call. It is told to stop at the deadline or at a disconnect."""
        signal, late = StopSignal(call.deadline), DeadlineExceeded(TOO_LATE)
        stop_watching = call.watch_disconnect(lambda: signal.stop(ClientGone("nobody waits")))
        threads = self._thread_for_large if is_large else self._threads
        try:
            started = asyncio.get_running_loop().run_in_executor(threads, _unless_stopped, work, signal)
            return await before(call.deadline, started, late)
        finally:
            stop_watching()
            signal.stop(late)


def _unless_stopped(work: Callable[[Check], _Result], signal: StopSignal) -> _Result:
    signal.check()
    return work(signal.check)


@contextlib.contextmanager
def _as_service_errors() -> Iterator[None]:
    try:
        yield
    except Refused as error:
        raise refusal(error) from None


async def before(deadline: float, result: Awaitable[_Result], late: DeadlineExceeded) -> _Result:
    """The result if it arrives before the deadline, in seconds of `time.monotonic()`; otherwise raises `late`."""
    try:
        async with asyncio.timeout(deadline - time.monotonic()):
            return await result
    except TimeoutError:
        raise late from None
