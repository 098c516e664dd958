"""HTTP application: routes, middleware, error handlers and the OpenAPI document, put together in a FastAPI application."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route

from polytask.service.config.settings import Settings
from polytask.service.observability.request_log import RequestLog
from polytask.service.observability.request_metrics import RequestMetrics
from polytask.service.versions.served import Versions
from polytask.service.web.middleware.authentication import AuthenticationMiddleware
from polytask.service.web.middleware.compression import CompressionMiddleware
from polytask.service.web.middleware.path_prefix import PathPrefixMiddleware
from polytask.service.web.middleware.rate_limits import ProcessIndex
from polytask.service.web.middleware.request_tracking import RequestTrackingMiddleware, Traces
from polytask.service.web.openapi import complete_document
from polytask.service.web.problem_details import CLIENT_ERRORS, ErrorResponder
from polytask.service.web.routes.admin import admin_routes
from polytask.service.web.routes.documentation import documentation_routes
from polytask.service.web.routes.models import model_routes
from polytask.service.web.routes.open_inference import OpenInference, open_inference_routes
from polytask.service.web.routes.operations import operation_routes
from polytask.service.web.routes.playground import playground_routes
from polytask.service.web.routes.tasks import PREDICT, predict_handler, task_routes

_CORS_REQUEST_HEADERS = [
    "Authorization",
    "Content-Encoding",
    "Content-Type",
    "Polytask-Deadline-Ms",
    "traceparent",
    "X-API-Key",
    "X-Request-Id",
]
_CORS_RESPONSE_HEADERS = ["Polytask-Model", "Retry-After", "Server-Timing", "X-Request-Id"]

_NO_TELEMETRY: Any = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}
"""FastAPI's own telemetry knows nothing of predictions, and it would export exception messages, which quote client text."""


def application(
    versions: Versions,
    settings: Settings,
    metrics: RequestMetrics,
    metrics_page: Callable[[], bytes],
    running: AbstractAsyncContextManager[None],
    process_index: ProcessIndex | None = None,
) -> FastAPI:
    """The application. `running` is entered before the first request and left after the last.

    `process_index`: of this process among several that serve the same port.
    """
    traces = _open_traces(settings)
    app = FastAPI(
        title="Polytask",
        description="Many NLP tasks from one conditional multi-task transformer.",
        version=version("polytask"),
        lifespan=_lifespan(running, traces),
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
        servers=[{"url": settings.root_path}] if settings.root_path else None,
        telemetry=_NO_TELEMETRY,
    )
    predict_route = _add_routes(app, versions, settings, metrics_page)
    problems = ErrorResponder(log_texts=settings.log_texts, root_path=settings.root_path)
    for error in CLIENT_ERRORS:
        app.add_exception_handler(error, problems.handle)
    # FastAPI builds the document once. Versions change through /admin only, which needs keys; with keys the document
    # has nothing that depends on the version.
    complete_document(
        app.openapi(), versions.active.task_info, versions.active.examples(), needs_key=bool(settings.keys)
    )
    # The middleware that is added last runs first.
    app.add_middleware(CompressionMiddleware)
    app.add_middleware(
        AuthenticationMiddleware, keys=settings.keys, versions=versions, metrics=metrics, process_index=process_index
    )
    if settings.root_path:
        app.add_middleware(PathPrefixMiddleware, prefix=settings.root_path)
    app.add_middleware(
        RequestTrackingMiddleware,
        problems=problems,
        log=RequestLog(settings.log_requests),
        predict_route=predict_route,
        traces=traces,
    )
    if settings.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.origins,
            allow_methods=["GET", "POST"],
            allow_headers=_CORS_REQUEST_HEADERS,
            expose_headers=_CORS_RESPONSE_HEADERS,
        )
    return app


def _add_routes(app: FastAPI, versions: Versions, settings: Settings, metrics_page: Callable[[], bytes]) -> Route:
    """Adds all routes; returns the one that most requests take."""
    predict = predict_handler(versions, settings.max_body_bytes)
    app.include_router(task_routes(predict, versions))
    app.include_router(model_routes(versions, settings.root_path))
    app.include_router(open_inference_routes(OpenInference(versions, settings.max_body_bytes)))
    app.include_router(operation_routes(versions, metrics_page))
    app.include_router(playground_routes())
    app.include_router(documentation_routes())
    # Without keys there is no /admin.
    if settings.keys:
        app.include_router(admin_routes(versions, settings.max_body_bytes))
    # In front of FastAPI's route of the same path, which remains for the document: to match all routes before it and to
    # resolve its dependencies is a large part of what a request costs outside the forward.
    predict_route = Route(PREDICT, predict, methods=["POST"])
    app.router.routes.insert(0, predict_route)
    return predict_route


def _lifespan(
    running: AbstractAsyncContextManager[None], traces: Traces | None
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        try:
            async with running:
                yield
        finally:
            if traces is not None:
                traces.close()

    return lifespan


def _open_traces(settings: Settings) -> Traces | None:
    if not settings.traces:
        return None
    from polytask.service.observability.tracing import SpanTraces  # noqa: PLC0415, an optional dependency

    return SpanTraces()
