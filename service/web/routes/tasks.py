"""Task routes: predictions, and descriptions of tasks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response

from polytask.service.api.task_info import TaskInfo, TaskList
from polytask.service.errors import UnknownTask
from polytask.service.versions.served import Versions
from polytask.service.web.routes.predict_call import PARAMETERS, run_prediction

PREDICT = "/v1/tasks/{task}/predict"

Handler = Callable[[Request], Awaitable[Response]]

TaskName = Annotated[str, Path(description="name of a task, as in GET /v1/tasks")]


def predict_handler(versions: Versions, max_body_bytes: int) -> Handler:
    """Handler of PREDICT and of `POST /v1/predict`, whose body names the tasks.

    The version that is active when a request arrives answers it, even if another one is activated in the meantime.
    """

    async def predict(request: Request) -> Response:
        body, headers = await run_prediction(versions.active, request, max_body_bytes)
        return Response(body, media_type="application/json", headers=headers)

    return predict


def task_routes(predict: Handler, versions: Versions) -> APIRouter:
    """Routes for clients. `predict`: a `predict_handler`."""
    router = APIRouter(tags=["tasks"])
    responses: dict[int | str, dict[str, Any]] = {
        status: {} for status in (200, 400, 404, 413, 415, 422, 429, 503, 504)
    }
    router.post(
        PREDICT,
        summary="Answers, one for each input, in order",
        responses=responses,
        openapi_extra={"parameters": PARAMETERS},
    )(predict)
    router.post(
        "/v1/predict",
        summary="Answers of several tasks to the same inputs",
        responses=responses,
        openapi_extra={"parameters": PARAMETERS[1:]},
    )(predict)

    @router.get("/v1/tasks", summary="All tasks")
    async def list_tasks() -> TaskList:
        served = versions.active
        return TaskList(served.revision, list(served.task_info.values()))

    @router.get("/v1/tasks/{task}", summary="One task", responses={404: {}})
    async def describe_task(task: TaskName) -> TaskInfo:
        task_info = versions.active.task_info
        if task not in task_info:
            raise UnknownTask(task, list(task_info))
        return task_info[task]

    return router
