"""The paths below /admin: what changes the version that is served. Who may come here, the gate has decided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from fastapi import APIRouter, Request

from polytask.service.api.parsing import parse_load
from polytask.service.errors import SingleProcessOnly
from polytask.service.versions.served import LoadStatus, Versions
from polytask.service.web.routes.predict_call import read_body


class Changes(Versions, Protocol):
    """What changes the versions in memory: `swaps.Swaps`, which needs torch and is not in every process."""

    @property
    def load(self) -> LoadStatus | None:
        """The last load."""

    def begin(self, reference: str, tolerances: Mapping[str, float]) -> None:
        """Begins to load a version. Raises UnknownModel, InvalidInput or Conflict."""

    def activate(self) -> None:
        """Lets the version on standby answer. Raises Conflict."""

    def rollback(self) -> None:
        """Takes the last `activate` back. Raises Conflict."""

    async def unload(self) -> None:
        """Forgets the version on standby. Raises Conflict."""


@dataclass(frozen=True, slots=True)
class SwapState:
    """Which version is active and which on standby, and how the last load went; `load` is null before the first."""

    active: str
    standby: str | None
    load: LoadStatus | None


def admin_routes(swaps: Changes | None, max_body_bytes: int) -> APIRouter:
    """What an admin may do. `swaps`: None where other processes run the versions, so all of this is refused."""
    router = APIRouter(prefix="/admin/models", tags=["admin"])
    refusals: dict[int | str, dict[str, Any]] = {status: {} for status in (403, 409, 501)}

    def here() -> Changes:
        if swaps is None:
            raise SingleProcessOnly
        return swaps

    def state() -> SwapState:
        standby = here().standby
        return SwapState(here().active.revision, standby.revision if standby else None, here().load)

    @router.get("", summary="What is active and on standby, and how the last load went", responses={403: {}, 501: {}})
    async def show() -> SwapState:
        return state()

    @router.post(
        "/load",
        summary="Loads a version beside the active one and compares them; GET /admin/models says how far it is",
        status_code=202,
        responses={**refusals, 404: {}, 413: {}, 422: {}},
    )
    async def load(request: Request) -> SwapState:
        wanted = parse_load(await read_body(request, max_body_bytes))
        here().begin(wanted.model, wanted.tolerances)
        return state()

    @router.post("/activate", summary="Lets the version on standby answer new requests", responses=refusals)
    async def activate() -> SwapState:
        here().activate()
        return state()

    @router.post("/rollback", summary="Takes the last activate back", responses=refusals)
    async def rollback() -> SwapState:
        here().rollback()
        return state()

    @router.post("/unload", summary="Forgets the version on standby", responses=refusals)
    async def unload() -> SwapState:
        await here().unload()
        return state()

    return router
