"""HTTP server: what its shutdown does with clients that neither send nor read."""

from __future__ import annotations

import logging
import socket
import threading
import time

import pytest
import uvicorn
from fastapi import FastAPI, Request, Response

from polytask.service.web.connection import BoundedConnection
from polytask.service.web.server import DrainingServer
from tests.service.support.processes import PATIENCE_S

_UNREAD_BYTES = 30_000_000
"""More than the buffers of two sockets hold."""


def test_a_shutdown_cuts_off_who_neither_sends_nor_reads(caplog: pytest.LogCaptureFixture) -> None:
    """A body that never ends and an answer that nobody reads end with the shutdown, and no error is logged for them."""
    app = FastAPI()
    started: list[str] = []

    @app.get("/large")
    async def large() -> Response:
        started.append("large")
        return Response(b"a" * _UNREAD_BYTES)

    @app.post("/read")
    async def read(request: Request) -> Response:
        started.append("read")
        while (message := await request.receive()).get("more_body"):
            pass
        started.append(message["type"])
        return Response()

    with socket.create_server(("127.0.0.1", 0)) as listener, caplog.at_level(logging.ERROR):
        config = uvicorn.Config(
            app, http=BoundedConnection, log_config=None, lifespan="off", timeout_graceful_shutdown=2
        )
        server = DrainingServer(config, app, drain_s=0)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        with (
            socket.create_connection(listener.getsockname()[:2], timeout=PATIENCE_S) as silent,
            socket.create_connection(listener.getsockname()[:2], timeout=PATIENCE_S) as deaf,
        ):
            silent.sendall(b"POST /read HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\na")
            deaf.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n" * 2)
            end = time.monotonic() + PATIENCE_S
            while len(started) < 3 and time.monotonic() < end:
                time.sleep(0.01)
            server.should_exit = True
            thread.join(PATIENCE_S)
    assert not thread.is_alive()
    assert sorted(started) == ["http.disconnect", "large", "large", "read"]
    assert not caplog.records
