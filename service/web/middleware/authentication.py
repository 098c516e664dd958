"""Who is let in: the check of keys and of what each may ask, in front of the paths and before a body is read."""

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
"""What needs no key: pages, which show nothing of the tasks, and what supervisors and Prometheus read."""

_ADMIN = "/admin"
"""This path and those below it need an admin key, whatever lies there. In a service without keys there are none."""


class AuthenticationMiddleware:
    """The application behind its keys. Without keys everything is open but /admin, which is not there.

    Raises ServiceError or HTTPException for a request that is refused. Refusals are counted by the tasks of the active one of `versions`.
    `place`: of this process among several that share the limits.
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
        """One request (ASGI)."""
        limiter = self._admit(scope) if scope["type"] == "http" else None
        if limiter is None:
            await self._app(scope, receive, send)
            return
        entered = time.monotonic()
        try:
            await self._app(scope, receive, send)
        finally:
            limiter.release(time.monotonic() - entered)

    def _admit(self, scope: Scope) -> RateLimiter | None:
        """Lets the request pass, or raises why not. Returns the allowance that it has entered, if its key has limits."""
        path: str = scope["path"]
        if self._keys is None:
            if _is_admin(path):
                raise HTTPException(404)
            return None
        if path in _OPEN or path.startswith(_OPEN_FOLDER):
            return None
        try:
            key = self._keys.find(secret(scope["headers"]))
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
        """The task that a path is about, as refusals are counted: /v1/tasks/TASK/…, /v2/models/TASK/…, /v1/models/TASK:…"""
        parts = path.split("/", 4)
        task = parts[3].partition(":")[0] if len(parts) > 3 else ""
        return task if task in self._versions.active.tasks else UNKNOWN_TASK


def require_admin(key: Key) -> None:
    """Raises Forbidden for a key that does not open /admin."""
    if not key.admin:
        raise Forbidden


def secret(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The key that a request came with, `Authorization` before `X-API-Key`; empty without one."""
    found = b""
    for name, value in headers:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return value[7:].strip()
        if name == b"x-api-key":
            found = value
    return found


def _is_admin(path: str) -> bool:
    return path.startswith(_ADMIN) and path[len(_ADMIN) :][:1] in {"", "/"}
