"""The paths of the service: requests in, responses out. What happens in between is the predictor's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated

from fastapi import APIRouter, Header, Path, Request, Response
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse

from service.catalogue import TaskInfo, TaskList
from service.errors import BodyTooLarge, ClientGone, UnknownTask
from service.metrics import CONTENT_TYPE
from service.predictor import Call, Desk, Predictor, require_ready
from service.schemas import PredictResponse

TaskName = Annotated[str, Path(description="name of a task, as in GET /v1/tasks")]
DeadlineMs = Annotated[
    int | None,
    Header(
        alias="Polytask-Deadline-Ms",
        ge=1,
        le=86_400_000,
        description="milliseconds after which the answer is of no use; the service's own deadline holds if it is shorter",
    ),
]


def task_routes(predictor: Predictor, model: str, tasks: Mapping[str, TaskInfo], max_body_bytes: int) -> APIRouter:
    """What clients use."""
    router = APIRouter(prefix="/v1/tasks", tags=["tasks"])

    @router.get("", summary="All tasks")
    async def list_tasks() -> TaskList:
        return TaskList(model, list(tasks.values()))

    @router.get("/{task}", summary="One task", responses={404: {}})
    async def describe_task(task: TaskName) -> TaskInfo:
        if task not in tasks:
            raise UnknownTask(task, list(tasks))
        return tasks[task]

    @router.post(
        "/{task}/predict",
        summary="Answers, one for each input, in order",
        responses={200: {"model": PredictResponse}, **{status: {} for status in (404, 413, 422, 429, 500, 503, 504)}},
    )
    async def predict(task: TaskName, request: Request, deadline_ms: DeadlineMs = None) -> Response:
        prediction = await predictor.predict(
            Call(
                task=task,
                read_body=lambda: _read_body(request, max_body_bytes),
                gone=lambda: _gone(request),
                deadline_s=None if deadline_ms is None else deadline_ms / 1000,
            )
        )
        timing = ", ".join(f"{stage};dur={seconds * 1000:.2f}" for stage, seconds in prediction.stages.items())
        return Response(prediction.body, media_type="application/json", headers={"Server-Timing": timing})

    return router


def operation_routes(desk: Desk, page: Callable[[], bytes]) -> APIRouter:
    """What supervisors and Prometheus use. `page`: the metrics."""
    router = APIRouter(tags=["operation"])

    @router.get("/livez", summary="Whether the process answers at all")
    async def live() -> dict[str, str]:
        return {"status": "live"}

    @router.get("/readyz", summary="Whether requests are answered", responses={503: {}})
    async def ready() -> dict[str, str]:
        require_ready(desk)
        return {"status": "ready"}

    @router.get("/metrics", summary="For Prometheus", response_class=PlainTextResponse)
    async def metrics() -> Response:
        return Response(page(), media_type=CONTENT_TYPE)

    return router


async def _read_body(request: Request, limit: int) -> bytes:
    """The body, never more than `limit` bytes of it, whatever the headers say or do not say about its size."""
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                raise BodyTooLarge(limit)
    except ClientDisconnect:
        raise ClientGone("the connection was closed before the request was complete") from None
    return bytes(body)


async def _gone(request: Request) -> None:
    """Returns when the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
