"""A short way for predictions past FastAPI: matching and dependencies would be a large part of their cost."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import Request, Response
from starlette.types import ASGIApp, Receive, Scope, Send

PREDICT = "/v1/tasks/{task}/predict"

Answer = Callable[[Request], Awaitable[Response]]
"""What the route of predictions does, with the task in `request.path_params`."""


class PredictFastPath:
    """The application behind a short way: answers `POST` on PREDICT as its own route would."""

    def __init__(self, app: ASGIApp, answer: Answer) -> None:
        self._app = app
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request (ASGI). Raises what the answer raises."""
        task = predicted_task(scope)
        if task is None:
            await self._app(scope, receive, send)
            return
        response = await self._answer(Request({**scope, "path_params": {"task": task}}, receive))
        await response(scope, receive, send)


def predicted_task(scope: Scope) -> str | None:
    """The task that a request is about to predict for; None where it is another request."""
    if scope["type"] == "http" and scope["method"] == "POST":
        match scope["path"].split("/"):
            case ["", "v1", "tasks", task, "predict"] if task:
                return str(task)
    return None
