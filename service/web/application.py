"""The application that speaks HTTP: its paths and documentation, and what stands in front of them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from polytask.service.config.settings import Settings
from polytask.service.observability.request_log import RequestLog
from polytask.service.observability.request_metrics import RequestMetrics
from polytask.service.versions.served import Versions
from polytask.service.web.middleware.authentication import AuthenticationMiddleware
from polytask.service.web.middleware.predict_fast_path import PredictFastPath
from polytask.service.web.middleware.rate_limits import ProcessIndex
from polytask.service.web.middleware.request_tracking import RequestTrackingMiddleware, Traces
from polytask.service.web.openapi import complete
from polytask.service.web.problem_details import CLIENT_ERRORS, ErrorResponder
from polytask.service.web.routes.admin import admin_routes
from polytask.service.web.routes.models import model_routes
from polytask.service.web.routes.open_inference import Models, inference_routes
from polytask.service.web.routes.playground import playground_routes
from polytask.service.web.routes.tasks import operation_routes, prediction, task_routes

_SENT = ["Authorization", "Content-Type", "Polytask-Deadline-Ms", "traceparent", "X-API-Key", "X-Request-Id"]

_READ = ["Polytask-Model", "Retry-After", "Server-Timing", "X-Request-Id"]
"""Headers that pages of other origins may send and read, if they may anything."""


_NO_TELEMETRY: Any = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}
"""FastAPI's own would see no predictions, and send messages of exceptions, which quote texts of clients."""


def application(
    versions: Versions,
    settings: Settings,
    metrics: RequestMetrics,
    page: Callable[[], bytes],
    running: AbstractAsyncContextManager[None],
    process_index: ProcessIndex | None = None,
) -> FastAPI:
    """The application. `page`: the metrics; `running`: entered before the first request, left after the last.

    `process_index`: of this process among several that answer on one port.
    """
    traces = _traces(settings)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        try:
            async with running:
                yield
        finally:
            if traces is not None:
                traces.close()

    predict = prediction(versions, settings.max_body_bytes)
    app = FastAPI(
        title="Polytask",
        description="Many NLP tasks from one conditional multi-task transformer.",
        version=version("polytask"),
        lifespan=lifespan,
        redirect_slashes=False,
        redoc_url=None,
        telemetry=_NO_TELEMETRY,
    )
    app.include_router(task_routes(predict, versions))
    app.include_router(model_routes(versions))
    app.include_router(inference_routes(Models(versions, settings.max_body_bytes)))
    app.include_router(operation_routes(versions, page))
    app.include_router(playground_routes())
    # Without keys there is no /admin.
    if settings.keys:
        app.include_router(admin_routes(versions, settings.max_body_bytes))
    problems = ErrorResponder(log_texts=settings.log_texts)
    for error in CLIENT_ERRORS:
        app.add_exception_handler(error, problems.handle)
    # FastAPI keeps the document that it has made once. Versions change by /admin alone, and then nothing in it is theirs.
    complete(app.openapi(), versions.active.tasks, versions.active.examples(), keyed=bool(settings.keys))
    # From the inside out: the short way is behind the gate as all others are.
    app.add_middleware(PredictFastPath, answer=predict)
    app.add_middleware(
        AuthenticationMiddleware, keys=settings.keys, versions=versions, metrics=metrics, process_index=process_index
    )
    app.add_middleware(
        RequestTrackingMiddleware, problems=problems, log=RequestLog(settings.log_requests), traces=traces
    )
    if settings.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.origins,
            allow_methods=["GET", "POST"],
            allow_headers=_SENT,
            expose_headers=_READ,
        )
    return app


def _traces(settings: Settings) -> Traces | None:
    if not settings.traces:
        return None
    from polytask.service.observability.tracing import SpanTraces  # noqa: PLC0415, not installed everywhere

    return SpanTraces()
