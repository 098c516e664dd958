"""A request from its body to its answers: check, tokenise, put in line, wait, decode.

Knows the tasks and the limits, neither HTTP nor the device. What it puts in line comes back through the ticket that
goes along.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from model.answers import Logits, answer
from model.encoding import Encoding, Input, InputEncoder
from model.tasks import Task
from service.errors import (
    BodyTooSlow,
    ClientGone,
    DeadlineExceeded,
    Draining,
    InternalError,
    NotReady,
    QueueFull,
    ServiceError,
    TaskQuotaFull,
    TooManyInputs,
    UnknownTask,
)
from service.metrics import DEADLINE, DISCONNECT, UNKNOWN_TASK, RequestSeries
from service.queue import Closed, Full, QuotaFull, Row
from service.schemas import PredictResponse, parse, render
from service.settings import Settings
from service.tickets import Results, Ticket, Work

_Result = TypeVar("_Result")

_ROWS_DECODED_AT_ONCE = 8
_TOKENS_DECODED_AT_ONCE = 256
"""More rows than this, or token-level rows with more tokens, are decoded off the event loop; fewer are not worth it."""

_INPUTS_ENCODED_AT_ONCE = 16
"""Inputs that are tokenised before the limit on tokens is looked at again: a request costs little more than it may."""

_SMALL_BODY = 2048
"""Bytes of a request that is checked and tokenised on the event loop: a thread costs more than it would save."""

_THREADS = 2
"""Of those that tokenise and decode. Two, so that one large request does not keep the others waiting."""

_DRAINING = "the service answers what it has accepted and takes nothing new"

_DROP_REASONS: dict[type[BaseException], str] = {DeadlineExceeded: DEADLINE, ClientGone: DISCONNECT}


class Desk(Protocol):
    """Where rows are handed in."""

    @property
    def ready(self) -> bool:
        """Whether rows would be answered."""

    @property
    def draining(self) -> bool:
        """Whether no rows will ever be taken again."""

    def recover(self) -> None:
        """Asks for another try when not ready."""

    def require_room(self, task_id: int, deadline: float) -> None:
        """Raises queue.Full or queue.Closed if it knows already that it will not take a request, of whatever size."""

    def submit(self, rows: Sequence[Row[Work]]) -> None:
        """Takes all rows of a request or none, and counts them.

        Raises queue.Full or queue.Closed; or, where that is only known later, fails their ticket with `refusal` of it.
        """

    def cancel(self, rows: Collection[Row[Work]], reason: str | None = None) -> None:
        """Forgets those rows of a request that have not been started, and counts them as dropped for the reason."""


def require_ready(desk: Desk) -> None:
    """Raises NotReady or Draining where rows would not be answered; asks for another try where that may help."""
    if desk.draining:
        raise Draining(_DRAINING)
    if not desk.ready:
        desk.recover()
        raise NotReady("the service is warming up, or its last batch failed", retry_after_s=1)


def refusal(error: Full | Closed) -> ServiceError:
    """What a client is told whose rows the line does not take."""
    if isinstance(error, QuotaFull):
        return TaskQuotaFull(f"no room for more of this task: {error}", retry_after_s=error.wait_s)
    if isinstance(error, Full):
        return QueueFull(f"no room: {error}", retry_after_s=error.wait_s)
    return Draining(_DRAINING)


def drop_reason(error: BaseException) -> str | None:
    """Why the rows of a request that ends with `error` are dropped, as the metrics count it."""
    return _DROP_REASONS.get(type(error))


@dataclass(frozen=True, slots=True)
class Call:
    """One request as it arrives. `gone` returns when the client has closed the connection.

    `deadline_s`: the seconds that the client allows, if it says so. Both it and `read_body` raise ServiceError.
    """

    task: str
    read_body: Callable[[], Awaitable[bytes]]
    gone: Callable[[], Coroutine[Any, Any, None]]
    deadline_s: Callable[[], float | None] = lambda: None


@dataclass(frozen=True, slots=True)
class Prediction:
    """The response as JSON, and the seconds that each stage took."""

    body: bytes
    stages: dict[str, float]


@dataclass(frozen=True, slots=True)
class _Prepared:
    """Checked inputs and the rows of each."""

    task_id: int
    task: Task
    items: list[Input]
    encodings: list[tuple[Encoding, ...]]

    @property
    def rows(self) -> list[Encoding]:
        return [encoding for encodings in self.encodings for encoding in encodings]


class Predictor:
    """Answers requests for the tasks of one checkpoint. `revision` is its name and version."""

    def __init__(
        self,
        tasks: Sequence[Task],
        encoder: InputEncoder,
        desk: Desk,
        series: RequestSeries,
        settings: Settings,
        revision: str,
    ) -> None:
        self._tasks = {task.name: (task_id, task) for task_id, task in enumerate(tasks)}
        self._encoder = encoder
        self._desk = desk
        self._series = series
        self._settings = settings
        # What no line would ever have room for is refused as too large.
        self._most_tokens = {
            task: min(settings.max_waiting_tokens, policy.max_waiting_tokens or settings.max_waiting_tokens)
            for task, policy in settings.policies.items()
        }
        self._revision = revision
        self._threads = ThreadPoolExecutor(_THREADS, "prepare")

    def close(self) -> None:
        """Ends the predictor's threads, when nobody waits for an answer any more."""
        self._threads.shutdown(cancel_futures=True)

    async def predict(self, call: Call) -> Prediction:
        """The answers to one request. Raises ServiceError, and nothing else, where there are none."""
        arrived = time.monotonic()
        label = call.task if call.task in self._tasks else UNKNOWN_TASK
        with self._series.in_flight.track_inprogress():
            try:
                prediction = await self._predict(call, arrived)
            except ServiceError as error:
                self._series.failed(label, error, time.monotonic() - arrived)
                raise
            except Exception as error:
                internal = InternalError(error)
                self._series.failed(label, internal, time.monotonic() - arrived)
                raise internal from error
        self._series.answered(label, prediction.stages, time.monotonic() - arrived)
        return prediction

    async def _predict(self, call: Call, arrived: float) -> Prediction:
        if call.task not in self._tasks:
            raise UnknownTask(call.task, list(self._tasks))
        require_ready(self._desk)
        asked_s, longest_s = call.deadline_s(), self._settings.deadline_s
        deadline = arrived + (longest_s if asked_s is None else min(longest_s, asked_s))
        body = await _by(deadline, call.read_body(), BodyTooSlow("the deadline passed before the body had arrived"))
        task_id, task = self._tasks[call.task]
        # Before it is tokenised: under overload a refusal must cost little.
        with _told_to_clients():
            self._desk.require_room(task_id, deadline)
        started = time.monotonic()
        prepared = await self._prepared(task_id, task, body, deadline)
        tokenized = time.monotonic()
        results = await self._run(prepared, deadline, call.gone)
        woken = time.monotonic()
        rendered = await self._decode(prepared, results.logits)
        stages = {
            "tokenize": tokenized - started,
            "queue": results.started - tokenized,
            "forward": results.ended - results.started,
            "postprocess": time.monotonic() - woken,
        }
        return Prediction(rendered, stages)

    async def _prepared(self, task_id: int, task: Task, body: bytes, deadline: float) -> _Prepared:
        if len(body) <= _SMALL_BODY:
            return self._prepare(task_id, task, body)
        late = DeadlineExceeded("the deadline passed before the request was in line")
        return await _by(deadline, self._on_thread(self._prepare, task_id, task, body), late)

    def _prepare(self, task_id: int, task: Task, body: bytes) -> _Prepared:
        settings = self._settings
        items = parse(task, body, max_inputs=settings.max_inputs, max_candidates=settings.max_candidates)
        encodings: list[tuple[Encoding, ...]] = []
        num_tokens, most = 0, self._most_tokens.get(task.name, settings.max_waiting_tokens)
        for start in range(0, len(items), _INPUTS_ENCODED_AT_ONCE):
            some = self._encoder.encode(task, items[start : start + _INPUTS_ENCODED_AT_ONCE])
            encodings += some
            num_tokens += sum(len(row) for rows in some for row in rows)
            if num_tokens > most:
                raise TooManyInputs("inputs", num_tokens, most, f"tokens in the first {len(encodings)}")
        return _Prepared(task_id, task, items, encodings)

    async def _run(
        self, prepared: _Prepared, deadline: float, gone: Callable[[], Coroutine[Any, Any, None]]
    ) -> Results:
        """Puts the rows in line and waits: for the last result, the first failure, the deadline or the client's end."""
        loop = asyncio.get_running_loop()
        encodings = prepared.rows
        ticket = Ticket(len(encodings), loop)
        rows = [
            Row(prepared.task_id, len(encoding), deadline, Work(encoding, ticket, place))
            for place, encoding in enumerate(encodings)
        ]
        self._submit(rows)
        timer = loop.call_later(deadline - time.monotonic(), ticket.expire)
        watch = loop.create_task(gone())
        watch.add_done_callback(lambda done: None if done.cancelled() else ticket.fail(ClientGone("nobody waits")))
        try:
            return await ticket.future
        except BaseException as error:
            self._desk.cancel(rows, drop_reason(error))
            raise
        finally:
            timer.cancel()
            watch.cancel()

    def _submit(self, rows: Sequence[Row[Work]]) -> None:
        if rows[0].deadline <= time.monotonic():
            raise DeadlineExceeded("the deadline passed before the request was in line")
        with _told_to_clients():
            self._desk.submit(rows)

    async def _decode(self, prepared: _Prepared, logits: list[Logits]) -> bytes:
        num_tokens = sum(map(len, prepared.rows)) if prepared.task.token_level else 0
        if len(logits) <= _ROWS_DECODED_AT_ONCE and num_tokens <= _TOKENS_DECODED_AT_ONCE:
            return self._render(prepared, logits)
        return await self._on_thread(self._render, prepared, logits)

    def _on_thread(self, function: Callable[..., _Result], *arguments: object) -> Awaitable[_Result]:
        return asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)

    def _render(self, prepared: _Prepared, logits: list[Logits]) -> bytes:
        remaining = iter(logits)
        answers = tuple(
            answer(prepared.task, item, encodings, [next(remaining) for _ in encodings])
            for item, encodings in zip(prepared.items, prepared.encodings, strict=True)
        )
        truncated = tuple(
            place
            for place, encodings in enumerate(prepared.encodings)
            if any(encoding.dropped_tokens for encoding in encodings)
        )
        return render(PredictResponse(prepared.task.name, self._revision, answers, truncated))


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
