"""Authentication: checks API keys and their limits before routing and before the body is read."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from polytask.service.config.api_keys import Key, Keys
from polytask.service.errors import Forbidden, ServiceError, Unauthorized
from polytask.service.observability.request_metrics import UNKNOWN_TASK, RequestMetrics
from polytask.service.request_context import REQUEST_CONTEXT
from polytask.service.versions.served import Versions
from polytask.service.web.middleware.rate_limits import ProcessIndex, RateLimiter, rate_limiters

_OPEN = frozenset(
    {"/", "/docs", "/openapi.json", "/livez", "/readyz", "/metrics", "/v2", "/v2/health/live", "/v2/health/ready"}
)
_OPEN_FOLDER = "/playground/"
"""Paths without a key: pages, which show nothing about tasks, and the endpoints of supervisors and Prometheus."""

_ADMIN = "/admin"
"""This path and all below it need an admin key. A service without keys answers 404 for them."""


class AuthenticationMiddleware:
    """ASGI middleware. Without keys every path is open except /admin, which does not exist.

    Raises ServiceError or HTTPException for a refused request. A refusal is counted for the task in its path if the
    active version has it. `process_index`: of this process among several that share the limits.
    """

    def __init__(
        self,
        app: ASGIApp,
        keys: Sequence[Key],
        versions: Versions,
        metrics: RequestMetrics,
        process_index: ProcessIndex | None = None,
    ) -> None:
        self._app = app
        self._keys = Keys(keys) if keys else None
        self._rate_limiters = rate_limiters(keys, process_index)
        self._versions = versions
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        limiter = self._admit(scope) if scope["type"] == "http" else None
        if limiter is None:
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        try:
            await self._app(scope, receive, send)
        finally:
            limiter.release(time.monotonic() - started)

    def _admit(self, scope: Scope) -> RateLimiter | None:
        """Raises the reason of a refusal. Returns the acquired limiter if the request's key has limits."""
        path: str = scope["path"]
        if self._keys is None:
            if _is_admin(path):
                raise HTTPException(404)
            return None
        if path in _OPEN or path.startswith(_OPEN_FOLDER):
            return None
        try:
            key = self._keys.find(request_key(scope["headers"]))
            if key is None:
                raise Unauthorized
            scope[REQUEST_CONTEXT].key = key.name
            if _is_admin(path):
                require_admin(key)
            limiter = self._rate_limiters.get(key.name)
            if limiter is not None:
                limiter.acquire(time.monotonic())
        except ServiceError as error:
            task = self._task(path)
            self._metrics.failed(task, error, 0)
            scope[REQUEST_CONTEXT].tasks = [task] if task != UNKNOWN_TASK else ()
            raise
        return limiter

    def _task(self, path: str) -> str:
        """The task in a path, as a metric label: /v1/tasks/TASK/…, /v2/models/TASK/…, /v1/models/TASK:…"""
        parts = path.split("/", 4)
        task = parts[3].partition(":")[0] if len(parts) > 3 else ""
        return task if task in self._versions.active.tasks else UNKNOWN_TASK


def require_admin(key: Key) -> None:
    """Raises Forbidden unless the key is an admin key."""
    if not key.admin:
        raise Forbidden


def request_key(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The key in the headers, `Authorization` before `X-API-Key`; empty if there is none."""
    key = b""
    for name, value in headers:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return value[7:].strip()
        if name == b"x-api-key":
            key = value
    return key


def _is_admin(path: str) -> bool:
    return path.startswith(_ADMIN) and path[len(_ADMIN) :][:1] in {"", "/"}
