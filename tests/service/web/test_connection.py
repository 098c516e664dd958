"""Connections on sockets: what a client may send before it is a request, and how long it may take."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Iterator

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from polytask.service.web.connection import DISCONNECT_EVENT, BoundedConnection, DisconnectEvent
from tests.service.support.processes import PATIENCE_S

GET = b"GET / HTTP/1.1\r\nHost: test\r\n"


class _Impatient(BoundedConnection):
    """A connection that waits for a moment only."""

    head_s = 0.2


async def answer_unread(_: Scope, __: Receive, send: Send) -> None:
    """An application that answers without reading the body."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


async def answer_read(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that reads the body first."""
    while (await receive()).get("more_body"):
        pass
    await answer_unread(scope, receive, send)


@contextlib.contextmanager
def connected(app: object = answer_unread, protocol: type = BoundedConnection) -> Iterator[socket.socket]:
    """A connection to the application on a port of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, http=protocol, log_config=None, lifespan="off", timeout_keep_alive=60)  # type: ignore[arg-type]
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            with socket.create_connection(listener.getsockname()[:2], timeout=PATIENCE_S) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join()


def to_its_end(client: socket.socket) -> bytes:
    """What comes until the service closes the connection, or resets it."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while part := client.recv(10_000):
            received += part
    return received


def is_answered(client: socket.socket) -> bool:
    """Whether a whole answer comes."""
    received = b""
    while not received.endswith(b"ok") and (part := client.recv(10_000)):
        received += part
    return received.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "head", [b"X-Long: " + b"a" * 200_000, b"X-Short: a\r\n" * 20_000], ids=["one header", "many headers"]
)
def test_a_head_that_is_too_large_is_refused(head: bytes) -> None:
    """As a problem with an id, before its end has come."""
    with connected() as client:
        client.sendall(GET + head)
        status, _, rest = to_its_end(client).partition(b"\r\n")
    headers, _, content = rest.partition(b"\r\n\r\n")
    assert status == b"HTTP/1.1 431 Request Header Fields Too Large"
    found = json.loads(content)
    assert found["type"] == "urn:polytask:head-too-large"
    assert f"x-request-id: {found['request_id']}".encode() in headers
    assert b"connection: close" in headers


def test_large_heads_within_the_bound_are_answered() -> None:
    """Each of several on one connection may have as much."""
    head = GET + b"X-Long: " + b"a" * 50_000 + b"\r\n\r\n"
    with connected() as client:
        for _ in range(3):
            for start in range(0, len(head), 9_999):
                client.sendall(head[start : start + 9_999])
            assert is_answered(client)


def test_what_is_not_http_is_a_problem() -> None:
    """Also here the client learns what is wrong, and an id."""
    with connected() as client:
        client.sendall(b"what is this\r\n\r\n")
        status, _, rest = to_its_end(client).partition(b"\r\n")
    assert status == b"HTTP/1.1 400 Bad Request"
    assert json.loads(rest.partition(b"\r\n\r\n")[2])["type"] == "urn:polytask:bad-request"


@pytest.mark.parametrize(
    "sent", [b"", b"GET / HT", GET, GET + b"\r\n" + GET], ids=["nothing", "part", "most", "second"]
)
def test_a_head_that_does_not_come_is_not_waited_for(sent: bytes) -> None:
    """Whatever has come of it, the connection ends."""
    with connected(protocol=_Impatient) as client:
        client.sendall(sent)
        received = to_its_end(client)
    assert received.count(b"HTTP/1.1 200") == sent.count(b"\r\n\r\n")


def test_a_head_that_trickles_is_not_waited_for() -> None:
    """Bytes that come do not put off the end."""
    with connected(protocol=_Impatient) as client:
        client.sendall(GET)
        with pytest.raises(OSError, match=r"pipe|reset"):  # noqa: PT012, it is the sending that fails
            for _ in range(10_000):
                client.sendall(b"X-Short: a\r\n")
                threading.Event().wait(0.01)


def test_a_body_that_nobody_reads_is_not_waited_for() -> None:
    """After the response, the rest of a request cannot hold the connection either, however it trickles."""
    with connected(protocol=_Impatient) as client:
        client.sendall(GET + b"Content-Length: 100000\r\n\r\n")
        assert is_answered(client)
        with pytest.raises(OSError, match=r"pipe|reset"):  # noqa: PT012, it is the sending that fails
            for _ in range(10_000):
                client.sendall(b" ")
                threading.Event().wait(0.01)


def test_a_body_that_is_read_may_take_longer() -> None:
    """How long is the application's to say."""
    with connected(answer_read, _Impatient) as client:
        client.sendall(GET + b"Content-Length: 10\r\n\r\n")
        for _ in range(10):
            threading.Event().wait(0.05)
            client.sendall(b" ")
        assert is_answered(client)


def test_a_connection_between_requests_is_kept() -> None:
    """The bound is on heads that have begun; what idles is the server's own time-out to end."""
    with connected(protocol=_Impatient) as client:
        for _ in range(3):
            client.sendall(GET + b"\r\n")
            assert is_answered(client)
            threading.Event().wait(0.4)


def test_head_and_body_of_a_response_come_at_once() -> None:
    """One read of a client gets both."""
    with connected() as client:
        for _ in range(3):
            client.sendall(GET + b"\r\n")
            assert client.recv(10_000).endswith(b"\r\n\r\nok")


def test_a_head_without_a_body_is_not_held_back() -> None:
    """A response to HEAD comes, though nothing is written after its head."""
    with connected() as client:
        client.sendall(GET.replace(b"GET", b"HEAD") + b"\r\n")
        assert client.recv(10_000).endswith(b"\r\n\r\n")


def test_what_is_ready_of_a_stream_is_not_held_back() -> None:
    """A head, or a part of a body, comes though the next part is still to be made."""
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


def test_those_who_watch_hear_of_the_end_of_a_connection_once() -> None:
    """At once where it has ended before; not at all where they have stopped to watch."""
    heard: list[str] = []
    ending = DisconnectEvent()
    ending.watch(lambda: heard.append("first"))
    ending.watch(lambda: heard.append("not"))()
    ending.come()
    ending.watch(lambda: heard.append("late"))
    assert heard == ["first", "late"]


@pytest.mark.parametrize("num_bytes", [0, 1000, 100_000, 400_000])
def test_an_application_can_watch_for_the_end_of_its_connection(num_bytes: int) -> None:
    """It comes when the client hangs up while its request is being answered, however large the body was."""
    begun, ended = threading.Event(), threading.Event()

    async def answer(scope: Scope, receive: Receive, _: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        scope[DISCONNECT_EVENT].watch(ended.set)
        begun.set()
        await asyncio.to_thread(ended.wait, PATIENCE_S)

    with connected(answer) as client:
        client.sendall(GET + b"Content-Length: %d\r\n\r\n" % num_bytes + b" " * num_bytes)
        assert begun.wait(PATIENCE_S)
        client.close()
        assert ended.wait(PATIENCE_S)


def test_a_request_that_is_sent_ahead_waits_for_the_one_before() -> None:
    """After a large body, too: both are answered, in turn."""
    body = b"Content-Length: 400000\r\n\r\n" + b" " * 400_000
    with connected(answer_read) as client:
        client.sendall((GET + body) * 2 + GET + b"Connection: close\r\n\r\n")
        assert to_its_end(client).count(b"HTTP/1.1 200") == 3
