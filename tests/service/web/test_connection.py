"""HTTP connections on sockets: bounds on what a client may send and on its time, pipelining, joined writes, disconnects."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import socket
import threading
import time
from collections.abc import Iterator
from functools import partial

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from polytask.service.observability.logs import RecurringLine
from polytask.service.web import connection
from polytask.service.web.connection import DISCONNECT_EVENT, BoundedConnection, DisconnectEvent
from tests.service.support.processes import PATIENCE_S

GET = b"GET / HTTP/1.1\r\nHost: test\r\n"
CHUNKED = GET + b"Transfer-Encoding: chunked\r\n\r\n"
FLOOD_BYTES = 30_000_000
"""More than the buffers of two sockets hold."""

UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQBAAAAAAIAAAAA\r\n"


class _Impatient(BoundedConnection):
    """A connection with short time limits."""

    head_timeout_s = 0.2
    unread_timeout_s = 0.4


async def answer_unread(_: Scope, __: Receive, send: Send) -> None:
    """An application that answers without reading the body."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


async def answer_read(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that reads the body first."""
    while (await receive()).get("more_body"):
        pass
    await answer_unread(scope, receive, send)


async def answer_body(_: Scope, receive: Receive, send: Send) -> None:
    """An application that answers with the body of the request and "ok"."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message["body"], message["more_body"]
    headers = [(b"content-length", b"%d" % (len(body) + 2))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body + b"ok"})


@contextlib.contextmanager
def connected(
    app: object = answer_unread, protocol: object = BoundedConnection, keep_alive_s: float = 60
) -> Iterator[socket.socket]:
    """A connection to the application on a port of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(
            app,  # type: ignore[arg-type]
            http=protocol,  # type: ignore[arg-type]
            log_config=None,
            lifespan="off",
            timeout_keep_alive=keep_alive_s,  # type: ignore[arg-type]
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            with socket.create_connection(listener.getsockname()[:2], timeout=PATIENCE_S) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join()


def read_all(client: socket.socket) -> bytes:
    """The bytes that arrive until the service closes or resets the connection."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while part := client.recv(10_000):
            received += part
    return received


def is_answered(client: socket.socket) -> bool:
    """Whether a complete answer arrives."""
    received = b""
    while not received.endswith(b"ok") and (part := client.recv(10_000)):
        received += part
    return received.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "head", [b"X-Long: " + b"a" * 200_000, b"X-Short: a\r\n" * 20_000], ids=["one header", "many headers"]
)
def test_a_head_that_is_too_large_is_refused(head: bytes) -> None:
    """The client gets a problem with a request id before it has sent the whole head."""
    with connected() as client:
        client.sendall(GET + head)
        status, _, rest = read_all(client).partition(b"\r\n")
    headers, _, content = rest.partition(b"\r\n\r\n")
    assert status == b"HTTP/1.1 431 Request Header Fields Too Large"
    problem = json.loads(content)
    assert problem["type"] == "urn:polytask:head-too-large"
    assert f"x-request-id: {problem['request_id']}".encode() in headers
    assert b"connection: close" in headers


def test_large_heads_within_the_bound_are_answered() -> None:
    """Each of several requests on one connection may have a head as large as the bound."""
    head = GET + b"X-Long: " + b"a" * 50_000 + b"\r\n\r\n"
    with connected() as client:
        for _ in range(3):
            for start in range(0, len(head), 9_999):
                client.sendall(head[start : start + 9_999])
            assert is_answered(client)


def test_a_head_that_is_too_large_is_refused_also_in_one_read() -> None:
    """A head over the bound is refused when the whole of it has arrived at once."""
    with connected() as client:
        client.sendall(GET + b"X-Long: " + b"a" * 100_000 + b"\r\n\r\n")
        assert read_all(client).startswith(b"HTTP/1.1 431")


@pytest.mark.parametrize(
    ("app", "before", "endless"),
    [
        (answer_unread, CHUNKED + b"0\r\n", b"a:b\r\n"),
        (answer_read, CHUNKED + b"0\r\n", b"a:b\r\n"),
        (answer_unread, CHUNKED + b"0\r\nx: ", b"a"),
        (answer_read, CHUNKED + b"0\r\nx: ", b"a"),
        (answer_unread, CHUNKED + b"1;", b"a"),
        (answer_read, CHUNKED + b"1;", b"a"),
        (answer_unread, GET + b"\r\n", b"\r\n"),
        (answer_unread, GET + b"Content-Length: 1000000000\r\n\r\n", b"a"),
        (answer_unread, CHUNKED, b"1\r\na\r\n"),
    ],
)
def test_a_connection_is_not_read_without_end(app: object, before: bytes, endless: bytes) -> None:
    """Trailers, chunk extensions, empty lines and unread bodies without end end the connection, in whatever order."""
    unit = endless * (60_000 // len(endless))
    with connected(app) as client:
        client.sendall(before)
        with pytest.raises(OSError, match=r"pipe|reset"):  # noqa: PT012, it is the sending that fails
            for _ in range(FLOOD_BYTES // len(unit)):
                client.sendall(unit)


def test_a_body_in_small_chunks_is_read() -> None:
    """What frames chunks may be much more than the bound on heads, as long as there is data in them."""
    with connected(answer_body) as client:
        client.sendall(CHUNKED + b"1\r\na\r\n" * 50_000 + b"0\r\nX-Trailer: a\r\n\r\n")
        assert is_answered(client)
        client.sendall(GET + b"\r\n")
        assert is_answered(client)


def test_trailers_are_no_headers() -> None:
    """A trailer does not appear among the headers of its request."""
    seen: list[bytes] = []

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await answer_read(scope, receive, send)
        seen.extend(name for name, _ in scope["headers"])

    with connected(answer) as client:
        client.sendall(CHUNKED + b"1\r\na\r\n0\r\nAuthorization: Bearer key\r\n\r\n")
        assert is_answered(client)
    assert seen == [b"host", b"transfer-encoding"]


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET / HTTP/1.0\r\n\r\n", 200),
        (b"GET /\r\n\r\n", 400),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", 400),
        (b"GET http://test HTTP/1.1\r\nHost: test\r\n\r\n", 400),
        (b"GET http://test/ HTTP/1.1\r\nHost: test\r\n\r\n", 200),
        (GET + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
        (GET + b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (GET + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    ],
)
def test_requests_that_others_may_understand_otherwise_are_refused(
    request_: bytes, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A first request with no or two hosts, another coding than chunked, or no path is refused; the log has no error."""
    with connected() as client:
        client.sendall(request_)
        assert client.recv(10_000).startswith(b"HTTP/1.1 %d" % status)
    assert max((record.levelno for record in caplog.records), default=0) < logging.WARNING


def test_junk_is_a_line_a_minute(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any number of connections that do not speak HTTP leave one line in the log, without a warning."""
    line = RecurringLine(logging.getLogger("junk"), logging.INFO, "%d connections")
    monkeypatch.setattr(connection, "_not_http", line)
    caplog.set_level(logging.INFO)
    with connected() as client:
        for _ in range(20):
            with socket.create_connection(client.getpeername()) as other:
                other.sendall(b"what is this\r\n\r\n")
                assert read_all(other).startswith(b"HTTP/1.1 400")
    assert [record.message for record in caplog.records if record.name == "junk"] == ["1 connections"]
    assert all(record.levelno < logging.WARNING for record in caplog.records)


@pytest.mark.parametrize(
    "junk", [b"what is this\r\n\r\n", GET + b"X: " + b"a" * 100_000, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]
)
def test_a_refusal_comes_after_the_answers_to_the_requests_before_it(junk: bytes) -> None:
    """Pipelined requests before bytes that are refused are answered first, and the refusal is the last response."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.1)
        await answer_read(scope, receive, send)

    with connected(answer) as client:
        client.sendall((GET + b"\r\n") * 2 + junk)
        statuses = re.findall(rb"HTTP/1.1 (\d+)", read_all(client))
    assert statuses[:2] == [b"200", b"200"]
    assert statuses[2:] in ([b"400"], [b"431"])


def test_bytes_that_are_not_http_get_a_problem() -> None:
    """A client that does not speak HTTP gets a problem of type bad-request."""
    with connected() as client:
        client.sendall(b"what is this\r\n\r\n")
        status, _, rest = read_all(client).partition(b"\r\n")
    assert status == b"HTTP/1.1 400 Bad Request"
    assert json.loads(rest.partition(b"\r\n\r\n")[2])["type"] == "urn:polytask:bad-request"


@pytest.mark.parametrize("chunked", [False, True], ids=["fixed", "chunked"])
@pytest.mark.parametrize("apart", [False, True], ids=["one segment", "two segments"])
@pytest.mark.parametrize("offered", [b"h2c", b"websocket", b"TLS/1.2, h2c"])
def test_an_upgrade_is_declined(offered: bytes, apart: bool, chunked: bool, caplog: pytest.LogCaptureFixture) -> None:
    """The body is the body, even if it looks like a request; pipelined requests are answered; the log says nothing."""
    head = GET.replace(b"GET", b"POST") + UPGRADE.replace(b"h2c", offered)
    body = GET + b"X-Smuggled: yes\r\n\r\n"
    if chunked:
        first = head + b"Transfer-Encoding: chunked\r\n\r\n", b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    else:
        first = head + b"Content-Length: %d\r\n\r\n" % len(body), body
    last = GET + b"Connection: close\r\n\r\n"
    with connected(answer_body) as client:
        for part in [*first, last] if apart else [b"".join(first) + b"".join(first) + last]:
            client.sendall(part)
            time.sleep(0.05)
        received = read_all(client)
    assert received.count(b"HTTP/1.1 200") == received.count(b"ok") == (2 if apart else 3)
    assert received.count(body + b"ok") == (1 if apart else 2)
    assert max((record.levelno for record in caplog.records), default=0) < logging.WARNING


@pytest.mark.parametrize(
    "sent", [b"", b"GET / HT", GET, GET + b"\r\n" + GET], ids=["nothing", "part", "most", "second"]
)
def test_a_head_that_does_not_arrive_in_time_ends_the_connection(sent: bytes) -> None:
    """The connection is closed after the time limit, however much of the head has arrived."""
    with connected(protocol=_Impatient) as client:
        client.sendall(sent)
        received = read_all(client)
    assert received.count(b"HTTP/1.1 200") == sent.count(b"\r\n\r\n")


def test_a_head_that_trickles_ends_the_connection() -> None:
    """Bytes that arrive do not extend the time limit of a head."""
    with connected(protocol=_Impatient) as client:
        client.sendall(GET)
        with pytest.raises(OSError, match=r"pipe|reset"):  # noqa: PT012, it is the sending that fails
            for _ in range(10_000):
                client.sendall(b"X-Short: a\r\n")
                threading.Event().wait(0.01)


def test_a_body_that_is_not_read_ends_the_connection() -> None:
    """After the response, the unread rest of a body does not keep the connection open beyond the time limit."""
    with connected(protocol=_Impatient) as client:
        client.sendall(GET + b"Content-Length: 100000\r\n\r\n")
        assert is_answered(client)
        with pytest.raises(OSError, match=r"pipe|reset"):  # noqa: PT012, it is the sending that fails
            for _ in range(10_000):
                client.sendall(b" ")
                threading.Event().wait(0.01)


def test_a_body_that_is_read_may_take_longer() -> None:
    """The time limit does not apply to a body that the application reads."""
    with connected(answer_read, _Impatient) as client:
        client.sendall(GET + b"Content-Length: 10\r\n\r\n")
        for _ in range(10):
            threading.Event().wait(0.05)
            client.sendall(b" ")
        assert is_answered(client)


def test_a_connection_between_requests_is_kept() -> None:
    """The time limit applies to heads that have begun; idle connections have the server's own timeout."""
    with connected(protocol=_Impatient) as client:
        for _ in range(3):
            client.sendall(GET + b"\r\n")
            assert is_answered(client)
            threading.Event().wait(0.4)


@pytest.mark.parametrize("sent", [b"", b"\r\n"], ids=["nothing", "an empty line"])
def test_an_idle_connection_ends(sent: bytes) -> None:
    """A connection without a request is closed after its time, whatever arrives that is no request."""
    with connected(protocol=_Impatient, keep_alive_s=0.5) as client:
        client.sendall(GET + b"\r\n")
        assert is_answered(client)
        client.sendall(sent)
        started = time.monotonic()
        assert read_all(client) == b""
        assert time.monotonic() - started > 0.4


def test_an_answer_that_is_not_read_ends_the_connection() -> None:
    """A client that takes nothing of what is sent to it is disconnected after its time, a slow one is not."""
    ended, size = threading.Event(), 20_000_000

    async def answer(scope: Scope, _: Receive, send: Send) -> None:
        scope[DISCONNECT_EVENT].watch(ended.set)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % size)]})
        await send({"type": "http.response.body", "body": b"a" * size})

    with connected(answer, _Impatient) as client:
        client.sendall(GET + b"\r\n")
        received = 0
        while received < size:
            part = client.recv(1_500_000)
            assert part
            received += len(part)
            time.sleep(0.05)
        client.sendall(GET + b"\r\n")
        assert ended.wait(PATIENCE_S)


def test_the_connections_that_waited_longest_end_when_there_are_too_many() -> None:
    """New clients are answered whatever number of idle connections there is; a request under way is not cut off."""
    started, go_on = threading.Event(), threading.Event()

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/slow":
            started.set()
            await asyncio.to_thread(go_on.wait, PATIENCE_S)
        await answer_read(scope, receive, send)

    with contextlib.ExitStack() as stack:
        busy = stack.enter_context(connected(answer, partial(BoundedConnection, max_connections=32), keep_alive_s=3600))
        busy.sendall(GET.replace(b"/ ", b"/slow ") + b"\r\n")
        assert started.wait(PATIENCE_S)
        idle = []
        for _ in range(100):
            idle.append(stack.enter_context(socket.create_connection(busy.getpeername(), timeout=PATIENCE_S)))
            idle[-1].sendall(GET + b"\r\n")
            assert is_answered(idle[-1])
        assert read_all(idle[0]) == b""
        idle[-1].sendall(GET + b"\r\n")
        assert is_answered(idle[-1])
        go_on.set()
        assert is_answered(busy)


def test_head_and_body_of_a_response_arrive_together() -> None:
    """One read of the client returns both head and body."""
    with connected() as client:
        for _ in range(3):
            client.sendall(GET + b"\r\n")
            assert client.recv(10_000).endswith(b"\r\n\r\nok")


def test_a_head_without_a_body_is_not_held_back() -> None:
    """A response to HEAD arrives although nothing is written after its head."""
    with connected() as client:
        client.sendall(GET.replace(b"GET", b"HEAD") + b"\r\n")
        assert client.recv(10_000).endswith(b"\r\n\r\n")


def test_parts_of_a_streamed_response_are_not_held_back() -> None:
    """A head or a part of a body arrives although the next part does not exist yet."""
    made = threading.Event()

    async def answer(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        for part in (b"a", b"b", b"cd"):
            await asyncio.to_thread(made.wait)
            made.clear()
            await send({"type": "http.response.body", "body": part, "more_body": part != b"cd"})

    with connected(answer) as client:
        client.sendall(GET + b"\r\n")
        assert client.recv(10_000).endswith(b"\r\n\r\n")
        for part in (b"a", b"b", b"cd"):
            made.set()
            assert client.recv(10_000) == part


def test_callbacks_on_a_disconnect_are_called_once() -> None:
    """A callback is called at once if the connection has ended, and not at all if watching was stopped."""
    called: list[str] = []
    event = DisconnectEvent()
    event.watch(lambda: called.append("first"))
    event.watch(lambda: called.append("not"))()
    event.set()
    event.watch(lambda: called.append("late"))
    assert called == ["first", "late"]


@pytest.mark.parametrize("num_bytes", [0, 1000, 100_000, 400_000])
def test_an_application_can_watch_for_a_disconnect(num_bytes: int) -> None:
    """The callback is called when the client disconnects while its request is being answered, whatever the body's size."""
    started, ended = threading.Event(), threading.Event()

    async def answer(scope: Scope, receive: Receive, _: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        scope[DISCONNECT_EVENT].watch(ended.set)
        started.set()
        await asyncio.to_thread(ended.wait, PATIENCE_S)

    with connected(answer) as client:
        client.sendall(GET + b"Content-Length: %d\r\n\r\n" % num_bytes + b" " * num_bytes)
        assert started.wait(PATIENCE_S)
        client.close()
        assert ended.wait(PATIENCE_S)


def test_a_pipelined_request_waits_for_the_one_before() -> None:
    """Pipelined requests are answered in order, also after a large body."""
    body = b"Content-Length: 400000\r\n\r\n" + b" " * 400_000
    with connected(answer_read) as client:
        client.sendall((GET + body) * 2 + GET + b"Connection: close\r\n\r\n")
        assert read_all(client).count(b"HTTP/1.1 200") == 3


def test_few_pipelined_requests_become_objects_at_a_time() -> None:
    """Thousands of pipelined requests are answered in order, and only some of them are held in memory as such."""
    longest = 0

    class Watched(BoundedConnection):
        def on_headers_complete(self) -> None:
            nonlocal longest
            super().on_headers_complete()
            longest = max(longest, len(self.pipeline))

    with connected(answer_body, Watched) as client:
        sent = b"".join(GET + b"Content-Length: 5\r\n\r\n%05d" % number for number in range(5000))
        threading.Thread(target=client.sendall, args=(sent + GET + b"Connection: close\r\n\r\n",)).start()
        answers = re.findall(rb"(\d{5})ok", read_all(client))
    assert [int(answer) for answer in answers] == list(range(5000))
    assert 0 < longest < 8192 // len(GET)


def test_what_is_pipelined_behind_a_slow_request_is_not_read() -> None:
    """While a request is worked on, no more than one read of what comes behind it is held in memory."""
    held, go_on = 0, threading.Event()

    class Watched(BoundedConnection):
        def data_received(self, data: bytes) -> None:
            nonlocal held
            super().data_received(data)
            held = max(held, len(self._unparsed))

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.to_thread(go_on.wait, PATIENCE_S)
        await answer_body(scope, receive, send)

    with connected(answer, Watched) as client:
        sent = (GET + b"Content-Length: 10000\r\n\r\n" + b"a" * 10_000) * 200
        sending = threading.Thread(target=client.sendall, args=(sent + GET + b"Connection: close\r\n\r\n",))
        sending.start()
        sending.join(1)  # of what the kernel takes, more would be read in that time
        go_on.set()
        assert read_all(client).count(b"aok") == 200
        sending.join()
    assert 0 < held <= 256 * 1024
