"""Request log: which requests get a line, and its fields."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import pytest

from polytask.service.config.api_keys import new_key
from polytask.service.observability.request_log import RequestLine, RequestLog
from polytask.service.request_context import RequestContext
from tests.service.support.doubles import FailingBackend, GatedBackend, real_backend
from tests.service.support.serving import hold, serving
from tests.support import tiny

pytestmark = pytest.mark.anyio


def lines(caplog: pytest.LogCaptureFixture) -> list[Mapping[str, Any]]:
    """The logged lines of requests, as fields."""
    return [record.msg.fields() for record in caplog.records if isinstance(record.msg, RequestLine)]


@pytest.fixture(autouse=True)
def _everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "polytask.service")


async def test_a_line_says_what_became_of_a_request(caplog: pytest.LogCaptureFixture) -> None:
    """A line has documented path, task, status, problem, sizes and stages, on every path of a prediction."""
    async with serving(log_requests=1) as service:
        await service.predict("mood", "cat", "dog")
        await service.client.post("/v1/predict", json={"tasks": ["mood", "topics"], "inputs": ["cat"]})
        await service.client.post("/v1/models/mood:predict", json={"instances": ["cat"]})
        await service.predict("mood", 4)
        await service.predict("nothing", "cat")
        await service.client.get("/v1/tasks/mood")
        await service.client.get("/nothing/of/the/kind")
        await service.client.request("XYLOPHONE", "/v1/tasks")
        await service.client.get("/v1/tasks/mood/predict")
    said = lines(caplog)
    assert [(line["method"], line["path"], line.get("task"), line["status"], line["outcome"]) for line in said] == [
        ("POST", "/v1/tasks/{task}/predict", "mood", 200, "ok"),
        ("POST", "/v1/predict", "mood,topics", 200, "ok"),
        ("POST", "/v1/models/{task}:predict", "mood", 200, "ok"),
        ("POST", "/v1/tasks/{task}/predict", "mood", 422, "invalid"),
        ("POST", "/v1/tasks/{task}/predict", None, 404, "invalid"),
        ("GET", "/v1/tasks/{task}", None, 200, "ok"),
        ("GET", "", None, 404, "invalid"),
        ("_OTHER", "/v1/tasks", None, 405, "invalid"),
        ("GET", "/v1/tasks/{task}/predict", None, 405, "invalid"),
    ]
    assert [(line["inputs"], line["rows"]) for line in said[:3]] == [(2, 2), (1, 2), (1, 1)]
    assert all(line["revision"] == "tiny/1" for line in said[:5])
    assert [line.get("problem") for line in said[3:5]] == ["urn:polytask:invalid-input", "urn:polytask:unknown-task"]
    for line in said[:3]:
        assert list(line["stages"]) == ["tokenize", "queue", "forward", "postprocess"]
        assert 0 < sum(line["stages"].values()) <= line["seconds"]


async def test_the_name_of_a_key_is_said_and_never_the_key(caplog: pytest.LogCaptureFixture) -> None:
    """A line names the key and never its secret; an unknown key has no name."""
    secret, key = new_key("shop")
    unknown, _ = new_key("other")
    async with serving(log_requests=1, api_keys=key) as service:
        for own in (secret, unknown):
            await service.predict("mood", "cat", headers={"Authorization": f"Bearer {own}"})
    known, refused = lines(caplog)
    assert (known["status"], known["key"]) == (200, "shop")
    assert (refused["status"], refused["task"], refused["path"]) == (401, "mood", "/v1/tasks/{task}/predict")
    assert "key" not in refused
    assert secret not in caplog.text
    assert unknown not in caplog.text


async def test_what_failed_is_said_even_if_nothing_else_is(caplog: pytest.LogCaptureFixture) -> None:
    """With a share of 0, accepted requests that failed get a line; answers and refusals get none."""
    gated = GatedBackend(real_backend())
    async with serving(gated) as service:
        busy = await hold(service, gated)
        late = await service.predict("mood", "cat", headers={"Polytask-Deadline-Ms": "30"})
        gated.open()
        assert (await busy).status_code == 200
        await service.predict("mood", 4)
    unlucky = tiny.VOCABULARY.index("x")
    async with serving(FailingBackend(lambda batch: unlucky in batch.input_ids)) as service:
        await service.predict("mood", "x")
    cold = GatedBackend(real_backend())
    cold.shut()
    async with serving(cold, warm=False) as service:
        assert (await service.predict("mood", "cat")).status_code == 503
        cold.open()
    assert late.status_code == 504
    said = lines(caplog)
    assert [(line["status"], line["outcome"]) for line in said] == [(504, "expired"), (500, "error")]
    assert list(said[0]["stages"]) == ["tokenize"], "the time that is missing went by in line"
    assert "the device does not like this batch" in said[1]["exception"]
    levels = [record.levelname for record in caplog.records if isinstance(record.msg, RequestLine)]
    assert levels == ["WARNING", "ERROR"]


async def test_what_supervisors_and_prometheus_ask_is_not_said(caplog: pytest.LogCaptureFixture) -> None:
    """Health checks and scrapes get no line."""
    async with serving(log_requests=1) as service:
        for path in ("/livez", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"):
            assert (await service.client.get(path)).status_code == 200
    assert lines(caplog) == []


def test_a_share_of_requests_is_a_share() -> None:
    """With a share of a tenth about every tenth request gets a line; every accepted one that failed gets one."""
    log = RequestLog(0.1)
    wanted = sum(log.should_log(RequestContext(status=200)) for _ in range(10_000))
    assert 700 < wanted < 1300
    assert all(log.should_log(RequestContext(status=504)) for _ in range(100))
    assert RequestLog(0).should_log(RequestContext(status=503, stages={"tokenize": (1, 2)})), "its engine has died"
    assert not any(RequestLog(0).should_log(RequestContext(status=status)) for status in (200, 404, 429, 503))


async def test_text_has_the_same(caplog: pytest.LogCaptureFixture) -> None:
    """The text form of a request is one line with the same facts."""
    async with serving(log_requests=1) as service:
        await service.predict("mood", "cat", headers={"X-Request-Id": "mine"})
    (said,) = [record.getMessage() for record in caplog.records if isinstance(record.msg, RequestLine)]
    assert said.startswith("POST /v1/tasks/{task}/predict mood: 200 ok in ")
    assert " ms (tokenize " in said
    assert said.endswith("), 1 rows, 3 tokens, request mine, tiny/1")
