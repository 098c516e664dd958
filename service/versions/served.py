"""Served versions: the versions in memory that answer requests, and the status of a load."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Protocol

from polytask.model.tasks import Task
from polytask.model_store.manifest import Manifest
from polytask.service.api.task_info import TaskInfo, revision
from polytask.service.errors import SingleProcessOnly
from polytask.service.prediction.engine_client import EngineClient
from polytask.service.prediction.predictor import Predictor


@dataclass(frozen=True, slots=True)
class BackendInfo:
    """What runs a version: name of the backend, number format and device."""

    name: str
    precision: str
    device: str


@dataclass(eq=False, kw_only=True)
class ServedVersion:
    """A version in memory. `card`: in Markdown. `backend`: None if other processes run it.

    `since`: when it was loaded or last changed between active and standby. `num_in_flight`: requests that it is
    answering, counted on the event loop.
    """

    manifest: Manifest
    engine: EngineClient
    predictor: Predictor
    task_info: Mapping[str, TaskInfo]
    card: str
    backend: BackendInfo | None = None
    since: datetime = field(default_factory=lambda: datetime.now(UTC))
    num_in_flight: int = 0
    revision: str = field(init=False)
    tasks: Mapping[str, Task] = field(init=False)

    def __post_init__(self) -> None:
        self.revision = revision(self.manifest)
        self.tasks = {task.name: task for task in self.manifest.tasks}

    def touch(self) -> None:
        """Sets `since` to now."""
        self.since = datetime.now(UTC)

    def examples(self) -> dict[str, Any]:
        """Responses to the examples in `task_info`, by task: of the first golden input. Tasks without one have none."""
        goldens = {golden.task: golden for golden in reversed(self.manifest.goldens)}
        return {name: self.predictor.example(goldens[name]) for name in self.tasks if name in goldens}


class Versions(Protocol):
    """The versions in memory. A request handler reads `active` once and uses that version until it has answered."""

    @property
    def active(self) -> ServedVersion:
        """The version that answers new requests."""

    @property
    def standby(self) -> ServedVersion | None:
        """A loaded version that could become active."""

    @property
    def loading(self) -> str | None:
        """Name and version of the version that is being loaded."""

    @property
    def load(self) -> LoadStatus | None:
        """Status of the last load, or of the current one."""

    def start_loading(self, reference: str, tolerances: Mapping[str, float]) -> None:
        """Starts to load a version. Raises UnknownModel, InvalidInput or Conflict."""

    def activate(self) -> None:
        """Makes the standby version the active one. Raises Conflict."""

    def rollback(self) -> None:
        """Undoes the last `activate`. Raises Conflict."""

    async def unload(self) -> None:
        """Removes the standby version from memory. Raises Conflict."""


@dataclass(frozen=True)
class FixedVersion:
    """One version for as long as the process lives (`Versions`). All that would change it raises SingleProcessOnly."""

    active: ServedVersion
    standby: None = None
    loading: None = None

    @property
    def load(self) -> LoadStatus | None:
        """Raises SingleProcessOnly."""
        raise SingleProcessOnly

    def start_loading(self, reference: str, tolerances: Mapping[str, float]) -> None:  # noqa: ARG002
        """Raises SingleProcessOnly."""
        raise SingleProcessOnly

    def activate(self) -> None:
        """Raises SingleProcessOnly."""
        raise SingleProcessOnly

    def rollback(self) -> None:
        """Raises SingleProcessOnly."""
        raise SingleProcessOnly

    async def unload(self) -> None:
        """Raises SingleProcessOnly."""
        raise SingleProcessOnly


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
