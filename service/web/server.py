"""The end of a process as a proxy sees it coming: it says that it is not ready, and for a while answers all the same."""

from __future__ import annotations

import asyncio
import gc
import socket
import time

import uvicorn
from fastapi import FastAPI, Request

from polytask.service.config.settings import SHUTDOWN_S, Settings
from polytask.service.errors import Draining
from polytask.service.web.connection import BoundedConnection

_COLLECT_AFTER = (20_000, 20, 50)
"""Objects more than at the last look for cycles, which are rare: a request makes hundreds of objects and none."""

_TICK_S = 0.05


def run_server(server: uvicorn.Server, listener: socket.socket) -> None:
    """Serves on the socket until the server ends."""
    # What is loaded by now stays. Looking through all of it again and again for cycles would take long.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT_AFTER)
    server.run(sockets=[listener])


def http_server(app: FastAPI, settings: Settings, backlog: int = 2048) -> uvicorn.Server:
    """A server that ends gracefully: it answers what it has accepted, until no request can be within its deadline."""
    return DrainingServer(
        uvicorn.Config(
            app,
            http=BoundedConnection,
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # nobody asks who the client is
            backlog=backlog,
            timeout_graceful_shutdown=int(settings.deadline_s) + SHUTDOWN_S,
        ),
        app,
        settings.drain_s,
    )


class DrainingServer(uvicorn.Server):
    """uvicorn's server, but before it stops accepting, `app` is not ready for `drain_s` seconds.

    Who asks for readiness meanwhile sends nothing more, and no request meets a port that has just been closed.
    """

    def __init__(self, config: uvicorn.Config, app: FastAPI, drain_s: float) -> None:
        super().__init__(config)
        self._state = app.state
        self._drain_s = drain_s

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn does, after that while. A second SIGINT cuts it short."""
        self._state.shutting_down = True
        end = time.monotonic() + self._drain_s
        while not self.force_exit and time.monotonic() < end:  # noqa: ASYNC110, a signal handler sets it
            await asyncio.sleep(_TICK_S)
        await super().shutdown(sockets)


def require_accepting(request: Request) -> None:
    """Raises Draining where the process that answers is about to end."""
    if getattr(request.app.state, "shutting_down", False):
        raise Draining("the service is about to end; it answers what still comes")
