"""Predictor: the rows that it queues, and requests that get no answer. No worker is needed."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from polytask.model.answers import answer
from polytask.model.encoding import Encoding, Input, InputEncoder
from polytask.model.tasks import Task
from polytask.service.config.settings import Settings
from polytask.service.errors import (
    AnswersTooLarge,
    ClientGone,
    DeadlineExceeded,
    Draining,
    InternalError,
    QueueFull,
    ServiceError,
    TaskQuotaFull,
    TooManyInputs,
)
from polytask.service.observability.metrics import Metrics
from polytask.service.prediction.predictor import PredictCall, Predictor, WatchDisconnect
from polytask.service.request_context import RequestContext
from polytask.service.scheduling.queue import Closed, Full, QuotaFull
from polytask.service.web.connection import DisconnectEvent
from tests.service.support.recording_engine import RecordingEngine
from tests.service.support.serving import body, until
from tests.support import tiny

pytestmark = pytest.mark.anyio


@pytest.fixture
def engine() -> RecordingEngine:
    """An engine that never answers."""
    return RecordingEngine()


def large(body: bytes) -> bytes:
    """The same request, padded with blanks until it is no longer tokenised on the event loop."""
    return body + b" " * 2048


class GatedEncoder(InputEncoder):
    """Records which threads tokenise how many inputs, and how that ended. They wait while the gate is closed.

    The event loop's own thread never waits.
    """

    def __init__(self) -> None:
        super().__init__(tiny.tokenizer())
        self.gate = threading.Event()
        self.gate.set()
        self.num_inputs = 0
        self.callers: list[str] = []
        self.ended: list[type[ServiceError] | None] = []

    def encode(self, task: Task, inputs: Sequence[Input], *options: Any) -> list[tuple[Encoding, ...]]:
        self.num_inputs += len(inputs)
        self.callers.append(threading.current_thread().name)
        if threading.current_thread() is not threading.main_thread() and not self.gate.wait(30):
            raise AssertionError("the test forgot to open the gate")
        encoded = super().encode(task, inputs, *options)
        *_, limits = options
        try:
            limits.check()
        except ServiceError as error:
            self.ended.append(type(error))
            raise
        self.ended.append(None)
        return encoded


@pytest.fixture
def encoder() -> Iterator[GatedEncoder]:
    """An encoder whose gate is open at the beginning and at the end of a test."""
    gated = GatedEncoder()
    yield gated
    gated.gate.set()


@pytest.fixture
def predictor(engine: RecordingEngine, encoder: GatedEncoder) -> Iterator[Predictor]:
    """A predictor of the tiny tasks in front of `engine`."""
    series = Metrics(tiny.tasks()).requests
    settings = Settings(deadline_s=50, max_waiting_tokens=200)
    predictor = Predictor(tiny.tasks(), encoder, engine, series, settings, "tiny/1")
    yield predictor
    encoder.gate.set()
    predictor.close()


def stays(_: Callable[[], None]) -> Callable[[], None]:
    """Watches a client that never disconnects."""
    return lambda: None


async def predict(
    predictor: Predictor,
    task: str | None,
    content: bytes,
    allowed_s: float | None = None,
    *,
    watch_disconnect: WatchDisconnect = stays,
    context: RequestContext | None = None,
) -> Any:
    """The response to a request whose body has arrived."""
    context = context or RequestContext()
    with predictor.track(context):
        predictor.admit(task, context)
        call = PredictCall(task, content, predictor.deadline(allowed_s), context, watch_disconnect)
        return json.loads(await predictor.predict(call))


async def test_a_request_becomes_rows_and_rows_become_answers(engine: RecordingEngine, predictor: Predictor) -> None:
    """One row per candidate is queued, in order; the results are decoded and timed."""
    ranking = {"query": "the", "candidates": ["cat", "paris", "good"]}
    context = RequestContext()
    task = asyncio.create_task(predict(predictor, "relevance", body(ranking), context=context))
    await until(lambda: len(engine.rows) == 3)
    assert {row.task_id for row in engine.rows} == {3}
    assert [row.num_tokens for row in engine.rows] == [len(row.payload.encoding) for row in engine.rows]
    for index in (2, 0, 1):
        payload = engine.rows[index].payload
        payload.sink.answer(payload.index, np.array([float(index)], np.float32), 1.0, 3.0)
    response = await task
    assert response["model"] == "tiny/1"
    assert [candidate["text"] for candidate in response["answers"][0]["ranking"]] == ["good", "paris", "cat"]
    assert context.seconds()["forward"] == 2.0
    assert not engine.cancelled


@pytest.mark.parametrize(("allowed_by_client", "expected"), [(None, 50), (5, 5), (500, 50)])
async def test_the_nearer_deadline_holds(
    allowed_by_client: float | None, expected: float, engine: RecordingEngine, predictor: Predictor
) -> None:
    """A client may allow less time than the service, not more."""
    before = asyncio.get_running_loop().time()
    task = asyncio.create_task(predict(predictor, "mood", body("cat"), allowed_by_client))
    await until(lambda: bool(engine.rows))
    assert before + expected <= engine.rows[0].deadline <= asyncio.get_running_loop().time() + expected
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert engine.cancelled == engine.rows


async def test_a_deadline_passes_while_nobody_answers(engine: RecordingEngine, predictor: Predictor) -> None:
    """A request ends at its deadline even if the device never finishes its rows."""
    with pytest.raises(DeadlineExceeded):
        await predict(predictor, "mood", body("cat", "paris"), 0.5)
    assert engine.cancelled == engine.rows
    assert engine.reasons == ["deadline"]


async def test_a_request_that_is_late_before_it_is_queued_is_not_queued(
    engine: RecordingEngine, predictor: Predictor
) -> None:
    """No row is queued after the deadline."""
    with pytest.raises(DeadlineExceeded):
        await predict(predictor, "mood", body("cat"), 0.0)
    assert not engine.rows


async def test_the_deadline_holds_while_tokenising(
    engine: RecordingEngine, encoder: GatedEncoder, predictor: Predictor
) -> None:
    """A client that allows too little time gets its error at the deadline, not after tokenising."""
    encoder.gate.clear()
    with pytest.raises(DeadlineExceeded):
        await predict(predictor, "mood", large(body("cat")), 0.01)
    assert not engine.rows


@pytest.mark.parametrize("reason", [DeadlineExceeded, ClientGone])
async def test_a_thread_stops_when_nobody_waits_for_it(
    engine: RecordingEngine, encoder: GatedEncoder, predictor: Predictor, reason: type[ServiceError]
) -> None:
    """A thread that tokenises is told of the deadline and of a client that has gone, and tokenises no further."""
    encoder.gate.clear()
    event = DisconnectEvent()
    allowed_s = 0.05 if reason is DeadlineExceeded else None
    task = asyncio.create_task(
        predict(predictor, "mood", large(body(*["cat"] * 100)), allowed_s, watch_disconnect=event.watch)
    )
    await until(lambda: bool(encoder.callers))
    if reason is ClientGone:
        event.set()
        encoder.gate.set()
    with pytest.raises(reason):
        await task
    encoder.gate.set()
    await until(lambda: bool(encoder.ended))
    assert encoder.ended == [reason]
    assert encoder.num_inputs == 16, "the first of several parts"
    assert not engine.rows


async def test_answers_are_not_written_for_nobody(
    engine: RecordingEngine, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that decodes stops between two answers when the client has gone."""
    decoded, event = list[int](), DisconnectEvent()

    def slow(*arguments: Any) -> Any:
        decoded.append(1)
        if len(decoded) == 3:
            loop.call_soon_threadsafe(event.set)
            assert done.wait(30)
        return answer(*arguments)

    loop, done = asyncio.get_running_loop(), threading.Event()
    monkeypatch.setattr("polytask.service.prediction.prepared_request.answer", slow)
    task = asyncio.create_task(predict(predictor, "mood", body(*["cat"] * 40), watch_disconnect=event.watch))
    await until(lambda: len(engine.rows) == 40)
    for row in engine.rows:
        row.payload.sink.answer(row.payload.index, np.zeros(3, np.float32), 1.0, 2.0)
    await until(lambda: len(decoded) == 3)
    event.watch(done.set)
    await until(done.is_set)
    with pytest.raises(ClientGone):
        await task
    assert len(decoded) == 3


async def test_large_requests_keep_only_large_ones_waiting(
    engine: RecordingEngine, encoder: GatedEncoder, predictor: Predictor
) -> None:
    """While large bodies are tokenised, or wait for that, one of usual size goes its way."""
    encoder.gate.clear()
    large_ones = [asyncio.create_task(predict(predictor, "mood", body("cat") + b" " * 100_000)) for _ in range(3)]
    await until(lambda: len(encoder.callers) == 1)
    usual = asyncio.create_task(predict(predictor, "mood", large(body("cat"))))
    await until(lambda: len(encoder.callers) == 2)
    assert encoder.callers == ["prepare_large_0", "prepare_0"]
    encoder.gate.set()
    await until(lambda: len(engine.rows) == 4)
    for row in engine.rows:
        row.payload.sink.answer(0, np.zeros(3, np.float32), 1.0, 2.0)
    await asyncio.gather(*large_ones, usual)


@pytest.mark.parametrize(("num_blanks", "writer"), [(65_000, "prepare_0"), (1_100_000, "prepare_large_0")])
async def test_only_very_large_answers_are_written_by_the_thread_for_large_ones(
    engine: RecordingEngine, predictor: Predictor, monkeypatch: pytest.MonkeyPatch, num_blanks: int, writer: str
) -> None:
    """Answers that may have as many bytes as a usual batch do not wait for large bodies."""
    writers = set[str]()

    def noted(*arguments: Any) -> Any:
        writers.add(threading.current_thread().name)
        return answer(*arguments)

    monkeypatch.setattr("polytask.service.prediction.prepared_request.answer", noted)
    task = asyncio.create_task(predict(predictor, "mood", body(*["cat"] * 10) + b" " * num_blanks))
    await until(lambda: len(engine.rows) == 10)
    for row in engine.rows:
        row.payload.sink.answer(row.payload.index, np.zeros(3, np.float32), 1.0, 2.0)
    await task
    assert writers == {writer}


async def test_a_small_request_does_not_stand_behind_what_is_being_tokenised(
    engine: RecordingEngine, encoder: GatedEncoder, predictor: Predictor
) -> None:
    """A request that is tokenised at once is queued before those that threads work on, so their tokens do not count."""
    encoder.gate.clear()
    first = asyncio.create_task(predict(predictor, "mood", large(body("cat"))))
    await until(lambda: len(encoder.callers) == 1)
    second = asyncio.create_task(predict(predictor, "mood", body("cat")))
    await until(lambda: len(engine.rows) == 1)
    encoder.gate.set()
    await until(lambda: len(engine.rows) == 2)
    assert [before for _, _, before in engine.estimates] == [0, 0]
    for row in engine.rows:
        row.payload.sink.answer(0, np.zeros(3, np.float32), 1.0, 2.0)
    await asyncio.gather(first, second)


async def test_a_text_for_windows_is_refused_when_it_is_too_long(engine: RecordingEngine, predictor: Predictor) -> None:
    """A text that has more tokens than the queue holds is not read to its end for windows."""
    content = json.dumps({"inputs": ["cat " * 100_000], "options": {"truncation": "window"}}).encode()
    with pytest.raises(TooManyInputs, match=r"inputs: more than 200 tokens in the first 1, the limit is 200"):
        await predict(predictor, "mood", content)
    assert not engine.rows


async def test_answers_that_would_be_too_large_are_refused_before_they_are_made(
    engine: RecordingEngine, encoder: GatedEncoder
) -> None:
    """The refusal names the limit and what to ask for instead; with less of each answer the same inputs are accepted."""
    series = Metrics(tiny.tasks()).requests
    small = Settings(deadline_s=50, max_answer_bytes=8_000)
    predictor = Predictor(tiny.tasks(), encoder, engine, series, small, "tiny/1")
    content = {"inputs": ["the cat sat " * 2] * 12, "options": {"return_tokens": True}}
    with pytest.raises(AnswersTooLarge, match=r"the limit is 8000; send fewer .* without 'return_tokens'") as refused:
        await predict(predictor, "mood", json.dumps(content).encode())
    assert refused.value.problem().type == "urn:polytask:too-many-inputs"
    assert not engine.rows
    task = asyncio.create_task(predict(predictor, "mood", json.dumps({"inputs": content["inputs"]}).encode()))
    await until(lambda: len(engine.rows) == 12)
    for row in engine.rows:
        row.payload.sink.answer(row.payload.index, np.zeros(3, np.float32), 1.0, 2.0)
    assert len((await task)["answers"]) == 12
    predictor.close()


async def test_a_large_request_is_refused_before_all_of_it_is_tokenised(
    engine: RecordingEngine, encoder: GatedEncoder, predictor: Predictor
) -> None:
    """Tokenising stops when a request has more tokens than the queue could ever hold."""
    with pytest.raises(TooManyInputs, match=r"inputs: 256 tokens in the first 16, the limit is 200"):
        await predict(predictor, "mood", body(*["cat " * 14] * 200))
    assert encoder.num_inputs == 16
    assert not engine.rows


async def test_a_small_request_needs_no_thread(
    engine: RecordingEngine, encoder: GatedEncoder, predictor: Predictor
) -> None:
    """A small request is tokenised on the event loop, which is faster than handing it to a thread."""
    task = asyncio.create_task(predict(predictor, "mood", body("cat")))
    await until(lambda: bool(engine.rows))
    assert encoder.callers == [threading.current_thread().name]
    engine.rows[0].payload.sink.answer(0, np.zeros(3, np.float32), 1.0, 2.0)
    await task


async def test_few_requests_are_tokenised_at_once(
    engine: RecordingEngine, encoder: GatedEncoder, predictor: Predictor
) -> None:
    """Two threads of the predictor tokenise large requests; further requests wait."""
    encoder.gate.clear()
    calls = [asyncio.create_task(predict(predictor, "mood", large(body("cat")))) for _ in range(5)]
    await until(lambda: len(encoder.callers) == 2)
    await asyncio.sleep(0.02)
    assert len(encoder.callers) == 2, "a third one does not start"
    encoder.gate.set()
    await until(lambda: len(engine.rows) == 5)
    assert set(encoder.callers) <= {"prepare_0", "prepare_1"}
    for row in engine.rows:
        row.payload.sink.answer(0, np.zeros(3, np.float32), 1.0, 2.0)
    await asyncio.gather(*calls)


async def test_what_is_being_tokenised_counts_as_before(
    engine: RecordingEngine, encoder: GatedEncoder, predictor: Predictor
) -> None:
    """A request that waits for a thread counts as pending from its arrival until it is queued."""
    encoder.gate.clear()
    first = asyncio.create_task(predict(predictor, "mood", large(body("cat"))))
    await until(lambda: len(encoder.callers) == 1)
    second = asyncio.create_task(predict(predictor, "topics", large(body("cat"))))
    await until(lambda: len(encoder.callers) == 2)
    (_, tried, first_pending), (_, estimate, second_pending) = engine.estimates
    assert (tried, first_pending, second_pending) == (0, 0, estimate)
    assert estimate > 400, "a quarter of the body's bytes at the beginning"
    encoder.gate.set()
    await until(lambda: len(engine.rows) == 2)
    third = asyncio.create_task(predict(predictor, "mood", body("cat")))
    await until(lambda: len(engine.rows) == 3)
    assert engine.estimates[-1][2] == 0
    for row, outputs in zip(engine.rows, (3, 3, 3), strict=True):
        row.payload.sink.answer(0, np.zeros(outputs, np.float32), 1.0, 2.0)
    await asyncio.gather(first, second, third)


async def test_a_request_for_several_tasks_updates_the_estimate_by_one_of_them(
    engine: RecordingEngine, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The estimate for a body is its tokens for one task, even if the request is for several."""
    updates: list[int] = []
    monkeypatch.setattr(predictor._token_estimator, "update", lambda _, tokens: updates.append(tokens))
    content = json.dumps({"tasks": ["mood", "topics"], "inputs": ["cat", "paris"]}).encode()
    calls = [
        predict(predictor, None, content),
        predict(predictor, "mood", body("cat", "paris")),
    ]
    running = [asyncio.create_task(each) for each in calls]
    await until(lambda: len(engine.rows) == 6)
    assert updates == [updates[0]] * 2
    for row in engine.rows:
        outputs = len(tiny.tasks()[row.task_id].labels)
        row.payload.sink.answer(row.payload.index, np.zeros(outputs, np.float32), 1.0, 2.0)
    await asyncio.gather(*running)


async def test_a_client_that_disconnects_has_its_rows_cancelled(engine: RecordingEngine, predictor: Predictor) -> None:
    """When the client disconnects, its rows are cancelled and counted as dropped for that reason."""
    event = DisconnectEvent()
    task = asyncio.create_task(predict(predictor, "mood", body("cat"), watch_disconnect=event.watch))
    await until(lambda: bool(engine.rows))
    event.set()
    with pytest.raises(ClientGone):
        await task
    assert engine.cancelled == engine.rows
    assert engine.reasons == ["disconnect"]


async def test_refusals_of_the_engine_are_reported_to_the_client(engine: RecordingEngine, predictor: Predictor) -> None:
    """A full queue gives a Retry-After; a closed one says that the service is shutting down."""
    engine.refusal = QuotaFull(waiting_tokens=9, wait_s=2.5)
    with pytest.raises(TaskQuotaFull, match="no room for more of this task: 9 tokens are waiting") as quota:
        await predict(predictor, "mood", body("cat"))
    assert (quota.value.retry_after_s, quota.value.rejection) == (3, "task_quota")
    engine.refusal = Full(waiting_tokens=9, wait_s=2.5)
    with pytest.raises(QueueFull, match="9 tokens are waiting") as full:
        await predict(predictor, "mood", body("cat"))
    assert full.value.retry_after_s == 3
    engine.refusal = Closed()
    with pytest.raises(Draining):
        await predict(predictor, "mood", body("cat"))
    engine.refusal = ZeroDivisionError()
    with pytest.raises(InternalError):
        await predict(predictor, "mood", body("cat"))


async def test_a_request_without_room_is_not_tokenised(
    engine: RecordingEngine, predictor: Predictor, encoder: GatedEncoder
) -> None:
    """Under overload a request is refused before it is tokenised, so that a refusal is cheap."""
    engine.early_refusal = Full(waiting_tokens=9, wait_s=2.5)
    with pytest.raises(QueueFull, match="9 tokens are waiting"):
        await predict(predictor, "mood", body("cat"))
    assert not encoder.num_inputs
