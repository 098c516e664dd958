"""Each request from its id to its end: whatever goes wrong in it becomes a problem, and then it is logged and traced."""

from __future__ import annotations

import time
from typing import Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from polytask.service.observability.request_ids import HEADER, request_id, trace_id
from polytask.service.observability.request_log import RequestLog
from polytask.service.request_context import METHODS, OTHER_METHOD, REQUEST_CONTEXT, RequestContext
from polytask.service.web.middleware.predict_fast_path import PREDICT, predicted_task
from polytask.service.web.problem_details import ErrorResponder

_PROBES = frozenset({"/livez", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"})
"""What supervisors and Prometheus ask every few seconds: neither logged nor traced, as long as it works."""


class Traces(Protocol):
    """Where requests are traced, if anywhere."""

    def trace(self, context: RequestContext, scope: Scope) -> str | None:
        """Makes the spans of a request that is over; the id of its trace if that one is kept."""

    def close(self) -> None:
        """Sends what is left of them."""


class RequestTrackingMiddleware:
    """The application with an id and a course for each request, which is looked at when it is over."""

    def __init__(self, app: ASGIApp, problems: ErrorResponder, log: RequestLog, traces: Traces | None = None) -> None:
        self._app = app
        self._problems = problems
        self._log = log
        self._traces = traces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request (ASGI)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        own = request_id(scope["headers"])
        scope[REQUEST_CONTEXT] = context = RequestContext(own.decode(), time.monotonic())

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                context.status = message["status"]
                message["headers"] = [*message.get("headers", ()), (HEADER, own)]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:  # noqa: BLE001, whatever it is, the client gets a problem and the log the reason
            response = self._problems.response(scope, error)
            # A response that has begun cannot be taken back: the server cuts it off.
            if not context.status:
                await response(scope, receive, send_with_id)
        finally:
            self._over(scope, context)

    def _over(self, scope: Scope, context: RequestContext) -> None:
        logged = self._log.should_log(context)
        if not logged and self._traces is None:
            return
        context.ended = time.monotonic()
        context.method = scope["method"] if scope["method"] in METHODS else OTHER_METHOD
        context.route = route(scope)
        if context.route in _PROBES and context.exception is None:
            return
        traced = None if self._traces is None else self._traces.trace(context, scope)
        context.trace_id = traced or trace_id(scope["headers"])
        if logged:
            self._log.write(context)


def route(scope: Scope) -> str:
    """The path of a request with its parameters as names, such as /v1/tasks/{task}; empty where there is no such path.

    The path itself is no matter for a log: it may hold whatever a client has put there.
    """
    if "route" in scope:
        return str(scope["route"].path)
    return PREDICT if predicted_task(scope) else ""
