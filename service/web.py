"""The application that speaks HTTP: its paths and documentation, and what stands in front of them."""

from __future__ import annotations

import contextlib
import gc
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from importlib.metadata import version

import uvicorn
from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from model_store.manifest import Manifest
from service.allowances import Place
from service.catalogue import catalogue, revision
from service.connections import BoundedConnection
from service.gate import Gate
from service.metrics import RequestSeries
from service.openapi import complete
from service.playground import playground_routes
from service.predictor import Desk, Predictor
from service.problems import TOLD, Problems
from service.request_ids import Identified
from service.routes import operation_routes, prediction, task_routes
from service.settings import Settings
from service.shortcut import ShortCut

SHUTDOWN_S = 5
"""What shutting down may take beyond the longest deadline of a request."""

_COLLECT_AFTER = (20_000, 20, 50)
"""Objects more than at the last look for cycles, which are rare: a request makes hundreds of objects and none."""

_SENT = ["Authorization", "Content-Type", "Polytask-Deadline-Ms", "traceparent", "X-API-Key", "X-Request-Id"]
_READ = ["Polytask-Model", "Retry-After", "Server-Timing", "X-Request-Id"]
"""Headers that pages of other origins may send and read, if they may anything."""


def application(
    manifest: Manifest,
    settings: Settings,
    desk: Desk,
    predictor: Predictor,
    series: RequestSeries,
    page: Callable[[], bytes],
    running: AbstractAsyncContextManager[None],
    place: Place | None = None,
) -> FastAPI:
    """The application. `page`: the metrics; `running`: entered before the first request, left after the last.

    `place`: of this process among several that answer on one port.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with running:
            yield

    tasks = catalogue(manifest, settings)
    predict = prediction(predictor, revision(manifest), settings.max_body_bytes)
    app = FastAPI(
        title="Polytask",
        description="Many NLP tasks from one conditional multi-task transformer.",
        version=version("polytask"),
        lifespan=lifespan,
        redirect_slashes=False,
        redoc_url=None,
    )
    app.include_router(task_routes(predict, revision(manifest), tasks))
    app.include_router(operation_routes(desk, page))
    app.include_router(playground_routes())
    problems = Problems(log_texts=settings.log_texts == "yes")
    for error in TOLD:
        app.add_exception_handler(error, problems.handle)
    # A task's example is the first of its golden ones.
    goldens = {golden.task: golden for golden in reversed(manifest.goldens)}
    responses = {name: predictor.jobs.example(goldens[name]) for name in tasks if name in goldens}
    complete(app, tasks, responses, keyed=bool(settings.keys))
    # From the inside out: the short way is behind the gate as all others are.
    app.add_middleware(ShortCut, answer=predict)
    app.add_middleware(Gate, keys=settings.keys, tasks=list(tasks), series=series, place=place)
    app.add_middleware(Identified, problems=problems)
    if settings.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.origins,
            allow_methods=["GET", "POST"],
            allow_headers=_SENT,
            expose_headers=_READ,
        )
    return app


def run_server(server: uvicorn.Server, listener: socket.socket) -> None:
    """Serves on the socket until the server ends."""
    # What is loaded by now stays. Looking through all of it again and again for cycles would take a quarter of the time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT_AFTER)
    server.run(sockets=[listener])


def http_server(app: FastAPI, settings: Settings, accept_at_once: int = 2048) -> uvicorn.Server:
    """A server that ends gracefully: it answers what it has accepted, until no request can be within its deadline."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=BoundedConnection,
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # nobody asks who the client is
            backlog=accept_at_once,
            timeout_graceful_shutdown=int(settings.deadline_s) + SHUTDOWN_S,
        )
    )
