"""A request from its body to its answers: check, tokenise, put in line, wait, decode.

Knows the tasks and the limits, neither HTTP nor the device. What it puts in line comes back through the ticket that
goes along.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from polytask.model.answers import Logits
from polytask.model.encoding import InputEncoder
from polytask.model.tasks import Task
from polytask.service.config.settings import Settings
from polytask.service.errors import (
    BodyTooSlow,
    ClientGone,
    DeadlineExceeded,
    InternalError,
    ServiceError,
    UnknownTask,
)
from polytask.service.observability.request_metrics import UNKNOWN_TASK, RequestMetrics
from polytask.service.pending import Completion, LoopMailbox, PendingRequest, Results, RowPayload, completion_mailbox
from polytask.service.prediction.engine_client import EngineClient, drop_reason, refusal, require_ready
from polytask.service.prediction.prepared_request import PreparedRequest, RequestPreparer
from polytask.service.prediction.token_estimate import TokenEstimator
from polytask.service.request_context import RequestContext
from polytask.service.scheduling.queue import Closed, Full, Row

_Result = TypeVar("_Result")
_ROWS_DECODED_AT_ONCE = 8

_TOKENS_DECODED_AT_ONCE = 256
"""More rows than this, or token-level rows with more tokens, are decoded off the event loop; fewer are not worth it."""


_SMALL_BODY = 2048
"""Bytes of a request that is checked and tokenised on the event loop: a thread costs more than it would save."""


_THREADS = 2
"""Of those that tokenise and decode. Two, so that one large request does not keep the others waiting."""


TranslateBody = Callable[[bytes], bytes]
"""A body of another protocol to one of this API. Raises ServiceError."""


def as_it_is(body: bytes) -> bytes:
    """The translation of a body that is of this API."""
    return body


@dataclass(frozen=True, slots=True)
class PredictCall:
    """One request as it arrives. `watch` calls what it is given when the client has closed the connection, until what
    it returns is called.

    `task`: None where the body says which tasks it is for. `deadline_s`: the seconds that the client allows, if it says
    so. Both it and `read_body` raise ServiceError. `translate`: what is done to the body once there is room for the
    request. `context`: where is noted how it goes.
    """

    task: str | None
    read_body: Callable[[], Awaitable[bytes]]
    watch: Callable[[Callable[[], None]], Callable[[], object]]
    deadline_s: Callable[[], float | None] = lambda: None
    translate: TranslateBody = as_it_is
    context: RequestContext = field(default_factory=RequestContext)


@dataclass(frozen=True, slots=True)
class Prediction:
    """The response as JSON, and the seconds that each stage took."""

    body: bytes
    stages: dict[str, float]


class Predictor:
    """Answers requests for the tasks of one checkpoint. `revision` is its name and version."""

    def __init__(
        self,
        tasks: Sequence[Task],
        encoder: InputEncoder,
        engine: EngineClient,
        metrics: RequestMetrics,
        settings: Settings,
        revision: str,
    ) -> None:
        self.preparer = RequestPreparer(tasks, encoder, settings, revision, metrics.predictions)
        self._engine = engine
        self._metrics = metrics
        self._settings = settings
        self._tokens = TokenEstimator()
        self._threads = ThreadPoolExecutor(_THREADS, "prepare")
        self._mailbox: LoopMailbox[Completion] | None = None

    def close(self) -> None:
        """Ends the predictor's threads, when nobody waits for an answer any more."""
        self._threads.shutdown(cancel_futures=True)

    async def predict(self, call: PredictCall) -> Prediction:
        """The answers to one request. Raises ServiceError, and nothing else, where there are none."""
        arrived = time.monotonic()
        with self._metrics.in_flight.track_inprogress():
            try:
                prediction = await self._predict(call, arrived)
            except ServiceError as error:
                self._failed(call.context, error, arrived)
                raise
            except Exception as error:
                internal = InternalError(error)
                self._failed(call.context, internal, arrived)
                raise internal from error
        for task in call.context.tasks:
            self._metrics.answered(task, prediction.stages, time.monotonic() - arrived)
        return prediction

    def _failed(self, context: RequestContext, error: ServiceError, arrived: float) -> None:
        # A body that is for several tasks may not have been read.
        for task in context.tasks or (UNKNOWN_TASK,):
            self._metrics.failed(task, error, time.monotonic() - arrived)

    async def _predict(self, call: PredictCall, arrived: float) -> Prediction:
        context = call.context
        if call.task is not None:
            if call.task not in self.preparer.tasks:
                raise UnknownTask(call.task, list(self.preparer.tasks))
            context.tasks = (call.task,)
        require_ready(self._engine)
        asked_s, longest_s = call.deadline_s(), self._settings.deadline_s
        deadline = arrived + (longest_s if asked_s is None else min(longest_s, asked_s))
        body = await _by(deadline, call.read_body(), BodyTooSlow("the deadline passed before the body had arrived"))
        # Before it is tokenised: under overload a refusal must cost little, and come at once.
        task_id = None if call.task is None else self.preparer.ids[call.task]
        with _told_to_clients():
            self._engine.require_room(task_id, self._tokens.estimate(len(body)), self._tokens.pending_tokens, deadline)
        started = time.monotonic()
        job = await self._job(call, body, deadline)
        tokenized = time.monotonic()
        context.tasks = job.tasks
        context.num_inputs, context.num_rows, context.num_tokens = job.num_inputs, len(job.rows), job.num_tokens
        context.stages["tokenize"] = started, tokenized
        results = await self._run(job, deadline, call)
        woken = time.monotonic()
        context.stages["queue"] = tokenized, results.started
        context.stages["forward"] = results.started, results.ended
        rendered = await self._decode(job, results.logits)
        context.stages["postprocess"] = woken, time.monotonic()
        return Prediction(rendered, context.seconds())

    async def _job(self, call: PredictCall, body: bytes, deadline: float) -> PreparedRequest:
        def job() -> PreparedRequest:
            return self.preparer.prepare(call.task, call.translate(body))

        if len(body) <= _SMALL_BODY:
            return self._learnt(body, job())
        late = DeadlineExceeded("the deadline passed before the request was in line")
        expected = self._tokens.estimate(len(body))
        self._tokens.add(expected)
        try:
            return self._learnt(body, await _by(deadline, self._on_thread(job), late))
        finally:
            self._tokens.remove(expected)

    def _learnt(self, body: bytes, job: PreparedRequest) -> PreparedRequest:
        # Of one task: what several tasks make of the same texts would be expected of every single one.
        self._tokens.update(len(body), job.num_tokens // len(job.shares))
        return job

    async def _run(self, job: PreparedRequest, deadline: float, call: PredictCall) -> Results:
        """Puts the rows in line and waits: for the last result, the first failure, the deadline or the client's end."""
        if not job.rows:
            now = time.monotonic()
            return Results([], now, now)
        loop = asyncio.get_running_loop()
        if self._mailbox is None or self._mailbox.loop is not loop:
            self._mailbox = completion_mailbox(loop)
        ticket = PendingRequest(len(job.rows), self._mailbox)
        rows = [
            Row(task_id, len(encoding), deadline, RowPayload(encoding, ticket, place))
            for place, (task_id, encoding) in enumerate(job.rows)
        ]
        self._submit(rows)
        timer = loop.call_later(deadline - time.monotonic(), ticket.expire)
        unwatch = call.watch(lambda: ticket.fail(ClientGone("nobody waits")))
        try:
            return await ticket.future
        except BaseException as error:
            self._engine.cancel(rows, drop_reason(error))
            raise
        finally:
            timer.cancel()
            unwatch()

    def _submit(self, rows: Sequence[Row[RowPayload]]) -> None:
        if rows[0].deadline <= time.monotonic():
            raise DeadlineExceeded("the deadline passed before the request was in line")
        with _told_to_clients():
            self._engine.submit(rows)

    async def _decode(self, job: PreparedRequest, logits: list[Logits]) -> bytes:
        num_tokens = sum(len(own) for own in logits if own.ndim > 1)
        if len(logits) <= _ROWS_DECODED_AT_ONCE and num_tokens <= _TOKENS_DECODED_AT_ONCE:
            return self.preparer.render(job, logits)
        return await self._on_thread(self.preparer.render, job, logits)

    def _on_thread(self, function: Callable[..., _Result], *arguments: object) -> Awaitable[_Result]:
        return asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)


@contextlib.contextmanager
def _told_to_clients() -> Iterator[None]:
    try:
        yield
    except (Full, Closed) as error:
        raise refusal(error) from None


async def _by(deadline: float, result: Awaitable[_Result], late: DeadlineExceeded) -> _Result:
    """The result if it comes before the deadline, in seconds of the monotonic clock; else raises `late`."""
    try:
        async with asyncio.timeout(deadline - time.monotonic()):
            return await result
    except TimeoutError:
        raise late from None
