"""The id of a request: the client's own or a fresh one, the same in the response, in problems and in the log."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.problems import REQUEST_ID, Problems

_HEADER = b"x-request-id"

_ID = re.compile(rb"[A-Za-z0-9._:/=+@-]{1,128}")
"""What is taken over as an id: nothing that could end a line of a log or begin a header."""


class Identified:
    """The application with an id for each request. Whatever else goes wrong in it becomes a problem."""

    def __init__(self, app: ASGIApp, problems: Problems) -> None:
        self._app = app
        self._problems = problems

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request (ASGI)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        own = request_id(scope["headers"])
        scope[REQUEST_ID] = own.decode()
        answering = False

        async def send_with_id(message: Message) -> None:
            nonlocal answering
            if message["type"] == "http.response.start":
                answering = True
                message["headers"] = [*message.get("headers", ()), (_HEADER, own)]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:  # noqa: BLE001, whatever it is, the client gets a problem and the log the reason
            response = self._problems.response(scope, error)
            # A response that has begun cannot be taken back: the server cuts it off.
            if not answering:
                await response(scope, receive, send_with_id)


def request_id(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The id in the headers if it is one, else a new one: 16 hexadecimal digits."""
    for name, value in headers:
        if name == _HEADER and _ID.fullmatch(value):
            return value
    return os.urandom(8).hex().encode()
