"""Admin routes: load, activate, roll back and unload versions. The authentication middleware requires an admin key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request

from polytask.service.api.parsing import parse_load
from polytask.service.versions.served import LoadStatus, Versions
from polytask.service.web.request_body import read_body


@dataclass(frozen=True, slots=True)
class SwapState:
    """Which version is active and which on standby, and the result of the last load; `load` is null before the first."""

    active: str
    standby: str | None
    load: LoadStatus | None


def admin_routes(versions: Versions, max_body_bytes: int) -> APIRouter:
    """The paths below /admin. A FixedVersion answers all of them with SingleProcessOnly."""
    router = APIRouter(prefix="/admin/models", tags=["admin"])
    refusals: dict[int | str, dict[str, Any]] = {status: {} for status in (403, 409, 501)}

    def state() -> SwapState:
        standby = versions.standby
        return SwapState(versions.active.revision, standby.revision if standby else None, versions.load)

    @router.get("", summary="The active version, the one on standby, and the last load", responses={403: {}, 501: {}})
    async def show() -> SwapState:
        return state()

    @router.post(
        "/load",
        summary="Loads a version beside the active one and compares them; GET /admin/models says how far it is",
        status_code=202,
        responses={**refusals, 400: {}, 404: {}, 413: {}, 415: {}, 422: {}},
    )
    async def load(request: Request) -> SwapState:
        body = parse_load(await read_body(request, max_body_bytes))
        versions.start_loading(body.model, body.tolerances)
        return state()

    @router.post("/activate", summary="Lets the version on standby answer new requests", responses=refusals)
    async def activate() -> SwapState:
        versions.activate()
        return state()

    @router.post("/rollback", summary="Undoes the last activation", responses=refusals)
    async def rollback() -> SwapState:
        versions.rollback()
        return state()

    @router.post("/unload", summary="Forgets the version on standby", responses=refusals)
    async def unload() -> SwapState:
        await versions.unload()
        return state()

    return router
