"""A service in this process, as clients see it, and waiting for a condition."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
from fastapi import FastAPI

from polytask.model_store.load import Checkpoint
from polytask.service.backends.contract import Backend
from polytask.service.config.settings import Settings
from polytask.service.engine.worker import Worker
from polytask.service.single_process import assemble
from tests.service.support import checkpoints
from tests.service.support.doubles import GatedBackend, real_backend

_PATIENCE_S = 30


@dataclass
class Service:
    """A running service. `client` speaks to it without sockets."""

    app: FastAPI
    worker: Worker
    client: httpx.AsyncClient

    async def predict(self, task: str, *inputs: Any, **options: Any) -> httpx.Response:
        """Posts the inputs to a task."""
        return await self.client.post(f"/v1/tasks/{task}/predict", json={"inputs": inputs}, **options)

    async def metric(self, sample: str) -> float:
        """The value of a sample, by its name and labels as on the metrics page."""
        for line in (await self.client.get("/metrics")).text.splitlines():
            if line.startswith(f"{sample} "):
                return float(line.removeprefix(f"{sample} "))
        raise AssertionError(f"no sample {sample}")

    def num_waiting(self) -> int:
        """Number of queued rows."""
        return sum(waiting.rows for waiting in self.worker.queue.waiting()[0].values())


@contextlib.asynccontextmanager
async def serving(
    backend: Backend | None = None, *, warm: bool = True, checkpoint: Checkpoint | None = None, **settings: Any
) -> AsyncIterator[Service]:
    """Serves the tiny checkpoint or another one with a backend; by the time of the first request it is warm, if `warm`.

    Without calibration, which takes a moment, unless the token budget is set to 0.
    """
    settings.setdefault("token_budget", 1024)
    worker, app = assemble(checkpoint or checkpoints.in_memory(), Settings(**settings), backend or real_backend())
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        service = Service(app, worker, client)
        if warm:
            await until(lambda: worker.ready or worker.failure is not None)
        yield service


async def hold(service: Service, backend: GatedBackend) -> asyncio.Task[httpx.Response]:
    """Sends a request whose batch waits at the gate, so that the device is busy until it opens."""
    before = len(backend.batches)
    backend.shut()
    call = asyncio.create_task(service.predict("mood", "cat"))
    await until(lambda: len(backend.batches) == before + 1)
    return call


async def until(condition: Callable[[], bool]) -> None:
    """Returns when the condition holds; fails if it does not within the time limit."""
    async with asyncio.timeout(_PATIENCE_S):
        while not condition():  # noqa: ASYNC110, what happens in the worker's thread sets no event
            await asyncio.sleep(0.001)


@dataclass
class RawCall:
    """A request whose client can hang up: the application, called as a server calls it."""

    service: Service
    task: str
    body: bytes
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)
    status: int | None = None
    _sent: bool = False

    async def run(self) -> None:
        """Runs the request to its end."""
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": f"/v1/tasks/{self.task}/predict",
            "query_string": b"",
            "headers": [],
        }
        await self.service.app(scope, self._receive, self._send)

    async def _receive(self) -> dict[str, Any]:
        if not self._sent:
            self._sent = True
            return {"type": "http.request", "body": self.body, "more_body": False}
        await self.hung_up.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        self.status = message.get("status", self.status)


def body(*inputs: Any) -> bytes:
    """A request body."""
    return json.dumps({"inputs": inputs}).encode()
