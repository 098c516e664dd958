"""Request tracking: gives each request an id and a context, turns every error into a problem, and logs and traces the request."""

from __future__ import annotations

import time
from typing import Protocol

from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from polytask.service.observability.request_log import RequestLog
from polytask.service.request_context import (
    METHODS,
    OTHER_METHOD,
    REQUEST_CONTEXT,
    REQUEST_ID_HEADER,
    RequestContext,
    request_id,
    trace_id,
)
from polytask.service.web.problem_details import ErrorResponder

_PROBES = frozenset({"/livez", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"})
"""Routes that supervisors and Prometheus request every few seconds: neither logged nor traced unless they fail."""

_NOT_SNIFFED = (b"x-content-type-options", b"nosniff")
"""No browser takes a response for anything but what its media type says: answers repeat texts of clients."""


class Traces(Protocol):
    """Exporter of request traces."""

    def trace(self, context: RequestContext, scope: Scope) -> str | None:
        """Creates the spans of a finished request. Returns the trace id if the trace is sampled."""

    def close(self) -> None:
        """Sends the remaining spans."""


class RequestTrackingMiddleware:
    """Outermost middleware of our own (ASGI). `predict_route`: the route that is named for requests refused before routing."""

    def __init__(
        self,
        app: ASGIApp,
        problems: ErrorResponder,
        log: RequestLog,
        predict_route: Route,
        traces: Traces | None = None,
    ) -> None:
        self._app = app
        self._problems = problems
        self._log = log
        self._predict_route = predict_route
        self._traces = traces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        encoded_id = request_id(scope["headers"])
        scope[REQUEST_CONTEXT] = context = RequestContext(encoded_id.decode(), time.monotonic())

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                context.status = message["status"]
                message["headers"] = [*message.get("headers", ()), (REQUEST_ID_HEADER, encoded_id), _NOT_SNIFFED]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:  # noqa: BLE001, the client gets a problem for any error, and the log its reason
            response = self._problems.response(scope, error)
            # A response that has started cannot be replaced; the server closes the connection.
            if not context.status:
                await response(scope, receive, send_with_id)
        finally:
            self._report(scope, context)

    def _report(self, scope: Scope, context: RequestContext) -> None:
        """Logs and traces a finished request."""
        logged = self._log.should_log(context)
        if not logged and self._traces is None:
            return
        context.ended = time.monotonic()
        context.method = scope["method"] if scope["method"] in METHODS else OTHER_METHOD
        context.route = self._route(scope)
        if context.route in _PROBES and context.exception is None:
            return
        traced = None if self._traces is None else self._traces.trace(context, scope)
        context.trace_id = traced or trace_id(scope["headers"])
        if logged:
            self._log.write(context)

    def _route(self, scope: Scope) -> str:
        """Path template of a request, such as /v1/tasks/{task}; empty if no route matches.

        The path itself is not logged, since a client can put any text there.
        """
        if "route" in scope:
            return str(scope["route"].path)
        return self._predict_route.path if self._predict_route.matches(scope)[0] is not Match.NONE else ""
