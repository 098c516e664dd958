"""The predictor: what it hands in, and what becomes of a request that gets no answer. No worker is needed."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from polytask.model.encoding import Encoding, Input, InputEncoder
from polytask.model.tasks import Task
from polytask.service.config.settings import Settings
from polytask.service.errors import (
    BodyTooLarge,
    BodyTooSlow,
    ClientGone,
    DeadlineExceeded,
    Draining,
    InternalError,
    NotReady,
    QueueFull,
    TaskQuotaFull,
    TooManyInputs,
    UnknownTask,
)
from polytask.service.observability.metrics import Metrics
from polytask.service.pending import RowPayload
from polytask.service.prediction.predictor import PredictCall, Predictor
from polytask.service.scheduling.queue import Closed, Full, QuotaFull, Row
from polytask.service.web.connection import DisconnectEvent
from tests.service.support.serving import body, until
from tests.support import tiny

pytestmark = pytest.mark.anyio


class Desk:
    """Takes rows and keeps them, or refuses them with `refusal`; `known_refusal` is one before it has seen them."""

    def __init__(self) -> None:
        self.ready = True
        self.draining = False
        self.refusal: Exception | None = None
        self.known_refusal: Exception | None = None
        self.expected: list[tuple[int | None, int, int]] = []
        self.asked_to_recover = 0
        self.rows: list[Row[RowPayload]] = []
        self.cancelled: list[Row[RowPayload]] = []
        self.reasons: list[str | None] = []

    def recover(self) -> None:
        self.asked_to_recover += 1

    def require_room(self, task_id: int | None, num_tokens: int, before: int, deadline: float) -> None:
        assert deadline > 0
        self.expected.append((task_id, num_tokens, before))
        if self.known_refusal is not None:
            raise self.known_refusal

    def submit(self, rows: Sequence[Row[RowPayload]]) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.rows += rows

    def cancel(self, rows: Collection[Row[RowPayload]], reason: str | None = None) -> None:
        self.cancelled += rows
        self.reasons.append(reason)


@pytest.fixture
def engine() -> Desk:
    """A desk with nobody behind it."""
    return Desk()


def large(body: bytes) -> bytes:
    """The same request with more blanks than a small one has bytes."""
    return body + b" " * 2048


class GatedEncoder(InputEncoder):
    """Notes who tokenises how much. While the gate is shut, they wait there."""

    def __init__(self) -> None:
        super().__init__(tiny.tokenizer())
        self.gate = threading.Event()
        self.gate.set()
        self.num_inputs = 0
        self.callers: list[str] = []

    def encode(self, task: Task, inputs: Sequence[Input], *options: Any) -> list[tuple[Encoding, ...]]:
        self.num_inputs += len(inputs)
        self.callers.append(threading.current_thread().name)
        if not self.gate.wait(30):
            raise AssertionError("the test forgot to open the gate")
        return super().encode(task, inputs, *options)


@pytest.fixture
def encoder() -> Iterator[GatedEncoder]:
    """An encoder whose gate is open, at first and in the end."""
    gated = GatedEncoder()
    yield gated
    gated.gate.set()


@pytest.fixture
def predictor(engine: Desk, encoder: GatedEncoder) -> Iterator[Predictor]:
    """A predictor of the tiny tasks in front of `desk`."""
    series = Metrics(tiny.tasks()).requests
    settings = Settings(deadline_s=50, max_waiting_tokens=200)
    predictor = Predictor(tiny.tasks(), encoder, engine, series, settings, "tiny/1")
    yield predictor
    encoder.gate.set()
    predictor.close()


def stays(_: Callable[[], None]) -> Callable[[], None]:
    """A client that stays."""
    return lambda: None


def call(task: str, content: bytes, deadline_s: float | None = None) -> PredictCall:
    """A request from a client that stays."""

    async def read_body() -> bytes:
        return content

    return PredictCall(task, read_body, stays, lambda: deadline_s)


async def test_a_request_becomes_rows_and_rows_become_answers(engine: Desk, predictor: Predictor) -> None:
    """One row per candidate goes in, in order; what comes back through the ticket is decoded and timed."""
    ranking = {"query": "the", "candidates": ["cat", "paris", "good"]}
    task = asyncio.create_task(predictor.predict(call("relevance", body(ranking))))
    await until(lambda: len(engine.rows) == 3)
    assert {row.task_id for row in engine.rows} == {3}
    assert [row.num_tokens for row in engine.rows] == [len(row.payload.encoding) for row in engine.rows]
    for place in (2, 0, 1):
        work = engine.rows[place].payload
        work.sink.answer(work.index, np.array([float(place)], np.float32), 1.0, 3.0)
    prediction = await task
    response = json.loads(prediction.body)
    assert response["model"] == "tiny/1"
    assert [candidate["text"] for candidate in response["answers"][0]["ranking"]] == ["good", "paris", "cat"]
    assert prediction.stages["forward"] == 2.0
    assert not engine.cancelled


@pytest.mark.parametrize(("asked", "allowed"), [(None, 50), (5, 5), (500, 50)])
async def test_the_nearer_deadline_holds(
    asked: float | None, allowed: float, engine: Desk, predictor: Predictor
) -> None:
    """A client may ask for less time than the service allows, not for more."""
    before = asyncio.get_running_loop().time()
    task = asyncio.create_task(predictor.predict(call("mood", body("cat"), asked)))
    await until(lambda: bool(engine.rows))
    assert before + allowed <= engine.rows[0].deadline <= asyncio.get_running_loop().time() + allowed
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert engine.cancelled == engine.rows


async def test_a_deadline_passes_while_nobody_answers(engine: Desk, predictor: Predictor) -> None:
    """The request ends by itself at its deadline, even if the device never does."""
    with pytest.raises(DeadlineExceeded):
        await predictor.predict(call("mood", body("cat", "paris"), 0.5))
    assert engine.cancelled == engine.rows
    assert engine.reasons == ["deadline"]


async def test_a_request_that_is_late_before_it_is_in_line_is_not_put_there(engine: Desk, predictor: Predictor) -> None:
    """Nothing is handed in after the deadline."""
    with pytest.raises(DeadlineExceeded):
        await predictor.predict(call("mood", body("cat"), 0.0))
    assert not engine.rows


async def test_a_body_that_does_not_come_is_not_waited_for(engine: Desk, predictor: Predictor) -> None:
    """The deadline holds while the client is still sending, or has stopped to."""

    async def read_body() -> bytes:
        await asyncio.Event().wait()
        return b""

    with pytest.raises(BodyTooSlow):
        await predictor.predict(PredictCall("mood", read_body, stays, lambda: 0.01))
    assert not engine.rows


async def test_the_deadline_holds_while_tokenising(engine: Desk, encoder: GatedEncoder, predictor: Predictor) -> None:
    """A client that allows little time hears in time that it was not enough."""
    encoder.gate.clear()
    with pytest.raises(DeadlineExceeded):
        await predictor.predict(call("mood", large(body("cat")), 0.01))
    assert not engine.rows


async def test_a_large_request_is_refused_before_all_of_it_is_tokenised(
    engine: Desk, encoder: GatedEncoder, predictor: Predictor
) -> None:
    """What could never wait in line is not worth the memory."""
    with pytest.raises(TooManyInputs, match=r"inputs: 256 tokens in the first 16, the limit is 200"):
        await predictor.predict(call("mood", body(*["cat " * 14] * 200)))
    assert encoder.num_inputs == 16
    assert not engine.rows


async def test_a_small_request_needs_no_thread(engine: Desk, encoder: GatedEncoder, predictor: Predictor) -> None:
    """It is tokenised where it arrives, which is quicker than to ask somebody else."""
    task = asyncio.create_task(predictor.predict(call("mood", body("cat"))))
    await until(lambda: bool(engine.rows))
    assert encoder.callers == [threading.current_thread().name]
    engine.rows[0].payload.sink.answer(0, np.zeros(3, np.float32), 1.0, 2.0)
    await task


async def test_few_requests_are_tokenised_at_once(engine: Desk, encoder: GatedEncoder, predictor: Predictor) -> None:
    """However many requests come, two threads of the predictor's own tokenise them; the others wait."""
    encoder.gate.clear()
    calls = [asyncio.create_task(predictor.predict(call("mood", large(body("cat"))))) for _ in range(5)]
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
    engine: Desk, encoder: GatedEncoder, predictor: Predictor
) -> None:
    """Requests that wait for a thread take up room from when they come, and no longer when they are in line."""
    encoder.gate.clear()
    first = asyncio.create_task(predictor.predict(call("mood", large(body("cat")))))
    await until(lambda: len(encoder.callers) == 1)
    second = asyncio.create_task(predictor.predict(call("topics", large(body("cat")))))
    await until(lambda: len(encoder.callers) == 2)
    (_, expected, before), (_, _, then) = engine.expected
    assert (before, then) == (0, expected)
    assert expected > 400, "a quarter of the body's bytes, before anything is known"
    encoder.gate.set()
    await until(lambda: len(engine.rows) == 2)
    third = asyncio.create_task(predictor.predict(call("mood", body("cat"))))
    await until(lambda: len(engine.rows) == 3)
    assert engine.expected[-1][2] == 0
    for row, outputs in zip(engine.rows, (3, 3, 3), strict=True):
        row.payload.sink.answer(0, np.zeros(outputs, np.float32), 1.0, 2.0)
    await asyncio.gather(first, second, third)


async def test_several_tasks_teach_what_one_of_them_has(
    engine: Desk, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tokens that a body is expected to have are those of one task, however many it is for."""
    learnt: list[int] = []
    monkeypatch.setattr(predictor._tokens, "update", lambda _, tokens: learnt.append(tokens))
    content = json.dumps({"tasks": ["mood", "topics"], "inputs": ["cat", "paris"]}).encode()
    calls = [
        predictor.predict(replace(call("mood", content), task=None)),
        predictor.predict(call("mood", body("cat", "paris"))),
    ]
    running = [asyncio.create_task(each) for each in calls]
    await until(lambda: len(engine.rows) == 6)
    assert learnt == [learnt[0]] * 2
    for row in engine.rows:
        outputs = len(tiny.tasks()[row.task_id].labels)
        row.payload.sink.answer(row.payload.index, np.zeros(outputs, np.float32), 1.0, 2.0)
    await asyncio.gather(*running)


async def test_a_client_that_goes_takes_its_rows_along(engine: Desk, predictor: Predictor) -> None:
    """When the client hangs up its rows are cancelled."""
    ending = DisconnectEvent()

    async def read_body() -> bytes:
        return body("cat")

    task = asyncio.create_task(predictor.predict(PredictCall("mood", read_body, ending.watch)))
    await until(lambda: bool(engine.rows))
    ending.come()
    with pytest.raises(ClientGone):
        await task
    assert engine.cancelled == engine.rows
    assert engine.reasons == ["disconnect"]


async def test_refusals_of_the_desk_are_told_to_the_client(engine: Desk, predictor: Predictor) -> None:
    """A full line says when to come back; a closed one that the service ends."""
    engine.refusal = QuotaFull(waiting_tokens=9, wait_s=2.5)
    with pytest.raises(TaskQuotaFull, match="no room for more of this task: 9 tokens are waiting") as quota:
        await predictor.predict(call("mood", body("cat")))
    assert (quota.value.retry_after_s, quota.value.rejection) == (3, "task_quota")
    engine.refusal = Full(waiting_tokens=9, wait_s=2.5)
    with pytest.raises(QueueFull, match="9 tokens are waiting") as full:
        await predictor.predict(call("mood", body("cat")))
    assert full.value.retry_after_s == 3
    engine.refusal = Closed()
    with pytest.raises(Draining):
        await predictor.predict(call("mood", body("cat")))
    engine.refusal = ZeroDivisionError()
    with pytest.raises(InternalError):
        await predictor.predict(call("mood", body("cat")))


async def test_what_there_is_no_room_for_is_not_tokenised(
    engine: Desk, predictor: Predictor, encoder: GatedEncoder
) -> None:
    """Under overload a refusal costs little."""
    engine.known_refusal = Full(waiting_tokens=9, wait_s=2.5)
    with pytest.raises(QueueFull, match="9 tokens are waiting"):
        await predictor.predict(call("mood", body("cat")))
    assert not encoder.num_inputs


async def test_what_cannot_be_answered_is_refused_before_its_body_is_read(engine: Desk, predictor: Predictor) -> None:
    """An unknown task and a service that is not ready cost no reading; the first request of an unready one may heal it."""

    async def read_body() -> bytes:
        raise BodyTooLarge(0)

    with pytest.raises(UnknownTask):
        await predictor.predict(PredictCall("nothing", read_body, stays))
    engine.ready = False
    with pytest.raises(NotReady):
        await predictor.predict(PredictCall("mood", read_body, stays))
    assert engine.asked_to_recover == 1
    engine.draining = True
    with pytest.raises(Draining):
        await predictor.predict(PredictCall("mood", read_body, stays))
