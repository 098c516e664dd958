"""The paths of the service: requests in, responses out. What happens in between is the predictor's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response
from starlette.responses import PlainTextResponse

from polytask.service.api.task_info import TaskInfo, TaskList
from polytask.service.errors import UnknownTask
from polytask.service.observability.metrics import CONTENT_TYPE
from polytask.service.prediction.engine_client import require_ready
from polytask.service.versions.served import Versions
from polytask.service.web.middleware.predict_fast_path import Answer
from polytask.service.web.routes.predict_call import PARAMETERS, headers, run_prediction
from polytask.service.web.server import require_accepting

TaskName = Annotated[str, Path(description="name of a task, as in GET /v1/tasks")]


def prediction(versions: Versions, max_body_bytes: int) -> Answer:
    """What `POST /v1/tasks/TASK/predict` does, and without a task in its path `POST /v1/predict`.

    The version that is active when a request comes answers it, whatever is active later.
    """

    async def predict(request: Request) -> Response:
        served = versions.active
        prediction = await run_prediction(served, request, max_body_bytes)
        return Response(prediction.body, media_type="application/json", headers=headers(prediction, served))

    return predict


def task_routes(predict: Answer, versions: Versions) -> APIRouter:
    """What clients use. `predict`: as `prediction` gives it."""
    router = APIRouter(prefix="/v1", tags=["tasks"])
    responses: dict[int | str, dict[str, Any]] = {status: {} for status in (200, 404, 413, 422, 429, 503, 504)}
    router.post(
        "/tasks/{task}/predict",
        summary="Answers, one for each input, in order",
        responses=responses,
        openapi_extra={"parameters": PARAMETERS},
    )(predict)
    router.post(
        "/predict",
        summary="Answers of several tasks to the same inputs",
        responses=responses,
        openapi_extra={"parameters": PARAMETERS[1:]},
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
    async def ready(request: Request) -> dict[str, str]:
        require_accepting(request)
        require_ready(versions.active.engine)
        return {"status": "ready"}

    @router.head("/metrics", include_in_schema=False)
    @router.get("/metrics", summary="For Prometheus", response_class=PlainTextResponse)
    # Not on the event loop: the page of many tasks and processes takes its time.
    def metrics() -> Response:
        return Response(page(), media_type=CONTENT_TYPE)

    return router
