"""Path prefix: requests through a proxy that serves the service below a path, and does not remove that path itself."""

from __future__ import annotations

from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send


class PathPrefixMiddleware:
    """ASGI middleware: removes `prefix`, such as /nlp, from paths below it. Other paths are as they came.

    So everything behind it, authentication too, knows one path for each route, whether a proxy removes the prefix or
    not. `root_path` of the scope stays empty: routing would remove it from a path once more than authentication does.
    """

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self._app = app
        self._prefix = prefix
        self._start = f"{prefix}/"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        if scope["type"] == "http":
            path: str = scope["path"]
            if path == self._prefix:
                # The links of the page at `/` are relative: without the slash they would lead out of the prefix.
                await RedirectResponse(self._start)(scope, receive, send)
                return
            if path.startswith(self._start):
                scope["path"] = path[len(self._prefix) :]
        await self._app(scope, receive, send)
