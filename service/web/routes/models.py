"""Model routes: the versions in memory, with their metrics, provenance and cards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from fastapi import APIRouter, Response

from polytask.service.errors import UnknownModel
from polytask.service.versions.served import ServedVersion, Versions

_MARKDOWN = "text/markdown; charset=utf-8"


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """One version. `since`: when it was loaded or last changed its state. `card`: the path of its text.

    `backend`, `precision`, `device`: what runs it, where that is this process. `metrics`, `baselines`: by task, of the
    model and of the trivial baseline, on validation. `references`: the same of simple models, by name. `provenance`: what it was made from.
    """

    model: str
    name: str
    version: int
    state: Literal["active", "standby"]
    since: str
    backend: str | None
    precision: str | None
    device: str | None
    tasks: list[str]
    metrics: dict[str, dict[str, float]]
    baselines: dict[str, dict[str, float]]
    references: dict[str, dict[str, dict[str, float]]]
    provenance: dict[str, Any]
    card: str


@dataclass(frozen=True, slots=True)
class ModelList:
    """The versions in memory. `active` answers; `loading` is being loaded."""

    active: str
    loading: str | None
    models: list[ModelInfo]


def model_routes(versions: Versions, root_path: str) -> APIRouter:
    """Routes that describe versions. `root_path`: the path of the service, where its clients see it below one."""
    router = APIRouter(prefix="/v1", tags=["models"])

    @router.get("/models", summary="The versions in memory")
    async def list_models() -> ModelList:
        infos = [_info(versions.active, "active", root_path)]
        if versions.standby is not None:
            infos.append(_info(versions.standby, "standby", root_path))
        return ModelList(versions.active.revision, versions.loading, infos)

    @router.get(
        "/models/{name}/{version}/card",
        summary="The card of a version in memory: what it is, what it was made from, how good it is",
        response_class=Response,
        responses={200: {"content": {"text/markdown": {"schema": {"type": "string"}}}}, 404: {}},
    )
    async def card(name: str, version: str) -> Response:
        revision, in_memory = f"{name}/{version}", list(filter(None, (versions.active, versions.standby)))
        for served in in_memory:
            if served.revision == revision:
                return Response(served.card, media_type=_MARKDOWN)
        revisions = ", ".join(served.revision for served in in_memory)
        raise UnknownModel(f"{revision[:80]!r} is not in memory; there is {revisions}")

    return router


def _info(served: ServedVersion, state: Literal["active", "standby"], root_path: str) -> ModelInfo:
    manifest, backend = served.manifest, served.backend
    return ModelInfo(
        model=served.revision,
        name=manifest.name,
        version=manifest.version,
        state=state,
        since=served.since.isoformat(timespec="seconds"),
        backend=backend.name if backend else None,
        precision=backend.precision if backend else None,
        device=backend.device if backend else None,
        tasks=list(served.tasks),
        metrics=manifest.metrics,
        baselines=manifest.baselines,
        references=manifest.references,
        provenance=manifest.provenance,
        card=f"{root_path}/v1/models/{served.revision}/card",
    )
