"""Prediction over HTTP: reads body and deadline of a request, runs it, and watches for a client that disconnects."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fastapi import Request

from polytask.service.errors import BodyTooSlow, FieldError, InvalidInput
from polytask.service.prediction.predictor import PredictCall, Translate, before
from polytask.service.request_context import REQUEST_CONTEXT, RequestContext
from polytask.service.versions.served import ServedVersion
from polytask.service.web.connection import DISCONNECT_EVENT, DisconnectEvent
from polytask.service.web.request_body import read_body

_DEADLINE = "Polytask-Deadline-Ms"
_MAX_DEADLINE_MS = 86_400_000

PARAMETERS = [
    {
        "name": "task",
        "in": "path",
        "required": True,
        "schema": {"type": "string"},
        "description": "name of a task, as in GET /v1/tasks",
    },
    {
        "name": _DEADLINE,
        "in": "header",
        "schema": {"type": "integer", "minimum": 1, "maximum": _MAX_DEADLINE_MS},
        "description": "milliseconds after which the answer is of no use; the service's own deadline holds if it is shorter",
    },
]
"""Path and header parameters of a prediction, for the OpenAPI document."""


async def run_prediction(
    served: ServedVersion,
    request: Request,
    max_body_bytes: int,
    translate_body: Translate | None = None,
    translate_response: Translate | None = None,
) -> tuple[bytes, dict[str, str]]:
    """The response of a version as JSON, and its headers: duration of each stage, and the version.

    The task is in the path, or the body names the tasks. The translations are as in PredictCall. Raises ServiceError.
    """
    context: RequestContext = request.scope[REQUEST_CONTEXT]
    context.revision = served.revision
    task, predictor = request.path_params.get("task"), served.predictor
    served.num_in_flight += 1
    try:
        with predictor.track(context):
            predictor.admit(task, context)
            deadline = predictor.deadline(_allowed_s(request.headers.get(_DEADLINE)))
            late = BodyTooSlow("the deadline passed before the body had arrived")
            body = await before(deadline, read_body(request, max_body_bytes), late)
            call = PredictCall(
                task,
                body,
                deadline,
                context,
                lambda callback: _watch_disconnect(request, callback),
                translate_body,
                translate_response,
            )
            response = await predictor.predict(call)
    finally:
        served.num_in_flight -= 1
    timing = ", ".join(f"{stage};dur={seconds * 1000:.2f}" for stage, seconds in context.seconds().items())
    return response, {"Server-Timing": timing, "Polytask-Model": served.revision}


def _allowed_s(milliseconds: str | None) -> float | None:
    """The deadline in the header in seconds, if there is one. Raises InvalidInput."""
    if milliseconds is None:
        return None
    # The length first: parsing a number of a thousand digits is expensive.
    if milliseconds.isdecimal() and len(milliseconds) <= 8 and 1 <= int(milliseconds) <= _MAX_DEADLINE_MS:
        return int(milliseconds) / 1000
    message = f"must be whole milliseconds, at least 1 and at most {_MAX_DEADLINE_MS}; got {milliseconds[:20]!r}"
    raise InvalidInput([FieldError(_DEADLINE, message)])


def _watch_disconnect(request: Request, callback: Callable[[], None]) -> Callable[[], object]:
    """Calls `callback` when the client disconnects. Returns a function that stops watching."""
    event: DisconnectEvent | None = request.scope.get(DISCONNECT_EVENT)
    if event is not None:
        return event.watch(callback)
    # Other servers than ours have no such event. A task for each request costs more.
    task = asyncio.create_task(_disconnected(request))
    task.add_done_callback(lambda done: None if done.cancelled() else callback())
    return task.cancel


async def _disconnected(request: Request) -> None:
    """Returns when the client has disconnected."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
