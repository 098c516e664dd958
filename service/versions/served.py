"""A load as clients see it: what is loaded, how far it is, and how far its answers are from those of the active version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Protocol

from polytask.model_store.manifest import Manifest
from polytask.service.api.task_info import TaskInfo, revision
from polytask.service.prediction.engine_client import EngineClient
from polytask.service.prediction.predictor import Predictor


@dataclass(frozen=True, slots=True)
class BackendInfo:
    """What runs a version: the engine, the type that it computes in, and where."""

    backend: str
    precision: str
    device: str


@dataclass(eq=False, kw_only=True)
class ServedVersion:
    """A version in memory. `card`: its text in Markdown. `engine`: None where other processes run it.

    `since`: when it was loaded or last took or left its place. `under_way`: requests that it has to answer, counted on
    the event loop.
    """

    manifest: Manifest
    desk: EngineClient
    predictor: Predictor
    tasks: Mapping[str, TaskInfo]
    card: str
    engine: BackendInfo | None = None
    since: datetime = field(default_factory=lambda: datetime.now(UTC))
    under_way: int = 0
    revision: str = field(init=False)

    def __post_init__(self) -> None:
        self.revision = revision(self.manifest)

    def moved(self) -> None:
        """Notes that it has taken or left its place just now."""
        self.since = datetime.now(UTC)

    def examples(self) -> dict[str, Any]:
        """The responses to the examples in `tasks`, by task, as far as they are known: a task's first golden one."""
        goldens = {golden.task: golden for golden in reversed(self.manifest.goldens)}
        return {name: self.predictor.jobs.example(goldens[name]) for name in self.tasks if name in goldens}


class Versions(Protocol):
    """The versions in memory. Whoever answers a request looks up `active` once, and stays with what it got."""

    @property
    def active(self) -> ServedVersion:
        """The version that answers new requests."""

    @property
    def standby(self) -> ServedVersion | None:
        """A version that is warm and could take its place."""

    @property
    def loading(self) -> str | None:
        """The name and version of what is being loaded."""


@dataclass(frozen=True)
class FixedVersion:
    """One version for as long as the process lives (`Versions`)."""

    active: ServedVersion
    standby: None = None
    loading: None = None


class LoadState(StrEnum):
    """How far a load is: `refused` by golden answers, `failed` where it could not be run at all."""

    LOADING = "loading"
    LOADED = "loaded"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class TaskDrift:
    """How far the answers of a task have moved, how far they may, and whether that is too far."""

    moved: float
    tolerance: float
    refused: bool


@dataclass(frozen=True, slots=True)
class LoadStatus:
    """A load, under way or over. `detail`: why it was refused or failed. `shifts`: of tasks that both versions have.

    `new_tasks`, `gone_tasks`: those that only the loaded or only the active version has.
    """

    model: str
    state: LoadState
    detail: str | None = None
    shifts: dict[str, TaskDrift] = field(default_factory=dict)
    new_tasks: tuple[str, ...] = ()
    gone_tasks: tuple[str, ...] = ()
