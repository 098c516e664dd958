"""HTTP server with graceful shutdown: not ready first, still accepting for a while, then it completes requests in flight."""

from __future__ import annotations

import asyncio
import gc
import socket
import time
from functools import partial
from typing import cast

import uvicorn
from fastapi import FastAPI, Request

from polytask.service.config.settings import SHUTDOWN_S, Settings
from polytask.service.errors import Draining
from polytask.service.web.connection import BoundedConnection
from polytask.service.web.connection_limit import max_connections

_GC_THRESHOLDS = (20_000, 20, 50)
"""Rare collections: a request allocates hundreds of objects and leaves no reference cycles."""

_TICK_S = 0.05

_CUT_OFF_S = 1
"""Seconds before the end of a shutdown at which connections are cut off. Then uvicorn cancels what still runs."""


def run_server(server: uvicorn.Server, listener: socket.socket) -> None:
    """Serves on the socket until the server shuts down."""
    # All objects that exist now stay alive. Freezing them spares each collection a walk over all of them.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    server.run(sockets=[listener])


def http_server(app: FastAPI, settings: Settings, accept_at_once: int = 64) -> uvicorn.Server:
    """A server that completes the requests in flight at shutdown; none takes longer than its deadline.

    `accept_at_once`: how many connections the event loop accepts at a time. Frontends pass 1, so that a burst of clients
    spreads over them.
    """
    return DrainingServer(
        uvicorn.Config(
            app,
            http=partial(BoundedConnection, max_connections=max_connections()),  # type: ignore[arg-type]  # called as the class
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # the client's address is not used
            backlog=accept_at_once,
            timeout_keep_alive=settings.keep_alive_s,
            timeout_graceful_shutdown=int(settings.deadline_s) + SHUTDOWN_S,
        ),
        app,
        settings.drain_s,
    )


class DrainingServer(uvicorn.Server):
    """uvicorn's server, which reports "not ready" for `drain_s` seconds before it stops accepting connections.

    A load balancer that polls readiness stops sending requests in that time, so none meets a closed port.
    """

    def __init__(self, config: uvicorn.Config, app: FastAPI, drain_s: float) -> None:
        super().__init__(config)
        self._state = app.state
        self._drain_s = drain_s

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Shuts uvicorn down after `drain_s` seconds. A second SIGINT ends the wait."""
        self._state.shutting_down = True
        end = time.monotonic() + self._drain_s
        while not self.force_exit and time.monotonic() < end:  # noqa: ASYNC110, a signal handler sets it
            await asyncio.sleep(_TICK_S)
        # No request is in time any more. Who trickles a body or reads no answer ends as one who has disconnected, without
        # a traceback in the log.
        limit_s = self.config.timeout_graceful_shutdown or 0
        cut_off = asyncio.get_running_loop().call_later(max(0, limit_s - _CUT_OFF_S), self._cut_off)
        try:
            await super().shutdown(sockets)
        finally:
            cut_off.cancel()

    def _cut_off(self) -> None:
        for connection in cast("set[BoundedConnection]", set(self.server_state.connections)):
            connection.abort()


def require_accepting(request: Request) -> None:
    """Raises Draining if this process is shutting down."""
    if getattr(request.app.state, "shutting_down", False):
        raise Draining("the service is shutting down; requests in flight will complete")
