"""The paths of the service: requests in, responses out. What happens in between is the predictor's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response
from starlette.responses import PlainTextResponse

from service.catalogue import TaskInfo, TaskList
from service.errors import BodyTooLarge, ClientGone, FieldError, InvalidInput, UnknownTask
from service.metrics import CONTENT_TYPE
from service.predictor import Call, require_ready
from service.served import Versions
from service.shortcut import Answer

TaskName = Annotated[str, Path(description="name of a task, as in GET /v1/tasks")]
_DEADLINE = "Polytask-Deadline-Ms"
_MAX_DEADLINE_MS = 86_400_000

_PARAMETERS = [
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


def prediction(versions: Versions, max_body_bytes: int) -> Answer:
    """What `POST /v1/tasks/TASK/predict` does, and without a task in its path `POST /v1/predict`.

    The version that is active when a request comes answers it, whatever is active later.
    """

    # Parameters are read by hand, so that a bad value is refused where all refusals are counted.
    async def predict(request: Request) -> Response:
        served = versions.active
        served.under_way += 1
        try:
            prediction = await served.predictor.predict(
                Call(
                    task=request.path_params.get("task"),
                    read_body=lambda: read_body(request, max_body_bytes),
                    gone=lambda: _gone(request),
                    deadline_s=lambda: _seconds(request.headers.get(_DEADLINE)),
                )
            )
        finally:
            served.under_way -= 1
        timing = ", ".join(f"{stage};dur={seconds * 1000:.2f}" for stage, seconds in prediction.stages.items())
        return Response(
            prediction.body,
            media_type="application/json",
            headers={"Server-Timing": timing, "Polytask-Model": served.revision},
        )

    return predict


def task_routes(predict: Answer, versions: Versions) -> APIRouter:
    """What clients use. `predict`: as `prediction` gives it."""
    router = APIRouter(prefix="/v1", tags=["tasks"])
    responses: dict[int | str, dict[str, Any]] = {status: {} for status in (200, 404, 413, 422, 429, 503, 504)}
    router.post(
        "/tasks/{task}/predict",
        summary="Answers, one for each input, in order",
        responses=responses,
        openapi_extra={"parameters": _PARAMETERS},
    )(predict)
    router.post(
        "/predict",
        summary="Answers of several tasks to the same inputs",
        responses=responses,
        openapi_extra={"parameters": _PARAMETERS[1:]},
    )(predict)

    @router.get("/tasks", summary="All tasks")
    async def list_tasks() -> TaskList:
        served = versions.active
        return TaskList(served.revision, list(served.tasks.values()))

    @router.get("/tasks/{task}", summary="One task", responses={404: {}})
    async def describe_task(task: TaskName) -> TaskInfo:
        tasks = versions.active.tasks
        if task not in tasks:
            raise UnknownTask(task, list(tasks))
        return tasks[task]

    return router


def operation_routes(versions: Versions, page: Callable[[], bytes]) -> APIRouter:
    """What supervisors and Prometheus use. `page`: the metrics."""
    router = APIRouter(tags=["operation"])

    # Supervisors that ask with HEAD get the status alone.
    @router.head("/livez", include_in_schema=False)
    @router.get("/livez", summary="Whether the process answers at all")
    async def live() -> dict[str, str]:
        return {"status": "live"}

    @router.head("/readyz", include_in_schema=False)
    @router.get("/readyz", summary="Whether requests are answered", responses={503: {}})
    async def ready() -> dict[str, str]:
        require_ready(versions.active.desk)
        return {"status": "ready"}

    @router.head("/metrics", include_in_schema=False)
    @router.get("/metrics", summary="For Prometheus", response_class=PlainTextResponse)
    # Not on the event loop: the page of many tasks and processes takes its time.
    def metrics() -> Response:
        return Response(page(), media_type=CONTENT_TYPE)

    return router


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


async def _gone(request: Request) -> None:
    """Returns when the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
