"""The end of a process as a proxy sees it coming: it says that it is not ready, and for a while answers all the same."""

from __future__ import annotations

import asyncio
import socket
import time

import uvicorn
from fastapi import FastAPI, Request

from service.errors import Draining

_TICK_S = 0.05


class LeavingServer(uvicorn.Server):
    """uvicorn's server, but before it stops accepting, `app` is not ready for `drain_s` seconds.

    Who asks for readiness meanwhile sends nothing more, and no request meets a port that has just been closed.
    """

    def __init__(self, config: uvicorn.Config, app: FastAPI, drain_s: float) -> None:
        super().__init__(config)
        self._state = app.state
        self._drain_s = drain_s

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn does, after that while. A second SIGINT cuts it short."""
        self._state.leaving = True
        end = time.monotonic() + self._drain_s
        while not self.force_exit and time.monotonic() < end:  # noqa: ASYNC110, a signal handler sets it
            await asyncio.sleep(_TICK_S)
        await super().shutdown(sockets)


def require_staying(request: Request) -> None:
    """Raises Draining where the process that answers is about to end."""
    if getattr(request.app.state, "leaving", False):
        raise Draining("the service is about to end; it answers what still comes")
