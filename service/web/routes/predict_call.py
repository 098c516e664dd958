"""A call of the predictor made of an HTTP request: its body up to a limit, its deadline, and when its client has gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fastapi import Request

from polytask.service.errors import BodyTooLarge, ClientGone, FieldError, InvalidInput
from polytask.service.prediction.predictor import PredictCall, Prediction, TranslateBody, as_it_is
from polytask.service.request_context import REQUEST_CONTEXT, RequestContext
from polytask.service.versions.served import ServedVersion
from polytask.service.web.connection import DISCONNECT_EVENT, DisconnectEvent

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
"""What a request that predicts may have in its path and its headers, for the OpenAPI document."""


async def run_prediction(
    served: ServedVersion, request: Request, max_body_bytes: int, translate: TranslateBody = as_it_is
) -> Prediction:
    """What a version answers to a request for the task in its path, or without one for those that the body names.

    `translate`: as in Call. Raises ServiceError.
    """
    context: RequestContext = request.scope[REQUEST_CONTEXT]
    context.revision = served.revision
    served.num_in_flight += 1
    try:
        return await served.predictor.predict(
            PredictCall(
                task=request.path_params.get("task"),
                read_body=lambda: read_body(request, max_body_bytes),
                watch=lambda gone: _watch(request, gone),
                deadline_s=lambda: _seconds(request.headers.get(_DEADLINE)),
                translate=translate,
                context=context,
            )
        )
    finally:
        served.num_in_flight -= 1


def headers(prediction: Prediction, served: ServedVersion) -> dict[str, str]:
    """The headers of an answer: how long each stage took, and which version answered."""
    timing = ", ".join(f"{stage};dur={seconds * 1000:.2f}" for stage, seconds in prediction.stages.items())
    return {"Server-Timing": timing, "Polytask-Model": served.revision}


def _seconds(milliseconds: str | None) -> float | None:
    """The deadline in the header, if there is one. Raises InvalidInput."""
    if milliseconds is None:
        return None
    # The length first: a number of a thousand digits is not worth reading.
    if milliseconds.isdecimal() and len(milliseconds) <= 8 and 1 <= int(milliseconds) <= _MAX_DEADLINE_MS:
        return int(milliseconds) / 1000
    message = f"must be whole milliseconds, at least 1 and at most {_MAX_DEADLINE_MS}; got {milliseconds[:20]!r}"
    raise InvalidInput([FieldError(_DEADLINE, message)])


async def read_body(request: Request, limit: int) -> bytes:
    """The body, never more than `limit` bytes of it, whatever the headers say or do not say about its size."""
    body, more = b"", True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientGone("the connection was closed before the request was complete")
        # Mostly all of it comes at once, and is not copied then.
        body += message.get("body", b"")
        if len(body) > limit:
            raise BodyTooLarge(limit)
        more = message.get("more_body", False)
    return body


def _watch(request: Request, gone: Callable[[], None]) -> Callable[[], object]:
    """Calls `gone` when the client has closed the connection, until what is returned is called."""
    ending: DisconnectEvent | None = request.scope.get(DISCONNECT_EVENT)
    if ending is not None:
        return ending.watch(gone)
    # Another server than ours can only be asked, and a task for each request has its price.
    task = asyncio.create_task(_gone(request))
    task.add_done_callback(lambda done: None if done.cancelled() else gone())
    return task.cancel


async def _gone(request: Request) -> None:
    """Returns when the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
