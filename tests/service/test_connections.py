"""Connections on sockets: what a client may send before it is a request, and how long it may take."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from service.connections import BoundedConnection
from tests.service.processes import PATIENCE_S

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
