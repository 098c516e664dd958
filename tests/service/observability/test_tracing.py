"""Tracing: the spans that a collector gets, with their parents, times and attributes."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from polytask.service.config.api_keys import new_key
from polytask.service.config.settings import Settings, SettingsError
from polytask.service.observability.request_log import RequestLine
from tests.service.processes.test_supervisor import supervised
from tests.service.support.collector import Collector, attributes, collector
from tests.service.support.doubles import FailingBackend, GatedBackend
from tests.service.support.processes import PATIENCE_S
from tests.service.support.serving import hold, serving, until
from tests.support import tiny

pytestmark = pytest.mark.anyio

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
STAGES = ["tokenize", "queue", "forward", "postprocess"]


@pytest.fixture(autouse=True)
def over(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Exporters give up after a second, and end with their test: they draw from `random`, which later tests seed."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    before = set(threading.enumerate())
    yield
    for left in set(threading.enumerate()) - before:
        left.join(PATIENCE_S)
        assert not left.is_alive(), left


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A collector of the spans that services of this test send; complete once these have ended."""
    with collector() as found:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.url)
        yield found


async def test_a_request_is_a_span_with_its_stages_inside(spans: Collector) -> None:
    """The stages follow each other within the request's span, and this within the client's waiting time."""
    before = time.time_ns()
    async with serving(traces=True) as service:
        answered = await service.predict("mood", "cat", "dog", headers={"X-Request-Id": "mine"})
        after = time.time_ns()
    (request,) = spans.servers()
    inside = spans.children(request)
    assert len(spans.spans) == 1 + len(inside)
    assert [span.name for span in inside] == STAGES
    assert {span.trace_id for span in inside} == {request.trace_id}
    assert not request.parent_span_id
    assert before <= request.start_time_unix_nano <= inside[0].start_time_unix_nano
    for earlier, later in pairwise(inside):
        assert earlier.start_time_unix_nano <= earlier.end_time_unix_nano <= later.start_time_unix_nano
    assert inside[-1].end_time_unix_nano <= request.end_time_unix_nano <= after
    said = attributes(request.attributes)
    assert request.name == "POST /v1/tasks/{task}/predict"
    assert request.status.code == Status.STATUS_CODE_UNSET
    assert said == {
        "http.request.method": "POST",
        "http.route": "/v1/tasks/{task}/predict",
        "http.response.status_code": 200,
        "url.scheme": "http",
        "network.protocol.version": "1.1",
        "polytask.request_id": "mine",
        "polytask.outcome": "ok",
        "polytask.task": "mood",
        "polytask.revision": "tiny/1",
        "polytask.inputs": 2,
        "polytask.rows": 2,
        "polytask.tokens": answered.json()["usage"]["tokens"],
    }
    (resource,) = spans.resources
    assert resource["service.name"] == "polytask"


async def test_a_trace_of_the_client_goes_on_here(spans: Collector, caplog: pytest.LogCaptureFixture) -> None:
    """A valid `traceparent` makes the span a child of the client's, an invalid one starts a new trace, and the log has the trace id."""
    caplog.set_level(logging.INFO, "polytask.service")
    async with serving(traces=True, log_requests=1) as service:
        for parent in (f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}", None):
            headers = {"traceparent": parent} if parent else {}
            await service.predict("mood", "cat", headers=headers)
    followed, *fresh = spans.servers()
    assert (followed.trace_id.hex(), followed.parent_span_id.hex()) == (TRACE, PARENT)
    assert len({span.trace_id for span in (followed, *fresh)}) == 3
    assert not any(span.parent_span_id for span in fresh)
    logged = [record.msg.fields()["trace_id"] for record in caplog.records if isinstance(record.msg, RequestLine)]
    assert logged == [span.trace_id.hex() for span in (followed, *fresh)]


async def test_the_standard_variables_decide_which_are_kept_and_what_the_service_is_called(
    spans: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A client's sampling decision holds, else OTEL_TRACES_SAMPLER decides; the log has the ids of sampled traces only."""
    caplog.set_level(logging.INFO, "polytask.service")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "shop-nlp")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    async with serving(traces=True, log_requests=1) as service:
        for flag in ("01", "00"):
            await service.predict("mood", "cat", headers={"traceparent": f"00-{TRACE}-{PARENT}-{flag}"})
        await service.predict("mood", "cat")
    (kept,) = spans.servers()
    assert kept.trace_id.hex() == TRACE
    (resource,) = spans.resources
    assert (resource["service.name"], resource["deployment.environment.name"]) == ("shop-nlp", "test")
    said = [record.msg.fields() for record in caplog.records if isinstance(record.msg, RequestLine)]
    assert [line.get("trace_id") for line in said] == [TRACE, TRACE, None]


async def test_what_fails_is_marked_and_what_is_refused_is_not(spans: Collector) -> None:
    """Spans with a status from 500 on are errors with the type of the problem and the stages that were reached; refusals are not errors."""
    unlucky = tiny.VOCABULARY.index("x")
    gated = GatedBackend(FailingBackend(lambda batch: unlucky in batch.input_ids))
    async with serving(gated, traces=True) as service:
        await service.predict("mood", 4)
        busy = await hold(service, gated)
        late = await service.predict("mood", "cat", headers={"Polytask-Deadline-Ms": "30"})
        gated.open()
        await busy
        await service.predict("mood", "x")
    assert late.status_code == 504
    found = {attributes(span.attributes)["http.response.status_code"]: span for span in spans.servers()}
    assert set(found) == {422, 500, 200, 504}
    errors = {
        status: attributes(span.attributes).get("error.type")
        for status, span in found.items()
        if span.status.code == Status.STATUS_CODE_ERROR
    }
    assert errors == {500: "urn:polytask:internal-error", 504: "urn:polytask:deadline-exceeded"}
    assert [span.name for span in spans.children(found[504])] == ["tokenize"]
    assert spans.children(found[422]) == []


async def test_requests_that_ran_in_one_batch_can_be_told(spans: Collector) -> None:
    """Forward spans of one batch name the same batch, whatever their tasks; other batches have another name."""
    gated = GatedBackend()
    async with serving(gated, traces=True) as service:
        busy = await hold(service, gated)
        together = [asyncio.create_task(service.predict(task, "cat")) for task in ("mood", "topics")]
        await until(lambda: service.num_waiting() == 2)
        gated.open()
        await asyncio.gather(busy, *together)
    batches = [attributes(spans.children(span)[2].attributes)["polytask.batch"] for span in spans.servers()]
    alone, *both = batches
    assert len(set(both)) == 1
    assert alone not in both


async def test_no_text_and_no_key_is_in_a_trace(spans: Collector) -> None:
    """No span has text of a body, path, query or header, and health checks have no span."""
    text = "xylophone-4711"
    secret, key = new_key("shop")
    async with serving(traces=True, api_keys=key) as service:
        headers = {"Authorization": f"Bearer {secret}", "User-Agent": text}
        for task in ("mood", text):
            await service.predict(task, text, 4, headers=headers, params={"q": text})
        await service.client.request(text, f"/{text}", headers=headers)
        for path in ("/livez", "/readyz", "/metrics"):
            await service.client.get(path)
    assert [span.name for span in spans.servers()] == ["POST /v1/tasks/{task}/predict"] * 2 + ["HTTP"]
    sent = b"".join(spans.raw)
    assert b"shop" in sent
    assert text.encode() not in sent
    assert secret.encode() not in sent


async def test_a_collector_that_is_not_there_disturbs_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a collector requests are answered, surplus spans are dropped, and the service ends."""
    with socket.create_server(("127.0.0.1", 0), backlog=1) as silent:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "20")
        monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "10")
        async with serving(traces=True) as service:
            answers = [await service.predict("mood", "cat") for _ in range(20)]
    assert {answer.status_code for answer in answers} == {200}


def test_spans_come_from_all_frontends_and_the_last_at_the_end(spans: Collector, tmp_path: Path) -> None:
    """With several processes, the engine's stages are inside the request's span, and SIGTERM loses no span."""
    with supervised(tmp_path, POLYTASK_FRONTENDS="2", POLYTASK_TRACES="yes") as service:
        for _ in range(20):
            assert service.post("mood") == 200
        service.popen.send_signal(signal.SIGTERM)
        assert service.popen.wait(PATIENCE_S) == 0
    requests = spans.servers()
    assert len(requests) == 20
    for request in requests:
        inside = spans.children(request)
        assert [span.name for span in inside] == STAGES
        ends = [moment for span in inside for moment in (span.start_time_unix_nano, span.end_time_unix_nano)]
        assert [request.start_time_unix_nano, *ends, request.end_time_unix_nano] == sorted(
            [request.start_time_unix_nano, *ends, request.end_time_unix_nano]
        )


def test_without_the_package_the_start_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start with tracing but without its package names the extra to install; without tracing nothing is missing."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(SettingsError, match=r"POLYTASK_TRACES needs .* pip install 'polytask\[tracing\]'"):
        Settings(traces=True)
    Settings()


def test_what_is_not_asked_for_is_not_imported() -> None:
    """Without tracing no process imports the exporter or the SDK."""
    code = (
        "import sys, polytask.service.single_process, polytask.service.processes.engine, polytask.service.processes.frontend, polytask.service.processes.supervisor\n"
        "sys.exit(any(name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter')) for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=PATIENCE_S).returncode == 0
