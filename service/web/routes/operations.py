"""Operation routes: liveness, readiness and metrics, for supervisors and Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter, Request, Response
from starlette.responses import PlainTextResponse

from polytask.service.observability.metrics import CONTENT_TYPE
from polytask.service.prediction.engine_client import require_live, require_ready
from polytask.service.versions.served import Versions
from polytask.service.web.server import require_accepting


def operation_routes(versions: Versions, metrics_page: Callable[[], bytes]) -> APIRouter:
    """Routes for supervisors and Prometheus."""
    router = APIRouter(tags=["operation"])

    # A supervisor that sends HEAD needs only the status.
    @router.head("/livez", include_in_schema=False)
    @router.get(
        "/livez", summary="Whether the process answers at all, and a restart would not help", responses={503: {}}
    )
    async def live() -> dict[str, str]:
        require_live(versions.active.engine)
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
