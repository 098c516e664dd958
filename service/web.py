"""The application that speaks HTTP: paths, documentation, and the one place where errors become responses."""

from __future__ import annotations

import contextlib
import gc
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from http import HTTPStatus
from importlib.metadata import version

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import TypeAdapter
from starlette.exceptions import HTTPException

from model_store.manifest import Manifest
from service.catalogue import catalogue, revision
from service.errors import FieldError, InternalError, InvalidInput, Problem, ServiceError, problem
from service.openapi import PROBLEM, complete
from service.predictor import Desk, Predictor
from service.routes import operation_routes, prediction, task_routes
from service.settings import Settings
from service.shortcut import ShortCut

logger = logging.getLogger(__name__)

SHUTDOWN_S = 5
"""What shutting down may take beyond the longest deadline of a request."""

_COLLECT_AFTER = (20_000, 20, 50)
"""Objects more than at the last look for cycles, which are rare: a request makes hundreds of objects and none."""

_PROBLEM = TypeAdapter(Problem)

_TOLD = (ServiceError, HTTPException, RequestValidationError)
"""Errors that are meant for clients."""


def application(
    manifest: Manifest,
    settings: Settings,
    desk: Desk,
    predictor: Predictor,
    page: Callable[[], bytes],
    running: AbstractAsyncContextManager[None],
) -> FastAPI:
    """The application. `page`: the metrics; `running`: entered before the first request, left after the last."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with running:
            yield

    tasks = catalogue(manifest, settings)
    predict = prediction(predictor, settings.max_body_bytes)
    app = ShortCut(
        predict,
        _respond,
        title="Polytask",
        description="Many NLP tasks from one conditional multi-task transformer.",
        version=version("polytask"),
        lifespan=lifespan,
        redirect_slashes=False,
        redoc_url=None,
    )
    app.include_router(task_routes(predict, revision(manifest), tasks))
    app.include_router(operation_routes(desk, page))
    for error in (*_TOLD, Exception):
        app.add_exception_handler(error, _respond)
    complete(app, tasks)
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
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # nobody asks who the client is
            backlog=accept_at_once,
            timeout_graceful_shutdown=int(settings.deadline_s) + SHUTDOWN_S,
        )
    )


async def _respond(request: Request, error: Exception) -> Response:
    """Every response that is not an answer."""
    if not isinstance(error, _TOLD):
        error = InternalError(error)
    if isinstance(error, InternalError):
        logger.error("%s %s failed, id %s", request.method, request.url.path, error.id, exc_info=error.__cause__)
    found = _problem(error)
    headers = dict(getattr(error, "headers", None) or {})
    if found.retry_after_s is not None:
        headers["Retry-After"] = str(found.retry_after_s)
    if isinstance(error, ServiceError) and error.unread:
        headers["Connection"] = "close"
    return Response(_PROBLEM.dump_json(found, exclude_none=True), found.status, headers, PROBLEM)


def _problem(error: ServiceError | HTTPException | RequestValidationError) -> Problem:
    if isinstance(error, RequestValidationError):
        wrong = [FieldError(".".join(map(str, detail["loc"])), detail["msg"]) for detail in error.errors()]
        return InvalidInput(wrong).problem()
    if isinstance(error, HTTPException):
        return problem(error.status_code, HTTPStatus(error.status_code).phrase, f"{error.detail}; /docs has all paths")
    return error.problem()
