"""Task routes: predictions and descriptions of tasks, and the routes of supervisors and Prometheus."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response
from starlette.responses import PlainTextResponse

from polytask.service.api.task_info import TaskInfo, TaskList
from polytask.service.errors import UnknownTask
from polytask.service.observability.metrics import CONTENT_TYPE
from polytask.service.prediction.engine_client import require_ready
from polytask.service.versions.served import Versions
from polytask.service.web.routes.predict_call import PARAMETERS, run_prediction
from polytask.service.web.server import require_accepting

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
    responses: dict[int | str, dict[str, Any]] = {status: {} for status in (200, 404, 413, 422, 429, 503, 504)}
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


def operation_routes(versions: Versions, metrics_page: Callable[[], bytes]) -> APIRouter:
    """Routes for supervisors and Prometheus."""
    router = APIRouter(tags=["operation"])

    # A supervisor that sends HEAD needs only the status.
    @router.head("/livez", include_in_schema=False)
    @router.get("/livez", summary="Whether the process answers at all")
    async def live() -> dict[str, str]:
        return {"status": "live"}

    @router.head("/readyz", include_in_schema=False)
    @router.get("/readyz", summary="Whether requests are answered", responses={503: {}})
    async def ready(request: Request) -> dict[str, str]:
        require_accepting(request)
        require_ready(versions.active.engine)
        return {"status": "ready"}

    @router.head("/metrics", include_in_schema=False)
    @router.get("/metrics", summary="For Prometheus", response_class=PlainTextResponse)
    # Not a coroutine, so that it runs on a thread: the page of many tasks and processes takes milliseconds.
    def metrics() -> Response:
        return Response(metrics_page(), media_type=CONTENT_TYPE)

    return router
