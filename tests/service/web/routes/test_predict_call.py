"""Prediction over HTTP: what happens before and while the body is read."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import Request

from polytask.model.encoding import InputEncoder
from polytask.service.config.settings import Settings
from polytask.service.errors import BodyTooSlow, ClientGone, Draining, NotReady, UnknownTask
from polytask.service.observability.metrics import Metrics
from polytask.service.prediction.predictor import Predictor
from polytask.service.request_context import REQUEST_CONTEXT, RequestContext
from polytask.service.versions.served import ServedVersion
from polytask.service.web.routes.predict_call import run_prediction
from tests.service.support import checkpoints
from tests.service.support.recording_engine import RecordingEngine
from tests.service.support.serving import serving
from tests.support import tiny

pytestmark = pytest.mark.anyio


@pytest.fixture
def engine() -> RecordingEngine:
    """An engine that never answers."""
    return RecordingEngine()


@pytest.fixture
def served(engine: RecordingEngine) -> Iterator[ServedVersion]:
    """The tiny checkpoint in front of `engine`."""
    encoder, metrics = InputEncoder(tiny.tokenizer()), Metrics(tiny.tasks()).requests
    predictor = Predictor(tiny.tasks(), encoder, engine, metrics, Settings(), "tiny/1")
    manifest = checkpoints.in_memory().manifest
    yield ServedVersion(manifest=manifest, engine=engine, predictor=predictor, task_info={}, card="")
    predictor.close()


class Client:
    """A request of which `messages` arrive (ASGI), and nothing after them."""

    def __init__(self, *messages: dict[str, Any]) -> None:
        self.messages = list(messages)
        self.num_reads = 0

    def request(self, task: str, deadline_ms: int | None = None) -> Request:
        """Its request for a prediction."""
        headers = [] if deadline_ms is None else [(b"polytask-deadline-ms", b"%d" % deadline_ms)]
        scope = {
            "type": "http",
            "method": "POST",
            "headers": headers,
            "path_params": {"task": task},
            REQUEST_CONTEXT: RequestContext(),
        }
        return Request(scope, self._receive)

    async def _receive(self) -> dict[str, Any]:
        self.num_reads += 1
        if not self.messages:
            await asyncio.Event().wait()
        return self.messages.pop(0)


async def test_a_body_that_does_not_arrive_is_awaited_until_the_deadline(
    served: ServedVersion, engine: RecordingEngine
) -> None:
    """The deadline holds while the client is still sending, or has stopped sending."""
    part = {"type": "http.request", "body": b"{", "more_body": True}
    for client in (Client(), Client(part)):
        start = time.monotonic()
        with pytest.raises(BodyTooSlow):
            await run_prediction(served, client.request("mood", deadline_ms=10), 1000)
        assert time.monotonic() - start >= 0.01
    assert not engine.rows
    assert not served.num_in_flight


async def test_a_request_that_cannot_be_answered_is_refused_before_its_body_is_read(
    served: ServedVersion, engine: RecordingEngine
) -> None:
    """Unknown tasks and an engine that is not ready are refused unread."""
    client = Client()
    with pytest.raises(UnknownTask):
        await run_prediction(served, client.request("nothing"), 1000)
    engine.ready = False
    with pytest.raises(NotReady):
        await run_prediction(served, client.request("mood"), 1000)
    engine.draining = True
    with pytest.raises(Draining):
        await run_prediction(served, client.request("mood"), 1000)
    assert not client.num_reads


async def test_a_client_that_disconnects_while_it_sends_is_not_answered(
    served: ServedVersion, engine: RecordingEngine
) -> None:
    """A connection that closes before the body is complete ends the request, and no row is queued."""
    part = {"type": "http.request", "body": b"{", "more_body": True}
    with pytest.raises(ClientGone):
        await run_prediction(served, Client(part, {"type": "http.disconnect"}).request("mood"), 1000)
    assert not engine.rows


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/tasks/mood/predict", '{"inputs": ["bad"], "inputs": ["cat"]}'),
        ("/v1/predict", '{"tasks": ["none"], "tasks": ["mood"], "inputs": ["bad"], "inputs": ["cat"]}'),
        ("/v1/models/mood:predict", '{"instances": ["bad"], "instances": ["cat"]}'),
        (
            "/v2/models/mood/infer",
            '{"inputs": [], "inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": [], "data": ["cat"]}]}',
        ),
    ],
)
async def test_marks_and_repeated_keys_mean_the_same_in_all_protocols(path: str, body: str) -> None:
    """A byte order mark before the body is skipped, and of a key that is there twice the last counts."""
    once = re.sub(r'"(\w+)": (?:\[[^\]]*\]), (?="\1")', "", body)
    assert once != body
    async with serving() as service:
        plain = await service.client.post(path, content=once)
        for given in (once.encode("utf-8-sig"), body.encode()):
            answer = await service.client.post(path, content=given)
            assert (answer.status_code, answer.content) == (200, plain.content)
