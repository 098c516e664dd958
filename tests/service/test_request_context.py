"""Request ids, trace ids, and the log lines of requests that fail."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from polytask.service.observability.logs import JsonLines, TextLines
from polytask.service.request_context import request_id, trace_id
from tests.service.support.doubles import FailingBackend
from tests.service.support.serving import Service, body, serving
from tests.support import tiny

pytestmark = pytest.mark.anyio

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TEXT = "xylophone-4711"
"""What a client sends, and nobody else may read."""


@pytest.mark.parametrize("given", ["a", "Root=1-67891233-abcdef012345678912345678", "A.b_c:d/e+f@g-h", "x" * 128])
async def test_an_id_of_the_client_comes_back(given: str) -> None:
    """The client's request id comes back in the response and in the body of a problem."""
    async with serving() as service:
        answered = await service.predict("mood", "cat", headers={"X-Request-Id": given})
        failed = await service.predict("nothing", "cat", headers={"X-Request-Id": given})
    assert answered.headers.get_list("x-request-id") == failed.headers.get_list("x-request-id") == [given]
    assert failed.json()["request_id"] == given


@pytest.mark.parametrize("given", [b"", b"two words", b"a\tb", b"\xc3\xa9", b"a,b", b'"', b"x" * 129])
def test_an_id_that_could_harm_a_log_is_replaced(given: bytes) -> None:
    """An id that is too long or has other characters is replaced by a new one."""
    own = request_id([(b"x-request-id", given)])
    assert own != given
    assert len(own) == 16


def test_fresh_ids_differ() -> None:
    """Each request without an id gets one of its own."""
    assert len({request_id([]) for _ in range(1000)}) == 1000


async def test_every_response_has_an_id_and_an_answer_names_its_version() -> None:
    """Every response has a request id, also those of unknown paths, refusals and bugs; an answer names its version."""
    async with serving() as service:
        service.app.add_api_route("/bug", _bug)
        responses = [
            await service.predict("mood", "cat"),
            await service.predict("mood", ""),
            await service.predict("nothing"),
            *[await service.client.get(path) for path in ("/livez", "/metrics", "/docs", "/nothing", "/bug")],
        ]
    ids = [response.headers["x-request-id"] for response in responses]
    assert len(set(ids)) == len(responses)
    assert [response.status_code for response in responses] == [200, 422, 404, 200, 200, 200, 404, 500]
    for response, own in zip(responses, ids, strict=True):
        if response.status_code >= 400:
            assert response.json()["request_id"] == own
    assert responses[0].headers["polytask-model"] == "tiny/1"


def _bug() -> None:
    raise RuntimeError(TEXT)


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ([f"00-{TRACE}-{PARENT}-01"], TRACE),
        ([f"00-{TRACE}-{PARENT}-00"], TRACE),
        ([f"cc-{TRACE}-{PARENT}-01"], TRACE),
        ([f"cc-{TRACE}-{PARENT}-01-what-comes-later"], TRACE),
        ([], None),
        ([f"00-{TRACE}-{PARENT}-01-more"], None),
        ([f"ff-{TRACE}-{PARENT}-01"], None),
        ([f"cc-{TRACE}-{PARENT}-01more"], None),
        ([f"00-{TRACE.upper()}-{PARENT}-01"], None),
        ([f"00-{'0' * 32}-{PARENT}-01"], None),
        ([f"00-{TRACE}-{'0' * 16}-01"], None),
        ([f"00-{TRACE[1:]}-{PARENT}-01"], None),
        ([f"00-{TRACE}-{PARENT}"], None),
        ([f" 00-{TRACE}-{PARENT}-01"], None),
        ([f"00-{TRACE}-{PARENT}-01\n"], None),
        ([""], None),
        ([f"00-{TRACE}-{PARENT}-01"] * 2, None),
    ],
)
def test_a_trace_is_read_as_the_recommendation_says(headers: list[str], found: str | None) -> None:
    """A `traceparent` that is not valid by W3C Trace Context is ignored."""
    assert trace_id([(b"traceparent", header.encode()) for header in headers]) == found


async def test_the_log_of_a_failure_has_request_trace_and_place(caplog: pytest.LogCaptureFixture) -> None:
    """The log line of a failure has the request id, the trace id and the traceback."""
    async with serving() as service:
        service.app.add_api_route("/bug", _bug)
        headers = {"X-Request-Id": "mine", "traceparent": f"00-{TRACE}-{PARENT}-01"}
        await service.client.get("/bug", headers=headers)
    (record,) = [record for record in caplog.records if record.name == "polytask.service.observability.request_log"]
    message = record.getMessage()
    first, _, trace = message.partition("\n")
    assert record.levelno == logging.ERROR
    assert first.startswith("GET /bug: 500 urn:polytask:internal-error in ")
    assert first.endswith(f" ms, request mine, trace {TRACE}")
    assert "in _bug\n" in trace
    assert "builtins.RuntimeError" in message


async def test_a_failure_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """A bug is logged once, by the request log and not again by the server."""
    async with serving() as service:
        service.app.add_api_route("/bug", _bug)
        await service.client.get("/bug")
    assert len([record for record in caplog.records if record.levelno >= logging.ERROR]) == 1


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Iterator[Any]:
    """Everything that the service logs at any level, in both forms, or prints."""

    def text() -> str:
        # The client of the test logs what it sends.
        ours = [record for record in caplog.records if not record.name.startswith("http")]
        printed = capfd.readouterr()
        lines = [form("service").format(record) for form in (TextLines, JsonLines) for record in ours]
        return "\n".join([*lines, printed.out, printed.err])

    with caplog.at_level(logging.DEBUG):
        yield text


async def fail_everywhere(service: Service, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sends the text on every way on which a request can fail; returns the statuses."""
    statuses = [
        (await service.client.post("/v1/tasks/mood/predict", content=content)).status_code
        for content in (
            f"not JSON {TEXT}".encode(),
            f'{{"inputs": [{{"{TEXT}": 1}}]}}'.encode(),
            f'{{"inputs": [4], "{TEXT}": "{TEXT}"}}'.encode(),
            f'{{"inputs": ["{TEXT}", "{TEXT}\\ud800"]}}'.encode(),
            body(TEXT) + b" " * 4000,
            body(*[TEXT] * 9),
        )
    ]
    headers = {"X-Request-Id": f"{TEXT} !", "Authorization": f"Bearer {TEXT}", "Polytask-Deadline-Ms": TEXT}
    statuses.append((await service.predict("mood", TEXT, headers=headers)).status_code)
    statuses.append((await service.predict(f"mood{TEXT}", TEXT, params={"q": TEXT})).status_code)
    late = threading.Event()

    def raise_it(*_: Any, **__: Any) -> Any:
        try:
            {}[TEXT]  # type: ignore[index]
        except KeyError as error:
            raise ValueError(f"cannot read {TEXT}") from error

    def raise_it_late(*_: Any, **__: Any) -> Any:
        late.wait(30)
        raise_it()

    for name, failure in (
        ("polytask.service.prediction.prepared_request.parse", raise_it),
        ("polytask.service.prediction.prepared_request.InputEncoder.encode", raise_it),
        ("polytask.service.prediction.prepared_request.answer", raise_it),
        ("polytask.service.prediction.prepared_request.encode_response", raise_it),
        ("polytask.service.web.routes.tasks.Response", raise_it),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(name, failure)
            for padding in ("", " " * 2500):
                content = body("cat") + padding.encode()
                statuses.append((await service.client.post("/v1/tasks/mood/predict", content=content)).status_code)
    with monkeypatch.context() as patched:
        patched.setattr("polytask.service.prediction.prepared_request.parse", raise_it_late)
        content, headers = body(TEXT) + b" " * 2500, {"Polytask-Deadline-Ms": "20"}
        statuses.append(
            (await service.client.post("/v1/tasks/mood/predict", content=content, headers=headers)).status_code
        )
        late.set()
        await asyncio.sleep(0.05)
    statuses += [(await service.predict("mood", "cat", TEXT)).status_code for _ in range(2)]
    return statuses


@pytest.mark.parametrize("switch", [False, True])
async def test_no_text_of_a_client_is_in_the_log_unless_it_is_switched_on(
    switch: bool, log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No client's text is logged or printed at any level, whatever fails, unless the switch is on."""
    unlucky = tiny.VOCABULARY.index("x")
    backend = FailingBackend(lambda batch: unlucky in batch.input_ids)
    async with serving(backend, log_texts=switch, log_requests=1, max_inputs=8, max_body_bytes=4000) as service:
        statuses = await fail_everywhere(service, monkeypatch)
    assert statuses == [422, 422, 422, 422, 413, 413, 422, 404, *[500] * 10, 504, 500, 500]
    text = log()
    assert text.count(": 500 urn:polytask:internal-error in ") == text.count('"status":500') == 12
    assert text.count('"event":"request"') == len(statuses)
    assert "the device does not like this batch" in text, "devices see no texts, so their messages are told"
    assert (TEXT in text) == switch
