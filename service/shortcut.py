"""FastAPI with a short way for predictions: matching, middleware and dependencies would be a quarter of their cost."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.types import Receive, Scope, Send

Answer = Callable[[Request], Awaitable[Response]]
"""What the route of predictions does, with the task in `request.path_params`."""

Refuse = Callable[[Request, Exception], Awaitable[Response]]
"""The response to a request that has failed."""


class ShortCut(FastAPI):
    """An application that answers `POST /v1/tasks/TASK/predict` itself, as its own route would, and routes the rest."""

    def __init__(self, answer: Answer, refuse: Refuse, **settings: Any) -> None:
        super().__init__(**settings)
        self._answer = answer
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        task = predicted_task(scope)
        if task is None:
            await super().__call__(scope, receive, send)
            return
        request = Request({**scope, "path_params": {"task": task}}, receive)
        try:
            response = await self._answer(request)
        except Exception as error:  # noqa: BLE001, whatever it is, the client is told
            response = await self._refuse(request, error)
        await response(scope, receive, send)


def predicted_task(scope: Scope) -> str | None:
    """The task that a request is about to predict for; None where it is another request."""
    if scope["type"] == "http" and scope["method"] == "POST":
        match scope["path"].split("/"):
            case ["", "v1", "tasks", task, "predict"] if task:
                return str(task)
    return None
