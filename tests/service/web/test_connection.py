"""HTTP connections on sockets: bounds on size and duration of a request head, joined writes, and the disconnect event."""

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
    """A connection with a short time limit for heads."""

    head_timeout_s = 0.2


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


def test_bytes_that_are_not_http_get_a_problem() -> None:
    """A client that does not speak HTTP gets a problem of type bad-request."""
    with connected() as client:
        client.sendall(b"what is this\r\n\r\n")
        status, _, rest = read_all(client).partition(b"\r\n")
    assert status == b"HTTP/1.1 400 Bad Request"
    assert json.loads(rest.partition(b"\r\n\r\n")[2])["type"] == "urn:polytask:bad-request"


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
